# SPDX-License-Identifier: GPL-3.0-or-later
"""The user agent that a check acts through: Call-ID, contacts and sockets of its own."""

from __future__ import annotations

import contextlib
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from pjsip_py.message import Binding

from .check import CertificateRefused, Check, Failed, NoAnswer, NotApplicable, NotSupported
from .client import (
    MAGIC,
    T1,
    T2,
    Address,
    Challenge,
    Channel,
    ConnectionGone,
    Draft,
    Message,
    Reply,
    StreamChannel,
    UdpChannel,
    challenges,
)
from .target import Target, local_host


@dataclass
class Site:
    """A target as it was found: what answers where, and what it asks for."""

    target: Target
    addresses: dict[str, Address]
    missing: dict[str, str] = field(default_factory=dict)  # transport: why it is not there
    asks_password: bool = False
    #: Bindings of the AOR that are not the suite's.
    foreign: list[str] = field(default_factory=list)
    #: Whether a request was answered only after it had been sent again.
    lossy: bool = False
    #: What marks the contacts of this run.
    mark: str = field(default_factory=lambda: f"conformance-{secrets.token_hex(4)}")

    @property
    def first(self) -> str:
        return next(iter(self.addresses))

    @property
    def stream(self) -> str:
        """TCP, or TLS where there is no TCP; empty without either."""
        return next((each for each in ("tcp", "tls") if each in self.addresses), "")


