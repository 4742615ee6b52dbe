# SPDX-License-Identifier: GPL-3.0-or-later
"""Open, close, open again; forks, signals and exits; threads; nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from programs import finish_program, run_program, start_program

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(40)

AOR = "sip:alice@example.com"
PASSWORD = "Birth-to-death-1032"


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as server:
        yield server


@pytest.fixture
def silent() -> Iterator[str]:
    """The URI of a registrar that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        yield f"sip:127.0.0.1:{s.getsockname()[1]}"


def register(ep: pjsip.Endpoint, registrar: Registrar) -> None:
    client = ep.registration(registrar.uri(), AOR)
    assert client.register().result(5).code == 200


# -- open and close -------------------------------------------------------------------------------


def test_one_object_opens_and_closes_again_and_again(registrar: Registrar) -> None:
    ep = pjsip.Endpoint(strict=True)
    assert not ep.closed
    for _ in range(3):
        with ep:
            assert not ep.closed
            register(ep, registrar)
        assert ep.closed
        ep.open()
        register(ep, registrar)
        ep.close()
        ep.close()
        assert ep.closed


def test_new_objects_one_after_the_other_in_all_three_ways(registrar: Registrar) -> None:
    async def in_a_loop() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            client = ep.registration(registrar.uri(), AOR)
            assert (await client.register()).code == 200

    for _ in range(3):
        with pjsip.Endpoint(strict=True) as ep:
            register(ep, registrar)
        asyncio.run(asyncio.wait_for(in_a_loop(), 10))
        with pjsip.Endpoint(strict=True, dispatch="manual") as ep:
            register(ep, registrar)


@pytest.mark.parametrize(
    "use",
    [
        lambda ep: ep.listen("udp", "127.0.0.1"),
        lambda ep: ep.registration("sip:127.0.0.1", AOR),
        lambda ep: ep.add_account(AOR),
        lambda ep: ep.stats(),
        lambda ep: ep.fileno(),
        lambda ep: ep.dispatch(),
        lambda ep: ep.trace(),
    ],
)
def test_the_first_use_opens(use: Callable[[pjsip.Endpoint], object]) -> None:
    ep = pjsip.Endpoint(strict=True)
    use(ep)
    with pytest.raises(pjsip.EndpointBusyError):
        pjsip.Endpoint()
    ep.close()
    with pytest.raises(pjsip.ClosedError, match="open"):
        use(ep)


def test_a_second_endpoint_is_busy(registrar: Registrar) -> None:
    second = pjsip.Endpoint()
    with pjsip.Endpoint() as first:
        for call in (
            pjsip.Endpoint,
            second.open,
            second.__enter__,
            lambda: second.listen("udp", "127.0.0.1"),
            lambda: asyncio.run(second.__aenter__()),
        ):
            with pytest.raises(pjsip.EndpointBusyError, match="close it first"):
                call()
        assert not second.closed
        second.close()  # it was never open
        register(first, registrar)
    with second:
        register(second, registrar)


def test_a_configuration_error_opens_nothing() -> None:
    with pytest.raises(pjsip.ConfigError):
        pjsip.Endpoint(worker_tick=0)
    with pytest.raises(pjsip.ConfigError):
        pjsip.Endpoint(nonsense=1)
    pjsip.Endpoint().open().close()


def test_the_port_is_free_after_close() -> None:
    with pjsip.Endpoint() as ep:
        ports = {p: ep.listen(p, "127.0.0.1").port for p in ("udp", "tcp", "tls")}
    with pjsip.Endpoint() as ep:
        for protocol, port in ports.items():
            assert ep.listen(protocol, "127.0.0.1", port).port == port


