# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py load``."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any, TextIO

import click

import pjsip_py as pjsip
from pjsip_py.uri import parse_registrar, parse_uri

from ..board import Board
from ..inbox import interruptible
from ..options import (
    PASSWORD_VARIABLE,
    connection_options,
    header_options,
    make_tls,
    password_option,
    read_password,
    split_header,
    with_transport,
)
from .plan import Pace, Plan, Storm, users_of_csv, users_of_pattern
from .thresholds import Threshold


class Number(click.FloatRange):
    """A range without NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


MOST = 1e7
POSITIVE = Number(0, MOST, min_open=True)


def parse_sources(_: object, __: object, texts: tuple[str, ...]) -> list[tuple[str, int]]:
    """``ADDRESS``, ``ADDRESS:PORT``, ``[ADDRESS]:PORT`` or a bare IPv6 address."""
    sources = []
    for text in texts:
        host, port = text, "0"
        before, colon, after = text.rpartition(":")
        if colon and (before.endswith("]") or ":" not in before):
            host, port = before, after
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise click.BadParameter(f"{text!r}: write it as ADDRESS or ADDRESS:PORT.") from None
        if not port.isdecimal() or int(port) > 65535:
            raise click.BadParameter(f"{text!r}: the port is a number up to 65535.")
        sources.append((str(address), int(port)))
    return sources


@click.command(
    short_help="Put load on a registrar, and measure it.",
    epilog="""\b
Thresholds, for --fail-if:
  p99>200ms    also p50 … p99.999, mean, max; in us, ms or s; refresh.p99, unregister.p99
  errors>0.1%  or a number; timeouts as well
  rate<500     registrations that succeeded in a second
  started<95%  begun, of what was to be offered; or a number in a second
  registered<100%  users at the end; or a number
Without one of its own, errors>0 and started<95% are thresholds.

\b
Exit codes:
  0        no threshold was crossed
  1        one was: too slow, too many errors, or the offered rate was not reached
  2        wrong usage
  3        nobody registered: no answer, or no connection
  4        nobody registered: authentication failed
  128 + n  ended early by signal n; 130 is Ctrl-C

\b
Examples:
  pjsip-py load sip:192.0.2.1 --users 'bulk{0001..5000}' --rate 200 --password-file secret.txt
  pjsip-py load sip:192.0.2.1 --csv users.csv --ramp 10 1000 60 --report load.html
  pjsip-py load sip:192.0.2.1 --users 'u{1..1000}@example.com' --storm --fail-if 'p99>2s'
  pjsip-py load sip:192.0.2.1 --csv users.csv --rate 100 --keep --duration 600
  pjsip-py load sip:192.0.2.1 --csv users.csv --rate 50 --churn 30 --duration 600 --json
