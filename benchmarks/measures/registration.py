# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU and throughput."""

from __future__ import annotations

from peers import pjsip_py, shown, sipp
from report import Row

from .bench import Bench, cpu_us

# Timer K (T4, 5 s) must have run out, or the end of the transactions would cost nobody anything.
SETTLE = 5.3


def registration(bench: Bench) -> list[Row]:
    """CPU and rate of authenticated UDP registrations: REGISTER, 401, REGISTER, 200."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
        pjsip_py("account", "manual"),
        pjsip_py("account", "asyncio"),
    ]
    if found := sipp():
        peers.append(found)
    options = {"count": bench.count, "window": bench.window, "settle": SETTLE}
    reports = bench.alternate(peers, **options)

    rows: list[Row] = []
    for measure, phases in (
        ("CPU per registration", ("create", "register", "settle")),
        ("  create", ("create",)),
        ("  register", ("register",)),
        ("  settle", ("settle",)),
    ):
        anchor = None
        for peer in peers:
            if not any(phase in reports[peer.name][0] for phase in phases):
                continue
            row = Row(
                measure,
                peer.name,
                "µs",
                [cpu_us(report, *phases) for report in reports[peer.name]],
                command=shown(peer.arguments(bench.registrar, **options)),
                anchor=anchor,
            )
            if peer.name.startswith("pjsip_py") and measure == "CPU per registration":
                row.goal, row.goal_is_ratio = 1.0, True
            anchor = anchor or row
            rows.append(row)
    anchor = None
    for peer in peers:
        if "wall" not in reports[peer.name][0]["register"]:
            continue
        row = Row(
            f"registrations, window {bench.window}",
            peer.name,
            "1/s",
            [r["count"] / r["register"]["wall"] for r in reports[peer.name]],
            command=shown(peer.arguments(bench.registrar, **options)),
            anchor=anchor,
            more_is_better=True,
        )
        if peer.name.startswith("pjsip_py"):
            row.goal, row.goal_is_ratio = 1.0, True
        anchor = anchor or row
        rows.append(row)
    return rows
