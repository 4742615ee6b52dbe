# SPDX-License-Identifier: GPL-3.0-or-later
"""Every program in examples/ runs as it stands, and says what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pjsip_py.testing import Registrar

PASSWORD = "hunter2-by-example"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Lines that must appear, in this order.
EXPECTED = {
    "asyncio_register.py": [
        "registered with SHA-256 digest",
        "request: 200 OK, 2 s",
        "refresh: 200 OK, 2 s",
        "unregistered",
    ],
    "callbacks.py": [
        "udp listening",
        "registered: 200 OK",
        "a handler raised LookupError('what a pity')",
        "unregistered: 200 OK",
        "2 failures are kept in ep.callback_errors",
    ],
    "errors.py": [
        "registered for 300 s",
        "WrongPasswordError: 401: check user name, password and realm",
        "no connection: Connection refused",
        "aor: 'alice@example.com' is not a SIP URI: it must begin with sip: or sips:",
        "unknown field 'expire': did you mean 'expires'?",
    ],
    "gui_loop.py": ["200 OK, registered", "200 OK, unregistered"],
    "ported_pjsua2.py": [
        "warned: without effect here (docs/pjsua.md says why): natConfig.iceEnabled, "
        "mwiConfig.enabled",
        "registering",
        "200 OK 600",
        "unregistering",
        "200 OK 0",
        "unregistered",
    ],
    "regc_low_level.py": [
        "registered: sip:alice@192.0.2.1, sip:alice@192.0.2.2:5080",
        "updated: sip:alice@192.0.2.1",
        "fetched: sip:alice@192.0.2.1",
        "busy: False, auto refresh: False",
        "removed all: no binding",
    ],
    "subclass_pjsua_style.py": [
        "REGISTER sip:alice@example.com",
        "200 OK",
        "REGISTER to leave",
        "200 OK",
        "unregistered",
    ],
    "sync.py": ["200 OK: registered for 300 s", "200 OK: unregistered"],
    "tls.py": ["200", "unknown-ca"],
}


def run(name: str, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.stdout


def test_no_example_is_left_out() -> None:
    elsewhere = {"locustfile.py"}  # run by test_locust.py
    assert {path.name for path in EXAMPLES.glob("[!_]*.py")} == set(EXPECTED) | elsewhere


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name: str) -> None:
    lines = iter(run(name).splitlines())
    for wanted in EXPECTED[name]:
        assert wanted in lines, wanted  # in order: each look goes on where the last one ended


def test_with_an_aor_of_ones_own() -> None:
    with Registrar(users={"bob": PASSWORD}) as registrar:
        output = run("sync.py", "sip:bob@example.com", registrar.uri(), PJSIP_PY_PASSWORD=PASSWORD)
        assert "200 OK: registered" in output
        assert registrar.requests[0].aor == "sip:bob@example.com"
