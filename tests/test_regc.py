# SPDX-License-Identifier: GPL-3.0-or-later
"""RegistrationClient, the whole of ``pjsip_regc``, against the embedded registrar."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py import _resolve
from pjsip_py.testing import Answer, Registrar
from pjsip_py.testing.request import ReceivedRequest

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"
PASSWORD = "open-sesame"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("udp", "tcp")) as server:
        yield server


def header(request: ReceivedRequest, name: str) -> str:
    return str(request.headers.get(name))


# -- what is sent ---------------------------------------------------------------------------------


def test_a_plain_register(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR)
    assert (client.aor, client.registrar, client.contacts) == (AOR, registrar.uri(), ())
    result = client.register().result(5)
    request = registrar.requests[0]
    assert request.uri == registrar.uri()
    assert request.headers.get("To") == f"<{AOR}>"
    assert header(request, "From").startswith(f"<{AOR}>;tag=")
    assert request.expires == 300
    assert request.contact is not None
    assert request.contact.uri == f"sip:alice@127.0.0.1:{ep.transports[0].port}"
    assert client.contacts == (f"<{request.contact.uri}>",)
    assert request.source == ("127.0.0.1", ep.transports[0].port)
    assert "rport" in header(request, "Via")
    assert int(header(request, "Max-Forwards")) == 70
    assert (result.code, result.reason, result.expires) == (200, "OK", 300)
    assert [b.uri for b in result.bindings] == [request.contact.uri]
    assert result.algorithm == ""


@pytest.mark.parametrize("expires", [1, 60, 2**31 - 1, None])
def test_the_expiry_asked_for(
    ep: pjsip.Endpoint, registrar: Registrar, expires: int | None
) -> None:
    client = ep.registration(registrar.uri(), AOR, expires=expires)
    result = client.register(auto_refresh=False).result(5)
    assert registrar.requests[0].expires == expires
    assert client.expires == expires
    assert result.expires == (expires or 3600)
    assert (registrar.requests[0].headers.get("Expires") is None) is (expires is None)


def test_ten_contacts_in_every_spelling(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    contacts = [
        "sip:a@127.0.0.1:5062",
        "sip:b@127.0.0.1;transport=tcp",
        "<sip:c@127.0.0.1;ob>;q=0.5",
        '"Desk, left" <sip:d@127.0.0.1>;reg-id=1;+sip.instance="<urn:uuid:0-1>"',
        *(f"sip:e{i}@127.0.0.1" for i in range(6)),
    ]
    client = ep.registration(registrar.uri(), AOR, contacts=contacts)
    result = client.register().result(5)
    sent = registrar.requests[0].contacts
    assert len(sent) == 10
    assert sent[1].uri == "sip:b@127.0.0.1;transport=tcp"
    assert sent[2].params == {"q": "0.5"}
    assert sent[3].params["reg-id"] == "1"
    assert sent[3].display_name == "Desk, left"
    assert {b.uri for b in result.bindings} == {c.uri for c in sent}
    client.unregister().result(5)
    assert registrar.bindings(AOR) == []
    assert len(registrar.requests[1].contacts) == 10


def test_a_third_party_registers(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(
        registrar.uri(), AOR, from_uri="sip:secretary@example.com", display_name='The "Boss" \\'
    )
    client.register().result(5)
    request = registrar.requests[0]
    assert request.headers.get("To") == f'"The \\"Boss\\" \\\\" <{AOR}>'
    assert "<sip:secretary@example.com>;tag=" in header(request, "From")
    assert len(registrar.bindings(AOR)) == 1


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("spelling", ["{}", "{};lr", "<{};lr>", "Edge <{}>"])
def test_a_route_decides_where_the_request_goes(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str, spelling: str
) -> None:
    with Registrar(protocols=("udp", "tcp")) as edge:
        route = spelling.format(edge.uri(protocol))
        client = ep.registration(registrar.uri(), AOR, route=[route, "sip:core.example.com;lr"])
        assert client.register().result(5).code == 200
        assert registrar.requests == []
        request = edge.requests[0]
        assert request.protocol == protocol
        assert request.uri == registrar.uri()
        routes = [part for value in request.headers.getlist("Route") for part in value.split(",")]
        assert [r.strip() for r in routes] == [
            f"<{edge.uri(protocol)};lr>",
            "<sip:core.example.com;lr>",
        ]


def test_headers_of_ones_own_on_every_request(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}) as server:
        client = ep.registration(
            server.uri(),
            AOR,
            headers=[("X-One", "1, 2"), ("X-One", "3"), ("Supported", "path, outbound"), ("Y", "")],
            credentials=pjsip.Credentials("alice", PASSWORD),
        )
        client.register().result(5)
        client.unregister().result(5)
        assert len(server.requests) == 3
        for request in server.requests:
            lines = request.data.split(b"\r\n")
            assert [line for line in lines if line.startswith((b"X-One", b"Y:"))] == [
                b"X-One: 1, 2",
                b"X-One: 3",
                b"Y: ",
            ]
            assert b"Supported: path, outbound" in lines


def test_parameters_of_the_contact(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(
        registrar.uri(),
        AOR,
        contact_params={"q": "0.7", "+sip.instance": '"<urn:uuid:1>"', "flag": None},
        contact_uri_params=";pn-provider=apns;pn-prid=00fc13adff78512",
    )
    client.register().result(5)
    contact = registrar.requests[0].contact
    assert contact is not None
    assert contact.uri.endswith(";pn-provider=apns;pn-prid=00fc13adff78512")
    text = registrar.requests[0].contact_values[0]
    assert text.endswith('>;q=0.7;+sip.instance="<urn:uuid:1>";flag')


def test_updates_hold_from_the_next_request_on(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR, contacts=["sip:old@127.0.0.1"])
    client.register().result(5)
    assert client.update_contacts("sip:new@127.0.0.1").result(5) is None
    assert client.update_expires(120).result(5) is None
    assert (client.contacts, client.expires) == (("<sip:new@127.0.0.1>",), 120)
    client.register().result(5)
    sent = {c.uri: c.params.get("expires") for c in registrar.requests[1].contacts}
    assert sent == {"sip:old@127.0.0.1": "0", "sip:new@127.0.0.1": None}
    assert registrar.requests[1].headers.get("Expires") == "120"
    assert [b.uri for b in registrar.bindings(AOR)] == ["sip:new@127.0.0.1"]
    assert len(registrar.requests) == 2  # an update sends nothing by itself


def test_updates_before_the_first_request(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR, credentials=())
    client.update_contacts(["sip:x@127.0.0.1"])
    client.update_expires(90)
    client.register().result(5)
    assert registrar.requests[0].contact_values == ["<sip:x@127.0.0.1>"]
    assert registrar.requests[0].expires == 90


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.update_contacts([]),
        lambda c: c.update_contacts([f"sip:a{i}@b" for i in range(11)]),
        lambda c: c.update_contacts(5),
        lambda c: c.update_expires(0),
        lambda c: c.update_expires(None),
        lambda c: c.update_expires(2**31),
        lambda c: c.set_credentials([]),
        lambda c: c.set_credentials("alice"),
        lambda c: c.set_credentials([pjsip.Credentials(f"u{i}", "p") for i in range(9)]),
        lambda c: c.register(timeout=0),
        lambda c: c.register(timeout="1"),
        lambda c: c.unregister(timeout=-1),
        lambda c: c.fetch_bindings(timeout=float("nan")),
        lambda c: c.on_reg_state(5),
    ],
)
def test_wrong_arguments_of_methods(
    ep: pjsip.Endpoint,
    registrar: Registrar,
    call: Callable[[pjsip.RegistrationClient], object],
) -> None:
    client = ep.registration(registrar.uri(), AOR)
    with pytest.raises((pjsip.ConfigError, TypeError)):
        call(client)
    assert client.register().result(5).code == 200
    with pytest.raises((pjsip.ConfigError, TypeError)):
        call(client)
    assert client.register().result(5).expires == 300


def until_clients_are(ep: pjsip.Endpoint, count: int) -> None:
    """What fetched the bindings is let go right after its outcome is told."""
    deadline = time.monotonic() + 5
    while ep.stats()["clients"] != count:
        assert time.monotonic() < deadline


# -- leaving and looking --------------------------------------------------------------------------


def test_unregister_removes_ours_only(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    first, second = (
        ep.registration(registrar.uri(), AOR, contacts=[f"sip:{n}@127.0.0.1"]) for n in "ab"
    )
    first.register().result(5)
    second.register().result(5)
    result = first.unregister().result(5)
    assert (result.code, result.expires) == (200, 0)
    assert [b.uri for b in registrar.bindings(AOR)] == ["sip:b@127.0.0.1"]
    assert (first.info()["auto_refresh"], first.info()["next_refresh"]) == (False, None)


def test_contact_star_removes_all(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    for name in "abc":
        contacts = [f"sip:{name}@127.0.0.1"]
        ep.registration(registrar.uri(), AOR, contacts=contacts).register().result(5)
    client = ep.registration(registrar.uri(), AOR)
    result = client.unregister_all().result(5)
    assert (result.code, result.expires, result.bindings) == (200, 0, ())
    assert registrar.requests[-1].contact_values == ["*"]
    assert registrar.requests[-1].headers.get("Expires") == "0"
    assert registrar.bindings(AOR) == []
    assert client.register().result(5).code == 200  # the client is as good as before
    assert len(registrar.bindings(AOR)) == 1


def test_the_bindings_can_be_asked_for(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}) as server:
        credentials = pjsip.Credentials("alice", PASSWORD)
        client = ep.registration(server.uri(), AOR, credentials=credentials)
        states: list[pjsip.RegState] = []
        client.on_reg_state(states.append)
        assert client.fetch_bindings().result(5).bindings == ()
        client.register().result(5)
        before = client.info()
        result = client.fetch_bindings().result(5)
        assert [f"<{b.uri}>" for b in result.bindings] == list(client.contacts)
        request = server.requests[-1]
        assert request.contact_values == []
        assert request.headers.get("Expires") is None
        assert request.call_id != before["call_id"]
        after = client.info()
        assert (after["call_id"], after["auto_refresh"]) == (before["call_id"], True)
        assert len(states) == 1
        until_clients_are(ep, 1)


def test_fetching_fails_as_anything_does(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR)
    registrar.answer_next(404)
    with pytest.raises(pjsip.NotFoundError):
        client.fetch_bindings().result(5)
    registrar.drop_next(times=None)
    with pytest.raises(pjsip.RegistrationTimeout):
        client.fetch_bindings(timeout=0.2).result(5)
    pending = client.fetch_bindings()
    client.close()
    with pytest.raises(pjsip.ClosedError):
        pending.result(5)
    until_clients_are(ep, 0)


def test_info(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR, expires=60)
    before = client.info()
    assert (before["busy"], before["call_id"], before["waiting"]) == (False, "", 0)
    client.register().result(5)
    info = client.info()
    assert info["call_id"] == registrar.requests[0].call_id
    assert (info["aor"], info["registrar"], info["contacts"]) == (
        AOR,
        registrar.uri(),
        client.contacts,
    )
    assert (info["busy"], info["auto_refresh"], info["interval"]) == (False, True, 60)
    assert 50 <= info["next_refresh"] < 60
    assert info["create_status"] == 0
    registrar.drop_next(times=None)
    pending = [client.register() for _ in range(3)]
    registrar.wait_for(2)
    info = client.info()
    assert (info["busy"], info["waiting"]) == (True, 2)
    client.close()
    assert all(isinstance(p.exception(5), pjsip.ClosedError) for p in pending)


# -- refresh --------------------------------------------------------------------------------------


def test_pjsip_refreshes_and_says_so(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, nc_check="exact") as server:
        client = ep.registration(
            server.uri(), AOR, expires=1, credentials=pjsip.Credentials("alice", PASSWORD)
        )
        stream = client.events()
        client.register().result(5)
        events = [stream.get(5) for _ in range(4)]
        started = events[0::2]
        states = events[1::2]
        assert [type(e) for e in started] == [pjsip.RegStarted] * 2
        renewals = [getattr(e, "renewal", None) for e in events]
        assert renewals == [False, False, True, True]
        for event in states:
            assert isinstance(event, pjsip.RegState)
            assert (event.code, event.expires, event.attempt) == (200, 1, 1)
            assert event.algorithm == "SHA-256"
            assert event.refresh_in in (0, 1)
            assert event.client is client
            assert event.account is None
        assert [r.answered for r in server.requests] == [401, 200, 200]
        client.unregister().result(5)
        count = len(server.requests)
        with pytest.raises(TimeoutError):
            server.wait_for(count + 1, timeout=1.2)


def test_a_refresh_that_is_refused_is_told_and_not_repeated(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    client = ep.registration(registrar.uri(), AOR, expires=1)
    stream = client.events()
    client.register().result(5)
    registrar.answer_next(503, headers={"Retry-After": "9"}, times=None)
    refused = next(e for e in stream if isinstance(e, pjsip.RegState) and e.renewal)
    assert isinstance(refused.error, pjsip.ServerError)
    assert (refused.code, refused.expires, refused.registered) == (503, None, False)
    assert refused.error.retry_after == 9
    assert not client.info()["auto_refresh"] or client.info()["next_refresh"] is None
    with pytest.raises(TimeoutError):
        registrar.wait_for(3, timeout=1.2)


# -- authentication -------------------------------------------------------------------------------


def ha1(algorithm: str, realm: str, password: str = PASSWORD) -> str:
    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[algorithm]
    try:
        digest = hashlib.new(name, usedforsecurity=False)
    except ValueError:
        pytest.skip(f"needs {name} in Python's OpenSSL")
    digest.update(f"alice:{realm}:{password}".encode())
    return digest.hexdigest()


@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
@pytest.mark.parametrize("secret", ["password", "ha1"])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
def test_a_secret_for_each_algorithm(
    ep: pjsip.Endpoint, algorithm: str, secret: str, proxy: bool
) -> None:
    with Registrar(
        users={"alice": PASSWORD}, realm="r.example", algorithms=(algorithm,), proxy_auth=proxy
    ) as server:
        options: dict[str, Any] = {"password": PASSWORD}
        if secret == "ha1":
            options = {"ha1": {algorithm: ha1(algorithm, "r.example")}, "realm": "r.example"}
        client = ep.registration(
            server.uri(), AOR, credentials=pjsip.Credentials("alice", **options)
        )
        result = client.register().result(5)
        assert (result.code, result.algorithm) == (200, algorithm)
        assert [r.answered for r in server.requests] == [407 if proxy else 401, 200]
        assert client.register().result(5).code == 200
        assert len(server.requests) == 3  # the nonce is used again


def test_one_ha1_of_many_answers_its_own_algorithm(ep: pjsip.Endpoint) -> None:
    digests = {a: ha1(a, "r.example") for a in ("MD5", "SHA-256")}
    credentials = pjsip.Credentials("alice", ha1=digests, realm="r.example")
    for algorithm in digests:
        with Registrar(
            users={"alice": PASSWORD}, realm="r.example", algorithms=(algorithm,)
        ) as server:
            client = ep.registration(server.uri(), AOR, credentials=credentials)
            assert client.register().result(5).algorithm == algorithm


def test_the_strongest_algorithm_offered_first_is_taken(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, algorithms=("SHA-256", "MD5")) as server:
        client = ep.registration(
            server.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
        )
        assert client.register().result(5).algorithm == "SHA-256"


@pytest.mark.parametrize("realm", ["a.example", "b.example"])
def test_the_realm_chooses_among_credentials(ep: pjsip.Endpoint, realm: str) -> None:
    credentials = [
        pjsip.Credentials("alice", "Open-for-a", realm="a.example"),
        pjsip.Credentials("alice", "Open-for-b", realm="b.example"),
    ]
    with Registrar(users={"alice": f"Open-for-{realm[0]}"}, realm=realm) as server:
        client = ep.registration(server.uri(), AOR, credentials=credentials)
        assert client.register().result(5).code == 200


@pytest.mark.parametrize("code", [401, 407])
def test_a_wrong_password(ep: pjsip.Endpoint, code: int) -> None:
    with Registrar(users={"alice": PASSWORD}, proxy_auth=code == 407) as server:
        client = ep.registration(
            server.uri(), AOR, credentials=pjsip.Credentials("alice", "not-" + PASSWORD)
        )
        with pytest.raises(pjsip.WrongPasswordError) as caught:
            client.register().result(5)
        error = caught.value
        assert (error.code, error.local, error.retriable, error.attempts) == (code, False, False, 1)
        assert error.response is not None
        assert error.response.code == code
        assert PASSWORD not in str(error) + repr(error)
        client.set_credentials(pjsip.Credentials("alice", PASSWORD))
        assert client.register().result(5).code == 200
        assert server.bindings(AOR)


def test_no_credential_at_all_or_for_this_realm(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, realm="r.example") as server:
        for credentials in ((), pjsip.Credentials("alice", PASSWORD, realm="other.example")):
            client = ep.registration(server.uri(), AOR, credentials=credentials)
            with pytest.raises(pjsip.NoCredentialError) as caught:
                client.register().result(5)
            assert caught.value.code == 401
        assert [r.answered for r in server.requests] == [401, 401]


def test_a_challenge_that_pjsip_cannot_answer(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    for challenge in (
        'Digest realm="r", nonce="n", algorithm=MD4',
        'Digest realm="r", nonce="n", qop="auth-conf"',
    ):
        registrar.answer_next(401, headers={"WWW-Authenticate": challenge})
        client = ep.registration(
            registrar.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
        )
        with pytest.raises(pjsip.AuthenticationError) as caught:
            client.register().result(5)
        assert caught.value.code == 401, challenge
    # PJSIP's parser drops a response whose scheme it does not know.
    registrar.answer_next(401, headers={"WWW-Authenticate": 'Basic realm="r"'}, times=None)
    with pytest.raises((pjsip.AuthenticationError, pjsip.RegistrationTimeout)):
        client.register(timeout=0.2).result(5)
    assert not any(b"Authorization" in r.data for r in registrar.requests)


def test_a_downgrade_is_refused_and_no_proof_leaves(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, algorithms=("MD5",)) as server:
        credentials = pjsip.Credentials("alice", PASSWORD, min_algorithm="SHA-256")
        client = ep.registration(server.uri(), AOR, credentials=credentials)
        with pytest.raises(pjsip.DowngradeError) as caught:
            client.register().result(5)
        assert caught.value.code == 401
        assert "min_algorithm" in caught.value.hint
        assert not any(b"Authorization" in r.data for r in server.requests)
        client.set_credentials(pjsip.Credentials("alice", PASSWORD))
        assert client.register().result(5).algorithm == "MD5"


def test_a_stale_nonce_costs_one_round_trip_and_no_error(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}) as server:
        client = ep.registration(
            server.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
        )
        client.register().result(5)
        server.expire_nonces()
        assert client.register().result(5).code == 200
        assert [r.answered for r in server.requests] == [401, 200, 401, 200]


def test_a_registrar_that_calls_every_nonce_stale(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    registrar.answer_next(
        401,
        headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", stale=true, algorithm=MD5'},
        times=None,
    )
    client = ep.registration(registrar.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD))
    with pytest.raises(pjsip.AuthenticationError):
        client.register().result(5)
    assert 2 <= len(registrar.requests) <= 10  # it ends


# -- outcomes -------------------------------------------------------------------------------------


def test_everything_of_a_response_is_in_the_event(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    own = "sip:alice@127.0.0.1:5062"
    registrar.script(
        Answer(
            200,
            reason="Fine by me",
            headers=[
                ("Contact", f'"A" <{own}>;expires=75;q=0.3, <sip:other@192.0.2.7>;expires=30'),
                ("Contact", '<sip:third@[::1]>;+sip.instance="<urn:uuid:x>"'),
                ("Expires", "60"),
                ("Path", "<sip:edge1;lr>, <sip:edge2;lr>"),
                ("Service-Route", "<sip:orig@core;lr>"),
                ("P-Associated-URI", "<tel:+1>"),
                ("P-Associated-URI", "<sip:second@example.com>"),
                ("Content-Type", "text/plain"),
            ],
            body=b"welcome\0\xff",
        )
    )
    client = ep.registration(registrar.uri(), AOR, contacts=[own])
    events: list[pjsip.RegState] = []
    client.on_reg_state(events.append)
    result = client.register().result(5)
    event, response = events[0], events[0].response
    assert response is not None
    assert response is result.response or response.raw == result.response.raw
    assert (event.code, event.reason, event.local, event.attempt) == (200, "Fine by me", False, 1)
    assert (event.expires, event.error, event.registered) == (75, None, True)
    assert event.bindings == result.bindings
    assert event.bindings == (
        pjsip.Binding(own, 75, 0.3, {}, "A"),
        pjsip.Binding("sip:other@192.0.2.7", 30, None, {}, ""),
        pjsip.Binding("sip:third@[::1]", 60, None, {"+sip.instance": "<urn:uuid:x>"}, ""),
    )
    assert response.path == ("<sip:edge1;lr>", "<sip:edge2;lr>")
    assert response.service_route == ("<sip:orig@core;lr>",)
    assert response.headers.get_all("p-associated-uri") == ["<tel:+1>", "<sip:second@example.com>"]
    assert response.body == b"welcome\0\xff"
    assert response.source == registrar.address()
    assert response.rport == ep.transports[0].port
    assert response.received in ("127.0.0.1", None)
    assert event.local_address == ep.transports[0].address
    assert event.registrar == registrar.uri()
    assert (event.client, event.account, event.renewal, event.is_unregister) == (
        client,
        None,
        False,
        False,
    )
    assert 60 <= (event.refresh_in or 0) <= 75
    assert event.seq > 0
    assert abs(event.time.monotonic - time.monotonic()) < 10


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (300, pjsip.RegistrationError),
        (302, pjsip.RegistrationError),
        (400, pjsip.RegistrationError),
        (403, pjsip.ForbiddenError),
        (404, pjsip.NotFoundError),
        (408, pjsip.RegistrationTimeout),
        (420, pjsip.RegistrationError),
        (480, pjsip.RegistrationError),
        (500, pjsip.ServerError),
        (503, pjsip.ServerError),
        (555, pjsip.ServerError),
        (600, pjsip.GlobalError),
        (699, pjsip.GlobalError),
    ],
)
def test_a_refusal_is_its_class(
    ep: pjsip.Endpoint, registrar: Registrar, code: int, expected: type[pjsip.RegistrationError]
) -> None:
    registrar.answer_next(code, reason="No, really", headers={"Retry-After": "33"})
    client = ep.registration(registrar.uri(), AOR)
    events: list[pjsip.RegState] = []
    client.on_reg_state(events.append)
    with pytest.raises(expected) as caught:
        client.register().result(5)
    error = caught.value
    assert type(error) is expected
    assert (error.code, error.reason, error.local) == (code, "No, really", False)
    assert (error.retry_after, error.attempts) == (33, 1)
    assert error.response is not None
    assert error.response.headers["Retry-After"] == "33"
    assert [(e.code, e.expires, e.bindings, e.error) for e in events] == [(code, None, (), error)]


def test_a_provisional_answer_is_no_outcome(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    registrar.script(Answer(100), Answer(183, delay=0.1))
    client = ep.registration(registrar.uri(), AOR)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    assert client.register().result(5).code == 200
    assert client.register().result(5).code == 200
    assert len(states) == 2


def test_an_interval_too_brief_is_cured_by_pjsip(ep: pjsip.Endpoint) -> None:
    with Registrar(min_expires=120) as server:
        result = ep.registration(server.uri(), AOR, expires=30).register().result(5)
        assert result.expires == 120
        assert [r.answered for r in server.requests] == [423, 200]


def test_an_interval_always_too_brief_is_an_error(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    registrar.answer_next(423, headers={"Min-Expires": "90"}, times=None)
    with pytest.raises(pjsip.IntervalTooBrief) as caught:
        ep.registration(registrar.uri(), AOR, expires=30).register().result(5)
    assert caught.value.min_expires == 90
    assert len(registrar.requests) < 10


def test_attempts_count_failures_until_a_success(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR)
    attempts: list[int] = []
    client.on_reg_state(lambda e: attempts.append(e.attempt))
    registrar.answer_next(500, times=3)
    for operation in [client.register() for _ in range(5)]:
        operation.exception(5)
    assert attempts == [1, 2, 3, 4, 1]


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["request", "client"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_request_has_its_own_timeout(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str, where: str
) -> None:
    registrar.drop_next(times=None)
    client = ep.registration(
        registrar.uri(protocol), AOR, timeout=0.3 if where == "client" else None
    )
    began = time.monotonic()
    operation = client.register(timeout=0.3 if where == "request" else None)
    with pytest.raises(pjsip.RegistrationTimeout) as caught:
        operation.result(5)
    assert 0.25 < time.monotonic() - began < 1
    error = caught.value
    assert (error.code, error.local, error.response, error.retriable) == (408, True, None, True)
    assert isinstance(error, TimeoutError)
    registrar.clear_script()
    assert client.register().result(5).code == 200


def test_a_timeout_counts_from_the_call(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    """A request that waits behind another for too long is not sent at all."""
    registrar.delay_next(0.4)
    client = ep.registration(registrar.uri(), AOR)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    first = client.register()
    second = client.unregister(timeout=0.2)
    with pytest.raises(pjsip.RegistrationTimeout):
        second.result(5)
    assert not first.done()
    assert first.result(5).code == 200
    assert [(s.code, s.is_unregister) for s in states] == [(408, True), (200, False)]
    assert client.register().result(5).code == 200
    assert [r.expires for r in registrar.requests] == [300, 300]


def test_a_late_answer_after_a_timeout_does_no_harm(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    registrar.delay_next(0.3)
    client = ep.registration(registrar.uri(), AOR)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    with pytest.raises(pjsip.RegistrationTimeout):
        client.register(timeout=0.1).result(5)
    registrar.wait_for(lambda r: r.answered == 200, timeout=5)
    assert client.register().result(5).code == 200
    assert [s.code for s in states] == [408, 200]


def test_a_lost_request_and_a_lost_response_are_repeated(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True, t1=0.05) as ep:
        registrar.drop_next()
        registrar.drop_next(what="response")
        client = ep.registration(registrar.uri(), AOR)
        assert client.register().result(5).code == 200
        registrar.drop_next(what="response")
        assert client.register().result(5).code == 200
    assert sum(r.retransmissions for r in registrar.requests) >= 1


# -- names ----------------------------------------------------------------------------------------


def test_a_host_name_is_resolved(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    ep.listen("udp", "127.0.0.1")
    client = ep.registration(f"sip:localhost:{registrar.port()}", AOR)
    assert client.register().result(5).code == 200
    assert registrar.requests[0].uri == f"sip:localhost:{registrar.port()}"


def test_an_unknown_name_is_told_once_per_request(ep: pjsip.Endpoint) -> None:
    client = ep.registration("sip:unknown-name.invalid", AOR)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    operations = [client.register(), client.unregister()]
    for operation in operations:
        with pytest.raises(pjsip.ResolveError, match=r"unknown-name\.invalid") as caught:
            operation.result(10)
        assert (caught.value.code, caught.value.local) == (502, True)
    assert [s.code for s in states] == [502, 502]
    assert [s.is_unregister for s in states] == [False, True]


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names take until the event is set, and are then 127.0.0.1."""
    answer = threading.Event()

    def query(host: str) -> list[str]:
        answer.wait(10)
        return ["127.0.0.1"]

    monkeypatch.setattr(_resolve, "query", query)
    yield answer
    answer.set()


