# SPDX-License-Identifier: GPL-3.0-or-later
"""The token bucket through which all automatic attempts of an endpoint pass.

A registrar that comes back, or a network that changes, is met by every account at once; the bucket
lets *burst* REGISTERs through and then *rate* a second, first come, first served.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from ._clock import Clock
from .errors import ClosedError


class Pacer:
    """Its methods are called with *lock* held, and call with it held."""

    def __init__(
        self, rate: float | None, burst: int, clock: Clock, lock: AbstractContextManager[Any]
    ) -> None:
        self._lock = lock
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = 0.0
        self._queue: dict[Callable[[], object], int] = {}
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._queue)

    def ask(self, go: Callable[[], object], cost: int) -> None:
        """Call *go* when *cost* tokens are there, now perhaps."""
        if self._rate is None:
            go()
            return
        self._queue[go] = min(cost, self._burst)
        if self._timer is None:
            self._run()

    def forget(self, go: Callable[[], object]) -> None:
        self._queue.pop(go, None)

    def _run(self) -> None:
        assert self._rate is not None
        self._timer = None
        now = self._clock.time()
        if self._filled:
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        while self._queue:
            go, cost = next(iter(self._queue.items()))
            if self._tokens < cost:
                wait = (cost - self._tokens) / self._rate
                with suppress(ClosedError):
                    # Not below the timers' own grain, or the wait is spent turning round.
                    self._timer = self._clock.call_later(max(0.002, wait), self._wake)
                return
            del self._queue[go]
            self._tokens -= cost
            go()

    def _wake(self) -> None:
        with self._lock:
            self._run()