def test_everything_of_a_closed_endpoint_is_closed(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        transport = ep.listen("udp", "127.0.0.1")
        client = ep.registration(registrar.uri(), AOR)
        account = ep.add_account(AOR, registrar=registrar.uri())
        client.register().result(5)
        account.register().result(5)
    calls: list[Callable[[], object]] = [
        client.register,
        client.unregister,
        client.unregister_all,
        client.fetch_bindings,
        client.info,
        client.events,
        lambda: client.update_expires(60),
        lambda: client.update_contacts("sip:a@127.0.0.1"),
        lambda: client.set_credentials(pjsip.Credentials("a", "Sesame-1865")),
        account.register,
        account.unregister,
        account.events,
        lambda: account.wait_registered(1),
        lambda: ep.registration(registrar.uri(), AOR),
        lambda: ep.add_account(AOR),
        lambda: ep.listen("udp", "127.0.0.1"),
        ep.fileno,
        ep.dispatch,
        ep.stats,
        ep.trace,
    ]
    for call in calls:
        with pytest.raises(pjsip.ClosedError):
            call()
    for close in (client.close, account.close, transport.close, ep.close):
        close()
        close()
    assert (client.closed, account.closed, transport.closed, ep.closed) == (True,) * 4
    assert (ep.transports, ep.accounts) == ((), ())
    with pjsip.Endpoint() as another:  # the old handles reach nothing of it
        register(another, registrar)
        client.close()
        transport.close()
        with pytest.raises(pjsip.ClosedError):
            client.register()
        register(another, registrar)


# -- close ----------------------------------------------------------------------------------------


def test_close_unregisters_accounts_and_leaves_clients(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        ep.add_account(AOR, registrar=registrar.uri()).register().result(5)
        ep.registration(registrar.uri(), "sip:bob@example.com").register().result(5)
    assert registrar.bindings(AOR) == []
    assert len(registrar.bindings("sip:bob@example.com")) == 1
    with pjsip.Endpoint() as ep:
        ep.add_account(AOR, registrar=registrar.uri()).register().result(5)
        ep.close(network=False)
    assert len(registrar.bindings(AOR)) == 1


@pytest.mark.parametrize("mode", ["thread", "manual", "asyncio"])
def test_close_with_a_silent_registrar_keeps_its_time(
    registrar: Registrar, silent: str, mode: str
) -> None:
    def prepare(ep: pjsip.Endpoint) -> list[pjsip.Operation[pjsip.RegistrationResult]]:
        operations = [ep.add_account(AOR, registrar=silent).register() for _ in range(20)]
        operations += [ep.registration(silent, AOR).register() for _ in range(20)]
        return operations

    async def in_a_loop() -> float:
        async with pjsip.Endpoint(strict=True) as ep:
            account = ep.add_account(AOR, registrar=registrar.uri())
            await account.register()
            registrar.drop_next(times=None)
            operations.extend(prepare(ep))
            began = time.monotonic()
            await ep.aclose(timeout=0.5)
            return time.monotonic() - began

    operations: list[pjsip.Operation[pjsip.RegistrationResult]] = []
    if mode == "asyncio":
        took = asyncio.run(asyncio.wait_for(in_a_loop(), 10))
    else:
        ep = pjsip.Endpoint(strict=True, dispatch=mode).open()
        account = ep.add_account(AOR, registrar=registrar.uri())
        account.register().result(5)
        registrar.drop_next(times=None)
        operations.extend(prepare(ep))
        began = time.monotonic()
        ep.close(timeout=0.5)
        took = time.monotonic() - began
    assert took < 1.5
    for operation in operations:
        assert operation.done()
        with pytest.raises((pjsip.ClosedError, pjsip.RegistrationTimeout, CancelledError)):
            operation.result(0)
    registrar.clear_script()
    with pjsip.Endpoint() as ep:
        register(ep, registrar)


def test_close_with_nothing_to_say_is_quick(registrar: Registrar) -> None:
    took = []
    for _ in range(5):
        ep = pjsip.Endpoint().open()
        register(ep, registrar)
        began = time.monotonic()
        ep.close()
        took.append(time.monotonic() - began)
    assert min(took) < 0.05  # the design's goal


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", None, 4000])
def test_a_wrong_timeout_closes_nothing(ep: pjsip.Endpoint, timeout: object) -> None:
    with pytest.raises(pjsip.ConfigError, match="timeout"):
        ep.close(timeout)  # type: ignore[arg-type]
    assert not ep.closed


@pytest.mark.parametrize("mode", ["thread", "manual"])
def test_close_from_a_handler(registrar: Registrar, mode: str) -> None:
    ep = pjsip.Endpoint(dispatch=mode).open()
    account = ep.add_account(AOR, registrar=registrar.uri())
    closed = threading.Event()

    @account.on_reg_state
    def handler(event: pjsip.RegState) -> None:
        if not event.is_unregister:
            ep.close(timeout=3)
            closed.set()

    began = time.monotonic()
    operation = account.register()
    assert operation.result(5).code == 200
    assert closed.wait(5)
    assert time.monotonic() - began < 2
    assert ep.closed
    assert not ep.callback_errors
    assert registrar.bindings(AOR) == []
    with pjsip.Endpoint() as another:
        register(another, registrar)


def test_close_from_a_handler_in_a_loop(registrar: Registrar) -> None:
    async def main() -> None:
        closed = asyncio.Event()
        async with pjsip.Endpoint(strict=True) as ep:
            account = ep.add_account(AOR, registrar=registrar.uri())

            @account.on_reg_state
            async def handler(event: pjsip.RegState) -> None:
                if not event.is_unregister:
                    await ep.aclose()
                    closed.set()

            await account.register()
            await asyncio.wait_for(closed.wait(), 5)
            assert ep.closed
        assert registrar.bindings(AOR) == []

    asyncio.run(asyncio.wait_for(main(), 10))


def test_close_from_another_thread_wakes_who_waits(silent: str) -> None:
    ep = pjsip.Endpoint().open()
    stream = ep.events()
    operation = ep.registration(silent, AOR).register()
    outcomes: list[object] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(type(operation.exception(20)))),
        threading.Thread(target=lambda: outcomes.append(len(list(stream)) > 0)),
    ]
    for thread in threads:
        thread.start()
    closers = [threading.Thread(target=ep.close) for _ in range(4)]
    began = time.monotonic()
    for thread in closers:
        thread.start()
    for thread in (*closers, *threads):
        thread.join(5)
        assert not thread.is_alive()
    assert time.monotonic() - began < 2
    assert pjsip.ClosedError in outcomes
    assert True in outcomes


