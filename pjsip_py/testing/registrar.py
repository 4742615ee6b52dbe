# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded registrar: RFC 3261 §10.3 for tests, scriptable per request."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Literal, cast, overload

from pjsip_py._lazy import logger

from .answer import Answer
from .certificates import TestAuthority, server_context
from .clock import VirtualClock
from .digest import DigestAuthenticator, DigestOptions
from .errors import RegistrarError
from .faults import Fault
from .guard import Guard, require_order
from .journal import Journal
from .location import Binding, LocationService, parse_aor
from .report import report
from .request import ReceivedRequest
from .rules import PROTOCOLS, Predicate
from .script import Scripted
from .server import Server, bind_all
from .service import RegistrarService
from .sockets import require_local
from .uas import SeenAs, UserAgentServer

log = logger("pjsip_py.testing")

_THREAD_DEADLINE = 5.0  # s
_BEARER = {"authz_server": "https://authz.example.com", "scope": "sip"}

ServerTls = tuple[str | os.PathLike[str], str | os.PathLike[str]] | ssl.SSLContext


@dataclass(frozen=True)
class RegistrarStats:
    """Counts since the registrar was made."""

    requests: int
    retransmissions: int
    dropped: int  # by Answer(drop=…)
    malformed: int
    ignored: int  # responses, noise
    keepalives: int
    unsent: int  # answers that the socket or a closed connection did not take
    responses: Mapping[int, int]  # by status code; 0: raw bytes
    connections: int  # open now


