# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of an account by itself: its state machine, its pacing and its retry policy.

Nothing of PJSIP is imitated here: the keeper only decides, and these tests are the network.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from policy import PolicyClock

import pjsip_py as pjsip
from pjsip_py._keeper import STATES, Keeper, Outcome
from pjsip_py._pacing import Pacer


class HandClock(PolicyClock):
    """A PolicyClock without an endpoint: what is due is called by who advances."""

    def _deliver(self, call: Any) -> None:
        call()


@dataclass(eq=False)
class Walk:
    probe: bool = False
    automatic: bool = True
    index: int = 0
    tried: int = 0
    cancel_asked: bool = False
    stopped: bool = False


class Kept(Keeper):
    """A keeper whose requests stay in ``sent`` until the test answers them."""

    def __init__(
        self,
        clock: HandClock,
        pacer: Pacer,
        policy: pjsip.RetryPolicy | None,
        count: int = 1,
        failback: float | None = 60.0,
    ) -> None:
        super().__init__()
        self._clock, self._the_pacer, self._policy = clock, pacer, policy
        self._count, self._failback = count, failback
        self.sent: list[Walk] = []
        self.goodbyes = 0  # unregisters under way
        self.bound: set[int] = set()  # registrars that have a binding of ours
        self.transitions: list[tuple[str, str]] = []
        self.given_up: list[pjsip.PjsipError] = []
        self.moves: list[tuple[int, int | None]] = []

    clock = property(lambda self: self._clock)
    pacer = property(lambda self: self._the_pacer)
    policy = property(lambda self: self._policy)
    failback = property(lambda self: self._failback)
    count = property(lambda self: self._count)
    cost = property(lambda self: 1)
    key = property(lambda self: "sip:alice@example.com")

    def _name(self, at: int) -> str:
        return f"registrar {at}"

    def _new_walk(self, *, probe: bool) -> Walk:
        return Walk(probe)

    def _send(self, walk: Any) -> None:
        assert walk not in self.sent
        self.sent.append(walk)

    def _entered(self, previous: str, reason: str) -> None:
        self.transitions.append((previous, self.state))

    def _moved(self, previous: int, error: pjsip.PjsipError | None) -> None:
        self.moves.append((previous, self.serving))

    def _gave_up(self, error: pjsip.PjsipError) -> None:
        self.given_up.append(error)

    def _withdraw(self, index: int) -> None:
        self.bound.discard(index)

    def _leaving(self) -> bool:
        return self.goodbyes > 0

    def _bound_for(self) -> float | None:
        return 10.0 if self.serving is not None else None

    # -- the network's side -----------------------------------------------------------------------

    def answer(self, code: int, walk: Walk | None = None, **more: Any) -> bool:
        """The outcome of *walk*, or of the oldest request; whether the walk is over."""
        walk = walk or self.sent[0]
        self.sent.remove(walk)
        return self.outcome(walk.index, walk, code, **more)

    def outcome(self, at: int, walk: Walk | None, code: int, **more: Any) -> bool:
        error: pjsip.PjsipError | None = None
        cancelled = code == 487
        if code == 0:
            error = pjsip.TransportError("connection refused")
        elif code != 200:
            error = pjsip.errors.class_of_code(code)(code, "test", **more)
        else:
            self.bound.add(at)
        outcome = Outcome(at, walk, error, cancelled)
        return self.settle(outcome, self.decide(outcome))


def pacer_for(clock: HandClock, rate: float | None = None, burst: int = 100) -> Pacer:
    return Pacer(rate, burst, clock, threading.RLock())


def kept(policy: pjsip.RetryPolicy | None = None, **options: Any) -> Kept:
    clock = HandClock()
    return Kept(clock, pacer_for(clock), policy or pjsip.RetryPolicy(), **options)


# -- random orders --------------------------------------------------------------------------------

CODES = st.sampled_from([200, 200, 200, 0, 401, 403, 404, 408, 423, 480, 487, 500, 503, 603])
# What may follow what; the drawing in docs/accounts.md has the same arrows.
ARROWS = {
    "idle": {"registering", "waiting", "unregistering", "closed"},
    "registering": {"registered", "waiting", "failed", "idle", "unregistering", "closed"},
    "registered": {
        *("registering", "waiting", "failed", "unregistering", "unregistered", "closed"),
    },
    "waiting": {"registering", "registered", "failed", "unregistering", "closed", "idle"},
    "failed": {"registering", "registered", "unregistering", "waiting", "closed"},
    "unregistering": {
        *("unregistered", "failed", "registering", "registered", "waiting", "idle", "closed"),
    },
    "unregistered": {"registering", "unregistering", "closed"},
    "closed": set[str](),
}


