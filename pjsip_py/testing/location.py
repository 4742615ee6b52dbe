# SPDX-License-Identifier: GPL-3.0-or-later
"""The location service: which contacts an address-of-record is bound to (RFC 3261 §10.3)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from sipmessage import URI

from .headers import Contact, aor_key, parse_uri, same_uri, whole_number

_Q = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True)
class Binding:
    """A contact bound to an address-of-record.

    ``expires`` is the number of seconds left when the binding was looked up, rounded up.
    ``params`` are the Contact's parameters without ``expires``; ``path`` the Path header values
    it was registered through (RFC 3327).
    """

    uri: str
    expires: int
    q: float | None = None
    params: Mapping[str, str | None] = field(default_factory=dict)
    display_name: str = ""
    call_id: str = ""
    cseq: int = 0
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stored:
    contact: Contact  # without its expires parameter
    uri: URI | None
    expires_at: float
    call_id: str
    cseq: int
    path: tuple[str, ...]

    def left(self, now: float) -> int:
        """Whole seconds until it expires, rounded up; a millionth is but the arithmetic's."""
        return math.ceil(round(self.expires_at - now, 6))

    def matches(self, contact: Contact, uri: URI | None, *, outbound: bool) -> bool:
        if outbound and contact.flow is not None:  # RFC 5626 §6: the flow is what counts
            return self.contact.flow == contact.flow
        if self.contact.uri == contact.uri:
            return True
        return uri is not None and self.uri is not None and same_uri(self.uri, uri)


class UpdateRefused(Exception):
    """A REGISTER whose changes were not made; nothing was changed by it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class LocationService:
    """The bindings of all addresses-of-record. Not thread-safe: the registrar locks."""

    def __init__(
        self,
        *,
        default_expires: int,
        min_expires: int | None,
        max_expires: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._default = default_expires
        self.min_expires = min_expires
        self._max = max_expires
        self._clock = clock
        self._bound: dict[str, list[_Stored]] = {}

    def clear(self) -> None:
        """Forget every binding."""
        self._bound.clear()

    def aors(self) -> list[str]:
        """The keys of the addresses that have a binding now."""
        return [key for key in list(self._bound) if self._live(key)]

    def bindings(self, aor: URI) -> list[Binding]:
        """The bindings of `aor` that have not expired, oldest first."""
        now = self._clock()
        return [
            Binding(
                uri=stored.contact.uri,
                expires=stored.left(now),
                q=None if (q := stored.contact.params.get("q")) is None else float(q),
                params=stored.contact.params,
                display_name=stored.contact.display_name,
                call_id=stored.call_id,
                cseq=stored.cseq,
                path=stored.path,
            )
            for stored in self._live(aor_key(aor))
        ]

    def contact_headers(self, aor: URI, *, gruu: bool = False) -> list[str]:
        """The Contact values of a 200: each binding with its parameters and what is left; with
        `gruu` the GRUUs of those that have an instance (RFC 5627 §5)."""
        now = self._clock()
        key = aor_key(aor)
        return [
            f"{stored.contact}{_gruus(key, stored) if gruu else ''};expires={stored.left(now)}"
            for stored in self._live(key)
        ]

    def _live(self, key: str) -> list[_Stored]:
        stored = self._bound.get(key)
        if not stored:
            return []
        now = self._clock()
        live = [one for one in stored if one.expires_at > now]
        if len(live) != len(stored):
            self._store(key, live)
        return live

    def _store(self, key: str, stored: list[_Stored]) -> None:
        if stored:
            self._bound[key] = stored
        else:
            self._bound.pop(key, None)

    def update(
        self,
        aor: URI,
        contacts: list[str],
        *,
        expires: str | None,
        call_id: str,
        cseq: int,
        path: tuple[str, ...] = (),
        outbound: bool = False,
    ) -> None:
        """Carry out steps 6 and 7 of RFC 3261 §10.3: all of the request's changes or none.

        `contacts` are the Contact header values, `expires` the Expires header; with `outbound` a
        contact replaces the one of the same instance and reg-id, whatever its URI. Raises
        :class:`UpdateRefused` with 400, 423 or, for a CSeq that is not higher, 500.
        """
        key = aor_key(aor)
        before = self._live(key)
        if "*" in contacts:
            if len(contacts) > 1:
                raise UpdateRefused(400, "Contact: * must stand alone")
            if expires is None or whole_number(expires) != 0:
                raise UpdateRefused(400, "Contact: * needs Expires: 0")
            for stored in before:
                _check_order(stored, call_id, cseq)
            self._store(key, [])
            return
        after = list(before)
        now = self._clock()
        parsed = [_parse(text) for text in contacts]
        granted = [self._granted(c.params.get("expires", expires)) for c, _ in parsed]
        several = len(parsed) - granted.count(0) > 1
        if outbound and several and any(contact.flow is not None for contact, _ in parsed):
            raise UpdateRefused(400, "a flow is registered with one contact (RFC 5626 §6)")
        for (contact, uri), seconds in zip(parsed, granted, strict=True):
            for stored in before:
                if stored.matches(contact, uri, outbound=outbound):
                    _check_order(stored, call_id, cseq)
            same = (i for i, s in enumerate(after) if s.matches(contact, uri, outbound=outbound))
            place = next(same, None)
            if seconds == 0:
                if place is not None:
                    del after[place]
                continue
            params = {k: v for k, v in contact.params.items() if k != "expires"}
            kept = Contact(contact.uri, contact.display_name, params)
            stored = _Stored(kept, uri, now + seconds, call_id, cseq, path)
            if place is None:
                after.append(stored)
            else:
                after[place] = stored
        self._store(key, after)

    def _granted(self, text: str | None) -> int:
        if text is None:
            seconds = max(self._default, self.min_expires or 0)
        else:
            number = whole_number(text)
            seconds = 3600 if number is None else number  # RFC 3261 §20.10 says an hour
        if self.min_expires is not None and 0 < seconds < self.min_expires:
            raise UpdateRefused(423, f"the shortest expiry is {self.min_expires} s")
        return seconds if self._max is None else min(seconds, self._max)


def _gruus(key: str, stored: _Stored) -> str:
    instance = (stored.contact.params.get("+sip.instance") or "").strip('"<>')
    if not instance:
        return ""
    domain = key.rpartition("@")[2]
    source = f"{stored.call_id} {stored.cseq}".encode()
    temporary = f"tgruu.{hashlib.sha256(source).hexdigest()[:16]}"  # another each time
    return (
        f';pub-gruu="sip:{key};gr={quote(instance, safe=":-")}"'
        f';temp-gruu="sip:{temporary}@{domain};gr"'
    )


def _parse(text: str) -> tuple[Contact, URI | None]:
    try:
        contact = Contact.parse(text)
        uri = contact.sip_uri
    except ValueError as error:
        raise UpdateRefused(400, str(error)) from error
    q = contact.params.get("q", "1")
    if q is None or not _Q.fullmatch(q):
        raise UpdateRefused(400, f"the q value {q!r} is not between 0 and 1")
    return contact, uri


def _check_order(stored: _Stored, call_id: str, cseq: int) -> None:
    if stored.call_id == call_id and cseq <= stored.cseq:
        raise UpdateRefused(500, f"CSeq {cseq} is not above {stored.cseq} of the same Call-ID")


def parse_aor(aor: str) -> URI:
    """An address-of-record given by a program: ``sip:alice@example.com``, or without scheme."""
    return parse_uri(aor if aor.lower().startswith(("sip:", "sips:")) else f"sip:{aor}")
