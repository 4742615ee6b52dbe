# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py conformance``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.table import Table
from rich.text import Text

import pjsip_py as pjsip

from . import codes
from .inbox import Interrupted, interruptible
from .options import PASSWORD_VARIABLE, password_option, read_password
from .screen import BAD, GOOD, NOTE, Screen, printable

if TYPE_CHECKING:
    from pjsip_py.testing.conformance import Check, Report, Result, Runner, Target

LEFT_SHOWN = 5

_MARKS = {
    "pass": (GOOD, "green"),
    "fail": (BAD, "bold red"),
    "not supported": ("-", "yellow"),
    "not applicable": (NOTE, "dim"),
}


@click.command(
    short_help="Check a registrar against the RFCs.",
    epilog="""\b
Exit codes:
  0  every check passed, or is of something that the registrar need not support
  1  a check failed, or not even a plain registration is served
  2  wrong usage
  3  no answer, at the start or later
  4  the registrar wants credentials that were not given or are wrong

\b
Examples:
  pjsip-py conformance sip:192.0.2.1 --user alice --password-file secret.txt
  pjsip-py conformance sip:192.0.2.1 --aor sip:alice@example.com --html report.html
  pjsip-py conformance sip:192.0.2.1 --user alice --only expiry --only 'auth.replay*'
  pjsip-py conformance --list
""",
)
@click.argument("registrar", required=False)
@click.option("--aor", default="", metavar="URI", help="Default: sip:USER@ the registrar's host.")
@click.option("--user", default="", metavar="NAME", help="Of the credentials. Default: the AOR's.")
@password_option
@click.option(
    "--transport",
    "transports",
    type=click.Choice(["udp", "tcp", "tls"]),
    multiple=True,
    help="May be repeated. Default: all that answer, or what the URI asks for.",
)
@click.option(
    "--tls-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Default: 5061 if UDP and TCP are on 5060.",
)
@click.option("--ca-file", metavar="PEM", help="Trust these CAs. Default: the system's.")
@click.option("--server-name", metavar="NAME", help="Whose certificate it must be.")
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option(
    "--timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one answer may take.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="CHECK",
    help="These checks alone: an id, a group or a pattern. May be repeated.",
)
@click.option("--skip", multiple=True, metavar="CHECK", help="Not these. May be repeated.")
@click.option("--list", "as_list", is_flag=True, help="Show the checks and run none.")
@click.option("--all", "show_all", is_flag=True, help="Show the checks that passed as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--html", "html_file", metavar="FILE", help="Write a page with a ladder of each failure."
)
def conformance(
    registrar: str | None,
    password_file: TextIO | None,
    only: Sequence[str],
    skip: Sequence[str],
    as_list: bool,
    show_all: bool,
    as_json: bool,
    junit_file: str | None,
    html_file: str | None,
    **options: Any,
) -> int:
    """Check the registrar at REGISTRAR (sip:host[:port]) against RFC 3261 and its extensions.

    The checks register, refresh and remove contacts of their own for one AOR, which should be an
    account for tests, and send requests that are malformed.  They leave no binding behind.

    The password comes from --password-file or the environment variable PJSIP_PY_PASSWORD.
    Without either it is asked for when the registrar wants one and standard input is a terminal.
    """
    import_suite()
    from pjsip_py.testing.conformance import select

    screen = Screen(as_json=as_json)
    try:
        checks = select(only, skip)
    except pjsip.ConfigError as error:
        raise click.UsageError(f"{error}; --list shows them") from None
    if as_list:
        list_checks(checks, screen)
        return codes.OK
    if registrar is None:
        raise click.UsageError("name the registrar: sip:host[:port]")
    files = {kind: name for kind, name in (("junit", junit_file), ("html", html_file)) if name}
    for name in files.values():
        check_writable(name)
    target = make_target(registrar, read_password(password_file), options)
    return Session(target, checks, screen, show_all, files).run()


def import_suite() -> None:
    try:
        import pjsip_py.testing  # noqa: F401
    except ModuleNotFoundError as error:
        raise click.UsageError(str(error)) from None


def make_target(registrar: str, password: str | None, options: dict[str, Any]) -> Target:
    """The target that the options describe; :raises click.UsageError: they make none."""
    from pjsip_py.testing.conformance import Target

    if ":" in registrar.partition(":")[2].rpartition("@")[0]:
        raise click.UsageError(
            f"a password in the URI is there for all to see: --password-file or {PASSWORD_VARIABLE}"
        )
    try:
        return Target(registrar=registrar, password=password, **options)
    except (pjsip.ConfigError, pjsip.InvalidUriError) as error:
        text = str(error)
        if text.startswith("give user or aor"):
            text = "give --user or --aor: the suite registers as somebody"
        raise click.UsageError(text) from None


def check_writable(name: str) -> None:
    """:raises click.UsageError: better now than after the run."""
    folder = Path(name).parent
    if os.path.isdir(name) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise click.UsageError(f"{name}: cannot be written")


def list_checks(checks: Sequence[Check], screen: Screen) -> None:
    if screen.as_json:
        for check in checks:
            screen.json({"id": check.id, "title": check.title, "rfc": list(check.sections)})
        return
    table = _table("Check", "What must be so")
    for check in checks:
        about = Text(check.title)
        about.append(f"\n{', '.join(check.sections)}", style="dim")
        table.add_row(check.id, about)
    screen.show(table)
    screen.print(f"{len(checks)} checks")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for number, name in enumerate(columns):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    return table


