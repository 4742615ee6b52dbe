# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration against Kamailio: every transport, both digests, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from servers.kamailio import BULK_PASSWORD, REALM, TRANSPORTS, USERS, Kamailio
from servers.process import free_port

import pjsip_py as pjsip

pytestmark = pytest.mark.timeout(30)


def registration(
    ep: pjsip.Endpoint,
    server: Kamailio,
    user: str,
    *,
    protocol: str = "udp",
    host: str = "127.0.0.1",
    **options: Any,
) -> pjsip.RegistrationClient:
    """A client for ``user``, with the right password and the server's CA unless told otherwise."""
    options.setdefault("credentials", [pjsip.Credentials(user, USERS.get(user, BULK_PASSWORD))])
    if protocol == "tls":
        options.setdefault("tls", pjsip.TlsConfig(ca_file=server.certs.ca_file))
    return ep.registration(server.uri(protocol, host), f"sip:{user}@example.com", **options)


def contacts_at(server: Kamailio, user: str) -> list[str]:
    """The bindings of ``user`` as somebody else sees them."""
    with server.client() as client:
        reply = client.register(user, USERS.get(user, BULK_PASSWORD), contact=None)
    assert reply.code == 200
    value = reply.get("Contact")
    return value.split(", ") if value else []


@pytest.mark.parametrize(("protocol", "host"), TRANSPORTS)
def test_registers_refreshes_three_times_and_unregisters(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str, protocol: str, host: str
) -> None:
    events: queue.Queue[pjsip.RegState] = queue.Queue()
    # A grant of 1 s is refreshed after 0.5 s.
    client = registration(ep, kamailio, user, protocol=protocol, host=host, expires=1)
    client.on_reg_state(events.put)

    result = client.register().result(timeout=5)
    assert (result.code, result.expires, len(result.bindings)) == (200, 1, 1)
    assert result.response.headers.get("X-Received") == f"{protocol}:{host}"

    seen = [events.get(timeout=5) for _ in range(4)]
    assert [event.code for event in seen] == [200] * 4
    assert [event.renewal for event in seen] == [False, True, True, True]

    # Long enough that only the unregistration can be what removes the binding.
    client.update_expires(60)
    assert client.register().result(timeout=5).expires == 60
    assert len(contacts_at(kamailio, user)) == 1
    removed = client.unregister().result(timeout=5)
    assert (removed.code, list(removed.bindings)) == (200, [])
    assert contacts_at(kamailio, user) == []


# -- authentication, cell by cell -----------------------------------------------------------------
#
# Kamailio's auth module challenges with one algorithm, MD5 or SHA-256; left at its default, the
# challenge names none, which means MD5.


def prove_and_fail(
    ep: pjsip.Endpoint, server: Kamailio, user: str, algorithm: str, **where: Any
) -> None:
    """What is right registers, in one round trip from then on; all else fails as documented."""
    digest = hashlib.new({"MD5": "md5", "SHA-256": "sha256"}[algorithm], usedforsecurity=False)
    digest.update(f"{user}:{REALM}:{BULK_PASSWORD}".encode())
    ha1 = pjsip.Credentials(user, ha1={algorithm: digest.hexdigest()}, realm=REALM)
    wrong = pjsip.Credentials(user, "not the password")
    elsewhere = pjsip.Credentials(user, BULK_PASSWORD, realm="elsewhere")
    least = pjsip.Credentials(user, BULK_PASSWORD, min_algorithm="SHA-256")
    too_weak = algorithm == "MD5"

    for credentials in (pjsip.Credentials(user, BULK_PASSWORD), ha1, None if too_weak else least):
        if credentials is None:
            continue
        client = registration(ep, server, user, credentials=credentials, **where)
        seen: list[pjsip.RegState] = []
        client.on_reg_state(seen.append)
        for _ in range(3):
            assert client.register().result(timeout=5).code == 200
        assert [(e.algorithm, e.offered, e.requests) for e in seen] == [
            (algorithm, (algorithm,), 2),
            (algorithm, (), 1),
            (algorithm, (), 1),
        ]
        assert client.unregister().result(timeout=5).code == 200

    failing: list[tuple[Any, type[pjsip.AuthenticationError]]] = [
        (wrong, pjsip.WrongPasswordError),
        (elsewhere, pjsip.NoCredentialError),
        ((), pjsip.NoCredentialError),
    ]
    if too_weak:
        failing.append((least, pjsip.DowngradeError))
    for credentials, expected in failing:
        client = registration(ep, server, user, credentials=credentials, **where)
        seen = []
        client.on_reg_state(seen.append)
        error = client.register().exception(timeout=5)
        assert type(error) is expected
        assert not error.local
        assert "not the password" not in f"{error!r} {error}"
        assert (seen[0].offered, seen[0].code) == ((algorithm,), 401)
        assert seen[0].algorithm == (algorithm if expected is pjsip.WrongPasswordError else "")
    assert contacts_at(server, user) == []


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize(("protocol", "host"), TRANSPORTS)
def test_every_proof_over(
    request: pytest.FixtureRequest,
    ep: pjsip.Endpoint,
    user: str,
    protocol: str,
    host: str,
    algorithm: str,
) -> None:
    server = request.getfixturevalue("kamailio" if algorithm == "MD5" else "kamailio_sha256")
    prove_and_fail(ep, server, user, algorithm, protocol=protocol, host=host)


