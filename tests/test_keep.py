# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py keep``, run as a user runs it, against the embedded registrar and Kamailio."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import leaks
import pytest
from servers.kamailio import BULK_PASSWORD, Kamailio

import pjsip_py as pjsip
from pjsip_py.cli import codes
from pjsip_py.cli import keep as keep_module
from pjsip_py.cli.board import duration
from pjsip_py.cli.keep import KeepInbox
from pjsip_py.testing import ReceivedRequest, Registrar

PASSWORD = "correct horse battery"
DEADLINE = 30.0  # s for any command to end
COMMAND = [sys.executable, "-W", "error", "-m", "pjsip_py.cli", "keep"]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PJSIP_PY_")}
    for name in ("FORCE_COLOR", "NO_COLOR"):
        kept.pop(name, None)
    return kept | {"PYTHONUNBUFFERED": "1", "SECRET": PASSWORD} | more


class Program:
    """A running ``keep``, its output read line by line."""

    def __init__(self, *arguments: str | Path, stderr: int = subprocess.STDOUT) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(),
        )
        self.output = ""

    def until(self, wanted: str) -> str:
        """The next line with *wanted*; pytest's own time limit ends a wait."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if wanted in line:
                return line
        pytest.fail(f"no {wanted!r} in:\n{self.output}")

    def send(self, signum: int = signal.SIGHUP) -> None:
        self.process.send_signal(signum)

    def finish(self) -> int:
        """Its exit code; the rest of its output is read."""
        output, _ = self.process.communicate(timeout=DEADLINE)
        self.output += output
        assert "Traceback" not in leaks.output(self.output)
        assert PASSWORD not in self.output
        return self.process.returncode

    def end(self, signum: int = signal.SIGINT) -> int:
        self.send(signum)
        return self.finish()


@contextlib.contextmanager
def keeping(*arguments: str | Path, **options: Any) -> Iterator[Program]:
    program = Program(*arguments, **options)
    with program.process:
        try:
            yield program
        finally:
            program.process.kill()


def run(*arguments: str | Path, code: int) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert PASSWORD not in output
    return output


class AccountsToml:
    """A file of accounts, written anew with each :meth:`write`."""

    def __init__(self, path: Path, defaults: dict[str, Any]) -> None:
        self.path = path
        self.defaults = defaults
        self.accounts: dict[str, dict[str, Any]] = {}
        self.endpoint: dict[str, Any] = {}

    def add(self, *users: str, **fields: Any) -> None:
        for user in users:
            self.accounts[user] = fields

    def write(self) -> Path:
        lines = ["[endpoint]", *map(_toml, self.endpoint.items())]
        for user, fields in self.accounts.items():
            table = {"aor": aor(user), **self.defaults, **fields}
            lines += ["[[account]]", *map(_toml, table.items())]
        self.path.write_text("\n".join(lines) + "\n")
        return self.path


def _toml(pair: tuple[str, Any]) -> str:
    if isinstance(pair[1], dict):
        return f"{pair[0]} = {{ {', '.join(map(_toml, pair[1].items()))} }}"
    return f"{pair[0]} = {json.dumps(pair[1])}"


def aor(user: str) -> str:
    return f"sip:{user}@example.com"


def users(number: int) -> list[str]:
    return [f"bulk{i}" for i in range(1, number + 1)]


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    """Lets anyone register."""
    with Registrar(("udp", "tcp")) as server:
        yield server


@pytest.fixture
def accounts(tmp_path: Path, registrar: Registrar) -> AccountsToml:
    """Alice and bob."""
    made = AccountsToml(tmp_path / "accounts.toml", {"registrar": registrar.uri()})
    made.add("alice", "bob")
    made.write()
    return made


def answered(user: str, expires: int | None = None) -> Callable[[ReceivedRequest], bool]:
    """Whether a request is the user's, was answered 200 and asked for so many seconds."""
    return lambda request: (
        request.aor == aor(user) and request.answered == 200 and expires in (None, request.expires)
    )


# -- fifty accounts -------------------------------------------------------------------------------


