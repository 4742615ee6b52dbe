# SPDX-License-Identifier: GPL-3.0-or-later
"""What accounts do by themselves, against real registrars, with the policy's time in our hands."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
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
    serves,
    until,
)

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(30)

STEADY = pjsip.RetryPolicy(jitter="none")


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as registrar:
        yield registrar


@pytest.fixture
def backup() -> Iterator[Registrar]:
    with Registrar() as registrar:
        yield registrar


@pytest.fixture
def tcp() -> Iterator[Registrar]:
    with Registrar(protocols=("tcp",)) as registrar:
        yield registrar


def moves(world: World) -> list[tuple[str, str, str, type | None]]:
    return [
        (e.previous, e.registrar, e.reason, None if e.error is None else type(e.error))
        for e in world.of(pjsip.RegistrarChanged)
    ]


def users(count: int) -> list[str]:
    return [f"sip:u{number}@example.com" for number in range(count)]


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        *[({"retry": v}, "retry") for v in (5, "never", pjsip.RETRY, 2.5)],
        *[({"failback": v}, "failback") for v in (0, -1, "60", True, float("nan"))],
        *[({"keep_alive": v}, "keep_alive") for v in (-1, 0.5, "30", True, 86401)],
        *[({"pong_timeout": v}, "pong_timeout") for v in (0, -1, None, "10", 301)],
        *[({"contact_rewrite": v}, "contact_rewrite") for v in (-1, 3, True, None, "1")],
        *[({"register_on_add": v}, "register_on_add") for v in (1, None, "yes")],
        *[({"refresh_margin": v}, "refresh_margin") for v in (0, 300, 301, -1, "5")],
        *[({"expires": v}, "expires") for v in (0, -1, 2**31, "300", True)],
        ({"registrars": "sip:a.test"}, "registrars"),
        ({"registrars": [5]}, "registrars"),
        ({"registrars": ["http://a.test"]}, "registrars"),
        ({"registrars": ["sip:a.test", "tel:+1"]}, "registrars.*tel"),
        ({"registrars": ["sip:a.test", "sip:b@c.test"]}, "registrars"),
        ({"registrars": ["sip:a.test", "sip:a.test"]}, "registrars.*twice"),
        ({"registrars": [f"sip:r{n}.test" for n in range(9)]}, "registrars: at most 8"),
        ({"registrars": ["sip:a.test"], "registrar": "sip:b.test"}, "registrar and registrars"),
        ({"registrars": [pjsip.RegistrarConfig("sip:a.test", route=[5])]}, "registrars"),  # type: ignore[list-item]
        ({"contact_rewrite": 2, "contacts": ["sip:a@192.0.2.1"]}, "contact_rewrite"),
        ({"failbak": 5}, "failback"),
        ({"regitrars": []}, "registrars"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_by_its_name(
    world: World, fields: dict[str, Any], name: str
) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError), match=name):
        world.ep.add_account(AOR, **fields)
    assert world.ep.accounts == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("register_rate", v) for v in (0, -1, "200", True, float("nan"))],
        *[("register_burst", v) for v in (0, 1, -1, 1.5, "100", None)],
    ],
)
def test_a_wrong_pace_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match=field):
        pjsip.EndpointConfig(**{field: value})


# -- another registrar in its place ----------------------------------------------------------------


def refused() -> tuple[str, Any]:
    return closed_port(), pjsip.TransportError


def test_a_refused_connection_goes_to_the_backup(world: World, backup: Registrar) -> None:
    dead = closed_port()
    account = world.account(dead, backup)
    assert account.registrars == (dead, backup.uri())
    assert account.registrar == dead
    assert account.register().result(DEADLINE).code == 200
    world.settle()
    assert (account.state, account.registrar) == ("registered", backup.uri())
    outcomes = world.of(pjsip.RegState, account)
    assert [(e.code, e.registrar) for e in outcomes] == [(503, dead), (200, backup.uri())]
    assert isinstance(outcomes[0].error, pjsip.TransportError)
    assert outcomes[0].retry_in == 0  # the next one at once
    assert [e.attempt for e in outcomes] == [1, 2]
    assert world.states(account) == ["registering", "registered"]
    assert (account.error, account.attempts) == (None, 0)


def test_an_overloaded_registrar_goes_to_the_backup(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503)
    account = world.account(registrar, backup)
    assert account.register().result(DEADLINE).code == 200
    assert account.registrar == backup.uri()
    assert world.outcomes(account) == [503, 200]


def test_a_silent_registrar_goes_to_the_backup(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.drop_next(times=None)
    account = world.account(registrar, backup, timeout=SILENT)
    began = time.monotonic()
    assert account.register().result(DEADLINE).code == 200
    # PJSIP's timers count in whole milliseconds
    assert SILENT - 0.002 <= time.monotonic() - began < SILENT + 0.5
    assert account.registrar == backup.uri()


def test_a_name_that_nobody_knows_goes_to_the_backup(backup: Registrar) -> None:
    def resolve(query: pjsip.Query) -> list[str]:
        raise OSError(f"{query.host} is nowhere")

    with World(resolver=resolve) as world:
        account = world.account("sip:nowhere.test", backup)
        assert account.register().result(DEADLINE).code == 200
        assert account.registrar == backup.uri()
        first = world.of(pjsip.RegState, account)[0]
        assert isinstance(first.error, pjsip.ResolveError)


def test_a_certificate_that_proves_nothing_goes_to_the_backup(
    world: World, backup: Registrar
) -> None:
    with Registrar(protocols=("tls",)) as liar:
        account = world.account(liar, backup)
        assert account.register().result(DEADLINE).code == 200
        assert account.registrar == backup.uri()
        first = world.of(pjsip.RegState, account)[0]
        assert isinstance(first.error, pjsip.TlsError)
        assert first.error.reasons
        assert registers(liar) == []


def test_each_registrar_has_its_own_tls_settings(world: World) -> None:
    with Registrar(protocols=("tls",)) as one, Registrar(protocols=("tls",)) as other:
        account = world.ep.add_account(
            AOR,
            registrars=[
                pjsip.RegistrarConfig(r.uri(), tls=pjsip.TlsConfig(ca_file=str(r.ca_file)))
                for r in (one, other)
            ],
        )
        account.register().result(DEADLINE)
        assert account.registrar == one.uri()
        one.answer_next(503)
        account.register().result(DEADLINE)
        assert account.registrar == other.uri()


@pytest.mark.parametrize("code", [401, 403, 404, 500, 600])
def test_a_verdict_does_not_go_to_the_backup(
    world: World, registrar: Registrar, backup: Registrar, code: int
) -> None:
    registrar.answer_next(code)
    account = world.account(registrar, backup)
    error = world.fails(account)
    assert getattr(error, "code", 0) == code
    assert registers(backup) == []
    assert account.state == ("waiting" if code in (500, 600) else "failed")


def test_a_wrong_password_is_not_tried_out_at_the_backup(world: World) -> None:
    users = {"alice": "another"}
    with Registrar(users=users) as registrar, Registrar(users=users) as backup:
        account = world.account(registrar, backup, credentials=ALICE)
        assert isinstance(world.fails(account), pjsip.WrongPasswordError)
        assert len(registers(registrar)) == 2
        assert registers(backup) == []


def test_a_code_can_be_made_to_go_to_the_backup(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(500)
    account = world.account(
        registrar, backup, retry=pjsip.RetryPolicy(per_code={500: pjsip.FAILOVER})
    )
    account.register().result(DEADLINE)
    assert account.registrar == backup.uri()


def test_who_has_moved_is_told_why_and_stays(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    account = world.account(registrar, backup)
    account.register().result(DEADLINE)
    world.settle()
    assert moves(world) == []
    registrar.answer_next(503)
    account.register().result(DEADLINE)
    world.settle()
    assert moves(world) == [(registrar.uri(), backup.uri(), "failover", pjsip.ServerError)]
    asked = len(registers(registrar))
    for _ in range(3):
        account.register().result(DEADLINE)
    assert account.registrar == backup.uri()
    assert len(registers(registrar)) == asked
    assert len(registers(backup)) == 4
    assert len(moves(world)) == 1


def test_a_refresh_that_fails_goes_to_the_backup_by_itself(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    account = world.account(registrar, backup, expires=1)
    account.register().result(DEADLINE)
    registrar.answer_next(503, times=None)
    world.wait(lambda: account.registrar == backup.uri(), "the failover")
    world.settle()
    failed = next(e for e in world.of(pjsip.RegState, account) if e.error)
    assert (failed.renewal, failed.retry_in) == (True, 0)
    assert moves(world) == [(registrar.uri(), backup.uri(), "failover", pjsip.ServerError)]
    assert "waiting" in world.states(account)


def test_it_looks_for_its_own_registrar_and_comes_home(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503, times=3)
    account = world.account(registrar, backup, failback=60, keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    assert list(world.clock.pending) == [about(60)]
    for looks in (1, 2):
        world.clock.advance(59)
        assert len(registers(registrar)) == looks
        world.clock.advance(1.001)
        world.rest(account, 2 + looks)
        probe = world.of(pjsip.RegState, account)[-1]
        assert (probe.probe, probe.code, probe.registrar) == (True, 503, registrar.uri())
        assert (account.state, account.registrar) == ("registered", backup.uri())
        assert (account.attempts, account.error) == (0, None)
        assert list(world.clock.pending) == [about(60)]
    world.clock.advance(60)
    world.wait(lambda: len(moves(world)) == 1, "it is home")
    assert moves(world) == [(backup.uri(), registrar.uri(), "home", None)]
    assert account.registrar == registrar.uri()
    probe = world.of(pjsip.RegState, account)[-1]
    assert (probe.probe, probe.code, probe.registrar) == (True, 200, registrar.uri())
    assert world.states(account) == ["registering", "registered"]
    # Nobody refreshes at the backup any more, and nothing is looked for.
    assert "1 registration" in repr(world.ep)
    assert world.clock.pending == ()
    assert len(registers(backup)) == 1
    account.register().result(DEADLINE)
    assert len(registers(backup)) == 1


def test_a_probe_that_is_refused_moves_nothing(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.script(Answer(503), Answer(403))
    account = world.account(registrar, backup, keep_alive=0)
    account.register().result(DEADLINE)
    world.clock.advance(60)
    world.rest(account, 3)
    assert (account.state, account.registrar) == ("registered", backup.uri())
    assert (account.error, world.of(pjsip.GaveUp)) == (None, [])
    assert list(world.clock.pending) == [about(300)]  # who refuses is not pestered
    world.next_timer()
    world.wait(lambda: account.registrar == registrar.uri(), "it is home")


def test_without_failback_it_stays(world: World, registrar: Registrar, backup: Registrar) -> None:
    registrar.answer_next(503)
    account = world.account(registrar, backup, failback=None, keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    assert world.clock.pending == ()
    world.clock.advance(86400)
    assert len(registers(registrar)) == 1
    assert account.registrar == backup.uri()


def test_from_the_backup_it_goes_on_to_whoever_is_left(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503)
    account = world.account(registrar, backup)
    account.register().result(DEADLINE)
    backup.answer_next(503)
    account.register().result(DEADLINE)  # the backup fails: round the ring to the primary
    world.settle()
    assert account.registrar == registrar.uri()
    assert moves(world)[-1][:2] == (backup.uri(), registrar.uri())


def test_three_registrars_are_walked_in_order_and_climbed_back(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    with Registrar() as last:
        names = {registrar.uri(): "a", backup.uri(): "b", last.uri(): "c"}
        for each in (registrar, backup):
            each.answer_next(503, times=None)
        account = world.account(registrar, backup, last, failback=10, keep_alive=0)
        account.register().result(DEADLINE)
        walked = [names[e.registrar] for e in world.of(pjsip.RegState)]
        assert walked == ["a", "b", "c"]
        world.clock.advance(10)  # a look goes from the top to just above where it is
        world.rest(account, 5)
        assert [names[e.registrar] for e in world.of(pjsip.RegState)[3:]] == ["a", "b"]
        assert names[account.registrar] == "c"
        backup.clear_script()
        world.clock.advance(10)
        world.wait(lambda: names[account.registrar] == "b", "the second serves")
        registrar.clear_script()
        world.clock.advance(10)
        world.wait(lambda: names[account.registrar] == "a", "the first serves")
        found = [(names[old], names[new], why) for old, new, why, _ in moves(world)]
        assert found == [("c", "b", "home"), ("b", "a", "home")]
        assert world.clock.pending == ()


def test_when_all_fail_the_last_error_counts_and_the_next_round_begins_at_the_top(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    dead = closed_port()
    registrar.answer_next(503, times=2)
    backup.drop_next(times=2)
    account = world.account(registrar, dead, backup, timeout=SILENT, retry=STEADY)
    error = world.fails(account)
    assert isinstance(error, pjsip.RegistrationTimeout)
    assert account.error is error
    assert (account.state, account.attempts) == ("waiting", 3)
    assert world.due(account) == about(2)
    assert account.registrar == registrar.uri()
    world.clock.advance(2)
    world.rest(account, 6)
    assert [e.registrar for e in world.of(pjsip.RegState)] == [
        registrar.uri(),
        dead,
        backup.uri(),
    ] * 2
    assert world.due(account) == about(4)  # a round counts once
    assert world.retry(account).code == 200
    assert account.registrar == registrar.uri()


def test_max_attempts_counts_rounds(world: World) -> None:
    dead = [closed_port(), closed_port()]
    account = world.account(*dead, retry=pjsip.RetryPolicy(max_attempts=2))
    world.fails(account)
    world.clock.advance(2)
    world.wait_state(account, "failed")
    [gave_up] = world.of(pjsip.GaveUp)
    assert gave_up.attempts == 4
    assert isinstance(gave_up.error, pjsip.TransportError)


def test_who_asked_to_be_left_alone_is_passed_over(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503, headers={"Retry-After": "100"})
    backup.answer_next(503, times=3)
    account = world.account(registrar, backup, retry=STEADY)
    world.fails(account)
    waits = [world.due(account)]
    for _ in range(2):
        world.retry(account)
        waits.append(world.due(account))
    assert waits == about([2, 4, 8])
    assert len(registers(registrar)) == 1  # 6 s later it still has its rest
    assert world.retry(account).registrar == backup.uri()
    assert account.registrar == backup.uri()


def test_when_all_want_to_be_left_alone_the_first_to_come_back_is_waited_for(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503, headers={"Retry-After": "100"})
    backup.answer_next(503, headers={"Retry-After": "30"})
    account = world.account(registrar, backup)
    world.fails(account)
    assert world.due(account) == about(30)
    outcome = world.retry(account)
    assert (outcome.code, outcome.registrar) == (200, backup.uri())
    assert len(registers(registrar)) == 1


def test_a_look_home_respects_a_retry_after(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503, headers={"Retry-After": "600"})
    account = world.account(registrar, backup, failback=60, keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    world.clock.advance(599)
    world.settle()
    assert len(registers(registrar)) == 1
    world.clock.advance(61)
    world.wait(lambda: account.registrar == registrar.uri(), "it is home")


def test_register_looks_round_while_the_planned_attempt_waits(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    for each in (registrar, backup):
        each.answer_next(503)
    account = world.account(registrar, backup)
    world.fails(account)
    assert account.state == "waiting"
    account.register().result(DEADLINE)
    assert account.registrar == registrar.uri()


def test_unregistering_removes_the_binding_where_it_is(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.answer_next(503)
    account = world.account(registrar, backup, keep_alive=0)
    account.register().result(DEADLINE)
    assert len(serves(backup)) == 1
    account.unregister().result(DEADLINE)
    assert serves(backup) == []
    assert len(registers(registrar)) == 1
    assert world.clock.pending == ()  # no look home


def test_a_probe_that_succeeds_behind_an_unregister_leaves_no_binding(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.script(Answer(503), Answer(delay=0.1))
    account = world.account(registrar, backup)
    account.register().result(DEADLINE)
    world.settle()
    world.clock.advance(60)
    registrar.wait_for(2)
    account.unregister().result(DEADLINE)
    assert account.state == "unregistered"
    registrar.wait_for(lambda r: r.expires == 0 and r.answered == 200)
    assert serves(registrar) == serves(backup) == []
    assert account.state == "unregistered"


# -- several servers behind one name ---------------------------------------------------------------


class Pool:
    """A name with several servers, as a resolver hook has them."""

    def __init__(self, *uris: str) -> None:
        self.asked = 0
        self.targets = [
            pjsip.Target("127.0.0.1", int(uri.split(":")[2].split(";")[0]), "tcp") for uri in uris
        ]

    def __call__(self, query: pjsip.Query) -> list[pjsip.Target]:
        self.asked += 1
        return self.targets


NAME = "sip:pool.test;transport=tcp"


def test_the_servers_of_a_name_are_tried_in_order(tcp: Registrar) -> None:
    pool = Pool(closed_port(), closed_port(), tcp.uri())
    with World(resolver=pool) as world:
        account = world.account(NAME)
        assert account.register().result(DEADLINE).code == 200
        assert [e.code for e in world.of(pjsip.RegState)] == [503, 503, 200]
        assert account.registrar == NAME
        assert moves(world) == []
        # It stays with the one that serves.
        for _ in range(2):
            account.register().result(DEADLINE)
        assert [e.code for e in world.of(pjsip.RegState)] == [503, 503, 200, 200, 200]


def test_a_server_that_is_overloaded_is_left_for_the_next_of_its_name(tcp: Registrar) -> None:
    with Registrar(protocols=("tcp",)) as other, World(resolver=Pool(tcp.uri(), other.uri())) as w:
        account = w.account(NAME)
        account.register().result(DEADLINE)
        assert len(registers(tcp)) == 1
        tcp.answer_next(503)
        account.register().result(DEADLINE)
        assert len(serves(other)) == 1
        tcp.stop()
        account.register().result(DEADLINE)  # nobody asks the first again
        assert len(registers(other)) == 2


def test_when_all_servers_of_a_name_fail_the_backup_is_next(backup: Registrar) -> None:
    pool = Pool(closed_port(), closed_port())
    with World(resolver=pool) as world:
        account = world.account(NAME, backup)
        account.register().result(DEADLINE)
        assert account.registrar == backup.uri()
        assert world.outcomes(account) == [503, 503, 200]


def test_after_a_round_the_servers_of_a_name_are_tried_from_the_first_again(
    tcp: Registrar,
) -> None:
    tcp.answer_next(503)
    pool = Pool(closed_port(), tcp.uri())
    with World(resolver=pool) as world:
        account = world.account(NAME, retry=STEADY)
        world.fails(account)
        assert (account.state, account.attempts) == ("waiting", 2)
        pool.targets.reverse()
        world.clock.advance(2)
        world.wait_state(account, "registered")
        assert world.outcomes(account) == [503, 503, 200]


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_dies_is_replaced(world: World, tcp: Registrar, reset: bool) -> None:
    account = world.account(tcp)
    account.register().result(DEADLINE)
    before = world.of(pjsip.RegState)[-1].connection
    assert tcp.drop_connections(reset=reset) == 1
    world.wait_state(account, "waiting")
    assert world.of(pjsip.AccountState)[-1].reason == "connection lost"
    assert 0 <= world.due(account) <= 1
    assert account.registered  # the binding is there, though nobody can be reached by it
    assert account.error is None
    outcome = world.retry(account)
    assert outcome.code == 200
    assert outcome.connection not in (0, before)
    assert account.state == "registered"
    assert len(serves(tcp)) == 1
    assert tcp.stats().connections == 1


def test_twenty_accounts_on_a_connection_that_dies_come_back_spread(
    world: World, tcp: Registrar
) -> None:
    policy = pjsip.RetryPolicy(reconnect=4, seed=3)
    accounts = [world.account(tcp, aor=aor, retry=policy) for aor in users(20)]
    for operation in [account.register() for account in accounts]:
        operation.result(DEADLINE)
    assert tcp.stats().connections == 1
    tcp.drop_connections()
    for account in accounts:
        world.wait_state(account, "waiting")
    due = sorted(world.due(account) for account in accounts)
    assert 0 <= due[0] < due[-1] <= 4
    assert len(set(due)) == 20
    assert due == about(sorted(policy.reconnect_delay(account.aor) for account in accounts))
    world.clock.advance(4)
    for account in accounts:
        world.wait_state(account, "registered")
    assert tcp.stats().connections == 1
    assert Counter(r.aor for r in registers(tcp)) == dict.fromkeys(users(20), 2)


def test_without_a_policy_a_dead_connection_is_left_to_the_program(
    world: World, tcp: Registrar
) -> None:
    account = world.account(tcp, retry=None)
    account.register().result(DEADLINE)
    tcp.drop_connections()
    world.wait(
        lambda: any(e.state == "disconnected" for e in world.of(pjsip.TransportState)), "its end"
    )
    world.settle()
    assert world.clock.pending == ()
    account.register().result(DEADLINE)


def test_a_registrar_that_restarts_gets_its_clients_back(world: World, tcp: Registrar) -> None:
    account = world.account(tcp, retry=STEADY)
    account.register().result(DEADLINE)
    tcp.stop()
    world.wait_state(account, "waiting")
    world.retry(account)
    assert isinstance(account.error, pjsip.TransportError)
    tcp.start(keep_bindings=False)
    world.retry(account)
    assert account.state == "registered"
    assert len(serves(tcp)) == 1


def test_a_connection_over_which_nobody_answers_is_left(world: World, tcp: Registrar) -> None:
    account = world.account(tcp, timeout=SILENT)
    account.register().result(DEADLINE)
    before = world.of(pjsip.RegState)[-1].connection
    world.clock.advance(60)  # it is a while since anything was heard
    tcp.drop_next()
    tcp.answer_pings = False
    assert isinstance(world.fails(account), pjsip.RegistrationTimeout)
    world.clock.advance(1.9)  # for the answer to a keep-alive, before the next attempt
    until(lambda: tcp.stats().connections == 0, "the connection is left")
    outcome = world.retry(account)
    assert outcome.code == 200
    assert outcome.connection != before
    assert tcp.stats().connections == 1


def ping(world: World, registrar: Registrar, account: pjsip.Account) -> None:
    """Let the next keep-alive go out as its time comes."""
    path = account._flows[0].path
    assert path is not None
    pings = registrar.stats().keepalives
    world.next_timer()
    while path.must_pong and path.asked != world.clock.time():  # a look for the pong
        world.next_timer()
    registrar.wait_for_keepalives(pings + 1)


def ping_pong(world: World, registrar: Registrar, account: pjsip.Account, times: int = 1) -> None:
    """The same, and its answer come back."""
    path = account._flows[0].path
    assert path is not None
    for _ in range(times):
        pongs = path.pongs
        ping(world, registrar, account)
        until(lambda pongs=pongs: path.pongs > pongs, "the pong")  # type: ignore[misc]


def test_a_connection_whose_other_end_answers_pings_is_kept(world: World, tcp: Registrar) -> None:
    account = world.account(tcp, timeout=SILENT, keep_alive=5)
    account.register().result(DEADLINE)
    before = world.of(pjsip.RegState)[-1].connection
    ping_pong(world, tcp, account, 3)
    tcp.drop_next()
    assert isinstance(world.fails(account), pjsip.RegistrationTimeout)
    world.settle()
    assert world.retry(account).connection == before
    assert tcp.stats().connections == 1


def test_a_pong_that_does_not_come_ends_the_connection(world: World, tcp: Registrar) -> None:
    account = world.account(tcp, keep_alive=5, pong_timeout=2)
    account.register().result(DEADLINE)
    ping_pong(world, tcp, account, 3)
    tcp.answer_pings = False
    ping(world, tcp, account)
    world.clock.advance(1.99)
    world.settle()
    assert account.state == "registered"
    world.clock.advance(0.011)
    world.wait_state(account, "waiting")
    assert world.of(pjsip.AccountState)[-1].reason == "connection lost"
    tcp.answer_pings = True
    world.retry(account)
    assert account.state == "registered"
    assert tcp.stats().connections == 1


def test_who_never_answered_a_ping_is_not_left_for_it(world: World, tcp: Registrar) -> None:
    tcp.answer_pings = False
    account = world.account(tcp, keep_alive=5, pong_timeout=2)
    account.register().result(DEADLINE)
    world.clock.advance(100)
    tcp.wait_for_keepalives(20)
    world.settle()
    assert (account.state, tcp.stats().connections) == ("registered", 1)
    assert 20 <= tcp.stats().keepalives <= 25  # each 4 to 5 s


@pytest.mark.parametrize("pong_timeout", [1, 4.5, 30])
def test_pings_that_are_answered_keep_their_interval(
    world: World, tcp: Registrar, pong_timeout: float
) -> None:
    account = world.account(tcp, keep_alive=5, pong_timeout=pong_timeout)
    account.register().result(DEADLINE)
    began = world.clock.time()
    ping_pong(world, tcp, account, 10)
    assert account.state == "registered"
    assert 40 <= world.clock.time() - began <= 51
    account.unregister().result(DEADLINE)
    assert world.clock.pending == ()


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("30", 24, 30),
        ("1", 8, 10),  # not less than 10
        ("10", 8, 10),
        ("4294967295", 2880, 3600),  # not more than an hour
        ("99999999999999999999", 2880, 3600),
        ("0", 95, 120),
        ("garbage", 95, 120),
        ("-5", 95, 120),
        ("", 95, 120),
        (None, 95, 120),
    ],
)
def test_the_registrar_says_how_often_it_wants_a_ping(
    world: World, tcp: Registrar, text: str | None, least: float, most: float
) -> None:
    if text is not None:
        tcp.script(Answer(headers={"Flow-Timer": text}))
    account = world.account(tcp)
    account.register().result(DEADLINE)
    world.settle()
    [wait] = world.clock.pending
    assert least <= wait <= most


def test_who_sends_flow_timer_must_answer_pings(world: World) -> None:
    with Registrar(protocols=("tcp",), flow_timer=30) as registrar:
        registrar.answer_pings = False
        account = world.account(registrar)
        account.register().result(DEADLINE)
        world.next_timer()
        registrar.wait_for_keepalives(1)
        assert list(world.clock.pending) == [about(10)]  # pong_timeout's default, RFC 5626 §4.4.1
        world.next_timer()
        world.wait_state(account, "waiting")


def test_the_programs_own_interval_comes_before_flow_timer(world: World) -> None:
    with Registrar(protocols=("tcp",), flow_timer=30) as registrar:
        account = world.account(registrar, keep_alive=200)
        account.register().result(DEADLINE)
        world.settle()
        [wait] = world.clock.pending
        assert 160 <= wait <= 200


def test_a_udp_path_is_kept_open_once_for_all_its_accounts(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    accounts = [world.account(registrar, aor=aor, keep_alive=10) for aor in users(20)]
    other = world.account(backup, keep_alive=10)
    for operation in [account.register() for account in (*accounts, other)]:
        operation.result(DEADLINE)
    world.settle()
    assert len(world.clock.pending) == 2
    world.clock.advance(10)
    for each in (registrar, backup):
        each.wait_for_keepalives(1)
        assert each.stats().keepalives == 1
    world.clock.advance(100)
    registrar.wait_for_keepalives(11)
    assert 11 <= registrar.stats().keepalives <= 14
    for account in accounts[1:]:
        account.unregister().result(DEADLINE)
    world.settle()
    assert len(world.clock.pending) == 2
    accounts[0].close()
    assert len(world.clock.pending) == 1
    other.unregister().result(DEADLINE)
    assert world.clock.pending == ()


def test_a_udp_path_is_kept_open_every_half_minute_by_default(
    world: World, registrar: Registrar
) -> None:
    world.account(registrar).register().result(DEADLINE)
    world.settle()
    [wait] = world.clock.pending
    assert 24 <= wait <= 29


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_keep_alives_can_be_left_out(world: World, protocol: str) -> None:
    with Registrar(protocols=(protocol,)) as registrar:
        account = world.account(registrar, keep_alive=0)
        account.register().result(DEADLINE)
        world.settle()
        assert world.clock.pending == ()
        world.clock.advance(3600)
        account.register().result(DEADLINE)
        assert registrar.stats().keepalives == 0


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_who_wants_no_keep_alives_does_not_disturb_those_of_others(
    world: World, protocol: str
) -> None:
    with Registrar(protocols=(protocol,)) as registrar:
        one = world.account(registrar, keep_alive=10, pong_timeout=1)
        other = world.account(registrar, aor="sip:bob@example.com", keep_alive=0, pong_timeout=1)
        for account in (one, other, other):
            account.register().result(DEADLINE)
        world.settle()
        began = world.clock.time()
        for _ in range(10):
            (ping if protocol == "udp" else ping_pong)(world, registrar, one)
        assert registrar.stats().keepalives == 10
        assert 80 <= world.clock.time() - began <= 101


def test_keep_alives_can_be_switched_off(world: World, registrar: Registrar) -> None:
    account = world.account(registrar, keep_alive=10)
    account.register().result(DEADLINE)
    account.modify(keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    world.clock.advance(100)
    world.settle()
    account.register().result(DEADLINE)
    assert registrar.stats().keepalives <= 1


# -- behind a NAT ----------------------------------------------------------------------------------

SEEN = ("203.0.113.7", 4242)


def test_the_contact_becomes_where_the_registrar_sees_us(
    world: World, registrar: Registrar
) -> None:
    registrar.seen_as = SEEN
    account = world.account(registrar, keep_alive=0)
    account.register().result(DEADLINE)
    world.wait(lambda: world.outcomes(account) == [200, 200], "the second REGISTER")
    world.settle()
    first, second = registers(registrar)
    [old] = first.contacts
    assert {c.uri: c.params.get("expires") for c in second.contacts} == {
        "sip:alice@203.0.113.7:4242": None,
        old.uri: "0",
    }
    assert serves(registrar) == ["sip:alice@203.0.113.7:4242"]
    [changed] = world.of(pjsip.ContactChanged, account)
    assert changed.local == old.uri.partition("@")[2]
    assert changed.mapped == "203.0.113.7:4242"
    assert old.uri in changed.previous
    assert "sip:alice@203.0.113.7:4242" in changed.contact
    assert account.binding is not None
    assert account.binding.uri == "sip:alice@203.0.113.7:4242"
    assert first.call_id == second.call_id
    # It is right now: nothing else happens, and leaving removes the new one.
    account.register().result(DEADLINE)
    world.settle()
    assert len(world.of(pjsip.ContactChanged)) == 1
    assert [c.uri for c in registers(registrar)[-1].contacts] == ["sip:alice@203.0.113.7:4242"]
    account.unregister().result(DEADLINE)
    assert serves(registrar) == []


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_three_ways_to_treat_the_contact(world: World, registrar: Registrar, mode: int) -> None:
    registrar.seen_as = SEEN
    account = world.account(registrar, contact_rewrite=mode)
    account.register().result(DEADLINE)
    if mode:
        world.wait(lambda: world.outcomes(account) == [200, 200], "the second REGISTER")
    world.settle()
    assert len(registers(registrar)) == (2 if mode else 1)
    assert len(world.of(pjsip.ContactChanged)) == (1 if mode else 0)


def test_contacts_of_the_programs_own_are_not_rewritten(world: World, registrar: Registrar) -> None:
    registrar.seen_as = SEEN
    account = world.account(registrar, contacts=["sip:alice@198.51.100.1:5060"])
    account.register().result(DEADLINE)
    world.settle()
    assert serves(registrar) == ["sip:alice@198.51.100.1:5060"]
    assert world.of(pjsip.ContactChanged) == []


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("not-an-address", 4242),
        ("203.0.113.7.9", 4242),
        ("203.0.113", 4242),
        ("0.0.0.0", 4242),
        ("224.0.0.1", 4242),
        ("255.255.255.255", 4242),
        ("2001:db8::7", 4242),
        ("[2001:db8::7]", 4242),
        ("::", 4242),
        ("a" * 3000, 4242),
    ],
)
def test_an_address_that_cannot_be_ours_is_not_believed(
    world: World, registrar: Registrar, host: str, port: Any
) -> None:
    registrar.seen_as = (host, port)
    account = world.account(registrar, keep_alive=0, timeout=1.0)
    assert account.register().result(DEADLINE).code == 200
    world.settle()
    assert account.state == "registered"
    assert world.of(pjsip.ContactChanged) == []
    assert len(registers(registrar)) == 1
    assert world.clock.pending == ()


def test_without_a_port_our_own_is_kept(world: World, registrar: Registrar) -> None:
    registrar.seen_as = (SEEN[0], 0)
    account = world.account(registrar)
    account.register().result(DEADLINE)
    world.wait(lambda: world.outcomes(account) == [200, 200], "the second REGISTER")
    port = registers(registrar)[0].source[1]
    assert serves(registrar) == [f"sip:alice@{SEEN[0]}:{port}"]


@pytest.mark.parametrize("port", [65536, 99999, 4294967296 + 4242, "x", "-1"])
def test_a_port_that_is_none_is_survived(world: World, registrar: Registrar, port: Any) -> None:
    registrar.seen_as = (SEEN[0], port)
    account = world.account(registrar, timeout=SILENT)
    assert isinstance(world.fails(account), pjsip.RegistrationTimeout)  # its Via is not ours
    assert world.of(pjsip.ContactChanged) == []
    registrar.seen_as = None
    assert world.retry(account).code == 200


def test_another_port_with_every_answer_does_not_loop(world: World, registrar: Registrar) -> None:
    ports = iter(range(4000, 5000))
    registrar.seen_as = lambda source: (SEEN[0], next(ports))
    account = world.account(registrar, keep_alive=0)
    account.register().result(DEADLINE)
    world.wait(lambda: len(world.outcomes(account)) >= 3, "the rewrites")
    world.settle()
    assert account.state == "registered"
    assert account.registered
    assert world.clock.pending == ()
    assert len(registers(registrar)) <= 4
    assert len(serves(registrar)) == 1
    assert account.binding is not None
    assert account.binding.uri == serves(registrar)[0]


def test_over_a_connection_the_port_is_not_looked_at(world: World, tcp: Registrar) -> None:
    tcp.seen_as = ("127.0.0.1", 4242)
    account = world.account(tcp)
    account.register().result(DEADLINE)
    world.settle()
    assert world.of(pjsip.ContactChanged) == []
    tcp.seen_as = SEEN
    account.register().result(DEADLINE)
    world.wait(lambda: len(world.outcomes(account)) == 3, "the new contact")
    world.settle()
    assert [uri.partition("@")[2] for uri in serves(tcp)] == ["203.0.113.7:4242;transport=tcp"]


def test_over_ipv6_an_address_has_its_brackets(world: World) -> None:
    try:
        registrar = Registrar(host="::1").start()
    except OSError:
        pytest.skip("no IPv6 loopback")
    try:
        registrar.seen_as = ("2001:db8::7", 4242)
        account = world.account(registrar)
        account.register().result(DEADLINE)
        world.wait(lambda: world.outcomes(account) == [200, 200], "the second REGISTER")
        assert serves(registrar) == ["sip:alice@[2001:db8::7]:4242"]
        [changed] = world.of(pjsip.ContactChanged)
        assert changed.mapped == "[2001:db8::7]:4242"
    finally:
        registrar.stop()


# -- one deadline, one lock: what a program may do, and when ---------------------------------------

ACTIONS: dict[str, Callable[[pjsip.Account], object]] = {
    "close": lambda account: account.close(),
    "unregister": lambda account: account.unregister(),
    "register": lambda account: account.register(),
    "modify": lambda account: account.modify(expires=77),
    "modify all": lambda account: account.modify(display_name="Alice"),
}
AFTER = {
    "close": ("closed",),
    "unregister": ("unregistered",),
    "register": ("registered",),
    "modify": ("registered",),
    "modify all": ("registered",),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["RegStarted", "RegState", "AccountState"])
def test_an_account_may_be_changed_in_its_own_handler(
    world: World, registrar: Registrar, action: str, kind: str
) -> None:
    account = world.account(registrar)
    done: list[str] = []

    def handler(event: Any) -> None:
        if not done:
            done.append(kind)
            ACTIONS[action](account)

    world.ep.on(getattr(pjsip, kind), handler)
    operation = account.register()
    world.wait(lambda: done, "the handler")
    world.wait_state(account, *AFTER[action])
    until(operation.done, "the operation's end")
    world.settle()
    assert account.registered == (AFTER[action] == ("registered",))
    if action == "unregister":
        assert serves(registrar) == []


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_that_gave_up_may_be_changed_where_it_is_told(
    world: World, registrar: Registrar, action: str
) -> None:
    registrar.answer_next(403)
    account = world.account(registrar)
    world.ep.on(pjsip.GaveUp, lambda event: ACTIONS[action](event.account))
    assert isinstance(account.register().exception(DEADLINE), pjsip.ForbiddenError)
    world.wait_state(account, *AFTER[action])
    assert account.state == AFTER[action][0]


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_may_be_changed_by_its_hook(
    world: World, registrar: Registrar, action: str
) -> None:
    class Phone(pjsip.Account):
        __slots__ = ("seen",)

        def on_reg_state(self, event: Any) -> Any:
            if not hasattr(self, "seen"):
                self.seen = True
                ACTIONS[action](self)

    account = world.ep.add_account(AOR, cls=Phone, registrar=registrar.uri())
    account.register()
    world.wait_state(account, *AFTER[action])


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_may_be_changed_from_a_thread_while_its_register_is_in_flight(
    world: World, registrar: Registrar, action: str
) -> None:
    registrar.delay_next(0.05)
    account = world.account(registrar)
    operation = account.register()
    registrar.wait_for(1)
    threads = [threading.Thread(target=ACTIONS[action], args=(account,)) for _ in range(2)]
    if action == "close":
        threads = threads[:1]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    world.wait_state(account, *AFTER[action])
    until(operation.done, "the operation's end")
    assert serves(registrar) == [] or action != "unregister"
    if action == "close":
        assert isinstance(operation.exception(0), pjsip.ClosedError)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_may_be_changed_while_it_waits(
    world: World, registrar: Registrar, action: str
) -> None:
    registrar.answer_next(500)
    account = world.account(registrar, keep_alive=0)
    world.fails(account)
    assert account.state == "waiting"
    ACTIONS[action](account)
    world.wait_state(account, *AFTER[action])
    world.settle()
    assert world.clock.pending == ()
    assert account.retry_at is None


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_may_be_changed_while_it_waits_for_its_turn(
    registrar: Registrar, action: str
) -> None:
    with World(register_rate=1.0, register_burst=2) as world:
        accounts = [
            world.account(registrar, aor=aor, register_on_add=True, keep_alive=0)
            for aor in users(4)
        ]
        last = accounts[-1]
        for account in accounts[:2]:
            world.wait_state(account, "registered")
        assert last.state == "waiting"
        ACTIONS[action](last)
        world.wait_state(last, *AFTER[action])
        world.clock.advance(10)
        world.wait_state(accounts[2], "registered")
        world.settle()
        assert last.state == AFTER[action][0]
        assert world.clock.pending == ()
        asked = len(registers(registrar, last.aor))
        assert asked == (0 if action == "close" else 1)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_may_be_changed_while_it_looks_home(
    world: World, registrar: Registrar, backup: Registrar, action: str
) -> None:
    registrar.script(Answer(503), Answer(503, delay=0.1))
    account = world.account(registrar, backup, keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    world.clock.advance(60)
    registrar.wait_for(2)
    ACTIONS[action](account)
    world.wait_state(account, *AFTER[action])
    registrar.wait_for(lambda r: r is registrar.requests[1] and r.answered == 503)
    world.settle()
    assert account.state == AFTER[action][0]


def test_cancelling_a_register_of_a_new_account_leaves_it_idle(
    world: World, registrar: Registrar
) -> None:
    registrar.drop_next()
    account = world.account(registrar)
    operation = account.register()
    registrar.wait_for(1)
    assert operation.cancel()
    world.wait_state(account, "idle")
    assert operation.cancelled()
    assert (account.retry_at, world.clock.pending) == (None, ())
    assert len(registers(registrar)) == 1
    account.register().result(DEADLINE)


def test_cancelling_a_register_of_a_registered_account_leaves_it_registered(
    world: World, registrar: Registrar
) -> None:
    account = world.account(registrar, keep_alive=0)
    account.register().result(DEADLINE)
    refresh_at, expires_at = account.refresh_at, account.expires_at
    registrar.drop_next()
    operation = account.register()
    registrar.wait_for(2)
    operation.cancel()
    world.wait_state(account, "registered")
    assert account.registered
    assert (account.refresh_at, account.expires_at) == (refresh_at, expires_at)
    assert refresh_at is not None
    # Its refresh is not forgotten.
    [wait] = world.clock.pending
    assert wait == about(refresh_at - world.clock.wall())
    world.clock.advance(wait + 1e-6)
    world.wait(lambda: world.outcomes(account)[-1] == 200, "the refresh")
    assert len(registers(registrar)) == 3


def test_cancelling_a_register_of_a_waiting_account_leaves_it_waiting(
    world: World, registrar: Registrar
) -> None:
    registrar.script(Answer(500), Answer(drop="request"))
    account = world.account(registrar)
    world.fails(account)
    operation = account.register()
    registrar.wait_for(2)
    operation.cancel()
    world.wait_state(account, "waiting")
    assert account.retry_at is not None
    assert world.retry(account).code == 200


def test_cancelling_one_of_two_registers_leaves_the_other(
    world: World, registrar: Registrar
) -> None:
    registrar.delay_next(0.1)
    account = world.account(registrar)
    first, second = account.register(), account.register()
    registrar.wait_for(1)
    second.cancel()
    assert first.result(DEADLINE).code == 200
    world.wait_state(account, "registered")
    assert len(registers(registrar)) == 1


def test_a_cancelled_walk_does_not_go_on_to_the_backup(
    world: World, registrar: Registrar, backup: Registrar
) -> None:
    registrar.drop_next()
    account = world.account(registrar, backup)
    operation = account.register()
    registrar.wait_for(1)
    operation.cancel()
    world.wait_state(account, "idle")
    assert registers(backup) == []


# -- the end of an endpoint ------------------------------------------------------------------------


def accounts_in_every_state(
    world: World, registrar: Registrar, silent: Registrar
) -> dict[str, pjsip.Account]:
    """One account in each state; ``silent`` answers nothing any more."""
    names = ["registered", "unregistered", "failed", "waiting", "bound", "idle"]
    found = {
        name: world.account(registrar, aor=f"sip:{name}@example.com", keep_alive=0)
        for name in names
    }
    found["registering"] = world.account(silent, aor="sip:registering@example.com", keep_alive=0)
    found["unregistering"] = world.account(silent, aor="sip:unregistering@example.com")
    found["probing"] = world.account(silent, registrar, aor="sip:probing@example.com")
    for name in ("registered", "unregistered", "bound", "unregistering"):
        found[name].register().result(DEADLINE)
    found["unregistered"].unregister().result(DEADLINE)
    silent.answer_next(503)
    found["probing"].register().result(DEADLINE)
    registrar.answer_next(403, aor=found["failed"].aor)
    registrar.answer_next(500, aor=found["waiting"].aor, times=None)
    registrar.answer_next(500, aor=found["bound"].aor)
    for name in ("failed", "waiting", "bound"):
        world.fails(found[name])
    silent.drop_next(times=None)
    seen = len(silent.requests)
    found["registering"].register()
    found["unregistering"].unregister()
    world.settle()
    world.clock.advance(60)
    silent.wait_for(seen + 3)
    world.wait_state(found["bound"], "registered")
    world.wait_state(found["waiting"], "waiting")
    world.settle()
    expected = {name: name for name in found} | {"probing": "registered", "bound": "registered"}
    assert {name: account.state for name, account in found.items()} == expected
    return found


def test_closing_ends_accounts_in_every_state_within_one_deadline(registrar: Registrar) -> None:
    with Registrar() as silent:
        world = World().__enter__()
        accounts = accounts_in_every_state(world, registrar, silent)
        waiter = Waiter(accounts["idle"])
        began = time.monotonic()
        world.ep.close(timeout=0.3)
        assert time.monotonic() - began < 1.0
        assert {account.state for account in accounts.values()} == {"closed"}
        assert isinstance(waiter.outcome(), pjsip.ClosedError)
        assert registrar.aors == []  # who answers has no binding of ours left
        world.clock.advance(3600)
        for account in accounts.values():
            assert not account.registered
            for ask in (account.register, account.unregister, account.modify):
                with pytest.raises(pjsip.ClosedError):
                    ask()


def test_closing_without_the_network_sends_nothing(registrar: Registrar) -> None:
    with Registrar() as silent:
        world = World().__enter__()
        accounts = accounts_in_every_state(world, registrar, silent)
        sent = [each.stats().requests for each in (registrar, silent)]
        repeated = [each.stats().retransmissions for each in (registrar, silent)]
        bound = registrar.aors
        world.ep.close(network=False)
        assert {account.state for account in accounts.values()} == {"closed"}
        world.clock.advance(3600)
        # What would have been sent arrives before what we send now.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for each in (registrar, silent):
                seen = each.stats().ignored
                sock.sendto(b"SIP/2.0 200 OK\r\n\r\n", each.address())
                until(lambda each=each, seen=seen: each.stats().ignored > seen, "it")  # type: ignore[misc]
        assert [each.stats().requests for each in (registrar, silent)] == sent
        assert [each.stats().retransmissions for each in (registrar, silent)] == repeated
        assert registrar.aors == bound


def test_an_account_added_again_after_a_close_is_another_one(registrar: Registrar) -> None:
    with World() as world:
        account = world.account(registrar)
        account.register().result(DEADLINE)
        world.ep.close()
        world.ep.open()
        again = world.account(registrar)
        again.register().result(DEADLINE)
        assert (account.state, again.state) == ("closed", "registered")
        assert len(serves(registrar)) == 1


def test_closed_accounts_leave_no_timers_and_no_memory(world: World, registrar: Registrar) -> None:
    registrar.answer_next(500, times=None)
    for aor in users(50):
        world.account(registrar, aor=aor).register()
    world.wait(lambda: Counter(world.states())["waiting"] == 50, "all have failed")
    for account in world.ep.accounts:
        account.close()
    del account
    world.settle()
    assert world.ep.accounts == ()
    assert world.clock.pending == ()
    assert "0 registrations" in repr(world.ep)
    world.events.clear()
    gc.collect()
    assert not [o for o in gc.get_objects() if isinstance(o, pjsip.Account)]


# -- asyncio ---------------------------------------------------------------------------------------


def test_a_loop_awaits_what_accounts_do(registrar: Registrar, backup: Registrar) -> None:
    async def main() -> None:
        world = World()
        async with world.ep as ep:
            account = ep.add_account(AOR, registrars=[registrar.uri(), backup.uri()])
            events = account.events()
            registrar.answer_next(503)
            assert (await account.register()).code == 200
            seen: list[str] = []
            async for event in events:
                seen.append(type(event).__name__)
                if isinstance(event, pjsip.AccountState) and event.state == "registered":
                    break
            assert seen.count("RegState") == 2
            assert account.registrar == backup.uri()
            backup.answer_next(500)
            with pytest.raises(pjsip.ServerError):
                await account.register()
            waiting = asyncio.ensure_future(account.wait_registered(DEADLINE))
            await asyncio.sleep(0)
            world.clock.advance(2)
            assert (await waiting).code == 200
            backup.script(Answer(500), Answer(403))
            with pytest.raises(pjsip.ServerError):
                await account.register()
            waiting = asyncio.ensure_future(account.wait_registered(DEADLINE))
            await asyncio.sleep(0)
            world.clock.advance(2)
            with pytest.raises(pjsip.ForbiddenError):
                await waiting
            assert account.state == "failed"
            with pytest.raises(pjsip.ForbiddenError):
                await account.wait_registered(DEADLINE)
            await account.unregister()
            assert (await asyncio.wait_for(anext_of(events, pjsip.GaveUp), DEADLINE)).attempts == 2

    asyncio.run(asyncio.wait_for(main(), 20))


async def anext_of(events: Any, kind: type) -> Any:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events ended")


def test_a_task_that_is_cancelled_cancels_its_register(registrar: Registrar) -> None:
    async def main() -> None:
        registrar.drop_next(times=None)
        async with pjsip.Endpoint(strict=True) as ep:
            account = ep.add_account(AOR, registrar=registrar.uri())
            task = asyncio.ensure_future(_awaited(account.register()))
            await asyncio.to_thread(registrar.wait_for, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, lambda: account.state == "idle", "the cancel")
            registrar.clear_script()
            assert (await account.register()).code == 200

    asyncio.run(asyncio.wait_for(main(), 20))


async def _awaited(operation: Any) -> Any:
    return await operation


# -- pacing ----------------------------------------------------------------------------------------


def paced(world: World, accounts: list[pjsip.Account]) -> float:
    """Let time go by, in steps that leave time for answers, until all are registered; how long."""
    began = world.clock.time()
    while any(account.state != "registered" for account in accounts):
        world.clock.advance(0.1)
        world.wait(lambda: all(account.state != "registering" for account in accounts), "answers")
    return world.clock.time() - began


def test_accounts_that_begin_by_themselves_are_paced(registrar: Registrar) -> None:
    with World(register_rate=10.0, register_burst=2) as world:
        accounts = [
            world.account(registrar, aor=aor, register_on_add=True, keep_alive=0)
            for aor in users(12)
        ]

        def begun() -> int:
            return sum(account.state != "waiting" for account in accounts)

        assert begun() == 2
        for account in accounts[:2]:
            world.wait_state(account, "registered")
        for more in range(1, 11):
            world.clock.advance(0.05)
            assert begun() == 1 + more
            world.clock.advance(0.051)
            assert begun() == 2 + more
            world.wait_state(accounts[1 + more], "registered")  # in the order of their adding
        assert world.clock.pending == ()
        assert Counter(r.aor for r in registers(registrar)) == dict.fromkeys(users(12), 1)


def test_an_attempt_with_credentials_counts_twice() -> None:
    names = {f"u{number}": PASSWORD for number in range(6)}
    with Registrar(users=names) as registrar, World(register_rate=10.0, register_burst=4) as world:
        accounts = [
            world.account(
                registrar,
                aor=f"sip:{name}@example.com",
                credentials=pjsip.Credentials(name, PASSWORD),
                register_on_add=True,
            )
            for name in names
        ]
        assert sum(account.state == "registering" for account in accounts) <= 2
        for account in accounts[:2]:
            world.wait_state(account, "registered")
        assert [account.state for account in accounts[2:]] == ["waiting"] * 4
        world.clock.advance(0.101)
        assert [account.state for account in accounts[2:]] == ["waiting"] * 4
        world.clock.advance(0.1)
        world.wait_state(accounts[2], "registered")
        assert [account.state for account in accounts[3:]] == ["waiting"] * 3


def test_register_is_never_held_back(registrar: Registrar) -> None:
    with World(register_rate=0.01, register_burst=2) as world:
        accounts = [world.account(registrar, aor=aor) for aor in users(20)]
        for operation in [account.register() for account in accounts]:
            assert operation.result(DEADLINE).code == 200


def test_without_a_rate_all_go_at_once(registrar: Registrar) -> None:
    with World(register_rate=None) as world:
        accounts = [world.account(registrar, aor=aor, register_on_add=True) for aor in users(50)]
        for account in accounts:
            world.wait_state(account, "registered")


def test_retries_after_a_connection_that_died_are_paced(tcp: Registrar) -> None:
    with World(register_rate=10.0, register_burst=5) as world:
        policy = pjsip.RetryPolicy(reconnect=0)
        accounts = [world.account(tcp, aor=aor, retry=policy, keep_alive=0) for aor in users(15)]
        for operation in [account.register() for account in accounts]:
            operation.result(DEADLINE)
        world.clock.advance(10)  # the bucket is full
        tcp.drop_connections()
        world.wait(lambda: Counter(world.states())["waiting"] == 15, "all have noticed")
        world.wait(lambda: len(world.outcomes()) == 20, "a burst of five")
        assert Counter(account.state for account in accounts)["waiting"] == 10
        for count in range(21, 31):
            world.clock.advance(0.11)
            world.wait(lambda n=count: len(world.outcomes()) >= n, "next")  # type: ignore[misc]
        for account in accounts:
            world.wait_state(account, "registered")
        assert len(registers(tcp)) == 30


def test_a_silent_registrar_takes_no_turns_of_the_others(
    registrar: Registrar, backup: Registrar
) -> None:
    registrar.drop_next(times=None)
    with World(register_rate=10.0, register_burst=4) as world:
        stuck = [world.account(registrar, aor=aor, register_on_add=True) for aor in users(20)]
        assert Counter(account.state for account in stuck)["registering"] == 4
        well = [
            world.account(backup, aor=aor, register_on_add=True, keep_alive=0) for aor in users(8)
        ]
        assert paced(world, well) == pytest.approx(0.8, abs=0.11)
        world.clock.advance(60)
        assert Counter(account.state for account in stuck)["registering"] == 4
        registrar.clear_script()
        for account in stuck:
            account.close()  # who waits lets the others pass
        world.clock.advance(1)
        assert world.clock.pending == ()


# -- another network -------------------------------------------------------------------------------


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the routing table leads over this address."""

    def to(address: str) -> None:
        monkeypatch.setattr("pjsip_py._ffi.local_address", lambda towards: address)

    return to


