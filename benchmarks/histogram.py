# SPDX-License-Identifier: GPL-3.0-or-later
"""Latencies in HdrHistograms of microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram

LONGEST_US = 60_000_000
DIGITS = 3
# For a curve: two points for each halving of what is left above.
CURVE = (0.0, *(100 - 100 / 2 ** (step / 2) for step in range(1, 34)), 100.0)


def histogram(seconds: Iterable[float]) -> HdrHistogram:
    recorded = HdrHistogram(1, LONGEST_US, DIGITS)
    for value in seconds:
        recorded.record_value(max(1, min(LONGEST_US, round(value * 1e6))))
    return recorded


def percentile_ms(recorded: HdrHistogram, percentile: float) -> float:
    return float(recorded.get_value_at_percentile(percentile)) / 1e3


def merged(repeats: Iterable[HdrHistogram]) -> dict[str, Any]:
    """All repeats in one: its curve for a plot, and the histogram itself in the standard compressed
    form in base 64, which any HdrHistogram tool reads."""
    total = HdrHistogram(1, LONGEST_US, DIGITS)
    for recorded in repeats:
        total.add(recorded)
    count = total.get_total_count()
    # No finer than one of them: beyond, the curve would only repeat the largest.
    shares = [p for p in CURVE if p == 100 or (100 - p) / 100 * count >= 1]
    return {
        "unit": "ms",
        "count": count,
        "mean": total.get_mean_value() / 1e3,
        "percentiles": [[share, percentile_ms(total, share)] for share in shares],
        "hdrhistogram_us": total.encode().decode("ascii"),
    }
