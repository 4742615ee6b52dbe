# SPDX-License-Identifier: GPL-3.0-or-later
"""Events from the worker to Python objects, by one of three ways of driving.

``thread``   a thread of ours waits in C and delivers (sync programs)
``asyncio``  the running loop watches the wake descriptor and delivers
``manual``   whoever calls ``dispatch()``, or waits in ``result()``, delivers

Whichever it is, one thread delivers at a time, in the order in which the worker queued.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count

from . import _ffi
from ._lazy import logger
from ._operation import Operation
from ._typing import TYPE_CHECKING, Any, Protocol
from .errors import ClosedError, PjsipError

if TYPE_CHECKING:
    import asyncio

_log = logger("pjsip")
_own_log = logger("pjsip_py")
SLICE = 0.1  # s
# PJSIP's levels: 1 error, 2 warning, 3 info, 4 debug, 5 trace.
_LEVELS = {0: 50, 1: 40, 2: 30, 3: 20}


class Receiver(Protocol):
    """An object that owns a handle."""

    def _receive(self, record: _ffi.Record) -> None: ...
    def _orphan(self) -> None: ...


class VirtualTime(Protocol):
    """A test's clock: messages travel only while it looks after them."""

    def kick(self) -> None:
        """Somebody begins to wait for what messages bring."""

    def settle(self) -> None:
        """Wait until everything that can happen while the clock stands has happened."""


