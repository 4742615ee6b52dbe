# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP, TCP and TLS, IPv6, where answers go, restarts, and bytes that nobody should send."""

from __future__ import annotations

import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pjsip_py.testing import Answer, Registrar, RegistrarError

PASSWORD = "Al-Chwarizmi-820"  # what conftest.py's client proves by itself

AOR = "sip:alice@example.com"


# -- where it listens ----------------------------------------------------------------------------


def test_udp_and_tcp_share_a_port() -> None:
    with Registrar(protocols=("udp", "tcp", "tls")) as registrar:
        udp, tcp, tls = map(registrar.port, registrar.protocols)
        assert udp == tcp != tls
        assert registrar.uri() == f"sip:127.0.0.1:{udp}"
        assert registrar.uri("tcp") == f"sip:127.0.0.1:{tcp};transport=tcp"
        assert registrar.uri("tls") == f"sip:127.0.0.1:{tls};transport=tls"
        assert registrar.address("tls") == ("127.0.0.1", tls)


def test_a_port_in_use_is_an_os_error(registrar: Registrar) -> None:
    other = Registrar(ports={"udp": registrar.port()})
    with pytest.raises(OSError, match=rf"cannot listen on udp 127.0.0.1 port {registrar.port()}"):
        other.start()
    assert not other.running
    other.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        {"protocols": ()},
        {"protocols": ("sctp",)},
        {"protocols": ("udp", "udp")},
        {"ports": {"tcp": 5060}},
        {"ports": {"udp": 65536}},
        {"min_expires": 60, "max_expires": 30},
        {"default_expires": 0},
        {"tls": ("cert", "key")},
    ],
    ids=str,
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Registrar(**arguments)


@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_ipv6(connect: Any, ipv6: str, protocol: str) -> None:
    with Registrar(protocols=(protocol,), host=ipv6) as registrar:
        assert registrar.uri().startswith(f"sip:[::1]:{registrar.port()}")
        client = connect(registrar)
        reply = client.register()
        assert reply.code == 200
        assert reply["Via"].endswith(";received=::1")
        assert registrar.requests[0].source == ("::1", client.port)


# -- where answers go: RFC 3261 §18.2.2, RFC 3581 ------------------------------------------------


def test_rport_is_filled_in(client: Any) -> None:
    reply = client.ask(client.build(via="SIP/2.0/UDP 10.1.2.3:9;rport;branch=z9hG4bKx"))
    assert reply["Via"] == (
        f"SIP/2.0/UDP 10.1.2.3:9;rport={client.port};branch=z9hG4bKx;received=127.0.0.1"
    )


def test_without_rport_the_answer_goes_to_sent_by(registrar: Registrar, client: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(5)
        port = other.getsockname()[1]
        # The host of sent-by is not used: no request makes the registrar send elsewhere.
        via = f"SIP/2.0/UDP client.example.com:{port};branch=z9hG4bKy"
        client.send(client.build(via=via))
        answer = other.recv(65535).decode()
    assert f"Via: {via};received=127.0.0.1\r\n" in answer
    assert client.silent()


def test_sent_by_that_is_the_source_gets_no_received(client: Any) -> None:
    via = f"SIP/2.0/UDP 127.0.0.1:{client.port};branch=z9hG4bKz"
    assert client.ask(client.build(via=via))["Via"] == via


def test_all_vias_come_back_in_order(client: Any) -> None:
    first = f"SIP/2.0/UDP 127.0.0.1:{client.port};branch=z9hG4bKa"
    more = "SIP/2.0/TCP p1.example.com;branch=1, SIP/2.0/UDP p2.example.com;branch=2"
    reply = client.ask(client.build(via=f"{first}, {more}", headers=["v: SIP/2.0/TLS p3;branch=3"]))
    assert ", ".join(reply.all("Via")) == f"{first}, {more}, SIP/2.0/TLS p3;branch=3"


def test_old_client_without_magic_branch(registrar: Registrar, client: Any) -> None:
    via = f"SIP/2.0/UDP 127.0.0.1:{client.port};branch=1"
    data = client.build([client.contact], via=via)
    assert client.ask(data).raw == client.ask(data).raw
    assert client.ask(client.build([client.contact], via=via)).code == 200
    assert [r.retransmissions for r in registrar.requests] == [1, 0]


# -- methods -------------------------------------------------------------------------------------


def test_options(client: Any) -> None:
    reply = client.ask(client.build(method="OPTIONS"))
    assert (reply.code, reply["Allow"], reply["Supported"]) == (200, "REGISTER, OPTIONS", "path")


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "register", "FOO"])
def test_other_methods(client: Any, method: str) -> None:
    reply = client.ask(client.build(method=method))
    assert (reply.code, reply["Allow"]) == (405, "REGISTER, OPTIONS")


