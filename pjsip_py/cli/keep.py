# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py keep``."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

import pjsip_py as pjsip
from pjsip_py.events import AccountState, ContactChanged, RegistrarChanged

from . import codes
from .board import Board, LogFile, duration
from .inbox import Inbox, Interrupted, Stop, interruptible
from .screen import BAD, GOOD, NOTE, event_record, printable

if TYPE_CHECKING:
    from pjsip_py._accounts_file import AccountsFile

DRAW_INTERVAL = 0.5  # s between two drawings of the table
WAITING_EVENTS = 50_000  # that may wait while standard output takes nothing
GRACE = 0.5  # s for the outcome of an unregister that has come to its time-out
RATE_WINDOW = 10  # s over which REGISTERs are counted
RELOAD = object()  # what SIGHUP puts into the inbox


def parse_address(_: object, __: object, value: str | None) -> tuple[str, int] | None:
    """``[HOST:]PORT``."""
    if value is None:
        return None
    host, _colon, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r}: write it as PORT or HOST:PORT.")
    return host.strip("[]") or "127.0.0.1", int(port)


@click.command(
    short_help="Keep the accounts of a file registered.",
    epilog="""\b
Signals:
  HUP        read FILE again: what is new in it is registered, what is gone from it is
             unregistered, what has changed is changed, the rest is left alone
  INT, TERM  unregister and end; a second one ends at once

\b
Exit codes:
  0  ended by a signal; with --check: no mistakes
  2  wrong usage, or a mistake in FILE

\b
Examples:
  pjsip-py keep accounts.toml
  pjsip-py keep accounts.toml --log-file keep.log --metrics 9100
""",
)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--check", is_flag=True, help="Look for mistakes in FILE, and end.")
@click.option(
    "--metrics",
    "metrics_at",
    metavar="[HOST:]PORT",
    callback=parse_address,
    help="Serve Prometheus metrics over HTTP. Default host: 127.0.0.1; port 0 takes a free one.",
)
@click.option("--no-table", is_flag=True, help="Lines only, as where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for every event.")
@click.option(
    "--log-file",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Append the lines to this file as well; HUP opens it anew.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long unregistering may take.",
)
@click.option("--no-unregister", is_flag=True, help="Leave the bindings at the end.")
def keep(
    path: str,
    check: bool,
    metrics_at: tuple[str, int] | None,
    no_table: bool,
    as_json: bool,
    log_file: str | None,
    timeout: float,
    no_unregister: bool,
) -> int:
    """Keep the accounts of FILE (TOML) registered until Ctrl-C, and show how they are.

    Each failure is a line with its time, code and reason, what can be done about it, and what
    happens next.
    """
    board = Board(as_json=as_json, table=not no_table)
    with KeepInbox() as inbox, ExitStack() as stack:
        with interruptible():  # a secret may have to be fetched first
            file = load(path)
        if check:
            board.print(f"{path}: {count(len(file.accounts), 'account')}, no mistakes")
            return codes.OK
        if log_file is not None:
            try:
                board.log = stack.enter_context(LogFile(log_file, board.error))
            except OSError as error:
                raise click.UsageError(f"--log-file {log_file}: {error.strerror}") from None
        endpoint = pjsip.Endpoint(**{"log_level": 0, **file.endpoint})
        url = stack.enter_context(serve_metrics(endpoint, *metrics_at)) if metrics_at else ""
        return Session(path, file, endpoint, inbox, board, timeout, url).run(not no_unregister)


def load(path: str) -> AccountsFile:
    from pjsip_py._accounts_file import load_file  # its TOML reader is for this command only

    return load_file(path)


@contextmanager
def serve_metrics(endpoint: pjsip.Endpoint, host: str, port: int) -> Iterator[str]:
    """Metrics of *endpoint* over HTTP while ``with`` lasts; where they are."""
    try:
        from prometheus_client import start_http_server

        from pjsip_py.metrics import Metrics
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"--metrics needs the package {error.name}: pip install 'pjsip-py[metrics]'"
        ) from None
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        raise click.UsageError(f"--metrics {host} port {port}: {error.strerror}") from None
    metrics = Metrics(endpoint)
    try:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        metrics.close()


