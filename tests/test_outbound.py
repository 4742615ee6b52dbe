# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 5626 outbound, RFC 5627 GRUU, RFC 8599 push, Path and Service-Route, on the wire."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from policy import AOR, DEADLINE, SILENT, World, about, closed_port, registers, serves, until

import pjsip_py as pjsip
from pjsip_py.account_config import MAX_FLOWS, instance_id
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(30)

URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def nowhere(query: pjsip.Query) -> list[str]:
    raise OSError(f"nobody asks for {query.host}: the edge's address is known")


@pytest.fixture
def world() -> Iterator[World]:
    with World(resolver=nowhere) as world:
        yield world


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("tcp",), outbound=True, gruu=True) as registrar:
        yield registrar


@pytest.fixture
def plain() -> Iterator[Registrar]:
    with Registrar() as registrar:
        yield registrar


@pytest.fixture
def edges() -> Iterator[list[Registrar]]:
    """Two of them, with a location service each: what came through which is to be seen."""
    with (
        Registrar(protocols=("tcp",), outbound=True) as one,
        Registrar(protocols=("tcp",), outbound=True) as other,
    ):
        yield [one, other]


def edge(registrar: Registrar) -> str:
    return registrar.uri() + ";lr"


def reg_ids(registrar: Registrar) -> list[str | None]:
    return [b.params.get("reg-id") for b in registrar.bindings(AOR)]


# -- one flow --------------------------------------------------------------------------------------


def test_the_register_says_what_rfc_5626_wants(world: World, registrar: Registrar) -> None:
    account = world.account(registrar, outbound=True)
    assert not account.flows
    account.register().result(DEADLINE)
    [request] = registers(registrar)
    instance = account.instance_id
    assert instance is not None
    assert URN.fullmatch(instance)
    assert request.contact is not None
    assert request.contact.params["+sip.instance"] == f'"<{instance}>"'
    assert request.contact.params["reg-id"] == "1"
    supported = {
        tag.strip() for value in request.headers.getlist("Supported") for tag in value.split(",")
    }
    assert supported == {"path", "gruu", "outbound"}
    assert list(account.flows) == [1]
    [state] = world.of(pjsip.RegState)
    assert state.reg_id == 1
    assert account.binding is not None
    assert account.binding.params["reg-id"] == "1"
    account.unregister().result(DEADLINE)
    assert not account.flows
    assert serves(registrar) == []


def test_without_outbound_nothing_of_it_is_said(world: World, plain: Registrar) -> None:
    account = world.account(plain)
    account.register().result(DEADLINE)
    [request] = registers(plain)
    assert request.contact is not None
    assert request.contact.params == {}
    assert "outbound" not in str(request.headers.getlist("Supported"))
    assert (account.instance_id, account.flows) == (None, (0,))
    assert world.of(pjsip.RegState)[0].reg_id == 0


def test_an_instance_id_alone_asks_for_a_gruu(world: World) -> None:
    with Registrar(gruu=True) as registrar:
        account = world.account(registrar, instance_id="urn:uuid:00000000-0000-1000-8000-0")
        account.register().result(DEADLINE)
        [request] = registers(registrar)
        assert request.contact is not None
        assert dict(request.contact.params) == {
            "+sip.instance": '"<urn:uuid:00000000-0000-1000-8000-0>"'
        }
        assert "outbound" not in str(request.headers.getlist("Supported"))
        assert "gruu" in str(request.headers.getlist("Supported"))
        assert account.gruu is not None


def test_an_instance_id_of_ones_own_is_sent(world: World, registrar: Registrar) -> None:
    mine = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
    account = world.account(registrar, outbound=True, instance_id=mine)
    assert account.instance_id == mine
    account.register().result(DEADLINE)
    assert mine in registers(registrar)[0].contact_values[0]


def test_the_instance_id_is_the_same_in_every_run_and_for_no_other_aor() -> None:
    code = (
        "import sys, pjsip_py as p\n"
        "from pjsip_py.account_config import instance_id\n"
        "print(instance_id(sys.argv[1]))"
    )

    def run(aor: str) -> str:
        out = subprocess.run(
            [sys.executable, "-c", code, aor], capture_output=True, text=True, check=True
        )
        return out.stdout.strip()

    assert run(AOR) == run(AOR) != run("sip:bob@example.com")
    assert URN.fullmatch(run(AOR))


