# SPDX-License-Identifier: GPL-3.0-or-later
"""A SIP registrar to test against: pure Python, on loopback, independent of PJSIP.

::

    from pjsip_py.testing import Registrar

    with Registrar(users={"alice": "secret"}) as reg:
        ...  # register sip:alice@example.com at reg.uri()
        assert reg.requests[-1].answered == 200
"""

from __future__ import annotations

try:
    import sipmessage as _sipmessage  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pjsip_py.testing needs the library sipmessage: pip install 'pjsip-py[testing]'",
        name="sipmessage",
    ) from error

from .answer import Answer, Challenge
from .clock import VirtualClock
from .defects import DEFECTS
from .digest import DigestCredentials, digest_response
from .errors import RegistrarError, UnmatchedRequest, UnreachableRule
from .faults import FAULTS
from .guard import Proof
from .headers import Contact
from .location import Binding
from .registrar import Registrar, RegistrarStats
from .request import ReceivedRequest
from .rules import ConnectionRule, Rule

__all__ = [
    "DEFECTS",
    "FAULTS",
    "Answer",
    "Binding",
    "Challenge",
    "ConnectionRule",
    "Contact",
    "DigestCredentials",
    "Proof",
    "ReceivedRequest",
    "Registrar",
    "RegistrarError",
    "RegistrarStats",
    "Rule",
    "UnmatchedRequest",
    "UnreachableRule",
    "VirtualClock",
    "digest_response",
]
