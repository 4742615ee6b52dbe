# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory."""

from __future__ import annotations

from peers import pjsip_py, shown
from report import Row

from .bench import Bench


def memory(bench: Bench) -> list[Row]:
    """Resident memory per idle registration: registered, refresh timer set, nothing in flight."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ]
    rows: list[Row] = []
    for count in (1000, 10_000):
        # T4 of 10 ms: what is in flight at once, and the heap it leaves behind, stays small.
        options = {"count": count, "window": bench.window, "settle": 0.5, "t4_ms": 10}
        few = Bench(bench.registrar, bench.c, min(bench.repeats, 3), count, bench.window)
        reports = few.alternate(peers, **options)
        anchor = None
        for peer in peers:
            row = Row(
                f"memory per registration, {count} idle",
                peer.name,
                "kB",
                [(r["trim"]["rss_kb"] - r["warm"]["rss_kb"]) / count for r in reports[peer.name]],
                command=shown(peer.arguments(bench.registrar, **options)),
                anchor=anchor,
            )
            if peer.name.startswith("pjsip_py") and count == 10_000:
                row.goal = 6.0
            anchor = anchor or row
            rows.append(row)
    return rows
