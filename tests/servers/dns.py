# SPDX-License-Identifier: GPL-3.0-or-later
"""A DNS server on 127.0.0.1, over UDP and TCP, that knows what a test tells it."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Question = tuple[str, str]


class DnsServer:
    """Name and record type of every question that arrived are in ``questions``.

    A name with records, or above one with records, exists; any other is NXDOMAIN.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.over_tcp = 0
        self._records: dict[dns.name.Name, dict[str, dns.rrset.RRset]] = defaultdict(dict)
        self._rcodes: dict[Question, dns.rcode.Rcode] = {}
        self._silent: set[Question] = set()
        self._held: dict[str, list[Callable[[], object]]] = {}
        self._junk: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._udp, self._tcp = _bind()
        self.port: int = self._udp.getsockname()[1]
        self._wake, self._awake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="dns-server")

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for each in (self._udp, self._tcp, self._awake):
            each.close()

    # -- what it knows ----------------------------------------------------------------------------

    def add(self, name: str, kind: str, *data: str, ttl: int = 60) -> None:
        """Records of one type; data as in a master file (RFC 1035 §5)."""
        owner = dns.name.from_text(name)
        self._records[owner][kind] = dns.rrset.from_text(owner, ttl, "IN", kind, *data)

    def remove(self, name: str, kind: str) -> None:
        del self._records[dns.name.from_text(name)][kind]

    def refuse(self, name: str, *kinds: str, rcode: str = "SERVFAIL") -> None:
        for kind in kinds:
            self._rcodes[name, kind] = dns.rcode.from_text(rcode)

    def be_silent(self, name: str, *kinds: str) -> None:
        self._silent.update((name, kind) for kind in kinds)

    def send_junk(self, name: str, junk: bytes) -> None:
        """Send this before each answer about *name*."""
        self._junk[name] = junk

    def hold(self, name: str) -> None:
        """Keep answers about *name* back until :meth:`release`."""
        self._held[name] = []

    def release(self, name: str) -> None:
        with self._lock:
            answers = self._held.pop(name)
        for send in answers:
            send()

    def wait_for(self, name: str, timeout: float = 10.0) -> None:
        """Until a question about *name* has arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: name in dict(self.questions), timeout), name

    # -- serving ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._udp, self._tcp, self._awake):
                selector.register(each, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._awake in ready:
                    return
                if self._udp in ready:
                    wire, peer = self._udp.recvfrom(65535)
                    self._answer(wire, partial(self._send_to, peer), 512)
                if self._tcp in ready:
                    self._serve_connection()

    def _send_to(self, peer: tuple[str, int], wire: bytes) -> None:
        self._udp.sendto(wire, peer)

    def _serve_connection(self) -> None:
        connection, _ = self._tcp.accept()
        self.over_tcp += 1
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(5)
            (length,) = struct.unpack("!H", stream.read(2))
            self._answer(
                stream.read(length),
                lambda w: connection.sendall(struct.pack("!H", len(w)) + w),
                65535,
            )

    def _answer(self, wire: bytes, send: Callable[[bytes], object], size: int) -> None:
        request = dns.message.from_wire(wire)
        name = request.question[0].name
        text = name.to_text(omit_final_dot=True)
        asked = (text, dns.rdatatype.to_text(request.question[0].rdtype))
        reply = dns.message.make_response(request, recursion_available=True)
        reply.set_rcode(self._rcodes.get(asked, self._fill(reply, name, asked[1])))
        answer = reply.to_wire(max_size=size, prefer_truncation=True)
        with self._arrived:
            self.questions.append(asked)
            self._arrived.notify_all()
            if text in self._held:
                self._held[text].append(lambda: send(answer))
                return
        if asked in self._silent:
            return
        if text in self._junk:
            send(self._junk[text])
        with suppress(OSError):  # the client has gone
            send(answer)

    def _fill(self, reply: dns.message.Message, name: dns.name.Name, kind: str) -> dns.rcode.Rcode:
        for _ in range(8):  # a chain of aliases
            here = self._records.get(name, {})
            found = here.get(kind)
            if found is not None:
                reply.answer.append(found)
                return dns.rcode.NOERROR
            if "CNAME" not in here:
                break
            reply.answer.append(here["CNAME"])
            name = here["CNAME"][0].target
        exists = any(each.is_subdomain(name) for each, kinds in self._records.items() if kinds)
        return dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN


def _bind() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with the same port."""
    for _ in range(20):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:  # taken over TCP
            udp.close()
    raise OSError("no port is free over both UDP and TCP")
