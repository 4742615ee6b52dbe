# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules: what they match, what they make of an answer, and what is said of those that never do."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from pjsip_py.testing import (
    DEFECTS,
    FAULTS,
    Challenge,
    ReceivedRequest,
    Registrar,
    RegistrarError,
    UnmatchedRequest,
    UnreachableRule,
)
from pjsip_py.testing.explain import explain

PASSWORD = "Al-Chwarizmi-820"  # what conftest.py's client proves by itself
ALICE, BOB = "sip:alice@example.com", "sip:bob@example.com"


@pytest.fixture
def both() -> Iterator[Registrar]:
    with Registrar(("udp", "tcp")) as running:
        yield running


# -- what a rule matches ---------------------------------------------------------------------------


def test_a_rule_stands_until_it_is_removed(registrar: Registrar, client: Any) -> None:
    rule = registrar.on(aor=ALICE).answer(503)
    assert [client.register().code for _ in range(3)] == [503] * 3
    assert (rule.taken, rule.left) == (3, None)
    assert registrar.requests[-1].rule is rule
    rule.remove()
    assert client.register().code == 200
    assert registrar.requests[-1].rule is None


def test_answers_in_turn_and_the_last_one_stays(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(480).answer(500).answer(404)
    assert [client.register().code for _ in range(5)] == [480, 500, 404, 404, 404]


def test_times_bounds_a_rule(registrar: Registrar, client: Any) -> None:
    registrar.on(times=2).answer(480).answer(500).answer(404)
    assert [client.register().code for _ in range(3)] == [480, 500, 200]


def test_attempts_of_each_aor(registrar: Registrar, connect: Any) -> None:
    alice, bob = connect(registrar), connect(registrar, user="bob")
    registrar.on(attempt=2).answer(503)
    assert [c.register().code for c in (alice, bob, alice, bob, alice)] == [200, 200, 503, 503, 200]


def test_attempts_of_each_registration(registrar: Registrar, connect: Any) -> None:
    one, other = connect(registrar, call_id="one"), connect(registrar, call_id="other")
    registrar.on(attempt=2, per="registration").answer(503)
    assert [c.register().code for c in (one, other, one, other)] == [200, 200, 503, 503]


def test_attempts_of_the_run(registrar: Registrar, connect: Any) -> None:
    alice, bob = connect(registrar), connect(registrar, user="bob")
    registrar.on(attempt=range(2, 4), per="run").answer(503)
    assert [c.register().code for c in (alice, bob, alice, bob)] == [200, 503, 503, 200]


def test_attempts_count_what_fits_the_rest_of_the_rule(registrar: Registrar, client: Any) -> None:
    registrar.on(times=1).answer(480)  # takes the first, which is an attempt all the same
    registrar.on(attempt=(2, 4), match=lambda request: request.expires == 60).answer(503)
    codes = [client.register(expires=expires).code for expires in (60, 30, 60, 60, 60)]
    assert codes == [480, 200, 503, 200, 503]


def test_rules_by_source_and_protocol(both: Registrar, connect: Any) -> None:
    udp, other, tcp = connect(both), connect(both), connect(both, "tcp")
    both.on(source=udp.port).answer(480)
    both.on(source=("127.0.0.1", other.port)).answer(486)
    both.on(source="127.0.0.1", protocol="tcp").answer(500)
    both.on(source="127.0.0.2").answer(404)
    assert [c.register().code for c in (udp, other, tcp)] == [480, 486, 500]


def test_rules_over_ipv6(connect: Any, ipv6: str) -> None:
    with Registrar(("udp", "tcp"), ipv6) as registrar:
        registrar.on(source="0:0::1").answer(503, contacts="<sip:there@[::1]>", split=3)
        registrar.on(source="::1", protocol="udp").answer(480, sent_from=("::1", 0))
        assert connect(registrar, "tcp").register()["Contact"] == "<sip:there@[::1]>"
        client = connect(registrar, "udp")
        client.send(client.build([client.contact]))
        _, source = client.sock.recvfrom(65535)
        assert source[0] == "::1"
        assert source[1] != registrar.port()


def test_several_registrars_keep_their_rules_apart(connect: Any) -> None:
    with Registrar() as one, Registrar(("tcp",)) as other:
        one.on().answer(503)
        other.on().answer(404)
        assert connect(one).register().code == 503
        assert connect(other).register().code == 404


# -- what it answers -------------------------------------------------------------------------------


def test_the_usual_answer_with_other_contacts_and_expiry(registrar: Registrar, client: Any) -> None:
    registrar.on(times=1).answer(contacts=["<sip:b@127.0.0.2>;expires=9", "<sip:c@127.0.0.3>;q=1"])
    registrar.on(times=1).answer(expires=7, without="Date")
    registrar.on(times=1).answer(contacts=(), expires=7)
    reply = client.register()
    assert reply.all("Contact") == ["<sip:b@127.0.0.2>;expires=9", "<sip:c@127.0.0.3>;q=1"]
    reply = client.register()
    assert reply["Contact"] == f"{client.contact};expires=7"
    assert reply.all("Date") == []
    assert registrar.bindings(ALICE)[0].expires == 60  # told, not stored
    reply = client.register()
    assert (reply.all("Contact"), reply["Expires"]) == ([], "7")


def test_an_expiry_in_a_uri_is_left_alone(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(200, contacts="<sip:b@127.0.0.2;expires=1>;q=1;EXPIRES=5", expires=7)
    assert client.register()["Contact"] == "<sip:b@127.0.0.2;expires=1>;q=1;expires=7"


def test_redirection(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(302, contacts=["<sip:127.0.0.1:5080>", "<sip:127.0.0.1:5090>;q=0.5"])
    reply = client.register()
    assert (reply.code, len(reply.all("Contact"))) == (302, 2)


def test_challenges(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(
        401,
        challenges=[
            Challenge("one", nonce="n", opaque="o", params={"domain": '"sip:x"'}),
            Challenge("two", "MD5", qop=None, stale=True, proxy=True),
        ],
    )
    reply = client.register()
    assert reply["WWW-Authenticate"] == (
        'Digest realm="one", nonce="n", opaque="o", algorithm=SHA-256, qop="auth", domain="sip:x"'
    )
    other = reply["Proxy-Authenticate"]
    assert re.fullmatch(r'Digest realm="two", nonce="\w+", algorithm=MD5, stale=true', other)


def test_right_credentials_can_be_called_stale(connect: Any) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        client = connect(registrar)
        first = client.register().challenge()
        registrar.on(times=1).answer(stale=True)
        reply = client.register(headers=[client.authorization(first)])
        again = reply.challenge()
        assert (reply.code, again["stale"]) == (401, "true")
        assert again["nonce"] != first["nonce"]
        assert client.register(headers=[client.authorization(again)]).code == 200


def test_provisional_answers_come_first(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(503, provisional=(100, 182), delay=0.05)
    client.send(client.build([client.contact]))
    assert [client.receive().code for _ in range(3)] == [100, 182, 503]
    assert registrar.requests[0].answered == 503


def test_a_retransmission_gets_the_provisional_answer(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(503, provisional=(100, 182), behind=1)
    data = client.build([client.contact])
    client.send(data)
    client.send(data)
    assert [client.receive().code for _ in range(3)] == [100, 182, 182]  # RFC 3261 §17.2.2


def test_copies(both: Registrar, connect: Any) -> None:
    both.on().answer(404, copies=3)
    for protocol in ("udp", "tcp"):
        client = connect(both, protocol)
        client.send(client.build())
        assert len({client.receive().raw for _ in range(3)}) == 1
        assert client.silent()


def test_answers_in_another_order(registrar: Registrar, client: Any) -> None:
    registrar.on(attempt=1).answer(480, behind=2)
    registrar.on(attempt=2).answer(486, behind=1)
    for _ in range(3):
        client.send(client.build([client.contact]))
    codes = [(client.receive().code, registrar.wait_for(3)[0].answered) for _ in range(3)]
    assert [code for code, _ in codes] == [200, 486, 480]
    assert [request.answered for request in registrar.requests] == [480, 486, 200]


def test_an_answer_that_still_waits_is_reported(registrar: Registrar, client: Any) -> None:
    registrar.on(times=1).answer(480, behind=2)
    client.send(client.build())
    client.register()
    assert "STILL WAITS" in registrar.report()
    client.register()
    assert client.receive().code == 480
    assert "STILL WAITS" not in registrar.report()


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_two_answers_in_one_segment(connect: Any, protocol: str) -> None:
    with Registrar((protocol,)) as registrar:
        client = connect(registrar)
        registrar.on(times=1).answer(480, joined=True)
        client.send(client.build())
        client.send(client.build())
        assert client.sock.recv(65535).count(b"SIP/2.0 ") == 2


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_an_answer_in_several_segments(connect: Any, protocol: str) -> None:
    with Registrar((protocol,)) as registrar:
        client = connect(registrar)
        registrar.on(times=1).answer(split=4, pause=0.05)
        registrar.on(times=1).answer(split=(1, 8))
        for _ in range(2):
            client.send(client.build())
        assert len(client.sock.recv(65535)) < 200
        data = b""
        while data.count(b"\r\n\r\n") < 2:  # the second one goes out when the first is through
            data += client.sock.recv(65535)
        assert data.count(b"Content-Length: 0\r\n\r\n") == 2


def test_an_answer_from_another_address(registrar: Registrar, client: Any) -> None:
    registrar.on(times=1).answer(sent_from=("127.0.0.1", 0))
    registrar.on(times=1).answer(sent_from=("127.0.0.2", 0))
    sources = []
    for _ in range(2):
        client.send(client.build())
        sources.append(client.sock.recvfrom(65535)[1])
    assert sources[0][0] == "127.0.0.1"
    assert sources[0] != registrar.address()
    assert sources[1][0] == "127.0.0.2"


def test_silence_for_good(registrar: Registrar, client: Any) -> None:
    registrar.on(times=1).drop("all")
    data = client.build([client.contact])
    client.send(data)
    client.send(data)
    assert client.silent()
    assert not registrar.aors
    (request,) = registrar.requests
    assert (request.answered, request.retransmissions) == (None, 1)
    assert client.register().code == 200


# -- the end of a connection -----------------------------------------------------------------------


def gone(client: Any) -> bytes:
    """What comes until the connection ends, and b"reset" in the end if that is how."""
    data = b""
    with contextlib.suppress(ssl.SSLError):  # EOF without close_notify, after a reset
        try:
            while chunk := client.sock.recv(65535):
                data += chunk
        except ConnectionResetError:
            data += b"reset"
    return data


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_ends(connect: Any, protocol: str, how: Any) -> None:
    with Registrar((protocol,)) as registrar:
        ends: Any = ("before", "instead", "middle", "after")
        came = {}
        for when in ends:
            registrar.clear_bindings()
            rule = registrar.on(times=1).answer(close=when, how=how)
            client = connect(registrar)
            client.send(client.build([client.contact], ["Expires: 60"]))
            data = gone(client)
            if protocol == "tls":  # Python's ssl tells a reset in more than one way
                data = data.removesuffix(b"reset") + b"reset" * (how == "reset")
            came[when] = data, bool(registrar.aors)
            assert rule.taken == 1
        assert [bound for _, bound in came.values()] == [False, True, True, True]
        end = b"reset" * (how == "reset")
        assert came["before"][0] == came["instead"][0] == end
        assert came["middle"][0].startswith(b"SIP/2.0 200")
        assert b"\r\n\r\n" not in came["middle"][0]
        assert came["after"][0].endswith(b"\r\n\r\n" + end)
        assert registrar.stats().connections == 0


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_half_close(connect: Any, protocol: str) -> None:
    with Registrar((protocol,)) as registrar:
        registrar.on(times=1).answer(close="after", how="half-close")
        client = connect(registrar)
        assert client.register().code == 200
        assert client.sock.recv(10) == b""
        client.send(client.build())  # it reads on, and cannot answer
        registrar.wait_for(2)
        registrar.drop_connections()  # behind that on the registrar's thread
        assert registrar.stats().unsent == 1


def test_a_rule_that_closes_leaves_udp_alone(both: Registrar, connect: Any) -> None:
    rule = both.on().answer(close="instead")
    assert connect(both, "udp").register().code == 200
    client = connect(both, "tcp")
    client.send(client.build())
    assert gone(client) == b""
    assert str(rule).startswith("REGISTER, over tcp → close")


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_tcp_connections_can_fail(connect: Any, how: Any) -> None:
    with Registrar(("tcp",)) as registrar:
        rule = registrar.on_connection(attempt=2).fail(how)
        assert connect(registrar).register().code == 200
        with contextlib.suppress(ConnectionResetError):
            client = connect(registrar)
            assert gone(client) == (b"reset" if how == "reset" else b"")
        assert connect(registrar).register().code == 200
        assert rule.taken == 1


TLS_ERRORS = {
    "closed": (ssl.SSLError, OSError),
    "reset": ConnectionResetError,
    "silent": TimeoutError,
    "refused": "HANDSHAKE_FAILURE",
    "no-common-version": "PROTOCOL_VERSION",
    "wrong-host": "IP address mismatch|Hostname mismatch",
    "expired": "certificate has expired",
    "not-yet-valid": "certificate is not yet valid",
    "untrusted": "unable to get local issuer|self-signed|self signed",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tls_can_fail(connect: Any, fault: Any) -> None:
    assert set(TLS_ERRORS) == set(FAULTS)
    error = TLS_ERRORS[fault]
    with Registrar(("tls",)) as registrar:
        rule = registrar.on_connection(times=1).fail(fault)
        context = ssl.create_default_context(cafile=registrar.ca_file)
        timeout = 0.3 if fault == "silent" else 5
        with socket.create_connection(registrar.address(), timeout=timeout) as sock:
            kind: Any = ssl.SSLError if isinstance(error, str) else error
            text = f"(?i){error}" if isinstance(error, str) else None
            with pytest.raises(kind, match=text):
                context.wrap_socket(sock, server_hostname="127.0.0.1")
        assert rule.taken == 1
        assert connect(registrar).register().code == 200  # the next one is as usual
        assert registrar.report().count("NEVER") == 0


def test_no_bad_certificate_for_a_given_one() -> None:
    registrar = Registrar(("tls",), tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ValueError, match="was given its certificate"):
        registrar.on_connection().fail("expired")


# -- wrong on purpose ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_changes_the_answer(registrar: Registrar, client: Any, name: str) -> None:
    right = client.ask(client.build([client.contact], ["Expires: 60"]))
    challenge = Challenge(nonce="n")
    registrar.on(times=1).answer(wrong=name, challenges=challenge)
    registrar.on(times=1).answer(challenges=challenge)
    wrong, good = (
        [client.send(client.build([client.contact], ["Expires: 60"])), client.receive_raw()][1]
        for _ in range(2)
    )
    assert right.code == 200

    def same(text: bytes) -> bytes:  # but for what is new in each answer
        return re.sub(rb"tag=\w+|CSeq: \d|call-\d+-\d+|Date:.*", b"", text)

    assert same(wrong) != same(good)


def test_defects_add_up_and_may_be_functions(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(200, wrong=["call-id", lambda data: data.replace(b"200 OK", b"200 KO")])
    reply = client.register()
    assert reply.reason == "KO"
    assert reply["Call-ID"] == f"other-{client.call_id}"


def test_headers_can_be_missing(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(without=("Via", "cseq"))
    reply = client.register()
    assert reply.all("Via") == reply.all("CSeq") == []
    assert reply["Call-ID"]


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"times": 0}, ValueError, "times 0"),
        ({"times": 1.5}, TypeError, "times is 1.5"),
        ({"attempt": 0}, ValueError, "attempt 0"),
        ({"attempt": ()}, ValueError, "empty"),
        ({"attempt": "2"}, TypeError, "attempt"),
        ({"attempt": 1, "per": "user"}, ValueError, "'registration'"),
        ({"per": "run"}, ValueError, "give attempt"),
        ({"aor": "sip:no good"}, ValueError, "malformed SIP URI"),
        ({"aor": 5}, TypeError, "aor is 5"),
        ({"aor": "alice"}, ValueError, "'sip:alice@example.com'"),
        ({"method": "register"}, ValueError, "case counts, it is 'REGISTER'"),
        ({"source": ("127.0.0.1",)}, ValueError, "not an address and a port"),
        ({"method": 5}, TypeError, "method is 5"),
        ({"source": "localhost"}, ValueError, "localhost"),
        ({"source": 70000}, ValueError, "70000"),
        ({"source": 1.5}, TypeError, "1.5"),
        ({"protocol": "tls"}, ValueError, "udp or tcp"),
        ({"protocol": ()}, ValueError, "udp or tcp"),
        ({"match": True}, TypeError, "match is True"),
    ],
    ids=str,
)
def test_rules_are_checked(
    both: Registrar, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        both.on(**arguments)
    assert both.rules == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"code": "200"}, TypeError, "whole number"),
        ({"code": True}, TypeError, "whole number"),
        ({"copies": 0}, ValueError, "copies 0"),
        ({"behind": -1}, ValueError, "behind -1"),
        ({"expires": -1}, ValueError, "expires -1"),
        ({"provisional": 200}, ValueError, "provisional 200"),
        ({"delay": float("inf")}, ValueError, "delay inf"),
        ({"delay": "1"}, ValueError, "delay 1"),
        ({"body": "text", "code": 200}, TypeError, "not bytes"),
        ({"raw": "text"}, TypeError, "not bytes"),
        ({"headers": {"X": 1}}, TypeError, "pair of texts"),
        ({"headers": ["X: 1"]}, TypeError, "pair"),
        ({"contacts": [1]}, TypeError, "contacts holds 1"),
        ({"challenges": "Digest"}, TypeError, "not a Challenge"),
        ({"wrong": "everything"}, ValueError, "unknown defect 'everything': one of branch, "),
        ({"split": 0}, ValueError, "split 0"),
        ({"split": (5, 3)}, ValueError, "go up"),
        ({"split": "ab"}, TypeError, "not a whole number"),
        ({"sent_from": "127.0.0.1"}, TypeError, "not an address and a port"),
        ({"sent_from": ("there", 0)}, ValueError, "there"),
        ({"sent_from": ("127.0.0.1", 70000)}, ValueError, "70000"),
        ({"sent_from": ("127.0.0.1", 0), "split": 2}, ValueError, "for UDP"),
        ({"raw": b"", "expires": 5}, ValueError, "leave expires out"),
        ({"stale": True, "code": 401}, ValueError, "leave the code out"),
        ({"stale": True}, ValueError, "has no users"),
        ({"sent_from": ("::1", 0)}, ValueError, "the registrar is at 127.0.0.1"),
        ({"sent_from": ("192.0.2.1", 0)}, ValueError, "cannot send from 192.0.2.1 port 0"),
        ({"drop": "response", "delay": 1}, ValueError, "leave delay out"),
        ({"drop": "response", "copies": 2}, ValueError, "leave copies out"),
        ({"drop": "all", "code": 200}, ValueError, "leave code out"),
        ({"drop": "request", "copies": 2}, ValueError, "leave copies out"),
        ({"close": "instead", "headers": {"X": "1"}}, ValueError, "leave headers out"),
        ({"close": "later"}, ValueError, "'middle'"),
        ({"close": "after", "how": "softly"}, ValueError, "'half-close'"),
        ({"close": "after", "drop": "response"}, ValueError, "in one way"),
        ({"how": "reset"}, ValueError, "needs close"),
        ({"behind": 1, "joined": True}, ValueError, "not both"),
    ],
    ids=str,
)
def test_answers_are_checked(
    both: Registrar, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        both.on().answer(**arguments)


def test_what_a_protocol_cannot_do_is_said_at_once(registrar: Registrar) -> None:
    with pytest.raises(ValueError, match="is for tcp or tls, but the registrar has udp"):
        registrar.on().answer(split=2)
    with pytest.raises(ValueError, match="none of the registrar's"):
        registrar.on_connection("tls")
    with Registrar(("tcp", "udp")) as both:
        with pytest.raises(ValueError, match="is for udp, but the rule is for tcp"):
            both.on(protocol="tcp").answer(sent_from=("127.0.0.1", 0))
        with pytest.raises(ValueError, match="expired: that is for tls"):
            both.on_connection().fail("expired")
        with pytest.raises(ValueError, match="unknown fault 'bad': one of closed, "):
            both.on_connection().fail("bad")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not an Answer"):
            both.on(aor=BOB).give(503)  # type: ignore[arg-type]


# -- rules that come to nothing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"aor": BOB}),
        ({"method": None}, {"method": "OPTIONS"}),
        ({"aor": BOB}, {"aor": "SIP:bob@EXAMPLE.com", "attempt": 2}),
        ({"protocol": ("udp", "tcp")}, {"protocol": "tcp"}),
        ({"source": "127.0.0.1"}, {"source": ("127.0.0.1", 5060), "times": 1}),
        ({"source": 5060}, {"source": 5060, "aor": BOB, "match": bool}),
        ({"match": bool}, {"match": bool}),
    ],
    ids=str,
)
def test_a_rule_after_a_catch_all(
    both: Registrar, first: dict[str, Any], second: dict[str, Any]
) -> None:
    both.on(**first).answer(503)
    with pytest.raises(UnreachableRule, match=r"test_rules.py:\d+ can never match: rule 1") as told:
        both.on(**second)
    assert "503" in str(told.value)
    both.rules[0].remove()
    both.on(**second).answer(404)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"times": 5}, {}),
        ({"attempt": 1}, {}),
        ({"match": bool}, {}),
        ({"aor": BOB}, {"aor": ALICE}),
        ({"aor": BOB}, {}),
        ({"method": "OPTIONS"}, {}),
        ({"protocol": "udp"}, {"protocol": ("udp", "tcp")}),
        ({"source": ("127.0.0.1", 5060)}, {"source": "127.0.0.1"}),
    ],
    ids=str,
)
def test_a_rule_that_can_be_reached(
    both: Registrar, first: dict[str, Any], second: dict[str, Any]
) -> None:
    both.on(**first).answer(503)
    both.on(**second).answer(404)
    assert len(both.rules) == 2


