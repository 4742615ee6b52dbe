# SPDX-License-Identifier: GPL-3.0-or-later
"""A user class for Locust: registrations as load, from one machine or from many.

Each process has one endpoint, shared by all of its users; it is opened when a test starts and
closed when it stops.  The master deals out the users' numbers: no two workers register the same
user.
"""

from __future__ import annotations

import argparse
import copy
import csv
import heapq
import itertools
import os
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

try:
    import locust
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "pjsip_py.locust needs the library locust: pip install 'pjsip-py[locust]'", name="locust"
    ) from missing

import gevent
from gevent import monkey
from gevent.event import AsyncResult
from gevent.pool import Group
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from pjsip_py._lazy import logger

from ._operation import Operation
from .auth import Credentials
from .endpoint import Endpoint
from .errors import ClosedError, ConfigError, PjsipError
from .events import RegistrationResult, RegStarted, RegState
from .regc import RegistrationClient
from .tls import TlsConfig
from .transport import Transport
from .uri import SipUri, parse_aor, parse_registrar

__all__ = ["Identity", "SipUser"]

PASSWORD_VARIABLE = "PJSIP_PY_PASSWORD"
GOODBYE = 5.0  # s that unregistering may take at the end
PATIENCE = 10.0  # s until the master has dealt out a number
USAGE = 2  # exit code of a test that cannot be made as it was asked for

# Messages between workers and master.
TAKE, DEAL, BACK, FAILED = "sip_take", "sip_deal", "sip_back", "sip_failed"

# What tells one failure from the next of its kind: Locust would give each a row of its own.
_VARYING = re.compile(
    r"\S+@\S+|\d+\.\d+\.\d+\.\d+(?::\d+)?|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\](?::\d+)?|\w*\d{5}\w*"
)
E = TypeVar("E", bound=PjsipError)

_log = logger("pjsip_py.locust")


class Identity(NamedTuple):
    """Who a user is."""

    aor: str
    credentials: Credentials | None = None


class SipUser(locust.User):
    """A user that registers; its ``host`` is the registrar's URI, which names the transport, too.

    Requests are in Locust's statistics with the time from the first REGISTER on the wire to the
    outcome, as PJSIP's thread saw both, an answered challenge included.  One that fails is a
    failure there and no exception here.
    """

    abstract = True

    #: ``{n}`` is the user's number, from 1 on, ``{host}`` the registrar's host.
    aor: str = "sip:user{n}@{host}"
    expires: int = 300  #: seconds to ask for
    timeout: float | None = None  #: seconds for one request; None: SIP's timer F, 32 s
    auto_refresh: bool = False  #: PJSIP refreshes in time; each is counted, as ``refresh``
    sources: Sequence[str] = ()  #: local addresses, which users share; (): the system chooses
    tls: TlsConfig | None = None
    #: More keywords of :meth:`Endpoint.registration`: headers, route, contact_params, …
    registration_options: Mapping[str, Any] = {}
    #: Fields of :class:`EndpointConfig`, for the one endpoint of the process.
    endpoint_options: Mapping[str, Any] = {}

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._stack = _stack_of(environment)
        self._line: _Line | None = None

    def identity(self, number: int) -> Identity:
        """The user with this *number*, from 1 on; override it to take users from elsewhere."""
        return self._stack.identity(number, self.aor, self.registrar)

    @property
    def registrar(self) -> SipUri:
        """:raises InvalidUriError, ConfigError: the host is none, or not given."""
        if not self.host:
            raise ConfigError("no registrar: give --host, as in --host sip:127.0.0.1:5060")
        return parse_registrar("host", self.host)

    @property
    def client(self) -> RegistrationClient:
        """The registration, which the first use makes."""
        if self._line is None:
            self._line = self._stack.line(self)
        return self._line.client

    # -- requests ---------------------------------------------------------------------------------

    def register(self, name: str = "register") -> RegistrationResult | None:
        """Send a REGISTER and wait for its outcome; None: it failed.

        The first makes the registration; the next go on with its Call-ID, CSeq and nonce.
        """
        operation = self.client.register(self.auto_refresh, timeout=self.timeout)
        return self._ask(name, operation)

    def refresh(self, name: str = "refresh") -> RegistrationResult | None:
        """:meth:`register` again, under a name of its own in the statistics."""
        return self.register(name)

    def unregister(self, name: str = "unregister") -> RegistrationResult | None:
        """Remove the binding and wait for the outcome; None: it failed.

        What is still registered when a user stops is unregistered without being counted.
        """
        return self._ask(name, self.client.unregister(timeout=self.timeout))

    def _ask(
        self, name: str, operation: Operation[RegistrationResult]
    ) -> RegistrationResult | None:
        line = self._line
        assert line is not None
        line.asked = time.monotonic()
        outcomes: list[_Outcome | None] = []
        operation.add_done_callback(lambda _: outcomes.append(line.take()))
        try:
            return operation.result()
        except ClosedError:  # the test is over
            raise gevent.GreenletExit from None
        except PjsipError:
            return None
        except BaseException:  # the user is stopped
            operation.add_done_callback(_no_matter)
            operation.cancel()
            raise
        finally:
            for outcome in filter(None, outcomes):
                self._count(name, *outcome)

    def _count(self, name: str, state: RegState, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="REGISTER",
            name=name,
            response_time=seconds * 1000,
            response_length=len(state.response.raw) if state.response else 0,
            response=state.response,
            context=self.context(),
            exception=None if state.error is None else tidy(state.error),
            start_time=state.time.wall - seconds,
            url=state.registrar,
        )

    def start(self, group: Group) -> gevent.Greenlet[..., Any]:
        greenlet = super().start(group)
        greenlet.link(lambda _: self._stack.leave(self._line))
        return greenlet


