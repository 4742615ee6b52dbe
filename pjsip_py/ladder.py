# SPDX-License-Identifier: GPL-3.0-or-later
"""Ladders: pictures of who sent what to whom, and when, as one SVG or HTML file.

::

    ladder = Ladder("alice registers")
    ep.on(pjsip.Event, ladder.add)  # with Endpoint(trace=True)
    ...
    ladder.write("alice.html")

Nothing in the file comes from the network, nothing from the wire is markup, and what proves a
password is blotted out.
"""

from __future__ import annotations

import time as _time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .events import (
    Event,
    EventsDropped,
    RegistrarChanged,
    RegState,
    SipMessage,
    TransportState,
)
from .message import Response, parse_contact, split_outside_quotes
from .pcap import CapturedMessage, captured

if TYPE_CHECKING:
    from .endpoint import Endpoint

LIMIT = 2000  # messages and notes of one picture
GAP = 1.0  # s without anything that are worth a mark
T1 = 0.5  # s after which an answer is missed; RFC 3261 §17.1.1.1

#: What a row looks like, and what that means; the legend, too.
STYLES = {
    "request": "request",
    "provisional": "1xx",
    "success": "2xx",
    "redirect": "3xx",
    "challenge": "challenge (401, 407)",
    "failure": "failure (4xx, 5xx, 6xx; no answer)",
}


class Lane(NamedTuple):
    """A lifeline: one end, with all the addresses it used."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of the picture: a message, a note, or a gap in time."""

    kind: str
    time: float
    style: str
    label: str
    #: Particulars, most important first.
    details: tuple[str, ...] = ()
    #: Lanes, by number.
    source: int = 0
    target: int = 0
    #: A message in full, and what it belongs to.
    text: str = ""
    path: str = ""
    call_id: str = ""
    aor: str = ""
    again: bool = False


@dataclass(frozen=True)
class Picture:
    """What the drawing of a ladder needs to know."""

    title: str
    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...]
    #: Messages and notes that the limit left out, and that are older.
    omitted: int

    @cached_property
    def messages(self) -> int:
        return sum(row.kind == "message" for row in self.rows)

    @cached_property
    def failures(self) -> int:
        return sum(row.kind == "message" and row.style == "failure" for row in self.rows)

    @cached_property
    def legend(self) -> list[tuple[str, str]]:
        """The styles that occur, and what they mean."""
        used = {row.style for row in self.rows}
        return [(style, meaning) for style, meaning in STYLES.items() if style in used]

    @cached_property
    def start(self) -> float:
        return self.rows[0].time if self.rows else 0.0


class _Note(NamedTuple):
    time: float
    text: str
    failure: bool


class _Seen(NamedTuple):
    """A message, and which of its ends is ours: "" where nobody knows."""

    message: CapturedMessage
    own: str


