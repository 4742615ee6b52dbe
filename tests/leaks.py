# SPDX-License-Identifier: GPL-3.0-or-later
"""The leak test: nothing that the library emits during the suite holds a secret used in it.

On in every run.  Each test ends by a search through what came out of the library meanwhile, for
every secret that was used so far; a find fails the test and names the secret's kind and the place,
never the secret.

Secrets: what :class:`Credentials`, :class:`BearerToken`, :class:`TlsConfig` and the registrar's
users are given, what references to secrets lead to, the HA1s that follow from them, and every
digest response, client nonce and token that arrives at the embedded registrar.

Emitted: the records of C; the events, all their fields; log records, whatever the level;
warnings; the exceptions that operations end with and that tests expect, with the local variables
of the library's own frames; ``info()``, ``build_info()``, metrics; both outputs of tests and of
processes that they start; the files that appear in ``tmp_path``; and, where the process may
capture it, the wire, on which digests and tokens belong but passwords and HA1s never.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import socket
import subprocess
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import ahocorasick_rs
import capture
import hypothesis
import pytest

from pjsip_py.events import EventTime

REALM = "example.com"  # of the tests' registrars, for HA1s of credentials for any realm
HASHES = ("md5", "sha256", "sha512_256")

# What is shorter or plainer than this stands in many a text by chance, and is not looked for.
MINIMUM = 8  # bytes
DISTINCT = 5  # different ones
# Hypothesis likes to draw words of the program, also as passwords: there, only these count.
MARK = "\N{HEAVY BLACK HEART}-"

BATCH = 1 << 20  # bytes that wait to be searched
LONGEST = 20_000  # characters of one repr
PLAIN = {bool, int, float, str, EventTime}  # a repr around them shows them
PCAP_LIMIT = 1 << 30  # bytes

# Less than this in a run of the whole suite means that the hooks no longer hold.
WHOLE = 2000  # tests
FLOOR = {
    "passwords": 25,
    "HA1s": 100,
    "digests": 3000,
    "records": 30_000,
    "events": 10_000,
    "log lines": 5_000,
    "exceptions": 1_000,
    "outputs": 100,
}


class Leak(NamedTuple):
    kind: str
    where: str
    test: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.where}, during {self.test}"


# No secret has these: they are poison in tests of arguments.
_REFUSED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def counts(secret: bytes) -> bool:
    """Whether a find of it would mean something."""
    return (
        len(secret) >= MINIMUM
        and len(set(secret)) >= DISTINCT
        and not re.fullmatch(rb"[a-z]+", secret)
    )


def marked(text: str) -> str:
    """A password of Hypothesis' making that is not by chance what a word of the protocol is."""
    return MARK + text


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def spellings(secret: str) -> Iterator[bytes]:
    """The ways in which it could come out."""
    plain = encoded(secret)
    yield plain
    yield encoded(repr(secret)[1:-1])
    yield json.dumps(secret)[1:-1].encode()
    yield quote(plain).encode()
    yield plain.hex().encode()


class Search:
    """Digests and other words, of which there may be many, and texts, found anywhere."""

    _DIGEST = re.compile(rb"[0-9a-f]{32,}")
    _WORD = re.compile(rb"[A-Za-z0-9.~_+-]{8,}")

    def __init__(self) -> None:
        self._digests: dict[bytes, str] = {}  # of 32 or 64 digits
        self._words: dict[bytes, str] = {}
        self._texts: dict[bytes, str] = {}
        self._patterns: list[bytes] = []
        self._machine: Any = None

    def __contains__(self, secret: bytes) -> bool:
        return secret in self._digests or secret in self._words or secret in self._texts

    def add_word(self, word: bytes, kind: str) -> None:
        is_digest = len(word) in (32, 64) and self._DIGEST.fullmatch(word)
        (self._digests if is_digest else self._words).setdefault(word, kind)

    def add(self, text: bytes, kind: str) -> None:
        if text not in self._texts:
            self._texts[text] = kind
            self._machine = None

    def find(self, text: bytes) -> Iterator[tuple[str, int]]:
        """Kind and place of each of them in *text*."""
        if self._digests:
            for run in self._DIGEST.finditer(text):
                if run[0] in self._digests or len(run[0]) not in (32, 64):
                    yield from self._in_digits(run[0], run.start())
        if self._words:
            for word in self._WORD.finditer(text):
                if (kind := self._words.get(word[0])) is not None:
                    yield kind, word.start()
        if self._texts and text:
            if self._machine is None:
                self._patterns = list(self._texts)
                self._machine = ahocorasick_rs.BytesAhoCorasick(self._patterns)
            for index, start, _ in self._machine.find_matches_as_indexes(text, overlapping=True):
                yield self._texts[self._patterns[index]], start

    def _in_digits(self, digits: bytes, start: int) -> Iterator[tuple[str, int]]:
        size = len(digits)
        for length in (size,) if size in (32, 64) else (32, 64):
            for at in range(size - length + 1):
                if (kind := self._digests.get(digits[at : at + length])) is not None:
                    yield kind, start + at


