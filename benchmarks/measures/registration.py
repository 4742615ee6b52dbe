# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU and throughput, of registrations and of refreshes."""

from __future__ import annotations

from peers import Peer, pjsip_py, sipp
from report import Row

from .bench import OURS, Bench, cpu_us, per_second, rows

# Timer K (T4, 5 s) must have run out, or the end of the transactions would cost nobody anything.
SETTLE = 5.3
WINDOWS = (1, 10, 100, 1000)


def _pjsip_py() -> list[Peer]:
    return [pjsip_py("client", "thread"), pjsip_py("account", "thread")]


def registration(bench: Bench) -> list[Row]:
    """CPU of authenticated UDP registrations: REGISTER, 401, REGISTER, 200."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        *_pjsip_py(),
        pjsip_py("account", "manual"),
        pjsip_py("account", "asyncio"),
    ]
    if found := sipp():
        peers.append(found)
    runs = bench.alternate(peers, count=bench.count, window=bench.window, settle=SETTLE)
    made = rows(
        runs,
        "CPU per registration",
        "µs",
        lambda report: cpu_us(report, "create", "register", "settle"),
        goal=1.0,
        goal_is_ratio=True,
    )
    for phase in ("create", "register", "settle"):
        having = [run for run in runs if phase in run.reports[0]]
        made += rows(having, f"  {phase}", "µs", lambda report, phase=phase: cpu_us(report, phase))  # type: ignore[misc]
    return made


def throughput(bench: Bench) -> list[Row]:
    """Registrations per second, by the number that is in flight."""
    peers = [bench.c["stock"], bench.c["ours"], *_pjsip_py()]
    made: list[Row] = []
    for window in WINDOWS:
        # What is in flight one at a time takes long enough.
        count = bench.count if window > 1 else max(500, bench.count // 4)
        runs = bench.alternate(peers, count=max(count, 2 * window), window=window)
        made += rows(
            runs,
            f"registrations, window {window}",
            "1/s",
            per_second,
            goal=1.0 if window == 100 else None,
            goal_is_ratio=True,
            more_is_better=True,
            parameter=window,
        )
    return made


def refresh(bench: Bench) -> list[Row]:
    """CPU of refreshes with the nonce of before: REGISTER, 200; by PJSIP's timer, by register().

    Beside the C program with our configuration: upstream's asks without credentials each time and
    is challenged anew, and so takes two round trips.
    """
    peers = [bench.c["stock"], bench.c["ours"], *_pjsip_py()]
    rounds = 2
    runs = bench.alternate(
        peers,
        count=bench.count,
        window=bench.window,
        settle=0.4,
        t4_ms=100,
        expires=10,  # refreshed after 5 s, as they were registered
        refreshes=rounds,
        renewals=rounds,
    )
    made = rows(
        runs,
        "CPU per refresh, timer",
        "µs",
        lambda report: cpu_us(report, "renew", "renew_settle", rounds=rounds),
        anchor=OURS,
    )
    made += rows(
        runs,
        "CPU per refresh, register()",
        "µs",
        lambda report: cpu_us(report, "refresh", "refresh_settle", rounds=rounds),
        anchor=OURS,
    )
    made += rows(
        runs,
        "REGISTERs per refresh",
        "",
        lambda report: (report["requests"] / report["count"] - 2) / (2 * rounds),
        anchor=OURS,
    )
    return made
