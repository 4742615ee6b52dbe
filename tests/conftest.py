# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: an endpoint, and real servers on free loopback ports.

A server whose program is not installed skips its tests, saying what to install; under CI=true
that is a failure. When a test fails, the last lines of its servers' logs are in the report.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import leaks
import pytest
from servers.certs import Certificates
from servers.kamailio import Kamailio
from servers.process import MissingServer
from servers.sipp import Sipp
from servers.tshark import Tshark

if TYPE_CHECKING:
    import pjsip_py as pjsip

Server = TypeVar("Server", Kamailio, Sipp)
SERVERS: pytest.StashKey[list[Kamailio | Sipp]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    leaks.watch(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for node in (item.session, item):
            for server in node.stash.get(SERVERS, []):
                report.sections.append((f"{type(server).__name__} log", server.log_tail()))
    return report


def start(node: pytest.Item | pytest.Session, make: Callable[[], Server]) -> Server:
    """Make and start a server for ``node``, whose failure reports show its log from then on."""
    try:
        server = make()
        node.stash.setdefault(SERVERS, []).append(server)
        server.start()
    except MissingServer as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc), pytrace=False)
        pytest.skip(str(exc))
    return server


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certs"))


def _session_kamailio(
    request: pytest.FixtureRequest, certs: Certificates, algorithm: str
) -> Iterator[Kamailio]:
    directory = request.getfixturevalue("tmp_path_factory").mktemp("kamailio")
    server = start(request.session, lambda: Kamailio(directory, certs, algorithm=algorithm))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kamailio(request: pytest.FixtureRequest, certs: Certificates) -> Iterator[Kamailio]:
    """One Kamailio for the whole run, challenging with MD5. Leave it running: tests that stop
    or pause a server start their own with ``start_kamailio``."""
    yield from _session_kamailio(request, certs, "MD5")


@pytest.fixture(scope="session")
def kamailio_sha256(request: pytest.FixtureRequest, certs: Certificates) -> Iterator[Kamailio]:
    """One Kamailio for the whole run, challenging with SHA-256."""
    yield from _session_kamailio(request, certs, "SHA-256")


@pytest.fixture
def start_kamailio(
    request: pytest.FixtureRequest, tmp_path: Path, certs: Certificates
) -> Iterator[Callable[..., Kamailio]]:
    """``start_kamailio(**options)`` starts a Kamailio of the test's own."""
    started: list[Kamailio] = []

    def start_one(**options: Any) -> Kamailio:
        directory = tmp_path / f"kamailio-{len(started)}"
        directory.mkdir()
        started.append(start(request.node, lambda: Kamailio(directory, certs, **options)))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture
def sipp(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Sipp]]:
    """``sipp(scenario, **options)`` starts SIPp; the test fails if the scenario is not followed
    to its end, whether or not it calls ``finish()`` itself."""
    started: list[Sipp] = []

    def start_one(scenario: str, **options: Any) -> Sipp:
        directory = tmp_path / f"sipp-{len(started)}"
        directory.mkdir()
        started.append(start(request.node, lambda: Sipp(directory, scenario, **options)))
        return started[-1]

    yield start_one
    try:
        for server in started:
            server.finish()
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="session")
def tshark() -> Tshark:
    try:
        return Tshark()
    except MissingServer as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc), pytrace=False)
        pytest.skip(str(exc))


_bulk_numbers = itertools.count(1)


@pytest.fixture
def user() -> str:
    """A user name of Kamailio's that no other test has bindings under; see BULK_PASSWORD."""
    return f"bulk{next(_bulk_numbers)}"


@pytest.fixture
def ep() -> Iterator[pjsip.Endpoint]:
    """An open endpoint; an exception in a handler fails the test when it closes."""
    import pjsip_py as pjsip

    with pjsip.Endpoint(strict=True) as endpoint:
        yield endpoint
