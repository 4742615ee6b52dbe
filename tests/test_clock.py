# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual clock: PJSIP, the policy and the registrar in one time that a test moves."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from policy import closed_port
from programs import finish_program, run_program, start_program
from servers.kamailio import Kamailio

import pjsip_py as pjsip
from pjsip_py import _ffi
from pjsip_py.errors import ClosedError, WouldBlockError
from pjsip_py.testing import Answer, Registrar, VirtualClock

PASSWORD = "Tempus-fugit-1905"
ALICE = pjsip.Credentials("alice", PASSWORD)
AOR = "sip:alice@example.com"
START = 1000.0
# RFC 3261 §17.1.2.2: timer E doubles from T1 to T2, timer F ends it after 64*T1.
RETRANSMISSIONS = [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
TIMER_F = 32.0


class Stage:
    """An endpoint and a registrar in virtual time, and what the endpoint sent and got, when."""

    def __init__(
        self, *, dispatch: str = "auto", seed: int | None = None, **registrar: Any
    ) -> None:
        self.clock = VirtualClock(seed)
        self.reg = Registrar(clock=self.clock, **registrar)
        self.ep = pjsip.Endpoint(clock=self.clock, strict=True, trace=True, dispatch=dispatch)
        self.events: list[pjsip.Event] = []
        self.ep.on(pjsip.Event, self.events.append)

    def __enter__(self) -> Stage:
        self.reg.start()
        self.ep.open()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ep.close()
        finally:
            self.reg.stop()

    def account(self, aor: str = AOR, **options: Any) -> pjsip.Account:
        merged: dict[str, Any] = {"registrar": self.reg.uri(), "credentials": ALICE, **options}
        account: pjsip.Account = self.ep.add_account(aor, **merged)
        return account

    @property
    def now(self) -> float:
        """Since the clock's start."""
        return since_start(self.clock.time())

    def sent(self) -> list[float]:
        """When the endpoint sent a message."""
        return [
            since_start(event.time.monotonic)
            for event in self.events
            if isinstance(event, pjsip.SipMessage) and event.direction == "tx"
        ]

    def outcomes(self) -> list[tuple[float, int]]:
        return [
            (since_start(event.time.monotonic), event.code)
            for event in self.events
            if isinstance(event, pjsip.RegState)
        ]

    def arrived(self) -> list[float]:
        return [since_start(request.received_at) for request in self.reg.requests]


def since_start(at: float) -> float:
    return round(at - START, 6)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URI of somebody who never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"sip:127.0.0.1:{sock.getsockname()[1]}"


# -- PJSIP's timers ---------------------------------------------------------------------------


AN_HOUR = """
import sys
import time

import pjsip_py as pjsip
from pjsip_py.testing import Registrar, VirtualClock

protocol, apart = sys.argv[1], float(sys.argv[2])
clock = VirtualClock()
with (
    Registrar((protocol,), users={"alice": "Tempus"}, nonce_lifetime=None, clock=clock) as reg,
    pjsip.Endpoint(clock=clock) as ep,
):
    accounts = []
    for n in range(100):
        account = ep.add_account(
            f"sip:{n}@example.com",
            registrar=reg.uri(),
            credentials=pjsip.Credentials("alice", "Tempus"),
            expires=75,
        )
        account.register().result(timeout=5)
        accounts.append(account)
        print(account.aor, round(clock.time() * 1000))
        clock.advance(apart)
    reg.clear_requests()
    began, start = time.perf_counter(), clock.time()
    clock.advance(hours=1)
    print("took", time.perf_counter() - began, round(start * 1000))
    for request in reg.requests:
        print(request.aor, round(request.received_at * 1000), request.answered)
    assert all(account.state == "registered" for account in accounts)
    assert ep.stats()["retransmissions"] == 0
"""


@pytest.mark.parametrize(
    ("protocol", "apart"),
    [
        pytest.param("udp", 0.0, id="udp"),
        pytest.param("udp", 0.137, id="udp-each-at-a-time-of-its-own"),
        pytest.param("tcp", 0.0, id="tcp"),
    ],
)
def test_an_hour_of_refreshes_of_a_hundred_accounts(
    protocol: str, apart: float, record_property: Any
) -> None:
    arguments = [protocol, str(apart)]
    lines = run_program(AN_HOUR, arguments=arguments, timeout=60).check().splitlines()
    rows = [line.split() for line in lines]
    began = {row[0]: int(row[1]) for row in rows[:100]}
    _, seconds, start = rows[100]
    record_property("seconds for an hour", seconds)
    arrived = defaultdict(list)
    for aor, at, answered in rows[101:]:
        assert answered == "200"
        arrived[aor].append(int(at))
    assert len(began) == 100
    for aor, first in began.items():
        # A grant of 75 s is refreshed a fifth of it before its end; all in milliseconds.
        due = [first + 60_000 * n for n in range(1, 70)]
        assert arrived[aor] == [at for at in due if 0 < at - int(start) <= 3_600_000], aor
        assert len(arrived[aor]) == 60


def test_retransmissions_and_timer_f(stage: Stage) -> None:
    stage.reg.drop_next(times=None)
    operation = stage.account(retry=None).register()
    stage.clock.advance(TIMER_F - 0.001)
    assert not operation.done()
    stage.clock.advance(0.001)
    with pytest.raises(pjsip.RegistrationTimeout):
        operation.result(timeout=0)
    assert stage.sent() == stage.arrived()[:1] + RETRANSMISSIONS[1:]
    assert stage.outcomes() == [(TIMER_F, 408)]
    assert stage.reg.requests[0].retransmissions == 0  # each of them was dropped
    assert stage.ep.stats()["retransmissions"] == len(RETRANSMISSIONS) - 1


def test_retransmissions_to_nobody_that_the_clock_knows(stage: Stage, black_hole: str) -> None:
    stage.clock.grace = 0.01
    operation = stage.account(registrar=black_hole, retry=None).register()
    stage.clock.advance(minutes=1)
    with pytest.raises(pjsip.RegistrationTimeout):
        operation.result(timeout=0)
    assert stage.sent() == RETRANSMISSIONS
    assert stage.outcomes() == [(TIMER_F, 408)]


def test_the_timeout_of_a_request(stage: Stage) -> None:
    stage.reg.drop_next(times=None)
    stage.account(retry=None, timeout=2.345).register()
    stage.clock.advance(10)
    assert stage.outcomes() == [(2.345, 408)]


def test_a_late_answer(stage: Stage) -> None:
    stage.reg.delay_next(3.25)
    operation = stage.account(retry=None).register()
    stage.clock.advance(3.249)
    assert not operation.done()
    stage.clock.advance(0.001)
    assert operation.result(timeout=0).code == 200
    assert stage.sent() == [0, 0.5, 1.5]
    assert [request.retransmissions for request in stage.reg.requests] == [2]


def test_an_answer_in_pieces() -> None:
    """What is on its way is waited for, whatever else has been answered."""
    with Stage(protocols=("udp", "tcp"), users={"alice": PASSWORD}) as stage:
        stage.reg.on(times=1).answer(503, delay=20, provisional=100)
        stage.account(expires=60, retry=None).register()
        stage.clock.advance(30)
        stage.reg.on(protocol="tcp").answer(split=5, pause=1.0)
        client = stage.ep.registration(stage.reg.uri("tcp"), AOR, credentials=ALICE)
        operation = client.register()
        stage.clock.advance(7.999)
        assert not operation.done()
        stage.clock.advance(0.001)  # 401 and 200, each in four pauses
        assert operation.result(timeout=0).code == 200


# -- policy -----------------------------------------------------------------------------------


def test_retry_after(stage: Stage) -> None:
    stage.reg.answer_next(503, headers={"Retry-After": "7"}, times=2)
    stage.account(retry=pjsip.RetryPolicy(initial=1)).register()
    stage.clock.advance(minutes=1)
    assert stage.outcomes()[:3] == [(0, 503), (7, 503), (14, 200)]


def back_off(seed: int) -> list[float]:
    with Stage(seed=seed) as stage:
        stage.reg.answer_next(500, times=6)
        stage.account(retry=pjsip.RetryPolicy(initial=2, maximum=60)).register()
        stage.clock.advance(minutes=5)
        assert [code for _, code in stage.outcomes()[:7]] == [500] * 6 + [200]
        return [at for at, _ in stage.outcomes()[:7]]


def test_back_off_with_jitter() -> None:
    times = back_off(7)
    waits = [round(b - a, 3) for a, b in pairwise(times)]
    assert waits[0] == 2
    for wait, bound in zip(waits[1:], [4, 8, 16, 32, 60], strict=True):
        assert 2 <= wait <= bound
    assert back_off(7) == times
    assert back_off(8) != times


def test_keep_alives(stage: Stage) -> None:
    stage.account(keep_alive=20, expires=7200).register().result(timeout=5)
    stage.clock.advance(hours=1)
    # RFC 5626 §4.4.1: 80 to 100 % of the interval.
    assert 3600 / 20 <= stage.reg.stats().keepalives <= 3600 / 16


def test_pacing() -> None:
    clock = VirtualClock()
    with (
        Registrar(clock=clock) as reg,
        pjsip.Endpoint(clock=clock, register_rate=10, register_burst=10) as ep,
    ):
        reg.answer_next(503, headers={"Retry-After": "60"}, times=50)
        for n in range(50):
            ep.add_account(f"sip:{n}@example.com", registrar=reg.uri()).register()
        clock.settle()
        reg.clear_requests()
        clock.advance(minutes=2)
        arrived = [since_start(request.received_at) for request in reg.requests]
        assert len(arrived) == 50
        for second in range(60, 120):  # never more than the burst and what a second brings
            assert sum(second <= at < second + 1 for at in arrived) <= 20
        assert max(arrived) - min(arrived) >= 50 / 10 - 2


# -- the registrar ----------------------------------------------------------------------------


def test_expiry_at_the_registrar(stage: Stage) -> None:
    client = stage.ep.registration(stage.reg.uri(), AOR, expires=60)
    client.register(auto_refresh=False).result(timeout=5)
    stage.clock.advance(59.999)
    (binding,) = stage.reg.bindings(AOR)
    assert binding.expires == 1
    stage.clock.advance(0.001)
    assert stage.reg.bindings(AOR) == []


def test_nonce_lifetime() -> None:
    with Stage(users={"alice": PASSWORD}, nonce_lifetime=300) as stage:
        stage.account(expires=125).register()  # refreshed every 100 s
        stage.clock.advance(minutes=10)
        answered = [(since_start(r.received_at), r.answered) for r in stage.reg.requests]
        assert answered == [
            *((0, 401), (0, 200), (100, 200), (200, 200)),
            *((300, 401), (300, 200), (400, 200), (500, 200), (600, 401), (600, 200)),
        ]
        assert stage.reg.requests[4].proofs[0].verdict == "stale"


def test_times_are_virtual() -> None:
    clock = VirtualClock(wall=1_000_000_000)
    with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock, trace=True) as ep:
        events: list[Any] = []
        ep.on(pjsip.Event, events.append)
        clock.advance(hours=5, minutes=4, seconds=3.002)
        account = ep.add_account(AOR, registrar=reg.uri(), expires=100)
        result = account.register().result(timeout=5)
        now = 1_000_000_000 + 5 * 3600 + 4 * 60 + 3.002
        assert clock.wall() == pytest.approx(now, abs=1e-6)
        assert account.expires_at == pytest.approx(now + 100, abs=1e-3)
        assert account.refresh_at == pytest.approx(now + 80, abs=1e-3)
        for event in events:
            assert event.time.wall == pytest.approx(now, abs=1e-6)
            assert event.time.monotonic == clock.time()
        assert reg.requests[0].time == pytest.approx(now, abs=1e-6)
        assert result.response is not None
        assert result.response.headers["Date"] == "Sun, 09 Sep 2001 06:50:43 GMT"


