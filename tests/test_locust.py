# SPDX-License-Identifier: GPL-3.0-or-later
"""Locust's own processes drive registrations.

It patches the process that it is imported in: all of it happens in processes of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import EXIT_NOISE, ROOT, run_patched
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


def bound(registrar: Registrar) -> list[str]:
    return [aor for aor in registrar.aors if registrar.bindings(aor)]


def locustfile(folder: Path, body: str) -> Path:
    path = folder / "locustfile.py"
    path.write_text(
        "from locust import User, constant, task\nfrom pjsip_py.locust import Identity, SipUser\n"
        "import pjsip_py as pjsip\n" + body
    )
    return path


def beside(folder: Path, body: str) -> Path:
    """A second locustfile, without users."""
    path = folder / "beside.py"
    path.write_text(f"import locust.runners\n{body}\n")
    return path


# -- master and workers ---------------------------------------------------------------------------


def test_one_master_and_two_workers(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    """As many users as the file has, two of them refused; Locust's page, report and exit codes."""
    users = tmp_path / "users.csv"
    refused = {"sip:user2@example.com", "sip:user5@example.com"}
    lines = [f"sip:user{n}@example.com,user{n},{PASSWORD}" for n in range(1, 7)]
    users.write_text("\n".join(["aor, username, password", *lines]))
    for aor in refused:
        registrar.answer_next(403, aor=aor, times=None)
    files = f"{EXAMPLE},{beside(tmp_path, 'locust.runners.WORKER_REPORT_INTERVAL = 0.1')}"
    port, web = tcp_port(), tcp_port()
    master = swarm(
        *("-f", files, "--master", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"),
        *("--host", registrar.uri(), "--sip-users-file", users, "--expect-workers=2"),
        *("-u", 6, "-r", 100, "--autostart", "--web-host=127.0.0.1", f"--web-port={web}"),
    )
    workers = [
        swarm("-f", files, "--worker", "--master-host=127.0.0.1", f"--master-port={port}")
        for _ in range(2)
    ]

    def fetch(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    page: dict[str, Any] = {}

    def registered() -> bool:
        """All six have tried, says the page."""
        try:
            page.update(json.loads(fetch("stats/requests")))
        except OSError:
            assert master.process.poll() is None, master.output
            return False
        counted = {row["name"]: row["num_requests"] for row in page["stats"]}
        return bool(counted.get("register", 0) >= 6)

    wait_until(registered, DEADLINE, "six registrations", interval=0.1)
    assert len(page["workers"]) == 2
    assert 0 < page["fail_ratio"] < 1
    assert {row["error"] for row in page["errors"]} == {"ForbiddenError(403, 'Forbidden')"}

    assert "ForbiddenError" in fetch("stats/report")

    master.process.send_signal(signal.SIGTERM)
    output = master.finish(1)
    assert re.search(r"REGISTER +register +\d+ +[2-9]\d*\(", output)
    assert re.search(r"\d+ +REGISTER register: ForbiddenError\(403, 'Forbidden'\)", output)
    for worker in workers:
        worker.finish(0)

    at: dict[str, set[tuple[str, int]]] = {}
    for request in registrar.requests:
        at.setdefault(request.aor, set()).add(request.source[:2])
    assert set(at) == {f"sip:user{n}@example.com" for n in range(1, 7)}
    assert all(len(sources) == 1 for sources in at.values())
    assert len(set.union(*at.values())) == 2  # the endpoint of each process
    assert bound(registrar) == []


# -- alone ----------------------------------------------------------------------------------------


def test_a_signal_unregisters_and_reports(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
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
    runs = {
        number: swarm(
            *("-f", program, "--headless", "-u", 3, "-r", 100, "--host", registrar.uri()),
            *("--sip-users", "sip:user{n}@example.com", "--sip-first", first),
            password=PASSWORD,
        )
        for number, first in ((signal.SIGINT, 4), (signal.SIGTERM, 7))
    }
    wait_until(lambda: len(list(tmp_path.glob("user*"))) == 6, DEADLINE, "six registrations")
    assert len(bound(registrar)) == 6
    for number, run in runs.items():
        run.process.send_signal(number)
        output = run.finish(0)
        assert re.search(r"REGISTER +register +3 +0\(0.00%\)", output)
    assert bound(registrar) == []
    users = {request.aor for request in registrar.requests}
    assert users == {f"sip:user{n}@example.com" for n in range(4, 10)}


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


def test_what_cannot_be_done_is_said(
    registrar: Registrar, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    """Alone, and by a worker that Locust has forked, which ends the test of all."""
    (tmp_path / "users.csv").write_text("aor\nsip:user1@example.com\nsip:user2@example.com\n")
    port = tcp_port()

    def start(*arguments: object) -> Locust:
        common = ("-f", EXAMPLE, "--headless", "-r", 100, "-t", 30)
        return swarm(*common, *arguments, password=PASSWORD)

    forked = start(
        *("--processes=1", "-u", 3, "--host", registrar.uri(), "--sip-users-file", "users.csv"),
        *("--master-bind-host=127.0.0.1", f"--master-bind-port={port}", f"--master-port={port}"),
    )
    nowhere = start("-u", 2)
    elsewhere = start("-u", 2, "--host", "sip:127.0.0.1", "--sip-sources", "192.0.2.1")
    assert nowhere.finish(2).count("no registrar: give --host") == 1
    assert elsewhere.finish(2).count("Cannot assign requested") == 1
    said = forked.finish(2).count("has 2 users and the test takes more")
    assert said == 2  # by the worker and by the master
    assert "sip:user1@example.com" in {request.aor for request in registrar.requests}
    assert bound(registrar) == []


def test_settings_are_checked(tmp_path: Path) -> None:
    for name, text in (
        ("none", "aor,username\n"),
        ("other", "sip:a@example.com,a\n"),
        ("long", "aor\nsip:a@example.com,a\n"),
        ("bad", "aor\nsip:a@example.com\nb\n"),
        ("good", "\ufeffaor, username\nsip:a@example.com, a\n\nsip:b@example.com\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text, "utf-8")
    (tmp_path / "latin").write_bytes(b"\xe4")
    run_patched(
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
        assert "would be the same" in refused(locust._pattern, "sip:alice@a.example")
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
        assert "bad.csv:3: AOR" in refused(locust.read_users, "bad.csv", None)
        assert "long.csv:2: more fields" in refused(locust.read_users, "long.csv", None)
        first, second = locust.read_users("good.csv", {PASSWORD!r})
        assert first.credentials.username == "a" and second.credentials.username == "b"
        assert locust.read_users("good.csv", None)[0].credentials is None
        """
    )


def test_a_test_starts_shrinks_grows_and_starts_again(registrar: Registrar) -> None:
    """Locust as a library; the lowest numbers are dealt out first, and again."""
    run_patched(
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
    run = swarm("-f", program, "--headless", "-u", 3, "-r", 100)
    wait_until((tmp_path / "refreshed").exists, DEADLINE, "two refreshes")
    run.process.send_signal(signal.SIGINT)
    run.finish(0)
    assert {request.source[0] for request in registrar.requests} == {"127.0.0.2", "127.0.0.3"}
    assert {request.protocol for request in registrar.requests} == {"tls"}
    assert {request.headers.get("X-Load") for request in registrar.requests} == {"yes"}
    assert {request.headers.get("User-Agent") for request in registrar.requests} == {"swarm"}
    assert bound(registrar) == []


def test_the_pages_locustfile(
    kamailio: Kamailio, tmp_path: Path, swarm: Callable[..., Locust]
) -> None:
    [program] = re.findall(r"^```python locust\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    (tmp_path / "phones.py").write_text(program)
    listener = """
from itertools import count
from pathlib import Path
number = count()
@locust.events.request.add_listener
def told(name, **_):
    Path(f"{name}{next(number)}").touch()
"""
    run = swarm(
        *("-f", f"phones.py,{beside(tmp_path, listener)}", "--headless"),
        *("--host", kamailio.uri("udp"), "--sip-users", "sip:bulk{n}@example.com"),
        *(f"--sip-first={FIRST}", "-u", 2, "-r", 10),
        password=BULK_PASSWORD,
    )
    wait_until(lambda: len(list(tmp_path.glob("refresh*"))) == 2, DEADLINE, "two refreshes")
    run.process.send_signal(signal.SIGTERM)
    counted = re.findall(r"REGISTER +(\w+) +(\d+) +0\(0.00%\)", run.finish(0))
    assert counted[-2:] == [("refresh", "2"), ("register", "2")]


def test_the_page_names_every_option() -> None:
    source = (ROOT / "pjsip_py/locust.py").read_text("utf-8")
    page = PAGE.read_text("utf-8")
    options = re.findall(r'^    add\(\s*"([\w-]+)"', source, re.M)
    assert len(options) == 8
    for option in options:
        assert f"`--sip-{option}" in page


def test_failures_of_a_kind_are_one() -> None:
    run_patched(
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
    run_patched(
        """
        import sys
        sys.modules["locust"] = None
        try:
            import pjsip_py.locust
        except ModuleNotFoundError as error:
            assert "needs the library locust: pip install" in str(error)
        else:
            raise AssertionError
        """
    )


def test_without_greenlets() -> None:
    run_patched(
        """
        import os, sys
        os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"
        from locust.env import Environment
        from pjsip_py.locust import SipUser, _stack_of

        class Phone(SipUser):
            pass

        environment = Environment(user_classes=[Phone])
        environment.events.user_error.add_listener(lambda exception, **_: print(exception))
        _stack_of(environment).begin()
        """,
        "gevent has not patched threads: unset LOCUST_SKIP_MONKEY_PATCH\n",
    )
