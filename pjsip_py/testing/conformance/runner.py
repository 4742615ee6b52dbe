# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the checks against a registrar, one after the other."""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pjsip_py._lazy import logger
from pjsip_py.errors import ConfigError

from .agent import Agent, Site, for_check
from .check import (
    CertificateRefused,
    Check,
    NoAnswer,
    Outcome,
    Result,
    Status,
    all_checks,
)
from .client import Address, Reply
from .target import Target, local_host

log = logger("pjsip_py.testing.conformance")

#: How often a check is tried in which messages were lost.
ATTEMPTS = 3


class NoRegistrar(Exception):
    """Nothing answers at the target, or it stopped to."""


class NoAuthentication(Exception):
    """The registrar wants a proof that cannot be given: there is no password, or it is wrong."""


class Refused(Exception):
    """The registrar refuses this user a plain registration: there is nothing to check."""


@dataclass
class Report:
    """What a run came to. ``left`` are bindings that could not be removed."""

    target: Target
    results: list[Result] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    server: str = ""
    left: list[str] = field(default_factory=list)
    #: Why the run ended before its time: "" when it did not.
    broken_off: str = ""

    def count(self, status: Status) -> int:
        return Counter(each.status for each in self.results)[status]

    @property
    def failed(self) -> list[Result]:
        return [each for each in self.results if each.status is Status.FAIL]


def select(only: Iterable[str] = (), skip: Iterable[str] = ()) -> tuple[Check, ...]:
    """The checks whose id or group matches one of `only` (none: all) and none of `skip`.

    Patterns are a shell's, ``expiry.*``, or a group's name. Raises
    :class:`~pjsip_py.ConfigError` for one that matches nothing.
    """
    checks = all_checks()
    only, skip = tuple(only), tuple(skip)
    for pattern in (*only, *skip):
        if not any(_matches(each, pattern) for each in checks):
            raise ConfigError(f"no check is called {pattern!r}")
    return tuple(
        each
        for each in checks
        if (not only or any(_matches(each, pattern) for pattern in only))
        and not any(_matches(each, pattern) for pattern in skip)
    )


def _matches(check: Check, pattern: str) -> bool:
    return check.group == pattern or fnmatch.fnmatchcase(check.id, pattern)


