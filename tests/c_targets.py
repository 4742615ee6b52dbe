# SPDX-License-Identifier: GPL-3.0-or-later
"""The C targets that tests build on demand, in the folder where the extension was built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def build(*targets: str) -> Path:
    """Build targets of cbuild/tests/meson.build; returns the folder they are in."""
    current = ROOT / "build" / "current"
    if not current.is_file():
        missing = "the extension was not built in this checkout: run scripts/setup"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    folder = ROOT / "build" / current.read_text().strip()
    done = subprocess.run(
        [sys.executable, "-m", "mesonbuild.mesonmain", "compile", "-C", folder, *targets],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    return folder / "tests"


def options() -> dict[str, object]:
    """The options of that build, as Meson knows them."""
    import json

    folder = ROOT / "build" / (ROOT / "build" / "current").read_text().strip()
    known = json.loads((folder / "meson-info" / "intro-buildoptions.json").read_text())
    return {each["name"]: each["value"] for each in known}
