# SPDX-License-Identifier: GPL-3.0-or-later
"""The token bucket through which all automatic attempts of an endpoint pass.

A registrar that comes back, or a network that changes, is met by every account at once; the bucket
lets *burst* REGISTERs through and then *rate* a second.  A registrar that does not answer has at
most *burst* of them under way: they would all be answered, and repeated, in the moment it is back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from ._clock import Clock
from ._typing import Any
from .errors import ClosedError

Go = Callable[[], object]
GRAIN = 0.02  # s


class _Hop:
    """Attempts towards one registrar: waiting, and the tokens of those that have no answer yet."""

    __slots__ = ("held", "queue")

    def __init__(self) -> None:
        # Not a dict, which looks through all that was deleted before it finds its first.
        self.queue: OrderedDict[Go, int] = OrderedDict()
        self.held = 0


class Pacer:
    """Its methods are called with *lock* held, and call with it held."""

    def __init__(
        self, rate: float | None, burst: int, clock: Clock, lock: AbstractContextManager[Any]
    ) -> None:
        self._lock = lock
        self._rate = rate
        self._burst = burst
        # Of one registrar without an answer; the others always have an attempt's tokens left.
        self._window = burst - 2 if burst >= 8 else burst
        self._clock = clock
        self._tokens = float(burst)
        self._held = 0  # of all hops
        self._filled = 0.0
        self._hops: dict[str, _Hop] = {}
        self._timer: Any = None
        self._running = self._stopped = False

    def stop(self) -> None:
        """Let nobody go any more: the endpoint closes."""
        self._stopped = True
        self._hops.clear()

    def ask(self, go: Go, cost: int, hop: str) -> None:
        """Call *go* when *cost* tokens are there, now perhaps; first come, first served.

        :param hop: the registrar that has to :meth:`answer` before others may go; "" for none.
        """
        if self._stopped:
            return
        if self._rate is None:
            go()
            return
        self._hops.setdefault(hop, _Hop()).queue[go] = min(cost, self._burst)
        self._run()

    def forget(self, go: Go, hop: str) -> None:
        if hop in self._hops:
            self._hops[hop].queue.pop(go, None)
            self._tidy(hop)

    def answer(self, cost: int, hop: str) -> None:
        """An attempt that was let go has had its outcome."""
        if hop in self._hops:
            cost = min(cost, self._burst)
            self._hops[hop].held -= cost
            self._held -= cost
            self._tidy(hop)
            self._run()

    def _tidy(self, hop: str) -> None:
        found = self._hops[hop]
        if not found.queue and found.held <= 0:
            del self._hops[hop]

    def _run(self) -> None:
        if self._timer is not None or self._running:
            return
        self._running = True  # what is called may ask, or answer, again
        try:
            while self._let_one_go():
                pass
        finally:
            self._running = False

    def _let_one_go(self) -> bool:
        assert self._rate is not None
        now = self._clock.time()
        if self._filled:
            # What is held may still be repeated, and so is part of the burst.
            depth = max(2, self._burst - self._held)
            self._tokens = min(depth, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        for name, hop in self._hops.items():
            go, cost = next(iter(hop.queue.items()), (None, 0))
            if go is None or (name and hop.held + cost > self._window):
                continue
            if self._tokens < cost - 1e-6:  # what the arithmetic leaves of a wait
                self._wait((cost - self._tokens) / self._rate)
                return False
            self._tokens -= cost
            del hop.queue[go]
            if name:
                hop.held += cost
                self._held += cost
            # Behind the others: each registrar has its turn.
            self._hops[name] = self._hops.pop(name)
            self._tidy(name)
            go()
            return True
        return False

    def _wait(self, seconds: float) -> None:
        with suppress(ClosedError):
            # Several at a time: each wait wakes two threads.
            self._timer = self._clock.call_later(max(GRAIN, seconds), self._wake)

    def _wake(self) -> None:
        with self._lock:
            self._timer = None
            self._run()
