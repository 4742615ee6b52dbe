# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured.  A measure takes a Bench and gives rows; ``MEASURES`` names them all."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peers import HERE, TIMEOUT, Peer, PeerError, environment, pjsip_py, run, shown, sipp
from report import Row

Reports = dict[str, list[dict[str, Any]]]  # peer's name -> one report for each repeat


@dataclass
class Bench:
    """What all measures share."""

    registrar: str  # URI of the running registrar
    c: dict[str, Peer]  # "stock" and "ours"
    repeats: int
    count: int
    window: int

    def alternate(self, peers: list[Peer], **options: object) -> Reports:
        """Each peer once a repeat, in turn one way round and the other, so that a machine that
        warms up, or a neighbour that wakes up, favours nobody."""
        reports: Reports = {peer.name: [] for peer in peers}
        for repeat in range(self.repeats):
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                print(f"  {peer.name}, {repeat + 1} of {self.repeats}", file=sys.stderr)
                report = peer.register(self.registrar, **options)
                if report["ok"] != report["count"]:
                    raise PeerError(f"{peer.name}: {report['ok']} of {report['count']} registered")
                reports[peer.name].append(report)
        return reports


def cpu_us(report: dict[str, Any], *phases: str) -> float:
    """CPU, user and system, per registration (µs)."""
    seconds = sum(report[p]["user"] + report[p]["system"] for p in phases if p in report)
    return float(seconds / report["count"] * 1e6)


# --- CPU and throughput --------------------------------------------------------------------------

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


# --- Memory --------------------------------------------------------------------------------------


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


# --- Start and end -------------------------------------------------------------------------------


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


# --- Latency -------------------------------------------------------------------------------------


def latency(bench: Bench) -> list[Row]:
    """From PJSIP's callback, and from the wire, to the handler, at 1,000 registrations a second."""
    command = [sys.executable, str(HERE / "latency.py"), "--registrar", bench.registrar]
    reports = [json.loads(run(command)) for _ in range(min(bench.repeats, 3))]
    rows = []
    for measure, key in (
        ("PJSIP's callback to handler", "callback"),
        ("registrar's answer to handler", "wire"),
    ):
        for share in ("p50", "p90", "p99", "max"):
            rows.append(
                Row(
                    f"{measure}, {share}",
                    "pjsip_py client",
                    "ms",
                    [report[key][share] * 1e3 for report in reports],
                    command=shown(command),
                    goal=1.0 if share == "p99" else None,
                )
            )
    rows.append(
        Row(
            "CPU per re-registration at 1,000/s",
            "pjsip_py client",
            "µs",
            [report["cpu_us"] for report in reports],
            command=shown(command),
        )
    )
    return rows


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "registration": registration,
    "memory": memory,
    "startup": startup,
    "latency": latency,
    "instructions": instructions,
}
