# SPDX-License-Identifier: GPL-3.0-or-later
"""Names to targets: the resolver's threads and its hook, and DNS as RFC 3263 has it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from programs import run_program
from servers.dns import DnsServer

import pjsip_py as pjsip
from pjsip_py import _hooks, _resolve
from pjsip_py import dns as dns_module
from pjsip_py._resolve import Query, Resolved, Resolver, Target
from pjsip_py.dns import Dns
from pjsip_py.errors import PJ_ERESOLVE, ConfigError, ResolveError
from pjsip_py.testing import Registrar

NAME = "example.com"
Found = tuple[list[Target], str]


class Waiter:
    """A callback, and what it was called with."""

    def __init__(self, resolver: Resolver, query: Query) -> None:
        self._calls: queue.Queue[Found] = queue.Queue()
        resolver.find(query, lambda targets, reason: self._calls.put((targets, reason)))

    def result(self, timeout: float = 10.0) -> Found:
        return self._calls.get(timeout=timeout)

    def waits(self) -> bool:
        return self._calls.empty()


def find(resolver: Resolver, query: Query | str) -> Found:
    return Waiter(resolver, Query(query) if isinstance(query, str) else query).result()


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "pjsip_py-resolver"]


def join_all() -> None:
    for thread in threads():
        thread.join(10)
    assert not threads()


class StuckHook:
    """Names take until they are released; only then the hook returns."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.began: queue.Queue[str] = queue.Queue()
        self.calls: Counter[str] = Counter()

    def __call__(self, query: Query) -> list[Target]:
        self.calls[query.host] += 1
        if query.host.startswith("stuck"):
            self.began.put(query.host)
            assert self.release.wait(20)
        return [Target("192.0.2.1")]


@pytest.fixture
def stuck() -> Iterator[StuckHook]:
    hook = StuckHook()
    yield hook
    hook.release.set()
    join_all()


# -- the system -----------------------------------------------------------------------------------


def test_without_a_hook_the_system_is_asked() -> None:
    targets, reason = find(Resolver(), Query("localhost", 5070, "tcp"))
    assert (reason, targets[0].port, targets[0].protocol) == ("", 5070, "tcp")
    assert targets[0].address in ("127.0.0.1", "::1")


def test_an_unknown_name_has_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    targets, reason = find(Resolver(), "unknown-name.invalid")
    assert targets == []
    assert reason.startswith("host name 'unknown-name.invalid' cannot be resolved: ")
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("pjsip_py", "WARNING", reason)
    ]


@pytest.mark.parametrize("host", ["a" * 70 + ".invalid", "a..b", "\ud800.invalid", "x\0y", ""])
def test_a_name_that_cannot_be_one_is_unknown(host: str) -> None:
    targets, reason = find(Resolver(), host)
    assert targets == []
    assert "cannot be resolved" in reason


def test_the_answer_of_the_system_lives_for_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def query(host: str) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"]

    monkeypatch.setattr(_resolve, "query", query)
    now = [1000.0]
    resolver = Resolver(now=lambda: now[0])
    for now[0], times in ((1000.0, 1), (1004.9, 1), (1005.1, 2)):
        assert find(resolver, NAME) == ([Target("192.0.2.1")], "")
        assert len(asked) == times
    resolver.forget()
    assert find(resolver, NAME) == ([Target("192.0.2.1")], "")
    assert len(asked) == 3


def test_an_address_needs_no_answer() -> None:
    def hook(query: Query) -> list[Target]:
        raise AssertionError(query)

    for host in ("192.0.2.7", "2001:db8::7"):
        targets, reason = find(Resolver(hook), Query(host, 5062, "tls"))
        assert (targets, reason) == ([Target(host, 5062, "tls")], "")


# -- the hook -------------------------------------------------------------------------------------


def test_a_hook_says_where_to_go() -> None:
    asked = []

    def hook(query: Query) -> list[Target | str]:
        asked.append(query)
        return [Target("192.0.2.1", 5070, "tcp"), "fe80::1%lo", Target("192.0.2.1", 5070, "tcp")]

    query = Query(NAME, 5062)
    targets, reason = find(Resolver(hook), query)
    assert asked == [query]
    assert targets == [Target("192.0.2.1", 5070, "tcp"), Target("fe80::1", 5062, "")]
    assert reason == ""


@pytest.mark.parametrize(
    "returned", ["192.0.2.1", Target("192.0.2.1"), {"192.0.2.1": 1}, iter(["192.0.2.1"])]
)
def test_a_hook_may_return_what_comes_easily(returned: Any) -> None:
    assert find(Resolver(lambda query: returned), NAME) == ([Target("192.0.2.1")], "")


def test_a_secure_uri_goes_over_tls_only() -> None:
    resolver = Resolver(lambda query: [Target("192.0.2.1")])
    assert find(resolver, Query(NAME, secure=True))[0] == [Target("192.0.2.1", 0, "tls")]
    for protocol in ("udp", "tcp"):
        target = Target("192.0.2.1", 0, protocol)
        wrong = Resolver(lambda query, target=target: [target])  # type: ignore[misc]
        for query in (Query(NAME, secure=True), Query(NAME, 0, "tls")):
            targets, reason = find(wrong, query)
            assert targets == []
            assert f"the URI asks for tls, not {protocol}" in reason


