# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 3261 §10.3: how bindings come, change and go."""

from __future__ import annotations

from typing import Any

import pytest

from pjsip_py.testing import Registrar

AOR = "sip:alice@example.com"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_binding_is_stored_and_given_back(registrar: Registrar, client: Any) -> None:
    reply = client.register(expires=60)
    assert (reply.code, reply.reason) == (200, "OK")
    assert reply["Contact"] == f"{client.contact};expires=60"
    assert reply["Date"].endswith(" GMT")
    (binding,) = registrar.bindings(AOR)
    assert (binding.uri, binding.expires) == (client.contact[1:-1], 60)
    assert (binding.call_id, binding.cseq, binding.q) == (client.call_id, 1, None)
    assert registrar.aors == [AOR]


def test_response_copies_the_request_and_adds_a_tag(client: Any) -> None:
    reply = client.register()
    assert reply["From"] == "<sip:alice@example.com>;tag=from1"
    assert reply["To"].startswith("<sip:alice@example.com>;tag=")
    assert (reply["Call-ID"], reply["CSeq"]) == (client.call_id, "1 REGISTER")
    assert reply["Content-Length"] == "0"
    again = client.register()
    assert again["To"] != reply["To"]


@pytest.mark.parametrize(
    ("contact", "header", "granted"),
    [
        ("<sip:a@127.0.0.1>;expires=90", 60, 90),  # the parameter wins
        ("<sip:a@127.0.0.1>", 60, 60),
        ("<sip:a@127.0.0.1>", None, 1800),  # neither: the registrar's own
        ("<sip:a@127.0.0.1>;expires=5000", None, 2000),  # no more than max_expires
        ("<sip:a@127.0.0.1>;expires=never", None, 2000),  # malformed: an hour, then the maximum
        ("<sip:a@127.0.0.1>;expires=" + "9" * 5000, None, 2000),
    ],
)
def test_granted_expiry(connect: Any, contact: str, header: int | None, granted: int) -> None:
    with Registrar(default_expires=1800, max_expires=2000) as registrar:
        reply = connect(registrar).register(contact, expires=header)
        assert reply["Contact"] == f"<sip:a@127.0.0.1>;expires={granted}"


def test_too_brief_is_refused_with_the_minimum(connect: Any) -> None:
    with Registrar(min_expires=30) as registrar:
        client = connect(registrar)
        reply = client.register(expires=29)
        assert (reply.code, reply.reason, reply["Min-Expires"]) == (423, "Interval Too Brief", "30")
        assert not registrar.bindings(AOR)
        assert client.register(expires=30).code == 200
        assert client.register(expires=0).code == 200  # a removal is never too brief


def test_parameters_are_echoed_as_sent(client: Any, registrar: Registrar) -> None:
    contact = (
        '"Al \\"the\\" Ice, <desk>" <sip:alice@127.0.0.1:5060;transport=tcp;ob>'
        ';+sip.instance="<urn:uuid:0-1;x,y>";reg-id=1;q=0.7;methods="INVITE, BYE";pub-gruu'
    )
    reply = client.register(contact)
    assert reply["Contact"] == f"{contact};expires=60"
    (binding,) = registrar.bindings(AOR)
    assert binding.display_name == 'Al "the" Ice, <desk>'
    assert binding.q == 0.7
    assert binding.params["+sip.instance"] == '"<urn:uuid:0-1;x,y>"'
    assert binding.params["pub-gruu"] is None
    assert "expires" not in binding.params


def test_several_contacts_in_one_header_and_in_many(client: Any) -> None:
    both = "<sip:a@127.0.0.1:1>;q=0.5, <sip:a@127.0.0.1:2;x=1,2>;q=1.0;expires=10"
    reply = client.register(both, "sip:a@127.0.0.1:3;expires=20")
    assert reply.all("Contact") == [
        "<sip:a@127.0.0.1:1>;q=0.5;expires=60",
        "<sip:a@127.0.0.1:2;x=1,2>;q=1.0;expires=10",
        "<sip:a@127.0.0.1:3>;expires=20",
    ]


def test_the_last_of_equal_contacts_counts(client: Any) -> None:
    client.register("<sip:a@127.0.0.1>;expires=10")
    reply = client.register("<sip:a@127.0.0.1>;expires=20", "<sip:a@127.0.0.1;ob>;expires=30")
    assert reply.all("Contact") == ["<sip:a@127.0.0.1;ob>;expires=30"]


def test_fetch_changes_nothing(client: Any, registrar: Registrar) -> None:
    assert client.fetch() == []
    client.register()
    before = registrar.bindings(AOR)
    assert client.fetch() == [f"{client.contact};expires=60"]
    assert registrar.bindings(AOR)[0].cseq == before[0].cseq


def test_expires_zero_removes_one_contact(client: Any) -> None:
    client.register("<sip:a@127.0.0.1:1>", "<sip:a@127.0.0.1:2>")
    reply = client.register("<sip:a@127.0.0.1:1>;expires=0")
    assert reply.all("Contact") == ["<sip:a@127.0.0.1:2>;expires=60"]
    assert client.register("<sip:never@127.0.0.1>", expires=0).code == 200


