# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets of the registrar: UDP, TCP and TLS on one asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from .clock import VirtualClock
from .faults import Fault
from .framing import StreamFramer
from .message import MAX_MESSAGE, MalformedRequest
from .sockets import cut, linger_not, send_from
from .tls_layer import TlsLayer

Address = tuple[str, int]
_DATAGRAMS_PER_WAKEUP = 64
_PORT_TRIES = 50
# Passes of the loop without an event, in a row: what a callback has started is over then.
_IDLE_PASSES = 2
_STREAM_PASSES = 4
_CONNECTING_PASSES = 20


class Flow(Protocol):
    """Where a message came from, and the way back."""

    protocol: str
    source: Address
    local: Address

    def send(self, data: bytes, destination: Address) -> bool:
        """Send; on a stream the destination is the peer. False when it could not be sent."""


class Datagrams(Flow, Protocol):
    """UDP."""

    def send_from(self, local: Address, data: bytes, destination: Address) -> bool:
        """Send from another address than the server's."""


class Stream(Flow, Protocol):
    """A TCP or TLS connection."""

    def send_pieces(self, pieces: Sequence[bytes], pause: float) -> bool:
        """Send each piece in a segment of its own, `pause` seconds apart; others wait behind."""

    def end(self, how: str) -> None:
        """``"close"``, ``"half-close"`` or ``"reset"``, when all pieces have gone."""


class Receiver(Protocol):
    """What the transports tell the registrar; on_keepalive: whether a stream's gets a pong,
    on_accept: what is to go wrong with it."""

    def on_accept(self, protocol: str, source: Address) -> Fault | None: ...
    def on_message(self, data: bytes, flow: Flow) -> None: ...
    def on_keepalive(self, flow: Flow) -> bool: ...
    def on_broken_stream(self, error: MalformedRequest, flow: Flow) -> None: ...


