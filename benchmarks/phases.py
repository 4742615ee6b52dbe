# SPDX-License-Identifier: GPL-3.0-or-later
"""What each phase of a run took.  For every Python peer, so it imports nothing but the library."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time

PAGE_KB = os.sysconf("SC_PAGESIZE") // 1024


class Report:
    """Marks between phases: wall clock, CPU of the whole process, resident memory."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), usage.ru_utime, usage.ru_stime

    def mark(self, phase: str) -> None:
        before, now = self._last, self._now()
        wall, user, system = (b - a for a, b in zip(before, now, strict=True))
        self.phases[phase] = {
            "wall": wall,
            "user": user,
            "system": system,
            "rss_kb": rss_kb(),
        }
        self._last = self._now()


def rss_kb() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * PAGE_KB


def trim() -> None:
    """Give freed memory back, so that what is left is what is held (as c_regc does)."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
