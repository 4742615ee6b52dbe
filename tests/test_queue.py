# SPDX-License-Identifier: GPL-3.0-or-later
"""The event queue: trace and log are bounded and counted, outcomes never lost, order kept."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as server:
        yield server


def answered(registrar: Registrar, count: int) -> None:
    """Until the registrar has answered *count* requests."""
    deadline = time.monotonic() + 10
    while registrar.stats().responses.get(200, 0) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_trace_is_dropped_and_counted_and_outcomes_are_not(registrar: Registrar) -> None:
    """Nobody takes events while 200 requests run; all outcomes are there afterwards."""
    with pjsip.Endpoint(
        dispatch="manual", strict=True, trace=True, trace_limit=20_000, log_level=5
    ) as ep:
        messages: list[pjsip.SipMessage] = []
        dropped: list[pjsip.EventsDropped] = []
        states: list[pjsip.RegState] = []
        ep.on(pjsip.SipMessage, messages.append)
        ep.on(pjsip.EventsDropped, dropped.append)
        ep.on(pjsip.RegState, states.append)
        clients = [ep.registration(registrar.uri(), AOR) for _ in range(200)]
        operations = [client.register() for client in clients]
        answered(registrar, 200)
        for operation in operations:
            assert operation.result(10).code == 200
        while ep.dispatch():
            pass
        stats = ep.stats()
        assert len(states) == 200
        assert 0 < len(messages) < 400
        lost = sum(event.trace for event in dropped)
        assert len(messages) + lost == 400
        assert stats["dropped_trace"] == lost
        assert stats["dropped_log"] == sum(event.log for event in dropped) > 0
        assert all(event.count == event.trace + event.log > 0 for event in dropped)
        assert stats["events_queued"] == stats["events_taken"]
        sequence = [e.seq for e in (*messages, *dropped, *states)]
        assert len(set(sequence)) == len(sequence)


def test_nothing_is_dropped_while_somebody_takes(registrar: Registrar) -> None:
    with pjsip.Endpoint(trace=True, strict=True) as ep:
        kinds: dict[type, int] = {}

        @ep.on(pjsip.Event)
        def count(event: pjsip.Event) -> None:
            kinds[type(event)] = kinds.get(type(event), 0) + 1

        for operation in [ep.registration(registrar.uri(), AOR).register() for _ in range(200)]:
            operation.result(10)
        assert ep.stats()["dropped_trace"] == 0
    assert kinds[pjsip.SipMessage] == 400
    assert kinds[pjsip.RegState] == 200
    assert kinds[pjsip.RegStarted] == 200
    assert pjsip.EventsDropped not in kinds


def test_no_trace_may_wait_at_all(registrar: Registrar) -> None:
    with pjsip.Endpoint(trace=True, trace_limit=0, log_level=5, strict=True) as ep:
        assert ep.registration(registrar.uri(), AOR).register().result(5).code == 200
        assert ep.stats()["dropped_trace"] == 2


def test_the_order_is_the_workers(registrar: Registrar) -> None:
    with pjsip.Endpoint(trace=True, strict=True) as ep:
        stream = ep.events()
        client = ep.registration(registrar.uri(), AOR)
        for _ in range(5):
            client.register().result(5)
        client.close()
        stream.close()
        events = [e for e in stream if e.seq]
    kinds = [
        f"{type(e).__name__} {e.direction}" if isinstance(e, pjsip.SipMessage) else type(e).__name__
        for e in events
    ]
    assert kinds == ["RegStarted", "SipMessage tx", "SipMessage rx", "RegState"] * 5
    sequence = [e.seq for e in events]
    assert sequence == sorted(set(sequence))
    times = [e.time.monotonic for e in events]
    assert times == sorted(times)


def test_refreshes_nobody_reads_are_merged(registrar: Registrar) -> None:
    """Past the budget a newer refresh stands for the older ones, and says for how many."""
    with pjsip.Endpoint(dispatch="manual", strict=True, event_limit=4096) as ep:
        states: list[pjsip.RegState] = []
        ep.on(pjsip.RegState, states.append)
        clients = [
            ep.registration(registrar.uri(), f"sip:u{i}@example.com", expires=1) for i in range(8)
        ]
        for client in clients:
            client.register().result(5)
        states.clear()
        # Three refreshes of each, at most a second apart, without a look at the queue.
        deadline = time.monotonic() + 10
        while True:
            answers = Counter(r.aor for r in registrar.requests if r.answered)
            if len(answers) == 8 and min(answers.values()) >= 4:
                break
            assert time.monotonic() < deadline, answers
            time.sleep(0.02)
        seen: Counter[object] = Counter()
        while len(seen) < 8 or min(seen.values()) < 3:  # an answer is soon here, not yet
            assert time.monotonic() < deadline, seen
            ep.dispatch(0.05)
            seen = Counter()
            for state in states:
                seen[state.client] += 1 + state.merged
        assert ep.stats()["outcomes_merged"] > 0
        assert all(s.renewal and s.code == 200 for s in states)
        assert sum(s.merged for s in states) == ep.stats()["outcomes_merged"]
        # Outcomes of requests are never merged.
        operations = [client.register() for client in clients for _ in range(5)]
        assert [o.result(5).code for o in operations] == [200] * 40


def test_events_of_a_closed_client_are_not_delivered(registrar: Registrar) -> None:
    with pjsip.Endpoint(dispatch="manual", strict=True) as ep:
        states: list[pjsip.RegState] = []
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(states.append)
        operation = client.register()
        answered(registrar, 1)
        client.close()
        while ep.dispatch(0.05):
            pass
        assert states == []
        assert isinstance(operation.exception(0), pjsip.ClosedError)
        other = ep.registration(registrar.uri(), AOR)
        assert other.register().result(5).code == 200
        assert ep.stats()["late_events"] >= 1


def test_a_record_larger_than_the_buffer_is_taken(registrar: Registrar) -> None:
    """More in one batch than one buffer holds."""
    with pjsip.Endpoint(dispatch="manual", strict=True) as ep:
        clients = [
            ep.registration(registrar.uri(), AOR, headers={"X": "y" * 3000}) for _ in range(100)
        ]
        registrar.answer_next(200, headers={"X-Long": "z" * 3000}, times=None)
        operations = [client.register() for client in clients]
        answered(registrar, 100)
        assert {len(o.result(5).response.headers["X-Long"]) for o in operations} == {3000}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/statm (Linux)")
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="needs a build without -Db_sanitize, which keeps freed memory",
)
def test_memory_stays_level_when_nobody_listens(registrar: Registrar) -> None:
    """A program that stops dispatching does not grow by its trace and log."""

    def resident() -> int:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    with pjsip.Endpoint(
        dispatch="manual", strict=True, trace=True, log_level=5, trace_limit=100_000
    ) as ep:
        client = ep.registration(registrar.uri(), AOR, headers={"X-Padding": "p" * 2000})
        total = 0
        sizes = []
        for _ in range(4):
            operations = [client.register() for _ in range(200)]
            total += 200
            answered(registrar, total)
            for operation in operations:
                operation.result(5)
            sizes.append(resident())
        assert ep.stats()["dropped_trace"] > 100
        # The registrar's own list of requests grows in this process: 5 kB each at most.
        assert sizes[-1] - sizes[0] < 600 * 6000, sizes
