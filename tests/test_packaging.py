# SPDX-License-Identifier: GPL-3.0-or-later
"""The source archive builds by itself, and the wheel from it is what it says it is."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from c_targets import ROOT

import pjsip_py as pjsip

VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]  # type: ignore[index]
pytestmark = [pytest.mark.timeout(400)]  # a cold compilation of a hundred C files


def run(
    *command: str | Path,
    cwd: Path = ROOT,
    timeout: float = 300,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, in this interpreter's environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    # egg_info's folder is out of the checkout, whose own is that of the editable installation
    done = run(
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "-e",
        folder,
        "sdist",
        "-d",
        folder,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return folder / f"pjsip_py-{VERSION}.tar.gz"


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as tar:
        if sys.version_info >= (3, 12):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    return folder / f"pjsip_py-{VERSION}"


def wheel_of(unpacked: Path, target: Path, **environment: str) -> Path:
    """The wheel from the source archive, with nothing to fetch anything from."""
    offline = {
        "PIP_NO_INDEX": "1",
        "XDG_CACHE_HOME": str(target / "no-cache"),
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    }
    if home := os.environ.get("CCACHE_DIR") or Path("~/.cache/ccache").expanduser():
        offline["CCACHE_DIR"] = str(home)  # only to be quick
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("-w", target, unpacked),
        cwd=target,
        environment={**offline, **environment},
    )
    assert done.returncode == 0, done.stdout
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(unpacked, tmp_path_factory.mktemp("wheel"))


def test_the_source_archive_is_complete_and_clean(unpacked: Path) -> None:
    names = {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }
    wanted = {"LICENSE", "README.md", "pyproject.toml", "setup.py", "cbuild/meson.build"}
    wanted |= {"vendor/fetch.py", "vendor/patches.toml", "vendor/pjproject-2.17/COPYING"}
    wanted |= {"vendor/pjproject-2.17/pjsip/src/pjsip-ua/sip_reg.c", "scripts/setup"}
    wanted |= {"tests/conftest.py", "pjsip_py/py.typed", "cbuild/shim/pjsip_py.h"}
    assert wanted <= names
    unwanted = re.compile(r"(^|/)(build|\.venv|__pycache__|\.cache)/|\.so$|\.o$|\.pyc$|\.replaced/")
    assert [name for name in names if unwanted.search(name)] == []


def test_the_wheel_is_one_for_all_pythons(wheel: Path) -> None:
    assert wheel.name.startswith(f"pjsip_py-{VERSION}-cp310-abi3-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"pjsip_py-{VERSION}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "pjsip_py/_pjsip.abi3.so" in names
    assert "pjsip_py/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pjsip_py", "pytest_pjsip_py", info}
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert metadata["License-Expression"] == "GPL-3.0-or-later"
    assert metadata["Requires-Python"] == ">=3.10"
    core = [each for each in metadata.get_all("Requires-Dist") or [] if "extra ==" not in each]
    assert [re.split(r"[^a-z]", each)[0] for each in core] == ["cffi"]
    assert "pjsip-py = pjsip_py.cli:main" in entry_points
    assert "[pytest11]\npjsip_py = pytest_pjsip_py" in entry_points


INFO = "import json, pjsip_py; print(json.dumps(dict(pjsip_py.build_info()), default=str))"


def build_info(wheel: Path, folder: Path) -> dict[str, object]:
    """What the wheel says of itself, in a fresh interpreter that sees no checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    done = run(
        sys.executable, "-c", INFO, cwd=folder, environment={"PYTHONPATH": str(folder)}, timeout=30
    )
    assert done.returncode == 0, done.stdout
    info: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return info


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    info = build_info(wheel, tmp_path)
    assert info["source"] == "bundled"
    assert info["patches"] == list(pjsip.build_info()["patches"])
    assert "OpenSSL" in str(info["tls"])


def test_a_build_without_tls_says_so(unpacked: Path, tmp_path: Path) -> None:
    wheel = wheel_of(unpacked, tmp_path, PJSIP_PY_TLS="off")
    with zipfile.ZipFile(wheel) as archive:
        components = json.loads(archive.read(SBOM))["components"]
    assert [each["name"] for each in components] == ["pjproject"]
    info = build_info(wheel, tmp_path / "unpacked")
    assert "OpenSSL" not in str(info["tls"])
    assert info["algorithms"] == "MD5"


SBOM = f"pjsip_py-{VERSION}.dist-info/sboms/pjsip-py.cdx.json"


def test_the_wheel_has_a_bill_of_materials(wheel: Path) -> None:
    """PEP 770; the schema is CycloneDX's own."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(SBOM).decode()
        assert SBOM in archive.read(f"pjsip_py-{VERSION}.dist-info/RECORD").decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    assert bom["metadata"]["component"]["purl"] == f"pkg:pypi/pjsip-py@{VERSION}"
    assert bom["metadata"]["component"]["licenses"] == [{"expression": "GPL-3.0-or-later"}]
    pjproject, openssl = bom["components"]

    info = pjsip.build_info()
    assert pjproject["purl"] == f"pkg:github/pjsip/pjproject@{info['pjproject_version']}"
    assert pjproject["licenses"] == [{"license": {"id": "GPL-2.0-or-later"}}]
    assert pjproject["hashes"] == [{"alg": "SHA-256", "content": info["pjproject_sha256"]}]
    patches = {each["resolves"][0]["id"]: each for each in pjproject["pedigree"]["patches"]}
    assert list(patches) == list(info["patches"])
    backport = patches["send-request-keeps-transaction"]
    assert backport["type"] == "backport"
    assert backport["resolves"][0]["references"][0].endswith("/commit/2da6cf3e3")
    assert patches["auth-nc-hex"]["type"] == "unofficial"

    built = re.search(r"OpenSSL (\S+)", str(info["tls"]))
    assert built
    assert openssl["name"] == "openssl"
    assert openssl["version"].split(".")[0] == built[1].split(".")[0]
    assert {"name": "pjsip-py:linkage", "value": "dynamic"} in openssl["properties"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CC", "/no/such/compiler", r"no C compiler /no/such/compiler. Install one: "),
        ("PJSIP_PY_TLS", "perhaps", r"PJSIP_PY_TLS=perhaps: say on or off"),
        ("PJSIP_PY_PJPROJECT", "/no/such/prefix", r"PJSIP_PY_PJPROJECT=/no/such/prefix"),
        ("PJSIP_PY_PJPROJECT_TARBALL", "/no/such.tar", r"/no/such\.tar: there is no such file"),
    ],
)
def test_what_stops_a_build_is_one_message(variable: str, value: str, said: str) -> None:
    done = run(
        *(sys.executable, "setup.py", "-q", "build_ext", "--inplace"),
        timeout=60,
        environment={variable: value},
    )
    assert done.returncode == 1
    assert re.search(f"pjsip-py cannot be built: .*{said}", done.stdout)
    assert "Traceback" not in done.stdout
    assert len(done.stdout.splitlines()) < 6
