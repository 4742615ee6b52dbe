# SPDX-License-Identifier: GPL-3.0-or-later
"""RegistrationClient: ``pjsip_regc`` with a Python face (RFC 3261 §10.2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from . import _ffi, errors
from ._challenge import WITHHELD, Asking
from ._lazy import logger
from ._operation import Operation, cancelled_error
from ._regconfig import (
    MAX_CONTACT,
    MAX_EXPIRES,
    RegConfig,
    check_contacts,
    check_timeout,
    name_addr,
)
from ._resolve import Query, Target
from ._typing import TYPE_CHECKING, Any
from .auth import TEXTS, BearerToken, Proof, Source, check_credentials, credential_texts
from .errors import ClosedError, ConfigError
from .events import EventTime, RegistrationResult, RegStarted, RegState, reg_state
from .message import Response
from .transport import Transport
from .uri import check_int, check_text, host_port

_log = logger("pjsip_py")

if TYPE_CHECKING:
    from ._engine import Engine
    from ._flow import Flow
    from .account import Account
    from .endpoint import Endpoint, EventStream, Streams


# One for all clients, thousands of which need not pay for one each.  Nothing of the program's is
# called with it held.
_lock = threading.RLock()

# What a RegState of a cancelled request carries; its Operation raises CancelledError.
CANCELLED = errors.RegistrationError(487, "cancelled", local=True)


class _Request(Operation[Any]):
    """One call of the user's, until its outcome."""

    __slots__ = (
        *("_client", "alarm", "count", "strings", "timeout", "value", "what"),
        *("automatic", "cancel_asked", "index", "probe", "sent", "stopped", "tried"),
    )

    def __init__(
        self,
        client: RegistrationClient,
        name: str,
        what: int,
        value: int,
        timeout: float | None,
        strings: Sequence[str] | None,
        count: int,
    ) -> None:
        super().__init__(client._engine, name, client._engine.next_request())
        self._client = client
        self.what = what
        self.value = value
        self.timeout = timeout
        self.strings = strings
        self.count = count
        self.alarm = 0  # of Engine.call_later(), while it is held
        # Of an account's request: see Walk in _keeper.py.
        self.index = self.tried = 0
        self.probe = self.automatic = self.cancel_asked = self.sent = self.stopped = False

    @property
    def name(self) -> str:
        return f"{self._name} {self._client.aor}"

    def _answer(self) -> Any:
        """Made of the outcome when somebody asks for it."""
        if isinstance(self._value, RegState):
            self._value = result_of(self._value)
        return self._value

    def _ask_cancel(self) -> None:
        self.cancel_asked = True
        self._client._cancel(self)

    def stop(self) -> None:
        """End what is on its way, not the request: its account sends it again."""
        self.stopped = True
        self._client._cancel(self)


