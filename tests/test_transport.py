# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening, connections and their states, over UDP, TCP and TLS, IPv4 and IPv6."""

from __future__ import annotations

import errno
import os
import queue
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"
HOSTS = ["127.0.0.1", "::1"]
PROTOCOLS = ["udp", "tcp", "tls"]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


NO_IPV6 = "needs ::1: sysctl net.ipv6.conf.lo.disable_ipv6=0"
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason=NO_IPV6)
BOTH_HOSTS = ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)]


def socket_for(protocol: str, host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    return socket.socket(family, kind)


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("udp", "tcp", "tls")) as server:
        yield server


class States:
    """Every TransportState of an endpoint, from before the first."""

    def __init__(self, ep: pjsip.Endpoint) -> None:
        self._new: queue.Queue[pjsip.TransportState] = queue.Queue()
        self.seen: list[pjsip.TransportState] = []
        ep.on(pjsip.TransportState, self._new.put)

    def until(
        self, state: str, *, of: int = 0, not_of: int = 0, timeout: float = 5
    ) -> pjsip.TransportState:
        """The first event with this state (of this connection, or of another than that)."""
        deadline = time.monotonic() + timeout
        at = 0
        while True:
            if at == len(self.seen):
                self.seen.append(self._new.get(timeout=max(0.01, deadline - time.monotonic())))
            event = self.seen[at]
            at += 1
            fits = of in (0, event.connection) and event.connection != (not_of or -1)
            if event.state == state and fits:
                return event


@pytest.fixture
def states(ep: pjsip.Endpoint) -> States:
    return States(ep)


# -- listening ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", BOTH_HOSTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_listening_takes_a_free_port_and_tells_it(
    ep: pjsip.Endpoint, states: States, protocol: str, host: str
) -> None:
    transport = ep.listen(protocol, host)
    assert (transport.protocol, transport.host) == (protocol, host)
    assert 1024 <= transport.port <= 65535
    bracketed = f"[{host}]" if ":" in host else host
    assert transport.address == f"{bracketed}:{transport.port}"
    assert (transport.is_ipv6, transport.is_wildcard, transport.closed) == (
        ":" in host,
        False,
        False,
    )
    assert transport in ep.transports
    event = states.until("listening")
    assert (event.protocol, event.local, event.connection) == (protocol, transport.address, 0)
    with socket_for(protocol, host) as s:
        with pytest.raises(OSError, match="in use") as caught:
            s.bind((host, transport.port))
        assert caught.value.errno == errno.EADDRINUSE
    transport.close()
    assert states.until("closed").local == transport.address
    assert transport.closed
    assert "closed" in repr(transport)
    assert transport not in ep.transports


