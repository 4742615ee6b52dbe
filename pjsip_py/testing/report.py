# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registrar was told and what became of it, for a person to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .rules import often

if TYPE_CHECKING:
    from .request import ReceivedRequest
    from .script import AnyRule

_SHOWN = 50  # requests, the newest


def report(
    title: str,
    rules: Sequence[AnyRule],
    requests: Sequence[ReceivedRequest],
    received: int,
    held: Collection[ReceivedRequest],
    failures: Sequence[str],
) -> str:
    """The rules with how often each matched, then the requests with what each was given."""
    lines = [title]
    lines += ["rules:" if rules else "rules: none"]
    for rule in rules:
        lines.append(f"  {rule.number}. {rule}   [{rule.where}]")
        lines.append(f"     {rule.outcome()}")
    shown = requests[-_SHOWN:]
    more = f", the newest {len(shown)} of them" if received > len(shown) else ""
    lines.append(f"received: {received} requests{more}" if received else "received: nothing")
    for request in shown:
        by = "by itself" if request.rule is None else f"rule {request.rule.number}"
        again = f", again {often(request.retransmissions)}" if request.retransmissions else ""
        waits = ", STILL WAITS for another answer to go first" if request in held else ""
        lines.append(f"  {request} ({by}{again}{waits})")
    lines += [f"failed: {failure}" for failure in failures]
    return "\n".join(lines)


def unmatched(request: ReceivedRequest, rules: Sequence[AnyRule]) -> str:
    """Why no rule took a request."""
    lines = [f"no rule is for {request}"]
    for rule in rules:
        if rule.noun == "request":
            why = "it is used up" if rule.left == 0 else rule.why or "it has no answer"
            lines.append(f"  {rule.number}. {rule}   [{rule.where}]: {why}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "  there are no rules"])
