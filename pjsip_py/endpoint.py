# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoint: the one PJSIP of this process."""

from __future__ import annotations

import atexit
import errno
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import CoroutineType
from weakref import ref

from . import _ffi, errors
from ._clock import Clock, EngineClock
from ._engine import Engine
from ._flow import lock as _accounts_lock
from ._hooks import Hooks
from ._keepalive import Paths
from ._lazy import logger
from ._pacing import Pacer
from ._record import field_names, record, replace
from ._regconfig import check_config
from ._resolve import Hook, Resolver
from ._typing import TYPE_CHECKING, Any, TypeVar, overload
from .account import Account
from .account_config import AccountConfig, make_config
from .auth import Proof, Source
from .errors import (
    ClosedError,
    ConfigError,
    EndpointBusyError,
    ForkedError,
    PjsipError,
    TransportError,
)
from .events import (
    CallbackFailed,
    Event,
    EventsDropped,
    EventTime,
    RegStarted,
    SipMessage,
    TransportState,
)
from .regc import RegistrationClient
from .tls import TlsConfig, TlsInfo, describe_mismatch, parse_info
from .transport import Transport, check_listen
from .uri import check_bool, check_fields, check_int, check_seconds, check_text, host_port

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

_log = logger("pjsip_py")

E = TypeVar("E", bound=Event)
A = TypeVar("A", bound=Account)

MAX_CALLBACK_ERRORS = 100


def _default_user_agent() -> str:
    from . import __version__

    return f"pjsip_py/{__version__} PJSIP/{_ffi.build_info()['pjsip_version']}"


@record(frozen=True, kw_only=True)
class EndpointConfig:
    """Settings of the SIP stack; all times in seconds."""

    user_agent: str | None = None  #: None: pjsip_py and PJSIP with versions; "": no header
    worker_tick: float = 1.0  #: longest sleep of the worker; it wakes at once for work anyway
    t1: float = 0.5  #: RFC 3261 timer T1, the round-trip estimate
    t2: float = 4.0  #: T2, the longest retransmit interval
    t4: float = 5.0  #: T4, how long a message may stay in the network
    td: float = 32.0  #: timers B, D, F: how long a request waits for its answer
    log_level: int = 3  #: PJSIP's, 0 none to 5 trace, to the logger "pjsip"
    seed: int | None = None  #: makes Call-ID, tags, branches and CSeq follow from it: tests only
    #: REGISTERs a second that accounts send by themselves, all together; None: no limit.  An
    #: attempt with credentials counts as two.  A register() of the program's is never held back.
    register_rate: float | None = 200.0
    register_burst: int = 100  #: of them at once, after a pause
    trace: bool = False  #: deliver every message as SipMessage
    trace_limit: int = 4 << 20  #: bytes of trace and log records that may wait
    event_limit: int = 64 << 20  #: bytes of outcomes before refreshes of one client are merged

    def __post_init__(self) -> None:
        if self.user_agent is not None:
            check_text("user_agent", self.user_agent, maximum=200)
        check_seconds("worker_tick", self.worker_tick, 0.001, 60)
        for name in ("t1", "t2", "t4", "td"):
            check_seconds(name, getattr(self, name), 0.001, 600)
        check_bool("trace", self.trace)
        check_int("log_level", self.log_level, 0, 5)
        if self.seed is not None:
            check_int("seed", self.seed, 0, 2**64 - 1)
        if self.register_rate is not None:
            check_seconds("register_rate", self.register_rate, 0.01, 1e6)
        check_int("register_burst", self.register_burst, 2, 10**6)
        check_int("trace_limit", self.trace_limit, 0, 2**32 - 1)
        check_int("event_limit", self.event_limit, 4096, 2**32 - 1)

    def _c_fields(self) -> dict[str, Any]:
        user_agent = _default_user_agent() if self.user_agent is None else self.user_agent
        return {
            "user_agent": user_agent,
            "tick_ms": _ffi.milliseconds(self.worker_tick),
            "t1_ms": _ffi.milliseconds(self.t1),
            "t2_ms": _ffi.milliseconds(self.t2),
            "t4_ms": _ffi.milliseconds(self.t4),
            "td_ms": _ffi.milliseconds(self.td),
            "log_level": self.log_level,
            "trace": int(self.trace),
            "seeded": int(self.seed is not None),
            "seed": self.seed or 0,
            "droppable_limit": self.trace_limit,
            "outcome_limit": self.event_limit,
        }


