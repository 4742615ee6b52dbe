# SPDX-License-Identifier: GPL-3.0-or-later
"""What the real client makes of every way in which the scripted registrar can answer wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import DEFECTS, FAULTS, Answer, Challenge, Registrar, VirtualClock

AOR = "sip:alice@example.com"
PASSWORD = "Ada-Lovelace-1843"
PATIENCE = 1.0  # s, of a client whose registrar sends nothing that it could take

# PJSIP finds the transaction by branch and CSeq method alone (RFC 3261 §17.1.3) and looks at no
# other header that came back; a datagram ends where it ends, whatever Content-Length says.
TAKEN = {
    "sent-by",
    "two-vias",  # §8.1.3.3 would have it discarded
    "from-tag",
    "no-from-tag",
    "no-to-tag",
    "to-user",
    "call-id",
    "cseq",
    "no-blank-line",
    "length-short",
    "length-long",
    "two-lengths",
    "bare-lf",
    "not-utf8",
    "no-colon",
    "bracket",
    "quote",
    "contact-uri",
    "contact-expires",
    "challenge",  # it has none in a 200
    "many-headers",
}
# A stream is cut by Content-Length: these leave it waiting for the rest, or at its wits' end.
CUT_WRONG = {"no-blank-line", "length-long", "two-lengths", "bare-lf"}


@pytest.fixture
def ep() -> Iterator[pjsip.Endpoint]:
    with pjsip.Endpoint(strict=True, log_level=0) as endpoint:
        yield endpoint


def register(
    ep: pjsip.Endpoint,
    registrar: Registrar,
    protocol: str | None = None,
    *,
    aor: str = AOR,
    **options: Any,
) -> pjsip.Operation[pjsip.RegistrationResult]:
    protocol = protocol or registrar.protocols[0]
    tls = pjsip.TlsConfig(ca_file=str(registrar.ca_file)) if protocol == "tls" else None
    client = ep.registration(
        registrar.uri(protocol), aor, credentials=pjsip.Credentials("alice", PASSWORD), tls=tls
    )
    return client.register(auto_refresh=False, **{"timeout": PATIENCE, **options})


def came_of(operation: pjsip.Operation[pjsip.RegistrationResult]) -> object:
    """The code of success, or the class of the failure."""
    error = operation.exception(8)
    return operation.result().code if error is None else type(error)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_wrong_answers(protocol: str) -> None:
    with ExitStack() as stack:
        ep = stack.enter_context(pjsip.Endpoint(strict=True, log_level=0))
        registrars = {n: stack.enter_context(Registrar((protocol,))) for n in DEFECTS}
        for name, registrar in registrars.items():
            registrar.on(times=1).answer(wrong=name)
        operations = {name: register(ep, each) for name, each in registrars.items()}
        outcomes = {name: came_of(operation) for name, operation in operations.items()}
        taken = TAKEN if protocol == "udp" else TAKEN - CUT_WRONG
        assert outcomes == {n: 200 if n in taken else pjsip.RegistrationTimeout for n in DEFECTS}
        # It goes on living: a right answer is taken, on a stream that can still be read.
        legible = taken if protocol == "udp" else taken - {"length-short"}
        again = {n: register(ep, registrars[n], timeout=5) for n in legible}
        assert {n for n, operation in again.items() if came_of(operation) == 200} == legible


def test_wrong_challenges(ep: pjsip.Endpoint) -> None:
    with ExitStack() as stack:
        outcomes = {}
        for name in (*sorted(TAKEN), "branch"):
            registrar = stack.enter_context(Registrar())
            registrar.on(times=1).answer(401, challenges=Challenge(), wrong=name)
            outcomes[name] = register(ep, registrar), registrar
        for name, (operation, registrar) in outcomes.items():
            if name in ("branch", "challenge"):
                error = pjsip.RegistrationTimeout if name == "branch" else pjsip.ChallengeError
                assert came_of(operation) is error
                assert len(registrar.requests) == 1
            else:
                assert came_of(operation) == 200, name
                assert registrar.requests[-1].authorization is not None


GONE = pjsip.TransportError


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_connections_that_end(ep: pjsip.Endpoint, protocol: str) -> None:
    expected = {"before": GONE, "instead": GONE, "middle": GONE, "after": 200}
    with ExitStack() as stack:
        operations = {}
        for when in expected:
            for how in ("close", "half-close", "reset"):
                registrar = stack.enter_context(Registrar((protocol,)))
                answer = Answer(close=when, how=how)  # type: ignore[arg-type]
                registrar.on(times=1).give(answer)
                operations[when, how] = register(ep, registrar, timeout=5), registrar
        for (when, how), (operation, registrar) in operations.items():
            assert came_of(operation) == expected[when], (when, how)
            assert bool(registrar.aors) == (when != "before")
            assert came_of(register(ep, registrar, timeout=5)) == 200


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_tcp_connections_that_fail(ep: pjsip.Endpoint, how: Any) -> None:
    with Registrar(("tcp",)) as registrar:
        registrar.on_connection(times=1).fail(how)
        assert came_of(register(ep, registrar, timeout=5)) is GONE
        assert came_of(register(ep, registrar, timeout=5)) == 200


TLS_ERRORS = {
    "closed": "the server closed the connection during the TLS handshake",
    "reset": "the server closed the connection during the TLS handshake",
    "refused": "alert handshake failure",
    "no-common-version": "no TLS version in common",
    "wrong-host": "the certificate is for elsewhere.example.net, not for 127.0.0.1",
    "expired": "has expired",
    "not-yet-valid": "is not yet valid",
    "untrusted": "no trusted CA has issued the certificate",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tls_that_fails(ep: pjsip.Endpoint, fault: Any) -> None:
    with Registrar(("tls",)) as registrar:
        registrar.on_connection(times=1).fail(fault)
        if fault == "silent":
            assert came_of(register(ep, registrar, timeout=0.5)) is pjsip.RegistrationTimeout
            return
        with pytest.raises(pjsip.TlsError, match=TLS_ERRORS[fault]):
            register(ep, registrar, timeout=5).result(8)
        assert came_of(register(ep, registrar, timeout=5)) == 200


def test_silence_for_good_is_a_timeout(ep: pjsip.Endpoint) -> None:
    with Registrar() as registrar:
        rule = registrar.on(times=1).drop("all")
        assert came_of(register(ep, registrar)) is pjsip.RegistrationTimeout
        assert rule.taken == 1
        assert registrar.requests[0].retransmissions == 1
        assert came_of(register(ep, registrar)) == 200


def test_copies_and_provisional_answers_count_once(ep: pjsip.Endpoint) -> None:
    with Registrar(("udp", "tcp")) as registrar:
        registrar.on().answer(provisional=(100, 183), copies=5)
        for protocol in ("udp", "tcp"):
            states: list[pjsip.RegState] = []
            client = ep.registration(registrar.uri(protocol), AOR)
            client.on_reg_state(states.append)
            assert client.register(auto_refresh=False).result(5).code == 200
            assert client.register(auto_refresh=False).result(5).code == 200
            assert [state.code for state in states] == [200, 200]
        assert registrar.stats().responses == {200: 4}


def test_answers_out_of_order_find_their_requests(ep: pjsip.Endpoint) -> None:
    with Registrar(("udp", "tcp")) as registrar:
        for protocol in ("udp", "tcp"):
            aors = [f"sip:{name}-{protocol}@example.com" for name in ("first", "second", "third")]
            registrar.on(aor=aors[0]).answer(404, behind=2)
            registrar.on(aor=aors[1]).answer(403, behind=1)
            operations = []
            for number, aor in enumerate(aors, len(registrar.requests) + 1):
                operations.append(register(ep, registrar, protocol, aor=aor, timeout=5))
                registrar.wait_for(number)  # they arrive in this order
            assert [came_of(operation) for operation in operations] == [
                pjsip.NotFoundError,
                pjsip.ForbiddenError,
                200,
            ]


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_segments(ep: pjsip.Endpoint, protocol: str) -> None:
    with Registrar((protocol,)) as registrar:
        assert came_of(register(ep, registrar)) == 200  # from now on there is one connection
        rule = registrar.on(aor="sip:bob@example.com").answer(404, joined=True)
        waiting = register(ep, registrar, aor="sip:bob@example.com", timeout=5)
        registrar.wait_for(lambda request: request.rule is rule)
        assert not waiting.done()
        assert came_of(register(ep, registrar)) == 200
        assert came_of(waiting) is pjsip.NotFoundError
        registrar.on(times=1).answer(split=50, pause=0.001)
        registrar.on(times=1).answer(split=10_000, pause=0)  # every byte alone
        assert [came_of(register(ep, registrar)) for _ in range(2)] == [200, 200]


def test_an_answer_from_another_address_is_taken(ep: pjsip.Endpoint) -> None:
    with Registrar() as registrar:
        registrar.on(times=1).answer(sent_from=("127.0.0.2", 0))
        result = register(ep, registrar).result(5)
        assert result.response is not None
        assert result.response.source[0] == "127.0.0.2"


def test_stale_nonces_are_replaced(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        registrar.on(attempt=2).answer(stale=True)
        assert register(ep, registrar).result(5).code == 200
        assert [request.answered for request in registrar.requests] == [401, 401, 200]
        nonces = [proof.nonce for request in registrar.requests for proof in request.proofs]
        assert len(set(nonces)) == 2


def test_endless_staleness_comes_to_an_end(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        registrar.on().answer(stale=True)
        assert issubclass(came_of(register(ep, registrar)), pjsip.AuthenticationError)  # type: ignore[arg-type]
        assert len(registrar.requests) < 10


def test_several_challenges_of_the_script(ep: pjsip.Endpoint) -> None:
    with Registrar() as registrar:
        registrar.on(attempt=1).answer(
            407, challenges=[Challenge("edge", proxy=True, nonce="n1"), Challenge("home")]
        )
        assert register(ep, registrar).result(5).code == 200
        headers = registrar.requests[-1].headers
        assert 'nonce="n1"' in (headers.get("Proxy-Authorization") or "")
        assert 'realm="home"' in (headers.get("Authorization") or "")


def test_changed_contacts_and_expiry(ep: pjsip.Endpoint) -> None:
    with Registrar() as registrar:
        registrar.on(times=1).answer(expires=77)
        registrar.on(times=1).answer(contacts=["<sip:mallory@127.0.0.9>;expires=60"])
        assert register(ep, registrar).result(5).expires == 77
        result = register(ep, registrar).result(5)
        assert [binding.uri for binding in result.bindings] == ["sip:mallory@127.0.0.9"]


def test_redirection_is_the_caller_s_to_follow(ep: pjsip.Endpoint) -> None:
    with Registrar() as registrar:
        registrar.on().answer(302, contacts="<sip:127.0.0.1:5080>")
        with pytest.raises(pjsip.RegistrationError) as caught:
            register(ep, registrar).result(5)
        assert caught.value.code == 302
        assert caught.value.response is not None
        assert caught.value.response.bindings[0].uri == "sip:127.0.0.1:5080"


def test_delays_follow_a_virtual_clock() -> None:
    clock = VirtualClock()
    with (
        Registrar(clock=clock) as registrar,
        pjsip.Endpoint(strict=True, clock=clock) as ep,
    ):
        registrar.on(times=1).answer(503, delay=20, provisional=100)
        operation = register(ep, registrar, timeout=60)
        clock.advance(19.9)
        assert not operation.done()
        clock.advance(0.2)
        assert came_of(operation) is pjsip.ServerError
        # Retransmissions go on, every 4 s (RFC 3261 §17.1.2.2), and get the 100 again.
        assert registrar.requests[0].retransmissions >= 5


def test_over_ipv6() -> None:
    with (
        pjsip.Endpoint(strict=True) as ep,
        Registrar(("udp", "tcp", "tls"), "::1") as registrar,
    ):
        registrar.on(protocol="udp", times=1).answer(sent_from=("::1", 0), copies=2)
        registrar.on(source="::1", protocol=("tcp", "tls")).answer(split=9)
        rule = registrar.on_connection("tls", times=1).fail("expired")
        with pytest.raises(pjsip.TlsError, match="expired"):
            register(ep, registrar, "tls").result(5)
        assert rule.taken == 1
        for protocol in registrar.protocols:
            assert came_of(register(ep, registrar, protocol)) == 200