class KeepInbox(Inbox):
    """SIGHUP arrives as well; and events, as long as somebody takes them."""

    lost = 0  #: events that nobody took

    def put_event(self, event: pjsip.Event) -> None:
        if self._queue.qsize() < WAITING_EVENTS:
            self.put(event)
        else:
            self.lost += 1

    def __enter__(self) -> KeepInbox:
        super().__enter__()
        self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: self.put(RELOAD))
        return self


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# -- how the accounts are -------------------------------------------------------------------------


@dataclass(slots=True)
class Kept:
    """An account of the file."""

    account: pjsip.Account
    config: pjsip.AccountConfig
    last: pjsip.RegState | None = None  #: outcome
    down: float | None = None  #: since when it has not been registered as it should be

    @property
    def answer(self) -> str:
        if self.last is None:
            return ""
        if self.last.error is not None:
            return describe_failure(self.last)
        return f"{self.last.code} {self.last.reason}"

    @property
    def busy(self) -> bool:
        """An attempt is under way, or waits for its turn only."""
        state = self.account.state
        if state == "waiting":
            return self.account.error is None
        return state in ("idle", "registering", "unregistering")

    @property
    def rank(self) -> int:
        """Place in the table: trouble comes first."""
        if self.account.state == "failed":
            return 0
        if self.down is not None:
            return 1
        return 2 if self.busy else 3


class Summary(NamedTuple):
    registered: int
    accounts: int
    given_up: int
    to_be_retried: int

    def __str__(self) -> str:
        text = f"registered {self.registered} of {self.accounts}"
        for title, number in (("given up", self.given_up), ("to be retried", self.to_be_retried)):
            if number:
                text += f", {number} {title}"
        return text


class Rate:
    """REGISTERs a second over the last ten."""

    def __init__(self) -> None:
        self._began = time.time()
        self._sent: Counter[int] = Counter()

    def add(self, when: float, number: int) -> None:
        self._sent[int(when)] += number

    def now(self) -> float:
        now = time.time()
        for second in [each for each in self._sent if each < now - RATE_WINDOW]:
            del self._sent[second]
        return sum(self._sent.values()) / min(RATE_WINDOW, max(1.0, now - self._began))


def wanted_accounts(file: AccountsFile) -> dict[str, pjsip.AccountConfig]:
    """By AOR; each begins by itself, at the endpoint's pace."""
    return {each.aor: replace(each, register_on_add=True) for each in file.accounts}


def changed_fields(before: pjsip.AccountConfig, after: pjsip.AccountConfig) -> dict[str, Any]:
    """The fields that differ, with their new values."""
    values = {f.name: getattr(after, f.name) for f in fields(after) if f.init}
    return {name: new for name, new in values.items() if new != getattr(before, name)}


# -- in words -------------------------------------------------------------------------------------


def describe_success(event: pjsip.RegState) -> str:
    assert event.account is not None
    return f"{event.account.aor}: registered for {event.expires} s"


def describe_failure(event: pjsip.RegState) -> str:
    error = event.error
    return str(error) if isinstance(error, pjsip.RegistrationError) else f"{event.code} {error}"


def describe_next(event: pjsip.RegState) -> str:
    """What follows a failure."""
    if event.probe:
        return "it was a probe of a preferred registrar; the account is served"
    if event.is_unregister:
        return "the binding ends when it expires"
    if event.retry_in is None:
        given_up = event.account is not None and event.account.state == "failed"
        return "given up" if given_up else ""
    if event.retry_in == 0:
        return "going on at once"
    return f"retry in {event.retry_in:.1f} s (attempt {event.attempt + 1})"


def next_attempt(account: pjsip.Account, now: float) -> str:
    retry, refresh = account.retry_at, account.refresh_at
    if retry is not None:
        return f"retry {duration(retry - now)}"
    return f"refresh {duration(refresh - now)}" if refresh is not None else ""


