# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a registrar do what the RFCs say? Checks to point at your own.

::

    from pjsip_py.testing.conformance import Target, run

    report = run(Target(registrar="sip:127.0.0.1:5060", user="alice", password="secret"))
    for result in report.failed:
        print(result.check.id, result.check.sections, result.reason)

The command is ``pjsip-py conformance``, the same for pytest
``pytest --pyargs pjsip_py.testing.conformance``.
"""

from __future__ import annotations

from .check import Check, Result, Status, all_checks
from .client import Message
from .report import html, junit
from .runner import NoAuthentication, NoRegistrar, Refused, Report, Runner, run, select
from .target import Target

__all__ = [
    "Check",
    "Message",
    "NoAuthentication",
    "NoRegistrar",
    "Refused",
    "Report",
    "Result",
    "Runner",
    "Status",
    "Target",
    "all_checks",
    "html",
    "junit",
    "run",
    "select",
]
