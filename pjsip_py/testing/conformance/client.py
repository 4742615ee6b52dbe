# SPDX-License-Identifier: GPL-3.0-or-later
"""A SIP client that will send anything: requests with every byte up to the check, real sockets.

A real stack cannot send malformed or replayed requests; this can, and knows only what a check
needs: retransmission over UDP (RFC 3261 §17.1.2.2), framing of streams, and matching a response
to its request.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pjsip_py._ffi import redact
from pjsip_py.message import Response, split_outside_quotes

from ..digest import ALGORITHMS, digest_response
from ..framing import StreamFramer
from ..headers import quoted_string
from ..message import MalformedRequest
from .check import Failed

Address = tuple[str, int]

T1 = 0.5  # s; RFC 3261 §17.1.1.1
T2 = 4.0
MAGIC = "z9hG4bK"


@dataclass(frozen=True)
class Message:
    """One message as it went over the wire, its digests blotted out.

    ``time`` is :func:`time.time`; ``sent`` tells our requests from the registrar's answers.
    """

    time: float
    sent: bool
    protocol: str
    source: Address
    destination: Address
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def start_line(self) -> str:
        return self.text.partition("\r\n")[0]


class Draft:
    """A request not sent yet. Header names and values are text; a byte that is no UTF-8 stands in
    it as Python's surrogateescape has it. ``mangle`` gets the last word on the bytes."""

    def __init__(self, method: str, uri: str, headers: Iterable[tuple[str, str]]) -> None:
        self.method = method
        self.uri = uri
        self.version = "SIP/2.0"
        self.headers = list(headers)
        self.body = b""
        self.mangle: Callable[[bytes], bytes] | None = None
        self.branch = ""
        self.cseq = 0
        self.call_id = ""

    def get(self, name: str) -> str:
        """The first value of a header, empty without any."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), "")

    def set(self, name: str, *values: str) -> Draft:
        """Put values in place of those that a header has; none: remove it."""
        at = next((i for i, (n, _) in enumerate(self.headers) if n.lower() == name.lower()), None)
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()]
        at = len(self.headers) if at is None else at
        self.headers[at:at] = [(name, value) for value in values]
        return self

    def add(self, name: str, value: str) -> Draft:
        self.headers.append((name, value))
        return self

    def rename(self, names: Mapping[str, str]) -> Draft:
        """Write header names in another way."""
        self.headers = [(names.get(name, name), value) for name, value in self.headers]
        return self

    def renewed(self, branch: str, cseq: int) -> Draft:
        """The same request for a new transaction; what a check spoilt stays spoilt."""
        new = copy.copy(self)
        old = f"{self.cseq} {self.method}"
        new.headers = [
            (name, value.replace(self.branch, branch) if self.branch.startswith(MAGIC) else value)
            for name, value in self.headers
        ]
        new.headers = [
            (name, f"{cseq} {self.method}" if value == old else value)
            for name, value in new.headers
        ]
        new.branch, new.cseq = branch, cseq
        return new

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.uri} {self.version}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        data = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body
        return data if self.mangle is None else self.mangle(data)


class Reply(Response):
    """A response, and where it came from."""

    def __init__(self, data: bytes, source: Address) -> None:
        super().__init__(data, f"{source[0]}:{source[1]}")
        self.address = source

    @property
    def line(self) -> str:
        return f"{self.code} {self.reason}".strip()

    @property
    def branch(self) -> str:
        return self._via.get("branch", "")

    @property
    def cseq(self) -> str:
        return " ".join(self.headers.get("CSeq", "").split())

    @property
    def to_tag(self) -> str:
        value = self.headers.get("To", "")
        tail = value[value.rfind(">") + 1 :]
        found = [p for p in split_outside_quotes(tail, ";") if p.lower().startswith("tag")]
        return found[0].partition("=")[2].strip() if found else ""

    def answers(self, draft: Draft) -> bool:
        """Whether it belongs to `draft`: by its branch, or by Call-ID and number when that is
        what the registrar got wrong, or the check."""
        if self.branch and self.branch == draft.branch:
            return True
        number = self.cseq.partition(" ")[0]
        return self.headers.get("Call-ID") == draft.call_id and number == str(draft.cseq)


# -- digest ---------------------------------------------------------------------------------------

#: Header of the credentials by the code that asks for them.
_ANSWER = {False: "Authorization", True: "Proxy-Authorization"}


@dataclass(frozen=True)
class Challenge:
    """One Digest challenge that this client can answer."""

    proxy: bool
    params: Mapping[str, str]

    @property
    def header(self) -> str:
        return _ANSWER[self.proxy]

    @property
    def algorithm(self) -> str:
        return self.params.get("algorithm", "MD5").upper()

    @property
    def realm(self) -> str:
        return self.params.get("realm", "")

    def answer(
        self,
        draft: Draft,
        user: str,
        password: str,
        *,
        count: int = 1,
        method: str = "",
        changed: Mapping[str, str | None] | None = None,
    ) -> str:
        """The credentials that answer it (RFC 7616 §3.4). `changed` replaces parameters before
        the digest is computed over them, None leaves one out after."""
        given: dict[str, str] = {
            "username": user,
            "realm": self.realm,
            "nonce": self.params.get("nonce", ""),
            "uri": draft.uri,
        }
        if "algorithm" in self.params:
            given["algorithm"] = self.params["algorithm"]
        qops = [each.strip().lower() for each in self.params.get("qop", "").split(",")]
        if "auth" in qops or "auth-int" in qops:
            given["qop"] = "auth" if "auth" in qops else "auth-int"
            given["nc"] = f"{count:08x}"
            given["cnonce"] = secrets.token_hex(8)
        if "opaque" in self.params:
            given["opaque"] = self.params["opaque"]
        changes = dict(changed or {})
        given.update({k: v for k, v in changes.items() if v is not None})
        if "response" not in given:
            given["response"] = digest_response(given, password, method or draft.method, draft.body)
        return write_digest({k: v for k, v in given.items() if changes.get(k, "") is not None})


def write_digest(params: Mapping[str, str]) -> str:
    """A Digest header value; what RFC 7616 §3.4 wants unquoted is."""
    bare = ("algorithm", "qop", "nc")
    return "Digest " + ", ".join(
        f"{name}={value}" if name in bare else f"{name}={quoted_string(value)}"
        for name, value in params.items()
    )


def challenges(reply: Response) -> list[Challenge]:
    """The Digest challenges that can be answered, the first of each realm (RFC 8760 §2.4)."""
    found: dict[tuple[bool, str], Challenge] = {}
    for each in digest_challenges(reply):
        if each.algorithm in ALGORITHMS:
            found.setdefault((each.proxy, each.realm), each)
    return list(found.values())


def digest_challenges(reply: Response) -> list[Challenge]:
    """All Digest challenges, in their order."""
    return [
        Challenge(proxy, params)
        for proxy, scheme, params in reply.challenges
        if scheme.lower() == "digest"
    ]


# -- sockets --------------------------------------------------------------------------------------


class ConnectionGone(Failed):
    """The registrar closed the connection."""


class Channel(Protocol):
    """One socket to the registrar."""

    protocol: str
    local: Address
    closed: bool

    def send(self, data: bytes) -> None: ...

    def receive(self, deadline: float) -> tuple[bytes, Address] | None:
        """The next SIP message until ``time.monotonic()`` is `deadline`, and who sent it; None
        when none came. Raises :class:`ConnectionGone`."""

    def close(self) -> None: ...


def family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


class UdpChannel:
    """A bound socket that is not connected, so an answer from elsewhere is seen."""

    protocol = "udp"

    def __init__(self, remote: Address, local_host: str, note: Callable[[Message], None]) -> None:
        self.remote = remote
        self._note = note
        self._socket = socket.socket(family_of(remote), socket.SOCK_DGRAM)
        self._socket.bind((local_host, 0))
        self.local: Address = self._socket.getsockname()[:2]
        self.closed = False

    def send(self, data: bytes) -> None:
        self._note(_message(True, "udp", self.local, self.remote, data))
        try:
            self._socket.sendto(data, self.remote)
        except OSError as error:
            raise Failed(f"the datagram could not be sent: {error.strerror}") from error

    def receive(self, deadline: float) -> tuple[bytes, Address] | None:
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data, name = self._socket.recvfrom(65535)
            except TimeoutError:
                return None
            except OSError:  # an ICMP error: the port may be about to open
                continue
            source: Address = name[:2]
            self._note(_message(False, "udp", source, self.local, data))
            if data.strip(b"\r\n\0"):
                return data, source
        return None

    def close(self) -> None:
        self._socket.close()
        self.closed = True


class StreamChannel:
    """A TCP or TLS connection."""

    def __init__(
        self,
        remote: Address,
        note: Callable[[Message], None],
        timeout: float,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self.protocol = "tcp" if tls is None else "tls"
        self.remote = remote
        self._note = note
        raw = socket.create_connection(remote, timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = raw if tls is None else tls.wrap_socket(raw, server_hostname=server_name)
        except BaseException:
            raw.close()
            raise
        self.local: Address = self._socket.getsockname()[:2]
        self.closed = False
        self._framer = StreamFramer()
        self._messages: Iterator[bytes] = iter(())

    def send(self, data: bytes) -> None:
        self._note(_message(True, self.protocol, self.local, self.remote, data))
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.close()
            raise ConnectionGone("the registrar closed the connection") from error

    @property
    def version(self) -> str:
        """The version of TLS."""
        found = self._socket.version() if isinstance(self._socket, ssl.SSLSocket) else None
        return found or "no TLS"

    def receive_bytes(self, deadline: float) -> bytes | None:
        """What comes, not cut into messages; empty at the end of the stream, None if nothing."""
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        self._socket.settimeout(left)
        try:
            return self._socket.recv(65535)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def receive(self, deadline: float) -> tuple[bytes, Address] | None:
        while True:
            try:
                for message in self._messages:
                    if message:
                        note = _message(False, self.protocol, self.remote, self.local, message)
                        self._note(note)
                        return message, self.remote
            except MalformedRequest as error:
                self.close()
                raise Failed(f"what came over the connection is no SIP message: {error}") from error
            data = self.receive_bytes(deadline)
            if data is None:
                return None
            if not data:
                self.close()
                raise ConnectionGone("the registrar closed the connection")
            self._messages = self._framer.feed(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
        self.closed = True


def _message(sent: bool, protocol: str, source: Address, to: Address, data: bytes) -> Message:
    return Message(time.time(), sent, protocol, source, to, redact(data))