def test_a_machine_without_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine-id, no network card: what uuid draws is another one in each process."""
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("\n"))
    monkeypatch.setattr("uuid.getnode", lambda: 0x010000000001)
    drawn = instance_id(AOR)
    monkeypatch.setattr("uuid.getnode", lambda: 0x010000000002)
    assert instance_id(AOR) == drawn
    monkeypatch.setattr("uuid.getnode", lambda: 0x020000000003)
    assert instance_id(AOR) != drawn


def test_a_new_address_replaces_the_flow(world: World, registrar: Registrar) -> None:
    """The registrar knows it by instance and reg-id: no old contact has to be removed."""
    account = world.account(registrar, outbound=True)
    account.register().result(DEADLINE)
    before = serves(registrar)
    registrar.drop_connections()
    world.wait_state(account, "waiting")
    assert account.flows == (1,)  # bound, though not reachable
    world.retry(account)
    assert len(serves(registrar)) == len(before) == 1
    assert [len(r.contacts) for r in registers(registrar)] == [1, 1]
    assert reg_ids(registrar) == ["1"]


def test_outbound_does_not_rewrite_its_contact(world: World, registrar: Registrar) -> None:
    registrar.seen_as = ("203.0.113.7", 4242)
    account = world.account(registrar, outbound=True)
    account.register().result(DEADLINE)
    world.settle()
    assert world.of(pjsip.ContactChanged) == []
    assert len(registers(registrar)) == 1


def test_flow_timer_and_pongs_watch_over_the_flow(world: World) -> None:
    with Registrar(protocols=("tcp",), outbound=True, flow_timer=20) as registrar:
        account = world.account(registrar, outbound=True)
        account.register().result(DEADLINE)
        world.settle()
        [wait] = world.clock.pending
        assert 16 <= wait <= 20
        registrar.answer_pings = False
        world.next_timer()
        assert list(world.clock.pending) == [about(10)]
        world.next_timer()
        world.wait_state(account, "waiting")
        registrar.answer_pings = True
        world.retry(account)
        assert account.flows == (1,)


def test_a_flow_that_failed_is_registered_again(world: World, registrar: Registrar) -> None:
    registrar.answer_next(430)
    account = world.account(registrar, outbound=True)
    assert getattr(world.fails(account), "code", 0) == 430
    assert (account.state, world.due(account)) == ("waiting", about(2))
    assert world.retry(account).code == 200


# -- who does not support it -----------------------------------------------------------------------


def test_a_first_hop_without_outbound_gets_a_plain_register(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(439)
    account = world.account(registrar, outbound=True)
    result = account.register().result(DEADLINE)
    world.settle()
    assert result.code == 200
    first, second = registers(registrar)
    assert "reg-id=1" in first.contact_values[0]
    assert "reg-id" not in second.contact_values[0]
    assert "+sip.instance" in second.contact_values[0]  # who it is may be said all the same
    assert "outbound" not in str(second.headers.getlist("Supported"))
    assert (account.state, account.error) == ("registered", None)
    assert account.registered
    account.register().result(DEADLINE)
    assert "reg-id" not in registers(registrar)[-1].contact_values[0]
    assert account.binding is not None
    assert len(serves(registrar)) == 1


def test_an_edge_without_outbound_is_still_gone_through(
    world: World, edges: list[Registrar]
) -> None:
    edges[0].answer_next(439)
    account = world.account("sip:example.com", outbound=[edge(edges[0])])
    assert account.register().result(DEADLINE).code == 200
    assert [r.answered for r in registers(edges[0])] == [439, 200]
    assert "reg-id" not in registers(edges[0])[1].contact_values[0]


def test_a_registrar_that_says_439_for_ever_is_asked_twice(
    world: World, registrar: Registrar
) -> None:
    registrar.answer_next(439, times=None)
    account = world.account(registrar, outbound=True)
    assert getattr(world.fails(account), "code", 0) == 439
    assert account.state == "failed"
    assert len(registers(registrar)) == 2
    assert len(world.of(pjsip.GaveUp)) == 1


def test_a_439_without_outbound_is_a_refusal(world: World, plain: Registrar) -> None:
    plain.answer_next(439)
    account = world.account(plain)
    world.fails(account)
    assert (account.state, len(registers(plain))) == ("failed", 1)


def test_a_registrar_that_ignores_outbound_has_a_binding_like_any_other(world: World) -> None:
    with Registrar(protocols=("tcp",)) as registrar:
        account = world.account(registrar, outbound=True)
        account.register().result(DEADLINE)
        assert account.state == "registered"
        assert account.flows == (1,)
        assert account.binding is not None
        account.unregister().result(DEADLINE)
        assert serves(registrar) == []


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"registrar": "sip:127.0.0.1", "outbound": True}, "outbound.*UDP"),
        ({"registrar": "sip:127.0.0.1;transport=udp", "outbound": True}, "outbound.*UDP"),
        ({"registrar": "sip:example.com", "outbound": ["sip:edge.test"]}, "outbound.*UDP"),
        (
            {"registrar": "sip:a.test", "outbound": ["sip:e.test;transport=tcp", "sip:f.test"]},
            "outbound.*UDP",
        ),
        ({"registrar": "sips:a.test", "outbound": []}, "outbound"),
        ({"registrar": "sips:a.test", "outbound": "sips:edge.test"}, "outbound"),
        ({"registrar": "sips:a.test", "outbound": 1}, "outbound"),
        ({"registrar": "sips:a.test", "outbound": None}, "outbound"),
        ({"registrar": "sips:a.test", "outbound": [5]}, "route|outbound"),
        ({"registrar": "sips:a.test", "outbound": ["sips:e.test"] * (MAX_FLOWS + 1)}, "outbound"),
        (
            {"registrar": "sips:a.test", "outbound": ["sips:e.test"], "route": ["sips:r.test"]},
            "route",
        ),
        (
            {"registrar": "sips:a.test", "outbound": True, "contacts": ["sip:a@192.0.2.1"]},
            "contact",
        ),
        ({"registrar": "sips:a.test", "instance_id": "f81d4fae"}, "instance_id"),
        ({"registrar": "sips:a.test", "instance_id": 'urn:x:">;q=1'}, "instance_id"),
        ({"registrar": "sips:a.test", "instance_id": "urn:x:" + "a" * 200}, "instance_id"),
        (
            {"registrar": "sips:a.test", "outbound": True, "contact_params": {"reg-id": "7"}},
            "contact_params",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:60],
)
def test_what_contradicts_outbound_is_refused(options: dict[str, Any], names: str) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError), match=names):
        pjsip.AccountConfig(aor=AOR, **options)


# -- several edges ---------------------------------------------------------------------------------


def test_each_edge_has_a_flow(world: World, edges: list[Registrar]) -> None:
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges])
    result = account.register().result(DEADLINE)
    assert result.code == 200
    world.wait(lambda: account.flows == (1, 2), "both flows")
    assert [reg_ids(e) for e in edges] == [["1"], ["2"]]
    one, other = (registers(e)[0] for e in edges)
    assert one.uri == other.uri == "sip:example.com"
    assert "reg-id=1" in one.contact_values[0]
    assert "reg-id=2" in other.contact_values[0]
    instances = {r.contacts[0].params["+sip.instance"] for r in (one, other)}
    assert len(instances) == 1
    assert one.call_id != other.call_id
    assert [e.reg_id for e in sorted(world.of(pjsip.RegState), key=lambda e: e.reg_id)] == [1, 2]
    assert account.state == "registered"
    account.unregister().result(DEADLINE)
    world.wait(lambda: account.flows == (), "both are gone")
    until(lambda: [serves(e) for e in edges] == [[], []], "both bindings removed")
    world.wait_state(account, "unregistered")


def test_an_edge_that_is_dead_does_not_hold_up_the_other(
    world: World, edges: list[Registrar]
) -> None:
    outbound = [closed_port() + ";lr", edge(edges[1])]
    account = world.account(
        "sip:example.com", outbound=outbound, keep_alive=0, retry=pjsip.RetryPolicy(jitter="none")
    )
    assert account.register().result(DEADLINE).code == 200
    world.wait(lambda: len(world.outcomes()) == 2, "both outcomes")
    assert (account.flows, account.state) == ((2,), "registered")
    assert account.registered
    [wait] = world.clock.pending  # the dead one is tried again, as the policy says
    assert wait == about(2)
    world.next_timer()
    world.wait(lambda: len(world.outcomes()) == 3, "the retry")
    assert world.of(pjsip.RegState)[-1].reg_id == 1
    assert list(world.clock.pending) == [about(4)]
    assert account.state == "registered"


def test_when_no_edge_works_the_account_says_so(world: World) -> None:
    account = world.account("sip:example.com", outbound=[closed_port(), closed_port()])
    error = account.register().exception(DEADLINE)
    assert isinstance(error, pjsip.TransportError)
    world.wait(lambda: len(world.outcomes()) == 2, "both outcomes")
    assert (account.state, account.flows, account.registered) == ("waiting", (), False)
    assert account.error is not None


def test_an_edge_whose_connection_dies_is_replaced_while_the_other_serves(
    world: World, edges: list[Registrar]
) -> None:
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges], keep_alive=0)
    account.register().result(DEADLINE)
    world.wait(lambda: account.flows == (1, 2), "both flows")
    edges[0].drop_connections()
    world.wait(lambda: world.clock.pending, "the plan of flow 1")
    assert account.state == "registered"  # by the other one
    world.clock.advance(1)
    world.wait(lambda: len(world.outcomes()) == 3, "flow 1 again")
    assert world.of(pjsip.RegState)[-1].reg_id == 1
    assert account.flows == (1, 2)


def test_a_refusal_at_all_edges_gives_up_once(world: World, edges: list[Registrar]) -> None:
    for each in edges:
        each.answer_next(403)
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges])
    assert isinstance(account.register().exception(DEADLINE), pjsip.ForbiddenError)
    world.wait_state(account, "failed")
    assert len(world.of(pjsip.GaveUp)) == 1
    with pytest.raises(pjsip.ForbiddenError):
        account.wait_registered(DEADLINE)


def test_a_refusal_at_one_edge_does_not_make_the_other_give_up(
    world: World, edges: list[Registrar]
) -> None:
    edges[0].answer_next(403)
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges])
    assert account.register().result(DEADLINE).code == 200
    world.wait(lambda: len(world.outcomes()) == 2, "both outcomes")
    assert (account.state, account.flows) == ("registered", (2,))
    assert world.of(pjsip.GaveUp) == []  # the account has not
    assert account.wait_registered(DEADLINE).code == 200


def test_silent_edges_end_with_the_request(world: World, edges: list[Registrar]) -> None:
    for each in edges:
        each.drop_next()
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges], timeout=SILENT)
    assert isinstance(account.register().exception(DEADLINE), pjsip.RegistrationTimeout)


def test_eight_edges_are_the_most(world: World) -> None:
    dead = [closed_port() for _ in range(MAX_FLOWS)]
    account = world.account("sip:example.com", outbound=dead)
    assert isinstance(account.register().exception(DEADLINE), pjsip.TransportError)
    world.wait(lambda: len(world.outcomes()) == MAX_FLOWS, "all of them")
    assert sorted(e.reg_id for e in world.of(pjsip.RegState)) == list(range(1, MAX_FLOWS + 1))


def test_a_flow_less_is_removed(world: World, edges: list[Registrar]) -> None:
    account = world.account("sip:example.com", outbound=[edge(e) for e in edges])
    account.register().result(DEADLINE)
    world.wait(lambda: account.flows == (1, 2), "both flows")
    account.modify(outbound=[edge(edges[0])]).result(DEADLINE)
    world.settle()
    assert account.flows == (1,)
    until(lambda: serves(edges[1]) == [], "the second is removed")
    until(lambda: len(serves(edges[0])) == 1, "the first is there")


# -- push ------------------------------------------------------------------------------------------

PUSH = {"pn-provider": "fcm", "pn-param": "project-1", "pn-prid": "ZEkqqHnr:APA91b-_."}


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_push_parameters_survive_every_refresh(world: World, protocol: str) -> None:
    with Registrar(protocols=(protocol,)) as registrar:
        account = world.account(registrar, contact_uri_params=PUSH, expires=1)
        account.register().result(DEADLINE)
        world.wait(lambda: len(world.outcomes()) >= 3, "two refreshes")
        assert [e.renewal for e in world.of(pjsip.RegState)][:3] == [False, True, True]
        sent = {r.contacts[0].uri for r in registers(registrar)}
        assert len(sent) == 1
        [uri] = sent
        for name, value in PUSH.items():
            assert f";{name}={value}" in uri
        account.unregister().result(DEADLINE)
        assert serves(registrar) == []


def test_a_long_push_token_is_sent_whole(world: World, plain: Registrar) -> None:
    """FCM's are 163 characters and more, APNs' 64 to 160; RFC 8599 sets no limit."""
    token = "a" * 350
    account = world.account(plain, contact_uri_params={**PUSH, "pn-prid": token})
    account.register().result(DEADLINE)
    assert f"pn-prid={token}" in serves(plain)[0]
    assert account.binding is not None
    assert token in account.binding.uri


@pytest.mark.parametrize("length", [2000, 4000, 100_000])
def test_a_push_token_beyond_the_limit_is_refused_by_its_name(
    world: World, plain: Registrar, length: int
) -> None:
    with pytest.raises(pjsip.ConfigError, match=r"contact.*too long|contact_uri_params"):
        world.account(plain, contact_uri_params={**PUSH, "pn-prid": "a" * length})
    assert world.ep.accounts == ()


def test_the_longest_contact_is_found_by_its_limit(world: World, plain: Registrar) -> None:
    """What is let in arrives whole; what is one longer is refused: nothing is cut in between."""

    def works(length: int) -> bool:
        try:
            account = world.account(plain, contact_uri_params={"pn-prid": "a" * length})
        except pjsip.ConfigError:
            return False
        try:
            account.register().result(DEADLINE)
            assert any("a" * length in uri for uri in serves(plain))
            account.unregister().result(DEADLINE)
        finally:
            account.close()
        return True

    low, high = 100, 2000
    assert works(low)
    assert not works(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    assert 400 <= low < 1023


# -- what the registrar gives ----------------------------------------------------------------------


def test_gruus_are_exposed_and_renewed(world: World, registrar: Registrar) -> None:
    account = world.account(registrar, outbound=True)
    assert (account.gruu, account.temp_gruu) == (None, None)
    account.register().result(DEADLINE)
    assert account.gruu == f"{AOR};gr={account.instance_id}"
    first = account.temp_gruu
    assert first is not None
    assert first.startswith("sip:tgruu.")
    account.register().result(DEADLINE)
    assert account.gruu == f"{AOR};gr={account.instance_id}"
    assert account.temp_gruu not in (None, first)
    account.unregister().result(DEADLINE)
    assert account.gruu is None
    assert account.temp_gruu is None


def test_the_gruu_of_another_device_is_not_ours(world: World, registrar: Registrar) -> None:
    other = world.account(registrar, outbound=True, instance_id="urn:uuid:1")
    other.register().result(DEADLINE)
    account = world.account(registrar, outbound=True, instance_id="urn:uuid:2")
    account.register().result(DEADLINE)
    assert account.gruu == f"{AOR};gr=urn:uuid:2"
    other.register().result(DEADLINE)
    assert other.gruu == f"{AOR};gr=urn:uuid:1"


def test_path_and_service_route_are_exposed(world: World, plain: Registrar) -> None:
    plain.script(
        Answer(
            headers=[
                ("Path", "<sip:edge1.example.com;lr;ob>, <sip:edge2.example.com;lr>"),
                ("Path", "<sip:edge3.example.com;lr>"),
                ("Service-Route", "<sip:orig@one.example.com;lr>"),
                ("Service-Route", "<sip:two.example.com;lr>,<sip:three.example.com;lr>"),
            ]
        )
    )
    account = world.account(plain)
    assert not account.path
    assert not account.service_route
    account.register().result(DEADLINE)
    assert account.path == (
        "<sip:edge1.example.com;lr;ob>",
        "<sip:edge2.example.com;lr>",
        "<sip:edge3.example.com;lr>",
    )
    assert account.service_route == (
        "<sip:orig@one.example.com;lr>",
        "<sip:two.example.com;lr>",
        "<sip:three.example.com;lr>",
    )
    account.register().result(DEADLINE)  # an answer without them takes them back (RFC 3608 §5)
    assert not account.path
    assert not account.service_route


def test_routes_are_kept_until_the_binding_ends(world: World) -> None:
    with Registrar(service_route=["<sip:one.example.com;lr>"]) as registrar:
        account = world.account(registrar)
        account.register().result(DEADLINE)
        registrar.answer_next(500)
        world.fails(account)
        assert list(account.service_route) == ["<sip:one.example.com;lr>"]
        world.retry(account)
        account.unregister().result(DEADLINE)
        assert not account.service_route


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("count", [16, 17, 60])
def test_of_many_routes_the_first_sixteen_are_kept(world: World, protocol: str, count: int) -> None:
    routes = [f"<sip:r{n}.example.com;lr>" for n in range(count)]
    with Registrar(protocols=(protocol,), service_route=routes) as registrar:
        registrar.script(Answer(headers=[("Path", route) for route in routes]))
        account = world.account(registrar)
        account.register().result(DEADLINE)
        assert account.service_route == account.path == tuple(routes[:16])


def test_unregistering_waits_for_all_flows(world: World) -> None:
    with Registrar(protocols=("tcp",)) as quick, Registrar(protocols=("tcp",)) as slow:
        edges = [each.uri().partition(";")[0] + ";transport=tcp" for each in (quick, slow)]
        account = world.account("sip:example.com", outbound=edges)
        account.register().result(DEADLINE)
        until(lambda: account.flows == (1, 2), "both flows")
        slow.delay_next(0.1)
        account.unregister().result(DEADLINE)
        assert account.flows == ()
        assert (quick.aors, slow.aors) == ([], [])