def test_report(registrar: Registrar, connect: Any) -> None:
    alice = connect(registrar)
    registrar.on(aor=BOB).answer(404)
    registrar.on("OPTIONS", aor=BOB).answer(486)
    registrar.on(attempt=3).answer(500).drop()
    registrar.on(match=lambda request: request.expires == 7).answer(480)
    registrar.on(aor=ALICE, times=1).answer(503, headers={"X-Secret": "s3cret"})
    registrar.on(attempt=1).answer(400)
    registrar.on(aor="sip:carol@example.com")
    data = alice.build([alice.contact])
    assert alice.ask(data).code == 503
    alice.ask(data)
    alice.register()
    text = registrar.report()
    lines = [line.strip() for line in text.splitlines()]
    first = f"<REGISTER {ALICE} CSeq 1 from udp 127.0.0.1 port {alice.port}: 503>"
    second = first.replace("CSeq 1", "CSeq 2").replace(": 503>", ": 200>")
    assert lines[0] == repr(registrar)[1:-1]
    for number, (rule, outcome) in enumerate(
        [
            (
                "REGISTER, aor bob@example.com → 404",
                f"nearest {first}: aor alice@example.com ≠ bob@",
            ),
            (
                "OPTIONS, aor bob@example.com → 486",
                f"nearest {first}: REGISTER ≠ OPTIONS; aor alice@",
            ),
            (
                "REGISTER, attempt 3 of each aor → 500, then drop request",
                f"nearest {first}: attempt 1 of {ALICE} ≠ 3",
            ),
            (
                r"REGISTER, match <lambda> (test_rules.py:",
                f"nearest {first}: match <lambda> (test_rules.py:",
            ),
            (
                "REGISTER, aor alice@example.com → 503, headers=['X-Secret'], once",
                "matched once, used up",
            ),
            (
                "REGISTER, attempt 1 of each aor → 400",
                f"NEVER MATCHED: nearest {first}: rule 5 came first",
            ),
            ("REGISTER, aor carol@example.com → nothing", "DOES NOTHING: it has no answer"),
        ]
    ):
        at = 2 + 2 * number
        assert lines[at].startswith(f"{number + 1}. {rule}"), lines[at]
        assert re.search(r"\[test_rules\.py:\d+\]$", lines[at])
        assert outcome in lines[at + 1], lines[at + 1]
    assert lines[-3:] == [
        "received: 2 requests",
        f"{first} (rule 5, again once)",
        f"{second} (by itself)",
    ]
    assert "s3cret" not in text