class Streams:
    """The streams of one source, without keeping them alive; safe to walk while one is added."""

    __slots__ = ("_refs",)
    _lock = threading.RLock()

    def __init__(self) -> None:
        self._refs: tuple[ref[EventStream], ...] = ()

    def add(self, stream: EventStream) -> None:
        with self._lock:
            self._refs = (*(r for r in self._refs if r() is not None), ref(stream))

    def discard(self, stream: EventStream) -> None:
        with self._lock:
            self._refs = tuple(r for r in self._refs if r() not in (None, stream))

    def __bool__(self) -> bool:
        return any(r() is not None for r in self._refs) if self._refs else False

    def __iter__(self) -> Iterator[EventStream]:
        return (stream for r in self._refs if (stream := r()) is not None)


class EventStream:
    """Events in order, for ``for`` and ``async for``; ends when its source closes.

    Several threads or tasks may share one; each event goes to one of them.  A stream that nobody
    holds any more gets nothing.
    """

    def __init__(self, endpoint: Endpoint, register: Streams) -> None:
        self._endpoint = endpoint
        self._queue: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._register = register
        self._closed = False
        register.add(self)

    def _push(self, event: Event) -> None:
        with self._arrived:
            self._queue.append(event)
            self._wake()

    def _wake(self) -> None:
        self._arrived.notify_all()
        waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(_set, future)

    def close(self) -> None:
        """End the iteration once what has arrived is read."""
        with self._arrived:
            self._closed = True
            self._wake()
        self._register.discard(self)

    def get(self, timeout: float | None = None) -> Event:
        """The next event; :raises TimeoutError: none within *timeout* seconds;
        :raises ClosedError: none will come."""
        _ffi.check_fork("get")
        engine = self._endpoint._engine
        if engine is not None and engine.virtual is not None:
            engine.virtual.kick()
        if engine is not None and engine.pumped_by_caller():
            engine.pump_until(lambda: bool(self._queue) or self._closed, timeout)
        elif engine is not None and engine.is_delivering_here() and not self._queue:
            raise errors.WouldBlockError("waiting for an event where events are delivered")
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._queue) or self._closed, timeout)
            if self._queue:
                return self._queue.popleft()
        if self._closed:
            raise ClosedError("the source of these events is closed")
        raise TimeoutError(f"no event within {timeout:g} s")

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return self.get()
        except ClosedError:
            raise StopIteration from None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        while True:
            with self._arrived:
                if self._queue:
                    return self._queue.popleft()
                if self._closed:
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiters.append((loop, future))
            engine = self._endpoint._engine
            if engine is not None and engine.virtual is not None:
                engine.virtual.kick()
            await future

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_open_endpoint: Endpoint | None = None
_open_lock = threading.RLock()
#: Called with each endpoint that has just been opened: how the pytest plugin sees them all.
on_open: list[Callable[[Endpoint], object]] = []