def test_close_while_a_handler_is_busy(registrar: Registrar) -> None:
    """The handler calls the endpoint that another thread is closing: no deadlock."""
    ep = pjsip.Endpoint().open()
    entered = threading.Event()
    errors: list[BaseException] = []
    client = ep.registration(registrar.uri(), AOR)

    @client.on_reg_state
    def handler(event: pjsip.RegState) -> None:
        entered.set()
        time.sleep(0.1)  # until the other thread is inside close()
        for call in (lambda: ep.listen("udp", "127.0.0.1"), client.register, ep.stats):
            try:
                call()
            except pjsip.PjsipError as error:
                errors.append(error)

    client.register()
    assert entered.wait(5)
    began = time.monotonic()
    ep.close(timeout=5)
    assert time.monotonic() - began < 2
    with pjsip.Endpoint() as another:
        register(another, registrar)


def test_a_handler_that_never_returns_is_left_behind(registrar: Registrar) -> None:
    release = threading.Event()
    ep = pjsip.Endpoint().open()
    client = ep.registration(registrar.uri(), AOR)
    client.on_reg_state(lambda e: release.wait(20))
    operation = client.register()
    registrar.wait_for(1)
    try:
        began = time.monotonic()
        with suppress(pjsip.PjsipError):
            ep.close(timeout=0.5)
        assert time.monotonic() - began < 3
    finally:
        release.set()
    assert operation.exception(5) is None or isinstance(operation.exception(), pjsip.ClosedError)
    assert ep.closed
    with pjsip.Endpoint() as another:
        register(another, registrar)