class Runner:
    """One run: :meth:`open` looks who is there, :meth:`run_check` runs one check."""

    def __init__(self, target: Target) -> None:
        self.report = Report(target)
        self._site: Site | None = None
        self._clock = time.monotonic()
        self._numbers = iter(range(1, 10**6))

    @property
    def site(self) -> Site:
        assert self._site is not None
        return self._site

    def open(self) -> Site:
        """Find out which transports answer and whether the password is right.

        Raises :class:`NoRegistrar`, :class:`NoAuthentication` or :class:`Refused`.
        """
        target = self.report.target
        found: dict[str, Address] = {}
        missing: dict[str, str] = {}
        for transport in ("udp", "tcp", "tls"):
            if transport not in target.transports:
                missing[transport] = "not asked for"
                continue
            why = self._knock(transport, found)
            if why:
                missing[transport] = why
        if not found:
            tried = "; ".join(f"{name.upper()}: {missing[name]}" for name in target.transports)
            raise NoRegistrar(f"no answer from {target.registrar} ({tried})")
        self._site = Site(target, found, missing)
        self._enter()
        return self.site

    def _knock(self, transport: str, found: dict[str, Address]) -> str:
        """Whether a transport answers anything at all; if not, why."""
        target = self.report.target
        try:
            address = target.address(transport)
            local_host(address)
        except OSError as error:
            return f"{target.uri.host}: {error.strerror or error}"
        agent = Agent(Site(target, {transport: address}), transport)
        try:
            reply = agent.exchange_one(agent.draft())
        except CertificateRefused:  # somebody is there, and tls.certificate tells the rest
            found[transport] = address
            return ""
        except (Outcome, OSError) as error:
            return str(error)
        finally:
            agent.close()
        if reply is None:
            return f"no answer in {target.timeout:g} s"
        self.report.server = self.report.server or reply.headers.get("Server", "")
        found[transport] = address
        return ""

    def _enter(self) -> None:
        """Log in once, and see who else is bound."""
        site = self.site
        agent = Agent(site, site.first)
        try:
            reply = agent.send(agent.draft())
            site.asks_password = reply.code in (401, 407)
            if site.asks_password:
                if site.target.password is None:
                    raise NoAuthentication(f"the registrar wants a password: {reply.line}")
                reply = agent.ask(agent.draft())
                if reply.code in (401, 403, 407):
                    raise NoAuthentication(
                        f"the registrar does not take the credentials of {site.target.user!r} "
                        f"for {site.target.aor}: {reply.line}"
                    )
            if reply.code != 200:
                self._try_plainly(agent, reply)
            site.foreign = [each.uri for each in reply.bindings]
        except NoAnswer as error:
            raise NoRegistrar(str(error)) from error
        except Outcome as error:
            raise NoRegistrar(f"{site.target.registrar}: {error}") from error
        finally:
            agent.close()

    def _try_plainly(self, agent: Agent, fetched: Reply) -> None:
        """Whether at least a registration is served, where a fetch is not."""
        reply = agent.ask(agent.draft(agent.contact(), expires=60))
        if reply.code != 200:
            raise Refused(
                f"the registrar does not serve {self.site.target.aor}: a fetch of its bindings "
                f"gets {fetched.line}, a registration {reply.line}"
            )
        agent.ask(agent.draft(agent.contact(1, ";expires=0")))

    def hindrance(self, check: Check) -> str:
        """Why a check cannot be run here; empty if it can."""
        site = self.site
        for need in check.needs:
            if need == "credentials" and site.target.password is None:
                return "no password was given"
            if need == "credentials" and not site.asks_password:
                return "the registrar asks for no password"
            if need == "own AOR" and site.foreign:
                return f"the AOR has bindings of others, such as {site.foreign[0]}"
            if need == "stream" and not site.stream:
                return f"TCP: {site.missing['tcp']}; TLS: {site.missing['tls']}"
            if need in site.missing:
                return f"{need.upper()}: {site.missing[need]}"
        return ""

    def run_check(self, check: Check) -> Result:
        """Run one check; a failed one is tried again when messages were lost on the way.

        Raises :class:`NoRegistrar` when nobody answers any more.
        """
        start = time.monotonic()
        why = self.hindrance(check)
        if why:
            result = Result(check, Status.NOT_APPLICABLE, why, 0.0)
        else:
            for attempt in range(1, ATTEMPTS + 1):
                agent = for_check(self.site, check, next(self._numbers))
                status, reason = self._try(agent, check)
                seconds = time.monotonic() - start
                result = Result(check, status, reason, seconds, agent.exchange, attempt)
                self.site.lossy = self.site.lossy or agent.lost > 0
                if status is not Status.FAIL or not self.site.lossy:
                    break
        self.report.results.append(result)
        self.report.seconds = time.monotonic() - self._clock
        if result.status is Status.FAIL and not self._answers():
            self.report.broken_off = f"the registrar answers no more since {check.id}"
            raise NoRegistrar(self.report.broken_off)
        return result

    def _try(self, agent: Agent, check: Check) -> tuple[Status, str]:
        status, reason = Status.PASS, ""
        try:
            check.function(agent)
        except Outcome as outcome:
            status, reason = outcome.status, str(outcome)
            if isinstance(outcome, NoAnswer) and not self._answers():
                agent.abandon()  # nobody to tidy up at
        except Exception as error:  # the other checks are not to suffer for it
            log.exception("the check %s broke", check.id)
            status, reason = Status.FAIL, f"the check broke: {type(error).__name__}: {error}"
        finally:
            agent.close()
            self._tidy(agent)
        return status, reason

    def _tidy(self, agent: Agent) -> None:
        try:
            self.report.left += agent.tidy_up()
        except (Outcome, OSError):
            self.report.left.append(f"contacts with {agent.mark}")

    def _answers(self) -> bool:
        agent = Agent(self.site, self.site.first)
        try:
            return agent.exchange_one(agent.draft()) is not None
        except (Outcome, OSError):
            return False
        finally:
            agent.close()


def run(target: Target, *, only: Iterable[str] = (), skip: Iterable[str] = ()) -> Report:
    """Run the checks against a registrar; what came of them.

    `only` and `skip` are as in :func:`select`. Raises :class:`NoRegistrar` when nothing answers
    at the start (later the report's ``broken_off`` tells), :class:`NoAuthentication` when it
    cannot log in, :class:`Refused` when not even a plain registration is served.
    """
    checks = select(only, skip)
    runner = Runner(target)
    runner.open()
    for _ in run_each(runner, checks):
        pass
    return runner.report


def run_each(runner: Runner, checks: Sequence[Check]) -> Iterator[Result]:
    """Run checks, giving each result as it is there; ends early when nobody answers any more."""
    for check in checks:
        try:
            yield runner.run_check(check)
        except NoRegistrar:
            yield runner.report.results[-1]
            return
