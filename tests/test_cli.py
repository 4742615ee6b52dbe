# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py``, run as a user runs it, against the embedded registrar."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import leaks
import pytest

import pjsip_py as pjsip
from pjsip_py import pcap
from pjsip_py.cli import app, codes
from pjsip_py.cli.screen import printable
from pjsip_py.testing import Registrar

AOR = "sip:alice@example.com"
PASSWORD = "correct horse battery"
DEADLINE = 30.0  # s for any command to end

COMMAND = [sys.executable, "-W", "error", "-m", "pjsip_py.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PJSIP_PY_")}
    for name in ("FORCE_COLOR", "NO_COLOR"):
        kept.pop(name, None)
    return kept | {"PYTHONUNBUFFERED": "1"} | more


def run(*arguments: str, code: int, stdin: str = "", **env: str) -> str:
    """Both outputs of the command, which must end with *code* and show no password."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**env),
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert PASSWORD not in output
    assert "\x1b" not in output
    return output


@contextlib.contextmanager
def running(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**env),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """The output up to the first line with *wanted*; pytest's own time limit ends a wait."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if wanted in line:
            return leaks.output(seen)
    pytest.fail(f"no {wanted!r} in:\n{seen}")


def end(process: subprocess.Popen[str], signum: int) -> tuple[int, str]:
    process.send_signal(signum)
    output, _ = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in output
    return process.returncode, output


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(("udp", "tcp"), users={"alice": PASSWORD}) as server:
        yield server


@pytest.fixture
def open_registrar() -> Iterator[Registrar]:
    """One that lets anyone register."""
    with Registrar() as server:
        yield server


# -- help, info, what is not installed ------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["", "demo", "register", "keep", "load", "registrar", "ladder", "info"]
)
def test_help(command: str) -> None:
    output = run(*([command] if command else []), "--help", code=0)
    assert "Usage: pjsip-py" in output
    assert ("Exit codes:" in output) == (command in ("register", "keep", "load", "ladder"))


def test_without_arguments_it_shows_its_help() -> None:
    assert "register" in run(code=codes.USAGE)


def test_version() -> None:
    assert run("--version", code=0).split() == ["pjsip-py,", "version", pjsip.__version__]


def test_info() -> None:
    assert "pjsip_version: 2.17" in run("info", code=0)
    about = json.loads(run("info", "--json", code=0))
    assert about["pjsip_version"] == "2.17"
    assert about["pjsip_py_version"] == pjsip.__version__
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    done = python(
        f"import sys; sys.modules['{missing}'] = None\nimport pjsip_py.cli as c; c.main()"
    )
    assert done.returncode == codes.USAGE
    assert done.stderr == f"pjsip-py needs the package {missing}: pip install 'pjsip-py[cli]'\n"


