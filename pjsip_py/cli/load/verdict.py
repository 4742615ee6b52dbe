# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a load: figures, thresholds, the exit code."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pjsip_py as pjsip

from .. import codes
from .drive import Load
from .plan import Pace
from .tally import PERCENTILES, Failure, Tally, peak_resident
from .thresholds import DEFAULTS, TIMES, Threshold

BUSY = 0.9  # of a processor: PJSIP and Python together can use hardly more than one

_MISSING = {
    "window": "the window was full, waiting for answers (--window)",
    "users": "no user was free; it takes more of them",
}


class Judgement(NamedTuple):
    threshold: Threshold
    value: float | None  #: in the threshold's unit; None: there was nothing to judge
    passed: bool

    def __str__(self) -> str:
        unit = self.threshold.unit or ("/s" if self.threshold.metric in ("rate", "started") else "")
        if self.value is None:
            return f"{self.threshold.text}: there was nothing to judge"
        space = "" if unit in ("/s", "") else " "
        return f"{self.threshold.text}: {number(self.value)}{space}{unit}"


def number(value: float) -> str:
    """Three digits at least, and no exponent."""
    if value == int(value):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Result:
    """The figures of a load that has ended."""

    def __init__(self, load: Load, thresholds: list[Threshold]) -> None:
        plan = load.plan
        self.load = load
        self.plan = plan
        self.tallies = {t.kind: t for t in (load.registers, load.refreshes, load.unregisters)}
        self.ok = load.registers.ok
        self.outcomes = sum(t.total for t in self.tallies.values())
        self.errors = sum(t.failed for t in self.tallies.values())
        self.timeouts = sum(t.timeouts for t in self.tallies.values())
        self.failures: Counter[Failure] = Counter()
        for tally in self.tallies.values():
            self.failures.update(tally.failures)
        #: Seconds over which rates are: until the last has begun, or was to begin.
        self.span = max(load.sending, 1e-3)
        self.offered: float | None = None
        if isinstance(plan.pace, Pace):
            if load.ended == "completed":
                whole = plan.duration if plan.again else plan.pace.time_of(len(plan.users))
                self.span = max(self.span, whole or 0.0)
                offered = plan.wanted or load.started
                self.offered = offered / (whole or self.span)
            else:
                self.offered = (plan.pace.due(self.span) + 1) / self.span
        else:
            self.span = max(self.span, load.last_ok)
        self.started_rate = load.started / self.span
        self.rate = self.ok / self.span
        self.judgements = [self._judge(each) for each in self._with_defaults(thresholds)]

    def _with_defaults(self, thresholds: list[Threshold]) -> list[Threshold]:
        named = {each.metric for each in thresholds}
        defaults = [Threshold.parse(text) for text in DEFAULTS]
        return thresholds + [
            each
            for each in defaults
            if each.metric not in named and (each.metric != "started" or self.offered)
        ]

    def _judge(self, threshold: Threshold) -> Judgement:
        value = self._value(threshold)
        if value is None:
            return Judgement(threshold, None, False)
        return Judgement(threshold, value, not threshold.holds(value))

    def _value(self, threshold: Threshold) -> float | None:
        metric, unit = threshold.metric, threshold.unit
        if unit in TIMES:
            tally = self.tallies[threshold.kind]
            seconds = (
                tally.mean
                if metric == "mean"
                else tally.percentile(100.0 if metric == "max" else threshold.percent)
            )
            return None if seconds is None else seconds / TIMES[unit]
        count, whole = {
            "rate": (self.rate, None),
            "errors": (self.errors, self.outcomes),
            "timeouts": (self.timeouts, self.outcomes),
            "started": (self.started_rate, self.offered),
            "registered": (self.load.registered_at_end, len(self.plan.users)),
        }[metric]
        if unit != "%":
            return float(count)
        return 100 * count / whole if whole else None

    # -- the end ----------------------------------------------------------------------------------

    @property
    def passed(self) -> bool:
        return all(each.passed for each in self.judgements)

    @property
    def interrupted(self) -> bool:
        """Ended by a signal though it would have ended by itself."""
        return self.load.ended == "interrupted" and not self.plan.endless

    @property
    def code(self) -> int:
        """Exit code, but for a signal."""
        if self.passed:
            return codes.OK
        if self.ok or not self.load.registers.failures:
            return codes.REFUSED
        # Nobody could register: the reason that most had.
        worst = self.load.registers.failures.most_common(1)[0][0]
        if worst.authentication:
            return codes.AUTHENTICATION
        return codes.NO_ANSWER if worst.local else codes.REFUSED

    @property
    def held_back(self) -> dict[str, float]:
        """Share of the time in which what was due could not begin, by what was missing."""
        if self.offered is None:  # all was due at once
            return {}
        return {
            what: min(1.0, seconds / self.span) for what, seconds in self.load.held_back.items()
        }

    def remarks(self) -> list[str]:
        """What a reader of the figures has to know."""
        found = []
        if self.load.ended == "nobody answers":
            found.append(f"{self.plan.registrar}: nobody answers; given up")
        elif self.offered is not None and self.started_rate < 0.95 * self.offered:
            began, offered = number(self.started_rate), number(self.offered)
            text = f"the offered rate was not reached: {began} of {offered} a second were begun"
            what = max(self.held_back.items(), key=lambda item: item[1], default=("", 0.0))[0]
            found.append(f"{text}; {_MISSING.get(what, 'this program was too slow')}")
        cpu = self.load.cpu / self.load.ran
        if cpu > BUSY and self.load.ran > 1:
            found.append(
                f"this program used {cpu:.0%} of a processor: a part of the times is its own"
            )
        return found

    # -- as JSON ----------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All of it as one JSON object; times in seconds."""
        load, plan = self.load, self.plan
        return {
            "event": "summary",
            "time": round(load.began_wall, 6),
            "pjsip_py_version": pjsip.__version__,
            "registrar": plan.registrar,
            "sources": [t.address for t in load.transports],
            "plan": str(plan),
            "users": len(plan.users),
            "window": plan.window,
            "ended": load.ended,
            "ran": round(load.ran, 3),
            "offered_rate": _rounded(self.offered),
            "started": load.started,
            "started_rate": _rounded(self.started_rate),
            "rate": _rounded(self.rate),
            **{kind: _tally_record(tally) for kind, tally in self.tallies.items()},
            "outcomes": self.outcomes,
            "errors": self.errors,
            "timeouts": self.timeouts,
            "unfinished": load.unfinished,
            "requests": sum(t.requests for t in self.tallies.values()),
            "retransmissions": load.retransmissions,
            "failures": [
                failure._asdict() | {"count": count}
                for failure, count in self.failures.most_common()
            ],
            "registered": load.registered_at_end,
            "most_in_flight": load.most_in_flight,
            "held_back": {what: round(share, 4) for what, share in self.held_back.items()},
            "cpu_seconds": round(load.cpu, 3),
            "cpu": _rounded(load.cpu / load.ran),
            "rss": load.seconds[-1].rss,
            "peak_rss": peak_resident(),
            "thresholds": [
                {
                    "threshold": each.threshold.text,
                    "value": each.value,
                    "unit": each.threshold.unit,
                    "passed": each.passed,
                }
                for each in self.judgements
            ],
            "passed": self.passed,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _tally_record(tally: Tally) -> dict[str, Any]:
    record: dict[str, Any] = {"ok": tally.ok, "failed": tally.failed, "timeouts": tally.timeouts}
    times = {f"p{percent:g}": tally.percentile(percent) for percent in PERCENTILES}
    times |= {"mean": tally.mean, "max": tally.percentile(100.0)}
    return record | {"latency": {k: v and round(v, 6) for k, v in times.items()}}
