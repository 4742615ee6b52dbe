# SPDX-License-Identifier: GPL-3.0-or-later
"""The pytest plugin, as projects use it."""

from __future__ import annotations

import re

import pytest

import pjsip_py as pjsip
from pjsip_py import pcap
from pytest_pjsip_py.run import safe_name
from pytest_pjsip_py.trace import FIRST, KEPT, LAST, Trace

pytest_plugins = ["pytester"]

SETTINGS = """
[pytest]
filterwarnings = error
addopts = --strict-markers --strict-config -p no:cacheprovider -p no:locust -p no:hypothesispytest
asyncio_default_fixture_loop_scope = function
"""
HEAD = """
import asyncio
import threading
import time

import pytest

import pjsip_py as pjsip

"""
DEADLINE = 50  # s


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini(SETTINGS)
    return pytester


def run(
    project: pytest.Pytester, text: str, *options: str, process: bool = False
) -> pytest.RunResult:
    """In this process, which has no endpoint of its own then, or in another."""
    project.makepyfile(HEAD + text)
    if process:
        return project.runpytest_subprocess(*options, timeout=DEADLINE)
    return project.runpytest_inprocess(*options)


def part(result: pytest.RunResult, title: str) -> str:
    """What is told under a heading like ``____ test_x ____``."""
    text = result.stdout.str()
    found = re.search(
        rf"^_+ {re.escape(title)} _+$\n(.*?)(?=^(?:_{{3,}}|={{3,}}) )", text, re.M | re.S
    )
    assert found, f"no {title!r} in\n{text}"
    return found[1]


