# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded registrar: RFC 3261 §10.3 for tests, scriptable per request."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Literal, overload

from .certificates import TestAuthority, server_context
from .clock import VirtualClock
from .digest import DigestAuthenticator, DigestOptions
from .guard import Guard, require_order
from .location import Binding, LocationService, parse_aor
from .message import Envelope, MalformedRequest, NotARequest, header_items, parse_request
from .request import ReceivedRequest
from .script import Answer, Predicate, Rule, Script
from .server import Flow, Server, bind_all
from .service import RegistrarService, warning

log = logging.getLogger("pjsip_py.testing")

_PROTOCOLS = ("udp", "tcp", "tls")
_TRANSACTIONS_KEPT = 10_000
_TRANSACTION_LIFETIME = 32.0  # s; timer J of RFC 3261 §17.2.2
_THREAD_DEADLINE = 5.0  # s
_BEARER = {"authz_server": "https://authz.example.com", "scope": "sip"}

SeenAs = tuple[str, int | str]
ServerTls = tuple[str | os.PathLike[str], str | os.PathLike[str]] | ssl.SSLContext


class RegistrarError(Exception):
    """The registrar itself failed: a callback raised, or its thread does not answer."""


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


@dataclass
class _Transaction:
    """A server transaction: what a retransmission of its request gets."""

    request: ReceivedRequest
    envelope: Envelope
    response: bytes | None = None
    code: int = 0