def test_a_hangup_changes_what_has_changed_in_the_file_and_nothing_else(tmp_path: Path) -> None:
    everyone = users(51)
    with Registrar(users=dict.fromkeys(everyone, PASSWORD)) as registrar:
        credentials = {"password": "env:SECRET"}
        file = AccountsToml(tmp_path / "accounts.toml", {"registrar": registrar.uri()})
        for user in everyone[:50]:
            file.add(user, credentials={"username": user, **credentials})
        with keeping(file.write()) as program:
            program.until("registered 50 of 50")
            assert len(registrar.aors) == 50
            registrar.clear_requests()

            first, second, last = everyone[0], everyone[1], everyone[50]
            del file.accounts[first]
            file.accounts[second]["expires"] = 600
            file.add(last, credentials={"username": last, **credentials})
            file.write()
            program.send()
            program.until("reloaded: 1 added, 1 removed, 1 changed, 48 untouched")
            assert f"{aor(first)}: removed" in program.output
            assert f"{aor(second)}: changed: expires" in program.output
            assert f"{aor(last)}: added" in program.output

            for wanted in (answered(first, 0), answered(second, 600), answered(last, 300)):
                registrar.wait_for(wanted)
            assert {r.aor for r in registrar.requests} == {aor(u) for u in (first, second, last)}
            assert registrar.bindings(aor(first)) == []
            assert len(registrar.aors) == 50
            registrar.clear_requests()
            program.send()
            program.until("reloaded: 0 added, 0 removed, 0 changed, 50 untouched")
            assert registrar.requests == []
            assert program.end() == codes.OK
        assert "unregistered 50 of 50" in program.output
        assert registrar.aors == []


def test_fifty_accounts_on_kamailio(tmp_path: Path, kamailio: Kamailio) -> None:
    everyone = [f"bulk{number}" for number in range(9001, 9052)]
    file = AccountsToml(tmp_path / "accounts.toml", {"registrar": kamailio.uri()})
    for user in everyone[:50]:
        file.add(user, credentials={"username": user, "password": "file:secret"})
    (tmp_path / "secret").write_text(BULK_PASSWORD)
    (tmp_path / "secret").chmod(0o600)
    with keeping(file.write(), "--json") as program:
        program.until('"registered": 50')
        assert bindings(kamailio, everyone) == [1] * 50 + [0]
        file.accounts[everyone[50]] = file.accounts.pop(everyone[0])
        file.accounts[everyone[50]]["credentials"]["username"] = everyone[50]
        file.write()
        program.send()
        program.until('"reload", ')
        program.until(f'"aor": "{aor(everyone[50])}", "state": "registered"')
        assert bindings(kamailio, everyone) == [0] + [1] * 50
        assert program.end() == codes.OK
    assert bindings(kamailio, everyone) == [0] * 51
    assert BULK_PASSWORD not in program.output


def bindings(kamailio: Kamailio, everyone: list[str]) -> list[int]:
    """How many bindings each has, as Kamailio tells who asks."""
    with pjsip.Endpoint() as ep:
        asked = [
            ep.registration(
                kamailio.uri(), aor(user), credentials=pjsip.Credentials(user, BULK_PASSWORD)
            ).fetch_bindings()
            for user in everyone
        ]
        return [len(each.result(timeout=10).bindings) for each in asked]


# -- what it tells --------------------------------------------------------------------------------