class Registrar(Scripted):
    """A SIP registrar on loopback for tests: real sockets, no PJSIP in it.

    It runs on a thread of its own from :meth:`start` (or ``with``, ``async with``) to
    :meth:`stop`; every method may be called from any thread.

    ``protocols``
        any of ``"udp"``, ``"tcp"``, ``"tls"``; the first is the default of :meth:`uri`.
    ``host``
        the address to listen on, ``127.0.0.1`` or ``::1``.
    ``ports``
        a port number by protocol; 0 or left out: a free one, kept across restarts. UDP and TCP
        get the same free number.
    ``users``
        passwords by user name; None: no Digest.
    ``realm``, ``proxy_realm``
        one or several; a request has to prove itself for each, in an Authorization or
        Proxy-Authorization header of its own. What is missing is asked for in one response, the
        proxies' first, whose code is then 407. The same text may stand on both sides.
    ``one_by_one``
        ask for one realm at a time, as proxies do that stand one behind the other.
    ``proxy_auth``
        ask for ``realm``, too, with 407 and Proxy-Authenticate in place of 401.
    ``algorithms``
        digest algorithms ``"MD5"``, ``"SHA-256"``, ``"SHA-512-256"``; each makes one challenge,
        in this order, so give the strongest first (RFC 8760 §2.3). ``"Bearer"`` among them says
        where its challenge stands, by default last.
    ``tokens``, ``bearer``
        user names by Bearer token (RFC 8898), any of which serves in place of a digest for the
        first ``realm``; and the parameters of the challenge. None: no Bearer.
    ``qop``
        ``"auth"``, ``"auth-int"``, ``"auth,auth-int"``, or None for a challenge without qop.
    ``nonce``, ``opaque``
        a text to give always, for ``nonce`` also a function that makes one; None: random ones.
    ``nonce_lifetime``, ``nonce_uses``
        seconds, and number of requests, after which a nonce is stale; None: no limit.
    ``nextnonce``
        a nonce serves once, and each 2xx gives the next in Authentication-Info (RFC 7616 §3.5),
        for a proxy in Proxy-Authentication-Info (RFC 7615 §4).
    ``nc_check``
        ``"increasing"``: a nonce count that is not above the last one is stale (replay);
        ``"exact"``: it must go up by one; None: not looked at.
    ``on_bad_credentials``
        401 (a fresh challenge, 407 from a proxy) or 403.
    ``own_aor``
        a user may register the AOR of that name only, for others gets 403 (RFC 3261 §10.3 step 4).
    ``default_expires``, ``min_expires``, ``max_expires``
        seconds: granted when none is asked for; refused with 423 below; cut down to.
    ``domains``
        hosts whose users may register, others get 404; None: all.
    ``service_route``
        Service-Route values given in each 200 (RFC 3608).
    ``gruu``, ``outbound``
        whether it supports RFC 5627 and RFC 5626: it gives GRUUs to contacts with an instance,
        and knows a flow by its instance and reg-id.
    ``flow_timer``
        seconds given as Flow-Timer in each 200 (RFC 5626 §10.5); None: no such header.
    ``tls``
        ``(certificate file, key file)`` or an ``ssl.SSLContext``; None: certificates are made
        with the library trustme, and ``ca_file`` and ``ca_pem`` are what a client trusts.
    ``unmatched``
        ``"answer"``: what no rule of :meth:`on` is for gets the registrar's own answer;
        ``"error"``: it gets a 500, and :meth:`check` and :meth:`stop` raise.
    ``max_requests``
        how many received requests are kept, the newest.
    ``clock``
        a :class:`VirtualClock`, which expiry, nonces and delays follow, and the tags and nonces,
        too, when it has a seed; or a function that gives seconds, monotonic, for expiry and nonce
        lifetime alone.

    Raises ``ValueError`` for arguments that contradict each other.
    """

    def __init__(
        self,
        protocols: Sequence[str] = ("udp",),
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        realm: str | Sequence[str] = "example.com",
        proxy_realm: str | Sequence[str] = (),
        one_by_one: bool = False,
        proxy_auth: bool = False,
        algorithms: Sequence[str] = ("SHA-256",),
        tokens: Mapping[str, str] | None = None,
        bearer: Mapping[str, str] = _BEARER,
        qop: str | None = "auth",
        nonce: str | Callable[[], str] | None = None,
        opaque: str | None = None,
        nonce_lifetime: float | None = 300.0,
        nonce_uses: int | None = None,
        nextnonce: bool = False,
        nc_check: Literal["increasing", "exact"] | None = "increasing",
        on_bad_credentials: Literal[401, 403] = 401,
        own_aor: bool = False,
        default_expires: int = 3600,
        min_expires: int | None = None,
        max_expires: int | None = None,
        domains: Sequence[str] | None = None,
        service_route: Sequence[str] = (),
        gruu: bool = False,
        outbound: bool = False,
        flow_timer: int | None = None,
        tls: ServerTls | None = None,
        server: str = "pjsip_py.testing",
        unmatched: Literal["answer", "error"] = "answer",
        max_requests: int = 10_000,
        clock: VirtualClock | Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(_check_protocols(protocols))
        self._host = host
        self._ports = _check_ports(ports, self._protocols)
        if on_bad_credentials not in (401, 403):
            raise ValueError(f"on_bad_credentials is {on_bad_credentials}, not 401 or 403")
        if nc_check not in ("increasing", "exact", None):
            raise ValueError(f"nc_check is {nc_check!r}, not 'increasing', 'exact' or None")
        if unmatched not in ("answer", "error"):
            raise ValueError(f"unmatched is {unmatched!r}, not 'answer' or 'error'")
        if qop is not None and not {q.strip() for q in qop.split(",")} <= {"auth", "auth-int"}:
            raise ValueError(f"qop is {qop!r}, not 'auth', 'auth-int', both or None")
        if min_expires is not None and max_expires is not None and min_expires > max_expires:
            raise ValueError(f"min_expires {min_expires} is above max_expires {max_expires}")
        if default_expires < 1 or (max_expires is not None and max_expires < 1):
            raise ValueError("default_expires and max_expires are at least 1 s")
        self._clock = clock
        if not callable(clock):
            raise ValueError("clock is a VirtualClock, or a function that gives seconds")
        self._virtual = clock if isinstance(clock, VirtualClock) else None
        self._random = self._virtual.random("registrar") if self._virtual else SystemRandom()
        self._users = None if users is None else dict(users)
        self._tokens = None if tokens is None else dict(tokens)
        realms = (realm,) if isinstance(realm, str) else tuple(realm)
        proxy_realms = (proxy_realm,) if isinstance(proxy_realm, str) else tuple(proxy_realm)
        if not realms:
            raise ValueError("realm is empty: name at least one")
        if users is None and len(realms) + len(proxy_realms) > 1:
            raise ValueError("several realms need users")
        options = DigestOptions(
            require_order(algorithms, tokens),
            qop,
            nonce,
            opaque,
            nonce_lifetime,
            nonce_uses,
            nextnonce,
            nc_check,
            clock,
            self._token,
        )
        guards = [
            *(self._guard(one, True, options) for one in proxy_realms),
            self._guard(realms[0], proxy_auth, options, bearer),
            *(self._guard(one, proxy_auth, options) for one in realms[1:]),
        ]
        location = LocationService(
            default_expires=default_expires,
            min_expires=min_expires,
            max_expires=max_expires,
            clock=clock,
        )
        wall = time.time if self._virtual is None else self._virtual.wall
        self._service = RegistrarService(
            location,
            guards if users is not None or tokens is not None else (),
            one_by_one=one_by_one,
            on_bad_credentials=on_bad_credentials,
            own_aor=own_aor,
            domains=domains,
            service_route=service_route,
            gruu=gruu,
            outbound=outbound,
            flow_timer=flow_timer,
            wall=wall,
        )
        self._authority: TestAuthority | None = None
        self._ssl_context = self._tls_context(tls, {host, "localhost", *realms, *(domains or ())})

        self._journal = Journal(max_requests)
        self._lock = self._journal.lock
        self._uas = UserAgentServer(
            self._journal,
            self._script,
            self._service,
            clock=clock,
            wall=wall,
            token=self._token,
            call_later=self._call_later,
            name=server,
            strict=unmatched == "error",
        )
        self._server: Server | None = None

    def _guard(
        self,
        realm: str,
        proxy: bool,
        options: DigestOptions,
        bearer: Mapping[str, str] | None = None,
    ) -> Guard:
        users = self._users
        digest = None if users is None else DigestAuthenticator(users, realm, options)
        tokens = None if bearer is None else self._tokens
        return Guard(realm, proxy, options.order, digest, tokens, bearer or {})

    # -- life --------------------------------------------------------------------------------

    def start(self, *, keep_bindings: bool = True) -> Registrar:
        """Listen. After a :meth:`stop` the ports are the same again, the nonces of before are
        unknown, and the bindings are kept or lost.

        Raises ``OSError`` when a port cannot be had, :class:`RegistrarError` when it runs
        already.
        """
        if self._server is not None:
            raise RegistrarError("the registrar runs already")
        free = repeat(0) if self._virtual is None else self._virtual.ports()
        sockets = bind_all(self._protocols, self._host, self._ports, free)
        self._ports = {protocol: s.getsockname()[1] for protocol, s in sockets.items()}
        with self._lock:
            self._uas.restart()
            self._forget_nonces()
            if not keep_bindings:
                self._service.location.clear()
        self._server = Server(self._uas, self._journal.note_error, self._virtual)
        self._server.start(sockets, self._ssl_context, _THREAD_DEADLINE)
        try:
            self.check()
        except RegistrarError:
            self._close(_THREAD_DEADLINE)
            raise
        return self

    def stop(self, timeout: float = _THREAD_DEADLINE) -> None:
        """Close all sockets and connections, within `timeout` seconds. A second call does
        nothing.

        Raises :class:`RegistrarError` when a callback raised since the last check, or when the
        thread does not end.
        """
        self._close(timeout)
        self.check()

    def _close(self, timeout: float) -> None:
        server = self._server
        if server is None:
            return
        ended = server.stop(timeout)
        self._server = None
        self._journal.wake()  # whoever waits, waits in vain
        if not ended:
            raise RegistrarError(
                f"the registrar's thread did not end within {timeout} s: "
                "a match or raw callback is still running"
            )

    def check(self) -> None:
        """Raise :class:`RegistrarError`, once, if anything went wrong on the registrar's thread.

        Its cause is what went wrong, with the traceback that it had there.
        """
        errors = self._journal.take_errors()
        server = self._server
        if not errors and server is not None and (lost := server.lost()):
            errors = [RegistrarError(lost)]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            first = errors[0]
            raise RegistrarError(f"{type(first).__name__}: {first}{more}") from first

    def report(self) -> str:
        """The rules, how often each matched and why not, and what was received: to be read."""
        with self._lock:
            return report(
                repr(self)[1:-1],
                self.rules,
                list(self._journal.requests),
                self._journal.received,
                self._uas.held,
                self._journal.failures,
            )

    def __enter__(self) -> Registrar:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
        else:  # what the body raised is the news
            self._close(_THREAD_DEADLINE)
            try:
                self.check()
            except RegistrarError as failed:
                _add_note(error, failed)

    async def __aenter__(self) -> Registrar:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, traceback)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        where = ", ".join(f"{p} {self._ports.get(p, 0)}" for p in self._protocols)
        return f"<Registrar {self._host} {where}: {state}>"

    # -- where it is -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """True between :meth:`start` and :meth:`stop`."""
        return self._server is not None

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols it listens on."""
        return self._protocols

    def port(self, protocol: str | None = None) -> int:
        """The port of `protocol` (the first one when None)."""
        protocol = protocol or self._protocols[0]
        if protocol not in self._protocols:
            raise ValueError(f"the registrar has no {protocol}, only {self._protocols}")
        if not self._ports.get(protocol):
            raise RegistrarError("the registrar has no port before its first start")
        return self._ports[protocol]

    def address(self, protocol: str | None = None) -> tuple[str, int]:
        """Host and port of `protocol`."""
        return self._host, self.port(protocol)

    def uri(self, protocol: str | None = None) -> str:
        """The registrar's URI, ``sip:127.0.0.1:40001;transport=tcp``; UDP needs no parameter."""
        protocol = protocol or self._protocols[0]
        host = f"[{self._host}]" if ":" in self._host else self._host
        parameter = "" if protocol == "udp" else f";transport={protocol}"
        return f"sip:{host}:{self.port(protocol)}{parameter}"

    @property
    def ca_file(self) -> Path:
        """The PEM file of the authority that signed the made certificate."""
        return self._made_authority().ca_file

    @property
    def ca_pem(self) -> bytes:
        """The same authority, as PEM text."""
        return self._made_authority().ca_pem

    def _made_authority(self) -> TestAuthority:
        if self._authority is None:
            raise RegistrarError(
                'there is no authority: the registrar has no "tls" in its protocols, '
                "or was given its certificate"
            )
        return self._authority

    def _tls_context(self, tls: ServerTls | None, names: set[str]) -> ssl.SSLContext | None:
        if "tls" not in self._protocols:
            if tls is not None:
                raise ValueError('tls is given, but "tls" is not among the protocols')
            return None
        if isinstance(tls, ssl.SSLContext):
            return tls
        if tls is not None:
            return server_context(*tls)
        # A realm may be any text; a certificate takes host names and addresses.
        hosts = {n for n in names if ":" in n or n.replace("-", "").replace(".", "").isalnum()}
        self._authority = TestAuthority(sorted(hosts))
        return self._authority.context

    def _approve(self, answer: Answer) -> None:
        if answer.stale and not self._service.guards:
            raise ValueError("stale: the registrar has no users, so it judges no nonce")
        if answer.sent_from is not None:
            require_local(answer.sent_from, self._host)

    def _prepare(self, fault: Fault) -> Fault:
        if fault.certificate is None:
            return fault
        if self._authority is None:
            raise ValueError(
                f"fail({fault.name!r}): a registrar that was given its certificate cannot make "
                "a bad one like it; leave tls out"
            )
        return replace(fault, context=self._authority.bad_context(fault.certificate))

    # -- what it knows -----------------------------------------------------------------------

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests received, oldest first, retransmissions left out: a copy."""
        with self._lock:
            return list(self._journal.requests)

    def clear_requests(self) -> None:
        """Forget the requests received so far."""
        with self._lock:
            self._journal.requests.clear()

    def bindings(self, aor: str) -> list[Binding]:
        """The bindings of an address-of-record that have not expired, oldest first."""
        with self._lock:
            return self._service.location.bindings(parse_aor(aor))

    @property
    def aors(self) -> list[str]:
        """The addresses-of-record that have bindings, as ``sip:user@host``."""
        with self._lock:
            return [f"sip:{key}" for key in self._service.location.aors()]

    def clear_bindings(self) -> None:
        """Lose every binding."""
        with self._lock:
            self._service.location.clear()

    def stats(self) -> RegistrarStats:
        """The counts so far."""
        with self._lock:
            server, counts = self._server, self._journal.counts
            return RegistrarStats(
                requests=self._journal.received,
                retransmissions=counts["retransmissions"],
                dropped=counts["dropped"],
                malformed=counts["malformed"],
                ignored=counts["ignored"],
                keepalives=counts["keepalives"],
                unsent=counts["unsent"],
                responses=dict(self._journal.responses),
                connections=len(server.connections) if server else 0,
            )

    @overload
    def wait_for(self, wanted: int, timeout: float = 5.0) -> list[ReceivedRequest]: ...

    @overload
    def wait_for(self, wanted: Predicate, timeout: float = 5.0) -> ReceivedRequest: ...

    def wait_for(
        self, wanted: int | Predicate, timeout: float = 5.0
    ) -> list[ReceivedRequest] | ReceivedRequest:
        """Wait for a number of requests, or for one that satisfies a predicate.

        Requests received before the call count. With a number, returns the requests; with a
        predicate, the first that satisfies it. The predicate is tried again when a request is
        answered, so it may look at ``answered``.

        Raises ``TimeoutError`` that says what did arrive, after `timeout` seconds;
        :class:`RegistrarError` when the registrar failed. In asyncio, call it through
        ``asyncio.to_thread``.
        """

        def complain() -> str:
            what = f"{wanted} requests" if isinstance(wanted, int) else "such a request"
            came = self._journal.requests
            told = ", ".join(map(repr, list(came)[-10:])) or "nothing"
            return f"no {what} within {timeout} s; received {len(came)}: {told}"

        found = self._wait(lambda: self._find(wanted), timeout, complain)
        return cast("list[ReceivedRequest] | ReceivedRequest", found)

    def wait_for_keepalives(self, wanted: int, timeout: float = 5.0) -> None:
        """Wait until so many CRLF keep-alives have come, those before the call included.

        Raises ``TimeoutError`` that says how many did, :class:`RegistrarError` when the registrar
        failed.
        """
        counts = self._journal.counts

        def complain() -> str:
            return f"no {wanted} keep-alives within {timeout} s; received {counts['keepalives']}"

        self._wait(lambda: counts["keepalives"] >= wanted or None, timeout, complain)

    def _wait(
        self, found: Callable[[], object | None], timeout: float, complain: Callable[[], str]
    ) -> object:
        def check() -> None:
            self.check()
            if self._server is None:
                raise RegistrarError(f"{complain()}; the registrar does not run")

        self._let_travel()
        return self._journal.wait(found, timeout, check, complain)

    def _find(self, wanted: int | Predicate) -> list[ReceivedRequest] | ReceivedRequest | None:
        if isinstance(wanted, int):
            return list(self._journal.requests) if len(self._journal.requests) >= wanted else None
        return next((request for request in self._journal.requests if wanted(request)), None)

    def _token(self) -> str:
        """For tags and nonces."""
        return f"{self._random.getrandbits(64):016x}"

    def _call_later(self, delay: float, function: Callable[[], None]) -> None:
        server = self._server
        if server is not None:  # or the answer dies with the registrar
            server.call_later(delay, function)

    def _let_travel(self) -> None:
        """On a virtual clock messages do so when somebody waits."""
        if self._virtual is not None:
            self._virtual.kick()

    # -- what it is told ---------------------------------------------------------------------

    @property
    def answer_pings(self) -> bool:
        """Whether a keep-alive over TCP or TLS is answered (RFC 5626 §4.4.1)."""
        return self._uas.answer_pings

    @answer_pings.setter
    def answer_pings(self, answer: bool) -> None:
        self._uas.answer_pings = answer

    @property
    def seen_as(self) -> SeenAs | Callable[[tuple[str, int]], SeenAs] | None:
        """Address and port told as received and rport in place of the client's real ones, or a
        function from these; None: the truth."""
        return self._uas.seen_as

    @seen_as.setter
    def seen_as(self, seen: SeenAs | Callable[[tuple[str, int]], SeenAs] | None) -> None:
        self._uas.seen_as = seen

    def set_password(self, user: str, password: str | None) -> None:
        """Add a user, change a password, or with None remove the user."""
        with self._lock:
            if self._users is None:
                raise RegistrarError("the registrar has no users: it asks for no password")
            _set(self._users, user, password)

    def set_token(self, token: str, user: str | None) -> None:
        """Take a Bearer token as `user`'s from now on, or with None revoke it."""
        with self._lock:
            if self._tokens is None:
                raise RegistrarError("the registrar has no tokens: it asks for none")
            _set(self._tokens, token, user)

    def expire_nonces(self) -> None:
        """Make every nonce handed out so far stale."""
        with self._lock:
            self._forget_nonces()

    def _forget_nonces(self) -> None:
        for guard in self._service.guards:
            if guard.digest is not None:
                guard.digest.forget_nonces()

    def drop_connections(self, *, reset: bool = False) -> int:
        """Close all TCP and TLS connections, with a TCP RST if asked; returns how many."""
        server = self._server
        if server is None:
            return 0
        closed = 0

        def close() -> None:
            nonlocal closed
            for connection in list(server.connections):
                connection.close(reset=reset)
                closed += 1

        server.call(close, _THREAD_DEADLINE)
        return closed


def _add_note(error: BaseException, failed: RegistrarError) -> None:
    """Tell of the registrar's failure beside the error that the test has anyway."""
    if sys.version_info >= (3, 11):
        text = "".join(traceback.format_exception(failed))
        error.add_note(f"The registrar had failed, too:\n{text}")


def _set(table: dict[str, str], key: str, value: str | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _check_protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    chosen = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if not chosen or not set(chosen) <= set(PROTOCOLS) or len(set(chosen)) != len(chosen):
        raise ValueError(f"protocols is {protocols!r}: any of {', '.join(PROTOCOLS)}, once each")
    return chosen


def _check_ports(ports: Mapping[str, int] | None, protocols: tuple[str, ...]) -> dict[str, int]:
    chosen = dict(ports or {})
    for protocol, port in chosen.items():
        if protocol not in protocols:
            raise ValueError(f"ports names {protocol!r}, which is not among the protocols")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
    return chosen