def test_what_goes_wrong_fails_its_test_and_no_other(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        from pjsip_py.testing import Answer

        def test_assertion(sip_account_factory, sip_registrar):
            sip_account_factory("bob", protocol="tcp").register().result(5)
            assert sip_registrar.requests[-1].expires == 60

        def test_handler(sip_account_factory):
            account = sip_account_factory()

            @account.on_reg_state
            def boom(event):
                raise ZeroDivisionError("in the handler")

            account.register().result(5)

        def test_callback_of_the_registrar(sip_account_factory, sip_registrar):
            def match(request):
                return request.nonsense

            sip_registrar.script(Answer(500), match=match)
            sip_account_factory().register().exception(5)

        @pytest.fixture
        def account(sip_account_factory):
            account = sip_account_factory()
            yield account
            account.unregister().result(5)

        def test_handler_during_teardown(account):
            def boom(event):
                assert not event.is_unregister, "in the teardown"

            account.on_reg_state(boom)
            account.register().result(5)

        def test_two_failures(sip_account_factory):
            account = sip_account_factory()

            @account.on_reg_state
            def boom(event):
                raise ZeroDivisionError("behind the assertion")

            account.register().result(5)
            time.sleep(0.05)
            assert account.state == "the first"

        def test_left_open():
            pjsip.Endpoint().open()

        @pytest.mark.asyncio
        async def test_left_open_on_a_loop():
            await pjsip.Endpoint().__aenter__()

        def test_two_endpoints(sip_endpoint):
            with pytest.raises(pjsip.EndpointBusyError, match="test_two_endpoints"):
                pjsip.Endpoint()

        @pytest.mark.sip(sed=1)
        def test_marker(sip_endpoint): ...

        def test_opened_twice(sip_endpoint, sip_registrar_factory):
            uri = sip_registrar_factory().uri()
            for _ in range(2):
                sip_endpoint.add_account("sip:a@example.com", registrar=uri).register().result(5)
                sip_endpoint.close()
                sip_endpoint.open()
            assert not "both are in the trace"

        @pytest.mark.sip(seed=7340033, user_agent="marked")
        def test_fine(sip_account_factory, sip_registrar):
            sip_account_factory().register().result(5)
            assert sip_registrar.requests[0].headers.get("User-Agent") == "marked"
        """.replace("\n        ", "\n"),
    )
    result.assert_outcomes(failed=5, passed=5, errors=4)
    assert "expires == 60" in (told := part(result, "test_assertion"))
    assert "401 Unauthorized" in told
    assert 'response="****' in told
    assert "raise ZeroDivisionError" in (told := part(result, "test_handler"))
    assert "kit.py" not in told
    assert "return request.nonsense" in part(result, "test_callback_of_the_registrar")
    told = part(result, "ERROR at teardown of test_handler_during_teardown")
    assert "AssertionError: in the teardown" in told
    told = part(result, "test_two_failures")
    assert "the first" in told
    assert "SIP: also ZeroDivisionError" in told
    assert 'raise ZeroDivisionError("behind the assertion")' in told
    told = part(result, "ERROR at teardown of test_left_open")
    assert re.search(r"left an Endpoint open, opened at \S+\.py:\d+; it is closed now", told)
    assert "left an Endpoint open" in part(result, "ERROR at teardown of test_left_open_on_a_loop")
    assert part(result, "test_opened_twice").count("REGISTER sip:") >= 4
    assert "did you mean 'seed'?" in part(result, "ERROR at setup of test_marker")


def test_an_endpoint_of_somebody_else(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
@pytest.fixture(scope="module")
def ep():
    with pjsip.Endpoint() as endpoint:
        yield endpoint

def test_busy(ep, sip_endpoint): ...
def test_goes_on(ep):
    assert not ep.closed
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    told = part(result, "ERROR at setup of test_busy")
    assert re.search(r"another Endpoint is open in this process, opened at \S+\.py:1\d, ", told)
    assert "Traceback" not in told


def test_an_endpoint_of_a_wider_scope_is_left_alone(project: pytest.Pytester) -> None:
    """Though it opens within a test."""
    result = run(
        project,
        """
@pytest.fixture(scope="module")
def ep():
    endpoint = pjsip.Endpoint()
    yield endpoint
    endpoint.close()

def test_opens(ep):
    ep.listen("udp", host="127.0.0.1")
def test_uses(ep):
    assert len(ep.transports) == 1
""",
    )
    result.assert_outcomes(passed=2)


def test_teardown_is_bounded(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
import socket

stop = threading.Event()

def test_handler_blocks(sip_account_factory):
    account = sip_account_factory()

    @account.on_reg_state
    def block(event):
        stop.wait(30)

    account.register()
    account.wait_registered(5)

def test_registrar_blocks(sip_account_factory, sip_registrar):
    entered = threading.Event()

    def match(request):
        entered.set()
        stop.wait(30)

    from pjsip_py.testing import Answer
    sip_registrar.script(Answer(500), match=match)
    sip_account_factory(timeout=0.1).register()
    assert entered.wait(5)

def test_fine(sip_account_factory):
    sip_account_factory().register().result(5)
    stop.set()
""",
        process=True,
    )
    result.assert_outcomes(passed=3, errors=2)
    told = part(result, "ERROR at teardown of test_handler_blocks")
    assert "a handler of sip_endpoint is still running" in told
    assert "in block\n    stop.wait(30)" in told
    told = part(result, "ERROR at teardown of test_registrar_blocks")
    assert "in match\n    stop.wait(30)" in told


