# SPDX-License-Identifier: GPL-3.0-or-later
"""A load from the first socket to the exit code, and what is shown of it."""

from __future__ import annotations

import gc
import json
import math
import time
from collections import Counter
from contextlib import ExitStack
from typing import TextIO

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

import pjsip_py as pjsip
from pjsip_py.uri import host_port, parse_uri

from .. import codes
from ..board import Board, duration
from ..inbox import Inbox, Interrupted, interruptible
from ..screen import BAD, NOTE, ReaderGone, printable
from .drive import Load
from .plan import Plan
from .tally import Second
from .thresholds import Threshold
from .verdict import Result, number
from .words import describe, milliseconds

LINES = 5.0  # s between two lines of progress where there is no table
COLUMN = 16


class Session:
    """One run of ``pjsip-py load``."""

    def __init__(
        self,
        plan: Plan,
        sources: list[tuple[str, int]],
        thresholds: list[Threshold],
        board: Board,
        leave: float | None,
    ) -> None:
        self.plan = plan
        self.sources = sources
        self.thresholds = thresholds
        self.board = board
        self.leave = leave  # s that unregistering may take; None: it is left out
        self.next_line = LINES
        self.load: Load

    def run(self, json_file: TextIO | None, report: TextIO | None) -> int:
        with Inbox() as inbox, ExitStack() as stack:
            endpoint = pjsip.Endpoint(dispatch="manual", strict=True, log_level=0)
            stack.callback(endpoint.close, network=False)
            stack.callback(gc.unfreeze)
            endpoint.open()
            load = self.load = Load(self.plan, endpoint, self.listen(endpoint), inbox, self.watch)
            try:
                self.note(NOTE, f"{self.plan.registrar}: {self.plan}")
                load.prepare()
                with self.board:
                    load.run()
                if load.ended == "interrupted":
                    self.board.end_line()
                result = Result(load, self.thresholds)
                self.show(result)
                self.write(result, json_file, report)
                self.say_goodbye()
            except Interrupted as impatience:
                return codes.INTERRUPTED + impatience.signum
            except ReaderGone:  # no reason to leave bindings behind
                if self.leave is not None:
                    load.leave(self.leave, lambda *_: None)
                raise
            return codes.INTERRUPTED + load.signum if result.interrupted else result.code

    def listen(self, endpoint: pjsip.Endpoint) -> list[pjsip.Transport]:
        route = self.plan.options["route"]
        hop = parse_uri("URI", route[0] if route else self.plan.registrar)
        tls = self.plan.options["tls"] if hop.transport == "tls" else None
        transports = []
        for host, port in self.sources:
            try:
                transports.append(endpoint.listen(hop.transport, host, port, tls=tls))
            except pjsip.PjsipError as error:
                at = host_port(host, port) if port else host
                raise click.UsageError(f"--source {at}: {error}") from None
        return transports

    def say_goodbye(self) -> None:
        """Unregister; what came of it in one line."""
        load = self.load
        if self.leave is None:
            return
        with self.board:
            done, asked = load.leave(self.leave, self.draw_goodbye)
        if not asked:
            return
        text = f"unregistered {done} of {asked}"
        self.note(NOTE, text if done == asked else f"{text}; the rest will expire")
        self.board.record("end", unregistered=done, asked=asked)

    def write(self, result: Result, json_file: TextIO | None, report: TextIO | None) -> None:
        if json_file is not None:
            json.dump(result.record(), json_file, indent=2)
            json_file.write("\n")
            json_file.flush()
        if report is not None:
            from .report import page

            with interruptible():  # it takes seconds
                report.write(page(result))
            report.flush()
            self.note(NOTE, f"report: {report.name}")

    def note(self, mark: str, text: str) -> None:
        self.board.note(time.time(), mark, text)

    # -- while it runs ----------------------------------------------------------------------------

    def watch(self, second: Second) -> None:
        if self.board.as_json:
            self.board.record("progress", **second.record())
        elif self.board.live:
            self.board.draw(self.table(second))
        elif second.at >= self.next_line:
            self.next_line += LINES * max(1, math.ceil((second.at - self.next_line) / LINES))
            self.note(BAD if second.failed else NOTE, self.line(second))

    def line(self, second: Second) -> str:
        """How it is now, where there is no table."""
        load = self.load
        failed = sum(second.failed.values())
        parts = [
            f"{second.at:.0f} s",
            f"{number(second.ok)} registered a second",
            f"{number(second.refreshed)} refreshed" if self.plan.keep else "",
            f"{number(failed)} failed" if failed else "",
            f"p50 {milliseconds(second.p50)}, p99 {milliseconds(second.p99)}",
            f"{second.in_flight} in flight",
            f"{load.registered} registered now",
        ]
        return ", ".join(filter(None, parts))

    def table(self, second: Second) -> Group:
        load, plan = self.load, self.plan
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=COLUMN - 4)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        rate = f"{number(second.ok)} registered a second"
        if second.offered is not None:
            rate += f", {number(second.started)} begun, {number(second.offered)} offered"
        if second.refreshed:
            rate += f", {number(second.refreshed)} refreshed"
        wanted = "" if plan.wanted is None else f" of {plan.wanted}"
        failed = load.registers.failed + load.refreshes.failed + load.unregisters.failed
        latency = (
            f"p50 {milliseconds(second.p50)}, p95 {milliseconds(second.p95)}, "
            f"p99 {milliseconds(second.p99)}, max {milliseconds(second.longest)}"
        )
        rows = [
            ("time", duration(second.at) + self.until()),
            ("begun", f"{load.started}{wanted}"),
            ("registered", f"{load.registers.ok} times, {load.registered} now"),
            ("failed", f"{failed}", "red" if failed else ""),
            ("in flight", f"{second.in_flight} of {plan.window}"),
            ("rate", rate),
            ("latency", latency),
            ("this program", f"{second.cpu:.0%} of a processor, {second.rss / 1e6:.0f} MB"),
        ]
        for title, text, *style in rows:
            grid.add_row(Text(title, style="dim"), Text(text, style=style[0] if style else ""))
        failures: Counter[str] = Counter()
        for tally in (load.registers, load.refreshes, load.unregisters):
            for failure, count in tally.failures.items():
                failures[f"{failure.code} {printable(failure.reason)}"] += count
        for text, count in failures.most_common(max(1, self.board.size[1] - len(rows) - 6)):
            grid.add_row(Text(""), Text(f"{count} x {text}", style="red"))
        return Group(Text(""), grid)

    def until(self) -> str:
        plan = self.plan
        if plan.duration is not None:
            return f" of {duration(plan.duration)}" if plan.again else ""
        return (
            ""
            if plan.endless or plan.wanted is None
            else (f" of {duration(plan.pace.time_of(plan.wanted))}")
        )

    def draw_goodbye(self, done: int, asked: int) -> None:
        if self.board.live:
            self.board.draw(Text(f"unregistered {done} of {asked}"))

    # -- afterwards -------------------------------------------------------------------------------

    def show(self, result: Result) -> None:
        if self.board.as_json:
            self.board.json(result.record())
        else:
            for title, text in describe(result):
                self.board.print(f"{title:<{COLUMN}}{printable(text)}".rstrip())
            self.board.print()
            for each in result.judgements:
                mark = Text("✓ ", "green") if each.passed else Text("✗ ", "bold red")
                self.board.print(Text.assemble(mark, str(each)))
        for remark in result.remarks():
            self.board.error(remark)