def test_without_sipmessage_there_is_no_registrar() -> None:
    done = python(
        "import sys; sys.modules['sipmessage'] = None; sys.argv[1:] = ['demo']\n"
        "import pjsip_py.cli as c; c.main()"
    )
    assert done.returncode == codes.USAGE
    assert "pip install 'pjsip-py[testing]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_library_needs_neither_click_nor_rich() -> None:
    done = python("import sys, pjsip_py; print({'click', 'rich', 'sipmessage'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


# -- demo -----------------------------------------------------------------------------------------


def test_demo() -> None:
    start = time.monotonic()
    output = run("demo", code=0)
    assert time.monotonic() - start < 15
    summary = output.strip().splitlines()[-1]
    assert summary.endswith(
        "All as expected: registered, refreshed, refused, no connection, no answer, unregistered"
    )
    for text in ("200 OK", "challenge SHA-256", "WrongPasswordError: 401", "RegistrationTimeout"):
        assert text in output


def test_demo_ends_at_once_with_ctrl_c() -> None:
    with running("demo") as process:
        read_until(process, "next refresh in")
        code, _ = end(process, signal.SIGINT)
    assert code == 128 + signal.SIGINT


# -- register: exit codes -------------------------------------------------------------------------


def test_once_leaves_the_binding(registrar: Registrar) -> None:
    output = run(
        "register",
        AOR,
        "--registrar",
        registrar.uri(),
        "--once",
        code=codes.OK,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    assert "200 OK: registered for 300 s" in output
    assert "SHA-256" in output
    [binding] = registrar.bindings(AOR)
    assert f"bound to {binding.uri} for 300 s" in output
    assert [request.answered for request in registrar.requests] == [401, 200]


def test_once_with_unregister(registrar: Registrar, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\nnot this line\n")
    output = run(
        "register",
        AOR,
        "--registrar",
        registrar.uri("tcp"),
        "--password-file",
        str(secret),
        "--once",
        "--unregister",
        code=codes.OK,
    )
    assert "200 OK: unregistered" in output
    assert registrar.bindings(AOR) == []
    assert {request.protocol for request in registrar.requests} == {"tcp"}


def test_password_from_standard_input(registrar: Registrar) -> None:
    run(
        "register",
        "sip:someone@example.com",
        "--user=alice",
        f"--registrar={registrar.uri()}",
        "--password-file=-",
        "--once",
        code=codes.OK,
        stdin=PASSWORD + "\n",
    )
    assert registrar.requests[-1].authorization["username"] == "alice"  # type: ignore[index]


def test_wrong_password(registrar: Registrar) -> None:
    output = run(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        code=codes.AUTHENTICATION,
        PJSIP_PY_PASSWORD=PASSWORD[:-1],
    )
    assert "WrongPasswordError: 401 Unauthorized" in output
    assert "Hint: check user name, password and realm" in output


def test_no_password_and_nobody_to_ask(registrar: Registrar) -> None:
    output = run("register", AOR, f"--registrar={registrar.uri()}", code=codes.AUTHENTICATION)
    assert "NoCredentialError: 401 Unauthorized" in output
    assert "Hint: give the password by --password-file or PJSIP_PY_PASSWORD" in output


def test_credential_for_another_realm(registrar: Registrar) -> None:
    output = run(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        "--realm=example.org",
        code=codes.AUTHENTICATION,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    assert "for realm 'example.org' only" in output


def test_min_algorithm() -> None:
    with Registrar(users={"alice": PASSWORD}, algorithms=("MD5",)) as server:
        output = run(
            "register",
            AOR,
            f"--registrar={server.uri()}",
            "--min-algorithm=SHA-256",
            code=codes.AUTHENTICATION,
            PJSIP_PY_PASSWORD=PASSWORD,
        )
        assert "DowngradeError" in output
        assert all(request.authorization is None for request in server.requests)


@pytest.mark.parametrize(
    ("code", "error"), [(403, "ForbiddenError"), (404, "NotFoundError"), (503, "ServerError")]
)
def test_refused(open_registrar: Registrar, code: int, error: str) -> None:
    open_registrar.answer_next(code, times=None)
    output = run("register", AOR, f"--registrar={open_registrar.uri()}", code=codes.REFUSED)
    assert f"Error: {error}: {code} " in output
    assert "Hint: " in output


def test_no_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        output = run(
            "register", AOR, f"--registrar={server}", "--timeout=0.7", code=codes.NO_ANSWER
        )
        assert time.monotonic() - start < 5
    assert "RegistrationTimeout" in output
    assert "Hint: no answer" in output


def test_no_connection() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"sip:127.0.0.1:{closed.getsockname()[1]}"
        output = run(
            "register", AOR, f"--registrar={server}", "--transport=tcp", code=codes.NO_ANSWER
        )
    assert "TransportError: Connection refused" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alice@example.com"], "must begin with sip:"),
        (["sip:example.com"], "has no user part"),
        ([AOR, "--registrar=sip:bob@example.com"], "has a user part"),
        ([AOR, "--expires=0"], "expires must be 1"),
        ([AOR, "--timeout=-1"], "timeout must be"),
        ([AOR, "--header=X-No-Colon"], "Name: value"),
        ([AOR, "--header=Call-ID: mine"], "PJSIP's to write"),
        ([AOR, "--contact=nonsense"], "contact"),
        ([AOR, "--transport=tcp", "--registrar=sips:example.com"], "asks for tls"),
        ([AOR, "--transport=tcp", "--registrar=sip:a.example;transport=udp"], "asks for udp"),
        ([AOR, "--ca-file=/nowhere.pem", "--transport=tls"], "/nowhere.pem"),
        ([AOR, "--insecure"], "tls="),
        ([AOR, "--unregister"], "--once"),
        ([AOR, "--password-file=/nowhere"], "/nowhere"),
        ([AOR, "--password=secret"], "No such option"),
        ([f"sip:alice:{PASSWORD}@example.com"], "there for all to see"),
        ([], "Missing argument"),
        ([AOR, "--no-such-option"], "No such option"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    assert message in run("register", *arguments, code=codes.USAGE)


def test_unknown_command() -> None:
    assert "No such command" in run("frobnicate", code=codes.USAGE)


# -- register: what it sends and shows ------------------------------------------------------------


def test_options_reach_the_wire(open_registrar: Registrar) -> None:
    run(
        "register",
        AOR,
        "--registrar=sip:example.com",
        f"--route={open_registrar.uri()};lr",
        "--contact=sip:alice@192.0.2.1",
        "--contact=<sip:alice@192.0.2.2>;q=0.5",
        "--header=X-Test: one: two",
        "--expires=77",
        "--once",
        code=codes.OK,
    )
    [request] = open_registrar.requests
    assert request.uri == "sip:example.com"
    assert [contact.uri for contact in request.contacts] == [
        "sip:alice@192.0.2.1",
        "sip:alice@192.0.2.2",
    ]
    assert request.headers.get("X-Test") == "one: two"
    assert request.headers.get("Expires") == "77"


def test_json(registrar: Registrar) -> None:
    output = run(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        "--once",
        "--json",
        "--trace",
        code=codes.OK,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    lines = records(output)
    assert len(lines) == len(output.splitlines())
    assert {line["event"] for line in lines} == {
        "account_state",
        "transport_state",
        "reg_started",
        "message",
        "reg_state",
    }
    state = lines[-1]
    [binding] = state.pop("bindings")
    assert binding["uri"] == registrar.bindings(AOR)[0].uri
    assert binding["expires"] == 300
    assert state.pop("time") == pytest.approx(time.time(), abs=DEADLINE)
    assert state.pop("local_address") == state.pop("mapped_address")
    assert 0 < state.pop("refresh_in") < 300
    assert state == {
        "event": "reg_state",
        "aor": AOR,
        "registrar": registrar.uri(),
        "code": 200,
        "reason": "OK",
        "registered": True,
        "expires": 300,
        "renewal": False,
        "unregister": False,
        "local": False,
        "algorithm": "SHA-256",
        "offered": ["SHA-256"],
        "attempt": 1,
        "requests": 2,
        "probe": False,
        "reg_id": 0,
        "min_expires": None,
        "retry_in": None,
        "retry_after": None,
        "error": None,
    }


def test_json_of_a_failure(open_registrar: Registrar) -> None:
    open_registrar.answer_next(503, headers={"Retry-After": "7"}, times=None)
    output = run("register", AOR, f"--registrar={open_registrar.uri()}", "--json", code=1)
    state = records(output)[-1]
    assert (state["code"], state["retry_after"], state["registered"]) == (503, 7, False)
    assert state["error"]["type"] == "ServerError"
    assert state["error"]["hint"]


def test_trace_hides_the_digest(registrar: Registrar) -> None:
    output = run(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        "--once",
        "--trace",
        "--verbose",
        code=codes.OK,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    credentials = registrar.requests[-1].authorization
    assert credentials is not None
    assert "    Authorization: Digest username" in output
    assert credentials["response"] not in output
    assert credentials["cnonce"] not in output


# -- --ladder, --pcap, ladder ---------------------------------------------------------------------


def test_messages_into_a_picture_and_a_capture(registrar: Registrar, tmp_path: Path) -> None:
    page, capture = tmp_path / "out.html", tmp_path / "out.pcap"
    output = run(
        "register",
        AOR,
        f"--registrar={registrar.uri('tcp')}",
        *("--once", "--unregister", f"--ladder={page}", f"--pcap={capture}"),
        code=codes.OK,
        PJSIP_PY_PASSWORD=PASSWORD,
    )
    assert "Via:" not in output  # that is --trace's
    messages = list(pcap.read(capture))
    assert [each.start_line.split()[each.start_line.startswith("SIP/")] for each in messages] == [
        *("REGISTER", "401", "REGISTER", "200"),
        *("REGISTER", "200"),
    ]
    text = page.read_text("utf-8")
    for wanted in ("register sip:alice@example.com", "401 Unauthorized", "unregister", "TCP"):
        assert wanted in text
    digests = re.findall(rb'(?:response|cnonce)="([^"]+)"', registrar.requests[-1].data)
    assert len(digests) == 2
    for digest in digests:
        assert digest.decode() not in text
        assert digest not in capture.read_bytes()
    # And the capture as a picture.
    output = run("ladder", str(capture), "--name", "127.0.0.1=me", code=codes.OK)
    assert output == f"{tmp_path / 'out.html'}: 6 messages\n"
    assert "401 Unauthorized" in page.read_text("utf-8")


def test_a_failure_is_drawn(tmp_path: Path) -> None:
    page, capture = tmp_path / "out.svg", tmp_path / "out.pcap"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        options = ["--timeout=0.7", f"--ladder={page}", f"--pcap={capture}", "--json"]
        run("register", AOR, f"--registrar={server}", *options, code=codes.NO_ANSWER)
    text = page.read_text("utf-8")
    for wanted in ("no answer", "sent again (1)", "RegistrationTimeout", "REGISTER"):
        assert wanted in text
    assert len(list(pcap.read(capture))) == 2


def test_ctrl_c_leaves_whole_files(open_registrar: Registrar, tmp_path: Path) -> None:
    page, capture = tmp_path / "out.html", tmp_path / "out.pcap"
    server = f"--registrar={open_registrar.uri()}"
    with running("register", AOR, server, f"--ladder={page}", f"--pcap={capture}") as process:
        read_until(process, "registered for")
        assert len(list(pcap.read(capture))) == 2  # there is no need to wait for its end
        assert end(process, signal.SIGINT)[0] == codes.OK
    assert len(list(pcap.read(capture))) == 4
    assert page.read_text("utf-8").endswith("</html>\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ladder=out.pdf"], "--ladder out.pdf: a ladder is written as .html or .svg, not .pdf."),
        (["--ladder=/no/out.svg"], "--ladder /no/out.svg: No such file or directory."),
        (["--pcap=/no/out"], "--pcap /no/out: No such file or directory."),
        (["--pcap=/dev/full"], "--pcap /dev/full: No space left on device."),
        (["--pcap=x.svg", "--ladder=x.svg"], "one file cannot be both"),
    ],
)
def test_files_that_cannot_be_written_are_told_before_anything_is_sent(
    open_registrar: Registrar, options: list[str], message: str
) -> None:
    server = f"--registrar={open_registrar.uri()}"
    assert message in run("register", AOR, server, "--once", *options, code=codes.USAGE)
    assert open_registrar.requests == []


def test_a_disk_that_is_full_ends_the_recording_only(
    open_registrar: Registrar, tmp_path: Path
) -> None:
    page, capture = tmp_path / "out.html", tmp_path / "out.pcap"
    arguments = ["register", AOR, f"--registrar={open_registrar.uri()}", "--once", "--unregister"]
    files = [f"--ladder={page}", f"--pcap={capture}"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *COMMAND, *arguments, *files],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
    )
    assert done.returncode == codes.OUTPUT_FAILED
    assert "200 OK: unregistered" in done.stdout
    for option, path in (("ladder", page), ("pcap", capture)):
        assert done.stderr.count(f"Error: --{option} {path}: File too large") == 1
    assert "Traceback" not in done.stderr


@pytest.fixture
def ladder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``pjsip-py ladder`` in this process; both its outputs."""

    def run_here(*arguments: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["pjsip-py", "ladder", *arguments])
        assert app.run() == code
        return "".join(capsys.readouterr())

    return run_here


def test_a_capture_and_a_part_of_it(tmp_path: Path, ladder: Callable[..., str]) -> None:
    path, output = tmp_path / "x.pcap", tmp_path / "out.svg"
    with pcap.PcapWriter(path) as writer:
        for number in range(5):
            text = f"OPTIONS sip:x SIP/2.0\r\nCall-ID: {number}\r\nTo: <sip:{number % 2}@x>\r\n\r\n"
            ends = "192.0.2.1:5060", "192.0.2.2:5060"
            writer.write(pcap.CapturedMessage(number, "udp", *ends, text.encode()))
    for options, told in (
        ([], "5 messages, 4 failures\n"),
        (["--call-id=3"], "1 message\n"),
        (["--aor=1@x"], "2 messages, 1 failure\n"),
        (["--limit=2"], "2 messages, 1 failure; 3 older ones are left out"),
    ):
        output.unlink(missing_ok=True)
        shown = ladder(str(path), "-o", str(output), "--title=piped", *options, code=codes.OK)
        assert shown.startswith(f"{output}: {told}")
        assert "piped" in output.read_text("utf-8")
    with open(path, "rb") as file:
        arguments = [*COMMAND, "ladder", "-", "-o", str(tmp_path / "stdin.html")]
        subprocess.run(arguments, stdin=file, timeout=DEADLINE, env=environment(), check=True)
    assert "OPTIONS" in (tmp_path / "stdin.html").read_text("utf-8")


def test_captures_that_cannot_be_drawn(tmp_path: Path, ladder: Callable[..., str]) -> None:
    path = tmp_path / "x.pcap"
    assert "x.pcap: No such file" in ladder(str(path), code=codes.USAGE)
    assert "Is a directory" in ladder(str(tmp_path), code=codes.USAGE)
    path.write_text("no capture")
    output = ladder(str(path), code=codes.REFUSED)
    assert "not a capture file" in output
    assert "Hint: give a pcap or pcapng file" in output
    with pcap.PcapWriter(path):
        pass
    assert "no SIP message in its 0 packets" in ladder(str(path), code=codes.REFUSED)
    text = b"OPTIONS sip:x SIP/2.0\r\nCall-ID: 1\r\n\r\n"
    with pcap.PcapWriter(path) as writer:
        for number in range(2):
            ends = "192.0.2.1:5060", "192.0.2.2:5060"
            writer.write(pcap.CapturedMessage(number, "udp", *ends, text))
    assert "widen the filter" in ladder(str(path), "--call-id=z", code=codes.REFUSED)
    for options, message in (
        ([f"--output={path}"], "would be overwritten"),
        (["-o", "x.png"], ".html or .svg"),
        (["-o", "/no/x.svg"], "No such file"),
        (["--name", "phone"], "ADDRESS=NAME"),
        (["--limit=0"], "--limit"),
    ):
        assert message in ladder(str(path), *options, code=codes.USAGE)
    assert "give the picture one by -o" in ladder("-", code=codes.USAGE)
    # Cut short: what was readable is drawn, and the picture says so.
    path.write_bytes(path.read_bytes()[:-9])
    output = ladder(str(path), code=codes.REFUSED)
    assert "cut short" in output
    assert "1 message" in output
    assert "The capture ends here" in (tmp_path / "x.html").read_text("utf-8")


def test_control_characters_of_the_network_are_shown_harmless() -> None:
    assert printable("a\x1b[2Jb\x07\x9b\r\nc\td\u202e") == "a\\x1b[2Jb\\x07\\x9b\nc\td\\x202e"


def test_tls(tmp_path: Path) -> None:
    with Registrar(("tls",), users={"alice": PASSWORD}) as server:
        arguments = ["register", AOR, f"--registrar={server.uri()}", "--once"]
        output = run(
            *arguments, f"--ca-file={server.ca_file}", code=codes.OK, PJSIP_PY_PASSWORD=PASSWORD
        )
        assert "tls connected to 127.0.0.1:" in output
        assert "TLS_AES" in output  # the cipher
        output = run(*arguments, code=codes.NO_ANSWER)
        assert "TlsError" in output
        assert "--ca-file" in output
        wrong = run(
            *arguments,
            f"--ca-file={server.ca_file}",
            "--server-name=sip.example.org",
            code=codes.NO_ANSWER,
        )
        assert "--server-name" in wrong


# -- register --watch and signals -----------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_watch_refreshes_until_a_signal(registrar: Registrar, signum: signal.Signals) -> None:
    arguments = ["register", AOR, f"--registrar={registrar.uri()}", "--expires=2"]
    with running(*arguments, PJSIP_PY_PASSWORD=PASSWORD) as process:
        seen = read_until(process, "refreshed for 2 s")
        assert "registered for 2 s" in seen
        assert len(registrar.bindings(AOR)) == 1
        code, rest = end(process, signum)
    assert code == codes.OK
    assert "200 OK: unregistered" in rest
    assert registrar.bindings(AOR) == []
    assert PASSWORD not in seen + rest


def test_a_refused_refresh_ends_the_watch(open_registrar: Registrar) -> None:
    arguments = ["register", AOR, f"--registrar={open_registrar.uri()}", "--expires=2"]
    with running(*arguments) as process:
        read_until(process, "registered for 2 s")
        open_registrar.answer_next(403, times=None)
        output = read_until(process, "Hint: ")
        assert process.wait(DEADLINE) == codes.REFUSED
    assert "Error: ForbiddenError: 403 Forbidden" in output


def test_ctrl_c_before_an_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"--registrar=sip:127.0.0.1:{silent.getsockname()[1]}"
        with running("register", AOR, server) as process:
            read_until(process, "REGISTER")
            start = time.monotonic()
            code, _ = end(process, signal.SIGINT)
            assert time.monotonic() - start < 5
    assert code == 128 + signal.SIGINT


def test_second_ctrl_c_does_not_wait_for_the_unregister(open_registrar: Registrar) -> None:
    arguments = ["register", AOR, f"--registrar={open_registrar.uri()}"]
    with running(*arguments) as process:
        read_until(process, "registered for")
        open_registrar.drop_next(times=None)
        process.send_signal(signal.SIGINT)
        read_until(process, "unregister")
        start = time.monotonic()
        code, _ = end(process, signal.SIGINT)
        assert time.monotonic() - start < 3
    assert code == 128 + signal.SIGINT


@pytest.mark.parametrize(("option", "line"), [("--watch", "registered for"), ("--json", "200")])
def test_a_reader_that_goes_away(open_registrar: Registrar, option: str, line: str) -> None:
    server = f"--registrar={open_registrar.uri()}"
    arguments = [*COMMAND, "register", AOR, server, "--expires=2", option]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        read_until(process, line)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(DEADLINE) == codes.BROKEN_PIPE
        assert process.stderr.read() == ""
    assert open_registrar.bindings(AOR) == []


def test_no_standard_output() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "info"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (codes.OK, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux has one")
def test_standard_output_is_full(open_registrar: Registrar) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "register", AOR, f"--registrar={open_registrar.uri()}"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            env=environment(),
        )
    assert done.returncode == codes.OUTPUT_FAILED
    assert done.stderr.splitlines() == ["Error: standard output: No space left on device"]
    assert open_registrar.bindings(AOR) == []


# -- terminals ------------------------------------------------------------------------------------


def on_terminal(*arguments: str, answer: str = "", prompt: str = "", **env: str) -> tuple[int, str]:
    """Exit code and output of the command on a pseudo-terminal, where *prompt* gets *answer*."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal ({error}): mount -t devpts devpts /dev/pts")
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment(TERM="xterm-256color", **env),
        )
        os.close(theirs)
        seen = ""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 4096).decode("utf-8", "replace"):
                seen += data
                if answer and prompt in seen:
                    os.write(ours, answer.encode() + b"\n")
                    answer = ""
        return process.wait(DEADLINE), leaks.output(seen)
    finally:
        os.close(ours)


