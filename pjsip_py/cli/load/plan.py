# SPDX-License-Identifier: GPL-3.0-or-later
"""What a load is: who registers, how fast, and what each does then."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import click

import pjsip_py as pjsip
from pjsip_py.uri import parse_aor

MAX_USERS = 1_000_000
COLUMNS = ("aor", "user", "password", "realm")
MISTAKES_SHOWN = 5

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


# -- users ----------------------------------------------------------------------------------------


class User(NamedTuple):
    aor: str
    credentials: tuple[pjsip.Credentials, ...]


def expand(pattern: str) -> list[str]:
    """``bulk{01..12}`` as a shell expands it: bulk01, bulk02, … bulk12."""
    pieces = _RANGE.split(pattern)
    if any(brace in text for text in pieces[::3] for brace in "{}"):
        raise click.BadParameter(
            f"{pattern!r}: write a range as {{FIRST..LAST}}, as in u{{1..99}}."
        )
    ranges: list[list[str]] = []
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        low, high = int(first), int(last)
        if low > high:
            raise click.BadParameter(f"{{{first}..{last}}}: the first is greater than the last.")
        padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        if high - low >= MAX_USERS:
            raise click.BadParameter(f"{{{first}..{last}}}: more than {MAX_USERS} users.")
        ranges.append([f"{number:0{width}d}" for number in range(low, high + 1)])
    if math.prod(map(len, ranges)) > MAX_USERS:
        raise click.BadParameter(f"{pattern!r}: more than {MAX_USERS} users.")
    texts = pieces[::3]
    return [
        "".join(text + number for text, number in zip(texts, (*chosen, ""), strict=True))
        for chosen in product(*ranges)
    ]


def make_user(name: str, domain: str, password: str | None) -> User:
    """Of a user's name, ``user@domain`` or an AOR.

    :raises pjsip.ConfigError, pjsip.InvalidUriError: it is none.
    """
    aor = name if name.startswith(("sip:", "sips:")) else f"sip:{name}"
    if "@" not in aor:
        aor = f"{aor}@{domain}"
    address = parse_aor("AOR", aor)
    if password is None:
        return User(aor, ())
    return User(aor, (pjsip.Credentials(address.user, password),))


def users_of_pattern(pattern: str, domain: str, password: str | None) -> list[User]:
    try:
        return [make_user(name, domain, password) for name in expand(pattern)]
    except pjsip.PjsipError as error:
        raise click.BadParameter(f"{pattern!r}: {error}") from None


def users_of_csv(path: str, domain: str, password: str | None) -> list[User]:
    """The users of a file with a header; all of its mistakes at once, each with its line."""
    users: list[User] = []
    mistakes: list[str] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for line, fields in _rows(reader, path):
                try:
                    users.append(_user_of_row(fields, domain, password))
                except (ValueError, pjsip.PjsipError) as error:
                    mistakes.append(f"{path}:{line}: {error}")
    except OSError as error:
        raise click.UsageError(f"--csv {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"--csv {path}: is not UTF-8") from None
    except csv.Error as error:
        raise click.UsageError(f"{path}:{reader.line_num}: {error}") from None
    if mistakes:
        more = len(mistakes) - MISTAKES_SHOWN
        shown = mistakes[:MISTAKES_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise click.UsageError("\n".join(shown))
    if not users:
        raise click.UsageError(f"--csv {path}: has no users")
    if len(users) > MAX_USERS:
        raise click.UsageError(f"--csv {path}: more than {MAX_USERS} users")
    return users


def _rows(reader: Any, path: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Line and fields by column; None where they are not as many as the header has."""
    header = [name.strip().lower() for name in next(reader, [])]
    known = ", ".join(COLUMNS)
    if not header or set(header) - set(COLUMNS) or len(set(header)) < len(header):
        raise click.UsageError(f"{path}:1: the header must name columns, each once, of: {known}")
    if not {"aor", "user"} & set(header):
        raise click.UsageError(f"{path}:1: neither aor nor user is among the columns")
    for row in reader:
        if row:
            fits = len(row) == len(header)
            yield reader.line_num, dict(zip(header, row, strict=True)) if fits else None