def test_an_endpoint_that_is_dropped_warns_and_does_not_crash(registrar: Registrar) -> None:
    out = run_program(
        f"""
        import gc, warnings
        import pjsip_py as pjsip

        warnings.simplefilter("always")
        def leave():
            ep = pjsip.Endpoint()
            ep.registration({registrar.uri()!r}, "sip:alice@example.com").register().result(5)
        leave()
        gc.collect()
        """
    )
    assert out.code == 0
    assert "ResourceWarning" in out.err
    assert "open" in out.err
    assert "Traceback" not in out.err


# -- leaks ----------------------------------------------------------------------------------------


def descriptors() -> int:
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    return len(list(folder.iterdir()))


def resident() -> int:
    """Bytes of memory in use now."""
    if sys.platform != "linux":
        pytest.skip("needs /proc/self/statm (Linux) to measure memory")
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs a build without -Db_sanitize, which keeps freed memory")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CYCLES = """
    import gc, os, socket, sys, threading
    import pjsip_py as pjsip

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        uri = f"sip:127.0.0.1:{s.getsockname()[1]}"
        for i in range(700):
            with pjsip.Endpoint(dispatch=MODE, log_level=0) as ep:
                ep.listen("udp", "127.0.0.1")
                ep.registration(uri, "sip:alice@example.com").register().cancel()
                if MODE == "manual":
                    ep.fileno()
            if i % 100 == 99:
                gc.collect()
                pages = int(open("/proc/self/statm").read().split()[1])
                print(len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE"))
        assert threading.active_count() == 1, threading.enumerate()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/statm (Linux)")
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="needs a build without -Db_sanitize, which keeps freed memory",
)
@pytest.mark.parametrize("mode", ["thread", "manual"])
def test_hundreds_of_cycles_leave_nothing(mode: str) -> None:
    """In the two ways of driving, each with a transport and a client, in a process of its own."""
    done = run_program(CYCLES.replace("MODE", repr(mode)), timeout=60)
    sizes = [tuple(map(int, line.split())) for line in done.check().splitlines()]
    counts = [count for count, _ in sizes]
    memory = [size for _, size in sizes]
    assert len(set(counts)) == 1, counts
    # What malloc() does not yet know that it will need comes in the first cycles.
    assert memory[-1] - memory[2] < 256 * 1024, memory


def test_clients_and_connections_leave_nothing(ep: pjsip.Endpoint) -> None:
    states: queue.Queue[pjsip.TransportState] = queue.Queue()
    ep.on(pjsip.TransportState, states.put)
    with Registrar(protocols=("tcp",), users={"alice": PASSWORD}) as registrar:
        sizes = []
        for i in range(20):
            clients = [
                ep.registration(
                    registrar.uri(), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
                )
                for _ in range(20)
            ]
            for operation in [client.register() for client in clients]:
                operation.result(5)
            for client in clients:
                client.close()
            registrar.drop_connections(reset=True)
            while states.get(timeout=5).state != "disconnected":
                pass
            if i % 5 == 4:
                gc.collect()
                stats = ep.stats()
                sizes.append((descriptors(), stats["clients"], stats["pools"], resident()))
    assert len({s[0] for s in sizes[1:]}) <= 2, sizes
    assert {s[1] for s in sizes} == {0}
    # Transactions that have ended keep their memory for T4, five seconds.
    assert sizes[-1][3] - sizes[1][3] < 2 << 20, sizes


def _hold(client: pjsip.RegistrationClient, event: pjsip.RegState) -> None:
    client.info()


def test_cycles_in_the_heap_are_collected(registrar: Registrar) -> None:
    """A client that its handler refers to is no leak after close."""
    import weakref

    gc.collect()
    with pjsip.Endpoint() as ep:
        client = ep.registration(registrar.uri(), AOR)
        client.on_reg_state(partial(_hold, client))
        client.register().result(5)
        client.close()
        reference = weakref.ref(client)
        del client
        gc.collect()
        assert reference() is None
        endpoint = weakref.ref(ep)
    del ep
    gc.collect()
    assert endpoint() is None


# -- threads --------------------------------------------------------------------------------------


