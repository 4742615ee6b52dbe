# SPDX-License-Identifier: GPL-3.0-or-later
"""The border to C: the only module that imports ``ffi`` and ``lib``.

Everything below is a thin, checked call.  None of the C functions enters PJSIP; they put a
command on the worker's queue or take events from it, so any thread may call them.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache

from . import errors
from ._pjsip import ffi, lib
from ._secret import forgets
from ._typing import Any, NamedTuple

EV_REG_STARTED: int = lib.PJPY_EV_REG_STARTED
EV_REG_STATE: int = lib.PJPY_EV_REG_STATE
EV_DONE: int = lib.PJPY_EV_DONE
EV_TRANSPORT: int = lib.PJPY_EV_TRANSPORT
EV_RESOLVE: int = lib.PJPY_EV_RESOLVE
EV_MESSAGE: int = lib.PJPY_EV_MESSAGE
EV_LOG: int = lib.PJPY_EV_LOG
EV_DROPPED: int = lib.PJPY_EV_DROPPED
EV_TIMER: int = lib.PJPY_EV_TIMER
EV_PONG: int = lib.PJPY_EV_PONG
EV_CHALLENGE: int = lib.PJPY_EV_CHALLENGE

F_RENEWAL: int = lib.PJPY_F_RENEWAL
F_UNREGISTER: int = lib.PJPY_F_UNREGISTER
F_LOCAL: int = lib.PJPY_F_LOCAL
F_TIMEOUT: int = lib.PJPY_F_TIMEOUT
F_CANCELLED: int = lib.PJPY_F_CANCELLED
F_DOWNGRADE: int = lib.PJPY_F_DOWNGRADE
F_OUTGOING: int = lib.PJPY_F_OUTGOING
F_HANDSHAKE: int = lib.PJPY_F_HANDSHAKE

REGISTER: int = lib.PJPY_REGISTER
UNREGISTER: int = lib.PJPY_UNREGISTER
UNREGISTER_ALL: int = lib.PJPY_UNREGISTER_ALL
SET_CONTACTS: int = lib.PJPY_SET_CONTACTS
SET_EXPIRES: int = lib.PJPY_SET_EXPIRES
SET_CREDENTIALS: int = lib.PJPY_SET_CREDENTIALS
SET_TRANSPORT: int = lib.PJPY_SET_TRANSPORT

PROTOCOLS: dict[str, int] = {
    "udp": lib.PJPY_PROTOCOL_UDP,
    "tcp": lib.PJPY_PROTOCOL_TCP,
    "tls": lib.PJPY_PROTOCOL_TLS,
}
IPV6: int = lib.PJPY_PROTOCOL_IPV6
PROTOCOL_NAMES: dict[int, str] = {
    number | family: name for name, number in PROTOCOLS.items() for family in (0, IPV6)
}

TRANSPORT_STATES: dict[int, str] = {
    lib.PJPY_TP_CONNECTED: "connected",
    lib.PJPY_TP_DISCONNECTED: "disconnected",
    lib.PJPY_TP_SHUTDOWN: "shutdown",
    lib.PJPY_TP_DESTROYED: "destroyed",
}

ALGORITHMS: dict[int, str] = {
    lib.PJPY_ALG_NONE: "",
    lib.PJPY_ALG_MD5: "MD5",
    lib.PJPY_ALG_SHA256: "SHA-256",
    lib.PJPY_ALG_SHA512_256: "SHA-512-256",
    lib.PJPY_ALG_OTHER: "other",
    lib.PJPY_ALG_BEARER: "Bearer",
}
STRONGEST_FIRST: tuple[tuple[int, str], ...] = tuple(
    (bit, ALGORITHMS[bit])
    for bit in (
        *(lib.PJPY_ALG_BEARER, lib.PJPY_ALG_SHA512_256, lib.PJPY_ALG_SHA256),
        *(lib.PJPY_ALG_MD5, lib.PJPY_ALG_OTHER),
    )
)


@cache
def algorithms_of(offered: int) -> tuple[str, ...]:
    """The names of the bits, strongest first."""
    return tuple(name for bit, name in STRONGEST_FIRST if offered >> bit & 1)


NONE = 0xFFFFFFFF  # no Expires, no margin of its own

# C's pjpy_event without the strings that follow it.
_EVENT = struct.Struct("=IHHQQQqqii8i4I")
assert _EVENT.size == ffi.sizeof("pjpy_event")

_forked = False


def _mark_child() -> None:
    global _forked
    _forked = bool(lib.pjpy_running())


os.register_at_fork(after_in_child=_mark_child)


class Record(NamedTuple):
    """One event as C wrote it; ``value`` and ``text`` mean what shim.cdef.h says per kind."""

    size: int
    kind: int
    flags: int
    seq: int
    handle: int
    request: int
    monotonic_ns: int
    wall_ns: int
    status: int
    code: int
    value0: int
    value1: int
    value2: int
    value3: int
    value4: int
    value5: int
    value6: int
    value7: int
    length0: int
    length1: int
    length2: int
    length3: int
    strings: bytes

    @property
    def monotonic(self) -> float:
        return self.monotonic_ns / 1e9

    @property
    def wall(self) -> float:
        return self.wall_ns / 1e9

    @property
    def value(self) -> tuple[int, ...]:
        return self[10:18]

    @property
    def text(self) -> tuple[bytes, bytes, bytes, bytes]:
        strings = self.strings
        b = self.length0
        c = b + self.length1
        d = c + self.length2
        return strings[:b], strings[b:c], strings[c:d], strings[d : d + self.length3]


_make_record = Record._make


def text_of(raw: bytes) -> str:
    """SIP text is UTF-8; what is not arrives as Latin-1, never as an error."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


