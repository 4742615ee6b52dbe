# SPDX-License-Identifier: GPL-3.0-or-later
"""What one test has of SIP: its endpoint, its registrars, their messages and their failures."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pjsip_py as pjsip
from pjsip_py import _ffi
from pjsip_py import endpoint as _endpoint

from . import RUN, _hide
from .trace import Trace

if TYPE_CHECKING:
    from pjsip_py._engine import Engine
    from pjsip_py.testing import Registrar, VirtualClock

_KIT: pytest.StashKey[Kit] = pytest.StashKey()

SETTLING = 1.0  # s for what is on its way when a test ends
CLOSING = 1.0  # s for an unregister that may never be answered
STOPPING = 1.0  # s for a registrar's thread
DOMAIN = "example.com"

_LIBRARY = Path(pjsip.__file__).parent


class Endpoint(pjsip.Endpoint):
    """The endpoint of a test, which in an async one delivers on the loop that uses it.

    Fixtures may use it before that loop runs, and after: then who waits delivers.
    """

    #: of an async test: the thread that its loop runs on
    _home: int | None = None
    _kit: Kit

    def open(self) -> pjsip.Endpoint:
        self._open("thread" if self._home is None else "manual")
        self._follow()
        return self

    def _open(self, mode: str) -> Engine:
        engine = super()._open(mode)
        self._opened_at = self._kit.name
        if self._kit.options.get("trace") is not False:
            tap(self, self._kit.trace.add)
        return engine

    def trace(self, on: bool = True) -> None:
        self._engine_open()
        self._traced = on  # only for the test: its report has the messages anyway

    def _check(self) -> None:
        super()._check()
        self._follow()

    def _follow(self) -> None:
        """Deliver on the loop that runs here, if any."""
        engine = self._engine
        if engine is None or self._home != threading.get_ident():
            return
        loop, old = _running_loop(), engine.loop
        if loop is old:
            return
        if old is not None and not old.is_closed():
            old.remove_reader(_ffi.event_fd())
        engine._loop = engine._loop_thread = None
        if loop is not None:
            engine.drive_by_loop(loop)


def tap(endpoint: pjsip.Endpoint, add: Callable[[pjsip.Event], None]) -> None:
    """Have *add* called with all events and messages of an endpoint that has opened.

    What the program gets stays as it was.
    """
    _ffi.set_trace(True)
    if "_emit" in vars(endpoint):  # it was open before
        return
    emit = endpoint._emit

    def tapped(event: pjsip.Event, streams: Any = None) -> bool:
        add(event)
        if isinstance(event, pjsip.SipMessage) and not endpoint._traced:
            return False
        return emit(event, streams)

    endpoint._emit = tapped  # type: ignore[method-assign]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _testing() -> Any:
    """:mod:`pjsip_py.testing`, which needs more than pjsip_py itself."""
    missing = ""
    try:
        import pjsip_py.testing as testing
    except ModuleNotFoundError as error:
        missing = str(error)
    if missing:
        pytest.fail(missing, pytrace=False)
    return testing


class Kit:
    """Of one test item, from its setup to its teardown."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self.clock: Any = None
        self.trace = Trace()
        self.endpoint: Endpoint | None = None
        self.registrars: list[Registrar] = []
        #: Titles and texts for the report of a failure, besides what is raised.
        self._notes: list[tuple[str, str]] = []
        self._messages_shown = False
        #: What the registrars' rules were not used for, when the test ended.
        self.unused = ""
        self._held_before: pjsip.Endpoint | None = None
        self._began = float("inf")  # of the test function
        self._function: Any = None

    @staticmethod
    def of(item: pytest.Item) -> Kit:
        kit = item.stash.get(_KIT, None)
        if kit is None:
            kit = item.stash[_KIT] = Kit(item)
        return kit

    @property
    def name(self) -> str:
        """Who has the endpoint, for somebody else who wants one."""
        return f"{self._item.nodeid} (its sip_endpoint)"

    @property
    def options(self) -> dict[str, Any]:
        """Of the markers ``sip``; the nearest counts."""
        options: dict[str, Any] = {}
        for mark in self._item.iter_markers("sip"):
            if mark.args:
                pytest.fail("@pytest.mark.sip takes keywords, as in sip(seed=1)", pytrace=False)
            options = {**mark.kwargs, **options}
        return options

    # -- what a test is given ---------------------------------------------------------------------

    def make_endpoint(self) -> Endpoint:
        options = self.options
        options.pop("strict", None)
        if self.clock is not None:
            options.pop("seed", None)  # the clock's
            options.setdefault("clock", self.clock)
        holder = _endpoint._open_endpoint
        if holder is not None:
            pytest.fail(
                "sip_endpoint: another Endpoint is open in this process, opened at "
                f"{holder._opened_at}, and there can be one only. Close that one first, or use it "
                "in place of this fixture.",
                pytrace=False,
            )
        refused = ""
        try:
            endpoint = Endpoint(strict=True, **options)
        except pjsip.ConfigError as error:
            refused = str(error)
        if refused:
            pytest.fail(f"@pytest.mark.sip: {refused}", pytrace=False)
        self.endpoint, endpoint._kit = endpoint, self
        if inspect.iscoroutinefunction(getattr(self._item, "obj", None)):
            endpoint._home = threading.get_ident()
        else:
            endpoint.open()
        return endpoint

    def make_clock(self) -> VirtualClock:
        digest = hashlib.sha256(self._item.nodeid.encode("utf-8", "surrogateescape")).digest()
        seed = self.options.get("seed", int.from_bytes(digest[:4], "big"))
        clock: VirtualClock = _testing().VirtualClock(seed)
        self.clock = clock
        return clock

    def start_registrar(self, *args: Any, **options: Any) -> Registrar:
        testing = _testing()
        if self.clock is not None:
            options.setdefault("clock", self.clock)
        registrar: Registrar = testing.Registrar(*args, **options)
        self.registrars.append(registrar)
        return registrar.start()

    def add_account(
        self, user: str, registrar: Any, protocol: str | None, fields: dict[str, Any]
    ) -> pjsip.Account:
        aor = user if ":" in user else f"sip:{user}@{DOMAIN}"
        if isinstance(registrar, str):
            if protocol is not None:
                raise ValueError("protocol is for a Registrar; in a URI say ;transport=tcp")
            fields["registrar"] = registrar
        elif registrar is not None:
            from pjsip_py.testing import RegistrarError

            fields["registrar"] = registrar.uri(protocol)
            users, name = registrar._users, aor.partition(":")[2].partition("@")[0]
            if users is not None and "credentials" not in fields:
                if name not in users:
                    registrar.set_password(name, secrets.token_hex(8))
                fields["credentials"] = pjsip.Credentials(name, users[name])
            if ";transport=tls" in fields["registrar"] and "tls" not in fields:
                with suppress(RegistrarError):  # it has a certificate of the test's own
                    fields["tls"] = pjsip.TlsConfig(ca_file=str(registrar.ca_file))
        assert self.endpoint is not None
        account: pjsip.Account = self.endpoint.add_account(aor, **fields)
        return account

    # -- the course of the test -------------------------------------------------------------------

    def before_call(self) -> None:
        self._held_before = _endpoint._open_endpoint
        if self.endpoint is not None and self.endpoint._home is not None:
            item: Any = self._item
            self._function = item.obj
            item.obj = self._around(item.obj, self.endpoint)

    def _around(self, function: Any, endpoint: Endpoint) -> Any:
        """The function of an async test, and what belongs on its loop before and after."""

        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = _hide
            if _running_loop() is None:
                pytest.fail(
                    "sip_endpoint delivers on asyncio's loop, and this test runs on another; under "
                    "anyio a fixture anyio_backend that returns 'asyncio' chooses",
                    pytrace=False,
                )
            # A fixture that has opened it may want to use it after the test.
            others = endpoint._engine is not None
            endpoint.open()
            try:
                return await function(*args, **kwargs)
            finally:
                await self._settle_on_loop(endpoint)
                if not others:
                    strict, endpoint.strict = endpoint.strict, False  # raised later
                    try:
                        await endpoint.aclose(CLOSING, network=self._has_far_account(endpoint))
                    finally:
                        endpoint.strict = strict

        return run

    async def _settle_on_loop(self, endpoint: Endpoint) -> None:
        """Let handlers run that have been called, and tasks end that they have started."""
        engine = endpoint._engine
        if engine is None:
            return
        arrived = asyncio.Event()
        engine.call_later(0, arrived.set)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(arrived.wait(), SETTLING)
        tasks = list(endpoint._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLING)

    def settle(self, began: float) -> None:
        """The test function has ended: let handlers run whose events have been queued."""
        self._began = began
        if self._function is not None:
            self._item.obj, self._function = self._function, None  # type: ignore[attr-defined]
        endpoint = self.endpoint
        engine = endpoint._engine if endpoint else None
        if endpoint is None or engine is None or engine.stopping:
            return
        endpoint._follow()
        arrived = threading.Event()
        engine.call_later(0, arrived.set)
        if engine.pumped_by_caller():
            engine.pump_until(arrived.is_set, SETTLING)
        else:
            arrived.wait(SETTLING)

    def raise_failures(self) -> None:
        """What went wrong in handlers and on the registrars' threads; else rules not used."""
        __tracebackhide__ = _hide
        self._raise(list(self._failures()))
        self.unused = "\n".join(filter(None, map(unused_rules, self.registrars)))
        strict = self.options.get("strict", self._item.config.getini("sip_strict"))
        if self.unused and strict:
            unused, self.unused = self.unused, ""
            pytest.fail(f"sip_strict: {unused}", pytrace=False)

    def note_failures(self) -> None:
        """The test has failed: the same for its report."""
        for error in self._failures():
            self._note(error)

    def _failures(self) -> Iterator[BaseException]:
        if self.endpoint is not None and self.endpoint.strict:
            while self.endpoint._unraised:
                yield self.endpoint._unraised.popleft().exception
        for registrar in self.registrars:
            try:
                registrar.check()
            except Exception as error:
                yield _cause(error)

    def _raise(self, errors: list[BaseException]) -> None:
        __tracebackhide__ = _hide
        for error in errors[1:]:
            self._note(error)
        if errors:
            raise errors[0]

    def _note(self, error: BaseException) -> None:
        if isinstance(error, pytest.fail.Exception):
            self._notes.append(("SIP: also", str(error)))
        else:
            self._notes.append((f"SIP: also {type(error).__name__}", format_error(error)))

    def close(self) -> None:
        """The endpoint, then the registrars: who unregisters gets an answer."""
        __tracebackhide__ = _hide
        errors: list[BaseException] = []
        endpoint = self.endpoint
        if endpoint is not None and endpoint._engine is not None:
            thread = endpoint._engine._thread
            strict, endpoint.strict = endpoint.strict, False
            try:
                endpoint._follow()
                endpoint.close(CLOSING, network=self._has_far_account(endpoint))
            except Exception as error:
                errors.append(error)
            finally:
                endpoint.strict = strict
            if thread is not None and thread.is_alive():
                errors.append(_still_running("a handler of sip_endpoint", thread))
        errors += self._failures()
        for registrar in self.registrars:
            server = registrar._server
            try:
                registrar.stop(STOPPING)
            except Exception as error:
                running = server and server._thread
                if running and running.is_alive():
                    errors.append(_still_running(f"a callback of {registrar!r}", running))
                else:
                    errors.append(_cause(error))
        self._raise(errors)

    def _has_far_account(self, endpoint: Endpoint) -> bool:
        """Whether there is one at a registrar that will outlive the test."""
        ends = tuple(f":{port}" for r in self.registrars for port in r._ports.values())
        return not all(
            account.registrar.partition(";")[0].endswith(ends) for account in endpoint.accounts
        )

    def end(self, *, failed: bool) -> None:
        """All fixtures of the test have ended; an endpoint that it left open must not stay."""
        __tracebackhide__ = _hide
        left = _endpoint._open_endpoint
        if left is None or left is self._held_before or left._made < self._began:
            return  # else that of a fixture of a wider scope
        where = left._opened_at
        left.strict = False
        try:
            left.close(CLOSING, network=False)
        except pjsip.PjsipError as error:
            where += f" ({error})"
        text = f"the test left an Endpoint open, opened at {where}; it is closed now"
        if failed:
            self._notes.append(("SIP: an Endpoint left open", text))
        else:
            pytest.fail(f"{text}. Use 'with', or the fixture sip_endpoint.", pytrace=False)

    def report(self, report: pytest.TestReport) -> None:
        """Add to the report of a failed phase what helps to understand it, and all to the last."""
        if report.failed:
            if not self._messages_shown:
                self._messages_shown = True
                messages = self.trace.text()
                if messages:
                    report.sections.append(("SIP messages", messages))
                for registrar in self.registrars:
                    if registrar.rules or not messages:
                        report.sections.append(("SIP registrar", registrar.report()))
            report.sections += self._notes
            self._notes.clear()
        if report.when == "teardown":
            if self.unused:
                report.sip_unused = self.unused  # type: ignore[attr-defined]
            run = self._item.config.pluginmanager.get_plugin(RUN)
            if run is not None:
                run.finish(self, report)
            del self._item.stash[_KIT]  # items live on to the end of the run


