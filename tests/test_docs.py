# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs in the README and in docs/ run as they stand and print what the page says.

A ```python block is run; a ```text block right after it is its output. Blocks of ```python pytest
are the tests of a project, which pytest runs with the settings of ```ini pytest. (docs/testing.md,
whose programs bring their own registrar, has a test of its own.)
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py.errors import RETRIABLE, class_of_code
from pjsip_py.testing import Registrar

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(set(ROOT.glob("docs/*.md")) - {ROOT / "docs/testing.md"})]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.M | re.S)


def programs() -> list[Any]:
    """Program, expected output and place of each."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in BLOCK.finditer(text):
            name = f"{page.name}:{text.count(chr(10), 0, block.start()) + 2}"
            found.append(pytest.param(block[1], block[2], name, id=name))
    return found


@pytest.fixture(scope="module")
def registrar() -> Iterator[Registrar]:
    with Registrar(("udp", "tcp", "tls"), users={"alice": "secret"}) as server:
        yield server


@pytest.mark.parametrize(("text", "output", "name"), programs())
def test_program(
    text: str,
    output: str | None,
    name: str,
    registrar: Registrar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registrar.clear_bindings()
    (tmp_path / "ca.pem").write_bytes(registrar.ca_pem)
    monkeypatch.chdir(tmp_path)
    ports = {"5060": str(registrar.port("udp")), "5061": str(registrar.port("tls"))}
    for documented, real in ports.items():
        text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{real}")
    exec(compile(text, name, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    for documented, real in ports.items():
        printed = printed.replace(f"127.0.0.1:{real}", f"127.0.0.1:{documented}")
    if output is not None:
        assert printed == output


def test_the_tutorial_of_pytest(
    registrar: Registrar, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/pytest.md").read_text("utf-8")
    block = re.compile(r"^```python pytest\n(.*?)^```", re.M | re.S)
    tests = block.findall(text) + block.findall((ROOT / "README.md").read_text("utf-8"))
    assert len(tests) >= 9
    settings = re.search(r"^```ini pytest\n(.*?)^```", text, re.M | re.S)
    assert settings is not None
    pytester.makeini(settings[1] + "filterwarnings = error\naddopts = --strict-markers")
    for number, test in enumerate(tests):
        (pytester.path / f"test_{number}.py").write_text(test, "utf-8")
    monkeypatch.setenv("REGISTRAR", registrar.uri())
    command = re.findall(r"^pytest (--sip-report.*)$", text, re.M)[0].split()
    result = pytester.runpytest_subprocess("-p", "no:locust", *command, timeout=50)
    result.assert_outcomes(passed="\n".join(tests).count("def test_"))
    assert (pytester.path / "report.html").exists()
    assert list((pytester.path / "pcaps").iterdir())

    first = text[: text.index("\nThe fixtures")]
    lines = "".join(re.findall(r"^```\S+[^\n]*\n(.*?)^```", first, re.M | re.S)).splitlines()
    assert len(lines) <= 15  # what it takes to have a passing test


def test_programs_are_found() -> None:
    assert len(programs()) >= 10


def test_the_readme_begins_with_what_matters() -> None:
    head = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:40])
    for wanted in ("GPL-3.0-or-later", "```python", "200 OK", "scripts/demo", "scripts/test"):
        assert wanted in head


def test_the_tests_that_show_security_exist() -> None:
    page = (ROOT / "docs/security.md").read_text("utf-8")
    tests = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", page)) <= set(tests)
    named = set(re.findall(r"\b(test_\w+)(?!\.py|\w)", page))
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in "".join(tests.values())] == []


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text("utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.M)
                assert anchor[1:] in {t.lower().replace(" ", "-") for t in titles}, anchor


def test_the_tree_of_errors_is_the_one_in_the_code() -> None:
    drawn = re.search(r"^PjsipError\n(?: .*\n)+", pjsip.errors.__doc__ or "", re.M)
    assert drawn is not None
    assert textwrap.dedent(drawn[0]) in (ROOT / "README.md").read_text("utf-8")


def test_the_table_of_statuses() -> None:
    page = (ROOT / "docs/errors.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (yes|no) \|$", page, re.M)
    assert len(rows) > 10
    for code, name, retriable in rows:
        assert class_of_code(int(code)).__name__ == name
        assert (int(code) in RETRIABLE) == (retriable == "yes")
