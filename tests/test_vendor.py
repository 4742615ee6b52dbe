# SPDX-License-Identifier: GPL-3.0-or-later
"""vendor/fetch.py: the pinned source or a clear refusal, from wherever it comes."""

from __future__ import annotations

import http.server
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fetch
import pytest

FILES = {"COPYING": b"licence\n", "lib/include/a.h": b"#define A 1\n", "lib/src/a.c": b"int a;\n"}


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fetch.Pin:
    """A pin of three small files, with nowhere to get them from and an empty cache."""
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    (vendor / "pjproject.toml").write_text(
        'version = "2.17"\n'
        f'content_sha256 = "{fetch.content_hash(FILES)}"\n'
        'files = ["COPYING", "lib/include/*.h", "lib/src/*.c"]\n'
        "urls = []\n"
        '[debian]\npackage = "asterisk"\nsuites = ["forky", "sid"]\nsha256 = "d0d0"\n'
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.TARBALL_VARIABLE, raising=False)
    monkeypatch.setattr(fetch, "apt_mirrors", list)
    monkeypatch.setattr(fetch, "CONNECT_TIMEOUT", 1)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return fetch.Pin(vendor / "pjproject.toml")


def archive(path: Path, files: dict[str, bytes] = FILES, top: str = "pjproject-2.17") -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tree(pin: fetch.Pin) -> dict[str, bytes]:
    return {
        path.relative_to(pin.tree).as_posix(): path.read_bytes()
        for path in pin.tree.rglob("*")
        if path.is_file()
    }


def leftovers(pin: fetch.Pin) -> list[str]:
    return [path.name for path in pin.tree.parent.iterdir() if path.name.startswith(".")]


# --- the pin of this checkout ------------------------------------------------------------------


def test_the_tree_of_this_checkout_is_pristine() -> None:
    pin = fetch.Pin()
    assert pin.tree.is_dir(), "run scripts/setup"
    fetch.check(fetch.read_tree(pin.tree, pin), pin.tree, pin)
    assert "pjsip/src/pjsip-ua/sip_reg.c" in fetch.read_tree(pin.tree, pin)


# --- archives ----------------------------------------------------------------------------------


def test_any_packing_of_the_pinned_files_is_accepted(pin: fetch.Pin, tmp_path: Path) -> None:
    more = {"lib/src/not-wanted.py": b"", "third_party/x.c": b"", **FILES}
    fetch.unpack(archive(tmp_path / "a.tar.xz", more, top="Xpjproject"), pin)
    assert tree(pin) == FILES
    assert fetch.is_pristine(pin)


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "lib/src/a.c": b"int b;\n"},
        {**FILES, "lib/src/more.c": b""},
        {name: FILES[name] for name in ("COPYING", "lib/src/a.c")},
        {},
    ],
    ids=["changed", "added", "missing", "empty"],
)
def test_other_content_is_refused_and_leaves_nothing(
    pin: fetch.Pin, tmp_path: Path, files: dict[str, bytes]
) -> None:
    with pytest.raises(fetch.FetchError, match=r"content hash|no pjproject source"):
        fetch.unpack(archive(tmp_path / "a.tar.xz", files), pin)
    assert not pin.tree.exists()
    assert leftovers(pin) == []


