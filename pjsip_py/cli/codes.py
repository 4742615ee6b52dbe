# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit codes: what scripts that call ``pjsip-py`` lean on."""

from __future__ import annotations

from pjsip_py.errors import (
    AuthenticationError,
    ConfigError,
    InvalidUriError,
    PjsipError,
    RegistrationError,
)

OK = 0
REFUSED = 1
USAGE = 2
NO_ANSWER = 3
AUTHENTICATION = 4
OUTPUT_FAILED = 74  # sysexits.h's EX_IOERR
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 128  # plus the signal's number


def of_error(error: PjsipError) -> int:
    """The exit code for what a request, or the making of one, failed with."""
    if isinstance(error, AuthenticationError):
        return AUTHENTICATION
    if isinstance(error, RegistrationError) and not error.local:
        return REFUSED
    if isinstance(error, (ConfigError, InvalidUriError)):
        return USAGE
    return NO_ANSWER
