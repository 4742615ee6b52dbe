# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scripted answer consists of, and how it goes out."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .defects import DEFECTS, Defect, without_header
from .headers import quoted_string
from .message import header_items

if TYPE_CHECKING:
    from .request import ReceivedRequest

HeaderList = list[tuple[str, str]]
Protocols = frozenset[str]

_EXPIRES = re.compile(r";\s*expires\s*=[^;,]*", re.IGNORECASE)
_UDP: Protocols = frozenset({"udp"})
_STREAMS: Protocols = frozenset({"tcp", "tls"})


@dataclass(frozen=True)
class Challenge:
    """A Digest challenge for a scripted 401 or 407 (RFC 7616 §3.3).

    ``nonce``: None makes a random one, which the registrar does not know: it takes what is proven
    with it for stale. ``algorithm``, ``qop``, ``opaque``: None leaves it out. ``params``: more
    parameters, as they are to stand there.
    """

    realm: str = "example.com"
    algorithm: str | None = "SHA-256"
    nonce: str | None = None
    qop: str | None = "auth"
    opaque: str | None = None
    stale: bool = False
    proxy: bool = False
    params: Mapping[str, str] = field(default_factory=dict)

    def header(self, token: Callable[[], str]) -> tuple[str, str]:
        """Name and value of the header."""
        parts = [
            f"realm={quoted_string(self.realm)}",
            f"nonce={quoted_string(token() if self.nonce is None else self.nonce)}",
        ]
        parts += [] if self.opaque is None else [f"opaque={quoted_string(self.opaque)}"]
        parts += [] if self.algorithm is None else [f"algorithm={self.algorithm}"]
        parts += [] if self.qop is None else [f'qop="{self.qop}"']
        parts += ["stale=true"] * self.stale
        parts += [f"{name}={value}" for name, value in self.params.items()]
        name = "Proxy-Authenticate" if self.proxy else "WWW-Authenticate"
        return name, "Digest " + ", ".join(parts)


