# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of a load in words."""

from __future__ import annotations

from .tally import PERCENTILES, Failure, Tally
from .verdict import Result, number

SHOWN = PERCENTILES[:-1]  # what fits into a line
FAILURES = 10  # ways to fail that are shown


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{number(seconds * 1000)} ms"


def share(count: float, whole: float) -> str:
    """``0.07 %``, and never 0 % of something."""
    return f"{number(100 * count / whole)} %" if whole else "-"


def describe(result: Result) -> list[tuple[str, str]]:
    """The figures of a result, in words: title and text."""
    load, plan = result.load, result.plan
    registers = load.registers
    begun = f"{load.started} begun, {registers.ok} succeeded, {registers.failed} failed"
    if load.unfinished:
        begun += f", {load.unfinished} without an outcome yet"
    rate = f"{number(result.rate)} succeeded a second over {number(result.span)} s"
    if result.offered is not None:
        rate += f"; {number(result.started_rate)} begun of {number(result.offered)} offered"
    rows = [("", ""), ("registrations", begun), ("rate", rate)]
    for title, tally in (
        ("latency", registers),
        ("refreshes", load.refreshes),
        ("unregisters", load.unregisters),
    ):
        if tally is not registers and tally.total:
            rows.append((title, f"{tally.ok} succeeded, {tally.failed} failed"))
            title = ""
        if tally.histogram.total_count:
            rows.append((title, latency(tally)))
    if plan.keep:
        rows.append(("registered", f"{load.registered_at_end} of {len(plan.users)} at the end"))
    rows += [
        ("time-outs", str(result.timeouts)),
        ("in flight", f"{load.most_in_flight} at most, of {plan.window}"),
    ]
    if load.retransmissions:
        rows.append(("sent again", f"{load.retransmissions} requests that UDP may have lost"))
    per = f", {load.cpu / result.outcomes * 1e6:.0f} µs an outcome" if result.outcomes else ""
    rows.append(
        (
            "this program",
            f"{load.cpu / load.ran:.0%} of a processor{per}, {load.seconds[-1].rss / 1e6:.0f} MB",
        )
    )
    title = "errors"
    failures = result.failures.most_common()
    for failure, count in failures[:FAILURES]:
        kind = "" if failure.kind == "register" else f" ({failure.kind})"
        text = f"{count}, {share(count, result.outcomes)}: {describe_failure(failure)}{kind}"
        rows.append((title, text))
        title = ""
    if len(failures) > FAILURES:
        rows.append(("", f"and {len(failures) - FAILURES} other ways to fail"))
    return rows


def describe_failure(failure: Failure) -> str:
    code = "" if failure.local else f"{failure.code} "
    return f"{code}{failure.reason} ({failure.error})"


def latency(tally: Tally) -> str:
    times = [f"p{percent:g} {milliseconds(tally.percentile(percent))}" for percent in SHOWN]
    return ", ".join([*times, f"max {milliseconds(tally.percentile(100.0))}"])