def test_several_registrars_and_failover(stage: Stage, black_hole: str) -> None:
    stage.clock.grace = 0.01
    with Registrar(("tcp",), clock=stage.clock) as backup:
        account = stage.account(
            registrar=None, registrars=[black_hole, closed_port(), backup.uri()], timeout=4
        )
        stage.clock.advance(10)
        account.register()
        stage.clock.advance(4)
        assert account.state == "registered"
        assert account.registrar == backup.uri()
        assert since_start(backup.requests[0].received_at) == 14


def test_a_registrar_that_restarts(stage: Stage) -> None:
    account = stage.account(expires=75, retry=pjsip.RetryPolicy(initial=10, jitter="none"))
    account.register().result(timeout=5)
    stage.reg.stop()
    stage.clock.grace = 0.01
    stage.clock.advance(100)  # the refresh at 60 s finds nobody, and at 92 s gives up
    assert account.state != "registered"
    stage.reg.start(keep_bindings=False)
    stage.clock.advance(100)
    assert account.state == "registered"
    assert len(stage.reg.bindings(AOR)) == 1


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_connections(protocol: str) -> None:
    with Stage(protocols=(protocol,), users={"alice": PASSWORD}, nonce_lifetime=None) as stage:
        if protocol == "tls":
            stage.ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(ca_file=str(stage.reg.ca_file)))
        account = stage.account(expires=75, retry=pjsip.RetryPolicy(reconnect=1))
        account.register().result(timeout=5)
        stage.clock.advance(119)
        assert stage.arrived() == [0, 0, 60]
        stage.reg.drop_connections()
        stage.clock.advance(1.0)  # found out at once, and back within a second
        assert account.state == "registered"
        assert len(stage.arrived()) == 4
        assert 119 <= stage.arrived()[3] <= 120