def test_eight_threads_at_once(registrar: Registrar) -> None:
    """Register, cancel, update, ask and close, all at random; each outcome comes."""
    problems: list[BaseException] = []
    registered = [0] * 8
    with pjsip.Endpoint(strict=True, t1=0.1, td=5.0) as ep:

        def work(number: int) -> None:
            chance = random.Random(number)
            try:
                for _ in range(25):
                    client = ep.registration(registrar.uri(), f"sip:user{number}@example.com")
                    operations: list[pjsip.Operation[object]] = []
                    for _ in range(4):
                        call = chance.choice(
                            [
                                client.register,
                                client.unregister,
                                client.fetch_bindings,
                                client.unregister_all,
                                partial(client.update_expires, chance.randint(60, 600)),
                            ]
                        )
                        operations.append(call())  # type: ignore[operator]
                        if chance.random() < 0.3:
                            chance.choice(operations).cancel()
                        if chance.random() < 0.2:
                            client.info()
                    if chance.random() < 0.4:
                        client.close()
                    for operation in operations:
                        try:
                            operation.result(8)
                            registered[number] += 1
                        except (CancelledError, pjsip.ClosedError):
                            pass
                    client.close()
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(25)
            assert not thread.is_alive()
        assert not problems
        assert all(registered)
        stats = ep.stats()
        assert (stats["assertions"], stats["clients"]) == (0, 0)
        register(ep, registrar)


def test_threads_that_open_and_close(registrar: Registrar) -> None:
    """One wins, the others are told; whoever comes next may open."""
    opened = 0
    problems: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        nonlocal opened
        try:
            for _ in range(20):
                try:
                    with pjsip.Endpoint(log_level=0) as ep:
                        register(ep, registrar)
                        with lock:
                            opened += 1
                except pjsip.EndpointBusyError:
                    time.sleep(0.001)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not problems
    assert opened >= 8


def test_use_while_another_thread_closes(registrar: Registrar) -> None:
    """Every call ends well or with ClosedError, whenever the close falls."""
    problems: list[BaseException] = []
    for _ in range(15):
        ep = pjsip.Endpoint(log_level=0).open()
        barrier = threading.Barrier(4)

        def use(ep: pjsip.Endpoint = ep, barrier: threading.Barrier = barrier) -> None:
            try:
                barrier.wait(5)
                client = ep.registration(registrar.uri(), AOR)
                operation = client.register()
                client.info()
                ep.stats()
                ep.listen("tcp", "127.0.0.1").close()
                operation.result(5)
            except (pjsip.ClosedError, pjsip.EndpointBusyError):
                pass
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(5)
        ep.close(timeout=3)
        for thread in threads:
            thread.join(8)
            assert not thread.is_alive()
        ep.close()
    assert not problems


# -- forks ----------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork (POSIX)")

FORK = """
import os, sys, time, threading, warnings
import pjsip_py as pjsip

warnings.filterwarnings("ignore", category=DeprecationWarning)  # fork with threads, Python 3.12
ep = pjsip.Endpoint({options}).open()
transport = ep.listen("udp", "127.0.0.1")
client = ep.registration({uri!r}, "sip:alice@example.com")
account = ep.add_account("sip:bob@example.com", registrar={uri!r})
client.register().result(5)
account.register().result(5)
pending = ep.registration({silent!r}, "sip:carol@example.com").register()
stream = ep.events()


def in_child():
    calls = dict(
        open=ep.open, listen=lambda: ep.listen("udp", "127.0.0.1"), fileno=ep.fileno,
        dispatch=ep.dispatch, stats=ep.stats, trace=ep.trace,
        registration=lambda: ep.registration({uri!r}, "sip:a@example.com"),
        add_account=lambda: ep.add_account("sip:a@example.com"),
        register=client.register, unregister=client.unregister, info=client.info,
        unregister_all=client.unregister_all, fetch=client.fetch_bindings, events=client.events,
        update=lambda: client.update_expires(60),
        contacts=lambda: client.update_contacts("sip:a@b"),
        credentials=lambda: client.set_credentials(pjsip.Credentials("a", "Sesame-1865")),
        account_register=account.register, account_unregister=account.unregister,
        wait=lambda: account.wait_registered(1), another=lambda: pjsip.Endpoint().open(),
        result=lambda: pending.result(2), exception=lambda: pending.exception(2),
        get=lambda: stream.get(2),
    )
    wrong = []
    for name, call in calls.items():
        began = time.monotonic()
        try:
            call()
            wrong.append(name + ": no error")
        except pjsip.ForkedError as error:
            if "spawn" not in str(error):
                wrong.append(name + ": " + str(error))
        except BaseException as error:
            wrong.append(name + ": " + repr(error))
        if time.monotonic() - began > 1:
            wrong.append(name + ": took long")
    # What only lets go is quiet, so that a child's own clean-up runs through.
    pending.cancel(); client.close(); account.close(); transport.close(); stream.close()
    ep.close(); ep.close()
    print("; ".join(wrong) or "all forked", flush=True)


child = os.fork()
if child == 0:
    in_child()
    {leave}
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status), flush=True)
assert client.register().result(5).code == 200
pending.cancel()
ep.close()
print("parent goes on")
"""


