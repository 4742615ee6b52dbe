# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is measured: each peer is a command that registers N users and says what it took."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registrar import PASSWORD
from servers.process import free_port
from wheels import BARESIP, PJSUA2, Wheel, python_with

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
TIMEOUT = 600  # seconds, for one run of one peer


class PeerError(RuntimeError):
    """A peer could not be built, or did not do its work."""


# --- Commands ------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Byte code is cached, as it is for an installed package, whatever the caller's shell says."""
    variables = dict(os.environ)
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    variables["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "bench-pycache")
    variables["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    # Meson looks for the ninja that is installed beside it.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    return variables


def run(command: list[str], *, cwd: Path | None = None) -> str:
    """The command's standard output."""
    try:
        done = subprocess.run(
            command,
            env=environment(),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{shown(command)}: not finished in {TIMEOUT} s") from None
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-2000:]
        raise PeerError(f"{shown(command)}: exit {done.returncode}\n{output}")
    return done.stdout


def shown(command: list[str]) -> str:
    """The command as a reader would type it, from the top of the checkout."""
    names = {str(ROOT) + "/": "", sys.executable: "python"}
    text = " ".join(command)
    for long, short in names.items():
        text = text.replace(long, short)
    return text


# --- Peers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    name: str
    command: tuple[str, ...]
    starts: tuple[str, ...] = ()  # the command that does what startup.py does, if it has one

    def arguments(self, registrar: str, **options: object) -> list[str]:
        known = {"registrar": registrar, **options}
        flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in known.items()]
        return [*self.command, *(text for flag in flags for text in flag)]

    def register(self, registrar: str, **options: object) -> dict[str, Any]:
        """One run; the report is what register.py describes."""
        report: dict[str, Any] = json.loads(run(self.arguments(registrar, **options)))
        return report


class Sipp(Peer):
    """SIPp measures itself in no way: its report is the CPU of the whole process."""

    def register(self, registrar: str, **options: object) -> dict[str, Any]:
        count = int(str(options["count"]))
        with tempfile.TemporaryDirectory() as folder:
            users = Path(folder, "users.csv")
            users.write_text(
                "SEQUENTIAL\n"
                + "".join(
                    f"{u};[authentication username={u} password={PASSWORD}]\n"
                    for u in (f"bulk{n}" for n in range(count))
                )
            )
            command = self.arguments(registrar, **options, users=users)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            run(command, cwd=Path(folder))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "count": count,
            "ok": count,  # else its exit code is not 0
            "register": {
                "user": after.ru_utime - before.ru_utime,
                "system": after.ru_stime - before.ru_stime,
            },
        }

    def arguments(self, registrar: str, **options: object) -> list[str]:
        sip = free_port([("127.0.0.1", "udp")])
        control = free_port([("127.0.0.1", "udp")])
        return [
            *self.command,
            registrar.removeprefix("sip:"),
            *("-sf", str(HERE / "sipp" / "register.xml")),
            *("-inf", str(options.get("users", "users.csv"))),
            *("-m", str(options["count"]), "-l", str(options["window"]), "-r", "50000"),
            *("-i", "127.0.0.1", "-bind_local", "-p", str(sip)),
            *("-ci", "127.0.0.1", "-cp", str(control)),
            *("-timeout", "120s", "-timeout_error", "-nostdin"),
        ]


def pjsip_py(api: str, dispatch: str) -> Peer:
    script = (sys.executable, str(HERE / "register.py"))
    name = f"pjsip_py {api}" + ("" if dispatch == "thread" else f", {dispatch}")
    starts = (sys.executable, str(HERE / "startup.py")) if api == "account" else ()
    return Peer(name, (*script, "--api", api, "--dispatch", dispatch), starts)


def sipp() -> Peer | None:
    program = shutil.which("sipp")
    return Sipp("SIPp", (program,)) if program else None


def pjsua2() -> Peer | None:
    return _from_wheel("PJSUA2", PJSUA2, "pjsua2_peer.py")


def baresip() -> Peer | None:
    return _from_wheel("baresip-python", BARESIP, "baresip_peer.py")


def _from_wheel(name: str, wheel: Wheel, script: str) -> Peer | None:
    python = python_with(wheel)
    if python is None:
        return None
    command = (python, str(HERE / script))
    return Peer(name, command, (*command, "--startup"))


def others() -> list[Peer]:
    """Whoever else is here: PJSUA2, baresip-python, SIPp."""
    return [peer for peer in (pjsua2(), baresip(), sipp()) if peer]


# --- The C program -------------------------------------------------------------------------------


def build_c(extension: Path | None) -> dict[str, Peer]:
    """c_regc, stock and ours; *extension* is the folder where Meson built the extension module."""
    if extension is None:
        current = ROOT / "build" / "current"
        if not current.is_file():
            raise PeerError("the extension was not built in this checkout: run scripts/setup")
        extension = ROOT / "build" / current.read_text().strip()
    if not (extension / "pjproject" / "libpjsip.a").is_file():
        raise PeerError(f"{extension} does not hold a build with the bundled pjproject")
    tree = run([sys.executable, str(ROOT / "vendor" / "fetch.py")]).strip()
    meson = [sys.executable, "-m", "mesonbuild.mesonmain"]
    options = [f"-Dpjproject={tree}", f"-Dextension={extension.resolve()}"]
    if not (BUILD / "build.ninja").is_file():
        print("Building the C program (a minute the first time)", file=sys.stderr)
        run([*meson, "setup", *options, str(BUILD), str(HERE)])
    else:
        run([*meson, "configure", *options, str(BUILD)])
    run([*meson, "compile", "-C", str(BUILD)])
    return {
        variant: Peer(f"C regc, {variant}", (str(BUILD / f"c_regc_{variant}"),))
        for variant in ("stock", "ours")
    }