# Name and width, 0 for a share of what is left.
COLUMNS = (
    *(("AOR", 0), ("Registrar", 0), ("State", 13), ("Answer", 0)),
    *(("Expires", 7), ("Next", 15), ("Tries", 5)),
)
WIDE = 100  # columns of a terminal that has room for the registrar
STYLES = ("red", "yellow", "", "green")  # by rank


def account_table(accounts: list[Kept], total: int, width: int) -> Table:
    """The first *accounts* of so many in *total*."""
    now = time.time()
    shown = [column for column in COLUMNS if column[0] != "Registrar" or width >= WIDE]
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="bold underline")
    for name, fixed in shown:
        share = None if fixed else 1
        table.add_column(name, width=fixed or None, ratio=share, no_wrap=True, overflow="ellipsis")
    for each in accounts:
        account = each.account
        bound = account.registered and account.expires_at
        cells = {
            "AOR": account.aor,
            "Registrar": account.registrar,
            "State": account.state,
            "Answer": printable(each.answer),
            "Expires": duration(bound - now) if bound else "",
            "Next": next_attempt(account, now),
            "Tries": str(account.attempts or ""),
        }
        table.add_row(*(Text(cells[name]) for name, _ in shown), style=STYLES[each.rank])
    if total > len(accounts):
        table.add_row(Text(f"… {total - len(accounts)} more", style="dim"))
    return table


# -- the command at work --------------------------------------------------------------------------


class Left(NamedTuple):
    """The unregister of an account is over."""

    account: pjsip.Account
    well: bool


def went_well(goodbye: pjsip.Operation[Any]) -> bool:
    try:
        return goodbye.exception() is None
    except CancelledError:
        return False


