# SPDX-License-Identifier: GPL-3.0-or-later
"""Host names to addresses, on threads of its own: neither the worker nor an event loop waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("pjsip_py")

Addresses = list[str]
Callback = Callable[[Addresses], object]

# getaddrinfo() tells no lifetime; this only lets a burst of accounts share one query.
CACHE_SECONDS = 5.0
MAX_THREADS = 16


class Resolver:
    """Calls back with IP addresses in the system's order; with none when the name is unknown.

    One query per name is under way at a time, and a slow name takes one of *MAX_THREADS*.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callback]] = {}
        self._queue: deque[str] = deque()
        self._threads = 0
        self._cache: dict[str, tuple[float, Addresses]] = {}

    def lookup(self, host: str, callback: Callback) -> None:
        """May call back at once, on this thread, or later on another."""
        with self._lock:
            expires, addresses = self._cache.get(host, (0.0, []))
            if expires <= time.monotonic():
                waiting = self._waiting.get(host)
                if waiting is not None:
                    waiting.append(callback)
                    return
                self._waiting[host] = [callback]
                self._queue.append(host)
                if self._threads < MAX_THREADS:
                    thread = threading.Thread(
                        target=self._run, name="pjsip_py-resolver", daemon=True
                    )
                    try:
                        thread.start()
                    except RuntimeError:  # no more threads to be had
                        if self._threads == 0:
                            self._queue.clear()
                            self._waiting.clear()
                            raise
                    else:
                        self._threads += 1
                return
        callback(addresses)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host = self._queue.popleft()
            addresses = query(host)
            with self._lock:
                if addresses:
                    self._cache[host] = (time.monotonic() + CACHE_SECONDS, addresses)
                callbacks = self._waiting.pop(host)
            for callback in callbacks:
                try:
                    callback(addresses)
                except Exception:
                    _log.exception("the answer for a host name could not be delivered")


def query(host: str) -> Addresses:
    import socket  # here and below, off the path of the package's import

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, MemoryError):
        return []
    return list(dict.fromkeys(str(item[4][0]).partition("%")[0] for item in found))


def local_address_towards(address: str) -> str:
    """The local address from which a packet to *address* would leave.

    A datagram socket is connected, which sends nothing.

    :raises OSError: there is no route.
    """
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.connect((address, 9))
        return str(s.getsockname()[0])