class Watch:
    """The secrets, what was emitted, and what was found; any thread may call it."""

    def __init__(self) -> None:
        self.test = "no test"
        self.seen: Counter[str] = Counter()
        self.weak: set[bytes] = set()
        self._search = Search()
        self._wire = Search()
        self._lock = threading.RLock()  # a finalizer may log while it is held
        self._emitted: list[tuple[str, str, bytes]] = []
        self._size = 0
        self._leaks: dict[Leak, None] = {}
        self._pid = os.getpid()

    # -- secrets ----------------------------------------------------------------------------------

    def secret(self, kind: str, value: object, *, what: str, wire: bool = False) -> None:
        """*value* must not come out, with *wire* not even there; counted as *what*."""
        if not isinstance(value, str) or _REFUSED.search(value):
            return
        plain = encoded(value)
        with self._lock:
            if not counts(plain) or (hypothesis.currently_in_test_context() and MARK not in value):
                self.weak.add(plain)
            elif plain not in self._search:
                self.seen[what] += 1
                for pattern in spellings(value):
                    self._search.add(pattern, kind)
                    if wire:
                        self._wire.add(pattern, kind)

    def digest(self, kind: str, value: bytes) -> None:
        """What proved a secret once; it belongs on the wire."""
        with self._lock:
            if counts(value) and value not in self._search:
                self.seen["digests"] += 1
                self._search.add_word(value, kind)

    def ha1s(self, username: object, realm: object, password: object) -> None:
        if not isinstance(username, str) or not isinstance(password, str):
            return
        for digits in _ha1s(username, REALM if realm == "*" else str(realm), password):
            self.ha1("an HA1", digits)

    def ha1(self, kind: str, digits: object) -> None:
        if isinstance(digits, str) and counts(pattern := encoded(digits.lower())):
            with self._lock:
                if pattern not in self._search:
                    self.seen["HA1s"] += 1
                    self._search.add_word(pattern, kind)
                    self._wire.add_word(pattern, kind)

    # -- what is emitted --------------------------------------------------------------------------

    def emit(self, what: str, where: str, *texts: str | bytes) -> None:
        """*texts* came out at *where*; counted as *what*."""
        if os.getpid() != self._pid:
            return  # a fork, whose locks may be held for ever
        data = b"\0".join(encoded(text) if isinstance(text, str) else text for text in texts)
        with self._lock:
            self.seen[what] += 1
            self.seen["bytes"] += len(data)
            self._emitted.append((where, self.test, data))
            self._size += len(data)
            if self._size >= BATCH:
                self._look()

    def event(self, event: Any) -> None:
        self.emit("events", f"the event {type(event).__name__}", *spelt(event))
        for name in ("error", "exception"):
            error = getattr(event, name, None)
            if isinstance(error, BaseException):
                self.exception(error)

    def log(self, record: logging.LogRecord) -> None:
        texts: list[str | bytes] = []
        with suppress(Exception):
            texts.append(record.getMessage())
        texts += [str(record.msg), *spelt(record.args), *spelt(record.exc_text)]
        self.emit("log lines", f"the log {record.name!r}", *texts, *spelt(record.stack_info))
        if record.exc_info and record.exc_info[1] is not None:
            self.exception(record.exc_info[1])

    def exception(self, error: BaseException) -> None:
        """Its texts, its attributes and what its traceback shows, and so for those behind it."""
        waiting, met = [error], set()
        while waiting:
            error = waiting.pop()
            if id(error) in met:
                continue
            met.add(id(error))
            behind = [error.__cause__, *getattr(error, "exceptions", ())]
            if not error.__suppress_context__:
                behind.append(error.__context__)
            waiting += [each for each in behind if isinstance(each, BaseException)]
            name = type(error).__name__
            self.emit("exceptions", f"the exception {name}", *spelt(error))
            for frame, _ in traceback.walk_tb(error.__traceback__):
                # What a program's own variables hold is its own affair, and so is what the
                # registrar of a test knows.
                module = str(frame.f_globals.get("__name__"))
                if not f"{module}.".startswith("pjsip_py.") or ".testing" in module:
                    continue
                where = f"{module}.{frame.f_code.co_name}()"
                for variable, value in frame.f_locals.items():
                    text = spell(value)
                    self.emit("variables", f"the variable {variable!r} of {where} ({name})", text)

    def output(self, where: str, *texts: object) -> None:
        self.emit("outputs", where, *(t for t in texts if isinstance(t, (str, bytes))))

    def files(self, folder: Path, ours: set[str]) -> None:
        """What has appeared in *folder* besides what the test wrote there itself."""
        for path in sorted(folder.rglob("*")):
            with suppress(OSError):
                if path.suffix in (".py", ".pyc") or str(path) in ours:
                    continue
                if path.name in ("METADATA", "PKG-INFO"):
                    continue  # the README, with the passwords of its examples
                if path.is_file() and not path.is_symlink():
                    with open(path, "rb") as file:
                        self.emit("files", f"the file {path.name}", file.read(BATCH))

    # -- what is found ----------------------------------------------------------------------------

    def _look(self) -> None:
        emitted, self._emitted, self._size = self._emitted, [], 0
        text = b"\n".join(data for _, _, data in emitted)
        ends: list[int] = []
        for kind, start in self._search.find(text):
            ends = ends or list(itertools.accumulate(len(data) + 1 for _, _, data in emitted))
            where, test, _ = emitted[bisect.bisect_right(ends, start)]
            self._leaks[Leak(kind, where, test)] = None

    def leaks(self) -> list[Leak]:
        """Those found since the last call."""
        with self._lock:
            self._look()
            found, self._leaks = list(self._leaks), {}
        return found

    def on_wire(self, packets: Iterable[capture.Packet], test_at: Callable[[float], str]) -> None:
        """Look through what was captured."""
        packets = iter(packets)
        while batch := list(itertools.islice(packets, 4096)):
            ends = list(itertools.accumulate(len(packet.data) + 1 for packet in batch))
            for kind, start in self._wire.find(b"\n".join(packet.data for packet in batch)):
                packet = batch[bisect.bisect_right(ends, start)]
                self._leaks[Leak(kind, f"a packet, {packet}", test_at(packet.time))] = None