def _threads_are_greenlets() -> bool:
    """Whether gevent has made them so."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


class Engine:
    """One run of the C engine, from open to close."""

    # Of the process: what a lookup of an engine that has closed posts is nobody's in the next.
    _requests = count(1)

    def __init__(self, config: dict[str, Any], deliver: Callable[[_ffi.Record], None]) -> None:
        self._deliver_other = deliver
        self.receivers: dict[int, Receiver] = {}
        self._calls: dict[int, Callable[[], object]] = {}
        self._buffer = _ffi.EventBuffer()
        self._records: deque[_ffi.Record] = deque()
        self._delivering = threading.RLock()
        self._delivering_thread: int | None = None
        self._thread: threading.Thread | None = None
        self._in_greenlet = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        #: What a handler raised that is no Exception (Ctrl-C, sys.exit): raised by dispatch().
        self.interrupt: BaseException | None = None
        self.late_events = 0
        self.virtual: VirtualTime | None = None
        self.stopping = self.closed = False
        _ffi.start(config)

    # -- driving ----------------------------------------------------------------------------------

    def drive_by_thread(self) -> None:
        run = self._run
        if _threads_are_greenlets():
            self._in_greenlet = True
            run = partial(self._run_greenlet, _ffi.event_fd())
        self._thread = threading.Thread(target=run, name="pjsip_py-events", daemon=True)
        self._thread.start()

    def drive_by_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        loop.add_reader(_ffi.event_fd(), self._on_readable)

    def _run(self) -> None:
        while not self.stopping:
            try:
                # No timeout would be as good; this bounds a lost wake-up, which must not be.
                self.dispatch(60.0)
            except BaseException:  # nobody is above this thread, and it must not end
                _own_log.exception("delivering an event failed; the next ones follow")

    def _run_greenlet(self, descriptor: int) -> None:
        """:meth:`_run` as a greenlet: the others run while it waits."""
        from gevent import GreenletExit, get_hub
        from gevent.socket import wait_read

        while not self.stopping:
            try:
                with suppress(TimeoutError):
                    wait_read(descriptor, SLICE)  # interrupt() is not seen there
                while _ffi.forked():  # a thread would be no more
                    get_hub().switch()
                self.dispatch(0.0)
            except GreenletExit:
                return
            except (KeyboardInterrupt, SystemExit) as error:  # the main greenlet's
                self._delivering = threading.RLock()  # gevent's may be left locked by a signal
                get_hub().handle_system_error(type(error), error)
            except BaseException:
                _own_log.exception("delivering an event failed; the next ones follow")

    def _on_readable(self) -> None:
        self.dispatch(0.0)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    def pumped_by_caller(self) -> bool:
        return self._thread is None and self._loop is None and not self.is_delivering_here()

    def on_event_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def passes_interrupts(self) -> bool:
        """Whether somebody above :meth:`dispatch` should have Ctrl-C and ``sys.exit()``."""
        return self._in_greenlet or not self.on_event_thread()

    def is_delivering_here(self) -> bool:
        """Whether this thread is the one through which events come."""
        here = threading.get_ident()
        return here in (self._delivering_thread, self._loop_thread)

    def dispatch(self, timeout: float) -> int:
        """Wait up to *timeout* seconds for events and deliver them; how many there were."""
        if not self._delivering.acquire(timeout=max(0.0, timeout)):
            return 0  # another thread delivers
        try:
            if self.closed:
                return 0  # the queue may be another engine's by now
            if self.virtual is not None and timeout > 0 and self._thread is None:
                self.virtual.kick()
            count = self._take(timeout)
            outer = self._delivering_thread
            self._delivering_thread = threading.get_ident()
            try:
                while self._records:
                    self._deliver(self._records.popleft())
            finally:
                self._delivering_thread = outer
        finally:
            self._delivering.release()
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt
        return count

    def _take(self, timeout: float) -> int:
        """Wait in slices on the main thread, or Ctrl-C would not be seen before an event."""
        if self._records:
            timeout = 0.0  # what an exception left behind comes first
        if timeout <= SLICE or threading.current_thread() is not threading.main_thread():
            return self._buffer.take(self._records, timeout)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            count = self._buffer.take(self._records, max(0.0, min(SLICE, left)))
            if count or left <= 0:
                return count

    def pump_until(self, done: Callable[[], bool], timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            if left <= 0:
                return
            self.dispatch(left)

    # -- delivering -------------------------------------------------------------------------------

    def _deliver(self, record: _ffi.Record) -> None:
        if record.handle:
            receiver = self.receivers.get(record.handle)
            if receiver is None:
                self.late_events += 1
            else:
                receiver._receive(record)
        elif record.kind == _ffi.EV_LOG:
            with suppress(Exception):  # a logging filter of the program's is not our end
                _log.log(_LEVELS.get(record.value[0], 10), "%s", _ffi.log_of(record.text[0]))
        elif record.kind == _ffi.EV_TIMER:
            self._run_call(record)
        else:
            self._deliver_other(record)

    def _run_call(self, record: _ffi.Record) -> None:
        call = self._calls.get(record.request)
        if call is None:
            return
        try:
            call()
        except Exception:
            self._calls.pop(record.request, None)
            raise
        except BaseException:  # Ctrl-C in the middle: once more, for others may wait for it
            self._records.appendleft(record)
            raise
        self._calls.pop(record.request, None)

    def call_later(self, seconds: float, call: Callable[[], object]) -> int:
        """Call where events are delivered, after *seconds* on PJSIP's clock; 0: in its turn.

        :raises ClosedError: the engine has stopped.
        """
        if self.closed:
            raise ClosedError("the endpoint is closed")
        request = next(self._requests)
        self._calls[request] = call
        try:
            _ffi.call_later(request, seconds)
        except BaseException:
            self._calls.pop(request, None)
            raise
        return request

    def soon(self, call: Callable[[], object]) -> None:
        """Call in its turn where events are delivered; at once when none are any more."""
        try:
            self.call_later(0, call)
        except PjsipError:  # closed, or forked
            call()

    def call_cancel(self, request: int) -> None:
        if self._calls.pop(request, None) is not None:
            _ffi.call_cancel(request)

    def next_request(self) -> int:
        return next(self._requests)

    # -- closing ----------------------------------------------------------------------------------

    def wait(self, operations: list[Operation[Any]], timeout: float) -> None:
        """Wait for all of *operations*, on any thread, the delivering one included."""
        if operations and self.virtual is not None and not self.is_delivering_here():
            self.virtual.settle()
            timeout = 0.0  # what is not there now does not come while the clock stands
        deadline = time.monotonic() + timeout
        for operation in operations:
            left = max(0.0, deadline - time.monotonic())
            if self._thread is None or self.is_delivering_here():
                self.pump_until(operation.done, left)
            else:
                from concurrent.futures import CancelledError

                with suppress(TimeoutError, CancelledError):
                    operation.exception(left)

    def _end_thread(self, thread: threading.Thread, timeout: float) -> None:
        """Wait for its end; it may be on its way into a wait that began after an interrupt.

        Left there it would take the events of the next engine.
        """
        deadline = time.monotonic() + timeout
        while thread.is_alive() and time.monotonic() < deadline:
            _ffi.interrupt()
            thread.join(0.01)

    def close(self, timeout: float) -> bool:
        """Stop the worker, deliver what is left, and end every Operation; False on a time-out."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(_ffi.event_fd())
        try:
            stopped = _ffi.stop(timeout)
            self.stopping = True
            _ffi.interrupt()
            thread = self._thread
            if thread is not None and not self.on_event_thread():
                self._end_thread(thread, timeout)
            if thread is None or self.on_event_thread() or not thread.is_alive():
                with self._delivering:
                    while self.dispatch(0.0):
                        pass
            return stopped
        finally:  # Ctrl-C included: no Operation may be left behind
            self.stopping = self.closed = True
            for receiver in list(self.receivers.values()):
                receiver._orphan()
            self.receivers.clear()
