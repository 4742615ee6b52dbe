# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers from PyPI, each in a virtual environment of its own under build/bench."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "build" / "bench" / "wheels"
TIMEOUT = 600  # seconds, for pip


@dataclass(frozen=True)
class Wheel:
    """A pinned version, and the CPythons that it has wheels for."""

    requirement: str
    oldest: tuple[int, int]
    newest: tuple[int, int]

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.requirement.replace("==", "-")

    @property
    def complete(self) -> bool:
        return (self.folder / "complete").is_file()

    def pythons(self) -> list[str]:
        """Interpreters it can run on: this one first, that the comparison be of like with like."""
        found = [sys.executable] if self.oldest <= sys.version_info[:2] <= self.newest else []
        for minor in range(self.newest[1], self.oldest[1] - 1, -1):
            if path := shutil.which(f"python3.{minor}"):
                found.append(path)
        return found


PJSUA2 = Wheel("pjsua2-python==2.15.1.post1", (3, 8), (3, 12))
BARESIP = Wheel("baresip-python==0.5.2a3", (3, 11), (3, 14))


@functools.cache
def python_with(wheel: Wheel) -> str | None:
    """The interpreter of an environment that holds *wheel*.

    None when it can't be had; what to do about it is then said, once, on standard error.
    """
    folder = wheel.folder
    python = folder / "bin" / "python"
    if wheel.complete:
        return str(python)
    pythons = wheel.pythons()
    if not pythons:
        low, high = (".".join(map(str, version)) for version in (wheel.oldest, wheel.newest))
        print(
            f"{wheel.requirement} has wheels for CPython {low} to {high} only and none of them is "
            f"here, so its rows are missing. Install one: apt-get install python{high} "
            f"python{high}-venv",
            file=sys.stderr,
        )
        return None
    print(f"Installing {wheel.requirement}", file=sys.stderr)
    # Our pip, told where to: a second one in there would take seconds to make.
    make = [pythons[0], "-m", "venv", "--clear", "--without-pip", str(folder)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--only-binary=:all:", wheel.requirement]
    for command in (make, install):
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            reason = f"not finished in {TIMEOUT} s"
        else:
            if done.returncode == 0:
                continue
            reason = (done.stderr.strip() or done.stdout.strip() or "no reason given")[-500:]
        print(
            f"{wheel.requirement} could not be installed, so its rows are missing: {reason}\n"
            f"Try it yourself: {' '.join(make)} && {' '.join(install)}",
            file=sys.stderr,
        )
        return None
    (folder / "complete").touch()
    return str(python)


def installed(wheel: Wheel) -> str:
    """A fact about the machine: the version and the interpreter it runs in."""
    if not wheel.complete:
        return "not installed"
    settings = (wheel.folder / "pyvenv.cfg").read_text()
    version = next(line for line in settings.splitlines() if line.startswith("version"))
    return f"{wheel.requirement.replace('==', ' ')}, CPython {version.partition('= ')[2]}"