class RegistrationClient:
    """One registration dialog with a registrar: ``pjsip_regc``.

    Call-ID, CSeq and nonce live as long as the client.  Its requests run one at a time, in the
    order of the calls; a request made while another, or PJSIP's own refresh, is under way waits
    for it and is never lost.  Each request has exactly one outcome: the :class:`Operation`
    resolves and a :class:`RegState` is delivered, the event first.

    A failed refresh is not repeated: its RegState (``renewal=True``) says so, and the program
    decides.

    Made by :meth:`Endpoint.registration`.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_asking",
        "_attempt",
        "_config",
        "_contact_address",
        "_contacts",
        "_endpoint",
        "_engine",
        "_fetchers",
        "_flow",
        "_handle",
        "_handlers",
        "_held",
        "_parent",
        "_pending",
        "_preparing",
        "_streams",
        "_target",
        "_targets",
        "_unresolved",
        "closed",
        "transport",
    )

    def __init__(self, endpoint: Endpoint, config: RegConfig, flow: Flow | None = None) -> None:
        self._endpoint = endpoint
        self._engine: Engine = endpoint._running_engine()
        self._config = config
        self._flow: Flow | None = flow  # of the account that it works for
        self._handle = 0
        self._attempt = 1
        self._handlers: tuple[Callable[[RegState], object], ...] = ()
        self._streams: Streams | None = None
        self._fetchers: list[RegistrationClient] | None = None
        self._preparing = False
        self._held: tuple[_Request, ...] = ()
        self._pending: dict[int, _Request] = {}
        #: The client that this one, a fetch, works for; it ends with its one outcome.
        self._parent: RegistrationClient | None = None
        self._contacts = config.settings.contacts
        #: The transport chosen; None before the first request.
        self.transport: Transport | None = None
        # Servers behind the registrar's name, and the one that an account asks (RFC 3263 §4).
        self._targets: Sequence[Target] = ()
        self._target = 0
        self._unresolved = ""  # why the last lookup gave nothing
        #: The challenge that the program's callable has to do with, in this request.
        self._asking: Asking | None = None
        self._address = ""  # of the registrar, when the transport was chosen
        self._contact_address = ""  # host:port in a Contact of our making
        self.closed = False

    # -- what it is -------------------------------------------------------------------------------

    @property
    def aor(self) -> str:
        return self._config.aor

    @property
    def registrar(self) -> str:
        return self._config.settings.registrar.text

    @property
    def contacts(self) -> tuple[str, ...]:
        """As sent; empty until the first request has chosen a transport."""
        return self._contacts or ()

    @property
    def expires(self) -> int | None:
        """Seconds asked for; None: no Expires header, the registrar decides."""
        return self._config.settings.expires

    def info(self) -> dict[str, Any]:
        """``pjsip_regc_get_info``: busy, auto_refresh, interval and next_refresh (s), …"""
        self._check_open()
        base = {"aor": self.aor, "registrar": self.registrar, "contacts": self.contacts}
        if not self._handle:
            return base | {"busy": self._preparing, "call_id": "", "waiting": len(self._held)}
        info = _ffi.client_info(self._handle)
        info["busy"], info["auto_refresh"] = bool(info["busy"]), bool(info["auto_refresh"])
        for name in ("interval", "next_refresh"):
            info[name] = None if info[name] < 0 else info[name]
        return base | info

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<RegistrationClient {self.aor} at {self.registrar}{state}>"

    # -- requests ---------------------------------------------------------------------------------

    def register(
        self, auto_refresh: bool = True, *, timeout: float | None = None
    ) -> Operation[RegistrationResult]:
        """Send REGISTER with all contacts (``pjsip_regc_register``).

        *auto_refresh*: let PJSIP refresh shortly before the granted expiry, again and again.
        *timeout* bounds the request in seconds, name resolution included; default: the client's
        ``timeout=``, and without it SIP's timer F (``EndpointConfig.td``, 32 s).
        """
        return self._ask("register", _ffi.REGISTER, int(bool(auto_refresh)), timeout)

    def unregister(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Remove our contacts (``pjsip_regc_unregister``) and stop refreshing."""
        return self._ask("unregister", _ffi.UNREGISTER, 0, timeout)

    def unregister_all(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Remove every binding of the AOR, whoever made it: ``Contact: *``."""
        return self._ask("unregister_all", _ffi.UNREGISTER_ALL, 0, timeout)

    def fetch_bindings(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Ask for the AOR's bindings: a REGISTER without Contact (RFC 3261 §10.2.3).

        Goes out at once, under a Call-ID of its own, and leaves the refresh alone.  Its outcome
        is the Operation only: no RegState, for the registration's state does not change.
        """
        self._check_open()
        config = self._config.change(contacts=(), expires=None)
        fetcher = RegistrationClient(self._endpoint, config)
        fetcher._parent = self
        if self._fetchers is None:
            self._fetchers = []
        self._fetchers.append(fetcher)
        return fetcher._ask("fetch_bindings", _ffi.REGISTER, 0, timeout)

    def update_contacts(self, contacts: str | Sequence[str]) -> Operation[None]:
        """Set the contacts from the next request on; dropped ones are removed with it, once."""
        self._check_open()
        listed = check_contacts(contacts)
        return self._set_contacts("update_contacts", listed)

    def _set_contacts(self, name: str, contacts: tuple[str, ...]) -> Operation[None]:
        self._contacts = contacts
        request = self._new_request(name, _ffi.SET_CONTACTS, strings=contacts, count=len(contacts))
        return self._submit(request)

    def update_expires(self, expires: int) -> Operation[None]:
        """Set the expiry (s) asked for from the next request on."""
        self._check_open()
        return self._set_expires(check_int("expires", expires, 1, MAX_EXPIRES))

    def _set_expires(self, value: int) -> Operation[None]:
        self._config = self._config.change(expires=value)
        return self._submit(self._new_request("update_expires", _ffi.SET_EXPIRES, value))

    def set_credentials(self, credentials: Proof | Iterable[Proof] | Source) -> Operation[None]:
        """Set the credentials from the next request on (``pjsip_regc_set_credentials``).

        Nonces that were used with the old ones are forgotten with them.
        """
        if not isinstance(credentials, Proof) and not callable(credentials):
            credentials = tuple(credentials)
        checked = check_credentials(credentials)
        if not checked:
            raise ConfigError("set_credentials: at least one")
        self._check_open()
        return self._set_credentials(checked)

    def _set_credentials(self, checked: tuple[Proof, ...] | Source) -> Operation[None]:
        self._config = self._config._replace(credentials=checked)
        texts = credential_texts(checked)
        asks = int(callable(checked))
        request = self._new_request(
            *("set_credentials", _ffi.SET_CREDENTIALS, asks, None, texts, len(texts) // TEXTS)
        )
        return self._submit(request)

    def _check_open(self) -> None:
        self._endpoint._check()
        if self.closed:
            raise ClosedError(f"{self!r} is closed")

    def _ask(
        self, name: str, what: int, value: int = 0, timeout: float | None = None
    ) -> Operation[Any]:
        self._check_open()
        return self._submit(self._new_request(name, what, value, timeout))

    def _new_request(
        self,
        name: str,
        what: int,
        value: int = 0,
        timeout: float | None = None,
        strings: Sequence[str] | None = None,
        count: int = 0,
    ) -> _Request:
        bound = self._config.settings.timeout if timeout is None else check_timeout(timeout)
        return _Request(self, name, what, value, bound, strings, count)

    def _submit(self, request: _Request) -> _Request:
        """:raises ClosedError: the client is closed."""
        first = False
        with _lock:
            if self.closed:
                raise ClosedError(f"{self!r} is closed")
            self._pending[request.request] = request
            if self._handle:
                self._post(request)
            else:
                self._held = (*self._held, request)
                first, self._preparing = not self._preparing, True
        if first:
            self._prepare()
        if self._held and request in self._held:
            self._bound_held(request)
        return request

    def _post(self, request: _Request) -> None:
        """Hand it to C, which only queues it; locked, so that the order of the calls holds."""
        try:
            timeout_ms = (
                _ffi.milliseconds(request.timeout)
                if request.timeout
                else self._endpoint._request_deadline_ms
            )
            _ffi.client_request(
                *(self._handle, request.request, request.what, request.value, timeout_ms),
                *(request.strings, request.count),
            )
        except errors.PjsipError as error:
            self._fail(request, error)  # later: done callbacks must not run under the lock

    def _cancel(self, request: _Request) -> None:
        with _lock:
            if request not in self._held:
                if self._handle:
                    _ffi.client_cancel(self._handle, request.request)
                return
            self._unhold(request)
        self._engine.call_cancel(request.alarm)
        with suppress(ClosedError):
            self._engine.call_later(0, lambda: self._cancelled(request))

    def _unhold(self, request: _Request) -> None:
        self._held = tuple(held for held in self._held if held is not request)

    # -- the regc in C ----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Choose transport and contact, then make the regc; a host name is resolved before.

        Requests are held until then, each bounded by its own timeout.
        """
        settings, transport = self._config.settings, self._config.transport
        if settings.is_address or (transport is not None and not transport.is_wildcard):
            self._create(settings.next_hop.host, settings.protocol)
            return
        engine = self._engine

        def found(targets: list[Target], reason: str) -> None:
            with suppress(ClosedError):  # then nobody waits any more
                engine.call_later(0, lambda: self._resolved(targets, reason))

        self._endpoint._resolver.find(self._query(), found)

    def _query(self) -> Query:
        """What RFC 3263 asks of the registrar's URI, or of the first route's."""
        hop, transport = self._config.settings.next_hop, self._config.transport
        named = transport.protocol if transport else hop.params.get("transport", "").lower()
        secure = hop.scheme == "sips"
        if secure and named == "tcp":
            named = "tls"  # RFC 3261 §26.2.2: it names what is below TLS
        return Query(hop.host, hop.port, named, secure)

    def _resolved(self, targets: list[Target], reason: str) -> None:
        if targets:
            self._targets = targets
            self._create(targets[0].address, self._protocol_of(targets[0]))
        else:
            self._fail_held(errors.ResolveError(reason, errors.PJ_ERESOLVE))

    def _protocol_of(self, target: Target) -> str:
        return target.protocol or self._config.settings.protocol

    def _suits(self, target: Target) -> bool:
        """Whether *target* is reached by the transport that the regc is bound to."""
        transport = self.transport
        return (
            transport is not None
            and self._protocol_of(target) == transport.protocol
            and (":" in target.address) == transport.is_ipv6
        )

    def _answer(self, query: int) -> None:
        """PJSIP is about to send and asks for the registrar's address."""

        def found(targets: list[Target], reason: str) -> None:
            fit = list(filter(self._suits, targets))
            if self._flow is not None and fit:
                # One at a time: which of them is next is the account's to decide, and it stays
                # with the one that serves as long as the name stands for it.
                now = self._targets[self._target] if self._target < len(self._targets) else None
                if now not in fit:
                    self._targets, self._target = targets, targets.index(fit[0])
                fit = [self._targets[self._target]]
            self._unresolved = "" if fit else reason or "no address fits the transport"
            _ffi.resolved(query, [host_port(t.address, t.port) for t in fit])

        self._endpoint._resolver.find(self._query(), found)

    def _aim(self, target: Target) -> None:
        """Go by another transport where *target* is not reached by the present one."""
        config = self._config
        if self._suits(target) or config.transport is not None:
            return
        protocol, address = self._protocol_of(target), target.address
        tls = config.tls if protocol == "tls" else None
        transport = self._endpoint._transport_for(protocol, address, tls)
        host = self._endpoint._local_address(address) if transport.is_wildcard else transport.host
        self._address = address
        self._move(transport, host, transport.port)

    def _bound_held(self, request: _Request) -> None:
        """End *request* in time even while the name is being resolved."""

        def expired() -> None:
            with _lock:
                if request not in self._held:
                    return
                self._unhold(request)
            self._fail(
                request,
                errors.RegistrationTimeout(408, "name resolution took too long", local=True),
            )

        seconds = request.timeout or self._endpoint._request_deadline
        self._engine.call_cancel(request.alarm)  # of another time
        request.alarm = self._engine.call_later(seconds, expired)

    def _create(self, address: str, protocol: str) -> None:
        try:
            config = self._config
            self._address = address
            here = ""
            if config.transport is None:
                chosen, here = self._endpoint._way(protocol, address, config.tls)
            else:
                chosen = config.transport
            if self._contacts is None:
                here = here or self._endpoint._address_here(chosen, address)
                self._contacts = (self._own_contact(chosen, here),)
                self._contact_address = here
            handle = self._create_native(config, chosen)
        except OSError as error:
            status = errors.OS_ERRNO + (error.errno or 0)
            self._fail_held(errors.TransportError(f"{address}: {error.strerror}", status))
        except errors.PjsipError as error:
            self._fail_held(error)
        except BaseException:
            self._fail_held(errors.TransportError("interrupted"))
            raise
        else:
            with _lock:
                if self.closed:
                    _ffi.client_destroy(handle)
                    return
                self._engine.receivers[handle] = self
                self._handle = handle
                self.transport = chosen
                held, self._held, self._preparing = self._held, (), False
                for request in held:
                    self._post(request)
            for request in held:
                if request.alarm:
                    self._engine.call_cancel(request.alarm)
                    request.alarm = 0

    def _create_native(self, config: RegConfig, transport: Transport) -> int:
        settings, contacts = config.settings, self._contacts or ()
        texts = credential_texts(config.credentials)
        to = name_addr(config.aor, settings.display_name)
        by = settings.from_uri
        strings = (
            settings.registrar.text,
            to,
            to if by is None else name_addr(by.text, settings.display_name),
            *contacts,
            *settings.route,
            *(text for header in settings.headers for text in header),
            *texts,
        )
        return _ffi.client_create(
            strings,
            len(contacts),
            len(settings.route),
            len(settings.headers),
            len(texts) // TEXTS,
            settings.expires,
            callable(config.credentials),
            settings.refresh_margin,
            transport.handle(),
            self._parent._handle if self._parent else 0,
        )

    def _own_contact(self, transport: Transport, here: str) -> str:
        settings = self._config.settings
        scheme = "sips" if settings.registrar.scheme == "sips" else "sip"
        uri = f"{scheme}:{self._config.user}@{here}"
        if transport.protocol != "udp":
            # sips: says TLS by itself; its transport is then the one below TLS (RFC 3261 §26.2.2).
            uri += ";transport=" + ("tcp" if scheme == "sips" else transport.protocol)
        contact = f"<{uri}{settings.contact_uri_params}>{settings.contact_params}"
        return check_text("contact", contact, maximum=MAX_CONTACT - 1)

    def _move(self, transport: Transport, host: str, port: int) -> None:
        """From the next request on: by this transport, and with a Contact at this address.

        The contact before is removed with that request; Call-ID, CSeq and nonce stay.
        """
        here = host_port(host, port)
        contact = self._own_contact(transport, here)
        if transport is not self.transport:
            handle = [str(transport.handle())]
            request = self._new_request("move", _ffi.SET_TRANSPORT, strings=handle, count=1)
            self._submit(request)._retrieved = True
            self.transport = transport
        self._contact_address = here
        if self._config.settings.contacts is None and (contact,) != self._contacts:
            self._set_contacts("move", (contact,))._retrieved = True

    def _fail_held(self, error: errors.PjsipError) -> None:
        """Nothing could be sent: every request so far ends with *error*."""
        with _lock:
            held, self._held, self._preparing = self._held, (), False
        for request in held:
            if request.alarm:
                self._engine.call_cancel(request.alarm)
            self._fail(request, error)

    def _fail(self, request: _Request, error: errors.PjsipError) -> None:
        """An outcome that C knows nothing of is delivered where all the others are."""
        with suppress(ClosedError):  # the endpoint's close ends it then
            self._engine.call_later(0, lambda: self._deliver_failure(request, error))

    def _deliver_failure(self, request: _Request, error: errors.PjsipError) -> None:
        if self._take(request.request) is None:
            return  # the client was closed meanwhile
        if request.what <= _ffi.UNREGISTER_ALL:
            self._conclude(self._local_state(request, error), request)
        else:
            request._finish(None, error)

    def _local_state(self, request: _Request, error: errors.PjsipError) -> RegState:
        return RegState(
            time=self._endpoint._time(),
            client=self,
            account=self._account,
            code=getattr(error, "code", 503),
            reason=getattr(error, "reason", str(error)),
            is_unregister=request.what in (_ffi.UNREGISTER, _ffi.UNREGISTER_ALL),
            local=True,
            registrar=self.registrar,
            attempt=self._attempt_number(),
            error=error,
            cancelled=error is CANCELLED,
            probe=request.probe,
            reg_id=self._reg_id,
            requests=0,
        )

    @property
    def _account(self) -> Account | None:
        return self._flow.account if self._flow is not None else None

    @property
    def _reg_id(self) -> int:
        return self._flow.reg_id if self._flow is not None else 0

    def _attempt_number(self) -> int:
        return self._attempt if self._flow is None else self._flow.attempts + 1

    def _conclude(self, event: RegState, request: _Request | None) -> None:
        """Tell the outcome, then end the request; an account may send it on instead."""
        flow, error = self._flow, event.error
        ended = True
        if flow is not None:
            try:
                retry_in, ended = flow.concluded(self, event, request)
            except Exception:  # a fault of ours must not swallow the outcome
                _log.exception("the outcome for %s could not be followed", self.aor)
            else:
                if retry_in is not None:  # nobody has seen the event yet
                    object.__setattr__(event, "retry_in", retry_in)
        if error is None:
            self._attempt = 1
        elif not event.cancelled:
            self._attempt += 1
        seen = False
        try:
            seen = self._emit(event)
        finally:
            if ended and request is not None:
                request._retrieved = seen or request.automatic
                if error is None:
                    request._finish(event, None)
                else:
                    request._finish(None, cancelled_error() if event.cancelled else error)

    # -- events -----------------------------------------------------------------------------------

    def on_reg_state(self, handler: Callable[[RegState], object]) -> Callable[[RegState], object]:
        """Call *handler* with every :class:`RegState`; usable as a decorator."""
        self._endpoint._check_handler(handler)
        self._handlers = (*self._handlers, handler)
        return handler

    def events(self) -> EventStream:
        """This client's events from now on, to iterate over, ``for`` or ``async for``."""
        self._check_open()
        if self._streams is None:
            self._streams = self._endpoint._new_streams()
        return self._endpoint._stream(self._streams)

    def _receive(self, record: _ffi.Record) -> None:
        if record.kind == _ffi.EV_REG_STATE:
            self._receive_outcome(record)
        elif record.kind == _ffi.EV_DONE:
            self._receive_done(record)
        elif record.kind == _ffi.EV_RESOLVE:
            self._answer(record.request)
        elif record.kind == _ffi.EV_CHALLENGE:
            self._challenged(record)
        elif record.kind == _ffi.EV_REG_STARTED:
            self._emit(
                RegStarted(
                    time=EventTime(record.monotonic, record.wall),
                    seq=record.seq,
                    client=self,
                    account=self._account,
                    renewal=bool(record.flags & _ffi.F_RENEWAL),
                    is_unregister=bool(record.flags & _ffi.F_UNREGISTER),
                )
            )

    def _receive_done(self, record: _ffi.Record) -> None:
        """The outcome of what needed no REGISTER, or was cancelled before it had one."""
        request = self._pending.get(record.request)
        if request is not None and record.flags & _ffi.F_CANCELLED:
            self._cancelled(request)
            return
        error = None
        if record.status:
            error = errors.from_status(record.status, _ffi.text_of(record.text[0]))
        self._finish(record.request, None, error)

    def _cancelled(self, request: _Request) -> None:
        """Nothing was sent, so nothing has changed; its one RegState says so."""
        if self._take(request.request) is None:
            return
        if request.what <= _ffi.UNREGISTER_ALL:
            self._conclude(self._local_state(request, CANCELLED), request)
        else:
            request._finish(None, cancelled_error())

    def _withholds_token(self) -> bool:
        credentials, transport = self._config.credentials, self.transport
        return (
            not callable(credentials)
            and (transport is None or transport.protocol != "tls")
            and any(isinstance(each, BearerToken) and not each.insecure for each in credentials)
        )

    def _challenged(self, record: _ffi.Record) -> None:
        source = self._config.credentials
        if callable(source):
            with suppress(ClosedError):  # the endpoint is, and C with it
                self._asking = Asking(self, source, record)
        else:  # set_credentials() in the meantime
            texts = credential_texts(source)
            _ffi.client_answer(self._handle, record.request, texts, len(texts) // TEXTS)

    def _receive_outcome(self, record: _ffi.Record) -> None:
        attempt = self._attempt_number()
        error = self._failure(record, attempt)
        # Taken out first: a handler that closes the client must not undo what the wire said.
        request = self._take(record.request) if record.request else None
        probe = request is not None and request.probe
        self._conclude(reg_state(record, self, error, attempt, probe), request)

    def _failure(self, record: _ffi.Record, attempt: int) -> errors.PjsipError | None:
        """What the outcome raises; None for a success."""
        has_response = record.length1 > 0
        if has_response and 200 <= record.code < 300:
            asking, self._asking = self._asking, None
            if asking is not None:
                asking.end()
            if self._flow is None or not _granted_nothing(record):
                return None
        reason, raw, source, _ = record.text
        text = _ffi.line_of(reason)
        response = Response(raw, _ffi.text_of(source)) if has_response else None
        if record.code == 502 and response is None:
            text = self._unresolved or text
        error: errors.PjsipError
        cancelled = bool(record.flags & _ffi.F_CANCELLED) and response is None
        if cancelled:
            error = CANCELLED
        elif record.flags & _ffi.F_TIMEOUT and response is None:
            error = errors.RegistrationTimeout(
                408, "no answer in time", local=True, attempts=attempt, status=record.status
            )
        elif 200 <= record.code < 300 and response is not None:
            error = errors.RegistrationError(
                record.code, f"{text}, but no time granted", response, retriable=True
            )
        else:
            error = errors.from_outcome(
                record.code,
                text,
                record.status,
                response=response,
                downgrade=bool(record.flags & _ffi.F_DOWNGRADE),
                verify_status=record.value4,
                handshake=bool(record.flags & _ffi.F_HANDSHAKE),
                detail=self._endpoint._mismatches.get(record.value2, ""),
                attempts=attempt,
            )
        if isinstance(error, errors.NoCredentialError) and self._withholds_token():
            error.detail = WITHHELD
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.end()
            if asking.why and not cancelled:
                error = errors.credentials_failed(record.code, text, response, asking.why, attempt)
                error.__cause__ = asking.cause
        return error

    def _emit(self, event: RegState | RegStarted) -> bool:
        """Deliver to whoever wants it; whether anybody did."""
        if self._parent is not None:
            return False
        if self._flow is not None:
            return self._flow.account._emit(event)
        if isinstance(event, RegState):
            for handler in self._handlers:
                self._endpoint._call(handler, event)
        return self._endpoint._emit(event, self._streams) or bool(self._handlers)

    # -- end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget the registration without a word to the registrar; safe to call twice.

        Requests under way raise :class:`ClosedError`; the binding lives on until it expires.
        """
        if _ffi.forked():
            self.closed = True  # the parent's locks may be held for ever in this child
        elif self._shut():
            self._end(f"{self!r} was closed")

    def _shut(self) -> bool:
        """All of close() but to end what is pending, which calls the program."""
        with _lock:
            if self.closed:
                return False
            self.closed = True
            handle, self._handle = self._handle, 0
            self._held = ()
        for fetcher in list(self._fetchers or ()):
            fetcher.close()
        if self._parent is not None and self._parent._fetchers is not None:
            with suppress(ValueError):
                self._parent._fetchers.remove(self)
        self._endpoint._client_closed(self)
        self._engine.receivers.pop(handle, None)
        if handle and not self._endpoint._closing:  # which ends all of them at once
            _ffi.client_destroy(handle)
        return True

    def _close_soon(self) -> None:
        """close() under the accounts' lock: what calls the program comes in its turn."""
        if self._shut() and self._pending:
            self._engine.soon(lambda: self._end(f"{self!r} was closed"))

    def _stop_refresh(self) -> None:
        """End PJSIP's own refresh if one is under way."""
        if self._handle:
            _ffi.client_cancel(self._handle, 0)

    def _orphan(self) -> None:
        """The endpoint closed: nothing is left in C."""
        with _lock:
            self.closed = True
            self._handle = 0
            self._held = ()
        for fetcher in list(self._fetchers or ()):
            fetcher._orphan()
        self._end("the endpoint was closed")

    def _end(self, why: str) -> None:
        for request in list(self._pending):
            self._finish(request, None, ClosedError(why))
        for stream in list(self._streams or ()):
            stream.close()

    def _finish(self, request: int, value: Any, error: BaseException | None) -> None:
        operation = self._take(request)
        if operation is not None:
            operation._finish(value, error)

    def _take(self, request: int) -> _Request | None:
        """The pending request, pending no more."""
        with _lock:
            operation = self._pending.pop(request, None)
            if not self._pending:
                self._pending = {}  # a dict that was never filled holds no table
        if self._parent is not None:
            self.close()
        return operation

    def __enter__(self) -> RegistrationClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _granted_nothing(record: _ffi.Record) -> bool:
    """A 2xx for a REGISTER that should bind us, and does not."""
    return 200 <= record.code < 300 and not record.flags & _ffi.F_UNREGISTER and record.value0 == 0


def result_of(event: RegState) -> RegistrationResult:
    assert event.response is not None
    return RegistrationResult(
        code=event.code,
        reason=event.reason,
        expires=event.expires or 0,
        response=event.response,
        algorithm=event.algorithm,
        offered=event.offered,
    )
