# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers send: answered as RFC 3261 says or dropped, never processed, at a bounded cost.

The sockets here are the strangers'.  PJSIP_PY_STRAYS=20000 makes the floods longer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.certs import Certificates

import pjsip_py as pjsip
from pjsip_py.testing import Answer, ReceivedRequest, Registrar, VirtualClock

pytestmark = pytest.mark.timeout(60)

AOR = "sip:alice@example.com"
STRAYS = int(os.environ.get("PJSIP_PY_STRAYS", "2000"))
GROWTH = 256  # bytes that an answer may be longer than its request
INCOMING = 256  # connections that others may have with us
PROTOCOLS = ["udp", "tcp", "tls"]


def message(
    start: str,
    *headers: str,
    via: str = "127.0.0.1:9;rport;branch=z9hG4bKstray",
    to: str = "<sip:alice@example.com>",
    protocol: str = "udp",
    body: str = "",
) -> bytes:
    """A request, or a response to a REGISTER, with all that RFC 3261, 8.1.1 wants."""
    word = start.split()[0]
    lines = [
        start if start.endswith("SIP/2.0") or word == "SIP/2.0" else f"{start} SIP/2.0",
        f"Via: SIP/2.0/{protocol.upper()} {via}",
        "Max-Forwards: 70",
        "From: <sip:stranger@example.com>;tag=1",
        f"To: {to}",
        "Call-ID: stray@127.0.0.1",
        f"CSeq: 1 {'REGISTER' if word == 'SIP/2.0' else word}",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Stranger:
    """A socket towards a transport of ours, over any protocol."""

    def __init__(self, transport: pjsip.Transport) -> None:
        self.protocol = transport.protocol
        self.socket: socket.socket
        if self.protocol == "udp":
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.connect(("127.0.0.1", transport.port))
        else:
            self.socket = socket.create_connection(("127.0.0.1", transport.port), timeout=5)
        if self.protocol == "tls":
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            self.socket = trusting.wrap_socket(self.socket)
        self.socket.settimeout(5)
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """The next message; of a stream, as they have no bodies, to the blank line."""
        if self.protocol == "udp":
            return self.socket.recv(65535)
        while b"\r\n\r\n" not in self._rest:
            data = self.socket.recv(65535)
            if not data:
                raise ConnectionResetError
            self._rest += data
        first, self._rest = self._rest.split(b"\r\n\r\n", 1)
        return first + b"\r\n\r\n"

    def ping(self) -> None:
        """Return when all that was sent before has been handled."""
        mark = os.urandom(8).hex()
        via = f"127.0.0.1:9;rport;branch=z9hG4bK{mark}"
        self.send(message("OPTIONS sip:ping", via=via, protocol=self.protocol))
        while mark.encode() not in self.receive():
            pass

    def ask(self, data: bytes) -> bytes:
        """The answer, or nothing: whatever is not answered before the ping's answer never is."""
        mark = os.urandom(8).hex()
        self.send(data)
        via = f"127.0.0.1:9;rport;branch=z9hG4bK{mark}"
        self.send(message("OPTIONS sip:ping", via=via, protocol=self.protocol))
        answer = self.receive()
        if mark.encode() in answer:
            return b""
        assert mark.encode() in self.receive()
        return answer

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def listen(ep: pjsip.Endpoint, protocol: str, certs: Certificates) -> pjsip.Transport:
    if protocol != "tls":
        return ep.listen(protocol, "127.0.0.1")
    if "OpenSSL" not in str(pjsip.build_info()["tls"]):
        pytest.skip("this build has no TLS (PJSIP_PY_TLS=off)")
    own = pjsip.TlsConfig(
        ca_file=certs.ca_file, cert_file=certs.cert_file, key_file=certs.key_file, timeout=10
    )
    return ep.listen("tls", "127.0.0.1", tls=own)


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(users=None) as server:
        yield server


def assert_unharmed(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    assert ep.registration(registrar.uri(), AOR).register().result(10).code == 200
    assert ep.stats()["assertions"] == 0


# -- what is answered -----------------------------------------------------------------------------

ANSWERS = [
    ("OPTIONS sip:alice@127.0.0.1", {}, 200, r"\r\nAllow: OPTIONS\r\n"),
    ("OPTIONS sips:alice@127.0.0.1", {}, 200, r"\r\nAllow: OPTIONS\r\n"),
    ("OPTIONS tel:+4312345", {}, 416, ""),
    ("OPTIONS sip:a", {"Require": "x, y"}, 420, r"\r\nUnsupported: x, y\r\n"),
    ("OPTIONS sip:a", {"Proxy-Require": "x"}, 200, ""),  # a proxy's concern
    (
        "REGISTER sip:example.com",
        {"Contact": "<sip:eve@127.0.0.1>"},
        405,
        r"\r\nAllow: OPTIONS\r\n",
    ),
    ("INVITE sip:alice@127.0.0.1", {"Contact": "<sip:eve@127.0.0.1>"}, 405, r"\r\nAllow: OPTIONS"),
    ("INVITE sip:alice@127.0.0.1", {"Require": "100rel"}, 405, ""),  # 8.2.1 before 8.2.2
    ("MESSAGE sip:alice@127.0.0.1", {}, 405, ""),
    ("SUBSCRIBE sip:alice@127.0.0.1", {"Event": "presence"}, 405, ""),
    ("NOTIFY sip:alice@127.0.0.1", {"Event": "check-sync"}, 405, ""),
    ("NOSUCH sip:alice@127.0.0.1", {}, 405, ""),
    ("CANCEL sip:alice@127.0.0.1", {}, 481, ""),
    ("BYE sip:alice@127.0.0.1", {"To": ";tag=2"}, 481, ""),
    ("INVITE sip:alice@127.0.0.1", {"To": ";tag=2"}, 481, ""),
    ("ACK sip:alice@127.0.0.1", {}, 0, ""),
    ("ACK sip:alice@127.0.0.1", {"To": ";tag=2"}, 0, ""),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_is_answered_as_rfc_3261_says(
    ep: pjsip.Endpoint, certs: Certificates, registrar: Registrar, protocol: str
) -> None:
    with Stranger(listen(ep, protocol, certs)) as stranger:
        for start, headers, code, pattern in ANSWERS:
            to = f"<sip:alice@example.com>{headers.get('To', '')}"
            lines = [f"{name}: {value}" for name, value in headers.items() if name != "To"]
            request = message(start, *lines, to=to, protocol=protocol)
            answer = stranger.ask(request).decode()
            assert (int(answer.split()[1]) if answer else 0) == code, (start, answer)
            assert re.search(pattern, answer), (start, answer)
            assert len(answer) <= len(request) + GROWTH
            if answer:
                assert ";tag=" in answer.split("\r\nTo: ")[1].split("\r\n")[0]
    assert_unharmed(ep, registrar)


DROPPED = {
    "another version": message("OPTIONS sip:a SIP/7.0").replace(b"SIP/7.0 SIP/2.0", b"SIP/7.0"),
    "no Via": re.sub(rb"Via:.*\r\n", b"", message("OPTIONS sip:a")),
    "no From": re.sub(rb"From:.*\r\n", b"", message("OPTIONS sip:a")),
    "no To": re.sub(rb"To:.*\r\n", b"", message("OPTIONS sip:a")),
    "no Call-ID": re.sub(rb"Call-ID:.*\r\n", b"", message("OPTIONS sip:a")),
    "no CSeq": re.sub(rb"CSeq:.*\r\n", b"", message("OPTIONS sip:a")),
    "a header that does not parse": message("OPTIONS sip:a", "Contact: <sip:"),
    "a scheme nobody knows": message("OPTIONS urn:service:sos"),
    "a URI that is none": message("OPTIONS sip:[:::"),
    "two status lines": b"SIP/2.0 200 OK\r\n" + message("SIP/2.0 200 OK"),
    "a response of ours": message("SIP/2.0 200 OK"),
    "a challenge": message("SIP/2.0 401 No", 'WWW-Authenticate: Digest realm="a", nonce="b"'),
    "a code that is none": message("SIP/2.0 999 No"),
    "a line break too many": b"\r\n\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "nothing but a method": b"INVITE\r\n\r\n",
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_no_request_gets_no_answer(ep: pjsip.Endpoint, name: str) -> None:
    with Stranger(ep.listen("udp", "127.0.0.1")) as stranger:
        assert stranger.ask(DROPPED[name]) == b""
    assert ep.stats()["assertions"] == 0


def test_nobody_is_told_where_to_send(ep: pjsip.Endpoint) -> None:
    """RFC 3261, 18.2.2 would send to "maddr": third parties, and names that we look up."""
    asked: list[pjsip.Event] = []
    ep.on(pjsip.Event, asked.append)
    with (
        Stranger(ep.listen("udp", "127.0.0.1")) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third,
    ):
        third.bind(("127.0.0.1", 0))
        port = third.getsockname()[1]
        for maddr in ("127.0.0.1", "localhost", "224.0.1.75", "no.such.host.invalid"):
            via = f"127.0.0.1:{port};rport;maddr={maddr};branch=z9hG4bK1"
            assert stranger.ask(message("OPTIONS sip:a", via=via)) == b""
        assert not select.select([third], [], [], 0)[0]
    assert ep.stats()["resolving"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        ["Record-Route: " + ",".join(["<sip:a>"] * 280)],
        ["Via: " + ",".join(["SIP/2.0/UDP a"] * 200)],
    ],
    ids=["Record-Route", "Via"],
)
def test_an_answer_that_would_be_much_larger_is_not_sent(
    ep: pjsip.Endpoint, headers: list[str]
) -> None:
    """The compact form of a list is printed in full: 2.4 kB made 6.6 kB of it."""
    with Stranger(ep.listen("udp", "127.0.0.1")) as stranger:
        assert stranger.ask(message("OPTIONS sip:a", *headers)) == b""
        short = message("OPTIONS sip:a", headers[0].split(",")[0])
        assert 0 < len(stranger.ask(short)) <= len(short) + GROWTH


def test_the_smallest_request_gains_no_more(ep: pjsip.Endpoint) -> None:
    request = b"".join(
        f"{line}\r\n".encode()
        for line in (
            "OPTIONS sip:a SIP/2.0", "v:SIP/2.0/UDP a;rport", "f:<sip:a>;tag=1", "t:<sip:a>",
            "i:1", "CSeq:1 OPTIONS", "",
        )
    )  # fmt: skip
    with Stranger(ep.listen("udp", "127.0.0.1")) as stranger:
        stranger.send(request)
        answer = stranger.receive()
    assert answer.startswith(b"SIP/2.0 200")
    assert len(answer) <= len(request) + GROWTH


# -- floods ---------------------------------------------------------------------------------------


def resident() -> int:
    """kB"""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1])


FLOODS: dict[str, Callable[[int], bytes]] = {
    "response": lambda i: message("SIP/2.0 200 OK", via=f"127.0.0.1:9;branch=z9hG4bK{i}"),
    "challenge": lambda i: message(
        "SIP/2.0 401 Unauthorized",
        f'WWW-Authenticate: Digest realm="r{i}", nonce="{i}"',
        via=f"127.0.0.1:9;branch=z9hG4bK{i}",
    ),
    "REGISTER": lambda i: message("REGISTER sip:a", via=f"127.0.0.1:9;rport;branch=z9hG4bK{i}"),
    "INVITE": lambda i: message("INVITE sip:a", via=f"127.0.0.1:9;rport;branch=z9hG4bK{i}"),
    "CANCEL": lambda i: message("CANCEL sip:a", via=f"127.0.0.1:9;rport;branch=z9hG4bK{i}"),
    "BYE": lambda i: message("BYE sip:a", to=f"<sip:a>;tag={i}"),
    "ACK": lambda i: message("ACK sip:a", via=f"127.0.0.1:9;rport;branch=z9hG4bK{i}"),
    "NOTIFY": lambda i: message("NOTIFY sip:a", "Event: presence", body="x" * 900),
    "maddr": lambda i: message("OPTIONS sip:a", via=f"127.0.0.1;maddr=h{i};branch=z9hG4bK{i}"),
    "RFC 2543": lambda i: message("INVITE sip:a", via=f"127.0.0.1:9;rport;branch={i}"),
    "noise": lambda i: i.to_bytes(4, "big") * 100,
    "no headers": lambda i: f"OPTIONS sip:{i} SIP/2.0\r\n\r\n".encode(),
    "large": lambda i: message("INVITE sip:a", body="x" * 64000),
    "empty": lambda i: b"",
    "line breaks": lambda i: b"\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_leaves_nothing_behind(kind: str, registrar: Registrar) -> None:
    make = FLOODS[kind]
    with pjsip.Endpoint(strict=True, log_level=0) as ep:
        with Stranger(ep.listen("udp", "127.0.0.1")) as stranger:
            batch = 2 if kind == "large" else 50  # what the receive buffer is sure to hold
            for i in range(500):  # so that what is kept for later is there
                stranger.send(make(-i & 0xFFFF))
                if i % batch == 0:
                    stranger.ping()
            before, pools = resident(), ep.stats()["pools"]
            for i in range(STRAYS):
                stranger.send(make(i))
                if i % batch == 0:
                    stranger.ping()
            stranger.ping()
            stats = ep.stats()
            assert stats["pools"] <= pools + 2
            assert stats["resolving"] == stats["clients"] == stats["connections"] == 0
            if "PJSIP_PY_SANITIZED" not in os.environ:  # which keeps what was freed
                assert resident() - before < 2000
        assert_unharmed(ep, registrar)


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_answers_that_nobody_reads_do_not_pile_up(
    ep: pjsip.Endpoint, certs: Certificates, registrar: Registrar, protocol: str
) -> None:
    """60,000 requests made 600 MB of answers in the queue of one connection."""
    request = message("OPTIONS sip:a", protocol=protocol)
    with Stranger(listen(ep, protocol, certs)) as stranger:
        stranger.ping()
        pools = ep.stats()["pools"]
        for _ in range(20 * STRAYS // 100):
            stranger.send(request * 100)
        assert_unharmed(ep, registrar)
        assert ep.stats()["pools"] < pools + 100
        assert stranger.receive().startswith(b"SIP/2.0 200")  # who reads now, gets some
        received = 1
        with contextlib.suppress(TimeoutError):
            stranger.socket.settimeout(0.3)
            while stranger.receive():
                received += 1
        assert received < 20 * STRAYS
        stranger.socket.settimeout(5)
        stranger.ping()


# -- connections ----------------------------------------------------------------------------------


def is_closed(s: socket.socket) -> bool:
    """Whether the other end has let go; deadline 5 s for one that should have."""
    s.settimeout(5)
    try:
        while data := s.recv(4096):
            if data.strip():  # line breaks are PJSIP's own keep-alive
                return False
    except ConnectionResetError:
        pass
    return True


def closed_of(sockets: list[socket.socket]) -> list[socket.socket]:
    return select.select(sockets, [], [], 0)[0]


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_connections_of_others_are_counted(
    ep: pjsip.Endpoint, certs: Certificates, registrar: Registrar, protocol: str
) -> None:
    """Over TLS they are counted before the handshake."""
    states: list[str] = []
    ep.on(pjsip.TransportState, lambda event: states.append(event.state))
    transport = listen(ep, protocol, certs)
    sockets: list[socket.socket] = []
    try:
        for _ in range(INCOMING + 20):
            sockets.append(socket.create_connection(("127.0.0.1", transport.port), timeout=5))
        assert all(is_closed(s) for s in sockets[INCOMING:])
        assert closed_of(sockets[:INCOMING]) == []
        assert_unharmed(ep, registrar)
    finally:
        for s in sockets:
            s.close()
    tried = 0
    until = time.monotonic() + 10
    while time.monotonic() < until:  # as soon as they are gone, there is room
        tried += 1
        with contextlib.suppress(OSError), Stranger(transport) as stranger:
            stranger.ping()
            break
        time.sleep(0.02)
    else:
        pytest.fail("no connection is accepted any more")
    assert states.count("connected") <= INCOMING + tried


def test_what_becomes_of_them_waits_within_bounds() -> None:
    """Nobody takes events here, and somebody connects again and again."""
    events: list[pjsip.Event] = []
    with pjsip.Endpoint(dispatch="manual", trace_limit=10_000, log_level=0) as ep:
        ep.on(pjsip.Event, events.append)
        transport = ep.listen("tcp", "127.0.0.1")
        for _ in range(100):
            with Stranger(transport) as stranger:
                stranger.ping()
        dropped = ep.stats()["dropped_trace"]
        assert dropped > 100
        with Stranger(transport) as stranger:  # as soon as somebody takes them, they are told
            while ep.dispatch(0):
                pass
            stranger.ping()
            while ep.dispatch(0):
                pass
    told = [event for event in events if isinstance(event, pjsip.TransportState)]
    assert len(told) < 100
    assert sum(e.trace for e in events if isinstance(e, pjsip.EventsDropped)) >= dropped


def test_a_silent_connection_is_closed() -> None:
    clock = VirtualClock()
    with pjsip.Endpoint(clock=clock, strict=True) as ep:
        tcp = ep.listen("tcp", "127.0.0.1")
        with (
            Stranger(tcp) as silent,
            Stranger(tcp) as slow,
            Stranger(tcp) as rude,
            Stranger(tcp) as polite,
        ):
            rude.send(message("ACK sip:a", protocol="tcp"))  # nothing that is answered
            slow.send(b"OPTIONS sip:a SIP/2.0\r\n")
            polite.ping()
            clock.advance(16)
            slow.send(b"Via: SIP/2.0/TCP a;branch=z9hG4bK1\r\n")
            polite.ping()
            assert closed_of([s.socket for s in (silent, slow, rude, polite)]) == []
            clock.advance(17)
            assert is_closed(silent.socket)
            assert is_closed(slow.socket)
            assert closed_of([rude.socket, polite.socket]) == []
            polite.ping()
            clock.advance(570)
            assert is_closed(rude.socket)
            polite.ping()
            clock.advance(601)
            assert is_closed(polite.socket)


def test_a_silent_handshake_is_closed(certs: Certificates) -> None:
    clock = VirtualClock()
    with pjsip.Endpoint(clock=clock, strict=True) as ep:
        tls = listen(ep, "tls", certs)
        with socket.create_connection(("127.0.0.1", tls.port), timeout=5) as s:
            s.sendall(b"\x16\x03\x01")
            with Stranger(tls) as other:  # so that the first has been accepted
                other.ping()
                assert closed_of([s]) == []
                clock.advance(11)
                assert is_closed(s)
                other.ping()


# -- logs and texts -------------------------------------------------------------------------------


def test_a_packet_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    forged = "2026-01-01 root CRITICAL all is lost\x1b[31m\x07\x9b2J"
    with caplog.at_level(0), pjsip.Endpoint(log_level=5, strict=True) as ep:
        udp = ep.listen("udp", "127.0.0.1")
        with Stranger(udp) as stranger:
            for line_end in ("\r\n", "\n", "\r", "\x85", "\u2028", "\x0b"):
                text = f"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n\r\nx{line_end}{forged}\r\n"
                stranger.send(text.encode())
            stranger.ping()
    quoting = [r.getMessage() for r in caplog.records if "all is lost" in r.getMessage()]
    assert quoting
    for text in quoting:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
        for line in text.splitlines()[1:]:
            assert line.startswith("  | ")


def test_a_registrar_cannot_steer_the_terminal(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    registrar.script(Answer(480, reason="Gone\x1b]0;owned\x07\x9b2J \x85X: y", headers={"X": "y"}))
    with pytest.raises(pjsip.RegistrationError) as raised:
        ep.registration(registrar.uri(), AOR).register().result(10)
    error = raised.value
    for text in (str(error), error.reason, "Gone" + repr(error.response), *map(str, error.args)):
        assert "Gone" in text or text == "480"
        assert text.isprintable()
    assert error.response is not None
    assert error.response.headers.get_all("X") == ["y"]


def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand records at once, and a hundred a second; how many there were is told."""
    dropped: list[int] = []
    with caplog.at_level(0), pjsip.Endpoint(strict=True) as ep:
        ep.on(pjsip.EventsDropped, lambda event: dropped.append(event.log))
        with Stranger(ep.listen("udp", "127.0.0.1")) as stranger:
            for i in range(5000):
                stranger.send(b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n\r\n")
                if i % 50 == 0:
                    stranger.ping()
            stranger.ping()
        total = ep.stats()["dropped_log"]
    logged = [r for r in caplog.records if r.name == "pjsip"]
    assert len(logged) + total >= 5000
    assert len(logged) < 4000
    assert sum(dropped) <= total
    assert dropped


def test_a_challenge_without_end_ends(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    """Each 401 asks in the name of another realm, and there is a credential for all of them."""
    numbers = itertools.count()

    def challenge(request: ReceivedRequest) -> bytes:
        copied = re.findall(rb"(?:Via|From|To|Call-ID|CSeq):.*\r\n", request.data)
        asked = f'WWW-Authenticate: Digest realm="r{next(numbers)}", nonce="n", qop="auth"\r\n'
        return b"SIP/2.0 401 No\r\n" + b"".join(copied) + asked.encode() + b"\r\n"

    registrar.on().answer(raw=challenge)
    client = ep.registration(
        registrar.uri(), AOR, credentials=pjsip.Credentials("alice", "Endless-5tory")
    )
    for _ in range(3):
        before = len(registrar.requests)
        with pytest.raises(pjsip.AuthenticationError):
            client.register().result(10)
        assert len(registrar.requests) - before <= 16
    assert len(registrar.requests[-1].data) < 4000  # it does not bring the proofs of all of them
