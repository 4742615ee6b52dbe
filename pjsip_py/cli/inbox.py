# SPDX-License-Identifier: GPL-3.0-or-later
"""One queue for all that a command waits for: events and signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NamedTuple

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(NamedTuple):
    """Ctrl-C, or SIGTERM: somebody wants the command to end."""

    signum: int


class Inbox:
    """``put`` from any thread, ``get`` on the main one; a signal arrives as :class:`Stop`.

    So Ctrl-C never breaks into the middle of anything: there is always time to unregister.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[object] = SimpleQueue()

    def put(self, item: object) -> None:
        self._queue.put(item)

    def get(self, timeout: float | None = None) -> object:
        """The next item; None when *timeout* seconds brought nothing."""
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return None

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        self._queue.put(Stop(signum))  # SimpleQueue.put is reentrant

    def __enter__(self) -> Inbox:
        self._previous = {each: signal.signal(each, self._on_signal) for each in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals end what is done inside at once: for a prompt, which waits for no queue."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise Interrupted(signum)

    previous = {each: signal.signal(each, stop) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


class Interrupted(KeyboardInterrupt):
    """A signal, where there was nothing to tidy up."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum
