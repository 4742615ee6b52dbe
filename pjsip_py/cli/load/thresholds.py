# SPDX-License-Identifier: GPL-3.0-or-later
"""``--fail-if``: what must not hold for a load to pass."""

from __future__ import annotations

import operator
import re
from typing import NamedTuple

import click

GRAMMAR = """\
write it as METRIC OP VALUE; the load has failed if it holds.
  p50 … p99.999, mean, max  of registrations that succeeded; VALUE in us, ms or s
  refresh.p99 and so on     the same of refreshes; unregister.p99: of unregisters
  errors, timeouts          how many, or with % the share of all outcomes
  rate                      registrations that succeeded in a second
  started                   begun in a second, or with % the share of what was to be offered
  registered                users at the end, or with % the share of all
  OP is one of > >= < <=; as in p99>200ms, errors>0.1%, rate<500"""

# Each holds unless the user has a threshold of that metric.
DEFAULTS = ("errors>0", "started<95%")

_THRESHOLD = re.compile(
    r"\s*(?:(?P<kind>register|refresh|unregister)\.)?"
    r"(?:(?P<time>p(?P<percent>\d{1,2}(?:\.\d{1,3})?)|mean|max)"
    r"|(?P<share>errors|timeouts|started|registered)|(?P<rate>rate))"
    r"\s*(?P<op>>=|<=|>|<)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s|%)?\s*"
)
_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Threshold(NamedTuple):
    text: str
    kind: str
    metric: str
    percent: float
    op: str
    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """:raises click.BadParameter: it is none; the grammar is told."""
        found = _THRESHOLD.fullmatch(text)
        if found is None:
            raise click.BadParameter(f"{text!r}: {GRAMMAR}")
        unit = found["unit"] or ""
        units = TIMES if found["time"] else ("", "%") if found["share"] else ("",)
        if unit not in units or (found["kind"] and not found["time"]):
            raise click.BadParameter(f"{text!r}: {GRAMMAR}")
        return cls(
            text="".join(text.split()),
            kind=found["kind"] or "register",
            metric=found["time"] or found["share"] or found["rate"],
            percent=float(found["percent"] or 0),
            op=found["op"],
            value=float(found["value"]),
            unit=unit,
        )

    def holds(self, value: float) -> bool:
        return bool(_OPERATORS[self.op](value, self.value))