def test_on_another_network_accounts_register_from_their_new_address(
    world: World, registrar: Registrar, move: Callable[[str], None]
) -> None:
    policy = pjsip.RetryPolicy(reconnect=2)
    accounts = [world.account(registrar, aor=aor, retry=policy) for aor in users(3)]
    idle = world.account(registrar)
    for account in accounts:
        account.register().result(DEADLINE)
    assert all("@127.0.0.1:" in serves(registrar, account.aor)[0] for account in accounts)
    move("127.0.0.2")
    assert world.ep.network_changed() == 3
    for account in accounts:
        assert account.state == "waiting"
        assert 0 <= world.due(account) <= 2
    world.clock.advance(2)
    for account in accounts:
        world.wait_state(account, "registered")
        [uri] = serves(registrar, account.aor)  # the old one is gone
        assert "@127.0.0.2:" in uri
        last = registers(registrar, account.aor)[-1]
        assert last.source[0] == "127.0.0.2"
        assert sorted(c.params.get("expires") or "" for c in last.contacts) == ["", "0"]
        assert account.binding is not None
        assert account.binding.uri == uri
    assert idle.state == "idle"
    reasons = {e.reason for e in world.of(pjsip.AccountState) if e.state == "waiting"}
    assert reasons == {"network changed"}


