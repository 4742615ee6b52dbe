# SPDX-License-Identifier: GPL-3.0-or-later
"""What is counted: outcomes, how long they took, and how it all was in each second."""

from __future__ import annotations

import os
import resource
import sys
import time
from array import array
from collections import Counter
from typing import Any, NamedTuple

from hdrh.histogram import HdrHistogram

import pjsip_py as pjsip

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
LONGEST = 3600.0  # s
MAX_FAILURES = 100  # different ones; a registrar may make up a new reason each time
PAGE = os.sysconf("SC_PAGESIZE")


class Failure(NamedTuple):
    """A way in which requests failed."""

    kind: str
    code: int
    error: str  #: class
    reason: str
    local: bool
    authentication: bool

    @property
    def label(self) -> str:
        return self.error if self.local else str(self.code)


class Tally:
    """The outcomes of one kind of request."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ok = self.failed = self.timeouts = self.requests = 0
        self.answered = 0  #: outcomes that are a response's
        self.failures: Counter[Failure] = Counter()
        self.histogram = HdrHistogram(1, int(LONGEST * 1e6), 3)  # µs
        self._took = array("d")  # of successes in this second

    def succeed(self, event: pjsip.RegState, took: float | None) -> None:
        self.ok += 1
        self.requests += event.requests
        if took is not None:
            self._took.append(took)

    def fail(self, event: pjsip.RegState) -> None:
        self.failed += 1
        self.requests += event.requests
        error = event.error
        self.answered += not event.local
        self.timeouts += event.local and isinstance(error, pjsip.RegistrationTimeout)
        failure = Failure(
            self.kind,
            event.code,
            type(error).__name__,
            event.reason,
            event.local,
            isinstance(error, pjsip.AuthenticationError),
        )
        if failure not in self.failures and len(self.failures) >= MAX_FAILURES:
            failure = failure._replace(reason="(other reasons)")
        self.failures[failure] += 1

    @property
    def total(self) -> int:
        return self.ok + self.failed

    def fold(self) -> list[float]:
        """Move the last second's times into the histogram; they are returned, sorted."""
        took, self._took = self._took, array("d")
        # Recording takes seven times as long as counting first.
        for us, count in Counter([int(t * 1e6) for t in took]).items():
            self.histogram.record_value(min(max(1, us), int(LONGEST * 1e6)), count)
        return sorted(took)

    def percentile(self, percent: float) -> float | None:
        """Seconds; None where nothing succeeded."""
        if not self.histogram.total_count:
            return None
        return float(self.histogram.get_value_at_percentile(percent)) / 1e6

    @property
    def mean(self) -> float | None:
        return self.histogram.get_mean_value() / 1e6 if self.histogram.total_count else None


class Second(NamedTuple):
    """A moment of the run, most often a second; rates are over it, the rest is at its end."""

    at: float  #: s since the start
    offered: float | None  #: registrations a second; None in a storm and when all have begun
    started: float
    ok: float
    refreshed: float
    failed: dict[str, float]
    p50: float | None  #: s, of registrations and refreshes
    p95: float | None
    p99: float | None
    longest: float | None
    in_flight: int
    registered: int
    cpu: float  #: of one core
    rss: int  #: bytes

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in self._asdict().items()
        }


def nearest(ordered: list[float], percent: float) -> float | None:
    """Percentile by nearest rank."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def resident() -> int:
    """Resident memory in bytes."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE
    except OSError:  # not Linux: the highest so far is what can be had
        return peak_resident()


def peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stopwatch:
    """Wall clock and CPU since the last look."""

    def __init__(self) -> None:
        self.look()

    def look(self) -> tuple[float, float]:
        """Seconds that have passed, and of CPU that were used."""
        wall, cpu = time.monotonic(), time.process_time()
        before = getattr(self, "_last", (wall, cpu))
        self._last = wall, cpu
        return wall - before[0], cpu - before[1]
