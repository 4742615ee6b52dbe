# SPDX-License-Identifier: GPL-3.0-or-later
"""Obtain the pinned pjproject source: find it, verify it, unpack it, leave it pristine.

``python vendor/fetch.py`` prints the folder of the verified tree (``vendor/pjproject-<version>``)
and exits 0, or says on standard error what was tried and what to do about it, and exits 1.

What is accepted is decided by one number in ``pjproject.toml``: the content hash over the files
that are compiled.  Where an archive came from and how it was packed do not matter.
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
MAX_ARCHIVE = 64 << 20  # bytes; pjproject 2.17 is 10 MB as .tar.gz
MAX_FILE = 4 << 20  # bytes; the largest file that is compiled has 0.2 MB
CONNECT_TIMEOUT = 10  # seconds, for one answer of a server
DOWNLOAD_TIMEOUT = 120  # seconds, for a whole archive
TARBALL_VARIABLE = "PJSIP_PY_PJPROJECT_TARBALL"


class FetchError(Exception):
    """The source could not be had, or is not the pinned one; the text says what to do."""


class Pin:
    """What ``pjproject.toml`` says."""

    def __init__(self, path: Path = HERE / "pjproject.toml") -> None:
        pin = tomllib.loads(path.read_text(encoding="utf-8"))
        self.version: str = pin["version"]
        self.content_sha256: str = pin["content_sha256"]
        self.files: list[str] = pin["files"]
        self.urls: list[str] = pin["urls"]
        self.debian: dict[str, str] = pin["debian"]
        self.suites: list[str] = pin["debian"]["suites"]
        self.tree: Path = path.parent / f"pjproject-{self.version}"

    def wants(self, name: str) -> bool:
        """Whether a file of the tree is one that is compiled (or its licence)."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.files)


# --- verification -------------------------------------------------------------------------------


def content_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted lines ``<sha256 of the file>  <path>``."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def read_tree(tree: Path, pin: Pin) -> dict[str, bytes]:
    """The files of an unpacked tree that the pin speaks of."""
    found = {}
    for folder, _, names in os.walk(tree):
        for each in names:
            path = Path(folder, each)
            name = path.relative_to(tree).as_posix()
            if pin.wants(name):
                found[name] = path.read_bytes()
    return found


def read_archive(archive: Path, pin: Pin) -> dict[str, bytes]:
    """The files of a tar archive that the pin speaks of, without the archive's top folder.

    Nothing is unpacked by tar itself: only regular files whose plain relative name is wanted are
    read, so links, devices and names that climb out of the folder have no effect.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                name = "/".join(parts[1:])
                if not member.isreg() or ".." in parts or not pin.wants(name):
                    continue
                if member.size > MAX_FILE or name in found:
                    raise FetchError(f"{archive}: {member.name} is too large or there twice")
                data = tar.extractfile(member)
                assert data is not None  # a regular file has content
                found[name] = data.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise FetchError(f"{archive}: not a readable tar archive ({error})") from error
    except Exception as error:  # lzma.LZMAError, zlib.error: neither is a TarError
        if isinstance(error, FetchError):
            raise
        raise FetchError(f"{archive}: damaged archive ({error})") from error
    return found


def check(files: Mapping[str, bytes], origin: object, pin: Pin) -> None:
    """Raise FetchError unless the files are the pinned ones."""
    if not files:
        raise FetchError(f"{origin}: holds no pjproject source")
    found = content_hash(files)
    if found != pin.content_sha256:
        raise FetchError(
            f"{origin}: content hash {found} is not the pinned {pin.content_sha256} "
            f"(pjproject {pin.version}, {len(files)} files looked at)"
        )


def is_pristine(pin: Pin) -> bool:
    """Whether the unpacked tree is there and is the pinned one."""
    try:
        check(read_tree(pin.tree, pin), pin.tree, pin)
    except FetchError:
        return False
    return True


def unpack(archive: Path, pin: Pin) -> None:
    """Verify an archive and put its tree in place, whole or not at all."""
    files = read_archive(archive, pin)
    check(files, archive, pin)
    new = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=pin.tree.parent))
    try:
        for name, data in files.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        new.chmod(0o755)
        if pin.tree.exists():  # edited, or of an earlier pin: whoever edited it may want it
            old = pin.tree.with_name(pin.tree.name + ".replaced")
            shutil.rmtree(old, ignore_errors=True)
            pin.tree.rename(old)
            print(f"{pin.tree} was not as pinned: it is now {old.name}", file=sys.stderr)
        try:
            new.rename(pin.tree)
        except OSError:
            if not is_pristine(pin):  # else another build was quicker, with the same tree
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


# --- sources ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/pjsip-py``, else ``~/.cache/pjsip-py``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base, "pjsip-py")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:  # no home, or a read-only one: keep it beside the tree
        folder = HERE / ".cache"
        folder.mkdir(exist_ok=True)
        return folder


def cached(pin: Pin, cache: Path) -> Iterator[Path]:
    """Archives of an earlier build."""
    yield from sorted(cache.glob(f"pjproject-{pin.version}.tar*"))


def download(url: str, target: Path) -> None:
    """Fetch one URL with a limit on size and time."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    request = urllib.request.Request(url, headers={"User-Agent": "pjsip-py-build"})
    with (
        urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT) as reply,
        target.open("wb") as out,
    ):
        while block := reply.read(1 << 16):
            out.write(block)
            if out.tell() > MAX_ARCHIVE:
                raise FetchError(f"{url}: larger than {MAX_ARCHIVE} bytes")
            if time.monotonic() > deadline:
                raise FetchError(f"{url}: not complete after {DOWNLOAD_TIMEOUT} s")
        announced = reply.headers.get("Content-Length")
        if announced and int(announced) != out.tell():
            raise FetchError(f"{url}: ended after {out.tell()} of {announced} bytes")


