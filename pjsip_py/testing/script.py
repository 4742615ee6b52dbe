# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test asks the registrar to answer instead of its own answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .headers import aor_key
from .location import parse_aor
from .message import header_items

if TYPE_CHECKING:
    from .request import ReceivedRequest

Predicate = Callable[["ReceivedRequest"], bool]


@dataclass(frozen=True)
class Answer:
    """One scripted answer.

    ``code``: the status code; None lets the registrar decide as usual, and the rest of the
    answer (headers, delay, drop) is applied to what it decides. A code below 200 is sent at
    once, and the registrar's own final answer follows.

    ``reason``: the reason phrase; None means the standard one.

    ``headers``: a mapping or pairs. Via, From, To, Call-ID, CSeq and Content-Length given here
    replace the correct ones, which is how to make a wrong answer; all others are added.

    ``delay``: seconds to wait before the (final) answer goes out. A retransmission that comes
    in the meantime is absorbed.

    ``drop``: ``"request"`` behaves as if the request had been lost on its way here, so a
    retransmission counts as a new request; ``"response"`` carries the request out, loses the
    answer, and gives it to a retransmission.

    ``raw``: the bytes to send in place of a response, or a function of the received request
    that makes them.
    """

    code: int | None = None
    reason: str | None = None
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    body: bytes = b""
    delay: float = 0.0
    drop: Literal["", "request", "response"] = ""
    raw: bytes | Callable[[ReceivedRequest], bytes] | None = None

    def __post_init__(self) -> None:
        if self.code is not None and not 100 <= self.code <= 699:
            raise ValueError(f"code {self.code} is not between 100 and 699")
        if not self.delay >= 0:
            raise ValueError(f"delay {self.delay} is negative")
        if self.drop not in ("", "request", "response"):
            raise ValueError(f"drop is {self.drop!r}, not 'request' or 'response'")
        if self.raw is not None and self.code is not None:
            raise ValueError("an answer has either a code or raw bytes")
        if self.code is None and (self.reason is not None or self.body):
            raise ValueError("reason and body need a code")
        object.__setattr__(self, "headers", header_items(self.headers))


@dataclass(eq=False)
class Rule:
    """Answers for the requests that match, in turn, each sequence `times` over (None: for ever)."""

    answers: tuple[Answer, ...]
    times: int | None = 1
    method: str | None = "REGISTER"
    aor: str | None = None
    match: Predicate | None = None
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("a script needs at least one answer")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times {self.times} is below 1")
        self._aor_key = None if self.aor is None else aor_key(parse_aor(self.aor))

    @property
    def left(self) -> int | None:
        """How many answers are still to be given; None: no end."""
        return None if self.times is None else self.times * len(self.answers) - self.taken

    def matches(self, request: ReceivedRequest) -> bool:
        """True when the rule has an answer left for this request."""
        if self.left == 0 or self.method not in (None, request.method):
            return False
        if self._aor_key is not None and self._aor_key != request.aor_key:
            return False
        return self.match is None or self.match(request)

    def next(self) -> Answer:
        """Take the next answer."""
        answer = self.answers[self.taken % len(self.answers)]
        self.taken += 1
        return answer


class Script:
    """The rules in the order they were given; the first that matches a request answers it."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def pending(self) -> list[Rule]:
        """The rules with answers left."""
        with self._lock:
            return [rule for rule in self._rules if rule.left != 0]

    def take(self, request: ReceivedRequest) -> Answer | None:
        """The scripted answer to a request, or None for the registrar's own."""
        if not self._rules:
            return None
        with self._lock:
            rules = list(self._rules)
        for rule in rules:
            if rule.matches(request):
                answer = rule.next()
                if rule.left == 0:
                    with self._lock:
                        if rule in self._rules:
                            self._rules.remove(rule)
                return answer
        return None
