# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registration costs where there are many."""

from __future__ import annotations

from dataclasses import replace

from peers import pjsip_py
from report import Row

from .bench import Bench, cpu_us, idle_kb, rows

# Where there are most, it is to cost at most so many times what it costs where there are few.
GOAL = 1.15


def growth(bench: Bench) -> list[Row]:
    """CPU and memory per registration, CPU per refresh, at 1,000, 10,000 and 100,000."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ]
    # Few registrations are soon done, and their figures less sure: more of them.
    repeats = {1000: 2 * bench.repeats, 10_000: min(bench.repeats, 3)}
    if bench.repeats > 2:
        repeats[100_000] = 1
    series: dict[str, list[Row]] = {}
    for count, times in repeats.items():
        runs = replace(bench, repeats=times).alternate(
            peers, count=count, window=bench.window, settle=0.5, t4_ms=100, refreshes=1
        )
        for made in (
            rows(
                runs,
                f"CPU per registration, {count}",
                "µs",
                lambda report: cpu_us(report, "create", "register", "settle"),
                parameter=count,
            ),
            rows(
                runs,
                f"CPU per refresh, {count}",
                "µs",
                lambda report: cpu_us(report, "refresh", "refresh_settle"),
                parameter=count,
            ),
            rows(
                runs,
                f"memory per registration, {count}",
                "kB",
                idle_kb,
                goal=6.0 if count >= 10_000 else None,
                parameter=count,
            ),
        ):
            series.setdefault(made[0].measure.partition(",")[0], []).extend(made)
    made = [row for rows_ in series.values() for row in rows_]
    few, many = min(repeats), max(repeats)
    for measure, measured in series.items():
        at = {(row.parameter, row.peer): row for row in measured}
        for peer in peers:
            first, last = at.get((few, peer.name)), at.get((many, peer.name))
            if first is None or last is None:
                continue
            row = Row(
                f"growth of {measure}, {few} to {many}",
                peer.name,
                "x",
                [last.median / first.median],
                command=last.command,
            )
            if peer.name.startswith("pjsip_py"):
                row.goal = GOAL
            made.append(row)
    return made
