# SPDX-License-Identifier: GPL-3.0-or-later
"""Python programs in processes of their own: forks, signals, exits, other orders of import."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pjsip_py

ROOT = Path(pjsip_py.__file__).parent.parent


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str
    seconds: float

    def check(self) -> str:
        """What it printed, if it went well and without a word on standard error."""
        assert (self.code, self.err) == (0, ""), f"exit {self.code}\n{self.out}\n{self.err}"
        return self.out


def start_program(
    source: str, *options: str, arguments: Sequence[str] = ()
) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *options, "-c", textwrap.dedent(source), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": ""},
    )


def finish_program(process: subprocess.Popen[str], timeout: float, began: float) -> Finished:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler then says where it hangs
        out, err = process.communicate(timeout=10)
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return Finished(process.returncode, out, err, time.monotonic() - began)


def run_program(
    source: str, *options: str, arguments: Sequence[str] = (), timeout: float = 20.0
) -> Finished:
    began = time.monotonic()
    return finish_program(start_program(source, *options, arguments=arguments), timeout, began)


# What gevent says at the exit of any program, on Python 3.10.
EXIT_NOISE = re.compile(
    r"Exception ignored in: <function _removeHandlerRef.*?greenlet is being finalized\n", re.S
)


def run_patched(source: str, printed: str = "") -> None:
    """Run a program of gevent's, which must go well and print this."""
    finished = run_program(source)
    assert replace(finished, err=EXIT_NOISE.sub("", finished.err)).check() == printed