def test_members_that_climb_or_are_no_files_have_no_effect(pin: fetch.Pin, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name in ("top/lib/src/../../../../evil.c", "/lib/src/evil.c", "../lib/src/evil.c"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("top/lib/src/link.c")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        device = tarfile.TarInfo("top/lib/src/device.c")
        device.type = tarfile.FIFOTYPE
        tar.addfile(device)
    names = fetch.read_archive(path, pin)
    assert "lib/src/link.c" not in names
    assert "lib/src/device.c" not in names
    assert not any(".." in name for name in names)
    with pytest.raises(fetch.FetchError):  # "/lib/src/evil.c" is one file too many
        fetch.unpack(path, pin)
    assert not list(tmp_path.rglob("evil.c"))


def test_a_file_twice_in_an_archive_is_refused(pin: fetch.Pin, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for data in (b"licence\n", b"other\n"):
            member = tarfile.TarInfo("top/COPYING")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(fetch.FetchError, match="twice"):
        fetch.read_archive(path, pin)


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_a_truncated_archive_is_refused(pin: fetch.Pin, tmp_path: Path, keep: int) -> None:
    path = archive(tmp_path / "a.tar.xz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(fetch.FetchError, match=r"a\.tar\.xz"):
        fetch.unpack(path, pin)
    assert not pin.tree.exists()


# --- sources, in order -------------------------------------------------------------------------


def test_a_named_tarball_is_used(
    pin: fetch.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetch.TARBALL_VARIABLE, str(archive(tmp_path / "mine.tar.xz")))
    assert fetch.obtain(pin) == pin.tree
    assert tree(pin) == FILES


def test_a_named_tarball_that_is_wrong_is_never_replaced_by_another_source(
    pin: fetch.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(fetch.cache_folder() / "pjproject-2.17.tar.xz")  # a good one, but not the one named
    wrong = archive(tmp_path / "mine.tar.xz", {"COPYING": b""})
    for value in (str(wrong), str(tmp_path / "missing.tar.xz")):
        monkeypatch.setenv(fetch.TARBALL_VARIABLE, value)
        with pytest.raises(fetch.FetchError, match=r"content hash|no such file"):
            fetch.obtain(pin)
    assert not pin.tree.exists()


def test_a_cached_archive_needs_no_network(pin: fetch.Pin) -> None:
    archive(fetch.cache_folder() / "pjproject-2.17.tar.xz")
    assert tree_of_obtained(pin) == FILES


def tree_of_obtained(pin: fetch.Pin) -> dict[str, bytes]:
    assert fetch.obtain(pin) == pin.tree
    return tree(pin)


def test_an_edited_tree_is_set_aside_and_never_built(
    pin: fetch.Pin, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(fetch.cache_folder() / "pjproject-2.17.tar.xz")
    fetch.obtain(pin)
    (pin.tree / "lib/src/a.c").write_bytes(b"int edited;\n")
    assert tree_of_obtained(pin) == FILES
    kept = pin.tree.with_name("pjproject-2.17.replaced")
    assert (kept / "lib/src/a.c").read_bytes() == b"int edited;\n"
    assert "not as pinned" in capsys.readouterr().err


def test_an_edited_tree_without_a_source_is_refused(pin: fetch.Pin) -> None:
    archive(fetch.cache_folder() / "pjproject-2.17.tar.xz")
    fetch.obtain(pin)
    (fetch.cache_folder() / "pjproject-2.17.tar.xz").unlink()
    (pin.tree / "lib/src/more.c").write_bytes(b"")
    with pytest.raises(fetch.FetchError, match="not as pinned"):
        fetch.obtain(pin)


def test_every_failure_is_told_with_its_cure(pin: fetch.Pin) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pin.urls = [f"http://127.0.0.1:{unused.getsockname()[1]}/2.17.tar.gz"]
        archive(fetch.cache_folder() / "pjproject-2.17.tar.xz", {"COPYING": b"?"})
        with pytest.raises(fetch.FetchError) as caught:
            fetch.obtain(pin)
    text = str(caught.value)
    for part in (
        "cache:",
        "content hash",
        pin.urls[0],
        "refused",
        "Debian",
        fetch.TARBALL_VARIABLE,
    ):
        assert part in text
    assert "PJSIP_PY_PJPROJECT=" in text
    assert list(fetch.cache_folder().glob(".part*")) == []


# --- download ----------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    body = b""
    claimed = 0  # Content-Length; 0: the true one
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.claimed or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(pin: fetch.Pin) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        pin.urls = [f"http://127.0.0.1:{server.server_port}/2.17.tar.gz"]
        yield server
        server.shutdown()
        thread.join(10)


def test_a_download_is_verified_and_cached(pin: fetch.Pin, server: Server, tmp_path: Path) -> None:
    server.body = archive(tmp_path / "a").read_bytes()
    assert tree_of_obtained(pin) == FILES
    cached = list(fetch.cache_folder().iterdir())
    assert [path.name for path in cached] == ["pjproject-2.17.tar.gz"]
    assert cached[0].read_bytes() == server.body


def test_an_interrupted_download_is_never_kept(
    pin: fetch.Pin, server: Server, tmp_path: Path
) -> None:
    whole = archive(tmp_path / "a").read_bytes()
    server.body, server.claimed = whole[:-1], len(whole)
    with pytest.raises(fetch.FetchError, match=r"ended after \d+ of \d+ bytes"):
        fetch.obtain(pin)
    assert list(fetch.cache_folder().iterdir()) == []
    server.body, server.claimed = whole, 0
    assert tree_of_obtained(pin) == FILES


def test_a_download_is_bounded(
    pin: fetch.Pin, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_ARCHIVE", 1 << 16)
    server.body = bytes(1 << 18)
    with pytest.raises(fetch.FetchError, match="larger than"):
        fetch.obtain(pin)


def test_a_silent_server_is_given_up(pin: fetch.Pin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pin.urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/2.17.tar.gz"]
        with pytest.raises(fetch.FetchError, match="timed out"):
            fetch.obtain(pin)


def test_a_home_that_is_not_there_is_no_failure(
    pin: fetch.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(fetch, "HERE", pin.tree.parent)
    assert fetch.cache_folder() == pin.tree.parent / ".cache"


# --- Debian ------------------------------------------------------------------------------------


def test_mirrors_come_from_both_formats_of_sources(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented/debian sid main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one/debian/ trixie main contrib\n"
        "deb-src http://one/debian trixie main\n"
        "deb http://security.example/debian-security trixie-security main\n"
        "deb cdrom:[Debian]/ trixie main\n"
        "nonsense\n"
    )
    (parts / "other.list").write_text("deb https://packages.example/apt stable main\n")
    (parts / "debian.sources").write_text(
        "Types: deb deb-src\nURIs: http://two/debian\n https://three/debian/\nSuites: trixie\n"
        "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n# a comment\nEnabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: sid\n"
    )
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert fetch.apt_mirrors(tmp_path) == [
        ("http://one/debian", "/k.gpg"),
        ("http://two/debian", key),
        ("https://three/debian", key),
        ("https://packages.example/apt", ""),
    ]
    assert fetch.apt_mirrors(tmp_path / "none") == []


SHOWSRC = """\
Package: asterisk
Version: 1:23
Directory: pool/main/a/asterisk
Checksums-Sha256:
 beef 100 asterisk_23.orig-Xpjproject.tar.xz
 cafe 100 asterisk_23.orig.tar.xz

Package: asterisk
Version: 1:22
Directory: pool/main/a/asterisk
Checksums-Sha256:
 d0d0 100 asterisk_22.orig-Xpjproject.tar.xz
"""


def test_the_debian_component_is_found_by_its_hash(
    pin: fetch.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> str:
        commands.append(command)
        if "download-file" in command:
            archive(Path(command[-2]))
        return SHOWSRC

    monkeypatch.setattr(fetch, "_run", run)
    monkeypatch.setattr(fetch, "apt_helper", lambda: "apt-helper")
    monkeypatch.setattr(fetch, "apt_mirrors", lambda: [("http://one/debian", "")])
    assert tree_of_obtained(pin) == FILES
    update, show, get = commands
    assert update[0] == "apt-get"
    assert show[0] == "apt-cache"
    url = "http://one/debian/pool/main/a/asterisk/asterisk_22.orig-Xpjproject.tar.xz"
    assert get[-4:-2] == ["download-file", url]
    assert get[-1] == "SHA256:d0d0"
    for command in commands:  # nothing of the machine's own apt state
        for option in (
            "Dir::State=",
            "Dir::State::Lists=",
            "Dir::Cache=",
            "Dir::Etc::SourceParts=",
        ):
            assert any(word.startswith(option) and "/etc/" not in word for word in command), option


def test_a_debian_without_the_pinned_component_is_told(
    pin: fetch.Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_run", lambda command: SHOWSRC.replace("d0d0", "f00d"))
    monkeypatch.setattr(fetch, "apt_helper", lambda: "apt-helper")
    monkeypatch.setattr(fetch, "apt_mirrors", lambda: [("http://one/debian", "")])
    with pytest.raises(fetch.FetchError, match=r"http://one/debian: no version .* d0d0"):
        fetch.obtain(pin)
