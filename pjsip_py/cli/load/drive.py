# SPDX-License-Identifier: GPL-3.0-or-later
"""The load itself: who begins when, and what becomes of it.

One thread does it all: it begins what is due and delivers events by ``Endpoint.dispatch()``, which
is the cheapest way.  What is done for each registration is kept small, the rest is done once a
second.
"""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pjsip_py as pjsip

from ..inbox import Inbox, Interrupted, Stop
from .plan import Plan, Storm, User
from .tally import Second, Stopwatch, Tally, nearest, resident

BATCH = 50  # registrations begun between two looks at the events
GLANCE = 0.05  # s between two looks at signals and clocks, at most
NAP = 0.001  # s for events to gather: one by one they cost up to twice as much
TICK = 1.0  # s
STORM_TICK = 0.2  # s; a storm is soon over
GIVE_UP = 100  # failures in a row without a response
LEFTOVERS = 1.0  # s that what is in flight has after Ctrl-C
SHORTEST = 0.01  # s that a request may be given
GRACE = 3.0  # s beyond its time-out for an outcome to come

monotonic = time.monotonic


class Device:
    """One user under load."""

    __slots__ = ("bound", "busy", "client", "load", "make", "sent")

    client: Any

    def __init__(self, load: Load, make: Callable[[], Any]) -> None:
        self.load = load
        self.make = make
        self.sent = 0.0
        self.bound = False
        self.busy = ""  # what is under way
        self.client = None
        if not load.plan.fresh:
            self.renew()

    def renew(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = self.make()
        self.client.on_reg_state(self.on_reg_state)

    def register(self) -> None:
        if self.load.plan.fresh:
            self.renew()
        self.busy = "register"
        self.sent = monotonic()
        self.client.register(self.load.auto_refresh)

    def unregister(self, timeout: float | None = None) -> None:
        self.busy = "unregister"
        self.sent = monotonic()
        self.client.unregister(timeout=timeout)

    def on_reg_state(self, event: pjsip.RegState) -> None:
        self.load.take(self, event, event.time.monotonic - self.sent)


class KeptDevice(Device):
    """One whose account keeps it registered; it measures from each REGISTER that PJSIP starts."""

    __slots__ = ("first",)

    def __init__(self, load: Load, make: Callable[[], Any]) -> None:
        super().__init__(load, make)
        self.first = True

    def renew(self) -> None:
        self.client = self.make()
        self.client.add_handler(self.on_reg_state)
        self.load.of_account[self.client] = self

    def register(self) -> None:
        self.busy = "register"
        self.sent = monotonic()
        self.client.register()

    def on_reg_state(self, event: pjsip.RegState) -> None:
        self.load.take_kept(self, event, event.time.monotonic - self.sent)


class Load:
    """A plan being carried out."""

    def __init__(
        self,
        plan: Plan,
        endpoint: pjsip.Endpoint,
        transports: list[pjsip.Transport],
        inbox: Inbox,
        watch: Callable[[Second], object],
    ) -> None:
        self.plan = plan
        self.endpoint = endpoint
        self.transports = transports
        self.inbox = inbox
        self.watch = watch
        self.options = dict(plan.options)
        if transports:
            del self.options["tls"]  # they have it
        self.auto_refresh = plan.churn is not None
        self.registers = Tally("register")
        self.refreshes = Tally("refresh")
        self.unregisters = Tally("unregister")
        self.goodbyes = Tally("goodbye")
        self.devices: list[Device] = []
        self.of_account: dict[Any, KeptDevice] = {}
        self.idle: deque[Device] = deque()
        self.held: deque[tuple[float, Device]] = deque()  # until when, in order
        self.leaving = False
        self.started = self.in_flight = self.most_in_flight = self.registered = 0
        self.began_wall = 0.0
        self.sending = 0.0  #: s from the start until the last began
        self.last_ok = 0.0  #: s from the start until the last success
        self.ran = 0.0
        self.registered_at_end = self.unfinished = 0
        self.unanswered = 0  #: registrations that failed since the last response
        self.ended = ""  #: "completed", "interrupted" or "nobody answers"
        self.signum = 0
        #: Seconds in which what was due could not begin, by what was missing.
        self.held_back: defaultdict[str, float] = defaultdict(float)
        self.seconds: list[Second] = []
        self.cpu = 0.0
        self.retransmissions = 0
        self._began = self._next_tick = 0.0
        self._tick_every = STORM_TICK if isinstance(plan.pace, Storm) else TICK
        self._watch = Stopwatch()
        self._before: Counter[Any] = Counter()

    # -- before -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make what registers; :raises Interrupted: somebody does not want to wait for it."""
        if self.plan.keep:
            self.endpoint.on(pjsip.RegStarted, self._on_started)
        kind = KeptDevice if self.plan.keep else Device
        add = self._account if self.plan.keep else self._client
        for number, user in enumerate(self.plan.users):
            if number % 1000 == 0:
                self._check_signal()
            transport = None
            if self.transports:
                transport = self.transports[number % len(self.transports)]
            self.devices.append(kind(self, partial(add, user, transport)))
        self.idle.extend(self.devices)
        # They stay to the end: there is nothing in them for the collector.
        gc.collect()
        gc.freeze()

    def _client(self, user: User, transport: pjsip.Transport | None) -> pjsip.RegistrationClient:
        return self.endpoint.registration(
            self.plan.registrar,
            user.aor,
            credentials=user.credentials,
            transport=transport,
            **self.options,
        )

    def _account(self, user: User, transport: pjsip.Transport | None) -> pjsip.Account:
        return self.endpoint.add_account(
            user.aor,
            cls=pjsip.Account,
            registrar=self.plan.registrar,
            credentials=user.credentials,
            transport=transport,
            **self.options,
        )

    # -- the run ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the plan is done, nobody answers, or a signal comes; :attr:`ended` says which."""
        self._began, self.began_wall = monotonic(), time.time()
        self._next_tick = self._tick_every
        self._watch.look()
        cpu = time.process_time()
        self.ended = self._send() or self._hold() or self._drain() or "completed"
        if self.ended == "interrupted":
            self._settle(LEFTOVERS)
        self.ran = self._now()
        self._tick(self.ran)
        self.cpu = time.process_time() - cpu
        self.retransmissions = self.endpoint.stats()["retransmissions"]
        self.registered_at_end, self.unfinished = self.registered, self.in_flight

    def _now(self) -> float:
        return monotonic() - self._began

    def _send(self) -> str:
        """Begin registrations as they are due; why that ended early, or ''."""
        plan, wanted = self.plan, self.plan.wanted
        end = plan.duration if plan.again else None
        looked = 0.0
        while wanted is None or self.started < wanted:
            now = self._now()
            if end is not None and now >= end:
                # What came due since the last look, as far as window and users reach.
                while wanted is not None and self.started < wanted:
                    if self._begin_due(end, wanted):
                        break
                break
            missing = self._begin_due(now, wanted)
            if missing:
                self.held_back[missing] += now - looked
            looked = now
            if missing:
                wait = GLANCE
            elif wanted is not None and self.started >= wanted:
                break
            else:
                wait = plan.pace.time_of(self.started) - self._now()
            if end is not None:
                wait = min(wait, end - now)
            if ended := self._look(wait):
                return ended
        return ""

    def _begin_due(self, now: float, wanted: int | None) -> str:
        """Begin what is due, some at a time; what there was none of, or ''."""
        due = self.plan.pace.due(now) + 1 - self.started
        if wanted is not None:
            due = min(due, wanted - self.started)
        if due < 1:
            return ""
        count, users = int(min(due, BATCH)), len(self.idle)
        free = self.plan.window - self.in_flight
        self.sending = now
        for _ in range(min(count, free, users)):
            self.started += 1
            self._flies()
            self.idle.popleft().register()
        if count <= min(free, users):
            return ""
        return "window" if free <= users else "users"

    def _flies(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def _hold(self) -> str:
        """Keep what is registered, for as long as the plan says."""
        if not self.plan.keep:
            return ""
        if ended := self._drain():  # everybody's first outcome
            return ended
        end = None if self.plan.duration is None else self._now() + self.plan.duration
        while end is None or self._now() < end:
            if ended := self._look(GLANCE if end is None else end - self._now()):
                return ended
        return ""

    def _drain(self) -> str:
        """Wait for what is in flight; each has its time-out, and this one more."""
        timeout = self.plan.options["timeout"] or self.endpoint.config.td
        end = self._now() + timeout + GRACE
        while self.in_flight and self._now() < end:
            if ended := self._look(end - self._now(), release=False):
                return ended
        return ""

    def _settle(self, seconds: float) -> None:
        end = self._now() + seconds
        while self.in_flight and (left := end - self._now()) > 0:
            self._check_signal()
            self.endpoint.dispatch(min(GLANCE, left))

    def _look(self, wait: float, release: bool = True) -> str:
        """Deliver events, waiting so long at most; and see to all that is due."""
        now = self._now()
        if now >= self._next_tick:
            self._tick(now)
        wait = min(wait, GLANCE, self._next_tick - now)
        while self.held and release:
            left = self.held[0][0] - now
            if left > 0 or self.in_flight >= self.plan.window:
                wait = min(wait, max(left, 0.001))
                break
            self._flies()
            self.held.popleft()[1].unregister()
        if wait > 0:
            time.sleep(min(wait, NAP))
        self.endpoint.dispatch(max(0.0, wait - NAP))
        item = self.inbox.get(0)
        if isinstance(item, Stop):
            self.signum = item.signum
            return "interrupted"
        return "nobody answers" if self._is_hopeless() else ""

    def _check_signal(self) -> None:
        item = self.inbox.get(0)
        if isinstance(item, Stop):
            raise Interrupted(item.signum)

    def _is_hopeless(self) -> bool:
        if not self._answered():
            return self.unanswered >= min(GIVE_UP, len(self.devices))
        # With a duration the registrar has until then to come back.
        return not self.plan.again and self.unanswered >= GIVE_UP + 2 * self.plan.window

    def _answered(self) -> bool:
        """Whether anybody has ever answered."""
        return any(t.ok or t.answered for t in (self.registers, self.refreshes))

    # -- outcomes ---------------------------------------------------------------------------------

    def take(self, device: Device, event: pjsip.RegState, took: float) -> None:
        """An outcome; those of one device come one by one."""
        if event.renewal:  # nobody knows when PJSIP began it
            self._count(self.refreshes, device, event, None)
            return
        if self.leaving:
            self._take_goodbye(device, event, took)
            return
        self.in_flight -= 1
        device.busy = ""
        if event.is_unregister:
            self._count(self.unregisters, device, event, took)
        else:
            self._count(self.registers, device, event, took)
        if device.bound and self.plan.churn is not None:
            self.held.append((self._now() + self.plan.churn, device))
        elif self.plan.again:
            self.idle.append(device)

    def take_kept(self, device: KeptDevice, event: pjsip.RegState, took: float) -> None:
        """An outcome of an account's: the first was asked for, the others are its own doing."""
        if self.leaving:
            self._take_goodbye(device, event, took)
        elif device.first:
            device.first, device.busy = False, ""
            self.in_flight -= 1
            self._count(self.registers, device, event, took)
        else:
            self._count(self.refreshes, device, event, took)

    def _take_goodbye(self, device: Device, event: pjsip.RegState, took: float) -> None:
        if event.is_unregister:
            self.in_flight -= 1
            device.busy = ""
            self._count(self.goodbyes, device, event, took)

    def _count(
        self, tally: Tally, device: Device, event: pjsip.RegState, took: float | None
    ) -> None:
        if event.error is None:
            tally.succeed(event, took)
            self.unanswered = 0
            bound = not event.is_unregister
            if tally is self.registers:
                self.last_ok = event.time.monotonic - self._began
        else:
            tally.fail(event)
            if not event.local:
                self.unanswered = 0
            elif tally is self.registers:  # refreshes have an account that tries again
                self.unanswered += 1
            # A refresh or an unregister that failed leaves a binding for a while, but no more.
            bound = False
        if bound != device.bound:
            device.bound = bound
            self.registered += 1 if bound else -1

    def _on_started(self, event: pjsip.RegStarted) -> None:
        device = self.of_account.get(event.account)
        if device is not None:
            device.sent = event.time.monotonic

    # -- once a second ----------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        wall, cpu = self._watch.look()
        wall = max(wall, 1e-6)
        while self._next_tick <= now:
            self._next_tick += self._tick_every
        counts: Counter[Any] = Counter()
        for tally in (self.registers, self.refreshes, self.unregisters):
            for failure, count in tally.failures.items():
                counts[failure.label] += count
        labels = list(counts)
        counts["", "started"] = self.started
        counts["", "ok"] = self.registers.ok
        counts["", "refreshed"] = self.refreshes.ok
        rate = {name: (counts[name] - self._before[name]) / wall for name in counts}
        self._before = counts
        took = sorted(self.registers.fold() + self.refreshes.fold())
        self.unregisters.fold()
        done = self.plan.wanted is not None and self.started >= self.plan.wanted
        offered = None if done else self.plan.pace.rate(max(0.0, now - wall / 2))
        if wall < self._tick_every / 5 and self.seconds:
            return  # rates over so little would be noise
        second = Second(
            at=now,
            offered=offered if offered != float("inf") else None,
            started=rate["", "started"],
            ok=rate["", "ok"],
            refreshed=rate["", "refreshed"],
            failed={label: rate[label] for label in labels if rate[label]},
            p50=nearest(took, 50),
            p95=nearest(took, 95),
            p99=nearest(took, 99),
            longest=took[-1] if took else None,
            in_flight=self.in_flight,
            registered=self.registered,
            cpu=cpu / wall,
            rss=resident(),
        )
        self.seconds.append(second)
        self.watch(second)

    # -- the end ----------------------------------------------------------------------------------

    def leave(self, timeout: float, watch: Callable[[int, int], object]) -> tuple[int, int]:
        """Unregister what is, or may be, registered: how many of how many did.

        :raises Interrupted: a second signal came.
        """
        self.leaving = True
        end = monotonic() + timeout
        answered = self._answered()
        there = [d for d in self.devices if d.bound or (d.busy and answered)]
        waiting = deque(d for d in there if d.busy != "unregister")
        asked = len(there)
        self.in_flight = asked - len(waiting)
        while (waiting or self.goodbyes.total < asked) and (left := end - monotonic()) > 0:
            self._check_signal()
            for _ in range(min(len(waiting), BATCH, self.plan.window - self.in_flight)):
                self.in_flight += 1
                with suppress(pjsip.ClosedError):
                    waiting.popleft().unregister(max(left, SHORTEST))
            self.endpoint.dispatch(min(GLANCE, left))
            watch(self.goodbyes.ok, asked)
        return self.goodbyes.ok, asked
