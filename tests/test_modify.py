# SPDX-License-Identifier: GPL-3.0-or-later
"""Account.modify(): while the account lives, all changes or none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from policy import ALICE, AOR, DEADLINE, PASSWORD, Waiter, World, about, registers, serves, until

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("udp", "tcp")) as registrar:
        yield registrar


@pytest.fixture
def other() -> Iterator[Registrar]:
    with Registrar() as registrar:
        yield registrar


def last(registrar: Registrar) -> Any:
    """The last REGISTER that bound something."""
    return [r for r in registers(registrar) if r.expires != 0][-1]


def bound(registrar: Registrar) -> dict[str, str | None]:
    """Parameters of the contact that the registrar has; there is exactly one."""
    [binding] = registrar.bindings(AOR)
    return dict(binding.params)


# -- each kind of field ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ({"expires": 77}, lambda r: r.expires == 77),
        ({"display_name": "Alice A."}, lambda r: '"Alice A." <' in r.headers["To"]),
        ({"from_uri": "sip:boss@example.com"}, lambda r: "boss@" in r.headers["From"]),
        ({"headers": {"X-Floor": "3"}}, lambda r: r.headers.get("X-Floor") == "3"),
        ({"contact_params": {"q": "0.5"}}, lambda r: r.contact.params.get("q") == "0.5"),
        ({"contact_uri_params": {"ob": None}}, lambda r: r.contact.uri.endswith(";ob")),
        (
            {"contacts": ["sip:alice@198.51.100.7"]},
            lambda r: r.contacts[0].uri == "sip:alice@198.51.100.7",
        ),
        ({"route": ["sip:HOST;lr"]}, lambda r: r.headers.get("Route", "").endswith(";lr>")),
        ({"instance_id": "urn:uuid:0"}, lambda r: "+sip.instance" in r.contact.params),
        ({"timeout": 3.0}, lambda r: True),
        ({"refresh_margin": 9}, lambda r: True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_that_shows_is_registered_anew(
    world: World, registrar: Registrar, change: dict[str, Any], sent: Any
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    if "route" in change:
        change = {"route": [registrar.uri() + ";lr"]}
    operation = account.modify(**change)
    result = operation.result(DEADLINE)
    assert isinstance(result, pjsip.RegistrationResult)
    world.wait_state(account, "registered")
    assert sent(last(registrar))
    assert len(serves(registrar)) == 1
    for name, value in change.items():
        assert getattr(account.config, name) == value
    account.register().result(DEADLINE)  # and from then on
    assert sent(last(registrar))
    assert len(serves(registrar)) == 1
    account.unregister().result(DEADLINE)
    until(lambda: serves(registrar) == [], "nothing is left behind")


@pytest.mark.parametrize(
    "change",
    [
        {"retry": pjsip.RetryPolicy(initial=9)},
        {"retry": None},
        {"failback": 5.0},
        {"keep_alive": 99.0},
        {"pong_timeout": 5.0},
        {"contact_rewrite": 0},
        {"register_on_add": True},
        {},
        {"expires": 300},  # what it is already
    ],
    ids=str,
)
def test_a_field_of_policy_sends_nothing(
    world: World, registrar: Registrar, change: dict[str, Any]
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    world.settle()
    states = world.states(account)
    assert account.modify(**change).result(DEADLINE) is None
    world.settle()
    for name, value in change.items():
        assert getattr(account.config, name) == value
    assert world.states(account) == states
    account.register().result(DEADLINE)
    assert len(registers(registrar)) == 2
    assert len({r.call_id for r in registers(registrar)}) == 1


def test_a_modified_policy_counts_from_the_next_failure(world: World, registrar: Registrar) -> None:
    registrar.answer_next(500, times=2)
    account = world.account(registrar)
    world.fails(account)
    account.modify(retry=pjsip.RetryPolicy(jitter="none", factor=5))
    assert world.due(account) == about(2)
    world.retry(account)
    assert world.due(account) == about(10)


def test_a_policy_taken_away_ends_what_it_planned(world: World, registrar: Registrar) -> None:
    registrar.answer_next(500)
    account = world.account(registrar, keep_alive=0)
    world.fails(account)
    assert account.state == "waiting"
    account.modify(retry=None)
    world.settle()
    world.clock.advance(3600)
    world.settle()
    assert len(registers(registrar)) == 1
    assert account.retry_at is None


def test_expires_lives_on_in_the_same_registration(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    result = account.modify(expires=900).result(DEADLINE)
    assert result is not None
    assert result.expires == 900
    assert account.expires_at is not None
    assert account.expires_at - world.clock.wall() == about(900)
    assert [r.expires for r in registers(registrar)] == [300, 900]
    assert len({r.call_id for r in registers(registrar)}) == 1
    world.settle()
    assert world.of(pjsip.AccountState)[-1].state == "registered"


def test_a_corrected_password_brings_a_failed_account_back(world: World) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        wrong = pjsip.Credentials("alice", "Wrong-" + PASSWORD)
        account = world.account(registrar, credentials=wrong)
        assert isinstance(world.fails(account), pjsip.WrongPasswordError)
        assert account.state == "failed"
        result = account.modify(credentials=ALICE).result(DEADLINE)
        assert result is not None
        assert result.code == 200
        world.wait_state(account, "registered")
        assert (account.error, account.attempts) == (None, 0)
        assert len({r.call_id for r in registers(registrar)}) == 1
        assert [r.answered for r in registers(registrar)][-1] == 200
        assert PASSWORD not in repr(account.config)


def test_a_password_that_changed_is_used_at_the_next_challenge(world: World) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        account = world.account(registrar, credentials=ALICE)
        account.register().result(DEADLINE)
        registrar.set_password("alice", "New-" + PASSWORD)
        registrar.expire_nonces()
        account.modify(credentials=pjsip.Credentials("alice", "New-" + PASSWORD)).result(DEADLINE)
        registrar.expire_nonces()
        account.register().result(DEADLINE)
        assert account.state == "registered"


def test_credentials_can_be_given_and_taken_away(world: World) -> None:
    with Registrar(users={"alice": PASSWORD}) as registrar:
        account = world.account(registrar)
        assert isinstance(world.fails(account), pjsip.NoCredentialError)
        account.modify(credentials=[ALICE]).result(DEADLINE)
        registrar.expire_nonces()
        with pytest.raises(pjsip.NoCredentialError):
            account.modify(credentials=()).result(DEADLINE)
        world.settle()
        assert account.state == "failed"


# -- where it registers ----------------------------------------------------------------------------


def test_another_registrar_gets_the_binding_and_the_old_one_loses_it(
    world: World, registrar: Registrar, other: Registrar
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    account.modify(registrar=other.uri()).result(DEADLINE)
    assert account.registrar == other.uri()
    assert len(serves(other)) == 1
    until(lambda: serves(registrar) == [], "the old binding is removed")
    world.settle()
    assert account.state == "registered"
    assert "1 registration" in repr(world.ep)


def test_an_old_registrar_that_is_silent_holds_nobody_up(
    world: World, registrar: Registrar, other: Registrar
) -> None:
    account = world.account(registrar, timeout=0.2)
    account.register().result(DEADLINE)
    registrar.drop_next(times=None)
    account.modify(registrar=other.uri()).result(DEADLINE)
    world.wait_state(account, "registered")
    assert account.error is None
    until(lambda: "1 registration" in repr(world.ep), "the old client ends")
    assert account.state == "registered"


def test_one_registrar_becomes_several_and_one_again(
    world: World, registrar: Registrar, other: Registrar
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    account.modify(registrars=[other.uri(), registrar.uri()]).result(DEADLINE)
    assert account.registrars == (other.uri(), registrar.uri())
    assert account.config.registrar is None
    assert account.registrar == other.uri()
    until(lambda: serves(registrar) == [], "the old binding is removed")
    account.modify(registrar=registrar.uri()).result(DEADLINE)
    assert list(account.registrars) == [registrar.uri()]
    assert account.config.registrars == ()
    until(lambda: serves(other) == [], "the old binding is removed")
    assert len(serves(registrar)) == 1


def test_a_backup_added_keeps_the_binding_where_it_is(
    world: World, registrar: Registrar, other: Registrar
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    account.modify(registrars=[registrar.uri(), other.uri()]).result(DEADLINE)
    world.settle()
    assert account.registrar == registrar.uri()
    until(lambda: registers(registrar)[-1].answered == 200, "the last answer")
    assert len(serves(registrar)) == 1
    assert registers(other) == []
    registrar.answer_next(503)
    account.register().result(DEADLINE)
    assert account.registrar == other.uri()


def test_another_transport_is_another_contact(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    account.modify(registrar=registrar.uri("tcp")).result(DEADLINE)
    until(lambda: len(serves(registrar)) == 1, "the old contact is removed")
    assert "transport=tcp" in serves(registrar)[0]
    mine = world.ep.listen("udp", "127.0.0.1")
    account.modify(registrar=registrar.uri(), transport=mine).result(DEADLINE)
    until(lambda: len(serves(registrar)) == 1, "the old contact is removed")
    assert serves(registrar)[0] == f"sip:alice@{mine.address}"


@pytest.mark.parametrize(
    "change",
    [
        {"contact_uri_params": {"pn-provider": "acme", "pn-prid": "token-2"}},
        {"contact_uri_params": {"ob": None}},
        {"instance_id": "urn:uuid:1"},
        {"contact_params": {"q": "0.2"}},
    ],
    ids=["push", "ob", "instance", "q"],
)
@pytest.mark.parametrize("lost", ["nothing", "first", "first two", "second"])
def test_a_contact_that_only_looks_different_is_not_removed_behind_the_new_one(
    registrar: Registrar, change: dict[str, Any], lost: str
) -> None:
    """RFC 3261 §19.1.4: parameters that stand in one URI only do not make it another."""
    with World(t1=0.05) as quick:
        account = quick.account(registrar)
        account.register().result(DEADLINE)
        drops = {"nothing": [], "first": [1], "first two": [1, 1], "second": [0, 1]}[lost]
        if drops:
            registrar.script(*[Answer(drop="request" if drop else "") for drop in drops])
        account.modify(**change).result(DEADLINE)
        until(lambda: "1 registration" in repr(quick.ep), "the old client ends")
        quick.settle()
        until(lambda: registers(registrar)[-1].answered == 200, "the last answer")
        assert account.state == "registered"
        assert len(serves(registrar)) == 1, "registered, and not reachable"


# -- in each state ---------------------------------------------------------------------------------


def test_an_idle_account_stays_idle(world: World, registrar: Registrar, other: Registrar) -> None:
    account = world.account(registrar)
    for change in ({"expires": 60}, {"display_name": "A"}, {"registrar": other.uri()}):
        assert account.modify(**change).result(DEADLINE) is None
        assert account.state == "idle"
    world.settle()
    assert registers(registrar) == []
    assert world.states(account) == []
    account.register().result(DEADLINE)
    assert registers(registrar) == []
    assert (last(other).expires, account.config.display_name) == (60, "A")


def test_an_unregistered_account_stays_so(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    account.unregister().result(DEADLINE)
    for change in ({"expires": 60}, {"display_name": "A"}):
        assert account.modify(**change).result(DEADLINE) is None
        world.settle()
        assert account.state in ("unregistered", "idle")
    assert len(registers(registrar)) == 2
    account.register().result(DEADLINE)
    assert last(registrar).expires == 60


@pytest.mark.parametrize("change", [{"expires": 77}, {"display_name": "A"}], ids=str)
def test_while_registering_the_change_is_registered_too(
    world: World, registrar: Registrar, change: dict[str, Any]
) -> None:
    registrar.delay_next(0.1)
    account = world.account(registrar)
    first = account.register()
    registrar.wait_for(1)
    second = account.modify(**change)
    result = second.result(DEADLINE)
    assert result is not None
    until(first.done, "the first one's end")
    world.wait_state(account, "registered")
    if "expires" in change:
        assert result.expires == 77
    else:
        assert '"A" <' in last(registrar).headers["To"]
    assert len(serves(registrar)) == 1


@pytest.mark.parametrize("change", [{"expires": 77}, {"display_name": "A"}], ids=str)
def test_while_waiting_the_change_is_tried_at_once(
    world: World, registrar: Registrar, change: dict[str, Any]
) -> None:
    registrar.answer_next(500)
    account = world.account(registrar, keep_alive=0)
    world.fails(account)
    account.modify(**change).result(DEADLINE)
    world.settle()
    assert (account.state, account.retry_at) == ("registered", None)
    assert world.clock.pending == ()
    assert len(registers(registrar)) == 2


def test_a_change_that_fails_is_tried_on(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    for change in ({"expires": 77}, {"display_name": "A"}):
        registrar.answer_next(500)
        with pytest.raises(pjsip.ServerError):
            account.modify(**change).result(DEADLINE)
        world.settle()
        assert account.state == "waiting"
        assert account.registered
        assert world.retry(account).code == 200
    assert len(serves(registrar)) == 1


def test_a_closed_account_is_not_modified(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.close()
    for change in ({"expires": 60}, {"retry": None}, {}):
        with pytest.raises(pjsip.ClosedError):
            account.modify(**change)
    assert account.config.expires == 300


def test_a_change_is_not_an_end(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    stream = account.events()
    account.modify(display_name="A").result(DEADLINE)
    world.settle()
    states = world.states(account)
    assert "closed" not in states
    assert states[-1] == "registered"
    stream.close()
    found = [e.state for e in stream if isinstance(e, pjsip.AccountState)]
    assert found == states[-len(found) :]
    assert found[-1] == "registered"
    chain = [(e.previous, e.state) for e in world.of(pjsip.AccountState)]
    for (_, now), (before, _) in itertools.pairwise(chain):
        assert now == before


# -- all or nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"expires": 60, "expire": 5}, "expire"),
        ({"expires": 60, "registrar": "nonsense"}, "registrar"),
        ({"expires": 60, "registrars": ["sip:a.test", "sip:a.test"]}, "registrars"),
        ({"expires": 60, "registrar": "sip:a.test", "registrars": ["sip:b.test"]}, "registrars"),
        ({"expires": 60, "timeout": -1}, "timeout"),
        ({"expires": 60, "headers": {"Via": "x"}}, "Via"),
        ({"expires": 60, "outbound": True}, "outbound"),
        ({"expires": 60, "instance_id": "no urn"}, "instance_id"),
        ({"expires": 60, "credentials": "alice"}, "credentials"),
        ({"expires": 60, "retry": 5}, "retry"),
        ({"expires": 60, "failback": -1}, "failback"),
        ({"expires": 60, "keep_alive": -1}, "keep_alive"),
        ({"expires": 60, "contact_rewrite": 3}, "contact_rewrite"),
        ({"expires": 60, "aor": "sip:bob@example.com"}, "aor"),
        ({"expires": 60, "refresh_margin": 60}, "refresh_margin"),
        ({"expires": 0}, "expires"),
        ({"contact_rewrite": 2, "contacts": ["sip:alice@198.51.100.7"]}, "contacts"),
    ],
    ids=str,
)
def test_one_wrong_field_changes_nothing(
    world: World, registrar: Registrar, change: dict[str, Any], name: str
) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    world.settle()
    before = account.config
    refresh_at, timers = account.refresh_at, world.clock.pending
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError), match=name):
        account.modify(**change)
    world.settle()
    assert account.config is before
    assert (account.state, account.refresh_at) == ("registered", refresh_at)
    assert world.clock.pending == timers
    assert len(registers(registrar)) == 1
    account.register().result(DEADLINE)
    assert [r.expires for r in registers(registrar)] == [300, 300]


def test_the_aor_may_be_named_as_it_is(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    assert account.modify(aor=AOR).result(DEADLINE) is None


# -- at once, and from everywhere ------------------------------------------------------------------


def test_two_changes_at_once_both_hold(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    operations = [
        account.modify(display_name="A"),
        account.modify(headers={"X-B": "1"}),
        account.modify(expires=77),
    ]
    for operation in operations:
        with contextlib.suppress(pjsip.ClosedError):  # the one behind it took over
            operation.result(DEADLINE)
    assert operations[-1].result(DEADLINE) is not None
    world.wait_state(account, "registered")
    until(lambda: "1 registration" in repr(world.ep), "the old clients end")
    request = last(registrar)
    assert (request.expires, request.headers.get("X-B")) == (77, "1")
    assert '"A" <' in request.headers["To"]
    assert len(serves(registrar)) == 1
    assert account.config.display_name == "A"


def test_many_threads_modify_at_once(world: World, registrar: Registrar) -> None:
    account = world.account(registrar)
    account.register().result(DEADLINE)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(5):
                name = "display_name" if step % 2 else "from_uri"
                value = f"sip:u{number}@example.com" if name == "from_uri" else f"n{number}"
                account.modify(**{name: value, "expires": 100 + number})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert errors == []
    account.modify(display_name="last", expires=300).result(DEADLINE)
    world.wait_state(account, "registered")
    until(lambda: "1 registration" in repr(world.ep), "the old clients end")
    assert len(serves(registrar)) == 1
    assert last(registrar).headers["To"].startswith('"last" <')


def test_a_handler_may_modify_what_it_is_told_of(world: World) -> None:
    """The usual thing: a new password when the old one is refused."""
    with Registrar(users={"alice": PASSWORD}) as registrar:
        account = world.account(
            registrar, credentials=pjsip.Credentials("alice", "Wrong-" + PASSWORD)
        )
        world.ep.on(pjsip.GaveUp, lambda event: event.account.modify(credentials=ALICE))
        assert isinstance(account.register().exception(DEADLINE), pjsip.WrongPasswordError)
        world.wait_state(account, "registered")
        assert len(serves(registrar)) == 1


def test_a_loop_awaits_a_change(registrar: Registrar, other: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            account = ep.add_account(AOR, registrar=registrar.uri())
            assert await account.modify(expires=60) is None
            await account.register()
            result = await account.modify(registrar=other.uri(), expires=90)
            assert result is not None
            assert result.expires == 90
            assert len(serves(other)) == 1

    asyncio.run(asyncio.wait_for(main(), 20))
    assert serves(registrar) == serves(other) == []


def test_who_waits_goes_on_waiting(world: World, registrar: Registrar, other: Registrar) -> None:
    registrar.answer_next(500)
    account = world.account(registrar)
    world.fails(account)
    waiter = Waiter(account)
    account.modify(registrar=other.uri())
    assert waiter.outcome().code == 200


def test_handlers_and_streams_outlive_a_change(
    world: World, registrar: Registrar, other: Registrar
) -> None:
    account = world.account(registrar)
    seen: list[str] = []
    account.on_reg_state(lambda e: seen.append(e.registrar) if not e.is_unregister else None)
    stream = account.events()
    account.register().result(DEADLINE)
    account.modify(registrar=other.uri()).result(DEADLINE)
    world.settle()
    assert seen == [registrar.uri(), other.uri()]
    stream.close()
    states = [e for e in stream if isinstance(e, pjsip.RegState)]
    assert [e.registrar for e in states if not e.is_unregister] == seen
    assert all(e.account is account for e in states)


@pytest.mark.parametrize("change", [{"expires": 77}, {"display_name": "A"}], ids=str)
def test_a_change_on_the_backup_stays_there(
    world: World, registrar: Registrar, other: Registrar, change: dict[str, Any]
) -> None:
    registrar.answer_next(503)
    account = world.account(registrar, other, keep_alive=0)
    account.register().result(DEADLINE)
    world.settle()
    assert account.registrar == other.uri()
    registrar.drop_next(times=None)  # to ask there would take long
    account.modify(**change).result(DEADLINE)
    world.settle()
    assert account.registrar == other.uri()
    assert len(registers(registrar)) == 1
    assert len(registers(other)) == 2
    registrar.clear_script()
    world.next_timer()
    world.wait(lambda: account.registrar == registrar.uri(), "it is home")
    assert world.of(pjsip.RegistrarChanged)[-1].reason == "home"


def test_a_register_that_a_change_overtakes_comes_to_its_end(
    world: World, registrar: Registrar
) -> None:
    registrar.drop_next(times=None)
    account = world.account(registrar, timeout=0.3)
    first = account.register()
    registrar.wait_for(1)
    goodbye = account.unregister()
    assert account.modify(display_name="A").result(DEADLINE) is None
    for operation in (first, goodbye):
        assert isinstance(operation.exception(DEADLINE), pjsip.PjsipError)


@pytest.mark.parametrize("action", ["register", "modify", "network_changed"])
def test_nothing_overtakes_the_removal_of_the_old_contact(
    registrar: Registrar, action: str
) -> None:
    with World(t1=0.05) as quick:
        account = quick.account(registrar, retry=pjsip.RetryPolicy(reconnect=0))
        account.register().result(DEADLINE)
        registrar.drop_next(match=lambda request: request.expires == 0)
        first = account.modify(contact_uri_params={"pn-prid": "token-2"})
        if action == "register":
            account.register().result(DEADLINE)
        elif action == "modify":
            account.modify(expires=77).result(DEADLINE)
        else:
            quick.ep.network_changed()
        until(first.done, "the change's end")
        until(lambda: "1 registration" in repr(quick.ep), "the old client ends")
        quick.wait_state(account, "registered")
        until(lambda: registers(registrar)[-1].answered == 200, "the last answer")
        assert len(serves(registrar)) == 1, "registered, and not reachable"


def test_an_unregister_that_a_change_overtakes_does_not_remove_what_comes_after(
    world: World, registrar: Registrar
) -> None:
    registrar.delay_next(0.05)
    account = world.account(registrar)
    account.register()
    account.unregister()
    account.modify(contact_uri_params={"pn-prid": "token-2"})
    account.register().result(DEADLINE)
    until(lambda: "1 registration" in repr(world.ep), "the old client ends")
    world.settle()
    assert account.state == "registered"
    assert len(serves(registrar)) == 1, "registered, and not reachable"


def test_a_register_in_flight_twice_replaced_leaves_one_binding(
    world: World, registrar: Registrar
) -> None:
    registrar.delay_next(0.05, times=2)
    account = world.account(registrar)
    account.register()
    registrar.wait_for(1)
    account.modify(display_name="A")
    account.modify(contact_uri_params={"pn-prid": "token-2"}).result(DEADLINE)
    until(lambda: "1 registration" in repr(world.ep), "the old clients end")
    until(lambda: all(r.answered for r in registers(registrar)), "all answers")
    world.settle()
    assert account.state == "registered"
    assert account.binding is not None
    assert serves(registrar) == [account.binding.uri]


def test_a_change_while_the_name_is_unknown_is_no_failed_register(registrar: Registrar) -> None:
    asked = threading.Event()
    known: list[str] = []

    def resolver(query: pjsip.Query) -> list[pjsip.Target]:
        if not asked.wait(DEADLINE) or not known:
            raise OSError("not yet")
        return [pjsip.Target("127.0.0.1", registrar.port("udp"))]

    with World(resolver=resolver) as world:
        account = world.account("sip:registrar.example")
        first = account.register()
        second = account.modify(expires=200)
        asked.set()
        for operation in (first, second):
            assert isinstance(operation.exception(DEADLINE), pjsip.ResolveError)
        world.settle()
        assert len(world.outcomes(account)) == 2
        known.append("now")
        world.retry(account)
        assert account.state == "registered"
        assert registers(registrar)[-1].expires == 200
