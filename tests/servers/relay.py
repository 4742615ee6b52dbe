# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad networks on loopback: a UDP relay that loses datagrams and a TCP proxy that goes dead.

Both stand between clients and one server, each on a thread of its own. The server sees a socket
of the relay's where it would see the client's, as behind a NAT.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import InitVar, dataclass, field
from random import Random
from typing import Any, TypeVar

from servers.process import ServerError

Address = tuple[str, int]
T = TypeVar("T")
HOST = "127.0.0.1"
BUFFER = 1 << 20  # bytes; a burst waits in the kernel while Python forwards what came before
DATAGRAMS_PER_WAKEUP = 100
DEADLINE = 5.0  # s


class _Loop:
    """A thread that serves sockets, from ``start()`` to ``stop()``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = False
        self._error: BaseException | None = None
        self._watch(self._wake, lambda _: self._wake.recv(4096))
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every socket and end the thread; what went wrong on it is raised here."""
        if self._thread.is_alive():
            self._call(self._stop)
            self._thread.join(DEADLINE)
        for key in list(self._selector.get_map().values()):
            self._forget(key.fileobj)
        self._waker.close()
        self._selector.close()
        if self._error is not None:
            raise ServerError(f"{type(self).__name__} failed") from self._error

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            while not self._stopping:
                wait = self._timers[0][0] - time.monotonic() if self._timers else None
                for key, events in self._selector.select(wait):
                    sock: Any = key.fileobj
                    if sock.fileno() >= 0:  # not closed by the one before it
                        key.data(events)
                while self._timers and self._timers[0][0] <= time.monotonic():
                    heapq.heappop(self._timers)[2]()
                while self._calls:
                    self._calls.popleft()()
        except BaseException as exc:
            self._error = exc

    def _call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the thread, and return what it returns."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as exc:
                future.set_exception(exc)

        self._calls.append(run)
        self._waker.send(b"!")
        return future.result(DEADLINE)

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), function))

    def _watch(self, sock: socket.socket, ready: Callable[[int], object]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, ready)

    def _forget(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._selector.unregister(sock)
            sock.close()


@dataclass
class Way:
    """One direction of a relay: what is done to its datagrams, changeable at any time, and what
    has been done."""

    loss: float = 0.0  # probability, 0 to 1
    duplicate: float = 0.0
    delay: float = 0.0  # s
    seed: InitVar[int] = 0
    received: int = field(default=0, init=False)
    lost: int = field(default=0, init=False)
    duplicated: int = field(default=0, init=False)

    def __post_init__(self, seed: int) -> None:
        self._random = Random(seed)

    def copies(self) -> int:
        """How many times the next datagram goes on."""
        self.received += 1
        if self._random.random() < self.loss:
            self.lost += 1
            return 0
        if self._random.random() < self.duplicate:
            self.duplicated += 1
            return 2
        return 1


class UdpRelay(_Loop):
    """Datagrams between any number of clients and ``server``, who sees one source for each.

    there: on the way to the server. back: on the way to the client.
    """

    def __init__(self, server: Address, *, there: Way | None = None, back: Way | None = None):
        super().__init__()
        self.server = server
        self.there = there or Way(seed=1)
        self.back = back or Way(seed=2)
        self._socket = _udp_socket()
        self._socket.bind((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self.uri = f"sip:{HOST}:{self.port}"
        self._mapped: dict[Address, socket.socket] = {}

    def __enter__(self) -> UdpRelay:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._watch(self._socket, self._from_clients)
        super().start()

    @property
    def mapped(self) -> dict[Address, Address]:
        """The source that the server sees, by client."""
        return {client: sock.getsockname() for client, sock in list(self._mapped.items())}

    def rebind(self) -> None:
        """Forget every mapping, as a NAT does: what comes next has a new source."""
        self._call(self._rebind)

    def _rebind(self) -> None:
        # The new sockets first, or the kernel might give out the same ports again.
        before = dict(self._mapped)
        for client in before:
            self._mapped[client] = self._open(client)
        for sock in before.values():
            self._forget(sock)

    def _open(self, client: Address) -> socket.socket:
        sock = _udp_socket()
        sock.connect(self.server)
        self._watch(sock, lambda _: self._from_server(sock, client))
        return sock

    def _from_clients(self, _: int) -> None:
        for data, client in _datagrams(self._socket):
            if client not in self._mapped:
                self._mapped[client] = self._open(client)
            self._forward(self.there, self._mapped[client], data, self.server)

    def _from_server(self, upstream: socket.socket, client: Address) -> None:
        for data, _ in _datagrams(upstream):
            self._forward(self.back, self._socket, data, client)

    def _forward(self, way: Way, sock: socket.socket, data: bytes, to: Address) -> None:
        def send() -> None:
            with contextlib.suppress(OSError):  # the port is closed, or our socket: it is lost
                sock.sendto(data, to)

        for _ in range(way.copies()):
            if way.delay:
                self._later(way.delay, send)
            else:
                send()


class TcpProxy(_Loop):
    """Connections to ``server``, which can be made to die in every way that there is."""

    def __init__(self, server: Address) -> None:
        super().__init__()
        self.server = server
        self.accepted = 0
        self.answers = 0  # chunks from the server, be they of TLS
        self._pipes: set[_Pipe] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> TcpProxy:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def uri(self, protocol: str = "tcp") -> str:
        """Of the server as seen through it; with "tls" the client speaks that to the server."""
        return f"sip:{HOST}:{self.port};transport={protocol}"

    @property
    def connections(self) -> int:
        """How many are open, the frozen ones included."""
        return len(self._pipes)

    def freeze(self) -> int:
        """The connections that are open now take every byte and give none, and nobody closes
        them: what a NAT does that forgot them. New ones work. Returns how many there are."""
        return self._call(lambda: self._each(_Pipe.freeze))

    def cut(self, *, reset: bool = False) -> int:
        """Close what is open, with a FIN or a RST; new connections work. Returns how many."""
        return self._call(lambda: self._each(lambda pipe: pipe.close(reset)))

    def refuse(self) -> None:
        """Refuse new connections until ``accept()``."""
        self._call(lambda: self._forget(self._listener))

    def accept(self) -> None:
        def listen() -> None:
            self._listener = self._listen(self.port)

        self._call(listen)

    def _each(self, what: Callable[[_Pipe], None]) -> int:
        pipes = list(self._pipes)
        for pipe in pipes:
            what(pipe)
        return len(pipes)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((HOST, port), backlog=512)
        listener.setblocking(False)
        self._watch(listener, self._accept)
        return listener

    def _accept(self, _: int) -> None:
        with contextlib.suppress(OSError):  # gone before it was accepted, or no server
            client, _address = self._listener.accept()
            try:
                upstream = socket.create_connection(self.server, timeout=1.0)
            except OSError:
                client.close()
                raise
            self.accepted += 1
            self._pipes.add(_Pipe(self, client, upstream))


class _Pipe:
    """One client's connection and the one to the server."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, upstream: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.upstream = upstream
        self.frozen = False
        self._unsent = {client: bytearray(), upstream: bytearray()}
        for sock in (client, upstream):
            sock.setblocking(False)
            proxy._watch(sock, lambda events, sock=sock: self._ready(sock, events))  # type: ignore[misc]

    def freeze(self) -> None:
        self.frozen = True

    def close(self, reset: bool = False) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for sock in (self.client, self.upstream):
            self.proxy._forget(sock)
        self.proxy._pipes.discard(self)

    def _ready(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._send(sock)
            if events & selectors.EVENT_READ:
                self._read(sock)
        except BlockingIOError:
            pass
        except OSError:
            self._ended(sock)

    def _read(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        if not data:
            self._ended(sock)
        elif not self.frozen:
            other = self.upstream if sock is self.client else self.client
            self.proxy.answers += sock is self.upstream
            self._unsent[other] += data
            self._send(other)

    def _send(self, sock: socket.socket) -> None:
        unsent = self._unsent[sock]
        with contextlib.suppress(BlockingIOError):
            del unsent[: sock.send(unsent)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        key = self.proxy._selector.get_key(sock)
        if key.events != wanted:
            self.proxy._selector.modify(sock, wanted, key.data)

    def _ended(self, sock: socket.socket) -> None:
        if self.frozen and sock is self.upstream:
            self.proxy._forget(sock)  # the client does not hear of it
        else:
            self.close()


def _udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return sock


def _datagrams(sock: socket.socket) -> list[tuple[bytes, Address]]:
    """What has arrived, at most so many that the other sockets get their turn."""
    found = []
    for _ in range(DATAGRAMS_PER_WAKEUP):
        try:
            found.append(sock.recvfrom(65535))
        except BlockingIOError:
            break
        except OSError:  # an ICMP error of an earlier datagram
            continue
    return found
