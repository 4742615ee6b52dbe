# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registrar has received, answered and failed at; told and asked by any thread."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

from pjsip_py._lazy import logger

from .request import ReceivedRequest

log = logger("pjsip_py.testing")

_FAILURES_KEPT = 10
_LOOK_AGAIN = 0.25  # s; a socket that is lost tells nobody

T = TypeVar("T")


class Journal:
    """`kept` requests, the newest, and counts. ``lock`` guards the registrar's bindings, too."""

    def __init__(self, kept: int) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.requests: deque[ReceivedRequest] = deque(maxlen=kept)
        self.received = 0
        self.counts: Counter[str] = Counter()
        self.responses: Counter[int] = Counter()
        self.failures: list[str] = []  # the newest ones, for the report
        self._errors: list[BaseException] = []  # not raised yet

    def note_request(self, request: ReceivedRequest) -> None:
        with self._changed:
            self.received += 1
            self.requests.append(request)
            self._changed.notify_all()

    def note_answer(self, request: ReceivedRequest, code: int) -> None:
        with self._changed:
            if request.answered is None:
                request.answered = code
                self.responses[code] += 1
                self._changed.notify_all()
        log.info("%s", request)

    def count(self, what: str) -> None:
        with self._changed:
            self.counts[what] += 1
            self._changed.notify_all()

    def note_error(self, error: BaseException) -> None:
        log.error("the registrar failed: %s", type(error).__name__, exc_info=error)
        with self._changed:
            self._errors.append(error)
            told = f"{type(error).__name__}: {error}"
            self.failures = [*self.failures[1 - _FAILURES_KEPT :], told]
            self._changed.notify_all()

    def take_errors(self) -> list[BaseException]:
        """What went wrong since the last call."""
        with self.lock:
            errors, self._errors = self._errors, []
            return errors

    def wake(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(
        self,
        found: Callable[[], T | None],
        timeout: float,
        check: Callable[[], None],
        complain: Callable[[], str],
    ) -> T:
        """Wait until `found` gives something; `check` raises when there is no point in it.

        Raises ``TimeoutError`` with what `complain` says.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while (value := found()) is None:
                check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(complain())
                self._changed.wait(min(left, _LOOK_AGAIN))
        return value