def unused_rules(registrar: Registrar) -> str:
    """Those that have never matched, and those that were to match more often."""
    rules = [rule for rule in registrar.rules if rule.left or not rule.taken]
    lines = [f"rules of {registrar!r} that were not used:"]
    lines += [f"  {rule.number}. {rule}   [{rule.where}]: {rule.outcome()}" for rule in rules]
    return "\n".join(lines) if rules else ""


def _cause(error: Exception) -> BaseException:
    """Of a RegistrarError: what a callback raised, rather than that one did."""
    cause = error.__cause__
    if isinstance(cause, Exception):
        if cause.__traceback__ is None:  # found wrong, not raised: its text says all
            return pytest.fail.Exception(str(cause), pytrace=False)
        return cause
    return error


def format_error(error: BaseException) -> str:
    """Its traceback, from where the program's own code begins."""
    if error.__cause__ is not None and not isinstance(error.__cause__, Exception):
        error = error.__cause__  # a callback of the registrar's that wanted to exit
    trace = error.__traceback__
    while trace and trace.tb_next and _LIBRARY in Path(trace.tb_frame.f_code.co_filename).parents:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace, chain=False))


def _still_running(what: str, thread: threading.Thread) -> BaseException:
    """What fails a test whose callback blocks the thread that it was called on."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = traceback.extract_stack(frame) if frame else []
    own = [
        entry
        for entry in stack
        if _LIBRARY not in Path(entry.filename).parents and "threading.py" not in entry.filename
    ]
    where = "".join(traceback.format_list(own)).rstrip()
    return pytest.fail.Exception(f"{what} is still running:\n{where}", pytrace=False)
