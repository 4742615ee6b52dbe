# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from peers import Peer, PeerError, baresip, environment, pjsip_py, pjsua2, run, shown
from report import Row

from .bench import Bench

Sample = dict[str, Any]  # what startup.py prints


def startup(bench: Bench) -> Iterator[Row]:
    """Import, open to the first REGISTER on the wire, close."""
    peers = [peer for peer in (pjsip_py("account", "thread"), pjsua2(), baresip()) if peer]
    registrar = ("--registrar", bench.registrar)
    for peer in peers:
        run([*peer.starts, *registrar])  # fills the cache of byte code

    silent = _in_turn(bench, peers, _first_register)
    nowhere = ("--silent", "--registrar", "sip:127.0.0.1:PORT")
    yield from _rows("import", "import", silent, nowhere, goal=10.0)
    yield from _rows("open", "open", silent, nowhere)
    yield from _rows("open to first REGISTER", "first", silent, nowhere, goal=10.0)
    yield from _rows("close, nothing answered", "close", silent, nowhere)
    for count, goal in ((1, 50.0), (1000, None)):
        many = (*registrar, "--count", str(count))
        able = [peer for peer in peers if count <= 8 or peer.name != "PJSUA2"]
        closed = _in_turn(bench, able, partial(_sample, many))
        yield from _rows(f"close, unregisters {count}", "close", closed, many, goal=goal)

    options = {"count": 1, "window": 1, "t4_ms": 10}
    stock = bench.c["stock"]
    reports = [stock.register(bench.registrar, **options) for _ in range(_repeats(bench))]
    command = shown(stock.arguments(bench.registrar, **options))
    for phase in ("open", "close"):
        values = [report[phase]["wall"] * 1e3 for report in reports]
        yield Row(phase, stock.name, "ms", values, command=command)


def _repeats(bench: Bench) -> int:
    return max(5, 3 * bench.repeats)


def _in_turn(
    bench: Bench, peers: list[Peer], sample: Callable[[Peer], Sample]
) -> dict[Peer, list[Sample]]:
    """As Bench.alternate(): a peer that fails is left out."""
    samples: dict[Peer, list[Sample]] = {peer: [] for peer in peers}
    for repeat in range(_repeats(bench)):
        for peer in list(samples) if repeat % 2 == 0 else list(reversed(samples)):
            try:
                samples[peer].append(sample(peer))
            except PeerError as error:
                print(error, file=sys.stderr)
                bench.failed.append(peer.name)
                del samples[peer]
    return samples


def _rows(
    measure: str,
    key: str,
    samples: dict[Peer, list[Sample]],
    options: tuple[str, ...],
    goal: float | None = None,
) -> list[Row]:
    return [
        Row(
            measure,
            peer.name,
            "ms",
            [sample[key] * 1e3 for sample in taken],
            command=shown([*peer.starts, *options]),
            goal=goal if peer.name.startswith("pjsip_py") else None,
        )
        for peer, taken in samples.items()
    ]


def _sample(options: tuple[str, ...], peer: Peer) -> Sample:
    sample: Sample = json.loads(run([*peer.starts, *options]))
    return sample


def _first_register(peer: Peer) -> Sample:
    """One start towards a socket of ours, which sees when the first REGISTER arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.settimeout(30)
        command = [
            *peer.starts,
            "--silent",
            "--registrar",
            f"sip:127.0.0.1:{wire.getsockname()[1]}",
        ]
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
            except (TimeoutError, subprocess.TimeoutExpired):
                process.kill()
                raise PeerError(f"{shown(command)}: no REGISTER or no end in 30 s") from None
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        raise PeerError(f"{shown(command)}: exit {process.returncode}")
    sample: Sample = json.loads(output)
    sample["first"] = arrived - sample["opening"]
    return sample
