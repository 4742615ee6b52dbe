# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeper: the state machine that keeps one registration alive.

It decides and plans; it neither sends nor waits.  What it wants done it asks of the methods under
"what it leaves to others", which :class:`~pjsip_py._flow.Flow` implements with clients of
``pjsip_regc`` and the property test with a list.  All methods are called with the accounts' lock
held.

A *walk* is one attempt on its way through the registrars: it goes on to the next one until a
registrar gives a verdict.  A user's ``register()`` is a walk, and so is every automatic attempt.
"""

from __future__ import annotations

from collections.abc import Callable

from ._clock import Clock
from ._pacing import Pacer
from ._typing import Any, NamedTuple, Protocol
from .errors import PjsipError
from .retry import DEFAULT_POLICY, FAILOVER, STOP, RetryPolicy

# The better first: of several flows an account shows the best.
STATES = (
    *("registered", "registering", "waiting", "unregistering"),
    *("failed", "unregistered", "idle", "closed"),
)


class Walk(Protocol):
    index: int  #: registrar it is at
    tried: int  #: a bit for each registrar that failed it
    probe: bool  #: looks whether a preferred registrar is back; the account is served elsewhere
    automatic: bool  #: nobody waits for it
    cancel_asked: bool
    stopped: bool  #: by the keeper, to be sent again


class Outcome(NamedTuple):
    at: int  #: registrar
    walk: Walk | None  #: None: PJSIP's own refresh
    error: PjsipError | None
    cancelled: bool = False


class Decision(NamedTuple):
    """What follows a failure; *delay* in seconds, None when nothing is tried by itself."""

    step: str  #: done, again, target, next, probe, retry, stop
    delay: float | None = None
    at: int = 0  #: registrar of "next" and "target", and the one that "retry" begins with


_DONE = Decision("done")


class Keeper:
    __slots__ = (
        "_ask",
        "_held",
        "_hop",
        "_not_before",
        "_nudged",
        "_plan",
        "_probing",
        "_resume",
        "_serial",
        "_timer",
        "_walk",
        "attempts",
        "error",
        "failures",
        "index",
        "retry_at",
        "running",
        "serving",
        "state",
        "wanted",
    )

    def __init__(self) -> None:
        self.state = "idle"
        self.wanted = False  # shall it be registered?
        self.index = 0  # the registrar that is asked next
        self.serving: int | None = None  # the registrar that holds the binding
        self.running = 0  # walks under way, probes not counted
        self.attempts = 0  # REGISTERs in a row that failed
        self.failures = 0  # rounds in a row that failed
        self.error: PjsipError | None = None
        self.retry_at: float | None = None  # clock.time()
        self._plan = ""  # retry, next, probe
        self._timer: Any = None
        self._serial = 0
        self._ask: Callable[[], object] | None = None  # in the pacer's queue
        self._hop = ""  # of the registrar that it waits for there
        # What the pacer let go and that has no answer yet: walk, cost and hop.
        self._held: tuple[tuple[Walk, int, str], ...] = ()
        self._walk: Walk | None = None  # that waits for the pacer
        self._not_before: dict[int, float] | None = None  # Retry-After, by registrar
        self._nudged = False  # something changed that no REGISTER sent so far knows of
        self._resume = False  # start() took the place of a planned attempt
        self._probing = False  # a probe is under way

    # -- what it is told of the account's configuration -------------------------------------------

    @property
    def clock(self) -> Clock:
        raise NotImplementedError

    @property
    def pacer(self) -> Pacer:
        raise NotImplementedError

    @property
    def policy(self) -> RetryPolicy | None:
        raise NotImplementedError

    @property
    def failback(self) -> float | None:
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many registrars there are."""
        raise NotImplementedError

    @property
    def cost(self) -> int:
        """REGISTERs that an attempt takes."""
        raise NotImplementedError

    def _name(self, at: int) -> str:
        """What registrar *at* has in common with those of other accounts."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """For the jitter of a seeded policy."""
        raise NotImplementedError

    # -- what it leaves to others -----------------------------------------------------------------

    def _new_walk(self, *, probe: bool) -> Walk:
        raise NotImplementedError

    def _send(self, walk: Walk) -> None:
        """Send REGISTER to registrar ``walk.index``; its outcome comes to decide() and settle()."""
        raise NotImplementedError

    def _entered(self, previous: str, reason: str) -> None:
        """The state has changed."""

    def _moved(self, previous: int, error: PjsipError | None) -> None:
        """Another registrar serves."""

    def _gave_up(self, error: PjsipError) -> None:
        """No attempt follows by itself."""

    def _release_others(self) -> None:
        """Stop refreshing at registrars that no longer serve."""

    def _withdraw(self, index: int) -> None:
        """Registered at *index* although nobody wants it any more."""

    def _leaving(self) -> bool:
        """Whether an unregister of the program's is under way."""
        return False

    def _adapt(self, outcome: Outcome) -> bool:
        """Whether something was changed that makes the same registrar worth asking again."""
        return False

    def _has_next_target(self, index: int) -> bool:
        """Whether the registrar's name stands for another server not yet tried (RFC 3263)."""
        return False

    def _next_target(self, index: int) -> None:
        pass

    def _bound_for(self) -> float | None:
        """Seconds until the present binding should be refreshed; None without a binding."""
        return None

    # -- plans ------------------------------------------------------------------------------------

    def _enter(self, state: str, reason: str = "") -> None:
        previous, self.state = self.state, state
        if state != previous:
            self._entered(previous, reason)

    def _schedule(self, plan: str, seconds: float, walk: Walk | None = None) -> None:
        self._clear_plan()
        self._plan, self._walk = plan, walk
        if plan != "probe":
            self.retry_at = self.clock.time() + seconds
        if seconds <= 0:
            self._queue()
            return
        self._serial += 1
        serial = self._serial
        self._timer = self.clock.call_later(seconds, lambda: self._due(serial))

    def _due(self, serial: int) -> None:
        """The planned time has come; a plan that was cleared meanwhile has another serial."""
        if serial == self._serial and self._plan:
            self._timer = None
            self._queue()

    def _queue(self) -> None:
        # Who can turn to another registrar need not wait for one that is silent.
        probe = self._plan == "probe"
        self._hop = self._name(0) if probe else self._name(self.index) if self.count == 1 else ""
        self._ask = self._granted
        self.pacer.ask(self._ask, self.cost, self._hop)

    def _answered(self, walk: Walk | None = None) -> None:
        """What the pacer let go has come to its end; None: all of it."""
        ended = [held for held in self._held if walk is None or held[0] is walk]
        if ended:
            self._held = tuple(held for held in self._held if held not in ended)
            for _, cost, hop in ended:
                self.pacer.answer(cost, hop)

    def _clear_plan(self) -> None:
        if not self._plan:
            return
        self._serial += 1
        if self._timer is not None:
            self.clock.cancel(self._timer)
        if self._ask is not None:
            self.pacer.forget(self._ask, self._hop)
        if self._walk is not None:
            self.running -= 1  # it ends here
        self._timer = self._ask = self._walk = self.retry_at = None
        self._plan = ""

    def _granted(self) -> None:
        """The pacer's turn has come."""
        plan, walk = self._plan, self._walk
        self._ask = self._walk = self.retry_at = None
        self._plan = ""
        if plan != "probe":
            self._nudged = False
        if not self.wanted:
            self.pacer.answer(self.cost, self._hop)
            return
        if walk is None:
            walk = self._new_walk(probe=plan == "probe")
            walk.index = (self._preferred() or 0) if walk.probe else self._first()
            if not walk.probe:
                self.running += 1
        self._held = (*self._held, (walk, self.cost, self._hop))
        self._probing = self._probing or walk.probe
        if not walk.probe:
            self._enter("registering")
        self._send(walk)

    # -- which registrar --------------------------------------------------------------------------

    def _wait_for(self, index: int) -> float:
        until = self._not_before.get(index, 0.0) if self._not_before else 0.0
        return max(0.0, until - self.clock.time())

    def _first(self) -> int:
        """Where a walk begins: where the last one ended, unless that asked to be left alone."""
        if not self._not_before:
            return self.index
        ring = [(self.index + step) % self.count for step in range(self.count)]
        return next((i for i in ring if not self._wait_for(i)), self.index)

    def _next(self, index: int, tried: int) -> int | None:
        for step in range(1, self.count):
            i = (index + step) % self.count
            if not tried >> i & 1 and not self._wait_for(i):
                return i
        return None

    # -- what happens to it -----------------------------------------------------------------------

    def start(self, walk: Walk) -> None:
        """The program asks for an attempt, now."""
        if self.state in ("idle", "failed", "unregistered"):
            self.failures = self.attempts = 0
            self._resume = False
        self._resume = self._resume or self._plan in ("retry", "next")
        self._clear_plan()
        self._nudged = False
        self.wanted = True
        self.running += 1
        walk.index = self._first()
        self._enter("registering", "asked")
        self._send(walk)

    def nudge(self, reason: str, delay: float = 0.0) -> bool:
        """Register anew, paced: the network changed, or the account begins by itself."""
        if not self.wanted or self.state == "failed":
            return False
        self.failures = 0
        self._nudged = True
        if not self.running:
            self._enter("waiting", reason)
            self._schedule("retry", delay)
        return True

    def lost(self) -> None:
        """The connection under the registration is gone, and nothing is under way."""
        if not self.wanted or self.running or self.state != "registered" or self.policy is None:
            return
        self._enter("waiting", "connection lost")
        self._schedule("retry", self.policy.reconnect_delay(self.key))

    def leave(self) -> None:
        """An unregister goes out."""
        self.wanted = self._nudged = self._resume = False
        self._clear_plan()
        self._enter("unregistering", "asked")

    def left(self, at: int | None, error: PjsipError | None, cancelled: bool = False) -> None:
        """The outcome of an unregister at registrar *at*."""
        if error is None and at == self.serving:
            self.serving = None
            if self.state == "registered" and not self.running:
                # A register() before it was faster, one after it was cancelled.
                self.wanted = False
                self._clear_plan()
                self._enter("unregistered")
        if self.state != "unregistering" or self._leaving():
            return  # something else was asked for meanwhile
        if cancelled:
            self._after_cancel()
            return
        self.error = error
        self._enter("unregistered" if error is None else "failed", str(error or ""))

    def surrender(self) -> None:
        """There is no policy any more: what it has planned does not happen."""
        if self._plan in ("retry", "next") and self.error is not None:
            self._clear_plan()
            self._enter("failed", str(self.error))
            self._gave_up(self.error)

    def close(self) -> None:
        self.wanted = False
        self._clear_plan()
        self._answered()
        self._enter("closed")

    # -- outcomes ---------------------------------------------------------------------------------

    def decide(self, outcome: Outcome) -> Decision:
        """What will follow; asked before the outcome is told, for the event to say so."""
        walk, error = outcome.walk, outcome.error
        if error is None or not self.wanted:
            return _DONE
        if outcome.cancelled:
            if walk is None or walk.cancel_asked or not walk.stopped:
                return _DONE
            return Decision("probe", self.failback) if walk.probe else Decision("again", 0.0)
        tried = (walk.tried if walk else 0) | 1 << outcome.at
        policy = self.policy or DEFAULT_POLICY
        verdict = policy.verdict(error)
        asked = policy.wait_asked(error)
        if asked:
            self._not_before = self._not_before or {}
            self._not_before[outcome.at] = self.clock.time() + asked
        if walk is not None and walk.probe and outcome.at == self.serving:
            walk.probe = self._probing = False  # it came home another way meanwhile
            self.running += 1
        if walk is not None and walk.probe:
            at = self._preferred(outcome.at + 1)
            if at is not None:
                return Decision("next", 0.0, at)
            return Decision("probe", self._until_probe(refused=verdict is STOP))
        if self._adapt(outcome):
            return Decision("again", 0.0)
        if verdict is FAILOVER:
            if self._has_next_target(outcome.at):
                return Decision("target", 0.0, outcome.at)
            index = self._next(outcome.at, tried)
            if index is not None:
                return Decision("next", 0.0, index)
        if self.running > (walk is not None):
            return _DONE  # another attempt of the program's is under way
        if self.policy is None or verdict is STOP or self._was_last():
            return Decision("stop")
        if isinstance(verdict, (int, float)):
            delay = float(verdict)
        else:
            delay = policy.delay(self.failures + 1, self.key)
        first = 0 if verdict is FAILOVER else self.index  # all have failed: a new round, in order
        return Decision("retry", max(delay, min(map(self._wait_for, range(self.count)))), first)

    def _was_last(self) -> bool:
        assert self.policy is not None
        most = self.policy.max_attempts
        return most is not None and self.failures + 1 >= most

    def _preferred(self, first: int = 0) -> int | None:
        """A registrar better than the one that serves, from *first* on, that may be asked."""
        ahead = range(first, self.serving or 0)
        return next((i for i in ahead if not self._wait_for(i)), None)

    def settle(self, outcome: Outcome, decision: Decision) -> bool:
        """Do what was decided; False when the walk goes on."""
        walk = outcome.walk
        if outcome.error is None:
            self.succeeded(outcome.at, walk)
            return True
        if self._held and walk is not None:
            self._answered(walk)
        if decision.step in ("again", "target", "next"):
            self._go_on(outcome, decision)
            return False
        self._ended(walk)
        if decision.step == "probe":
            if self.state == "registered" and not self._plan:
                self._schedule("probe", decision.delay or 0.0)
        else:
            if not outcome.cancelled:
                self.attempts += 1
                self.error = outcome.error
            if self.wanted:
                self._failed(outcome, decision)
        self._follow_nudge()
        return True

    def _ended(self, walk: Walk | None) -> None:
        if walk is not None:
            if walk.probe:
                self._probing = False
            else:
                self.running -= 1

    def _follow_nudge(self) -> None:
        if self._nudged and not self.running and self._plan in ("", "probe"):
            self.nudge("network changed")

    def succeeded(self, at: int, walk: Walk | None) -> None:
        """What settle() does with a success at registrar *at*."""
        if self._held and walk is not None:
            self._answered(walk)
        self._ended(walk)
        if self.wanted:
            self._registered(at)
        elif self.state != "closed":  # else another has its place, and its Contact
            self._withdraw(at)
        self._follow_nudge()

    def _registered(self, at: int) -> None:
        previous, error = self.serving, self.error
        self.serving = self.index = at
        self.failures = self.attempts = 0
        self.error = None
        if self._not_before:
            self._not_before.pop(at, None)
        self._clear_plan()
        self._resume = False
        self._enter("registered")
        if previous is not None and previous != at:
            self._moved(previous, error if at > previous else None)
        if self.count > 1 and not self.running:
            self._release_others()
        if self.serving and self.failback is not None and not self._probing:
            self._schedule("probe", self._until_probe())

    def _until_probe(self, *, refused: bool = False) -> float:
        """Seconds; a registrar that refuses us, or asks to be left alone, is not pestered."""
        wait = min(map(self._wait_for, range(self.serving or 1)))
        longest = (self.policy or DEFAULT_POLICY).maximum if refused else 0.0
        return max(self.failback or 0.0, wait, longest)

    def _go_on(self, outcome: Outcome, decision: Decision) -> None:
        walk = outcome.walk
        if walk is None:  # PJSIP's refresh failed: the walk begins with it
            walk = self._new_walk(probe=False)
            self._clear_plan()
            self.running += 1
        if decision.step == "again":
            walk.stopped = self._nudged = False
            walk.index = outcome.at
        else:
            if not walk.probe:
                self.attempts += 1
                self.error = outcome.error
            if decision.step == "target":
                self._next_target(outcome.at)
            else:
                walk.tried |= 1 << outcome.at
            walk.index = decision.at
        if walk.probe:
            self._send(walk)
            return
        self.index = walk.index
        if walk.automatic and decision.step != "again":
            self._enter("waiting", str(outcome.error))
            self._schedule("next", 0.0, walk)
        else:
            self._enter("registering", str(outcome.error))
            self._send(walk)

    def _failed(self, outcome: Outcome, decision: Decision) -> None:
        assert outcome.error is not None
        if decision.step == "retry":
            assert decision.delay is not None
            self.failures += 1
            self.index = decision.at
            self._enter("waiting", str(outcome.error))
            self._schedule("retry", decision.delay)
        elif decision.step == "stop":
            self._clear_plan()
            self._resume = False
            self._enter("failed", str(outcome.error))
            self._gave_up(outcome.error)
        elif outcome.cancelled and not self.running:
            self._after_cancel()

    def _after_cancel(self) -> None:
        """What there was before the cancelled request goes on: a request ends PJSIP's refresh."""
        if self._plan in ("retry", "next"):
            return  # something else goes on
        left = self._bound_for()
        if self._leaving():
            self.wanted = False
            self._enter("unregistering", "cancelled")
        elif (self.failures or self._resume) and self.policy is not None:
            self._resume = False
            self.wanted = True
            self._enter("waiting", "cancelled")
            self._schedule("retry", self.policy.delay(max(self.failures, 1), self.key))
        elif left is not None:
            self.wanted = True
            self._enter("registered", "cancelled")
            self._schedule("retry", left)
        else:
            self.wanted = False
            self._clear_plan()
            self._enter("idle", "cancelled")