def test_the_password_is_asked_for_on_a_terminal(registrar: Registrar) -> None:
    code, seen = on_terminal(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        "--once",
        prompt="Password for alice:",
        answer=PASSWORD,
    )
    assert code == codes.OK, seen
    assert "the registrar wants a password" in seen
    assert "registered for 300 s" in seen
    assert PASSWORD not in seen
    assert len(registrar.bindings(AOR)) == 1


def test_ctrl_c_at_the_prompt(registrar: Registrar) -> None:
    code, seen = on_terminal(
        "register",
        AOR,
        f"--registrar={registrar.uri()}",
        prompt="Password for alice:",
        answer="\x04",
    )
    assert code == 128 + signal.SIGINT
    assert "Traceback" not in seen


def test_colour_on_a_terminal_only(open_registrar: Registrar) -> None:
    arguments = ["register", AOR, f"--registrar={open_registrar.uri()}", "--once"]
    _, seen = on_terminal(*arguments)
    assert "\x1b[32m" in seen
    _, seen = on_terminal(*arguments, NO_COLOR="1")
    assert "\x1b[32m" not in seen


# -- registrar ------------------------------------------------------------------------------------


def test_registrar(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"# who\n\nalice:{PASSWORD}\n")
    with running("registrar", f"--users-file={users}", "--transport=udp", "--json") as process:
        [listening] = records(read_until(process, "listening"))
        assert listening["authentication"] is True
        [uri] = listening["uris"]
        run(
            "register",
            AOR,
            f"--registrar={uri}",
            "--once",
            code=codes.OK,
            PJSIP_PY_PASSWORD=PASSWORD,
        )
        challenged, registered = records(
            read_until(process, '"code": 401') + read_until(process, '"code": 200')
        )
        code, _ = end(process, signal.SIGINT)
    assert code == codes.OK
    assert (challenged["user"], registered["user"]) == (None, "alice")
    assert registered["aor"] == AOR
    assert len(registered["bindings"]) == 1


