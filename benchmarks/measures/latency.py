# SPDX-License-Identifier: GPL-3.0-or-later
"""Latency."""

from __future__ import annotations

import json
import sys

from peers import HERE, run, shown
from report import Row

from .bench import Bench


def latency(bench: Bench) -> list[Row]:
    """From PJSIP's callback, and from the wire, to the handler, at 1,000 registrations a second."""
    command = [sys.executable, str(HERE / "latency.py"), "--registrar", bench.registrar]
    reports = [json.loads(run(command)) for _ in range(min(bench.repeats, 3))]
    rows = []
    for measure, key in (
        ("PJSIP's callback to handler", "callback"),
        ("registrar's answer to handler", "wire"),
    ):
        for share in ("p50", "p90", "p99", "max"):
            rows.append(
                Row(
                    f"{measure}, {share}",
                    "pjsip_py client",
                    "ms",
                    [report[key][share] * 1e3 for report in reports],
                    command=shown(command),
                    goal=1.0 if share == "p99" else None,
                )
            )
    rows.append(
        Row(
            "CPU per re-registration at 1,000/s",
            "pjsip_py client",
            "µs",
            [report["cpu_us"] for report in reports],
            command=shown(command),
        )
    )
    return rows
