# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest plugin: registrars, an endpoint and accounts as fixtures, and pictures of what went on.

A package of its own, because pytest imports it in every project of an environment: nothing of
pjsip_py is imported before a test or an option asks for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pjsip_py import Account, Endpoint
    from pjsip_py.testing import Registrar, VirtualClock

    from .kit import Kit

#: Name of the plugin that writes what is asked for of the whole run.
RUN = "pjsip_py-run"
UNUSED_SHOWN = 10  # tests


def _hide(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether our own frames stay out of a traceback: where one is shown."""
    return not isinstance(excinfo.value, pytest.fail.Exception)


# -- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(name="_sip_kit")
def _kit_fixture(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """Owns the endpoint and the registrars, so that they end in this order."""
    from .kit import Kit

    kit = Kit.of(request.node)
    if "sip_clock" in request.fixturenames:
        kit.clock = request.getfixturevalue("sip_clock")
    yield kit
    __tracebackhide__ = _hide
    kit.close()


@pytest.fixture
def sip_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """The clock of this test's endpoint and registrars: time passes by ``sip_clock.advance()``.

    Call-IDs, nonces and all else that is random follow from the test's id, so that each run of it
    has the same; ``@pytest.mark.sip(seed=…)`` gives another seed.
    """
    from .kit import Kit

    return Kit.of(request.node).make_clock()


@pytest.fixture
def sip_registrar(_sip_kit: Kit) -> Registrar:
    """A running registrar on UDP and TCP of 127.0.0.1 that knows alice (password ``secret``).

    What goes wrong on its thread fails the test.
    """
    return _sip_kit.start_registrar(("udp", "tcp"), users={"alice": "secret"})


@pytest.fixture
def sip_registrar_factory(_sip_kit: Kit) -> Callable[..., Registrar]:
    """``sip_registrar_factory(protocols, host, **arguments)`` starts one more registrar.

    It takes what :class:`pjsip_py.testing.Registrar` does.
    """
    return _sip_kit.start_registrar


@pytest.fixture
def sip_endpoint(_sip_kit: Kit) -> Endpoint:
    """The endpoint of the test; a handler that raises fails the test.

    It delivers on a thread of its own, in an async test on the loop that the test runs on.
    """
    return _sip_kit.make_endpoint()


@pytest.fixture
def sip_account_factory(
    request: pytest.FixtureRequest, _sip_kit: Kit, sip_endpoint: Endpoint
) -> Callable[..., Account]:
    """``sip_account_factory(user, registrar=None, protocol=None, **fields)`` adds an account.

    Without *registrar* it is one of ``sip_registrar``.  A registrar that is a
    :class:`~pjsip_py.testing.Registrar` with users is told of the account's, and over TLS the
    account trusts it.  The other *fields* are those of :class:`pjsip_py.AccountConfig`.
    """

    def add_account(
        user: str = "alice", registrar: Any = None, protocol: str | None = None, **fields: Any
    ) -> Account:
        if registrar is None and "registrars" not in fields:
            registrar = request.getfixturevalue("sip_registrar")
        return _sip_kit.add_account(user, registrar, protocol, fields)

    return add_account


# -- options --------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sip", "SIP registration tests (pjsip-py)")
    group.addoption(
        "--sip-report",
        metavar="FILE",
        help="write one HTML page with all tests of the run and the ladder of each exchange",
    )
    group.addoption(
        "--sip-pcap",
        metavar="DIR",
        help="write the SIP messages of each test to a pcap file in DIR, TLS in the clear",
    )
    parser.addini(
        "sip_strict",
        type="bool",
        default=False,
        help="fail a test that leaves rules of a scripted registrar unused",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sip(seed, strict, **options): of sip_endpoint: seed for Call-ID, tags, branches and "
        "jitter, any option of EndpointConfig; strict: unused rules of a registrar fail the test",
    )
    if config.getoption("sip_report") or config.getoption("sip_pcap"):
        from .run import Run

        config.pluginmanager.register(Run(config), RUN)


# -- the course of a test -------------------------------------------------------------------------


def _kit(item: pytest.Item) -> Kit | None:
    """None as long as nobody has imported pjsip_py."""
    if "pjsip_py.endpoint" not in sys.modules:
        return None
    from .kit import Kit

    return Kit.of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = _hide
    began = time.monotonic()
    if kit := _kit(item):
        kit.before_call()
    try:
        result = yield
    except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
        raise
    except BaseException:
        if kit := _kit(item):
            kit.settle(began)
            kit.note_failures()
        raise
    if kit := _kit(item):
        kit.settle(began)
        kit.raise_failures()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = _hide
    try:
        result = yield
    except BaseException:
        if kit := _kit(item):
            kit.end(failed=True)
        raise
    if kit := _kit(item):
        kit.end(failed=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if kit := _kit(item):
        kit.report(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unused = [
        (report.nodeid, report.sip_unused)
        for report in terminalreporter.stats.get("", ())
        if hasattr(report, "sip_unused")
    ]
    if unused:
        terminalreporter.section("SIP rules that were not used")
    for nodeid, text in unused[:UNUSED_SHOWN]:
        terminalreporter.write_line(nodeid, bold=True)
        terminalreporter.write_line(text)
    if len(unused) > UNUSED_SHOWN:
        terminalreporter.write_line(f"... and {len(unused) - UNUSED_SHOWN} more tests")
    if unused:
        terminalreporter.write_line("(sip_strict = true in pytest's settings makes them failures)")


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    if op != "==" or "pjsip_py.testing" not in sys.modules:
        return None
    from pjsip_py.testing.explain import explain

    return explain(left, right)