def _user_of_row(fields: dict[str, str] | None, domain: str, password: str | None) -> User:
    # Nothing of the row is repeated: what stands in a wrong column may be a password.
    if fields is None:
        raise ValueError("has not as many fields as the header")
    name = fields.get("user", "").strip()
    aor = fields.get("aor", "").strip() or name
    if not aor:
        raise ValueError("no user")
    try:
        user = make_user(aor, domain, None)
    except pjsip.PjsipError:
        raise ValueError("is no AOR: write it as sip:user@domain, or a user's name") from None
    secret = fields.get("password") or password
    if secret is None:
        return user
    name = name.removeprefix("sip:").partition("@")[0] or parse_aor("AOR", user.aor).user
    try:
        credentials = pjsip.Credentials(name, secret, realm=fields.get("realm") or "*")
    except pjsip.PjsipError:
        raise ValueError("user, password and realm make no credential") from None
    return user._replace(credentials=(credentials,))


# -- how fast -------------------------------------------------------------------------------------


class Pace(NamedTuple):
    """Registrations begun a second: from *first* to *last* over so many seconds, then *last*."""

    first: float
    last: float
    over: float = 0.0

    def rate(self, at: float) -> float:
        if at >= self.over:
            return self.last
        return self.first + (self.last - self.first) * at / self.over

    def due(self, at: float) -> float:
        """How many should have begun *at* seconds after the start."""
        ramp = min(at, self.over)
        return (self.first + self.rate(ramp)) / 2 * ramp + self.last * (at - ramp)

    def time_of(self, number: float) -> float:
        """When so many are due."""
        at_top = (self.first + self.last) / 2 * self.over
        if number >= at_top:
            return self.over + (number - at_top) / self.last
        # number = first t + (last - first) / (2 over) t²
        slope = (self.last - self.first) / self.over
        return 2 * number / (self.first + math.sqrt(self.first**2 + 2 * slope * number))

    def __str__(self) -> str:
        if not self.over:
            return f"{self.last:g} a second"
        return f"{self.first:g} to {self.last:g} a second over {self.over:g} s"


class Storm:
    """All at once, as far as the window lets them."""

    def due(self, at: float) -> float:
        return math.inf

    def rate(self, at: float) -> float:
        return math.inf

    def time_of(self, number: float) -> float:
        return 0.0

    def __str__(self) -> str:
        return "all at once"


# -- the whole ------------------------------------------------------------------------------------


class Plan(NamedTuple):
    registrar: str
    users: list[User]
    pace: Pace | Storm
    keep: bool  #: accounts that stay registered
    churn: float | None  #: seconds until each unregisters, to come again
    fresh: bool  #: a new Call-ID and no nonce each time
    duration: float | None
    window: int
    options: dict[str, Any]  #: of each registration

    @property
    def again(self) -> bool:
        """Whether users come more than once."""
        return self.churn is not None or (self.duration is not None and not self.keep)

    @property
    def endless(self) -> bool:
        """Whether Ctrl-C is how it ends."""
        return self.duration is None and (self.keep or self.churn is not None)

    @property
    def wanted(self) -> int | None:
        """How many registrations are to begin; None: as many as come."""
        if not self.again:
            return len(self.users)
        if self.duration is None or isinstance(self.pace, Storm):
            return None
        return max(1, math.ceil(self.pace.due(self.duration) - 1e-9))

    def __str__(self) -> str:
        count = len(self.users)
        text = f"{count} user{'s' * (count != 1)}, {self.pace}"
        if self.keep:
            text += ", kept registered"
        if self.churn is not None:
            text += f", each for {self.churn:g} s"
        if self.fresh:
            text += ", anew each time"
        if self.duration is not None:
            text += f", for {self.duration:g} s"
        return text
