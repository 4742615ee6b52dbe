# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts in a TOML file: what it may say, what is wrong with it and where, and its secrets."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import pickle
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keyring
import keyring.backend
import keyring.errors
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from programs import run_program

import pjsip_py as pjsip
from pjsip_py._accounts_file import load_accounts, load_file, save_accounts
from pjsip_py._secret import MAX_SECRET, Secret, read_secret
from pjsip_py._toml import dump
from pjsip_py.account_config import RegistrarConfig
from pjsip_py.errors import AccountsFileError
from pjsip_py.retry import FAILOVER, RETRY, STOP, RetryPolicy, Verdict

PAGE = Path(__file__).parent.parent / "docs" / "accounts-file.md"
SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE_PASSWORD", SECRET)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """``write(text)`` makes accounts.toml, with a ca.pem beside it."""
    (tmp_path / "ca.pem").write_text("a certificate")

    def write_one(text: str | bytes) -> Path:
        path = tmp_path / "accounts.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_one


CLASSES = (
    pjsip.AccountConfig,
    pjsip.EndpointConfig,
    pjsip.TlsConfig,
    RetryPolicy,
    RegistrarConfig,
)
Write = Callable[[str | bytes], Path]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refused(path: Path) -> AccountsFileError:
    wrong = outcome(path)
    assert wrong is not None
    for error in chain(wrong):
        assert SECRET not in f"{error} {error!r} {error.args}"
    assert wrong.path == str(path)
    return wrong


def outcome(path: Path) -> AccountsFileError | None:
    """What is wrong with a file, if anything; no other exception comes."""
    try:
        load_file(path)
    except AccountsFileError as error:
        return error
    return None


# -- what a file may say --------------------------------------------------------------------------

EXAMPLE = """\
[endpoint]
t1 = 0.25
user_agent = "kept"

[defaults]
registrar = "sip:127.0.0.1:5060"

[defaults.retry]
initial = 2
per_code = { 403 = "stop", 500 = 30 }

[[account]]
aor = "sip:alice@example.com"
credentials = { username = "alice", password = "env:ALICE_PASSWORD" }

[[account]]
aor = "sip:bob@example.com"
registrars = ["sip:a.example.com", { uri = "sips:b.example.com", tls = { ca_file = "ca.pem" } }]
credentials = [
    { username = "bob", password = "env:ALICE_PASSWORD", realm = "a" },
    { username = "bob", ha1 = { SHA-256 = "file:ha1" }, realm = "b" },
]
headers = { Subject = "x" }
contact_params = { "+sip.ice" = true, q = "0.5" }
retry = { initial = 5 }
failback = false
"""


def test_the_example_becomes_these_accounts(write: Write, tmp_path: Path) -> None:
    (tmp_path / "ha1").write_text("2" * 64 + "\n")
    (tmp_path / "ha1").chmod(0o600)
    file = load_file(write(EXAMPLE))
    assert file.endpoint == {"t1": 0.25, "user_agent": "kept"}
    per_code: dict[int, Verdict | float] = {403: STOP, 500: 30}
    assert file.accounts == [
        pjsip.AccountConfig(
            aor="sip:alice@example.com",
            registrar="sip:127.0.0.1:5060",
            credentials=pjsip.Credentials("alice", SECRET),
            retry=RetryPolicy(initial=2, per_code=per_code),
        ),
        pjsip.AccountConfig(
            aor="sip:bob@example.com",
            registrars=(
                "sip:a.example.com",
                RegistrarConfig(
                    "sips:b.example.com", tls=pjsip.TlsConfig(ca_file=tmp_path / "ca.pem")
                ),
            ),
            credentials=(
                pjsip.Credentials("bob", SECRET, realm="a"),
                pjsip.Credentials("bob", ha1={"SHA-256": "2" * 64}, realm="b"),
            ),
            headers={"Subject": "x"},
            contact_params={"+sip.ice": None, "q": "0.5"},
            retry=RetryPolicy(initial=5, per_code=per_code),
            failback=None,
        ),
    ]


def test_an_account_overrides_the_defaults(write: Write) -> None:
    path = write("""
[defaults]
expires = 60
timeout = 5
registrars = ["sip:a.example.com", "sip:b.example.com"]
headers = { Subject = "a", X-Shared = "b" }
credentials = { username = "shared", password = "env:ALICE_PASSWORD", realm = "r" }
retry = { initial = 1, per_code = { 404 = "retry", 486 = "failover" } }

[[account]]
aor = "sip:a@example.com"

[[account]]
aor = "sip:b@example.com"
expires = 90
timeout = false
registrar = "sip:c.example.com"
headers = { Subject = "own" }
credentials = [{ username = "b" }, { ha1 = "file:ha1" }]
retry = { per_code = { 404 = 5 } }