def test_only_who_outlives_the_test_is_told_of_its_end(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
from pjsip_py.testing import Registrar

seen = []

@pytest.fixture(scope="module")
def far():
    with Registrar(users={"alice": "secret"}) as registrar:
        yield registrar

def test_near(sip_account_factory, sip_registrar):
    sip_account_factory().register().result(5)
    seen.append(sip_registrar)

def test_gone(sip_account_factory, sip_registrar):
    sip_account_factory().register().result(5)
    sip_registrar.stop()
    seen.append(sip_registrar)

def test_nobody_waited_for_an_answer():
    for registrar in seen:
        assert [request.expires for request in registrar.requests] == [300, 300]

@pytest.mark.parametrize("how", ["registrar", "uri"])
def test_far(how, far, sip_account_factory):
    credentials = pjsip.Credentials("alice", "secret")
    registrar = far if how == "registrar" else far.uri()
    sip_account_factory(registrar=registrar, credentials=credentials).register().result(5)
    assert far.aors == ["sip:alice@example.com"]

def test_far_was_told(far):
    assert far.aors == []
    assert far.requests[-1].expires == 0
""",
    )
    result.assert_outcomes(passed=6)


def test_async_tests_have_their_loop(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio")
    pytest.importorskip("anyio")
    result = run(
        project,
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

async def registers(account, registrar):
    here, seen = threading.get_ident(), []

    @account.on_reg_state
    async def on_reg_state(event):
        await asyncio.sleep(0)
        seen.append((event.code, threading.get_ident(), asyncio.get_running_loop()))

    result = await account.register()
    assert result.code == 200
    await asyncio.sleep(0.01)
    assert seen == [(200, here, asyncio.get_running_loop())]
    assert [r.answered for r in registrar.requests] == [401, 200]

@pytest.mark.asyncio
async def test_asyncio(sip_account_factory, sip_registrar):
    await registers(sip_account_factory(), sip_registrar)

@pytest.mark.anyio
async def test_anyio(sip_account_factory, sip_registrar):
    await registers(sip_account_factory(), sip_registrar)

class TestMethods:
    @pytest.mark.asyncio(loop_scope="class")
    async def test_of_a_class(self, sip_account_factory, sip_registrar):
        await registers(sip_account_factory(), sip_registrar)

    @pytest.mark.asyncio(loop_scope="class")
    async def test_on_the_same_loop(self, sip_account_factory, sip_registrar):
        await registers(sip_account_factory(), sip_registrar)

@pytest.fixture
def account(sip_account_factory):
    account = sip_account_factory()
    account.register().result(5)
    yield account
    account.unregister().result(5)

@pytest.mark.asyncio
async def test_sync_fixture(account, sip_registrar):
    assert (await account.register()).code == 200
    assert [r.answered for r in sip_registrar.requests] == [401, 200, 200]

@pytest.fixture
async def async_account(anyio_backend, sip_account_factory):
    account = sip_account_factory()
    await account.register()
    yield account
    await account.unregister()

@pytest.mark.anyio
async def test_async_fixture(async_account, sip_registrar):
    assert (await async_account.register()).code == 200
    assert [r.answered for r in sip_registrar.requests] == [401, 200, 200]

@pytest.mark.asyncio
async def test_async_handler_fails(sip_account_factory):
    account = sip_account_factory()

    @account.on_reg_state
    async def boom(event):
        raise ZeroDivisionError("in the coroutine")

    await account.register()

@pytest.mark.asyncio
async def test_time_passes(sip_clock, sip_account_factory, sip_registrar):
    account = sip_account_factory(expires=60)
    await account.register()
    await sip_clock.aadvance(minutes=10)
    assert len(sip_registrar.requests) > 10

def test_sync():
    pass
""",
    )
    result.assert_outcomes(passed=8, failed=1)
    assert 'raise ZeroDivisionError("in the coroutine")' in part(result, "test_async_handler_fails")


