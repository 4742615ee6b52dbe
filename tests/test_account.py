# SPDX-License-Identifier: GPL-3.0-or-later
"""Account: states, hooks, waiting, what it knows of its binding."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"
PASSWORD = "correct-horse"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(users={"alice": PASSWORD}) as server:
        yield server


@pytest.fixture
def account(registrar: Registrar, ep: pjsip.Endpoint) -> pjsip.Account:
    return ep.add_account(
        AOR, registrar=registrar.uri(), credentials=pjsip.Credentials("alice", PASSWORD)
    )


# -- configuration --------------------------------------------------------------------------------


def test_a_config_and_its_fields_are_the_same(registrar: Registrar, ep: pjsip.Endpoint) -> None:
    fields: dict[str, Any] = {
        "registrar": registrar.uri(),
        "credentials": [pjsip.Credentials("alice", PASSWORD)],
        "expires": 90,
        "headers": {"X-Test": "1"},
        "contact_uri_params": {"ob": None},
        "display_name": "Alice",
        "timeout": 5,
    }
    config = pjsip.AccountConfig(aor=AOR, **fields)
    first, second = ep.add_account(AOR, **fields), ep.add_account(config)
    assert first.config == second.config == config
    requests = []
    for account in (first, second):
        assert account.register().result(5).expires == 90
        requests.append(registrar.requests[-1])
        account.unregister().result(5)
    for name in ("To", "Expires", "X-Test"):
        assert requests[0].headers.get(name) == requests[1].headers.get(name) is not None
    assert requests[0].contact_values == requests[1].contact_values
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.expires = 5  # type: ignore[misc]
    assert PASSWORD not in repr(config)
    assert ep.accounts == (first, second)


def test_the_registrar_is_the_aors_domain_by_default(
    registrar: Registrar, ep: pjsip.Endpoint
) -> None:
    account = ep.add_account(f"sip:alice@127.0.0.1:{registrar.port()}")
    assert account.registrar == registrar.uri()
    with pytest.raises(pjsip.NoCredentialError):
        account.register().result(5)


@pytest.mark.parametrize("aor", ["", "alice", "sip:example.com", "sip:a@b\r\nX: y", None, 5])
def test_a_wrong_aor_is_refused(ep: pjsip.Endpoint, aor: Any) -> None:
    with pytest.raises(pjsip.InvalidUriError):
        ep.add_account(aor)
    assert ep.accounts == ()


# -- states ---------------------------------------------------------------------------------------


def test_the_states_of_a_life(
    registrar: Registrar, ep: pjsip.Endpoint, account: pjsip.Account
) -> None:
    states: list[tuple[str, bool]] = []
    account.on_reg_state(lambda e: states.append((account.state, account.registered)))
    assert (account.state, account.registered, account.binding) == ("idle", False, None)
    assert (account.aor, account.expires_at, account.refresh_at) == (AOR, None, None)
    before = time.time()
    operation = account.register()
    assert account.state in ("registering", "registered")
    operation.result(5)
    assert account.state == "registered"
    binding, expires_at, refresh_at = account.binding, account.expires_at, account.refresh_at
    assert binding is not None
    assert binding.uri == registrar.bindings(AOR)[0].uri
    assert expires_at == pytest.approx(before + 300, abs=5)
    assert refresh_at is not None
    assert expires_at is not None
    assert before < refresh_at < expires_at
    assert "registered" in repr(account)
    account.unregister().result(5)
    assert [account.state, account.registered, account.binding] == ["unregistered", False, None]
    assert [account.expires_at, account.refresh_at] == [None, None]
    account.close()
    account.close()
    assert account.closed
    assert "closed" in repr(account)
    assert states == [("registered", True), ("unregistered", False)]
    assert ep.accounts == ()


def test_a_failure_keeps_the_binding_that_lasts(
    registrar: Registrar, account: pjsip.Account
) -> None:
    account.register().result(5)
    registrar.answer_next(503)
    with pytest.raises(pjsip.ServerError):
        account.register().result(5)
    assert account.state == "waiting"
    assert account.retry_at is not None
    assert account.registered  # the registrar still has it
    assert account.binding is not None
    assert account.refresh_at is None
    account.register().result(5)
    assert account.state == "registered"


def test_a_binding_that_has_run_out_is_none(registrar: Registrar, ep: pjsip.Endpoint) -> None:
    account = ep.add_account(
        AOR,
        registrar=registrar.uri(),
        expires=1,
        timeout=0.2,
        credentials=pjsip.Credentials("alice", PASSWORD),
    )
    stream = account.events()
    account.register().result(5)
    registrar.drop_next(times=None)
    while not (isinstance(event := stream.get(5), pjsip.RegState) and event.error):
        pass
    assert event.renewal
    deadline = time.monotonic() + 3
    while account.registered:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert account.binding is None


def test_a_cancelled_request_changes_nothing(account: pjsip.Account, registrar: Registrar) -> None:
    account.register().result(5)
    registrar.drop_next()
    operation = account.register()
    registrar.wait_for(lambda r: r.answered is None, timeout=5)
    operation.cancel()
    assert operation.cancelled() or operation.exception is not None
    account.wait_registered(5)
    assert account.registered


# -- hooks and events -----------------------------------------------------------------------------


class Phone(pjsip.Account):
    """The style of PJSUA2: a subclass with the callbacks of pjsua."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[str, bool, int]] = []

    def on_reg_started(self, event: pjsip.RegStarted) -> None:
        self.calls.append(("started", event.is_unregister, 0))

    def on_reg_state(self, event: Any) -> Any:
        if isinstance(event, pjsip.RegState):
            assert event.account is self
            assert event.client is self.client
            self.calls.append(("state", event.is_unregister, event.code))
            return None
        return super().on_reg_state(event)