def _no_matter(operation: Operation[Any]) -> None:
    with suppress(CancelledError):
        operation.exception()  # else it would be logged that nobody asked


def tidy(error: E) -> E:
    """*error* as Locust's table of failures shows it: the same for all failures of its kind."""
    arguments = tuple(
        _VARYING.sub("…", each) if isinstance(each, str) else each for each in error.args
    )
    if arguments == error.args:
        return error
    twin = copy.copy(error)
    twin.args = arguments
    return twin


# -- the endpoint of a process ---------------------------------------------------------------------


class _Outcome(NamedTuple):
    state: RegState
    seconds: float


class _Line:
    """The registration of one user, until it is unregistered."""

    def __init__(self, user: SipUser, number: int, client: RegistrationClient) -> None:
        self.user = user
        self.number = number
        self.client = client
        self.bound = False  # the registrar may have a binding
        self.leaving = False
        self.asked = 0.0  # when the request was made
        self.sent: float | None = None  # and when it left
        self._outcome: _Outcome | None = None

    def concluded(self, state: RegState) -> None:
        sent, self.sent = self.sent or self.asked, None
        seconds = max(0.0, state.time.monotonic - sent)
        if state.error is None:
            self.bound = not state.is_unregister
        elif state.cancelled and not state.is_unregister:
            self.bound = True  # it may have arrived all the same
        if state.cancelled or self.leaving:
            return
        if state.renewal:
            # Not here: whoever listens to Locust's requests may wait for something.
            gevent.spawn(self.user._count, "refresh", state, seconds)
        else:
            self._outcome = _Outcome(state, seconds)

    def take(self) -> _Outcome | None:
        """The outcome of the request that is just ending."""
        outcome, self._outcome = self._outcome, None
        return outcome


