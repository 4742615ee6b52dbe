# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripted answers, and what a test can see of the requests."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from pjsip_py.testing import Answer, Registrar, RegistrarError

PASSWORD = "Al-Chwarizmi-820"  # what conftest.py's client proves by itself


def test_answer_next_and_then_as_usual(registrar: Registrar, client: Any) -> None:
    registrar.answer_next(503, headers={"Retry-After": "7"}, times=2)
    for _ in range(2):
        reply = client.register()
        assert (reply.code, reply.reason) == (503, "Service Unavailable")
        assert reply["Retry-After"] == "7"
        assert ";tag=" in reply["To"]
    assert client.register().code == 200
    assert [r.answered for r in registrar.requests] == [503, 503, 200]
    assert registrar.pending_script == []


def test_answers_are_given_in_turn(registrar: Registrar, client: Any) -> None:
    registrar.script(Answer(480), Answer(599, "Odd"), times=2)
    registrar.answer_next(600)
    codes = [client.register().code for _ in range(6)]
    assert codes == [480, 599, 480, 599, 600, 200]


def test_repeated_headers_and_body(registrar: Registrar, client: Any) -> None:
    contacts = [("Contact", "<sip:a@127.0.0.1>;expires=5"), ("Contact", "<sip:b@127.0.0.1>")]
    registrar.answer_next(302, "Elsewhere", headers=contacts, body=b"moved")
    reply = client.register()
    assert (reply.code, reply.reason) == (302, "Elsewhere")
    assert reply.all("Contact") == [value for _, value in contacts]
    assert reply["Content-Length"] == "5"
    assert reply.raw.endswith(b"\r\n\r\nmoved")


def test_scripted_200_stores_no_binding(registrar: Registrar, client: Any) -> None:
    registrar.answer_next(200)
    assert client.register().all("Contact") == []
    assert registrar.bindings("sip:alice@example.com") == []


def test_wrong_envelope_headers_can_be_scripted(registrar: Registrar, client: Any) -> None:
    wrong = {"CSeq": "99 REGISTER", "call-id": "other", "To": "<sip:alice@example.com>"}
    registrar.answer_next(200, headers=wrong)
    reply = client.register()
    assert {name.lower(): reply[name] for name in wrong} == {
        name.lower(): value for name, value in wrong.items()
    }


def test_headers_added_to_the_own_answer(registrar: Registrar, client: Any) -> None:
    registrar.script(Answer(headers={"X-Extra": "1"}))
    reply = client.register()
    assert (reply.code, reply["X-Extra"]) == (200, "1")
    assert reply["Contact"]


def test_rules_by_aor_method_and_predicate(registrar: Registrar, connect: Any) -> None:
    alice, bob = connect(registrar, user="alice"), connect(registrar, user="bob")
    registrar.answer_next(404, aor="bob@example.com")
    registrar.answer_next(480, match=lambda request: request.expires == 77)
    registrar.answer_next(486, method="OPTIONS")
    registrar.answer_next(488, method=None, match=lambda request: request.method == "MESSAGE")
    assert alice.register().code == 200
    assert bob.register().code == 404
    assert bob.register().code == 200
    assert alice.register(expires=77).code == 480
    assert alice.ask(alice.build(method="OPTIONS")).code == 486
    assert alice.ask(alice.build(method="OPTIONS")).code == 200
    assert alice.ask(alice.build(method="MESSAGE")).code == 488


def test_times_none_lasts_until_cleared(registrar: Registrar, client: Any) -> None:
    registrar.answer_next(500, times=None)
    assert {client.register().code for _ in range(5)} == {500}
    (rule,) = registrar.pending_script
    assert (rule.left, rule.taken) == (None, 5)
    registrar.clear_script()
    assert client.register().code == 200


def test_dropped_request_never_happened(registrar: Registrar, client: Any) -> None:
    registrar.drop_next()
    data = client.build([client.contact], ["Expires: 60"])
    client.send(data)
    assert client.silent()
    assert not registrar.aors
    assert client.ask(data).code == 200  # the same bytes: a retransmission
    assert [r.answered for r in registrar.requests] == [None, 200]
    assert registrar.stats().dropped == 1


def test_dropped_response_is_given_to_a_retransmission(registrar: Registrar, client: Any) -> None:
    registrar.drop_next(what="response")
    data = client.build([client.contact], ["Expires: 60"])
    client.send(data)
    assert client.silent()
    assert registrar.aors
    assert registrar.requests[0].answered is None
    assert client.ask(data).code == 200
    (request,) = registrar.requests
    assert (request.answered, request.retransmissions) == (200, 1)


def test_delayed_answer_absorbs_retransmissions(registrar: Registrar, client: Any) -> None:
    registrar.delay_next(0.3)
    data = client.build([client.contact])
    began = time.monotonic()
    client.send(data)
    client.send(data)
    assert client.receive().code == 200
    assert 0.29 <= time.monotonic() - began < 3
    assert client.silent()
    assert [r.retransmissions for r in registrar.requests] == [1]


def test_retransmission_gets_the_same_bytes(registrar: Registrar, client: Any) -> None:
    data = client.build([client.contact])
    first = client.ask(data)
    assert [client.ask(data).raw for _ in range(3)] == [first.raw] * 3
    assert registrar.stats().retransmissions == 3
    assert registrar.stats().responses == {200: 1}
    assert len(registrar.requests) == 1