class Session:
    """The accounts of a file, from the first REGISTER to the exit code."""

    def __init__(
        self,
        path: str,
        file: AccountsFile,
        endpoint: pjsip.Endpoint,
        inbox: KeepInbox,
        board: Board,
        timeout: float,
        metrics_url: str,
    ) -> None:
        self.path = path
        self.file = file
        self.endpoint = endpoint
        self.inbox = inbox
        self.board = board
        self.timeout = timeout
        self.metrics_url = metrics_url
        self.kept: dict[str, Kept] = {}
        self.leaving: set[pjsip.Account] = set()
        self.reload_wanted = False
        self.began = time.time()
        self.rate = Rate()
        self.told: Summary | None = None
        self.news = True
        self.next_look = 0.0

    def run(self, unregister: bool) -> int:
        """Until a signal comes; the exit code."""
        self.endpoint.on(pjsip.Event, self.inbox.put_event)
        with self.board, self.endpoint:
            try:
                self.begin()
                self.follow()
                if unregister:
                    unregister = False
                    self.leave()
                return codes.OK
            except Interrupted as impatience:
                return codes.INTERRUPTED + impatience.signum
            finally:  # a broken pipe, say, leaves no binding behind
                self.endpoint.close(self.timeout, network=unregister)

    def begin(self) -> None:
        if self.metrics_url:
            self.note(NOTE, f"metrics at {self.metrics_url}")
            self.board.record("metrics", url=self.metrics_url)
        for config in wanted_accounts(self.file).values():
            self.add(config)

    def follow(self) -> None:
        """Until a signal says to end."""
        while True:
            wait = self.next_look - time.monotonic() if self.news or self.board.live else None
            item = self.inbox.get(None if wait is None else max(0.0, wait))
            if isinstance(item, Stop):
                return
            if item is RELOAD:
                self.reload_wanted = True
            self.take(item)
            # What leaves must be gone first: it may be in the file again.
            if self.reload_wanted and not self.leaving:
                self.reload_wanted = False
                self.reload()
            self.look()

    def take(self, item: object) -> None:
        if isinstance(item, Left):
            self.leaving.discard(item.account)
            item.account.close()
        elif isinstance(item, pjsip.Event):
            self.show(item)
        self.news = self.news or item is not None

    # -- the end ----------------------------------------------------------------------------------

    def dismiss(self, account: pjsip.Account) -> None:
        """Unregister it if it is, or is about to be, registered; and close it."""
        if account in self.leaving:
            return
        if not (account.registered or account.state in ("registering", "unregistering")):
            account.close()
            return
        self.leaving.add(account)
        goodbye = account.unregister(timeout=self.timeout)
        goodbye.add_done_callback(lambda op: self.inbox.put(Left(account, went_well(op))))

    def leave(self) -> None:
        """Unregister all at once; :raises Interrupted: a second signal came."""
        if not self.board.live:
            self.board.end_line()
        deadline = time.monotonic() + self.timeout + GRACE
        for account in self.endpoint.accounts:
            self.dismiss(account)
        unregistered, asked = 0, len(self.leaving)
        while self.leaving and (left := deadline - time.monotonic()) > 0:
            item = self.inbox.get(min(left, DRAW_INTERVAL))
            if isinstance(item, Stop):
                raise Interrupted(item.signum)
            unregistered += isinstance(item, Left) and item.well
            self.take(item)
            if self.board.live:
                self.look()
        self.endpoint.close(network=False)
        while (item := self.inbox.get(0)) is not None:  # the last events
            self.take(item)
        text = f"unregistered {unregistered} of {asked}"
        self.note(NOTE, text if unregistered == asked else f"{text}; the rest will expire")
        self.board.record("end", unregistered=unregistered, asked=asked)

    # -- the file, again --------------------------------------------------------------------------

    def reload(self) -> None:
        """Make the accounts what the file says now; a file with a mistake changes nothing."""
        if self.board.log is not None:
            self.board.log.reopen()
        try:
            file = load(self.path)
        except (pjsip.PjsipError, OSError) as error:
            for line in str(error).splitlines():
                self.trouble(f"not reloaded: {line}")
            self.board.record("reload", error=str(error))
            return
        wanted = wanted_accounts(file)
        removed = [aor for aor in self.kept if aor not in wanted]
        for aor in removed:
            self.note(NOTE, f"{aor}: removed")
            self.dismiss(self.kept.pop(aor).account)
        changed = [aor for aor, kept in self.kept.items() if self.change(kept, wanted[aor])]
        added = [aor for aor in wanted if aor not in self.kept and self.add(wanted[aor])]
        for aor in added:
            self.note(NOTE, f"{aor}: added")
        untouched = len(self.kept) - len(changed) - len(added)
        self.note(
            NOTE,
            f"reloaded: {len(added)} added, {len(removed)} removed, "
            f"{len(changed)} changed, {untouched} untouched",
        )
        names = sorted({*self.file.endpoint, *file.endpoint})
        restart = [n for n in names if self.file.endpoint.get(n) != file.endpoint.get(n)]
        if restart:
            self.trouble(f"[endpoint] {', '.join(restart)}: takes a restart to change")
        self.board.record("reload", added=added, removed=removed, changed=changed, restart=restart)

    def add(self, config: pjsip.AccountConfig) -> bool:
        try:
            account = self.endpoint.add_account(config)
        except pjsip.PjsipError as error:
            self.trouble(f"{config.aor}: not added: {error}")
            return False
        self.kept[config.aor] = Kept(account, config)
        return True

    def change(self, kept: Kept, config: pjsip.AccountConfig) -> bool:
        fields = changed_fields(kept.config, config)
        if not fields:
            return False
        try:
            kept.account.modify(**fields)
        except pjsip.PjsipError as error:
            self.trouble(f"{config.aor}: not changed: {error}")
            return False
        kept.config = config
        self.note(NOTE, f"{config.aor}: changed: {', '.join(fields)}")
        return True

    # -- showing ----------------------------------------------------------------------------------

    def note(self, mark: str, text: str) -> None:
        self.board.note(time.time(), mark, text)

    def trouble(self, text: str) -> None:
        self.note(BAD, text)
        if self.board.as_json:
            self.board.error(text)

    def show(self, event: pjsip.Event) -> None:
        if self.board.as_json:
            record = event_record(event)
            if record is not None:
                self.board.json(record)
        when = event.time.wall
        if isinstance(event, pjsip.RegState):
            self.show_outcome(event)
        elif isinstance(event, RegistrarChanged):
            text = f"{event.account.aor}: served by {event.registrar}"
            self.board.note(when, NOTE, text, f"{event.reason}, before by {event.previous}")
        elif isinstance(event, ContactChanged):
            text = f"{event.account.aor}: seen at {event.mapped}"
            self.board.note(when, NOTE, text, f"our address is {event.local}", routine=True)
        elif isinstance(event, AccountState):
            self.show_state(event)

    def show_state(self, event: AccountState) -> None:
        kept, when = self.kept_of(event.account), event.time.wall
        if kept is None:
            return
        if event.state == "registered":
            if kept.down is not None and kept.last is not None:
                detail = f"{kept.last.registrar}; after {when - kept.down:.1f} s without"
                self.board.note(when, GOOD, describe_success(kept.last), detail)
            kept.down = None
        elif event.state in ("waiting", "failed") and event.previous != "idle":
            if event.previous == "registered" and kept.last is not None and kept.last.error is None:
                self.board.note(when, BAD, f"{event.account.aor}: {event.reason}")
            kept.down = kept.down or when

    def kept_of(self, account: pjsip.Account) -> Kept | None:
        """None when it is not in the file any more."""
        kept = self.kept.get(account.aor)
        return kept if kept is not None and kept.account is account else None

    def show_outcome(self, event: pjsip.RegState) -> None:
        self.rate.add(event.time.wall, event.requests)
        account = event.account
        if account is None or event.cancelled:
            return
        kept, when = self.kept_of(account), event.time.wall
        if event.error is not None:
            what = "unregister: " if event.is_unregister else ""
            parts = filter(None, (event.registrar, describe_next(event), event.error.hint))
            text = f"{account.aor}: {what}{describe_failure(event)}"
            self.board.note(when, BAD, text, "; ".join(parts))
        elif event.is_unregister:
            self.board.note(when, GOOD, f"{account.aor}: unregistered", routine=True)
        elif kept is not None and kept.last is None:
            self.board.note(when, GOOD, describe_success(event), event.registrar, routine=True)
        if kept is not None and not (event.probe and event.error):
            kept.last = event

    def look(self) -> None:
        """Draw the table, or say how the accounts are if that is news; twice a second at most."""
        if time.monotonic() < self.next_look or not (self.news or self.board.live):
            return
        self.next_look, self.news = time.monotonic() + DRAW_INTERVAL, False
        if self.inbox.lost:
            lost, self.inbox.lost = self.inbox.lost, 0
            self.note(NOTE, f"{lost} events are not shown: standard output took nothing")
            self.board.record("events_lost", count=lost)
        accounts = self.kept.values()
        summary = self.summary()
        if self.board.live:
            width, height = self.board.size
            # A quarter of the screen is for lines; the title, "more" and the summary are three.
            rows = max(1, height - 3 - max(3, height // 4))
            worst = nsmallest(rows, accounts, key=lambda each: each.rank)
            table = account_table(worst, len(accounts), width)
            self.board.draw(Group(table, self.status(summary)))
        elif summary != self.told and not any(each.busy for each in accounts):
            self.told = summary
            self.note(NOTE, str(summary))
            self.board.record("summary", **summary._asdict())

    def summary(self) -> Summary:
        accounts = [each.account for each in self.kept.values()]
        states = Counter(account.state for account in accounts)
        return Summary(
            sum(account.registered for account in accounts),
            len(accounts),
            states["failed"],
            sum(a.state == "waiting" and a.error is not None for a in accounts),
        )

    def status(self, summary: Summary) -> Text:
        parts = [
            str(summary),
            f"{self.rate.now():.1f} REGISTERs/s",
            f"up {duration(time.time() - self.began)}",
            self.metrics_url,
        ]
        text = " · ".join(filter(None, parts))
        return Text(text, style="bold", no_wrap=True, overflow="ellipsis")