@dataclass(frozen=True)
class ClientCertificate:
    """PEM files of a client's own."""

    cert_file: Path
    key_file: Path

    @classmethod
    def issue(cls, ca: trustme.CA, directory: Path, name: str) -> ClientCertificate:
        issued = ca.issue_cert("alice@example.com")
        files = cls(directory / f"{name}.pem", directory / f"{name}.key")
        files.cert_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files.key_file))
        return files


@pytest.mark.parametrize("algorithm", ["", "SHA-256"], ids=["default", "SHA-256"])
def test_every_proof_over_tls_with_and_without_a_client_certificate(
    ep: pjsip.Endpoint,
    start_kamailio: Callable[..., Kamailio],
    user: str,
    algorithm: str,
    tmp_path: Path,
) -> None:
    server = start_kamailio(algorithm=algorithm, verify_client=True)
    known = ClientCertificate.issue(server.certs.ca, tmp_path, "known")
    foreign = ClientCertificate.issue(trustme.CA(), tmp_path, "foreign")
    for host in server.hosts:
        tls = pjsip.TlsConfig(
            ca_file=server.certs.ca_file, cert_file=known.cert_file, key_file=known.key_file
        )
        prove_and_fail(ep, server, user, algorithm or "MD5", protocol="tls", host=host, tls=tls)
        for certificate, reason in (
            (None, "client-certificate-missing"),
            (foreign, "client-certificate-refused"),
        ):
            files = {} if certificate is None else vars(certificate)
            tls = pjsip.TlsConfig(ca_file=server.certs.ca_file, **files)
            client = registration(ep, server, user, protocol="tls", host=host, tls=tls)
            error = client.register(timeout=3.0).exception(timeout=5)
            assert isinstance(error, pjsip.TlsError), (host, reason, error)
            assert reason in error.reasons
    # Certificates are TLS's alone: the same server over UDP asks for the password only.
    prove_and_fail(ep, server, user, algorithm or "MD5")


def test_kamailio_asks_a_callable_once_for_many_refreshes(
    ep: pjsip.Endpoint, kamailio_sha256: Kamailio, user: str
) -> None:
    asked: list[pjsip.Challenge] = []

    async def vault(challenge: pjsip.Challenge) -> pjsip.Credentials:
        asked.append(challenge)
        await asyncio.sleep(0.01)
        return pjsip.Credentials(user, BULK_PASSWORD)

    client = registration(ep, kamailio_sha256, user, credentials=vault)
    for _ in range(5):
        assert client.register().result(timeout=5).code == 200
    assert [(c.realm, c.algorithm, c.refused) for c in asked] == [(REALM, "SHA-256", False)]