def test_on_another_network_connections_are_replaced(
    world: World, tcp: Registrar, move: Callable[[str], None]
) -> None:
    accounts = [world.account(tcp, aor=aor) for aor in users(3)]
    for account in accounts:
        account.register().result(DEADLINE)
    before = world.of(pjsip.RegState)[-1].connection
    move("127.0.0.2")
    assert world.ep.network_changed() == 3
    world.clock.advance(1)
    world.wait(lambda: len(world.outcomes()) == 6, "all again")
    until(lambda: tcp.stats().connections == 1, "the old connection is given up")
    assert {e.connection for e in world.of(pjsip.RegState)[3:]} != {before}
    for account in accounts:
        world.wait_state(account, "registered")
        assert "@127.0.0.2:" in serves(tcp, account.aor)[0]
        assert len(serves(tcp, account.aor)) == 1


def test_where_nothing_moved_the_contact_stays(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    before = serves(registrar)
    assert world.ep.network_changed() == 1
    world.clock.advance(1)
    world.wait(lambda: len(world.outcomes(account)) == 2, "it registers all the same")
    assert serves(registrar) == before


def test_a_request_in_flight_is_sent_again_from_the_new_address(
    world: World, registrar: Registrar, move: Callable[[str], None]
) -> None:
    registrar.drop_next()
    account = world.account(registrar)
    operation = account.register()
    registrar.wait_for(1)
    move("127.0.0.2")
    assert world.ep.network_changed() == 1
    assert operation.result(DEADLINE).code == 200
    world.wait_state(account, "registered")
    world.settle()
    assert "@127.0.0.2:" in serves(registrar)[0]
    assert len(serves(registrar)) == 1


def test_a_network_that_changes_twice_is_followed_twice(
    world: World, registrar: Registrar, move: Callable[[str], None]
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    for address in ("127.0.0.2", "127.0.0.3"):
        move(address)
        assert world.ep.network_changed() == 1
    world.clock.advance(2)
    world.wait_state(account, "registered")
    world.settle()
    [uri] = serves(registrar)
    assert "@127.0.0.3:" in uri


def test_a_network_that_changed_brings_no_failed_account_back(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(403, aor=users(3)[0])
    registrar.answer_next(500, aor=users(3)[1])
    failed, waiting, left = (world.account(registrar, aor=aor) for aor in users(3))
    world.fails(failed)
    world.fails(waiting)
    left.register().result(DEADLINE)
    left.unregister().result(DEADLINE)
    assert world.ep.network_changed() == 1
    world.clock.advance(1)
    world.wait_state(waiting, "registered")
    assert (failed.state, left.state) == ("failed", "unregistered")


def test_a_transport_of_the_programs_choice_is_kept(
    world: World, registrar: Registrar, move: Callable[[str], None]
) -> None:
    mine = world.ep.listen("udp", "127.0.0.5")
    account = world.account(registrar, transport=mine)
    account.register().result(DEADLINE)
    move("127.0.0.2")
    world.ep.network_changed()
    world.clock.advance(1)
    world.wait(lambda: len(world.outcomes(account)) == 2, "it registers")
    assert [uri.partition("@")[2] for uri in serves(registrar)] == [mine.address]


# -- hostile answers -------------------------------------------------------------------------------


def own_contact(request: Any) -> str:
    return str(request.contact)


def test_a_grant_of_nothing_is_survived(world: World, registrar: Registrar) -> None:
    registrar.answer_next(200, headers={"Expires": "0"}, times=None)
    account = world.account(registrar, keep_alive=0)
    account.register().exception(DEADLINE)
    world.settle()
    assert not account.registered
    assert account.binding is None
    assert account.state != "registered"  # it is not reachable, and says so
    assert len(registers(registrar)) <= 2
    assert len(world.clock.pending) <= 1


@pytest.mark.parametrize("expires", ["4294967295", "4294967296", "99999999999999", "2147483648"])
def test_a_grant_of_a_century_is_bounded(world: World, registrar: Registrar, expires: str) -> None:
    account = world.account(registrar, timeout=1.0)
    registrar.script(*[Answer(200, headers={"Expires": expires})] * 3)
    result = account.register().result(DEADLINE)
    world.settle()
    assert result.expires <= 2**32 - 1
    assert account.state == "registered"
    assert account.expires_at is not None
    assert account.refresh_at is not None
    assert account.refresh_at <= account.expires_at
    assert len(registers(registrar)) == 1


@pytest.mark.parametrize("expires", ["-1", "soon", "", "1e9", "0x10"])
def test_a_grant_that_is_no_number_is_survived(
    world: World, registrar: Registrar, expires: str
) -> None:
    registrar.answer_next(200, headers={"Expires": expires})
    account = world.account(registrar, timeout=1.0)
    account.register().exception(DEADLINE)
    world.settle()
    assert account.state in ("registered", "waiting", "failed")
    account.register().result(DEADLINE)
    assert account.state == "registered"


def test_an_answer_that_lists_no_contact_is_taken_for_a_success(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(200)
    account = world.account(registrar)
    assert account.register().result(DEADLINE).bindings == ()
    assert account.state == "registered"
    assert account.binding is None


def test_the_contact_of_somebody_else_is_not_ours(world: World, registrar: Registrar) -> None:
    registrar.answer_next(200, headers={"Contact": "<sip:mallory@198.51.100.9>;expires=1"})
    account = world.account(registrar)
    result = account.register().result(DEADLINE)
    world.settle()
    assert [b.uri for b in result.bindings] == ["sip:mallory@198.51.100.9"]
    assert account.binding is None
    # Alone in the answer it may be ours, rewritten on the way: its expiry counts.
    assert result.expires == 1


def test_another_devices_contact_first_does_not_shorten_ours(
    world: World, registrar: Registrar
) -> None:
    other = ("Contact", "<sip:alice@198.51.100.9>;expires=2")
    registrar.script(Answer(headers=[other]))
    account = world.account(registrar)
    account.register().result(DEADLINE)
    world.settle()
    assert account.binding is not None
    assert account.binding.expires == 300
    assert account.expires_at is not None
    assert account.expires_at - world.clock.wall() == about(300)


def test_ours_is_found_behind_a_dozen_other_devices(world: World) -> None:
    with Registrar(max_expires=60) as registrar:
        for n in range(12):
            device = world.account(registrar, contacts=[f"sip:alice@198.51.100.{n}"], expires=3000)
            device.register().result(DEADLINE)
        account = world.account(registrar, expires=300)
        assert account.register().result(DEADLINE).expires == 60
        world.settle()
        assert account.binding is not None
        assert account.binding.expires == 60
        assert account.refresh_at is not None
        assert account.refresh_at - world.clock.wall() < 60


@pytest.mark.parametrize("count", [100, 10_000])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_thousands_of_contacts_are_survived(world: World, protocol: str, count: int) -> None:
    with Registrar(protocols=(protocol,)) as registrar:
        if protocol == "udp":
            count = min(count, 1500)  # what a datagram holds
        contacts = [("Contact", f"<sip:c{n}@198.51.100.9>") for n in range(count)]
        registrar.script(Answer(headers=contacts))
        account = world.account(registrar, timeout=0.5, retry=STEADY)
        error = account.register().exception(DEADLINE)
        world.settle()
        if error is None:
            assert account.binding is not None
            assert len(world.of(pjsip.RegState)[-1].bindings) == count + 1
        else:
            assert count > 100
            assert isinstance(error, pjsip.RegistrationTimeout | pjsip.TransportError)
            assert world.retry(account).code == 200
        assert account.state == "registered"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_hundreds_of_service_routes_are_survived(world: World, protocol: str) -> None:
    routes = [("Service-Route", f"<sip:r{n}.example.com;lr>") for n in range(500)]
    with Registrar(protocols=(protocol,)) as registrar:
        registrar.script(Answer(headers=routes))
        account = world.account(registrar, timeout=0.5)
        error = account.register().exception(DEADLINE)
        world.settle()
        if error is None:
            assert len(account.service_route) == 16
        else:
            assert isinstance(error, pjsip.RegistrationTimeout | pjsip.TransportError)
            assert world.retry(account).code == 200
        assert account.state == "registered"


@pytest.mark.parametrize(
    "headers",
    [
        {"Contact": "<<<>>>;;;===,,,"},
        {"Contact": '"unclosed <sip:a@b>'},
        {"Contact": "<sip:a@b>;expires=x;q=7;+sip.instance"},
        {"Expires": "\u00e9\u00e9"},
        {"Service-Route": ",,,,<,>,"},
        {"Path": '<sip:"@>;;;'},
        {"Flow-Timer": "-1"},
        {"Require": "everything, outbound, nothing"},
        {"Min-Expires": "99999999999999999999"},
        {"Retry-After": "-1"},
        {"Date": "yesterday"},
        {"X-" + "A" * 3000: "b" * 3000},
        {"WWW-Authenticate": "Digest realm"},
        {"Authentication-Info": 'nextnonce="' + "n" * 4000 + '"'},
    ],
    ids=lambda headers: next(iter(headers))[:20],
)
def test_garbage_in_a_success_is_survived(
    world: World, registrar: Registrar, headers: dict[str, str]
) -> None:
    registrar.script(Answer(headers=headers))
    account = world.account(registrar, timeout=0.5, retry=STEADY)
    error = account.register().exception(DEADLINE)
    world.settle()
    _ = (account.binding, account.path, account.service_route, account.gruu, account.temp_gruu)
    assert error is None, "what is not needed to understand an answer does not make it unheard"
    assert account.state == "registered"
    account.register().result(DEADLINE)


@pytest.mark.parametrize(
    "raw",
    [
        b"SIP/2.0 200 OK\r\n\r\n",
        b"\xff\xfe\x00\x01" * 100,
        b"SIP/2.0 999999 What\r\nVia: x\r\n\r\n",
        b"REGISTER sip:alice@example.com SIP/2.0\r\n\r\n",
        b"",
    ],
    ids=["bare", "binary", "code", "request", "nothing"],
)
def test_an_answer_that_is_none_is_like_silence(
    world: World, registrar: Registrar, raw: bytes
) -> None:
    registrar.script(Answer(raw=raw))
    account = world.account(registrar, timeout=SILENT, retry=STEADY)
    assert isinstance(world.fails(account), pjsip.RegistrationTimeout)
    assert world.retry(account).code == 200


# -- in any order ----------------------------------------------------------------------------------


class AnyOrder:
    """A program, a network and a clock that do one thing after another, whatever it is.

    On a good network registrars may refuse a REGISTER, but nothing is lost, and there is no reason
    to go to the backup, whose binding would be left to expire.
    """

    def __init__(self, world: World, registrars: list[Registrar], seed: int, *, good: bool) -> None:
        self.world = world
        self.good = good
        self.registrars = registrars
        self.random = Random(seed)
        self.operations: list[pjsip.Operation[Any]] = []
        self.done: list[str] = []
        self.account = world.account(
            *registrars, timeout=SILENT / 2, keep_alive=0, failback=30, retry=STEADY
        )
        self.wanted = False

    def registrar(self) -> Registrar:
        return self.random.choice(self.registrars)

    def register(self) -> None:
        self.wanted = True
        self.operations.append(self.account.register())

    def unregister(self) -> None:
        self.wanted = False
        self.operations.append(self.account.unregister())

    def modify(self) -> None:
        uris = [registrar.uri() for registrar in self.registrars]
        change: dict[str, Any] = self.random.choice(
            [
                {"expires": self.random.randint(100, 999)},
                {"display_name": f"n{self.random.random()}"},
                {"contact_uri_params": {"pn-prid": f"t{self.random.randint(1, 9)}"}},
                {"registrars": uris},
                {"registrars": uris[::-1]},
                {"registrar": self.random.choice(uris)},
                {"failback": self.random.choice([None, 10.0])},
            ]
        )
        self.done[-1] += f" {change}"
        self.operations.append(self.account.modify(**change))

    def answer(self) -> None:
        code = self.random.choice([200, 500, 480, *[503] * (not self.good)])
        answer = Answer(None if code == 200 else code, delay=0.01)
        self.registrar().script(answer, match=lambda r: not self.good or r.expires != 0)

    def silence(self) -> None:
        what: Any = self.random.choice(["request", "response"])
        self.registrar().script(Answer(drop=what))

    def drop_connections(self) -> None:
        self.registrar().drop_connections(reset=self.random.random() < 0.5)

    def network_changed(self) -> None:
        self.world.ep.network_changed()

    def time_passes(self) -> None:
        self.world.clock.advance(self.random.choice([0.5, 2.0, 10.0, 40.0]))

    def settle(self) -> None:
        if self.operations and self.random.random() < 0.5:
            until(self.operations[-1].done, "the operation's end")
        self.world.settle()

    def step(self) -> None:
        action = self.random.choice(
            [
                *[self.register] * 3,
                *[self.unregister, self.modify, self.answer, self.network_changed],
                *([] if self.good else [self.silence, self.drop_connections]),
                *[self.time_passes, self.settle] * 2,
            ]
        )
        self.done.append(action.__name__)
        action()

    def rest(self) -> None:
        """Everybody is well from now on; time goes by until nothing is under way any more."""
        for registrar in self.registrars:
            registrar.clear_script()
        for _ in range(100):
            until(lambda: all(o.done() for o in self.operations), f"all ends: {self.operations}")
            self.world.wait(
                lambda: self.account.state not in ("registering", "unregistering"), "rest"
            )
            if self.account.state != "waiting" and not self.world.clock.pending:
                return
            self.world.clock.advance(max(self.world.clock.pending, default=0.0))
        raise AssertionError(f"no rest: {self.account} {self.world.clock.pending}")


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_the_promise_is_kept(seed: int, good: bool) -> None:
    with (
        World(t1=0.02) as world,
        Registrar(protocols=("tcp",)) as one,
        Registrar() as other,
    ):
        order = AnyOrder(world, [one, other], seed, good=good)
        account = order.account
        for _ in range(25):
            order.step()
        order.rest()
        told = f"{order.done}, {world.states(account)}, {account.binding}"
        serving = one if account.registrar == one.uri() else other
        if not order.wanted:
            assert account.state in ("idle", "unregistered", "failed"), told
            account.unregister().result(DEADLINE)
        bound = serves(serving)
        if order.wanted:
            assert account.state == "registered", told
            assert account.binding is not None, told
            assert account.binding.uri in bound, f"{bound}: {told}"
        if good:  # and nothing is left behind
            assert len(bound) == order.wanted, f"{bound}: {told}"
        assert world.clock.pending == (), told
        changes = [(e.previous, e.state) for e in world.of(pjsip.AccountState, account)]
        for (_, now), (before, _) in itertools.pairwise(changes):
            assert now == before, told


def test_many_threads_do_what_they_like_with_many_accounts(registrar: Registrar) -> None:
    with World(t1=0.05, register_burst=1000) as world, Registrar(protocols=("tcp",)) as other:
        accounts = [
            world.account(registrar, other, aor=aor, timeout=1.0, keep_alive=0) for aor in users(10)
        ]
        operations: list[pjsip.Operation[Any]] = []
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            random = Random(seed)
            actions: list[Callable[[pjsip.Account], Any]] = [
                lambda account: account.register(),
                lambda account: account.unregister(),
                lambda account: account.modify(expires=random.randint(100, 999)),
                lambda account: account.modify(display_name=f"n{random.random()}"),
                lambda account: account.modify(registrar=random.choice([registrar, other]).uri()),
                lambda account: world.ep.network_changed(),
                lambda account: operations[-1].cancel(),
                lambda account: other.drop_connections(),
            ]
            try:
                for _ in range(40):
                    found = random.choice(actions)(random.choice(accounts))
                    if isinstance(found, pjsip.Operation):
                        operations.append(found)
            except BaseException as error:
                errors.append(error)

        operations.append(accounts[0].register())
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            world.clock.advance(0.5)
            world.settle()
        assert errors == []
        until(lambda: all(operation.done() for operation in operations), "all ends")
        for account in accounts:
            account.modify(registrar=registrar.uri())
            account.register().result(DEADLINE)
            world.wait_state(account, "registered")
            assert account.binding is not None
        until(lambda: "10 registrations" in repr(world.ep), "the old clients end")
        for account in accounts:
            assert serves(registrar, account.aor) == [account.binding and account.binding.uri]
