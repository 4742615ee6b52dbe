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
ROUNDS = 2  # of refreshes of the few; by the timer after 5 s, as they were registered
FEWEST = {"count": FEW, "expires": 10}
# What is counted: the anchor, how often more than in a run of the fewest, and what makes it so.
WORK = {
    "registration": (STOCK, MANY - FEW, {**FEWEST, "count": MANY}),
    "refresh, timer": (OURS, FEW * ROUNDS, {**FEWEST, "renewals": ROUNDS}),
    "refresh, register()": (OURS, FEW * ROUNDS, {**FEWEST, "refreshes": ROUNDS}),
}


def instructions(bench: Bench) -> list[Row]:
    """Instructions per registration and per refresh, in user space."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        print("  valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return []
    made: dict[str, dict[str, Row]] = {measure: {} for measure in WORK}
    for peer in (
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ):
        print(f"  {peer.name}", file=sys.stderr)
        fewest = _count(valgrind, bench, peer, FEWEST)
        for measure, (_, times, options) in WORK.items():
            more = _count(valgrind, bench, peer, options) - fewest
            made[measure][peer.name] = Row(
                f"user instructions per {measure}",
                peer.name,
                "1000",
                [more / times / 1000],
                command="valgrind --tool=callgrind " + shown(_command(bench, peer, options)),
            )
    for measure, (anchor, _, _) in WORK.items():
        for name, row in made[measure].items():
            row.anchor = made[measure][anchor] if name != anchor else None
    return [row for rows in made.values() for row in rows.values()]


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
