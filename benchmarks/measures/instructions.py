# SPDX-License-Identifier: GPL-3.0-or-later
"""Instructions in user space, counted by callgrind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile

from peers import TIMEOUT, PeerError, environment, pjsip_py, shown
from report import Row

from .bench import Bench


def instructions(bench: Bench) -> list[Row]:
    """Instructions per registration in user space, where neighbours cannot disturb: callgrind."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        print("  valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return []
    few, many = 100, 600
    rows: list[Row] = []
    anchor = None
    for peer in (
        bench.c["stock"],
        bench.c["ours"],
        pjsip_py("client", "thread"),
        pjsip_py("account", "thread"),
    ):
        print(f"  {peer.name}", file=sys.stderr)
        # A small window: valgrind is slow, and PJSIP would begin to retransmit.
        options = {"window": 10, "settle": 0.2, "t4_ms": 50}
        counted = [
            _callgrind(valgrind, peer.arguments(bench.registrar, count=count, **options))
            for count in (few, many)
        ]
        row = Row(
            "user instructions per registration",
            peer.name,
            "1000",
            [(counted[1] - counted[0]) / (many - few) / 1000],
            command="valgrind --tool=callgrind "
            + shown(peer.arguments(bench.registrar, count=many, **options)),
            anchor=anchor,
        )
        anchor = anchor or row
        rows.append(row)
    return rows


def _callgrind(valgrind: str, command: list[str]) -> int:
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