def test_a_slow_name_counts_into_the_timeout(
    ep: pjsip.Endpoint, registrar: Registrar, slow_names: threading.Event
) -> None:
    client = ep.registration(f"sip:slow.example:{registrar.port()}", AOR)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    began = time.monotonic()
    with pytest.raises(pjsip.RegistrationTimeout, match="name resolution"):
        client.register(timeout=0.2).result(5)
    assert time.monotonic() - began < 1
    second = client.register(timeout=5)
    slow_names.set()
    assert second.result(5).code == 200
    assert client.register().result(5).code == 200
    assert [s.code for s in states] == [408, 200, 200]
    # One regc, whatever came late.
    assert len({r.call_id for r in registrar.requests}) == 1
    assert ep.stats()["clients"] == 1
    client.close()
    assert ep.stats()["clients"] == 0


def test_closing_while_a_name_is_looked_up(
    registrar: Registrar, slow_names: threading.Event
) -> None:
    with pjsip.Endpoint(strict=True) as ep:
        client = ep.registration(f"sip:slow.example:{registrar.port()}", AOR)
        operation = client.register()
        client.close()
        with pytest.raises(pjsip.ClosedError):
            operation.result(5)
        other = ep.registration(f"sip:slow.example:{registrar.port()}", AOR).register()
    with pytest.raises(pjsip.ClosedError):
        other.result(5)
    with pjsip.Endpoint(strict=True) as ep:
        slow_names.set()  # the answers reach an endpoint that did not ask
        client = ep.registration(registrar.uri(), AOR)
        assert client.register().result(5).code == 200
        assert ep.stats()["clients"] == 1
    assert len(registrar.requests) == 1