class _Stack:
    """The endpoint that the users of an environment share, and who they are."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.endpoint: Endpoint | None = None
        self.failed = False
        self._lines: dict[RegistrationClient, _Line] = {}
        self._leaving = Group()
        self._closing: gevent.Greenlet[..., None] | None = None
        self._left_behind: Counter[str] = Counter()
        self._transports: dict[tuple[str, str, int, TlsConfig | None], Transport] = {}
        self._waiting: deque[AsyncResult[int]] = deque()
        self._users: list[Identity] | None = None
        self._password: str | None = None
        self._tls: TlsConfig | None = None
        environment.events.test_stop.add_listener(self._on_test_stop)
        environment.events.quitting.add_listener(self._on_quitting)
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.register_message(DEAL, self._on_deal)

    def _option(self, name: str, default: Any = None) -> Any:
        given = getattr(self.environment.parsed_options, f"sip_{name}", None)
        return default if given is None else given

    # -- open and close ---------------------------------------------------------------------------

    def begin(self) -> None:
        """A test starts."""
        self.failed = False
        self.open()

    def open(self) -> None:
        if self._closing is not None:
            self._closing.join()
        if self.endpoint is not None or self.failed:
            return
        try:
            if not monkey.is_module_patched("threading"):
                raise ConfigError("gevent has not patched threads: unset LOCUST_SKIP_MONKEY_PATCH")
            self._tls = self._tls_option()
            self._password = read_password(self._option("password_file"))
            path = self._option("users_file")
            self._users = None if path is None else read_users(path, self._password)
            options: dict[str, Any] = {"log_level": 1}
            for cls in self.environment.user_classes:
                options |= getattr(cls, "endpoint_options", {})
            self.endpoint = Endpoint(**options).open()
        except PjsipError as error:
            self.fail(error)
        else:
            self.endpoint.on(RegStarted, self._on_started)
            self.endpoint.on(RegState, self._on_state)

    def _on_test_stop(self, **_: Any) -> None:
        """Later: a worker's last report must not wait for it, for the master does not for long."""
        if self.endpoint is not None and self._closing is None:
            self._closing = gevent.spawn(self._close)

    def _on_quitting(self, **_: Any) -> None:
        runner = self.environment.runner
        if self.endpoint is not None and runner is not None:
            runner.stop()  # a signal comes here before the users have stopped
        if self._closing is not None:
            self._closing.join()

    def _close(self) -> None:
        for line in list(self._lines.values()):
            self.leave(line)
        self._leaving.join(GOODBYE)
        endpoint, self.endpoint = self.endpoint, None
        try:
            if endpoint is not None:
                endpoint.close(network=False)
        finally:
            self._leaving.join(1.0)  # whoever still waited has ClosedError now
            self._lines.clear()
            self._transports.clear()
            self._closing = None
        for reason, number in self._left_behind.most_common(3):
            _log.warning("%d users could not be unregistered: %s", number, reason)
        self._left_behind.clear()

    def fail(self, error: PjsipError) -> None:
        """End the test: what was asked for cannot be done."""
        if self.failed:
            return
        self.failed = True
        # To Locust's page, and to a master that knows nothing of us.
        self.environment.events.user_error.fire(user_instance=None, exception=error, tb=None)
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            _log.error("%s", error)
            self.environment.process_exit_code = USAGE
            runner.send_message(FAILED, {"text": str(error)})
        else:
            _end_test(self.environment, str(error))

    # -- lines ------------------------------------------------------------------------------------

    def line(self, user: SipUser) -> _Line:
        """A registration for *user*; the greenlet ends if there is none to be had."""
        try:
            self.open()
            if self.failed:
                raise gevent.GreenletExit
            number = self._take_number()
            try:
                line = _Line(user, number, self._registration(user, number))
            except BaseException:
                self._give_back(number)
                raise
        except ClosedError:
            raise gevent.GreenletExit from None
        except PjsipError as error:
            self.fail(error)
            raise gevent.GreenletExit from None
        self._lines[line.client] = line
        return line

    def _registration(self, user: SipUser, number: int) -> RegistrationClient:
        assert self.endpoint is not None
        registrar, identity = user.registrar, user.identity(number)
        options: dict[str, Any] = {"expires": self._option("expires", user.expires)}
        tls = (self._tls or user.tls) if registrar.transport == "tls" else None
        sources = self._option("sources", user.sources)
        if sources:
            place = number % len(sources)
            options["transport"] = self._transport(registrar.transport, sources[place], place, tls)
        elif tls is not None:
            options["tls"] = tls
        if identity.credentials is not None:
            options["credentials"] = identity.credentials
        options |= user.registration_options
        return self.endpoint.registration(registrar.text, identity.aor, **options)

    def _tls_option(self) -> TlsConfig | None:
        ca_file, insecure = self._option("ca_file"), self._option("insecure", False)
        return TlsConfig(ca_file=ca_file, insecure=insecure) if ca_file or insecure else None

    def _transport(
        self, protocol: str, source: str, place: int, tls: TlsConfig | None
    ) -> Transport:
        assert self.endpoint is not None
        key = protocol, source, place, tls
        if key not in self._transports:
            self._transports[key] = self.endpoint.listen(protocol, host=source, tls=tls)
        return self._transports[key]

    def leave(self, line: _Line | None) -> None:
        """Unregister it and forget it, meanwhile."""
        if line is not None and not line.leaving and self.endpoint is not None:
            line.leaving = True
            self._leaving.spawn(self._say_goodbye, line)

    def _say_goodbye(self, line: _Line) -> None:
        try:
            if line.bound or line.sent is not None:
                timeout = min(line.user.timeout or GOODBYE, GOODBYE)
                line.client.unregister(timeout=timeout).result()
        except PjsipError as error:
            self._left_behind[repr(tidy(error))] += 1
        finally:
            line.client.close()
            self._lines.pop(line.client, None)
            line.user._line = None
            self._give_back(line.number)

    def _on_started(self, event: RegStarted) -> None:
        line = self._lines.get(event.client)
        if line is not None:
            line.sent = event.time.monotonic

    def _on_state(self, event: RegState) -> None:
        line = self._lines.get(event.client)
        if line is not None:
            line.concluded(event)

    # -- who they are -----------------------------------------------------------------------------

    def identity(self, number: int, aor: str, registrar: SipUri) -> Identity:
        if self._users is not None:
            if number > len(self._users):
                raise ConfigError(
                    f"--sip-users-file has {len(self._users)} users and the test takes more: "
                    "give it more lines, or Locust a smaller --users"
                )
            return self._users[number - 1]
        host = f"[{registrar.host}]" if ":" in registrar.host else registrar.host
        text = fill(self._option("users", aor), number + self._option("first", 1) - 1, host)
        return make_identity(text, "", self._password)

    def _take_number(self) -> int:
        runner = self.environment.runner
        if not isinstance(runner, WorkerRunner):
            return _dealers[self.environment].take()
        number: AsyncResult[int] = AsyncResult()
        self._waiting.append(number)
        runner.send_message(TAKE)
        try:
            dealt = number.get(timeout=PATIENCE)
            assert dealt is not None
            return dealt
        except gevent.Timeout:
            raise ConfigError(
                "the master deals out no users: start it with the same locustfile"
            ) from None
        finally:
            with suppress(ValueError):
                self._waiting.remove(number)

    def _on_deal(self, msg: Any, **_: Any) -> None:
        if self._waiting:
            self._waiting.popleft().set(msg.data["number"])
        else:  # it was stopped meanwhile
            self._give_back(msg.data["number"])

    def _give_back(self, number: int) -> None:
        runner = self.environment.runner
        if not isinstance(runner, WorkerRunner):
            _dealers[self.environment].give_back(number)
        elif self._closing is None:  # else the next test begins anew
            runner.send_message(BACK, {"number": number})