@needs_fork
@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("options", ["", "dispatch='manual'"])
def test_a_forked_child_is_told_by_every_call(
    registrar: Registrar, silent: str, leave: str, options: str
) -> None:
    program = FORK.format(uri=registrar.uri(), silent=silent, leave=leave, options=options)
    out = run_program(program).check()
    assert out.splitlines() == ["all forked", "child 0", "parent goes on"]
    assert registrar.bindings("sip:bob@example.com") == []  # the parent's goodbye, no child's


@needs_fork
def test_many_forks_under_traffic(registrar: Registrar) -> None:
    """Locks may be held by other threads at the moment of the fork; no child hangs on one."""
    out = run_program(
        f"""
        import os, sys, threading, time, warnings
        import pjsip_py as pjsip

        warnings.filterwarnings("ignore", category=DeprecationWarning)
        ep = pjsip.Endpoint(trace=True, log_level=5).open()
        ep.on(pjsip.Event, lambda e: None)
        uri = {registrar.uri()!r}
        clients = [ep.registration(uri, f"sip:u{{i}}@example.com") for i in range(8)]
        stop = threading.Event()
        def traffic(client):
            while not stop.is_set():
                client.register().result(5)
        threads = [threading.Thread(target=traffic, args=(c,)) for c in clients[:3]]
        for t in threads: t.start()
        codes = set()
        for _ in range(25):
            child = os.fork()
            if child == 0:
                try:
                    clients[5].register()
                    os._exit(1)
                except pjsip.ForkedError:
                    pass
                clients[6].close()
                ep.close()
                os._exit(0)
            deadline = time.monotonic() + 5
            while True:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    codes.add(os.waitstatus_to_exitcode(status)); break
                if time.monotonic() > deadline:
                    os.kill(child, 9); os.waitpid(child, 0); codes.add("hangs"); break
                time.sleep(0.002)
        stop.set()
        for t in threads: t.join()
        assert clients[7].register().result(5).code == 200
        ep.close()
        print(codes)
        """,
        timeout=30,
    ).check()
    assert out == "{0}\n"


@needs_fork
def test_a_fork_before_or_after_an_endpoint_is_free(registrar: Registrar) -> None:
    """Only a fork while one is open is a problem."""
    out = run_program(
        f"""
        import os
        import pjsip_py as pjsip

        def use():
            with pjsip.Endpoint() as ep:
                client = ep.registration({registrar.uri()!r}, "sip:alice@example.com")
                assert client.register().result(5).code == 200

        def fork():
            child = os.fork()
            if child == 0:
                use()
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        print(fork()); use(); print(fork()); use(); print(fork())
        """
    ).check()
    assert out.split() == ["0", "0", "0"]


