# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py register``."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, TextIO

import click

import pjsip_py as pjsip
from pjsip_py.auth import ALGORITHMS
from pjsip_py.uri import SipUri, default_registrar, parse_aor, parse_registrar, parse_uri

from . import codes
from .inbox import Inbox, Stop, interruptible
from .options import (
    PASSWORD_VARIABLE,
    connection_options,
    header_options,
    make_tls,
    password_option,
    read_password,
    split_header,
    with_transport,
)
from .recording import Recording, recording_options
from .screen import (
    MORE,
    NOTE,
    RECEIVED,
    SENT,
    Screen,
    clock,
    describe_binding,
    describe_connection,
    describe_error,
    describe_outcome,
    event_record,
    printable,
)

LEAVE_TIMEOUT = 5.0  # s that an unregister may take after Ctrl-C


@click.command(
    short_help="Register at a registrar and stay registered.",
    epilog="""\b
Exit codes:
  0  registered (and, after Ctrl-C, unregistered)
  1  refused by the registrar
  2  wrong usage
  3  no answer, or no connection
  4  authentication failed

\b
Examples:
  pjsip-py register sip:alice@example.com --password-file secret.txt
  pjsip-py register sip:alice@example.com --registrar sip:192.0.2.1:5060 --transport tcp --once
  pjsip-py register sips:alice@example.com --ca-file ca.pem --json | jq .code
""",
)
@click.argument("aor")
@click.option("--registrar", metavar="URI", help="Default: the domain of the AOR.")
@click.option("--user", metavar="NAME", help="User name of the credential. Default: the AOR's.")
@password_option
@click.option("--realm", default="*", metavar="REALM", help="Answer this realm only.")
@click.option(
    "--min-algorithm",
    type=click.Choice(ALGORITHMS),
    help="Prove the password by nothing weaker than this digest.",
)
@connection_options
@click.option(
    "--contact",
    "contacts",
    multiple=True,
    metavar="URI",
    help="Register this contact, not one made from our own address. Up to ten times.",
)
@header_options
@click.option(
    "--once/--watch",
    "once",
    default=False,
    help="Register and exit, leaving the binding; or stay registered until Ctrl-C, then "
    "unregister (the default).",
)
@click.option("--unregister", is_flag=True, help="With --once: remove the binding again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@recording_options
@click.option("--trace", is_flag=True, help="Show the SIP messages, without their secrets.")
@click.option("-v", "--verbose", is_flag=True, help="PJSIP's log on standard error.")
def register(
    aor: str,
    user: str | None,
    password_file: TextIO | None,
    realm: str,
    min_algorithm: str | None,
    once: bool,
    unregister: bool,
    as_json: bool,
    ladder: str | None,
    pcap: str | None,
    trace: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Register AOR (sip:user@domain) and show what the registrar says.

    The password comes from --password-file or the environment variable PJSIP_PY_PASSWORD.
    Without either it is asked for when the registrar wants one and standard input is a terminal.
    """
    if unregister and not once:
        raise click.UsageError("--unregister goes with --once: --watch unregisters when it ends.")
    if verbose:
        logging.basicConfig(
            stream=sys.stderr, level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s"
        )
    secret = Secret(user, realm, min_algorithm, read_password(password_file))
    config = make_config(aor, secret, options)
    recording = Recording(f"register {aor}", ladder, pcap)
    screen = Screen(as_json=as_json)
    session = Session(config, secret, once, unregister, screen, trace, recording)
    try:
        code = session.run(log_level=5 if verbose else 3)
    finally:
        recording.close()
        for each in recording.errors:
            screen.error(each)
    return code or (codes.OUTPUT_FAILED if recording.errors else codes.OK)


# -- the command line, checked --------------------------------------------------------------------


@dataclass
class Secret:
    """The credential-to-be: a password may still have to be asked for."""

    user: str | None
    realm: str
    min_algorithm: str | None
    password: str | None

    def __repr__(self) -> str:
        return "Secret(<hidden>)"

    def credentials(self, aor: SipUri) -> tuple[pjsip.Credentials, ...]:
        if self.password is None:
            return ()
        return (
            pjsip.Credentials(
                self.user or aor.user,
                self.password,
                realm=self.realm,
                min_algorithm=self.min_algorithm,
            ),
        )


def make_config(aor: str, secret: Secret, options: dict[str, Any]) -> pjsip.AccountConfig:
    """The account that the options describe; :raises click.UsageError: they make none."""
    if ":" in aor.partition(":")[2].rpartition("@")[0]:
        raise click.UsageError(
            f"a password in the AOR is there for all to see: --password-file or {PASSWORD_VARIABLE}"
        )
    try:
        address = parse_aor("AOR", aor)
        server = options["registrar"]
        routes = list(options["routes"])
        uri = parse_registrar("--registrar", server) if server else default_registrar(address)
        registrar = uri.text
        if routes:
            routes[0] = with_transport(parse_uri("--route", routes[0]), options["transport"])
        else:
            registrar = with_transport(uri, options["transport"])
        return pjsip.AccountConfig(
            aor=aor,
            registrar=registrar,
            credentials=secret.credentials(address),
            expires=options["expires"],
            timeout=options["timeout"],
            retry=None,  # a failure ends the command; `keep` goes on
            contacts=options["contacts"] or None,
            headers=[split_header(each) for each in options["headers"]],
            route=routes,
            tls=make_tls(options),
        )
    except (pjsip.ConfigError, pjsip.InvalidUriError) as error:
        raise click.UsageError(str(error)) from None


# -- the session ----------------------------------------------------------------------------------


class Session:
    """One account from its first REGISTER to the exit code."""

    def __init__(
        self,
        config: pjsip.AccountConfig,
        secret: Secret,
        once: bool,
        unregister: bool,
        screen: Screen,
        trace: bool,
        recording: Recording,
    ) -> None:
        self.config = config
        self.secret = secret
        self.once = once
        self.unregister = unregister
        self.screen = screen
        self.trace = trace
        self.recording = recording

    def run(self, log_level: int) -> int:
        with Inbox() as inbox:
            tracing = self.trace or self.recording.wanted
            endpoint = pjsip.Endpoint(trace=tracing, log_level=log_level)
            endpoint.on(pjsip.Event, self.recording.add)
            endpoint.on(pjsip.Event, inbox.put)
            with endpoint:
                account = endpoint.add_account(self.config)
                account.register()
                unfinished = not (self.once and not self.unregister)
                try:
                    code = self.follow(account, inbox)
                    unfinished = False
                    return code
                finally:  # a broken pipe, say, leaves no binding behind
                    endpoint.close(LEAVE_TIMEOUT, network=unfinished)

    def follow(self, account: pjsip.Account, inbox: Inbox) -> int:
        """Show what happens until it is over."""
        registered = leaving = False
        while True:
            item = inbox.get()
            if isinstance(item, Stop):
                if leaving or not registered:
                    return codes.INTERRUPTED + item.signum
                leaving = True
                self.screen.end_line()
                account.unregister(timeout=LEAVE_TIMEOUT)
                continue
            assert isinstance(item, pjsip.Event)
            self.show(item)
            if not isinstance(item, pjsip.RegState):
                continue
            if item.error is not None:
                if self.wants_password(item):
                    self.ask_password(account)
                    continue
                self.explain(item.error)
                return codes.of_error(item.error)
            if item.is_unregister:
                return codes.OK
            if not registered:
                registered = True
                self.show_bindings(item)
            if self.once:
                if not self.unregister:
                    return codes.OK
                account.unregister(timeout=self.config.timeout)

    def wants_password(self, event: pjsip.RegState) -> bool:
        """The registrar wants a password, nobody has given one, and there is somebody to ask."""
        missing = isinstance(event.error, pjsip.NoCredentialError) and self.secret.password is None
        return missing and sys.stdin.isatty()

    def ask_password(self, account: pjsip.Account) -> None:
        aor = parse_aor("AOR", account.aor)
        with interruptible():
            self.secret.password = click.prompt(
                f"Password for {self.secret.user or aor.user}",
                hide_input=True,
                default="",
                show_default=False,
                err=True,
            )
        account.modify(credentials=self.secret.credentials(aor))  # and it registers again

    # -- showing ----------------------------------------------------------------------------------

    def show(self, event: pjsip.Event) -> None:
        if isinstance(event, pjsip.SipMessage) and not self.trace:
            return
        if self.screen.as_json:
            record = event_record(event)
            if record is not None:
                self.screen.json(record)
            return
        when = clock(event.time.wall)
        if isinstance(event, pjsip.RegStarted):
            what = "unregister" if event.is_unregister else "refresh" if event.renewal else ""
            to = f"REGISTER {event.client.aor}" + (f" ({what})" if what else "")
            self.screen.line(when, SENT, to, f"to {event.client.registrar}")
        elif isinstance(event, pjsip.RegState):
            if self.wants_password(event):
                answer = f"{event.code} {event.reason}"
                self.screen.line(when, RECEIVED, answer, "the registrar wants a password")
            else:
                self.screen.line(when, *describe_outcome(event))
        elif isinstance(event, pjsip.SipMessage):
            mark = SENT if event.direction == "tx" else RECEIVED
            way = f"{event.protocol} {event.local} {mark} {event.remote}"
            self.screen.line(when, mark, way)
            for text in printable(event.text).rstrip().splitlines():
                self.screen.print(f"    {text}")
        elif isinstance(event, pjsip.TransportState):
            if event.state in ("connected", "disconnected", "listening"):
                what, detail = describe_connection(event)
                self.screen.line(when, NOTE, what, detail)
        elif isinstance(event, pjsip.EventsDropped):
            self.screen.line(when, NOTE, f"{event.count} trace or log records were lost")

    def show_bindings(self, event: pjsip.RegState) -> None:
        if self.screen.as_json:
            return
        for binding in event.bindings:
            self.screen.line(" " * 12, MORE, describe_binding(binding))
        if self.once and not self.unregister:
            until = clock(event.time.wall + (event.expires or 0))[:8]
            self.screen.line(" " * 12, MORE, f"the binding stays until {until}")

    def explain(self, error: pjsip.PjsipError) -> None:
        hint = error.hint
        if isinstance(error, pjsip.NoCredentialError):
            hint = (
                f"give the password by --password-file or {PASSWORD_VARIABLE}"
                if self.secret.password is None
                else f"the credential is for realm {self.secret.realm!r} only; leave out --realm"
            )
        elif isinstance(error, pjsip.TlsError) and error.verify_status:
            hint = (
                "use the name that the certificate is for: in the URI, or as --server-name"
                if error.reasons == ("name",)
                else "give the registrar's CA by --ca-file, or use the name its certificate is for"
            )
        self.screen.error(describe_error(error), hint)