def test_a_failure_is_a_line_with_code_reason_advice_and_what_happens_next(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    accounts.defaults["retry"] = {"initial": 0.2}
    registrar.answer_next(403, "Not You", aor=aor("alice"))
    registrar.answer_next(503, headers={"Retry-After": "1"}, aor=aor("bob"))
    with keeping(accounts.write()) as program:
        program.until("registered 1 of 2, 1 given up")
        assert program.end() == codes.OK
    line = r"\d\d:\d\d:\d\d\.\d{3}  ✗  "
    uri = re.escape(registrar.uri())
    alice = f"{line}{aor('alice')}: 403 Not You +{uri}; given up; .*not help"
    bob = f"{line}{aor('bob')}: 503 Service .* +{uri}; retry in 1.0 s \\(attempt 2\\); .*later"
    again = f"✓  {aor('bob')}: registered for 300 s +{uri}; after 1\\.\\d s without"
    for wanted in (alice, bob, again):
        assert re.search(wanted, program.output), (wanted, program.output)


def test_a_wrong_password_is_given_up(tmp_path: Path) -> None:
    with Registrar(users={"alice": "another"}) as registrar:
        file = AccountsToml(tmp_path / "accounts.toml", {"registrar": registrar.uri()})
        file.add("alice", credentials={"username": "alice", "password": "env:SECRET"})
        with keeping(file.write()) as program:
            line = program.until("401")
            assert "given up; check user name, password and realm" in line
            assert program.end() == codes.OK
        assert len(registrar.requests) == 2


def test_a_silent_registrar_is_retried_and_a_backup_is_named(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as closed:
        closed.bind(("127.0.0.1", 0))
        primary = f"sip:127.0.0.1:{closed.getsockname()[1]};transport=tcp"
        del accounts.defaults["registrar"]
        accounts.defaults["retry"] = {"initial": 30.0}
        accounts.add("alice", registrars=[primary, registrar.uri()])
        accounts.add("bob", registrar=primary)
        with keeping(accounts.write()) as program:
            program.until("registered 1 of 2, 1 to be retried")
            assert program.end() == codes.OK
    refused = "503 Connection refused"
    assert re.search(f"alice.*{refused} .*{re.escape(primary)}; going on at once", program.output)
    assert re.search(f"bob.*{refused} .*; retry in 30.0 s \\(attempt 2\\); check", program.output)


def test_a_change_of_the_registrar_is_a_line(accounts: AccountsToml, registrar: Registrar) -> None:
    with Registrar() as primary:
        del accounts.defaults["registrar"]
        accounts.accounts.clear()
        accounts.add("alice", registrars=[primary.uri(), registrar.uri()], expires=2)
        with keeping(accounts.write()) as program:
            program.until("registered 1 of 1")
            primary.answer_next(503, times=None)
            line = program.until("served by")
            assert f"{aor('alice')}: served by {registrar.uri()}" in line
            assert f"failover, before by {primary.uri()}" in line
            assert program.end() == codes.OK


def test_a_lost_connection_is_a_line_and_so_is_the_recovery(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    accounts.defaults["registrar"] = registrar.uri("tcp")
    with keeping(accounts.write()) as program:
        program.until("registered 2 of 2")
        registrar.drop_connections()
        for _ in accounts.accounts:
            program.until("✗  sip:")
            assert program.output.endswith("@example.com: connection lost\n")
        for _ in accounts.accounts:
            program.until(" s without")
        assert program.end() == codes.OK
    assert registrar.aors == []


def test_json_has_an_object_for_every_event(accounts: AccountsToml, registrar: Registrar) -> None:
    registrar.answer_next(403, aor=aor("bob"))
    with keeping(accounts.path, "--json", stderr=subprocess.PIPE) as program:
        summary = json.loads(program.until('"summary"'))
        accounts.path.write_text("[[account]]\naor = 5\n")
        program.send()
        refused = json.loads(program.until('"reload"'))
        assert program.process.stderr is not None
        assert "accounts.toml:2: " in program.process.stderr.readline()
        program.send(signal.SIGTERM)
        assert program.finish() == codes.OK
    records = [json.loads(line) for line in program.output.splitlines()]
    assert (summary["registered"], summary["accounts"], summary["given_up"]) == (1, 2, 1)
    assert "accounts.toml:2: " in refused["error"]
    assert {each["event"] for each in records} == {
        *("account_state", "reg_started", "reg_state", "gave_up", "transport_state"),
        *("summary", "reload", "end"),
    }
    [gave_up] = [each for each in records if each["event"] == "gave_up"]
    assert (gave_up["aor"], gave_up["attempts"]) == (aor("bob"), 1)
    assert gave_up["error"]["type"] == "ForbiddenError"
    assert gave_up["hint"]
    states = [e["state"] for e in records if e.get("aor") == aor("alice") and "state" in e]
    assert states == [
        *("waiting", "registering", "registered", "unregistering", "unregistered", "closed"),
    ]
    assert records[-1]["event"] == "end"
    assert records[-1]["unregistered"] == 1
    assert all(time.time() - DEADLINE < each["time"] <= time.time() for each in records)


def test_metrics_are_served(accounts: AccountsToml, registrar: Registrar) -> None:
    registrar.answer_next(403, aor=aor("bob"))
    with keeping(accounts.path, "--metrics", "0") as program:
        url = program.until("metrics at").split()[-1]
        assert url.startswith("http://127.0.0.1:")
        program.until("registered 1 of 2")
        with urllib.request.urlopen(url, timeout=5) as response:
            text = response.read().decode()
        assert program.end() == codes.OK
    values = dict(re.findall(r"^(pjsip_\S+?(?:\{.*\})?) (\S+)$", text, re.M))
    assert float(values[f'pjsip_register_attempts_total{{registrar="{registrar.uri()}"}}']) == 2
    assert float(values['pjsip_register_outcomes_total{code="200",local="false"}']) == 1
    assert float(values['pjsip_register_outcomes_total{code="403",local="false"}']) == 1
    assert float(values["pjsip_register_seconds_count"]) == 2
    assert 0 < float(values["pjsip_register_seconds_sum"]) < 5
    assert float(values["pjsip_accounts_registered"]) == 1
    assert float(values['pjsip_accounts{state="registered"}']) == 1
    assert float(values['pjsip_accounts{state="failed"}']) == 1
    assert float(values["pjsip_give_ups_total"]) == 1
    assert "example.com" not in text


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[account]]\naor = "sip:a@example.com"\nexpire = 5\n', "accounts.toml:3: "),
        ('[[account]]\naor = "nonsense"\n', "accounts.toml:2: "),
        ("[[account]]\naor = \n", "accounts.toml:2: "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "accounts.toml"
    path.write_text(text)
    for option in ([], ["--check"]):
        assert message in run(path, *option, code=codes.USAGE)


def test_a_good_file_is_checked_without_a_request(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    assert "2 accounts, no mistakes" in run(accounts.path, "--check", code=codes.OK)
    assert registrar.requests == []


def test_a_mistake_at_a_reload_changes_nothing(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    with keeping(accounts.path) as program:
        program.until("registered 2 of 2")
        registrar.clear_requests()
        accounts.path.write_text("[[account]]\naor = 5\n")
        program.send()
        assert "accounts.toml:2: " in program.until("not reloaded: ")
        assert re.search(r"  ✗  not reloaded: .*accounts.toml:2: ", program.output)
        accounts.path.unlink()
        program.send()
        program.until("not reloaded: ")
        assert registrar.requests == []
        accounts.add("carol")
        accounts.write()
        program.send()
        program.until("registered 3 of 3")
        assert {request.aor for request in registrar.requests} == {aor("carol")}
        assert program.end() == codes.OK


def test_hangups_in_quick_succession_end_with_what_the_file_says(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    with keeping(accounts.path) as program:
        program.until("registered 2 of 2")
        registrar.delay_next(0.5, aor=aor("alice"))  # the answer to her unregister
        fields = accounts.accounts.pop("alice")
        accounts.write()
        program.send()
        program.until("reloaded: 0 added, 1 removed")
        accounts.add("alice", **fields)
        accounts.write()
        for _ in range(5):
            program.send()
        program.until("reloaded: 1 added, 0 removed, 0 changed, 1 untouched")
        program.until("registered 2 of 2")
        assert len(registrar.bindings(aor("alice"))) == 1
        assert program.end() == codes.OK
    assert registrar.aors == []


def test_a_secret_that_is_mended_is_used_at_a_reload(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("Wrong-" + PASSWORD)
    with Registrar(users={"alice": PASSWORD}) as registrar:
        file = AccountsToml(tmp_path / "accounts.toml", {"registrar": registrar.uri()})
        file.add("alice", credentials={"username": "alice", "password": "file:secret"})
        with keeping(file.write()) as program:
            program.until("registered 0 of 1, 1 given up")
            secret.write_text(PASSWORD)
            program.send()
            program.until(f"{aor('alice')}: changed: credentials")
            program.until("registered 1 of 1")
            assert program.end() == codes.OK
        assert registrar.aors == []


def test_what_takes_a_restart_is_named(accounts: AccountsToml) -> None:
    with keeping(accounts.path) as program:
        program.until("registered 2 of 2")
        accounts.endpoint["register_rate"] = 7.0
        accounts.write()
        program.send()
        program.until("[endpoint] register_rate: takes a restart")
        assert program.end() == codes.OK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics=nonsense"], "write it as PORT or HOST:PORT"),
        (["--metrics=65536"], "write it as PORT or HOST:PORT"),
        (["--metrics=192.0.2.1:1"], "--metrics 192.0.2.1 port 1: "),
        (["--timeout=0"], "--timeout"),
        (["--log-file=/nowhere/log"], "--log-file /nowhere/log: No such file"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_usage(accounts: AccountsToml, arguments: list[str], message: str) -> None:
    assert message in run(accounts.path, *arguments, code=codes.USAGE)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.toml" in run(tmp_path / "nowhere.toml", code=codes.USAGE)


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unregisters_all(
    accounts: AccountsToml, registrar: Registrar, signum: signal.Signals
) -> None:
    with keeping(accounts.path) as program:
        program.until("registered 2 of 2")
        assert program.end(signum) == codes.OK
    assert "unregistered 2 of 2" in program.output
    assert registrar.aors == []


def test_bindings_may_be_left(accounts: AccountsToml, registrar: Registrar) -> None:
    with keeping(accounts.path, "--no-unregister") as program:
        program.until("registered 2 of 2")
        registrar.clear_requests()
        assert program.end() == codes.OK
    assert len(registrar.aors) == 2
    assert registrar.requests == []


def test_the_goodbye_takes_no_longer_than_it_may(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    with keeping(accounts.path, "--timeout=0.5") as program:
        program.until("registered 2 of 2")
        registrar.drop_next(times=None)
        began = time.monotonic()
        assert program.end() == codes.OK
        assert 0.5 <= time.monotonic() - began < 3
    assert program.output.endswith("unregistered 0 of 2; the rest will expire\n")
    for user in accounts.accounts:
        failure = f"{aor(user)}: unregister: 408 no answer .*; the binding ends when it expires; "
        assert re.search(failure, program.output)


def test_a_second_ctrl_c_ends_at_once(accounts: AccountsToml, registrar: Registrar) -> None:
    with keeping(accounts.path, "--timeout=20") as program:
        program.until("registered 2 of 2")
        registrar.clear_requests()
        registrar.drop_next(times=None)
        program.send(signal.SIGINT)
        registrar.wait_for(2)
        began = time.monotonic()
        assert program.end() == codes.INTERRUPTED + signal.SIGINT
        assert time.monotonic() - began < 3


def test_an_account_that_is_not_registered_does_not_hold_up_the_end(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    registrar.answer_next(503, times=None)
    with keeping(accounts.path) as program:
        program.until("registered 0 of 2, 2 to be retried")
        began = time.monotonic()
        assert program.end() == codes.OK
        assert time.monotonic() - began < 3
    assert "unregistered 0 of 0" in program.output


def test_events_that_nobody_takes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_module, "WAITING_EVENTS", 2)
    inbox = KeepInbox()
    event = pjsip.EventsDropped(time=pjsip.EventTime(0.0, 0.0))
    for _ in range(5):
        inbox.put_event(event)
    inbox.put("a signal")
    assert inbox.lost == 3
    assert [inbox.get(0) for _ in range(4)] == [event, event, "a signal", None]


@pytest.mark.parametrize("option", ["--no-table", "--json"])
def test_a_reader_that_goes_away(accounts: AccountsToml, registrar: Registrar, option: str) -> None:
    with keeping(accounts.path, option, stderr=subprocess.PIPE) as program:
        program.until("2")
        registrar.wait_for(answered("alice"))
        registrar.wait_for(answered("bob"))
        assert program.process.stdout is not None
        assert program.process.stderr is not None
        program.process.stdout.close()
        program.send()  # it has a line to write
        assert program.process.wait(DEADLINE) == codes.BROKEN_PIPE
        assert program.process.stderr.read() == ""
    assert registrar.aors == []


# -- the log file ---------------------------------------------------------------------------------


def test_lines_are_appended_to_the_log_file_also_after_it_was_moved(
    accounts: AccountsToml, registrar: Registrar, tmp_path: Path
) -> None:
    log, moved = tmp_path / "keep.log", tmp_path / "keep.log.1"
    log.write_text("before\n")
    registrar.answer_next(403, aor=aor("bob"))
    with keeping(accounts.path, "--log-file", log) as program:
        program.until("registered 1 of 2")
        log.rename(moved)
        program.send()
        program.until("reloaded")
        assert program.end() == codes.OK
    lines = moved.read_text().splitlines()
    assert lines[0] == "before"
    when = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}"
    assert any(re.fullmatch(f"{when} ERROR {aor('bob')}: 403 .*", line) for line in lines)
    assert all(re.match(f"{when} (ERROR|INFO) ", line) for line in lines[1:])
    assert "unregistered 1 of 1" in log.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux has one")
def test_a_full_disk_is_told_once_and_ends_nothing(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    with keeping(accounts.path, "--log-file=/dev/full", stderr=subprocess.PIPE) as program:
        program.until("registered 2 of 2")
        assert program.process.stderr is not None
        program.send(signal.SIGTERM)
        _, errors = program.process.communicate(timeout=DEADLINE)
        assert program.process.returncode == codes.OK
    assert errors.count("log file /dev/full: No space left on device") == 1
    assert registrar.aors == []


# -- a terminal -----------------------------------------------------------------------------------


class Terminal:
    """``keep`` on a pseudo-terminal of 24 rows."""

    def __init__(self, *arguments: str | Path) -> None:
        try:
            self.ours, theirs = pty.openpty()
        except OSError as error:
            pytest.skip(f"no pseudo-terminal ({error}): mount -t devpts devpts /dev/pts")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment(TERM="xterm-256color", PYTHONUNBUFFERED=""),
        )
        self.seen = ""

    def until(self, wanted: str) -> None:
        while wanted not in self.seen:
            self.seen += os.read(self.ours, 65536).decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def finish(self) -> int:
        os.close(self.theirs)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(self.ours, 65536):
                self.seen += data.decode("utf-8", "replace")
        assert "Traceback" not in leaks.output(self.seen)
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def on_terminal(*arguments: str | Path) -> Iterator[Terminal]:
    terminal = Terminal(*arguments)
    with terminal.process:
        try:
            yield terminal
        finally:
            terminal.process.kill()
            os.close(terminal.ours)


def test_a_terminal_shows_a_table_and_is_restored(
    accounts: AccountsToml, registrar: Registrar
) -> None:
    registrar.answer_next(403, aor=aor("bob"))
    with on_terminal(accounts.path) as terminal:
        terminal.until("registered 1 of 2, 1 given up")
        screen = terminal.seen.rpartition("Registrar")[2]  # from the table's title on
        assert screen.index("bob") < screen.index("alice")
        assert re.search(r"alice@example.com\s.*registered.*200 OK.*refresh", screen)
        assert re.search(r"bob@example.com\s.*failed.*403 Forbidden", screen)
        assert "REGISTERs/s" in screen
        assert "\x1b[?25l" in terminal.seen  # the cursor is hidden
        terminal.type("\x03")
        terminal.until("unregistered 1 of 1")
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        assert terminal.finish() == codes.OK
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")
    assert "bob@example.com: 403" in terminal.seen  # its line stays
    assert registrar.aors == []


def test_a_table_has_as_many_rows_as_fit(accounts: AccountsToml, registrar: Registrar) -> None:
    accounts.add(*users(300))
    registrar.answer_next(403, aor=aor("bulk300"))
    with on_terminal(accounts.write()) as terminal:
        terminal.until("registered 301 of 302, 1 given up")
        screen = terminal.seen.rpartition("Registrar")[2]
        assert screen.index("bulk300@") < screen.index("alice@")
        assert "… 287 more" in screen
        terminal.type("\x03")
        terminal.until("unregistered 301 of 301")
        assert terminal.finish() == codes.OK
    assert registrar.aors == []


def test_without_a_table_there_are_lines_on_a_terminal(accounts: AccountsToml) -> None:
    with on_terminal(accounts.path, "--no-table") as terminal:
        terminal.until("registered 2 of 2")
        assert "alice@example.com: registered for 300 s" in terminal.seen
        assert "\x1b[?25l" not in terminal.seen
        terminal.type("\x03")
        assert terminal.finish() == codes.OK


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0:00"),
        (59.4, "0:59"),
        (60, "1:00"),
        (12005, "3:20:05"),
        (86400 + 61, "1 d 0:01:01"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