def test_cancel_and_ack(registrar: Registrar, client: Any) -> None:
    assert client.ask(client.build(method="CANCEL")).code == 481
    client.send(client.build(method="ACK"))
    registrar.wait_for(lambda request: request.method == "ACK")
    assert client.silent()


# -- bytes that nobody should send ---------------------------------------------------------------


def spoil(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old.encode(), new.encode(), 1)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (spoil(" SIP/2.0\r\n", " SIP/3.0\r\n"), 505),
        (spoil("REGISTER sip:", "REGISTER http:"), 416),
        (spoil("REGISTER sip:", "REGISTER  sip:"), 400),
        (spoil("REGISTER sip:127", "REGISTER sip:x y@127"), 400),
        (spoil("1 REGISTER", "1 INVITE"), 400),
        (spoil("1 REGISTER", "REGISTER"), 400),
        (spoil("1 REGISTER", "9" * 30 + " REGISTER"), 400),
        (spoil("1 REGISTER", "9" * 5000 + " REGISTER"), 400),
        (spoil("Content-Length: 0", "Content-Length: 10"), 400),
        (spoil("Content-Length: 0", "Content-Length: -1"), 400),
        (spoil("Content-Length: 0", "Content-Length: " + "9" * 5000), 400),
        (spoil("Max-Forwards: 70", "no colon here"), 400),
        (spoil("Max-Forwards: 70", "To: <sip:second@example.com>"), 400),
        (spoil("Max-Forwards: 70", "Call-ID: second"), 400),
        (spoil("From: <sip:alice@example.com>", "From: <sip:alice@example.com"), 400),
        (spoil("To: <sip:alice@example.com>", "To: <tel:+1555>"), 404),
        (spoil("To: <sip:alice@example.com>", "To: <sip:a@b;self=1>"), 400),
        (spoil(";rport;", ';rport;x="'), 400),
        (lambda data: data[:-2], 400),
        (lambda data: data.replace(b"Max-Forwards: 70", b"X: \xff\xfe"), 400),
        (lambda data: data.replace(b"Max-Forwards: 70", b"a:\r\n" * 5000 + b"a: 1"), 400),
    ],
)
def test_malformed_request_is_refused(
    registrar: Registrar, client: Any, change: Callable[[bytes], bytes], code: int
) -> None:
    good = client.build()
    bad = change(good)
    assert bad != good
    reply = client.ask(bad)
    assert reply.code == code
    assert reply["Warning"]
    assert registrar.requests == []
    assert registrar.stats().malformed == 1
    assert client.register().code == 200


@pytest.mark.parametrize("name", ["Via", "From", "To", "Call-ID", "CSeq"])
def test_request_that_cannot_be_answered_is_ignored(
    registrar: Registrar, client: Any, name: str
) -> None:
    lines = client.build().split(b"\r\n")
    kept = [line for line in lines if not line.startswith(name.encode() + b":")]
    assert len(kept) == len(lines) - 1
    client.send(b"\r\n".join(kept))
    assert client.silent()
    assert registrar.stats().malformed == 1
    assert client.register().code == 200


@pytest.mark.parametrize(
    "change",
    [
        spoil("Call-ID:", "i:"),
        spoil("To: ", "t : "),
        spoil("Max-Forwards: 70", "Subject: one\r\n two\r\n\tthree"),
        spoil("<sip:alice@example.com>;tag", '"A, \\"x\\"" <sip:alice@example.com> ; tag'),
        spoil("To: <sip:alice@example.com>", "To: sip:alice@example.com"),
        spoil("Max-Forwards: 70\r\n", ""),
        spoil("Content-Length: 0\r\n", ""),
        spoil("REGISTER sip:127", "REGISTER sip:example.com;x=1?y=2 SIP/2.0\r\nX: 127"),
    ],
)
def test_unusual_but_legal_requests_are_served(
    registrar: Registrar, client: Any, change: Callable[[bytes], bytes]
) -> None:
    good = client.build([client.contact])
    if b"X: 127" in change(good):
        good = good.replace(b" SIP/2.0\r\n", b"\r\n", 1)
    assert client.ask(change(good)).code == 200
    assert registrar.requests[0].aor == AOR


