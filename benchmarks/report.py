# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of figures: the median and the spread, the ratio to an anchor of the same run, the goal."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import run
from wheels import BARESIP, PJSUA2, installed


@dataclass
class Row:
    """One measure of one peer.

    values: one for each repeat. anchor: the row it is compared with; the ratio is taken repeat by
    repeat, since repeats lie minutes apart and neighbours seconds. goal: the largest that is good,
    of the ratio if *goal_is_ratio*, else of the value itself. parameter: what a series of rows
    varies, such as the window or the number of accounts. histogram: of all repeats together
    (histogram.py), in the JSON only.
    """

    measure: str
    peer: str
    unit: str
    values: list[float]
    command: str = ""
    anchor: Row | None = field(default=None, repr=False)
    goal: float | None = None
    goal_is_ratio: bool = False
    more_is_better: bool = False
    parameter: float | None = None
    histogram: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratios(self) -> list[float]:
        if self.anchor is None:
            return []
        pairs = zip(self.values, self.anchor.values, strict=False)
        return [mine / theirs for mine, theirs in pairs if theirs]

    @property
    def met(self) -> bool | None:
        if self.goal is None or (self.goal_is_ratio and not self.ratios):
            return None
        reached = statistics.median(self.ratios) if self.goal_is_ratio else self.median
        return reached >= self.goal if self.more_is_better else reached <= self.goal

    def as_dict(self) -> dict[str, Any]:
        ratios = self.ratios
        return {
            "measure": self.measure,
            "peer": self.peer,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
            "anchor": self.anchor.peer if self.anchor else None,
            "ratio": statistics.median(ratios) if ratios else None,
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "goal": self.goal,
            "goal_is_ratio": self.goal_is_ratio,
            "more_is_better": self.more_is_better,
            "met": self.met,
            "parameter": self.parameter,
            "histogram": self.histogram,
            "command": self.command,
        }


def number(value: float) -> str:
    """Three digits that count: 0.042, 4.20, 42.0, 420, 4200."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def spread(low: float, high: float) -> str:
    return f"{number(low)}..{number(high)}"


HEADINGS = (
    "measure",
    "peer",
    "median",
    "min..max",
    "unit",
    "ratio",
    "min..max",
    "to",
    "goal",
    "met",
)
Figures = dict[str, Any]  # a row as JSON has it: Row.as_dict()


def table(rows: list[Figures]) -> str:
    """GitHub's Markdown, aligned, so that it reads as plain text as well."""
    lines = [HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def _cells(row: Figures) -> tuple[str, ...]:
    related, goal = row["ratio"] is not None, row["goal"]
    return (
        row["measure"],
        row["peer"],
        number(row["median"]),
        spread(row["min"], row["max"]),
        row["unit"],
        f"{row['ratio']:.2f} x" if related else "",
        spread(row["ratio_min"], row["ratio_max"]) if related else "",
        row["anchor"] if related else "",
        goal_text(row) if goal is not None else "",
        {None: "", True: "yes", False: "no"}[row["met"]],
    )


def goal_text(row: Figures) -> str:
    sign = "≥" if row["more_is_better"] else "≤"
    return f"{sign} {row['goal']:g}{' x' if row['goal_is_ratio'] else ''}"


def commands(rows: list[Figures]) -> str:
    """The command behind each row; rows of one command stand together."""
    by_command: dict[str, list[str]] = {}
    for row in rows:
        names = by_command.setdefault(row["command"], [])
        name = f"{row['measure'].strip()}, {row['peer']}"
        if name not in names:
            names.append(name)
    return "\n".join(f"{'; '.join(names)}:\n    {command}" for command, names in by_command.items())


# --- The machine ---------------------------------------------------------------------------------


def _first_line(command: list[str], pattern: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return "not installed"
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(load: Sequence[float] | None = None) -> dict[str, str]:
    """Facts for who reads the figures. *load*: before measuring, if that is over."""
    code = "import json, pjsip_py; print(json.dumps(pjsip_py.build_info()))"
    build = json.loads(run([sys.executable, "-c", code]))
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "load": " ".join(f"{minutes:.2f}" for minutes in load or os.getloadavg()),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "pjsip_py": f"{build['pjsip_py_version']}, PJSIP {build['pjsip_version']}, "
        f"compiler {build['compiler']}",
        "kamailio": _first_line(["kamailio", "-v"], r"kamailio (\S+)"),
        "sipp": _first_line(["sipp", "-v"], r"SIPp (v[\d.]+)"),
        "pjsua2": installed(PJSUA2),
        "baresip": installed(BARESIP),
    }