@functools.lru_cache(4096)
def _ha1s(username: str, realm: str, password: str) -> tuple[str, ...]:
    text = encoded(f"{username}:{realm}:{password}")
    return tuple(hashlib.new(name, text, usedforsecurity=False).hexdigest() for name in HASHES)


def spell(value: object) -> str:
    try:
        return repr(value)[:LONGEST]
    except Exception as error:
        return f"no repr: {error!r}"


def spelt(value: Any, depth: int = 4) -> Iterator[str | bytes]:
    """The repr of *value*, and what its fields and items hold that the repr may not show."""
    from pjsip_py.message import Response

    if value is None or isinstance(value, (bool, int, float)):
        return
    if isinstance(value, (str, bytes)):
        yield value[:LONGEST]
        return
    yield spell(value)
    parts: Iterable[Any] = ()
    if isinstance(value, Response):
        return  # its bytes came as a record of C
    if isinstance(value, BaseException):
        yield str(value)
        parts = (value.args, vars(value), getattr(value, "hint", None))
    elif isinstance(value, Mapping):
        parts = itertools.chain.from_iterable(value.items())
    elif isinstance(value, (tuple, list, set, frozenset)):
        parts = value
    elif dataclasses.is_dataclass(value):
        names = {field.name for field in dataclasses.fields(value)}
        if type(value).__name__ == "TlsConfig":  # the program's own settings, which it may read
            names -= {"key_password", "key_data"}
        parts = (getattr(value, name) for name in sorted(names))
    for part in parts if depth else ():
        if part is not None and type(part) not in PLAIN:
            yield from spelt(part, depth - 1)


