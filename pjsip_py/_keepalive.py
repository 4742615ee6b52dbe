# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths: what lies between us and a registrar, kept open and watched (RFC 5626 §3.5.1, §4.4.1).

Thousands of accounts share a connection, or a UDP socket towards one registrar; a path is kept
alive once, not once an account.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from . import _ffi
from ._clock import Clock
from ._typing import TYPE_CHECKING, Any
from .errors import ClosedError

if TYPE_CHECKING:
    from ._flow import Flow

# RFC 5626 §4.4.1 without Flow-Timer, in seconds: random within.
_UDP, _STREAM = (24.0, 29.0), (95.0, 120.0)
# What a registrar may ask for by Flow-Timer.
_LEAST_FLOW_TIMER, _MOST_FLOW_TIMER = 10.0, 3600.0

Key = tuple[int, int, str]  # transport handle, connection, address: as _ffi.ping() takes them


class Path:
    __slots__ = (
        *("asked", "flows", "heard", "interval", "keepers", "key", "must_pong", "pong_timeout"),
        *("pongs", "serial", "suspected", "timer", "users"),
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.users = 0
        self.keepers = 0  # of them, who want it kept alive
        self.flows: dict[Flow, None] | None = {} if key[1] else None  # of a connection, in order
        self.interval = _STREAM if key[1] else _UDP
        self.pong_timeout = 10.0
        self.pongs = 0
        self.suspected = False  # a REGISTER over it has had no answer
        self.must_pong = False  # the other end has shown that it answers
        self.heard = self.asked = 0.0  # last sign of life; first keep-alive since
        self.timer: Any = None
        self.serial = 0


class Paths:
    """All paths of an endpoint; called with the accounts' *lock* held."""

    def __init__(self, clock: Clock, lock: AbstractContextManager[Any]) -> None:
        self._clock = clock
        self._lock = lock
        self._paths: dict[Key, Path] = {}
        self._by_connection: dict[int, Path] = {}

    def join(
        self, flow: Flow, key: Key, keep_alive: float | None, pong_timeout: float, flow_timer: int
    ) -> None:
        """*flow* is registered over this path, and over no other."""
        path = flow.path
        if path is None or path.key != key:
            self.leave(flow)
            path = self._paths.get(key)
            if path is None:
                path = self._paths[key] = Path(key)
                if key[1]:
                    self._by_connection[key[1]] = path
            flow.path = path
            path.users += 1
            if path.flows is not None:
                path.flows[flow] = None
        path.keepers += (keep_alive != 0) - flow.keeps
        flow.keeps = keep_alive != 0
        if keep_alive:
            path.interval = (0.8 * keep_alive, keep_alive)
        elif flow_timer and flow.keeps:
            most = min(max(float(flow_timer), _LEAST_FLOW_TIMER), _MOST_FLOW_TIMER)
            path.interval = (0.8 * most, most)  # §4.4.1: 80 to 100 % of it
        if flow_timer and key[1]:
            path.must_pong = True  # §5.4: who sends Flow-Timer answers keep-alives
        path.pong_timeout = pong_timeout
        self._start_or_stop(path)

    def _start_or_stop(self, path: Path) -> None:
        if path.keepers and path.timer is None:
            self._later(path, self._clock.uniform(*path.interval), self._ping)
        elif not path.keepers and path.timer is not None:
            self._stop(path)

    def leave(self, flow: Flow) -> None:
        path, flow.path = flow.path, None
        if path is None:
            return
        path.users -= 1
        path.keepers -= flow.keeps
        flow.keeps = False
        if path.flows is not None:
            path.flows.pop(flow, None)
        if path.users == 0:
            self._drop(path)
        else:
            self._start_or_stop(path)

    def connections(self) -> list[int]:
        return list(self._by_connection)

    def answered(self, connection: int) -> None:
        """A response, whatever it says, came over the connection."""
        path = self._by_connection.get(connection)
        if path is not None:
            path.heard = self._clock.time()
            path.suspected = False

    def ponged(self, connection: int) -> None:
        path = self._by_connection.get(connection)
        if path is not None:
            path.pongs += 1
            path.must_pong = path.must_pong or path.pongs >= 2  # one line break may be anything
            self.answered(connection)

    def suspect(self, connection: int, since: float, within: float) -> None:
        """A REGISTER of *since* has had no answer: is it the connection's fault, or its own?

        When nothing has come since, and a keep-alive finds nobody *within* so many seconds either,
        the connection is left.
        """
        path = self._by_connection.get(connection)
        if path is None:
            _ffi.connection_close(connection)
        elif path.heard <= since and not path.suspected:
            path.suspected = True
            _ffi.ping(*path.key)
            self._later(path, min(path.pong_timeout, within), self._judge)

    def _judge(self, path: Path) -> None:
        if path.suspected:
            _ffi.connection_close(path.key[1])
        else:
            self._start_or_stop(path)

    def lost(self, connection: int) -> list[Flow]:
        """The connection is no more; the flows that were registered over it."""
        path = self._by_connection.get(connection)
        if path is None:
            return []
        self._drop(path)
        flows = list(path.flows or ())
        for flow in flows:
            flow.path, flow.keeps = None, False
        return flows

    def close(self) -> None:
        for path in list(self._paths.values()):
            self._drop(path)

    def _drop(self, path: Path) -> None:
        if self._paths.get(path.key) is path:
            del self._paths[path.key]
            self._by_connection.pop(path.key[1], None)
        self._stop(path)

    def _stop(self, path: Path) -> None:
        path.serial += 1
        if path.timer is not None:
            self._clock.cancel(path.timer)
            path.timer = None

    def _later(self, path: Path, seconds: float, call: Any) -> None:
        path.serial += 1
        serial = path.serial

        def due() -> None:
            with self._lock:
                if path.serial == serial:
                    path.timer = None
                    call(path)

        with suppress(ClosedError):
            path.timer = self._clock.call_later(max(seconds, 0.01), due)

    def _ping(self, path: Path) -> None:
        now = self._clock.time()
        if path.heard >= path.asked:
            path.asked = now
        _ffi.ping(*path.key)
        self._wait(path, now + self._clock.uniform(*path.interval))

    def _wait(self, path: Path, until: float) -> None:
        """For the next keep-alive, or for the answer that is due before."""
        now = self._clock.time()
        due = path.asked + path.pong_timeout
        if not path.must_pong or path.heard >= path.asked or due > until:
            self._later(path, until - now, self._ping)
        elif now < due:
            self._later(path, due - now, lambda path: self._wait(path, until))
        else:
            # Deaf, though nobody closed it: PJSIP reports its end, which lost() then hears.
            _ffi.connection_close(path.key[1])