[[account]]
aor = "sip:c@example.com"
credentials = []
retry = false
""")
    (path.parent / "ha1").write_text("5" * 32)
    a, b, c = load_accounts(path)
    assert (a.expires, a.timeout, a.registrar) == (60, 5, None)
    assert a.registrars == ("sip:a.example.com", "sip:b.example.com")
    assert a.credentials == pjsip.Credentials("shared", SECRET, realm="r")
    assert (b.expires, b.timeout, b.registrar, b.registrars) == (90, None, "sip:c.example.com", ())
    assert b.headers == {"Subject": "own", "X-Shared": "b"}
    assert b.credentials == (
        pjsip.Credentials("b", SECRET, realm="r"),
        pjsip.Credentials("shared", ha1="5" * 32, realm="r"),
    )
    assert b.retry == RetryPolicy(initial=1, per_code={404: 5, 486: FAILOVER})
    assert (c.credentials, c.retry) == ((), None)


def test_equal_tables_of_thousands_are_one_object(write: Write) -> None:
    accounts = "".join(f'[[account]]\naor = "sip:u{i}@example.com"\n' for i in range(3))
    path = write(
        "[defaults]\nretry = { initial = 9 }\n"
        'credentials = { username = "u", password = "env:ALICE_PASSWORD" }\n' + accounts
    )
    first, second, third = load_accounts(path)
    assert first.retry is second.retry is third.retry
    assert first.credentials is second.credentials


def test_a_file_may_begin_with_a_byte_order_mark_and_have_carriage_returns(write: Write) -> None:
    text = '\ufeff[[account]]\r\naor = "sip:a@example.com"\r\nexpires = 0\r\n'
    assert refused(write(text)).line == 3
    assert load_accounts(write(text.replace("= 0", "= 1")))[0].expires == 1


def test_a_file_may_say_that_it_has_no_account(write: Write) -> None:
    assert load_file(write("account = []\n[endpoint]\nt1 = 1")) == ([], {"t1": 1})


def test_the_path_may_be_of_both_kinds(write: Write) -> None:
    path = write('[[account]]\naor = "sip:a@example.com"')
    assert load_accounts(path) == load_accounts(str(path))
    for wrong in (5, None, b"accounts.toml"):
        with pytest.raises(pjsip.ConfigError, match="path must be a str"):
            load_accounts(wrong)  # type: ignore[arg-type]


# -- what is wrong, and where ---------------------------------------------------------------------

ALICE = '[[account]]\naor = "sip:alice@example.com"\n'
WHO = r"account 1 \(sip:alice@example.com\): "

WRONG = [
    # an account's fields: the line after aor
    ("expires = 0", 3, "expires", WHO + "expires: must be 1 to "),
    ("expires = '5'", 3, "expires", "must be an integer, not a string"),
    ("expires = true", 3, "expires", "must be an integer, not a boolean"),
    ("expires = 1.5", 3, "expires", "must be an integer, not a number"),
    ("expires = 1979-05-27", 3, "expires", "not a date or time"),
    ("timeout = [1]", 3, "timeout", "must be a number or false, not an array"),
    ("timeout = nan", 3, "timeout", "must be 0.01 to 3600 s"),
    (f"timeout = 1{'0' * 400}", 3, "timeout", "timeout: is too large"),
    ("expirse = 5", 3, "expirse", "unknown key: did you mean 'expires'?"),
    ("wholly-else = 5", 3, "wholly-else", "unknown key$"),
    ("_checked = 5", 3, "_checked", "unknown key"),
    ("registrar = 'tel:1'", 3, "registrar", "must begin with sip: or sips:"),
    ("registrar = 'sip:a@b.c'", 3, "registrar", "has a user part"),
    ("registrars = ['sip:a.c', 'http://b']", 3, "registrars", "must begin with sip"),
    ("registrars = ['sip:a.c', 5]", 3, "registrars[2]", "must be a string or a table, not an int"),
    ("registrars = ['sip:a.c',\n\n {}]", 5, "registrars[2].uri", "is missing"),
    ("registrar = 'sip:a.c'\nregistrars = ['sip:b.c']", 3, "registrar", "contradict each other"),
    ("transport = 'udp'", 3, "transport", "is a live object"),
    ("registrars = [{uri='sip:x.c', transport=5}]", 3, "registrars[1].transport", "live object"),
    ("retry = 5", 3, "retry", "must be a table or false, not an integer"),
    ("retry = true", 3, "retry", "must be a table or false, not a boolean"),
    ("retry = { initial = 0 }", 3, "retry.initial", "must be 0.001 to"),
    ("\n[account.retry]\n\ninitial = -1", 6, "retry.initial", "must be 0.001 to"),
    ("[account.retry.per_code]\n403 = 'halt'", 4, "retry.per_code.403", "'stop', 'retry', 'fail"),
    ("retry.per_code.four = 1", 3, "retry.per_code.four", "the key must be a number"),
    ("retry.per_code.99 = 1", 3, "retry.per_code", "must be 300 to 699"),
    ("tls = { ca_file = 'none.pem' }", 3, "tls.ca_file", "none.pem': No such file"),
    ("tls = { ca_file = 'ca.pem' }", 3, "tls", "sips:"),
    ("registrar='sips:a.c'\ntls={insecure='no'}", 4, "tls.insecure", "true or false, not a str"),
    ("tls = { versions = [{}] }", 3, "tls.versions[1]", "must be a string, not a table"),
    ("tls = { cert_file = 'ca.pem' }", 3, "tls.cert_file", "go together"),
    ("headers = { Via = 'x' }", 3, "headers", "header Via has an argument of its own"),
    ("headers = { X = 5 }", 3, "headers.X", "must be a string, not an integer"),
    ("headers = [['a']]", 3, "headers[1]", "must be an array of 2"),
    ("contact_params = { ob = false }", 3, "contact_params.ob", "must be a string"),
    ("contacts = 5", 3, "contacts", "must be an array or false, not an integer"),
    ("contacts = ['tel:5']", 3, "contacts", "contact: 'tel:5' is not a SIP URI"),
    ("route = ['sip:a.c', 'x']", 3, "route", "'x' is not a SIP URI"),
    ("credentials = { username = 'a' }", 3, "credentials", "need either password or ha1"),
    ("credentials = { password = 'env:ALICE_PASSWORD' }", 3, "credentials.username", "is missing"),
    (
        "credentials.username = 'a'\ncredentials.password = 'env:NONE'",
        4,
        "credentials.password",
        "",
    ),
    (
        "credentials = [\n{username='a',password='file:no'}]",
        4,
        "credentials[1].password",
        "No such",
    ),
    ("credentials = [[5]]", 3, "credentials[1]", "must be a table, not an array"),
    ("credentials = 'alice'", 3, "credentials", "must be a table or an array, not a string"),
    ("[[account]]\naor = 'sip:alice@EXAMPLE.com'", 4, "aor", "account 1 has this one already"),
    ("[[account]]\nexpires = 5", 3, "aor", "^[^(]*account 2: aor: is missing"),
    ("[[account]]\naor = 'sip:example.com'", 4, "aor", "has no user part"),
    ("[[account]]\naor = 5", 4, "aor", "must be a string, not an integer"),
    # beside the accounts
    ("[endpoint]\nt1 = 0", 4, "endpoint.t1", "^[^ ]+ endpoint.t1: must be 0.001 to"),
    ("[endpoint]\nt1 = 'x'", 4, "endpoint.t1", "must be a number"),
    ("[endpoint]\ntrace = 'no'", 4, "endpoint.trace", "must be true or false"),
    ("[endpoint]\nstrict = true", 4, "endpoint.strict", "unknown key"),
    ("[[endpoint]]", 3, "endpoint", "must be a table, not an array"),
    ("[defaults]\naor = 'sip:a@b.c'", 4, "defaults.aor", "belongs to one account"),
    ("[defaults]\nexpires = 0", 4, "defaults.expires", WHO + "defaults.expires: must be 1"),
    ("[defaults.tls]\nca_file = 5", 4, "defaults.tls.ca_file", "must be a string"),
    ("[defaults.credentials]\nrealm = 5", 3, "defaults.credentials.username", "is missing"),
    ("[default]\nexpires = 5", 3, "default", "unknown key: did you mean 'defaults'"),
    # no TOML
    ("expires = ", 3, "", "Invalid value"),
    ("aor = 'sip:again@example.com'", 3, "", "Cannot overwrite a value"),
    ("headers = { a = 1, a = 2 }", 3, "", "Duplicate inline table key"),
    ("[defaults]\n[defaults]", 4, "", "Cannot declare"),
    ('display_name = "half', 3, "", ""),
    ("route = [\n'sip:a.c',\n", None, "", ""),
    ("display_name = 'a\0b'", 3, "", "Found invalid character"),
    ("# \x00", 3, "", "Found invalid character"),
    ("expires = " + "9" * 5000, None, "", "integer string conversion"),
    ("route = " + "[" * 3000, None, "", "nested too deeply"),
]


@pytest.mark.parametrize(("text", "line", "key", "why"), WRONG, ids=[w[0][:40] for w in WRONG])
def test_what_is_wrong_is_told_with_line_and_key(
    write: Write, text: str, line: int | None, key: str, why: str
) -> None:
    error = refused(write(ALICE + text))
    assert error.key == key
    assert error.line == line or line is None
    assert re.search(why, str(error)), str(error)
    where = error.path if error.line is None else f"{error.path}:{error.line}"
    assert str(error).startswith(f"{where}: ")
    assert not error.others


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no account"),
        ("# nothing\n", "has no account"),
        ("[defaults]\nexpires = 60", "has no account"),
        ("[account]\naor = 'sip:a@b.c'", "write [[account]]"),
        ("account = 5", "write [[account]]"),
        ("account = [5]", "account 1: must be a table, not an integer"),
        (b"# \xe9t\xe9\n", "accounts.toml:1: is not UTF-8"),
        (b'x = 1\n\ny = "\xff"\n', "accounts.toml:3: is not UTF-8"),
        (b"\x00\x01\x02", "Invalid statement"),
        (bytes(range(256)), "is not UTF-8"),
    ],
)
def test_a_file_without_accounts_is_refused(write: Write, text: str | bytes, why: str) -> None:
    assert why in str(refused(write(text)))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate((64 << 20) + 1)
    for name, why in {
        "none.toml": "none.toml: No such file or directory",
        ".": "is a directory",
        "fifo": "is no regular file",
        "loop": "symbolic links",
        "huge": "has more than 67108864 bytes",
        "n" * 300: "name too long",
    }.items():
        error = refused(tmp_path / name)
        assert why in str(error)
        assert error.line is None
    assert "is no regular file" in str(refused(Path("/dev/null")))


def test_several_problems_are_told_at_once_and_ten_at_most(write: Write) -> None:
    wrong = [f'[[account]]\naor = "sip:u{i}@example.com"\nexpires = {i}\n' for i in range(-20, 3)]
    text = "[endpoint]\nt1 = 0\n[defaults]\ntimeout = 5\n" + "".join(wrong)
    error = refused(write(text))
    assert (error.line, error.key) == (2, "endpoint.t1")
    assert [other.line for other in error.others] == list(range(7, 7 + 9 * 3, 3))
    assert len(str(error).splitlines()) == 10
    two = refused(write("".join([*wrong[:2], *wrong[-2:]])))
    assert [two.line, *(other.line for other in two.others)] == [3, 6]


def test_a_default_that_is_wrong_for_all_accounts_is_told_once(write: Write) -> None:
    accounts = "".join(f'[[account]]\naor = "sip:u{i}@example.com"\n' for i in range(5))
    error = refused(write(accounts + "[defaults]\nexpires = 0"))
    assert (error.line, error.key, error.others) == (12, "defaults.expires", ())


def test_an_error_can_be_copied_and_sent_to_a_process(write: Write) -> None:
    error = refused(write(ALICE + "expires = 0\n[endpoint]\nt1 = 0"))
    for same in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert str(same) == str(error)
        assert (same.path, same.line, same.key) == (error.path, error.line, error.key)


@pytest.mark.parametrize(
    "text",
    [
        f"credentials = {{ username = 'a', password = '{SECRET}' }}",
        f"credentials = {{ username = 'a', password = ['{SECRET}'] }}",
        f"credentials = {{ username = 'a', password = {{ x = '{SECRET}' }} }}",
        f"credentials = {{ username = 'a', ha1 = '{SECRET}', realm = 'r' }}",
        f"credentials = {{ username = 'a', ha1 = {{ MD5 = '{SECRET}' }}, realm = 'r' }}",
        f"credentials = {{ username = 'a', pasword = '{SECRET}' }}",
        f"credentials = {{ username = 'a', password = 'plain:{SECRET}' }}",
        f"credentials = 'a:{SECRET}'",
        f"credentials = ['{SECRET}']",
        f"password = '{SECRET}'",
        f"tls = {{ key_file = 'ca.pem', cert_file = 'ca.pem', key_password = '{SECRET}' }}",
        "credentials = { username = 'a', ha1 = 'env:ALICE_PASSWORD', realm = 'r' }",
        "credentials = { username = 'a', ha1 = 'env:ALICE_PASSWORD' }",
        "tls = { key_password = 'env:ALICE_PASSWORD' }",
        "credentials = { username = 'a', password = 'env:ALICE_PASSWORD', min_algorithm = 'x' }",
        f"registrar = 'sip:a:{SECRET}@example.com'",
        f"registrars = ['sip:a:{SECRET}@example.com']",
        f"registrars = [{{ uri = 'sips:a:{SECRET}@example.com' }}]",
        f"route = ['<sip:a:{SECRET}@example.com']",
        f"contacts = ['Alice sip:a:{SECRET}@example.com']",
        f"from_uri = ' SIP:a:{SECRET}@example.com'",
        f"aor = 'sip:a:{SECRET}@example.com'\nexpires = 0",
        f"credentials = {{ username = 'a', password = '{SECRET}",
        f"credentials = {{ username = 'a', password = \"{SECRET}\\q\" }}",
        f"credentials = {{ username = 'a', password = '{SECRET}' '{SECRET}' }}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_shown(write: Write, text: str) -> None:
    account = text if text.startswith("aor") else f"aor = 'sip:alice@example.com'\n{text}"
    refused(write("[[account]]\n" + account))  # which looks for the secret in the error


# -- the lines of random documents ----------------------------------------------------------------


class Statement(NamedTuple):
    field: str
    good: str
    bad: str
    line: int  # of the fault in bad, from 0
    key: str


PLAIN = [
    Statement("expires", "expires = 300  # = [ { '", "expires = 'x'", 0, "expires"),
    Statement("timeout", '"timeout" = 5.5', '"timeout" = ""', 0, "timeout"),
    Statement(
        "headers",
        """headers = { Subject = 'a # } = [b', X-B = "\\" { \\\\" }""",
        "headers = { Subject = 'a', X = 1 }",
        0,
        "headers.X",
    ),
    Statement(
        "registrars",
        "registrars = [  # several\n  'sip:a.c', # ]\n\n  { uri = 'sip:b.c' },\n]",
        "registrars = [ # [\n 'sip:a.c', 'sip:b.c',\n\n { uri = \"sip:c.c\", route = [] },\n\n5]",
        5,
        "registrars[4]",
    ),
    Statement(
        "credentials",
        "credentials = [{ username = 'a', password = 'env:ALICE_PASSWORD'},\n]",
        "credentials = [\n\n{ username = 'a', password = 'env:' }\n,]",
        2,
        "credentials[1].password",
    ),
    Statement(
        "display_name",
        'display_name = """\\\n [[account]] \\\n aor = ""\\"""""',
        "display_name = '''\n[[account]]\n#'''",
        0,
        "display_name",
    ),
    Statement("from_uri", "from_uri = '''sip:x'y@c.d''' # '''", "from_uri = []", 0, "from_uri"),
    Statement("failback", "failback = 1_0.5e0", "failback=1979-05-27 07:32:00", 0, "failback"),
    Statement(
        "contact_uri_params",
        "contact_uri_params . a = 'b'\ncontact_uri_params.'b' = \"c\"",
        "contact_uri_params . a = 'b'\ncontact_uri_params.\"\\u0062\" = 5",
        1,
        "contact_uri_params.b",
    ),
]
TABLES = [
    Statement(
        "retry",
        "[account.retry]\ninitial = 5\n[ account . retry . per_code ]\n403 = 'stop'",
        "[account.retry]\ninitial = 5\n\n[account.retry.per_code]\n403 = 'halt'",
        4,
        "retry.per_code.403",
    ),
    Statement(
        "credentials",
        "[[account.credentials]]\nusername = 'a'\npassword = 'env:ALICE_PASSWORD'",
        "[[account.credentials]]\nusername = 'a'\npassword = 'env:ALICE_PASSWORD'\n"
        "[[account.credentials]]\nusername = 'b'\n'password' = 'x'",
        5,
        "credentials[2].password",
    ),
    Statement(
        "contact_params",
        "[account.contact_params]\n",
        "[account.contact_params]\n\nx=1",
        2,
        "contact_params.x",
    ),
]
PADDING = st.sampled_from(["", "# [[account]]", "  # x = 1", "\t", "#"])


