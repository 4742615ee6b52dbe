# SPDX-License-Identifier: GPL-3.0-or-later
"""The PJSIP stack for Python: endpoint, transports, client registration, accounts.

>>> import pjsip_py as pjsip
>>> with pjsip.Endpoint() as ep:                                             # doctest: +SKIP
...     acc = ep.add_account(
...         "sip:alice@example.com", credentials=pjsip.Credentials("alice", "secret")
...     )
...     print(acc.register().result(timeout=10).expires)
"""

from __future__ import annotations

import logging
from typing import Any

from . import _ffi, errors
from ._operation import Operation
from .account import Account, AccountConfig
from .auth import Credentials
from .endpoint import Endpoint, EndpointConfig, EventStream
from .errors import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    DowngradeError,
    EndpointBusyError,
    ForbiddenError,
    ForkedError,
    GlobalError,
    IntervalTooBrief,
    InvalidUriError,
    NativeError,
    NoCredentialError,
    NotFoundError,
    PjsipError,
    RegistrationError,
    RegistrationTimeout,
    ResolveError,
    ServerError,
    StaleNonceError,
    TlsError,
    TransportError,
    UnsupportedAlgorithmError,
    WouldBlockError,
    WrongPasswordError,
)
from .events import (
    CallbackFailed,
    Event,
    EventsDropped,
    EventTime,
    RegistrationResult,
    RegStarted,
    RegState,
    SipMessage,
    TransportState,
)
from .message import Binding, Headers, Response
from .regc import RegistrationClient
from .tls import TlsConfig
from .transport import Transport

# A library does not print: without handlers of the program's own, its records go nowhere.
for _name in ("pjsip_py", "pjsip"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

__version__: str = _ffi.build_info()["version"]


def build_info() -> dict[str, Any]:
    """What this build is: versions, source and patches of PJSIP, TLS, algorithms, limits."""
    return {"pjsip_py_version": __version__, **_ffi.build_info()}


__all__ = [
    "Account",
    "AccountConfig",
    "AuthenticationError",
    "Binding",
    "CallbackFailed",
    "ClosedError",
    "ConfigError",
    "Credentials",
    "DowngradeError",
    "Endpoint",
    "EndpointBusyError",
    "EndpointConfig",
    "Event",
    "EventStream",
    "EventTime",
    "EventsDropped",
    "ForbiddenError",
    "ForkedError",
    "GlobalError",
    "Headers",
    "IntervalTooBrief",
    "InvalidUriError",
    "NativeError",
    "NoCredentialError",
    "NotFoundError",
    "Operation",
    "PjsipError",
    "RegStarted",
    "RegState",
    "RegistrationClient",
    "RegistrationError",
    "RegistrationResult",
    "RegistrationTimeout",
    "ResolveError",
    "Response",
    "ServerError",
    "SipMessage",
    "StaleNonceError",
    "TlsConfig",
    "TlsError",
    "Transport",
    "TransportError",
    "TransportState",
    "UnsupportedAlgorithmError",
    "WouldBlockError",
    "WrongPasswordError",
    "__version__",
    "build_info",
    "errors",
]
