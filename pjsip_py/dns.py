# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS as RFC 3263 has it for SIP: NAPTR, SRV with priorities and weights, A and AAAA.

>>> import pjsip_py as pjsip
>>> from pjsip_py.dns import Dns
>>> ep = pjsip.Endpoint(resolver=Dns())                                      # doctest: +SKIP

An answer may come from an enemy: how many records are looked at, how many questions asked and how
long it takes are bounded, and no name in an answer is used for anything but the next question.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

try:
    import dns.exception
    import dns.name
    import dns.resolver
except ImportError as error:
    raise ImportError("pjsip_py.dns needs dnspython: pip install 'pjsip-py[dns]'") from error

from ._lazy import logger
from ._resolve import CACHE_SECONDS, MAX_TARGETS, Query, Resolved, Target, failure, literal
from .errors import PJ_ERESOLVE, ConfigError, ResolveError
from .uri import check_int, check_seconds

_log = logger("pjsip_py")

MAX_NAPTR = 8
MAX_SRV = 16
MAX_QUESTIONS = 64
# Once there is an address to go to, what is still missing may take this long (s).
GRACE = 2.0

_SRV_PREFIXES = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}
_NAPTR_SERVICES = {b"SIP+D2U": "udp", b"SIP+D2T": "tcp", b"SIPS+D2T": "tls"}


class Dns:
    """A resolver for ``Endpoint(resolver=…)``: the targets of a SIP URI in the order of RFC 3263.

    It asks the system's name servers, or *nameservers*; names are complete, so that neither a
    search list nor a hosts file has a say.

    :param nameservers: IP addresses; None: those of ``/etc/resolv.conf``, read for each call.
    :param port: of the name servers.
    :param timeout: seconds for one question, in which it is sent three times.
    :param lifetime: seconds for one call, that is for all questions about one name.
    :param ipv6_first: of a host with both, take the IPv6 addresses first.
    :param seed: makes the choice among equal servers follow from it: tests only.
    """

    def __init__(
        self,
        nameservers: Sequence[str] | None = None,
        *,
        port: int = 53,
        timeout: float = 5.0,
        lifetime: float = 10.0,
        ipv6_first: bool = False,
        seed: int | None = None,
    ) -> None:
        if isinstance(nameservers, str) or (nameservers is not None and not nameservers):
            raise ConfigError("nameservers must be a sequence of IP addresses")
        self._nameservers = None if nameservers is None else list(nameservers)
        self._port = check_int("port", port, 1, 65535)
        self._timeout = check_seconds("timeout", timeout, 0.01, 60)
        self._lifetime = check_seconds("lifetime", lifetime, 0.01, 600)
        self._address_types = ("AAAA", "A") if ipv6_first else ("A", "AAAA")
        self._random = random.Random(seed)
        if self._nameservers is not None:
            try:
                self._resolver()
            except ValueError as error:
                raise ConfigError(f"nameservers: {error}") from None

    def __call__(self, query: Query) -> Resolved:
        """:raises ResolveError: there is no target; it says which record could not be had."""
        address = literal(query)
        if address:
            return Resolved([address._replace(protocol=query.wanted or "udp")])
        return _Lookup(self, query).run()

    def _resolver(self) -> dns.resolver.Resolver:
        resolver = dns.resolver.Resolver(configure=self._nameservers is None)
        if self._nameservers is not None:
            resolver.nameservers = self._nameservers
        resolver.port = self._port
        resolver.timeout = self._timeout / 3
        return resolver