class Ladder:
    """Collects messages and draws them.

    :param title: heads the picture
    :param names: names for lifelines, by address (``127.0.0.1:5060``) or by host
    :param limit: how many messages and notes are kept; beyond, the oldest go

    May be filled from one thread and drawn from another.
    """

    def __init__(
        self, title: str = "", *, names: Mapping[str, str] | None = None, limit: int = LIMIT
    ) -> None:
        if limit < 1:
            raise ValueError("limit must be 1 or more")
        self.title = title
        self.names = dict(names or {})
        self._items: deque[_Seen | _Note] = deque(maxlen=limit)
        self._count = 0

    def __len__(self) -> int:
        """Messages and notes that are kept."""
        return len(self._items)

    def _keep(self, item: _Seen | _Note) -> None:
        self._items.append(item)
        self._count += 1

    def add(self, item: Event | CapturedMessage) -> None:
        """A message, or an event that explains one; events that explain nothing are ignored."""
        if isinstance(item, CapturedMessage):
            self._keep(_Seen(item, ""))
        elif isinstance(item, SipMessage):
            self._keep(_Seen(captured(item), item.local))
        else:
            found = _explain(item)
            if found:
                self.note(found[0], item.time.wall, failure=found[1])

    def note(self, text: str, time: float | None = None, *, failure: bool = False) -> None:
        """A remark of your own, at *time* in seconds since 1970; by default now."""
        self._keep(_Note(_time.time() if time is None else time, text, failure))

    def picture(self) -> Picture:
        """The rows and lifelines, for a drawing of your own."""
        items = sorted(self._items, key=_time_of)
        return _draw(self.title, items, self.names, self._count - len(items))

    def to_svg(self) -> str:
        """One ``<svg>`` element, which may also stand inside an HTML page."""
        from ._ladder_svg import svg

        return svg(self.picture())

    def to_html(self) -> str:
        """A page of its own."""
        from ._ladder_html import page, section

        return page(self.title or "SIP ladder", section(self.picture(), "h1"))

    def to_fragment(self) -> str:
        """A ``<section>`` for :func:`page`, which may have several."""
        from ._ladder_html import section

        return section(self.picture())

    def write(self, path: str | PathLike[str]) -> None:
        """Into a file, as its name says: ``.svg``, ``.html`` or ``.htm``.

        :raises ValueError: another name
        :raises OSError: the file cannot be written
        """
        text = self.to_svg() if kind_of(path) == "svg" else self.to_html()
        with open(fspath(path), "w", encoding="utf-8", newline="\n") as file:
            file.write(text)


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """An HTML page for several ladders.

    :param body: trusted HTML: headings, say, and :meth:`Ladder.to_fragment`
    :param style: CSS that comes after the ladders' own
    :param script: JavaScript of the page's own; the page's policy lets no other run
    """
    from ._ladder_html import page

    return page(title, body, style, script)


def kind_of(path: str | PathLike[str]) -> str:
    """``"svg"`` or ``"html"``, by the name of a file; :raises ValueError: neither."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".html", ".htm"):
        raise ValueError(f"a ladder is written as .html or .svg, not {suffix or 'without either'}")
    return "svg" if suffix == ".svg" else "html"


@contextmanager
def record(
    endpoint: Endpoint, path: str | PathLike[str], title: str = "", *, limit: int = LIMIT
) -> Iterator[Ladder]:
    """While ``with`` lasts, collect what *endpoint* sends and gets; then write it to *path*.

    Also when the block ends with an exception, which is when one wants it.
    """
    kind_of(path)
    ladder = Ladder(title, limit=limit)
    recording = True

    def add(event: Event) -> None:
        if recording:
            ladder.add(event)

    if not endpoint.config.trace:
        endpoint.trace()
    endpoint.on(Event, add)
    try:
        yield ladder
    finally:
        recording = False
        ladder.write(path)


# -- from messages to rows ------------------------------------------------------------------------


def _time_of(item: _Seen | _Note) -> float:
    return item.message.time if isinstance(item, _Seen) else item.time


def _explain(event: Event) -> tuple[str, bool] | None:
    """What an event says in a picture of messages, and whether that is bad."""
    if isinstance(event, RegState):
        if event.error is None:
            return None
        hint = f"; {event.error.hint}" if event.error.hint else ""
        return f"{type(event.error).__name__}: {event.error}{hint}", True
    if isinstance(event, TransportState):
        if event.state not in ("connected", "disconnected") or not event.remote:
            return None
        where = "to" if event.state == "connected" else "from"
        reason = f": {event.error or event.reason}" if event.error or event.reason else ""
        text = f"{event.protocol.upper()} {event.state} {where} {event.remote}{reason}"
        return text, event.error is not None
    if isinstance(event, RegistrarChanged):
        return f"{event.reason} to {event.registrar}", event.error is not None
    if isinstance(event, EventsDropped) and event.trace:
        return f"{event.trace} messages or more are missing here: nobody took them in time", True
    return None


class _Facts:
    """What the rows need to know of one message."""

    def __init__(self, message: CapturedMessage) -> None:
        self.parsed = parsed = Response(message.data, "")
        self.start = message.start_line
        self.headers = parsed.headers
        words = self.start.split(" ", 2)
        self.is_response = words[0].upper().startswith("SIP/")
        self.code = parsed.code if self.is_response else 0
        number, _, method = self.headers.get("CSeq", "").strip().partition(" ")
        self.number = number
        self.method = method.strip() if self.is_response else words[0]
        self.well_formed = (
            100 <= self.code <= 699
            if self.is_response
            else len(words) == 3 and words[2].startswith("SIP/")
        )
        self.call_id = self.headers.get("Call-ID", "")
        self.aor = parse_contact(self.headers.get("To", ""))[1]

    @cached_property
    def answered(self) -> set[tuple[bool, str]]:
        """For which challenges the request has an answer: whether a proxy's, realm."""
        found = set()
        for name, proxy in (("Authorization", False), ("Proxy-Authorization", True)):
            for value in self.headers.get_all(name):
                for part in split_outside_quotes(value.partition(" ")[2], ","):
                    key, _, realm = part.partition("=")
                    if key.strip().lower() == "realm":
                        found.add((proxy, realm.strip().strip('"')))
                if value.lower().startswith("bearer"):
                    found.add((proxy, ""))
        return found

    @property
    def unregisters(self) -> bool:
        if self.is_response or self.method != "REGISTER":
            return False
        contacts = self.headers.values_of("Contact")
        if contacts == ["*"]:
            return True
        general = self.headers.get("Expires", "")
        each = [parse_contact(text)[2].get("expires", general).strip() for text in contacts]
        return bool(each) and set(each) == {"0"}

    def refuses(self, request: _Facts | None) -> bool:
        """Whether a 401 or 407 says no to a proof, and not just asks for one."""
        if request is None or self.parsed.stale:
            return False
        asked = {
            (proxy, params.get("realm", "") if scheme.lower() != "bearer" else "")
            for proxy, scheme, params in self.parsed.challenges
        }
        return bool(asked & request.answered)


