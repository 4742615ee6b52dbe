# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoint: its settings on the wire, events, handlers that raise, and the three ways to drive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as server:
        yield server


def register(ep: pjsip.Endpoint, registrar: Registrar) -> pjsip.RegistrationResult:
    client = ep.registration(registrar.uri(), AOR)
    result = client.register().result(5)
    client.close()
    return result


def test_what_failed_to_be_made_can_be_shown() -> None:
    """As whoever prints the variables of a traceback does."""
    one = pjsip.Endpoint.__new__(pjsip.Endpoint)
    with pytest.raises(pjsip.ConfigError):
        one.__init__(dispatch="nonsense")  # type: ignore[misc]
    assert repr(one) == "<Endpoint not open, 0 registrations>"


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_agent", [None, "", "Phone/1.0 (тест)"])
def test_the_user_agent(registrar: Registrar, user_agent: str | None) -> None:
    with pjsip.Endpoint(user_agent=user_agent) as ep:
        register(ep, registrar)
    info = pjsip.build_info()
    default = f"pjsip_py/{pjsip.__version__} PJSIP/{info['pjsip_version']}"
    expected = {None: default, "": None}.get(user_agent, user_agent)
    assert registrar.requests[-1].headers.get("User-Agent") == expected


def identifiers(registrar: Registrar, seed: int | None) -> tuple[object, ...]:
    with pjsip.Endpoint(seed=seed) as ep:
        register(ep, registrar)
    request = registrar.requests[-1]
    headers = request.headers
    return request.call_id, request.cseq, headers["From"], headers["Via"].partition("branch=")[2]


def test_a_seed_repeats_the_identifiers_and_none_never_does(registrar: Registrar) -> None:
    assert identifiers(registrar, 7) == identifiers(registrar, 7)
    fresh = [identifiers(registrar, seed) for seed in (None, None, 7, 8, 0, 2**64 - 1)]
    for i in (0, 2, 3):
        assert len({f[i] for f in fresh}) == len(fresh)
    for call_id, _, _, branch in fresh:
        assert len(str(call_id)) >= 32
        assert str(branch).startswith("z9hG4bK")


