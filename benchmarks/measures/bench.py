# SPDX-License-Identifier: GPL-3.0-or-later
"""What all measures share: peers that take turns, and rows of what they report."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from peers import Peer, PeerError, shown
from report import Row

Report = dict[str, Any]  # what register.py describes
STOCK, OURS = "C regc, stock", "C regc, ours"


@dataclass
class Runs:
    """A peer's reports, one for each repeat, and the command that they came from."""

    peer: Peer
    command: str
    reports: list[Report] = field(default_factory=list)


@dataclass
class Bench:
    """What all measures share."""

    registrar: str  # URI of the running registrar
    c: dict[str, Peer]  # "stock" and "ours"
    repeats: int
    count: int
    window: int
    failed: list[str] = field(default_factory=list)  # peers that did not do their work
    interrupted: threading.Event = field(default_factory=threading.Event)  # by Ctrl-C

    def alternate(self, peers: list[Peer], **options: object) -> list[Runs]:
        """Each peer once a repeat, in turn one way round and the other, so that a machine that
        warms up, or a neighbour that wakes up, favours nobody.

        A peer that fails is said to have, and left out of what comes back.
        """
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        runs = [Runs(peer, shown(peer.arguments(self.registrar, **options))) for peer in peers]
        try:
            for repeat in range(self.repeats):
                for run in tuple(runs if repeat % 2 == 0 else reversed(runs)):
                    print(f"  {run.peer.name}, {repeat + 1} of {self.repeats}", file=sys.stderr)
                    if not self._add_report(run, options):
                        runs.remove(run)
        except KeyboardInterrupt:
            # What there is makes rows; whoever asks for more is told.
            self.interrupted.set()
            runs = [run for run in runs if run.reports]
            if not runs:
                raise
        return runs

    def _add_report(self, run: Runs, options: dict[str, object]) -> bool:
        name = run.peer.name
        try:
            report = run.peer.register(self.registrar, **options)
            if report["ok"] != report["count"]:
                raise PeerError(f"{name}: {report['ok']} of {report['count']} registered")
        except PeerError as error:
            print(error, file=sys.stderr)
            self.failed.append(name)
            return False
        run.reports.append(report)
        return True

    def at(self, registrar: str, repeats: int) -> Bench:
        """The same at another registrar, with at most so many repeats; failures are shared."""
        return replace(self, registrar=registrar, repeats=min(self.repeats, repeats))


def rows(
    runs: list[Runs],
    measure: str,
    unit: str,
    value: Callable[[Report], float],
    *,
    anchor: str = STOCK,
    goal: float | None = None,
    goal_is_ratio: bool = False,
    more_is_better: bool = False,
    parameter: float | None = None,
) -> list[Row]:
    """A row for each peer, with its ratio to the *anchor*; the goal is pjsip_py's."""
    made = {
        run.peer.name: Row(
            measure,
            run.peer.name,
            unit,
            [value(report) for report in run.reports],
            command=run.command,
            more_is_better=more_is_better,
            parameter=parameter,
        )
        for run in runs
    }
    for name, row in made.items():
        row.anchor = made.get(anchor) if name != anchor else None
        if name.startswith("pjsip_py"):
            row.goal, row.goal_is_ratio = goal, goal_is_ratio and goal is not None
    return list(made.values())


def beside(made: list[Row], anchor: str, goal: float | None = None) -> list[Row]:
    """An account's row once more, with its ratio to another peer, if both are there."""
    by_peer = {row.peer: row for row in made}
    account, other = by_peer.get("pjsip_py account"), by_peer.get(anchor)
    if account is None or other is None:
        return []
    return [replace(account, anchor=other, goal=goal, goal_is_ratio=goal is not None)]


def cpu_us(report: Report, *phases: str, rounds: int = 1) -> float:
    """CPU, user and system, per registration (µs), or per refresh of so many *rounds*."""
    seconds = sum(report[p]["user"] + report[p]["system"] for p in phases if p in report)
    return float(seconds / report["count"] / rounds * 1e6)


def per_second(report: Report) -> float:
    return float(report["count"] / report["register"]["wall"])


def idle_kb(report: Report) -> float:
    """Resident memory per idle registration (kB)."""
    return float((report["trim"]["rss_kb"] - report["warm"]["rss_kb"]) / report["count"])