@pytest.mark.parametrize("host", BOTH_HOSTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_closing_frees_the_port_at_once_and_twice_is_fine(
    ep: pjsip.Endpoint, protocol: str, host: str
) -> None:
    transport = ep.listen(protocol, host)
    port = transport.port
    for _ in range(10):
        transport.close()
        transport.close()
        transport = ep.listen(protocol, host, port)
        assert transport.port == port
    transport.close()
    with socket_for(protocol, host) as s:
        s.bind((host, port))
    assert ep.stats()["transports"] == 0


@pytest.mark.parametrize(
    ("host", "local"), [("0.0.0.0", "127.0.0.1"), pytest.param("::", "::1", marks=needs_ipv6)]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_addresses_and_the_one_in_the_contact(
    ep: pjsip.Endpoint, protocol: str, host: str, local: str
) -> None:
    with Registrar(protocols=(protocol,), host=local) as registrar:
        tls = pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None
        transport = ep.listen(protocol, host, tls=tls)
        assert transport.is_wildcard
        client = ep.registration(registrar.uri(), AOR, transport=transport)
        assert client.register().result(5).code == 200
        contact = registrar.requests[-1].contact
        assert contact is not None
        bracketed = f"[{local}]" if ":" in local else local
        assert contact.uri.startswith(f"sip:alice@{bracketed}:{transport.port}")


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_other_spellings_of_an_address(ep: pjsip.Endpoint, host: str) -> None:
    if "::" in host and not has_ipv6():
        pytest.skip(NO_IPV6)
    assert ep.listen("udp", host).host in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", BOTH_HOSTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_in_use_is_an_error_with_the_systems_words(
    ep: pjsip.Endpoint, protocol: str, host: str
) -> None:
    with socket_for(protocol, host) as s:
        s.bind((host, 0))
        if protocol != "udp":
            s.listen()
        port = s.getsockname()[1]
        with pytest.raises(pjsip.TransportError) as caught:
            ep.listen(protocol, host, port)
    error = caught.value
    assert error.errno == errno.EADDRINUSE
    assert error.strerror == os.strerror(errno.EADDRINUSE)
    assert os.strerror(errno.EADDRINUSE) in str(error)
    assert f"port {port}" in str(error)
    assert host in str(error)
    transport = ep.listen(protocol, host)
    assert transport.port != port
    with pytest.raises(pjsip.TransportError) as caught:
        ep.listen(protocol, host, transport.port)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["203.0.113.77", pytest.param("2001:db8::77", marks=needs_ipv6)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_foreign_address_is_an_error(ep: pjsip.Endpoint, protocol: str, host: str) -> None:
    with pytest.raises(pjsip.TransportError) as caught:
        ep.listen(protocol, host)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root: a low port is refused")
def test_a_low_port_is_refused(ep: pjsip.Endpoint) -> None:
    with pytest.raises(pjsip.TransportError) as caught:
        ep.listen("udp", "127.0.0.1", 1)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("protocol", "host", "options", "why"),
    [
        ("sctp", "127.0.0.1", {}, "udp.*tcp.*tls"),
        ("UDP", "127.0.0.1", {}, "udp.*tcp.*tls"),
        (None, "127.0.0.1", {}, "protocol"),
        ("udp", "example.com", {}, "address of this machine"),
        ("udp", "", {}, "host"),
        ("udp", None, {}, "host"),
        ("udp", "127.0.0.1:5060", {}, "address"),
        ("udp", "fe80::1%lo", {}, "host|address"),
        ("udp", "127.0.0.1", {"tls": pjsip.TlsConfig(insecure=True)}, "goes with protocol 'tls'"),
        ("tls", "127.0.0.1", {"tls": {"ca_file": "x"}}, "TlsConfig"),
    ],
)
def test_wrong_arguments(
    ep: pjsip.Endpoint, protocol: str, host: str, options: dict[str, object], why: str
) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.TransportError), match=why):
        ep.listen(protocol, host, **options)  # type: ignore[arg-type]
    assert ep.transports == ()