def test_the_timers_are_the_transactions_own(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    with pjsip.Endpoint(t1=0.05, t2=0.1, td=0.6) as ep:
        began = time.monotonic()
        operation = ep.registration(registrar.uri(), AOR).register()
        with pytest.raises(pjsip.RegistrationTimeout) as caught:
            operation.result(5)
        took = time.monotonic() - began
    assert 0.5 < took < 1.5
    assert (caught.value.code, caught.value.local) == (408, True)
    # Timer E: at 0.05, 0.15, then each 0.1 s (a dropped request is a new one to the registrar).
    gaps = [
        b.received_at - a.received_at
        for a, b in zip(registrar.requests, registrar.requests[1:], strict=False)
    ]
    assert 4 <= len(gaps) <= 7
    assert gaps[0] == pytest.approx(0.05, abs=0.04)
    assert gaps[2] == pytest.approx(0.1, abs=0.05)


def test_the_log_level(registrar: Registrar, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        with pjsip.Endpoint(log_level=0) as ep:
            register(ep, registrar)
        assert not [r for r in caplog.records if r.name == "pjsip"]
        with pjsip.Endpoint(log_level=5) as ep:
            register(ep, registrar)
        records = [r for r in caplog.records if r.name == "pjsip"]
    assert len(records) > 10
    assert {r.levelno for r in records} >= {logging.DEBUG}


def test_stats_count(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        before = ep.stats()
        register(ep, registrar)
        client = ep.registration(registrar.uri(), AOR)
        client.register().result(5)
        after = ep.stats()
        assert after["events_taken"] > before["events_taken"]
        assert (before["clients"], after["clients"], after["transports"]) == (0, 1, 1)
        assert (after["assertions"], after["dropped_trace"], after["late_events"]) == (0, 0, 0)
        client.close()
        assert ep.stats()["clients"] == 0
    with pytest.raises(pjsip.ClosedError):
        ep.stats()


def test_repr(registrar: Registrar) -> None:
    ep = pjsip.Endpoint()
    assert "not open" in repr(ep)
    with ep:
        ep.registration(registrar.uri(), AOR)
        assert repr(ep) == "<Endpoint open, 1 registrations>"
    assert "closed" in repr(ep)


# -- driving --------------------------------------------------------------------------------------


def test_dispatch_by_hand_with_a_selector(registrar: Registrar) -> None:
    with pjsip.Endpoint(dispatch="manual", strict=True) as ep:
        client = ep.registration(registrar.uri(), AOR)
        states: list[pjsip.RegState] = []
        client.on_reg_state(states.append)
        operation = client.register()
        deadline = time.monotonic() + 5
        rounds = 0
        while not operation.done():
            readable, _, _ = select.select([ep.fileno()], [], [], deadline - time.monotonic())
            assert readable, "the descriptor never became readable"
            assert not operation.done()  # nothing is delivered but by dispatch()
            rounds += ep.dispatch() > 0
        assert operation.result(0).code == 200
        assert [s.code for s in states] == [200]
        assert 1 <= rounds < 10
        while ep.dispatch():
            pass
        # Level-triggered and quiet when there is nothing.
        assert select.select([ep.fileno()], [], [], 0) == ([], [], [])
        assert ep.dispatch(0.01) == 0
        assert threading.active_count() < 10


def test_the_descriptor_stays_readable_until_all_is_taken(registrar: Registrar) -> None:
    with pjsip.Endpoint(dispatch="manual") as ep:
        fd = ep.fileno()
        assert ep.fileno() == fd
        ep.registration(registrar.uri(), AOR).register()
        assert select.select([fd], [], [], 5)[0]
        assert select.select([fd], [], [], 0)[0]
        ep.dispatch()


def test_waiting_dispatches_when_nobody_else_does(registrar: Registrar) -> None:
    with pjsip.Endpoint(dispatch="manual", strict=True) as ep:
        seen: list[pjsip.RegState] = []
        ep.on(pjsip.RegState, seen.append)
        stream = ep.events()
        account = ep.add_account(AOR, registrar=registrar.uri())
        assert account.register().result(5).code == 200
        assert account.wait_registered(5).code == 200
        assert isinstance(stream.get(5), pjsip.Event)
        assert [s.code for s in seen] == [200]
        with pytest.raises(TimeoutError):
            drain(stream)
        assert ep.dispatch(0) == 0


def drain(stream: pjsip.EventStream) -> None:
    while True:
        stream.get(0.05)


def dispatch_until_done(
    ep: pjsip.Endpoint, operation: pjsip.Operation[pjsip.RegistrationResult]
) -> None:
    while not operation.done():
        ep.dispatch(5)


def test_dispatch_leaves_it_to_the_thread(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    began = time.monotonic()
    assert ep.dispatch(5) == 0
    assert time.monotonic() - began < 1
    for wrong in (-1, float("nan"), "1", None):
        with pytest.raises(pjsip.ConfigError, match="timeout"):
            ep.dispatch(wrong)  # type: ignore[arg-type]


def test_dispatch_from_a_handler_does_not_recurse(registrar: Registrar) -> None:
    with pjsip.Endpoint(dispatch="manual", strict=True) as ep:
        client = ep.registration(registrar.uri(), AOR)
        depth = 0
        deepest = 0

        @client.on_reg_state
        def handler(event: pjsip.RegState) -> None:
            nonlocal depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            ep.dispatch(0.05)
            depth -= 1

        operations = [client.register() for _ in range(5)]
        assert [op.result(5).code for op in operations] == [200] * 5
        assert deepest == 1


def test_the_loop_delivers_on_its_own_thread(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            threads: list[int] = []
            ep.on(pjsip.RegState, lambda e: threads.append(threading.get_ident()))
            before = threading.active_count()
            await ep.registration(registrar.uri(), AOR).register()
            assert threads == [threading.get_ident()]
            assert threading.active_count() == before
            assert ep.dispatch(1) == 0

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_thread_of_ours_delivers_under_with(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    names: list[str] = []
    ep.on(pjsip.RegState, lambda e: names.append(threading.current_thread().name))
    register(ep, registrar)
    assert names == ["pjsip_py-events"]


# -- events ---------------------------------------------------------------------------------------


def test_events_come_in_order_and_end_with_the_endpoint(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True) as ep:
        stream = ep.events()
        client = ep.registration(registrar.uri(), AOR)
        own = client.events()
        client.register().result(5)
        client.unregister().result(5)
        client.close()
    assert [type(e).__name__ for e in own] == ["RegStarted", "RegState"] * 2
    events = list(stream)
    assert [type(e).__name__ for e in events] == ["TransportState", *["RegStarted", "RegState"] * 2]
    numbered = [e.seq for e in events if e.seq]
    assert numbered == sorted(set(numbered))
    times = [e.time.monotonic for e in events]
    assert times == sorted(times)
    assert all(abs(e.time.wall - time.time()) < 60 for e in events)
    with pytest.raises(pjsip.ClosedError):
        stream.get(1)


def test_a_stream_can_be_closed_while_somebody_waits(ep: pjsip.Endpoint) -> None:
    stream = ep.events()
    ended: list[object] = []
    thread = threading.Thread(target=lambda: ended.extend([list(stream), "end"]))
    thread.start()
    stream.close()
    thread.join(5)
    assert ended == [[], "end"]
    stream.close()
    with ep.events() as other, pytest.raises(TimeoutError, match=r"0.01 s"):
        other.get(0.01)
    with pytest.raises(pjsip.ClosedError):
        other.get()


def test_a_stream_outside_the_loop(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            stream = ep.events()
            client = ep.registration(registrar.uri(), AOR)
            with pytest.raises(pjsip.WouldBlockError):
                stream.get(1)
            operation = client.register()
            codes = []
            async for event in stream:
                if isinstance(event, pjsip.RegState):
                    codes.append(event.code)
                    if len(codes) == 3:
                        break
                    client.register()
            assert codes == [200] * 3
            assert (await operation).code == 200
            stream.close()
            assert [e async for e in stream] == []
            waiting = asyncio.ensure_future(anext(ep.events()))
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await waiting

    asyncio.run(asyncio.wait_for(main(), 10))


def test_handlers_by_class(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    everything: list[pjsip.Event] = []
    states: list[pjsip.RegState] = []
    ep.on(pjsip.Event, everything.append)

    @ep.on(pjsip.RegState)
    def handler(event: pjsip.RegState) -> None:
        states.append(event)

    register(ep, registrar)
    assert [s.code for s in states] == [200]
    assert states[0] in everything
    assert {type(e) for e in everything} >= {pjsip.TransportState, pjsip.RegStarted}
    wrong: Any
    for wrong in (int, "RegState", None, type):
        with pytest.raises(pjsip.ConfigError, match="class of pjsip_py events"):
            ep.on(wrong, print)
    for wrong in (5, "handler"):
        with pytest.raises(pjsip.ConfigError, match="callable"):
            ep.on(pjsip.RegState, wrong)


def test_handlers_outlive_a_reopen(registrar: Registrar) -> None:
    ep = pjsip.Endpoint(strict=True)
    kinds: list[type] = []
    ep.on(pjsip.Event, lambda e: kinds.append(type(e)))
    for _ in range(2):
        with ep:
            register(ep, registrar)
    assert kinds.count(pjsip.RegState) == 2
    assert kinds.count(pjsip.RegStarted) == 2


def test_a_handler_may_do_anything_but_wait(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    """New clients, requests, closes: all from inside."""
    client = ep.registration(registrar.uri(), AOR)
    second: list[pjsip.Operation[pjsip.RegistrationResult]] = []

    @client.on_reg_state
    def handler(event: pjsip.RegState) -> None:
        ep.listen("tcp", "127.0.0.1").close()
        other = ep.registration(registrar.uri(), "sip:bob@example.com")
        other.info()
        ep.stats()
        second.append(other.register())
        client.close()

    assert client.register().result(5).code == 200
    assert second[0].result(5).code == 200
    assert client.closed


# -- handlers that raise --------------------------------------------------------------------------


def test_an_exception_in_a_handler_is_kept_and_told(
    registrar: Registrar, caplog: pytest.LogCaptureFixture
) -> None:
    with pjsip.Endpoint() as ep:
        failures: list[pjsip.CallbackFailed] = []
        after: list[pjsip.RegState] = []
        ep.on(pjsip.CallbackFailed, failures.append)
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(lambda e: 1 / 0)
        client.on_reg_state(after.append)
        assert client.register().result(5).code == 200  # the outcome is not lost by it
        assert client.register().result(5).code == 200
        assert len(after) == 2
        assert [type(f.exception) for f in failures] == [ZeroDivisionError] * 2
        assert failures[0].event is after[0]
        assert failures[0].handler is client._handlers[0]
        assert list(ep.callback_errors) == failures
        assert failures[0].exception.__traceback__ is not None
    assert "ZeroDivisionError" in caplog.text
    assert {r.levelno for r in caplog.records if "handler" in r.getMessage()} == {logging.ERROR}


def test_a_handler_that_raises_for_callback_failed_ends_there(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        calls = 0

        @ep.on(pjsip.Event)
        def broken(event: pjsip.Event) -> None:
            nonlocal calls
            calls += 1
            raise RuntimeError("always")

        register(ep, registrar)
        count = calls
        assert 4 <= count < 20
        assert len(ep.callback_errors) == count
        register(ep, registrar)
        assert len(ep.callback_errors) > count


def test_the_errors_kept_are_bounded(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(lambda e: 1 / 0)
        for operation in [client.register() for _ in range(150)]:
            operation.result(10)
        assert len(ep.callback_errors) == 100


def fail(event: pjsip.Event) -> None:
    raise KeyError("missing")


def broken_client(ep: pjsip.Endpoint, registrar: Registrar) -> pjsip.RegistrationClient:
    client = ep.registration(registrar.uri(), AOR)
    client.on_reg_state(fail)
    client.register().result(5)
    return client


def test_strict_raises_from_the_next_call(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True) as ep:
        client = broken_client(ep, registrar)
        with pytest.raises(KeyError, match="missing"):
            client.register()
        client.register().result(5)  # once for each failure
        with pytest.raises(KeyError):
            ep.listen("udp", "127.0.0.1")
        assert ep.listen("udp", "127.0.0.1").port
        assert len(ep.callback_errors) == 2


def test_strict_raises_from_close(registrar: Registrar) -> None:
    ep = pjsip.Endpoint(strict=True)
    with pytest.raises(KeyError, match="missing"), ep:
        broken_client(ep, registrar)
    assert ep.closed
    with pjsip.Endpoint(strict=True) as another:  # nothing is left open
        register(another, registrar)


def test_strict_does_not_hide_an_exception_of_the_body(registrar: Registrar) -> None:
    def body() -> None:
        with pjsip.Endpoint(strict=True) as ep:
            broken_client(ep, registrar)
            raise ValueError("the body's")

    with pytest.raises((ValueError, KeyError)) as caught:
        body()
    error: BaseException | None = caught.value
    chain = []
    while error is not None:
        chain.append(type(error))
        error = error.__context__
    assert ValueError in chain


def test_strict_raises_from_dispatch(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True, dispatch="manual") as ep:
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(fail)
        operation = client.register()
        with pytest.raises(KeyError, match="missing"):
            dispatch_until_done(ep, operation)


def test_strict_raises_from_aclose_and_from_async_handlers(registrar: Registrar) -> None:
    async def handler(event: pjsip.RegState) -> None:
        await asyncio.sleep(0)
        raise KeyError("missing")

    async def main() -> None:
        ep = pjsip.Endpoint(strict=True)
        await ep.__aenter__()
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(handler)
        await client.register()
        await asyncio.sleep(0.02)
        assert len(ep.callback_errors) == 1
        with pytest.raises(KeyError, match="missing"):
            await ep.aclose()
        assert ep.closed

    asyncio.run(asyncio.wait_for(main(), 10))


def test_async_handlers_run_on_the_loop(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = ep.registration(registrar.uri(), AOR)
            done = asyncio.Event()
            codes: list[int] = []

            @client.on_reg_state
            async def handler(event: pjsip.RegState) -> None:
                codes.append(event.code)
                if len(codes) < 3:
                    codes.append((await client.register()).code)
                else:
                    done.set()

            await client.register()
            await asyncio.wait_for(done.wait(), 5)
            assert set(codes) == {200}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_async_handler_still_running_at_close_is_no_leak(registrar: Registrar) -> None:
    """Its task ends, or is cancelled; nothing warns that it was destroyed pending."""

    async def main() -> list[str]:
        ended: list[str] = []
        async with pjsip.Endpoint(strict=True) as ep:
            client = ep.registration(registrar.uri(), AOR)

            @client.on_reg_state
            async def handler(event: pjsip.RegState) -> None:
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.append("ended")

            await client.register()
            await asyncio.sleep(0)
        return ended

    began = time.monotonic()
    asyncio.run(asyncio.wait_for(main(), 10))
    assert time.monotonic() - began < 8


def test_an_async_handler_without_a_loop_is_told(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        client = ep.registration(registrar.uri(), AOR)

        @client.on_reg_state
        async def handler(event: pjsip.RegState) -> None: ...

        assert client.register().result(5).code == 200
        assert isinstance(ep.callback_errors[0].exception, pjsip.ConfigError)
        assert "async with" in str(ep.callback_errors[0].exception)


def test_a_handler_that_ends_its_thread_is_no_end(registrar: Registrar) -> None:
    """SystemExit and KeyboardInterrupt in a handler must not stop the delivery for good."""
    with pjsip.Endpoint() as ep:
        client = ep.registration(registrar.uri(), AOR)

        def leave(event: pjsip.RegState) -> None:
            client._handlers = ()
            raise SystemExit(1)

        client.on_reg_state(leave)
        assert client.register().result(5).code == 200
        assert client.register().result(5).code == 200


def test_retransmissions_are_counted() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(0)
        registrar = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        with pjsip.Endpoint(t1=0.02, t2=0.04) as ep:
            client = ep.registration(registrar, "sip:alice@example.com")
            with pytest.raises(pjsip.RegistrationTimeout):
                client.register(timeout=0.5).result(5)
            counted = ep.stats()["retransmissions"]
        received = 0
        with contextlib.suppress(BlockingIOError):
            while silent.recv(4096).startswith(b"REGISTER "):
                received += 1
    assert counted == received - 1 >= 2