def test_report_of_nothing() -> None:
    registrar = Registrar(("tcp",))
    registrar.on().answer(503)
    registrar.on_connection(source="127.0.0.1").fail("reset")
    lines = registrar.report().splitlines()
    assert lines[0].endswith("stopped")
    assert "NEVER MATCHED: no request came" in lines[3]
    assert "source 127.0.0.1 → reset" in lines[4]
    assert "NEVER MATCHED: no connection came" in lines[5]
    assert lines[-1] == "received: nothing"


def test_a_strict_registrar_answers_nothing_by_itself(connect: Any) -> None:
    registrar = Registrar(unmatched="error").start()
    client = connect(registrar)
    registrar.on(aor=BOB).answer(404)
    registrar.on(times=1).answer()  # as it would by itself
    assert client.register().code == 200
    reply = client.register()
    assert reply.code == 500
    assert "no rule is for this request" in reply["Warning"]
    with pytest.raises(RegistrarError, match="no rule is for <REGISTER") as caught:
        registrar.stop()
    assert isinstance(caught.value.__cause__, UnmatchedRequest)
    told = str(caught.value)
    assert "aor alice@example.com ≠ bob@example.com" in told
    assert "it is used up" in told
    with pytest.raises(ValueError, match="unmatched"):
        Registrar(unmatched="ignore")  # type: ignore[arg-type]