@st.composite
def broken_document(draw: st.DrawFn) -> tuple[str, int, str]:
    """A document with one fault, its line and its key."""
    accounts = draw(st.integers(1, 4))
    faulty = draw(st.integers(0, accounts - 1))
    lines: list[str] = draw(st.lists(PADDING, max_size=3))
    found = (0, "")
    for number in range(accounts):
        plain = draw(st.lists(st.sampled_from(PLAIN), unique_by=lambda s: s.field, max_size=6))
        tables = draw(st.lists(st.sampled_from(TABLES), unique_by=lambda s: s.field, max_size=2))
        named = {statement.field for statement in plain}
        aor = f"sip:u{number}@example.com"
        statements = [
            Statement("aor", f"aor = '{aor}'", "aor = 5", 0, "aor"),
            *plain,
            *(statement for statement in tables if statement.field not in named),
        ]
        bad = draw(st.integers(0, len(statements) - 1)) if number == faulty else -1
        lines.append("[[account]]")
        for index, statement in enumerate(statements):
            lines += draw(st.lists(PADDING, max_size=2))
            if index == bad:
                found = (len(lines) + statement.line + 1, statement.key)
            lines += (statement.bad if index == bad else statement.good).split("\n")
    return "\n".join(lines), *found


@given(broken_document())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_line_of_a_fault_is_found_in_any_layout(
    tmp_path_factory: pytest.TempPathFactory, document: tuple[str, int, str]
) -> None:
    text, line, key = document
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_text(text)
    error = refused(path)
    assert (error.line, error.key) == (line, key), f"{error}\n{text}"
    assert not error.others


