# SPDX-License-Identifier: GPL-3.0-or-later
"""An endpoint in a gevent program: a greenlet waits for its wake descriptor and delivers.

Patch first, as gevent wants it: ``gevent.monkey.patch_all()`` before ``import pjsip_py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

try:
    import gevent
    from gevent.event import Event
    from gevent.hub import get_hub
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "pjsip_py.gevent needs the library gevent: pip install gevent", name="gevent"
    ) from missing

from ._operation import Operation
from .endpoint import Endpoint, EndpointConfig
from .errors import ClosedError, WouldBlockError

__all__ = ["GeventEndpoint", "result"]

T = TypeVar("T")
_READ = 1  # of libev's and libuv's watchers


class GeventEndpoint(Endpoint):
    """An :class:`~pjsip_py.Endpoint` whose handlers run in a greenlet, one after the other.

    It must be opened, used and closed in one thread, that of its hub.  Wait for an Operation by
    :func:`result`: ``Operation.result()`` would hold up all greenlets.
    """

    def __init__(self, config: EndpointConfig | None = None, **options: Any) -> None:
        self._greenlet: gevent.Greenlet[..., None] | None = None
        super().__init__(config, dispatch="manual", **options)

    def open(self) -> GeventEndpoint:
        super().open()
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._deliver)
        return self

    def __enter__(self) -> GeventEndpoint:
        return self.open()

    def _deliver(self) -> None:
        hub = get_hub()
        readable = hub.loop.io(self.fileno(), _READ)
        try:
            while not self.closed:
                hub.wait(readable)
                try:
                    self.dispatch()
                except gevent.GreenletExit:
                    raise
                except hub.SYSTEM_ERROR as error:  # Ctrl-C is the main greenlet's
                    hub.handle_system_error(type(error), error)
                except BaseException:
                    hub.handle_error(self, *sys.exc_info())
        finally:
            readable.close()

    def close(self, timeout: float = 5.0, *, network: bool = True) -> None:
        """As :meth:`Endpoint.close`; other greenlets run while it unregisters."""
        deadline = time.monotonic() + timeout
        if self._greenlet is not gevent.getcurrent():
            if network:
                self._unregister_all(timeout)
                network = False
            greenlet, self._greenlet = self._greenlet, None
            if greenlet is not None:
                greenlet.kill()
        super().close(max(0.0, deadline - time.monotonic()), network=network)
        self._greenlet = None

    def _unregister_all(self, timeout: float) -> None:
        goodbyes = []
        for account in self.accounts:
            if account.registered or account.state in ("registering", "registered"):
                with suppress(ClosedError):
                    goodbyes.append(account.unregister(timeout=max(0.01, timeout)))
        wait_all(goodbyes, timeout)


def result(operation: Operation[T], timeout: float | None = None) -> T:
    """``operation.result(timeout)`` for a greenlet: the others run meanwhile.

    A greenlet that is killed while it waits cancels the operation.

    :raises WouldBlockError: called where events are delivered, from a handler or the hub.
    """
    if not operation.done():
        if gevent.getcurrent() is get_hub() or operation._engine.is_delivering_here():
            raise WouldBlockError(f"{operation.name}: result() here would wait for itself")
        arrived = Event()
        operation.add_done_callback(lambda _: arrived.set())
        try:
            arrived.wait(timeout)
        except BaseException:
            operation._retrieved = True  # as where a task is cancelled
            operation.cancel()
            raise
        if not operation.done():
            raise TimeoutError(f"{operation.name}: no outcome within {timeout:g} s; it goes on")
    return operation.result(0)


def wait_all(operations: Iterable[Operation[Any]], timeout: float) -> bool:
    """Wait until all are done, whatever their outcome; False: not within *timeout* seconds."""
    deadline = gevent.Timeout.start_new(timeout)
    try:
        for operation in operations:
            with suppress(Exception):
                result(operation)
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        return False
    finally:
        deadline.cancel()
    return True
