# SPDX-License-Identifier: GPL-3.0-or-later
"""Account: an AOR that is to be reachable, in pjsua's words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from . import errors
from ._flow import FAREWELL, Flow, lock
from ._keeper import STATES
from ._operation import Operation, cancelled_error
from ._record import replace
from ._typing import TYPE_CHECKING, Any
from .account_config import FIELDS, AccountConfig
from .errors import ClosedError, ConfigError, PjsipError
from .events import (
    AccountEvent,
    AccountState,
    Event,
    EventTime,
    RegistrationResult,
    RegStarted,
    RegState,
    result_of_success,
)
from .message import Binding
from .regc import RegistrationClient, result_of
from .uri import check_fields

if TYPE_CHECKING:
    from .endpoint import Endpoint, EventStream, Streams

#: As many of a registrar's Path and Service-Route are kept.
MAX_ROUTES = 16
# A change of these alone does not need another regc.
_POLICY_FIELDS = frozenset(
    {"retry", "failback", "keep_alive", "pong_timeout", "contact_rewrite", "register_on_add"}
)
_LIVE_FIELDS = _POLICY_FIELDS | {"credentials", "expires"}
# These leave our Contact, and where it is bound, as they are.
_SAME_BINDING = _LIVE_FIELDS | {
    *("timeout", "refresh_margin", "headers", "contact_params", "display_name", "from_uri")
}


class Account:
    """One AOR and its registration; made by :meth:`Endpoint.add_account`.

    PJSIP refreshes it before it expires.  What fails is tried again as ``config.retry`` says, at
    the next registrar where there are several; a connection that dies is replaced.  ``state`` is

    ============== ============================================================================
    idle           nothing was asked for yet
    registering    a REGISTER is under way
    registered     bound, and refreshed in time
    waiting        the next attempt is planned, see ``retry_at``
    failed         given up, see ``error``; :meth:`register` starts anew
    unregistering  the binding is being removed
    unregistered   the binding was removed
    closed         forgotten
    ============== ============================================================================

    Subclass it and override :meth:`on_reg_started` and :meth:`on_reg_state` for the style of
    PJSUA2, or give handlers, or iterate over :meth:`events`.
    """

    __slots__ = (
        *("__weakref__", "_endpoint", "_farewells", "_flows", "_handlers", "_streams"),
        *("_waiting",),
        *("config", "state"),
    )

    def __init__(self, endpoint: Endpoint, config: AccountConfig) -> None:
        self._endpoint = endpoint
        self.config = config
        #: idle, registering, registered, waiting, failed, unregistering, unregistered, closed
        self.state = "idle"
        self._handlers: tuple[Callable[[RegState], object], ...] = ()
        self._waiting: tuple[Operation[RegistrationResult], ...] = ()
        self._streams: Streams | None = None
        self._farewells: tuple[Operation[Any], ...] = ()  # to bindings that modify() removes
        self._flows = self._make_flows()
        cls = type(self)
        if cls is not Account and cls.on_reg_started is not Account.on_reg_started:
            endpoint._want_started()

    def _make_flows(self) -> tuple[Flow, ...]:
        outbound = self.config.outbound is not False
        if not outbound:
            return (Flow(self, self.config._flow_configs(0, outbound), 0, outbound),)
        return tuple(
            Flow(self, self.config._flow_configs(n, outbound), n, outbound)
            for n in range(1, self.config._flows() + 1)
        )

    # -- what it is -------------------------------------------------------------------------------

    @property
    def aor(self) -> str:
        return self.config.aor

    @property
    def client(self) -> RegistrationClient:
        """The ``pjsip_regc`` at the registrar that serves, or is asked next."""
        self._endpoint._check()
        with lock:
            self._check_open()
            return self._best.client

    @property
    def _best(self) -> Flow:
        if len(self._flows) == 1:
            return self._flows[0]
        return min(self._flows, key=lambda flow: STATES.index(flow.state))

    @property
    def registrar(self) -> str:
        """The one that serves, or is asked next."""
        return self._best.registrar

    @property
    def registrars(self) -> tuple[str, ...]:
        """All of them, the preferred one first."""
        return tuple(config.settings.registrar.text for config in self.config._checked)

    @property
    def flows(self) -> tuple[int, ...]:
        """The reg-ids that are registered (RFC 5626 §4.2); (0,) without outbound."""
        return tuple(flow.reg_id for flow in self._flows if self._is_bound(flow))

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    @property
    def registered(self) -> bool:
        """Whether there is a binding that has not expired."""
        return any(map(self._is_bound, self._flows))

    def _is_bound(self, flow: Flow) -> bool:
        return flow.expires_at is not None and flow.expires_at > flow.clock.time()

    def _wall(self, at: float | None) -> float | None:
        """time.time() of an instant on the flows' clock."""
        clock = self._endpoint._clock
        return None if at is None else clock.wall() + at - clock.time()

    @property
    def expires_at(self) -> float | None:
        """time.time() at which the binding ends, None without one."""
        return self._wall(self._best.expires_at)

    @property
    def refresh_at(self) -> float | None:
        """time.time() of the next refresh, None without one."""
        return self._wall(self._best.refresh_at)

    @property
    def retry_at(self) -> float | None:
        """time.time() of the next attempt, None when none is planned."""
        return self._wall(self._best.retry_at)

    @property
    def error(self) -> PjsipError | None:
        """What the last attempt failed with; None since a success."""
        return self._best.error

    @property
    def attempts(self) -> int:
        """REGISTERs in a row that failed."""
        return self._best.attempts

    @property
    def _last(self) -> RegistrationResult | None:
        last = self._best.last
        return result_of_success(last) if last is not None and self.registered else None

    @property
    def binding(self) -> Binding | None:
        """Our own Contact as the registrar listed it last, None when not registered."""
        flow, last = self._best, self._last
        if last is None:
            return None
        own = {contact.partition("<")[2].partition(">")[0] for contact in flow.bound}
        instance, reg_id = self.instance_id, str(flow.reg_id) if flow.outbound else ""
        if instance is not None:
            # Before the address: two homes may have the same one, and a registrar another.
            for binding in last.bindings:
                named = binding.params.get("+sip.instance", "").strip("<>")
                if named == instance and reg_id in ("", binding.params.get("reg-id", reg_id)):
                    return binding
        return next((b for b in last.bindings if b.uri in own), None)

    @property
    def instance_id(self) -> str | None:
        """The URN in ``+sip.instance`` (RFC 5626 §4.1), None when none is sent."""
        params = self._best.configs[0].settings.contact_params
        return params.partition('+sip.instance="<')[2].partition(">")[0] or None

    @property
    def gruu(self) -> str | None:
        """The public GRUU that the registrar gave us (RFC 5627 §5.1)."""
        binding = self.binding
        return binding.params.get("pub-gruu") if binding else None

    @property
    def temp_gruu(self) -> str | None:
        """The newest temporary GRUU; each refresh may bring another."""
        binding = self.binding
        return binding.params.get("temp-gruu") if binding else None

    @property
    def path(self) -> tuple[str, ...]:
        """Path of the registration (RFC 3327), the first sixteen."""
        last = self._last
        return last.response.path[:MAX_ROUTES] if last else ()

    @property
    def service_route(self) -> tuple[str, ...]:
        """Service-Route for requests of ours (RFC 3608), the first sixteen."""
        last = self._last
        return last.response.service_route[:MAX_ROUTES] if last else ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.aor} {self.state}>"

    # -- requests ---------------------------------------------------------------------------------

    def register(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Register now, and keep registered from then on.

        One attempt: it asks the registrars in turn until one gives a verdict, and the Operation
        has that.  Later attempts follow as ``config.retry`` says.

        :param timeout: seconds for each request; default: ``config.timeout``.
        """
        self._endpoint._check()
        with lock:
            self._check_open()
            if len(self._flows) == 1:
                return self._flows[0].register(timeout)
            return _joined([flow.register(timeout) for flow in self._flows])

    def unregister(self, *, timeout: float | None = None) -> Operation[RegistrationResult]:
        """Remove our binding, and stop refreshing and retrying."""
        self._endpoint._check()
        return self._unregister(timeout)

    def _unregister(self, timeout: float | None) -> Operation[RegistrationResult]:
        with lock:
            self._check_open()
            return _joined([flow.unregister(timeout) for flow in self._flows], any_of=False)

    def _check_open(self) -> None:
        if self.state == "closed":
            raise ClosedError(f"{self!r}")

    def _begin(self) -> None:
        """``register_on_add``: paced with all the others."""
        with lock:
            for flow in self._flows:
                flow.wanted = True
                flow.nudge("added")

    def _network_changed(self) -> bool:
        return True in [flow.network_changed() for flow in self._flows]  # all of them

    def modify(self, **changes: Any) -> Operation[RegistrationResult | None]:
        """Change fields of the configuration, all or none, while the account lives.

        What has an effect on the registration is registered anew at once, unless the account is
        idle; a binding at another registrar or with another Contact is removed.  The Operation
        has the outcome, or None when nothing had to be sent.

        :raises ConfigError, InvalidUriError: and nothing has changed.
        """
        self._endpoint._check()
        check_fields(changes, FIELDS)
        if changes.get("aor", self.aor) != self.aor:
            raise ConfigError("aor: an account keeps its AOR; add another account")
        for one, other in (("registrar", "registrars"), ("registrars", "registrar")):
            if one in changes and other not in changes:
                changes[other] = () if other == "registrars" else None
        with lock:
            self._check_open()
            config = replace(self.config, **changes)
            old, self.config = self.config, config
            changed = {name for name in FIELDS if getattr(old, name) != getattr(config, name)}
            if not changed - _POLICY_FIELDS:
                for flow in self._flows if config.retry is None else ():
                    flow.surrender()
                return self._nothing_to_do()
            wanted = any(flow.wanted for flow in self._flows)
            live = "credentials" not in changed or bool(config.credentials)
            if changed <= _LIVE_FIELDS and live and config.expires is not None:
                self._modify_live(changed)
            else:
                return self._replace_flows(wanted, unbind=not changed <= _SAME_BINDING)
            if not wanted:
                return self._nothing_to_do()
            return _joined([flow.register(None) for flow in self._flows])

    def _nothing_to_do(self) -> Operation[Any]:
        engine = self._endpoint._running_engine()
        operation: Operation[Any] = Operation(engine, f"modify {self.aor}")
        operation._finish(None, None)
        return operation

    def _modify_live(self, changed: set[str]) -> None:
        for flow in self._flows:
            flow.configs = self.config._flow_configs(flow.reg_id, flow.outbound)
            for client, config in zip(flow.clients, flow.configs, strict=True):
                if client is None:
                    continue
                if "credentials" in changed:
                    client._set_credentials(config.credentials)._retrieved = True
                expires = config.settings.expires
                if "expires" in changed and expires is not None:
                    client._set_expires(expires)._retrieved = True

    def _replace_flows(self, wanted: bool, *, unbind: bool) -> Operation[Any]:
        """New clients in place of the old; where their binding is another one, it goes first.

        One after the other, for a registrar may take the two Contacts for the same, and two
        registrars may share a location.
        """
        # Whatever becomes of the farewells, a time-out or Ctrl-C in here: not for ever.
        farewells: list[Any] = []
        engine = self._endpoint._running_engine()
        engine.call_later(FAREWELL + 0.5, lambda: self._end_farewells(farewells))
        old, self._flows = self._flows, self._make_flows()
        gone = self.state == "unregistering" and not wanted
        for flow in self._flows:
            flow.state, flow.wanted = "unregistered" if gone else self.state, wanted
            flow.blocked = []
        walks: list[Any] = []
        for flow in old:
            for found, into in zip(flow.retire(unbind=unbind), (walks, farewells), strict=True):
                into += found
        for before, flow in zip(old, self._flows, strict=False):
            if before.count == flow.count:
                flow.index = before.index  # who serves is asked first
            if not unbind:
                flow.last, flow.bound = before.last, before.bound
                flow.expires_at, flow.refresh_at = before.expires_at, before.refresh_at
        self._flow_entered("modified")
        operation: Operation[Any]
        if wanted:
            operation = _joined([flow.register(None) for flow in self._flows])
            for walk in walks:
                self._flows[0].start(walk)
        else:
            operation = self._nothing_to_do()
            for walk in walks:
                self._end_later(walk)
        self._farewells = (*self._farewells, *farewells)
        for farewell in farewells:
            farewell.add_done_callback(self._said_farewell)
        self._said_farewell()
        return operation

    def _end_farewells(self, late: list[Any]) -> None:
        with lock:
            self._farewells = tuple(each for each in self._farewells if each not in late)
        self._said_farewell()

    def _said_farewell(self, request: Any = None) -> None:
        """The last of the old bindings is gone, or its time is up: the new one may come."""
        with lock:
            self._farewells = tuple(each for each in self._farewells if each is not request)
            if not self._farewells:
                for flow in self._flows:
                    for walk in flow.unblock():
                        self._end_later(walk)

    def _end_later(self, request: Any) -> None:
        """What the program asks for has been overtaken by what it asked for next."""
        error = cancelled_error() if request.cancel_asked else ClosedError(f"{self!r}: overtaken")
        request._engine.soon(lambda: request._finish(None, error))

    def wait_registered(self, timeout: float | None = None) -> Any:
        """Wait until registered: at once if so, else for the next success, across attempts.

        Blocks and returns the :class:`RegistrationResult`; inside a running event loop it
        returns something to ``await`` instead.

        :raises TimeoutError: not registered within *timeout* seconds.
        :raises PjsipError: what the account gave up with.
        """
        self._endpoint._check()
        with lock:
            self._check_open()
            operation: Operation[RegistrationResult] = Operation(
                self._endpoint._running_engine(), f"wait_registered {self.aor}"
            )
            last = self._last if self.state != "waiting" else None
            if self.state == "failed":
                operation._finish(None, self.error)
            elif last is not None:
                operation._finish(last, None)
            else:
                self._waiting = (*self._waiting, operation)
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
        except errors.RegistrationTimeout:
            raise
        except asyncio.TimeoutError:  # TimeoutError itself since Python 3.11
            raise TimeoutError(f"{self.aor} not registered within {timeout:g} s") from None
        finally:
            self._stop_waiting(operation)

    def _stop_waiting(self, operation: Operation[RegistrationResult]) -> None:
        with lock:
            self._waiting = tuple(o for o in self._waiting if o is not operation)

    def _end_waiting(self, result: RegistrationResult | None, error: PjsipError | None) -> None:
        with lock:
            waiting, self._waiting = self._waiting, ()
        for operation in waiting:
            operation._finish(result, error)

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
        self._endpoint._check()
        self._check_open()
        if self._streams is None:
            self._streams = self._endpoint._new_streams()
        return self._endpoint._stream(self._streams)

    def _emit(self, event: Event) -> bool:
        """Deliver to whoever wants it; whether anybody did."""
        seen = False
        if isinstance(event, RegState):
            if self._waiting and event.registered and self.state == "registered":
                self._end_waiting(result_of(event), None)
            handlers = self._handlers
            if type(self) is not Account and type(self).on_reg_state is not Account.on_reg_state:
                handlers = (self.on_reg_state, *handlers)
            for handler in handlers:
                self._endpoint._call(handler, event)
            seen = bool(handlers)
        elif isinstance(event, RegStarted):
            self._endpoint._call(self.on_reg_started, event)
        return self._endpoint._emit(event, self._streams) or seen

    def _post(self, kind: type[AccountEvent], **fields: Any) -> None:
        """An event of policy's making, in its turn behind those that C has queued."""
        endpoint = self._endpoint
        if not endpoint._listens(kind, self._streams):
            return
        clock = endpoint._clock
        event = kind(time=EventTime(clock.time(), clock.wall()), account=self, **fields)
        with suppress(ClosedError):
            endpoint._running_engine().call_later(0, lambda: self._emit(event))

    def _flow_entered(self, reason: str) -> None:
        state = (self._flows[0] if len(self._flows) == 1 else self._best).state
        previous, self.state = self.state, state
        if state != previous and self._endpoint._is_watched(self._streams):
            self._post(AccountState, state=state, previous=previous, reason=reason)

    def _flow_gave_up(self, error: PjsipError) -> None:
        if self.state == "failed" and self._waiting:
            with suppress(ClosedError):
                self._endpoint._running_engine().call_later(
                    0, lambda: self._end_waiting(None, error)
                )

    # -- end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget the account without a word to the registrar; ``unregister()`` first to leave.

        Safe to call twice, from a handler and from any thread.
        """
        if self._endpoint._forked():
            self.state = "closed"  # the parent's locks may be held for ever in this child
            return
        with lock:
            if self.closed:
                return
            left = [flow.forget() for flow in self._flows]
        for clients, requests in left:
            for client in clients:
                client.close()
            for request in requests:
                request._finish(None, ClosedError(f"{self!r}"))
        self._endpoint._account_closed(self)
        try:
            self._endpoint._running_engine().call_later(0, self._close_streams)
        except ClosedError:
            self._close_streams()
        self._end_waiting(None, ClosedError(f"{self!r}"))

    def _close_streams(self) -> None:
        for stream in list(self._streams or ()):
            stream.close()


async def _awaited(operation: Operation[RegistrationResult]) -> RegistrationResult:
    return await operation


class _Joined(Operation[Any]):
    """The same request over several flows."""

    __slots__ = ("_left", "_parts")

    def __init__(self, parts: list[Operation[Any]], *, any_of: bool) -> None:
        super().__init__(parts[0]._engine, parts[0].name)
        self._parts = parts
        self._left = set(map(id, parts))

        def done(part: Operation[Any]) -> None:
            self._left.discard(id(part))
            part._retrieved = True
            if any_of and part._error is None:
                self._finish(part._answer(), None)
            elif not self._left:
                failed = [each for each in parts if each._error is not None]
                last = failed[0] if failed else part
                self._finish(last._answer(), last._error)

        for part in parts:
            part.add_done_callback(done)

    def _ask_cancel(self) -> None:
        for part in self._parts:
            part.cancel()


def _joined(operations: list[Any], *, any_of: bool = True) -> Operation[Any]:
    """One Operation for all: *any_of* of them succeeds, or each does."""
    if len(operations) == 1:
        only: Operation[Any] = operations[0]
        return only
    return _Joined(operations, any_of=any_of)