# -- hooks ----------------------------------------------------------------------------------------

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL)
_WIRE_SECRET = re.compile(
    rb'(response|cnonce|rspauth)\s*=\s*"?([^",\s]+)|\b(Bearer)\s+([A-Za-z0-9\-._~+/]+)',
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(?i)(password|secret|token)$")


class Hooks:
    """Between the library, or what a test does with it, and the watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._patch = pytest.MonkeyPatch()

    def uninstall(self) -> None:
        self._patch.undo()

    def _after(self, owner: Any, name: str, then: Callable[..., object]) -> None:
        """Call ``then(result, *arguments)`` after each call; of a class method without self."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            then(result, *args, **kwargs)
            return result

        self._patch.setattr(owner, name, call)

    def _before(self, owner: Any, name: str, first: Callable[..., object]) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            first(*args, **kwargs)
            return real(*args, **kwargs)

        self._patch.setattr(owner, name, call)

    def install(self) -> None:
        self._secrets()
        self._emissions()
        self._logging()
        self._tests_own()

    def _secrets(self) -> None:
        import pjsip_py as pjsip
        from pjsip_py import _secret
        from pjsip_py.testing import digest, registrar, uas

        watch = self.watch

        def credentials(
            _: object, username: object = None, password: object = None, **options: Any
        ) -> None:
            ha1 = options.get("ha1")
            realm = options.get("realm", "*")
            watch.secret("a password (Credentials)", password, what="passwords", wire=True)
            watch.ha1s(username, realm, password)
            for digits in ha1.values() if isinstance(ha1, Mapping) else [ha1]:
                watch.ha1("an HA1 (Credentials)", digits)

        def bearer(_: object, token: object = None, **__: Any) -> None:
            watch.secret("a token (BearerToken)", token, what="tokens")

        def tls(_: object, *__: object, **options: Any) -> None:
            password = options.get("key_password")
            watch.secret("a key's password (TlsConfig)", password, what="passwords", wire=True)
            key = options.get("key_data")
            text = key.decode("latin-1") if isinstance(key, bytes) else key
            # What some test gave for a key may be a certificate, which is no secret.
            for block in _PRIVATE_KEY.findall(text) if isinstance(text, str) else ():
                for line in block.splitlines():
                    watch.secret("a key (TlsConfig)", line, what="keys")

        def users(_: object, *__: object, **options: Any) -> None:
            for token in options.get("tokens") or ():
                watch.secret("a token (registrar)", token, what="tokens")
            for password in (options.get("users") or {}).values():
                watch.secret("a password (registrar)", password, what="passwords", wire=True)

        def authenticator(_: object, table: Mapping[str, str], realm: str, *__: object) -> None:
            for name, password in table.items():
                watch.ha1s(name, realm, password)

        def set_password(_: object, name: str, password: object) -> None:
            watch.secret("a password (registrar)", password, what="passwords", wire=True)
            watch.ha1s(name, REALM, password)

        def set_token(_: object, token: object, *__: object) -> None:
            watch.secret("a token (registrar)", token, what="tokens")

        def received(_: object, data: bytes, *__: object) -> None:
            for found in _WIRE_SECRET.finditer(data):
                name, value, scheme, token = found.groups()
                if scheme:
                    watch.digest("a token (on the wire)", token)
                else:
                    watch.digest(f"a digest's {name.decode().lower()}", value)

        def reference(secret: object, *_: object) -> None:
            text = str.__str__(secret) if isinstance(secret, str) else None
            watch.secret("a secret (by reference)", text, what="passwords", wire=True)

        self._before(pjsip.Credentials, "__init__", credentials)
        self._before(pjsip.BearerToken, "__init__", bearer)
        self._before(pjsip.TlsConfig, "__init__", tls)
        self._after(_secret, "read_secret", reference)
        self._before(digest.DigestAuthenticator, "__init__", authenticator)
        self._before(registrar.Registrar, "__init__", users)
        self._before(registrar.Registrar, "set_password", set_password)
        self._before(registrar.Registrar, "set_token", set_token)
        self._before(uas.UserAgentServer, "on_message", received)

    def _emissions(self) -> None:
        import pjsip_py as pjsip
        from pjsip_py import _ffi
        from pjsip_py._operation import Operation

        watch = self.watch

        def taken(count: int, _: object, records: deque[_ffi.Record], *__: object) -> None:
            for record in itertools.islice(reversed(records), count):
                watch.emit("records", f"C's record of kind {record.kind}", *record.text)

        def finished(_: object, __: object, error: BaseException | None) -> None:
            if error is not None:
                watch.exception(error)

        def shown(what: str) -> Callable[..., None]:
            return lambda result, *_, **__: watch.emit("reports", what, *spelt(result))

        def account(made: pjsip.Account, *_: object, **__: object) -> None:
            watch.emit("reports", "an account's repr", repr(made), *spelt(made.config))

        self._after(_ffi.EventBuffer, "take", taken)
        self._before(pjsip.Endpoint, "_emit", lambda _, event, *__: watch.event(event))
        self._before(Operation, "_finish", finished)
        self._after(pjsip.Endpoint, "add_account", account)
        self._after(pjsip.Endpoint, "registration", shown("a client's repr"))
        self._after(pjsip.RegistrationClient, "info", shown("info()"))
        self._after(pjsip, "build_info", shown("build_info()"))
        with suppress(ImportError):
            import prometheus_client

            self._after(prometheus_client, "generate_latest", shown("the metrics"))

    def _logging(self) -> None:
        """Records of all levels are made and looked at; only those that are wanted go on.

        PJSIP's own lines, of the logger "pjsip", came as records of C.
        """
        watch = self.watch
        enabled, handle = logging.Logger.isEnabledFor, logging.Logger.handle

        def is_ours(logger: logging.Logger) -> bool:
            return logger.name.partition(".")[0] == "pjsip_py"

        def is_enabled_for(logger: logging.Logger, level: int) -> bool:
            return is_ours(logger) or enabled(logger, level)

        def handle_record(logger: logging.Logger, record: logging.LogRecord) -> None:
            if is_ours(logger) or logger.name == "pjsip":
                watch.log(record)
                if not enabled(logger, record.levelno):
                    return
            handle(logger, record)

        self._patch.setattr(logging.Logger, "isEnabledFor", is_enabled_for)
        self._patch.setattr(logging.Logger, "handle", handle_record)

    def _tests_own(self) -> None:
        """What a test sees of the library: warnings, expected exceptions, outputs."""
        watch = self.watch
        warn = warnings.warn

        def warned(
            message: Any, category: Any = None, stacklevel: int = 1, *args: Any, **kwargs: Any
        ) -> None:
            watch.emit("warnings", "a warning", str(message))
            warn(message, category, stacklevel + 1, *args, **kwargs)

        def expected(_: object, __: object, error: object, ___: object) -> None:
            if isinstance(error, BaseException):
                watch.exception(error)

        def started(_: object, *__: object, **options: Any) -> None:
            for name, value in (options.get("env") or {}).items():
                if _SECRET_NAME.search(name):
                    watch.secret("a secret of the environment", value, what="passwords", wire=True)

        def communicated(result: tuple[object, object], *_: object, **__: object) -> None:
            watch.output("the output of a process", *result)

        self._patch.setattr(warnings, "warn", warned)
        self._before(type(pytest.raises(KeyError)), "__exit__", expected)
        self._before(subprocess.Popen, "__init__", started)
        self._after(subprocess.Popen, "communicate", communicated)
        self._after(pytest.CaptureFixture, "readouterr", lambda r, *_: watch.output("stdout", *r))


# -- pytest ---------------------------------------------------------------------------------------

_watches: list[Watch] = []


def watch(config: pytest.Config) -> None:
    """Watch this run, from its configuration to its end."""
    plugin = Plugin()
    config.pluginmanager.register(plugin, "leaks")
    plugin.start()


def current() -> Watch:
    return _watches[-1]


def output(text: str) -> str:
    """Tests that read a process's output by themselves pass it through here."""
    current().output("the output of a process", text)
    return text


def shortfalls(seen: Mapping[str, int]) -> list[str]:
    """What a run of the whole suite should have seen more of."""
    return [
        f"only {seen[what]} {what}, where a whole run has {least} or more"
        for what, least in FLOOR.items()
        if seen[what] < least
    ]


class Plugin:
    def __init__(self) -> None:
        self.watch = Watch()
        self._hooks = Hooks(self.watch)
        self._capture: capture.Capture | None = None
        self._canary = secrets.token_hex(16)
        self._began: list[tuple[float, str]] = [(0.0, "no test")]
        self._written: set[str] = set()
        self._problems: list[str] = []
        self._packets = ""

    def start(self) -> None:
        _watches.append(self.watch)
        self._hooks.install()
        written = self._written
        for name in ("write_text", "write_bytes"):
            self._hooks._before(Path, name, lambda path, *_, **__: written.add(str(path)))

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        factory = session.config._tmp_path_factory  # type: ignore[attr-defined]
        pcap = factory.getbasetemp() / "loopback.pcap"
        self._capture = capture.Capture(pcap, PCAP_LIMIT)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.watch.test = item.nodeid
        self._began.append((time.time(), item.nodeid))
        self._written.clear()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        yield
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if isinstance(folder, Path):
            self.watch.files(folder, self._written)
        self._raise()

    def _raise(self) -> None:
        leaks = self.watch.leaks()
        if leaks:
            pytest.fail("leaked: " + "\n        ".join(map(str, leaks)), pytrace=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What it printed; a leak there is told with the next test."""
        for name, text in report.sections:
            if report.when == "teardown" or report.when == "call":
                self.watch.output(f"{name} of {report.nodeid}", text)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        leaks = self.watch.leaks()
        self._stop_capture()
        leaks += self.watch.leaks()
        self._problems += [f"leaked: {leak}" for leak in leaks]
        whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
        if whole and session.testscollected >= WHOLE and not session.shouldstop:
            self._problems += shortfalls(self.watch.seen)
        if self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _stop_capture(self) -> None:
        assert self._capture is not None
        if not self._capture.running:
            self._packets = self._capture.reason
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.bind(("127.0.0.1", 0))
            end.sendto(self._canary.encode(), end.getsockname())
        self._capture.stop()
        seen = False
        canary = self._canary.encode()

        def packets() -> Iterator[capture.Packet]:
            nonlocal seen
            assert self._capture is not None
            for packet in capture.read(self._capture.path):
                seen = seen or canary in packet.data
                yield packet

        self.watch.on_wire(packets(), self._test_at)
        stats = self._capture.stats
        self._packets = "{packets} packets of loopback".format(**stats)
        if stats["full"]:
            self._packets += f" (the first {PCAP_LIMIT >> 20} MB of it)"
        elif not seen and not stats["dropped"]:
            self._problems.append("the capture of loopback did not see what was sent over it")
        if not self._problems:
            self._capture.path.unlink()

    def _test_at(self, moment: float) -> str:
        at = bisect.bisect_right(self._began, (moment, "\x7f")) - 1
        return self._began[max(0, at)][1]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        seen = self.watch.seen
        for problem in self._problems:
            terminalreporter.write_line(f"leak test: {problem}", red=True)
        used = ", ".join(f"{seen[what]} {what}" for what in ("passwords", "HA1s", "digests"))
        where = ", ".join(
            f"{seen[what]} {what}"
            for what in ("records", "events", "log lines", "exceptions", "outputs", "files")
        )
        terminalreporter.write_line(
            f"leak test: {used} looked for in {where} and {self._packets}"
            + (f" ({len(self.watch.weak)} too plain to look for)" if self.watch.weak else "")
        )

    def pytest_unconfigure(self) -> None:
        _watches.remove(self.watch)
        self._hooks.uninstall()
        if self._capture is not None:
            self._capture.stop()
