# SPDX-License-Identifier: GPL-3.0-or-later
"""Locust's own processes drive registrations; and endpoints in gevent programs.

gevent patches the process that it is imported in: all of it happens in processes of its own.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, run_program
from servers.kamailio import BULK_PASSWORD, Kamailio
from servers.process import free_port, kill_group, tail, wait_until

from pjsip_py.testing import Registrar

EXAMPLE = ROOT / "examples/locustfile.py"
PAGE = ROOT / "docs/locust.md"
PASSWORD = "swarm of phones 4711"
FIRST = 900_001  # of Kamailio's users; the lower ones belong to other tests
DEADLINE = 40.0

if importlib.util.find_spec("locust") is None:
    REASON = "locust is not installed (gevent has wheels for some Pythons only)"
    if os.environ.get("CI") == "true" and sys.version_info < (3, 15):
        pytest.fail(REASON, pytrace=False)
    pytest.skip(REASON, allow_module_level=True)


# What gevent says at the exit of any program, on Python 3.10.
EXIT_NOISE = re.compile(
    r"Exception ignored in: <function _removeHandlerRef.*?greenlet is being finalized\n", re.S
)


def checked(source: str) -> str:
    """What the program printed, if it went well and without a word on standard error."""
    finished = run_program(source)
    return replace(finished, err=EXIT_NOISE.sub("", finished.err)).check()


class Locust:
    """A process of Locust's, in a group of its own; its output is in a file."""

    def __init__(self, folder: Path, *arguments: object, password: str | None = None) -> None:
        self.log = folder / f"locust-{len(list(folder.glob('locust-*.log')))}.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")
        }
        environment.pop("PJSIP_PY_PASSWORD", None)
        if password is not None:
            environment["PJSIP_PY_PASSWORD"] = password
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-X", "faulthandler", "-W", "default::ResourceWarning"),
                    *("-m", "locust", *map(str, arguments)),
                ],
                cwd=folder,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return EXIT_NOISE.sub("", tail(self.log, 300) + "\n")

    def finish(self, code: int) -> str:
        """Wait for its end, which must be with *code*; what it printed."""
        try:
            ended = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGABRT)  # faulthandler says where it hangs
            self.process.wait(5)
            raise AssertionError(f"still running after {DEADLINE} s\n{self.output}") from None
        output = self.output
        assert ended == code, output
        for unwanted in ("Traceback", "ResourceWarning", "BlockingSwitchOut"):
            assert unwanted not in output, output
        return output


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Callable[..., Locust]]:
    """``swarm(*arguments)`` starts Locust; whatever runs at the end of the test is killed."""
    started: list[Locust] = []

    def start(*arguments: object, **options: Any) -> Locust:
        started.append(Locust(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        kill_group(each.process)


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    users = {f"user{number}": PASSWORD for number in range(1, 21)}
    with Registrar(("udp", "tcp", "tls"), users=users) as server:
        yield server


def tcp_port() -> int:
    return free_port([("127.0.0.1", "tcp")])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bound(registrar: Registrar) -> list[str]:
    return [aor for aor in registrar.aors if registrar.bindings(aor)]


def locustfile(folder: Path, body: str) -> Path:
    path = folder / "locustfile.py"
    path.write_text(
        "from locust import User, constant, task\nfrom pjsip_py.locust import Identity, SipUser\n"
        "import pjsip_py as pjsip\n" + body
    )
    return path


# -- master and workers ---------------------------------------------------------------------------


def test_one_master_and_two_workers(
    kamailio: Kamailio, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    """Against Kamailio, with the statistics page that Locust serves and the report it writes."""
    port, web = tcp_port(), tcp_port()
    master = swarm(
        *("-f", EXAMPLE, "--master", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"),
        *("--host", kamailio.uri("udp"), "--sip-users", "sip:bulk{n}@example.com"),
        *(f"--sip-first={FIRST}", "--expect-workers=2", "-u", 10, "-r", 100, "-t", 3),
        *("--autostart", "--autoquit=2", "--web-host=127.0.0.1", f"--web-port={web}"),
        *("--html=report.html", "--csv=run"),
    )
    workers = [
        swarm(
            *("-f", EXAMPLE, "--worker", "--master-host=127.0.0.1", f"--master-port={port}"),
            password=BULK_PASSWORD,
        )
        for _ in range(2)
    ]

    page: dict[str, Any] = {}
    counted: dict[str, int] = {}

    def registered() -> bool:
        """All ten, says the page: workers report every three seconds."""
        try:
            address = f"http://127.0.0.1:{web}/stats/requests"
            with urllib.request.urlopen(address, timeout=5) as answer:
                page.update(json.load(answer))
        except urllib.error.URLError:
            assert master.process.poll() is None, master.output
            return False
        counted.update({row["name"]: row["num_requests"] for row in page["stats"]})
        return counted.get("register", 0) >= 10

    wait_until(registered, DEADLINE, "ten registrations", interval=0.1)
    assert len(page["workers"]) == 2
    assert page["fail_ratio"] == 0
    assert page["errors"] == []

    master.finish(0)
    for worker in workers:
        worker.finish(0)
    rows = {row["Name"]: row for row in table(tmp_path / "run_stats.csv")}
    assert rows["register"]["Type"] == "REGISTER"
    assert int(rows["Aggregated"]["Request Count"]) >= 10
    assert int(rows["Aggregated"]["Failure Count"]) == 0
    assert float(rows["register"]["Min Response Time"]) > 0
    assert table(tmp_path / "run_failures.csv") == []
    report = (tmp_path / "report.html").read_text("utf-8")
    assert set(re.findall(r'"num_failures": (\d+)', report)) == {"0"}


def test_workers_share_no_user_and_failures_are_counted(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    """As many users as the file has, in two processes that Locust forks, two of them refused."""
    users = tmp_path / "users.csv"
    refused = {"sip:user2@example.com", "sip:user5@example.com"}
    lines = [f"sip:user{n}@example.com,user{n},{PASSWORD}" for n in range(1, 7)]
    users.write_text("\n".join(["aor, username, password", *lines]))
    for aor in refused:
        registrar.answer_next(403, aor=aor, times=None)
    port = tcp_port()
    run = swarm(
        *("-f", EXAMPLE, "--processes=2", "--headless", "-u", 6, "-r", 100, "-t", 4),
        *("--master-bind-host=127.0.0.1", f"--master-bind-port={port}", f"--master-port={port}"),
        *("--host", registrar.uri(), "--sip-users-file", users, "--csv=run", "--json-file=run"),
    )
    run.finish(1)

    [row] = {
        row["Error"] for row in table(tmp_path / "run_failures.csv") if row["Name"] == "register"
    }
    assert row == "ForbiddenError(403, 'Forbidden')"
    failed = {
        row["name"]: row["num_failures"] for row in json.loads((tmp_path / "run.json").read_text())
    }
    assert failed["register"] >= 2

    at: dict[str, set[tuple[str, int]]] = {}
    for request in registrar.requests:
        at.setdefault(request.aor, set()).add(request.source[:2])
    assert set(at) == {f"sip:user{n}@example.com" for n in range(1, 7)}
    assert all(len(sources) == 1 for sources in at.values())
    assert len(set.union(*at.values())) == 2  # the endpoint of each process
    assert bound(registrar) == []


def test_a_worker_that_cannot_ends_the_test(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    users = tmp_path / "users.csv"
    users.write_text("aor\nsip:user1@example.com\nsip:user2@example.com\n")
    port = tcp_port()
    run = swarm(
        *("-f", EXAMPLE, "--processes=1", "--headless", "-u", 3, "-r", 100, "-t", 30),
        *("--master-bind-host=127.0.0.1", f"--master-bind-port={port}", f"--master-port={port}"),
        *("--host", registrar.uri(), "--sip-users-file", users),
        password=PASSWORD,
    )
    assert "has 2 users and the test takes more" in run.finish(2)
    assert bound(registrar) == []


# -- alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unregisters_and_reports(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust], number: signal.Signals
) -> None:
    program = locustfile(
        tmp_path,
        """
from pathlib import Path
class Phone(SipUser):
    wait_time = constant(60)
    @task
    def one(self):
        assert self.register().code == 200
        Path(self.client.aor.removeprefix("sip:")).touch()
""",
    )
    run = swarm(
        *("-f", program, "--headless", "-u", 3, "-r", 100, "--host", registrar.uri()),
        *("--sip-users", "sip:user{n}@example.com", "--sip-first", 4),
        password=PASSWORD,
    )
    wait_until(lambda: len(list(tmp_path.glob("user*"))) == 3, DEADLINE, "three registrations")
    assert len(bound(registrar)) == 3
    run.process.send_signal(number)
    output = run.finish(0)
    assert re.search(r"REGISTER +register +3 +0\(0.00%\)", output)
    assert bound(registrar) == []
    users = {request.aor for request in registrar.requests}
    assert users == {f"sip:user{n}@example.com" for n in (4, 5, 6)}


def test_a_registrar_that_is_not_there(swarm: Callable[..., Locust], tmp_path: Path) -> None:
    """Stopped in the middle of requests: nothing hangs, and failures of a kind are one."""
    program = locustfile(
        tmp_path,
        """
from pathlib import Path
class Phone(SipUser):
    timeout = 0.2
    wait_time = constant(0.05)
    @task
    def one(self):
        assert self.register() is None
        Path("failed").touch()
""",
    )
    port = free_port([("127.0.0.1", "udp")])
    host = f"sip:127.0.0.1:{port}"
    run = swarm("-f", program, "--headless", "-u", 5, "-r", 100, "--host", host)
    wait_until((tmp_path / "failed").exists, DEADLINE, "a failure")
    run.process.send_signal(signal.SIGTERM)
    output = run.finish(1)
    assert len(re.findall(r"\d+ +REGISTER register: \w+\(", output)) == 1
    assert str(port) not in output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sip-users", "sip:alice@example.com"], "all users would be the same: write {n}"),
        ([], "no registrar: give --host"),
        (["--host", "sip:127.0.0.1", "--sip-sources", "192.0.2.1"], "Cannot assign requested"),
        (["--host", "sip:127.0.0.1", "--sip-users-file", "users.csv"], "users.csv:3: AOR"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], text: str, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    (tmp_path / "users.csv").write_text(f"aor,password\nsip:a@b.example,{PASSWORD}\nb,{PASSWORD}\n")
    run = swarm("-f", EXAMPLE, "--headless", "-u", 2, "-r", 100, "-t", 30, *arguments)
    assert run.finish(2).count(text) == 1


def test_settings_are_checked(tmp_path: Path) -> None:
    for name, text in (
        ("none", "aor,username\n"),
        ("other", "sip:a@example.com,a\n"),
        ("long", "aor\nsip:a@example.com,a\n"),
        ("good", "\ufeffaor, username\nsip:a@example.com, a\n\nsip:b@example.com\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text, "utf-8")
    (tmp_path / "latin").write_bytes(b"\xe4")
    checked(
        f"""
        import argparse, os
        from pjsip_py import locust, ConfigError
        os.chdir({str(tmp_path)!r})

        def refused(call, *arguments):
            try:
                call(*arguments)
            except (ConfigError, argparse.ArgumentTypeError) as error:
                return str(error)
            raise AssertionError(arguments)

        for pattern in ("sip:{{user}}{{n}}@a.example", "sip:{{n@a.example", "sip:{{n.x}}@a.example",
                        "sip:{{}}@a.example", "sip:{{n[0]}}@a.example", "sip:{{n:q}}@a.example"):
            assert "in braces" in refused(locust._pattern, pattern), pattern
        assert "must begin with sip" in refused(locust._pattern, "user{{n}}@a.example")
        assert locust._pattern("sip:{{n:05}}@{{host}}")
        for number in ("0", "-1", "x", "1.5", "\u0661"):
            assert "whole number" in refused(locust._whole, number)
        assert "No such file" in refused(locust.read_password, "missing")
        assert "UTF-8" in refused(locust.read_password, "latin")
        assert "No such file" in refused(locust.read_users, "missing", None)
        assert "UTF-8" in refused(locust.read_users, "latin", None)
        assert "none.csv: no user" in refused(locust.read_users, "none.csv", None)
        assert "name the columns" in refused(locust.read_users, "other.csv", None)
        assert "long.csv:2: more fields" in refused(locust.read_users, "long.csv", None)
        first, second = locust.read_users("good.csv", {PASSWORD!r})
        assert first.credentials.username == "a" and second.credentials.username == "b"
        assert locust.read_users("good.csv", None)[0].credentials is None
        """
    )


def test_a_test_starts_shrinks_grows_and_starts_again(registrar: Registrar) -> None:
    """Locust as a library; the lowest numbers are dealt out first, and again."""
    checked(
        f"""
        import locust, gevent
        from locust.env import Environment
        from pjsip_py.locust import SipUser, _stack_of
        import os, pjsip_py as pjsip
        os.environ["PJSIP_PY_PASSWORD"] = {PASSWORD!r}

        class Phone(SipUser):
            host = {registrar.uri()!r}
            wait_time = locust.constant(0.02)

            @locust.task
            def again(self):
                assert self.register() is not None
                both = [gevent.spawn(self.register, name) for name in ("one", "other")]
                gevent.joinall(both, raise_error=True)
                try:
                    with gevent.Timeout(0):
                        self.register("given up")
                except gevent.Timeout:
                    pass
                self.refresh()

        environment = Environment(user_classes=[Phone], events=locust.events, stop_timeout=1)
        runner = environment.create_local_runner()
        environment.events.init.fire(environment=environment, runner=runner, web_ui=None)

        def aors():
            return [client.aor for client in _stack_of(environment)._lines]

        def until(count):
            with gevent.Timeout(10):
                while len(aors()) != count:
                    gevent.sleep(0.01)

        for _ in range(2):
            for count in (4, 1, 3, 0):
                if count:
                    runner.start(count, 100)
                else:
                    runner.stop()
                until(count)
                assert set(aors()) <= {{f"sip:user{{n}}@127.0.0.1" for n in range(1, 5)}}, aors()
        environment.events.quitting.fire(environment=environment, reverse=True)
        entries = environment.stats.entries.values()
        counted = {{entry.name: entry.num_requests for entry in entries}}
        counted.pop("given up", None)
        assert list(counted) == ["register", "one", "other", "refresh"], counted
        [times] = set(counted.values())
        assert times > 0
        assert environment.stats.total.num_failures == 0
        with pjsip.Endpoint(dispatch="manual"):
            pass  # it is closed
        """
    )
    assert len(registrar.aors) <= 4
    assert bound(registrar) == []


def test_classes_with_settings_of_their_own(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    """Identities from code, TLS, source addresses, PJSIP's refreshes, other users beside."""
    (tmp_path / "ca.pem").write_bytes(registrar.ca_pem)
    program = locustfile(
        tmp_path,
        f"""
from pathlib import Path
import time
made = []
class Secure(SipUser):
    host = {registrar.uri("tls")!r}
    tls = pjsip.TlsConfig(ca_file="ca.pem")
    expires = 2
    auto_refresh = True
    sources = ["127.0.0.2", "127.0.0.3"]
    registration_options = {{"headers": {{"X-Load": "yes"}}}}
    endpoint_options = {{"user_agent": "swarm"}}
    fixed_count = 2
    def identity(self, number):
        password = Path("secret").read_text()
        name = f"user{{number}}"
        return Identity(f"sip:{{name}}@example.com", pjsip.Credentials(name, password))
    def context(self):
        return {{"class": "Secure"}}
    @task
    def stay(self):
        assert self.register().code == 200
        assert self.client.aor.startswith("sip:user")
        while True:
            time.sleep(10)
class Other(User):
    fixed_count = 1
    @task
    def think(self):
        time.sleep(0.1)
from locust import events
@events.request.add_listener
def told(request_type, name, response, exception, context, response_length, start_time, url, **_):
    time.sleep(0.001)
    assert exception is None and context == {{"class": "Secure"}} and response.code == 200
    assert response_length > 200 and abs(time.time() - start_time) < 60 and url == Secure.host
    made.append(name)
    if made.count("refresh") == 2:
        Path("refreshed").touch()
""",
    )
    (tmp_path / "secret").write_text(PASSWORD)
    run = swarm("-f", program, "--headless", "-u", 3, "-r", 100, "--csv=run")
    wait_until((tmp_path / "refreshed").exists, DEADLINE, "two refreshes")
    run.process.send_signal(signal.SIGINT)
    run.finish(0)
    assert {request.source[0] for request in registrar.requests} == {"127.0.0.2", "127.0.0.3"}
    assert {request.protocol for request in registrar.requests} == {"tls"}
    assert {request.headers.get("X-Load") for request in registrar.requests} == {"yes"}
    assert {request.headers.get("User-Agent") for request in registrar.requests} == {"swarm"}
    assert bound(registrar) == []


def test_the_pages_locustfile(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    [program] = re.findall(r"^```python locust\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    (tmp_path / "phones.py").write_text(program)
    run = swarm(
        *("-f", "phones.py", "--headless", "-u", 2, "-r", 10, "-t", 2, "--csv=run"),
        *("--host", registrar.uri(), "--sip-users", "sip:user{n}@example.com"),
        password=PASSWORD,
    )
    run.finish(0)
    assert [row["Name"] for row in table(tmp_path / "run_stats.csv")][-1] == "Aggregated"
    assert len(registrar.requests) >= 4
    assert bound(registrar) == []


def test_the_pages_gevent_program() -> None:
    [program] = re.findall(r"^```python gevent\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    with Registrar(users={"alice": "secret"}) as registrar:
        program = program.replace("sip:127.0.0.1:5060", registrar.uri())
        assert checked(program) == "200\n"


def test_the_page_names_every_option() -> None:
    source = (ROOT / "pjsip_py/locust.py").read_text("utf-8")
    page = PAGE.read_text("utf-8")
    options = re.findall(r'^    add\(\s*"([\w-]+)"', source, re.M)
    assert len(options) == 8
    for option in options:
        assert f"`--sip-{option}" in page


def test_failures_of_a_kind_are_one() -> None:
    checked(
        """
        from pjsip_py.locust import tidy
        from pjsip_py import ForbiddenError, TransportError, TlsError, RegistrationTimeout

        plain = ForbiddenError(403, "Forbidden", attempts=2)
        assert tidy(plain) is plain
        for error, shown in (
            (ForbiddenError(403, "no 1b2c-77@192.0.2.1 here"), "ForbiddenError(403, 'no … here')"),
            (ForbiddenError(403, "code 1234567"), "ForbiddenError(403, 'code …')"),
            (TransportError("192.0.2.1:5060: refused"), "TransportError('…: refused')"),
            (TransportError("[2001:db8::1]:5060: refused"), "TransportError('…: refused')"),
            (TlsError("to 192.0.2.1", 1, 1 << 10),
             "TlsError('to …; the certificate, or one above it, has expired')"),
        ):
            before = repr(error)
            assert repr(tidy(error)) == shown, repr(tidy(error))
            assert type(tidy(error)) is type(error) and vars(tidy(error)) == vars(error)
            assert repr(error) == before
        assert tidy(RegistrationTimeout(408, "at 192.0.2.1", local=True)).local
        """
    )


def test_without_locust() -> None:
    checked(
        """
        import sys
        sys.modules["locust"] = sys.modules["gevent"] = None
        for name in ("locust", "gevent"):
            try:
                __import__(f"pjsip_py.{name}")
            except ModuleNotFoundError as error:
                assert f"needs the library {name}: pip install" in str(error)
            else:
                raise AssertionError(name)
        """
    )


# -- gevent ---------------------------------------------------------------------------------------

PROGRAM = """
    from gevent import monkey
    {patch}
    import time, gevent
    import pjsip_py as pjsip
    from pjsip_py.gevent import GeventEndpoint, result

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


def gevent_program(registrar: Registrar, body: str, patch: bool = True) -> None:
    head = PROGRAM.format(
        patch="monkey.patch_all()" if patch else "", password=PASSWORD, uri=registrar.uri()
    )
    checked(textwrap.dedent(head) + textwrap.dedent(body))


@pytest.mark.parametrize("patch", [True, False])
def test_greenlets_run_while_others_wait(registrar: Registrar, patch: bool) -> None:
    registrar.delay_next(0.2, times=40)
    gevent_program(
        registrar,
        """
        with GeventEndpoint(strict=True) as ep:
            accounts = [add(ep, n) for n in range(1, 11)]
            waiting = [gevent.spawn(lambda a=a: result(a.register(), 10)) for a in accounts]
            gevent.joinall(waiting, raise_error=True)
            assert [job.value.code for job in waiting] == [200] * 10
            assert ticks >= 10, ticks
            ticks = 0
            ep.on(pjsip.RegState, lambda event: None)
        assert ticks >= 10, ticks  # close() unregistered meanwhile
        ep.open()
        assert result(add(ep, 11).register(), 10).code == 200
        ep.close()
        """,
        patch,
    )
    assert bound(registrar) == []


def test_ways_for_a_greenlet_to_wait(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    gevent_program(
        registrar,
        """
        ep = GeventEndpoint(t1=0.1).open()
        account = add(ep, 1, timeout=1)
        operation = account.register()
        try:
            result(operation, 0.05)
        except TimeoutError as error:
            assert "no outcome within 0.05 s; it goes on" in str(error), error
        assert not operation.done()
        job = gevent.spawn(result, operation)
        gevent.sleep(0)
        job.kill()  # cancels
        try:
            result(operation, 5)
        except pjsip.PjsipError:
            raise
        except BaseException as error:
            assert type(error).__name__ == "CancelledError", error

        said = []

        @ep.on(pjsip.RegState)
        def handler(event):
            try:
                result(add(ep, 2).register())
            except pjsip.WouldBlockError as error:
                said.append(str(error))

        operation = account.register()
        try:
            result(operation, 10)
        except pjsip.RegistrationTimeout:
            pass
        assert "would wait for itself" in said[0]
        began = time.monotonic()
        ep.close(timeout=0.5)
        assert time.monotonic() - began < 5
        ep.close()
        try:
            account.register()
        except pjsip.ClosedError:
            pass
        else:
            raise AssertionError("closed")
        """,
    )


def test_what_runs_on_threads_elsewhere(registrar: Registrar) -> None:
    """Credentials from a callable, names to resolve, handlers that wait, close from a handler."""
    gevent_program(
        registrar,
        """
        URI = URI.replace("127.0.0.1", "localhost")

        def ask(challenge):
            gevent.sleep(0.1)
            return proof(1)

        ep = GeventEndpoint().open()
        order = []

        @ep.on(pjsip.RegState)
        def handler(event):
            order.append("begins")
            gevent.sleep(0.05)
            order.append("ends")

        jobs = [gevent.spawn(lambda n=n: result(add(ep, 1, credentials=ask).register(), 10))
                for n in range(3)]
        gevent.joinall(jobs, raise_error=True)
        assert order == ["begins", "ends"] * 3, order
        assert ticks >= 20, ticks

        @ep.on(pjsip.RegState)
        def last(event):
            ep.close(network=False)

        try:
            result(add(ep, 2).register(), 10)
        except pjsip.ClosedError:
            pass
        gevent.sleep(0.2)
        assert ep.closed
        """,
    )
