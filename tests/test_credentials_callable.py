# SPDX-License-Identifier: GPL-3.0-or-later
"""``credentials=`` as a function of the challenge: vaults, prompts, rotating secrets, tokens."""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import Any

import pytest
from policy import World, until
from programs import run_program

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Proof, ReceivedRequest, Registrar

pytestmark = pytest.mark.timeout(30)

AOR = "sip:alice@example.com"
PASSWORD = "vault-s3cret"
TOKEN = "t0ken-of-the-v4ult.eyJ"
USERS = {"alice": PASSWORD}
DEADLINE = 5.0  # s
SOON = 2.0  # s, for what must not wait for a callable that goes on
KINDS = ["sync", "async"]
BLOCKED = 10.0  # s, how long a callable waits when nobody lets it go on


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(("udp", "tcp"), users=USERS, nc_check="exact") as server:
        yield server


def alice(password: str = PASSWORD, **options: Any) -> pjsip.Credentials:
    return pjsip.Credentials("alice", password, **options)


class Vault:
    """A callable for ``credentials=`` of either kind, and what it was asked.

    `answer` is returned, or called with the challenge, or raised. With `gate` it waits first,
    until that is set.
    """

    def __init__(
        self, kind: str, answer: Any, gate: threading.Event | None = None, delay: float = 0.0
    ) -> None:
        self.kind = kind
        self.answer = answer
        self.gate = gate
        self.delay = delay
        self.asked: list[pjsip.Challenge] = []
        self.entered = threading.Event()
        self.left = threading.Event()

    def __call__(self, challenge: pjsip.Challenge) -> Any:
        self.asked.append(challenge)
        self.entered.set()
        return self._later(challenge) if self.kind == "async" else self._now(challenge)

    def _now(self, challenge: pjsip.Challenge) -> Any:
        try:
            if self.gate is not None:
                self.gate.wait(BLOCKED)
            time.sleep(self.delay)
            return self._give(challenge)
        finally:
            self.left.set()

    async def _later(self, challenge: pjsip.Challenge) -> Any:
        try:
            while self.gate is not None and not self.gate.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.delay)
            return self._give(challenge)
        finally:
            self.left.set()

    def _give(self, challenge: pjsip.Challenge) -> Any:
        answer = self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer(challenge) if callable(answer) else answer


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no callable outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def proofs(server: Registrar) -> list[Proof]:
    return [proof for request in server.requests for proof in request.proofs]


def answers(server: Registrar) -> list[int | None]:
    return [request.answered for request in server.requests]


def refusal(request: ReceivedRequest, challenge: bytes) -> bytes:
    lines = [
        line
        for line in request.data.split(b"\r\n")[1:]
        if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
    ]
    return b"\r\n".join([b"SIP/2.0 401 No", *lines, challenge, b"Content-Length: 0", b"", b""])


def fails(operation: pjsip.Operation[Any], within: float = DEADLINE) -> Any:
    began = time.monotonic()
    error = operation.exception(DEADLINE)
    assert time.monotonic() - began < within
    assert isinstance(error, pjsip.PjsipError), error
    for secret in (PASSWORD, TOKEN):
        assert secret not in f"{error} {error!r} {error.hint} {error.__cause__!r}"
    return error