""",
)
@click.argument("registrar")
@click.option(
    "--users",
    "pattern",
    metavar="PATTERN",
    help="Users' names or AORs, with ranges: 'bulk{001..500}'. Default domain: the registrar's.",
)
@click.option(
    "--csv",
    "csv_file",
    metavar="FILE",
    help="Users from a file whose first line names the columns: aor or user, password, realm.",
)
@password_option
@click.option("--ask-password", is_flag=True, help="Ask for the password of all users.")
@click.option("--rate", type=POSITIVE, metavar="N", help="Begin N registrations a second.")
@click.option(
    "--ramp",
    type=(Number(0, MOST), POSITIVE, POSITIVE),
    metavar="FROM TO SECONDS",
    help="Let the rate go from FROM to TO; that is also the default of --duration.",
)
@click.option("--storm", is_flag=True, help="Begin all at once, as far as --window lets them.")
@click.option(
    "--keep",
    is_flag=True,
    help="Register each user once, then keep all registered by refreshes.",
)
@click.option(
    "--churn",
    type=Number(0, MOST),
    metavar="SECONDS",
    help="Unregister each user so long after it registered; then it comes again.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Each registration begins anew, without the nonce of the one before.",
)
@click.option(
    "--duration",
    type=POSITIVE,
    metavar="SECONDS",
    help="Go on so long, users coming again; with --keep from when all have registered. "
    "Default: each user once; with --keep and --churn until Ctrl-C.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    metavar="N",
    help="How many may wait for their outcome at a time.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="ADDRESS[:PORT]",
    callback=parse_sources,
    help="Send from here; given several times, users take turns. Default: what the route says.",
)
@connection_options
@header_options
@click.option(
    "--fail-if",
    "fail_if",
    multiple=True,
    metavar="THRESHOLD",
    callback=lambda _, __, texts: tuple(map(Threshold.parse, texts)),
    help="The load has failed if this holds, see below. May be repeated.",
)
@click.option(
    "--report",
    type=click.File("w", "utf-8", lazy=False),
    metavar="FILE",
    help="Write a page of HTML with plots.",
)
@click.option(
    "--json-file",
    type=click.File("w", "utf-8", lazy=False),
    metavar="FILE",
    help="Write the summary as a JSON object.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a line, for each second and the summary, in place of words.",
)
@click.option("--no-table", is_flag=True, help="Lines only, as where there is no terminal.")
@click.option("--no-unregister", is_flag=True, help="Leave the bindings at the end.")
@click.option(
    "--unregister-timeout",
    type=Number(0.1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long unregistering may take at the end.",
)
def load(
    registrar: str,
    pattern: str | None,
    csv_file: str | None,
    password_file: TextIO | None,
    ask_password: bool,
    fail_if: tuple[Threshold, ...],
    report: TextIO | None,
    json_file: TextIO | None,
    as_json: bool,
    no_table: bool,
    no_unregister: bool,
    unregister_timeout: float,
    **options: Any,
) -> int:
    """Send REGISTERs to REGISTRAR (sip:host) at a rate, and show how it copes.

    Say who registers (--users or --csv) and how fast (--rate, --ramp or --storm). Users with one
    password have it from --password-file, the environment variable PJSIP_PY_PASSWORD or
    --ask-password.

    Ctrl-C ends the load, shows what came of it so far and unregisters; a second one ends at once.
    Do this to registrars of your own only.
    """
    plan = make_plan(registrar, pattern, csv_file, password_file, ask_password, options)
    for threshold in fail_if:
        if threshold.metric == "started" and threshold.unit and options["storm"]:
            raise click.UsageError(f"--fail-if {threshold.text}: --storm offers no rate.")
    try:
        from .report import check_plots
        from .session import Session

        if report is not None:
            check_plots()
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"load needs the package {error.name}: pip install 'pjsip-py[load]'"
        ) from None
    session = Session(
        plan,
        options["sources"],
        list(fail_if),
        Board(as_json=as_json, table=not no_table),
        leave=None if no_unregister else unregister_timeout,
    )
    return session.run(json_file, report)


# -- the command line, checked --------------------------------------------------------------------


def make_plan(
    registrar: str,
    pattern: str | None,
    csv_file: str | None,
    password_file: TextIO | None,
    ask_password: bool,
    options: dict[str, Any],
) -> Plan:
    """:raises click.UsageError: the options make none."""
    if (pattern is None) == (csv_file is None):
        raise click.UsageError("say who registers: --users or --csv.")
    pace = make_pace(options["rate"], options["ramp"], options["storm"])
    if options["keep"] and (options["churn"] is not None or options["fresh"]):
        raise click.UsageError("--keep goes with neither --churn nor --fresh.")
    duration = options["duration"]
    if duration is None and options["ramp"] and not options["keep"]:
        duration = options["ramp"][2]
    try:
        uri = parse_registrar("REGISTRAR", registrar)
        registration = {
            "expires": options["expires"],
            "timeout": options["timeout"],
            "headers": [split_header(each) for each in options["headers"]],
            "route": list(options["routes"]),
            "tls": make_tls(options),
        }
        if options["routes"]:
            route = parse_uri("--route", options["routes"][0])
            registration["route"][0] = with_transport(route, options["transport"])
        else:
            uri = parse_registrar("REGISTRAR", with_transport(uri, options["transport"]))
        # What is wrong with the options is so for every user.
        pjsip.AccountConfig(aor="sip:user@example.com", registrar=uri.text, **registration)
    except (pjsip.ConfigError, pjsip.InvalidUriError) as error:
        raise click.UsageError(str(error)) from None
    password = the_password(password_file, ask_password)
    domain = f"[{uri.host}]" if ":" in uri.host else uri.host
    if pattern is not None:
        users = users_of_pattern(pattern, domain, password)
    else:
        assert csv_file is not None
        users = users_of_csv(csv_file, domain, password)
    return Plan(
        registrar=uri.text,
        users=users,
        pace=pace,
        keep=options["keep"],
        churn=options["churn"],
        fresh=options["fresh"],
        duration=duration,
        window=options["window"],
        options=registration,
    )


def make_pace(
    rate: float | None, ramp: tuple[float, float, float] | None, storm: bool
) -> Pace | Storm:
    if (rate is not None) + (ramp is not None) + storm != 1:
        raise click.UsageError("say how fast: one of --rate, --ramp and --storm.")
    if rate is not None:
        return Pace(rate, rate)
    return Pace(*ramp) if ramp is not None else Storm()


def the_password(file: TextIO | None, ask: bool) -> str | None:
    if not ask:
        return read_password(file)
    if file is not None:
        raise click.UsageError("--ask-password or --password-file, not both.")
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"--ask-password needs a terminal; there are --password-file and {PASSWORD_VARIABLE}."
        )
    with interruptible():
        answer = click.prompt(
            "Password of the users", hide_input=True, default="", show_default=False, err=True
        )
    return str(answer)
