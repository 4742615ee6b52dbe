# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules: which requests and connections the registrar treats as a test wants."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Protocol

from .answer import Answer, Protocols
from .faults import Fault, FaultName, require_fault
from .headers import aor_key
from .location import parse_aor

if TYPE_CHECKING:
    from .request import ReceivedRequest

P = ParamSpec("P")
Predicate = Callable[["ReceivedRequest"], object]
Source = str | int | tuple[str, int]
Per = Literal["aor", "registration", "run"]

PROTOCOLS = ("udp", "tcp", "tls")


class Arrival(Protocol):
    """A request or a connection, as far as it came from somewhere."""

    @property
    def protocol(self) -> str: ...
    @property
    def source(self) -> tuple[str, int]: ...


@dataclass(frozen=True)
class Connection:
    """A TCP or TLS connection that a client has made."""

    protocol: str
    source: tuple[str, int]

    def __repr__(self) -> str:
        return f"<{self.protocol} connection from {self.source[0]} port {self.source[1]}>"


# -- what a rule asks for --------------------------------------------------------------------------


@dataclass(frozen=True)
class Criterion:
    """`ask` gives the reason why something does not meet it, None when it does."""

    wanted: object
    text: str
    ask: Callable[..., str | None]

    def covers(self, other: Criterion | None) -> bool:
        """True when whatever meets `other` meets this, too."""
        if other is None:
            return False
        if isinstance(self.wanted, frozenset) and isinstance(other.wanted, frozenset):
            return other.wanted <= self.wanted
        if isinstance(self.wanted, tuple) and isinstance(other.wanted, tuple):
            return all(m in (None, o) for m, o in zip(self.wanted, other.wanted, strict=True))
        return self.wanted == other.wanted


def method_is(method: str) -> Criterion:
    if not isinstance(method, str):
        raise TypeError(f"method is {method!r}, not a text or None")
    if method != method.upper():  # RFC 3261 §7.1: case counts, and nobody has a small one
        raise ValueError(f"method {method!r}: case counts, it is {method.upper()!r}")
    return Criterion(
        method, method, lambda r: None if r.method == method else f"{r.method} ≠ {method}"
    )


def aor_is(aor: str) -> Criterion:
    if not isinstance(aor, str):
        raise TypeError(f"aor is {aor!r}, not a text")
    if "@" not in aor and ":" not in aor:
        raise ValueError(f"aor {aor!r} has no host: 'sip:{aor}@example.com'")
    key = aor_key(parse_aor(aor))
    return Criterion(
        key, f"aor {key}", lambda r: None if r.aor_key == key else f"aor {r.aor_key} ≠ {key}"
    )


def source_is(source: Source) -> Criterion:
    if isinstance(source, bool) or not isinstance(source, (str, int, tuple)):
        raise TypeError(f"source is {source!r}, not an address, a port or both")
    if isinstance(source, tuple) and len(source) != 2:
        raise ValueError(f"source is {source!r}, not an address and a port")
    host, port = (
        source
        if isinstance(source, tuple)
        else (source, None)
        if isinstance(source, str)
        else (None, source)
    )
    if host is not None:
        host = str(ipaddress.ip_address(host))
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"source port {port} is not between 1 and 65535")
    text = "source " + " port ".join(str(part) for part in (host, port) if part is not None)

    def ask(arrival: Arrival) -> str | None:
        came = arrival.source
        if host in (None, came[0]) and port in (None, came[1]):
            return None
        return f"source {came[0]} port {came[1]} ≠ {text[7:]}"

    return Criterion((host, port), text, ask)


def protocol_is(protocols: Protocols) -> Criterion:
    text = either(protocols)
    return Criterion(
        protocols,
        f"over {text}",
        lambda a: None if a.protocol in protocols else f"over {a.protocol} ≠ {text}",
    )


def predicate_is(match: Predicate) -> Criterion:
    if not callable(match):
        raise TypeError(f"match is {match!r}, not a function of the request")
    code = getattr(match, "__code__", None)
    name = getattr(match, "__name__", type(match).__name__)
    text = f"match {name}"
    if code is not None:
        text += f" ({Path(code.co_filename).name}:{code.co_firstlineno})"
    return Criterion(match, text, lambda r: None if match(r) else f"{text} is false")


def require_protocols(wanted: str | Collection[str] | None, offered: Collection[str]) -> Protocols:
    """The protocols that a rule is for. Raises ``ValueError`` for one the registrar lacks."""
    chosen = [wanted] if isinstance(wanted, str) else offered if wanted is None else [*wanted]
    for protocol in chosen or [""]:
        if protocol not in offered:
            raise ValueError(f"protocol {protocol!r} is none of the registrar's: {either(offered)}")
    return frozenset(chosen)


