# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a secret stays in memory: a process registers, and its memory is read from here.

Python cannot wipe, and keeps a str wherever it was put.  So the passwords below are such that a
str holds them in another form than C: two bytes a character, in place of UTF-8.  What the process
encodes on the way to C is short-lived; ``cbuild/tests/freed.c``, which stands before its free(),
wipes that, and tells of every block that C gives back unwiped.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from c_targets import build, options
from programs import ROOT

from pjsip_py.testing import Registrar

KEY = 0xA5  # as in freed.c
FIRST, SECOND = "Пароль-первый-7", "Пароль-второй-8"
REALM = "example.com"
STEP = 30.0  # s for the process to reach the next stage

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory of another process is read by Linux' /proc/PID/mem"
)


@pytest.fixture(scope="module")
def freed() -> Path:
    if options().get("b_sanitize") not in ("none", [], ["none"]):
        pytest.skip("a sanitizer has a malloc of its own")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("free() is stood before by glibc's other name for it")
    return build("freed") / "libfreed.so"


def ha1(algorithm: str, password: str) -> bytes:
    text = f"alice:{REALM}:{password}".encode()
    return hashlib.new(algorithm, text).hexdigest().encode()


# What must not stay, by what it is.
SECRETS = {
    "the first password": FIRST.encode(),
    "the second password": SECOND.encode(),
    "the HA1 of the first (SHA-256)": ha1("sha256", FIRST),
    "the HA1 of the second (SHA-256)": ha1("sha256", SECOND),
}


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """Each part of the process's memory that can be written to, with its name."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                span, mode, _, _, _, *name = line.split()
                if "w" not in mode or name[:1] == ["[vvar]"]:
                    continue
                first, last = (int(end, 16) for end in span.split("-"))
                mem.seek(first)
                try:
                    yield " ".join([span, *name]), mem.read(last - first)
                except OSError:  # a guard page, or gone since
                    continue
    except PermissionError:
        pytest.skip("the memory of a child may not be read here: sysctl kernel.yama.ptrace_scope=1")


def held(pid: int) -> dict[str, list[str]]:
    """Where in its memory which secret is."""
    found: dict[str, list[str]] = {}
    for name, content in memory(pid):
        for kind, secret in SECRETS.items():
            found.setdefault(kind, []).extend([name] * content.count(secret))
    return {kind: where for kind, where in found.items() if where}


PROLOGUE = f"""
    import sys
    import pjsip_py as pjsip

    registrar, *coded = sys.argv[1:]
    FIRST, SECOND = ("".join(chr(int(c) ^ {KEY}) for c in text.split(",")) for text in coded)

    def stage(name):
        print(name, flush=True)
        assert sys.stdin.readline() == "on\\n"
"""


@contextmanager
def program(source: str, registrar: Registrar, freed: Path) -> Iterator[subprocess.Popen[str]]:
    coded = [",".join(str(ord(c) ^ KEY) for c in text) for text in (FIRST, SECOND)]
    secrets = ",".join(bytes(b ^ KEY for b in secret).hex() for secret in SECRETS.values())
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", dedent(PROLOGUE) + dedent(source), registrar.uri(), *coded],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONMALLOC": "malloc",  # so that free() sees what Python gives back
            "LD_PRELOAD": str(freed),
            "SECRETS": secrets,
        },
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def reach(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline().strip()
    assert line == stage, process.stderr.read()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("on\n")
    process.stdin.flush()


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(users={"alice": FIRST}, realm=REALM) as running:
        yield running


def stages(process: subprocess.Popen[str], *names: str) -> dict[str, dict[str, list[str]]]:
    """What is held at each stage; the process then ends well and has told of nothing."""
    found = {}
    for name in names:
        reach(process, name)
        found[name] = held(process.pid)
        go_on(process)
    out, err = process.communicate(timeout=STEP)
    assert (process.returncode, out, err) == (0, "", "")
    return found


def test_a_closed_registration_holds_no_secret(registrar: Registrar, freed: Path) -> None:
    source = """
        stage("start")
        with pjsip.Endpoint() as ep:
            client = ep.registration(
                registrar, "sip:alice@example.com", credentials=pjsip.Credentials("alice", FIRST)
            )
            assert client.register().result(10).code == 200
            stage("registered")
            client.close()
            assert ep.stats()["clients"] == 0
            stage("client closed")
        stage("endpoint closed")
    """
    with program(source, registrar, freed) as process:
        found = stages(process, "start", "registered", "client closed", "endpoint closed")
    assert found["start"] == {}
    assert "the first password" in found["registered"]  # the search does find what there is
    assert found["client closed"] == {}
    assert found["endpoint closed"] == {}


def test_replaced_credentials_are_not_held(registrar: Registrar, freed: Path) -> None:
    source = """
        with pjsip.Endpoint() as ep:
            client = ep.registration(
                registrar, "sip:alice@example.com", credentials=pjsip.Credentials("alice", FIRST)
            )
            assert client.register().result(10).code == 200
            client.set_credentials(pjsip.Credentials("alice", SECOND)).result(10)
            stage("replaced")
            try:
                client.register().result(10)
            except pjsip.WrongPasswordError:
                stage("refused")
            client.close()
            assert ep.stats()["clients"] == 0
            stage("client closed")
    """
    with program(source, registrar, freed) as process:
        found = stages(process, "replaced", "refused", "client closed")
    assert set(found["replaced"]) == {"the second password"}
