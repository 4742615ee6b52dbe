# SPDX-License-Identifier: GPL-3.0-or-later
"""Operation: blocking, awaiting, cancelling, and never losing a failure."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py import _ffi
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as server:
        yield server


@pytest.fixture
def client(ep: pjsip.Endpoint, registrar: Registrar) -> pjsip.RegistrationClient:
    return ep.registration(registrar.uri(), AOR)


def test_a_result_is_given_again_and_again(client: pjsip.RegistrationClient) -> None:
    operation = client.register()
    result = operation.result(5)
    assert operation.result() is result
    assert operation.exception() is None
    assert (operation.done(), operation.cancelled(), operation.cancel()) == (True, False, False)
    assert "register" in repr(operation)
    assert "done" in repr(operation)


def test_a_failure_is_raised_again_and_again(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    registrar.answer_next(404)
    operation = client.register()
    for _ in range(3):
        with pytest.raises(pjsip.NotFoundError, match="404 Not Found"):
            operation.result(5)
    error = operation.exception()
    assert isinstance(error, pjsip.NotFoundError)
    assert len(str(error.__traceback__)) < 1000


def test_a_timeout_leaves_the_request_alone(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    registrar.delay_next(0.3)
    operation = client.register()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="goes on") as caught:
        operation.result(timeout=0.05)
    assert 0.03 < time.monotonic() - began < 0.25
    assert not isinstance(caught.value, pjsip.PjsipError)
    with pytest.raises(TimeoutError):
        operation.exception(timeout=0)
    assert "pending" in repr(operation)
    assert operation.result(timeout=5).code == 200


def test_several_threads_may_wait(client: pjsip.RegistrationClient, registrar: Registrar) -> None:
    registrar.delay_next(0.2)
    operation = client.register()
    results: list[pjsip.RegistrationResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(operation.result(5))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [r.code for r in results] == [200] * 8


def test_waiting_in_a_handler_is_refused(
    client: pjsip.RegistrationClient, ep: pjsip.Endpoint
) -> None:
    seen: list[object] = []

    @client.on_reg_state
    def handler(event: pjsip.RegState) -> None:
        again = client.register()
        try:
            seen.append(again.result(5))
        except pjsip.WouldBlockError as error:
            seen.append(error)
        client._handlers = ()
        again.add_done_callback(lambda op: seen.append(op.result().code))
        done.append(again)

    done: list[pjsip.Operation[pjsip.RegistrationResult]] = []
    client.register().result(5)
    assert done[0].result(5).code == 200
    client.register().result(5)  # so that the callback has run
    assert isinstance(seen[0], pjsip.WouldBlockError)
    assert "add_done_callback" in str(seen[0])
    assert seen[1] == 200


def test_done_callbacks(
    client: pjsip.RegistrationClient, registrar: Registrar, caplog: pytest.LogCaptureFixture
) -> None:
    """What one raises is logged, whether it is called now or later, as with Python's futures."""
    calls: list[object] = []
    registrar.delay_next(0.1)
    operation = client.register()
    operation.add_done_callback(calls.append)
    operation.add_done_callback(lambda op: 1 / 0)
    operation.add_done_callback(calls.append)
    operation.result(5)
    client.register().result(5)
    operation.add_done_callback(calls.append)  # at once
    operation.add_done_callback(lambda op: 1 / 0)
    assert calls == [operation] * 3
    assert caplog.text.count("a done callback of register sip:alice@example.com failed") == 2
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.filterwarnings("error")
def test_a_failure_that_nobody_asked_for_is_logged_once(
    client: pjsip.RegistrationClient, registrar: Registrar, caplog: pytest.LogCaptureFixture
) -> None:
    registrar.answer_next(403, times=2)
    asked = client.register()
    client.register()
    client.register().result(5)
    assert isinstance(asked.exception(), pjsip.ForbiddenError)
    del asked
    gc.collect()
    lines = [r for r in caplog.records if "nobody asked" in r.getMessage()]
    assert len(lines) == 1
    assert (lines[0].name, lines[0].levelno) == ("pjsip_py", logging.WARNING)
    assert "403 Forbidden" in lines[0].getMessage()


