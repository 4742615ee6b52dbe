# SPDX-License-Identifier: GPL-3.0-or-later
"""A REGISTER client of a few lines, on plain sockets and hashlib.

It judges the servers without pjsip_py, so that a failing server and a failing client are told
apart. It answers challenges (RFC 7616, qop=auth), resends over UDP, and knows nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(frozen=True)
class Reply:
    code: int
    reason: str
    headers: list[tuple[str, str]]

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str:
        return next(iter(self.get_all(name)), "")

    @property
    def challenge(self) -> str:
        """The digest challenge of a 401 or 407, empty for other responses."""
        return self.get({401: "WWW-Authenticate", 407: "Proxy-Authenticate"}.get(self.code, ""))


@dataclass
class RawClient:
    """One socket to one server. ``timeout`` in seconds bounds each request."""

    protocol: str
    host: str
    port: int
    ca_file: Path | None = None
    timeout: float = 5.0
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    _cseq: int = 0
    _tag: str = field(default_factory=lambda: secrets.token_hex(4))
    _buffer: bytes = b""

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        kind = socket.SOCK_DGRAM if self.protocol == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(family, kind)
        try:
            self._socket.settimeout(self.timeout)
            self._socket.connect((self.host, self.port))
            if self.protocol == "tls":
                context = ssl.create_default_context(cafile=self.ca_file)
                self._socket = context.wrap_socket(self._socket, server_hostname=self.host)
        except BaseException:
            self._socket.close()
            raise
        self.local_port: int = self._socket.getsockname()[1]

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(
        self, method: str, user: str, headers: tuple[str, ...] = (), body: bytes = b""
    ) -> Reply:
        """Send one request and return its final response."""
        self._cseq += 1
        branch = "z9hG4bK" + secrets.token_hex(8)
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"{method} sip:{host}:{self.port} SIP/2.0",
            f"Via: SIP/2.0/{self.protocol.upper()} {host}:{self.local_port};branch={branch};rport",
            "Max-Forwards: 70",
            f"From: <sip:{user}@example.com>;tag={self._tag}",
            f"To: <sip:{user}@example.com>",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self._cseq} {method}",
            *headers,
            f"Content-Length: {len(body)}",
        ]
        data = "\r\n".join([*lines, "", ""]).encode() + body
        deadline = time.monotonic() + self.timeout
        self._socket.sendall(data)
        while True:
            # Over UDP the wait is cut into resends; a refused port may still be about to open.
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no final response to {method} within {self.timeout} s")
            self._socket.settimeout(min(left, 0.2) if self.protocol == "udp" else left)
            try:
                reply = self._receive()
            except (TimeoutError, ConnectionRefusedError):
                if self.protocol != "udp":
                    raise
                with contextlib.suppress(ConnectionRefusedError):
                    self._socket.sendall(data)
                continue
            if reply.code >= 200 and branch in reply.get("Via"):
                return reply

    def register(
        self,
        user: str,
        password: str | None = None,
        *,
        contact: str | None = "",
        expires: int = 60,
        headers: tuple[str, ...] = (),
    ) -> Reply:
        """REGISTER, answering a challenge once and stale nonces besides.

        ``contact=None`` fetches the bindings.
        """
        if contact == "":
            host = f"[{self.host}]" if ":" in self.host else self.host
            contact = f"<sip:{user}@{host}:{self.local_port}>"
        headers = (*headers, f"Expires: {expires}")
        if contact is not None:
            headers = (*headers, f"Contact: {contact}")
        reply = self.request("REGISTER", user, headers)
        challenge, stale = reply.challenge, True
        while challenge and stale and password is not None:
            answer = authorization(challenge, user, password, "sip:example.com")
            name = "Authorization" if reply.code == 401 else "Proxy-Authorization"
            reply = self.request("REGISTER", user, (*headers, f"{name}: {answer}"))
            challenge = reply.challenge
            stale = "stale=true" in challenge
        return reply

    def _receive(self) -> Reply:
        if self.protocol == "udp":
            return parse(self._socket.recv(65535))
        while b"\r\n\r\n" not in self._buffer:
            chunk = self._socket.recv(65535)
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += chunk
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        reply = parse(head)
        self._buffer = rest[int(reply.get("Content-Length") or 0) :]
        return reply


def parse(data: bytes) -> Reply:
    status, *lines = data.decode().partition("\r\n\r\n")[0].split("\r\n")
    _, code, reason = status.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    return Reply(int(code), reason, [(name.strip(), value.strip()) for name, _, value in fields])


def authorization(challenge: str, user: str, password: str, uri: str, use: int = 1) -> str:
    """The Authorization value that answers a Digest ``challenge`` (RFC 7616 section 3.4).

    use: how often its nonce has been used, with this time.
    """
    parts = {k.lower(): quoted or plain for k, quoted, plain in PARAMETER.findall(challenge)}
    algorithm = parts.get("algorithm", "MD5")

    def digest(text: str) -> str:
        return HASHES[algorithm](text.encode()).hexdigest()

    ha1 = digest(f"{user}:{parts['realm']}:{password}")
    ha2 = digest(f"REGISTER:{uri}")
    nc, cnonce = f"{use:08x}", secrets.token_hex(8)
    if "qop" in parts:
        response = digest(f"{ha1}:{parts['nonce']}:{nc}:{cnonce}:auth:{ha2}")
        qop = f', qop=auth, nc={nc}, cnonce="{cnonce}"'
    else:
        response, qop = digest(f"{ha1}:{parts['nonce']}:{ha2}"), ""
    return (
        f'Digest username="{user}", realm="{parts["realm"]}", nonce="{parts["nonce"]}", '
        f'uri="{uri}", response="{response}", algorithm={algorithm}{qop}'
    )


PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))')
