# SPDX-License-Identifier: GPL-3.0-or-later
"""Flow: one registration of an account, kept by a :class:`Keeper` over clients of pjsip_regc.

An account has one, or with outbound one for each edge proxy (RFC 5626 §4.2.1).  A flow has a client
for each registrar that it has asked, so that Call-ID, CSeq and nonce of each live on.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from . import _ffi
from ._clock import Clock
from ._keepalive import Path
from ._keeper import Keeper, Outcome
from ._lazy import logger
from ._nat import mapped_address
from ._pacing import Pacer
from ._record import replace
from ._regconfig import RegConfig
from ._typing import TYPE_CHECKING
from .errors import ClosedError, PjsipError, RegistrationTimeout
from .events import (
    ContactChanged,
    GaveUp,
    RegistrarChanged,
    RegState,
    Success,
    addresses,
    source,
    success,
)
from .regc import CANCELLED, RegistrationClient, _Request
from .retry import RetryPolicy
from .transport import Transport
from .uri import host_port

if TYPE_CHECKING:
    from .account import Account

_log = logger("pjsip_py")

# Guards the state of all accounts, thousands of which need not pay for a lock each.  Nothing of
# the program's is called with it held.
lock = threading.RLock()

# A registrar that shows another address every time is not followed at once for ever.
MAX_REWRITES = 2
# Seconds to find out whether a connection is deaf, when no attempt is planned.
DOUBT = 2.0
# Seconds that an old binding's removal may hold up the new one.
FAREWELL = 2.0


class Flow(Keeper):
    __slots__ = (
        "account",
        "blocked",
        "bound",
        "clients",
        "configs",
        "expires_at",
        "keeps",
        "last",
        "outbound",
        "path",
        "refresh_at",
        "reg_id",
        "rewrites",
    )

    def __init__(
        self, account: Account, configs: tuple[RegConfig, ...], reg_id: int, outbound: bool
    ) -> None:
        super().__init__()
        self.account = account
        self.configs = configs
        self.reg_id = reg_id
        self.outbound = outbound  # reg-id and "Supported: outbound" are sent
        self.clients: list[RegistrationClient | None] = [None] * len(configs)
        self.last: Success | None = None
        self.expires_at: float | None = None  # clock.time(), which nobody sets
        self.refresh_at: float | None = None
        self.bound: tuple[str, ...] = ()  # Contacts of the last success
        self.keeps = False  # its path alive
        self.path: Path | None = None
        self.rewrites = 0  # of the Contact, in a row
        # Requests that wait until the binding of the flow before is removed; None: none has to.
        self.blocked: list[_Request] | None = None

    # -- what the keeper asks ---------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.account._endpoint._clock

    @property
    def pacer(self) -> Pacer:
        return self.account._endpoint._pacer

    @property
    def policy(self) -> RetryPolicy | None:
        policy, seed = self.account.config.retry, self.clock.seed
        if seed is None or policy is None or policy.seed is not None:
            return policy
        return replace(policy, seed=seed % 2**63)

    @property
    def failback(self) -> float | None:
        return self.account.config.failback

    @property
    def count(self) -> int:
        return len(self.configs)

    @property
    def cost(self) -> int:
        return 2 if self.configs[0].credentials else 1

    def _name(self, at: int) -> str:
        hop = self.configs[at].settings.next_hop
        return f"{hop.host}:{hop.port}"

    @property
    def key(self) -> str:
        return self.account.config.aor

    def _new_walk(self, *, probe: bool) -> _Request:
        request = self.client._new_request("register", _ffi.REGISTER, 1)
        request.probe = probe
        request.automatic = request._retrieved = True
        return request

    def _send(self, walk: _Request) -> None:  # type: ignore[override]
        if self.blocked is not None:
            self.blocked.append(walk)
            return
        client = self.client_at(walk.index)
        if self.attempts or self._nudged:
            self._follow_route(client)
        walk._client = client
        if walk.sent:
            walk.request = client._engine.next_request()  # an outcome each
        walk.sent = True
        try:
            client._submit(walk)
        except ClosedError:
            if not walk.automatic:
                raise

    def _entered(self, previous: str, reason: str) -> None:
        self.account._flow_entered(reason)

    def _moved(self, previous: int, error: PjsipError | None) -> None:
        before, now = self.configs[previous].settings.registrar.text, self.registrar
        self.account._post(
            RegistrarChanged,
            previous=before,
            registrar=now,
            reason="failover" if self.serving and self.serving > previous else "home",
            error=error,
        )

    def _gave_up(self, error: PjsipError) -> None:
        if self.account.state == "failed":  # else another flow serves, or tries
            self.account._post(GaveUp, error=error, attempts=self.attempts, hint=error.hint)
            self.account._flow_gave_up(error)

    def _release_others(self) -> None:
        assert self.serving is not None
        for index, client in enumerate(self.clients):
            if client is not None and index > self.serving:
                for request in tuple(client._pending.values()):
                    if request.probe:  # whose outcome nobody will hear of
                        self._probing = False
                        self._answered(request)
                self.clients[index] = None
                client._close_soon()  # its binding is left to expire: they may share a location

    def _withdraw(self, index: int) -> None:
        client = self.clients[index]
        if client is not None and not client._pending:
            self._unbind(client)

    def _leaving(self) -> bool:
        return any(
            request.what == _ffi.UNREGISTER and not request.automatic
            for client in self.clients
            if client is not None
            for request in tuple(client._pending.values())
        )

    def _adapt(self, outcome: Outcome) -> bool:
        """439 First Hop Lacks Outbound Support (RFC 5626 §6): register without."""
        if not self.outbound or self.reg_id > 1 or getattr(outcome.error, "code", 0) != 439:
            return False
        self.outbound = False  # the instance and the edge's route stay
        self.configs = self.account.config._flow_configs(self.reg_id, outbound=False)
        client = self.clients[outcome.at]
        self.clients[outcome.at] = None
        if client is not None and not client._pending:
            client._close_soon()  # else with the last outcome of those
        return True

    def _has_next_target(self, index: int) -> bool:
        client = self.clients[index]
        if client is None:
            return False
        if client._target + 1 < len(client._targets):
            return True
        client._targets = ()  # all have failed: the next answer begins anew
        return False

    def _next_target(self, index: int) -> None:
        client = self.clients[index]
        if client is not None:
            client._target += 1
            with suppress(OSError, PjsipError):  # no such route: the attempt itself will say so
                client._aim(client._targets[client._target])

    def _bound_for(self) -> float | None:
        now = self.clock.time()
        if self.expires_at is None or self.expires_at <= now:
            return None
        return max(0.0, (self.refresh_at or self.expires_at) - now)

    # -- clients ----------------------------------------------------------------------------------

    @property
    def client(self) -> RegistrationClient:
        """The one that serves, or is asked next."""
        return self.client_at(self.index if self.serving is None else self.serving)

    @property
    def registrar(self) -> str:
        index = self.index if self.serving is None else self.serving
        return self.configs[index].settings.registrar.text

    def client_at(self, index: int) -> RegistrationClient:
        client = self.clients[index]
        if client is None or client.closed:
            endpoint = self.account._endpoint
            client = RegistrationClient(endpoint, self.configs[index], self)
            self.clients[index] = client
            endpoint._clients.add(client)
        return client

    def _follow_route(self, client: RegistrationClient) -> None:
        """The way to the registrar may lead through another of our addresses by now."""
        old = client.transport
        if old is None or not client._handle:
            return
        endpoint = self.account._endpoint
        try:
            host = endpoint._local_address(client._address)
            gone = old.closed or (old.implicit and old.host != host)
            if client._config.transport is None and gone:
                new = endpoint._transport_for(old.protocol, client._address, client._config.tls)
                client._move(new, host if new.is_wildcard else new.host, new.port)
            elif old.is_wildcard and not old.closed and not self.rewrites:
                client._move(old, host, old.port)
        except (OSError, PjsipError):
            pass  # no route: the attempt itself will say so

    # -- requests ---------------------------------------------------------------------------------

    def register(self, timeout: float | None) -> _Request:
        request = self.client._new_request("register", _ffi.REGISTER, 1, timeout)
        self.start(request)
        return request

    def unblock(self) -> list[_Request]:
        """Send what had to wait; those that nobody wants any more are the caller's to end."""
        blocked, self.blocked = self.blocked or [], None
        ended = []
        for walk in blocked:
            if self.wanted and not walk.cancel_asked:
                self._send(walk)
                continue
            outcome = Outcome(walk.index, walk, CANCELLED, cancelled=True)
            self.settle(outcome, self.decide(outcome))
            ended.append(walk)
        return ended

    def unregister(self, timeout: float | None) -> _Request:
        client = self.client
        request = client._new_request("unregister", _ffi.UNREGISTER, 0, timeout)
        request.index = self.clients.index(client)
        self.leave()
        return client._submit(request)

    def network_changed(self) -> bool:
        if not self.wanted:
            return False
        delay = self.policy.reconnect_delay(self.key) if self.policy is not None else 0.0
        if not self.nudge("network changed", delay):
            return False
        for client in self.clients:
            if client is not None:
                self._follow_route(client)
                client._stop_refresh()
                for request in list(client._pending.values()):
                    if request.what == _ffi.REGISTER:
                        request.stop()
        return True

    def _due(self, serial: int) -> None:
        with lock:
            super()._due(serial)

    def retire(self, *, unbind: bool) -> tuple[list[_Request], list[_Request]]:
        """End, for another takes its place; give up requests of the program's to that one.

        With *unbind* the binding there is removed; also the unregisters that this takes.
        """
        bound = self.client if unbind and self.expires_at is not None else None
        self.close()
        self.account._endpoint._paths.leave(self)
        walks = [walk for walk in self.blocked or () if not walk.automatic]
        farewells = []
        self.blocked = None
        for client in self.clients:
            if client is None:
                continue
            leaving, binding = None, client is bound
            for request in list(client._pending.values()):
                if request.what == _ffi.UNREGISTER:
                    leaving = request  # the program's own, on its way
                elif request.what == _ffi.REGISTER and client._take(request.request):
                    client._cancel(request)  # and whatever comes of it is not looked at
                    binding = binding or unbind
                    if not request.automatic:
                        walks.append(request)
            if leaving is None and binding:
                leaving = self._unbind(client, FAREWELL)
            if leaving is None:
                client._close_soon()
            else:
                farewells.append(leaving)
                leaving.add_done_callback(lambda _, client=client: client.close())  # type: ignore[misc]
        return walks, farewells

    def _unbind(self, client: RegistrationClient, timeout: float | None = None) -> _Request | None:
        """Remove what is bound by *client*, on our own account."""
        request = client._new_request("unregister", _ffi.UNREGISTER, 0, timeout)
        request.automatic = request._retrieved = True
        try:
            return client._submit(request)
        except ClosedError:
            return None

    def forget(self) -> tuple[list[RegistrationClient], list[_Request]]:
        """End without a word to the registrar; the clients and requests that the caller ends."""
        self.close()
        self.expires_at = self.refresh_at = None
        self.account._endpoint._paths.leave(self)
        blocked, self.blocked = self.blocked or [], None
        return [client for client in self.clients if client is not None], blocked

    # -- outcomes ---------------------------------------------------------------------------------

    def concluded(
        self, client: RegistrationClient, event: RegState, request: _Request | None
    ) -> tuple[float | None, bool]:
        """Seconds until the next attempt, and whether the request has come to its end."""
        with lock:
            known = client in self.clients
            if not known and (request is None or self.state == "closed"):
                return None, True  # left behind by modify() or on the way home
            at = self.clients.index(client) if known or request is None else request.index
            error = event.error
            if error is None:
                self._note_success(client, event, at)
            else:
                self._note_failure(event)
            if event.is_unregister:
                if request is not None and not request.automatic:
                    self.left(at, error, event.cancelled)
                return None, True
            delay, ended = None, True
            if error is None:
                self.succeeded(at, request)
            else:
                # On its way when the program cancelled: no further, all the same.
                cancelled = event.cancelled or (request is not None and request.cancel_asked)
                outcome = Outcome(at, request, error, cancelled)
                decision = self.decide(outcome)
                delay, ended = decision.delay, self.settle(outcome, decision)
                self._mistrust(event, delay or DOUBT)
            if not known and not client._pending:
                client._close_soon()
            elif error is None and self.wanted:
                self._after_success(client, event)
            return delay, ended

    def _note_failure(self, event: RegState) -> None:
        if event.probe:
            return
        if event.connection and not event.local:
            self.account._endpoint._paths.answered(event.connection)
        if not event.cancelled:
            self.refresh_at = None

    def _note_success(self, client: RegistrationClient, event: RegState, at: int) -> None:
        record = event._record
        assert record is not None
        paths = self.account._endpoint._paths
        if record.value2:
            paths.answered(record.value2)
        if record.flags & _ffi.F_UNREGISTER:
            if self.serving in (None, at):
                self.expires_at = self.refresh_at = None
                paths.leave(self)
            return
        self.last = success(record)
        self.bound = client._contacts or ()
        now = self.account._endpoint._clock.time()
        self.expires_at = now + record.value0
        self.refresh_at = None if record.value5 < 0 else now + record.value5

    def _mistrust(self, event: RegState, delay: float) -> None:
        """A connection over which nobody answers is left; PJSIP would use it for ever.

        Before the next attempt, *delay* seconds from now, takes it again.
        """
        error = event.error
        if not event.connection or not event.local or not isinstance(error, RegistrationTimeout):
            return
        timeout = self.account.config.timeout or self.account._endpoint.config.td
        since = self.clock.time() - timeout
        self.account._endpoint._paths.suspect(event.connection, since, 0.8 * delay)

    def _after_success(self, client: RegistrationClient, event: RegState) -> None:
        transport, record = client.transport, event._record
        if transport is None or record is None:
            return
        config, connection = self.account.config, record.value2
        _, mapped, flow_timer = addresses(record)
        key = (0, connection, "") if connection else (transport._handle, 0, source(record))
        self.account._endpoint._paths.join(
            self, key, config.keep_alive, config.pong_timeout, flow_timer
        )
        if (
            mapped not in ("", client._contact_address)
            and config.contact_rewrite
            and config.contacts is None
            and not self.outbound
        ):
            self._rewrite_contact(client, transport, event)

    def _rewrite_contact(
        self, client: RegistrationClient, transport: Transport, event: RegState
    ) -> None:
        mapped = mapped_address(
            self.account.config.contact_rewrite,
            transport.protocol,
            client._contact_address,
            event.mapped_address,
            event.response.source[0] if event.response else "",
        )
        if mapped is None:
            self.rewrites = 0
            return
        previous = client.contacts[0]
        try:
            client._move(transport, *mapped)
        except PjsipError as error:  # with the longer address it does not fit any more
            text = f"{client.aor}: seen at {event.mapped_address}, but {error}"
            client._engine.soon(lambda: _log.warning(text))  # not under the lock
            return
        self.account._post(
            ContactChanged,
            previous=previous,
            contact=client.contacts[0],
            local=event.local_address,
            mapped=host_port(*mapped),
        )
        self.rewrites += 1
        if self.rewrites <= MAX_REWRITES:
            self._schedule("retry", 0.0)
