# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoints in gevent programs.

gevent patches the process that it is imported in: all of it happens in processes of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import textwrap
from collections.abc import Iterator

import pytest
from programs import ROOT, run_patched, run_program

from pjsip_py.testing import Registrar

PASSWORD = "greenhouse 4711"

if importlib.util.find_spec("gevent") is None:
    REASON = "gevent is not installed (it has wheels for some Pythons only)"
    if os.environ.get("CI") == "true" and sys.version_info < (3, 15):
        pytest.fail(REASON, pytrace=False)
    pytest.skip(REASON, allow_module_level=True)

PROGRAM = """
from gevent import monkey

monkey.patch_all()
import os, signal, sys, time, gevent
import pjsip_py as pjsip

URI, PASSWORD = {uri!r}, {password!r}
ticks = 0

def tick():
    global ticks
    while True:
        gevent.sleep(0.005)
        ticks += 1

gevent.spawn(tick)

def proof(n):
    return pjsip.Credentials(f"user{{n}}", PASSWORD)

def add(ep, n, **options):
    options = {{"credentials": proof(n), **options}}
    return ep.add_account(f"sip:user{{n}}@example.com", registrar=URI, **options)
"""


def program(registrar: Registrar, body: str) -> str:
    head = PROGRAM.format(password=PASSWORD, uri=registrar.uri())
    return head + textwrap.dedent(body)


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    users = {f"user{number}": PASSWORD for number in range(1, 21)}
    with Registrar(users=users) as server:
        yield server


def bound(registrar: Registrar) -> list[str]:
    return [aor for aor in registrar.aors if registrar.bindings(aor)]


@pytest.mark.parametrize("early", [False, True], ids=["patched first", "imported first"])
def test_greenlets_run_while_others_wait(registrar: Registrar, early: bool) -> None:
    registrar.delay_next(0.1, times=40)
    body = """
        with pjsip.Endpoint(strict=True) as ep:
            seen = []
            stream = ep.events()
            reader = gevent.spawn(lambda: seen.extend(stream))
            accounts = [add(ep, n) for n in range(1, 11)]
            waiting = [gevent.spawn(lambda a=a: a.register().result(10)) for a in accounts]
            gevent.joinall(waiting, raise_error=True)
            assert [job.value.code for job in waiting] == [200] * 10
            assert ticks >= 5, ticks
            ticks = 0
            ep.on(pjsip.RegState, lambda event: None)
        assert ticks >= 5, ticks  # close() unregistered meanwhile
        reader.join(10)
        codes = [event.code for event in seen if isinstance(event, pjsip.RegState)]
        assert codes == [200] * 20, codes
        ep.open()
        assert add(ep, 11).register().result(10).code == 200
        ep.close()
        """
    run_patched("import pjsip_py\n" * early + program(registrar, body))
    assert bound(registrar) == []


def test_ways_for_a_greenlet_to_wait(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    body = """
        ep = pjsip.Endpoint(t1=0.1).open()
        account = add(ep, 1, timeout=0.5)
        operation = account.register()
        try:
            operation.result(0.05)
        except TimeoutError as error:
            assert "no outcome within 0.05 s; it goes on" in str(error), error
        job = gevent.spawn(operation.result)
        gevent.sleep(0)
        job.kill()
        assert not operation.done()
        with gevent.Timeout(0.01, False):
            operation.result()
        assert not operation.done()

        said = []

        @ep.on(pjsip.RegState)
        def handler(event):
            try:
                add(ep, 2).register().result()
            except pjsip.WouldBlockError as error:
                said.append(str(error))

        try:
            operation.result(10)
        except pjsip.RegistrationTimeout:
            pass
        assert "would wait for itself" in said[0]
        began = time.monotonic()
        ep.close(timeout=0.2)
        assert time.monotonic() - began < 5
        ep.close()
        try:
            account.register()
        except pjsip.ClosedError:
            pass
        else:
            raise AssertionError("closed")
        """
    run_patched(program(registrar, body))


def test_what_runs_on_threads_elsewhere(registrar: Registrar) -> None:
    """Credentials from a callable, names to resolve, handlers that wait, close from a handler."""
    body = """
        URI = URI.replace("127.0.0.1", "localhost")

        def ask(challenge):
            gevent.sleep(0.1)
            return proof(1)

        ep = pjsip.Endpoint().open()
        order = []

        @ep.on(pjsip.RegState)
        def handler(event):
            order.append("begins")
            gevent.sleep(0.05)
            order.append("ends")

        jobs = [gevent.spawn(lambda: add(ep, 1, credentials=ask).register().result(10))
                for _ in range(3)]
        gevent.joinall(jobs, raise_error=True)
        assert order == ["begins", "ends"] * 3, order
        assert ticks >= 20, ticks

        @ep.on(pjsip.RegState)
        def last(event):
            ep.close(network=False)

        try:
            add(ep, 2).register().result(10)
        except pjsip.ClosedError:
            pass
        with gevent.Timeout(5):
            while not ep.closed:
                gevent.sleep(0.01)
        """
    run_patched(program(registrar, body))


def test_interrupts_are_the_main_greenlets(registrar: Registrar) -> None:
    """Wherever they arise: gevent says where on standard error, and so do we of a handler."""
    body = """
        def interrupted(call, *arguments):
            try:
                call(*arguments)
            except KeyboardInterrupt:
                print("interrupted", flush=True)

        with pjsip.Endpoint() as ep:
            account = add(ep, 1)
            first = iter([True])

            @ep.on(pjsip.RegState)
            def handler(event):
                if next(first, False):
                    signal.raise_signal(signal.SIGINT)

            interrupted(lambda: (account.register().result(10), gevent.sleep(10)))
            print(account.register().result(10).code)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            interrupted(ep.events().get, 10)
        print(ep.closed, flush=True)

        with pjsip.Endpoint() as ep:
            ep.on(pjsip.RegState, lambda event: sys.exit(7))
            add(ep, 1).register().result(10)
            gevent.sleep(10)
        """
    finished = run_program(program(registrar, body))
    assert (finished.code, finished.out) == (7, "interrupted\n200\ninterrupted\nTrue\n")
    assert bound(registrar) == []


def test_in_a_server_with_many_sockets_that_forks(registrar: Registrar) -> None:
    """The descriptor is beyond select()'s, and the child has the greenlet, too."""
    body = """
        import resource
        many = 1100
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * many), hard))
        sockets = [os.dup(0) for _ in range(many)]
        with pjsip.Endpoint() as ep:
            assert ep.fileno() > many
            account = add(ep, 1)
            assert account.register().result(10).code == 200
            child = os.fork()
            if not child:
                gevent.sleep(0.3)
                try:
                    account.register()
                except pjsip.ForkedError:
                    sys.exit(5)
            operations = [account.register() for _ in range(10)]
            assert {operation.result(10).code for operation in operations} == {200}
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
            assert account.register().result(10).code == 200
        """
    run_patched(program(registrar, body))


@pytest.mark.parametrize("which", ["gevent", "gevent unpatched"])
def test_the_pages_program(which: str) -> None:
    page = (ROOT / "docs/locust.md").read_text("utf-8")
    [source] = re.findall(rf"^```python {which}\n(.*?)^```", page, re.M | re.S)
    with Registrar(users={"alice": "secret"}) as registrar:
        run_patched(source.replace("sip:127.0.0.1:5060", registrar.uri()), "200\n")
        assert bound(registrar) == []
