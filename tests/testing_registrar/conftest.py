# SPDX-License-Identifier: GPL-3.0-or-later
"""A hand-made SIP client on plain sockets: it shares no code with the registrar or with PJSIP."""

from __future__ import annotations

import hashlib
import itertools
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from pjsip_py.testing import Registrar

PASSWORD = "Al-Chwarizmi-820"  # of most users in these tests
DEADLINE = 5.0  # s, for anything that is expected to happen
SILENCE = 0.25  # s, to believe that nothing comes
_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@dataclass
class Reply:
    """A response, split by hand."""

    code: int
    reason: str
    headers: list[tuple[str, str]]
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Reply:
        head, _, _ = raw.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        m = re.fullmatch(r"SIP/2\.0 (\d{3}) (.*)", first)
        assert m, first
        pairs = [line.split(": ", 1) for line in lines]
        return cls(int(m[1]), m[2], [(name, value) for name, value in pairs], raw)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def challenge(self, index: int = 0) -> dict[str, str]:
        value = (self.all("WWW-Authenticate") + self.all("Proxy-Authenticate"))[index]
        assert value.startswith("Digest ")
        return {k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', value[7:])}


@dataclass
class Client:
    """A user agent with one socket."""

    registrar: Registrar
    protocol: str
    sock: socket.socket
    user: str = "alice"
    call_id: str = "call-1"
    cseq: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _branches: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _pending: bytes = b""

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    @property
    def contact(self) -> str:
        return f"<sip:{self.user}@127.0.0.1:{self.port}>"

    def build(
        self,
        contacts: Sequence[str] = (),
        headers: Sequence[str] = (),
        *,
        method: str = "REGISTER",
        uri: str | None = None,
        user: str | None = None,
        cseq: int | None = None,
        via: str | None = None,
        body: str = "",
    ) -> bytes:
        host, *_ = self.sock.getsockname()
        host = f"[{host}]" if ":" in host else host
        cseq = next(self.cseq) if cseq is None else cseq
        branch = f"z9hG4bK-{self.call_id}-{next(self._branches)}"
        aor = f"<sip:{user or self.user}@example.com>"
        lines = [
            f"{method} {uri or self.registrar.uri(self.protocol)} SIP/2.0",
            "Via: "
            + (via or f"SIP/2.0/{self.protocol.upper()} {host}:{self.port};rport;branch={branch}"),
            "Max-Forwards: 70",
            f"From: {aor};tag=from1",
            f"To: {aor}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            *(f"Contact: {contact}" for contact in contacts),
            *headers,
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def send(self, data: bytes) -> None:
        if self.protocol == "udp":
            self.sock.sendto(data, self.registrar.address("udp"))
        else:
            self.sock.sendall(data)

    def receive_raw(self) -> bytes:
        """One datagram, or one message of the stream."""
        if self.protocol == "udp":
            return self.sock.recv(65535)
        while b"\r\n\r\n" not in self._pending:
            data = self.sock.recv(65535)
            if not data:
                raise ConnectionError("the registrar closed the connection")
            self._pending += data
        head, _, rest = self._pending.partition(b"\r\n\r\n")
        m = re.search(rb"Content-Length: (\d+)", head)
        assert m
        length = int(m[1])
        assert len(rest) >= length
        self._pending = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    def receive(self) -> Reply:
        return Reply.parse(self.receive_raw())

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.receive()

    def register(
        self, *contacts: str, expires: int | None = 60, headers: Sequence[str] = (), **what: object
    ) -> Reply:
        more = [] if expires is None else [f"Expires: {expires}"]
        return self.ask(
            self.build(contacts or (self.contact,), [*more, *headers], **what)  # type: ignore[arg-type]
        )

    def fetch(self) -> list[str]:
        reply = self.ask(self.build())
        assert reply.code == 200, reply
        return reply.all("Contact")

    def silent(self) -> bool:
        """True when nothing arrives for a while."""
        return not self._pending and not select.select([self.sock], [], [], SILENCE)[0]

    def authorization(
        self,
        challenge: dict[str, str],
        password: str = PASSWORD,
        *,
        nc: int | str = 1,
        username: str | None = None,
        header: str = "Authorization",
        spoil: Mapping[str, str | None] | None = None,
    ) -> str:
        """The Authorization header that answers a challenge; `spoil` replaces parameters (None:
        leaves them out)."""
        name = challenge.get("algorithm", "MD5")
        username = self.user if username is None else username
        uri = self.registrar.uri(self.protocol)

        def h(text: str) -> str:
            return hashlib.new(_HASHES[name], text.encode()).hexdigest()

        count = nc if isinstance(nc, str) else f"{nc:08x}"
        ha1 = h(f"{username}:{challenge['realm']}:{password}")
        ha2 = h(f"REGISTER:{uri}")
        nonce, qop = challenge["nonce"], challenge.get("qop")
        between = f"{nonce}:{count}:c0ffee:auth" if qop else nonce
        escaped = username.replace("\\", "\\\\").replace('"', '\\"')
        params: dict[str, str | None] = {
            "username": f'"{escaped}"',
            "realm": f'"{challenge["realm"]}"',
            "nonce": f'"{nonce}"',
            "uri": f'"{uri}"',
            "response": f'"{h(f"{ha1}:{between}:{ha2}")}"',
            "algorithm": name,
            "opaque": f'"{challenge["opaque"]}"',
        }
        if qop:
            params |= {"qop": "auth", "nc": count, "cnonce": '"c0ffee"'}
        params |= spoil or {}
        return f"{header}: Digest " + ", ".join(f"{k}={v}" for k, v in params.items() if v)

    def close(self) -> None:
        self.sock.close()


MakeClient = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[MakeClient]:
    """Make clients: ``connect(registrar, protocol="udp", call_id=…, user=…)``."""
    clients: list[Client] = []
    calls = itertools.count(1)

    def make(
        registrar: Registrar,
        protocol: str | None = None,
        *,
        user: str = "alice",
        call_id: str | None = None,
    ) -> Client:
        protocol = protocol or registrar.protocols[0]
        host, port = registrar.address(protocol)
        sock: socket.socket
        if protocol == "udp":
            sock = socket.socket(
                socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
            )
            sock.bind((host, 0))
        else:
            sock = socket.create_connection((host, port), timeout=DEADLINE)
        if protocol == "tls":
            context = ssl.create_default_context(cafile=registrar.ca_file)
            sock = context.wrap_socket(sock, server_hostname=host)
        sock.settimeout(DEADLINE)
        client = Client(registrar, protocol, sock, user, call_id or f"call-{next(calls)}")
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    """A registrar without authentication, on UDP."""
    with Registrar() as running:
        yield running


@pytest.fixture
def client(registrar: Registrar, connect: MakeClient) -> Client:
    return connect(registrar)


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def ipv6() -> str:
    """The IPv6 loopback address; skips where there is none."""
    if not has_ipv6_loopback():
        pytest.skip("no IPv6 loopback: sysctl net.ipv6.conf.lo.disable_ipv6=0 gives one")
    return "::1"