def describe(result: Result) -> Text:
    """What came of a check; of a failure also what should have, and where that is written."""
    mark, style = _MARKS[result.status.value]
    about = Text(f"{mark} {result.status.value}", style=style)
    if result.reason:
        about.append(f": {printable(result.reason)}")
    check = result.check
    if result.status.value == "fail":
        about.append(f"\n{check.title}\n{', '.join(check.sections)}", style="dim")
    return about


# -- the run --------------------------------------------------------------------------------------


class Session:
    """One run from the first request to the exit code."""

    def __init__(
        self,
        target: Target,
        checks: Sequence[Check],
        screen: Screen,
        show_all: bool,
        files: dict[str, str],
    ) -> None:
        self.target = target
        self.checks = checks
        self.screen = screen
        self.show_all = show_all
        self.files = files

    def run(self) -> int:
        from pjsip_py.testing.conformance import NoAuthentication, NoRegistrar, Refused

        with interruptible():
            try:
                with self.screen.waiting("looking who is there"):
                    runner = self.open()
            except NoRegistrar as error:
                self.screen.error(str(error))
                return codes.NO_ANSWER
            except NoAuthentication as error:
                hint = f"give the password by --password-file or {PASSWORD_VARIABLE}"
                self.screen.error(str(error), hint if self.target.password is None else "")
                return codes.AUTHENTICATION
            except Refused as error:
                self.screen.error(str(error), "is --aor an address of this registrar?")
                return codes.REFUSED
            signum = self.check_all(runner)
        report = runner.report
        self.show(report)
        written = self.write(report)
        if signum:
            return codes.INTERRUPTED + signum
        if not written:
            return codes.OUTPUT_FAILED
        if report.broken_off:
            return codes.NO_ANSWER
        return codes.REFUSED if report.failed else codes.OK

    def open(self) -> Runner:
        """Log in, asking for a password where one is wanted and there is somebody to ask."""
        from dataclasses import replace

        from pjsip_py.testing.conformance import NoAuthentication, Runner

        runner = Runner(self.target)
        try:
            runner.open()
        except NoAuthentication:
            if self.target.password is not None or not sys.stdin.isatty():
                raise
            password = click.prompt(
                f"Password for {self.target.user}", hide_input=True, default="",
                show_default=False, err=True,
            )  # fmt: skip
            self.target = replace(self.target, password=password)
            runner = Runner(self.target)
            runner.open()
        return runner

    def check_all(self, runner: Runner) -> int:
        """Run the checks; the signal that ended it, or 0."""
        from pjsip_py.testing.conformance import NoRegistrar

        for number, check in enumerate(self.checks, 1):
            try:
                with self.screen.waiting(f"{number}/{len(self.checks)}  {check.id}"):
                    result = runner.run_check(check)
            except NoRegistrar:
                self.show_result(runner.report.results[-1])
                break
            except Interrupted as stop:
                self.screen.end_line()
                runner.report.broken_off = (
                    f"interrupted in {check.id}, after {number - 1} of {len(self.checks)} checks"
                )
                return stop.signum
            self.show_result(result)
        return 0

    def write(self, report: Report) -> bool:
        from pjsip_py.testing.conformance.report import write

        for kind, name in self.files.items():
            try:
                write(report, name, kind)
            except OSError as error:
                self.screen.error(f"{name}: {error.strerror}")
                return False
        return True

    # -- showing ----------------------------------------------------------------------------------

    def show_result(self, result: Result) -> None:
        """JSON as it comes; on a terminal a line for what is not as it should be."""
        from pjsip_py.testing.conformance.report import record

        if self.screen.as_json:
            self.screen.json(record(result))

    def show(self, report: Report) -> None:
        from pjsip_py.testing.conformance.report import summary

        if self.screen.as_json:
            self.screen.json(summary(report))
            return
        rows = [each for each in report.results if self.show_all or each.status.value != "pass"]
        if rows:
            table = _table("Check", "Result")
            for result in rows:
                table.add_row(result.check.id, describe(result))
            self.screen.show(table)
            self.screen.print()
        self.screen.show(self.totals(report))
        self.screen.print()
        server = f" ({printable(report.server)})" if report.server else ""
        self.screen.print(
            f"{report.target.registrar}{server} as {report.target.aor}: "
            f"{len(report.results)} checks in {report.seconds:.1f} s"
        )
        if report.broken_off:
            self.screen.error(report.broken_off)
        for uri in report.left[:LEFT_SHOWN]:
            self.screen.error(f"a binding could not be removed again: {uri}")
        if len(report.left) > LEFT_SHOWN:
            self.screen.error(f"and {len(report.left) - LEFT_SHOWN} more")
        for name in self.files.values():
            self.screen.print(f"Report: {name}")

    def totals(self, report: Report) -> Table:
        """How many of each group came to what."""
        names = list(_MARKS)
        table = _table("Group", *names)
        for column in table.columns[1:]:
            column.justify = "right"
        groups = dict.fromkeys(each.check.group for each in report.results)
        found = {group: [r for r in report.results if r.check.group == group] for group in groups}
        for group, results in {**found, "all": report.results}.items():
            counts = [sum(r.status.value == name for r in results) for name in names]
            cells = [
                Text(str(count) if count else "·", style=_MARKS[name][1] if count else "dim")
                for name, count in zip(names, counts, strict=True)
            ]
            table.add_row(group, *cells, style="bold" if group == "all" else "")
        return table
