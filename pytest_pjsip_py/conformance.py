# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of ``pytest --pyargs pjsip_py.testing.conformance``: which registrar, as whom.

Here and not beside the tests, because pytest asks for options before it looks for tests; nothing
of pjsip_py is imported before the checks run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pjsip_py.testing.conformance import Runner

#: The run under way.
RUNNER: pytest.StashKey[Runner] = pytest.StashKey()

_TEXTS = {
    "--sip-registrar": ("URI", "the registrar to check: sip:host[:port]"),
    "--sip-aor": ("URI", "whose bindings are made and removed; default: sip:USER@host"),
    "--sip-user": ("NAME", "of the credentials; default: the AOR's"),
    "--sip-password-file": (
        "FILE",
        "the password is its first line; default: the environment's PJSIP_PY_PASSWORD",
    ),
    "--sip-ca-file": ("PEM", "trust these CAs; default: the system's"),
    "--sip-server-name": ("NAME", "whose certificate it must be; default: the host's"),
    "--sip-conformance-html": ("FILE", "write a page with a ladder of each failure"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "sip-conformance", "SIP conformance (pytest --pyargs pjsip_py.testing.conformance)"
    )
    for name, (metavar, text) in _TEXTS.items():
        group.addoption(name, metavar=metavar, default="", help=text)
    group.addoption(
        "--sip-transport",
        action="append",
        choices=["udp", "tcp", "tls"],
        default=[],
        help="may be repeated; default: all that answer, or what the URI asks for",
    )
    group.addoption("--sip-tls-port", type=int, metavar="PORT", help="default: 5061 beside 5060")
    group.addoption("--sip-insecure", action="store_true", help="accept any certificate")
    group.addoption(
        "--sip-timeout",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long one answer may take; default: 5",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    runner = session.config.stash.get(RUNNER, None)
    name = session.config.getoption("--sip-conformance-html")
    if runner is not None and name:
        from pjsip_py.testing.conformance.report import write

        write(runner.report, name, "html")
