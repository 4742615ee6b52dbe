# SPDX-License-Identifier: GPL-3.0-or-later
"""The leak test finds what is planted, of each kind and at each place, and watches this run."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import leaks
import pytest
from capture import Capture
from hypothesis import given, settings
from hypothesis import strategies as st

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

pytest_plugins = ["pytester"]

CONFTEST = """
import leaks
import pytest

def pytest_configure(config):
    leaks.watch(config)
"""

# Each plants one leak and is named after it; PLANTED comes from the environment.
PLANTS = r'''
import json, logging, os, subprocess, sys, time, warnings
import pytest
import pjsip_py as pjsip
from pjsip_py.events import EventTime
from pjsip_py.testing import Registrar

SECRET = os.environ["PLANTED"]
log = logging.getLogger("pjsip_py")
AOR = "sip:alice@example.com"
NOW = EventTime(0.0, 0.0)

@pytest.fixture
def ep():
    with pjsip.Endpoint(trace=True) as endpoint:
        yield endpoint

@pytest.fixture
def password():
    pjsip.Credentials("alice", SECRET)
    return SECRET

def test_clean(ep):
    """All that is usual; nothing is found."""
    password = "Clean-" + SECRET[::2]
    with Registrar(users={"alice": password}) as registrar:
        account = ep.add_account(
            AOR, registrar=registrar.uri(), credentials=pjsip.Credentials("alice", password)
        )
        account.register().result(10)
        repr([account, account.config])
        account.unregister().result(10)

def test_a_plain_word_is_not_looked_for():
    pjsip.Credentials("alice", "secret")
    log.debug("secret")

def test_log_message(password):
    log.debug("the password is " + password)

def test_log_arguments(password):
    log.getChild("deeper").debug("%.3s", password)

def test_log_traceback(password):
    try:
        raise ValueError(password)
    except ValueError:
        logging.getLogger("pjsip").exception("sorry")

def test_event_field(ep, password):
    ep._emit(pjsip.SipMessage(
        time=NOW, direction="tx", protocol="udp", local="", remote="", text=f"X: {password}"))

def test_event_error(ep, password):
    try:
        raise pjsip.PjsipError("outside") from ValueError(password)
    except pjsip.PjsipError as error:
        ep._emit(pjsip.CallbackFailed(time=NOW, handler=print, event=None, exception=error))

def test_record_and_packet(ep, password):
    with Registrar() as registrar:
        ep.registration(registrar.uri(), AOR, headers={"X-It": password}).register().result(10)

def test_exception_text(password):
    with pytest.raises(pjsip.ConfigError):
        raise pjsip.ConfigError(f"wrong: {password}")

def test_exception_attribute(password):
    error = pjsip.PjsipError("outside")
    error.inside = [{"it": password}]
    with pytest.raises(pjsip.PjsipError):
        raise error

def test_exception_cause(password):
    with pytest.raises(pjsip.PjsipError):
        raise pjsip.PjsipError("outside") from ValueError(password)

def test_exception_variable(password):
    class Shown(pjsip.SipMessage):
        def __repr__(self):
            return password
    with pytest.raises(pjsip.ConfigError):
        pjsip.uri.check_text("text", Shown(
            time=NOW, direction="", protocol="", local="", remote="", text=""))

def test_operation_error(ep, password):
    from pjsip_py._operation import Operation
    operation = Operation(ep._engine, "nothing")
    operation._finish(None, pjsip.PjsipError(password))
    operation.exception(0)

def test_warning(password):
    with pytest.warns(UserWarning):
        warnings.warn(password, UserWarning)

def test_output(password, capsys):
    sys.stderr.write(password)
    capsys.readouterr()

def test_process(password):
    code = "import os; print(os.environ['PLANTED'])"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

def test_file(tmp_path, password):
    with open(tmp_path / "the.log", "w") as file:
        file.write(password)

def test_a_file_of_the_tests_own_is_no_leak(tmp_path, password):
    (tmp_path / "password").write_text(password)

def test_report(ep, password):
    ep.registration("sip:127.0.0.1:9", AOR, contacts=f"sip:{password}@127.0.0.1").info()

def test_as_json():
    pjsip.Credentials("alice", SECRET + "éß")
    log.debug(json.dumps(SECRET + "éß"))

def test_ha1_given():
    digits = f"{abs(hash(SECRET)):032x}"[:32]
    pjsip.Credentials("alice", ha1=("0123456789" + digits)[:32], realm="r")
    log.debug(("0123456789" + digits)[:32])

def test_ha1_that_follows():
    import hashlib
    pjsip.Credentials("alice", SECRET)
    log.debug(hashlib.sha256(f"alice:example.com:{SECRET}".encode()).hexdigest())

def test_registrar_password():
    with Registrar(users={"bob": SECRET[::-1]}):
        log.debug(SECRET[::-1])

def test_reference(monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "ref-" + SECRET)
    pjsip.Credentials.from_reference("alice", "env:ELSEWHERE")
    log.debug("ref-" + SECRET)

def test_bearer_token():
    pjsip.BearerToken("tok-" + SECRET)
    log.debug("tok-" + SECRET)

def test_key_password():
    with pytest.raises(pjsip.ConfigError):
        pjsip.TlsConfig(key_password="key-" + SECRET)
    log.debug("key-" + SECRET)

def test_key():
    import trustme
    key = trustme.CA().issue_cert("x").private_key_pem.bytes()
    with pytest.raises(pjsip.ConfigError):
        pjsip.TlsConfig(key_data=key)
    log.debug(key.decode().splitlines()[2])

def test_digest_response(ep):
    with Registrar(users={"alice": SECRET}) as registrar:
        ep.registration(
            registrar.uri(), AOR, credentials=pjsip.Credentials("alice", SECRET)
        ).register().result(10)
        log.debug(registrar.requests[-1].authorization["response"])

def test_client_nonce(ep):
    with Registrar(users={"alice": SECRET}) as registrar:
        ep.registration(
            registrar.uri(), AOR, credentials=pjsip.Credentials("alice", SECRET)
        ).register().result(10)
        log.debug(registrar.requests[-1].authorization["cnonce"])
'''

PASSWORD = "a password (Credentials)"
FOUND = {
    "test_log_message": (PASSWORD, "the log 'pjsip_py'"),
    "test_log_arguments": (PASSWORD, "the log 'pjsip_py.deeper'"),
    "test_log_traceback": (PASSWORD, "the exception ValueError"),
    "test_event_field": (PASSWORD, "the event SipMessage"),
    "test_event_error": (PASSWORD, "the exception ValueError"),
    "test_record_and_packet": (PASSWORD, "C's record of kind"),
    "test_exception_text": (PASSWORD, "the exception ConfigError"),
    "test_exception_attribute": (PASSWORD, "the exception PjsipError"),
    "test_exception_cause": (PASSWORD, "the exception ValueError"),
    "test_exception_variable": (PASSWORD, "the variable 'value' of pjsip_py.uri.check_text()"),
    "test_operation_error": (PASSWORD, "the exception PjsipError"),
    "test_warning": (PASSWORD, "a warning"),
    "test_output": (PASSWORD, "stdout"),
    "test_process": (PASSWORD, "the output of a process"),
    "test_file": (PASSWORD, "the file the.log"),
    "test_report": (PASSWORD, "info()"),
    "test_as_json": (PASSWORD, "the log 'pjsip_py'"),
    "test_ha1_given": ("an HA1 (Credentials)", "the log 'pjsip_py'"),
    "test_ha1_that_follows": ("an HA1", "the log 'pjsip_py'"),
    "test_registrar_password": ("a password (registrar)", "the log 'pjsip_py'"),
    "test_reference": ("", "the log 'pjsip_py'"),
    "test_bearer_token": ("a token (BearerToken)", "the log 'pjsip_py'"),
    "test_key_password": ("a key's password (TlsConfig)", "the log 'pjsip_py'"),
    "test_key": ("a key (TlsConfig)", "the log 'pjsip_py'"),
    "test_digest_response": ("a digest's response", "the log 'pjsip_py'"),
    "test_client_nonce": ("a digest's cnonce", "the log 'pjsip_py'"),
}


def test_planted_leaks_are_found_and_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "Planted-" + secrets.token_hex(8)
    monkeypatch.setenv("PLANTED", secret)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_plants=PLANTS)
    options = ("--show-capture=no", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    result = pytester.runpytest_subprocess(*options, timeout=50)
    output = "\n".join(result.outlines) + "\n"

    found = dict(re.findall(r"_ ERROR at teardown of (\w+) _+\n((?:(?!_).*\n)*)", output))
    assert set(found) == set(FOUND), output
    for name, (kind, where) in FOUND.items():
        assert f"{kind} in {where}" in found[name], (name, found[name])
        assert f"during test_plants.py::{name}" in found[name]
    assert secret not in output + "\n".join(result.errlines)
    result.assert_outcomes(passed=len(FOUND) + 3, errors=len(FOUND))
    assert result.ret == pytest.ExitCode.TESTS_FAILED

    capture = Capture(tmp_path / "any.pcap", 0)
    capture.stop()
    if capture.reason:
        assert capture.reason in output
    else:
        packet = r"leaked: a password \(Credentials\) in a packet, UDP 127.0.0.1 port \d+ to .*"
        assert re.search(packet + "during test_plants.py::test_record_and_packet", output), output


def test_this_run_is_watched(ep: pjsip.Endpoint) -> None:
    """Each hook still holds: what it sees grows."""
    watch = leaks.current()
    before = watch.seen.copy()
    with Registrar(users={"alice": "Watch-" + (fresh := secrets.token_hex(8))}) as registrar:
        client = ep.registration(
            registrar.uri(),
            "sip:alice@example.com",
            credentials=pjsip.Credentials("alice", "Watch-" + fresh),
        )
        client.register().result(10)
        client.info()
        registrar.set_password("alice", "Watch-not-" + fresh)
        registrar.expire_nonces()
        with pytest.raises(pjsip.WrongPasswordError):
            client.register().result(10)
    grown = watch.seen - before
    assert grown["passwords"] == 2
    assert grown["HA1s"] == 6
    assert grown["digests"] >= 3  # a response each, of the same client nonce
    for what in ("records", "events", "log lines", "exceptions", "reports", "bytes"):
        assert grown[what] > 0, what


def test_a_run_that_sees_too_little_fails() -> None:
    assert leaks.shortfalls(leaks.Watch().seen)
    assert len(leaks.shortfalls(leaks.Watch().seen)) == len(leaks.FLOOR)


@pytest.mark.parametrize("secret", ["Tr0ub4dor&3", "correct-horse", "pass word", "パスワード"])
def test_a_distinctive_secret_counts(secret: str) -> None:
    assert leaks.counts(secret.encode())


@pytest.mark.parametrize(
    "secret", ["", "p", "secret", "sec-ret", "password", "aaaa-bbbb", "5" * 32]
)
def test_a_plain_secret_does_not(secret: str) -> None:
    assert not leaks.counts(secret.encode())


def test_what_is_refused_anyhow_is_no_secret() -> None:
    watch = leaks.Watch()
    for text in ("a\r\nX-Poison: yes", "a-poisonous\udc80text"):
        watch.secret("a password", text, what="passwords")
    assert not watch.seen


def test_a_find_across_batches_and_tests_is_told_where_it_was() -> None:
    watch = leaks.Watch()
    watch.secret("a password", "Sesame-street-1969", what="passwords")
    watch.test = "the first"
    watch.emit("files", "here", b"x" * (leaks.BATCH - 10), "Sesame-street-1969")
    watch.emit("files", "there", b"y")
    watch.test = "the second"
    watch.emit("files", "elsewhere", "a", "Sesame-street-1969 again")
    assert list(map(str, watch.leaks())) == [
        "a password in here, during the first",
        "a password in elsewhere, during the second",
    ]
    assert watch.leaks() == []


def test_digits_are_found_in_longer_ones() -> None:
    watch = leaks.Watch()
    watch.digest("a digest", digest := secrets.token_hex(16).encode())
    watch.ha1("an HA1", (ha1 := secrets.token_hex(32)))
    watch.emit("files", "here", b"0123456789abcdef" + digest + b"f-", ha1.encode() + b"00")
    assert {leak.kind for leak in watch.leaks()} == {"a digest", "an HA1"}


def test_of_hypothesis_only_what_is_marked_counts() -> None:
    watch = leaks.Watch()

    @settings(max_examples=1, database=None)
    @given(st.just("Contact: <sip:a@b>"))
    def draw(text: str) -> None:
        watch.secret("a password", text, what="passwords")
        assert watch.seen["passwords"] == 0
        watch.secret("a password", leaks.marked(text), what="passwords")
        assert watch.seen["passwords"] == 1

    draw()