class _Dealer:
    """Deals out the numbers of users, the lowest first."""

    def __init__(self) -> None:
        self._new = itertools.count(1)
        self._returned: list[int] = []

    def take(self) -> int:
        if self._returned:
            return heapq.heappop(self._returned)
        return next(self._new)

    def give_back(self, number: int) -> None:
        heapq.heappush(self._returned, number)


_stacks: WeakKeyDictionary[Environment, _Stack] = WeakKeyDictionary()
_dealers: WeakKeyDictionary[Environment, _Dealer] = WeakKeyDictionary()


def _stack_of(environment: Environment) -> _Stack:
    stack = _stacks.get(environment)
    if stack is None:
        stack = _stacks[environment] = _Stack(environment)
        _dealers.setdefault(environment, _Dealer())
    return stack


def _end_test(environment: Environment, text: str) -> None:
    _log.error("%s", text)
    environment.process_exit_code = USAGE
    runner, options = environment.runner, environment.parsed_options
    if runner is not None:
        end = runner.quit if getattr(options, "headless", False) else runner.stop
        gevent.spawn(end)


@locust.events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: Any) -> None:
    if not isinstance(runner, MasterRunner):
        return

    def deal(msg: Any, **_: Any) -> None:
        number = _dealers[environment].take()
        runner.send_message(DEAL, {"number": number}, client_id=msg.node_id)

    def take_back(msg: Any, **_: Any) -> None:
        _dealers[environment].give_back(msg.data["number"])

    def failed(msg: Any, **_: Any) -> None:
        _end_test(environment, msg.data["text"])

    runner.register_message(TAKE, deal)
    runner.register_message(BACK, take_back)
    runner.register_message(FAILED, failed)


