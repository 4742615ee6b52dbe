# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials for digest authentication (RFC 7616, RFC 8760)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ._secret import StrPath, read_secret, references
from .errors import ConfigError
from .uri import check_text

#: Digest algorithms that PJSIP computes, weakest first.
ALGORITHMS = ("MD5", "SHA-256", "SHA-512-256")
_HA1_DIGITS = {"MD5": 32, "SHA-256": 64, "SHA-512-256": 64}

# PJSIP_MAX_CREDENTIALS of one registration.
MAX_CREDENTIALS = 8


class Credentials:
    """User name and secret for one realm.

    Give *password*, or *ha1* to keep the password out of the process: the hexadecimal hash of
    ``user:realm:password``, as a string (32 digits: MD5, 64: SHA-256) or as a mapping from
    algorithm to digits.  An HA1 holds for its own realm and algorithm only, so *realm* must then
    be named; ``"*"`` answers any realm.

    *min_algorithm* (``"MD5"``, ``"SHA-256"``, ``"SHA-512-256"``) refuses to prove the secret by
    anything weaker: no Authorization header leaves, and the registration fails with
    :class:`~pjsip_py.DowngradeError`.

    :raises ConfigError: when a field is missing, malformed or contradicts another.
    """

    __slots__ = ("_references", "_secrets", "min_algorithm", "realm", "username")

    def __init__(
        self,
        username: str,
        password: str | None = None,
        *,
        realm: str = "*",
        ha1: str | Mapping[str, str] | None = None,
        min_algorithm: str | None = None,
    ) -> None:
        self.username = check_text("username", username, maximum=256)
        self.realm = check_text("realm", realm, maximum=256)
        if not username:
            raise ConfigError("username must not be empty")
        if '"' in username + realm or "\\" in username + realm:
            # PJSIP prints both between quotes as they are.
            raise ConfigError("username and realm must not contain a quote or a backslash")
        if not realm:
            raise ConfigError("realm must not be empty; '*' stands for any")
        if (password is None) == (ha1 is None):
            raise ConfigError("Credentials need either password or ha1")
        if min_algorithm is not None and min_algorithm not in ALGORITHMS:
            raise ConfigError(f"min_algorithm must be one of {', '.join(ALGORITHMS)}")
        self.min_algorithm = min_algorithm
        # Where the secret was found; None if it was given as it is.
        given = {"password": password} if ha1 is None else {"ha1": ha1}
        self._references = references(given)
        # (secret, algorithm of the HA1 or "" for a password), as C takes them.
        self._secrets: tuple[tuple[str, str], ...]
        if password is not None:
            self._secrets = ((_secret("password", password), ""),)
        else:
            if realm == "*":
                raise ConfigError("ha1 is made for one realm: name it by realm=")
            self._secrets = tuple(_ha1_items(ha1))

    @classmethod
    def from_reference(
        cls,
        username: str,
        password: str | None = None,
        *,
        realm: str = "*",
        ha1: str | Mapping[str, str] | None = None,
        min_algorithm: str | None = None,
        base: StrPath | None = None,
    ) -> Credentials:
        """Credentials whose *password* or *ha1* stands elsewhere, and that remember where.

        A reference is ``env:NAME``, ``file:/path`` (one line feed at its end is not part of the
        secret) or ``keyring:service/username``.  It is read once, here.

        :param base: folder of relative ``file:`` paths, by default the working directory.
        :raises ConfigError: a reference leads nowhere, or is none but a secret written out.
        """

        def read(field: str, given: object) -> Any:
            if given is None:
                return None
            if field == "ha1" and isinstance(given, Mapping):
                return {algorithm: read("ha1", value) for algorithm, value in given.items()}
            try:
                return read_secret(given, base)
            except ConfigError as error:
                raise ConfigError(f"{field}: {error}") from None

        return cls(
            username,
            read("password", password),
            realm=realm,
            ha1=read("ha1", ha1),
            min_algorithm=min_algorithm,
        )

    def _strings(self) -> Iterable[list[str]]:
        for secret, kind in self._secrets:
            yield [self.realm, self.username, secret, kind]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        return (self.username, self.realm, self._secrets, self.min_algorithm) == (
            other.username,
            other.realm,
            other._secrets,
            other.min_algorithm,
        )

    def __hash__(self) -> int:
        return hash((self.username, self.realm, self.min_algorithm))

    def __repr__(self) -> str:
        kind = "password" if self._secrets[0][1] == "" else "ha1"
        shown = "<hidden>" if self._references is None else self._references[kind]
        return f"Credentials({self.username!r}, {kind}={shown}, realm={self.realm!r})"


def _secret(field: str, value: object) -> str:
    """As check_text, but no message ever quotes the value."""
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a str, not {type(value).__name__}")
    return check_text(field, value, maximum=1024)


def _ha1_items(ha1: str | Mapping[str, str] | None) -> Iterable[tuple[str, str]]:
    if isinstance(ha1, str):
        ha1 = {"MD5" if len(ha1) == 32 else "SHA-256": ha1}
    if not isinstance(ha1, Mapping) or not ha1:
        raise ConfigError("ha1 must be a string of hexadecimal digits or a mapping by algorithm")
    for algorithm, value in ha1.items():
        digits = _HA1_DIGITS.get(algorithm)
        if digits is None:
            raise ConfigError(f"ha1: unknown algorithm; use one of {', '.join(ALGORITHMS)}")
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", value):
            raise ConfigError(f"ha1: {algorithm} takes {digits} hexadecimal digits")
        yield value.lower(), algorithm


def check_credentials(value: object) -> tuple[Credentials, ...]:
    """One Credentials, or a sequence of them."""
    items = (value,) if isinstance(value, Credentials) else value
    if not isinstance(items, (tuple, list)) or not all(isinstance(i, Credentials) for i in items):
        raise ConfigError("credentials must be Credentials or a sequence of them")
    if sum(len(i._secrets) for i in items) > MAX_CREDENTIALS:
        raise ConfigError(f"credentials: at most {MAX_CREDENTIALS} (each HA1 counts as one)")
    return tuple(items)


def credential_strings(credentials: Iterable[Credentials]) -> list[list[str]]:
    return [strings for c in credentials for strings in c._strings()]


def min_algorithm(credentials: Iterable[Credentials]) -> int:
    """The strongest minimum among them, as C's number (0: none)."""
    return max(
        (ALGORITHMS.index(c.min_algorithm) + 1 for c in credentials if c.min_algorithm), default=0
    )