def in_a_loop(body: Callable[[pjsip.Endpoint], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in ``async with Endpoint()``."""

    async def run() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            await body(ep)

    asyncio.run(asyncio.wait_for(run(), 20))


# -- asked, and answered --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_given_the_challenge(ep: pjsip.Endpoint, kind: str) -> None:
    with Registrar(users=USERS, algorithms=("MD5", "SHA-256")) as server:
        vault = Vault(kind, alice())
        client = ep.registration(server.uri(), AOR, credentials=vault)
        result = client.register().result(DEADLINE)
        assert (result.code, result.algorithm, result.offered) == (
            200,
            "SHA-256",
            ("SHA-256", "MD5"),
        )
        (challenge,) = vault.asked
        assert isinstance(challenge, pjsip.Challenge)
        assert (challenge.scheme, challenge.realm) == ("Digest", "example.com")
        assert challenge.algorithm == "SHA-256"
        assert set(challenge.algorithms) == {"SHA-256", "MD5"}
        assert (challenge.registrar, challenge.aor) == (server.uri(), AOR)
        assert (challenge.proxy, challenge.refused) == (False, False)
        assert challenge.parameters["qop"] == "auth"
        assert challenge.response.code == 401
        with pytest.raises((AttributeError, TypeError)):
            challenge.realm = "other"  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_loop(registrar: Registrar, kind: str) -> None:
    async def body(ep: pjsip.Endpoint) -> None:
        vault = Vault(kind, alice(), delay=0.01)
        account = ep.add_account(AOR, registrar=registrar.uri(), credentials=vault)
        assert (await account.register()).code == 200
        assert (await account.register()).code == 200
        assert len(vault.asked) == 1

    in_a_loop(body)


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_program_that_dispatches_itself(registrar: Registrar, kind: str) -> None:
    with pjsip.Endpoint(strict=True, dispatch="manual") as ep:
        vault = Vault(kind, alice(), delay=0.01)
        client = ep.registration(registrar.uri(), AOR, credentials=vault)
        assert client.register().result(DEADLINE).code == 200
        assert len(vault.asked) == 1


def test_an_async_callable_runs_on_the_program_s_loop(registrar: Registrar) -> None:
    async def body(ep: pjsip.Endpoint) -> None:
        loops: list[Any] = []

        async def ask(challenge: pjsip.Challenge) -> pjsip.Credentials:
            loops.append(asyncio.get_running_loop())
            return alice()

        client = ep.registration(registrar.uri(), AOR, credentials=ask)
        await client.register()
        assert loops == [asyncio.get_running_loop()]

    in_a_loop(body)


class Methods:
    def sync(self, challenge: pjsip.Challenge) -> pjsip.Credentials:
        return alice()

    async def later(self, challenge: pjsip.Challenge) -> pjsip.Credentials:
        return alice()

    async def __call__(self, challenge: pjsip.Challenge) -> pjsip.Credentials:
        return alice()


@pytest.mark.parametrize(
    "ask",
    [
        lambda challenge: alice(),
        lambda challenge: [alice()],
        lambda challenge: (alice(realm="elsewhere"), alice()),
        Methods(),
        Methods().sync,
        Methods().later,
        functools.partial(lambda credentials, challenge: credentials, alice()),
        functools.partial(Methods.later, Methods()),
    ],
    ids=["lambda", "list", "tuple", "object", "method", "async method", "partial", "async partial"],
)
def test_callables_of_all_makes(ep: pjsip.Endpoint, registrar: Registrar, ask: Any) -> None:
    client = ep.registration(registrar.uri(), AOR, credentials=ask)
    assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_asked_only_when_what_it_gave_does_not_do(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str
) -> None:
    vault = Vault(kind, alice())
    account = ep.add_account(AOR, registrar=registrar.uri(), credentials=vault)
    for _ in range(5):
        account.register().result(DEADLINE)
    registrar.expire_nonces()  # stale says that the password was right
    account.register().result(DEADLINE)
    account.unregister().result(DEADLINE)
    assert len(vault.asked) == 1
    assert {p.verdict for p in proofs(registrar)} <= {"ok", "stale"}


def test_a_ha1_for_the_algorithm_that_will_be_used(ep: pjsip.Endpoint) -> None:
    hashes = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}

    def ask(challenge: pjsip.Challenge) -> pjsip.Credentials:
        digest = hashlib.new(hashes[challenge.algorithm], usedforsecurity=False)
        digest.update(f"alice:{challenge.realm}:{PASSWORD}".encode())
        ha1 = {challenge.algorithm: digest.hexdigest()}
        return pjsip.Credentials("alice", ha1=ha1, realm=challenge.realm)

    for offered in (("MD5",), ("MD5", "SHA-256"), ("SHA-256", "SHA-512-256", "MD5")):
        with Registrar(users=USERS, algorithms=offered) as server:
            client = ep.registration(server.uri(), AOR, credentials=ask)
            assert client.register().result(DEADLINE).algorithm == offered[len(offered) // 2]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_realm_is_asked_for(ep: pjsip.Endpoint, kind: str, one_by_one: bool) -> None:
    def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
        if challenge.realm == "outer":
            return pjsip.Credentials("bob", "bob-s3cret", realm="outer")
        return alice(realm=challenge.realm)

    with Registrar(
        users={"alice": PASSWORD, "bob": "bob-s3cret"},
        realm="inner",
        proxy_realm="outer",
        one_by_one=one_by_one,
        nc_check="exact",
    ) as server:
        vault = Vault(kind, give)
        client = ep.registration(server.uri(), AOR, credentials=vault)
        client.register().result(DEADLINE)
        client.register().result(DEADLINE)
        assert sorted((c.realm, c.proxy) for c in vault.asked) == [
            ("inner", False),
            ("outer", True),
        ]
        assert {p.verdict for p in proofs(server)} == {"ok"}
        assert answers(server) == [407, *[401] * one_by_one, 200, 200]


def test_one_realm_on_both_sides_needs_one_answer_at_most_two(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, proxy_realm="example.com") as server:
        vault = Vault("sync", alice())
        client = ep.registration(server.uri(), AOR, credentials=vault)
        client.register().result(DEADLINE)
        client.register().result(DEADLINE)
        assert answers(server) == [407, 200, 200]
        assert 1 <= len(vault.asked) <= 2


def test_a_minimum_that_it_gives_holds(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, algorithms=("MD5",)) as server:
        vault = Vault("sync", alice(min_algorithm="SHA-256"))
        client = ep.registration(server.uri(), AOR, credentials=vault)
        assert isinstance(fails(client.register()), pjsip.DowngradeError)
        assert b"Authorization" not in b"".join(r.data for r in server.requests)


def test_it_takes_the_place_of_credentials_and_they_its(
    registrar: Registrar, ep: pjsip.Endpoint
) -> None:
    registrar.set_password("bob", "bob-s3cret")
    client = ep.registration(registrar.uri(), AOR, credentials=alice())
    client.register().result(DEADLINE)
    vault = Vault("sync", pjsip.Credentials("bob", "bob-s3cret"))
    client.set_credentials(vault)
    client.register().result(DEADLINE)
    client.set_credentials(alice())
    client.register().result(DEADLINE)
    account = ep.add_account(AOR, registrar=registrar.uri(), credentials=alice())
    account.register().result(DEADLINE)
    account.modify(credentials=vault)
    account.register().result(DEADLINE)
    account.modify(credentials=alice())
    account.register().result(DEADLINE)
    assert {p.verdict for p in proofs(registrar)} == {"ok"}
    users = [p.username for p in proofs(registrar)]
    assert [users[0], users[-1]] == ["alice", "alice"]
    assert "bob" in users
    assert len(vault.asked) == 2


# -- what it does not give ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_no_credential(ep: pjsip.Endpoint, registrar: Registrar, kind: str) -> None:
    nothings: list[Any] = [None, [], ()]
    for nothing in nothings:
        vault = Vault(kind, nothing)
        client = ep.registration(registrar.uri(), AOR, credentials=vault)
        error = fails(client.register())
        assert isinstance(error, pjsip.NoCredentialError)
        assert (error.code, error.local) == (401, False)
        assert len(vault.asked) == 1
        vault.answer = alice()
        assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_for_another_realm_is_no_credential(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str
) -> None:
    vault = Vault(kind, alice(realm="elsewhere"))
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    assert isinstance(fails(client.register()), pjsip.NoCredentialError)
    assert not proofs(registrar)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_raises_is_the_cause(ep: pjsip.Endpoint, registrar: Registrar, kind: str) -> None:
    """The Operation carries it; it is no handler's failure, and nothing is raised elsewhere."""
    failed: list[pjsip.Event] = []
    ep.on(pjsip.CallbackFailed, failed.append)
    vault = Vault(kind, ConnectionError("the vault is sealed"))
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    seen: list[pjsip.RegState] = []
    client.on_reg_state(seen.append)
    error = fails(client.register())
    assert isinstance(error, pjsip.CredentialsError)
    assert isinstance(error, pjsip.AuthenticationError)
    assert error.__cause__ is vault.answer
    assert error.retriable
    assert error.hint
    assert [event.error for event in seen] == [error]
    assert not ep.callback_errors
    assert not failed
    assert not proofs(registrar)
    vault.answer = alice()
    assert client.register().result(DEADLINE).code == 200


def test_what_it_raises_in_a_loop(registrar: Registrar) -> None:
    async def body(ep: pjsip.Endpoint) -> None:
        for kind in KINDS:
            vault = Vault(kind, LookupError("no such secret"))
            client = ep.registration(registrar.uri(), AOR, credentials=vault)
            with pytest.raises(pjsip.CredentialsError) as caught:
                await client.register()
            assert caught.value.__cause__ is vault.answer
            assert not ep.callback_errors

    in_a_loop(body)


def test_a_cancelled_coroutine_is_a_failure_of_its_own(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    client = ep.registration(
        registrar.uri(), AOR, credentials=Vault("async", asyncio.CancelledError())
    )
    assert isinstance(fails(client.register()), pjsip.CredentialsError)
    client.set_credentials(Vault("sync", TimeoutError("the vault's own")))
    error = fails(client.register())
    assert isinstance(error, pjsip.CredentialsError)
    assert "the vault's own" in str(error.__cause__)


def test_an_account_asks_again_after_a_failure(registrar: Registrar) -> None:
    with World() as w:
        vault = Vault("sync", OSError("the vault is away"))
        account = w.account(registrar, credentials=vault)
        assert isinstance(w.fails(account), pjsip.CredentialsError)
        assert account.retry_at is not None
        vault.answer = alice()
        assert w.retry(account).code == 200
        assert len(vault.asked) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        5,
        PASSWORD,
        PASSWORD.encode(),
        ("alice", PASSWORD),
        {"password": PASSWORD},
        [alice(), None],
        object(),
        True,
        Exception(),
        pjsip.Credentials,
        [pjsip.Credentials(f"u{i}", PASSWORD) for i in range(9)],
        iter([alice()]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nonsense_is_told_by_its_type_and_not_shown(
    ep: pjsip.Endpoint, registrar: Registrar, nonsense: Any
) -> None:
    client = ep.registration(registrar.uri(), AOR, credentials=lambda challenge: nonsense)
    error = fails(client.register())
    assert isinstance(error, pjsip.CredentialsError)
    assert not proofs(registrar)
    client.set_credentials(alice())
    assert client.register().result(DEADLINE).code == 200


def test_a_callable_that_takes_no_challenge(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    takes_none: Any = lambda: alice()  # noqa: E731
    client = ep.registration(registrar.uri(), AOR, credentials=takes_none)
    error = fails(client.register())
    assert isinstance(error, pjsip.CredentialsError)
    assert isinstance(error.__cause__, TypeError)


@pytest.mark.parametrize("value", [0, -1, "30", None, float("nan"), float("inf"), True])
def test_the_deadline_is_checked(ep: pjsip.Endpoint, value: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match="credentials_timeout"):
        ep.registration("sip:127.0.0.1", AOR, credentials_timeout=value)
    with pytest.raises(pjsip.ConfigError, match="credentials_timeout"):
        pjsip.AccountConfig(aor=AOR, credentials_timeout=value)


# -- too late -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str, gate: threading.Event
) -> None:
    vault = Vault(kind, alice(), gate)
    client = ep.registration(registrar.uri(), AOR, credentials=vault, credentials_timeout=0.2)
    began = time.monotonic()
    error = fails(client.register(), SOON)
    assert time.monotonic() - began > 0.15
    assert isinstance(error, pjsip.CredentialsError)
    assert error.retriable
    assert answers(registrar) == [401]
    # What comes now comes too late, and is no answer to anything.
    gate.set()
    assert vault.left.wait(DEADLINE)
    assert client.register().result(DEADLINE).code == 200
    assert answers(registrar) == [401, 401, 200]
    assert len(vault.asked) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_in_a_loop(registrar: Registrar, kind: str, gate: threading.Event) -> None:
    async def body(ep: pjsip.Endpoint) -> None:
        vault = Vault(kind, alice(), gate)
        client = ep.registration(registrar.uri(), AOR, credentials=vault, credentials_timeout=0.2)
        began = time.monotonic()
        with pytest.raises(pjsip.CredentialsError):
            await client.register()
        assert 0.15 < time.monotonic() - began < SOON
        gate.set()
        assert (await client.register()).code == 200

    in_a_loop(body)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_waits_meanwhile(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str, gate: threading.Event
) -> None:
    vault = Vault(kind, alice(), gate)
    waiting = ep.registration(registrar.uri(), AOR, credentials=vault).register()
    assert vault.entered.wait(DEADLINE)
    other = ep.registration(registrar.uri("tcp"), AOR, credentials=alice())
    for _ in range(3):
        assert other.register().result(SOON).code == 200
    assert not waiting.done()
    gate.set()
    assert waiting.result(DEADLINE).code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_request_does_not_wait_for_it(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str, gate: threading.Event
) -> None:
    vault = Vault(kind, alice(), gate)
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    seen: list[pjsip.RegState] = []
    client.on_reg_state(seen.append)
    operation = client.register()
    assert vault.entered.wait(DEADLINE)
    assert operation.cancel()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        operation.result(DEADLINE)
    assert time.monotonic() - began < SOON
    assert len(seen) == 1
    gate.set()
    assert vault.left.wait(DEADLINE)
    assert client.register().result(DEADLINE).code == 200
    assert not [p for p in proofs(registrar) if p.verdict != "ok"]


@pytest.mark.parametrize("what", ["client", "account", "endpoint", "endpoint at once"])
@pytest.mark.parametrize("kind", KINDS)
def test_closing_does_not_wait_for_it(
    registrar: Registrar, kind: str, what: str, gate: threading.Event
) -> None:
    vault = Vault(kind, alice(), gate)
    with pjsip.Endpoint(strict=True) as ep:
        thing: Any
        if what == "account":
            thing = ep.add_account(AOR, registrar=registrar.uri(), credentials=vault)
        else:
            thing = ep.registration(registrar.uri(), AOR, credentials=vault)
        operation = thing.register()
        assert vault.entered.wait(DEADLINE)
        began = time.monotonic()
        if what == "endpoint":
            ep.close()
        elif what == "endpoint at once":
            ep.close(network=False)
        else:
            thing.close()
        assert time.monotonic() - began < SOON
        with pytest.raises((pjsip.ClosedError, CancelledError)):
            operation.result(SOON)
        gate.set()
        assert vault.left.wait(DEADLINE) or kind == "async"
        if what in ("client", "account"):
            other = ep.registration(registrar.uri(), AOR, credentials=alice())
            assert other.register().result(DEADLINE).code == 200
            assert ep.stats()["assertions"] == 0
    assert len(vault.asked) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_the_loop_does_not_wait_for_it(
    registrar: Registrar, kind: str, gate: threading.Event
) -> None:
    vault = Vault(kind, alice(), gate)
    operations: list[pjsip.Operation[Any]] = []

    async def body(ep: pjsip.Endpoint) -> None:
        client = ep.registration(registrar.uri(), AOR, credentials=vault)
        operations.append(client.register())
        while not vault.entered.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    opener = threading.Timer(SOON, gate.set)  # asyncio.run() waits for its executor's threads
    opener.start()
    began = time.monotonic()
    in_a_loop(body)
    assert time.monotonic() - began < 2 * SOON
    opener.cancel()
    with pytest.raises((pjsip.ClosedError, CancelledError)):
        operations[0].result(SOON)


def test_other_credentials_while_it_runs(
    ep: pjsip.Endpoint, registrar: Registrar, gate: threading.Event
) -> None:
    registrar.set_password("bob", "bob-s3cret")
    vault = Vault("sync", alice("wrong"), gate)
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    first = client.register()
    assert vault.entered.wait(DEADLINE)
    changed = client.set_credentials(pjsip.Credentials("bob", "bob-s3cret"))
    second = client.register()
    gate.set()
    first.exception(DEADLINE)
    assert second.result(DEADLINE).code == 200
    assert changed is None or changed.done()
    assert proofs(registrar)[-1].username == "bob"


def test_what_was_asked_for_behind_it_comes_in_turn(
    ep: pjsip.Endpoint, registrar: Registrar, gate: threading.Event
) -> None:
    vault = Vault("sync", alice(), gate)
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    operations: list[Any] = [client.register(), client.register(), client.unregister()]
    assert vault.entered.wait(DEADLINE)
    gate.set()
    assert [operation.result(DEADLINE).code for operation in operations] == [200] * 3
    assert len(vault.asked) == 1
    assert registrar.bindings(AOR) == []


def test_the_registrar_goes_away_while_it_runs(
    ep: pjsip.Endpoint, registrar: Registrar, gate: threading.Event
) -> None:
    vault = Vault("sync", alice(), gate)
    client = ep.registration(registrar.uri("tcp"), AOR, credentials=vault)
    operation = client.register(timeout=1.0)
    assert vault.entered.wait(DEADLINE)
    registrar.stop()
    until(lambda: registrar.stats().connections == 0, "the end of the connection")
    gate.set()
    error = fails(operation)
    assert isinstance(error, (pjsip.TransportError, pjsip.RegistrationTimeout))
    registrar.start()
    assert client.register().result(DEADLINE).code == 200


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rotated_password_is_asked_for_anew(ep: pjsip.Endpoint, kind: str, proxy: bool) -> None:
    with Registrar(users={"alice": "first"}, proxy_auth=proxy, nc_check="exact") as server:
        current = "first"
        vault = Vault(kind, lambda challenge: alice(current))
        account = ep.add_account(AOR, registrar=server.uri(), credentials=vault)
        account.register().result(DEADLINE)
        for current in ("second", "third"):
            server.set_password("alice", current)
            assert account.register().result(DEADLINE).code == 200
            assert account.register().result(DEADLINE).code == 200
        assert [(c.refused, c.proxy) for c in vault.asked] == [
            (False, proxy),
            (True, proxy),
            (True, proxy),
        ]
        assert len(server.requests) <= 12
        account.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_again_is_a_wrong_password(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str
) -> None:
    """It is asked once more, and the same secret is not proved a second time."""
    vault = Vault(kind, alice("wrong"))
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    for again in range(1, 4):
        before = len(proofs(registrar))
        assert isinstance(fails(client.register()), pjsip.WrongPasswordError)
        assert [c.refused for c in vault.asked] == [False, True] * again
        assert len(proofs(registrar)) - before == 1
    vault.answer = alice()
    assert client.register().result(DEADLINE).code == 200
    assert client.register().result(DEADLINE).offered == ()
    assert [c.refused for c in vault.asked] == [*[False, True] * 3, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_slip_of_the_pen_is_mended_at_once(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str
) -> None:
    vault = Vault(kind, lambda challenge: alice() if challenge.refused else alice("passwrod"))
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    assert client.register().result(DEADLINE).code == 200
    assert [c.refused for c in vault.asked] == [False, True]
    assert [p.verdict for p in proofs(registrar)] == ["denied", "ok"]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
@pytest.mark.parametrize("rotated", [("bob",), ("alice",), ("alice", "bob")], ids=" ".join)
@pytest.mark.parametrize("whole", [False, True], ids=["one credential", "all credentials"])
def test_rotated_passwords_of_two_realms(
    ep: pjsip.Endpoint, one_by_one: bool, rotated: tuple[str, ...], whole: bool
) -> None:
    """It may give all that it has each time: what has not changed does not spoil what has."""
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}

    def give(challenge: pjsip.Challenge) -> list[pjsip.Credentials]:
        both = [
            pjsip.Credentials("alice", users["alice"], realm="inner"),
            pjsip.Credentials("bob", users["bob"], realm="outer"),
        ]
        return both if whole else [one for one in both if one.realm == challenge.realm]

    with Registrar(
        users=users, realm="inner", proxy_realm="outer", one_by_one=one_by_one
    ) as server:
        client = ep.registration(server.uri(), AOR, credentials=Vault("sync", give))
        client.register().result(DEADLINE)
        for name in rotated:
            users[name] = f"{name}-rotated"
            server.set_password(name, users[name])
        assert client.register().result(DEADLINE).code == 200


def test_none_after_a_refusal(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    vault = Vault("sync", alice())
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    client.register().result(DEADLINE)
    registrar.set_password("alice", "changed")
    vault.answer = None
    for _ in range(2):
        error = fails(client.register())
        assert isinstance(error, (pjsip.WrongPasswordError, pjsip.NoCredentialError))
    registrar.set_password("alice", PASSWORD)
    vault.answer = alice()
    assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_refresh_by_the_timer_asks_as_well(
    registrar: Registrar, ep: pjsip.Endpoint, kind: str
) -> None:
    current = PASSWORD
    vault = Vault(kind, lambda challenge: alice(current))
    client = ep.registration(registrar.uri(), AOR, credentials=vault, expires=1)
    seen: list[pjsip.RegState] = []
    client.on_reg_state(seen.append)
    client.register().result(DEADLINE)
    current = "rotated"
    registrar.set_password("alice", current)
    until(lambda: len(seen) >= 2, "the refresh")
    assert (seen[1].renewal, seen[1].error) == (True, None)
    vault.answer = OSError("the vault is sealed")
    current = "again"
    registrar.set_password("alice", current)
    until(lambda: len(seen) >= 3, "the refresh that fails")
    assert seen[2].renewal
    assert isinstance(seen[2].error, pjsip.CredentialsError)
    assert seen[2].error.__cause__ is vault.answer
    assert [c.refused for c in vault.asked] == [False, True, True]


def test_an_account_survives_a_vault_that_fails_at_a_refresh(registrar: Registrar) -> None:
    with World() as w:
        vault = Vault("sync", alice())
        account = w.account(registrar, credentials=vault)
        account.register().result(DEADLINE)
        registrar.set_password("alice", "rotated")
        vault.answer = OSError("the vault is sealed")
        assert isinstance(w.fails(account), pjsip.CredentialsError)
        vault.answer = alice("rotated")
        assert w.retry(account).code == 200


@pytest.mark.parametrize("what", ["fetch", "unregister", "unregister_all"])
def test_the_first_challenge_may_be_another_request_s(
    ep: pjsip.Endpoint, registrar: Registrar, what: str
) -> None:
    vault = Vault("sync", alice())
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    do: Callable[[], Any] = {
        "fetch": client.fetch_bindings,
        "unregister": client.unregister,
        "unregister_all": client.unregister_all,
    }[what]
    operation: Any = do()
    assert operation.result(DEADLINE).code == 200
    client.register().result(DEADLINE)
    # A fetch has a regc of its own: it begins with what the client knows, and takes it along.
    asked = 2 if what == "fetch" else 1
    assert do().result(DEADLINE).code == 200
    assert len(vault.asked) == asked
    vault.answer = OSError("sealed")
    registrar.set_password("alice", "rotated")
    operation = do()
    assert isinstance(fails(operation), pjsip.CredentialsError)


def test_the_time_of_the_request_may_be_over_first(
    ep: pjsip.Endpoint, registrar: Registrar, gate: threading.Event
) -> None:
    vault = Vault("sync", alice(), gate)
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    began = time.monotonic()
    error = fails(client.register(timeout=0.3), SOON)
    assert time.monotonic() - began > 0.25
    assert isinstance(error, (pjsip.CredentialsError, pjsip.RegistrationTimeout))
    gate.set()
    assert vault.left.wait(DEADLINE)
    assert client.register().result(DEADLINE).code == 200
    assert {p.verdict for p in proofs(registrar)} == {"ok"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_connection_ends_while_it_runs(
    ep: pjsip.Endpoint, registrar: Registrar, kind: str, gate: threading.Event
) -> None:
    """As load balancers do it: the answer takes a new connection, or the failure is told."""
    vault = Vault(kind, alice(), gate)
    client = ep.registration(registrar.uri("tcp"), AOR, credentials=vault)
    operation = client.register()
    assert vault.entered.wait(DEADLINE)
    assert registrar.drop_connections() == 1
    until(lambda: registrar.stats().connections == 0, "the end of the connection")
    gate.set()
    error = operation.exception(DEADLINE)
    assert error is None or isinstance(error, pjsip.TransportError)
    assert client.register().result(DEADLINE).code == 200


def test_a_challenge_that_comes_twice_is_asked_for_once(
    ep: pjsip.Endpoint, registrar: Registrar, gate: threading.Event
) -> None:
    challenge = b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    registrar.script(Answer(raw=lambda request: refusal(request, challenge) * 3), Answer(200))
    vault = Vault("sync", alice(), gate)
    client = ep.registration(registrar.uri("tcp"), AOR, credentials=vault)
    operation = client.register()
    assert vault.entered.wait(DEADLINE)
    gate.set()
    assert operation.result(DEADLINE).code == 200
    assert len(vault.asked) == 1


def test_a_realm_of_its_own_for_each_challenge(ep: pjsip.Endpoint) -> None:
    vault = Vault("sync", lambda challenge: alice(realm=challenge.realm))
    with Registrar(users=USERS) as server:
        port = server.port()
        client = ep.registration(server.uri(), AOR, credentials=vault)
        client.register().result(DEADLINE)
    for i in range(20):
        with Registrar(users=USERS, realm=f"realm{i}", ports={"udp": port}) as server:
            assert client.register().result(DEADLINE).code == 200
            assert {p.verdict for p in proofs(server)} <= {"ok"}
    assert len(vault.asked) == 21


@pytest.mark.parametrize("kind", KINDS)
def test_eight_realms_at_once(ep: pjsip.Endpoint, kind: str) -> None:
    names = [f"realm{i}" for i in range(8)]
    with Registrar(("tcp",), users=USERS, realm=names, nc_check="exact") as server:
        vault = Vault(kind, lambda challenge: alice(realm=challenge.realm))
        client = ep.registration(server.uri(), AOR, credentials=vault)
        client.register().result(DEADLINE)
        client.register().result(DEADLINE)
        assert answers(server) == [401, 200, 200]
        assert sorted(c.realm for c in vault.asked) == names


# -- many, and itself -----------------------------------------------------------------------------


def test_fifty_accounts_and_a_slow_vault() -> None:
    users = {f"user{i}": f"{PASSWORD}{i}" for i in range(50)}
    for kind in KINDS:
        with ExitStack() as stack:
            server = stack.enter_context(Registrar(users=users))
            ep = stack.enter_context(pjsip.Endpoint(strict=True))

            def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
                name = challenge.aor.partition(":")[2].partition("@")[0]
                return pjsip.Credentials(name, users[name])

            vault = Vault(kind, give, delay=0.1)
            accounts = [
                ep.add_account(f"sip:{name}@example.com", registrar=server.uri(), credentials=vault)
                for name in users
            ]
            began = time.monotonic()
            operations = [account.register() for account in accounts]
            assert [operation.result(10).code for operation in operations] == [200] * 50
            # 5 s one after the other.
            assert time.monotonic() - began < 3.0, kind
            assert len(vault.asked) == 50
            assert {p.verdict for p in proofs(server)} == {"ok"}


def test_fifty_accounts_in_a_loop(registrar: Registrar) -> None:
    for i in range(50):
        registrar.set_password(f"user{i}", f"{PASSWORD}{i}")

    async def body(ep: pjsip.Endpoint) -> None:
        async def ask(challenge: pjsip.Challenge) -> pjsip.Credentials:
            await asyncio.sleep(0.2)
            name = challenge.aor.partition(":")[2].partition("@")[0]
            return pjsip.Credentials(name, PASSWORD + name.removeprefix("user"))

        accounts = [
            ep.add_account(f"sip:user{i}@example.com", registrar=registrar.uri(), credentials=ask)
            for i in range(50)
        ]
        began = time.monotonic()
        results = await asyncio.gather(*(account.register() for account in accounts))
        assert [result.code for result in results] == [200] * 50
        assert time.monotonic() - began < 2.0

    in_a_loop(body)


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_close_its_own_account(ep: pjsip.Endpoint, registrar: Registrar, kind: str) -> None:
    def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
        account.close()
        return alice()

    account = ep.add_account(AOR, registrar=registrar.uri(), credentials=Vault(kind, give))
    with pytest.raises((pjsip.ClosedError, CancelledError)):
        account.register().result(SOON)
    other = ep.registration(registrar.uri(), AOR, credentials=alice())
    assert other.register().result(SOON).code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_use_the_endpoint(ep: pjsip.Endpoint, registrar: Registrar, kind: str) -> None:
    def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
        others.append(ep.registration(registrar.uri(), AOR, credentials=alice()).register())
        return alice()

    others: list[Any] = []
    client = ep.registration(registrar.uri(), AOR, credentials=Vault(kind, give))
    assert client.register().result(DEADLINE).code == 200
    assert others[0].result(DEADLINE).code == 200


def test_it_may_set_its_own_client_s_credentials(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
        client.set_credentials(alice())
        again.append(client.register())
        return alice()

    again: list[Any] = []
    client = ep.registration(registrar.uri(), AOR, credentials=give)
    client.register().exception(DEADLINE)
    assert again[0].result(DEADLINE).code == 200


class Later:
    """An awaitable that is no coroutine, as clients of vaults return them."""

    def __await__(self) -> Any:
        return asyncio.sleep(0.01, alice()).__await__()


def test_an_awaitable_that_is_no_coroutine(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True) as ep:
        client = ep.registration(registrar.uri(), AOR, credentials=lambda challenge: Later())
        assert client.register().result(DEADLINE).code == 200

    async def body(ep: pjsip.Endpoint) -> None:
        client = ep.registration(registrar.uri(), AOR, credentials=lambda challenge: Later())
        assert (await client.register()).code == 200

    in_a_loop(body)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_program_ends_while_one_waits(registrar: Registrar, kind: str) -> None:
    source = f"""
        import threading, time
        import pjsip_py as pjsip

        entered = threading.Event()

        {kind} ask(challenge):
            entered.set()
            time.sleep(60)

        ep = pjsip.Endpoint()
        client = ep.registration({registrar.uri()!r}, {AOR!r}, credentials=ask)
        operation = client.register()
        assert entered.wait(5)
        """
    for ending in ("", "ep.close()"):
        finished = run_program(textwrap.dedent(source) + ending, timeout=10)
        finished.check()
        assert finished.seconds < 5


def test_one_that_waits_for_its_own_registration_meets_its_deadline(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    def give(challenge: pjsip.Challenge) -> pjsip.Credentials:
        waited.append(operation.exception(BLOCKED))
        return alice()

    waited: list[Any] = []
    client = ep.registration(registrar.uri(), AOR, credentials=give, credentials_timeout=0.3)
    operation = client.register()
    error = fails(operation, SOON)
    assert isinstance(error, pjsip.CredentialsError)


def test_it_is_let_go_with_its_client(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    vault = Vault("sync", alice())
    gone = weakref.ref(vault)
    client = ep.registration(registrar.uri(), AOR, credentials=vault)
    client.register().result(DEADLINE)
    del vault
    client.close()
    del client

    def collected() -> bool:
        gc.collect()
        return gone() is None

    until(collected, "the end of the callable")


def test_many_closes_in_the_middle(registrar: Registrar) -> None:
    """Whatever the moment, each Operation ends, and nothing but the endpoint's own goes on."""
    before = threading.active_count()
    for round_ in range(20):
        kind = KINDS[round_ % 2]
        with pjsip.Endpoint(strict=True) as ep:
            vault = Vault(kind, alice(), delay=0.002 * (round_ % 4))
            clients = [ep.registration(registrar.uri(), AOR, credentials=vault) for _ in range(5)]
            operations = [client.register() for client in clients]
            time.sleep(0.001 * round_)
            for client in clients[:3]:
                client.close()
            ep.close(network=False)
            for operation in operations:
                operation.cancel()
            until(lambda ops=operations: all(op.done() for op in ops), "the ends")  # type: ignore[misc]
    until(lambda: threading.active_count() <= before + 1, "the end of the threads")


# -- Bearer tokens (RFC 8898) ---------------------------------------------------------------------


@pytest.fixture
def issuer() -> Iterator[Registrar]:
    with Registrar(("tls", "udp", "tcp"), tokens={TOKEN: "alice"}) as server:
        yield server


def over_tls(
    ep: pjsip.Endpoint, server: Registrar, credentials: Any, **options: Any
) -> pjsip.RegistrationClient:
    tls = pjsip.TlsConfig(ca_file=str(server.ca_file))
    client: pjsip.RegistrationClient = ep.registration(
        server.uri("tls"), AOR, credentials=credentials, tls=tls, **options
    )
    return client


def test_a_token_over_tls(ep: pjsip.Endpoint, issuer: Registrar) -> None:
    texts: list[str] = []
    ep.trace()
    ep.on(pjsip.SipMessage, lambda message: texts.append(message.text))
    client = over_tls(ep, issuer, pjsip.BearerToken(TOKEN))
    seen: list[pjsip.RegState] = []
    client.on_reg_state(seen.append)
    result = client.register().result(DEADLINE)
    assert (result.algorithm, result.offered) == ("Bearer", ("Bearer",))
    again = client.register().result(DEADLINE)
    assert (again.algorithm, again.offered) == ("Bearer", ())
    assert answers(issuer) == [401, 200, 200]
    assert [p.username for p in proofs(issuer)] == ["alice", "alice"]
    assert len(texts) == 6
    assert TOKEN not in "".join(texts) + repr(seen) + repr(result)


def test_a_token_is_kept_secret() -> None:
    token = pjsip.BearerToken(TOKEN, realm="r")
    config = pjsip.AccountConfig(aor=AOR, credentials=token)
    assert TOKEN not in f"{token!r} {token} {config!r}"
    assert token == pjsip.BearerToken(TOKEN, realm="r")
    assert token != pjsip.BearerToken(TOKEN)
    wrongs: list[Any] = ["", "a b", TOKEN + "\r\nX: y", TOKEN + "é", TOKEN + '"', 5, None]
    for wrong in wrongs:
        with pytest.raises(pjsip.ConfigError, match="token") as caught:
            pjsip.BearerToken(wrong)
        assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_token_does_not_leave_in_the_open(
    ep: pjsip.Endpoint, issuer: Registrar, protocol: str
) -> None:
    for credentials in (
        pjsip.BearerToken(TOKEN),
        lambda challenge: pjsip.BearerToken(TOKEN),
    ):
        client = ep.registration(issuer.uri(protocol), AOR, credentials=credentials)
        error = fails(client.register())
        assert isinstance(error, pjsip.AuthenticationError)
        assert "TLS" in f"{error} {error.hint}" or "insecure" in f"{error} {error.hint}"
    assert TOKEN.encode() not in b"".join(r.data for r in issuer.requests)
    client = ep.registration(
        issuer.uri(protocol), AOR, credentials=pjsip.BearerToken(TOKEN, insecure=True)
    )
    assert client.register().result(DEADLINE).algorithm == "Bearer"


def test_a_token_over_tls_does_not_follow_to_the_open(
    ep: pjsip.Endpoint, issuer: Registrar
) -> None:
    """What was proven over TLS is no leave to send it elsewhere: the account fails over to UDP."""
    account = ep.add_account(
        AOR,
        registrars=[issuer.uri("tls"), issuer.uri("udp")],
        credentials=pjsip.BearerToken(TOKEN),
        tls=pjsip.TlsConfig(ca_file=str(issuer.ca_file)),
    )
    assert account.register().result(DEADLINE).code == 200
    issuer.answer_next(503, match=lambda request: request.protocol == "tls", times=None)
    assert isinstance(account.register().exception(DEADLINE), pjsip.PjsipError)
    for request in issuer.requests:
        assert request.protocol == "tls" or TOKEN.encode() not in request.data


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_token_is_refreshed(ep: pjsip.Endpoint, issuer: Registrar, kind: str) -> None:
    current = TOKEN
    vault = Vault(kind, lambda challenge: pjsip.BearerToken(current))
    client = over_tls(ep, issuer, vault)
    client.register().result(DEADLINE)
    (first,) = vault.asked
    assert (first.scheme, first.proxy, first.refused) == ("Bearer", False, False)
    assert first.parameters["authz_server"] == "https://authz.example.com"
    assert first.parameters["scope"] == "sip"
    for current in (TOKEN + "2", TOKEN + "3"):
        for old in (TOKEN, TOKEN + "2"):
            issuer.set_token(old, None)
        issuer.set_token(current, "alice")
        assert client.register().result(DEADLINE).code == 200
        assert client.register().result(DEADLINE).offered == ()
    assert [c.refused for c in vault.asked] == [False, True, True]
    assert vault.asked[-1].parameters["error"] == "invalid_token"
    assert answers(issuer) == [401, 200, *[401, 200, 200] * 2]


def test_a_token_that_is_refused_for_good(ep: pjsip.Endpoint, issuer: Registrar) -> None:
    vault = Vault("sync", pjsip.BearerToken("revoked"))
    client = over_tls(ep, issuer, vault)
    for again in (1, 2):
        before = len(proofs(issuer))
        assert isinstance(fails(client.register()), pjsip.WrongPasswordError)
        assert [c.refused for c in vault.asked] == [False, True] * again
        assert len(proofs(issuer)) - before == 1
    assert len(issuer.requests) <= 6
    client.set_credentials(pjsip.BearerToken("revoked"))
    assert isinstance(fails(client.register()), pjsip.WrongPasswordError)
    assert len(issuer.requests) <= 8
    client.set_credentials(pjsip.BearerToken(TOKEN))
    assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("algorithms", [("Bearer", "SHA-256"), ("SHA-256", "Bearer")])
def test_bearer_beside_digest_goes_by_what_there_is(
    ep: pjsip.Endpoint, algorithms: tuple[str, ...]
) -> None:
    with Registrar(
        ("tls",), users=USERS, tokens={TOKEN: "alice"}, algorithms=algorithms, nc_check="exact"
    ) as server:
        for credentials, chosen in (
            (alice(), "SHA-256"),
            (pjsip.BearerToken(TOKEN), "Bearer"),
        ):
            client = over_tls(ep, server, credentials)
            result = client.register().result(DEADLINE)
            assert result.algorithm == chosen
            assert set(result.offered) == {"Bearer", "SHA-256"}
            assert client.register().result(DEADLINE).offered == ()
            client.close()
        assert {p.verdict for p in proofs(server)} == {"ok"}
        for request in server.requests:
            assert len(request.headers.getlist("Authorization")) == len(request.proofs)


def test_a_digest_for_the_proxy_and_a_token_for_the_registrar(ep: pjsip.Endpoint) -> None:
    with Registrar(
        ("tls",),
        users={"bob": "bob-s3cret"},
        tokens={TOKEN: "alice"},
        proxy_realm="outer",
        algorithms=("Bearer", "SHA-256"),
        nc_check="exact",
    ) as server:
        both = [pjsip.Credentials("bob", "bob-s3cret", realm="outer"), pjsip.BearerToken(TOKEN)]
        vault = Vault("sync", lambda challenge: both[not challenge.proxy])
        for credentials in (both, vault):
            client = over_tls(ep, server, credentials)
            for _ in range(3):
                assert client.register().result(DEADLINE).code == 200
            client.close()
        assert answers(server) == [407, 200, 200, 200] * 2
        for request in server.requests:
            found = [(p.scheme, p.username, p.proxy, p.verdict) for p in request.proofs]
            assert found in (
                [],
                [("Digest", "bob", True, "ok"), ("Bearer", "alice", False, "ok")],
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_asks_for_a_token(ep: pjsip.Endpoint, kind: str) -> None:
    with Registrar(("tls",), tokens={TOKEN: "alice"}, proxy_auth=True) as server:
        vault = Vault(kind, pjsip.BearerToken(TOKEN))
        client = over_tls(ep, server, vault)
        client.register().result(DEADLINE)
        client.register().result(DEADLINE)
        assert answers(server) == [407, 200, 200]
        assert [c.proxy for c in vault.asked] == [True]
        assert {p.proxy for p in proofs(server)} == {True}


def test_set_credentials_forgets_the_token(ep: pjsip.Endpoint) -> None:
    with Registrar(("tls",), users=USERS, tokens={TOKEN: "alice"}) as server:
        client = over_tls(ep, server, pjsip.BearerToken(TOKEN))
        client.register().result(DEADLINE)
        server.clear_requests()
        client.set_credentials(alice())
        assert client.register().result(DEADLINE).algorithm == "SHA-256"
        assert TOKEN.encode() not in b"".join(r.data for r in server.requests)


def test_a_token_for_another_realm(ep: pjsip.Endpoint) -> None:
    bearer = {"realm": "example.com", "authz_server": "https://a"}
    with Registrar(("tls",), tokens={TOKEN: "alice"}, bearer=bearer) as server:
        client = over_tls(ep, server, pjsip.BearerToken(TOKEN, realm="elsewhere"))
        assert isinstance(fails(client.register()), pjsip.NoCredentialError)
        assert not proofs(server)
        client.set_credentials(pjsip.BearerToken(TOKEN, realm="example.com"))
        assert client.register().result(DEADLINE).code == 200


def test_a_password_is_no_answer_to_bearer_nor_a_token_to_digest(
    ep: pjsip.Endpoint, issuer: Registrar, registrar: Registrar
) -> None:
    client = over_tls(ep, issuer, alice())
    error = fails(client.register())
    assert isinstance(error, (pjsip.NoCredentialError, pjsip.UnsupportedAlgorithmError))
    client = ep.registration(
        registrar.uri(), AOR, credentials=pjsip.BearerToken(TOKEN, insecure=True)
    )
    assert isinstance(fails(client.register()), pjsip.NoCredentialError)
    assert not proofs(issuer)
    assert not proofs(registrar)


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer",
        "Bearer realm",
        'Bearer realm="',
        'Bearer scope="' + "s" * 3000 + '"',
        'Bearer authz_server="a", authz_server="b"',
        'Bearer \xff="\xfe"',
        "Bearer ,,,",
        "bEARER error=invalid_token",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_strange_bearer_challenges(ep: pjsip.Endpoint, issuer: Registrar, challenge: str) -> None:
    issuer.answer_next(401, headers={"WWW-Authenticate": challenge})
    vault = Vault("sync", pjsip.BearerToken(TOKEN, insecure=True))
    client = ep.registration(issuer.uri("tcp"), AOR, credentials=vault)
    error = client.register(timeout=1.0).exception(DEADLINE)
    assert error is None or isinstance(error, pjsip.AuthenticationError)
    assert client.register().result(DEADLINE).code == 200
    assert ep.stats()["assertions"] == 0
