# SPDX-License-Identifier: GPL-3.0-or-later
"""The conformance suite: it passes what does right, and sees what is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.kamailio import USERS, Kamailio
from servers.process import free_port
from wrong_registrars import RIGHT, WRONG, Wrong, incoming, outgoing, picky

import pjsip_py as pjsip
from pjsip_py.cli import app
from pjsip_py.testing import Answer, Registrar
from pjsip_py.testing.conformance import (
    NoAuthentication,
    NoRegistrar,
    Refused,
    Report,
    Runner,
    Status,
    Target,
    all_checks,
    html,
    junit,
    run,
    select,
)

AOR = "sip:alice@example.com"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "conformance.md"

#: They wait for something: run only where it matters.
SLOW = {"expiry.lapses", "method.stray-ack", "malformed.stray-response"} | {
    f"malformed.no-{each}" for each in ("from", "to", "call-id", "cseq", "via")
}

#: What the embedded registrar lacks unless it is told otherwise.
LACKS = {"auth.info", "auth.bearer", "method.options", "transaction.merged"}


def target_of(registrar: Registrar, **changes: Any) -> Target:
    """The suite's target for an embedded registrar."""
    options: dict[str, Any] = {
        "registrar": registrar.uri("udp"),
        "aor": AOR,
        "password": "secret",
        "timeout": 0.5,
        "transports": registrar.protocols,
    }
    if "tls" in registrar.protocols:
        options["tls_port"] = registrar.port("tls")
    return Target(**{**options, **changes})


def of(report: Report, status: Status) -> set[str]:
    return {each.check.id for each in report.results if each.status is status}


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(**RIGHT) as server:
        yield server


# -- what is right --------------------------------------------------------------------------------


def test_the_embedded_registrar_passes() -> None:
    with Registrar(**{**RIGHT, "protocols": ("udp", "tcp", "tls")}) as server:
        report = run(target_of(server, ca_file=str(server.ca_file), timeout=2))
        assert [(each.check.id, each.reason) for each in report.failed] == []
        assert of(report, Status.NOT_SUPPORTED) == LACKS
        assert of(report, Status.NOT_APPLICABLE) == {"auth.several-realms", "expiry.too-brief"}
        assert report.left == []
        assert server.aors == []
    assert len(report.results) == len(all_checks()) > 60


