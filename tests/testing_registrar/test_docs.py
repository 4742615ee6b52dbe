# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of docs/testing.md runs as it stands."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pjsip_py.testing import DEFECTS, FAULTS, Answer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"^```python( pytest)?\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) == 17
    assert [bool(kind) for kind, _ in EXAMPLES].count(True) == 1


def test_every_defect_and_fault_is_listed() -> None:
    text = PAGE.read_text("utf-8")
    for name in (*DEFECTS, *FAULTS):
        assert f"`{name}`" in text, name


def test_every_part_of_an_answer_is_told() -> None:
    said = re.findall(r"(\w+)=", PAGE.read_text("utf-8"))
    assert {field.name for field in dataclasses.fields(Answer)} - {"code", "reason", "body"} <= {
        *said,
        "pause",  # told beside split
    }


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path) -> None:
    kind, text = EXAMPLES[number]
    file = tmp_path / f"test_example_{number}.py"
    file.write_text(text, "utf-8")
    runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    runner += ["--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "error", *(runner if kind else ()), str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
