# SPDX-License-Identifier: GPL-3.0-or-later
"""setuptools packages, Meson builds: one extension module, pjsip_py._pjsip, from cbuild/.

A wheel has its bill of materials in it, .dist-info/sboms/pjsip-py.cdx.json (cbuild/sbom.py).

Read from the environment:

PJSIP_PY_PJPROJECT          link an installed pjproject: its prefix, or "system" (pkg-config)
PJSIP_PY_PJPROJECT_TARBALL  build the pinned source from this archive
PJSIP_PY_TLS=off            build without OpenSSL: no TLS transport, no SHA-2 digests
PJSIP_PY_MESON_ARGS         more arguments of `meson setup`, e.g. "-Db_sanitize=address,undefined"
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "vendor"), str(ROOT / "cbuild")]
import fetch  # noqa: E402
import sbom  # noqa: E402
import stage  # noqa: E402


def stop(message: str) -> SystemExit:
    """The end of a build that cannot go on: one message, no traceback."""
    return SystemExit(f"\npjsip-py cannot be built: {message}\n")


def install(debian: str, fedora: str, macos: str) -> str:
    """The command that installs a missing package here."""
    if sys.platform == "darwin":
        return macos
    if shutil.which("apt-get"):
        return f"apt-get install {debian}"
    if shutil.which("dnf"):
        return f"dnf install {fedora}"
    return f"apt-get install {debian}  (or: dnf install {fedora})"


def options() -> list[str]:
    """The arguments of `meson setup` that the environment asks for."""
    tls = os.environ.get("PJSIP_PY_TLS", "on").lower()
    if tls not in ("on", "off"):
        raise stop(f"PJSIP_PY_TLS={tls}: say on or off")
    arguments = [f"-Dtls={'true' if tls == 'on' else 'false'}"]
    if source := os.environ.get("PJSIP_PY_PJPROJECT"):
        arguments.append(f"-Dpjproject={source}")
        if source != "system":
            folders = [str(each.parent) for each in Path(source).glob("lib*/**/libpjproject.pc")]
            if not folders:
                raise stop(
                    f"PJSIP_PY_PJPROJECT={source}: no lib/pkgconfig/libpjproject.pc is there"
                )
            arguments.append(f"-Dpkg_config_path={folders[0]}")
    extra = shlex.split(os.environ.get("PJSIP_PY_MESON_ARGS", ""))
    if any(each.startswith("-Db_sanitize=") for each in extra):
        extra += ["-Db_lundef=false", "-Ddebug=true"]  # the sanitizer is in the interpreter
    return arguments + extra


def check_tools() -> None:
    """Say what is missing before Meson says it at length."""
    named = shlex.split(os.environ.get("CC", ""))[:1]
    if not any(shutil.which(each) for each in named or ("cc", "gcc", "clang")):
        how = install("gcc libc6-dev", "gcc glibc-devel", "xcode-select --install")
        raise stop(f"there is no {' '.join(['C compiler', *named])}. Install one: {how}")
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any(Path(folder, "Python.h").is_file() for folder in folders):
        how = install("python3-dev", "python3-devel", "brew install python")
        raise stop(f"Python's C headers (Python.h) are not installed. Install them: {how}")


def explain(output: str) -> str:
    """The sentence of Meson's or the compiler's output that says what is wrong."""
    if re.search(r"cannot compile programs|stdio\.h: No such file", output):
        how = install("gcc libc6-dev", "gcc glibc-devel", "xcode-select --install")
        return f"the C compiler does not work, or the C library's headers are missing: {how}"
    found = re.search(
        r"^.*?ERROR: (?:Problem encountered: )?(.*?)(?:^A full log can be found|\Z)",
        output,
        re.M | re.S,
    )
    if found:
        return found[1].strip()
    return "the compiler said:\n" + "\n".join(output.splitlines()[-40:])


class MesonBuild(build_ext):
    """`build_ext` by Meson, in a build folder of its own for each set of options."""

    folder: Path | None = None

    def build_extension(self, ext: Extension) -> None:
        check_tools()
        arguments = options()
        if not os.environ.get("PJSIP_PY_PJPROJECT"):
            try:
                fetch.obtain()
            except fetch.FetchError as error:
                raise stop(str(error)) from None
        identity = {
            "options": arguments,
            "compiler": [os.environ.get(name) for name in ("CC", "CFLAGS", "LDFLAGS")],
            "python": [platform.machine(), sysconfig.get_path("include")],
            "pkg-config": os.environ.get("PKG_CONFIG_PATH"),
        }
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        folder = ROOT / "build" / f"meson-{key}"
        # A kept folder knows the interpreter that configured it, which was perhaps a temporary one.
        stamp, here = folder / "interpreter", f"{sys.executable} {os.environ.get('PYTHONPATH')}"
        if not (folder / "build.ninja").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            self.meson("setup", *arguments, str(folder), str(ROOT / "cbuild"))
        elif not stamp.is_file() or stamp.read_text() != here:
            self.meson("setup", "--reconfigure", *arguments, str(folder), str(ROOT / "cbuild"))
        stamp.write_text(here)
        jobs = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4, 8)
        self.meson("compile", "-C", str(folder), "-j", str(jobs))
        self.folder = folder
        (ROOT / "build" / "current").write_text(folder.name)  # for the tests of the C
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        shutil.copy2(folder / "_pjsip.abi3.so", new)
        new.replace(target)  # never written in place: a running process may have it mapped

    def meson(self, *arguments: str) -> None:
        """Run Meson with the ninja of the build environment; its output is shown when it fails."""
        environment = dict(os.environ)
        try:
            import ninja
        except ImportError:
            pass  # then one on PATH
        else:
            environment.setdefault("NINJA", str(Path(ninja.BIN_DIR, "ninja")))
        done = subprocess.run(
            [sys.executable, "-m", "mesonbuild.mesonmain", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise stop(explain(done.stdout))
        if self.verbose:
            print(done.stdout)


class Wheel(bdist_wheel):
    """`bdist_wheel` with a bill of materials of the C that was compiled for it (PEP 770)."""

    def write_wheelfile(self, wheelfile_base: str, *arguments: Any, **keywords: Any) -> None:
        """The last that is written to dist-info before it is packed, and with it the bill."""
        super().write_wheelfile(wheelfile_base, *arguments, **keywords)
        folder = getattr(self.get_finalized_command("build_ext"), "folder", None)
        if folder is None:  # nothing was compiled
            return
        linked = sbom.dependencies(folder)
        pin = fetch.Pin()
        if os.environ.get("PJSIP_PY_PJPROJECT"):
            components = [sbom.pjproject(linked["libpjproject"][0], None)]
        else:
            patches = stage.read_patches(ROOT / "vendor" / "patches.toml")
            bundled = {"sha256": pin.content_sha256, "urls": pin.urls, "patches": patches}
            components = [sbom.pjproject(pin.version, bundled)]
        if "openssl" in linked:
            components.append(sbom.openssl(*linked["openssl"]))
        metadata = self.distribution.metadata
        licence: str = metadata.license_expression  # type: ignore[attr-defined]
        target = Path(wheelfile_base, "sboms", "pjsip-py.cdx.json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(
            sbom.document("pjsip-py", metadata.version or "", licence, components),
            encoding="utf-8",
        )


class SourceArchive(sdist):
    """`sdist` with the pinned pjproject tree in it, so that a build from it needs no network."""

    def run(self) -> None:
        try:
            fetch.obtain()
        except fetch.FetchError as error:
            raise stop(str(error)) from None
        super().run()


setup(
    ext_modules=[Extension("pjsip_py._pjsip", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": MesonBuild, "bdist_wheel": Wheel, "sdist": SourceArchive},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