def test_another_async_library_is_told_apart(project: pytest.Pytester) -> None:
    pytest.importorskip("trio")
    result = run(
        project,
        """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio(sip_endpoint): ...
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["sip_endpoint delivers on asyncio's loop*'asyncio' chooses"])


def test_the_clock_is_the_whole_test_s(project: pytest.Pytester) -> None:
    """Two runs of a test send the same; another test sends something else."""
    text = """
@pytest.mark.parametrize("number", [1, 2])
def test_hour(number, sip_clock, sip_account_factory, sip_registrar):
    account = sip_account_factory(expires=60)
    account.register().result(5)
    sip_clock.advance(hours=1)
    assert 60 < len(sip_registrar.requests) < 100
    print("Call-ID", sip_registrar.requests[0].call_id)

@pytest.mark.sip(seed=7340032)
@pytest.mark.parametrize("number", [1, 2])
def test_seed(number, sip_clock, sip_account_factory, sip_registrar):
    assert sip_clock.seed == 7340032
    sip_account_factory().register().result(5)
    print("Call-ID", sip_registrar.requests[0].call_id)
"""
    first, second = (
        re.findall(r"Call-ID (\S+)", run(project, text, "-s").stdout.str()) for _ in range(2)
    )
    assert first == second
    assert len(first) == 4
    assert len(set(first)) == 3


RULES = """
def test_unused(sip_registrar):
    sip_registrar.answer_next(503, times=2)

def test_used(sip_account_factory, sip_registrar):
    sip_registrar.answer_next(403)
    sip_account_factory().register().exception(5)
"""


def test_unused_rules_are_told(project: pytest.Pytester) -> None:
    result = run(project, RULES)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*rules*not used*", "*::test_unused", "*503*NEVER MATCHED*", "(sip_strict*"]
    )
    assert "::test_used" not in result.stdout.str()


def test_unused_rules_fail_where_that_is_wanted(project: pytest.Pytester) -> None:
    result = run(
        project,
        RULES + "@pytest.mark.sip(strict=False)\ndef test_may(sip_registrar):\n"
        "    sip_registrar.answer_next(503)\n",
        "-o",
        "sip_strict=true",
    )
    result.assert_outcomes(passed=2, failed=1)
    assert "503" in part(result, "test_unused")


def test_accounts_of_the_factory(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_many(sip_account_factory, sip_registrar):
    accounts = [sip_account_factory(f"user{n}") for n in range(10)]
    for operation in [account.register() for account in accounts]:
        assert operation.result(5).code == 200
    assert len(sip_registrar.aors) == 10

def test_several_registrars(sip_account_factory, sip_registrar_factory):
    open_one = sip_registrar_factory()
    tls = sip_registrar_factory(("tls", "tcp"), users={"alice": "other"})
    assert sip_account_factory("alice", open_one).register().result(5).algorithm == ""
    for protocol in ("tls", "tcp"):
        account = sip_account_factory("alice", tls, protocol, expires=77)
        assert account.register().result(5).expires == 77
    assert {r.protocol for r in tls.requests} == {"tls", "tcp"}

def test_by_uri(sip_account_factory, sip_registrar):
    credentials = pjsip.Credentials("alice", "wrong")
    account = sip_account_factory(
        "sip:alice@example.org", sip_registrar.uri("tcp"), credentials=credentials
    )
    with pytest.raises(pjsip.WrongPasswordError):
        account.register().result(5)
    with pytest.raises(ValueError, match="transport=tcp"):
        sip_account_factory("bob", sip_registrar.uri(), "tcp")

def test_failover(sip_account_factory, sip_registrar_factory):
    first, second = sip_registrar_factory(), sip_registrar_factory()
    first.answer_next(503)
    account = sip_account_factory(registrars=[first.uri(), second.uri()])
    account.register().result(5)
    assert account.registrar == second.uri()
""",
    )
    result.assert_outcomes(passed=4)


RUN = """
from pjsip_py.testing import Registrar

def test_ok(sip_account_factory):
    sip_account_factory().register().result(5)

@pytest.mark.parametrize("name", ["a/b", "../c\\n", "\\u00e9" * 300, "<script>alert(1)</script>"])
def test_names(name, sip_account_factory):
    sip_account_factory().register().result(5)

def test_tls(sip_account_factory, sip_registrar_factory):
    account = sip_account_factory("alice", sip_registrar_factory(("tls",), users={}))
    account.register().result(5)

def test_of_its_own():
    with Registrar() as registrar, pjsip.Endpoint() as ep:
        account = ep.add_account("sip:x@example.com", registrar=registrar.uri())
        account.register().result(5)

def test_failing(sip_account_factory, sip_registrar):
    sip_registrar.answer_next(403, "Not <b>you</b>")
    sip_account_factory().register().result(5)

@pytest.mark.xfail
def test_expected(sip_account_factory):
    assert not sip_account_factory().register().result(5)

def test_skipped():
    pytest.skip("not today")

def test_no_sip():
    pass
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one", "xdist"])
def test_report_and_pcaps(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    if options:
        pytest.importorskip("xdist")
    options = (*options, "--sip-report=out/report.html", "--sip-pcap=out/pcap")
    result = run(project, RUN, *options, process=True)
    result.assert_outcomes(passed=8, failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["SIP messages: 9 pcaps in *pcap", "SIP report: *report.html"])

    page = (project.path / "out/report.html").read_text("utf-8")
    tests = re.findall(r'<details class="run-test o-(\w+)[^>]*? data-sip="(\d)"( open)?>', page)
    assert [outcome for outcome, _, _ in tests] == ["failed"] + ["passed"] * 8 + [
        "xfailed",
        "skipped",
    ]
    assert [sip for _, sip, _ in tests].count("1") == 9
    assert [bool(opened) for _, _, opened in tests] == [True] + [False] * 10
    assert "Not &lt;b&gt;you" in page
    assert "alert(1)</script>" not in page
    assert "not today" in page
    assert "secret" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert page.count("401 Unauthorized") >= 7

    files = sorted((project.path / "out/pcap").iterdir())
    assert len(files) == 9
    for file in files:
        assert re.fullmatch(r"[\w.=-]{1,120}", file.name, re.ASCII)
        lines = [message.start_line for message in pcap.read(file)]
        assert lines[0].startswith("REGISTER sip:127.0.0.1:")
        assert lines[-1].startswith(("SIP/2.0 200", "SIP/2.0 403"))
        assert not re.search(rb"secret\b", file.read_bytes())
        assert file.name[-15:-7] in page  # where to find it


def test_a_run_that_is_broken_off_has_its_report(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_first(sip_account_factory):
    sip_account_factory().register().result(5)
    raise KeyboardInterrupt
def test_second(): ...
""",
        "--sip-report=report.html",
        process=True,
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "SIP tests" in (project.path / "report.html").read_text("utf-8")


