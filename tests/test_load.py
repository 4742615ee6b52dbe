# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py load``, run as a user runs it, against the embedded registrar and Kamailio."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import leaks
import pytest
from servers.kamailio import BULK_PASSWORD, Kamailio
from servers.process import free_port

import pjsip_py as pjsip
from pjsip_py.cli import codes
from pjsip_py.cli.load import load, parse_sources
from pjsip_py.cli.load.plan import Pace, expand, users_of_csv
from pjsip_py.cli.load.thresholds import DEFAULTS, Threshold
from pjsip_py.testing import Answer, Registrar

PASSWORD = "correct horse battery"
DEADLINE = 30.0  # s for any command to end
LENIENT = ("--fail-if", "started<1%")  # a machine that has other things to do is no failure
COMMAND = [sys.executable, "-W", "error", "-m", "pjsip_py.cli", "load"]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PJSIP_PY_")}
    for name in ("FORCE_COLOR", "NO_COLOR"):
        kept.pop(name, None)
    return kept | {"PYTHONUNBUFFERED": "1"} | more


def run(*arguments: str | Path, code: int, **env: str) -> str:
    """Both outputs of the command, which must end with *code*."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**env),
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert PASSWORD not in output
    return output


def summary_of(*arguments: str | Path, code: int = 0, **env: str) -> dict[str, Any]:
    """The summary that ``--json`` ends with; a progress record stands before it."""
    output = run(*arguments, "--json", code=code, **env)
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert records[0]["event"] == "progress"
    (found,) = (record for record in records if record["event"] == "summary")
    assert found["passed"] == (code == 0)
    return dict(found)


@contextlib.contextmanager
def loading(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], signum: int = signal.SIGINT) -> tuple[int, str]:
    process.send_signal(signum)
    output, _ = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in leaks.output(output)
    return process.returncode, output


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    """One that lets anyone register."""
    with Registrar(("udp", "tcp", "tls")) as server:
        yield server


@pytest.fixture
def guarded() -> Iterator[Registrar]:
    users = {f"u{number}": PASSWORD for number in range(1, 11)}
    with Registrar(("udp",), users=users, algorithms=("MD5",)) as server:
        yield server


# -- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "first", "last", "count"),
    [
        ("alice", "alice", "alice", 1),
        ("u{1..12}", "u1", "u12", 12),
        ("u{01..12}", "u01", "u12", 12),
        ("u{8..010}", "u008", "u010", 3),
        ("{1..2}-{3..5}@example.com", "1-3@example.com", "2-5@example.com", 6),
    ],
)
def test_a_pattern_expands_as_in_a_shell(pattern: str, first: str, last: str, count: int) -> None:
    names = expand(pattern)
    assert (names[0], names[-1], len(names), len(set(names))) == (first, last, count, count)


@pytest.mark.parametrize("pattern", ["u{1..", "u{}", "u{a..b}", "u{2..1}", "u{1..1000001}", "}{"])
def test_a_pattern_with_a_mistake(pattern: str) -> None:
    with pytest.raises(click.BadParameter, match=r"FIRST\.\.LAST|greater|more than"):
        expand(pattern)


@pytest.mark.parametrize("pace", [Pace(50, 50), Pace(0, 100, 4), Pace(80, 20, 3), Pace(10, 10, 2)])
def test_a_pace_says_how_many_are_due_and_when(pace: Pace) -> None:
    assert pace.due(0) == 0
    for number in (1, 17, 60, 150, 1000):
        assert pace.due(pace.time_of(number)) == pytest.approx(number)
    # The rate is what the number that is due grows by.
    for at in (0.5, 1.9, 3.5, 10):
        growth = (pace.due(at + 1e-4) - pace.due(at - 1e-4)) / 2e-4
        assert growth == pytest.approx(pace.rate(at), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("p99>200ms", 201, True),
        ("p99>200ms", 200, False),
        ("p99.9 >= 1.5s", 1.5, True),
        ("refresh.max<10us", 9, True),
        ("errors>0.1%", 0.1, False),
        ("timeouts>3", 4, True),
        ("rate<500", 499.9, True),
        ("started<95%", 95, False),
        ("registered<100%", 99.9, True),
    ],
)
def test_a_threshold(text: str, value: float, holds: bool) -> None:
    threshold = Threshold.parse(text)
    assert threshold.text == text.replace(" ", "")
    assert threshold.holds(value) is holds


@pytest.mark.parametrize(
    "text",
    [
        *("", "p99", "p99>200", "p99>2m", "p100>1ms", "p99=1ms", "p99>-1ms", "max>1%"),
        *("rate<5%", "rate<5ms", "errors>1ms", "refresh.errors>1", "other>1", "p99>1ms x"),
    ],
)
def test_a_threshold_with_a_mistake_is_told_the_grammar(text: str) -> None:
    with pytest.raises(click.BadParameter, match="METRIC OP VALUE"):
        Threshold.parse(text)


def test_sources() -> None:
    texts = ("127.0.0.2", "127.0.0.3:5080", "::1", "[::1]:5081")
    assert parse_sources(None, None, texts) == [
        ("127.0.0.2", 0),
        ("127.0.0.3", 5080),
        ("::1", 0),
        ("::1", 5081),
    ]


# -- what it does ---------------------------------------------------------------------------------


def test_each_user_once_at_a_rate(registrar: Registrar) -> None:
    how = ("--users", "u{1..40}@example.com", "--rate", "200", *LENIENT)
    output = run(registrar.uri(), *how, code=0)
    assert "40 begun, 40 succeeded, 0 failed" in output
    assert "200 offered" in output
    assert re.search(r"latency +p50 \S+ ms, p90 ", output)
    assert output.endswith("unregistered 40 of 40\n")
    assert registrar.aors == []
    counted = Counter((r.aor, r.expires) for r in registrar.requests)
    assert counted == {
        (f"sip:u{number}@example.com", expires): 1
        for number in range(1, 41)
        for expires in (300, 0)
    }


def test_a_ramp_lasts_as_long_as_it_says(registrar: Registrar) -> None:
    how = ("--users", "u{1..20}", "--ramp", "20", "180", "0.5", *LENIENT, "--no-unregister")
    found = summary_of(registrar.uri(), *how)
    assert found["offered_rate"] == 100  # the mean; for 0.5 s
    assert 20 < found["started"] <= 50
    assert found["register"]["ok"] == found["started"] == len(registrar.requests)
    assert len(registrar.aors) == 20


@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_a_storm_from_several_addresses(registrar: Registrar, protocol: str) -> None:
    port = free_port([("127.0.0.3", "udp"), ("127.0.0.3", "tcp")])
    found = summary_of(
        *(f"sip:127.0.0.1:{registrar.port(protocol)}", "--transport", protocol),
        *("--ca-file", registrar.ca_file) if protocol == "tls" else (),
        *("--source", "127.0.0.2", "--source", f"127.0.0.3:{port}"),
        *("--users", "u{1..30}@example.com", "--storm", "--window", "7", "--no-unregister"),
    )
    assert found["register"]["ok"] == 30
    assert found["offered_rate"] is None
    assert found["most_in_flight"] == 7
    hosts = Counter(r.contact.uri.partition("@")[2] for r in registrar.requests if r.contact)
    assert sorted(host.partition(":")[0] for host in hosts) == ["127.0.0.2", "127.0.0.3"]
    assert set(hosts.values()) == {15}
    assert {r.source[0] for r in registrar.requests} == {"127.0.0.2", "127.0.0.3"}
    assert {r.protocol for r in registrar.requests} == {protocol}
    if protocol == "udp":
        assert port in {r.source[1] for r in registrar.requests}


@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_a_user_that_comes_again_has_its_nonce_unless_it_comes_anew(
    guarded: Registrar, fresh: tuple[str, ...]
) -> None:
    users = ("--users", "u{1..10}@example.com")
    how = ("--rate", "60", "--duration", "0.5", *LENIENT, "--no-unregister", *fresh)
    found = summary_of(guarded.uri(), *users, *how, PJSIP_PY_PASSWORD=PASSWORD)
    number = found["register"]["ok"]
    assert 10 < number <= 30
    anew = number if fresh else 10
    assert guarded.stats().responses == {200: number, 401: anew}
    assert found["requests"] == number + anew
    assert len({r.call_id for r in guarded.requests}) == anew


def test_churn_registers_holds_and_unregisters(registrar: Registrar) -> None:
    how = ("--users", "u{1..6}@example.com", "--rate", "20", "--churn", "0.1", "--duration", "1")
    found = summary_of(registrar.uri(), *how, *LENIENT)
    assert 6 < found["register"]["ok"] == found["started"] <= 20
    assert 0 < found["unregister"]["ok"] <= found["started"]
    assert found["unregister"]["latency"]["p50"] > 0
    assert registrar.aors == []
    by_user: dict[str, list[int | None]] = {}
    for request in registrar.requests:
        by_user.setdefault(request.aor, []).append(request.expires)
    assert len(by_user) == 6
    for each in by_user.values():  # never twice the same
        assert each[0] == 300
        assert all(a != b for a, b in pairwise(each))


def test_keep_refreshes_all_for_as_long_as_it_is_told(registrar: Registrar) -> None:
    found = summary_of(
        *(registrar.uri(), "--users", "u{1..20}@example.com", "--storm", "--keep"),
        *("--expires", "1", "--duration", "1.3"),
        *("--fail-if", "registered<100%", "--fail-if", "refresh.p99>5s"),
    )
    assert found["register"]["ok"] == 20
    assert found["refresh"]["ok"] >= 40  # each was refreshed twice: after 0.5 s and 1 s
    assert 0 < found["refresh"]["latency"]["p50"] < 1
    assert found["registered"] == 20
    assert registrar.aors == []


def test_a_refresh_that_fails_is_an_error_and_its_account_tries_again(registrar: Registrar) -> None:
    registrar.script(Answer(), Answer(503, headers={"Retry-After": "1"}))
    how = ("--users", "u1", "--storm", "--keep", "--expires", "1", "--fail-if", "errors>1")
    with loading(registrar.uri(), *how) as process:
        registrar.wait_for(4, timeout=10)  # the outcome of the third has arrived, too
        code, output = end(process)
    assert code == codes.OK
    assert "1 begun, 1 succeeded, 0 failed" in output
    assert re.search(r"refreshes +[1-9]\d* succeeded, 1 failed", output)
    assert "503 Service Unavailable (ServerError) (refresh)" in output


def test_bulk_users_on_kamailio_over_two_addresses(kamailio: Kamailio, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(BULK_PASSWORD)
    how = ("--users", "bulk{9101..9300}@example.com", "--password-file", secret)
    sources = ("--source", "127.0.0.1", "--source", "127.0.0.2")
    output = run(kamailio.uri(), *how, *sources, "--storm", "--window", "50", code=0)
    assert "200 begun, 200 succeeded, 0 failed" in output
    assert "unregistered 200 of 200" in output
    assert BULK_PASSWORD not in output
    with pjsip.Endpoint() as ep:
        credentials = pjsip.Credentials("bulk9300", BULK_PASSWORD)
        aor = "sip:bulk9300@example.com"
        client = ep.registration(kamailio.uri(), aor, credentials=credentials)
        assert list(client.fetch_bindings().result(timeout=5).bindings) == []


# -- users in a file ------------------------------------------------------------------------------


def test_users_of_a_csv(guarded: Registrar, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(
        "\ufeffAOR, user,password,realm\n"
        f"sip:one@example.com,u1,{PASSWORD},example.com\n"
        "\n"
        f"u2@example.com,,{PASSWORD},\n"
        ",u3,,\n",
        encoding="utf-8",
    )
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    how = ("--csv", file, "--password-file", secret, "--storm", "--no-unregister")
    found = summary_of(guarded.uri(), *how)
    assert found["register"]["ok"] == 3
    assert sorted(guarded.aors) == [
        "sip:one@example.com",
        "sip:u2@example.com",
        "sip:u3@127.0.0.1",
    ]


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", [":1: the header must name columns"]),
        ("name,password\n", [":1: the header must name columns, each once, of: aor, user"]),
        ("password\nx\n", [":1: neither aor nor user"]),
        ("user,user\na,b\n", [":1: the header"]),
        ("user\n", ["has no users"]),
        (
            f"user,password\nalice,{PASSWORD}\n{PASSWORD}\n,x\n{PASSWORD},alice\nbob,y\n",
            [":3: has not as many fields", ":4: no user", ":5: is no AOR"],
        ),
        ('user\n"alice\n', [":2: unexpected end of data"]),
        ("user\n" + "a b\n" * 9, [":6: is no AOR", "and 4 more"]),
    ],
)
def test_mistakes_in_a_csv_are_told_with_file_and_line(
    tmp_path: Path, text: str, mistakes: list[str]
) -> None:
    file = tmp_path / "users.csv"
    file.write_text(text)
    with pytest.raises(click.UsageError) as caught:
        users_of_csv(str(file), "example.com", None)
    output = caught.value.format_message()
    assert PASSWORD not in output
    for mistake in mistakes:
        assert (f"{file}{mistake}" if mistake.startswith(":") else mistake) in output


def test_a_csv_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"none\.csv: No such file"):
        users_of_csv(str(tmp_path / "none.csv"), "example.com", None)
    (tmp_path / "binary.csv").write_bytes(b"user\n\xff\xfe\n")
    output = run("sip:127.0.0.1", "--csv", tmp_path / "binary.csv", "--storm", code=codes.USAGE)
    assert "is not UTF-8" in output


# -- how it ends ----------------------------------------------------------------------------------


def test_a_registrar_that_refuses_everything(registrar: Registrar) -> None:
    registrar.answer_next(403, reason="Go <b>away</b>", times=None)
    how = ("--users", "u{1..30}", "--rate", "100")
    found = summary_of(registrar.uri(), *how, code=codes.REFUSED)
    assert found["register"]["failed"] == 30
    (failure,) = found["failures"]
    assert (failure["code"], failure["error"], failure["count"]) == (403, "ForbiddenError", 30)


def test_a_wrong_password(guarded: Registrar) -> None:
    how = ("--users", "u{1..10}@example.com", "--storm")
    output = run(guarded.uri(), *how, code=codes.AUTHENTICATION, PJSIP_PY_PASSWORD="wrong one")
    assert "10, 100 %: 401 Unauthorized (WrongPasswordError)" in output
    output = run(guarded.uri(), *how, code=codes.AUTHENTICATION)
    assert "NoCredentialError" in output


def test_a_registrar_that_is_not_there_is_given_up(registrar: Registrar) -> None:
    registrar.drop_next(times=None)
    how = ("--users", "u{1..5000}", "--rate", "400", "--timeout", "0.3")
    output = run(registrar.uri(), *how, code=codes.NO_ANSWER)
    assert "nobody answers; given up" in output
    assert "no answer in time (RegistrationTimeout)" in output
    begun = re.search(r"registrations +(\d+) begun, 0 succeeded", output)
    assert begun is not None
    assert int(begun[1]) < 1000
    assert "unregistered" not in output


def test_a_registrar_that_falls_silent_is_given_up(registrar: Registrar) -> None:
    registrar.script(*[Answer() for _ in range(20)])
    registrar.drop_next(times=None)
    how = ("--users", "u{1..5000}", "--storm", "--window", "60", "--timeout", "0.6")
    output = run(registrar.uri(), *how, "--unregister-timeout", "0.3", code=codes.REFUSED)
    assert "nobody answers; given up" in output
    begun = re.search(r"registrations +(\d+) begun, 20 succeeded", output)
    assert begun is not None
    assert int(begun[1]) < 600
    assert "unregistered 0 of" in output


def test_a_connection_that_is_refused() -> None:
    port = free_port([("127.0.0.1", "tcp")])
    uri = f"sip:127.0.0.1:{port};transport=tcp"
    output = run(uri, "--users", "u{1..3}", "--storm", code=codes.NO_ANSWER)
    assert "Connection refused (TransportError)" in output


def test_a_rate_that_no_machine_can_hold(registrar: Registrar) -> None:
    how = ("--users", "u{1..50}", "--rate", "1000000", "--duration", "1", "--no-unregister")
    output = run(registrar.uri(), *how, code=codes.REFUSED)
    assert re.search(r"✗ started<95%: \S+ %", output)
    assert "the offered rate was not reached: " in output
    assert "no user was free" in output


@pytest.mark.parametrize(
    ("threshold", "judged"),
    [
        ("p50>0us", "✗ p50>0us: "),
        ("max > 0ms", "✗ max>0ms: "),
        ("rate<1000000", "✗ rate<1000000: "),
        ("errors>=0%", "✗ errors>=0%: 0 %"),
        ("refresh.p99>1s", "✗ refresh.p99>1s: there was nothing to judge"),
    ],
)
def test_a_threshold_that_cannot_be_met(registrar: Registrar, threshold: str, judged: str) -> None:
    how = ("--users", "u{1..5}", "--storm", "--fail-if", threshold, "--fail-if", "p99>20s")
    output = run(registrar.uri(), *how, code=codes.REFUSED)
    assert judged in output
    assert "✓ p99>20s: " in output


def test_errors_that_a_threshold_allows(registrar: Registrar) -> None:
    registrar.answer_next(503, times=2)
    how = ("--users", "u{1..20}", "--storm", "--fail-if", "errors>10%", "--no-unregister")
    output = run(registrar.uri(), *how, code=codes.OK)
    assert "✓ errors>10%: 10 %" in output
    assert "2, 10 %: 503 Service Unavailable (ServerError)" in output


def test_ctrl_c_shows_the_report_so_far_and_unregisters(registrar: Registrar) -> None:
    how = ("--users", "u{1..500}@example.com", "--rate", "100", "--duration", "60")
    with loading(registrar.uri(), *how) as process:
        registrar.wait_for(30, timeout=10)
        code, output = end(process)
    assert code == 128 + signal.SIGINT
    begun = re.search(r"registrations +(\d+) begun, (\d+) succeeded, 0 failed", output)
    assert begun is not None
    assert 30 <= int(begun[1]) < 500
    assert f"unregistered {begun[1]} of {begun[1]}" in output
    assert registrar.aors == []


def test_ctrl_c_is_how_a_load_without_a_duration_ends(registrar: Registrar) -> None:
    with loading(registrar.uri(), "--users", "u{1..5}", "--storm", "--keep") as process:
        registrar.wait_for(5, timeout=10)
        code, output = end(process, signal.SIGTERM)
    assert code == codes.OK
    assert "5 of 5 at the end" in output
    assert registrar.aors == []


def test_a_second_ctrl_c_ends_at_once(registrar: Registrar) -> None:
    with loading(registrar.uri(), "--users", "u{1..5}", "--storm", "--keep") as process:
        registrar.wait_for(5, timeout=10)
        registrar.drop_next(times=None)
        process.send_signal(signal.SIGINT)
        registrar.wait_for(lambda request: request.expires == 0, timeout=10)
        code, output = end(process)
    assert code == 128 + signal.SIGINT
    assert "5 begun, 5 succeeded" in output
    assert "unregistered" not in output


def test_unregistering_takes_no_longer_than_it_may(registrar: Registrar) -> None:
    registrar.drop_next(times=None, match=lambda request: request.expires == 0)
    how = ("--users", "u{1..5}", "--storm", "--unregister-timeout", "0.3")
    output = run(registrar.uri(), *how, code=codes.OK)
    assert "unregistered 0 of 5; the rest will expire" in output


def test_a_reader_that_goes_away_leaves_no_bindings(registrar: Registrar) -> None:
    how = ("--users", "u{1..20}", "--rate", "50", "--duration", "60", "--json")
    with loading(registrar.uri(), *how) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE) == codes.BROKEN_PIPE
    assert len({request.aor for request in registrar.requests}) == 20
    assert registrar.aors == []


# -- what it writes -------------------------------------------------------------------------------


def test_the_report_is_a_page_that_needs_nothing_else(guarded: Registrar, tmp_path: Path) -> None:
    guarded.answer_next(500, reason="Go <b>away</b>", times=3)
    page, figures = tmp_path / "load.html", tmp_path / "load.json"
    output = run(
        *(guarded.uri(), "--users", "u{1..10}@example.com", "--rate", "40", "--churn", "0.1"),
        *("--duration", "1.2", "--report", page, "--json-file", figures),
        code=codes.REFUSED,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    assert str(page) in output
    text = page.read_text("utf-8")
    assert text.count("<svg") == text.count("<figure>") == 7
    assert "Go &lt;b&gt;away&lt;/b&gt;" in text
    assert "<b>away" not in text
    assert PASSWORD not in text
    fetched = re.findall(r'(?:src|href)="?([^"\s>]+)|url\(([^)]+)\)|@import', text)
    assert {target for pair in fetched for target in pair if target and target[0] != "#"} == set()
    assert "<script" not in text
    found = json.loads(figures.read_text())
    assert found["failures"][0]["reason"] == "Go <b>away</b>"
    assert found["register"]["failed"] == 3
    assert [each["threshold"] for each in found["thresholds"]] == list(DEFAULTS)
    for percent in ("p50", "p99", "max"):
        assert 0 < found["register"]["latency"][percent] < 10
    assert found["plan"] == "10 users, 40 a second, each for 0.1 s, for 1.2 s"


def test_what_the_json_lines_add_up_to(registrar: Registrar) -> None:
    how = ("--users", "u{1..80}", "--rate", "40", "--json", *LENIENT)
    output = run(registrar.uri(), *how, code=codes.OK)
    records = [json.loads(line) for line in output.splitlines()]
    progress = [record for record in records if record["event"] == "progress"]
    assert [record["event"] for record in records[len(progress) :]] == ["summary", "end"]
    assert len(progress) >= 2
    before, number = 0.0, 0.0
    for record in progress:
        number += record["ok"] * (record["at"] - before)
        before = record["at"]
    assert math.isclose(number, 80, rel_tol=0.15)
    assert progress[-1]["registered"] == 80
    assert records[-1]["unregistered"] == 80


def test_a_terminal_shows_how_it_goes(registrar: Registrar) -> None:
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal ({error}): mount -t devpts devpts /dev/pts")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    registrar.answer_next(486, reason="Busy \x1b[2J Here", times=1)
    how = ("--users", "u{1..20}", "--rate", "10", "--duration", "60")
    process = subprocess.Popen(
        [*COMMAND, registrar.uri(), *how],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=environment(TERM="xterm-256color"),
    )
    seen = ""
    try:
        while "in flight" not in seen:
            seen += os.read(ours, 65536).decode("utf-8", "replace")
        os.write(ours, b"\x03")
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 65536):
                seen += data.decode("utf-8", "replace")
        assert process.wait(DEADLINE) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "Traceback" not in leaks.output(seen)
    assert re.search(r"begun.*\d+ of 600", seen)
    assert "Busy \\x1b[2J Here" in seen
    assert "\x1b[2J" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is back


# -- usage ----------------------------------------------------------------------------------------

USERS = ("--users", "u{1..3}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say who registers"),
        ((*USERS, "--csv", "x", "--storm"), "say who registers"),
        (USERS, "say how fast"),
        ((*USERS, "--storm", "--rate", "5"), "say how fast"),
        ((*USERS, "--rate", "0"), "--rate"),
        ((*USERS, "--rate", "nan"), "'nan' is not a number"),
        ((*USERS, "--storm", "--duration", "inf"), "--duration"),
        ((*USERS, "--ramp", "1", "0", "5"), "--ramp"),
        ((*USERS, "--storm", "--keep", "--churn", "1"), "--keep goes with neither"),
        ((*USERS, "--storm", "--keep", "--fresh"), "--keep goes with neither"),
        ((*USERS, "--storm", "--window", "0"), "--window"),
        ((*USERS, "--storm", "--fail-if", "p99>5"), "METRIC OP VALUE"),
        ((*USERS, "--storm", "--fail-if", "started<95%"), "--storm offers no rate"),
        ((*USERS, "--storm", "--source", "here"), "ADDRESS:PORT"),
        ((*USERS, "--storm", "--source", "127.0.0.1:99999"), "up to 65535"),
        ((*USERS, "--storm", "--source", "192.0.2.7"), "--source 192.0.2.7: "),
        ((*USERS, "--storm", "--expires", "0"), "expires must be"),
        ((*USERS, "--storm", "--timeout", "-1"), "timeout must be"),
        ((*USERS, "--storm", "--header", "X"), "Name: value"),
        ((*USERS, "--storm", "--transport", "tls", "--ca-file", "/none"), "ca_file"),
        ((*USERS, "--storm", "--report", "/none/x.html"), "No such file"),
        (("--users", "a b", "--storm"), "is not a SIP URI"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        load.main(["sip:127.0.0.1", *arguments], standalone_mode=False)
    assert message in caught.value.format_message()


def test_a_registrar_that_is_no_uri() -> None:
    output = run("example.com", *USERS, "--storm", code=codes.USAGE)
    assert "Error: REGISTRAR: 'example.com' is not a SIP URI" in output


@pytest.mark.parametrize(
    ("missing", "arguments"), [("hdrh", ()), ("matplotlib", ("--report", "x.html"))]
)
def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, missing: str, arguments: tuple[str, ...]
) -> None:
    program = (
        f"import sys; sys.modules['{missing}'] = None\n"
        f"sys.argv[1:] = {['load', 'sip:127.0.0.1', *USERS, '--storm', *arguments]!r}\n"
        "import pjsip_py.cli as c; c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=tmp_path,
    )
    assert done.returncode == codes.USAGE
    assert f"load needs the package {missing}" in done.stderr
    assert "pip install 'pjsip-py[load]'" in done.stderr