SCALAR: st.SearchStrategy[Any] = (
    st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 500)
    | st.floats()
    | st.sampled_from(["", "sip:a.example.com", "sips:b.c", "env:ALICE_PASSWORD", "stop", "\u20ac"])
)
NAMES = st.sampled_from(
    [
        *(f.name for cls in CLASSES for f in dataclasses.fields(cls)),
        *("username", "password", "realm", "ha1", "403", "MD5", "x"),
    ]
)
VALUES = st.recursive(
    SCALAR, lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES, v, max_size=4), max_leaves=8
)
TABLE = st.dictionaries(NAMES, VALUES, max_size=4)


@given(TABLE, TABLE, st.lists(TABLE, max_size=3))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_at_any_place_is_taken_or_refused_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, endpoint: Any, defaults: Any, accounts: list[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    for number, table in enumerate(accounts):
        table.setdefault("aor", f"sip:u{number}@example.com")
    path.write_text(dump({"endpoint": endpoint, "defaults": defaults, "account": accounts}))
    error = outcome(path)
    if error is not None:
        assert error.line is not None
        assert error.key


@given(
    st.lists(
        st.tuples(
            st.integers(0, 999),
            st.integers(0, 9),
            st.sampled_from(
                [
                    "",
                    "\n",
                    '"',
                    "'",
                    "[",
                    "]",
                    "{",
                    "}",
                    "=",
                    ",",
                    ".",
                    "#",
                    "\\",
                    "x",
                    "1",
                    "\0",
                    '"""',
                ]
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=500, deadline=None)
def test_whatever_was_typed_into_a_file_no_other_error_comes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int, str]]
) -> None:
    text = EXAMPLE
    for position, length, typed in changes:
        text = text[:position] + typed + text[position + length :]
    path = tmp_path_factory.getbasetemp() / "typed.toml"
    path.write_text(text)
    error = outcome(path)
    assert error is None or error.line is not None or "has no account" in str(error)


# -- secrets --------------------------------------------------------------------------------------


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_secret("env:ALICE_PASSWORD") == SECRET
    monkeypatch.setenv("EMPTY", "")
    for reference in ("env:EMPTY", "env:NOT_SET", "env:A=B", "env:\ud800", "env:a\0b"):
        with pytest.raises(pjsip.ConfigError, match=r"variable '.*' is not set, or empty"):
            read_secret(reference)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_a_file_without_its_line_end(tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_bytes(f" {SECRET} é{end}".encode())
    assert read_secret("file:secret", tmp_path) == f" {SECRET} é"
    assert read_secret(f"file:{tmp_path}/secret") == f" {SECRET} é"


def test_one_line_end_of_a_secret_is_dropped_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n\n")
    assert read_secret("file:secret", tmp_path) == f"{SECRET}\n"
    with pytest.raises(pjsip.ConfigError, match="password contains a control character") as caught:
        pjsip.Credentials.from_reference("a", "file:secret", base=tmp_path)
    assert SECRET not in str(caught.value)


def test_a_file_that_holds_no_secret_is_refused_by_its_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_text("x" * (MAX_SECRET + 1))
    (tmp_path / "latin").write_bytes(SECRET.encode() + b"\xe9")
    (tmp_path / "empty").write_text("\n")
    for name, why in {
        "none": "No such file or directory",
        "fifo": "is no regular file",
        ".": "is a directory",
        "large": "has more than 4096 bytes",
        "latin": "is not UTF-8",
        "empty": "is empty",
        "a\0b": "no file can have this name",
    }.items():
        with pytest.raises(pjsip.ConfigError, match=why) as caught:
            read_secret(f"file:{name}", tmp_path)
        assert repr(str(tmp_path))[1:-1] in str(caught.value)
        for error in chain(caught.value):
            assert SECRET not in f"{error!r} {vars(error)} {error.args}"
            assert not isinstance(error, UnicodeDecodeError)


def test_a_secret_that_others_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    with caplog.at_level(logging.WARNING, "pjsip_py"):
        read_secret("file:secret", tmp_path)
        assert not caplog.records
        file.chmod(0o640)
        read_secret("file:secret", tmp_path)
    (record,) = caplog.records
    assert record.name == "pjsip_py"
    assert str(file) in record.getMessage()
    assert "mode 640" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_a_secret_shared_by_many_accounts_is_read_once(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    one = '[[account]]\naor = "sip:u{0}@example.com"\ncredentials.username = "u{0}"\n'
    path = write(
        "[defaults.credentials]\npassword = 'file:secret'\n"
        + "".join(one.format(number) for number in range(20))
    )
    (path.parent / "secret").write_text(SECRET)
    (path.parent / "secret").chmod(0o644)
    assert len(load_accounts(path)) == 20
    assert len(caplog.records) == 1


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.fault: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        if self.fault is not None:
            raise self.fault
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


def test_a_secret_is_read_from_the_keyring(ring: Ring) -> None:
    keyring.set_password("sip", "alice", SECRET)
    keyring.set_password("https://example.com/sip", "alice", "other")
    assert read_secret("keyring:sip/alice") == SECRET
    assert read_secret("keyring:https://example.com/sip/alice") == "other"
    credentials = pjsip.Credentials.from_reference("alice", "keyring:sip/alice")
    assert credentials == pjsip.Credentials("alice", SECRET)


def test_a_keyring_that_gives_nothing_is_told(ring: Ring) -> None:
    with pytest.raises(pjsip.ConfigError, match="no entry 'sip/bob': keyring set sip bob"):
        read_secret("keyring:sip/bob")
    for reference in ("keyring:sip", "keyring:/alice", "keyring:sip/"):
        with pytest.raises(pjsip.ConfigError, match="keyring:service/username"):
            read_secret(reference)
    faults = (
        keyring.errors.KeyringLocked("the collection is locked"),
        keyring.errors.NoKeyringError("no backend"),
        OSError("the bus is gone"),
        RuntimeError(),
    )
    for ring.fault in faults:
        why = str(ring.fault) or "RuntimeError"
        with pytest.raises(pjsip.ConfigError, match=f"gives no entry 'sip/alice': {why}"):
            read_secret("keyring:sip/alice")


def test_a_missing_library_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(pjsip.ConfigError, match=re.escape("pip install 'pjsip-py[keyring]'")):
        read_secret("keyring:sip/alice")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(pjsip.ConfigError, match=re.escape("pip install 'pjsip-py[toml]'")):
        load_accounts(write(ALICE))


@pytest.mark.parametrize("wrong", [SECRET, f"x:{SECRET}", f":{SECRET}", "env:", "", 5, None, b"x"])
def test_what_is_no_reference_is_refused_and_not_quoted(wrong: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match="refer") as caught:
        read_secret(wrong)
    assert SECRET not in str(caught.value)


def test_credentials_remember_where_their_secret_stands(tmp_path: Path) -> None:
    (tmp_path / "ha1").write_text("5" * 32)
    by_password = pjsip.Credentials.from_reference("alice", password="env:ALICE_PASSWORD")
    by_hash = pjsip.Credentials.from_reference(
        "alice",
        ha1={"MD5": "file:ha1"},
        realm="r",
        min_algorithm="MD5",
        base=tmp_path,
    )
    assert repr(by_password) == "Credentials('alice', password=env:ALICE_PASSWORD, realm='*')"
    assert f"ha1={{'MD5': 'file:{tmp_path}/ha1'}}" in repr(by_hash)
    assert by_password == pjsip.Credentials("alice", SECRET)
    assert by_hash == pjsip.Credentials("alice", ha1="5" * 32, realm="r", min_algorithm="MD5")
    assert hash(by_password) == hash(pjsip.Credentials("alice", SECRET))
    assert by_hash == pjsip.Credentials.from_reference(
        "alice", ha1=f"file:{tmp_path}/ha1", realm="r", min_algorithm="MD5"
    )
    for credentials in (by_password, by_hash):
        for same in (copy.deepcopy(credentials), pickle.loads(pickle.dumps(credentials))):
            assert same == credentials
            assert repr(same) == repr(credentials)
    with pytest.raises(pjsip.ConfigError, match="password: the environment variable 'NONE'"):
        pjsip.Credentials.from_reference("alice", "env:NONE")
    with pytest.raises(pjsip.ConfigError, match="either password or ha1"):
        pjsip.Credentials.from_reference("alice")
    with pytest.raises(pjsip.ConfigError, match="ha1: a secret is not written out"):
        pjsip.Credentials.from_reference("alice", ha1={"MD5": "5" * 32}, realm="r")


def test_a_secret_shows_its_reference_alone() -> None:
    secret = read_secret("env:ALICE_PASSWORD")
    assert repr([secret]) == "[<env:ALICE_PASSWORD>]"
    for same in (copy.deepcopy(secret), pickle.loads(pickle.dumps(secret))):
        assert isinstance(same, Secret)
        assert (same, same.reference) == (SECRET, "env:ALICE_PASSWORD")


# -- saving ---------------------------------------------------------------------------------------


def test_what_differs_from_the_defaults_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    (tmp_path / "tls").mkdir()
    for name in ("tls/ca.pem", "key.pem", "password"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    tls = pjsip.TlsConfig(
        ca_file=tmp_path / "tls/ca.pem",
        cert_file=tmp_path / "key.pem",
        key_file=tmp_path / "key.pem",
        key_password=read_secret("file:password", tmp_path),
    )
    accounts = [
        pjsip.AccountConfig(aor="sip:a@example.com"),
        pjsip.AccountConfig(
            aor="sips:b@example.com",
            credentials=pjsip.Credentials.from_reference("b", "env:ALICE_PASSWORD"),
            retry=RetryPolicy(per_code={403: FAILOVER, 404: RETRY, 500: 2.5}),
            failback=None,
            contact_params={"+sip.ice": None},
            display_name='"B" \\ é',
            tls=tls,
        ),
    ]
    save_accounts(path, accounts, endpoint={"t1": 0.25, "t2": 4.0})
    assert (
        path.read_text() == r"""[endpoint]
t1 = 0.25

[[account]]
aor = "sip:a@example.com"

[[account]]
aor = "sips:b@example.com"
credentials = { username = "b", password = "env:ALICE_PASSWORD" }
retry = { per_code = { 403 = "failover", 404 = "retry", 500 = 2.5 } }
failback = false
contact_params = { "+sip.ice" = true }
display_name = "\"B\" \\ é"
tls = { ca_file = "tls/ca.pem", cert_file = "key.pem", key_file = "key.pem", """
        'key_password = "file:password" }\n'
    )
    assert load_file(path) == (accounts, {"t1": 0.25})
    assert SECRET not in path.read_text()


def test_no_accounts_can_be_saved(tmp_path: Path) -> None:
    for endpoint in (None, {"t1": 0.25}):
        save_accounts(tmp_path / "a.toml", [], endpoint=endpoint)
        assert load_file(tmp_path / "a.toml") == ([], endpoint or {})


def test_a_file_in_another_folder_names_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    (tmp_path / "password").write_text(SECRET)
    (tmp_path / "sub").mkdir()
    text = "aor = 'sips:a@b.c'\ntls.ca_file = 'ca.pem'\ncredentials = " + (
        "{ username = 'a', password = 'file:password' }"
    )
    (tmp_path / "a.toml").write_text(f"[[account]]\n{text}")
    accounts = load_accounts(tmp_path / "a.toml")
    save_accounts(tmp_path / "sub" / "b.toml", accounts)
    assert load_accounts(tmp_path / "sub" / "b.toml") == accounts
    save_accounts(tmp_path / "c.toml", load_accounts(tmp_path / "sub" / "b.toml"))
    assert load_accounts(tmp_path / "c.toml") == accounts
    assert str(tmp_path) not in (tmp_path / "c.toml").read_text()


def test_a_secret_without_a_reference_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    fine = pjsip.AccountConfig(aor="sip:a@example.com")
    tls = pjsip.TlsConfig(cert_file=__file__, key_file=__file__, key_password=SECRET)
    for options, key in (
        ({"credentials": pjsip.Credentials("b", SECRET)}, "credentials"),
        ({"credentials": (pjsip.Credentials("b", ha1="5" * 32, realm="r"),)}, "credentials"),
        ({"registrar": "sips:example.com", "tls": tls}, "tls.key_password"),
    ):
        bad = pjsip.AccountConfig(aor="sip:b@example.com", **options)
        with pytest.raises(AccountsFileError, match=r"account 2 .sip:b@example.com.: ") as caught:
            save_accounts(path, [fine, bad])
        assert caught.value.key == key
        assert "references" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert path.read_text() == "old"


def test_what_no_file_can_hold_is_not_saved(ep: pjsip.Endpoint, tmp_path: Path) -> None:
    transport = ep.listen("udp", "127.0.0.1")
    pinned = pjsip.AccountConfig(aor="sip:a@example.com", transport=transport)
    plain = pjsip.AccountConfig(aor="sip:a@example.com")
    for configs, why in (
        ([pinned], "account 1 .*transport: is a live object"),
        ([plain, plain], "account 2 .*aor: account 1 has this one already"),
        (["sip:a@example.com"], "account 1 must be an AccountConfig"),
    ):
        with pytest.raises(pjsip.ConfigError, match=why):
            save_accounts(tmp_path / "a.toml", configs)  # type: ignore[arg-type]
    for endpoint, why in (({"t3": 5}, "unknown field 't3'"), ({"t1": 0}, "t1 must be")):
        with pytest.raises(pjsip.ConfigError, match=why):
            save_accounts(tmp_path / "a.toml", [plain], endpoint=endpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_the_owners_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "a.toml", tmp_path / "link.toml"
    accounts = [pjsip.AccountConfig(aor="sip:a@example.com")]
    save_accounts(path, accounts)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    link.symlink_to(path)
    save_accounts(link, accounts)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["a.toml", "link.toml"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    accounts = [pjsip.AccountConfig(aor="sip:a@example.com")]
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "none" / "a.toml", "No such file or directory"),
        (tmp_path / "file" / "a.toml", "Not a directory"),
        (tmp_path, "is no regular file"),
        (tmp_path / "fifo", "is no regular file"),
    ):
        with pytest.raises(AccountsFileError, match=why) as caught:
            save_accounts(path, accounts)
        assert str(caught.value).startswith(str(path))
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    save_accounts(path, [pjsip.AccountConfig(aor="sip:old@example.com")])
    run_program(f"""
        import resource, signal
        import pjsip_py as pjsip
        from pjsip_py._accounts_file import save_accounts
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        accounts = [pjsip.AccountConfig(aor=f"sip:u{{i}}@example.com") for i in range(1000)]
        try:
            save_accounts({str(path)!r}, accounts)
        except pjsip.ConfigError as error:
            assert {str(path)!r} in str(error) and "File too large" in str(error), error
        else:
            raise AssertionError
        """).check()
    assert os.listdir(tmp_path) == ["a.toml"]
    assert load_accounts(path)[0].aor == "sip:old@example.com"


# What an account may be, as far as a file can hold it.

TOKEN = st.from_regex(r"[A-Za-z0-9.!%*_+`'~-]{1,12}", fullmatch=True)
VALUE = st.sampled_from(["", "1", "a-b", '"quoted; text"', "%41"])
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
SECONDS = st.floats(0.5, 100) | st.integers(1, 100)
URI = st.builds(
    "{}:{}{}".format,
    st.sampled_from(["sip", "sips", "SIP"]),
    st.sampled_from(["example.com", "127.0.0.1", "[::1]", "Example.org"]),
    st.sampled_from(["", ":5070", ";lr", ";transport=tcp"]),
)


def credentials() -> st.SearchStrategy[pjsip.Credentials]:
    return st.builds(
        pjsip.Credentials.from_reference,
        TEXT.filter(lambda name: name and '"' not in name and "\\" not in name),
        st.just("env:ALICE_PASSWORD"),
        realm=st.sampled_from(["*", "example.com", "a realm"]),
        min_algorithm=st.sampled_from([None, "MD5", "SHA-256"]),
    )


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


POLICY = st.builds(
    RetryPolicy,
    initial=st.floats(0.5, 10),
    factor=st.floats(1, 4) | st.integers(1, 4),
    jitter=st.sampled_from(["full", "half", "none"]),
    max_attempts=optional(st.integers(1, 99)),
    honour_retry_after=st.booleans(),
    per_code=st.dictionaries(
        st.integers(300, 699), st.sampled_from([STOP, RETRY, FAILOVER]) | SECONDS, max_size=4
    ),
    seed=optional(st.integers(-(2**63), 2**63 - 1)),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "registrar": optional(URI),
    "registrars": st.lists(
        st.sampled_from(
            [
                "sip:a.example.com",
                RegistrarConfig("sips:b.example.com", tls=pjsip.TlsConfig(insecure=True)),
                RegistrarConfig("sip:c.example.com", route=("sip:p.example.com",)),
                RegistrarConfig("sip:d.example.com"),
            ]
        ),
        unique=True,
        max_size=4,
    ).map(tuple),
    "credentials": credentials() | st.lists(credentials(), max_size=3).map(tuple),
    "expires": st.integers(100, 2**31 - 1),
    "refresh_margin": optional(st.integers(1, 99)),
    "credentials_timeout": st.floats(0.1, 99),
    "timeout": optional(SECONDS),
    "retry": optional(POLICY),
    "failback": optional(SECONDS),
    "register_on_add": st.booleans(),
    "route": st.lists(URI.filter(lambda uri: "sips" not in uri), max_size=3).map(tuple),
    "headers": st.dictionaries(TOKEN.map("X-{}".format), TEXT, max_size=3)
    | st.lists(st.tuples(TOKEN.map("X-{}".format), TEXT), max_size=3).map(tuple),
    "contact_params": st.dictionaries(TOKEN, st.none() | VALUE, max_size=3)
    | st.sampled_from(["", ";ob;q=0.5"]),
    "contact_uri_params": st.dictionaries(TOKEN, st.none() | VALUE, max_size=3),
    "contact_rewrite": st.integers(0, 2),
    "keep_alive": st.sampled_from([None, 0, 1, 25, 0.0, 30.5]),
    "pong_timeout": SECONDS,
    "instance_id": optional(st.just("urn:uuid:7a1f7a36-3c0a-5b8e-9c53-2f0f6f1f2b64")),
    "display_name": TEXT,
    "from_uri": optional(st.just("sip:assistant@example.com")),
}


@st.composite
def account(draw: st.DrawFn, number: int) -> pjsip.AccountConfig:
    options = {name: draw(values) for name, values in FIELDS.items() if draw(st.booleans())}
    if options.get("registrars"):
        options.pop("registrar", None)
    try:
        return pjsip.AccountConfig(aor=f"sip:u{number}@example.com", **options)
    except pjsip.PjsipError:  # contradictions, such as a route by UDP to TLS
        reject()


@st.composite
def several_accounts(draw: st.DrawFn) -> list[pjsip.AccountConfig]:
    return [draw(account(number)) for number in range(draw(st.integers(0, 4)))]


random_settings = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@given(several_accounts())
@random_settings
def test_what_is_saved_is_loaded_again(
    tmp_path_factory: pytest.TempPathFactory, accounts: list[pjsip.AccountConfig]
) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.toml"
    save_accounts(path, accounts)
    assert load_accounts(path) == accounts
    text = path.read_text()
    assert SECRET not in text
    save_accounts(path, load_accounts(path))
    assert path.read_text() == text


@given(several_accounts().filter(bool), st.data())
@random_settings
def test_every_key_that_is_saved_is_found_by_its_line(
    tmp_path_factory: pytest.TempPathFactory,
    accounts: list[pjsip.AccountConfig],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoilt.toml"
    save_accounts(path, accounts)
    lines = path.read_text().splitlines()
    keys = [index for index, line in enumerate(lines) if " = " in line]
    index = data.draw(st.sampled_from(keys))
    key = lines[index].partition(" = ")[0]
    lines[index] = f"{key} = 1979-05-27"
    path.write_text("\n".join(lines))
    error = refused(path)
    assert (error.line, error.key) == (index + 1, key)


def test_every_field_can_be_saved_but_the_live_one() -> None:
    known = {field.name for field in dataclasses.fields(pjsip.AccountConfig) if field.init}
    untested = {"aor", "transport", "contacts", "outbound", "tls"}  # others rule those out
    assert known == FIELDS.keys() | untested


@pytest.mark.parametrize(
    "options",
    [
        {"contacts": ("sip:a@192.0.2.1", "<sip:a@192.0.2.2>;q=0.5")},
        {"outbound": True, "registrar": "sips:example.com"},
        {"outbound": ("sip:e.example.com;transport=tcp;lr",), "registrar": "sips:example.com"},
        {"tls": pjsip.TlsConfig(), "registrar": "sips:example.com"},
        {"tls": pjsip.TlsConfig(versions=("TLSv1.3",), timeout=5), "registrar": "sips:a.b"},
        {"headers": {}},
        {"contact_params": {}},
        {"route": "sip:p.example.com"},
    ],
)
def test_the_other_fields_are_saved_and_loaded_too(tmp_path: Path, options: Any) -> None:
    accounts = [pjsip.AccountConfig(aor="sip:a@example.com", **options)]
    save_accounts(tmp_path / "a.toml", accounts)
    assert load_accounts(tmp_path / "a.toml") == accounts


# -- size, and the page ---------------------------------------------------------------------------


def test_ten_thousand_accounts_take_seconds(write: Write, tmp_path: Path) -> None:
    one = (
        '[[account]]\naor = "sip:u{0}@example.com"\nexpires = 600\nheaders = {{ Subject = "x" }}\n'
        'credentials = {{ username = "u{0}", password = "env:ALICE_PASSWORD" }}\n'
        "retry = {{ initial = 5, per_code = {{ 403 = 'stop' }} }}\n"
    )
    defaults = '[defaults]\nregistrar = "sip:127.0.0.1:5060"\n'
    text = defaults + "".join(one.format(number) for number in range(10_000))
    path = write(text)
    began = time.process_time()
    accounts = load_accounts(path)
    assert len(accounts) == 10_000
    save_accounts(tmp_path / "saved.toml", accounts)
    assert refused(write(text + "expires = 0")).line == 60_003  # a second one
    path = write(text + "[[account]]\naor = 'sip:last@example.com'\nexpires = 0")
    assert refused(path).line == text.count("\n") + 3
    assert time.process_time() - began < 20
    assert load_accounts(tmp_path / "saved.toml") == accounts


def test_the_page_names_every_field() -> None:
    page = PAGE.read_text("utf-8")
    for cls in CLASSES:
        for field in dataclasses.fields(cls):
            if field.init and field.name != "transport":
                assert re.search(rf"^\| `{field.name}` \|", page, re.M), (cls, field.name)


def test_the_example_on_the_page_is_a_file(write: Write, ring: Ring) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert example is not None
    path = write(example[1])
    (path.parent / "bob.secret").write_text(SECRET)
    ring.set_password("sip", "bob", SECRET)
    file = load_file(path)
    assert [config.aor for config in file.accounts] == [
        "sip:alice@example.com",
        "sip:bob@example.com",
    ]
    assert pjsip.Endpoint(**file.endpoint).config.register_rate == 50
    assert file.accounts[0].expires == 120
    assert file.accounts[1].registrar is None


def test_the_mistakes_on_the_page_are_told_so(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.search(r"```text\n(accounts\.toml:.*?)```", PAGE.read_text("utf-8"), re.S)
    assert shown is not None
    monkeypatch.chdir(
        write("""


[defaults]


[[account]]
aor = "sip:alice@example.com"

[[account]]
aor = "sip:bob@example.com"
expires = 0

[[account]]
aor = "sip:carol@example.com"
credentials = [{ username = "carol", password = "env:ALICE_PASSWORD" },
               { username = "carol", password = "env:CAROL" }]
[[account]]
aor = "sip:dave@example.com"
expries = 60
""").parent
    )
    with pytest.raises(AccountsFileError) as caught:
        load_accounts("accounts.toml")
    assert str(caught.value) + "\n" == shown[1]
