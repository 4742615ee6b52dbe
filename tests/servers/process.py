# SPDX-License-Identifier: GPL-3.0-or-later
"""What the servers share: finding the program, free ports, ending a process group in time."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


class MissingServer(RuntimeError):
    """The server's program is not installed; the message says how to install it."""


class ServerError(AssertionError):
    """A server did not start, did not stop, or did not see what its scenario asked for."""


def find_program(name: str, install: str) -> str:
    """The path of ``name``, looked up in PATH and the sbin folders that a user's PATH lacks."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SBIN]))
    if path is None:
        raise MissingServer(f"{name} is not installed: {install}")
    return path


SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def has_ipv6_loopback() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        return True
    return False


# Ports that no kernel gives to a connection going out: a server finds its own free again when it
# comes back, even if clients have tried to connect a thousand times meanwhile.
LASTING = range(20_000, 32_000)


def free_port(kinds: Iterable[tuple[str, str]], among: Sequence[int] = (0,)) -> int:
    """A port that is free for every (host, "udp"|"tcp") of ``kinds`` at the moment of asking.

    among: the ports to choose from; 0 stands for the kernel's choice.
    """
    kinds = list(kinds)
    for _ in range(50):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            port = random.choice(among)
            for host, kind in kinds:
                probe = stack.enter_context(_socket(host, kind))
                probe.bind((host, port))
                port = probe.getsockname()[1]
            return port
    raise ServerError(f"no port is free on all of {kinds}")


def _socket(host: str, kind: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)


def wait_until(
    condition: Callable[[], bool], timeout: float, what: str, interval: float = 0.01
) -> None:
    """Poll ``condition``, for states that another process reaches and cannot announce."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not within {timeout} s")
        time.sleep(interval)


def spawn(args: list[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, its output in ``log``, without the CI's secrets."""
    environment = {k: os.environ[k] for k in ("PATH", "LANG", "TMPDIR") if k in os.environ}
    with log.open("ab") as output:
        return subprocess.Popen(
            args,
            cwd=cwd,
            env={**environment, "TERM": "dumb"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def stop_group(process: subprocess.Popen[bytes], timeout: float) -> None:
    """SIGTERM, then after ``timeout`` seconds SIGKILL, for the process and all its children."""
    signal_group(process, signal.SIGCONT)
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        # Again and again: Kamailio's main loop can miss a signal that follows another at once.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    signal_group(process, signal.SIGKILL)
    process.wait(5)


def tail(path: Path, lines: int = 60) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
