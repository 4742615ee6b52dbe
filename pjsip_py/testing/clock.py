# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for the policy of accounts that stands still until a test moves it."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pjsip_py._engine import Engine

_DELIVERY = 10.0  # s


class FakeClock:
    """Retries, back-off, pacing, probes and keep-alives wait for :meth:`advance`.

    ``Endpoint(clock=FakeClock())``.  The sockets and PJSIP's own timers (refresh, retransmission,
    timer F) keep real time.
    """

    def __init__(self, wall: float | None = None) -> None:
        self._start = time.time() if wall is None else wall
        self._now = 1000.0
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = count(1)
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine

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
        assert engine is not None, "give the clock to an Endpoint first"
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
        if not done.wait(_DELIVERY):
            raise TimeoutError("the endpoint delivers no events: a handler blocks?")