def bind(protocol: str, host: str, port: int) -> socket.socket:
    """Open a non-blocking socket. Raises ``OSError`` with the address in its text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    # asyncio switches Nagle's algorithm off only where it is said that this is TCP.
    number = socket.IPPROTO_UDP if protocol == "udp" else socket.IPPROTO_TCP
    sock = socket.socket(family, kind, number)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:  # a burst of requests waits here while Python works on the ones before it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(512)
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno, f"cannot listen on {protocol} {host} port {port}: {error.strerror}"
        ) from error
    return sock


def bind_all(
    protocols: tuple[str, ...], host: str, ports: dict[str, int], free: Iterator[int]
) -> dict[str, socket.socket]:
    """Open one socket for each protocol; who asks for no port gets the next of *free*.

    UDP and TCP share a free port number when neither asks for one: a client that finds its
    request too long for UDP goes to TCP on the same port (RFC 3261 §18.1.1).
    """
    shared = {"udp", "tcp"} <= set(protocols) and not (ports.get("udp") or ports.get("tcp"))
    fixed = all(ports.get(protocol) for protocol in protocols)
    for attempt in range(_PORT_TRIES):
        sockets: dict[str, socket.socket] = {}
        try:
            for protocol in protocols:
                other = sockets.get({"udp": "tcp", "tcp": "udp"}.get(protocol, ""))
                if shared and other is not None:
                    port = other.getsockname()[1]
                else:
                    port = ports.get(protocol) or next(free)
                sockets[protocol] = bind(protocol, host, port)
            return sockets
        except OSError:
            for sock in sockets.values():
                sock.close()
            if fixed or attempt == _PORT_TRIES - 1:
                raise
    raise AssertionError("not reached")


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    return name[0], name[1]


class _CountingSelector(selectors.DefaultSelector):
    """Tells whether there was anything to do."""

    events = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.events += len(ready)
        return ready

    def ready(self) -> bool:
        return bool(super().select(0))


class _UdpFlow:
    protocol = "udp"

    def __init__(
        self, server: Server, sock: socket.socket, source: Address, local: Address
    ) -> None:
        self._server = server
        self._sock = sock
        self.source = source
        self.local = local

    def send(self, data: bytes, destination: Address) -> bool:
        try:
            self._sock.sendto(data, destination)
        except OSError:  # a full buffer or a closed port: the datagram is lost, as UDP may
            return False
        self._server.sent += 1
        return True

    def send_from(self, local: Address, data: bytes, destination: Address) -> bool:
        done = send_from(local, data, destination)
        self._server.sent += done
        return done


class _StreamFlow(asyncio.Protocol):
    """One TCP or TLS connection."""

    def __init__(self, server: Server, protocol: str) -> None:
        self._server = server
        self.protocol = protocol
        self.source: Address = ("", 0)
        self.local: Address = ("", 0)
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None
        self._ended = False  # half-closed: nothing more can be sent
        # What to send or do, how long to wait then, and whether a message is complete with it.
        self._steps: deque[tuple[bytes | str, float, bool]] = deque()
        self._pausing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.source = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        self._steps.clear()

    def data_received(self, data: bytes) -> None:
        receiver = self._server.receiver
        try:
            for message in self._framer.feed(data):
                if message:
                    self._server.received += 1
                    receiver.on_message(message, self)
                elif receiver.on_keepalive(self) and self._transport is not None:
                    self._steps.append((b"\r\n", 0.0, False))
                    self._go_on()
        except MalformedRequest as error:
            receiver.on_broken_stream(error, self)
            self.close()

    def send(self, data: bytes, destination: Address) -> bool:
        return self.send_pieces([data], 0.0)

    def send_pieces(self, pieces: Sequence[bytes], pause: float) -> bool:
        if self._transport is None or self._transport.is_closing() or self._ended:
            return False
        *first, last = pieces
        self._steps += ((piece, pause, False) for piece in first)
        self._steps.append((last, 0.0, True))
        self._go_on()
        return True

    def end(self, how: str) -> None:
        self._steps.append((how, 0.0, False))
        self._go_on()

    def _go_on(self) -> None:
        if self._pausing:
            return
        while self._steps and self._transport is not None:
            step, pause, whole = self._steps.popleft()
            if isinstance(step, bytes):
                if not self._ended:
                    self._transport.write(step)
                    self._server.sent += whole
            elif step == "half-close":
                self._ended = True
                self._transport.write_eof()
            else:
                self.close(reset=step == "reset")
            if pause:
                self._pausing = True
                self._server.call_later(pause, self._after_pause)
                return

    def _after_pause(self) -> None:
        self._pausing = False
        self._go_on()

    def close(self, *, reset: bool = False) -> None:
        """Close after what is buffered is sent, or at once with a TCP RST."""
        if self._transport is None:
            return
        if reset:
            cut(self._transport)
        else:
            self._transport.close()


class Server:
    """Runs the sockets. Everything in :class:`Receiver` is called on its thread.

    While an endpoint follows the same virtual clock, it looks at its sockets only when the clock
    has it :meth:`turn`.
    """

    def __init__(
        self,
        receiver: Receiver,
        on_error: Callable[[BaseException], None],
        clock: VirtualClock | None = None,
    ) -> None:
        self.receiver = receiver
        self.received = self.sent = 0  # messages
        self._clock = clock
        self._baton = threading.Condition()
        self._held = self._parked = self._wanted = False
        self._moved = 0
        self.connections: set[_StreamFlow] = set()
        self._accepted: dict[asyncio.Task[None], socket.socket] = {}
        self._layers: set[TlsLayer] = set()
        self._on_error = on_error
        self._sockets: dict[str, socket.socket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = self._hanging_up = False

    def start(
        self, sockets: dict[str, socket.socket], ssl_context: ssl.SSLContext | None, timeout: float
    ) -> None:
        """Serve on `sockets` until :meth:`stop`. The sockets belong to the server then."""
        self._sockets = sockets
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ssl_context, ready), name="sip-registrar", daemon=True
        )
        self._thread.start()
        if not ready.wait(timeout):
            raise TimeoutError(f"the registrar's thread did not start within {timeout} s")
        if self._clock is not None:
            self._clock.join(self)

    def stop(self, timeout: float) -> bool:
        """Close everything. False when the thread has not ended after `timeout` seconds."""
        thread = self._thread
        if thread is None:
            return True
        if thread is threading.current_thread():
            raise RuntimeError("a callback of the registrar cannot stop it")
        if self._clock is not None:
            self._clock.leave(self)
        self._stopping = True
        self._interrupt()
        thread.join(timeout)
        if thread.is_alive():
            return False
        self._thread = None
        return True

    def is_here(self) -> bool:
        """Whether this thread is the server's."""
        return threading.current_thread() is self._thread

    def _interrupt(self) -> None:
        """Have the thread look at what is wanted of it."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(self._look)
        with self._baton:
            self._baton.notify_all()

    def _look(self) -> None:
        if self._loop is not None and not self._hanging_up:
            self._loop.stop()

    # -- in turns with an endpoint (VirtualClock) -----------------------------------------------

    def hold(self, timeout: float = 5.0) -> None:
        """From now on nothing happens but in a :meth:`turn`."""
        self._held = True
        self._interrupt()
        with self._baton:
            self._baton.wait_for(lambda: self._parked or self._loop is None, timeout)

    def release(self) -> None:
        """Run freely again."""
        self._held = False
        self._interrupt()

    def turn(self, timeout: float) -> int:
        """Do all there is to do; how much that was.

        Raises ``TimeoutError`` when a callback is still at it after `timeout` seconds.
        """
        with self._baton:
            if not self._held or self._loop is None or self._stopping:
                return 0
            if self._parked and not self._selector.ready():
                return 0
            self._wanted = True
            self._baton.notify_all()
            if not self._baton.wait_for(
                lambda: not (self._wanted and self._held) or self._loop is None, timeout
            ):
                raise TimeoutError(
                    f"the registrar's thread was busy for {timeout} s: "
                    "a match or raw callback is still running"
                )
            return self._moved

    def _take_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._baton:
            self._parked = True
            self._baton.notify_all()
            while self._held and not self._stopping:
                if not self._wanted:
                    self._baton.wait()
                    continue
                self._baton.release()
                try:
                    moved = self._run_to_rest(loop)
                finally:
                    self._baton.acquire()
                self._moved = moved
                self._wanted = False
                self._baton.notify_all()
            self._parked = self._wanted = False
            self._baton.notify_all()

    def _run_to_rest(self, loop: asyncio.AbstractEventLoop) -> int:
        selector = self._selector
        before, idle = selector.events, 0
        while idle < self._idle_passes():
            seen = selector.events
            loop.call_soon(loop.stop)  # one pass, and no wait
            loop.run_forever()
            idle = 0 if selector.events != seen else idle + 1
        return selector.events - before

    def _idle_passes(self) -> int:
        if self._accepted:
            return _CONNECTING_PASSES
        return _STREAM_PASSES if self.connections or self._layers else _IDLE_PASSES

    def call(self, function: Callable[[], None], timeout: float) -> None:
        """Run a function on the server's thread and wait for it."""
        loop = self._loop
        if loop is None:
            return
        done = threading.Event()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        loop.call_soon_threadsafe(run)
        self.turn(timeout)
        if not done.wait(timeout):
            raise TimeoutError(f"the registrar's thread was busy for {timeout} s")

    def lost(self) -> str:
        """Which socket has been closed by somebody else; empty when none has."""
        if self._stopping:
            return ""
        for protocol, sock in self._sockets.items():
            try:
                sock.getsockname()
            except OSError as error:
                return f"its {protocol} socket is lost: {error.strerror}"
        return ""

    def call_later(self, delay: float, function: Callable[[], None]) -> None:
        """Run a function on the server's thread after `delay` seconds, if it still runs then."""
        if self._clock is not None:
            self._clock.call_on(self, delay, function)
            return
        assert self._loop is not None
        self._loop.call_later(delay, function)

    def _run(self, ssl_context: ssl.SSLContext | None, ready: threading.Event) -> None:
        # A selector loop on every system: the datagrams are read with add_reader.
        self._selector = _CountingSelector()
        loop = asyncio.SelectorEventLoop(self._selector)
        try:
            loop.set_exception_handler(self._loop_error)
            self._loop = loop
            self._serve(loop, ssl_context)
            ready.set()
            while not self._stopping:
                if self._held:
                    self._take_turns(loop)
                else:
                    loop.run_forever()
            self._hanging_up = True
            for sock in self._sockets.values():
                loop.remove_reader(sock)
            loop.run_until_complete(self._hang_up())
        except BaseException as error:
            self._on_error(error)
        finally:
            self._loop = None
            for sock in self._sockets.values():
                sock.close()
            loop.close()
            ready.set()
            with self._baton:
                self._baton.notify_all()

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):  # a peer that went away, or refused the certificate
            return
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        self._on_error(error)

    def _serve(self, loop: asyncio.AbstractEventLoop, ssl_context: ssl.SSLContext | None) -> None:
        for protocol, sock in self._sockets.items():
            if protocol == "udp":
                local = _address(sock.getsockname())
                loop.add_reader(sock, self._read_datagrams, sock, local)
            else:
                context = ssl_context if protocol == "tls" else None
                loop.add_reader(sock, self._accept, sock, protocol, context)

    async def _hang_up(self) -> None:
        """Close every connection: those still shaking hands, then the others."""
        accepted = dict(self._accepted)
        for task in accepted:
            task.cancel()
        await asyncio.gather(*accepted, return_exceptions=True)
        for layer in list(self._layers):
            layer.close()
        for connection in list(self.connections):
            connection.close()
        for _ in range(20):  # time for what is in the buffers; then whoever does not read is cut
            if not self.connections and not self._layers:
                break
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.close(reset=True)
        for layer in list(self._layers):
            layer.abort()
        for _ in range(20):  # the transports need some turns of the loop to finish
            await asyncio.sleep(0)
        for sock in accepted.values():  # of a task that was cancelled before its first step
            sock.close()

    def _accept(
        self, listener: socket.socket, protocol: str, context: ssl.SSLContext | None
    ) -> None:
        # Not loop.create_server: it does not tell which connections are being made, and a
        # registrar that stops has to end those too.
        assert self._loop is not None
        try:
            sock, name = listener.accept()
            sock.setblocking(False)
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:  # out of descriptors: better told than tried for ever
            self._loop.remove_reader(listener)
            self._on_error(error)
            return
        fault = self.receiver.on_accept(protocol, _address(name))
        if fault is not None and protocol == "tcp":
            if fault.name == "reset":
                linger_not(sock)
            sock.close()
            return
        task = self._loop.create_task(self._connect(sock, protocol, context, fault))
        self._accepted[task] = sock
        task.add_done_callback(self._connected)

    async def _connect(
        self,
        sock: socket.socket,
        protocol: str,
        context: ssl.SSLContext | None,
        fault: Fault | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # a peer that went away
            await loop.connect_accepted_socket(
                lambda: self._protocol(protocol, context, fault), sock
            )

    def _protocol(
        self, protocol: str, context: ssl.SSLContext | None, fault: Fault | None
    ) -> asyncio.Protocol:
        flow = _StreamFlow(self, protocol)
        if context is None:
            return flow
        layer = TlsLayer(context, flow, self._layers.discard, fault)
        self._layers.add(layer)
        return layer

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._accepted.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def _read_datagrams(self, sock: socket.socket, local: Address) -> None:
        for _ in range(_DATAGRAMS_PER_WAKEUP):
            try:
                data, name = sock.recvfrom(MAX_MESSAGE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of an earlier answer
                continue
            flow = _UdpFlow(self, sock, _address(name), local)
            if data.strip(b"\r\n\0"):
                self.received += 1
                self.receiver.on_message(data, flow)
            else:
                self.receiver.on_keepalive(flow)
