# SPDX-License-Identifier: GPL-3.0-or-later
"""The time that policy lives in: PJSIP's timers, or a test's own clock in their place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import repeat

from ._engine import Engine
from ._typing import Any, Protocol


class Clock(Protocol):
    """What an endpoint, its accounts, pacing and keep-alives need of time."""

    @property
    def seed(self) -> int | None:
        """What is random follows from it; None: nothing does."""

    def engine_options(self) -> dict[str, int]:
        """Fields of C's ``pjpy_config`` that replace the endpoint's own."""

    def attach(self, engine: Engine) -> None:
        """Belong to *engine* from now on; calls are made where its events are delivered."""

    def detach(self, engine: Engine) -> None:
        """*engine* is about to stop."""

    def time(self) -> float:
        """Seconds of a clock that nobody sets."""

    def wall(self) -> float:
        """As time.time()."""

    def ports(self) -> Iterator[int]:
        """Ports to try for who asks for any, without end; 0: the system's choice."""

    def uniform(self, least: float, most: float) -> float:
        """As random.uniform()."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        """:raises ClosedError: the engine has stopped."""

    def cancel(self, handle: Any) -> None: ...


class EngineClock:
    """PJSIP's timer heap."""

    seed: int | None = None

    def engine_options(self) -> dict[str, int]:
        return {}

    def attach(self, engine: Engine) -> None:
        self._engine = engine

    def detach(self, engine: Engine) -> None:
        pass

    def time(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def ports(self) -> Iterator[int]:
        return repeat(0)

    def uniform(self, least: float, most: float) -> float:
        import random  # the package's import need not wait for it

        return random.uniform(least, most)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        return self._engine.call_later(seconds, call)

    def cancel(self, handle: Any) -> None:
        self._engine.call_cancel(handle)