class Agent:
    """Speaks for one check. Everything that it sends and receives is in ``exchange``."""

    def __init__(self, site: Site, transport: str, name: str = "x") -> None:
        self.site = site
        self.target = site.target
        self.transport = transport
        self.remote = site.addresses[transport]
        self.name = name
        self.mark = f"{site.mark}-{name}"
        self.call_id = secrets.token_hex(12)
        self.from_tag = secrets.token_hex(4)
        self.cseq = secrets.randbelow(1000) + 1
        self.exchange: list[Message] = []
        self.lost = 0  # how often a request had to be sent again before it was answered
        self.used = False  # whether a contact may be left behind
        self._channels: list[Channel] = []
        self._host = local_host(self.remote)
        self._others: list[Agent] = []
        self._besides: list[Challenge] = []  # that came with the one a check looks at

    # -- sockets ----------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        """The socket in use: a new one where the registrar has closed the last."""
        if not self._channels or self._channels[-1].closed:
            self._channels.append(self.open())
        return self._channels[-1]

    def open(self) -> Channel:
        """Another socket, for the caller to close."""
        note = self.exchange.append
        if self.transport == "udp":
            return UdpChannel(self.remote, self._host, note)
        tls = self.target.tls_context() if self.transport == "tls" else None
        try:
            return StreamChannel(self.remote, note, self.target.timeout, tls, self.target.tls_name)
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefused(f"the certificate: {error.verify_message}") from error
        except OSError as error:
            raise Failed(f"no {self.transport.upper()} connection: {error}") from error

    @property
    def stream(self) -> StreamChannel:
        channel = self.channel
        assert isinstance(channel, StreamChannel)
        return channel

    def another(self, transport: str = "") -> Agent:
        """Another user agent of the same user: with a Call-ID and a socket of its own."""
        other = Agent(self.site, transport or self.transport, self.name)
        other.exchange = self.exchange
        other.mark = f"{self.mark}b{len(self._others) + 2}"
        self._others.append(other)
        return other

    def close(self) -> None:
        for other in self._others:
            self.lost += other.lost
            other.close()
        for channel in self._channels:
            channel.close()

    # -- making requests --------------------------------------------------------------------------

    @property
    def local(self) -> str:
        """Host and port of our end, as Via and Contact have it."""
        host, port = self.channel.local
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def contact_uri(self, number: int = 1, params: str = "") -> str:
        """A URI that only this check registers."""
        transport = "" if self.transport == "udp" else f";transport={self.transport}"
        return f"{self.target.scheme}:{self.mark}-{number}@{self.local}{transport}{params}"

    def contact(self, number: int = 1, params: str = "") -> str:
        return f"<{self.contact_uri(number)}>{params}"

    def via(self, branch: str, *, sent_by: str = "", params: str = ";rport") -> str:
        branch = f";branch={branch}" if branch else ""
        return f"SIP/2.0/{self.transport.upper()} {sent_by or self.local}{params}{branch}"

    def draft(
        self,
        *contacts: str,
        method: str = "REGISTER",
        expires: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Draft:
        """A correct request, for a check to spoil."""
        self.cseq += 1
        branch = MAGIC + secrets.token_hex(10)
        aor = f"<{self.target.aor}>"
        draft = Draft(
            method,
            self.target.request_uri,
            [
                ("Via", self.via(branch)),
                ("Max-Forwards", "70"),
                ("From", f"{aor};tag={self.from_tag}"),
                ("To", aor),
                ("Call-ID", self.call_id),
                ("CSeq", f"{self.cseq} {method}"),
                *(("Contact", each) for each in contacts),
                *([("Expires", str(expires))] if expires is not None else []),
                *(headers or {}).items(),
                ("User-Agent", "pjsip_py.testing.conformance"),
                ("Content-Length", "0"),
            ],
        )
        draft.branch, draft.cseq, draft.call_id = branch, self.cseq, self.call_id
        self.used = self.used or bool(contacts)
        return draft

    def again(self, draft: Draft) -> Draft:
        """The same request as a new transaction, with the next CSeq."""
        self.cseq = max(self.cseq, draft.cseq) + 1
        return draft.renewed(MAGIC + secrets.token_hex(10), self.cseq)

    # -- sending them -----------------------------------------------------------------------------

    def exchange_one(
        self, draft: Draft, timeout: float | None = None, channel: Channel | None = None
    ) -> Reply | None:
        """Send a request, and again over UDP as RFC 3261 §17.1.2.2 says; its final response, or
        None when none came in `timeout` seconds (the target's, if None)."""
        channel = channel or self.channel
        channel.send(draft.encode())
        return self.await_reply(draft, timeout, channel)

    def await_reply(
        self, draft: Draft, timeout: float | None = None, channel: Channel | None = None
    ) -> Reply | None:
        """The final response to a request that was sent."""
        channel = channel or self.channel
        data = draft.encode()
        now = time.monotonic()
        end = now + (self.target.timeout if timeout is None else timeout)
        resent, wait, next_time = 0, T1, now + T1 if channel.protocol == "udp" else end
        while True:
            got = channel.receive(min(end, next_time))
            if got is not None:
                reply = Reply(*got)
                if reply.answers(draft):
                    if reply.code >= 200:
                        self.lost += resent
                        return reply
                    wait, next_time = T2, time.monotonic() + T2
                continue
            if time.monotonic() >= end:
                return None
            channel.send(data)
            resent += 1
            wait = min(2 * wait, T2)
            next_time = time.monotonic() + wait

    def send(self, draft: Draft) -> Reply:
        """One transaction; :raises NoAnswer: there was no final response in time."""
        reply = self.exchange_one(draft)
        if reply is None:
            raise NoAnswer(f"no final answer to {draft.method} in {self.target.timeout:g} s")
        return reply

    def ask(self, draft: Draft) -> Reply:
        """Send a request and prove the password where it is asked for; the last response."""
        return self.follow(draft, self.send(draft))

    def follow(self, draft: Draft, reply: Reply) -> Reply:
        """Answer the challenges that a request met with; the last response."""
        given: dict[tuple[bool, str], str] = {}
        for _ in range(4):
            if reply.code not in (401, 407) or self.target.password is None:
                return reply
            asked = challenges(reply)
            new = {(c.proxy, c.realm): self.answer(c, draft) for c in asked}
            if not asked or (not new.keys() - given.keys() and not reply.stale):
                return reply
            given |= new
            draft = self.again(draft)
            for proxy, name in ((False, "Authorization"), (True, "Proxy-Authorization")):
                values = [v for (for_proxy, _), v in given.items() if for_proxy is proxy]
                if values:
                    draft.set(name, *values)
            reply = self.send(draft)
        return reply

    def answer(self, challenge: Challenge, draft: Draft) -> str:
        """The right credentials for a challenge."""
        assert self.target.password is not None
        return challenge.answer(draft, self.target.user, self.target.password)

    def challenged(self, draft: Draft) -> tuple[Reply, Challenge]:
        """Send a request without credentials: the refusal and its first challenge."""
        reply = self.send(draft)
        if reply.code not in (401, 407):
            raise NotApplicable(f"it asks for no password: {reply.line}")
        found = challenges(reply)
        if not found:
            raise NotApplicable("it offers no digest that is known here")
        self._besides = found[1:]
        return reply, found[0]

    def proven(
        self,
        draft: Draft,
        challenge: Challenge,
        *,
        count: int = 1,
        user: str = "",
        password: str | None = None,
        method: str = "",
        changed: Mapping[str, str | None] | None = None,
    ) -> Draft:
        """The request again, with credentials as told; what other realms want it has as well."""
        secret = self.target.password if password is None else password
        assert secret is not None
        new = self.again(draft)
        value = challenge.answer(
            new, user or self.target.user, secret, count=count, method=method, changed=changed
        )
        return self.put_proof(new, challenge, value, count=count)

    def put_proof(self, draft: Draft, challenge: Challenge, *values: str, count: int = 1) -> Draft:
        """Put credentials for a challenge into a request, and right ones for other realms."""
        found: dict[str, list[str]] = {challenge.header: list(values)}
        for each in self._besides:
            assert self.target.password is not None
            right = each.answer(draft, self.target.user, self.target.password, count=count)
            found.setdefault(each.header, []).append(right)
        for name, credentials in found.items():
            draft.set(name, *credentials)
        return draft

    def prove(self, draft: Draft, reply: Reply) -> Draft:
        """The request again, with right credentials for all that a reply asks for."""
        new = self.again(draft)
        for name in ("Authorization", "Proxy-Authorization"):
            asked = [each for each in challenges(reply) if each.header == name]
            if asked:
                new.set(name, *(self.answer(each, new) for each in asked))
        return new

    # -- registering ------------------------------------------------------------------------------

    def register(
        self,
        *contacts: str,
        expires: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A REGISTER that must succeed."""
        return self.want(self.ask(self.draft(*contacts, expires=expires, headers=headers)), 200)

    def fetch(self) -> Reply:
        """The bindings as they are (RFC 3261 §10.2.3)."""
        reply = self.ask(self.draft())
        return self.want(reply, 200, what="a REGISTER without Contact")

    def mine(self, reply: Reply | None = None) -> list[Binding]:
        """The bindings of this check, in a reply or as they are now."""
        found = (reply or self.fetch()).bindings
        return [each for each in found if self.mark in unquote(each.uri)]

    def abandon(self) -> None:
        """Leave no tidying up to do."""
        for each in (self, *self._others):
            each.used = False

    def tidy_up(self) -> list[str]:
        """Remove what this agent and its others have bound; what would not go."""
        if not (self.used or any(other.used for other in self._others)):
            return []
        cleaner = Agent(self.site, self.transport, self.name)
        cleaner.mark = self.mark
        try:
            left = cleaner.mine()
            if left:
                gone = [f"<{each.uri}>;expires=0" for each in left]
                reply = cleaner.ask(cleaner.draft(*gone))
                left = cleaner.mine(reply) if reply.code == 200 else cleaner.mine()
            for each in left:  # a registrar that takes one at a time
                with contextlib.suppress(Failed):
                    cleaner.register(f"<{each.uri}>;expires=0")
            return [each.uri for each in cleaner.mine()] if left else []
        finally:
            cleaner.close()

    # -- judging ----------------------------------------------------------------------------------

    def want(self, reply: Reply, *codes: int, what: str = "") -> Reply:
        """:raises Failed: the reply has another code."""
        if reply.code not in codes:
            expected = " or ".join(map(str, codes))
            raise Failed(f"{what or reply.cseq}: expected {expected}, got {reply.line}")
        return reply

    def refused(self, reply: Reply, what: str) -> Reply:
        """:raises Failed: the reply is a 2xx."""
        if reply.code < 300:
            raise Failed(f"{what} was accepted: {reply.line}")
        return reply

    def must(self, condition: object, why: str) -> None:
        if not condition:
            raise Failed(why)

    def should(self, condition: object, why: str) -> None:
        """What the RFC only recommends."""
        if not condition:
            raise NotSupported(why)

    def only(self, reply: Reply, *numbers: int) -> list[Binding]:
        """The check's bindings in a reply, which must be those of the contacts numbered."""
        found = self.mine(reply)
        wanted = sorted(f"{self.mark}-{number}" for number in numbers)
        users = sorted(each.uri.partition(":")[2].partition("@")[0] for each in found)
        if users != wanted:
            short = [user.rpartition("-")[2] for user in users]
            raise Failed(
                f"expected {_contacts(list(map(str, numbers)))} in the list of bindings, "
                f"found {_contacts(short)}"
            )
        return found

    def alive(self) -> None:
        """:raises Failed: the registrar does not answer any more."""
        probe = self.another()
        try:
            reply = probe.exchange_one(probe.draft())
        except (Failed, NotApplicable):
            reply = None
        self.must(reply, "after this the registrar answers no more")

    def quiet(self, draft: Draft, timeout: float = 0.6) -> Reply | None:
        """Send what may well be met with silence; the answer, if any."""
        try:
            return self.exchange_one(draft, min(timeout, self.target.timeout))
        except ConnectionGone:
            return None

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Look again and again, for so long at most."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)
        return True


def _contacts(numbers: list[str]) -> str:
    if not numbers:
        return "no contact"
    return f"contact{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def for_check(site: Site, check: Check, number: int) -> Agent:
    """An agent of its own, over the transport that a check needs."""
    transport = check.transport or site.first
    return Agent(site, site.stream if transport == "stream" else transport, f"{number:03}")