# -- close ----------------------------------------------------------------------------------------


def test_close_ends_what_is_under_way(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR)
    registrar.delay_next(0.2)
    stream = client.events()
    operations: list[pjsip.Operation[Any]] = [
        client.register(),
        client.unregister(),
        client.update_expires(60),
    ]
    registrar.wait_for(1)
    client.close()
    client.close()
    for operation in operations:
        with pytest.raises(pjsip.ClosedError):
            operation.result(5)
    assert all(isinstance(e, pjsip.RegStarted) for e in stream)
    for call in (client.register, client.info, client.events):
        with pytest.raises(pjsip.ClosedError, match="closed"):
            call()
    assert "closed" in repr(client)
    with ep.registration(registrar.uri(), AOR) as other:
        assert other.register().result(5).code == 200
    assert other.closed


# -- many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_thousand_at_once(protocol: str) -> None:
    with (
        Registrar(protocols=(protocol,), users={f"u{i}": PASSWORD for i in range(1000)}) as server,
        pjsip.Endpoint(strict=True) as ep,
    ):
        clients = [
            ep.registration(
                server.uri(),
                f"sip:u{i}@example.com",
                credentials=pjsip.Credentials(f"u{i}", PASSWORD),
            )
            for i in range(1000)
        ]
        states: list[pjsip.RegState] = []
        ep.on(pjsip.RegState, states.append)
        operations = [client.register() for client in clients]
        results = [operation.result(15) for operation in operations]
        assert {r.code for r in results} == {200}
        assert len(states) == 1000
        assert {s.client for s in states} == set(clients)
        assert len(server.aors) == 1000
        assert ep.stats()["clients"] == 1000
        for client in clients:
            client.close()
        assert ep.stats()["clients"] == 0