def test_a_file_that_cannot_be_imported_is_in_the_report(project: pytest.Pytester) -> None:
    result = run(project, "import nonsense", "--sip-report=report.html")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "No module named" in (project.path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sip-pcap=file/pcaps"], "--sip-pcap: the folder */file/pcaps cannot be made: Not a d*"),
        (["--sip-pcap=file"], "--sip-pcap: the folder */file cannot be made: File exists"),
        (["--sip-report=file/r.html"], "--sip-report: */r.html cannot be written: File exists"),
        (["--sip-report=folder"], "--sip-report: */folder is a folder; name a file in it"),
        (["--sip-report=report.pdf"], "--sip-report: report.pdf is not called .html"),
    ],
    ids=lambda value: "".join(value)[:16] if isinstance(value, list) else "",
)
def test_options_that_cannot_be_met(
    project: pytest.Pytester, options: list[str], told: str
) -> None:
    project.makefile("", file="")
    (project.path / "file").touch()
    project.mkdir("folder")
    project.makepyfile("def test_it(): ...")
    result = project.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert "Traceback" not in result.stderr.str()


def test_a_pcap_that_cannot_be_written_is_told_at_the_end(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
import shutil
def test_it(sip_account_factory):
    sip_account_factory().register().result(5)
    shutil.rmtree("pcaps")
""",
        "--sip-pcap=pcaps",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--sip-pcap: *test_it*.pcapng cannot be written: No such file*"])


def test_who_does_not_use_it_does_not_pay(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(
        """
        import sys

        def test_nothing_was_imported():
            ours = [name for name in sys.modules if name.startswith("pjsip_py")]
            assert ours == []
            assert "sipmessage" not in sys.modules
        """
    )
    pytester.runpytest_subprocess(timeout=DEADLINE).assert_outcomes(passed=1)


def test_it_can_be_switched_off(project: pytest.Pytester) -> None:
    result = run(project, "def test_it(sip_endpoint): ...", "-p", "no:pjsip_py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'sip_endpoint' not found*"])


@pytest.mark.parametrize("plugin", ["terminal", "capture", "logging", "xdist", "asyncio", "anyio"])
def test_it_needs_no_other_plugin(project: pytest.Pytester, plugin: str) -> None:
    project.makeini(
        "[pytest]\nfilterwarnings = error\n ignore::pytest.PytestConfigWarning\n"
        "addopts = -p no:locust\nasyncio_default_fixture_loop_scope = function\n"
    )
    text = "def test_it(sip_account_factory): sip_account_factory().register().result(5)"
    result = run(project, text, "-p", f"no:{plugin}", "--sip-report=report.html")
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    assert "o-passed" in (project.path / "report.html").read_text("utf-8")


def test_without_the_extra_it_says_what_to_install(project: pytest.Pytester) -> None:
    project.makeconftest("import sys\nsys.modules['sipmessage'] = None")
    text = "def test_endpoint(sip_endpoint): ...\ndef test_registrar(sip_registrar): ..."
    result = run(project, text, process=True)
    result.assert_outcomes(passed=1, errors=1)
    told = part(result, "ERROR at setup of test_registrar")
    assert "pip install 'pjsip-py[testing]'" in told
    assert "Traceback" not in told


def test_a_diff_of_requests(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_it(sip_account_factory, sip_registrar):
    sip_account_factory().register().result(5)
    assert sip_registrar.requests[0] == sip_registrar.requests[1]
""",
        "-vv",
    )
    result.assert_outcomes(failed=1)
    told = part(result, "test_it")
    assert re.search(r"^E +- Authorization: Digest .*response=\"\*+\"", told, re.M)


