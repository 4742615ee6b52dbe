# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP and TLS beside UDP: one connection for all; and a connection for each."""

from __future__ import annotations

import json
import sys

from peers import PeerError, pjsip_py, run
from registrar import registrar_over
from report import Row

from .bench import OURS, Bench, cpu_us, idle_kb, per_second, rows


def transports(bench: Bench) -> list[Row]:
    """CPU and rate over UDP, TCP and TLS."""
    peers = [
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ]
    made: list[Row] = []
    for protocol in ("udp", "tcp", "tls"):
        with registrar_over(protocol) as registrar:
            options: dict[str, object] = {
                "count": bench.count,
                "window": bench.window,
                "refreshes": 1,
                "settle": 0.5,
                "t4_ms": 100,
            }
            if registrar.ca_file:
                options["ca_file"] = registrar.ca_file
            runs = bench.at(registrar.uri, 3).alternate(peers, **options)
        name = protocol.upper()
        made += rows(
            runs,
            f"CPU per registration, {name}",
            "µs",
            lambda report: cpu_us(report, "create", "register", "settle"),
        )
        made += rows(
            runs,
            f"CPU per refresh, {name}",
            "µs",
            lambda report: cpu_us(report, "refresh", "refresh_settle"),
            anchor=OURS,
        )
        made += rows(
            runs,
            f"registrations, window {bench.window}, {name}",
            "1/s",
            per_second,
            more_is_better=True,
        )
    return made


# Addresses of the registrar's: each listener has one connection to each.
ADDRESSES = 100


def connections(bench: Bench, count: int = 10_000) -> list[Row]:
    """10,000 registrations in one process, each over a TCP connection of its own."""
    code = "import json, pjsip_py; print(json.dumps(pjsip_py.build_info()['limits']))"
    sockets = json.loads(run([sys.executable, "-c", code]))["sockets"]
    listeners = count // ADDRESSES + 2
    if count + listeners > sockets:
        fits = (sockets - 100) // (ADDRESSES + 1) * ADDRESSES
        print(
            f"  this build has room for {sockets} sockets: {fits} connections, not {count}\n"
            f"  (PJSIP_PY_MESON_ARGS=-Dmax_handles={count + listeners} scripts/setup)",
            file=sys.stderr,
        )
        count = fits
    if count < 1:
        raise PeerError(f"a build for {sockets} sockets has none for a connection each")
    # Upstream's own configuration ends at 64 sockets, and is no peer here.
    peers = [bench.c["ours"], pjsip_py("client", "thread"), pjsip_py("account", "thread")]
    with registrar_over("tcp", addresses=ADDRESSES, connections=count + 500) as registrar:
        runs = bench.at(registrar.uri, 2).alternate(
            peers,
            count=count,
            window=bench.window,
            settle=0.5,
            t4_ms=100,
            spread=ADDRESSES,
            refreshes=1,
        )
    what = f"{count} TCP connections"
    return [
        *rows(
            runs,
            f"CPU per registration, {what}",
            "µs",
            lambda report: cpu_us(report, "create", "register", "settle"),
            anchor=OURS,
        ),
        *rows(
            runs,
            f"CPU per refresh, {what}",
            "µs",
            lambda report: cpu_us(report, "refresh", "refresh_settle"),
            anchor=OURS,
        ),
        *rows(runs, f"memory per registration, {what}", "kB", idle_kb, anchor=OURS),
        *rows(
            runs, f"close, {what}", "ms", lambda report: report["close"]["wall"] * 1e3, anchor=OURS
        ),
    ]
