# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory, idle and in flight."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

from peers import baresip, pjsip_py
from report import Row

from .bench import Bench, idle_kb, rows

IN_FLIGHT = 5000


def memory(bench: Bench) -> Iterator[Row]:
    """Resident memory per idle registration: registered, refresh timer set, nothing in flight."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ]
    few = bench.at(bench.registrar, 3)
    for count in (1000, 10_000):
        # T4 of 10 ms: what is in flight at once, and the heap it leaves behind, stays small.
        idle = [*peers]
        if count <= 1000 and (other := baresip()):  # more it does not hold
            idle.append(other)
        runs = few.alternate(idle, count=count, window=bench.window, settle=0.5, t4_ms=10)
        yield from rows(
            runs,
            f"memory per registration, {count} idle",
            "kB",
            idle_kb,
            goal=6.0 if count == 10_000 else None,
            parameter=count,
        )
    # A registrar that is silent: they all wait for their first answer.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        few = bench.at(f"sip:127.0.0.1:{silent.getsockname()[1]}", 3)
        runs = few.alternate(
            [replace(peer, command=(*peer.command, "--in-flight")) for peer in peers],
            count=IN_FLIGHT,
        )
    yield from rows(
        runs,
        f"memory per registration, {IN_FLIGHT} in flight",
        "kB",
        lambda report: (report["flight"]["rss_kb"] - report["warm"]["rss_kb"]) / report["count"],
    )