def test_many_transports_at_once(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    transports = [ep.listen("udp", "127.0.0.1") for _ in range(50)]
    assert len({t.port for t in transports}) == 50
    for transport in transports[::10]:
        client = ep.registration(registrar.uri(), AOR, transport=transport)
        client.register().result(5)
        assert registrar.requests[-1].source == ("127.0.0.1", transport.port)


# -- which transport ------------------------------------------------------------------------------


def protocols(ep: pjsip.Endpoint) -> list[str]:
    return [transport.protocol for transport in ep.transports]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_first_use_opens_what_the_uri_asks_for(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str
) -> None:
    tls = pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None
    assert not ep.transports
    for _ in range(2):
        client = ep.registration(registrar.uri(protocol), AOR, tls=tls)
        client.register().result(5)
        assert registrar.requests[-1].protocol == protocol
    assert protocols(ep) == [protocol]


def test_a_transport_of_another_kind_is_refused(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    udp = ep.listen("udp", "127.0.0.1")
    with pytest.raises(pjsip.ConfigError, match="asks for tcp"):
        ep.registration(registrar.uri("tcp"), AOR, transport=udp)
    with pytest.raises(pjsip.ConfigError, match="tls= but"):
        ep.registration(registrar.uri("tcp"), AOR, tls=pjsip.TlsConfig(insecure=True))


def test_a_closed_transport_fails_its_registrations(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    transport = ep.listen("udp", "127.0.0.1")
    client = ep.registration(registrar.uri(), AOR, transport=transport)
    client.register().result(5)
    registrar.drop_next(times=None)
    pending = client.register()
    registrar.wait_for(2)
    transport.close()
    with pytest.raises(pjsip.TransportError):
        pending.result(3)
    with pytest.raises(pjsip.TransportError):
        client.register().result(5)
    with pytest.raises((pjsip.ClosedError, pjsip.TransportError)):
        ep.registration(registrar.uri(), AOR, transport=transport).register().result(5)
    registrar.clear_script()
    assert ep.registration(registrar.uri(), AOR).register().result(5).code == 200


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_closing_a_listener_with_registrations_on_it(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str
) -> None:
    tls = pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None
    transport = ep.listen(protocol, "127.0.0.1", tls=tls)
    clients = [ep.registration(registrar.uri(protocol), AOR, transport=transport) for _ in range(3)]
    for client in clients:
        client.register().result(5)
    registrar.drop_next(times=None)
    pending = [client.register() for client in clients]
    registrar.wait_for(6)
    transport.close()
    for operation in pending:
        with pytest.raises(pjsip.TransportError):
            operation.result(5)
    registrar.clear_script()
    again = ep.registration(registrar.uri(protocol), AOR, tls=tls)
    assert again.register().result(5).code == 200
    assert ep.stats()["assertions"] == 0


# -- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", BOTH_HOSTS)
@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_connection_is_told_from_beginning_to_end(
    ep: pjsip.Endpoint, states: States, protocol: str, host: str
) -> None:
    with Registrar(protocols=(protocol,), host=host) as registrar:
        tls = pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None
        client = ep.registration(registrar.uri(), AOR, tls=tls)
        events: list[pjsip.RegState] = []
        client.on_reg_state(events.append)
        client.register().result(5)
        event = states.until("connected")
        assert event.protocol == protocol
        assert event.connection == events[0].connection > 0
        bracketed = f"[{host}]" if ":" in host else host
        assert event.remote == f"{bracketed}:{registrar.port()}"
        assert event.local == events[0].local_address
        assert event.error is None
        if protocol == "tls":
            assert event.tls is not None
            assert event.tls.peer is not None
            assert event.tls.protocol in ("TLSv1.2", "TLSv1.3")
            assert event.tls.cipher
            assert host in event.tls.peer.san
            assert "trustme" in event.tls.peer.subject + event.tls.peer.issuer
            assert event.tls.peer.not_before < time.time() < event.tls.peer.not_after
        else:
            assert event.tls is None
        registrar.drop_connections(reset=True)
        event = states.until("disconnected")
        assert isinstance(event.error, pjsip.TransportError)
        assert event.error.errno == errno.ECONNRESET
        assert event.reason == os.strerror(errno.ECONNRESET)
        assert states.until("destroyed", of=event.connection)
        assert client.register().result(5).code == 200  # over a new one
        assert states.until("connected", not_of=event.connection)


def test_registrations_share_a_connection(
    ep: pjsip.Endpoint, registrar: Registrar, states: States
) -> None:
    clients = [ep.registration(registrar.uri("tcp"), f"sip:u{i}@example.com") for i in range(20)]
    for operation in [client.register() for client in clients]:
        operation.result(5)
    assert registrar.stats().connections == 1
    assert len({r.source for r in registrar.requests}) == 1
    connected = states.until("connected")
    with pytest.raises(queue.Empty):
        states.until("connected", not_of=connected.connection, timeout=0.05)


def test_a_refused_connection(ep: pjsip.Endpoint, states: States) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, and nobody listens
        uri = f"sip:127.0.0.1:{s.getsockname()[1]};transport=tcp"
        with pytest.raises(pjsip.TransportError) as caught:
            ep.registration(uri, AOR).register().result(5)
    assert caught.value.errno == errno.ECONNREFUSED
    assert "refused" in str(caught.value)
    assert caught.value.local
    event = states.until("disconnected")
    assert isinstance(event.error, pjsip.TransportError)
    assert event.error.errno == errno.ECONNREFUSED


def test_a_connection_reset_under_a_request(
    ep: pjsip.Endpoint, registrar: Registrar, states: States
) -> None:
    registrar.drop_next()
    operation = ep.registration(registrar.uri("tcp"), AOR).register()
    registrar.wait_for(1)
    registrar.drop_connections(reset=True)
    began = time.monotonic()
    with pytest.raises(pjsip.TransportError):
        operation.result(5)
    assert time.monotonic() - began < 1
    states.until("disconnected")


# -- TLS ------------------------------------------------------------------------------------------


def tls_register(
    ep: pjsip.Endpoint, registrar: Registrar, config: pjsip.TlsConfig, uri: str = ""
) -> pjsip.RegistrationResult:
    return ep.registration(uri or registrar.uri("tls"), AOR, tls=config).register().result(5)


def test_a_certificate_of_an_unknown_authority_is_refused(
    ep: pjsip.Endpoint, registrar: Registrar, states: States
) -> None:
    with Registrar(protocols=("tls",)) as other, pytest.raises(pjsip.TlsError) as caught:
        tls_register(ep, registrar, pjsip.TlsConfig(ca_file=other.ca_file))
    error = caught.value
    assert error.verify_status
    assert error.reasons == ("unknown-ca",)
    assert "certificate" in str(error)
    assert "cancel" not in str(error).lower()
    assert "ca_file" in error.hint
    assert registrar.stats().requests == 0
    event = states.until("disconnected")
    assert isinstance(event.error, pjsip.TlsError)


def test_a_certificate_for_another_name_is_refused(ep: pjsip.Endpoint) -> None:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("sip.example.org").configure_cert(context)
    with (
        authority.cert_pem.tempfile() as ca_file,
        Registrar(protocols=("tls",), tls=context) as reg,
    ):
        with pytest.raises(pjsip.TlsError) as caught:
            tls_register(ep, reg, pjsip.TlsConfig(ca_file=ca_file))
        assert caught.value.reasons == ("name",)
        assert reg.stats().requests == 0
        assert tls_register(ep, reg, pjsip.TlsConfig(insecure=True)).code == 200


def test_insecure_takes_anything_and_warns(
    ep: pjsip.Endpoint, registrar: Registrar, caplog: pytest.LogCaptureFixture
) -> None:
    assert tls_register(ep, registrar, pjsip.TlsConfig(insecure=True)).code == 200
    assert "TLS without verification" in caplog.text


def test_versions_without_one_in_common(ep: pjsip.Endpoint) -> None:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        authority.cert_pem.tempfile() as ca_file,
        Registrar(protocols=("tls",), tls=context) as reg,
    ):
        with pytest.raises(pjsip.TlsError) as caught:
            tls_register(ep, reg, pjsip.TlsConfig(ca_file=ca_file, versions=("TLSv1.2",)))
        assert caught.value.verify_status == 0
        assert "versions" in caught.value.hint
        assert tls_register(ep, reg, pjsip.TlsConfig(ca_file=ca_file)).code == 200


def test_a_server_that_asks_for_a_certificate(ep: pjsip.Endpoint) -> None:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue_cert("alice@example.com")
    with (
        authority.cert_pem.tempfile() as ca_file,
        own.private_key_and_cert_chain_pem.tempfile() as pem,
        Registrar(protocols=("tls",), tls=context) as registrar,
    ):
        with pytest.raises(pjsip.TransportError):
            tls_register(ep, registrar, pjsip.TlsConfig(ca_file=ca_file))
        config = pjsip.TlsConfig(ca_file=ca_file, cert_file=pem, key_file=pem)
        assert tls_register(ep, registrar, config).code == 200


def test_tls_to_a_port_that_does_not_speak_it(ep: pjsip.Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"sip:127.0.0.1:{server.getsockname()[1]};transport=tls"
        config = pjsip.TlsConfig(insecure=True, timeout=0.3)
        operation = ep.registration(uri, AOR, tls=config).register()
        began = time.monotonic()
        with pytest.raises(pjsip.TlsError, match="timed out"):
            operation.result(5)
        assert time.monotonic() - began < 2
        server.settimeout(5)
        connection, _ = server.accept()
        connection.close()
        operation = ep.registration(uri, AOR, tls=config).register()
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"SIP/2.0 400 This is not TLS\r\n\r\n")
            with pytest.raises(pjsip.TlsError):
                operation.result(5)


def test_sips_goes_over_tls_with_a_sips_contact(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    config = pjsip.TlsConfig(ca_file=registrar.ca_file)
    uri = f"sips:127.0.0.1:{registrar.port('tls')}"
    client = ep.registration(uri, "sips:alice@example.com", tls=config)
    assert client.register().result(5).code == 200
    assert registrar.requests[-1].protocol == "tls"
    contact = registrar.requests[-1].contact
    assert contact is not None
    assert contact.uri.startswith("sips:alice@")


def test_connections_with_other_settings_are_not_shared(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    """What was accepted without verification must not serve who asks for it."""
    assert tls_register(ep, registrar, pjsip.TlsConfig(insecure=True)).code == 200
    with Registrar(protocols=("tls",)) as other, pytest.raises(pjsip.TlsError):
        tls_register(ep, registrar, pjsip.TlsConfig(ca_file=other.ca_file))


# -- requests that come in ------------------------------------------------------------------------


def ask(transport: pjsip.Transport, method: str, tag: str = "") -> bytes:
    """Sends a request to the transport over UDP; the answer, or nothing within 0.3 s."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(2.0 if method != "ACK" else 0.3)
        port = s.getsockname()[1]
        lines = [
            f"{method} sip:alice@127.0.0.1:{transport.port} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{method};rport",
            "Max-Forwards: 70",
            "From: <sip:tester@example.com>;tag=1",
            f"To: <sip:alice@example.com>{tag}",
            f"Call-ID: {method}{tag}@127.0.0.1",
            f"CSeq: 1 {method}",
            "Contact: <sip:tester@127.0.0.1>",
            "Content-Length: 0",
        ]
        s.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), ("127.0.0.1", transport.port))
        try:
            return s.recv(65535)
        except TimeoutError:
            return b""


@pytest.mark.parametrize(
    ("method", "tag", "code"),
    [
        ("OPTIONS", "", 200),
        ("INVITE", "", 405),
        ("MESSAGE", "", 405),
        ("REGISTER", "", 405),
        ("NOSUCH", "", 405),
        ("BYE", ";tag=2", 481),
        ("CANCEL", "", 481),
        ("ACK", "", 0),
    ],
)
def test_a_request_that_nobody_took_is_answered(
    ep: pjsip.Endpoint, method: str, tag: str, code: int
) -> None:
    transport = ep.listen("udp", "127.0.0.1")
    answer = ask(transport, method, tag).decode()
    assert (int(answer.split()[1]) if answer else 0) == code, answer
    if code in (200, 405):
        assert "\r\nAllow: OPTIONS" in answer
    assert "pjsip-py" not in answer or "Server" in answer


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_noise_is_survived(ep: pjsip.Endpoint, registrar: Registrar, protocol: str) -> None:
    transport = ep.listen(protocol, "127.0.0.1")
    noise = [
        b"\0", b"\r\n\r\n", b"x" * 65000, os.urandom(2000), b"SIP/2.0 200 OK\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\n\r\n", b"SIP/2.0 999999999999 X\r\nVia: \r\n\r\n",
        b"REGISTER sip:[::: SIP/2.0\r\nVia: SIP/2.0/UDP " + b"a" * 3000 + b"\r\n\r\n",
        b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 99999999999999\r\n\r\n",
        b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: -1\r\n\r\n",
    ]  # fmt: skip
    for data in noise:
        with socket_for(protocol, "127.0.0.1") as s:
            s.settimeout(2)
            s.connect(("127.0.0.1", transport.port))
            s.sendall(data)
    client = ep.registration(registrar.uri(protocol), AOR, transport=transport)
    assert client.register().result(5).code == 200
    assert ep.stats()["assertions"] == 0


def test_an_answer_from_another_address_is_no_answer_of_ours(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    """A response that belongs to no transaction changes nothing."""
    registrar.script(
        Answer(raw=b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\n\r\n")
    )
    with pytest.raises(pjsip.RegistrationTimeout):
        ep.registration(registrar.uri(), AOR).register(timeout=0.3).result(5)