def apt_mirrors(etc: Path = Path("/etc/apt")) -> list[tuple[str, str]]:
    """``(URI, Signed-By)`` of the package archives configured here, Debian-looking ones first."""
    found: dict[str, str] = {}

    def add(uri: str, signed_by: str) -> None:
        # The security archive has neither suite nor package; only plain transports carry a file.
        if uri.startswith(("http://", "https://", "file:", "copy:")) and "security" not in uri:
            found.setdefault(uri.rstrip("/"), signed_by)

    parts = etc / "sources.list.d"
    for path in [etc / "sources.list", *sorted(parts.glob("*.list"))]:
        for line in _lines(path):
            kind, _, rest = line.strip().partition(" ")
            if kind not in ("deb", "deb-src"):
                continue
            rest, signed_by = rest.strip(), ""
            if rest.startswith("["):
                options, _, rest = rest[1:].partition("]")
                for option in options.split():
                    if option.startswith("signed-by="):
                        signed_by = option.partition("=")[2]
            if rest.split():
                add(rest.split()[0], signed_by)
    for path in sorted(parts.glob("*.sources")):
        for stanza in _stanzas(_lines(path)):
            if stanza.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off"):
                continue
            for uri in stanza.get("uris", "").split():
                add(uri, stanza.get("signed-by", ""))
    return sorted(found.items(), key=lambda each: "debian" not in each[0])


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if not line.lstrip().startswith("#")]


