# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's own programs, in small: what they report is what has happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from measures.bench import Bench, rows
from peers import Peer
from registrar import PASSWORD, spread
from registrar import Registrar as BenchmarkRegistrar
from servers.process import MissingServer

from pjsip_py.testing import Registrar

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks are for Linux"),
]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{script}.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=25, stdin=subprocess.DEVNULL
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


def report(*arguments: object) -> dict[str, Any]:
    done = run("register", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    """Of users bulk0 to bulk9."""
    with Registrar(users={f"bulk{n}": PASSWORD for n in range(10)}) as registrar:
        yield registrar


def test_no_account_is_lost(tmp_path: Path) -> None:
    try:
        with BenchmarkRegistrar(tmp_path):
            pass
    except MissingServer as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    figures = tmp_path / "scale.json"
    small = ("--accounts", 20, "--expires", 2, "--minutes", 0.02, "--ramp", 0.3, "--interval", 0.4)
    done = run("scale", *small, "--json", figures)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert found["ok"]
    assert found["registered"] == 20
    assert found["registers"] == 2 * 20 + found["refreshes"]
    assert found["refreshes"] >= 20  # 1.2 s, a refresh a second
    assert sum(found["late"]["counts"].values()) == found["refreshes"]
    assert found["lost"].keys() >= {"not registered at the end", "expired at the registrar"}
    assert set(found["lost"].values()) == {0}
    assert found["close, unregistering"]["left at the registrar"] == 0
    assert found["close, silent"]["registered"] == 20
    assert [line["phase"] for line in found["series"]].count("keep") >= 2


def test_a_registrar_that_refuses_is_told(registrar: Registrar) -> None:
    registrar.answer_next(403, times=None)
    done = run("scale", "--accounts", 3, "--registrar", registrar.uri(), "--ramp", 0.1)
    assert done.returncode == 1
    assert "0 of 3 registered" in done.stderr
    assert "403 Forbidden" in done.stderr


def test_a_binding_that_ends_is_lost(registrar: Registrar) -> None:
    """Refreshes get no answer: the bindings of 2 s end, and the last ones come too late."""
    small = ("--accounts", 2, "--expires", 2, "--minutes", 0.04, "--ramp", 0.1, "--interval", 0.5)
    registrar.drop_next(times=None, match=lambda request: len(registrar.requests) > 4)
    done = run("scale", *small, "--registrar", registrar.uri(), "--close-timeout", 0.1)
    assert done.returncode == 1, done.stdout
    assert "not registered at the end 2" in done.stdout


def test_an_interrupt_leaves_what_is_known(registrar: Registrar) -> None:
    small = ("--accounts", "2", "--ramp", "0.1", "--interval", "0.2")
    command = [sys.executable, "benchmarks/scale.py", *small, "--registrar", registrar.uri()]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " keep " in line and " 2 registered " in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert re.search(r"^registered +2$", output, re.M)
    assert re.search(r"^ended +interrupted$", output, re.M)


def test_phases_of_a_run(registrar: Registrar) -> None:
    some = ("--count", 4, "--window", 2, "--expires", 2, "--refreshes", 2, "--renewals", 1)
    found = report("--registrar", registrar.uri(), *some, "--api", "client")
    assert found["ok"] == 4
    assert found["requests"] == 4 * (2 + 2 + 1)  # the nonce is good for more than once
    order = ["open", "warm", "create", "register", "settle", "trim", "refresh", "refresh_settle"]
    assert [phase for phase in found if phase in (*order, "renew", "renew_settle", "close")] == [
        *(*order, "renew", "renew_settle", "close")
    ]
    assert found["renew"]["wall"] > 0.5


def test_in_flight_nothing_is_answered(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    found = report("--registrar", registrar.uri(), "--count", 5, "--in-flight")
    assert found["ok"] == 5
    assert found["stats"]["clients"] == 5
    assert "flight" in found
    assert "register" not in found


def test_a_connection_for_each(tmp_path: Path) -> None:
    try:
        with BenchmarkRegistrar(tmp_path, protocol="tcp", addresses=2) as registrar:
            found = report("--registrar", registrar.uri, "--count", 5, "--spread", 2)
            assert registrar.bindings() == (6, 0)  # one to warm up
    except MissingServer as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    assert found["ok"] == 5
    assert found["stats"]["connections"] == 6  # numbers 0 to 5, each over its own
    assert found["stats"]["transports"] == 3


def test_addresses_of_a_spread_registrar() -> None:
    assert spread(2) == ["127.1.0.1", "127.1.0.2"]
    assert spread(251)[-2:] == ["127.1.0.250", "127.1.1.1"]


def test_a_peer_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    good = Peer("C regc, stock", (sys.executable, "-c", f"print('{json.dumps(GOOD)}')"))
    poor = Peer("poor", (sys.executable, "-c", f"print('{json.dumps(GOOD | {'ok': 3})}')"))
    bench = Bench("sip:127.0.0.1", {}, repeats=2, count=4, window=1)
    runs = bench.alternate([Peer("none", ("false",)), good, poor])
    assert bench.failed == ["none", "poor"]
    assert [run.peer.name for run in runs] == ["C regc, stock"]
    assert "poor: 3 of 4 registered" in capsys.readouterr().err
    (row,) = rows(runs, "count", "", lambda report: report["count"])
    assert row.values == [4, 4]
    assert row.anchor is None


GOOD = {"count": 4, "ok": 4}