@locust.events.test_start.add_listener
def _on_test_start(environment: Environment, **_: Any) -> None:
    _dealers[environment] = _Dealer()
    if environment.process_exit_code == USAGE:
        environment.process_exit_code = None  # of the test before
    if isinstance(environment.runner, MasterRunner):
        return
    if any(issubclass(cls, SipUser) for cls in environment.user_classes):
        _stack_of(environment).begin()


# -- options ---------------------------------------------------------------------------------------


@locust.events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    group = parser.add_argument_group(
        "SIP users", "For the master, which tells its workers; files are read by each worker."
    )

    def add(name: str, **options: Any) -> None:
        variable = "LOCUST_SIP_" + name.replace("-", "_").upper()
        group.add_argument(f"--sip-{name}", env_var=variable, **options)

    add(
        "users",
        metavar="PATTERN",
        type=_pattern,
        help="AORs, {n} being the number and {host} the registrar's host: sip:user{n}@example.com",
    )
    add("first", metavar="NUMBER", type=_whole, help="The number {n} of the first user; 1 without")
    add(
        "users-file",
        metavar="FILE",
        help="Users as CSV, with a line that names the columns: aor, username, password; the first "
        "is enough",
    )
    add(
        "password-file",
        metavar="FILE",
        help="Its first line is the password of users that have none of their own; without it the "
        f"environment variable {PASSWORD_VARIABLE} is",
    )
    add("expires", metavar="SECONDS", type=_whole, help="Expiry to ask for")
    add("sources", metavar="ADDRESS,…", type=_addresses, help="Local addresses, which users share")
    add("ca-file", metavar="FILE", help="The CA that a registrar reached by TLS is verified with")
    add("insecure", action="store_true", default=None, help="Accept any certificate")


def _pattern(text: str) -> str:
    try:
        if fill(text, 1, "example.com") == fill(text, 2, "example.com"):
            raise ConfigError("all users would be the same: write {n} where their number belongs")
        parse_aor("AOR", fill(text, 1, "example.com"))
    except PjsipError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 on is wanted")
    return int(text)


def _addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]


def fill(pattern: str, number: int, host: str) -> str:
    """:raises ConfigError: it has other braces than {n} and {host}."""
    try:
        return pattern.format(n=number, host=host)
    except (LookupError, ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"{pattern!r}: {{n}} and {{host}} may be in braces, nothing else"
        ) from None


def make_identity(aor: str, username: str, password: str | None) -> Identity:
    name = username or parse_aor("AOR", aor).user
    return Identity(aor, Credentials(name, password) if password else None)


def read_password(path: str | None) -> str | None:
    """:raises ConfigError: the file cannot be read."""
    if path is None:
        return os.environ.get(PASSWORD_VARIABLE)
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--sip-password-file: {_why(error)}") from None


def read_users(path: str, password: str | None) -> list[Identity]:
    """:raises ConfigError: it cannot be read, or a line is none of a user."""
    line = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            unknown = set(rows.fieldnames or ()) - {"aor", "username", "password"}
            if "aor" not in (rows.fieldnames or ()) or unknown:
                raise ConfigError("the first line must name the columns: aor, username, password")
            users = []
            for row in rows:
                line = rows.line_num
                if None in row:
                    raise ConfigError("more fields than columns")
                own = row.get("password") or password
                users.append(make_identity(row["aor"] or "", row.get("username") or "", own))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--sip-users-file: {_why(error)}") from None
    except (PjsipError, csv.Error) as error:
        raise ConfigError(f"{path}:{line}: {error}") from None
    if not users:
        raise ConfigError(f"{path}: no user")
    return users


def _why(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return "not text in UTF-8"