def test_provisional_answer_comes_first(registrar: Registrar, client: Any) -> None:
    registrar.script(Answer(100, delay=0.2))
    first = client.ask(client.build([client.contact]))
    assert (first.code, ";tag=" in first["To"]) == (100, False)
    assert client.receive().code == 200
    assert registrar.requests[0].answered == 200


def test_raw_bytes(registrar: Registrar, client: Any) -> None:
    registrar.script(Answer(raw=b"\xff nonsense"))
    registrar.script(Answer(raw=lambda request: f"cseq {request.cseq}".encode()))
    client.send(client.build())
    assert client.receive_raw() == b"\xff nonsense"
    client.send(client.build())
    assert client.receive_raw() == b"cseq 2"
    assert [r.answered for r in registrar.requests] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"code": 99}, "code 99"),
        ({"code": 700}, "code 700"),
        ({"delay": -1.0}, "negative"),
        ({"delay": float("nan")}, "negative"),
        ({"drop": "both"}, "'response' or 'all'"),
        ({"code": 200, "raw": b""}, "either"),
        ({"reason": "Fine"}, "need a code"),
    ],
    ids=str,
)
def test_answers_are_checked(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Answer(**arguments)


def test_scripts_are_checked(registrar: Registrar) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        registrar.script()
    with pytest.raises(ValueError, match="times 0"):
        registrar.answer_next(500, times=0)
    with pytest.raises(ValueError, match="malformed SIP URI"):
        registrar.answer_next(500, aor="sip:no good")


def test_error_in_a_callback_is_not_lost(connect: Any) -> None:
    def explode(request: object) -> bool:
        raise KeyError("my mistake")

    registrar = Registrar()
    registrar.start()
    client = connect(registrar)
    registrar.answer_next(503, match=explode)
    assert client.register().code == 500
    with pytest.raises(RegistrarError, match="my mistake") as caught:
        registrar.stop()
    assert isinstance(caught.value.__cause__, KeyError)
    registrar.stop()  # told once


def test_error_in_a_callback_ends_a_wait(connect: Any) -> None:
    with Registrar() as registrar:
        registrar.script(Answer(raw=lambda request: 1 / 0))  # type: ignore[arg-type,return-value]
        client = connect(registrar)
        assert client.register().code == 500
        with pytest.raises(RegistrarError, match="ZeroDivisionError"):
            registrar.wait_for(99, timeout=5)


def test_error_of_the_test_is_not_covered_up(connect: Any) -> None:
    def fail() -> None:
        with Registrar() as registrar:
            registrar.answer_next(200, match=lambda request: bool(1 / 0))
            connect(registrar).register()
            raise AssertionError("the test's own")

    with pytest.raises(AssertionError, match="the test's own"):
        fail()


def test_a_request_can_be_looked_at(registrar: Registrar, client: Any) -> None:
    before = time.time()
    client.register("<sip:a@127.0.0.1>;expires=9", headers=["m: sip:b@127.0.0.1", "X-One: 1"])
    (request,) = registrar.requests
    assert request.method == "REGISTER"
    assert (request.uri, request.aor) == (registrar.uri(), "sip:alice@example.com")
    assert (request.call_id, request.cseq) == (client.call_id, 1)
    assert [contact.uri for contact in request.contacts] == ["sip:a@127.0.0.1", "sip:b@127.0.0.1"]
    assert request.contact is not None
    assert request.contact.params == {"expires": "9"}
    assert request.expires == 9
    assert request.authorization is None
    assert request.message.headers.get("x-one") == "1"
    assert request.protocol == "udp"
    assert request.source == ("127.0.0.1", client.port)
    assert request.local == registrar.address()
    assert before <= request.time <= time.time()
    assert b"X-One: 1\r\n" in request.data
    assert repr(request) == (
        f"<REGISTER sip:alice@example.com CSeq 1 from udp 127.0.0.1 port {client.port}: 200>"
    )


def test_wait_for_a_number_and_for_a_predicate(registrar: Registrar, client: Any) -> None:
    later = threading.Timer(0.1, lambda: [client.register() for _ in range(3)])
    later.start()
    assert [r.cseq for r in registrar.wait_for(2, timeout=5)][:2] == [1, 2]
    assert registrar.wait_for(lambda r: r.cseq == 3 and r.answered == 200).cseq == 3
    later.join(5)


def test_wait_that_is_over_says_what_came(registrar: Registrar, client: Any) -> None:
    client.register()
    with pytest.raises(TimeoutError, match=r"no 2 requests within 0.05 s; received 1: <REGISTER"):
        registrar.wait_for(2, timeout=0.05)
    registrar.clear_requests()
    with pytest.raises(TimeoutError, match="received 0: nothing"):
        registrar.wait_for(lambda request: True, timeout=0.05)


def test_only_the_newest_requests_are_kept(connect: Any) -> None:
    with Registrar(max_requests=3) as registrar:
        client = connect(registrar)
        for _ in range(5):
            client.register()
        assert [r.cseq for r in registrar.requests] == [3, 4, 5]
        assert registrar.stats().requests == 5


def test_in_asyncio(connect: Any) -> None:
    async def use() -> None:
        async with Registrar(users={"alice": PASSWORD}) as registrar:
            client = connect(registrar)
            assert (await asyncio.to_thread(client.register)).code == 401
            await asyncio.to_thread(registrar.wait_for, 1)
        assert not registrar.running

    asyncio.run(use())
