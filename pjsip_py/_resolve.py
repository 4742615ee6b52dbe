# SPDX-License-Identifier: GPL-3.0-or-later
"""Host names to addresses, on threads of its own: neither the worker nor an event loop waits.

The system's resolver is asked, or a hook of the program's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import islice

from ._hooks import Hooks, RunCoroutine
from ._lazy import logger
from ._typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from .errors import PJ_ERESOLVE, ConfigError, ResolveError
from .uri import check_int, check_seconds

if TYPE_CHECKING:
    from concurrent.futures import Future

_log = logger("pjsip_py")


class Query(NamedTuple):
    """What a resolver is asked: where do requests to this SIP URI go?"""

    host: str  #: a name; an IPv6 address has no brackets
    port: int = 0  #: 0: the URI names none
    protocol: str = ""  #: "udp", "tcp" or "tls"; "": the URI names none
    secure: bool = False  #: sips: TLS and nothing else

    @property
    def wanted(self) -> str:
        """The protocol that an answer must have; "": any."""
        return "tls" if self.secure else self.protocol


class Target(NamedTuple):
    """An address that requests can go to; the first of several is tried first."""

    address: str  #: an IP address, without brackets
    port: int = 0  #: 0: the URI's, or else the protocol's default
    protocol: str = ""  #: "udp", "tcp" or "tls"; "": the URI's


class Resolved(NamedTuple):
    """What a resolver may return in place of targets alone, to have them remembered."""

    targets: Iterable[Target | str]
    ttl: float = 0.0  #: seconds for which the hook need not be asked again


Found: TypeAlias = Resolved | Iterable[Target | str]
Hook: TypeAlias = Callable[[Query], Found | Awaitable[Found]]
Callback: TypeAlias = Callable[[list[Target], str], object]

# getaddrinfo() tells no lifetime; this only lets a burst of accounts share one query.
CACHE_SECONDS = 5.0
MAX_CACHE_SECONDS = 86400.0
MAX_CACHED = 4096
MAX_TARGETS = 32


class Resolver:
    """Calls back with targets in the order of preference, or with none and the reason.

    One lookup per query is under way at a time, and others with the same query share it.

    :param hook: is called on a thread of the resolver's, and may be a coroutine function.
    :param run_coroutine: starts a coroutine on a running loop, or returns None if there is none:
        then it runs on the resolver's thread.
    """

    def __init__(
        self,
        hook: Hook | None = None,
        run_coroutine: RunCoroutine | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if hook is not None and not callable(hook):
            raise ConfigError(f"resolver must be callable, not {type(hook).__name__}")
        self._hook = hook or system
        self._hooks = Hooks("pjsip_py-resolver", run_coroutine)
        self._now = now
        self._lock = threading.RLock()
        self._waiting: dict[Query, list[Callback]] = {}
        self._cache: dict[Query, tuple[float, list[Target]]] = {}

    def find(self, query: Query, callback: Callback) -> None:
        """May call back at once, on this thread, or later on another."""
        address = literal(query)
        if address:
            callback([address], "")
            return
        with self._lock:
            expires, targets = self._cache.get(query, (0.0, []))
            if self._now() < expires:
                reason = ""
            elif query in self._waiting:
                self._waiting[query].append(callback)
                return
            else:
                self._waiting[query] = [callback]
                if self._hooks.call(partial(self._hook, query), partial(self._finish, query)):
                    return
                del self._waiting[query]
                targets, reason = [], failure(query.host, "there is no thread to be had")
        callback(list(targets), reason)

    def forget(self) -> None:
        """Ask anew for every name: the network has changed."""
        with self._lock:
            self._cache.clear()

    def _finish(self, query: Query, outcome: Future[Any]) -> None:
        targets: list[Target] = []
        ttl, reason = 0.0, ""
        try:
            targets, ttl = checked(query, outcome.result())
        except ResolveError as error:
            named = query.host in error.reason
            reason = error.reason if named else failure(query.host, error.reason)
            _log.warning("%s", reason)
        except BaseException as error:
            why = f"the resolver failed: {type(error).__name__}: {error}"
            reason = failure(query.host, f"{why:.200}")
            _log.error("%s", reason, exc_info=error)
        with self._lock:
            if ttl > 0:
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[query] = (self._now() + ttl, targets)
            callbacks = self._waiting.pop(query)
        for callback in callbacks:
            try:
                callback(list(targets), reason)
            except Exception:
                _log.exception("the answer for a host name could not be delivered")


def failure(host: str, why: str) -> str:
    return f"host name {host!r} cannot be resolved: {why}"


def checked(query: Query, found: object) -> tuple[list[Target], float]:
    """What a hook returned, complete and without repetitions, and its lifetime.

    :raises ResolveError: there is no target.
    """
    ttl: object = 0.0
    if isinstance(found, Resolved):
        found, ttl = found
    if isinstance(found, (str, Target)):
        found = [found]
    if not isinstance(found, Iterable):
        raise TypeError(f"it returned {type(found).__name__}, not targets")
    targets = [_checked(query, each) for each in islice(found, MAX_TARGETS + 1)]
    if len(targets) > MAX_TARGETS:
        _log.warning("host name %r: only the first %d targets count", query.host, MAX_TARGETS)
        del targets[MAX_TARGETS:]
    if not targets:
        raise ResolveError(failure(query.host, "the resolver knows no address"), PJ_ERESOLVE)
    seconds = check_seconds("ttl", ttl, 0, float("inf"))
    return list(dict.fromkeys(targets)), min(seconds, MAX_CACHE_SECONDS)


def _checked(query: Query, target: object) -> Target:
    import ipaddress

    if isinstance(target, str):
        target = Target(target)
    if not isinstance(target, Target) or not isinstance(target.address, str):
        raise TypeError(f"{target!r:.100} is no target")
    address = str(ipaddress.ip_address(target.address)).partition("%")[0]
    port = check_int("port", target.port, 0, 65535) or query.port
    if target.protocol not in ("", "udp", "tcp", "tls"):
        raise ValueError(f"protocol must be udp, tcp or tls, not {target.protocol!r:.100}")
    if query.wanted and target.protocol not in ("", query.wanted):
        raise ValueError(f"the URI asks for {query.wanted}, not {target.protocol}")
    return Target(address, port, target.protocol or query.wanted)


def literal(query: Query) -> Target | None:
    """The target if the host is an IP address already."""
    try:
        return _checked(query, query.host)
    except ValueError:
        return None


def system(question: Query) -> Resolved:
    """The hook when the program gives none."""
    return Resolved(query(question.host), CACHE_SECONDS)


def query(host: str) -> list[str]:
    """IP addresses in the system's order."""
    import socket

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        why = error.strerror or str(error)
        raise ResolveError(failure(host, why), PJ_ERESOLVE) from None
    except (UnicodeError, MemoryError) as error:
        raise ResolveError(failure(host, str(error)), PJ_ERESOLVE) from None
    return list(dict.fromkeys(str(item[4][0]).partition("%")[0] for item in found))
