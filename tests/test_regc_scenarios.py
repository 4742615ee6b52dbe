# SPDX-License-Identifier: GPL-3.0-or-later
"""What pjproject's own regc test (pjsip/src/test/regc_test.c) goes through, over real sockets.

===================  ====================================================  ==================
scenario there       what it is                                            tests here
===================  ====================================================  ==================
immediate error      the registrar's name has no address                   unresolvable
timeout              the registrar never answers                           silent
basic                the Contact comes back with the expires that counts   echoed
authentication       the same after a challenge                            challenged
more bindings        other clients' Contacts come along                    others
modifies Contact     host and port rewritten, as many Contacts as sent     rewritten
modifies and adds    the same, and other clients' Contacts                 rewritten_others
replaces Contact     a wholly other Contact, in a 202                      replaced
replaces and adds    two wholly other Contacts: the Expires header counts  replaced_others
Expires, no Contact  the Expires header counts                             expires_only
neither              what was asked for is taken as granted                nothing
register refresh     the registration is refreshed by itself               refreshed
refresh error        the refresh cannot be sent                            refresh_that_fails
update               a Contact is replaced, one is added, none changes     contacts_are
auth send error      the answer to a challenge cannot be sent              cannot_be_sent
===================  ====================================================  ==================

There, each runs with the session left alone and with the session destroyed inside its callback;
here too: ``closing`` closes the client in its handler. There, two process-wide switches vary as
well (check_contact, add_xuid_param); here PJSIP's defaults hold, on and off.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:regc-test@example.com"
OURS = "sip:user@127.0.0.1:5060;x-param=1234"
PASSWORD = "regc-password"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("udp", "tcp")) as server:
        yield server


@pytest.fixture(params=[False, True], ids=["kept", "closing"])
def closing(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Client:
    """A registration client, its outcomes, and whether it closes itself in its handler."""

    def __init__(
        self, ep: pjsip.Endpoint, uri: str, *, closing: bool = False, **options: Any
    ) -> None:
        options = {"contacts": [OURS], "expires": 600, **options}
        self.regc = ep.registration(uri, AOR, **options)
        self.outcomes: queue.Queue[pjsip.RegState] = queue.Queue()
        self.closing = closing
        self.regc.on_reg_state(self._on_reg_state)

    def _on_reg_state(self, event: pjsip.RegState) -> None:
        if self.closing:
            self.regc.close()
        self.outcomes.put(event)

    def register(self, **options: Any) -> pjsip.RegistrationResult:
        return self.regc.register(**options).result(timeout=10)

    def only_outcome(self) -> pjsip.RegState:
        """The one event that there is."""
        event = self.outcomes.get(timeout=5)
        assert self.outcomes.empty()
        return event

    def check_closed(self) -> None:
        if self.closing:
            with pytest.raises(pjsip.ClosedError):
                self.regc.register()


def test_an_unresolvable_registrar_fails_locally(ep: pjsip.Endpoint, closing: bool) -> None:
    client = Client(ep, "sip:no-such-host.invalid", closing=closing)
    # Where the DNS server never answers, the name is given up on when the time is up.
    with pytest.raises((pjsip.ResolveError, pjsip.RegistrationTimeout)):
        client.register(timeout=8.0)
    assert client.only_outcome().local
    client.check_closed()


def test_a_silent_registrar_is_a_408(
    ep: pjsip.Endpoint, registrar: Registrar, closing: bool
) -> None:
    registrar.drop_next(times=None)
    client = Client(ep, registrar.uri(), closing=closing)
    with pytest.raises(pjsip.RegistrationTimeout):
        client.register(timeout=0.7)
    event = client.only_outcome()
    assert (event.code, event.local, event.expires) == (408, True, None)
    client.check_closed()


@dataclass(frozen=True)
class Grant:
    """What the registrar puts into its answer, and what follows from it."""

    contacts: tuple[str, ...]
    expires_header: int | None
    expected: int
    code: int = 200

    def answer(self) -> Answer:
        headers = [("Contact", contact) for contact in self.contacts]
        if self.expires_header is not None:
            headers.append(("Expires", str(self.expires_header)))
        return Answer(self.code, headers=headers)


REWRITTEN = OURS.replace("127.0.0.1:5060", "x-modified-host:1")
GRANTS = {
    "echoed": Grant((f"<{OURS}>;expires=75",), 65, 75),
    "others": Grant((f"<{OURS}>;expires=75", "<sip:a@a>;expires=70"), 65, 75),
    "rewritten": Grant((f"<{REWRITTEN}>;expires=75",), 65, 75),
    "rewritten_others": Grant((f"<{REWRITTEN}>;expires=75", "<sip:a@a>;expires=70"), 65, 65),
    "replaced": Grant(("<sip:a@A>;expires=75",), 65, 75, code=202),
    "replaced_others": Grant(("<sip:a@A>;expires=75", "<sip:b@B>;expires=70"), 65, 65),
    "one_header": Grant(("<sip:a@A>;expires=75, <sip:b@B>;expires=70",), 65, 65),
    "expires_only": Grant((), 65, 65),
    "nothing": Grant((), None, 600),
}


@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
def test_what_was_granted_is_found(
    ep: pjsip.Endpoint, registrar: Registrar, grant: Grant, closing: bool
) -> None:
    registrar.script(grant.answer())
    client = Client(ep, registrar.uri(), closing=closing)
    result = client.register()
    expected = [value for contact in grant.contacts for value in contact.split(", ")]
    assert (result.code, result.expires) == (grant.code, grant.expected)
    assert [f"<{b.uri}>;expires={b.expires}" for b in result.bindings] == expected
    event = client.only_outcome()
    assert (event.code, event.expires, event.bindings) == (
        result.code,
        result.expires,
        result.bindings,
    )
    if not closing:
        info = client.regc.info()
        assert (info["auto_refresh"], info["interval"]) == (True, grant.expected)
        assert 0 < info["next_refresh"] <= grant.expected
    client.check_closed()


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
def test_a_challenged_registration_is_granted(
    ep: pjsip.Endpoint, algorithm: str, closing: bool
) -> None:
    with Registrar(users={"user": PASSWORD}, algorithms=(algorithm,)) as server:
        credentials = [pjsip.Credentials("user", PASSWORD)]
        client = Client(ep, server.uri(), credentials=credentials, expires=75, closing=closing)
        result = client.register()
        assert (result.code, result.expires, result.algorithm) == (200, 75, algorithm)
        assert [request.answered for request in server.wait_for(2)] == [401, 200]
    client.only_outcome()
    client.check_closed()


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_registration_is_refreshed_by_itself(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str
) -> None:
    client = Client(ep, registrar.uri(protocol), expires=1)
    client.register()
    events = [client.outcomes.get(timeout=5) for _ in range(3)]
    assert [(event.code, event.renewal) for event in events] == [
        (200, False),
        (200, True),
        (200, True),
    ]
    first, *refreshes = registrar.wait_for(3)
    assert {request.call_id for request in refreshes} == {first.call_id}
    assert [request.cseq - first.cseq for request in refreshes] == [1, 2]
    assert {request.contact_values[0] for request in refreshes} == {first.contact_values[0]}


def test_without_auto_refresh_nothing_is_refreshed(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    client = Client(ep, registrar.uri(), expires=1)
    client.register(auto_refresh=False)
    assert not client.regc.info()["auto_refresh"]
    with pytest.raises(TimeoutError):
        registrar.wait_for(2, timeout=1.2)


def test_a_refresh_costs_one_round_trip(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"user": PASSWORD}, nc_check="exact") as server:
        client = Client(
            ep, server.uri(), credentials=[pjsip.Credentials("user", PASSWORD)], expires=75
        )
        # More than 16 uses of a nonce: a count printed in decimal would be found out.
        for _ in range(20):
            client.register()
        assert [request.answered for request in server.requests] == [401, *[200] * 20]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_refresh_that_fails_is_told(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str, closing: bool
) -> None:
    client = Client(ep, registrar.uri(protocol), expires=1, timeout=0.7)
    client.register()
    assert client.outcomes.get(timeout=5).code == 200
    client.closing = closing
    registrar.stop()
    while (event := client.outcomes.get(timeout=5)).code == 200:
        pass  # a refresh that was on its way already
    assert (event.renewal, event.local) == (True, True)
    expected = pjsip.RegistrationTimeout if protocol == "udp" else pjsip.TransportError
    assert isinstance(event.error, expected)
    client.check_closed()
    if not closing:
        registrar.start()
        assert client.register().code == 200


def contacts(registrar: Registrar) -> dict[str, str | None]:
    """The Contacts of the newest REGISTER: URI to expires parameter."""
    return {
        contact.uri: contact.params.get("expires") for contact in registrar.requests[-1].contacts
    }


def test_contacts_are_replaced_added_and_left_alone(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    a, b, c = (f"sip:{name}@127.0.0.1:7000" for name in "abc")
    client = Client(ep, registrar.uri(), contacts=[a])
    client.register()
    assert contacts(registrar) == {a: None}

    client.regc.update_contacts([b])
    client.register()
    assert contacts(registrar) == {a: "0", b: None}
    assert [binding.uri for binding in registrar.bindings(AOR)] == [b]

    for _ in range(2):
        client.regc.update_contacts([b, c])
        client.register()
        assert contacts(registrar) == {b: None, c: None}

    client.regc.unregister().result(timeout=5)
    assert registrar.bindings(AOR) == []


def test_an_answer_that_cannot_be_sent_is_an_error(
    ep: pjsip.Endpoint, registrar: Registrar, closing: bool
) -> None:
    # The nonce makes the second request longer than PJSIP can send; the first one is not.
    nonce = "n" * 5000
    registrar.answer_next(
        401, headers={"WWW-Authenticate": f'Digest realm="test", nonce="{nonce}", algorithm=MD5'}
    )
    client = Client(
        ep,
        registrar.uri("tcp"),
        closing=closing,
        credentials=[pjsip.Credentials("user", PASSWORD)],
        headers=[("X-Padding", "p" * 3000)],
    )
    with pytest.raises(pjsip.PjsipError) as caught:
        client.register()
    assert PASSWORD not in str(caught.value)
    event = client.only_outcome()
    assert event.error is not None
    assert len(registrar.requests) == 1
    client.check_closed()
    # The endpoint lives on.
    assert Client(ep, registrar.uri("udp")).register().code == 200


def test_a_closed_client_hears_no_more(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    registrar.delay_next(0.3)
    client = Client(ep, registrar.uri())
    operation = client.regc.register()
    registrar.wait_for(1)
    client.regc.close()
    with pytest.raises(pjsip.PjsipError):
        operation.result(timeout=5)
    registrar.wait_for(lambda request: request.answered == 200)
    assert Client(ep, registrar.uri()).register().code == 200
    assert client.outcomes.qsize() <= 1


def test_refreshes_go_on_for_the_others_when_one_closes(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    first, second = (Client(ep, registrar.uri(), expires=1) for _ in range(2))
    first.register()
    second.register()
    second.outcomes.get(timeout=5)
    first.regc.close()
    began = time.monotonic()
    assert second.outcomes.get(timeout=5).renewal
    assert time.monotonic() - began < 2
