# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test tells the registrar to do in place of what it would do by itself."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .answer import Answer
from .errors import UnreachableRule
from .rules import (
    Connection,
    ConnectionRule,
    Criterion,
    Per,
    Predicate,
    Rule,
    Source,
    aor_is,
    method_is,
    predicate_is,
    protocol_is,
    require_attempts,
    require_protocols,
    source_is,
)

if TYPE_CHECKING:
    from .faults import Fault
    from .request import ReceivedRequest

_RULES_KEPT = 1000  # for the report: one registrar may serve a whole test run
_STREAMS = frozenset({"tcp", "tls"})

AnyRule = Rule | ConnectionRule
R = TypeVar("R", Rule, ConnectionRule)


class Script:
    """The rules in the order they were given; the first that matches has its way."""

    def __init__(self) -> None:
        self._live: list[AnyRule] = []
        self._all: deque[AnyRule] = deque(maxlen=_RULES_KEPT)
        self._lock = threading.Lock()
        self._made = 0

    def add(self, rule: R) -> R:
        """Raises :class:`UnreachableRule` when it could never match."""
        with self._lock:
            for earlier in self._live:
                if earlier.covers(rule):
                    raise UnreachableRule(
                        f"the rule at {rule.where} can never match: rule {earlier.number} at "
                        f"{earlier.where} ({earlier}) stands before it and has no end. "
                        "Add it first, or give the other one times= or remove() it"
                    )
            self._made += 1
            rule.added(self._made, lambda: self.remove(rule))
            self._live.append(rule)
            self._all.append(rule)
            return rule

    def remove(self, rule: AnyRule) -> None:
        with self._lock:
            if rule in self._live:
                self._live.remove(rule)

    def clear(self) -> None:
        with self._lock:
            self._live.clear()
            self._all.clear()

    def rules(self, *, live: bool) -> list[AnyRule]:
        with self._lock:
            return list(self._live if live else self._all)

    def take(self, request: ReceivedRequest) -> Answer | None:
        """The scripted answer to a request, or None for the registrar's own."""
        rule = self._first(request, Rule) if self._live else None
        if rule is None:
            return None
        request.rule = rule
        answer = rule.next()
        self._retire(rule)
        return answer

    def take_connection(self, connection: Connection) -> Fault | None:
        """What is to go wrong with a connection, if anything."""
        rule = self._first(connection, ConnectionRule) if self._live else None
        if rule is None:
            return None
        rule.taken += 1
        self._retire(rule)
        return rule.fault

    def _first(self, arrival: ReceivedRequest | Connection, kind: type[R]) -> R | None:
        """The first rule that matches; the later ones count their attempts, too."""
        with self._lock:
            rules = [rule for rule in self._live if isinstance(rule, kind)]
        first: R | None = None
        for rule in rules:
            if not rule.ready or (first is not None and not rule.watchful):
                continue
            if rule.matches(arrival):
                if first is None:
                    first = rule
                else:
                    rule.came_second(arrival, first)
        return first

    def _retire(self, rule: AnyRule) -> None:
        if rule.left == 0:
            self.remove(rule)