class Endpoint:
    """The SIP stack of this process: transports, registrations, accounts.

    ``with`` delivers events on a thread of its own, ``async with`` on the running loop;
    ``dispatch="manual"`` leaves it to :meth:`dispatch`, called when :meth:`fileno` is readable
    (a GUI's or any other loop).  Without a ``with``, :meth:`open` or the first use starts it.

    One endpoint can be open in a process; after :meth:`close` it, or another, may be opened.

    :param config: an :class:`EndpointConfig`; its fields may be given as keywords instead.
    :param strict: raise a handler's exception from the next call, dispatch or close.
    :param resolver: is asked for the servers behind a host name in place of the system; see
        ``docs/dns.md``.
    :param clock: for tests, a :class:`pjsip_py.testing.VirtualClock`: all time follows it.
    :raises EndpointBusyError: another endpoint is open.
    """

    def __init__(
        self,
        config: EndpointConfig | None = None,
        *,
        strict: bool = False,
        dispatch: str = "auto",
        resolver: Hook | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        # First: tracebacks of what fails below show the endpoint.
        self._engine: Engine | None = None
        self._was_open = False
        self._made, self._opened_at = time.monotonic(), ""  # when and where, for the pytest plugin
        self._clients: set[RegistrationClient] = set()
        check_fields(options, field_names(EndpointConfig))
        if dispatch not in ("auto", "thread", "manual"):
            raise ConfigError("dispatch must be 'auto', 'thread' or 'manual'")
        _refuse_second(self)
        self.config = replace(config, **options) if config else EndpointConfig(**options)
        self._traced = self.config.trace
        self.strict = strict
        #: (handler, event, exception) of handlers that raised, the last hundred.
        self.callback_errors: deque[CallbackFailed] = deque(maxlen=MAX_CALLBACK_ERRORS)
        self._unraised: deque[CallbackFailed] = deque(maxlen=MAX_CALLBACK_ERRORS)
        self._dispatch_mode = dispatch
        self._closing = False
        self._close_done = threading.Event()
        self._closing_thread = 0
        self._lock = threading.RLock()
        self._handlers: dict[type[Event], list[Callable[[Any], object]]] = {}
        self._streams = Streams()
        self._accounts: dict[int, Account] = {}
        self._transports: list[Transport] = []
        if clock is not None and not hasattr(clock, "engine_options"):
            raise ConfigError("clock must be a VirtualClock of pjsip_py.testing, for tests")
        self._clock: Clock = clock or EngineClock()
        self._resolver = Resolver(resolver, self._run_coroutine, self._clock.time)
        self._hooks = Hooks("pjsip_py-credentials", self._run_coroutine)
        self._start_policy()
        self._started_wanted = False
        self._local_addresses: dict[str, tuple[str, float]] = {}
        self._ways: dict[tuple[str, str], tuple[Transport, str, float]] = {}
        # Of connections whose certificate was for another name, for the outcomes that follow.
        self._mismatches: dict[int, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Timer F ends a request; this ends it should PJSIP ever forget to.
        self._request_deadline = self.config.td + 2.0
        self._request_deadline_ms = _ffi.milliseconds(self._request_deadline)

    # -- open and close ---------------------------------------------------------------------------

    def open(self) -> Endpoint:
        """Start the stack; ``with`` and the first use do it too.

        :raises EndpointBusyError: another endpoint is open in this process.
        """
        self._open("thread" if self._dispatch_mode == "auto" else self._dispatch_mode)
        return self

    def _open(self, mode: str) -> Engine:
        global _open_endpoint
        _ffi.check_fork("open")
        with self._lock:
            if self._engine is not None:
                return self._engine
            with _open_lock:
                _refuse_second(self)
                self._opened_at = _place()
                options = self.config._c_fields() | self._clock.engine_options()
                if self.config.seed is not None:
                    options["seed"] = self.config.seed
                engine = Engine(options, self._receive)
                _open_endpoint = self
            if self._started_wanted:
                _ffi.want_started()
            self._clock.attach(engine)
            self._start_policy()
            self._engine, self._was_open = engine, True
            if mode == "thread":
                engine.drive_by_thread()
            elif mode == "asyncio":
                import asyncio

                engine.drive_by_loop(asyncio.get_running_loop())
            for call in on_open:
                call(self)
            return engine

    def _engine_open(self) -> Engine:
        self._check()
        if self._engine is not None:
            return self._engine
        self.open()
        assert self._engine is not None
        return self._engine

    def _start_policy(self) -> None:
        rate, burst = self.config.register_rate, self.config.register_burst
        self._pacer = Pacer(rate, burst, self._clock, _accounts_lock)
        self._paths = Paths(self._clock, _accounts_lock)

    def _running_engine(self) -> Engine:
        """:raises ClosedError: the endpoint is closed."""
        engine = self._engine
        if engine is None:
            raise ClosedError("the endpoint is closed")
        return engine

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any] | None:
        """On the loop that drives the endpoint; None without one."""
        loop = self._engine.loop if self._engine else None
        if loop is None or loop.is_closed():
            return None
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    @property
    def closed(self) -> bool:
        return self._engine is None and self._was_open

    def _check(self) -> None:
        """The guard of every call: forked, closed, or (strict) a handler's exception pending."""
        if self._engine is None or self._unraised or _ffi.forked():
            _ffi.check_fork("endpoint")
            if self.closed:
                raise ClosedError("the endpoint is closed; open() or a new Endpoint starts another")
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self.strict and self._unraised:
            raise self._unraised.popleft().exception

    def close(self, timeout: float = 5.0, *, network: bool = True) -> None:
        """Unregister what is registered, stop the stack and free its sockets.

        Takes at most *timeout* seconds, a registrar that does not answer included.  Safe to call
        twice and from a handler.  ``network=False`` sends nothing.
        """
        check_seconds("timeout", timeout, 0, 3600)
        deadline = time.monotonic() + timeout
        engine = self._begin_close()
        if engine is None:
            return
        try:
            if network:
                engine.wait(self._goodbyes(timeout), timeout)
        finally:
            self._stop(engine, max(1.0, deadline - time.monotonic()))
        self._raise_pending()

    def _begin_close(self) -> Engine | None:
        """None when there is nothing to close, or somebody else is at it: then wait for that."""
        if _ffi.forked():
            return None  # it is the parent's
        with self._lock:
            engine = self._engine
            if engine is None:
                return None
            if not self._closing:
                self._closing = True
                self._closing_thread = threading.get_ident()
                self._close_done.clear()
                return engine
        # A callback of what close() ends may call it again: that is no reason to wait for itself.
        if not engine.is_delivering_here() and self._closing_thread != threading.get_ident():
            self._close_done.wait(10.0)
        return None

    async def aclose(self, timeout: float = 5.0, *, network: bool = True) -> None:
        """:meth:`close` for a running event loop."""
        check_seconds("timeout", timeout, 0, 3600)
        import asyncio

        engine = self._begin_close()
        if engine is None:
            if self._closing:  # somebody else is at it
                await asyncio.to_thread(self._close_done.wait, 10.0)
            return
        try:
            goodbyes = self._goodbyes(timeout) if network else []
            if goodbyes:
                waits = [asyncio.ensure_future(_quietly(op)) for op in goodbyes]
                if engine.virtual is not None:  # see Engine.wait()
                    await asyncio.to_thread(engine.virtual.settle)
                    timeout = 0.0
                await asyncio.wait(waits, timeout=timeout)
        finally:
            self._stop(engine, max(1.0, timeout))
        self._raise_pending()

    def _goodbyes(self, timeout: float) -> list[Any]:
        operations = []
        with _accounts_lock:
            self._pacer.stop()
        for account in self._accounts.copy().values():
            if account.registered or account.state in ("registering", "registered"):
                with suppress(ClosedError):
                    operations.append(account._unregister(max(0.01, timeout)))
            else:
                account.close()
        return operations

    def _stop(self, engine: Engine, timeout: float) -> None:
        stopped = False
        with _accounts_lock:
            self._pacer.stop()
        for account in self._accounts.copy().values():
            account.close()  # while its last event can be delivered
        self._clock.detach(engine)
        try:
            stopped = engine.close(timeout)
        finally:
            self._forget()
        if not stopped:
            raise PjsipError(f"the worker did not stop within {timeout:g} s")

    def _forget(self) -> None:
        """The stack is gone, and with it all that belonged to it."""
        global _open_endpoint
        self._engine = None
        for account in self._accounts.copy().values():
            account.close()
        with _accounts_lock:
            self._paths.close()
        for client in list(self._clients):
            client._orphan()
        self._clients.clear()
        self._accounts.clear()
        for transport in self._transports:
            transport._handle = 0
        self._transports.clear()
        self._ways.clear()
        for stream in list(self._streams):
            stream.close()
        with _open_lock:
            if _open_endpoint is self:
                _open_endpoint = None
        self._closing = False
        self._close_done.set()

    def __enter__(self) -> Endpoint:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Endpoint:
        self._open("asyncio" if self._dispatch_mode == "auto" else self._dispatch_mode)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not engine.closed:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self._engine else "not open"
        return f"<Endpoint {state}, {len(self._clients)} registrations>"

    # -- transports -------------------------------------------------------------------------------

    def listen(
        self,
        protocol: str = "udp",
        host: str = "0.0.0.0",
        port: int = 0,
        *,
        tls: TlsConfig | None = None,
    ) -> Transport:
        """Open a transport: ``"udp"``, ``"tcp"`` or ``"tls"``.

        *host* is an address of this machine, ``0.0.0.0`` or ``::`` for all; *port* 0 takes a free
        one, found in ``Transport.port``.

        :raises TransportError: with the operating system's reason in ``errno``.
        :raises TlsError: certificate, key or CA cannot be used.
        """
        self._engine_open()
        return self._listen(*check_listen(protocol, host, port, tls), tls)

    def _listen(
        self, name: str, address: str, number: int, ipv6: bool, tls: TlsConfig | None
    ) -> Transport:
        if name == "tls" and tls is None:
            tls = TlsConfig()
        for port in self._clock.ports() if number == 0 else (number,):
            try:
                listening = _ffi.listen(
                    name,
                    address,
                    port,
                    ipv6,
                    tls._c_fields() if tls else None,  # in no variable, for it has the key
                    f"listen {name} {address} port {number}",
                )
                break
            except TransportError as error:
                if port in (0, number) or error.errno != errno.EADDRINUSE:
                    raise
        if tls is not None:
            self._warn_about(tls)
        transport = Transport(self, name, tls, listening)
        self._transports.append(transport)
        self._ways.clear()
        self._emit_transport(transport, "listening")
        return transport

    def _warn_about(self, tls: TlsConfig) -> None:
        engine = self._running_engine()
        for text in tls._warnings:
            engine.call_later(0, partial(_log.warning, "%s", text))

    @property
    def transports(self) -> tuple[Transport, ...]:
        return tuple(self._transports)

    def _transport_for(self, protocol: str, address: str, tls: TlsConfig | None) -> Transport:
        """The transport to reach *address*: one that listens already, else a new one."""
        with self._lock:
            ipv6 = ":" in address
            fits = [
                t
                for t in self._transports
                if t.protocol == protocol and t.is_ipv6 == ipv6 and _may_use(t, tls)
            ]
            local = self._local_address(address)
            found = (
                next((t for t in fits if t.host == local), None)
                or next((t for t in fits if t.is_wildcard), None)
                # The program's own choice of address, but never loopback for the world.
                or next(
                    (
                        t
                        for t in fits
                        if not t.implicit and _is_loopback(t.host) == _is_loopback(local)
                    ),
                    None,
                )
            )
            if found is not None:
                return found
            transport = self._listen(protocol, local, 0, ipv6, tls)
            transport.implicit = True
            return transport

    def _way(self, protocol: str, address: str, tls: TlsConfig | None) -> tuple[Transport, str]:
        """The transport to reach *address*, and ``host:port`` of ours there.

        Thousands go the same way, so it is remembered for a second.
        """
        if tls is None:
            transport, here, until = self._ways.get((protocol, address), (None, "", 0.0))
            if transport is not None and until > time.monotonic():
                return transport, here
        transport = self._transport_for(protocol, address, tls)
        here = self._address_here(transport, address)
        if tls is None:
            if len(self._ways) >= 256:
                self._ways.clear()
            self._ways[protocol, address] = transport, here, time.monotonic() + 1.0
        return transport, here

    def _address_here(self, transport: Transport, towards: str) -> str:
        """``host:port`` of *transport* as the other end is to reach it."""
        host = self._local_address(towards) if transport.is_wildcard else transport.host
        return host_port(host, transport.port)

    def _local_address(self, towards: str) -> str:
        """As the routing table has it, asked at most once a second per address."""
        now = time.monotonic()
        known, until = self._local_addresses.get(towards, ("", 0.0))
        if until < now:
            known = _ffi.local_address(towards)
            if len(self._local_addresses) >= 256:
                self._local_addresses.clear()
            self._local_addresses[towards] = (known, now + 1.0)
        return known

    def _transport_closed(self, transport: Transport, handle: int) -> None:
        if transport in self._transports:
            self._transports.remove(transport)
        self._ways.clear()
        if self._engine is not None and not _ffi.forked():
            _ffi.transport_close(handle)
            self._emit_transport(transport, "closed")

    def _time(self) -> EventTime:
        """Of an event that C has not seen."""
        return EventTime(self._clock.time(), self._clock.wall())

    def _emit_transport(self, transport: Transport, state: str) -> None:
        event = TransportState(
            time=self._time(),
            protocol=transport.protocol,
            state=state,
            local=transport.address,
        )
        if self._engine is not None:
            self._engine.call_later(0, lambda: self._emit(event))

    # -- registrations ----------------------------------------------------------------------------

    def registration(
        self,
        registrar: str,
        aor: str,
        *,
        contacts: Sequence[str] | str | None = None,
        credentials: Proof | Sequence[Proof] | Source = (),
        expires: int | None = 300,
        headers: Any = (),
        route: Sequence[str] | str = (),
        transport: Transport | None = None,
        from_uri: str | None = None,
        display_name: str = "",
        contact_params: Any = "",
        contact_uri_params: Any = "",
        tls: TlsConfig | None = None,
        timeout: float | None = None,
        refresh_margin: int | None = 5,
        credentials_timeout: float = 30.0,
    ) -> RegistrationClient:
        """A client registration, ``pjsip_regc``; nothing is sent yet.

        :param registrar: Request-URI, a domain without user part (RFC 3261 §10.2).
        :param aor: To, and From unless *from_uri* names a third party.
        :param contacts: up to 10; default: one made from the AOR's user and the transport.
        :param credentials: up to 8, or a callable, async or not, that is asked for them when a
            challenge comes: see :class:`~pjsip_py.Challenge`.
        :param expires: seconds, 1 to 2**31-1; None sends no Expires header.
        :param route: Route headers, the first is where requests go.
        :param timeout: seconds for one request; default: SIP timer F.
        :param refresh_margin: seconds before expiry to refresh, PJSIP's default; None: a fifth of
            the grant, 5 to 32.
        :param credentials_timeout: seconds that the callable has for each challenge.
        :raises InvalidUriError, ConfigError: a bad argument, before anything is sent.
        """
        config = check_config(
            *(aor, credentials, transport, tls),
            *(registrar, contacts, expires, headers, route, from_uri, display_name),
            *(contact_params, contact_uri_params, timeout, refresh_margin, credentials_timeout),
        )
        self._engine_open()
        client = RegistrationClient(self, config)
        self._clients.add(client)
        return client

    @overload
    def add_account(self, aor: str | AccountConfig, *, cls: type[A], **options: Any) -> A: ...
    @overload
    def add_account(self, aor: str | AccountConfig, **options: Any) -> Account: ...
    def add_account(
        self, aor: str | AccountConfig, *, cls: type[Account] = Account, **options: Any
    ) -> Account:
        """An account: the fields of :class:`AccountConfig` as keywords, or one made before.

        *cls* is a subclass of :class:`Account` with its hooks.
        """
        config = make_config(aor, options)
        self._engine_open()
        account = cls(self, config)
        self._accounts[id(account)] = account
        if config.register_on_add:
            account._begin()
        return account

    @property
    def accounts(self) -> tuple[Account, ...]:
        return tuple(self._accounts.copy().values())

    def network_changed(self) -> int:
        """Tell that the machine's addresses or routes are others now.

        Connections are given up, names are resolved anew, and every account that is to be
        registered registers again from the address that the routing table now has, paced; its old
        Contact is removed on the way.  Returns how many accounts that is.
        """
        self._check()
        self._running_engine()
        self._local_addresses.clear()
        self._ways.clear()
        self._resolver.forget()
        with _accounts_lock:
            for connection in self._paths.connections():
                _ffi.connection_close(connection)
            return sum(account._network_changed() for account in self._accounts.copy().values())

    def _client_closed(self, client: RegistrationClient) -> None:
        self._clients.discard(client)

    def _account_closed(self, account: Account) -> None:
        self._accounts.pop(id(account), None)

    # -- events -----------------------------------------------------------------------------------

    @overload
    def on(self, kind: type[E], handler: Callable[[E], object]) -> Callable[[E], object]: ...
    @overload
    def on(self, kind: type[E]) -> Callable[[Callable[[E], object]], Callable[[E], object]]: ...
    def on(self, kind: type[E], handler: Callable[[E], object] | None = None) -> Any:
        """Call *handler* with every event of class *kind*; without one, a decorator."""
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise ConfigError("on() takes a class of pjsip_py events")
        if handler is None:
            return lambda f: self.on(kind, f)
        self._check_handler(handler)
        self._handlers.setdefault(kind, []).append(handler)
        if issubclass(RegStarted, kind):
            self._want_started()
        return handler

    def events(self) -> EventStream:
        """All events from now on, to iterate over, ``for`` or ``async for``."""
        return self._stream(self._streams)

    def _new_streams(self) -> Streams:
        return Streams()

    def _stream(self, register: Streams) -> EventStream:
        self._want_started()
        return EventStream(self, register)

    def _check_handler(self, handler: object) -> None:
        if not callable(handler):
            raise ConfigError(f"a handler must be callable, not {type(handler).__name__}")

    def _is_watched(self, streams: Streams | None) -> bool:
        """Whether anybody looks at any events but an object's own."""
        return bool(self._handlers or self._streams._refs or streams is not None)

    def _listens(self, kind: type[Event], streams: Streams | None) -> bool:
        """Whether anybody would get an event of this class."""
        for wanted in tuple(self._handlers) if self._handlers else ():
            if issubclass(kind, wanted):
                return True
        return bool(self._streams) or bool(streams)

    def _emit(self, event: Event, streams: Streams | None = None) -> bool:
        if not self._is_watched(streams):
            return False
        seen = False
        for kind, handlers in tuple(self._handlers.items()) if self._handlers else ():
            if isinstance(event, kind):
                seen = True
                for handler in tuple(handlers):
                    self._call(handler, event)
        for stream in (*(streams or ()), *self._streams):
            stream._push(event)
            seen = True
        return seen

    def _want_started(self) -> None:
        """From now on somebody looks at RegStarted; until then C does not make it."""
        if not self._started_wanted:
            self._started_wanted = True
            if self._engine is not None:
                _ffi.want_started()

    def _call(self, handler: Callable[[Any], object], event: Event) -> None:
        """Run a handler; what it raises is reported, never lost (``CallbackFailed``)."""
        try:
            result = handler(event)
            if isinstance(result, CoroutineType):
                self._start_task(handler, event, result)
        except Exception as error:
            self._failed(handler, event, error)
        except BaseException as error:
            self._failed(handler, event, error)
            engine = self._engine
            if engine is not None and engine.passes_interrupts():
                engine.interrupt = error  # once this batch is delivered

    def _start_task(
        self, handler: Callable[[Any], Any], event: Event, coroutine: CoroutineType[Any, Any, Any]
    ) -> None:
        loop = self._engine.loop if self._engine else None
        if loop is None:
            coroutine.close()
            raise ConfigError("an async handler needs the endpoint opened by 'async with'")

        async def run() -> None:
            try:
                await coroutine
            except Exception as error:
                self._failed(handler, event, error)

        task = loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _failed(self, handler: Callable[[Any], object], event: Event, error: BaseException) -> None:
        failure = CallbackFailed(
            time=self._time(),
            handler=handler,
            event=event,
            exception=error,
        )
        self.callback_errors.append(failure)
        if self.strict:
            self._unraised.append(failure)
        _log.error("handler %r failed", handler, exc_info=error)
        if not isinstance(event, CallbackFailed):  # a failing failure handler ends here
            self._emit(failure)

    def _receive(self, record: _ffi.Record) -> None:
        when = EventTime(record.monotonic, record.wall)
        if record.kind == _ffi.EV_RESOLVE:
            _ffi.resolved(record.request, [])  # no client of ours asks: nothing to send
        elif record.kind == _ffi.EV_TRANSPORT:
            event = _transport_state(record, when)
            self._note_mismatch(event)
            if event.state in ("disconnected", "shutdown"):
                with _accounts_lock:
                    for flow in self._paths.lost(event.connection):
                        flow.lost()
            self._emit(event)
        elif record.kind == _ffi.EV_PONG:
            with _accounts_lock:
                self._paths.ponged(record.value[2])
        elif record.kind == _ffi.EV_MESSAGE:
            self._emit(
                SipMessage(
                    time=when,
                    seq=record.seq,
                    direction="tx" if record.flags & _ffi.F_OUTGOING else "rx",
                    protocol=_ffi.PROTOCOL_NAMES.get(record.value[0], "?"),
                    local=_ffi.text_of(record.text[0]),
                    remote=_ffi.text_of(record.text[1]),
                    text=_ffi.text_of(record.text[2]),
                    raw=record.text[2],
                )
            )
        elif record.kind == _ffi.EV_DROPPED:
            self._emit(
                EventsDropped(time=when, seq=record.seq, trace=record.value[0], log=record.value[1])
            )

    def _note_mismatch(self, event: TransportState) -> None:
        if event.tls and isinstance(event.error, errors.TlsError) and "name" in event.error.reasons:
            self._mismatches[event.connection] = _mismatch(event.tls, event.remote)
            if len(self._mismatches) > 64:
                del self._mismatches[next(iter(self._mismatches))]

    # -- driving ----------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that is readable while events wait; valid until close.

        :raises ClosedError: the endpoint is closed.
        """
        self._engine_open()
        return _ffi.event_fd()

    def dispatch(self, timeout: float = 0.0) -> int:
        """Deliver events to handlers and Operations; returns how many records there were.

        Waits up to *timeout* seconds for the first.  With a thread or a loop at work there is
        nothing to do for the caller, and 0 is returned.
        """
        engine = self._engine_open()
        check_seconds("timeout", timeout, 0, 86400)
        delivered = engine.dispatch(timeout) if engine.pumped_by_caller() else 0
        self._raise_pending()
        return delivered

    def _forked(self) -> bool:
        return _ffi.forked()

    def _in_running_loop(self) -> bool:
        engine = self._engine
        return engine is not None and engine.loop is not None and engine.is_delivering_here()

    def trace(self, on: bool = True) -> None:
        """Switch :class:`SipMessage` events on or off."""
        self._engine_open()
        self._traced = on
        _ffi.set_trace(on)

    def stats(self) -> dict[str, int]:
        """Counters of the C engine: events, drops, late events, failed assertions, sizes."""
        engine = self._engine_open()
        counters = _ffi.stats()
        counters["late_events"] += engine.late_events
        return counters


def _may_use(transport: Transport, tls: TlsConfig | None) -> bool:
    """Whether a registration with these TLS settings may go over *transport*.

    Without settings of its own it takes what the program listens on, or the defaults; never what
    was opened for another account, whose settings may not verify anything.
    """
    if transport.protocol != "tls":
        return True
    if tls is None and not transport.implicit:
        return True
    return transport.tls == (tls or TlsConfig())


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


async def _quietly(operation: Any) -> None:
    with suppress(PjsipError):  # an unregister that fails has been reported as RegState
        await operation


def _refuse_second(endpoint: Endpoint) -> None:
    if _ffi.forked():
        raise ForkedError(
            "this process was forked from one with an open endpoint; start it by "
            "multiprocessing's 'spawn' or 'forkserver' instead"
        )
    if _open_endpoint is not None and _open_endpoint is not endpoint:
        raise EndpointBusyError(
            f"another Endpoint is open in this process, opened at {_open_endpoint._opened_at}: "
            "close it first"
        )


def _place() -> str:
    """File and line of the program that called us."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_ITS:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_NOT_ITS = ("pjsip_py", "contextlib")


def _mismatch(tls: TlsInfo | None, remote: str) -> str:
    return describe_mismatch(tls, remote.rpartition(":")[0].strip("[]"))


def _transport_state(record: _ffi.Record, when: EventTime) -> TransportState:
    reason, remote = _ffi.text_of(record.text[2]), _ffi.text_of(record.text[1])
    tls = parse_info(record.text[3])
    error: PjsipError | None = None
    if record.status:
        error = errors.transport_error(
            record.status,
            reason,
            verify_status=record.value[4],
            handshake=bool(record.flags & _ffi.F_HANDSHAKE),
            detail=_mismatch(tls, remote),
        )
    return TransportState(
        time=when,
        seq=record.seq,
        protocol=_ffi.PROTOCOL_NAMES.get(record.value[0], "?"),
        state=_ffi.TRANSPORT_STATES.get(record.value[1], "?"),
        local=_ffi.text_of(record.text[0]),
        remote=remote,
        connection=record.value[2],
        reason=reason,
        error=error,
        tls=tls,
    )


@atexit.register
def _close_at_exit() -> None:
    endpoint = _open_endpoint
    if endpoint is not None and not _ffi.forked():
        warnings.warn(f"{endpoint!r} was still open at exit", ResourceWarning, stacklevel=2)
        try:
            endpoint.close(timeout=2.0)
        except Exception:
            _log.exception("closing the endpoint at exit")