@pytest.mark.parametrize("options", [(), ("--sip-report=report.html",)], ids=["plain", "report"])
def test_the_trace_of_a_test_is_its_own(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    """SipMessage events come where a test wants them, whatever is recorded."""
    result = run(
        project,
        """
from pjsip_py.testing import Registrar

def collect(ep, registrar):
    seen = []
    ep.on(pjsip.Event, seen.append)
    account = ep.add_account("sip:alice@example.com", registrar=registrar.uri())
    account.register().result(5)
    time.sleep(0.01)
    return [event for event in seen if isinstance(event, pjsip.SipMessage)]

@pytest.fixture(scope="module")
def own():
    with Registrar() as registrar, pjsip.Endpoint() as endpoint:
        yield endpoint, registrar

def test_own_without(own):
    assert collect(*own) == []

def test_own_with(own):
    own[0].trace()
    assert len(collect(*own)) == 2

def test_own_without_again(own):
    own[0].trace(False)
    assert collect(*own) == []
    own[0].close()

def test_without(sip_endpoint, sip_registrar_factory):
    assert collect(sip_endpoint, sip_registrar_factory()) == []

def test_with(sip_endpoint, sip_registrar_factory):
    sip_endpoint.trace()
    assert len(collect(sip_endpoint, sip_registrar_factory())) == 2

@pytest.mark.sip(trace=True)
def test_marked(sip_endpoint, sip_registrar_factory):
    assert len(collect(sip_endpoint, sip_registrar_factory())) == 2

def test_first_use():
    with Registrar() as registrar:
        ep = pjsip.Endpoint()
        ep.trace()
        assert len(collect(ep, registrar)) == 2
        ep.close()
""",
        *options,
    )
    result.assert_outcomes(passed=7)
    if options:
        page = (project.path / "report.html").read_text("utf-8")
        assert page.count('data-sip="1"') >= 6


def message(text: str, after: float = 0.0) -> pjsip.SipMessage:
    return pjsip.SipMessage(
        time=pjsip.EventTime(after, after),
        direction="tx",
        protocol="udp",
        local="127.0.0.1:1",
        remote="127.0.0.1:2",
        text=text,
    )


def test_the_text_of_a_trace_is_bounded() -> None:
    trace = Trace()
    assert trace.text() == ""
    text = "REGISTER sip:x SIP/2.0\r\n" + "X-Long: y\r\n" * 1000 + "CSeq: 7 REGISTER\r\n\r\n"
    for number in range(1000):
        trace.add(message(text, number))
    lines = trace.text().split("\n")
    assert lines[0].endswith("REGISTER sip:x  (CSeq 7)")
    assert f"... {1000 - FIRST - LAST} more ..." in lines[FIRST]
    assert len(lines) < 160

    for number in range(KEPT):
        trace.add(message(f"REGISTER sip:x SIP/2.0\r\nCSeq: {number} REGISTER\r\n\r\n", number))
    assert len(trace.messages) == KEPT
    lines = trace.text().split("\n")
    assert "1000 before these" in lines[0]
    assert f"CSeq: {KEPT - 1} REGISTER" in lines[-1]


def test_names_of_files_are_safe_and_apart() -> None:
    names = [
        "a.py::b",
        "a.py::B",
        "a/b.py::c",
        "a.b.py::c",
        "x" * 500,
        "x" * 501,
        "t[..]",
        "t[\0/]",
    ]
    safe = [safe_name(name) for name in names]
    assert len({name.lower() for name in safe}) == len(names)
    for name in safe:
        assert re.fullmatch(r"\w[\w.=-]{0,110}", name, re.ASCII)
