# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

from peers import HERE, PeerError, environment, run, shown
from report import Row

from .bench import Bench


def startup(bench: Bench) -> list[Row]:
    """Import, open to the first REGISTER on the wire, close."""
    repeats = max(5, 3 * bench.repeats)
    script = [sys.executable, str(HERE / "startup.py")]
    run([*script, "--registrar", bench.registrar])  # fills the cache of byte code
    silent = [_first_register(script) for _ in range(repeats)]
    rows = [
        Row("import", "pjsip_py", "ms", [s["import"] * 1e3 for s in silent], goal=10.0),
        Row("open", "pjsip_py", "ms", [s["open"] * 1e3 for s in silent]),
        Row(
            "open to first REGISTER",
            "pjsip_py account",
            "ms",
            [s["first"] * 1e3 for s in silent],
            goal=10.0,
        ),
        Row("close, nothing sent", "pjsip_py account", "ms", [s["close"] * 1e3 for s in silent]),
    ]
    for row in rows:
        row.command = shown([*script, "--silent", "--registrar", "sip:127.0.0.1:PORT"])
    for count, goal in ((1, 50.0), (1000, None)):
        command = [*script, "--registrar", bench.registrar, "--count", str(count)]
        closing = [json.loads(run(command))["close"] for _ in range(repeats)]
        rows.append(
            Row(
                f"close, unregisters {count}",
                "pjsip_py account",
                "ms",
                [seconds * 1e3 for seconds in closing],
                command=shown(command),
                goal=goal,
            )
        )
    options = {"count": 1, "window": 1, "t4_ms": 10}
    stock = bench.c["stock"]
    reports = [stock.register(bench.registrar, **options) for _ in range(repeats)]
    for phase in ("open", "close"):
        rows.append(
            Row(
                phase,
                stock.name,
                "ms",
                [report[phase]["wall"] * 1e3 for report in reports],
                command=shown(stock.arguments(bench.registrar, **options)),
            )
        )
    return rows


def _first_register(script: list[str]) -> dict[str, Any]:
    """One start towards a socket of ours, which sees when the first REGISTER arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.settimeout(30)
        command = [*script, "--silent", "--registrar", f"sip:127.0.0.1:{wire.getsockname()[1]}"]
        with subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wire.recv(4096)
                arrived = time.monotonic()
                output, _ = process.communicate("\n", timeout=30)
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        raise PeerError(f"{shown(command)}: exit {process.returncode}")
    sample: dict[str, Any] = json.loads(output)
    sample["first"] = arrived - sample["opening"]
    return sample