# -- how it is moved --------------------------------------------------------------------------


def test_nothing_moves_by_itself(stage: Stage) -> None:
    account = stage.account(expires=10)
    account.register().result(timeout=5)
    assert stage.now == 0
    stage.clock.settle()
    assert stage.now == 0
    assert stage.clock.next_timer() == 5  # T4 of the transaction
    stage.clock.advance()
    assert stage.now == 0
    for wrong in (-1, float("nan"), 1e10, "1"):
        with pytest.raises((pjsip.ConfigError, TypeError)):
            stage.clock.advance(wrong)  # type: ignore[arg-type]


def test_a_program_that_waits_in_its_own_way(stage: Stage) -> None:
    """Nobody tells the clock of it: messages travel all the same."""
    arrived = threading.Event()
    stage.ep.on(pjsip.RegState, lambda event: arrived.set())
    stage.account().register()
    assert arrived.wait(5)
    assert stage.reg.wait_for(lambda request: request.answered == 200).aor == AOR


def test_streams(stage: Stage) -> None:
    account = stage.account()
    with account.events() as events:
        account.register()
        while not isinstance(event := events.get(timeout=5), pjsip.RegState):
            pass
        assert event.code == 200


def test_dispatch_by_hand() -> None:
    with Stage(dispatch="manual") as stage:
        account = stage.account(expires=75)
        operation = account.register()
        assert operation.result(timeout=5).code == 200
        stage.clock.advance(minutes=5)
        assert stage.arrived() == [0, 60, 120, 180, 240, 300]
        assert [at for at, _ in stage.outcomes()] == stage.arrived()
        account.modify(expires=100)
        seen = len(stage.outcomes())
        until = time.monotonic() + 5
        while len(stage.outcomes()) == seen and time.monotonic() < until:
            stage.ep.dispatch(0.5)
        assert len(stage.outcomes()) == seen + 1


