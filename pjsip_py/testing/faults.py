# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a connection before the first request."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

FaultName = Literal[
    "closed",
    "reset",
    "silent",
    "refused",
    "no-common-version",
    "wrong-host",
    "expired",
    "not-yet-valid",
    "untrusted",
]
Certificate = Literal["wrong-host", "expired", "not-yet-valid", "untrusted"]

_TLS = frozenset({"tls"})
_STREAMS = frozenset({"tcp", "tls"})


@dataclass(frozen=True)
class Fault:
    """One fault. Over TLS it happens when the ClientHello has come, over TCP at once."""

    name: FaultName
    meaning: str
    protocols: frozenset[str] = _TLS
    alert: int | None = None  # RFC 8446 §6
    context: ssl.SSLContext | None = None  # with the bad certificate, once it is made

    @property
    def certificate(self) -> Certificate | None:
        """What is wrong with the certificate, if that is it."""
        return cast(Certificate, self.name) if self.name in get_args(Certificate) else None


#: The faults of :meth:`ConnectionRule.fail`, by name.
FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("closed", "the connection is closed", _STREAMS),
        Fault("reset", "the connection is reset", _STREAMS),
        Fault("silent", "the handshake is never answered"),
        Fault("refused", "the alert handshake_failure", alert=40),
        Fault("no-common-version", "the alert protocol_version", alert=70),
        Fault("wrong-host", "the certificate is for another host"),
        Fault("expired", "the certificate was valid until yesterday"),
        Fault("not-yet-valid", "the certificate is valid from tomorrow"),
        Fault("untrusted", "the certificate is signed by an authority that nobody knows"),
    )
}


def require_fault(name: str) -> Fault:
    """Raises ``ValueError`` for a name that there is not."""
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}: one of {', '.join(FAULTS)}")
    return FAULTS[name]