class Scripted:
    """The part of the registrar that is told what to do; every method from any thread."""

    def __init__(self, protocols: Sequence[str]) -> None:
        self._script = Script()
        self._protocols = tuple(protocols)

    def on(
        self,
        method: str | None = "REGISTER",
        *,
        aor: str | None = None,
        source: Source | None = None,
        protocol: str | Collection[str] | None = None,
        attempt: int | Collection[int] | None = None,
        per: Per = "aor",
        match: Predicate | None = None,
        times: int | None = None,
    ) -> Rule:
        """A rule for the requests that fit all that is given; say then what they get.

        ::

            registrar.on(aor="sip:bob@example.com", attempt=2).answer(503)

        ``method``
            None: any.
        ``aor``
            the address-of-record, in To.
        ``source``
            the address it came from, its port, or both as a tuple.
        ``protocol``
            ``"udp"``, ``"tcp"``, ``"tls"``, or several of them.
        ``attempt``, ``per``
            the how-manieth it is, from 1, or several such numbers (``range(2, 5)``), counted
            since the rule was made, among those that fit the rest of it: for each AOR, for each
            registration (its Call-ID, RFC 3261 §10.2.4) or over the whole run. The answer to a
            challenge is an attempt of its own; a retransmission is none.
        ``match``
            a function of the :class:`ReceivedRequest`. It runs on the registrar's thread; what it
            raises is raised again by :meth:`Registrar.check` and ``stop``, and the request gets a
            500.
        ``times``
            how many requests it takes; None: no end.

        Rules are asked in the order they were made. A request that none of them takes gets the
        registrar's own answer. Raises :class:`UnreachableRule` when an earlier rule without an
        end takes everything that this one is for, ``ValueError`` and ``TypeError`` for arguments
        that cannot be.
        """
        where = _caller()
        protocols = require_protocols(protocol, self._protocols)
        makers: tuple[tuple[str, Callable[[Any], Criterion], Any], ...] = (
            ("method", method_is, method),
            ("aor", aor_is, aor),
            ("source", source_is, source),
            ("protocol", protocol_is, None if protocol is None else protocols),
            ("match", predicate_is, match),
        )
        criteria = {name: make(value) for name, make, value in makers if value is not None}
        rule = Rule(criteria, protocols, times, require_attempts(attempt), per, where)
        rule.approve = self._approve
        return self._script.add(rule)

    def _approve(self, answer: Answer) -> None:
        """Raise ``ValueError`` for an answer that the registrar cannot give."""

    def on_connection(
        self,
        protocol: str | None = None,
        *,
        source: Source | None = None,
        attempt: int | Collection[int] | None = None,
        times: int | None = None,
    ) -> ConnectionRule:
        """A rule for TCP and TLS connections: ``registrar.on_connection().fail("expired")``.

        The arguments are those of :meth:`on`; attempts are counted over the whole run.
        """
        where = _caller()
        streams = [one for one in self._protocols if one in _STREAMS]
        protocols = require_protocols(protocol, streams)
        criteria = {} if protocol is None else {"protocol": protocol_is(protocols)}
        if source is not None:
            criteria["source"] = source_is(source)
        rule = ConnectionRule(criteria, protocols, times, require_attempts(attempt), "run", where)
        rule.prepare = self._prepare
        return self._script.add(rule)

    def _prepare(self, fault: Fault) -> Fault:
        """Add the certificate that a fault needs; ``ValueError`` when it cannot be made."""
        return fault

    def script(
        self,
        *answers: Answer,
        times: int | None = 1,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> Rule:
        """Give `answers`, one after the other, to the next requests that match.

        A rule as :meth:`on` makes it, which takes as many requests as there are answers; the
        sequence is given `times` over (None: for ever, the last answer).
        """
        if not answers:
            raise ValueError("a script needs at least one answer")
        if times is not None and times < 1:
            raise ValueError(f"times {times} is below 1")
        limit = None if times is None else times * len(answers)
        rule = self.on(method, aor=aor, match=match, times=limit)
        return rule.give(*answers * (times or 1))

    def answer_next(
        self,
        code: int,
        reason: str | None = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        delay: float = 0.0,
        times: int | None = 1,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> Rule:
        """Answer the next `times` matching requests with `code`."""
        answer = Answer(code, reason, headers, body, delay)
        return self.script(answer, times=times, method=method, aor=aor, match=match)

    def drop_next(
        self,
        times: int | None = 1,
        *,
        what: Literal["request", "response", "all"] = "request",
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> Rule:
        """Lose the next matching requests, or the answers to them; see :class:`Answer`."""
        return self.script(Answer(drop=what), times=times, method=method, aor=aor, match=match)

    def delay_next(
        self,
        delay: float,
        times: int | None = 1,
        *,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> Rule:
        """Answer the next matching requests as usual, but `delay` seconds later."""
        return self.script(Answer(delay=delay), times=times, method=method, aor=aor, match=match)

    def clear_script(self) -> None:
        """Forget all rules."""
        self._script.clear()

    @property
    def rules(self) -> list[AnyRule]:
        """All rules in their order, those that are used up, too: the newest thousand."""
        return self._script.rules(live=False)

    @property
    def unused_rules(self) -> list[AnyRule]:
        """The rules that have not matched anything yet; ``str(rule)`` and ``rule.outcome()`` tell
        what each is for and what came nearest."""
        return [rule for rule in self.rules if not rule.taken]

    @property
    def pending_script(self) -> list[AnyRule]:
        """The rules that can still match, for a test that wants all of them used."""
        return self._script.rules(live=True)


def _caller() -> str:
    """File and line of the test that makes a rule."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(__package__):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
