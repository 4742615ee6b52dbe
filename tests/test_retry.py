# SPDX-License-Identifier: GPL-3.0-or-later
"""RetryPolicy by itself, and what an account does after each kind of failure, on a fake clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from policy import (
    ALICE,
    AOR,
    DEADLINE,
    PASSWORD,
    SILENT,
    Waiter,
    World,
    about,
    closed_port,
    registers,
)

import pjsip_py as pjsip
from pjsip_py import FAILOVER, RETRY, STOP, errors
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(30)

FOREVER = 7 * 86400 + 1
STEADY = pjsip.RetryPolicy(jitter="none")


def refusal(code: int, retry_after: float | None = None) -> pjsip.RegistrationError:
    return errors.class_of_code(code)(code, "test", retry_after=retry_after)


# -- verdicts --------------------------------------------------------------------------------------

LATER = {430, 480, 491, 500, 502, 504, 580, 600}
ELSEWHERE = {408, 503}
FATAL_5XX = {501, 505, 513}


@pytest.mark.parametrize("code", range(300, 700))
def test_each_code_has_its_verdict(code: int) -> None:
    verdict = pjsip.RetryPolicy().verdict(refusal(code))
    if code in ELSEWHERE:
        assert verdict is FAILOVER
    elif code in LATER or (500 <= code < 600 and code not in FATAL_5XX and code != 555):
        assert verdict is RETRY
    else:
        assert verdict is STOP


@pytest.mark.parametrize("code", [404, 413, 480, 486, 500, 503, 600, 603])
def test_with_a_retry_after_it_means_not_now(code: int) -> None:
    verdict = pjsip.RetryPolicy().verdict(refusal(code, 7))
    assert verdict is (FAILOVER if code == 503 else RETRY)


@pytest.mark.parametrize("code", [400, 401, 403, 405, 407, 423, 501, 505, 513, 604])
def test_a_retry_after_does_not_undo_a_refusal(code: int) -> None:
    assert pjsip.RetryPolicy().verdict(refusal(code, 7)) is STOP


def test_a_failure_without_an_answer_goes_to_the_next_registrar() -> None:
    policy = pjsip.RetryPolicy()
    for error in (
        pjsip.TransportError("connection refused"),
        pjsip.TlsError("handshake"),
        pjsip.ResolveError("no such name"),
        pjsip.RegistrationTimeout(408, "no answer in time", local=True),
    ):
        assert policy.verdict(error) is FAILOVER


@pytest.mark.parametrize(
    "cls",
    [
        pjsip.AuthenticationError,
        pjsip.WrongPasswordError,
        pjsip.NoCredentialError,
        pjsip.UnsupportedAlgorithmError,
        pjsip.DowngradeError,
    ],
)
@pytest.mark.parametrize("code", [401, 407])
def test_a_refused_credential_stops_at_once(
    cls: type[pjsip.AuthenticationError], code: int
) -> None:
    assert pjsip.RetryPolicy().verdict(cls(code, "Unauthorized")) is STOP


def test_nonces_that_are_all_stale_are_the_registrars_fault_and_tried_later() -> None:
    assert pjsip.RetryPolicy().verdict(pjsip.StaleNonceError(401, "Unauthorized")) is RETRY


def test_what_is_no_answer_and_no_connection_stops() -> None:
    policy = pjsip.RetryPolicy()
    assert policy.verdict(pjsip.NativeError("out of memory", 70007)) is STOP
    assert policy.verdict(pjsip.InvalidUriError("no URI")) is STOP


@pytest.mark.parametrize("verdict", [STOP, RETRY, FAILOVER, 30.0, 1])
@pytest.mark.parametrize("code", [302, 401, 403, 404, 408, 423, 500, 503, 600, 699])
def test_per_code_comes_before_everything(code: int, verdict: Any) -> None:
    policy = pjsip.RetryPolicy(per_code={code: verdict})
    for retry_after in (None, 7):
        assert policy.verdict(refusal(code, retry_after)) == verdict
    assert policy.verdict(refusal(500 if code != 500 else 480)) is RETRY


def test_per_code_names_what_pjsip_makes_of_a_dead_connection_and_of_a_name() -> None:
    policy = pjsip.RetryPolicy(per_code={502: STOP, 503: 9})
    assert policy.verdict(pjsip.ResolveError("no such name")) is STOP
    assert policy.verdict(pjsip.TransportError("refused")) == 9


def test_the_verdicts_read_as_words() -> None:
    assert [repr(v) for v in (STOP, RETRY, FAILOVER)] == ["STOP", "RETRY", "FAILOVER"]
    assert pjsip.Verdict.STOP is STOP


# -- delays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", ["full", "half", "none"])
def test_the_first_retry_comes_exactly_when_asked(jitter: str) -> None:
    for initial in (0.001, 0.5, 2.0, 86400.0):
        policy = pjsip.RetryPolicy(initial=initial, maximum=7 * 86400, jitter=jitter)
        assert {policy.delay(1, key) for key in "abc"} == {initial}
        assert policy.delay(0) == initial


@pytest.mark.parametrize("jitter", ["full", "half", "none"])
def test_the_delays_keep_their_bounds(jitter: str) -> None:
    policy = pjsip.RetryPolicy(initial=2, factor=3, maximum=100, jitter=jitter)
    for failures in range(2, 30):
        bound = min(100.0, 2 * 3.0 ** (failures - 1))
        least = {"full": 2.0, "half": max(2.0, bound / 2), "none": bound}[jitter]
        found = [policy.delay(failures) for _ in range(200)]
        assert least <= min(found) <= max(found) <= bound
        if jitter == "none":
            assert set(found) == {bound}
        elif bound > 10:  # the whole range is used
            assert min(found) < least + (bound - least) * 0.1
            assert max(found) > bound - (bound - least) * 0.1


def test_without_jitter_it_is_plain_exponential_back_off() -> None:
    assert [STEADY.delay(n) for n in range(1, 11)] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_without_growth_it_stays() -> None:
    policy = pjsip.RetryPolicy(initial=5, factor=1, maximum=5)
    assert {policy.delay(n) for n in (1, 2, 3, 10**6)} == {5}


@pytest.mark.parametrize("factor", [1, 1.0001, 2, 100])
@pytest.mark.parametrize("failures", [1000, 10**6])
def test_no_number_of_failures_overflows(factor: float, failures: int) -> None:
    policy = pjsip.RetryPolicy(initial=0.5, factor=factor, maximum=60, jitter="none")
    assert 0.5 <= policy.delay(failures) <= 60


def test_a_seed_makes_it_repeatable_and_each_account_its_own() -> None:
    def delays(seed: int | None, key: str) -> list[float]:
        policy = pjsip.RetryPolicy(initial=1, maximum=1000, seed=seed)
        return [policy.delay(n, key) for n in range(1, 12)] + [policy.reconnect_delay(key)]

    assert delays(5, "sip:a@b") == delays(5, "sip:a@b")
    others = [delays(5, "sip:a@b"), delays(5, "sip:c@b"), delays(6, "sip:a@b"), delays(None, "")]
    for one, other in itertools.combinations(others, 2):
        assert one[1:] != other[1:]


def test_the_delays_of_many_accounts_are_spread() -> None:
    policy = pjsip.RetryPolicy(initial=1, maximum=1000, seed=1)
    found = sorted(policy.delay(8, f"sip:u{n}@b") for n in range(1000))  # 1 to 128 s
    for quarter in range(4):
        low, high = 1 + 127 * quarter / 4, 1 + 127 * (quarter + 1) / 4
        assert 200 <= sum(low <= delay <= high for delay in found) <= 300


def test_a_reconnect_is_spread_over_its_second() -> None:
    policy = pjsip.RetryPolicy(reconnect=4.0)
    found = [policy.reconnect_delay() for _ in range(200)]
    assert 0 <= min(found) < 0.5
    assert 3.5 < max(found) <= 4.0
    assert pjsip.RetryPolicy(reconnect=0).reconnect_delay() == 0


def test_how_long_a_retry_after_is_obeyed() -> None:
    policy = pjsip.RetryPolicy(maximum_retry_after=100)
    assert policy.wait_asked(refusal(503, 7)) == 7
    assert policy.wait_asked(refusal(503, 4_000_000_000)) == 100
    assert policy.wait_asked(refusal(503)) == policy.wait_asked(refusal(503, 0)) == 0
    assert policy.wait_asked(pjsip.TransportError("refused")) == 0
    assert policy.wait_asked(pjsip.NativeError("what")) == 0
    assert pjsip.RetryPolicy(honour_retry_after=False).wait_asked(refusal(503, 7)) == 0


# -- bad arguments ---------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("initial", v) for v in (0, -1, 86401, "2", None, True, NAN, INFINITY)],
        *[("maximum", v) for v in (1.9, 0, -1, FOREVER, "x", None, NAN, INFINITY)],
        *[("factor", v) for v in (0, 0.99, -2, 101, "2", None, True, NAN, INFINITY)],
        *[("jitter", v) for v in ("", "FULL", "some", None, 1, True)],
        *[("max_attempts", v) for v in (0, -1, 1.5, "3", True, 2**31 + 1)],
        *[("honour_retry_after", v) for v in (1, 0, "yes", None)],
        *[("maximum_retry_after", v) for v in (-1, FOREVER, "x", None, NAN, INFINITY)],
        *[("reconnect", v) for v in (-0.1, 3601, "x", None, NAN, INFINITY)],
        *[("seed", v) for v in (1.5, "x", True, 2**64, -(2**64))],
        *[("per_code", v) for v in ([403], "403", None, 5)],
        *[("per_code", {c: STOP}) for c in (200, 299, 700, 0, -1, "403", 403.0, None, True)],
        *[("per_code", {403: v}) for v in (0, -1, "stop", None, True, NAN, INFINITY, FOREVER)],
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match=field):
        pjsip.RetryPolicy(**{field: value})


def test_a_policy_is_a_value() -> None:
    assert pjsip.RetryPolicy() == pjsip.RetryPolicy()
    one, other = pjsip.RetryPolicy(per_code={403: 30}), pjsip.RetryPolicy(per_code={403: 31})
    assert one != other
    assert len({one, other, pjsip.RetryPolicy(per_code={403: 30})}) == 2
    with pytest.raises(AttributeError):
        one.initial = 5  # type: ignore[misc]
    verdicts: dict[int, Any] = {403: 30}
    policy = pjsip.RetryPolicy(per_code=verdicts)
    verdicts[403] = "nonsense"
    assert policy.verdict(refusal(403)) == 30


# -- an account and Retry-After --------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as registrar:
        yield registrar


def test_a_retry_after_of_7_is_waited_for_and_no_longer(world: World, registrar: Registrar) -> None:
    registrar.answer_next(503, headers={"Retry-After": "7"})
    account = world.account(registrar)
    error = world.fails(account)
    assert isinstance(error, pjsip.ServerError)
    assert error.retry_after == 7
    assert account.state == "waiting"
    assert world.due(account) == about(7)
    world.clock.advance(6.99)
    assert account.state == "waiting"
    world.clock.advance(0.01)
    assert account.state != "waiting"
    world.wait_state(account, "registered")
    assert len(registers(registrar)) == 2
    [failure, success] = world.of(pjsip.RegState, account)
    assert (failure.retry_in, failure.attempt) == (about(7), 1)
    assert (success.retry_in, success.attempt) == (None, 2)


@pytest.mark.parametrize("text", ["7;duration=3600", "7 (I am in a meeting)", " 7 ", "0000000007"])
def test_a_retry_after_with_its_parameters_is_read(
    world: World, registrar: Registrar, text: str
) -> None:
    registrar.answer_next(503, headers={"Retry-After": text})
    account = world.account(registrar)
    world.fails(account)
    assert world.due(account) == about(7)


@pytest.mark.parametrize("text", ["", "soon", "-5", "0x10", "Mon, 01 Jan 2030 00:00:00 GMT"])
def test_a_malformed_retry_after_leaves_it_to_the_policy(
    world: World, registrar: Registrar, text: str
) -> None:
    registrar.answer_next(503, headers={"Retry-After": text})
    account = world.account(registrar, retry=STEADY)
    error = world.fails(account)
    assert isinstance(error, pjsip.ServerError)
    assert error.retry_after is None
    assert world.due(account) == about(2)
    assert world.retry(account).code == 200


@pytest.mark.parametrize("text", ["4000000000", "4294967296", "9" * 40])
def test_a_retry_after_of_a_century_is_capped(
    world: World, registrar: Registrar, text: str
) -> None:
    registrar.answer_next(503, headers={"Retry-After": text}, times=2)
    account = world.account(registrar)
    world.fails(account)
    assert world.due(account) == about(3600)
    account.modify(retry=pjsip.RetryPolicy(maximum_retry_after=20))
    world.fails(account)
    assert world.due(account) == about(20)
    assert world.retry(account).code == 200


@pytest.mark.parametrize("text", ["0", "1"])
def test_a_short_retry_after_does_not_shorten_the_policys_own_wait(
    world: World, registrar: Registrar, text: str
) -> None:
    registrar.answer_next(503, headers={"Retry-After": text})
    account = world.account(registrar, retry=STEADY)
    world.fails(account)
    assert world.due(account) == about(2)


def test_a_retry_after_may_be_ignored(world: World, registrar: Registrar) -> None:
    registrar.answer_next(503, headers={"Retry-After": "600"})
    policy = pjsip.RetryPolicy(honour_retry_after=False, initial=3)
    account = world.account(registrar, retry=policy)
    assert getattr(world.fails(account), "retry_after", None) == 600
    assert world.due(account) == about(3)
    assert world.retry(account).code == 200


@pytest.mark.parametrize("code", [404, 480, 486, 500, 600, 603])
def test_not_now_is_taken_as_meant_whatever_the_code(
    world: World, registrar: Registrar, code: int
) -> None:
    registrar.answer_next(code, headers={"Retry-After": "9"})
    account = world.account(registrar)
    assert getattr(world.fails(account), "code", 0) == code
    assert (account.state, world.due(account)) == ("waiting", about(9))
    assert world.retry(account).code == 200


def test_the_back_off_goes_on_behind_a_retry_after(world: World, registrar: Registrar) -> None:
    registrar.script(
        Answer(503, headers={"Retry-After": "7"}), Answer(503), Answer(503), Answer(503)
    )
    account = world.account(registrar, retry=STEADY)
    world.fails(account)
    waits = [world.due(account)]
    for _ in range(3):
        world.retry(account)
        waits.append(world.due(account))
    assert waits == about([7, 4, 8, 16])


# -- an account and a refusal ----------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 403, 404, 405, 410, 501, 513, 555, 603, 604, 606])
def test_a_refusal_is_asked_for_once(world: World, registrar: Registrar, code: int) -> None:
    registrar.answer_next(code, times=None)
    account = world.account(registrar)
    error = world.fails(account)
    assert getattr(error, "code", 0) == code
    [gave_up] = world.of(pjsip.GaveUp, account)
    assert (gave_up.error, gave_up.attempts) == (error, 1)
    assert gave_up.hint == error.hint != ""
    assert (account.state, account.retry_at, account.error) == ("failed", None, error)
    assert (account.attempts, account.registered) == (1, False)
    with pytest.raises(type(error)) as caught:
        account.wait_registered(DEADLINE)
    assert caught.value is error
    assert world.clock.pending == ()
    world.clock.advance(86400)
    assert len(registers(registrar)) == 1


def test_a_wrong_password_is_sent_once(world: World) -> None:
    with Registrar(users={"alice": "another"}) as registrar:
        account = world.account(registrar, credentials=ALICE)
        error = world.fails(account)
        assert isinstance(error, pjsip.WrongPasswordError)
        [gave_up] = world.of(pjsip.GaveUp)
        assert gave_up.error is error
        assert "password" in gave_up.hint
        world.clock.advance(86400)
        assert [r.answered for r in registers(registrar)] == [401, 401]
        assert [r.authorization is not None for r in registers(registrar)] == [False, True]
        [state] = world.of(pjsip.RegState)
        assert (state.requests, state.retry_in) == (2, None)


def test_register_starts_anew_after_giving_up(world: World, registrar: Registrar) -> None:
    registrar.script(Answer(403), Answer(503), Answer(503))
    account = world.account(registrar, retry=STEADY)
    world.fails(account)
    assert account.state == "failed"
    world.fails(account)  # 503: the policy begins at its beginning
    assert (account.state, account.attempts, world.due(account)) == ("waiting", 1, about(2))
    world.retry(account)
    assert (account.attempts, world.due(account)) == (2, about(4))
    assert world.retry(account).code == 200
    assert (account.state, account.error, account.attempts) == ("registered", None, 0)
    assert len(world.of(pjsip.GaveUp)) == 1


def test_who_waits_is_told_at_once_when_the_account_gives_up(
    world: World, registrar: Registrar
) -> None:
    registrar.script(Answer(503), Answer(403))
    account = world.account(registrar)
    world.fails(account)
    waiting = [Waiter(account) for _ in range(3)]
    world.clock.advance(2)
    for waiter in waiting:
        assert isinstance(waiter.outcome(), pjsip.ForbiddenError)
    assert account._waiting == ()


def test_a_code_can_be_made_to_be_tried_again_in_so_many_seconds(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(403, times=3)
    policy = pjsip.RetryPolicy(per_code={403: 30.0})
    account = world.account(registrar, retry=policy)
    world.fails(account)
    waits = [world.due(account)]
    for _ in range(2):
        assert world.retry(account).code == 403
        waits.append(world.due(account))
    assert waits == about([30, 30, 30])  # no growth: it was said so
    assert world.retry(account).code == 200
    assert world.of(pjsip.GaveUp) == []


def test_a_code_can_be_made_to_stop(world: World, registrar: Registrar) -> None:
    registrar.answer_next(503, headers={"Retry-After": "7"})
    account = world.account(registrar, retry=pjsip.RetryPolicy(per_code={503: STOP}))
    world.fails(account)
    assert (account.state, world.clock.pending) == ("failed", ())
    assert len(world.of(pjsip.GaveUp)) == 1


def test_seconds_of_per_code_do_not_undercut_a_retry_after(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(503, headers={"Retry-After": "60"})
    account = world.account(registrar, retry=pjsip.RetryPolicy(per_code={503: 5}))
    world.fails(account)
    assert world.due(account) == about(60)


# -- an account and silence ------------------------------------------------------------------------


def test_silence_follows_the_policy_round_by_round(world: World, registrar: Registrar) -> None:
    registrar.drop_next(times=4)
    policy = pjsip.RetryPolicy(initial=1, factor=3, maximum=7, jitter="none")
    account = world.account(registrar, timeout=SILENT, retry=policy)
    waits = []
    error = world.fails(account)
    assert isinstance(error, pjsip.RegistrationTimeout)
    assert error.local
    for attempt in range(1, 5):
        waits.append(world.due(account))
        assert (account.state, account.attempts) == ("waiting", attempt)
        world.retry(account)
    assert waits == about([1, 3, 7, 7])
    assert account.state == "registered"
    outcomes = world.of(pjsip.RegState, account)
    assert [e.code for e in outcomes] == [408, 408, 408, 408, 200]
    assert [e.attempt for e in outcomes] == [1, 2, 3, 4, 5]
    assert [e.requests for e in outcomes] == [1] * 5
    assert [e.local for e in outcomes] == [True] * 4 + [False]
    assert [e.retry_in for e in outcomes] == [about(w) for w in waits] + [None]
    assert (account.attempts, account.error, account.retry_at) == (0, None, None)


def test_every_transition_is_an_event_with_its_reason(world: World, registrar: Registrar) -> None:
    registrar.script(Answer(503, "Too Busy"))
    account = world.account(registrar)
    world.fails(account)
    world.retry(account)
    account.unregister().result(DEADLINE)
    account.close()
    world.settle()
    found = [(e.previous, e.state, e.reason) for e in world.of(pjsip.AccountState, account)]
    assert [(previous, state) for previous, state, _ in found] == [
        ("idle", "registering"),
        ("registering", "waiting"),
        ("waiting", "registering"),
        ("registering", "registered"),
        ("registered", "unregistering"),
        ("unregistering", "unregistered"),
        ("unregistered", "closed"),
    ]
    assert found[0][2] == "asked"
    assert "503 Too Busy" in found[1][2]
    assert found[4][2] == "asked"


def test_the_outcome_comes_before_the_transition_that_it_makes(
    world: World, registrar: Registrar
) -> None:
    registrar.script(Answer(503), Answer(403))
    account = world.account(registrar)
    world.fails(account)
    world.retry(account)
    kinds = (pjsip.RegState, pjsip.AccountState, pjsip.GaveUp)
    found = [
        getattr(e, "code", None) or getattr(e, "state", None) or "gave up"
        for e in world.events
        if isinstance(e, kinds)
    ]
    assert found == ["registering", 503, "waiting", "registering", 403, "failed", "gave up"]


def test_the_last_attempt_gives_up(world: World, registrar: Registrar) -> None:
    registrar.answer_next(500, times=None)
    account = world.account(registrar, retry=pjsip.RetryPolicy(max_attempts=3))
    world.fails(account)
    for _ in range(2):
        assert account.state == "waiting"
        world.retry(account)
    assert (account.state, account.attempts, account.retry_at) == ("failed", 3, None)
    [gave_up] = world.of(pjsip.GaveUp)
    assert (gave_up.attempts, gave_up.error) == (3, account.error)
    assert gave_up.hint
    world.clock.advance(86400)
    assert len(registers(registrar)) == 3


def test_a_success_gives_all_attempts_back(world: World, registrar: Registrar) -> None:
    account = world.account(registrar, retry=pjsip.RetryPolicy(max_attempts=2))
    for _ in range(3):
        registrar.answer_next(500)
        world.fails(account)
        assert account.attempts == 1
        assert world.retry(account).code == 200
    assert world.of(pjsip.GaveUp) == []


def test_without_a_policy_nothing_happens_by_itself(world: World, registrar: Registrar) -> None:
    registrar.answer_next(503, times=2)
    account = world.account(registrar, retry=None)
    for _ in range(2):
        world.fails(account)
        assert (account.state, account.retry_at) == ("failed", None)
        assert world.clock.pending == ()
    assert len(world.of(pjsip.GaveUp)) == 2
    account.register().result(DEADLINE)
    assert account.state == "registered"


def test_a_refused_connection_is_tried_later(world: World) -> None:
    account = world.account(closed_port(), retry=STEADY)
    error = world.fails(account)
    assert isinstance(error, pjsip.TransportError)
    assert error.errno is not None
    assert (account.state, world.due(account)) == ("waiting", about(2))
    world.retry(account)
    assert (account.attempts, world.due(account)) == (2, about(4))


def test_register_while_waiting_asks_at_once_and_keeps_count(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(500, times=2)
    account = world.account(registrar, retry=STEADY)
    world.fails(account)
    world.fails(account)
    assert (account.attempts, world.due(account)) == (2, about(4))
    account.register().result(DEADLINE)
    world.settle()
    assert account.state == "registered"
    pending = len(world.clock.pending)
    assert len(registers(registrar)) == 3
    world.clock.advance(20)  # the planned attempt was given up
    assert len(registers(registrar)) == 3
    assert pending <= 1  # the path's keep-alive


def test_the_jitter_of_a_seeded_policy_is_each_accounts_own(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(500, times=None)
    policy = pjsip.RetryPolicy(seed=7, maximum=1000, factor=20)
    accounts = [world.account(registrar, aor=f"sip:u{n}@example.com", retry=policy) for n in "123"]
    for account in accounts:
        world.fails(account)
        assert world.due(account) == about(2)
        world.fails(account)
    found = [world.due(account) for account in accounts]
    assert found == about([policy.delay(2, account.aor) for account in accounts])
    assert len(set(found)) == 3


# -- 423 -------------------------------------------------------------------------------------------


def test_a_longer_interval_is_asked_for_at_once_and_shown(world: World) -> None:
    with Registrar(min_expires=900) as registrar:
        account = world.account(registrar, expires=60)
        result = account.register().result(DEADLINE)
        assert result.expires == 900
        assert [(r.expires, r.answered) for r in registers(registrar)] == [(60, 423), (900, 200)]
        [state] = world.of(pjsip.RegState)
        assert (state.min_expires, state.requests, state.expires) == (900, 2, 900)
        account.register().result(DEADLINE)
        again = world.of(pjsip.RegState)[-1]
        assert (again.min_expires, again.requests) == (None, 1)


def test_a_challenge_and_a_423_are_counted(world: World) -> None:
    with Registrar(users={"alice": PASSWORD}, min_expires=900) as registrar:
        account = world.account(registrar, credentials=ALICE, expires=60)
        account.register().result(DEADLINE)
        [state] = world.of(pjsip.RegState)
        assert state.min_expires == 900
        assert state.requests == len(registers(registrar))


def test_a_423_that_names_no_interval_stops(world: World, registrar: Registrar) -> None:
    registrar.answer_next(423, times=None)
    account = world.account(registrar)
    error = world.fails(account)
    assert isinstance(error, pjsip.IntervalTooBrief)
    assert (error.min_expires, account.state) == (None, "failed")
    assert [r.expires for r in registers(registrar)] == [300, 3601]  # PJSIP's guess, once


@pytest.mark.parametrize("least", ["4294967295", "99999999999", "2147483647"])
def test_an_interval_of_a_century_does_not_loop(
    world: World, registrar: Registrar, least: str
) -> None:
    registrar.answer_next(423, headers={"Min-Expires": least}, times=None)
    account = world.account(registrar)
    error = world.fails(account)
    assert isinstance(error, pjsip.PjsipError)
    assert account.state == "failed"
    assert len(registers(registrar)) <= 3


def test_an_interval_that_grows_with_every_answer_is_not_followed_for_ever(
    world: World, registrar: Registrar
) -> None:
    registrar.script(*[Answer(423, headers={"Min-Expires": str(301 + n)}) for n in range(100)])
    account = world.account(registrar)
    assert isinstance(world.fails(account), pjsip.IntervalTooBrief)
    assert account.state == "failed"
    assert len(registers(registrar)) <= 10


def test_the_aor_is_the_accounts(world: World, registrar: Registrar) -> None:
    registrar.answer_next(503, aor="sip:other@example.com", times=None)
    other = world.account(registrar, aor="sip:other@example.com")
    account = world.account(registrar)
    world.fails(other)
    account.register().result(DEADLINE)
    assert (account.state, other.state) == ("registered", "waiting")
    assert {e.account for e in world.of(pjsip.AccountState) if e.state == "waiting"} == {other}
    assert account.aor == AOR