def test_a_hundred_refreshes_on_one_nonce_of_kamailio_s(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    client = registration(ep, kamailio, user)
    seen: list[pjsip.RegState] = []
    client.on_reg_state(seen.append)
    for _ in range(101):
        client.register().result(timeout=5)
    assert [event.requests for event in seen] == [2, *[1] * 100]


def test_an_expired_nonce_is_renewed(
    ep: pjsip.Endpoint, start_kamailio: Callable[..., Kamailio], user: str
) -> None:
    # Kamailio calls a nonce stale one to two seconds after it made it.
    client = registration(ep, start_kamailio(nonce_expire=1), user, expires=1)
    outcomes: queue.Queue[pjsip.RegState] = queue.Queue()
    client.on_reg_state(outcomes.put)
    received: list[str] = []
    ep.trace()
    ep.on(pjsip.SipMessage, lambda message: received.append(message.text))
    client.register().result(timeout=5)
    assert [outcomes.get(timeout=5).code for _ in range(6)] == [200] * 6
    assert any("stale=true" in text for text in received)


def test_a_wrong_password_for_a_proxy_is_a_407(ep: pjsip.Endpoint, kamailio: Kamailio) -> None:
    wrong = pjsip.Credentials("proxied", "not the password")
    with pytest.raises(pjsip.AuthenticationError) as caught:
        registration(ep, kamailio, "proxied", credentials=[wrong]).register().result(timeout=5)
    assert caught.value.code == 407


def test_a_proxy_s_challenge_is_answered(ep: pjsip.Endpoint, kamailio: Kamailio) -> None:
    assert registration(ep, kamailio, "proxied").register().result(timeout=5).code == 200


def test_after_a_wrong_password_the_right_one_works(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    wrong = pjsip.Credentials(user, "not the password")
    client = registration(ep, kamailio, user, credentials=[wrong])
    with pytest.raises(pjsip.AuthenticationError):
        client.register().result(timeout=5)
    client.set_credentials([pjsip.Credentials(user, BULK_PASSWORD)])
    assert client.register().result(timeout=5).code == 200


@pytest.mark.parametrize(
    ("user", "error", "code"),
    [("banned", pjsip.ForbiddenError, 403), ("nobody", pjsip.NotFoundError, 404)],
)
def test_a_refusal_is_an_error_of_its_own(
    ep: pjsip.Endpoint,
    kamailio: Kamailio,
    user: str,
    error: type[pjsip.RegistrationError],
    code: int,
) -> None:
    client = registration(ep, kamailio, user)
    with pytest.raises(error) as caught:
        client.register().result(timeout=5)
    assert caught.value.code == code
    assert not caught.value.local


def test_too_many_contacts_is_a_503_with_retry_after(
    ep: pjsip.Endpoint, kamailio: Kamailio
) -> None:
    first = registration(ep, kamailio, "single", contacts=["sip:first@127.0.0.1:9"])
    assert first.unregister_all().result(timeout=5).code == 200
    assert first.register().result(timeout=5).code == 200
    second = registration(ep, kamailio, "single", contacts=["sip:second@127.0.0.1:9"])
    with pytest.raises(pjsip.ServerError) as caught:
        second.register().result(timeout=5)
    assert (caught.value.code, caught.value.retry_after) == (503, kamailio.retry_after)


def test_too_brief_an_interval_is_raised_to_what_the_registrar_asks_for(
    ep: pjsip.Endpoint, kamailio: Kamailio
) -> None:
    result = registration(ep, kamailio, "brief", expires=60).register().result(timeout=5)
    assert (result.code, result.expires) == (200, kamailio.min_expires)


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_closed_port_is_a_transport_error(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str, protocol: str
) -> None:
    port = free_port([("127.0.0.1", "tcp")])
    began = time.monotonic()
    client = ep.registration(
        f"sip:127.0.0.1:{port};transport={protocol}", f"sip:{user}@example.com"
    )
    with pytest.raises(pjsip.TransportError):
        client.register(timeout=5.0).result(timeout=10)
    assert time.monotonic() - began < 2


def test_silence_is_a_timeout_within_the_time_asked_for(ep: pjsip.Endpoint, user: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        uri = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        client = ep.registration(uri, f"sip:{user}@example.com")
        began = time.monotonic()
        with pytest.raises(pjsip.RegistrationTimeout) as caught:
            client.register(timeout=1.0).result(timeout=10)
        assert 0.9 < time.monotonic() - began < 1.5
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.code, caught.value.local) == (408, True)


def test_a_connection_that_stays_silent_is_a_timeout(ep: pjsip.Endpoint, user: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"sip:127.0.0.1:{silent.getsockname()[1]};transport=tcp"
        client = ep.registration(uri, f"sip:{user}@example.com")
        with pytest.raises(pjsip.RegistrationTimeout):
            client.register(timeout=1.0).result(timeout=10)


def test_another_ca_is_a_tls_error(ep: pjsip.Endpoint, kamailio: Kamailio, user: str) -> None:
    other = pjsip.TlsConfig(ca_file=kamailio.certs.other_ca_file)
    client = registration(ep, kamailio, user, protocol="tls", tls=other)
    with pytest.raises(pjsip.TlsError) as caught:
        client.register(timeout=5.0).result(timeout=10)
    assert caught.value.verify_status
    assert contacts_at(kamailio, user) == []


def test_tls_spoken_to_a_plain_port_is_a_transport_error(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    client = ep.registration(
        f"sip:127.0.0.1:{kamailio.port('tcp')};transport=tls",
        f"sip:{user}@example.com",
        tls=pjsip.TlsConfig(ca_file=kamailio.certs.ca_file),
    )
    with pytest.raises((pjsip.TransportError, pjsip.RegistrationTimeout)):
        client.register(timeout=0.7).result(timeout=10)


def test_the_bindings_of_others_are_fetched_and_removed(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    with kamailio.client() as other:
        other.register(user, BULK_PASSWORD, contact="<sip:other@127.0.0.1:9>;q=0.5", expires=90)
    client = registration(ep, kamailio, user)
    client.register().result(timeout=5)

    fetched = client.fetch_bindings().result(timeout=5)
    assert len(fetched.bindings) == 2
    other_binding = next(b for b in fetched.bindings if "other@" in b.uri)
    assert other_binding.expires is not None
    assert 80 <= other_binding.expires <= 90
    assert other_binding.q == 0.5

    assert list(client.unregister_all().result(timeout=5).bindings) == []
    assert contacts_at(kamailio, user) == []


def test_several_contacts_are_bound_together(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    contacts = [f"sip:{name}@127.0.0.1:{port}" for port, name in enumerate("abcdefghij", 7001)]
    client = registration(ep, kamailio, user, contacts=contacts)
    result = client.register().result(timeout=5)
    assert sorted(binding.uri for binding in result.bindings) == contacts
    assert client.unregister().result(timeout=5).code == 200
    assert contacts_at(kamailio, user) == []


def test_replaced_contacts_are_removed(ep: pjsip.Endpoint, kamailio: Kamailio, user: str) -> None:
    client = registration(ep, kamailio, user, contacts=["sip:old@127.0.0.1:7001"])
    client.register().result(timeout=5)
    client.update_contacts(["sip:new@127.0.0.1:7002"])
    result = client.register().result(timeout=5)
    assert [binding.uri for binding in result.bindings] == ["sip:new@127.0.0.1:7002"]


def test_a_third_party_registers_somebody_else(ep: pjsip.Endpoint, kamailio: Kamailio) -> None:
    assistant = pjsip.Credentials("assistant", USERS["assistant"])
    client = registration(
        ep, kamailio, "bob", from_uri="sip:assistant@example.com", credentials=[assistant]
    )
    result = client.register().result(timeout=5)
    assert result.response.headers.get("X-From-User") == "assistant"
    assert len(contacts_at(kamailio, "bob")) == 1
    client.unregister_all().result(timeout=5)


def test_somebody_else_s_credentials_are_refused(ep: pjsip.Endpoint, kamailio: Kamailio) -> None:
    alice = pjsip.Credentials("alice", USERS["alice"])
    with pytest.raises(pjsip.ForbiddenError) as caught:
        registration(ep, kamailio, "bob", credentials=[alice]).register().result(timeout=5)
    assert caught.value.reason == "Credentials Of Another User"


def test_custom_headers_arrive(ep: pjsip.Endpoint, kamailio: Kamailio, user: str) -> None:
    client = registration(ep, kamailio, user, headers=[("X-Echo", "a value, with a comma")])
    result = client.register().result(timeout=5)
    assert result.response.headers.get("x-echoed") == "a value, with a comma"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_thousand_register_at_once(
    ep: pjsip.Endpoint, start_kamailio: Callable[..., Kamailio], protocol: str
) -> None:
    server = start_kamailio(memory=256)
    users = [f"bulk{number}" for number in range(1000)]
    clients = [registration(ep, server, user, protocol=protocol) for user in users]
    operations = [client.register(timeout=20.0) for client in clients]
    results = [operation.result(timeout=30) for operation in operations]
    assert {result.code for result in results} == {200}
    assert {len(result.bindings) for result in results} == {1}
    for user in users[::250]:
        assert len(contacts_at(server, user)) == 1
    removals = [client.unregister(timeout=20.0) for client in clients]
    assert {removal.result(timeout=30).code for removal in removals} == {200}


@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_a_killed_registrar_is_an_error_and_one_that_is_back_is_not(
    ep: pjsip.Endpoint, start_kamailio: Callable[..., Kamailio], user: str, protocol: str
) -> None:
    server = start_kamailio()
    client = registration(ep, server, user, protocol=protocol)
    client.register().result(timeout=5)
    server.kill()
    expected = pjsip.RegistrationTimeout if protocol == "udp" else pjsip.TransportError
    with pytest.raises(expected):
        client.register(timeout=1.0).result(timeout=10)
    server.start()
    assert client.register().result(timeout=5).code == 200
    assert len(contacts_at(server, user)) == 1


def test_a_registrar_that_hangs_is_a_timeout(
    ep: pjsip.Endpoint, start_kamailio: Callable[..., Kamailio], user: str
) -> None:
    server = start_kamailio()
    client = registration(ep, server, user, protocol="tcp")
    client.register().result(timeout=5)
    server.pause()
    with pytest.raises(pjsip.RegistrationTimeout):
        client.register(timeout=1.0).result(timeout=10)
    server.resume()
    assert client.register().result(timeout=5).code == 200


def test_a_failure_of_one_client_leaves_the_others_alone(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    wrong = [pjsip.Credentials(user, "not the password")]
    good = registration(ep, kamailio, user)
    bad = registration(ep, kamailio, user, credentials=wrong)
    unreachable = ep.registration(
        f"sip:127.0.0.1:{free_port([('127.0.0.1', 'tcp')])};transport=tcp", "sip:x@example.com"
    )
    operations = [client.register() for client in (bad, unreachable, good)]
    assert isinstance(operations[0].exception(timeout=5), pjsip.AuthenticationError)
    assert isinstance(operations[1].exception(timeout=5), pjsip.TransportError)
    assert operations[2].result(timeout=5).code == 200


def test_an_account_registers_and_unregisters(
    ep: pjsip.Endpoint, kamailio: Kamailio, user: str
) -> None:
    udp = ep.listen("udp", host="127.0.0.1", port=0)
    account = ep.add_account(
        f"sip:{user}@example.com",
        registrar=kamailio.uri(),
        credentials=pjsip.Credentials(user, BULK_PASSWORD),
    )
    result = account.register().result(timeout=10)
    assert result.code == 200
    assert any(f":{udp.port}" in binding.uri for binding in result.bindings)
    account.unregister().result(timeout=5)
    assert contacts_at(kamailio, user) == []


@pytest.mark.parametrize(("protocol", "host"), TRANSPORTS)
def test_asyncio_registers_over(kamailio: Kamailio, user: str, protocol: str, host: str) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = registration(ep, kamailio, user, protocol=protocol, host=host)
            assert (await client.register()).code == 200
            assert (await client.unregister()).code == 200

    asyncio.run(asyncio.wait_for(main(), 10))


def test_asyncio_registers_many_at_once(kamailio: Kamailio) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            clients = [registration(ep, kamailio, f"bulk{2000 + n}") for n in range(100)]
            results = await asyncio.gather(*(client.register() for client in clients))
            assert {result.code for result in results} == {200}
            await asyncio.gather(*(client.unregister() for client in clients))

    asyncio.run(asyncio.wait_for(main(), 20))


def test_asyncio_raises_what_went_wrong(kamailio: Kamailio, user: str) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            wrong = [pjsip.Credentials(user, "not the password")]
            with pytest.raises(pjsip.AuthenticationError):
                await registration(ep, kamailio, user, credentials=wrong).register()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_asyncio_events_tell_of_refreshes(kamailio: Kamailio, user: str) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = registration(ep, kamailio, user, expires=1)
            client.register()
            seen = []
            async for event in client.events():
                if isinstance(event, pjsip.RegState):
                    seen.append((event.code, event.renewal))
                if len(seen) == 3:
                    break
            assert seen == [(200, False), (200, True), (200, True)]
            await client.unregister()

    asyncio.run(asyncio.wait_for(main(), 10))