def _stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Debian's control format: paragraphs of ``Name: value`` with indented continuation lines."""
    stanza: dict[str, str] = {}
    name = ""
    for line in [*lines, ""]:
        if not line.strip():
            if stanza:
                yield stanza
            stanza, name = {}, ""
        elif line[0] in " \t" and name:
            stanza[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            stanza[name] = value.strip()


def apt_helper() -> str | None:
    """apt's own downloader, which checks what it gets."""
    for path in ("/usr/lib/apt/apt-helper", "/usr/libexec/apt/apt-helper"):
        if os.access(path, os.X_OK):
            return path
    return None


def debian_archive(pin: Pin, mirror: str, signed_by: str, target: Path) -> None:
    """Fetch the pinned component of a Debian source package through a private apt configuration.

    Nothing of the machine's own apt state is read but the mirror's address, and nothing is written
    outside a temporary folder; no privilege is needed.
    """
    helper = apt_helper()
    if helper is None:
        raise FetchError("apt is not on this machine")
    package, sha256 = pin.debian["package"], pin.debian["sha256"]
    with tempfile.TemporaryDirectory(prefix="pjsip-py-apt-") as folder:
        apt = Path(folder)
        for each in ("lists/partial", "cache/archives/partial"):
            (apt / each).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list.d").mkdir()
        (apt / "sources.list.d" / "pjproject.sources").write_text(
            f"Types: deb-src\nURIs: {mirror}\nSuites: {' '.join(pin.suites)}\nComponents: main\n"
            + (f"Signed-By: {signed_by}\n" if signed_by else ""),
            encoding="utf-8",
        )
        options = [
            f"Dir::Etc::SourceList={os.devnull}",
            f"Dir::Etc::SourceParts={apt}/sources.list.d",
            f"Dir::State={apt}",
            f"Dir::State::Lists={apt}/lists",
            f"Dir::State::Status={apt}/status",
            f"Dir::Cache={apt}/cache",
            "APT::Sandbox::User=root",  # apt's own user could not write in our folder
            "APT::Update::Post-Invoke-Success::=/bin/true",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            f"Acquire::http::Timeout={CONNECT_TIMEOUT}",
            f"Acquire::https::Timeout={CONNECT_TIMEOUT}",
        ]
        arguments = [word for option in options for word in ("-o", option)]
        _run(["apt-get", *arguments, "-q", "update"])
        shown = _run(["apt-cache", *arguments, "showsrc", "--only-source", package])
        for stanza in _stanzas(shown.splitlines()):
            for line in stanza.get("checksums-sha256", "").splitlines():
                fields = line.split()
                if len(fields) == 3 and fields[0] == sha256:
                    uri = f"{mirror}/{stanza['directory']}/{fields[2]}"
                    _run(
                        [helper, *arguments, "download-file", uri, str(target), f"SHA256:{sha256}"]
                    )
                    return
    raise FetchError(
        f"no version of source package {package} in {', '.join(pin.suites)} "
        f"has a component with SHA-256 {sha256}"
    )


def _run(command: list[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{os.path.basename(command[0])}: {error}") from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FetchError(f"{os.path.basename(command[0])}: {' / '.join(said[-3:]) or 'failed'}")
    return done.stdout


# --- all together -------------------------------------------------------------------------------


def obtain(pin: Pin | None = None) -> Path:
    """The folder of the verified, pristine source tree; fetches and unpacks it when needed.

    Raises FetchError, with everything that was tried and what would help.
    """
    pin = pin or Pin()
    given = os.environ.get(TARBALL_VARIABLE)
    if given:  # asked for by name: nothing else will do
        if not Path(given).is_file():
            raise FetchError(f"{TARBALL_VARIABLE}={given}: there is no such file")
        if not is_pristine(pin):
            unpack(Path(given), pin)
        else:
            check(read_archive(Path(given), pin), given, pin)
        return pin.tree
    if is_pristine(pin):
        return pin.tree

    tried: list[str] = []
    if pin.tree.exists():
        tried.append(f"{pin.tree}: is there, but not as pinned (edited?)")
    cache = cache_folder()
    for archive in cached(pin, cache):
        try:
            unpack(archive, pin)
            return pin.tree
        except FetchError as error:
            tried.append(f"cache: {error}; delete that file")

    def attempt(name: str, suffix: str, get: Callable[[Path], None]) -> bool:
        """Download beside the cache, verify, and only then give the file its name in the cache."""
        part = cache / f".part-{os.getpid()}{suffix}"
        try:
            get(part)
            unpack(part, pin)
            os.replace(part, cache / f"pjproject-{pin.version}{suffix}")
        except (FetchError, OSError, http.client.HTTPException) as error:
            tried.append(f"{name}: {error}")
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    for url in pin.urls:
        if attempt(url, ".tar.gz", partial(download, url)):
            return pin.tree
    mirrors = apt_mirrors()
    for mirror, signed_by in mirrors:
        get = partial(debian_archive, pin, mirror, signed_by)
        if attempt(f"Debian source package on {mirror}", ".tar.xz", get):
            return pin.tree
    if not mirrors:
        tried.append("Debian source package: no Debian mirror is configured in /etc/apt")
    raise FetchError(
        "\n".join(
            [
                f"The source of pjproject {pin.version} could not be had. Tried:",
                *(f"  - {each}" for each in tried),
                "To go on, do one of these and build again:",
                "  - bring a network connection (or a proxy in https_proxy) to one of the above",
                f"  - put an archive of pjproject {pin.version} on this machine and set "
                f"{TARBALL_VARIABLE}=/path/to/it (upstream's release, or Debian's component)",
                "  - set PJSIP_PY_PJPROJECT=/prefix (or =system) to link an installed pjproject",
            ]
        )
    )


def main() -> int:
    try:
        print(obtain())
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
