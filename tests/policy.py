# SPDX-License-Identifier: GPL-3.0-or-later
"""A world in which the policy's time stands still: an endpoint on a PolicyClock, and its events."""

from __future__ import annotations

import heapq
import socket
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import pytest

import pjsip_py as pjsip
from pjsip_py._clock import EngineClock
from pjsip_py.testing import ReceivedRequest, Registrar

E = TypeVar("E", bound=pjsip.Event)
AOR = "sip:alice@example.com"
PASSWORD = "correct-horse"
ALICE = pjsip.Credentials("alice", PASSWORD)
DEADLINE = 5.0  # s, for anything that is expected to happen
SILENT = 0.3  # s, a request's timeout at a registrar that does not answer


class PolicyClock(EngineClock):
    """Retries, back-off, pacing, probes and keep-alives wait for :meth:`advance`.

    The sockets and PJSIP's own timers keep real time, unlike with a VirtualClock: so a test sees
    what policy does while a request is really on its way, and who answers late.
    """

    def __init__(self, wall: float | None = None) -> None:
        self._start = time.time() if wall is None else wall
        self._now = 1000.0
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = count(1)

    def time(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._start + self._now - 1000.0

    def call_later(self, seconds: float, call: Callable[[], object]) -> int:
        with self._lock:
            serial = next(self._serial)
            heapq.heappush(self._timers, (self._now + seconds, serial, call))
            return serial

    def cancel(self, handle: int) -> None:
        with self._lock:
            self._timers = [timer for timer in self._timers if timer[1] != handle]
            heapq.heapify(self._timers)

    @property
    def pending(self) -> tuple[float, ...]:
        """Seconds until each of the timers that are set, the next one first."""
        with self._lock:
            return tuple(sorted(due - self._now for due, _, _ in self._timers))

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; returns when all that became due has been called, in order."""
        end = self._now + seconds
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > end:
                    self._now = end
                    return
                due, _, call = heapq.heappop(self._timers)
                self._now = max(self._now, due)
            self._deliver(call)

    def _deliver(self, call: Callable[[], object]) -> None:
        engine = self._engine
        if engine.is_delivering_here() or engine.pumped_by_caller():
            call()
            return
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        engine.call_later(0, run)
        if not done.wait(DEADLINE):
            raise TimeoutError("the endpoint delivers no events: a handler blocks?")


class World:
    """An endpoint with a clock of its own, and every event of it in ``events``.

    Leaving it closes the endpoint; what a handler raised is raised there.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = PolicyClock()
        self.ep = pjsip.Endpoint(strict=True, clock=self.clock, **options)
        self.events: list[pjsip.Event] = []
        self._arrived = threading.Condition()
        self.ep.on(pjsip.Event, self._note)

    def __enter__(self) -> World:
        self.ep.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.ep.close(network=False)

    def _note(self, event: pjsip.Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def account(
        self, *registrars: Registrar | str, aor: str = AOR, **options: Any
    ) -> pjsip.Account:
        """An account at these registrars, the preferred one first."""
        uris = [r if isinstance(r, str) else r.uri() for r in registrars]
        where = {"registrar": uris[0]} if len(uris) == 1 else {"registrars": uris}
        merged: dict[str, Any] = {"timeout": DEADLINE, **where, **options}
        account: pjsip.Account = self.ep.add_account(aor, **merged)
        return account

    def of(self, kind: type[E], account: pjsip.Account | None = None) -> list[E]:
        """The events of class ``kind`` so far, those of ``account`` alone if given."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, kind)
            and (account is None or getattr(event, "account", None) is account)
        ]

    def outcomes(self, account: pjsip.Account | None = None) -> list[int]:
        return [event.code for event in self.of(pjsip.RegState, account)]

    def states(self, account: pjsip.Account | None = None) -> list[str]:
        return [event.state for event in self.of(pjsip.AccountState, account)]

    def wait(self, done: Callable[[], object], what: str = "it") -> None:
        """Wait until ``done()``, asked again after every event, and for all that goes with it."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: bool(done()), DEADLINE):
                accounts = [(account, account.error) for account in self.ep.accounts[:20]]
                raise AssertionError(f"waited {DEADLINE} s for {what}; {accounts}")
        self.settle()

    def wait_state(self, account: pjsip.Account, *states: str) -> None:
        """Wait until the last AccountState says one of ``states``, and the account as well."""

        def there() -> bool:
            seen = self.states(account)
            return account.state in states and bool(seen) and seen[-1] == account.state

        self.wait(there, f"{states}")

    def settle(self) -> None:
        """All that was queued before the call has been delivered after it."""
        done = threading.Event()
        self.ep._running_engine().call_later(0, done.set)
        assert done.wait(DEADLINE)

    def next_timer(self) -> None:
        """Let the next timer come due, and nothing behind it."""
        self.clock.advance(self.clock.pending[0])

    def due(self, account: pjsip.Account) -> float:
        """Seconds until the attempt that the account has planned."""
        assert account.retry_at is not None, f"{account} plans nothing"
        return account.retry_at - self.clock.wall()

    def retry(self, account: pjsip.Account) -> pjsip.RegState:
        """Let the planned attempt happen; its outcome, the account then being at rest again."""
        seen = len(self.outcomes(account))
        self.clock.advance(self.due(account) + 1e-6)
        self.rest(account, seen + 1)
        return self.of(pjsip.RegState, account)[-1]

    def rest(self, account: pjsip.Account, outcomes: int = 0) -> None:
        """Wait for so many outcomes in all, and until nothing is under way any more."""

        def still() -> bool:
            return len(self.outcomes(account)) >= outcomes and account.state not in (
                "registering",
                "unregistering",
            )

        self.wait(still, f"rest and {outcomes} outcomes, not {self.outcomes(account)}")

    def fails(self, account: pjsip.Account) -> pjsip.PjsipError:
        """``register()``, which does not succeed: what it raised."""
        error = account.register().exception(DEADLINE)
        assert isinstance(error, pjsip.PjsipError)
        self.settle()
        return error


def about(seconds: Any) -> Any:
    return pytest.approx(seconds, abs=0.01)


def closed_port() -> str:
    """The URI of a registrar on TCP that is not there: its port refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"sip:127.0.0.1:{sock.getsockname()[1]};transport=tcp"


def registers(registrar: Registrar, aor: str | None = None) -> list[ReceivedRequest]:
    """The REGISTERs that arrived, each one once."""
    return [r for r in registrar.requests if aor is None or r.aor == aor]


def until(done: Callable[[], object], what: str) -> None:
    """Wait for what is no event of the endpoint's."""
    deadline = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < deadline, f"waited {DEADLINE} s for {what}"
        time.sleep(0.005)


def serves(registrar: Registrar, aor: str = AOR) -> Sequence[str]:
    """URIs of the contacts that the registrar has for ``aor``."""
    return [binding.uri for binding in registrar.bindings(aor)]


class Waiter:
    """``account.wait_registered()`` on a thread of its own."""

    def __init__(self, account: pjsip.Account, timeout: float = DEADLINE) -> None:
        self._found: list[Any] = []
        before = len(account._waiting)
        self._thread = threading.Thread(target=self._wait, args=(account, timeout), daemon=True)
        self._thread.start()
        until(lambda: len(account._waiting) > before or self._found, "the waiter waits")

    def _wait(self, account: pjsip.Account, timeout: float) -> None:
        try:
            self._found.append(account.wait_registered(timeout))
        except BaseException as error:
            self._found.append(error)

    def outcome(self) -> Any:
        """What it returned or raised."""
        self._thread.join(DEADLINE)
        assert self._found, "it still waits"
        return self._found[0]
