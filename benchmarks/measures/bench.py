# SPDX-License-Identifier: GPL-3.0-or-later
"""What all measures share: peers that take turns, and what becomes of their reports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from peers import Peer, PeerError

Reports = dict[str, list[dict[str, Any]]]  # peer's name -> one report for each repeat


@dataclass
class Bench:
    """What all measures share."""

    registrar: str  # URI of the running registrar
    c: dict[str, Peer]  # "stock" and "ours"
    repeats: int
    count: int
    window: int

    def alternate(self, peers: list[Peer], **options: object) -> Reports:
        """Each peer once a repeat, in turn one way round and the other, so that a machine that
        warms up, or a neighbour that wakes up, favours nobody."""
        reports: Reports = {peer.name: [] for peer in peers}
        for repeat in range(self.repeats):
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                print(f"  {peer.name}, {repeat + 1} of {self.repeats}", file=sys.stderr)
                report = peer.register(self.registrar, **options)
                if report["ok"] != report["count"]:
                    raise PeerError(f"{peer.name}: {report['ok']} of {report['count']} registered")
                reports[peer.name].append(report)
        return reports


def cpu_us(report: dict[str, Any], *phases: str) -> float:
    """CPU, user and system, per registration (µs)."""
    seconds = sum(report[p]["user"] + report[p]["system"] for p in phases if p in report)
    return float(seconds / report["count"] * 1e6)
