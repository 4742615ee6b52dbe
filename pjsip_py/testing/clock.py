# SPDX-License-Identifier: GPL-3.0-or-later
"""Time under a test's control, for PJSIP, the policy of accounts and the registrar alike."""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pjsip_py import _ffi
from pjsip_py._hooks import Hooks
from pjsip_py.errors import ClosedError, PjsipError, WouldBlockError
from pjsip_py.uri import check_int, check_seconds

if TYPE_CHECKING:
    from pjsip_py._engine import Engine

    from .server import Server

_MS = 1_000_000  # ns
_PACKAGE = str(Path(_ffi.__file__).parent) + os.sep
_START = 1000 * 1000 * _MS
_SEEDED_WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z: two runs with one seed have one date
_TICK = 0.05  # s
_LOOP_PASSES = 20
_TEN_YEARS = 10 * 366 * 86400.0
_OURS = 10  # times the grace, for a hook: it runs in this process, and is known to be at it


class _Gone(Exception):
    """The endpoint closes."""


class VirtualClock:
    """A clock for the whole stack that moves when a test says so, to the millisecond.

    ``Endpoint(clock=clock)`` and ``Registrar(clock=clock)``: PJSIP's timers (refresh,
    retransmission, timer F, connections), the policy of accounts (retry, pacing, keep-alive), the
    registrar (expiry, nonces, delays) and the times of events all follow it.  While it stands,
    messages still travel: no time passes until all that can happen has happened.

    :param seed: 0 to 2**64-1: Call-IDs, tags, branches, CSeq, jitter, and the registrar's nonces
        and tags follow from it, so that two runs print the same bytes; None: random ones.
    :param wall: time.time() at the start; None: the present, or with a *seed* the first second
        of 2026.
    :param grace: real seconds that another server, which does not follow this clock, has to answer
        before time moves on; a resolver or a vault of the program's has ten times as long.
    :param deadline: real seconds after which a handler that does not return is a TimeoutError.
    :raises ConfigError: a number is out of range.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        wall: float | None = None,
        grace: float = 0.2,
        deadline: float = 10.0,
    ) -> None:
        self.seed = None if seed is None else check_int("seed", seed, 0, 2**64 - 1)
        self.grace = check_seconds("grace", grace, 0, 60)
        self.deadline = check_seconds("deadline", deadline, 0.001, 3600)
        if wall is None:
            wall = time.time() if seed is None else _SEEDED_WALL
        check_seconds("wall", wall, 0, 2**33)
        self._now = _START  # ns
        self._wall = round(wall * 1000) * _MS - _START
        self._serial = count(1)
        self._random = self.random("policy")
        self._opened = 0
        # Of registrars: when, which, what.
        self._timers: list[tuple[int, int, Server, Callable[[], None]]] = []
        self._servers: list[Server] = []
        self._gone = [0, 0]  # messages that registrars received and sent which have stopped
        self._engine: Engine | None = None
        self._delivered = 0  # events that were queued when the last of them had been handled
        self._lost = (0, 0)  # messages on their way for which nobody waits any more
        self._asked = 0  # … and hooks
        self._conducting = threading.Lock()
        self._conductor_thread: int | None = None  # who gives turns now
        self._conductor: threading.Thread | None = None  # who does while nobody else does
        self._guard = threading.RLock()
        self._kicked = threading.Event()

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"<VirtualClock at {self.time():.3f} s{seed}>"

    # -- what it shows -----------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds, 1000 at the start: ``Event.time.monotonic`` compares with it."""
        return self._now / 1e9

    __call__ = time

    def wall(self) -> float:
        """Seconds since 1970: ``Event.time.wall``, ``account.expires_at`` compare with it."""
        return (self._now + self._wall) / 1e9

    def next_timer(self) -> float | None:
        """Seconds until something is due, anywhere in the stack; None: nothing is set."""
        with self._conduct("next_timer"):
            due = self._earliest(self._rest(self.deadline))
        return None if due is None else (due - self._now) / 1e9

    # -- what moves it -----------------------------------------------------------------------------

    def advance(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0) -> None:
        """Let time pass, from one timer to the next; returns when all that became due is done.

        Each thing happens at its own time, and all that follows from it, answers of the registrar
        included, before the next.  Rounded to milliseconds, as PJSIP's timers are.

        :raises WouldBlockError: called from a handler or on the loop that drives the endpoint
            (there, ``await clock.aadvance(…)``), for which it would wait itself.
        :raises TimeoutError: a handler does not return.
        :raises ConfigError: the time is negative, or more than ten years.
        """
        self._advance(seconds + 60 * minutes + 3600 * hours)

    def _advance(self, seconds: float, given_up: threading.Event | None = None) -> None:
        check_seconds("the time to advance", seconds, 0, _TEN_YEARS)
        with self._conduct("advance"):
            end = self._now + round(seconds * 1000) * _MS
            while True:
                due = self._earliest(self._rest(self.deadline))
                if given_up is not None and given_up.is_set():
                    return
                if due is None or due > end:
                    break
                self._now = max(due, self._now)
                self._run_timers()
            if self._now != end:
                self._now = end
                self._rest(self.deadline)  # which tells C, too

    async def aadvance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0
    ) -> None:
        """:meth:`advance` for a running event loop, on which the endpoint's events are delivered.

        What the loop itself waits for, ``asyncio.sleep()`` say, keeps real time.  When it is
        cancelled, time stops where it is.
        """
        given_up = threading.Event()
        total = seconds + 60 * minutes + 3600 * hours
        try:
            await asyncio.to_thread(self._advance, total, given_up)
        finally:
            given_up.set()

    def settle(self) -> None:
        """Let everything come to rest, and no time pass.

        :raises WouldBlockError, TimeoutError: as :meth:`advance`.
        """
        with self._conduct("settle"):
            self._rest(self.deadline)

    # -- what an endpoint needs of it (pjsip_py._clock.Clock) --------------------------------------

    def engine_options(self) -> dict[str, int]:
        """C's time begins where this clock stands."""
        options = {
            "virtual_clock": 1,
            "monotonic_ns": self._now,
            "wall_ns": self._now + self._wall,
        }
        if self.seed is not None:
            # Another for each endpoint: a Call-ID must not come back.
            seed = (self.seed + self._opened * 0x9E3779B97F4A7C15) % 2**64
            options |= {"seeded": 1, "seed": seed}
        self._opened += 1
        return options

    def attach(self, engine: Engine) -> None:
        with self._guard:
            self._engine = engine
            self._delivered = 0
            self._lost = self._missing(_ffi.Turn(0, 0, 0, 0, 0, 0, 0))
            self._asked = Hooks.pending
            for server in self._servers:
                server.hold()
        engine.virtual = self
        self._conductor = threading.Thread(
            target=self._conduct_for, args=(engine,), name="pjsip_py-clock", daemon=True
        )
        self._conductor.start()

    def detach(self, engine: Engine) -> None:
        engine.virtual = None
        with self._guard:
            if self._engine is not engine:
                return
            self._engine = None
            for server in self._servers:
                server.release()
            conductor, self._conductor = self._conductor, None
        self._kicked.set()
        if conductor is not None:
            conductor.join(1.0)
        if self._conductor_thread != threading.get_ident() and self._conducting.acquire(timeout=1):
            self._conducting.release()  # nobody is at the engine any more

    def ports(self) -> Iterator[int]:
        """Ports for who asks for any: with a seed the same in each run, if nobody else has them."""
        if self.seed is not None:
            numbers = self.random("port")
            for _ in range(20):
                yield numbers.randrange(20000, 32000)  # below those that Linux gives away itself
        yield from repeat(0)

    def uniform(self, least: float, most: float) -> float:
        return self._random.uniform(least, most)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        engine = self._engine
        if engine is None:
            raise ClosedError("the endpoint is closed")
        return engine.call_later(seconds, call)

    def cancel(self, handle: Any) -> None:
        engine = self._engine
        if engine is not None:
            engine.call_cancel(handle)

    # -- what a registrar needs of it --------------------------------------------------------------

    def random(self, name: str) -> random.Random:
        """Random numbers for the next that is called *name*, with a seed the same in each run."""
        if self.seed is None:
            return random.SystemRandom()
        return random.Random(f"{self.seed}/{name}/{next(self._serial)}")

    def join(self, server: Server) -> None:
        """A registrar's server begins."""
        with self._guard:
            self._servers.append(server)
            if self._engine is not None:
                server.hold()

    def leave(self, server: Server) -> None:
        """It is about to stop."""
        with self._guard:
            if server in self._servers:
                self._servers.remove(server)
                self._gone[0] += server.received
                self._gone[1] += server.sent
        server.release()

    def call_on(self, server: Server, seconds: float, call: Callable[[], None]) -> None:
        """Call on the server's thread, after *seconds*, if it still runs then."""
        due = self._now + max(0, round(seconds * 1000)) * _MS
        with self._guard:
            heapq.heappush(self._timers, (due, next(self._serial), server, call))

    def kick(self) -> None:
        """Somebody waits: let happen what can."""
        self._kicked.set()

    # -- rest --------------------------------------------------------------------------------------

    @contextmanager
    def _conduct(self, what: str) -> Iterator[None]:
        engine = self._engine
        here = threading.get_ident()
        if engine is not None and engine.is_delivering_here():
            loop = engine.loop is not None and here == engine._loop_thread
            raise WouldBlockError(
                f"clock.{what}() on the loop that drives the endpoint would wait for itself: "
                "await clock.aadvance(…)"
                if loop and what == "advance"
                else f"clock.{what}() from a handler would wait for that handler: call it from "
                "the test"
            )
        if self._conductor_thread == here or any(s.is_here() for s in self._servers):
            raise WouldBlockError(f"clock.{what}() from a callback would wait for that callback")
        with self._conducting:
            self._conductor_thread = here
            try:
                yield
            finally:
                self._conductor_thread = None

    def _conduct_for(self, engine: Engine) -> None:
        """While nobody moves the clock: messages travel as soon as somebody waits for them.

        Who waits for something that we know nothing of is found out by the program's silence.
        """
        posted = -1
        # A program with a seed is not to be mistaken for silent when it is merely slow.
        tick = _TICK if self.seed is None else 10 * _TICK
        while self._engine is engine:
            kicked = self._kicked.wait(tick)
            self._kicked.clear()
            with suppress(PjsipError, TimeoutError), self._conducting:
                if self._engine is not engine:
                    return
                if not kicked:
                    before, posted = posted, _ffi.stats()["commands"]
                    if posted != before + 1:  # this look is the one
                        continue
                self._conductor_thread = threading.get_ident()
                try:
                    self._rest(_TICK * 4, pump=False)
                finally:
                    self._conductor_thread = None
                    posted = -1

    def _rest(self, patience: float, pump: bool = True) -> _ffi.Turn | None:
        """All that can be done while the clock stands: first by the endpoint, then by registrars,
        one at a time, until there is nothing; so it comes in the same order in every run."""
        with suppress(_Gone):
            return self._rest_with(self._engine, patience, pump)
        return self._rest_with(None, patience, pump)

    def _rest_with(self, engine: Engine | None, patience: float, pump: bool) -> _ffi.Turn | None:
        worked, since = -1, 0.0
        while True:
            turn = None if engine is None else self._rest_of(engine, patience, pump)
            moved = [server.turn(self.deadline) for server in list(self._servers)]
            if any(moved):  # no generator: each has its turn
                worked = -1
                continue
            if turn is None:
                break
            asked = Hooks.pending
            grace = self._grace(turn, asked)
            if grace == 0:
                if _ffi.posted() == turn.posted:  # asked last: a hook answers before it ends
                    break
                continue
            if turn.worked != worked:
                worked, since = turn.worked, time.monotonic()
            elif time.monotonic() - since >= grace:
                break
            time.sleep(0.001)
        if turn is not None:
            self._lost = self._missing(turn)
            self._asked = asked
        return turn

    def _rest_of(self, engine: Engine, patience: float, pump: bool) -> _ffi.Turn:
        """The worker and the program's handlers, in turns."""
        if engine.loop is not None:  # its tasks have perhaps not said all yet
            self._delivered += self._let_deliver(engine, patience)
        while True:
            if self._engine is not engine:
                raise _Gone
            try:
                turn = _ffi.clock_turn(self._now)
            except ClosedError:
                raise _Gone from None
            if turn.events == self._delivered or (not pump and engine.pumped_by_caller()):
                return turn
            pushed = self._let_deliver(engine, patience)
            self._delivered = turn.events + pushed
            turn = turn._replace(posted=turn.posted + pushed)
            if _ffi.posted() == turn.posted:
                return turn  # nobody had anything to say to that

    def _let_deliver(self, engine: Engine, patience: float) -> int:
        """Wait until all that is queued has been handled; how many events it took for that."""
        if engine.pumped_by_caller():
            while engine.dispatch(0.0):
                pass
            return 0
        done = threading.Event()
        loop = engine.loop

        def behind_all(passes: int = _LOOP_PASSES) -> None:
            if loop is None or passes == 0 or loop.is_closed():
                done.set()
            else:
                loop.call_soon(behind_all, passes - 1)

        engine.call_later(0, behind_all)
        until = time.monotonic() + patience
        while not done.wait(_TICK):
            if self._engine is not engine:
                raise _Gone
            if time.monotonic() > until:
                raise TimeoutError(_blocked(engine, patience))
        return 1

    def _grace(self, turn: _ffi.Turn, asked: int) -> float:
        """Real seconds to wait for those who do not follow this clock, if they are asked."""
        if asked > self._asked:
            return _OURS * self.grace
        out, back = self._missing(turn)
        if turn.in_flight > 0 and (out > self._lost[0] or back > self._lost[1]):
            return self.grace
        return 0.0

    def _missing(self, turn: _ffi.Turn) -> tuple[int, int]:
        """Messages that were sent and not received, towards registrars and from them."""
        with self._guard:
            received = self._gone[0] + sum(server.received for server in self._servers)
            sent = self._gone[1] + sum(server.sent for server in self._servers)
        return turn.sent - received, sent - turn.received

    def _earliest(self, turn: _ffi.Turn | None) -> int | None:
        with self._guard:
            due = [self._timers[0][0]] if self._timers else []
        if turn is not None and turn.next_ns >= 0:
            due.append(turn.next_ns)
        return min(due, default=None)

    def _run_timers(self) -> None:
        """Those of registrars that are due."""
        while True:
            with self._guard:
                if not self._timers or self._timers[0][0] > self._now:
                    return
                _, _, server, call = heapq.heappop(self._timers)
            if server in self._servers:
                server.call(call, self.deadline)


def _blocked(engine: Engine, patience: float) -> str:
    """Where the handler is that does not return."""
    thread = engine._delivering_thread or engine._loop_thread
    frame = sys._current_frames().get(thread) if thread is not None else None
    where = ""
    if frame is not None:
        stack = traceback.extract_stack(frame)
        ours = [i for i, at in enumerate(stack) if at.filename.startswith(_PACKAGE)]
        at = stack[min(max(ours, default=-2) + 1, len(stack) - 1)]  # what we have called
        where = f": {at.name}() at {at.filename}:{at.lineno}"
    return (
        f"time cannot pass: the endpoint has delivered nothing for {patience:g} s, "
        f"a handler blocks{where}"
    )