def test_each_check_names_its_section() -> None:
    for check in all_checks():
        assert check.title.endswith("."), check.id
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*\.[a-z0-9]+(-[a-z0-9]+)*", check.id)
        for section in check.sections:
            assert re.fullmatch(r"RFC \d{4} §\d+(\.\d+)*( step \d)?", section), check.id


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG, ids=[each.name for each in WRONG])
def test_a_wrong_registrar_is_seen(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, thing in wrong.patches.items():
        monkeypatch.setattr(name, thing)
    server = Registrar(**{**RIGHT, **wrong.options})
    if wrong.change is not None:
        wrong.change(server)
    with server:
        options = dict(wrong.target)
        if "tls" in server.protocols and "tls" not in wrong.options:
            options["ca_file"] = str(server.ca_file)
        skip = sorted(SLOW - wrong.expected.keys())
        report = run(target_of(server, **options), only=wrong.patterns, skip=skip)
    found = {
        each.check.id: each.status.value
        for each in report.results
        # One thing that is wrong may leave others that cannot be looked at.
        if each.check.id in wrong.expected or each.status is not Status.NOT_APPLICABLE
    }
    usual = {name: "not supported" if name in LACKS else "pass" for name in found}
    assert found == {**usual, **wrong.expected}


def test_every_check_is_seen_to_see_something() -> None:
    seen = {
        name for each in WRONG for name, status in each.expected.items() if status != "pass"
    } | LACKS
    assert {each.id for each in all_checks()} - seen == set()


# -- bad weather ----------------------------------------------------------------------------------


def _lossy(every: int) -> Callable[[Registrar], None]:
    """Loses one in so many datagrams, on either way."""
    count = 0

    def lost(data: bytes) -> bytes | None:
        nonlocal count
        count += 1
        return None if count % every == 0 else data

    return incoming(lost)


def test_messages_that_are_lost_are_no_failures() -> None:
    server = Registrar(**{**RIGHT, "protocols": ("udp",)})
    _lossy(5)(server)
    wanted = {"bindings.add", "bindings.q", "star.removes-all", "order.gap"}
    with server:
        report = run(target_of(server, timeout=2), only=wanted)
        assert of(report, Status.PASS) == wanted
        assert server.stats().retransmissions + server.stats().requests > 20
        assert server.aors == []


def test_a_slow_registrar_is_none_that_fails(registrar: Registrar) -> None:
    # More than T1, so each request is sent twice.
    registrar.script(Answer(delay=0.6), times=None, match=lambda request: bool(request.contacts))
    report = run(target_of(registrar, timeout=3, transports=("udp",)), only=["bindings.add"])
    assert of(report, Status.PASS) == {"bindings.add"}


def test_bindings_of_others_stay(registrar: Registrar) -> None:
    with pjsip.Endpoint() as ep:
        account = ep.add_account(
            AOR, registrar=registrar.uri(), credentials=pjsip.Credentials("alice", "secret")
        )
        account.register().result(timeout=5)
        (before,) = registrar.bindings(AOR)
        report = run(target_of(registrar), only=["star", "bindings"])
        assert of(report, Status.FAIL) == set()
        assert of(report, Status.NOT_APPLICABLE) == {
            "bindings.none",
            *(each.id for each in select(["star"])),
        }
        assert [each.uri for each in registrar.bindings(AOR)] == [before.uri]
        account.unregister().result(timeout=5)


def test_a_registrar_that_dies_ends_the_run(registrar: Registrar) -> None:
    runner = Runner(target_of(registrar))
    runner.open()
    registrar.stop()
    with pytest.raises(NoRegistrar, match=r"answers no more since bindings\.add"):
        runner.run_check(select(["bindings.add"])[0])
    assert runner.report.broken_off
    assert runner.report.failed[0].check.id == "bindings.add"
    assert 'errors="1"' in junit(runner.report)
    assert "answers no more" in html(runner.report)


def test_nobody_there() -> None:
    port = free_port([("127.0.0.1", "udp"), ("127.0.0.1", "tcp")])
    with pytest.raises(NoRegistrar, match=f"no answer from sip:127.0.0.1:{port}"):
        run(Target(registrar=f"sip:127.0.0.1:{port}", user="alice", timeout=0.5))


def test_no_password_and_a_wrong_one(registrar: Registrar) -> None:
    with pytest.raises(NoAuthentication, match="wants a password"):
        run(target_of(registrar, password=None))
    with pytest.raises(NoAuthentication, match="does not take the credentials of 'alice'"):
        run(target_of(registrar, password="not the password"))


def test_a_registrar_that_serves_nobody(registrar: Registrar) -> None:
    with pytest.raises(Refused, match="a fetch of its bindings gets 404 Not Found, a registration"):
        run(target_of(registrar, aor="sip:alice@example.org"))


def test_without_authentication() -> None:
    with Registrar(**{**RIGHT, "users": None}) as server:
        report = run(target_of(server, password=None), only=["bindings.add", "auth"])
    assert of(report, Status.PASS) == {"bindings.add"}
    assert of(report, Status.NOT_APPLICABLE) == {each.id for each in select(["auth"])}


def test_one_contact_only() -> None:
    server = Registrar(**RIGHT)
    picky("^Contact: .*^Contact: ", 403)(server)
    with server:
        report = run(target_of(server), only=["bindings"])
    assert of(report, Status.FAIL) == {"bindings.remove-and-add"}
    assert of(report, Status.NOT_SUPPORTED) == {"bindings.several"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"registrar": "127.0.0.1"}, "must begin with sip:"),
        ({"registrar": "sip:127.0.0.1"}, "give user or aor"),
        ({"registrar": "sip:127.0.0.1", "user": "a", "timeout": 0}, "timeout must be 0.5 to 60 s"),
        ({"registrar": "sip:127.0.0.1", "user": "a", "transports": ("sctp",)}, "none of udp, tcp"),
        ({"registrar": "sip:127.0.0.1", "user": "a", "tls_port": 0}, "between 1 and 65535"),
        ({"registrar": "sip:127.0.0.1", "user": "a", "ca_file": "/no/such"}, "No such file"),
        ({"registrar": "sip:127.0.0.1", "aor": "alice"}, "aor"),
    ],
)
def test_a_target_that_is_none(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Target(**options)


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(pjsip.ConfigError, match=r"no check is called 'expiry\.x'"):
        select(["expiry.x"])
    assert {each.group for each in select(["expiry", "auth.replay*"])} == {"expiry", "auth"}
    assert select(["star"], skip=["star.*"]) == ()


# -- reports --------------------------------------------------------------------------------------


@pytest.fixture
def failed_report(registrar: Registrar) -> Report:
    """One failure, with the password sent on the way and markup in what came back."""
    wrong = outgoing(lambda code, data: data.replace(b"Server: ", b"Server: <b>&\x1b"))
    wrong(registrar)
    picky("^To: .*;tag=", 500)(registrar)
    return run(target_of(registrar), only=["aor", "auth.info"])


def test_html(failed_report: Report) -> None:
    page = html(failed_report)
    assert "aor.to-tag" in page
    assert 'href="https://www.rfc-editor.org/rfc/rfc3261#section-8.1.1.2"' in page
    assert page.count("<section") == 2  # a ladder of the failure, one of what is not supported
    assert "<b>&\x1b" not in page
    assert "&lt;b&gt;&amp;" in page
    assert not re.search(r"src=|<link|@import|url\(", page)


def test_junit(failed_report: Report) -> None:
    suite = ET.fromstring(junit(failed_report)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "500 Server Internal Error" in (failure.text or "")
    assert "see: RFC 3261 §8.1.1.2" in (failure.text or "")


def test_no_secrets_in_reports(failed_report: Report) -> None:
    for text in (html(failed_report), junit(failed_report), repr(failed_report)):
        assert "secret" not in text
        assert not re.search(r"response=.{0,6}[0-9a-f]{16}", text)


# -- the command ----------------------------------------------------------------------------------


def command(
    *arguments: str, password: str | None = "secret", **options: Any
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PJSIP_PY_PASSWORD", "COLUMNS")}
    if password is not None:
        environment["PJSIP_PY_PASSWORD"] = password
    return subprocess.run(
        [sys.executable, "-m", "pjsip_py.cli", "conformance", *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        env=environment,
        stdin=subprocess.DEVNULL,
        **options,
    )


def test_the_command(registrar: Registrar, tmp_path: Path) -> None:
    page, xml = tmp_path / "report.html", tmp_path / "report.xml"
    done = command(
        registrar.uri(), "--aor", AOR, "--only", "bindings",
        "--html", str(page), "--junit", str(xml),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^all +25 +· +· +·", done.stdout, re.M)
    assert "<h1>Conformance of sip:" in page.read_text("utf-8")
    assert ET.parse(xml).getroot().get("failures") == "0"


def test_the_command_and_a_failure() -> None:
    with Registrar(**{**RIGHT, "own_aor": False}) as server:
        done = command(server.uri(), "--aor", AOR, "--only", "auth.other*")
        lines = command(server.uri(), "--aor", AOR, "--only", "auth.other*", "--json").stdout
    assert done.returncode == 1
    assert re.search(r"auth\.other-aor +✗ fail: registering", done.stdout)
    assert "RFC 3261 §10.3 step 4" in done.stdout
    records = [json.loads(line) for line in lines.splitlines()]
    assert [each.get("status") for each in records[:-1]] == ["pass", "pass", "fail"]
    assert records[2]["messages"][0]["text"].startswith("REGISTER sip:example.com SIP/2.0\r\n")
    assert (records[-1]["event"], records[-1]["pass"], records[-1]["fail"]) == ("summary", 2, 1)


def test_the_command_lists() -> None:
    done = command("--list", "--json")
    listed = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert listed == [each.id for each in all_checks()]
    assert f"{len(listed)} checks" in command("--list").stdout


@pytest.mark.parametrize(
    ("arguments", "password", "code", "says"),
    [
        (["{uri}", "--aor", AOR], "wrong", 4, "does not take the credentials"),
        (["{uri}", "--aor", AOR], None, 4, "give the password by --password-file"),
        (["{free}", "--user", "alice", "--timeout", "0.5"], "x", 3, "no answer from"),
        (["{uri}"], "x", 2, "give --user or --aor"),
        ([], "x", 2, "name the registrar"),
        (["sip:alice:secret@127.0.0.1", "--user", "a"], "x", 2, "there for all to see"),
        (["{uri}", "--user", "a", "--only", "nix"], "x", 2, "--list shows them"),
        (["{uri}", "--user", "a", "--html", "/no/such/place"], "x", 2, "cannot be written"),
        (["{uri}", "--user", "a", "--timeout", "900"], "x", 2, "timeout must be 0.5 to 60 s"),
    ],
)
def test_the_command_and_its_exit_codes(
    registrar: Registrar,
    arguments: list[str],
    password: str | None,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port([("127.0.0.1", "udp"), ("127.0.0.1", "tcp")])
    values = {"uri": registrar.uri(), "free": f"sip:127.0.0.1:{port}"}
    given = [each.format(**values) for each in arguments]
    monkeypatch.setattr(sys, "argv", ["pjsip-py", "conformance", *given])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.delenv("PJSIP_PY_PASSWORD", raising=False)
    if password is not None:
        monkeypatch.setenv("PJSIP_PY_PASSWORD", password)
    assert app.run() == code
    assert says in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_shows_what_was_done(registrar: Registrar, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pjsip_py.cli", "conformance", registrar.uri(), "--aor", AOR),
            *("--only", "expiry", "--html", str(page), "--all"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PJSIP_PY_PASSWORD": "secret"},
    )
    try:
        registrar.wait_for(lambda request: request.expires == 1, timeout=20)
        registrar.wait_for(  # the last check waits for its binding to expire
            lambda request: any("-016-" in each for each in request.contact_values), timeout=20
        )
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGINT
    assert re.search(r"expiry\.listed +✓ pass", out)
    assert "interrupted in expiry.lapses, after 15 of 16 checks" in err
    assert "interrupted in expiry.lapses" in page.read_text("utf-8")
    assert registrar.aors == []


# -- pytest ---------------------------------------------------------------------------------------


def test_the_same_with_pytest(tmp_path: Path) -> None:
    def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--pyargs", "pjsip_py.testing.conformance"),
                *("-v", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=40,
            cwd=tmp_path,
            env={**os.environ, "PJSIP_PY_PASSWORD": "secret", "COLUMNS": "200"},
        )

    page = tmp_path / "report.html"
    with Registrar(**{**RIGHT, "own_aor": False, "protocols": ("udp",)}) as server:
        done = pytest_run(
            f"--sip-registrar={server.uri()}", "--sip-aor", AOR, "--sip-conformance-html",
            str(page), "-k", "bindings.add or auth.other-aor or auth.bearer or stack",
        )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"test_conformance\[bindings\.add\] PASSED", done.stdout)
    assert re.search(r"test_conformance\[stack\.tcp\] SKIPPED \(not applicable: TCP", done.stdout)
    assert re.search(r"test_conformance\[auth\.bearer\] SKIPPED \(not supported", done.stdout)
    assert re.search(r"test_conformance\[auth\.other-aor\] FAILED", done.stdout)
    assert "see: RFC 3261 §10.3 step 4" in done.stdout
    assert "auth.other-aor" in page.read_text("utf-8")
    none = pytest_run()
    assert none.returncode == 4
    assert "give --sip-registrar=sip:host" in none.stdout + none.stderr


# -- Kamailio -------------------------------------------------------------------------------------


#: Whose answers the page shows; another version may do better.
DOCUMENTED = (5, 6)


def documented() -> dict[str, set[str]]:
    """The checks that docs/conformance.md says Kamailio fails or does not support."""
    text = PAGE.read_text("utf-8")
    failing = re.findall(r"^\| `([a-z-]+\.[a-z0-9-]+)` \|", text, re.M)
    lacking = re.search(r"Not supported: (.*?)\.\n\n", text, re.S)
    assert lacking is not None
    return {"fail": set(failing), "not supported": set(re.findall(r"`([^`]+)`", lacking[1]))}


def test_kamailio_does_as_is_documented(kamailio: Kamailio) -> None:
    report = run(
        Target(
            registrar=kamailio.uri(),
            aor=AOR,
            password=USERS["alice"],
            tls_port=kamailio.port("tls"),
            ca_file=str(kamailio.certs.ca_file),
            transports=("udp", "tcp", "tls"),
            timeout=2,
        )
    )
    assert (report.left, report.broken_off) == ([], "")
    assert len(of(report, Status.PASS)) > 100
    if kamailio.version == DOCUMENTED:
        wanted = documented()
        assert of(report, Status.FAIL) == wanted["fail"]
        assert of(report, Status.NOT_SUPPORTED) == wanted["not supported"]