def test_body_beyond_content_length_is_cut(registrar: Registrar, client: Any) -> None:
    assert client.ask(client.build(body="hello") + b"more").code == 200
    assert registrar.requests[0].message.body == b"hello"


def test_noise_keepalives_and_responses_are_not_answered(registrar: Registrar, client: Any) -> None:
    reply = client.register()
    for data in (b"\r\n\r\n", b"\r\n", b"\0\0\0\0", b"", reply.raw, b"noise", b"\xff" * 1400):
        client.send(data)
    assert client.silent()
    stats = registrar.stats()
    assert (stats.keepalives, stats.ignored, stats.malformed) == (4, 1, 2)
    assert client.register().code == 200


def test_slow_patterns_are_quick(client: Any) -> None:
    """Long runs of one character must not make a regular expression backtrack for ever."""
    size = 30_000
    began = time.monotonic()
    for filler in (" ", '"', "<", ",", ";", "\\", "a", "=", "%", '\\"', ";a", "a "):
        run = filler * (size // len(filler))
        for name in ("Contact", "Authorization", "Path", "Via", "Content-Length", "Require"):
            value = "Digest " + run if name == "Authorization" else "x" + run + "x"
            client.send(client.build([], [f"{name}: {value}"]))
            client.receive()
    assert time.monotonic() - began < 20


def test_random_damage_never_stops_it(registrar: Registrar, client: Any) -> None:
    random_ = random.Random(5)
    for _ in range(1500):
        data = bytearray(client.build([client.contact], ["Authorization: Digest a=b", "Path: <x>"]))
        for _ in range(random_.randint(1, 6)):
            at = random_.randrange(len(data))
            what = random_.randrange(3)
            if what == 0:
                data[at] = random_.randrange(256)
            elif what == 1:
                del data[at : at + random_.randint(1, 30)]
            else:
                data[at:at] = random_.choice([b"\r\n", b"\0", b'"', b"<", b";", b"\xc3\x28", b","])
        client.send(bytes(data))
    fresh = client.build([client.contact], cseq=1_000_000)
    client.send(fresh)
    registrar.wait_for(lambda request: request.cseq == 1_000_000 and request.answered is not None)
    registrar.check()


# -- streams -------------------------------------------------------------------------------------


@pytest.fixture
def tcp() -> Any:
    with Registrar(protocols=("tcp",)) as registrar:
        yield registrar


def test_message_in_single_bytes(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in client.build([client.contact], body="hello"):
        client.send(bytes([byte]))
    assert client.receive().code == 200
    assert tcp.requests[0].message.body == b"hello"


def test_many_messages_in_one_segment(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    client.send(b"\r\n" + b"".join(client.build(body="x" * n) for n in range(10)))
    assert [client.receive()["CSeq"] for _ in range(10)] == [f"{n} REGISTER" for n in range(1, 11)]
    assert [len(r.message.body) for r in tcp.requests] == list(range(10))


def test_cut_in_the_middle_of_the_second_message(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    both = client.build() + client.build(body="hello")
    for at in range(1, len(both), 61):
        client.send(both[:at])
        client.send(both[at:])
        assert [client.receive().code, client.receive().code] == [200, 200]


def test_ping_gets_a_pong(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    client.send(b"\r\n\r\n")
    assert client.sock.recv(100) == b"\r\n"
    client.send(b"\r\n")  # a single one is skipped
    assert client.register().code == 200
    client.send(b"\r\n\r")
    client.send(b"\n")
    assert client.sock.recv(100) == b"\r\n"
    assert tcp.stats().keepalives == 2


def test_pings_can_be_left_unanswered(tcp: Registrar, connect: Any) -> None:
    tcp.answer_pings = False
    client = connect(tcp)
    client.send(b"\r\n\r\n")
    tcp.wait_for_keepalives(1)
    assert client.silent()
    tcp.answer_pings = True
    client.send(b"\r\n\r\n")
    assert client.sock.recv(10) == b"\r\n"
    with pytest.raises(TimeoutError, match=r"no 3 keep-alives within 0.05 s; received 2"):
        tcp.wait_for_keepalives(3, timeout=0.05)


def test_the_address_that_it_tells_may_be_a_lie(registrar: Registrar, client: Any) -> None:
    registrar.seen_as = ("203.0.113.7", 4242)
    assert ";rport=4242;" in client.register()["Via"]
    assert client.register()["Via"].endswith(";received=203.0.113.7")
    registrar.seen_as = lambda source: (source[0], source[1] + 1)
    assert f";rport={client.port + 1};" in client.register()["Via"]
    registrar.seen_as = None
    assert f";rport={client.port};" in client.register()["Via"]
    assert registrar.requests[0].source == ("127.0.0.1", client.port)


@pytest.mark.parametrize(
    "data",
    [
        b"REGISTER sip:x SIP/2.0\r\nTo: a\r\n\r\n",  # no Content-Length
        b"REGISTER sip:x SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\n",
        b"REGISTER sip:x SIP/2.0\r\nl: many\r\n\r\n",
        b"REGISTER sip:x SIP/2.0\r\nl: " + b"9" * 5000 + b"\r\n\r\n",
        b"REGISTER sip:x SIP/2.0\r\nl: " + b" " * 30000 + b"x\r\n\r\n",
        b"x" * 70000,
    ],
    ids=range(6),
)
def test_stream_that_lost_its_framing_is_closed(tcp: Registrar, connect: Any, data: bytes) -> None:
    client = connect(tcp)
    client.send(data)
    with pytest.raises((ConnectionError, BrokenPipeError)):
        client.receive()
    assert tcp.stats().malformed == 1
    assert connect(tcp).register().code == 200


def test_malformed_message_does_not_close_a_stream(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    assert client.ask(client.build().replace(b"1 REGISTER", b"1 NOTIFY")).code == 400
    assert client.register().code == 200


def test_answer_after_the_client_left(tcp: Registrar, connect: Any) -> None:
    client = connect(tcp)
    tcp.delay_next(0.1)
    client.send(client.build([client.contact]))
    tcp.wait_for(1)
    client.close()
    tcp.wait_for(lambda request: request.answered == 200)
    assert connect(tcp).register().code == 200


@pytest.mark.parametrize("reset", [False, True])
def test_dropped_connections(tcp: Registrar, connect: Any, reset: bool) -> None:
    clients = [connect(tcp) for _ in range(3)]
    assert all(client.register().code == 200 for client in clients)
    assert tcp.stats().connections == 3
    assert tcp.drop_connections(reset=reset) == 3
    for client in clients:
        if reset:
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
        else:
            assert client.sock.recv(1) == b""
    assert connect(tcp).register().code == 200
    assert len(tcp.bindings(AOR)) == 4


# -- TLS -----------------------------------------------------------------------------------------


def test_tls_with_made_certificates(connect: Any) -> None:
    with Registrar(protocols=("tls",), users={"alice": PASSWORD}) as registrar:
        client = connect(registrar)
        reply = client.register()
        assert reply.code == 401
        header = client.authorization(reply.challenge())
        assert client.register(headers=[header]).code == 200
        assert registrar.requests[0].protocol == "tls"
        assert registrar.ca_file.read_bytes() == registrar.ca_pem
        context = ssl.create_default_context(cadata=registrar.ca_pem.decode())
        for name in ("localhost", "example.com"):  # its certificate is for the realm, too
            with (
                socket.create_connection(registrar.address(), 5) as sock,
                context.wrap_socket(sock, server_hostname=name) as tls,
            ):
                assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_tls_with_given_certificates(connect: Any, tmp_path: Any) -> None:
    with Registrar(protocols=("tls",)) as donor:
        pass
    context = donor._ssl_context
    assert context is not None
    with Registrar(protocols=("tls",), tls=context) as registrar:
        with pytest.raises(RegistrarError, match="given its certificate"):
            _ = registrar.ca_file
        trusting = ssl.create_default_context(cafile=donor.ca_file)
        with (
            socket.create_connection(registrar.address(), 5) as sock,
            trusting.wrap_socket(sock, server_hostname="127.0.0.1"),
        ):
            pass
    with pytest.raises(FileNotFoundError):
        Registrar(protocols=("tls",), tls=(tmp_path / "none.pem", tmp_path / "none.key"))


def test_tls_from_files(connect: Any, tmp_path: Any) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(key)
    with Registrar(protocols=("tls",), tls=(chain, key)) as registrar:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        with (
            socket.create_connection(registrar.address(), 5) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1"),
        ):
            pass


def test_missing_trustme_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(RuntimeError, match="pip install trustme"):
        Registrar(protocols=("tls",))


def test_client_that_trusts_nobody_does_not_hurt(connect: Any) -> None:
    with Registrar(protocols=("tls",)) as registrar:
        with (
            socket.create_connection(registrar.address(), 5) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")
        with socket.create_connection(registrar.address(), 5) as sock:
            sock.sendall(b"REGISTER sip:x SIP/2.0\r\n\r\n")  # not TLS at all
            assert b"SIP/2.0" not in sock.recv(100)
        assert connect(registrar).register().code == 200


# -- start, stop, start again --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_restart_on_the_same_port(connect: Any, protocol: str) -> None:
    with Registrar(protocols=(protocol,)) as registrar:
        port = registrar.port()
        assert connect(registrar).register().code == 200
        for keep in (True, False):
            registrar.stop()
            assert not registrar.running
            registrar.start(keep_bindings=keep)
            assert registrar.port() == port
            assert len(registrar.bindings(AOR)) == int(keep)
        assert connect(registrar).register().code == 200


def test_restart_forgets_transactions(registrar: Registrar, client: Any) -> None:
    data = client.build([client.contact])
    first = client.ask(data)
    registrar.stop()
    registrar.start(keep_bindings=False)
    assert client.ask(data).raw != first.raw
    assert [request.answered for request in registrar.requests] == [200, 200]


def test_restart_forgets_nonces(connect: Any) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        client = connect(registrar)
        challenge = client.register().challenge()
        registrar.stop()
        registrar.start()
        reply = client.register(headers=[client.authorization(challenge)])
        assert (reply.code, reply.challenge()["stale"]) == (401, "true")


def test_stop_closes_the_ports(connect: Any) -> None:
    registrar = Registrar(protocols=("udp", "tcp")).start()
    client = connect(registrar, "tcp")
    client.register()
    registrar.stop()
    assert client.sock.recv(1) == b""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(registrar.address())


def test_stop_twice_and_start_twice() -> None:
    registrar = Registrar()
    with pytest.raises(RegistrarError, match="before its first start"):
        registrar.port()
    with registrar, pytest.raises(RegistrarError, match="runs already"):
        registrar.start()
    registrar.stop()
    assert registrar.drop_connections() == 0
    assert repr(registrar) == f"<Registrar 127.0.0.1 udp {registrar.port()}: stopped>"


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_stop_does_not_wait_for_a_client(connect: Any, protocol: str) -> None:
    registrar = Registrar(protocols=(protocol,)).start()
    connect(registrar).register()  # never reads again, not even a TLS close_notify
    with (
        socket.create_connection(registrar.address(), 5),  # never speaks
        socket.create_connection(registrar.address(), 5) as half,
    ):
        half.sendall(b"\x16\x03\x01")  # stops in the middle of a handshake, or of a message
        began = time.monotonic()
        registrar.stop()
        assert time.monotonic() - began < 2


def test_stop_has_a_deadline(connect: Any) -> None:
    leave = threading.Event()
    began = threading.Event()

    def hang(request: object) -> bytes:
        began.set()
        leave.wait(10)
        return b""

    registrar = Registrar().start()
    client = connect(registrar)
    registrar.script(Answer(raw=hang))
    client.send(client.build())
    assert began.wait(5)
    with pytest.raises(RegistrarError, match=r"did not end within 0.1 s"):
        registrar.stop(timeout=0.1)
    leave.set()


def test_pending_answers_die_with_the_registrar(registrar: Registrar, client: Any) -> None:
    registrar.delay_next(0.2)
    client.send(client.build())
    registrar.wait_for(1)
    registrar.stop()
    assert client.silent()


def test_no_thread_and_no_descriptor_is_left() -> None:
    def descriptors() -> int:
        sockets = [socket.socket() for _ in range(2)]
        number = max(sock.fileno() for sock in sockets)
        for sock in sockets:
            sock.close()
        return number

    with Registrar(protocols=("udp", "tcp", "tls")):
        pass
    before = descriptors(), threading.active_count()
    registrar = Registrar(protocols=("udp", "tcp", "tls"))
    for _ in range(30):
        with registrar:
            pass
    assert (descriptors(), threading.active_count()) == before


def test_a_thousand_clients_at_once(connect: Any) -> None:
    with Registrar(protocols=("udp",)) as registrar:
        client = connect(registrar)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for n in range(1000):
            user = f"user{n}"
            data = client.build([f"<sip:{user}@127.0.0.1>"], user=user, cseq=1)
            client.send(data.replace(client.call_id.encode() + b"\r\n", b"%d\r\n" % n))
            if n % 50 == 49:  # no more in flight than a socket buffer holds
                assert {client.receive().code for _ in range(50)} == {200}
        assert len(registrar.aors) == 1000