@dataclass(frozen=True)
class Answer:
    """One scripted answer. Nothing given, it is the registrar's own.

    *What it says*

    ``code``
        the status code; None lets the registrar decide as usual, and the rest is applied to what
        it decides. One below 200 is sent at once, and the registrar's own final answer follows.
    ``reason``, ``body``
        the reason phrase, None: the standard one; and the body. They need a code.
    ``headers``
        a mapping or pairs. Via, From, To, Call-ID, CSeq and Content-Length given here replace
        the right ones; all others are added.
    ``without``
        names of headers that are left out.
    ``contacts``
        Contact values in place of those of the answer; ``()`` for none.
    ``expires``
        seconds that it tells for every contact, in an Expires header when there is no contact.
        What the registrar has stored stays as it is.
    ``challenges``
        :class:`Challenge` objects, each one a header.
    ``stale``
        right credentials are taken for ones with a stale nonce: a new challenge, stale=true.
    ``wrong``
        names out of :data:`~pjsip_py.testing.DEFECTS`, or functions of the right bytes that give
        the wrong ones.
    ``raw``
        the bytes to send in place of a response, or a function of the request that makes them.

    *How it goes out*

    ``provisional``
        status codes below 200 that go out at once, before it.
    ``delay``
        seconds until it goes out. A retransmission that comes in the meantime is absorbed.
    ``copies``
        how many times it is sent.
    ``behind``
        how many later answers of the registrar go out before it: a changed order.
    ``joined``
        it waits for the next answer on its connection, and both go out in one segment.
    ``split``
        the number of segments it is cut into, or the places to cut at; ``pause`` seconds apart.
    ``sent_from``
        address and port to send it from over UDP, port 0: any.
    ``drop``
        ``"request"``: as if the request had been lost on its way here, so that a retransmission
        is a new request. ``"response"``: the request is carried out, the answer is lost, and a
        retransmission gets it. ``"all"``: nobody answers the request, however often it comes.
    ``close``
        ends the TCP or TLS connection: ``"before"`` the request is carried out, ``"instead"`` of
        the answer, in the ``"middle"`` of it, or ``"after"`` it.
    ``how``
        ``"close"``, ``"half-close"`` (a FIN, or TLS close_notify; it reads on) or ``"reset"``.

    Raises ``ValueError`` or ``TypeError`` for what is out of range or contradicts itself.
    """

    code: int | None = None
    reason: str | None = None
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    body: bytes = b""
    delay: float = 0.0
    drop: Literal["", "request", "response", "all"] = ""
    raw: bytes | Callable[[ReceivedRequest], bytes] | None = None
    without: str | Sequence[str] = ()
    contacts: str | Sequence[str] | None = None
    expires: int | None = None
    challenges: Challenge | Sequence[Challenge] = ()
    stale: bool = False
    wrong: str | Defect | Sequence[str | Defect] = ()
    provisional: int | Sequence[int] = ()
    copies: int = 1
    behind: int = 0
    joined: bool = False
    split: int | Sequence[int] = 1
    pause: float = 0.01
    sent_from: tuple[str, int] | None = None
    close: Literal["", "before", "instead", "middle", "after"] = ""
    how: Literal["close", "half-close", "reset"] = "close"

    def __post_init__(self) -> None:
        for name in ("headers", "without", "contacts", "challenges", "wrong", "provisional"):
            object.__setattr__(self, name, _LISTS[name](getattr(self, name)))
        if not isinstance(self.split, int):
            object.__setattr__(self, "split", tuple(self.split))
            for place in self.split:
                _whole("split", place, 1, 2**16)
        self._check_values()
        self._check_sense()

    def _check_values(self) -> None:
        _whole("code", self.code, 100, 699)
        _whole("copies", self.copies, 1, 100)
        _whole("behind", self.behind, 0, 1000)
        _whole("expires", self.expires, 0, 2**32 - 1)
        for code in self.all_provisional:
            _whole("provisional", code, 100, 199)
        for name in ("delay", "pause"):
            seconds = getattr(self, name)
            if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
                raise ValueError(f"{name} {seconds} is negative, or no number of seconds")
        if not isinstance(self.body, bytes):
            raise TypeError(f"body is {self.body!r}, not bytes")
        if self.raw is not None and not isinstance(self.raw, bytes) and not callable(self.raw):
            raise TypeError(f"raw is {self.raw!r}, not bytes or a function that makes them")
        if self.drop not in ("", "request", "response", "all"):
            raise ValueError(f"drop is {self.drop!r}, not 'request', 'response' or 'all'")
        if self.close not in ("", "before", "instead", "middle", "after"):
            raise ValueError(
                f"close is {self.close!r}, not 'before', 'instead', 'middle' or 'after'"
            )
        if self.how not in ("close", "half-close", "reset"):
            raise ValueError(f"how is {self.how!r}, not 'close', 'half-close' or 'reset'")
        if isinstance(self.split, int):
            _whole("split", self.split, 1, 10_000)
        elif not self.split or sorted({0, *self.split}) != [0, *self.split]:
            raise ValueError(f"split is {self.split!r}: places to cut at go up from 1")
        if self.sent_from is not None:
            if not isinstance(self.sent_from, tuple) or len(self.sent_from) != 2:
                raise TypeError(f"sent_from is {self.sent_from!r}, not an address and a port")
            host, port = self.sent_from
            ipaddress.ip_address(host)
            _whole("the port of sent_from", port, 0, 65535)

    def _check_sense(self) -> None:
        said = [name for name in _SAID if getattr(self, name) != _DEFAULTS[name]]
        if self.raw is not None:
            if self.code is not None:
                raise ValueError("an answer has either a code or raw bytes")
            if said:
                raise ValueError(f"raw bytes go out as they are: leave {said[0]} out")
        if self.code is None and (self.reason is not None or self.body):
            raise ValueError("reason and body need a code")
        if self.stale and self.code is not None:
            raise ValueError("stale is for the registrar's own answer: leave the code out")
        useless: tuple[str, ...] = ()
        if self.drop:
            useless = (*_SENT, "delay")  # a retransmission may still get what it says
        if self.drop in ("request", "all") or self.lost:
            useless += (*_SAID, *_SENT, "code", "raw")
        for name in useless:
            if getattr(self, name) != _DEFAULTS[name]:
                lost = f"drop={self.drop!r}" if self.drop else f"close={self.close!r}"
                raise ValueError(f"{lost} sends no answer: leave {name} out")
        if self.drop and self.close:
            raise ValueError("drop and close: an answer is lost in one way, not in two")
        if self.how != "close" and not self.close:
            raise ValueError(f"how={self.how!r} needs close")
        if self.behind and self.joined:
            raise ValueError("an answer waits behind others or joins one, not both")
        if self.sent_from is not None and self.protocols != _UDP:
            raise ValueError("sent_from is for UDP; joined, split and close for TCP and TLS")

    @property
    def lost(self) -> bool:
        """Whether closing the connection takes the place of the answer."""
        return self.close in ("before", "instead")

    @property
    def all_provisional(self) -> tuple[int, ...]:
        return self.provisional  # type: ignore[return-value]  # a tuple since __post_init__

    @property
    def protocols(self) -> Protocols | None:
        """Over which it can go out; None: any."""
        if self.close or self.joined or self.split != 1:
            return _STREAMS
        return _UDP if self.sent_from is not None else None

    def dress(self, headers: HeaderList, token: Callable[[], str]) -> HeaderList:
        """The headers of the answer, made from those that it has without a script."""
        given: HeaderList = list(header_items(self.headers))
        if self.contacts is not None:
            headers = [(n, v) for n, v in headers if n.lower() not in ("contact", "m")]
            headers += [("Contact", value) for value in self.contacts]
        headers += [one.header(token) for one in self.challenges]  # type: ignore[union-attr]
        headers += given
        if self.expires is not None:
            headers = _tell_expires(headers, self.expires)
        return headers

    def spoil(self, message: bytes) -> bytes:
        """Make the finished bytes as wrong as they are wanted."""
        for name in self.without:
            message = without_header(message, name)
        for defect in self.wrong:  # type: ignore[union-attr]
            message = (DEFECTS[defect] if isinstance(defect, str) else defect)(message)
        return message

    def pieces(self, message: bytes) -> list[bytes]:
        """The segments of a message, by ``split`` and ``close="middle"``."""
        if self.close == "middle":
            return [message[: len(message) // 2]]
        if isinstance(self.split, int):
            size = max(1, math.ceil(len(message) / self.split))
            places = list(range(size, len(message), size))
        else:
            places = [place for place in self.split if place < len(message)]
        return [message[i:j] for i, j in zip([0, *places], [*places, len(message)], strict=True)]

    def __str__(self) -> str:
        """In few words, for a report."""
        if self.drop:
            return f"drop {self.drop}"
        what = "the usual answer" if self.code is None else str(self.code)
        what = "raw bytes" if self.raw is not None else what
        what = f"close {self.close}" if self.lost else what
        more = []
        for name in (*_SAID, *_SENT, "delay", "close", "how"):
            value = getattr(self, name)
            if value == _DEFAULTS[name] or (name == "close" and self.lost):
                continue
            if name == "headers":  # they may hold anything, a nextnonce too
                value = [header for header, _ in value]
            elif name == "challenges":
                value = len(value)
            more.append(name if value is True else f"{name}={_short(value)}")
        return ", ".join([what, *more])


_DEFAULTS = {name: one.default for name, one in Answer.__dataclass_fields__.items()}
_SAID = (
    "reason",
    "headers",
    "body",
    "without",
    "contacts",
    "expires",
    "challenges",
    "stale",
    "wrong",
)
_SENT = ("provisional", "copies", "behind", "joined", "split", "sent_from")


def _short(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if callable(value):
        return getattr(value, "__name__", "a function")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _whole(name: str, value: object, low: int, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not between {low} and {high}")


def _texts(name: str) -> Callable[[object], tuple[str, ...] | None]:
    def check(value: object) -> tuple[str, ...] | None:
        if value is None:
            return None
        values = (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        for one in values:
            if not isinstance(one, str):
                raise TypeError(f"{name} holds {one!r}, not a text")
        return values

    return check


def _headers(value: Mapping[str, str] | Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    items = header_items(value)
    for item in items:
        if not isinstance(item, tuple) or len(item) != 2:
            raise TypeError(f"headers holds {item!r}, not a pair of name and value")
        if not all(isinstance(text, str) for text in item):
            raise TypeError(f"the header {item!r} is not a pair of texts")
    return items


def _challenges(value: Challenge | Sequence[Challenge]) -> tuple[Challenge, ...]:
    values = (value,) if isinstance(value, Challenge) else tuple(value)
    for one in values:
        if not isinstance(one, Challenge):
            raise TypeError(f"challenges holds {one!r}, not a Challenge")
    return values


def _defects(value: str | Defect | Sequence[str | Defect]) -> tuple[str | Defect, ...]:
    values = (value,) if isinstance(value, str) or callable(value) else tuple(value)
    for one in values:
        if not callable(one) and one not in DEFECTS:
            raise ValueError(f"unknown defect {one!r}: one of {', '.join(DEFECTS)}")
    return values


def _codes(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


_LISTS: Mapping[str, Callable[..., object]] = {
    "headers": _headers,
    "without": _texts("without"),
    "contacts": _texts("contacts"),
    "challenges": _challenges,
    "wrong": _defects,
    "provisional": _codes,
}


def _tell_expires(headers: HeaderList, seconds: int) -> HeaderList:
    told = [(name, value) for name, value in headers if name.lower() not in ("contact", "m")]
    contacts = [value for name, value in headers if name.lower() in ("contact", "m")]
    if not contacts:
        return [*(h for h in told if h[0].lower() != "expires"), ("Expires", str(seconds))]
    for value in contacts:
        address, bracket, params = value.rpartition(">")  # a URI may have an expires, too
        told.append(("Contact", f"{address}{bracket}{_EXPIRES.sub('', params)};expires={seconds}"))
    return told