def test_a_closed_port_is_told_within_the_timeout(ep: pjsip.Endpoint) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises((pjsip.TransportError, pjsip.RegistrationTimeout)) as caught:
        ep.registration(f"sip:127.0.0.1:{port}", AOR).register(timeout=0.5).result(5)
    assert isinstance(caught.value, (pjsip.TransportError, pjsip.RegistrationTimeout))
    assert caught.value.local


# -- hostile answers ------------------------------------------------------------------------------


def answer_to(request: ReceivedRequest, *lines: bytes, start: bytes = b"SIP/2.0 200 OK") -> bytes:
    """A right answer, and more header lines."""
    copied = [
        line
        for line in request.data.split(b"\r\n")[1:]
        if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
    ]
    return b"\r\n".join([start, *copied, *lines, b"Content-Length: 0", b"", b""])


def without(data: bytes, name: bytes) -> bytes:
    return b"\r\n".join(line for line in data.split(b"\r\n") if not line.startswith(name))


HOSTILE: dict[str, Callable[[ReceivedRequest], bytes]] = {
    "empty": lambda r: b"",
    "one byte": lambda r: b"\0",
    "garbage": lambda r: bytes(range(256)) * 20,
    "only a start line": lambda r: b"SIP/2.0 200 OK\r\n\r\n",
    "truncated": lambda r: answer_to(r)[:120],
    "truncated in the start line": lambda r: b"SIP/2.0 2",
    "no via": lambda r: without(answer_to(r), b"Via"),
    "no call-id": lambda r: without(answer_to(r), b"Call-ID"),
    "no cseq": lambda r: without(answer_to(r), b"CSeq"),
    "no from": lambda r: without(answer_to(r), b"From"),
    "no to": lambda r: without(answer_to(r), b"To"),
    "wrong branch": lambda r: answer_to(r).replace(b"branch=z9hG4bK", b"branch=z9hG4bKx"),
    "wrong cseq": lambda r: answer_to(r).replace(b"CSeq: ", b"CSeq: 9"),
    "wrong method": lambda r: answer_to(r).replace(b" REGISTER\r\n", b" INVITE\r\n"),
    "huge cseq": lambda r: answer_to(r).replace(b"CSeq: ", b"CSeq: 99999999999999999999"),
    "wrong version": lambda r: answer_to(r, start=b"SIP/3.0 200 OK"),
    "code 99": lambda r: answer_to(r, start=b"SIP/2.0 99 X"),
    "code 700": lambda r: answer_to(r, start=b"SIP/2.0 700 X"),
    "code 1000": lambda r: answer_to(r, start=b"SIP/2.0 1000 X"),
    "code -200": lambda r: answer_to(r, start=b"SIP/2.0 -200 X"),
    "no code": lambda r: answer_to(r, start=b"SIP/2.0 OK"),
    "no reason": lambda r: answer_to(r, start=b"SIP/2.0 200 "),
    "reason not UTF-8": lambda r: answer_to(r, start=b"SIP/2.0 200 \xff\xfe\x80"),
    "reason of 3000 bytes": lambda r: answer_to(r, start=b"SIP/2.0 200 " + b"x" * 3000),
    "100 contacts": lambda r: answer_to(
        r, b"Contact: " + b", ".join(b"<sip:u%d@192.0.2.1>;expires=60" % i for i in range(100))
    ),
    "100 contact headers": lambda r: answer_to(
        r, *(b"Contact: <sip:u%d@192.0.2.1>;expires=60" % i for i in range(100))
    ),
    "contact *": lambda r: answer_to(r, b"Contact: *"),
    "contact empty": lambda r: answer_to(r, b"Contact: "),
    "contact broken": lambda r: answer_to(r, b"Contact: <sip:[::;;;>;expires=,,<<"),
    "contact not sip": lambda r: answer_to(r, b"Contact: <tel:+1>;expires=60, <http://x>"),
    "contact user of 2000 bytes": lambda r: answer_to(
        r, b"Contact: <sip:" + b"u" * 2000 + b"@192.0.2.1>;expires=60"
    ),
    "contact q": lambda r: answer_to(r, b"Contact: <sip:a@192.0.2.1>;q=99999999999;expires=60"),
    "expires negative": lambda r: answer_to(r, b"Expires: -5"),
    "expires text": lambda r: answer_to(r, b"Expires: soon"),
    "expires huge": lambda r: answer_to(r, b"Expires: 99999999999999999999"),
    "expires 2^31": lambda r: answer_to(r, b"Expires: 2147483648"),
    "expires 0": lambda r: answer_to(r, b"Expires: 0"),
    "contact expires huge": lambda r: answer_to(
        r, b"Contact: " + r.contact_values[0].encode() + b";expires=4294967296000"
    ),
    "retry-after huge": lambda r: answer_to(
        r, b"Retry-After: 99999999999999999999", start=b"SIP/2.0 503 X"
    ),
    "min-expires huge": lambda r: answer_to(
        r, b"Min-Expires: 99999999999999999999", start=b"SIP/2.0 423 X"
    ),
    "min-expires 0": lambda r: answer_to(r, b"Min-Expires: 0", start=b"SIP/2.0 423 X"),
    "challenge empty": lambda r: answer_to(
        r, b"WWW-Authenticate: Digest", start=b"SIP/2.0 401 X"
    ),
    "challenge broken": lambda r: answer_to(
        r, b'WWW-Authenticate: Digest realm="', start=b"SIP/2.0 401 X"
    ),
    "challenge missing": lambda r: answer_to(r, start=b"SIP/2.0 401 X"),
    "challenge of 3000 bytes": lambda r: answer_to(
        r,
        b'WWW-Authenticate: Digest realm="r", nonce="' + b"n" * 3000 + b'", opaque="o"',
        start=b"SIP/2.0 401 X",
    ),
    "challenges, 20": lambda r: answer_to(
        r,
        *(b'WWW-Authenticate: Digest realm="r%d", nonce="n"' % i for i in range(20)),
        start=b"SIP/2.0 401 X",
    ),
    "challenge realm with quotes": lambda r: answer_to(
        r, b'WWW-Authenticate: Digest realm="a\\"b\\\\", nonce="n"', start=b"SIP/2.0 401 X"
    ),
    "header of 6000 bytes": lambda r: answer_to(r, b"X-Long: " + b"x" * 6000),
    "1000 headers": lambda r: answer_to(r, *(b"X: y" for _ in range(1000))),
    "60000 bytes": lambda r: answer_to(r, *(b"X-Long: " + b"x" * 1000 for _ in range(59))),
    "NULs": lambda r: answer_to(r, b"X-Nul: a\0b", b"Contact: <sip:a\0b@192.0.2.1>;expires=60"),
    "not UTF-8": lambda r: answer_to(r, b"X-Raw: \xff\xfe", b'Contact: "\xe9" <sip:a@192.0.2.1>'),
    "folded": lambda r: answer_to(r, b"X-Folded: a\r\n b\r\n\tc"),
    "header without colon": lambda r: answer_to(r, b"nonsense"),
    "header without name": lambda r: answer_to(r, b": x"),
    "content-length too large": lambda r: answer_to(r).replace(b"Length: 0", b"Length: 5000"),
    "content-length negative": lambda r: answer_to(r).replace(b"Length: 0", b"Length: -1"),
    "bare newlines": lambda r: answer_to(r).replace(b"\r\n", b"\n"),
    "a request": lambda r: b"REGISTER sip:x SIP/2.0\r\n" + answer_to(r).partition(b"\r\n")[2],
    "its own request": lambda r: r.data,
    "302 to nowhere": lambda r: answer_to(r, b"Contact: <sip:[::>", start=b"SIP/2.0 302 X"),
    "service-route": lambda r: answer_to(
        r, *(b"Service-Route: <sip:" + b"s" * 200 + b";lr>" for _ in range(20))
    ),
    "via with 500 parameters": lambda r: answer_to(r).replace(
        b";branch", b";x=y" * 500 + b";branch"
    ),
    "twice": lambda r: answer_to(r) + answer_to(r, start=b"SIP/2.0 500 X"),
}  # fmt: skip