class Unpleasant:
    def __iter__(self) -> Iterator[Target]:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([], "no address"),
        (Unpleasant(), "RuntimeError: no"),
        (["not an address"], "not an address"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["192.0.2.1\r\nX: y"], "does not appear"),
        ([b"192.0.2.1"], "is no target"),
        ([3221225985], "is no target"),
        ([("192.0.2.1", 5060)], "is no target"),
        ([Target(3221225985)], "is no target"),  # type: ignore[arg-type]
        ([Target("192.0.2.1", 65536)], "port must be 0 to 65535"),
        ([Target("192.0.2.1", -1)], "port must be 0 to 65535"),
        ([Target("192.0.2.1", "5060")], "port must be an int"),  # type: ignore[arg-type]
        ([Target("192.0.2.1", 0, "sctp")], "protocol must be udp, tcp or tls"),
        ([Target("192.0.2.1", 0, None)], "protocol must be udp"),  # type: ignore[arg-type]
        (Resolved(["192.0.2.1"], -1), "ttl must be"),
        (Resolved(["192.0.2.1"], float("nan")), "ttl must be"),
        (Resolved(["192.0.2.1"], "60"), "ttl must be"),  # type: ignore[arg-type]
        (Resolved(None), "NoneType"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_nonsense_from_a_hook_is_an_unknown_name(
    returned: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    targets, reason = find(Resolver(lambda query: returned), NAME)
    assert targets == []
    assert said in reason
    assert NAME in reason
    (record,) = caplog.records
    assert (record.name, record.message) == ("pjsip_py", reason)


@pytest.mark.parametrize(
    "error", [KeyError("x"), SystemExit(3), KeyboardInterrupt(), ResolveError("nobody knows")]
)
def test_what_a_hook_raises_is_an_unknown_name(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(query: Query) -> list[Target]:
        raise error

    targets, reason = find(Resolver(hook), NAME)
    assert targets == []
    assert f"host name '{NAME}' cannot be resolved: " in reason
    assert ("nobody knows" if isinstance(error, ResolveError) else type(error).__name__) in reason
    (record,) = caplog.records
    assert record.message == reason
    traced = record.exc_info is not None and record.exc_info[1] is error
    assert traced != isinstance(error, ResolveError)


def test_a_long_reason_is_cut() -> None:
    _, reason = find(Resolver(lambda query: ["x" * 100_000]), NAME)
    assert len(reason) < 400


def test_ten_thousand_targets_are_thirty_two(caplog: pytest.LogCaptureFixture) -> None:
    drawn = []

    def hook(query: Query) -> Iterator[str]:
        for number in range(10_000):
            drawn.append(number)
            yield f"192.0.{number // 250}.{number % 250}"

    targets, reason = find(Resolver(hook), NAME)
    assert (len(targets), reason) == (32, "")
    assert len(drawn) == 33
    assert "only the first 32 targets" in caplog.text


def test_a_hook_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="resolver must be callable, not str"):
        Resolver("192.0.2.1")  # type: ignore[arg-type]


def test_an_answer_lives_as_long_as_it_says() -> None:
    asked = []

    def hook(query: Query) -> Resolved:
        asked.append(query)
        return Resolved([Target("192.0.2.1")], {"short": 30, "long": 10**9, "none": 0}[query.host])

    now = [0.0]
    resolver = Resolver(hook, now=lambda: now[0])

    def times_asked(host: str, when: float) -> int:
        now[0] = when
        assert find(resolver, host) == ([Target("192.0.2.1")], "")
        return sum(query.host == host for query in asked)

    assert [times_asked("short", at) for at in (0, 29.9, 30.1)] == [1, 1, 2]
    assert [times_asked("none", at) for at in (40, 40, 40)] == [1, 2, 3]
    assert [times_asked("long", at) for at in (50, 86_449, 86_451)] == [1, 1, 2]
    assert find(resolver, Query("long", 5070))[0] == [Target("192.0.2.1", 5070)]  # another query


def test_an_unknown_name_is_asked_again() -> None:
    answers = [[], ["192.0.2.1"]]
    resolver = Resolver(lambda query: Resolved(answers.pop(0), 60))
    assert find(resolver, NAME)[0] == []
    assert find(resolver, NAME)[0] == [Target("192.0.2.1")]


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_resolve, "MAX_CACHED", 3)
    resolver = Resolver(lambda query: Resolved(["192.0.2.1"], 60))
    for number in range(10):
        find(resolver, f"name{number}")
    assert len(resolver._cache) <= 3


def test_a_caller_may_change_its_list() -> None:
    resolver = Resolver(lambda query: Resolved(["192.0.2.1"], 60))
    find(resolver, NAME)[0].clear()
    find(resolver, NAME)[0].clear()
    assert find(resolver, NAME)[0] == [Target("192.0.2.1")]


def test_a_callback_that_fails_holds_up_nobody(
    stuck: StuckHook, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(targets: list[Target], reason: str) -> None:
        raise RuntimeError("in the callback")

    resolver = Resolver(stuck)
    query = Query("stuck")
    resolver.find(query, fails)
    other = Waiter(resolver, query)
    stuck.release.set()
    assert other.result() == ([Target("192.0.2.1")], "")
    assert "in the callback" in caplog.text


# -- slow names -----------------------------------------------------------------------------------


def test_one_lookup_is_shared(stuck: StuckHook) -> None:
    resolver = Resolver(stuck)
    waiters = [Waiter(resolver, Query("stuck")) for _ in range(50)]
    stuck.began.get(timeout=10)
    stuck.release.set()
    assert [w.result() for w in waiters] == [([Target("192.0.2.1")], "")] * 50
    assert stuck.calls == {"stuck": 1}


def test_forty_stuck_names_hold_up_no_other(stuck: StuckHook) -> None:
    resolver = Resolver(stuck)
    waiters = [Waiter(resolver, Query(f"stuck{n}")) for n in range(40)]
    assert {stuck.began.get(timeout=10) for _ in waiters} == {f"stuck{n}" for n in range(40)}
    assert Waiter(resolver, Query("quick")).result(5) == ([Target("192.0.2.1")], "")
    assert all(w.waits() for w in waiters)
    stuck.release.set()
    assert all(w.result() == ([Target("192.0.2.1")], "") for w in waiters)


def test_threads_are_bounded_and_end(stuck: StuckHook) -> None:
    resolver = Resolver(stuck)
    waiters = [Waiter(resolver, Query(f"stuck{n}")) for n in range(_hooks.MAX_THREADS + 50)]
    for _ in range(_hooks.MAX_THREADS):
        stuck.began.get(timeout=10)
    assert len(threads()) == _hooks.MAX_THREADS
    assert all(thread.daemon for thread in threads())
    stuck.release.set()
    assert all(w.result() == ([Target("192.0.2.1")], "") for w in waiters)
    join_all()
    assert find(resolver, "quick") == ([Target("192.0.2.1")], "")


def test_a_thread_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = StuckHook()
    resolver = Resolver(hook)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        targets, reason = find(resolver, NAME)
    assert (targets, "no thread" in reason) == ([], True)
    assert find(resolver, "another")[0] == [Target("192.0.2.1")]
    assert find(resolver, NAME)[0] == [Target("192.0.2.1")]
    assert hook.calls == {"another": 1, NAME: 1}


# -- coroutines -----------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def on(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, Any]], Future[Any]]:
    return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)


def test_a_coroutine_runs_on_the_loop_there_is(loop: asyncio.AbstractEventLoop) -> None:
    seen = []

    async def hook(query: Query) -> Resolved:
        seen.append(asyncio.get_running_loop())
        return Resolved([Target("192.0.2.1")], 60)

    resolver = Resolver(hook, on(loop))
    assert find(resolver, NAME) == ([Target("192.0.2.1")], "")
    assert find(resolver, NAME) == ([Target("192.0.2.1")], "")
    assert seen == [loop]


def test_a_coroutine_runs_without_a_loop() -> None:
    seen = []

    async def hook(query: Query) -> list[Target]:
        await asyncio.sleep(0)
        seen.append(threading.current_thread().name)
        return [Target("192.0.2.1")]

    for run in (None, lambda coroutine: None):
        assert find(Resolver(hook, run), NAME) == ([Target("192.0.2.1")], "")
    assert seen == ["pjsip_py-resolver"] * 2


def test_stuck_coroutines_take_no_thread(loop: asyncio.AbstractEventLoop) -> None:
    release = asyncio.Event()
    began: queue.Queue[str] = queue.Queue()

    async def hook(query: Query) -> list[Target]:
        began.put(query.host)
        if query.host != "quick":
            await release.wait()
        return [Target("192.0.2.1")]

    resolver = Resolver(hook, on(loop))
    waiters = [Waiter(resolver, Query(f"stuck{n}")) for n in range(300)]
    for _ in waiters:
        began.get(timeout=10)
    join_all()
    assert find(resolver, "quick") == ([Target("192.0.2.1")], "")
    assert all(w.waits() for w in waiters)
    loop.call_soon_threadsafe(release.set)
    assert all(w.result() == ([Target("192.0.2.1")], "") for w in waiters)


def test_what_a_coroutine_raises_is_an_unknown_name(loop: asyncio.AbstractEventLoop) -> None:
    async def hook(query: Query) -> list[Target]:
        raise asyncio.CancelledError if query.host == "cancelled" else KeyError("in vain")

    for run in (None, on(loop)):
        assert "KeyError: 'in vain'" in find(Resolver(hook, run), NAME)[1]
        assert "CancelledError" in find(Resolver(hook, run), "cancelled")[1]


def test_a_loop_that_has_closed_is_told() -> None:
    loop = asyncio.new_event_loop()
    loop.close()

    async def answer() -> list[Target]:
        return [Target("192.0.2.1")]

    coroutine = answer()
    assert "closed" in find(Resolver(lambda query: coroutine, on(loop)), NAME)[1]
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_any_awaitable_will_do() -> None:
    class Later:
        def __await__(self) -> Generator[Any, Any, list[str]]:
            yield from asyncio.sleep(0).__await__()
            return ["192.0.2.1"]

    def hook(query: Query) -> Any:
        return Later()

    assert find(Resolver(hook), NAME)[0] == [Target("192.0.2.1")]


# -- RFC 3263 -------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.add(NAME, "A", "192.0.2.80")
        yield server


def ask(server: DnsServer, query: Query | str = NAME, **options: Any) -> list[Target]:
    dns = Dns(["127.0.0.1"], port=server.port, **{"seed": 1, **options})
    return list(dns(Query(query) if isinstance(query, str) else query).targets)  # type: ignore[arg-type]


def add_srv(server: DnsServer, service: str, *hosts: str, port: int = 5070) -> None:
    """An SRV record per host, in this order of priority, and addresses."""
    data = [f"{place} 0 {port} {host}." for place, host in enumerate(hosts, 1)]
    server.add(service, "SRV", *data)
    for place, host in enumerate(hosts, 1):
        server.add(host, "A", f"192.0.2.{place}")


def test_an_address_is_its_own_target(server: DnsServer) -> None:
    assert ask(server, "192.0.2.9") == [Target("192.0.2.9", 0, "udp")]
    assert ask(server, Query("2001:db8::9", 5062, "tcp")) == [Target("2001:db8::9", 5062, "tcp")]
    assert ask(server, Query("192.0.2.9", secure=True)) == [Target("192.0.2.9", 0, "tls")]
    assert server.questions == []


@pytest.mark.parametrize(
    ("query", "protocol"),
    [
        (Query(NAME, 5062), "udp"),
        (Query(NAME, 5062, "tcp"), "tcp"),
        (Query(NAME, 5062, secure=True), "tls"),
        (Query(NAME, 5062, "tcp", True), "tls"),
    ],
)
def test_a_port_asks_for_addresses_alone(server: DnsServer, query: Query, protocol: str) -> None:
    server.add(NAME, "AAAA", "2001:db8::80")
    add_srv(server, f"_sip._udp.{NAME}", "a.example.com")
    assert ask(server, query) == [
        Target("192.0.2.80", 5062, protocol),
        Target("2001:db8::80", 5062, protocol),
    ]
    assert server.questions == [(NAME, "A"), (NAME, "AAAA")]


@pytest.mark.parametrize(
    ("query", "service", "protocol"),
    [
        (Query(NAME, 0, "udp"), "_sip._udp", "udp"),
        (Query(NAME, 0, "tcp"), "_sip._tcp", "tcp"),
        (Query(NAME, 0, "tls"), "_sips._tcp", "tls"),
        (Query(NAME, 0, "tcp", True), "_sips._tcp", "tls"),
    ],
)
def test_a_protocol_asks_for_its_services(
    server: DnsServer, query: Query, service: str, protocol: str
) -> None:
    server.add(NAME, "NAPTR", '1 1 "s" "SIP+D2U" "" _sip._udp.other.example.')
    add_srv(server, f"{service}.{NAME}", "a.example.com", "b.example.com")
    assert ask(server, query) == [
        Target("192.0.2.1", 5070, protocol),
        Target("192.0.2.2", 5070, protocol),
    ]
    assert server.questions[0] == (f"{service}.{NAME}", "SRV")
    assert (NAME, "NAPTR") not in server.questions


def add_three_naptr(server: DnsServer) -> None:
    """The example of RFC 3263 §4.1, with TCP before UDP by preference alone."""
    server.add(
        NAME,
        "NAPTR",
        '90 60 "s" "SIP+D2U" "" _sip._udp.u.example.',
        '90 50 "S" "sip+d2t" "" _sip._tcp.t.example.',
        '50 50 "s" "SIPS+D2T" "" _sips._tcp.s.example.',
    )
    add_srv(server, "_sip._udp.u.example", "u1.example")
    server.add("u1.example", "A", "192.0.2.11")
    add_srv(server, "_sip._tcp.t.example", "t1.example")
    server.add("t1.example", "A", "192.0.2.12")
    add_srv(server, "_sips._tcp.s.example", "s1.example", port=5071)
    server.add("s1.example", "A", "192.0.2.13")


def test_naptr_records_are_taken_in_their_order(server: DnsServer) -> None:
    add_three_naptr(server)
    assert ask(server) == [
        Target("192.0.2.13", 5071, "tls"),
        Target("192.0.2.12", 5070, "tcp"),
        Target("192.0.2.11", 5070, "udp"),
    ]


def test_a_secure_uri_takes_secure_services_only(server: DnsServer) -> None:
    add_three_naptr(server)
    assert ask(server, Query(NAME, secure=True)) == [Target("192.0.2.13", 5071, "tls")]
    server.remove(NAME, "NAPTR")
    assert ask(server, Query(NAME, secure=True)) == [Target("192.0.2.80", 0, "tls")]
    assert [q for q in server.questions if q[1] == "SRV"][-1] == (f"_sips._tcp.{NAME}", "SRV")


@pytest.mark.parametrize(
    "record",
    [
        '1 1 "a" "SIP+D2U" "" other.example.',
        '1 1 "s" "SIP+D2S" "" _sip._sctp.other.example.',
        '1 1 "s" "E2U+sip" "" _sip._udp.other.example.',
        '1 1 "s" "SIP+D2U" "!.*!x!" _sip._udp.other.example.',
        '1 1 "s" "SIP+D2U" "" .',
        r'1 1 "\000" "\255\000" "" _sip._udp.other.example.',
    ],
)
def test_a_naptr_record_of_another_kind_does_not_count(server: DnsServer, record: str) -> None:
    server.add(NAME, "NAPTR", record)
    add_srv(server, "_sip._udp.other.example", "wrong.example", port=5099)
    add_srv(server, f"_sip._udp.{NAME}", "a.example.com")
    assert ask(server) == [Target("192.0.2.1", 5070, "udp")]


def test_without_naptr_the_services_are_tried(server: DnsServer) -> None:
    add_srv(server, f"_sip._tcp.{NAME}", "a.example.com")
    assert ask(server) == [Target("192.0.2.1", 5070, "tcp")]
    add_srv(server, f"_sip._udp.{NAME}", "u.example.com", port=5080)
    assert ask(server) == [Target("192.0.2.1", 5080, "udp"), Target("192.0.2.1", 5070, "tcp")]


def test_a_service_without_servers_leaves_its_protocol(server: DnsServer) -> None:
    """RFC 3263 §4.2: the name itself, over the transport protocol selected before."""
    server.add(NAME, "NAPTR", '1 1 "s" "SIPS+D2T" "" _sips._tcp.none.example.')
    assert ask(server) == [Target("192.0.2.80", 0, "tls")]


@pytest.mark.parametrize(
    ("query", "protocol"),
    [
        (Query(NAME), "udp"),
        (Query(NAME, 0, "tcp"), "tcp"),
        (Query(NAME, 0, "tls"), "tls"),
        (Query(NAME, secure=True), "tls"),
    ],
)
def test_without_services_the_name_itself_is_meant(
    server: DnsServer, query: Query, protocol: str
) -> None:
    assert ask(server, query) == [Target("192.0.2.80", 0, protocol)]


def test_lower_priorities_come_first(server: DnsServer) -> None:
    hosts = [f"h{n}.example.com" for n in range(1, 9)]
    add_srv(server, f"_sip._udp.{NAME}", *hosts)
    for seed in range(20):
        targets = ask(server, Query(NAME, 0, "udp"), seed=seed)
        assert [t.address for t in targets] == [f"192.0.2.{n}" for n in range(1, 9)]


def first_choices(server: DnsServer, weights: dict[str, int], times: int) -> Counter[str]:
    for place, name in enumerate(weights):
        server.add(f"{name}.example.com", "A", f"192.0.2.{place}")
    records = [f"1 {weight} 5060 {name}.example.com." for name, weight in weights.items()]
    server.add(f"_sip._udp.{NAME}", "SRV", *records)
    names = {f"192.0.2.{place}": name for place, name in enumerate(weights)}
    dns = Dns(["127.0.0.1"], port=server.port, seed=7)
    found = [list(dns(Query(NAME, 0, "udp")).targets) for _ in range(times)]
    assert all(len(targets) == len(weights) for targets in found)
    return Counter(names[targets[0].address] for targets in found)  # type: ignore[union-attr]


def test_weights_are_respected(server: DnsServer) -> None:
    """RFC 2782. Of 400 draws with 3/4, 300 are expected; six standard deviations are 52."""
    chosen = first_choices(server, {"heavy": 60, "light": 20, "never": 0}, 400)
    assert abs(chosen["heavy"] - 300) < 52
    assert chosen["never"] < 20  # one in 81, as the RFC has it


def test_a_weight_of_0_has_the_chance_that_the_rfc_gives_it(server: DnsServer) -> None:
    """RFC 2782: beside a weight of 1, of the numbers 0 and 1 one is its."""
    assert abs(first_choices(server, {"none": 0, "one": 1}, 300)["none"] - 150) < 52


def test_equal_servers_without_weights_share(server: DnsServer) -> None:
    chosen = first_choices(server, {"a": 0, "b": 0, "c": 0}, 300)
    assert all(abs(chosen[name] - 100) < 49 for name in "abc")


def test_a_seed_makes_the_choice_repeatable(server: DnsServer) -> None:
    hosts = [f"h{n}" for n in range(8)]
    first_choices(server, dict.fromkeys(hosts, 10), 1)
    query = Query(NAME, 0, "udp")
    orders = [tuple(ask(server, query, seed=seed)) for seed in (1, 1, 2, 3, None)]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 2


@pytest.mark.parametrize("protocol", ["udp", ""])
def test_a_service_that_is_not_offered_is_not_tried(server: DnsServer, protocol: str) -> None:
    server.add(f"_sip._udp.{NAME}", "SRV", "0 0 0 .")
    with pytest.raises(ResolveError, match=rf"_sip\._udp\.{NAME} is not offered") as caught:
        ask(server, Query(NAME, 0, protocol))
    assert caught.value.status == PJ_ERESOLVE
    add_srv(server, f"_sip._tcp.{NAME}", "a.example.com")
    if not protocol:
        assert ask(server) == [Target("192.0.2.1", 5070, "tcp")]


def test_a_host_with_two_ports_is_asked_for_once(server: DnsServer) -> None:
    server.add(f"_sip._udp.{NAME}", "SRV", f"1 0 5060 {NAME}.", f"2 0 5070 {NAME}.")
    targets = ask(server, Query(NAME, 0, "udp"))
    assert targets == [Target("192.0.2.80", port, "udp") for port in (5060, 5070)]
    assert server.questions.count((NAME, "A")) == 1


def test_ipv6_may_come_first(server: DnsServer) -> None:
    server.add(NAME, "AAAA", "2001:db8::80", "2001:db8::81")
    both = [t.address for t in ask(server, Query(NAME, 5060), ipv6_first=True)]
    assert sorted(both[:2]) == ["2001:db8::80", "2001:db8::81"]
    assert both[2:] == ["192.0.2.80"]
    server.remove(NAME, "A")
    assert sorted(t.address for t in ask(server)) == ["2001:db8::80", "2001:db8::81"]


def test_an_alias_is_followed(server: DnsServer) -> None:
    server.add("alias.example.com", "CNAME", f"{NAME}.")
    assert ask(server, "alias.example.com") == [Target("192.0.2.80", 0, "udp")]


def test_aliases_in_a_circle_end(server: DnsServer) -> None:
    server.add("a.example.org", "CNAME", "b.example.org.")
    server.add("b.example.org", "CNAME", "a.example.org.")
    with pytest.raises(ResolveError, match=r"a\.example\.org"):
        ask(server, "a.example.org", timeout=0.3, lifetime=2)
    assert len(server.questions) < 20


def test_the_smallest_lifetime_counts(server: DnsServer) -> None:
    server.add(NAME, "NAPTR", '1 1 "s" "SIP+D2U" "" _sip._udp.example.com.', ttl=300)
    server.add(f"_sip._udp.{NAME}", "SRV", "1 1 5060 a.example.com.", ttl=200)
    server.add("a.example.com", "A", "192.0.2.1", ttl=100)
    dns = Dns(["127.0.0.1"], port=server.port)
    assert dns(Query(NAME)).ttl == 100
    server.add(NAME, "NAPTR", '1 1 "s" "SIP+D2U" "" _sip._udp.example.com.', ttl=50)
    assert dns(Query(NAME)).ttl == 50


def test_the_resolver_remembers_for_that_long(server: DnsServer) -> None:
    server.add(NAME, "A", "192.0.2.80", ttl=100)
    now = [0.0]
    resolver = Resolver(Dns(["127.0.0.1"], port=server.port), now=lambda: now[0])
    counts = []
    for now[0] in (0.0, 99.0, 101.0):
        assert find(resolver, Query(NAME, 5060)) == ([Target("192.0.2.80", 5060, "udp")], "")
        counts.append(server.questions.count((NAME, "A")))
    assert counts == [1, 1, 2]


# -- what goes wrong ------------------------------------------------------------------------------


def reason_of(server: DnsServer, query: Query | str = NAME, **options: Any) -> str:
    """What the resolver calls back with, logged as a warning."""
    dns = Dns(["127.0.0.1"], port=server.port, **options)
    targets, reason = find(Resolver(dns), query)
    assert targets == []
    return reason


def test_the_reason_tells_apart_what_went_wrong(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("text.example.com", "TXT", "nothing else")
    server.refuse("broken.example.com", "A", "AAAA")
    server.refuse("closed.example.com", "A", "AAAA", rcode="REFUSED")
    server.be_silent("silent.example.com", "A", "AAAA")
    said = {
        "gone.example.com": "gone.example.com does not exist (NXDOMAIN)",
        "text.example.com": "text.example.com has no address",
        "broken.example.com": "SERVFAIL for A broken.example.com; "
        "SERVFAIL for AAAA broken.example.com",
        "closed.example.com": "REFUSED for A closed.example.com; "
        "REFUSED for AAAA closed.example.com",
        "silent.example.com": "no answer in time about A silent.example.com; "
        "no answer in time about AAAA silent.example.com",
    }
    for host, why in said.items():
        reason = reason_of(server, Query(host, 5060), timeout=0.2)
        assert reason == f"host name '{host}' cannot be resolved: {why}"
        assert (caplog.records[-1].levelno, caplog.records[-1].message) == (logging.WARNING, reason)
    assert len(caplog.records) == len(said)
    assert ("gone.example.com", "AAAA") not in server.questions  # no such name at all


def test_a_lost_question_is_sent_again(server: DnsServer) -> None:
    server.be_silent(NAME, "A")
    reason_of(server, Query(NAME, 5060), timeout=0.2)
    assert server.questions.count((NAME, "A")) >= 2


def test_the_second_name_server_is_asked(server: DnsServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.2", server.port))
        dns = Dns(["127.0.0.2", "127.0.0.1"], port=server.port, timeout=0.6)
        assert next(iter(dns(Query(NAME, 5060)).targets)) == Target("192.0.2.80", 5060, "udp")


def test_services_that_cannot_be_asked_for_are_not_passed_over(server: DnsServer) -> None:
    """The addresses of the domain itself may be those of its web server."""
    server.refuse(f"_sip._udp.{NAME}", "SRV")
    reason = reason_of(server, Query(NAME, 0, "udp"))
    assert reason.endswith(f"SERVFAIL for SRV _sip._udp.{NAME}")


def test_a_name_server_that_knows_no_naptr_does_no_harm(server: DnsServer) -> None:
    server.refuse(NAME, "NAPTR", rcode="NOTIMP")
    add_srv(server, f"_sip._udp.{NAME}", "a.example.com")
    assert ask(server) == [Target("192.0.2.1", 5070, "udp")]


def test_an_unknown_server_among_others_is_left_out(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pjsip_py")
    add_srv(server, f"_sip._udp.{NAME}", "a.example.com", "b.example.com", "c.example.com")
    server.remove("b.example.com", "A")
    addresses = [t.address for t in ask(server, Query(NAME, 0, "udp"))]
    assert addresses == ["192.0.2.1", "192.0.2.3"]
    assert "b.example.com does not exist (NXDOMAIN)" in caplog.text


def test_a_server_that_is_missing_delays_the_answer_little(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answer is kept for a short time only: the missing one may come back."""
    monkeypatch.setattr(dns_module, "GRACE", 0.2)
    hosts = [f"h{n}.example.com" for n in range(10)]
    add_srv(server, f"_sip._udp.{NAME}", *hosts)
    for host in hosts[1:]:
        server.be_silent(host, "A", "AAAA")
    found = Dns(["127.0.0.1"], port=server.port, timeout=30, lifetime=60)(Query(NAME, 0, "udp"))
    assert found == Resolved([Target("192.0.2.1", 5070, "udp")], _resolve.CACHE_SECONDS)


def test_all_questions_together_have_a_lifetime(server: DnsServer) -> None:
    """No name server at all: every question would wait its time-out."""
    for kind, name in [("NAPTR", NAME), ("SRV", f"_sip._udp.{NAME}"), ("SRV", f"_sip._tcp.{NAME}")]:
        server.be_silent(name, kind)
    reason = reason_of(server, timeout=30, lifetime=0.4)
    assert "no answer in time about NAPTR example.com" in reason
    assert server.questions == [(NAME, "NAPTR")] * len(server.questions)


def test_a_name_in_dns_that_is_stuck_holds_up_no_other(server: DnsServer) -> None:
    server.add("stuck.example.com", "A", "192.0.2.9")
    server.hold("stuck.example.com")
    resolver = Resolver(Dns(["127.0.0.1"], port=server.port, timeout=30, lifetime=30))
    waiter = Waiter(resolver, Query("stuck.example.com", 5060))
    server.wait_for("stuck.example.com")
    assert Waiter(resolver, Query(NAME, 5060)).result(5)[0] == [Target("192.0.2.80", 5060, "udp")]
    assert waiter.waits()
    server.release("stuck.example.com")
    assert waiter.result()[0] == [Target("192.0.2.9", 5060, "udp")]


# -- hostile answers ------------------------------------------------------------------------------


def test_a_hundred_naptr_records_are_eight(server: DnsServer) -> None:
    records = [f'{n} 1 "s" "SIP+D2U" "" _sip._udp.d{n}.example.' for n in range(100)]
    server.add(NAME, "NAPTR", *records)
    assert ask(server) == [Target("192.0.2.80", 0, "udp")]
    assert server.over_tcp == 1  # they do not fit in a datagram
    services = [name for name, kind in server.questions if kind == "SRV"]
    assert services == [f"_sip._udp.d{n}.example" for n in range(8)]


def test_a_thousand_services_are_bounded(server: DnsServer) -> None:
    names = [f"h{n}.example.com" for n in range(1000)]
    server.add(f"_sip._udp.{NAME}", "SRV", *(f"{n} 0 5060 {x}." for n, x in enumerate(names)))
    for name in names[:40]:
        server.add(name, "A", *(f"192.0.2.{n}" for n in range(10)))
    assert len(ask(server, Query(NAME, 0, "udp"))) == 10  # the others are the same
    asked = {name for name, kind in server.questions if kind == "A"}
    assert asked == set(names[:16])


def test_targets_are_bounded(server: DnsServer) -> None:
    server.add(NAME, "A", *(f"192.0.2.{n}" for n in range(200)))
    targets = ask(server, Query(NAME, 5060))
    assert len(targets) == len(set(targets)) == 32


def test_questions_are_bounded(server: DnsServer) -> None:
    records = [f'{n} 1 "s" "SIP+D2U" "" _sip._udp.d{n}.example.' for n in range(8)]
    server.add(NAME, "NAPTR", *records)
    for n in range(8):
        hosts = [f"1 1 5060 h{m}.d{n}.example." for m in range(16)]
        server.add(f"_sip._udp.d{n}.example", "SRV", *hosts)
    with pytest.raises(ResolveError):
        ask(server)
    assert len(set(server.questions)) == dns_module.MAX_QUESTIONS


@pytest.mark.parametrize(
    "target",
    [
        r"a\000\010\013b.example.",
        r"\"quoted\".example.",
        ".".join([r"\000" * 60] * 4) + ".",
        r"a\.b\\c.example.",
        "xn--bcher-kva.example.",
    ],
)
def test_an_odd_name_of_a_server_is_only_a_question(server: DnsServer, target: str) -> None:
    server.add(f"_sip._udp.{NAME}", "SRV", f"1 1 5060 {target}")
    query = Query(NAME, 0, "udp")
    with pytest.raises(ResolveError) as caught:
        ask(server, query)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 300
    server.add(target, "A", "192.0.2.1")
    assert ask(server, query) == [Target("192.0.2.1", 5060, "udp")]


def test_port_0_is_no_port(server: DnsServer) -> None:
    server.add(f"_sip._udp.{NAME}", "SRV", f"1 1 0 {NAME}.")
    with pytest.raises(ResolveError, match="has port 0"):
        ask(server, Query(NAME, 0, "udp"))


def test_junk_before_the_answer_is_passed_over(server: DnsServer) -> None:
    server.send_junk(NAME, b"\xff" * 40)
    assert ask(server, Query(NAME, 5060)) == [Target("192.0.2.80", 5060, "udp")]


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "a" * 64 + ".example", ".".join(["a" * 60] * 5), "\ud800.example"]
)
def test_no_name_is_told(server: DnsServer, host: str) -> None:
    with pytest.raises(ResolveError, match="cannot be resolved"):
        ask(server, host)
    assert server.questions == []


def test_a_name_too_long_for_services_has_addresses(server: DnsServer) -> None:
    host = ".".join(["a" * 62] * 4)  # 253 bytes, and _sip._udp does not fit before it
    server.add(host, "A", "192.0.2.1")
    assert ask(server, host) == [Target("192.0.2.1", 0, "udp")]


def test_an_international_name(server: DnsServer) -> None:
    server.add("xn--bcher-kva.example", "A", "192.0.2.1")
    assert ask(server, Query("bücher.example", 5060)) == [Target("192.0.2.1", 5060, "udp")]


# -- an endpoint ----------------------------------------------------------------------------------

AOR = f"sip:alice@{NAME}"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(("udp", "tcp")) as registrar:
        yield registrar


def test_an_account_follows_naptr_and_srv_to_its_registrar(
    server: DnsServer, registrar: Registrar
) -> None:
    """Each request goes there, over TCP, though the services of the domain itself differ."""
    server.add(NAME, "NAPTR", '1 1 "s" "SIP+D2T" "" _sip._tcp.provider.example.')
    server.add("_sip._tcp.provider.example", "SRV", f"1 1 {registrar.port('tcp')} r.example.")
    server.add("r.example", "A", "127.0.0.1")
    server.add(f"_sip._tcp.{NAME}", "SRV", "0 0 0 .")
    dns = Dns(["127.0.0.1"], port=server.port)
    with pjsip.Endpoint(resolver=dns, strict=True) as ep:
        account = ep.add_account(AOR)
        for _ in range(2):
            assert account.register().result(10).code == 200
    assert {(r.uri, r.protocol) for r in registrar.requests} == {(f"sip:{NAME}", "tcp")}


def test_an_account_learns_why_a_name_is_unknown(server: DnsServer) -> None:
    dns = Dns(["127.0.0.1"], port=server.port)
    with pjsip.Endpoint(resolver=dns, strict=True) as ep:
        account = ep.add_account("sip:alice@gone.example.com", retry=None)
        with pytest.raises(ResolveError) as caught:
            account.register().result(10)
    assert caught.value.reason == (
        "host name 'gone.example.com' cannot be resolved: "
        "gone.example.com does not exist (NXDOMAIN)"
    )


def test_an_account_whose_name_is_stuck_holds_up_no_other(registrar: Registrar) -> None:
    release = threading.Event()

    def hook(query: Query) -> list[Target]:
        assert query.host == NAME or release.wait(20)
        return [Target("127.0.0.1", registrar.port("udp"))]

    with pjsip.Endpoint(resolver=hook, strict=True) as ep:
        others = [ep.add_account(f"sip:alice@stuck{n}.example").register() for n in range(40)]
        assert ep.add_account(AOR).register().result(5).code == 200
        assert not any(operation.done() for operation in others)
        release.set()
        assert [operation.result(10).code for operation in others] == [200] * 40


async def register_by_coroutine(port: int) -> bool:
    seen = set()

    async def hook(query: Query) -> list[Target]:
        seen.add(asyncio.get_running_loop())
        return [Target("127.0.0.1", port)]

    async with pjsip.Endpoint(resolver=hook, strict=True) as ep:
        assert (await ep.add_account(AOR).register()).code == 200
    return seen == {asyncio.get_running_loop()}


def test_a_coroutine_runs_on_the_loop_of_the_endpoint(registrar: Registrar) -> None:
    assert asyncio.run(register_by_coroutine(registrar.port("udp")))


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"nameservers": "127.0.0.1"}, "nameservers"),
        ({"nameservers": []}, "nameservers"),
        ({"nameservers": ["not an address"]}, "nameservers"),
        ({"nameservers": [7]}, "nameservers"),
        ({"port": 0}, "port"),
        ({"timeout": 0}, "timeout"),
        ({"lifetime": "10"}, "lifetime"),
    ],
)
def test_settings_are_checked(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Dns(**arguments)


def test_a_system_without_name_servers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dns.resolver

    dns_of_the_system = Dns()

    read = dns.resolver.Resolver.read_resolv_conf
    monkeypatch.setattr(
        dns.resolver.Resolver,
        "read_resolv_conf",
        lambda self, f: read(self, str(tmp_path / "resolv.conf")),
    )
    with pytest.raises(ResolveError, match=r"'example\.com' cannot be resolved.*resolv\.conf"):
        dns_of_the_system(Query(NAME))


def test_dns_is_an_extra() -> None:
    out = run_program(
        """
        import sys
        import pjsip_py
        print([name for name in sys.modules if name.split(".")[0] == "dns"])
        sys.modules["dns"] = None
        try:
            import pjsip_py.dns
        except ImportError as error:
            print(error)
        """
    ).check()
    assert out.splitlines() == [
        "[]",
        "pjsip_py.dns needs dnspython: pip install 'pjsip-py[dns]'",
    ]