def use_in_child(uri: str, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        with pjsip.Endpoint() as ep:
            client = ep.registration(uri, "sip:child@example.com")
            results.put(str(client.register().result(5).code))
    except pjsip.PjsipError as error:
        results.put(type(error).__name__)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "expected"), [("fork", "ForkedError"), ("spawn", "200"), ("forkserver", "200")]
)
def test_multiprocessing(
    ep: pjsip.Endpoint, registrar: Registrar, method: str, expected: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs the multiprocessing start method {method}")
    register(ep, registrar)
    context: Any = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    process = context.Process(target=use_in_child, args=(registrar.uri(), results))
    process.start()
    process.join(15)
    assert process.exitcode == 0
    assert results.get() == expected
    register(ep, registrar)


# -- exits and signals ----------------------------------------------------------------------------

OPEN = """
import sys, threading, time
import pjsip_py as pjsip

ep = pjsip.Endpoint({options})
for protocol in ("udp", "tcp", "tls"):
    ep.listen(protocol, "127.0.0.1")
ep.trace(True)
client = ep.registration({uri!r}, "sip:alice@example.com")
account = ep.add_account("sip:bob@example.com", registrar={uri!r})
client.register().result(5); account.register().result(5)
pending = [ep.registration({silent!r}, "sip:carol@example.com").register() for _ in range(5)]
named = ep.registration("sip:exit.invalid", "sip:dave@example.com").register()
stream = ep.events()
"""


@pytest.mark.parametrize("options", ["", "dispatch='manual'"])
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(7)", 7),
        ("raise SystemExit", 0),
        ("ep.close()", 0),
        ("del ep, client", 0),
    ],
)
def test_the_interpreter_exits_with_everything_open(
    registrar: Registrar, silent: str, ending: str, code: int, options: str
) -> None:
    source = OPEN.format(uri=registrar.uri(), silent=silent, options=options)
    finished = run_program(source + ending)
    assert (finished.code, finished.out, finished.err) == (code, "", "")
    assert finished.seconds < 3
    finished = run_program(source + ending, "-W", "default::ResourceWarning")
    assert (finished.code, finished.out) == (code, "")
    if ending == "ep.close()":
        assert finished.err == ""
    else:
        assert "ResourceWarning" in finished.err
        assert "still open at exit" in finished.err or "was not closed" in finished.err
        assert "Traceback" not in finished.err


def test_the_interpreter_exits_from_a_loop_with_everything_open(
    registrar: Registrar, silent: str
) -> None:
    finished = run_program(
        f"""
        import asyncio
        import pjsip_py as pjsip

        async def main():
            global ep
            ep = pjsip.Endpoint()
            await ep.__aenter__()
            account = ep.add_account("sip:bob@example.com", registrar={registrar.uri()!r})
            await account.register()
            ep.registration({silent!r}, "sip:carol@example.com").register()

        asyncio.run(main())
        """
    )
    assert (finished.code, finished.out, finished.err) == (0, "", "")
    assert finished.seconds < 3


def test_exit_with_a_daemon_thread_inside_a_call(silent: str) -> None:
    finished = run_program(
        f"""
        import threading, time
        import pjsip_py as pjsip

        ep = pjsip.Endpoint().open()
        operation = ep.registration({silent!r}, "sip:alice@example.com").register()
        started = threading.Event()
        def wait():
            started.set()
            try:
                operation.result(30)
            except pjsip.ClosedError:
                pass
        def ask():
            while True:
                try:
                    ep.stats()
                except pjsip.ClosedError:
                    return
        threading.Thread(target=wait, daemon=True).start()
        threading.Thread(target=ask, daemon=True).start()
        started.wait(5)
        """
    )
    assert (finished.code, finished.out, finished.err) == (0, "", "")
    assert finished.seconds < 3


def test_an_unhandled_exception_still_closes(registrar: Registrar) -> None:
    source = OPEN.format(uri=registrar.uri(), silent=registrar.uri(), options="")
    finished = run_program(source + "1 / 0\n")
    assert finished.code == 1
    assert finished.err.strip().endswith("ZeroDivisionError: division by zero")
    assert finished.seconds < 3
    assert registrar.bindings("sip:bob@example.com") == []


