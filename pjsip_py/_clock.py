# SPDX-License-Identifier: GPL-3.0-or-later
"""The time that policy lives in: PJSIP's timers, or a test's own clock in their place."""

from __future__ import annotations

import time
from collections.abc import Callable

from ._engine import Engine
from ._typing import Any, Protocol


class Clock(Protocol):
    """What an account, its pacing and its keep-alives need of time."""

    def attach(self, engine: Engine) -> None:
        """Belong to *engine* from now on; calls are made where its events are delivered."""

    def time(self) -> float:
        """Seconds of a clock that nobody sets."""

    def wall(self) -> float:
        """As time.time()."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        """:raises ClosedError: the engine has stopped."""

    def cancel(self, handle: Any) -> None: ...


class EngineClock:
    """PJSIP's timer heap."""

    __slots__ = ("_engine",)

    def attach(self, engine: Engine) -> None:
        self._engine = engine

    def time(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def call_later(self, seconds: float, call: Callable[[], object]) -> int:
        return self._engine.call_later(seconds, call)

    def cancel(self, handle: int) -> None:
        self._engine.call_cancel(handle)