def test_registrar_in_words() -> None:
    with running("registrar", PJSIP_PY_USERS=f"alice:{PASSWORD}") as process:
        seen = read_until(process, "Ctrl-C ends it.")
        assert "Anyone may register" not in seen
        uri = seen.split()[1]
        run("register", AOR, f"--registrar={uri}", code=4, PJSIP_PY_PASSWORD="Wrong-" + PASSWORD)
        run("register", AOR, f"--registrar={uri}", "--once", code=0, PJSIP_PY_PASSWORD=PASSWORD)
        seen = read_until(process, "REGISTER sip:alice@example.com: 200")
        assert "REGISTER sip:alice@example.com: challenged" in seen
        assert "REGISTER sip:alice@example.com: 401" in seen
        assert "1 binding, udp 127.0.0.1 port" in seen
        code, _ = end(process, signal.SIGTERM)
    assert code == codes.OK


def test_registrar_without_users_says_so() -> None:
    with running("registrar") as process:
        assert "Anyone may register" in read_until(process, "Ctrl-C ends it.")


def test_registrar_usage(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(PASSWORD)
    output = run("registrar", f"--users-file={users}", code=codes.USAGE)
    assert "line 1: write it as 'name:password'" in output
    assert "min_expires" in run("registrar", "--min-expires=9", "--max-expires=1", code=codes.USAGE)
    assert "go together" in run("registrar", "--cert-file=x.pem", code=codes.USAGE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = f"--port={taken.getsockname()[1]}"
        assert "in use" in run("registrar", port, "--transport=udp", code=codes.USAGE)
