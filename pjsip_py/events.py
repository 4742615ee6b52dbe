# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: frozen records of what happened, in the order in which PJSIP reported it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import PjsipError
from .message import Binding, Headers, Response
from .tls import TlsInfo

if TYPE_CHECKING:
    from .account import Account
    from .regc import RegistrationClient


class EventTime(NamedTuple):
    """When C saw it: ``monotonic`` compares with time.monotonic(), ``wall`` with time.time()."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common; ``ep.on(Event, …)`` sees every one of them."""

    time: EventTime
    #: Number of C's record behind it, 0 for what Python made.  They grow, but not by one: timers
    #: and lookups have numbers too.  What was lost is told by :class:`EventsDropped`.
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegStarted(Event):
    """A REGISTER is about to leave (pjsua's ``on_reg_started``).

    Its :class:`RegState` follows, unless its client is closed before.
    """

    client: RegistrationClient = field(repr=False)
    account: Account | None = field(repr=False, default=None)
    renewal: bool = False
    is_unregister: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegState(Event):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEvent(Event):
    """What the policy of an account does; the next four."""

    account: Account = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState(AccountEvent):
    """An account went from one state to another; see ``docs/accounts.md`` for the drawing."""

    state: str
    previous: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarChanged(AccountEvent):
    """Another registrar serves the account now: a failure's doing, or the way back home."""

    previous: str
    registrar: str
    #: "failover" or "home"
    reason: str
    #: What the previous one failed with, on a failover.
    error: PjsipError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactChanged(AccountEvent):
    """The registrar sees us at another address than our Contact said; it is registered anew."""

    previous: str
    contact: str
    #: Our own address and port.
    local: str
    #: The same as the registrar sees it (RFC 3581).
    mapped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(AccountEvent):
    """The account will not try again by itself; :meth:`Account.register` makes it."""

    error: PjsipError
    #: REGISTERs in a row that failed.
    attempts: int
    #: What a person can do about it.
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SipMessage(Event):
    """One message on the wire, its digests blotted out (``EndpointConfig.trace``)."""

    #: "tx" or "rx"
    direction: str
    protocol: str
    local: str
    remote: str
    text: str

    @property
    def start_line(self) -> str:
        return self.text.partition("\r\n")[0]

    @property
    def headers(self) -> Headers:
        return Response(self.text.encode(), "").headers


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFailed(Event):
    """A handler raised; the exception is kept in ``Endpoint.callback_errors`` as well."""

    handler: Callable[..., Any]
    event: Event
    exception: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped(Event):
    """Trace or log records were lost because nobody took them in time; outcomes never are."""

    trace: int = 0
    log: int = 0

    @property
    def count(self) -> int:
        return self.trace + self.log
