# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU and throughput, of registrations and of refreshes."""

from __future__ import annotations

from collections.abc import Iterator

from peers import Peer, baresip, others, pjsip_py, pjsua2
from report import Row

from .bench import OURS, Bench, Runs, beside, cpu_us, per_second, rows

# Timer K (T4, 5 s) must have run out, or the end of the transactions would cost nobody anything.
SETTLE = 5.3
WINDOWS = (1, 10, 100, 1000)


def _pjsip_py() -> list[Peer]:
    return [pjsip_py("client", "thread"), pjsip_py("account", "thread")]


def _libraries() -> list[Peer]:
    return [peer for peer in (pjsua2(), baresip()) if peer]


def _with(runs: list[Runs], key: str) -> list[Runs]:
    """Those whose reports have it: not each peer can do everything."""
    return [run for run in runs if key in run.reports[0]]


def registration(bench: Bench) -> list[Row]:
    """CPU of authenticated UDP registrations: REGISTER, 401, REGISTER, 200."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        *_pjsip_py(),
        pjsip_py("account", "manual"),
        pjsip_py("account", "asyncio"),
    ]
    peers += others()
    runs = bench.alternate(peers, count=bench.count, window=bench.window, settle=SETTLE)
    made = rows(
        runs,
        "CPU per registration",
        "µs",
        lambda report: cpu_us(report, "create", "register", "settle"),
        goal=1.0,
        goal_is_ratio=True,
    )
    made += beside(made, "SIPp", goal=1.0) + beside(made, "PJSUA2") + beside(made, "baresip-python")
    for phase in ("create", "register", "settle"):
        having = _with(runs, phase)
        made += rows(having, f"  {phase}", "µs", lambda report, phase=phase: cpu_us(report, phase))  # type: ignore[misc]
    return made


def throughput(bench: Bench) -> Iterator[Row]:
    """Registrations per second, by the number that is in flight."""
    peers = [bench.c["stock"], bench.c["ours"], *_pjsip_py(), *_libraries()]
    for window in WINDOWS:
        # What is in flight one at a time takes long enough.
        count = bench.count if window > 1 else max(500, bench.count // 4)
        runs = bench.alternate(peers, count=max(count, 2 * window), window=window)
        at_window = rows(
            runs,
            f"registrations, window {window}",
            "1/s",
            per_second,
            goal=1.0 if window == 100 else None,
            goal_is_ratio=True,
            more_is_better=True,
            parameter=window,
        )
        if window == 100:
            at_window += beside(at_window, "baresip-python", goal=5.0)
        yield from at_window


def refresh(bench: Bench) -> list[Row]:
    """CPU of refreshes with the nonce of before: REGISTER, 200; by PJSIP's timer, by register().

    Beside the C program with our configuration: upstream's asks without credentials each time and
    is challenged anew, and so takes two round trips. As does PJSUA2; baresip-python has its timer.
    """
    peers = [bench.c["stock"], bench.c["ours"], *_pjsip_py(), *_libraries()]
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
        _with(runs, "renew"),
        "CPU per refresh, timer",
        "µs",
        lambda report: cpu_us(report, "renew", "renew_settle", rounds=rounds),
        anchor=OURS,
    )
    made += beside(made, "baresip-python")
    by_hand = rows(
        _with(runs, "refresh"),
        "CPU per refresh, register()",
        "µs",
        lambda report: cpu_us(report, "refresh", "refresh_settle", rounds=rounds),
        anchor=OURS,
    )
    made += by_hand + beside(by_hand, "PJSUA2")
    made += rows(
        _with(runs, "requests"),
        "REGISTERs per refresh",
        "",
        lambda report: (report["requests"] / report["count"] - 2) / (2 * rounds),
        anchor=OURS,
    )
    return made