class AnyOrder(RuleBasedStateMachine):
    """Users, networks and clocks in any order; what must hold stands under the invariants."""

    @initialize(
        count=st.integers(1, 3),
        retry=st.booleans(),
        attempts=st.none() | st.integers(1, 4),
        rate=st.none() | st.sampled_from([0.5, 2.0, 100.0]),
    )
    def begin(self, count: int, retry: bool, attempts: int | None, rate: float | None) -> None:
        self.clock = HandClock()
        self.pacer = pacer_for(self.clock, rate, 2)
        policy = pjsip.RetryPolicy(max_attempts=attempts) if retry else None
        self.keeper = Kept(self.clock, self.pacer, policy, count, failback=5.0)
        self.users: list[Walk] = []  # that the program waits for

    @precondition(lambda self: self.keeper.state != "closed" and len(self.users) < 3)
    @rule()
    def register(self) -> None:
        walk = Walk(automatic=False)
        self.users.append(walk)
        self.keeper.start(walk)

    @precondition(lambda self: self.keeper.state != "closed")
    @rule()
    def unregister(self) -> None:
        self.keeper.goodbyes += 1
        self.keeper.leave()

    @precondition(lambda self: self.keeper.goodbyes and self.keeper.state != "closed")
    @rule(how=st.sampled_from(["good", "bad", "cancelled"]))
    def unregistered(self, how: str) -> None:
        self.keeper.goodbyes -= 1
        error = None if how == "good" else pjsip.ServerError(500, "test")
        self.keeper.left(self.keeper.serving, error, how == "cancelled")

    @precondition(lambda self: self.keeper.sent)
    @rule(code=CODES, data=st.data(), after=st.none() | st.sampled_from([0, 7, 4_000_000_000]))
    def answered(self, code: int, data: Any, after: float | None) -> None:
        walk = data.draw(st.sampled_from(self.keeper.sent))
        more = {"retry_after": after} if code in (503, 480, 500) else {}
        if self.keeper.answer(code, walk, **more) and walk in self.users:
            self.users.remove(walk)

    @precondition(lambda self: self.keeper.serving is not None and not self.keeper.sent)
    @rule(code=CODES)
    def refreshed(self, code: int) -> None:
        assert self.keeper.serving is not None
        if self.keeper.state != "closed" and code != 487:
            self.keeper.outcome(self.keeper.serving, None, code)

    @rule()
    def connection_lost(self) -> None:
        self.keeper.lost()

    @rule(stop=st.booleans())
    def network_changed(self, stop: bool) -> None:
        if self.keeper.nudge("network changed", 1.0) and stop:
            for walk in list(self.keeper.sent):
                walk.stopped = True
                self.keeper.answer(487, walk)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 60.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.keeper.state != "closed")
    @rule()
    def close(self) -> None:
        self.keeper.close()
        self.keeper.sent.clear()
        self.users.clear()

    @invariant()
    def is_in_a_state_that_there_is(self) -> None:
        assert self.keeper.state in STATES

    @invariant()
    def goes_along_the_arrows(self) -> None:
        for before, after in self.keeper.transitions:
            assert after in ARROWS[before], f"{before} -> {after}"

    @invariant()
    def counts_what_is_under_way(self) -> None:
        if self.keeper.state == "closed":
            return
        walks = [walk for walk in self.keeper.sent if not walk.probe]
        waiting = self.keeper._walk is not None
        assert self.keeper.running == len(walks) + waiting

    @invariant()
    def never_forgets_the_promise(self) -> None:
        """Wanted, and with a policy, it is registered, under way, planned or given up."""
        keeper = self.keeper
        if not keeper.wanted or keeper.policy is None or keeper.state in ("registered", "failed"):
            return
        assert keeper.sent or keeper._plan, keeper.state

    @invariant()
    def plans_nothing_that_nobody_wants(self) -> None:
        if not self.keeper.wanted:
            assert not self.keeper._plan
            assert self.keeper.retry_at is None

    @invariant()
    def answers_all_users(self) -> None:
        assert all(walk in self.keeper.sent for walk in self.users)

    @invariant()
    def waits_as_it_says(self) -> None:
        if self.keeper.state == "waiting":
            assert self.keeper.retry_at is not None

    @invariant()
    def holds_no_tokens_for_nothing(self) -> None:
        assert len(self.keeper._held) <= len(self.keeper.sent)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