@pytest.mark.parametrize(
    "waiting",
    [
        "ep.registration({silent!r}, 'sip:a@example.com').register().result({timeout})",
        "ep.add_account('sip:a@example.com', registrar={silent!r}).wait_registered({timeout})",
        "[ep.events().get({timeout}) for _ in range(5)]",
    ],
)
@pytest.mark.parametrize("options", ["", "dispatch='manual'"])
def test_an_interrupt_ends_the_waiting(silent: str, waiting: str, options: str) -> None:
    began = time.monotonic()
    process = start_program(
        f"""
        import pjsip_py as pjsip
        with pjsip.Endpoint({options}) as ep:
            ep.listen("udp", "127.0.0.1")
            print("waiting", flush=True)
            {waiting.format(silent=silent, timeout=30)}
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.15)  # into the wait itself
    process.send_signal(signal.SIGINT)
    finished = finish_program(process, 10, began)
    assert finished.code == -signal.SIGINT
    assert finished.err.strip().endswith("KeyboardInterrupt")
    assert finished.seconds < 3


def test_an_interrupt_in_a_loop_unregisters(registrar: Registrar) -> None:
    began = time.monotonic()
    process = start_program(
        f"""
        import asyncio
        import pjsip_py as pjsip

        async def main():
            async with pjsip.Endpoint() as ep:
                account = ep.add_account("sip:bob@example.com", registrar={registrar.uri()!r})
                await account.register()
                print("registered", flush=True)
                await asyncio.sleep(30)

        asyncio.run(main())
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "registered\n"
    assert len(registrar.bindings("sip:bob@example.com")) == 1
    process.send_signal(signal.SIGINT)
    finished = finish_program(process, 10, began)
    assert finished.code != 0
    assert finished.err.strip().endswith("KeyboardInterrupt")
    assert finished.seconds < 3
    assert registrar.bindings("sip:bob@example.com") == []


def test_signals_go_to_python_not_to_the_worker() -> None:
    """A signal that comes while the worker runs is handled by Python's main thread, at once."""
    out = run_program(
        """
        import os, signal, time
        import pjsip_py as pjsip

        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        with pjsip.Endpoint() as ep:
            for i in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
                deadline = time.monotonic() + 2
                while len(seen) <= i and time.monotonic() < deadline:
                    time.sleep(0.001)
        print(len(seen))
        """
    ).check()
    assert out == "20\n"


def test_the_garbage_collector_may_run_anywhere(registrar: Registrar) -> None:
    """Finalisers only enqueue: dropping clients on any thread, at any time, is fine."""
    old = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with pjsip.Endpoint(strict=True) as ep, warnings.catch_warnings():
            for _ in range(30):
                client = ep.registration(registrar.uri(), AOR)
                client.on_reg_state(partial(_hold, client))
                client.register().result(5)
                client.close()
                del client
            assert ep.stats()["clients"] == 0
    finally:
        gc.set_threshold(*old)


def test_close_from_a_callback_of_what_it_ends() -> None:
    with Registrar() as silent:
        silent.drop_next(times=None)
        ep = pjsip.Endpoint().open()
        operation = ep.add_account(AOR, registrar=silent.uri()).register()
        silent.wait_for(1)
        operation.add_done_callback(lambda _: ep.close())
        began = time.monotonic()
        ep.close(timeout=0.3)
        assert time.monotonic() - began < 3
        assert isinstance(operation.exception(1), pjsip.ClosedError | pjsip.RegistrationError)


def test_the_event_thread_ends_even_if_it_begins_to_wait_late(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it waits on, and takes away what happens in the next endpoint."""
    from pjsip_py._engine import Engine

    take = Engine._take

    def late(engine: Engine, timeout: float) -> int:
        if threading.current_thread().name == "pjsip_py-events" and timeout > 1:
            while not engine.stopping and not released.wait(0.01):
                pass
            time.sleep(0.05)  # the interrupt has come by now
        return take(engine, timeout)

    released = threading.Event()
    monkeypatch.setattr(Engine, "_take", late)
    ep = pjsip.Endpoint().open()
    began = time.monotonic()
    ep.close()
    assert time.monotonic() - began < 2
    released.set()
    assert "pjsip_py-events" not in [thread.name for thread in threading.enumerate()]