def test_star_removes_all(client: Any, registrar: Registrar) -> None:
    client.register("<sip:a@127.0.0.1:1>", "<sip:a@127.0.0.1:2>")
    reply = client.register("*", expires=0)
    assert (reply.code, reply.all("Contact")) == (200, [])
    assert registrar.bindings(AOR) == []


@pytest.mark.parametrize(
    ("contacts", "expires"),
    [(["*"], 60), (["*"], None), (["*", "<sip:a@127.0.0.1>"], 0)],
    ids=["with a time", "without a time", "not alone"],
)
def test_star_must_be_alone_and_with_expires_zero(
    client: Any, registrar: Registrar, contacts: list[str], expires: int | None
) -> None:
    client.register()
    reply = client.register(*contacts, expires=expires)
    assert reply.code == 400
    assert "*" in reply["Warning"]
    assert len(registrar.bindings(AOR)) == 1


def test_lower_cseq_of_the_same_call_changes_nothing(client: Any, registrar: Registrar) -> None:
    client.register("<sip:a@127.0.0.1:1>", cseq=10)
    for cseq in (9, 10):
        # All or nothing: the new contact of a refused request is not stored either.
        reply = client.register("<sip:new@127.0.0.1>", "<sip:a@127.0.0.1:1>;expires=0", cseq=cseq)
        assert reply.code == 500
    assert client.register("*", expires=0, cseq=10).code == 500
    assert [b.uri for b in registrar.bindings(AOR)] == ["sip:a@127.0.0.1:1"]
    assert client.register("*", expires=0, cseq=11).code == 200


def test_another_call_id_may_use_any_cseq(registrar: Registrar, connect: Any) -> None:
    connect(registrar).register("<sip:a@127.0.0.1:1>", cseq=10)
    rebooted = connect(registrar)
    assert rebooted.register("<sip:a@127.0.0.1:1>", cseq=1, expires=77).code == 200
    (binding,) = registrar.bindings(AOR)
    assert (binding.expires, binding.call_id) == (77, rebooted.call_id)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("sip:a@127.0.0.1", "sip:a@127.0.0.1;ob", True),
        ("sip:%61@EXAMPLE.com;Transport=TCP", "SIP:a@example.com;transport=tcp", True),
        ("sip:a@127.0.0.1", "sip:A@127.0.0.1", False),
        ("sip:a@127.0.0.1", "sip:a@127.0.0.1:5060", False),
        ("sip:a@127.0.0.1", "sip:a@127.0.0.1;transport=tcp", False),
        ("sip:a@127.0.0.1", "sips:a@127.0.0.1", False),
        ("sip:a@127.0.0.1;x=1", "sip:a@127.0.0.1;x=2", False),
        ("sip:a@127.0.0.1;x=1", "sip:a@127.0.0.1;y=2", True),
        ("tel:+15551234", "tel:+15551234", True),
        ("mailto:a@example.com", "mailto:b@example.com", False),
    ],
)
def test_contacts_are_compared_as_uris(client: Any, first: str, second: str, same: bool) -> None:
    client.register(f"<{first}>")
    assert len(client.register(f"<{second}>").all("Contact")) == (1 if same else 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice@example.com", "sip:alice@EXAMPLE.com"),
        ("sip:%61lice@example.com", "sips:alice@example.com;user=phone"),
    ],
)
def test_an_aor_has_one_canonical_form(
    client: Any, registrar: Registrar, one: str, other: str
) -> None:
    client.register()
    assert registrar.bindings(one) == registrar.bindings(other) != []


def test_third_party_registration(client: Any, registrar: Registrar) -> None:
    data = client.build([client.contact], ["Expires: 60"]).replace(
        b"From: <sip:alice@", b"From: <sip:secretary@"
    )
    assert client.ask(data).code == 200
    assert registrar.bindings(AOR)
    assert not registrar.bindings("sip:secretary@example.com")


def test_bindings_expire(connect: Any) -> None:
    clock = Clock()
    with Registrar(clock=clock) as registrar:
        client = connect(registrar)
        client.register("<sip:a@127.0.0.1:1>;expires=10", "<sip:a@127.0.0.1:2>;expires=20")
        clock.now += 9.5
        assert [b.expires for b in registrar.bindings(AOR)] == [1, 11]
        clock.now += 0.5
        assert client.fetch() == ["<sip:a@127.0.0.1:2>;expires=10"]
        # An expired binding's CSeq no longer counts.
        assert client.register("<sip:a@127.0.0.1:1>", cseq=1).code == 200
        clock.now += 100
        assert registrar.bindings(AOR) == []
        assert registrar.aors == []


def test_path_is_kept_and_given_back_to_who_understands_it(
    client: Any, registrar: Registrar
) -> None:
    path = ["Path: <sip:p1.example.com;lr>,<sip:p2.example.com;lr>"]
    reply = client.register(headers=[*path, "Supported: Path, gruu"])
    assert reply.all("Path") == ["<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"]
    assert registrar.bindings(AOR)[0].path == tuple(reply.all("Path"))
    assert client.register(headers=path).all("Path") == []