# What PJSIP makes of some of them; of the others, only that it is one typed outcome.
GOOD = {
    *("no reason", "reason not UTF-8", "reason of 3000 bytes", "100 contacts", "contact *"),
    *("100 contact headers", "expires 0", "expires 2^31", "not UTF-8", "folded", "service-route"),
    *("header of 6000 bytes", "1000 headers", "via with 500 parameters", "twice"),
}
UNHEARD = {
    *("empty", "one byte", "only a start line", "truncated", "no call-id", "no cseq", "no to"),
    *("wrong branch", "wrong method", "wrong version", "code 1000", "code -200", "no code"),
    *("a request", "its own request"),
}


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_hostile_answers_end_in_typed_outcomes(protocol: str) -> None:
    """Each from a registrar of its own, all at one endpoint, which works on."""
    with ExitStack() as stack:
        good = stack.enter_context(Registrar(protocols=(protocol,)))
        servers = {}
        for name, raw in HOSTILE.items():
            servers[name] = stack.enter_context(Registrar(protocols=(protocol,)))
            servers[name].script(Answer(raw=raw), times=None)
        ep = stack.enter_context(pjsip.Endpoint(strict=True, log_level=0))
        outcomes: dict[str, list[pjsip.RegState]] = {name: [] for name in HOSTILE}
        operations = {}
        for name, server in servers.items():
            client = ep.registration(
                server.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
            )
            client.on_reg_state(outcomes[name].append)
            operations[name] = client.register(auto_refresh=False, timeout=1.0)
        results: dict[str, object] = {}
        for name, operation in operations.items():
            error = operation.exception(5)
            results[name] = operation.result().code if error is None else type(error)
            assert isinstance(error, (pjsip.RegistrationError, pjsip.TransportError, type(None))), (
                name
            )
            assert PASSWORD not in f"{error} {error!r}"
        assert {name: len(events) for name, events in outcomes.items()} == dict.fromkeys(HOSTILE, 1)
        for name in GOOD:
            assert results[name] == 200, name
        for name in UNHEARD:
            assert results[name] is pjsip.RegistrationTimeout, name
        assert len(outcomes["100 contacts"][0].bindings) == 100
        for events in outcomes.values():
            assert events[0].expires is None or 0 <= events[0].expires < 2**31
        client = ep.registration(good.uri(), AOR)
        assert client.register().result(5).code == 200
        assert ep.stats()["assertions"] == 0


def test_a_refresh_by_name_is_told_from_its_beginning(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    """It starts with the name, on its way out through the resolver, and says so once."""
    started: list[bool] = []
    renewed = threading.Event()
    ep.on(pjsip.RegStarted, lambda event: started.append(event.renewal))
    client = ep.registration(f"sip:localhost:{registrar.port()}", AOR, expires=1)
    client.on_reg_state(lambda event: renewed.set() if event.renewal else None)
    ep.listen("udp", "127.0.0.1")
    client.register().result(5)
    assert renewed.wait(5)
    assert started[:2] == [False, True]