# A line that somebody else wrote must neither look like several nor steer a terminal.
_CONTROLS = {
    **{i: f"\\x{i:02x}" for i in (*range(0x20), *range(0x7F, 0xA0))},
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def line_of(raw: bytes) -> str:
    """As :func:`text_of`, on one line: control characters are shown as escapes."""
    text = text_of(raw)
    return text if text.isprintable() else text.translate(_CONTROLS)


def log_of(raw: bytes) -> str:
    """What PJSIP logged, which may quote a packet: its further lines begin with a bar."""
    lines = raw.replace(b"\r\n", b"\n").strip().split(b"\n")
    return "\n  | ".join(line_of(line) for line in lines)


@lru_cache(maxsize=64)
def shared(raw: bytes) -> bytes:
    """One object for what thousands of records say: a reason, a registrar's address."""
    return raw


def check(status: int, operation: str) -> int:
    """Raise the exception that *status* stands for, unless it is success."""
    if status == 0:
        return 0
    if _forked or status == lib.PJPY_EFORKED:
        raise errors.ForkedError(
            f"{operation}: this process was forked from the one that opened the endpoint; "
            "open an Endpoint of its own in a child started with multiprocessing 'spawn'"
        )
    if status == lib.PJPY_ECLOSED:
        raise errors.ClosedError(f"{operation}: the endpoint is closed")
    if status == lib.PJPY_ESTALE:
        raise errors.ClosedError(f"{operation}: the object is closed")
    if status == lib.PJPY_EBUSY:
        raise errors.EndpointBusyError("another Endpoint is open in this process: close it first")
    if status == lib.PJPY_ENOMEM:
        raise MemoryError(operation)
    if status < 0:
        raise errors.NativeError(f"{operation}: error {status} of the C shim", status=status)
    raise errors.from_status(status, strerror(status), operation)


def strerror(status: int) -> str:
    """PJSIP's own words for *status*; needs an open endpoint."""
    buffer = ffi.new("char[]", 160)
    if lib.pjpy_strerror(status, buffer, 160) != 0:
        return f"status {status}"
    return text_of(ffi.string(buffer))


# -- engine ---------------------------------------------------------------------------------------


def start(config: dict[str, Any]) -> None:
    user_agent = ffi.new("char[]", config.pop("user_agent").encode())
    check(lib.pjpy_start(ffi.new("pjpy_config *", {**config, "user_agent": user_agent})), "open")


def stop(timeout: float) -> bool:
    """False when the worker did not end in time."""
    if _forked:
        return True
    return bool(lib.pjpy_stop(milliseconds(timeout)) != lib.PJPY_ETIMEDOUT)


def forked() -> bool:
    return _forked


def check_fork(operation: str) -> None:
    """:raises ForkedError: in a child of the process that opened the endpoint."""
    if _forked:
        check(lib.PJPY_EFORKED, operation)


def event_fd() -> int:
    fd: int = lib.pjpy_event_fd()
    if fd < 0:
        check(fd, "fileno")
    return fd


def interrupt() -> None:
    lib.pjpy_interrupt()


def milliseconds(seconds: float) -> int:
    return max(0, min(0x7FFFFFFF, round(seconds * 1000)))


class EventBuffer:
    """Takes whole batches of records with one call.

    What C has handed out stays in the buffer until it stands in *records*: an exception between
    the two, Ctrl-C above all, loses nothing.
    """

    def __init__(self, size: int = 1 << 17) -> None:
        self._buffer = ffi.new("char[]", size)
        self._size = size
        self._taken = ffi.new("long *")
        self._last = 0

    def take(self, records: deque[Record], timeout: float) -> int:
        """Append to *records*; wait up to *timeout* seconds for the first; how many came."""
        if self._taken[0] == 0:
            lib.pjpy_take(self._buffer, self._size, milliseconds(timeout), self._taken)
        if self._taken[0] < 0:
            self._size = -self._taken[0]
            self._buffer = ffi.new("char[]", self._size)
            lib.pjpy_take(self._buffer, self._size, 0, self._taken)
        taken = self._taken[0]
        data = ffi.buffer(self._buffer, taken)[:]
        before = len(records)
        offset = 0
        while offset < taken:
            fields = _EVENT.unpack_from(data, offset)
            end = offset + fields[0]
            record = _make_record((*fields, data[offset + _EVENT.size : end]))
            offset = end
            if record.seq > self._last:  # else it came through before an interrupt
                self._last = record.seq
                records.append(record)
        self._taken[0] = 0
        return len(records) - before


def set_trace(on: bool) -> None:
    check(lib.pjpy_set_trace(int(on)), "trace")


def call_later(request: int, seconds: float) -> None:
    check(lib.pjpy_call_later(request, milliseconds(seconds)), "call_later")


def call_cancel(request: int) -> None:
    lib.pjpy_call_cancel(request)  # fired already, or closed: as good


def want_started() -> None:
    check(lib.pjpy_set_started(1), "started")


def stats() -> dict[str, int]:
    out = ffi.new("pjpy_stats *")
    check(lib.pjpy_get_stats(out), "stats")
    return {name: int(getattr(out, name)) for name, _ in ffi.typeof("pjpy_stats").fields}


class Turn(NamedTuple):
    """What the worker did of ``pjpy_clock_turn()``; the counts are those so far."""

    next_ns: int  #: when the next of its timers is due; -1: none is set
    worked: int  #: commands, packets and timers
    sent: int  #: SIP messages
    received: int
    events: int
    posted: int  #: :func:`posted` when all that had been was done
    in_flight: int


def clock_turn(now_ns: int) -> Turn:
    out = ffi.new("pjpy_turn *")
    check(lib.pjpy_clock_turn(now_ns, out), "clock")
    return Turn(
        *(out.next_ns, out.worked, out.sent, out.received),
        *(out.events, out.posted, out.in_flight),
    )


def posted() -> int:
    """Commands and events queued so far."""
    return int(lib.pjpy_posted())


def last_assertion() -> str:
    return text_of(ffi.string(lib.pjpy_last_assertion()))


# -- transports -----------------------------------------------------------------------------------


class Listening(NamedTuple):
    handle: int
    host: str
    port: int
    published: str


_TLS_SECRETS = ("key_data", "key_password")


@contextmanager
def _tls_of(fields: dict[str, Any] | None) -> Iterator[Any]:
    """A ``pjpy_tls`` from :meth:`TlsConfig._c_fields`; its secrets are wiped afterwards."""
    if fields is None:
        yield ffi.NULL
        return
    strings = {}
    for name, value in fields.items():
        if not isinstance(value, int):
            strings[name] = ffi.new("char[]", value.encode() if isinstance(value, str) else value)
    try:
        yield ffi.new("pjpy_tls *", {**fields, **strings})
    finally:
        for name in _TLS_SECRETS:
            if name in strings:
                buffer = ffi.buffer(strings[name])
                buffer[:] = bytes(len(buffer))


def _check_tls(status: int, error: Any, fields: dict[str, Any] | None, operation: str) -> None:
    """As :func:`check`; what is wrong with the TLS settings names its file or field."""
    if status != lib.PJPY_ETLS or fields is None:
        check(status, operation)
        return
    names = text_of(ffi.string(error.field)).split(",")
    shown = [f"{n} {fields[n]!r}" if n.endswith(("_file", "_path")) else n for n in names]
    text = f"{', '.join(shown)}: {text_of(ffi.string(error.reason))}"
    raise errors.ConfigError(text) if error.argument else errors.TlsError(text)


@forgets
def listen(
    protocol: str, host: str, port: int, ipv6: bool, tls: dict[str, Any] | None, operation: str
) -> Listening:
    out = ffi.new("pjpy_listening *")
    number = PROTOCOLS[protocol] | (IPV6 if ipv6 else 0)
    address = ffi.new("char[]", host.encode())
    with _tls_of(tls) as c_tls:
        status = lib.pjpy_listen(number, address, port, c_tls, out)
    _check_tls(status, out.error, tls, operation)
    return Listening(
        out.handle, text_of(ffi.string(out.host)), out.port, text_of(ffi.string(out.published))
    )


@forgets
def tls_check(tls: dict[str, Any]) -> None:
    error = ffi.new("pjpy_tls_error *")
    with _tls_of(tls) as c_tls:
        status = lib.pjpy_tls_check(c_tls, error)
    _check_tls(status, error, tls, "TLS")


@forgets
def tls_reload(handle: int, tls: dict[str, Any]) -> None:
    error = ffi.new("pjpy_tls_error *")
    with _tls_of(tls) as c_tls:
        status = lib.pjpy_tls_reload(handle, c_tls, error)
    _check_tls(status, error, tls, "reload_tls")


def local_address(towards: str) -> str:
    """Our address, as the routing table has it, towards the address *towards*.

    :raises OSError: there is no route.
    """
    text = ffi.new("char[64]", towards.encode())
    error = lib.pjpy_local_address(text)
    if error:
        raise OSError(error, os.strerror(error))
    return text_of(ffi.string(text))


def transport_close(handle: int) -> None:
    check(lib.pjpy_transport_close(handle), "close")


def resolved(query: int, addresses: list[str]) -> None:
    text = "".join(address + "\0" for address in addresses).encode()
    lib.pjpy_resolved(query, text, len(text))  # the query may be gone: nobody to tell


def ping(transport: int, connection: int, address: str) -> None:
    lib.pjpy_ping(transport, connection, address.encode())  # gone: its end has been reported


def connection_close(connection: int) -> None:
    lib.pjpy_connection_close(connection)  # gone already: as good


# -- registration ---------------------------------------------------------------------------------


def client_create(
    strings: Sequence[str],
    contacts: int,
    routes: int,
    headers: int,
    credentials: int,
    expires: int | None,
    ask_credentials: bool,
    refresh_margin: int | None,
    transport: int,
    credentials_of: int,
) -> int:
    text = ("\0".join(strings) + "\0").encode()
    handle: int = lib.pjpy_client_create(
        text,
        len(text),
        contacts,
        routes,
        headers,
        credentials,
        NONE if expires is None else expires,
        ask_credentials,
        NONE if refresh_margin is None else refresh_margin,
        transport,
        credentials_of,
    )
    return handle if handle > 0 else check(handle, "registration")


def client_request(
    handle: int,
    request: int,
    what: int,
    value: int,
    timeout_ms: int,
    strings: Sequence[str] | None,
    count: int,
) -> None:
    text = ("\0".join(strings) + "\0").encode() if strings else b""
    status = lib.pjpy_client_request(
        handle, request, what, value, timeout_ms, text, len(text), count
    )
    if status:
        check(status, "request")


def client_answer(handle: int, challenge: int, texts: Sequence[str], credentials: int) -> None:
    text = "".join(text + "\0" for text in texts).encode()
    check(lib.pjpy_client_answer(handle, challenge, text, len(text), credentials), "credentials")


def client_cancel(handle: int, request: int) -> None:
    lib.pjpy_client_cancel(handle, request)  # too late is no error


def client_destroy(handle: int) -> None:
    lib.pjpy_client_destroy(handle)  # closed with its endpoint already: as good


def client_info(handle: int) -> dict[str, Any]:
    out = ffi.new("pjpy_info *")
    check(lib.pjpy_client_info(handle, out), "info")
    info: dict[str, Any] = {
        name: getattr(out, name) for name, _ in ffi.typeof("pjpy_info").fields if name != "call_id"
    }
    info["call_id"] = text_of(ffi.string(out.call_id))
    return info


# -- build ----------------------------------------------------------------------------------------


def redact(message: bytes) -> bytes:
    """The redaction that C applies to traces and logs, for texts that Python makes."""
    buffer = ffi.new("char[]", message)
    return bytes(ffi.buffer(buffer, lib.pjpy_redact(buffer, len(message))))


def build_info() -> dict[str, Any]:
    text = text_of(ffi.string(lib.pjpy_build_info()))
    head, _, patches = text.partition("patches=")
    info: dict[str, Any] = {"pjsip_version": text_of(ffi.string(lib.pjpy_version())), "limits": {}}
    for line in head.splitlines():
        name, _, value = line.partition("=")
        if name.startswith("limit."):
            info["limits"][name[6:]] = int(value)
        else:
            info[name] = value
    info["patches"] = tuple(patches.split())
    return info