def test_a_subclass_overrides_the_hooks(registrar: Registrar, ep: pjsip.Endpoint) -> None:
    phone = ep.add_account(
        AOR,
        cls=Phone,
        registrar=registrar.uri(),
        credentials=pjsip.Credentials("alice", PASSWORD),
    )
    handled: list[int] = []
    phone.on_reg_state(lambda e: handled.append(e.code))
    phone.register().result(5)
    phone.unregister().result(5)
    assert phone.calls == [
        ("started", False, 0),
        ("state", False, 200),
        ("started", True, 0),
        ("state", True, 200),
    ]
    assert handled == [200, 200]
    assert "Phone" in repr(phone)


def test_handlers_decorators_and_streams(
    registrar: Registrar, ep: pjsip.Endpoint, account: pjsip.Account
) -> None:
    calls: list[str] = []
    stream = account.events()

    @account.on_reg_state
    def first(event: pjsip.RegState) -> None:
        calls.append("first")

    account.add_handler(lambda e: calls.append("second"))
    ep.on(pjsip.RegState, lambda e: calls.append("endpoint"))
    account.register().result(5)
    assert calls == ["first", "second", "endpoint"]
    assert callable(first)
    with pytest.raises(pjsip.ConfigError, match="callable"):
        account.on_reg_state(5)
    account.close()
    events = list(stream)
    assert [type(e) for e in events if not isinstance(e, pjsip.AccountState)] == [
        pjsip.RegStarted,
        pjsip.RegState,
    ]
    states = [e.state for e in events if isinstance(e, pjsip.AccountState)]
    assert states == ["registering", "registered", "closed"]
    assert all(e.account is account for e in events)  # type: ignore[attr-defined]


def test_a_hook_that_raises_is_told(registrar: Registrar) -> None:
    class Broken(pjsip.Account):
        def on_reg_started(self, event: pjsip.RegStarted) -> None:
            raise RuntimeError("in the hook")

    with pjsip.Endpoint() as ep:
        account = ep.add_account(
            AOR,
            cls=Broken,
            registrar=registrar.uri(),
            credentials=pjsip.Credentials("alice", PASSWORD),
        )
        assert account.register().result(5).code == 200
        assert [str(f.exception) for f in ep.callback_errors] == ["in the hook"]


# -- waiting --------------------------------------------------------------------------------------


def test_waiting_for_a_registration(registrar: Registrar, account: pjsip.Account) -> None:
    registrar.answer_next(500, times=2)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(account.wait_registered(10)))
    thread.start()
    for _ in range(2):
        with pytest.raises(pjsip.ServerError):
            account.register().result(5)
    assert not results
    result = account.register().result(5)
    thread.join(5)
    assert isinstance(results[0], pjsip.RegistrationResult)
    assert results[0].response.raw == result.response.raw
    assert account.wait_registered(0).code == 200  # at once


def test_waiting_is_bounded_and_ends_with_the_account(account: pjsip.Account) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        account.wait_registered(0.05)
    assert time.monotonic() - began < 1
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            account.wait_registered(10)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 5
    while not account._waiting:
        assert time.monotonic() < deadline
    account.close()
    thread.join(5)
    assert isinstance(errors[0], pjsip.ClosedError)
    with pytest.raises(pjsip.ClosedError):
        account.wait_registered(1)


def test_waiting_in_a_loop(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            account = ep.add_account(
                AOR, registrar=registrar.uri(), credentials=pjsip.Credentials("alice", PASSWORD)
            )
            with pytest.raises(TimeoutError):
                await account.wait_registered(0.05)
            waiting = asyncio.ensure_future(account.wait_registered(5))
            await asyncio.sleep(0)
            result = await account.register()
            assert (await waiting).code == result.code == 200
            assert (await account.wait_registered()).code == 200
            assert not account._waiting

    asyncio.run(asyncio.wait_for(main(), 10))


# -- many -----------------------------------------------------------------------------------------


def test_a_thousand_accounts_leave_in_good_order(registrar: Registrar) -> None:
    """Far more than pjsua's eight: all register at once, and close() unregisters them all."""
    with Registrar(max_requests=4000) as server:
        with pjsip.Endpoint(strict=True) as ep:
            accounts = [
                ep.add_account(f"sip:u{i}@example.com", registrar=server.uri()) for i in range(1000)
            ]
            for operation in [account.register() for account in accounts]:
                operation.result(15)
            assert all(account.registered for account in accounts)
            assert len(server.aors) == 1000
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert server.aors == []
