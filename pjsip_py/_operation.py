# SPDX-License-Identifier: GPL-3.0-or-later
"""The result that is not there yet: blocking, awaitable, cancellable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial

from . import _ffi
from ._lazy import logger
from ._typing import TYPE_CHECKING, Any, Generic, TypeVar
from .errors import WouldBlockError

if TYPE_CHECKING:
    import asyncio

    from ._engine import Engine

T = TypeVar("T")
_log = logger("pjsip_py")

# One lock for all: it guards a few assignments, and an Operation stays small.  Like the others it
# is re-entrant: the collector may run a finalizer of the program's, which calls us, under it.
_lock = threading.RLock()


def cancelled_error() -> BaseException:
    """What a cancelled Operation raises; its module is 5 ms of import that few programs need."""
    from concurrent.futures import CancelledError

    return CancelledError()


def _is_cancelled(error: BaseException) -> bool:
    from concurrent.futures import CancelledError

    return isinstance(error, CancelledError)


class Operation(Generic[T]):
    """One request under way.

    ``result()`` blocks and ``await`` awaits; both raise what the request failed with.  A failure
    that nobody asked for is logged when the Operation goes away.
    """

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_engine",
        "_error",
        "_event",
        "_name",
        "_retrieved",
        "_state",
        "_value",
        "request",
    )

    def __init__(self, engine: Engine, name: str, request: int = 0) -> None:
        self._engine = engine
        self._name = name
        self.request = request
        self._state = "pending"
        self._value: T | None = None
        self._error: BaseException | None = None
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[Operation[T]], object]] | None = None
        self._retrieved = False

    def done(self) -> bool:
        return self._state != "pending"

    def cancelled(self) -> bool:
        return self._state == "cancelled"

    def cancel(self) -> bool:
        """Ask for an end; False when it is already done.

        The transaction in flight is terminated; the Operation then raises CancelledError, unless
        the answer was faster.
        """
        if self.done() or _ffi.forked():
            return False
        self._ask_cancel()
        return True

    def _ask_cancel(self) -> None:
        """Overridden where there is something to stop; else only the waiting ends."""
        self._finish(None, cancelled_error())

    @property
    def name(self) -> str:
        return self._name

    def result(self, timeout: float | None = None) -> T:
        """Wait up to *timeout* seconds (None: for ever) and give the value or raise.

        :raises TimeoutError: it is still pending; the request itself goes on.
        :raises WouldBlockError: called where the answer is delivered, that is from an event
            handler or from the running event loop, so that it could never come.
        """
        self._wait(timeout)
        self._retrieved = True
        if self._error is not None:
            try:
                raise self._error
            finally:
                self = None  # type: ignore[assignment]  # no cycle through the traceback
        return self._answer()

    def _answer(self) -> T:
        return self._value  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait like :meth:`result` and give the exception, or None."""
        self._wait(timeout)
        self._retrieved = True
        if self.cancelled():
            raise cancelled_error()
        return self._error

    def add_done_callback(self, callback: Callable[[Operation[T]], object]) -> None:
        """Call *callback* with this Operation once it is done, or now if it is.

        What it raises is logged, as concurrent.futures does.
        """
        with _lock:
            if not self.done():
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        self._run_callback(callback)

    def _run_callback(self, callback: Callable[[Operation[T]], object]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("a done callback of %s failed", self.name)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        _ffi.check_fork(self.name)
        if self._engine.virtual is not None:
            self._engine.virtual.kick()
        if self._engine.pumped_by_caller():
            self._engine.pump_until(self.done, timeout)
        else:
            if self._engine.is_delivering_here():
                raise WouldBlockError(
                    f"{self.name}: result() here would wait for itself: await it, or use "
                    "add_done_callback()"
                )
            with _lock:
                if not self.done() and self._event is None:
                    self._event = threading.Event()
            if self._event is not None:
                self._event.wait(timeout)
        if not self.done():
            raise TimeoutError(f"{self.name}: no outcome within {timeout:g} s; it goes on")

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        with _lock:
            if self.done():
                return
            self._value, self._error = value, error
            self._state = "cancelled" if error is not None and _is_cancelled(error) else "done"
            callbacks, self._callbacks = self._callbacks, None
            event = self._event
        if event is not None:
            event.set()
        for callback in callbacks or ():
            self._run_callback(callback)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # who awaits has it; who does not is spared its import

        if not self.done():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not future.done():
                    future.set_result(None)

            def on_done(_: Operation[T]) -> None:
                with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(wake)

            self.add_done_callback(on_done)
            if self._engine.virtual is not None:
                self._engine.virtual.kick()
            try:
                yield from future.__await__()
            except asyncio.CancelledError:
                self._retrieved = True
                self.cancel()
                raise
        self._retrieved = True
        if self.cancelled():
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        return self._answer()

    def __del__(self) -> None:
        error = self._error
        if error is not None and not self._retrieved and not self.cancelled():
            # In its turn: whoever lets the last reference go may hold a lock that a logging handler
            # of the program's waits for.
            line = partial(_log.warning, "%s failed and nobody asked: %s", self.name, error)
            self._engine.soon(line)

    def __repr__(self) -> str:
        return f"<Operation {self.name} {self._state}>"
