# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: frozen records of what happened, in the order in which PJSIP reported it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from . import _ffi
from ._record import field, record
from ._typing import TYPE_CHECKING, Any, NamedTuple
from .errors import PjsipError
from .message import Binding, Headers, Response
from .tls import TlsInfo

if TYPE_CHECKING:
    from ._ffi import Record
    from .account import Account
    from .regc import RegistrationClient


class EventTime(NamedTuple):
    """When C saw it: ``monotonic`` compares with time.monotonic(), ``wall`` with time.time()."""

    monotonic: float
    wall: float


@record(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common; ``ep.on(Event, …)`` sees every one of them."""

    time: EventTime
    #: Number of C's record behind it, 0 for what Python made.  They grow, but not by one: timers
    #: and lookups have numbers too.  What was lost is told by :class:`EventsDropped`.
    seq: int = 0


@record(frozen=True, slots=True, kw_only=True)
class RegStarted(Event):
    """A REGISTER is about to leave (pjsua's ``on_reg_started``).

    Its :class:`RegState` follows, unless its client is closed before.
    """

    client: RegistrationClient = field(repr=False)
    account: Account | None = field(repr=False, default=None)
    renewal: bool = False
    is_unregister: bool = False


class _Recorded(Event):
    """An event of whose fields those that nobody looks at are never made."""

    __slots__ = ("_record",)

    _record: Record | None

    if not TYPE_CHECKING:  # who would take any name for a field

        def __getattr__(self, name: str) -> Any:
            # Of a slot that is empty, or of what there is not.
            if name == "_record":
                return None
            read = _READ.get(name)
            if read is None or self._record is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = read(self, self._record)
            object.__setattr__(self, name, value)
            return value


@record(frozen=True, slots=True, kw_only=True)
class RegState(_Recorded):
    """The one outcome of a request or of a refresh (pjsua's ``on_reg_state``)."""

    client: RegistrationClient = field(repr=False)
    account: Account | None = field(repr=False, default=None)
    #: SIP status code; with ``local`` what PJSIP made of the failure (408, 502, 503).
    code: int
    reason: str
    #: Seconds granted; 0 after an unregister, None without success.
    expires: int | None = None
    #: PJSIP's own refresh, not a request of the program.
    renewal: bool = False
    is_unregister: bool = False
    #: True when no response came off the wire.
    local: bool = False
    response: Response | None = None
    #: 1 for the first REGISTER after a success or the start, then counting failures.
    attempt: int = 1
    #: Seconds until the next attempt, when one is planned.
    retry_in: float | None = None
    #: Seconds until the next refresh, when one is planned.
    refresh_in: int | None = None
    registrar: str = ""
    #: Algorithm of the Authorization we sent, or "Bearer"; "" for none.
    algorithm: str = ""
    #: What challenges on the way offered, strongest first; "other" is what PJSIP does not know.  ()
    #: when none came: a refresh goes on with the last nonce.
    offered: tuple[str, ...] = ()
    #: What an Operation raises for this outcome; None on success.
    error: PjsipError | None = None
    #: Ended by Operation.cancel(); the Operation raises CancelledError.
    cancelled: bool = False
    #: Connection it came over, 0 for UDP; as in :class:`TransportState`.
    connection: int = 0
    #: Our address and port, as the socket has them.
    local_address: str = ""
    #: The same as the registrar sees them, where it says so (RFC 3581).
    mapped_address: str = ""
    #: Earlier refresh outcomes this one stands for, because nobody took them in time.
    merged: int = 0
    #: Asked while the account was served elsewhere, to see whether this registrar is back.
    probe: bool = False
    #: Number of the flow (RFC 5626 §4.2), 0 without outbound.
    reg_id: int = 0
    #: Seconds that a 423 on the way insisted on; PJSIP then asked for those (RFC 3261 §10.2.8).
    min_expires: int | None = None
    #: REGISTERs that it took, each answer to a challenge being one more.
    requests: int = 1

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All bindings of the AOR, as the registrar lists them in a 2xx."""
        if self.response is None or self.error is not None:
            return ()
        return self.response.bindings

    @property
    def registered(self) -> bool:
        return self.error is None and not self.is_unregister


def reg_state(
    record: Record, client: RegistrationClient, error: PjsipError | None, attempt: int, probe: bool
) -> RegState:
    """The :class:`RegState` that C's *record* stands for."""
    event = _new(RegState)
    _set(event, "_record", record)
    _set(event, "client", client)
    _set(event, "code", getattr(error, "code", record.code) if error else record.code)
    _set(event, "error", error)
    if error is not None:
        _set(event, "reason", _reason(event, record))
    _set(event, "attempt", attempt)
    _set(event, "probe", probe)
    return event


_new, _set = object.__new__, object.__setattr__


def _expires(event: RegState, record: Record) -> int | None:
    if event.error is not None:
        return None
    # A fetch grants nothing; PJSIP reports the default that it would have assumed.
    return 0 if event.client._parent else max(0, record.value0)


def _response(_: RegState, record: Record) -> Response | None:
    if not record.length1:
        return None
    return Response(record.text[1], source(record))


def _reason(event: RegState, record: Record) -> str:
    reason = _ffi.line_of(record.text[0])
    if record.code == 502 and not record.length1:
        reason = event.client._unresolved or reason
    return getattr(event.error, "reason", reason) if event.error else reason


def source(record: Record) -> str:
    """Address and port that the response came from."""
    return _ffi.text_of(record.text[2])


def addresses(record: Record) -> tuple[str, str, int]:
    """Our address, the same as the registrar sees it ("": it does not say), and Flow-Timer."""
    return _addresses(record.text[3])


@lru_cache(maxsize=256)
def _addresses(text: bytes) -> tuple[str, str, int]:
    local, mapped, timer = (*text.decode().split(" "), "-", "0")[:3]
    return local, "" if mapped == "-" else mapped, int(timer)


# How a field of RegState is read from its record.
_READ: dict[str, Callable[[RegState, Record], Any]] = {
    "time": lambda _, record: EventTime(record.monotonic, record.wall),
    "seq": lambda _, record: record.seq,
    "account": lambda event, _: event.client._account,
    "reason": _reason,
    "expires": _expires,
    "renewal": lambda _, record: bool(record.flags & _ffi.F_RENEWAL),
    "is_unregister": lambda _, record: bool(record.flags & _ffi.F_UNREGISTER),
    "local": lambda _, record: not record.length1,
    "response": _response,
    "retry_in": lambda *_: None,
    "refresh_in": lambda event, record: None if event.error or record.value5 < 0 else record.value5,
    "registrar": lambda event, _: event.client.registrar,
    "algorithm": lambda _, record: _ffi.ALGORITHMS[record.value1 & 15],
    "offered": lambda _, record: _ffi.algorithms_of(record.value1 >> 8),
    "cancelled": lambda _, record: bool(record.flags & _ffi.F_CANCELLED and not record.length1),
    "connection": lambda _, record: record.value2,
    "local_address": lambda _, record: addresses(record)[0],
    "mapped_address": lambda _, record: addresses(record)[1],
    "merged": lambda _, record: record.value3,
    "reg_id": lambda event, _: event.client._reg_id,
    "min_expires": lambda _, record: record.value6 or None,
    "requests": lambda _, record: record.value7,
}


@record(frozen=True, slots=True, kw_only=True)
class AccountEvent(Event):
    """What the policy of an account does; the next four."""

    account: Account = field(repr=False)


@record(frozen=True, slots=True, kw_only=True)
class AccountState(AccountEvent):
    """An account went from one state to another; see ``docs/accounts.md`` for the drawing."""

    state: str
    previous: str
    reason: str = ""


@record(frozen=True, slots=True, kw_only=True)
class RegistrarChanged(AccountEvent):
    """Another registrar serves the account now: a failure's doing, or the way back home."""

    previous: str
    registrar: str
    #: "failover" or "home"
    reason: str
    #: What the previous one failed with, on a failover.
    error: PjsipError | None = None


@record(frozen=True, slots=True, kw_only=True)
class ContactChanged(AccountEvent):
    """The registrar sees us at another address than our Contact said; it is registered anew."""

    previous: str
    contact: str
    #: Our own address and port.
    local: str
    #: The same as the registrar sees it (RFC 3581).
    mapped: str


@record(frozen=True, slots=True, kw_only=True)
class GaveUp(AccountEvent):
    """The account will not try again by itself; :meth:`Account.register` makes it."""

    error: PjsipError
    #: REGISTERs in a row that failed.
    attempts: int
    #: What a person can do about it.
    hint: str


@record(frozen=True, slots=True, kw_only=True)
class RegistrationResult:
    """What a successful request gives."""

    code: int
    reason: str
    #: Seconds granted; 0 for an unregister and for fetch_bindings().
    expires: int
    response: Response
    #: Digest algorithm used, or "Bearer"; "" when none was asked for.
    algorithm: str = ""
    #: As in :class:`RegState`.
    offered: tuple[str, ...] = ()

    @property
    def bindings(self) -> tuple[Binding, ...]:
        return self.response.bindings


#: What an account keeps of its last success: code, expires, reason, response, source, algorithms.
#: A plain tuple, at which the garbage collector looks only once.
Success = tuple[int, int, bytes, bytes, bytes, int]


def success(record: Record) -> Success:
    reason, raw, source, _ = record.text
    shared, expires = _ffi.shared, max(0, record.value0)
    return record.code, expires, shared(reason), raw, shared(source), record.value1


def result_of_success(last: Success) -> RegistrationResult:
    code, expires, reason, raw, source, algorithms = last
    return RegistrationResult(
        code=code,
        reason=_ffi.line_of(reason),
        expires=expires,
        response=Response(raw, _ffi.text_of(source)),
        algorithm=_ffi.ALGORITHMS[algorithms & 15],
        offered=_ffi.algorithms_of(algorithms >> 8),
    )


@record(frozen=True, slots=True, kw_only=True)
class TransportState(Event):
    """A TCP or TLS connection, or a listening transport, changed.

    ``state``: listening, connected, disconnected, shutdown, destroyed, closed.
    """

    protocol: str
    state: str
    local: str
    remote: str = ""
    #: Number of the connection, as in :class:`RegState`; 0 for a listening transport.
    connection: int = 0
    reason: str = ""
    error: PjsipError | None = None
    #: Over TLS what is known of the connection, also of one that was refused; else None.
    tls: TlsInfo | None = None


@record(frozen=True, slots=True, kw_only=True)
class SipMessage(Event):
    """One message on the wire, its digests blotted out (``EndpointConfig.trace``)."""

    #: "tx" or "rx"
    direction: str
    protocol: str
    local: str
    remote: str
    text: str
    #: The bytes that *text* was made of.
    raw: bytes = field(repr=False, default=b"")

    @property
    def start_line(self) -> str:
        return self.text.partition("\r\n")[0]

    @property
    def headers(self) -> Headers:
        return Response(self.raw or self.text.encode(), "").headers


@record(frozen=True, slots=True, kw_only=True)
class CallbackFailed(Event):
    """A handler raised; the exception is kept in ``Endpoint.callback_errors`` as well."""

    handler: Callable[..., Any]
    event: Event
    exception: BaseException


@record(frozen=True, slots=True, kw_only=True)
class EventsDropped(Event):
    """Records were lost: nobody took them in time, or there were too many; outcomes never are.

    The bounds are in docs/security.md.
    """

    #: Of the trace, and states of connections that others made to us.
    trace: int = 0
    #: Of PJSIP's log.
    log: int = 0

    @property
    def count(self) -> int:
        return self.trace + self.log
