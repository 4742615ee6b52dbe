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

from . import _ffi, errors
from ._operation import Operation
from ._resolve import Query, Resolved, Target
from ._typing import TYPE_CHECKING, Any
from .account import Account
from .account_config import AccountConfig, RegistrarConfig
from .auth import BearerToken, Challenge, Credentials
from .endpoint import Endpoint, EndpointConfig, EventStream
from .errors import (
    AccountsFileError,
    AuthenticationError,
    ChallengeError,
    ClosedError,
    ConfigError,
    CredentialsError,
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
    PcapError,
    PjsipError,
    PjsuaFieldWarning,
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
    AccountEvent,
    AccountState,
    CallbackFailed,
    ContactChanged,
    Event,
    EventsDropped,
    EventTime,
    GaveUp,
    RegistrarChanged,
    RegistrationResult,
    RegStarted,
    RegState,
    SipMessage,
    TransportState,
)
from .message import Binding, Headers, Response
from .regc import RegistrationClient
from .retry import FAILOVER, RETRY, STOP, RetryPolicy, Verdict
from .tls import PeerCertificate, TlsConfig, TlsInfo
from .transport import Transport

if TYPE_CHECKING:
    from ._accounts_file import load_accounts, save_accounts

__version__: str = _ffi.build_info()["version"]


def __getattr__(name: str) -> Any:
    """Who keeps no accounts in files is spared the import of what reads them."""
    if name in ("load_accounts", "save_accounts"):
        from . import _accounts_file

        return getattr(_accounts_file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_info() -> dict[str, Any]:
    """What this build is: versions, source and patches of PJSIP, TLS, algorithms, limits."""
    return {"pjsip_py_version": __version__, **_ffi.build_info()}


__all__ = [
    "FAILOVER",
    "RETRY",
    "STOP",
    "Account",
    "AccountConfig",
    "AccountEvent",
    "AccountState",
    "AccountsFileError",
    "AuthenticationError",
    "BearerToken",
    "Binding",
    "CallbackFailed",
    "Challenge",
    "ChallengeError",
    "ClosedError",
    "ConfigError",
    "ContactChanged",
    "Credentials",
    "CredentialsError",
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
    "GaveUp",
    "GlobalError",
    "Headers",
    "IntervalTooBrief",
    "InvalidUriError",
    "NativeError",
    "NoCredentialError",
    "NotFoundError",
    "Operation",
    "PcapError",
    "PeerCertificate",
    "PjsipError",
    "PjsuaFieldWarning",
    "Query",
    "RegStarted",
    "RegState",
    "RegistrarChanged",
    "RegistrarConfig",
    "RegistrationClient",
    "RegistrationError",
    "RegistrationResult",
    "RegistrationTimeout",
    "ResolveError",
    "Resolved",
    "Response",
    "RetryPolicy",
    "ServerError",
    "SipMessage",
    "StaleNonceError",
    "Target",
    "TlsConfig",
    "TlsError",
    "TlsInfo",
    "Transport",
    "TransportError",
    "TransportState",
    "UnsupportedAlgorithmError",
    "Verdict",
    "WouldBlockError",
    "WrongPasswordError",
    "__version__",
    "build_info",
    "errors",
    "load_accounts",
    "save_accounts",
]
