# SPDX-License-Identifier: GPL-3.0-or-later
"""Account: an AOR that is to be reachable, in pjsua's words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from . import errors
from ._operation import Operation
from ._regconfig import RegConfig, check_config
from .auth import Credentials
from .errors import ConfigError
from .events import Event, RegistrationResult, RegStarted, RegState
from .message import Binding
from .regc import RegistrationClient
from .tls import TlsConfig
from .transport import Transport
from .uri import check_fields, default_registrar, parse_aor

if TYPE_CHECKING:
    from .endpoint import Endpoint, EventStream


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConfig:
    """Everything that makes an account; checked when it is made.

    :raises InvalidUriError: a URI; :raises ConfigError: any other field, by its name.
    """

    aor: str  #: address of record, ``sip:user@domain`` (pjsua: ``id``)
    registrar: str | None = None  #: default: the AOR's domain (pjsua: ``reg_uri``)
    credentials: Credentials | Sequence[Credentials] = ()
    expires: int = 300  #: seconds asked for (pjsua: ``reg_timeout``)
    timeout: float | None = None  #: seconds for one request; default: SIP timer F, 32 s
    transport: Transport | None = None
    route: Sequence[str] = ()  #: Route headers (pjsua: ``proxy``)
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    contacts: Sequence[str] | None = None  #: instead of one of our making (``force_contact``)
    contact_params: Mapping[str, str | None] | str = ""  #: after the Contact's URI
    contact_uri_params: Mapping[str, str | None] | str = ""  #: inside it (RFC 8599 push)
    display_name: str = ""
    from_uri: str | None = None  #: third-party registration: From differs from To
    tls: TlsConfig | None = None
    #: The same, checked, as C takes it.
    _checked: RegConfig = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = {name: getattr(self, name) for name in _FIELDS}
        if self.registrar is None:
            options["registrar"] = default_registrar(parse_aor("aor", self.aor)).text
        object.__setattr__(self, "_checked", check_config(**options))


_FIELDS = tuple(f.name for f in fields(AccountConfig) if f.init)
# Guards a few assignments of all accounts, thousands of which need not pay for one each.
_lock = threading.Lock()


def make_config(aor: str | AccountConfig, options: dict[str, Any]) -> AccountConfig:
    if isinstance(aor, AccountConfig):
        if options:
            raise ConfigError("give an AccountConfig or its fields, not both")
        return aor
    check_fields(options, _FIELDS)
    return AccountConfig(aor=aor, **options)


class Account:
    """One AOR and its registration; made by :meth:`Endpoint.add_account`.

    PJSIP refreshes it shortly before it expires.  A refresh that fails is told (``state`` is then
    "failed") and not repeated by itself: call :meth:`register` again.

    Subclass it and override :meth:`on_reg_started` and :meth:`on_reg_state` for the style of
    PJSUA2, or give handlers, or iterate over :meth:`events`.
    """

    __slots__ = (
        "__weakref__",
        "_endpoint",
        "_handlers",
        "_last",
        "_waiting",
        "client",
        "config",
        "expires_at",
        "refresh_at",
        "state",
    )

    def __init__(self, endpoint: Endpoint, config: AccountConfig) -> None:
        self._endpoint = endpoint
        self.config = config
        self.client = RegistrationClient(endpoint, config._checked, self)
        #: idle, registering, registered, unregistering, unregistered or failed
        self.state = "idle"
        #: time.time() at which the binding ends, None without one
        self.expires_at: float | None = None
        #: time.time() of the next refresh, None without one
        self.refresh_at: float | None = None
        self._last: RegState | None = None
        self._handlers: tuple[Callable[[RegState], object], ...] = ()
        self._waiting: tuple[Operation[RegistrationResult], ...] = ()
        if type(self).on_reg_started is not Account.on_reg_started:
            endpoint._want_started()

    # -- what it is -------------------------------------------------------------------------------

    @property
    def aor(self) -> str:
        return self.config.aor

    @property
    def registrar(self) -> str:
        return self.client.registrar

    @property
    def closed(self) -> bool:
        return self.client.closed

    @property
    def registered(self) -> bool:
        return self.expires_at is not None and self.expires_at > time.time()

    @property
    def binding(self) -> Binding | None:
        """Our own Contact as the registrar listed it last, None when not registered."""
        if self._last is None or not self.registered:
            return None
        own = {contact.partition("<")[2].partition(">")[0] for contact in self.client.contacts}
        return next((b for b in self._last.bindings if b.uri in own), None)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.state
        return f"<{type(self).__name__} {self.aor} {state}>"

    # -- requests ---------------------------------------------------------------------------------

    def register(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Register, and let PJSIP refresh; see :meth:`RegistrationClient.register`."""
        return self._ask("registering", self.client.register, timeout)

    def unregister(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Remove our binding and stop refreshing."""
        return self._ask("unregistering", self.client.unregister, timeout)

    def _ask(
        self,
        state: str,
        request: Callable[..., Operation[RegistrationResult]],
        timeout: float | None,
    ) -> Operation[RegistrationResult]:
        before, self.state = self.state, state  # first: the outcome may be faster than the return
        try:
            return request(timeout=timeout)
        except BaseException:
            self.state = before
            raise

    def wait_registered(self, timeout: float | None = None) -> Any:
        """Wait until registered: at once if so, else for the next success.

        Blocks and returns the :class:`RegistrationResult`; inside a running event loop it
        returns something to ``await`` instead.

        :raises TimeoutError: not registered within *timeout* seconds.
        """
        operation: Operation[RegistrationResult] = Operation(
            self.client._engine, f"wait_registered {self.aor}"
        )
        with _lock:
            self.client._check_open()
            last = self._last if self.registered else None
            if last is None:
                self._waiting = (*self._waiting, operation)
        if last is not None:
            operation._finish(_result_of(last), None)
        if self._endpoint._in_running_loop():
            return self._await_registered(operation, timeout)
        try:
            return operation.result(timeout)
        finally:
            self._stop_waiting(operation)

    async def _await_registered(
        self, operation: Operation[RegistrationResult], timeout: float | None
    ) -> RegistrationResult:
        import asyncio

        try:
            return await asyncio.wait_for(_awaited(operation), timeout)
        except asyncio.TimeoutError:  # TimeoutError itself since Python 3.11
            raise TimeoutError(f"{self.aor} not registered within {timeout:g} s") from None
        finally:
            self._stop_waiting(operation)

    def _stop_waiting(self, operation: Operation[RegistrationResult]) -> None:
        with _lock:
            self._waiting = tuple(o for o in self._waiting if o is not operation)

    # -- events -----------------------------------------------------------------------------------

    def on_reg_state(self, event: Any) -> Any:
        """A hook to override, ``def on_reg_state(self, event)``; also takes a handler to add.

        Given a callable, as in ``acc.on_reg_state(handler)`` or as a decorator, it adds that as
        a handler.
        """
        if isinstance(event, RegState):
            return None
        return self.add_handler(event)

    def add_handler(self, handler: Callable[[RegState], object]) -> Callable[[RegState], object]:
        """Call *handler* with every :class:`RegState` of this account."""
        self._endpoint._check_handler(handler)
        self._handlers = (*self._handlers, handler)
        return handler

    def on_reg_started(self, event: RegStarted) -> None:
        """A hook to override: a REGISTER is about to leave."""

    def events(self) -> EventStream:
        """This account's events from now on, to iterate over, ``for`` or ``async for``."""
        return self.client.events()

    def _note(self, event: RegState) -> None:
        now = event.time.wall
        waiting: tuple[Operation[RegistrationResult], ...] = ()
        with _lock:
            if event.cancelled:
                self.state = "registered" if self.registered else "idle"
                self.refresh_at = None
            elif event.error is not None:
                self.state = "failed"
                self.refresh_at = None
            elif event.is_unregister:
                self.state = "unregistered"
                self.expires_at = self.refresh_at = None
            else:
                self.state = "registered"
                self._last = event
                self.expires_at = now + (event.expires or 0)
                self.refresh_at = None if event.refresh_in is None else now + event.refresh_in
                waiting, self._waiting = self._waiting, ()
        for operation in waiting:
            operation._finish(_result_of(event), None)

    def _call_handlers(self, event: Event) -> bool:
        """Run hooks and handlers; whether there was any."""
        if isinstance(event, RegStarted):
            self._endpoint._call(self.on_reg_started, event)
            return True
        handlers = self._handlers
        if type(self).on_reg_state is not Account.on_reg_state:
            handlers = (self.on_reg_state, *handlers)
        for handler in handlers:
            self._endpoint._call(handler, event)
        return bool(handlers)

    # -- end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget the account without a word to the registrar; ``unregister()`` first to leave.

        Safe to call twice, from a handler and from any thread.
        """
        self.client.close()
        self._endpoint._account_closed(self)
        with _lock:
            waiting, self._waiting = self._waiting, ()
        for operation in waiting:
            operation._finish(None, errors.ClosedError(f"{self!r}"))


async def _awaited(operation: Operation[RegistrationResult]) -> RegistrationResult:
    return await operation


def _result_of(event: RegState) -> RegistrationResult:
    assert event.response is not None
    return RegistrationResult(
        code=event.code,
        reason=event.reason,
        expires=event.expires or 0,
        response=event.response,
        algorithm=event.algorithm,
    )