class _Lookup:
    """One call: what has been found, what went wrong, and how much is still allowed."""

    def __init__(self, settings: Dns, query: Query) -> None:
        self.settings = settings
        self.query = query
        self.deadline = time.monotonic() + settings._lifetime
        self.questions = 0
        self.targets: dict[Target, None] = {}
        self.ttl = float("inf")
        self.known: dict[dns.name.Name, list[str]] = {}
        self.unknown: set[dns.name.Name] = set()
        self.problems: dict[str, None] = {}

    def run(self) -> Resolved:
        query = self.query
        try:
            host = dns.name.from_text(query.host)
            if host == dns.name.root:
                raise ValueError("it is empty")
            self.resolver = self.settings._resolver()
        except (dns.exception.DNSException, ValueError) as error:
            raise ResolveError(failure(query.host, str(error)), PJ_ERESOLVE) from error
        if query.port:
            self.add(host, query.port, query.wanted or "udp")
        else:
            self.add_services(host)
        problems = "; ".join(self.problems)
        if not self.targets:
            raise ResolveError(failure(query.host, problems), PJ_ERESOLVE)
        if problems:
            _log.info("host name %r: %s", query.host, problems)
        return Resolved(list(self.targets), self.ttl)

    # -- RFC 3263 §4.1 and §4.2 -------------------------------------------------------------------

    def add_services(self, host: dns.name.Name) -> None:
        """Add what SRV records say; where there are none, the host itself is meant."""
        said = False
        services = self.services(host)
        for name, protocol in services:
            records = self.ask(name, "SRV")
            said = said or records is None or bool(records)
            for record in self.in_order(records or ()):
                if record.target == dns.name.root:
                    self.problem(f"{_text(name)} is not offered")
                elif record.port == 0:
                    self.problem(f"SRV {_text(name)} has port 0")
                else:
                    self.add(record.target, record.port, protocol)
        if not said:
            self.add(host, 0, services[0][1] if services else self.query.wanted or "udp")

    def services(self, host: dns.name.Name) -> list[tuple[dns.name.Name, str]]:
        """Names of SRV records, and the protocol that each stands for."""
        query = self.query
        protocols = [query.wanted] if query.wanted else ["udp", "tcp"]
        if not query.protocol:
            named = self.by_naptr(host)
            if named:
                return named
        try:
            return [
                (dns.name.from_text(_SRV_PREFIXES[protocol], host), protocol)
                for protocol in protocols
            ]
        except dns.name.NameTooLong:
            return []

    def by_naptr(self, host: dns.name.Name) -> list[tuple[dns.name.Name, str]]:
        usable = []
        for record in self.ask(host, "NAPTR") or ():
            protocol = _NAPTR_SERVICES.get(record.service.upper())
            if (
                protocol is not None
                and self.query.wanted in ("", protocol)
                and record.flags.upper() == b"S"
                and not record.regexp
                and record.replacement != dns.name.root
            ):
                usable.append((record.order, record.preference, record.replacement, protocol))
        return [(name, protocol) for _, _, name, protocol in sorted(usable)[:MAX_NAPTR]]

    def in_order(self, records: Iterable[Any]) -> list[Any]:
        """SRV records by priority, and by chance, as heavy as their weights, within one."""
        chance = self.settings._random
        left = sorted(records)  # a name server may have turned them round
        chance.shuffle(left)
        left.sort(key=lambda record: (record.priority, record.weight > 0))
        ordered: list[Any] = []
        while left and len(ordered) < MAX_SRV:
            equal = [record for record in left if record.priority == left[0].priority]
            mark = chance.randint(0, sum(record.weight for record in equal))
            for record in equal:
                mark -= record.weight
                if mark <= 0:
                    break
            ordered.append(record)
            left.remove(record)
        return ordered

    def add(self, name: dns.name.Name, port: int, protocol: str) -> None:
        for address in self.addresses(name):
            if len(self.targets) < MAX_TARGETS:
                self.targets[Target(address, port, protocol)] = None

    def addresses(self, name: dns.name.Name) -> list[str]:
        if name not in self.known:
            found: list[str] = []
            said = True
            for kind in self.settings._address_types:
                records = self.ask(name, kind)
                said = said and records is not None
                found += [record.address for record in records or ()]
                if name in self.unknown:
                    break
                if found:
                    self.deadline = min(self.deadline, time.monotonic() + GRACE)
            if said and not found:
                absent = "does not exist (NXDOMAIN)" if name in self.unknown else "has no address"
                self.problem(f"{_text(name)} {absent}")
            self.known[name] = found
        return self.known[name]

    # -- one question -----------------------------------------------------------------------------

    def ask(self, name: dns.name.Name, kind: str) -> list[Any] | None:
        """The records; [] when there are none; None when there was no answer to tell."""
        seconds = min(self.settings._timeout, self.deadline - time.monotonic())
        self.questions += 1
        question = f"{kind} {_text(name)}"
        try:
            if seconds <= 0 or self.questions > MAX_QUESTIONS:
                raise dns.exception.Timeout
            answer = self.resolver.resolve(
                name, kind, lifetime=seconds, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN:
            self.unknown.add(name)
            return []
        except dns.exception.Timeout:
            self.failed(f"no answer in time about {question}")
        except dns.resolver.NoNameservers as error:
            causes = {str(each[3]) for each in error.kwargs["errors"]}
            self.failed(f"{', '.join(sorted(causes))} for {question}")
        except (dns.exception.DNSException, OSError, ValueError) as error:
            self.failed(f"{error} for {question}")
        else:
            if not answer.rrset:
                return []
            self.ttl = min(self.ttl, answer.chaining_result.minimum_ttl)
            return list(answer.rrset)
        return None

    def failed(self, what: str) -> None:
        self.ttl = min(self.ttl, CACHE_SECONDS)  # what is missing may be there then
        self.problem(what)

    def problem(self, what: str) -> None:
        if len(self.problems) < 4:
            self.problems[f"{what:.200}"] = None


def _text(name: dns.name.Name) -> str:
    """With what is no letter escaped."""
    return name.to_text(omit_final_dot=True)