def test_asyncio() -> None:
    async def main() -> None:
        clock = VirtualClock()
        loop_thread = threading.get_ident()
        threads = set()
        async with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock, strict=True) as ep:
            outcomes = []

            async def on_reg_state(event: pjsip.RegState) -> None:
                await asyncio.sleep(0)
                threads.add(threading.get_ident())
                outcomes.append((since_start(event.time.monotonic), event.code))

            ep.on(pjsip.RegState, on_reg_state)
            account = ep.add_account(AOR, registrar=reg.uri(), expires=75)
            await asyncio.wait_for(account.register(), timeout=5)
            await clock.aadvance(minutes=4)
            assert outcomes == [(at, 200) for at in (0, 60, 120, 180, 240)]
            assert threads == {loop_thread}
            reg.drop_next(times=None)
            events = account.events()
            operation = account.register()
            await clock.aadvance(TIMER_F)
            assert operation.done()
            with pytest.raises(pjsip.RegistrationTimeout):
                await operation
            assert isinstance(await asyncio.wait_for(anext(events), 5), pjsip.Event)
            with pytest.raises(WouldBlockError, match=r"await clock\.aadvance"):
                clock.advance(1)
            reg.clear_script()
            accounts = [ep.add_account(f"sip:{n}@example.com", registrar=reg.uri()) for n in "abc"]
            results = await asyncio.wait_for(
                asyncio.gather(*(account.register() for account in accounts)), timeout=5
            )
            assert [result.code for result in results] == [200] * 3

    asyncio.run(main())