def test_service_route(connect: Any) -> None:
    routes = ("<sip:orig@127.0.0.1;lr>", "<sip:two@127.0.0.1;lr>")
    with Registrar(service_route=routes) as registrar:
        client = connect(registrar)
        assert client.register().all("Service-Route") == list(routes)
        assert client.register(expires=0).all("Service-Route") == list(routes)


FLOW = ';+sip.instance="<urn:uuid:1>";reg-id='


def test_a_flow_is_known_by_instance_and_reg_id(connect: Any) -> None:
    with Registrar(outbound=True, flow_timer=30) as registrar:
        client = connect(registrar)
        supported = ["Supported: path, outbound"]
        reply = client.register(f"<sip:a@127.0.0.1:1>{FLOW}1", headers=supported)
        assert (reply["Require"], reply["Flow-Timer"]) == ("outbound", "30")
        client.register(f"<sip:a@127.0.0.1:2>{FLOW}2", headers=supported)
        client.register(f"<sip:a@127.0.0.1:3>{FLOW}1", headers=supported)  # in place of the first
        uris = [b.uri for b in registrar.bindings(AOR)]
        assert uris == ["sip:a@127.0.0.1:3", "sip:a@127.0.0.1:2"]
        client.register(f"<sip:a@127.0.0.1:9>{FLOW}2;expires=0", headers=supported)
        assert [b.uri for b in registrar.bindings(AOR)] == ["sip:a@127.0.0.1:3"]
        # Without the option tag it is a contact like any other.
        reply = client.register(f"<sip:a@127.0.0.1:4>{FLOW}1")
        assert (len(registrar.bindings(AOR)), reply.all("Require")) == (2, [])


def test_without_outbound_the_flow_does_not_count(client: Any, registrar: Registrar) -> None:
    for port in (1, 2):
        reply = client.register(f"<sip:a@127.0.0.1:{port}>{FLOW}1", headers=["Supported: outbound"])
    assert len(registrar.bindings(AOR)) == 2
    assert reply.all("Require") == reply.all("Flow-Timer") == []


def test_gruus_are_given_to_who_has_an_instance_and_wants_them(connect: Any) -> None:
    with Registrar(gruu=True) as registrar:
        client = connect(registrar)
        instance = '<sip:a@127.0.0.1:1>;+sip.instance="<urn:uuid:1>"'
        assert "gruu" not in client.register(instance)["Contact"]
        gruu = ["Supported: gruu"]
        first = client.register(instance, headers=gruu)["Contact"]
        assert ';pub-gruu="sip:alice@example.com;gr=urn:uuid:1"' in first
        assert ';temp-gruu="sip:tgruu.' in first
        second = client.register(instance, headers=gruu)["Contact"]
        assert first.partition("temp-gruu")[2] != second.partition("temp-gruu")[2]
        client.register(instance, expires=0)
        assert "gruu" not in client.register("<sip:a@127.0.0.1:1>", headers=gruu)["Contact"]


def test_unknown_domain_is_not_found(connect: Any) -> None:
    with Registrar(domains=["other.example"]) as registrar:
        assert connect(registrar).register().code == 404
    with Registrar(domains=["Example.COM"]) as registrar:
        assert connect(registrar).register().code == 200


def test_required_extension_that_is_unknown(client: Any, registrar: Registrar) -> None:
    reply = client.register(headers=["Require: path, outbound", "Require: gruu"])
    assert (reply.code, reply["Unsupported"]) == (420, "outbound, gruu")
    assert not registrar.bindings(AOR)
    assert client.register(headers=["Require: path"]).code == 200


@pytest.mark.parametrize("q", ["1.1", "0.1234", "x", "-0", "1.5"])
def test_bad_q_is_refused(client: Any, registrar: Registrar, q: str) -> None:
    assert client.register(f"<sip:a@127.0.0.1>;q={q}").code == 400
    assert not registrar.bindings(AOR)


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:a@127.0.0.1",
        "<>",
        "<no uri>",
        "<sip:a@127.0.0.1>;=5",
        "<sip:@@>",
        "<sip:a@127.0.0.1:99999>",
        '"open <sip:a@127.0.0.1>',
        "<sip:a@b;self=1>",
    ],
)
def test_malformed_contact_is_refused(client: Any, registrar: Registrar, contact: str) -> None:
    reply = client.register("<sip:good@127.0.0.1>", contact)
    assert reply.code == 400
    assert reply["Warning"]
    assert not registrar.bindings(AOR)


def test_many_bindings_of_one_aor(client: Any, registrar: Registrar) -> None:
    contacts = [f"<sip:a@127.0.0.1:{port}>" for port in range(1000, 1100)]
    assert len(client.register(*contacts).all("Contact")) == 100
    assert len(registrar.bindings(AOR)) == 100