def either(protocols: Collection[str]) -> str:
    return " or ".join(p for p in PROTOCOLS if p in protocols)


def require_attempts(attempt: int | Collection[int] | None) -> Collection[int] | None:
    numbers = (attempt,) if isinstance(attempt, int) else attempt
    if numbers is None:
        return None
    if not numbers:
        raise ValueError("attempt is empty: the first one is 1")
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"attempt is {number!r}, not a whole number")
        if number < 1:
            raise ValueError(f"attempt {number} is below 1, which is the first")
    return numbers


def often(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _numbers(numbers: Collection[int]) -> str:
    if isinstance(numbers, range) and numbers.step == 1 and len(numbers) > 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return " or ".join(map(str, sorted(numbers)))


# -- the rules -------------------------------------------------------------------------------------


class _Rule:
    """What rules for requests and for connections have in common."""

    noun = "request"

    def __init__(
        self,
        criteria: dict[str, Criterion],
        offered: Protocols,
        times: int | None,
        attempts: Collection[int] | None,
        per: Per,
        where: str,
    ) -> None:
        if times is not None and (isinstance(times, bool) or not isinstance(times, int)):
            raise TypeError(f"times is {times!r}, not a whole number or None")
        if times is not None and times < 1:
            raise ValueError(f"times {times} is below 1")
        if per not in ("aor", "registration", "run"):
            raise ValueError(f"per is {per!r}, not 'aor', 'registration' or 'run'")
        if per != "aor" and attempts is None and self.noun == "request":
            raise ValueError(f"per={per!r} says how attempts are counted: give attempt")
        self.criteria = criteria
        self.times = times
        #: How many requests or connections it has taken.
        self.taken = 0
        #: File and line of the call that made it.
        self.where = where
        #: Its place in the order of all rules, from 1.
        self.number = 0
        #: Why the last one that it was asked about was not for it.
        self.why = ""
        self._offered = offered
        self._attempts = attempts
        self._per = per
        self._seen: Counter[str] = Counter()
        self._nearest: tuple[int, Arrival, str] | None = None
        self._remove: Callable[[], None] = lambda: None

    def added(self, number: int, remove: Callable[[], None]) -> None:
        self.number, self._remove = number, remove

    def remove(self) -> None:
        """Take the rule out; what it was for goes to the later ones."""
        self._remove()

    @property
    def left(self) -> int | None:
        """How many it still takes; None: no end."""
        return None if self.times is None else self.times - self.taken

    @property
    def ready(self) -> bool:
        """Whether it says what to do."""
        raise NotImplementedError

    @property
    def watchful(self) -> bool:
        """Whether it looks at what another rule has taken, too: to count, or to tell why not."""
        return self._attempts is not None or (not self.taken and "match" not in self.criteria)

    def matches(self, arrival: Arrival) -> bool:
        """True when the rule is for this; counts it as an attempt."""
        cheap = [c.ask(arrival) for name, c in self.criteria.items() if name != "match"]
        reasons = [reason for reason in cheap if reason is not None]
        distance = len(reasons) + 1
        if not reasons:
            predicate = self.criteria.get("match")
            reason = None if predicate is None else predicate.ask(arrival)
            if reason is None and self._attempts is not None:
                reason = self._count(arrival, self._attempts)
            reasons += [] if reason is None else [reason]
        self.why = "; ".join(reasons)
        if reasons:
            self._miss(distance, arrival)
        return not reasons

    def _count(self, arrival: Arrival, wanted: Collection[int]) -> str | None:
        key = self._counted(arrival)
        self._seen[key] += 1
        if self._seen[key] in wanted:
            return None
        return f"attempt {self._seen[key]}{key and f' of {key}'} ≠ {_numbers(wanted)}"

    def _counted(self, arrival: Arrival) -> str:
        """What the attempts are counted for; empty: all."""
        return ""

    def came_second(self, arrival: Arrival, first: _Rule) -> None:
        """Note that this was for the rule, but that `first` stands before it."""
        self.why = f"rule {first.number} came first"
        self._miss(0, arrival)

    def _miss(self, distance: int, arrival: Arrival) -> None:
        if not self.taken and (self._nearest is None or distance < self._nearest[0]):
            self._nearest = distance, arrival, self.why

    def covers(self, other: _Rule) -> bool:
        """True when nothing that `other` is for gets past this rule, ever."""
        endless = self.ready and self.times is None and self._attempts is None
        if not endless or self.noun != other.noun:
            return False
        return all(c.covers(other.criteria.get(name)) for name, c in self.criteria.items())

    def narrow(self, what: str, needed: Protocols) -> None:
        """Leave to the others what comes over a protocol that cannot do what the rule wants."""
        before = self.criteria.get("protocol")
        allowed = self._offered if before is None else before.wanted
        assert isinstance(allowed, frozenset)
        if not allowed & needed:
            have = "the rule is for" if before is not None else "the registrar has"
            raise ValueError(f"{what}: that is for {either(needed)}, but {have} {either(allowed)}")
        if not allowed <= needed:
            self.criteria["protocol"] = protocol_is(allowed & needed)

    def _does(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        wanted = [criterion.text for criterion in self.criteria.values()]
        if self._attempts is not None:
            each = f" of each {self._per}" if self.noun == "request" and self._per != "run" else ""
            wanted.append(f"attempt {_numbers(self._attempts)}{each}")
        times = "" if self.times is None else f", {often(self.times)}"
        return f"{', '.join(wanted) or f'any {self.noun}'} → {self._does()}{times}"

    def __repr__(self) -> str:
        return f"<Rule {self.number} at {self.where}: {self}; {self.outcome()}>"

    def outcome(self) -> str:
        """How often it matched; if never, the nearest miss with the reason."""
        if not self.ready:
            return "DOES NOTHING: it has no answer"
        if self.taken:
            left = "" if self.left is None else f", {self.left} left" if self.left else ", used up"
            return f"matched {often(self.taken)}{left}"
        if self._nearest is None:
            return f"NEVER MATCHED: no {self.noun} came"
        _, arrival, why = self._nearest
        return f"NEVER MATCHED: nearest {arrival!r}: {why}"


def _adds(make: Callable[P, Answer]) -> Callable[Concatenate[Rule, P], Rule]:
    """A method that takes the arguments of :class:`Answer`, which are written down there only."""

    def answer(self: Rule, /, *args: P.args, **kwargs: P.kwargs) -> Rule:
        return self.give(make(*args, **kwargs))

    answer.__doc__ = "Add an answer; the arguments are those of :class:`Answer`."
    answer.__wrapped__ = make  # type: ignore[attr-defined]  # for help()
    return answer


class Rule(_Rule):
    """Answers for the requests that match, made by :meth:`Registrar.on`.

    They are given in turn, and the last one from then on, until the rule has taken as many
    requests as it was made for.
    """

    answers: tuple[Answer, ...] = ()
    #: Raises ``ValueError`` for an answer that the registrar cannot give.
    approve: Callable[[Answer], None] = staticmethod(lambda answer: None)
    answer = _adds(Answer)

    def give(self, *answers: Answer) -> Rule:
        """Add answers. Raises ``ValueError`` for one that the registrar cannot give, or the
        rule's protocol not carry."""
        for answer in answers:
            if not isinstance(answer, Answer):
                raise TypeError(f"{answer!r} is not an Answer")
            self.approve(answer)
            if answer.protocols is not None:
                self.narrow(str(answer), answer.protocols)
        self.answers += answers
        return self

    def drop(self, what: Literal["request", "response", "all"] = "request") -> Rule:
        """Lose the request, the response to it, or both for good; see :class:`Answer`."""
        return self.give(Answer(drop=what))

    @property
    def ready(self) -> bool:
        return bool(self.answers)

    def next(self) -> Answer:
        """Take the next answer."""
        answer = self.answers[min(self.taken, len(self.answers) - 1)]
        self.taken += 1
        return answer

    def _counted(self, arrival: Arrival) -> str:
        request: ReceivedRequest = arrival  # type: ignore[assignment]
        if self._per == "run":
            return ""
        return request.aor if self._per == "aor" else f"Call-ID {request.call_id}"

    def _does(self) -> str:
        told = [(text, len([*same])) for text, same in groupby(map(str, self.answers))]
        return ", then ".join(t if n == 1 else f"{often(n)} {t}" for t, n in told) or "nothing"


class ConnectionRule(_Rule):
    """A fault for the connections that match, made by :meth:`Registrar.on_connection`."""

    noun = "connection"
    fault: Fault | None = None
    #: Makes what the fault needs, when it is named.
    prepare: Callable[[Fault], Fault] = staticmethod(lambda fault: fault)

    def fail(self, fault: FaultName) -> ConnectionRule:
        """What goes wrong: a name out of :data:`~pjsip_py.testing.FAULTS`.

        Raises ``ValueError`` for another one, or one that the rule's protocol cannot have.
        """
        made = require_fault(fault)
        self.narrow(fault, made.protocols)
        self.fault = self.prepare(made)
        return self

    @property
    def ready(self) -> bool:
        return self.fault is not None

    def _does(self) -> str:
        return "nothing" if self.fault is None else self.fault.name
