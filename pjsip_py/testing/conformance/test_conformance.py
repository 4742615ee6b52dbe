# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks as tests: ``pytest --pyargs pjsip_py.testing.conformance --sip-registrar=sip:host``.

Each check is a test of its own; what the registrar need not support is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pjsip_py.testing.conformance import (
    Check,
    NoAuthentication,
    NoRegistrar,
    Refused,
    Runner,
    Status,
    Target,
    all_checks,
)
from pjsip_py.testing.conformance.report import explain
from pytest_pjsip_py.conformance import RUNNER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    checks = all_checks()
    metafunc.parametrize("check", checks, ids=[each.id for each in checks])


def _target(config: pytest.Config) -> Target:
    option = config.getoption
    password = os.environ.get("PJSIP_PY_PASSWORD")
    if file := option("--sip-password-file"):
        password = (Path(file).read_text("utf-8").splitlines() or [""])[0]
    return Target(
        registrar=option("--sip-registrar"),
        aor=option("--sip-aor"),
        user=option("--sip-user"),
        password=password,
        transports=tuple(option("--sip-transport")),
        tls_port=option("--sip-tls-port"),
        ca_file=option("--sip-ca-file") or None,
        server_name=option("--sip-server-name") or None,
        insecure=option("--sip-insecure"),
        timeout=option("--sip-timeout"),
    )


@pytest.fixture(scope="session")
def runner(pytestconfig: pytest.Config) -> Runner:
    """The run, logged in. What makes a run impossible ends the session."""
    if not pytestconfig.getoption("--sip-registrar"):
        pytest.exit("give --sip-registrar=sip:host and --sip-user or --sip-aor", returncode=4)
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        pytest.exit("the checks share one AOR: run them in one process (-n 0)", returncode=4)
    try:
        made = Runner(_target(pytestconfig))
        made.open()
    except (ValueError, OSError) as error:
        pytest.exit(str(error), returncode=4)
    except (NoRegistrar, NoAuthentication, Refused) as error:
        pytest.exit(str(error), returncode=1)
    pytestconfig.stash[RUNNER] = made
    return made


def test_conformance(check: Check, runner: Runner) -> None:
    try:
        result = runner.run_check(check)
    except NoRegistrar as error:
        pytest.exit(str(error), returncode=1)
    if result.status is Status.FAIL:
        pytest.fail(explain(result), pytrace=False)
    if result.status is not Status.PASS:
        pytest.skip(f"{result.status.value}: {result.reason}")