# -- cancelling -----------------------------------------------------------------------------------


def test_cancelling_in_flight_ends_it_and_the_client_works_on(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    registrar.drop_next()
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    operation = client.register()
    registrar.wait_for(1)
    began = time.monotonic()
    assert operation.cancel()
    with pytest.raises(CancelledError):
        operation.result(5)
    assert time.monotonic() - began < 1
    assert (operation.done(), operation.cancelled()) == (True, True)
    with pytest.raises(CancelledError):
        operation.exception()
    assert not operation.cancel()
    assert client.register().result(5).code == 200
    assert [s.code for s in states if s.error is None] == [200]
    assert len(states) <= 2


def test_cancelling_what_waits_sends_nothing(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    registrar.delay_next(0.3)
    first, second, third = client.register(), client.unregister(), client.register()
    registrar.wait_for(1)
    assert second.cancel()
    with pytest.raises(CancelledError):
        second.result(5)
    assert not first.done()
    assert (first.result(5).code, third.result(5).code) == (200, 200)
    assert [r.expires for r in registrar.requests] == [300, 300]


def test_cancelling_before_the_name_is_known(ep: pjsip.Endpoint) -> None:
    operation = ep.registration("sip:cancelled.invalid", AOR).register()
    operation.cancel()
    with pytest.raises((CancelledError, pjsip.ResolveError)):
        operation.result(5)


def test_an_answer_may_be_faster_than_a_cancellation(
    ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    outcomes = set()
    for i in range(50):
        client = ep.registration(registrar.uri(), AOR)
        states: list[pjsip.RegState] = []
        client.on_reg_state(states.append)
        operation = client.register()
        if i % 2:
            registrar.wait_for(lambda r: r.answered is not None, timeout=5)
        operation.cancel()
        try:
            outcomes.add(operation.result(5).code)
        except CancelledError:
            outcomes.add(0)
        assert operation.done()
        assert client.register().result(5).code == 200
        assert len(states) == 2
        client.close()
    assert outcomes <= {0, 200}


# -- awaiting -------------------------------------------------------------------------------------


def test_awaiting(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = ep.registration(registrar.uri(), AOR)
            operation = client.register()
            result = await operation
            assert result.code == 200
            assert await operation is result
            registrar.answer_next(500)
            failing = client.register()
            for _ in range(2):
                with pytest.raises(pjsip.ServerError):
                    await failing
            with pytest.raises(pjsip.WouldBlockError):
                client.register().result(1)
            many = [client.register() for _ in range(10)]
            assert [r.code for r in await asyncio.gather(*many)] == [200] * 10

    asyncio.run(asyncio.wait_for(main(), 15))


def test_awaiting_twice_at_once_and_from_a_thread_driven_endpoint(registrar: Registrar) -> None:
    async def main(ep: pjsip.Endpoint) -> None:
        registrar.delay_next(0.1)
        operation = ep.registration(registrar.uri(), AOR).register()

        async def wait() -> int:
            return (await operation).code

        assert await asyncio.gather(wait(), wait(), asyncio.to_thread(operation.result, 5))

    with pjsip.Endpoint(strict=True) as ep:
        asyncio.run(asyncio.wait_for(main(ep), 10))


def test_awaiting_in_another_loop(registrar: Registrar) -> None:
    """An endpoint of one loop, awaited in the loop of another thread."""

    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = ep.registration(registrar.uri(), AOR)
            registrar.delay_next(0.05)
            operation = client.register()

            async def elsewhere() -> int:
                return (await operation).code

            assert await asyncio.to_thread(asyncio.run, elsewhere()) == 200
            assert (await asyncio.to_thread(client.register().result, 5)).code == 200

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_cancelled_task_cancels_its_operation(registrar: Registrar) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            registrar.drop_next()
            client = ep.registration(registrar.uri(), AOR)
            operation = client.register()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(operation, 0.1)
            with pytest.raises(asyncio.CancelledError):
                await operation
            assert operation.cancelled()
            assert (await client.register()).code == 200

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_operation_outlives_its_endpoint(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    with pjsip.Endpoint(strict=True) as ep:
        operation = ep.registration(registrar.uri(), AOR).register()
        waiting: list[BaseException | None] = []
        thread = threading.Thread(target=lambda: waiting.append(operation.exception(10)))
        thread.start()
        registrar.wait_for(1)
    thread.join(5)
    assert isinstance(waiting[0], pjsip.ClosedError)
    with pytest.raises(pjsip.ClosedError):
        operation.result()


def test_an_operation_outlives_its_loop(registrar: Registrar) -> None:
    async def main() -> pjsip.Operation[pjsip.RegistrationResult]:
        async with pjsip.Endpoint(strict=True) as ep:
            registrar.script(Answer(drop="request"))
            return ep.registration(registrar.uri(), AOR).register()

    operation = asyncio.run(asyncio.wait_for(main(), 10))
    with pytest.raises(pjsip.ClosedError):
        operation.result(1)


# -- requests of one client -----------------------------------------------------------------------


def test_requests_run_in_order_with_one_outcome_each(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    registrar.delay_next(0.05, times=3)
    states: list[pjsip.RegState] = []
    client.on_reg_state(states.append)
    finished: list[str] = []
    operations = []
    for i in range(12):
        kind = ("register", "unregister", "unregister_all")[i % 3]
        operation = getattr(client, kind)()
        operation.add_done_callback(lambda op, n=f"{i} {kind}": finished.append(n))
        operations.append(operation)
    results = [operation.result(5) for operation in operations]
    assert [r.code for r in results] == [200] * 12
    assert [r.expires for r in results] == [300, 0, 0] * 4
    assert [s.is_unregister for s in states] == [False, True, True] * 4
    kinds = ["register", "unregister", "unregister_all"] * 4
    assert finished == [f"{i} {kind}" for i, kind in enumerate(kinds)]
    assert [r.contact_values == ["*"] for r in registrar.requests] == [False, False, True] * 4
    assert [r.cseq for r in registrar.requests] == list(
        range(registrar.requests[0].cseq, registrar.requests[0].cseq + 12)
    )
    assert len({r.call_id for r in registrar.requests}) == 1
    assert client.info()["waiting"] == 0


def test_a_request_waits_for_a_refresh_under_way(
    client: pjsip.RegistrationClient, registrar: Registrar
) -> None:
    renewals: list[pjsip.RegState] = []
    client.on_reg_state(lambda e: renewals.append(e) if e.renewal else None)
    client.update_expires(1)
    client.register().result(5)
    registrar.delay_next(0.4)
    registrar.wait_for(2, timeout=5)  # the refresh is with the registrar, and no answer is
    assert client.info()["busy"]
    assert client.unregister().result(5).expires == 0
    assert [e.code for e in renewals] == [200]
    assert [r.expires for r in registrar.requests] == [1, 1, 0]


def test_the_order_holds_while_the_name_is_being_resolved(
    ep: pjsip.Endpoint, registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests made before and after the moment the address is known leave in their order."""
    handing_over = threading.Event()
    into_c = _ffi.client_request

    def slowly(*args: Any, **options: Any) -> None:
        if not handing_over.is_set():  # the first of all requests is about to enter C
            handing_over.set()
            time.sleep(0.1)
        into_c(*args, **options)

    monkeypatch.setattr(_ffi, "client_request", slowly)
    ep.listen("udp", "127.0.0.1")
    client = ep.registration(f"sip:localhost:{registrar.port()}", AOR)
    first = client.register()
    assert handing_over.wait(5)
    second = client.unregister()
    first.result(5)
    second.result(5)
    assert [r.expires for r in registrar.requests] == [300, 0]
