# SPDX-License-Identifier: GPL-3.0-or-later
"""Instructions in user space, counted by callgrind: no neighbour disturbs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile

from peers import TIMEOUT, Peer, PeerError, environment, pjsip_py, shown
from report import Row

from .bench import OURS, STOCK, Bench

FEW, MANY = 100, 600  # registrations
ROUNDS = 3  # of refreshes of FEW registrations, against one


def instructions(bench: Bench) -> list[Row]:
    """Instructions per registration and per refresh, in user space."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        print("  valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return []
    made: dict[tuple[str, str], Row] = {}
    for peer in (
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ):
        print(f"  {peer.name}", file=sys.stderr)
        for measure, anchor, work, less, more in (
            ("registration", STOCK, MANY - FEW, {"count": FEW}, {"count": MANY}),
            # After 5 s, as they were registered.
            *(
                (
                    f"refresh, {by}",
                    OURS,
                    FEW * (ROUNDS - 1),
                    {"count": FEW, "expires": 10, option: 1},
                    {"count": FEW, "expires": 10, option: ROUNDS},
                )
                for by, option in (("timer", "renewals"), ("register()", "refreshes"))
            ),
        ):
            name = f"user instructions per {measure}"
            made[name, peer.name] = Row(
                name,
                peer.name,
                "1000",
                [
                    (_count(valgrind, bench, peer, more) - _count(valgrind, bench, peer, less))
                    / work
                    / 1e3
                ],
                command="valgrind --tool=callgrind " + shown(_command(bench, peer, more)),
                anchor=made.get((name, anchor)) if peer.name != STOCK else None,
            )
    # By measure, not by peer.
    return sorted(made.values(), key=lambda row: row.measure)


def _command(bench: Bench, peer: Peer, options: dict[str, int]) -> list[str]:
    # A small window: valgrind is slow, and PJSIP would begin to retransmit.
    return peer.arguments(bench.registrar, window=10, settle=0.2, t4_ms=50, **options)


def _count(valgrind: str, bench: Bench, peer: Peer, options: dict[str, int]) -> int:
    command = _command(bench, peer, options)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/out", *command],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise PeerError(f"valgrind {shown(command)}: {(done.stdout + done.stderr)[-1000:]}")
    return int(found[1])
