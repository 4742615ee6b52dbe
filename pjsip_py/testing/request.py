# SPDX-License-Identifier: GPL-3.0-or-later
"""A request that the registrar received, for a test to look at."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sipmessage

from .digest import DigestCredentials
from .explain import differences, shown
from .guard import Proof
from .headers import Contact, aor_key, split_list, whole_number
from .message import ParsedRequest, parse_request
from .server import Flow

if TYPE_CHECKING:
    from .rules import Rule


class ReceivedRequest:
    """A request as it arrived, with what the tests ask of it most.

    ``message`` is the parsed :class:`sipmessage.Request` and ``data`` its bytes. ``time`` is
    :func:`time.time` at arrival, or the virtual clock's wall(), ``received_at`` the registrar's
    clock, both in seconds.
    ``answered`` is the status code of the answer, None while (or if) there is none; 0 stands for
    raw bytes. ``retransmissions`` counts the copies of it that came after it. ``proofs`` are the
    credentials that the registrar judged, in turn; empty when a script answered. ``rule`` is the
    :class:`Rule` that answered it, None when the registrar did so by itself.
    """

    __slots__ = (
        "_parsed",
        "answered",
        "data",
        "local",
        "proofs",
        "protocol",
        "received_at",
        "retransmissions",
        "rule",
        "source",
        "time",
    )

    def __init__(
        self,
        parsed: ParsedRequest,
        data: bytes,
        flow: Flow,
        clock: float,
        wall: float | None = None,
    ) -> None:
        self._parsed: ParsedRequest | None = parsed
        self.data = data
        self.protocol = flow.protocol
        self.source = flow.source
        self.local = flow.local
        self.time = time.time() if wall is None else wall
        self.received_at = clock
        self.answered: int | None = None
        self.retransmissions = 0
        self.proofs: tuple[Proof, ...] = ()
        self.rule: Rule | None = None

    @property
    def parsed(self) -> ParsedRequest:
        parsed = self._parsed
        if parsed is None:
            parsed = self._parsed = parse_request(self.data, self.source)
        return parsed

    def forget_parsed(self) -> None:
        """Keep the bytes alone, until somebody looks: thousands of these may be kept."""
        self._parsed = None

    @property
    def message(self) -> sipmessage.Request:
        return self.parsed.message

    @property
    def method(self) -> str:
        return self.message.method

    @property
    def uri(self) -> str:
        """The Request-URI, as sent."""
        return self.parsed.uri_text

    @property
    def aor(self) -> str:
        """The address-of-record, ``sip:user@host[:port]``, from the To header."""
        return f"{self.parsed.to_uri.scheme}:{self.aor_key}"

    @property
    def aor_key(self) -> str:
        """The address-of-record without its scheme."""
        return aor_key(self.parsed.to_uri)

    @property
    def call_id(self) -> str:
        return self.message.call_id

    @property
    def cseq(self) -> int:
        """The number in CSeq."""
        return self.parsed.cseq

    @property
    def headers(self) -> sipmessage.Headers:
        return self.message.headers

    @property
    def contacts(self) -> list[Contact]:
        """The Contact header values; ``Contact: *`` is one whose uri is ``*``."""
        return [
            Contact("*") if text == "*" else Contact.parse(text) for text in self.contact_values
        ]

    @property
    def contact_values(self) -> list[str]:
        """The Contact header values, as sent."""
        return [one for value in self.headers.getlist("Contact") for one in split_list(value)]

    @property
    def contact(self) -> Contact | None:
        """The first Contact, or None."""
        contacts = self.contacts
        return contacts[0] if contacts else None

    @property
    def expires(self) -> int | None:
        """The expiry asked for, seconds: of the first Contact, else of the Expires header."""
        contacts = self.contacts
        text = contacts[0].params.get("expires") if contacts else None
        text = text or self.headers.get("Expires")
        return None if text is None else whole_number(text)

    @property
    def authorization(self) -> DigestCredentials | None:
        """The Digest credentials in Authorization or Proxy-Authorization, or None."""
        for name in ("Authorization", "Proxy-Authorization"):
            for value in self.headers.getlist(name):
                credentials = DigestCredentials.parse(value)
                if credentials is not None:
                    return credentials
        return None

    def expect(self, *, headers: Mapping[str, Any] | None = None, **wanted: Any) -> None:
        """Assert what the request is like: ``request.expect(method="REGISTER", expires=300)``.

        Any of ``method``, ``uri``, ``aor``, ``contact``, ``contacts``, ``expires``, ``call_id``,
        ``cseq``, ``protocol``, ``source``, ``answered``, ``retransmissions``; ``headers`` by name.
        Wanted is a value, a compiled pattern that the whole text matches, a function that says
        whether it will do, ``...`` for anything at all, or None for nothing. A contact given as
        text is its URI.

        Raises ``AssertionError`` with what is different and the request itself, its secrets
        blotted out; ``TypeError`` for something that a request does not have.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        lines = differences(self, wanted, headers or {})
        if lines:
            different = "".join(f"\n  {line}" for line in lines)
            received = "".join(f"\n  {line}" for line in shown(self))
            raise AssertionError(f"{self!r} is not as expected{different}\nreceived:{received}")

    def __repr__(self) -> str:
        answer = "no answer" if self.answered is None else self.answered
        host, port = self.source
        return (
            f"<{self.method} {self.aor} CSeq {self.cseq} "
            f"from {self.protocol} {host} port {port}: {answer}>"
        )
