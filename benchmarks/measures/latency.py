# SPDX-License-Identifier: GPL-3.0-or-later
"""Latency at a steady rate."""

from __future__ import annotations

import json
import sys
from typing import Any

from histogram import histogram, merged, percentile_ms
from peers import HERE, PeerError, baresip, run, shown
from report import Row

from .bench import Bench

RATE = 1000  # registrations a second
TIMES = {
    "registered": "register() to registered",
    "answer": "registrar's answer to handler",
    "callback": "PJSIP's callback to handler",
}
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def latency(bench: Bench) -> list[Row]:
    """From register(), the wire and PJSIP's callback to the handler, at 1,000 registrations/s."""
    options = ["--registrar", bench.registrar, "--count", str(bench.count)]
    commands = {"pjsip_py account": [sys.executable, str(HERE / "latency.py"), *options]}
    if other := baresip():
        commands[other.name] = [*other.command, *options, "--rate", str(RATE)]
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for repeat in range(min(bench.repeats, 3)):
        for name in list(commands):
            print(f"  {name}, {repeat + 1}", file=sys.stderr)
            try:
                reports[name].append(json.loads(run(commands[name])))
            except PeerError as error:
                if other is None or name != other.name:
                    raise
                print(error, file=sys.stderr)
                bench.failed.append(name)
                del commands[name], reports[name]

    rows: list[Row] = []
    for time, measure in TIMES.items():
        for name, percentiles in reports.items():
            if time not in percentiles[0]:
                continue
            repeats = [histogram(report[time]) for report in percentiles]
            for label, percentile in PERCENTILES.items():
                row = Row(
                    f"{measure}, {label}",
                    name,
                    "ms",
                    [percentile_ms(recorded, percentile) for recorded in repeats],
                    command=shown(commands[name]),
                    goal=1.0 if label == "p99" and time == "answer" else None,
                )
                if label == "p50":
                    row.histogram = merged(repeats)
                rows.append(row)
    for name, percentiles in reports.items():
        for key, measure, unit in (
            ("rate", f"rate reached of {RATE}/s", "1/s"),
            ("cpu_us", f"CPU per registration at {RATE}/s", "µs"),
            ("cpu_again_us", f"CPU per re-registration at {RATE}/s", "µs"),
        ):
            if key in percentiles[0]:
                values = [report[key] for report in percentiles]
                rows.append(Row(measure, name, unit, values, command=shown(commands[name])))
    return rows