class Registrar:
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
        max_requests: int = 10_000,
        clock: VirtualClock | Callable[[], float] = time.monotonic,
    ) -> None:
        self._protocols = _check_protocols(protocols)
        self._host = host
        self._ports = _check_ports(ports, self._protocols)
        if on_bad_credentials not in (401, 403):
            raise ValueError(f"on_bad_credentials is {on_bad_credentials}, not 401 or 403")
        if nc_check not in ("increasing", "exact", None):
            raise ValueError(f"nc_check is {nc_check!r}, not 'increasing', 'exact' or None")
        if qop is not None and not {q.strip() for q in qop.split(",")} <= {"auth", "auth-int"}:
            raise ValueError(f"qop is {qop!r}, not 'auth', 'auth-int', both or None")
        if min_expires is not None and max_expires is not None and min_expires > max_expires:
            raise ValueError(f"min_expires {min_expires} is above max_expires {max_expires}")
        if default_expires < 1 or (max_expires is not None and max_expires < 1):
            raise ValueError("default_expires and max_expires are at least 1 s")
        self._clock = clock
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
        self._service = RegistrarService(
            location,
            guards if users is not None or tokens is not None else (),
            one_by_one=one_by_one,
            on_bad_credentials=on_bad_credentials,
            domains=domains,
            service_route=service_route,
            gruu=gruu,
            outbound=outbound,
            flow_timer=flow_timer,
            wall=time.time if self._virtual is None else self._virtual.wall,
        )
        #: Whether a keep-alive over TCP or TLS is answered (RFC 5626 §4.4.1).
        self.answer_pings = True
        #: Address and port told as received and rport in place of the client's real ones, or a
        #: function from these; None: the truth.
        self.seen_as: SeenAs | Callable[[tuple[str, int]], SeenAs] | None = None
        self._server_name = server
        self._authority: TestAuthority | None = None
        self._ssl_context = self._tls_context(tls, {host, "localhost", *realms, *(domains or ())})

        self._lock = threading.RLock()  # guards the service, the requests and the counts
        self._changed = threading.Condition(self._lock)
        self._requests: deque[ReceivedRequest] = deque(maxlen=max_requests)
        self._received = 0
        self._counts: Counter[str] = Counter()
        self._responses: Counter[int] = Counter()
        self._errors: list[BaseException] = []
        self._script = Script()
        self._transactions: dict[tuple[object, ...], _Transaction] = {}
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
        sockets = bind_all(self._protocols, self._host, self._ports)
        self._ports = {protocol: s.getsockname()[1] for protocol, s in sockets.items()}
        with self._lock:
            self._transactions.clear()
            self._forget_nonces()
            if not keep_bindings:
                self._service.location.clear()
        self._server = Server(self, self._note_error, self._virtual)
        self._server.start(sockets, self._ssl_context, _THREAD_DEADLINE)
        if self._errors:
            self.stop()
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
        if not ended:
            raise RegistrarError(
                f"the registrar's thread did not end within {timeout} s: "
                "a match or raw callback is still running"
            )

    def check(self) -> None:
        """Raise :class:`RegistrarError`, once, if anything went wrong on the registrar's thread."""
        with self._lock:
            errors, self._errors = self._errors, []
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            first = errors[0]
            raise RegistrarError(f"{type(first).__name__}: {first}{more}") from first

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
        else:  # what the body raised is the news; the registrar's own errors have been logged
            self._close(_THREAD_DEADLINE)

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

    # -- what it knows -----------------------------------------------------------------------

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests received, oldest first, retransmissions left out: a copy."""
        with self._lock:
            return list(self._requests)

    def clear_requests(self) -> None:
        """Forget the requests received so far."""
        with self._lock:
            self._requests.clear()

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
            server = self._server
            return RegistrarStats(
                requests=self._received,
                retransmissions=self._counts["retransmissions"],
                dropped=self._counts["dropped"],
                malformed=self._counts["malformed"],
                ignored=self._counts["ignored"],
                keepalives=self._counts["keepalives"],
                unsent=self._counts["unsent"],
                responses=dict(self._responses),
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
        deadline = time.monotonic() + timeout
        self._let_travel()
        with self._changed:
            while True:
                found = self._find(wanted)
                if found is not None:
                    return found
                if self._errors:
                    self.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    what = f"{wanted} requests" if isinstance(wanted, int) else "such a request"
                    raise TimeoutError(
                        f"no {what} within {timeout} s; received {len(self._requests)}: "
                        + (", ".join(map(repr, list(self._requests)[-10:])) or "nothing")
                    )
                self._changed.wait(left)

    def wait_for_keepalives(self, wanted: int, timeout: float = 5.0) -> None:
        """Wait until so many CRLF keep-alives have come, those before the call included.

        Raises ``TimeoutError`` that says how many did.
        """
        self._let_travel()
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts["keepalives"] >= wanted, timeout):
                came = self._counts["keepalives"]
                raise TimeoutError(f"no {wanted} keep-alives within {timeout} s; received {came}")

    def _find(self, wanted: int | Predicate) -> list[ReceivedRequest] | ReceivedRequest | None:
        if isinstance(wanted, int):
            return list(self._requests) if len(self._requests) >= wanted else None
        return next((request for request in self._requests if wanted(request)), None)

    def _token(self) -> str:
        """For tags and nonces."""
        return f"{self._random.getrandbits(64):016x}"

    def _let_travel(self) -> None:
        """On a virtual clock messages do so when somebody waits."""
        if self._virtual is not None:
            self._virtual.kick()

    # -- what it is told ---------------------------------------------------------------------

    def script(
        self,
        *answers: Answer,
        times: int | None = 1,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> None:
        """Give `answers`, one after the other, to the next requests that match.

        A request matches when its method is `method` (None: any), its address-of-record is
        `aor`, and ``match(request)`` is true. The sequence is given `times` over (None: for
        ever). Scripts are asked in the order they were made; a request that none of them wants
        is served as usual. `match` runs on the registrar's thread; what it raises is raised
        again by :meth:`stop` or :meth:`check`, and the request gets a 500.
        """
        self._script.add(Rule(answers, times, method, aor, match))

    def answer_next(
        self,
        code: int,
        reason: str | None = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        delay: float = 0.0,
        times: int | None = 1,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> None:
        """Answer the next matching request with `code`: :meth:`script` of one :class:`Answer`."""
        answer = Answer(code, reason, headers, body, delay)
        self.script(answer, times=times, method=method, aor=aor, match=match)

    def drop_next(
        self,
        times: int | None = 1,
        *,
        what: Literal["request", "response"] = "request",
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> None:
        """Lose the next matching requests, or the answers to them; see :class:`Answer`."""
        self.script(Answer(drop=what), times=times, method=method, aor=aor, match=match)

    def delay_next(
        self,
        delay: float,
        times: int | None = 1,
        *,
        method: str | None = "REGISTER",
        aor: str | None = None,
        match: Predicate | None = None,
    ) -> None:
        """Answer the next matching requests as usual, but `delay` seconds later."""
        self.script(Answer(delay=delay), times=times, method=method, aor=aor, match=match)

    def clear_script(self) -> None:
        """Forget the scripted answers that were not given yet."""
        self._script.clear()

    @property
    def pending_script(self) -> list[Rule]:
        """The scripts that have answers left, for a test that wants all of them used."""
        return self._script.pending()

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

    # -- what the transports tell it (server.Receiver); on the server's thread ------------------

    def on_message(self, data: bytes, flow: Flow) -> None:
        """Serve one message."""
        try:
            seen_as = self.seen_as(flow.source) if callable(self.seen_as) else self.seen_as
            parsed = parse_request(data, flow.source, seen_as)
        except NotARequest:
            self._count("ignored")
        except MalformedRequest as error:
            self._count("malformed")
            log.warning("malformed request over %s: %.200s", flow.protocol, error)
            self._refuse(error, flow)
        except Exception as error:
            self._note_error(error)
        else:
            wall = None if self._virtual is None else self._virtual.wall()
            self._on_request(ReceivedRequest(parsed, data, flow, self._clock(), wall), flow)

    def on_keepalive(self, flow: Flow) -> bool:
        """Count a CRLF keep-alive; whether it is answered."""
        with self._changed:
            self._counts["keepalives"] += 1
            self._changed.notify_all()
        return self.answer_pings

    def on_broken_stream(self, error: MalformedRequest, flow: Flow) -> None:
        """Count a connection that cannot be read on."""
        self._count("malformed")
        log.warning("%s connection closed: %s", flow.protocol, error)

    def _on_request(self, request: ReceivedRequest, flow: Flow) -> None:
        key = (flow.protocol, *request.parsed.transaction)
        with self._changed:
            if self._absorbed(key, request, flow):
                return
            self._received += 1
            self._requests.append(request)
            self._changed.notify_all()
        if request.method == "ACK":
            return
        transaction = _Transaction(request, request.parsed.envelope)
        try:
            answer = self._script.take(request) or _OWN_ANSWER
            if answer.drop == "request":
                self._count("dropped")
                log.info("%s", request)
                return
            if request.protocol == "udp":  # over a stream nothing is sent twice: timer J is 0
                self._remember(key, transaction)
            self._answer(answer, transaction, flow)
        except Exception as error:
            self._note_error(error)
            self._deliver(transaction, flow, self._reply(transaction.envelope, 500), 500)
        finally:
            request.forget_parsed()

    def _absorbed(self, key: tuple[object, ...], copy: ReceivedRequest, flow: Flow) -> bool:
        """Treat a retransmission as RFC 3261 §17.2.2: the same answer again, if there is one."""
        transaction = self._transactions.get(key)
        if transaction is None:
            return False
        request = transaction.request
        if copy.received_at - request.received_at >= _TRANSACTION_LIFETIME:
            return False
        request.retransmissions += 1
        self._counts["retransmissions"] += 1
        if transaction.response is not None:
            self._note_answer(transaction)
            self._send(flow, transaction.response, transaction.envelope)
        return True

    def _remember(self, key: tuple[object, ...], transaction: _Transaction) -> None:
        kept = self._transactions
        kept.pop(key, None)
        while len(kept) >= _TRANSACTIONS_KEPT:
            del kept[next(iter(kept))]
        kept[key] = transaction

    def _answer(self, answer: Answer, transaction: _Transaction, flow: Flow) -> None:
        request = transaction.request
        headers = header_items(answer.headers)
        if answer.raw is not None:
            code = 0
            data = answer.raw(request) if callable(answer.raw) else answer.raw
        elif answer.code is not None and answer.code >= 200:
            code = answer.code
            data = self._reply(transaction.envelope, code, headers, answer.reason, answer.body)
        else:
            if answer.code is not None:
                first = self._reply(
                    transaction.envelope, answer.code, headers, answer.reason, answer.body
                )
                self._send(flow, first, transaction.envelope)
                headers = ()
            with self._lock:
                code, own_headers = self._service.decide(request)
            data = self._reply(transaction.envelope, code, [*own_headers, *headers])
        if answer.drop == "response":
            transaction.response, transaction.code = data, code
            self._count("dropped")
        elif answer.delay and self._server is not None:
            self._server.call_later(
                answer.delay, lambda: self._deliver(transaction, flow, data, code)
            )
        else:
            self._deliver(transaction, flow, data, code)

    def _deliver(self, transaction: _Transaction, flow: Flow, data: bytes, code: int) -> None:
        transaction.response, transaction.code = data, code
        self._note_answer(transaction)  # before it is sent: who has the answer finds it here
        self._send(flow, data, transaction.envelope)

    def _note_answer(self, transaction: _Transaction) -> None:
        with self._changed:
            if transaction.request.answered is None:
                transaction.request.answered = transaction.code
                self._responses[transaction.code] += 1
                self._changed.notify_all()
        log.info("%s", transaction.request)

    def _refuse(self, error: MalformedRequest, flow: Flow) -> None:
        if error.envelope is not None:
            with self._lock:
                self._responses[error.code] += 1
            data = self._reply(error.envelope, error.code, [warning(str(error))])
            self._send(flow, data, error.envelope)

    def _send(self, flow: Flow, data: bytes, envelope: Envelope) -> None:
        if not flow.send(data, envelope.destination):
            self._count("unsent")

    def _reply(
        self,
        envelope: Envelope,
        code: int,
        headers: Sequence[tuple[str, str]] = (),
        reason: str | None = None,
        body: bytes = b"",
    ) -> bytes:
        named = [("Server", self._server_name), *headers]
        return bytes(envelope.response(code, reason, named, tag=self._token(), body=body))

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _note_error(self, error: BaseException) -> None:
        log.error("the registrar failed: %s", type(error).__name__, exc_info=error)
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()


_OWN_ANSWER = Answer()


def _set(table: dict[str, str], key: str, value: str | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _check_protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    chosen = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if not chosen or not set(chosen) <= set(_PROTOCOLS) or len(set(chosen)) != len(chosen):
        raise ValueError(f"protocols is {protocols!r}: any of {', '.join(_PROTOCOLS)}, once each")
    return chosen


def _check_ports(ports: Mapping[str, int] | None, protocols: tuple[str, ...]) -> dict[str, int]:
    chosen = dict(ports or {})
    for protocol, port in chosen.items():
        if protocol not in protocols:
            raise ValueError(f"ports names {protocol!r}, which is not among the protocols")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
    return chosen