# -- a registrar that dies -------------------------------------------------------------------------


class Mine(BaseException):
    """What no ``except Exception`` catches, as pytest.fail() raises it."""


@pytest.mark.parametrize("error", [AssertionError, Mine, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_fails_the_test(connect: Any, error: type[BaseException]) -> None:
    def my_callback(request: ReceivedRequest) -> bool:
        raise error("expires is wrong")

    registrar = Registrar().start()
    registrar.on(match=my_callback).answer(200)
    assert connect(registrar).register().code == 500
    with pytest.raises(RegistrarError, match="expires is wrong") as caught:
        registrar.wait_for(2, timeout=5)
    cause = caught.value.__cause__
    assert isinstance(cause, error)
    assert "my_callback" in "".join(traceback.format_tb(cause.__traceback__))
    registrar.stop()


def test_a_defect_that_raises_fails_the_test(registrar: Registrar, client: Any) -> None:
    registrar.on().answer(200, wrong=lambda data: data.nonsense())  # type: ignore[attr-defined]
    assert client.register().code == 500
    with pytest.raises(RegistrarError, match="nonsense"):
        registrar.check()
    registrar.check()  # told once
    assert registrar.report().splitlines()[-1].startswith("failed: AttributeError: ")


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_lost_socket_ends_a_wait(protocol: str) -> None:
    registrar = Registrar((protocol,)).start()
    assert registrar._server is not None
    sock = registrar._server._sockets[protocol]
    os.close(sock.fileno())
    try:
        with pytest.raises(RegistrarError, match=f"its {protocol} socket is lost"):
            registrar.wait_for(1, timeout=30)
    finally:
        sock.detach()
        with contextlib.suppress(RegistrarError):
            registrar.stop()


def test_a_thread_that_ends_ends_a_wait(registrar: Registrar) -> None:
    def die() -> None:
        raise SystemExit("out of memory")

    assert registrar._server is not None
    assert registrar._server._loop is not None
    registrar._server._loop.call_soon_threadsafe(die)
    with pytest.raises(RegistrarError, match="out of memory") as caught:
        registrar.wait_for_keepalives(1, timeout=30)
    assert "die" in "".join(traceback.format_tb(caught.value.__cause__.__traceback__))  # type: ignore[union-attr]


def test_a_wait_for_a_stopped_registrar_is_over_at_once(registrar: Registrar) -> None:
    stopper = threading.Timer(0.05, registrar.stop)
    stopper.start()
    with pytest.raises(RegistrarError, match="does not run"):
        registrar.wait_for(1, timeout=30)
    stopper.join(5)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with 3.11")
def test_the_test_s_own_error_tells_of_the_registrar_s(connect: Any) -> None:
    def body() -> None:
        with Registrar() as registrar:
            registrar.on(match=lambda request: bool(1 / 0)).answer(200)
            connect(registrar).register()
            raise AssertionError("the test's own")

    with pytest.raises(AssertionError, match="the test's own") as caught:
        body()
    (note,) = getattr(caught.value, "__notes__")  # noqa: B009
    assert "ZeroDivisionError" in note
    assert "test_rules.py" in note


# -- what it received ------------------------------------------------------------------------------


def test_expect(registrar: Registrar, client: Any) -> None:
    client.register(headers=["X-One: 1", "X-Two: a", "X-Two: b"])
    request = registrar.requests[-1]
    request.expect()
    request.expect(
        method="REGISTER",
        aor=ALICE,
        contact=client.contact.strip("<>"),
        contacts=[re.compile("sip:.*")] and [client.contact.strip("<>")],
        expires=60,
        cseq=lambda number: number == 1,
        protocol="udp",
        answered=200,
        headers={"x-one": "1", "X-Two": "b", "X-Three": None, "Via": ..., "To": re.compile("<.*>")},
    )
    request.expect(contact=request.contact, contacts=tuple(request.contacts))
    with pytest.raises(AssertionError) as caught:
        request.expect(
            method="OPTIONS",
            contact="sip:bob@127.0.0.1",
            expires=range(3).__contains__,
            headers={"X-One": None, "X-Two": "c", "X-Three": ..., "To": re.compile("sip")},
        )
    text = str(caught.value)
    assert text.startswith(f"{request!r} is not as expected\n")
    for line in (
        "  method: 'REGISTER', expected 'OPTIONS'",
        f"  contact: '{client.contact.strip('<>')}', expected 'sip:bob@127.0.0.1'",
        "  expires: 60 is not what __contains__ wants",
        "  header X-One: '1', expected none",
        "  header X-Two: ['a', 'b'], expected 'c'",
        "  header X-Three: missing",
        f"  header To: '<{ALICE}>' does not match 'sip'",
        "  X-One: 1",
    ):
        assert line in text.splitlines(), text


def test_expect_knows_what_there_is(registrar: Registrar, client: Any) -> None:
    client.register()
    with pytest.raises(TypeError, match="did you mean 'expires'"):
        registrar.requests[0].expect(expire=60)
    with pytest.raises(TypeError, match="retransmissions"):
        registrar.requests[0].expect(weather="fine")


def test_no_secret_in_what_is_told(connect: Any) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        client = connect(registrar)
        header = client.authorization(client.register().challenge())
        client.register(headers=[header])
        digest = re.search(r'response="(\w+)"', header)
        assert digest
        one, two = registrar.requests
        with pytest.raises(AssertionError) as caught:
            two.expect(expires=5, headers={"Authorization": "nothing"})
        told = [str(caught.value), registrar.report(), *(explain(one, two) or ()), repr(two)]
        assert 'username="alice"' in told[0]
        assert not any(digest[1] in text or "c0ffee" in text for text in told)


def test_explanations(registrar: Registrar, client: Any) -> None:
    client.register()
    client.register(expires=5)
    one, two = registrar.requests
    lines = explain(one, two)
    assert lines is not None
    assert "- Expires: 5" in lines
    assert "+ Expires: 60" in lines
    (told, hint, *_) = explain("x", one) or []
    assert "request.expect" in hint
    assert repr(one) in told
    assert "contact.uri" in (explain(one.contact, client.contact) or [])[1]
    assert explain(1, 2) is None