def test_an_advance_that_is_cancelled() -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock) as ep:
            account = ep.add_account(AOR, registrar=reg.uri(), expires=10)
            await asyncio.wait_for(account.register(), timeout=5)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(clock.aadvance(hours=24 * 365), timeout=0.05)
            await clock.aadvance(0)  # the one before has stopped
            stopped = clock.time()
            assert START < stopped < START + 24 * 365 * 3600
            await clock.aadvance(minutes=1)
            assert clock.time() == stopped + 60

    asyncio.run(main())


def test_ctrl_c_in_an_advance() -> None:
    process = start_program(
        """
        import pjsip_py as pjsip
        from pjsip_py.testing import Registrar, VirtualClock

        clock = VirtualClock()
        try:
            with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock) as ep:
                ep.add_account("sip:alice@example.com", registrar=reg.uri(), expires=10).register()
                print("now", flush=True)
                clock.advance(hours=24 * 365)
        except KeyboardInterrupt:
            print(ep.closed, clock.time() < 24 * 365 * 3600)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    assert finish_program(process, 20, time.monotonic()).check() == "True True\n"


def test_a_handler_cannot_move_it(stage: Stage) -> None:
    raised = []

    def on_reg_state(event: pjsip.RegState) -> None:
        for move in (stage.clock.advance, stage.clock.settle, stage.clock.next_timer):
            with pytest.raises(WouldBlockError) as caught:
                move()
            raised.append(str(caught.value))

    stage.ep.on(pjsip.RegState, on_reg_state)
    stage.account().register().result(timeout=5)
    assert raised[0] == (
        "clock.advance() from a handler would wait for that handler: call it from the test"
    )
    assert len(raised) == 3


def test_a_callback_of_the_registrar_cannot_move_it(stage: Stage) -> None:
    raised = []

    def match(request: object) -> bool:
        with pytest.raises(WouldBlockError) as caught:
            stage.clock.advance(1)
        raised.append(str(caught.value))
        return False

    stage.reg.script(Answer(404), match=match)
    stage.account().register().result(timeout=5)
    assert raised == ["clock.advance() from a callback would wait for that callback"]


def test_a_handler_that_blocks_is_named() -> None:
    clock = VirtualClock(deadline=0.3)
    go_on = threading.Event()

    def blocking(event: pjsip.RegState) -> None:
        go_on.wait(10)

    with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock) as ep:
        ep.on(pjsip.RegState, blocking)
        ep.add_account(AOR, registrar=reg.uri()).register()
        try:
            with pytest.raises(TimeoutError, match=r"blocks: blocking\(\) at .*test_clock\.py:\d+"):
                clock.advance(1)
        finally:
            go_on.set()
        clock.advance(1)


def test_closing_while_nobody_answers(black_hole: str) -> None:
    clock = VirtualClock(grace=0.01)
    with Registrar(clock=clock) as reg, pjsip.Endpoint(clock=clock) as ep:
        account = ep.add_account(AOR, registrar=reg.uri())
        account.register().result(timeout=5)
        ep.add_account("sip:bob@example.com", registrar=black_hole).register()
        reg.drop_next(times=None)
        clock.settle()
    assert ep.closed
    assert account.state == "closed"
    assert clock.time() == START  # and so nothing waited for it
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"pjsip_py-clock", "pjsip_py-events", "sip-registrar"}


def test_closed_by_a_handler(stage: Stage) -> None:
    closed = threading.Event()

    @stage.ep.on(pjsip.RegState)
    def on_reg_state(event: pjsip.RegState) -> None:
        stage.ep.close(network=False)
        closed.set()

    stage.account().register()
    stage.clock.advance(minutes=1)
    assert stage.now == 60
    assert closed.wait(5)


def test_one_clock_for_several_endpoints() -> None:
    """Time goes on, and no Call-ID comes again."""
    clock = VirtualClock(3)
    with Registrar(clock=clock) as reg:
        for n in range(3):
            with pjsip.Endpoint(clock=clock) as ep:
                account = ep.add_account(AOR, registrar=reg.uri(), expires=3600)
                account.register().result(timeout=5)
                assert since_start(reg.requests[-1].received_at) == 10 * n
                clock.advance(10)
                ep.close(network=False)
        calls = [request.call_id for request in reg.requests]
        assert len(set(calls)) == 3
        clock.advance(3575)
        assert [binding.call_id for binding in reg.bindings(AOR)] == calls[1:]
        with pjsip.Endpoint() as ep:  # and without it, time is real again
            ep.add_account(AOR, registrar=reg.uri()).register().result(timeout=5)
            with pytest.raises(ClosedError):
                clock.call_later(1, list)


def test_a_registrar_alone_runs_freely() -> None:
    clock = VirtualClock()
    with Registrar(clock=clock) as reg, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(OPTIONS % sock.getsockname()[1], reg.address())
        assert sock.recv(4000).startswith(b"SIP/2.0 200")
        clock.advance(1)
        assert clock.time() == START + 1


OPTIONS = (
    b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:%d;branch=z9hG4bK1\r\n"
    b"From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def test_others_have_their_grace(kamailio: Kamailio, user: str) -> None:
    """A server that knows nothing of the clock answers in real time, within its grace."""
    clock = VirtualClock(grace=5)  # which costs nothing where there is an answer
    with pjsip.Endpoint(clock=clock) as ep:
        events: list[pjsip.RegState] = []
        ep.on(pjsip.RegState, events.append)
        account = ep.add_account(
            f"sip:{user}@127.0.0.1",
            registrar=kamailio.uri(),
            credentials=pjsip.Credentials(user, kamailio_password()),
            expires=75,
        )
        account.register().result(timeout=5)
        clock.advance(minutes=3)
        assert [(since_start(e.time.monotonic), e.code) for e in events] == [
            (at, 200) for at in (0, 60, 120, 180)
        ]


def kamailio_password() -> str:
    from servers.kamailio import BULK_PASSWORD

    return BULK_PASSWORD


def test_a_vault_has_its_grace() -> None:
    with Stage(users={"alice": PASSWORD}) as stage:
        asked: list[float] = []

        def vault(challenge: pjsip.Challenge) -> pjsip.Credentials:
            asked.append(stage.now)
            time.sleep(0.001 * (len(asked) % 7))  # a vault's work is real
            return ALICE

        for n in range(50):
            operation = stage.account(f"sip:{n}@example.com", credentials=vault).register()
            stage.clock.advance(1)
            assert operation.result(timeout=0).code == 200
        assert stage.outcomes() == [(n, 200) for n in range(50)]
        assert asked == list(range(50))


def test_names_are_looked_up_while_it_stands() -> None:
    clock = VirtualClock()
    asked = []

    def resolver(query: pjsip.Query) -> pjsip.Resolved:
        asked.append(clock.time() - START)
        return pjsip.Resolved(["127.0.0.1"], ttl=100)

    with (
        Registrar(clock=clock) as reg,
        pjsip.Endpoint(clock=clock, resolver=resolver) as ep,
    ):
        client = ep.registration(f"sip:registrar.test:{reg.port()}", AOR)
        for _ in range(4):
            operation = client.register(auto_refresh=False)
            clock.advance(50)
            assert operation.result(timeout=0).code == 200
    assert asked == [0, 100]


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"seed": 2**64}, {"seed": "1"}, {"grace": -1}, {"deadline": 0}, {"wall": -1}],
)
def test_bad_settings(options: dict[str, Any]) -> None:
    with pytest.raises(pjsip.ConfigError, match=next(iter(options))):
        VirtualClock(**options)


def test_what_is_no_clock() -> None:
    with pytest.raises(pjsip.ConfigError, match="VirtualClock"):
        pjsip.Endpoint(clock=time)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="VirtualClock"):
        Registrar(clock=5)  # type: ignore[arg-type]


def test_real_time_cannot_be_moved() -> None:
    with pjsip.Endpoint() as ep:
        assert ep.stats()["assertions"] == 0
        with pytest.raises(pjsip.NativeError):
            _ffi.clock_turn(0)


# -- two runs ---------------------------------------------------------------------------------

A_RUN = """
import sys

import pjsip_py as pjsip
from pjsip_py.pcap import PcapWriter
from pjsip_py.testing import Answer, Registrar, VirtualClock

path, seed = sys.argv[1:]
clock = VirtualClock(int(seed))
with (
    Registrar(
        users={"alice": "Tempus"},
        nonce_lifetime=300,
        gruu=True,
        clock=clock,
    ) as reg,
    pjsip.Endpoint(clock=clock, trace=True, register_rate=5, register_burst=8) as ep,
    PcapWriter(path) as pcap,
):
    ep.on(pjsip.SipMessage, pcap.write)
    reg.script(*[Answer(503), Answer(500), Answer()] * 9, times=1)
    reg.drop_next(times=3)
    for n in range(20):
        ep.add_account(
            f"sip:{n}@example.com",
            registrar=reg.uri(),
            credentials=pjsip.Credentials("alice", "Tempus"),
            expires=60 + n % 3,
            keep_alive=15,
        ).register()
    clock.advance(minutes=10)
    reg.answer_next(503, headers={"Retry-After": "5"}, times=20)
    clock.advance(minutes=20)
    print(len(reg.requests), reg.stats().keepalives)
"""


def test_two_seeded_runs_are_the_same_to_the_byte(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> tuple[bytes, str]:
        path = tmp_path / name
        arguments = [str(path), str(seed)]
        out = run_program(A_RUN, arguments=arguments, timeout=60).check()
        return path.read_bytes(), out

    first = run("first", 11)
    assert len(first[0]) > 500_000
    assert int(first[1].split()[0]) > 700
    assert run("second", 11) == first
    assert run("third", 12)[0] != first[0]