def _style(facts: _Facts, request: _Facts | None, missed: bool) -> str:
    if not facts.is_response:
        return "request" if facts.well_formed and not missed else "failure"
    if facts.code in (401, 407):
        return "failure" if facts.refuses(request) else "challenge"
    by_class = {1: "provisional", 2: "success", 3: "redirect"}
    return by_class.get(facts.code // 100, "failure")


def _lanes(seen: list[_Seen], names: Mapping[str, str]) -> tuple[list[Lane], dict[str, int]]:
    """The lifelines, and the number of the lifeline of each address.

    Ours are one, whatever ports we used.  A host is one unless it talks to itself, as on loopback;
    there each address is, but the connections of TCP clients to one server are taken together.
    """
    own = {item.own for item in seen} - {""}
    inside = {_host(address) for address in own}
    clients: dict[str, str] = {}
    servers = set()
    for item in seen:
        message = item.message
        if _host(message.source) == _host(message.destination):
            inside.add(_host(message.source))
        if message.source not in servers and message.protocol != "udp":
            clients.setdefault(message.source, message.destination)
            servers.add(message.destination)
    groups: dict[object, list[str]] = {}
    for item in seen:
        for address in (item.message.source, item.message.destination):
            key: object = address
            if address in own:
                key = None
            elif _host(address) not in inside:
                key = _host(address), "host"
            elif address in clients and address not in servers:
                key = _host(address), clients[address]
            group = groups.setdefault(key, [])
            if address not in group:
                group.append(address)
    lanes: list[Lane] = []
    where: dict[str, int] = {}
    asking: dict[str, bool] = {}
    for item in seen:
        is_request = not item.message.data.startswith(b"SIP/")
        asking.setdefault(item.message.source, is_request)
        asking.setdefault(item.message.destination, not is_request)
    # From left to right: us, those who ask, those who answer.
    ordered = sorted(groups.items(), key=lambda each: (each[0] is not None, not asking[each[1][0]]))
    for key, addresses in ordered:
        named = [names[each] for each in addresses if each in names]
        named += [names[_host(each)] for each in addresses if _host(each) in names]
        fallback = "this endpoint" if key is None else ""
        where.update(dict.fromkeys(addresses, len(lanes)))
        lanes.append(Lane(named[0] if named else fallback, tuple(addresses)))
    return lanes, where


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _draw(
    title: str, items: list[_Seen | _Note], names: Mapping[str, str], omitted: int
) -> Picture:
    seen = [item for item in items if isinstance(item, _Seen)]
    lanes, where = _lanes(seen, names)
    facts = {id(item): _Facts(item.message) for item in seen}
    call_ids = dict.fromkeys(each.call_id for each in facts.values() if each.call_id)
    calls = {call_id: number for number, call_id in enumerate(call_ids, 1)}
    several_aors = len({each.aor for each in facts.values() if each.aor}) > 1
    several_protocols = len({item.message.protocol for item in seen}) > 1

    def transaction(item: _Seen) -> object:
        """What a request and its responses have in common, on this hop."""
        fact, message = facts[id(item)], item.message
        hop = frozenset((where[message.source], where[message.destination]))
        return fact.call_id, fact.number, fact.method, hop

    requests: dict[object, tuple[_Facts, float]] = {}
    answered = {transaction(item) for item in seen if facts[id(item)].is_response}
    end = _time_of(items[-1]) if items else 0.0
    times_seen: Counter[object] = Counter()
    rows: list[Row] = []
    for item in items:
        now = _time_of(item)
        if rows and now - rows[-1].time >= GAP:
            rows.append(Row("gap", now, "gap", duration(now - rows[-1].time)))
        if isinstance(item, _Note):
            rows.append(Row("note", now, "failure" if item.failure else "note", item.text))
            continue
        message, fact = item.message, facts[id(item)]
        same = (message.source, message.destination, message.data)
        again = times_seen[same]
        times_seen[same] += 1
        key = transaction(item)
        request, asked_at = requests.get(key, (None, now))
        missed = not fact.is_response and key not in answered and fact.method != "ACK"
        details = [f"CSeq {fact.number}"] if fact.number else []
        if fact.is_response:
            label = f"{fact.code} {fact.parsed.reason}".strip() if fact.well_formed else fact.start
            if now > asked_at:  # on a clock of its own it may take no time
                details.append(f"after {duration(now - asked_at)}")
        else:
            label = fact.method if fact.well_formed else fact.start
            requests.setdefault(key, (fact, now))
            if fact.unregisters:
                details.append("unregister")
            if fact.answered:
                details.append("with credentials")
            if missed:
                details.insert(0, "no answer")
        if again:
            details.insert(0, f"sent again ({again})")
        if several_aors and fact.aor:
            details.append(fact.aor.partition(":")[2])
        if len(calls) > 1 and fact.call_id:
            details.append(f"call {calls[fact.call_id]}")
        if several_protocols:
            details.append(message.protocol.upper())
        rows.append(
            Row(
                "message",
                now,
                _style(fact, request, missed and end - asked_at >= T1),
                label,
                tuple(details),
                where[message.source],
                where[message.destination],
                message.text,
                f"{message.protocol.upper()} {message.source} \u2192 {message.destination}",
                fact.call_id,
                fact.aor,
                bool(again),
            )
        )
    return Picture(title, tuple(lanes), tuple(rows), omitted)


# -- in words -------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """``0.86 ms``, ``12.5 s``, ``3:20``, ``1:03:20``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else "1 s"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def clock(when: float) -> str:
    """Time of day in UTC, to the millisecond; the same on every machine."""
    try:
        whole = _time.strftime("%H:%M:%S", _time.gmtime(when // 1))
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{whole}.{int(when % 1 * 1000):03d}"


def date(when: float) -> str:
    try:
        return _time.strftime("%Y-%m-%d", _time.gmtime(when // 1))
    except (OverflowError, ValueError, OSError):
        return "?"


def since(seconds: float) -> str:
    """``+0.861``, ``+1:02.345``, ``+2:01:02.345``."""
    minutes, second = divmod(round(seconds, 3), 60)
    hours, minute = divmod(int(minutes), 60)
    if hours:
        return f"+{hours}:{minute:02}:{second:06.3f}"
    return f"+{minute}:{second:06.3f}" if minute else f"+{second:.3f}"


def printable(text: str) -> str:
    """*text* without what XML forbids and what turns the reading direction: spelled out."""
    return "".join(
        f"\\x{ord(c):02x}"
        if (c < " " and c not in "\t\n") or "\x7f" <= c <= "\x9f" or c in _UNFIT
        else f"\\u{ord(c):04x}"
        if "\ud800" <= c <= "\udfff"
        else c
        for c in text.replace("\r\n", "\n")
    )


_UNFIT = frozenset("\u2028\u2029\u200e\u200f\u061c\ufffe\uffff") | {
    chr(each) for each in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
