# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are wrong: they are refused, or discarded, and do no harm.

Where RFC 3261 leaves it open whether a malformed request is answered, silence is right; what
never is: carrying it out, or dying of it.
"""

from __future__ import annotations

from .agent import Agent
from .check import NotSupported, check
from .client import Draft, Reply


def rejected(ua: Agent, draft: Draft, what: str, *codes: int) -> Reply | None:
    """Send a request that is wrong. Any answer must be a refusal, one of `codes` best."""
    reply = ua.quiet(draft)
    if reply is not None and reply.code in (401, 407):
        reply = ua.follow(draft, reply)  # a proof first, the syntax then
    if reply is not None:
        ua.refused(reply, what)
        ua.must(reply.code < 500 or reply.code in codes, f"{what}: {reply.line}")
    ua.only(ua.fetch(), *())
    if reply is not None and codes:
        ua.should(reply.code in codes, f"{what}: expected {codes[0]}, got {reply.line}")
    return reply


def _without(ua: Agent, name: str) -> None:
    rejected(ua, ua.draft(ua.contact(), expires=60).set(name), f"no {name}", 400)


@check("malformed.no-from", "RFC 3261 §8.1.1", "RFC 3261 §21.4.1", "RFC 4475 §3.3.1")
def no_from(ua: Agent) -> None:
    """A request without From is not carried out."""
    _without(ua, "From")


@check("malformed.no-to", "RFC 3261 §8.1.1", "RFC 3261 §21.4.1", "RFC 4475 §3.3.1")
def no_to(ua: Agent) -> None:
    """A request without To is not carried out."""
    _without(ua, "To")


@check("malformed.no-call-id", "RFC 3261 §8.1.1", "RFC 3261 §21.4.1", "RFC 4475 §3.3.1")
def no_call_id(ua: Agent) -> None:
    """A request without Call-ID is not carried out."""
    _without(ua, "Call-ID")


@check("malformed.no-cseq", "RFC 3261 §8.1.1", "RFC 3261 §21.4.1", "RFC 4475 §3.3.1")
def no_cseq(ua: Agent) -> None:
    """A request without CSeq is not carried out."""
    _without(ua, "CSeq")


@check("malformed.no-via", "RFC 3261 §8.1.1", "RFC 3261 §18.2.1")
def no_via(ua: Agent) -> None:
    """A request without Via, which cannot be answered, is not carried out."""
    rejected(ua, ua.draft(ua.contact(), expires=60).set("Via"), "no Via")


@check("malformed.cseq-method", "RFC 3261 §8.1.1.5", "RFC 4475 §3.1.2.17")
def cseq_method(ua: Agent) -> None:
    """A request whose CSeq names another method is not carried out."""
    draft = ua.draft(ua.contact(), expires=60)
    rejected(ua, draft.set("CSeq", f"{draft.cseq} OPTIONS"), "CSeq with OPTIONS", 400)


@check("malformed.cseq-number", "RFC 3261 §8.1.1.5", "RFC 4475 §3.1.2.4")
def cseq_number(ua: Agent) -> None:
    """A request whose CSeq is no number below 2**31 is not carried out."""
    for number in ("36893488147419103232", "-1", "one"):
        draft = ua.draft(ua.contact(), expires=60)
        rejected(ua, draft.set("CSeq", f"{number} REGISTER"), f"CSeq {number}", 400)


@check("malformed.duplicates", "RFC 3261 §7.3.1", "RFC 4475 §3.3.8")
def duplicates(ua: Agent) -> None:
    """A request with two different To, Call-ID or CSeq headers is not carried out."""
    for name, value in (
        ("Call-ID", "conformance-another"),
        ("CSeq", "7 REGISTER"),
        ("To", "<sip:conformance-another@host.example>"),
    ):
        draft = ua.draft(ua.contact(), expires=60)
        rejected(ua, draft.add(name, value), f"two {name}", 400)


@check("malformed.content-length", "RFC 3261 §18.3", "RFC 4475 §3.1.2.2", needs=("udp",))
def content_length(ua: Agent) -> None:
    """A datagram that ends before its Content-Length is refused."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.body = b"short"
    draft.set("Content-Type", "text/plain").set("Content-Length", "500")
    rejected(ua, draft, "Content-Length: 500 with 5 bytes", 400)


@check("malformed.negative-length", "RFC 3261 §20.14", "RFC 4475 §3.1.2.3", needs=("udp",))
def negative_length(ua: Agent) -> None:
    """A Content-Length below zero is refused."""
    draft = ua.draft(ua.contact(), expires=60).set("Content-Length", "-999")
    rejected(ua, draft, "Content-Length: -999", 400)


@check("malformed.request-uri", "RFC 3261 §7.1", "RFC 4475 §3.1.2.7", "RFC 4475 §3.1.2.8")
def request_uri(ua: Agent) -> None:
    """A Request-URI in <>, or with spaces in it, is refused."""
    plain = ua.target.request_uri
    for uri in (f"<{plain}>", f"{plain};a = b"):
        draft = ua.draft(ua.contact(), expires=60)
        draft.uri = uri
        rejected(ua, draft, f"the Request-URI {uri}", 400)


@check("malformed.version", "RFC 3261 §21.5.6", "RFC 3261 §7.1", "RFC 4475 §3.1.2.16")
def version(ua: Agent) -> None:
    """Another version than SIP/2.0 is refused with 505."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.version = "SIP/7.0"
    if rejected(ua, draft, "SIP/7.0", 505) is None:
        raise NotSupported("no answer")


@check("malformed.contact", "RFC 3261 §20.10", "RFC 3261 §21.4.1")
def contact(ua: Agent) -> None:
    """A Contact that cannot be read is refused."""
    for value in (f"<{ua.contact_uri()}", f"sip:{ua.mark}-1@", "<>", "?"):
        draft = ua.draft(value, expires=60)
        rejected(ua, draft, f"Contact: {value}", 400)


@check("malformed.q", "RFC 3261 §20.10", "RFC 3261 §25.1")
def q(ua: Agent) -> None:
    """A q above 1 is refused, or ignored as the malformed parameter that it is."""
    draft = ua.draft(ua.contact(1, ";q=7"), expires=60)
    reply = ua.ask(draft)
    ua.want(reply, 400, 200, what="q=7")
    if reply.code == 200:
        (bound,) = ua.only(reply, 1)
        ua.must(bound.q is None or bound.q <= 1, f"q=7 is listed as q={bound.q}")


@check("malformed.to", "RFC 3261 §20.39", "RFC 4475 §3.1.2.6")
def to(ua: Agent) -> None:
    """A To with a quote that does not end, or without a closing >, is refused."""
    for value in (f'"Mr. Unfinished <{ua.target.aor}>', f"<{ua.target.aor}"):
        draft = ua.draft(ua.contact(), expires=60).set("To", value)
        rejected(ua, draft, f"To: {value}", 400)


@check("malformed.header-line", "RFC 3261 §7.3.1", "RFC 3261 §21.4.1")
def header_line(ua: Agent) -> None:
    """A line without a colon among the headers is refused, or skipped."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.mangle = lambda data: data.replace(b"\r\nCSeq:", b"\r\nno header at all\r\nCSeq:", 1)
    reply = ua.quiet(draft)
    if reply is not None:
        ua.want(ua.follow(draft, reply), 400, 200, what="a line without a colon")
    ua.alive()


@check("malformed.no-empty-line", "RFC 3261 §7", needs=("udp",))
def no_empty_line(ua: Agent) -> None:
    """A datagram cut off within its headers is not carried out."""
    draft = ua.draft(expires=60, headers={"X-Last": "x"})
    ua.used = True
    draft.add("Contact", ua.contact())
    draft.mangle = lambda data: data.rstrip(b"\r\n")[:-12]
    rejected(ua, draft, "a message without its end", 400)


@check("malformed.noise", "RFC 3261 §7", "RFC 3261 §18.3", needs=("udp",))
def noise(ua: Agent) -> None:
    """Datagrams that are no SIP at all do no harm."""
    for data in (
        b"",
        b"\0",
        b"\r\n",
        bytes(range(256)),
        b"REGISTER\r\n\r\n",
        b"REGISTER " + b"a" * 3000,
        b"SIP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),  # STUN
    ):
        ua.channel.send(data)
    ua.alive()
    ua.only(ua.register(ua.contact(), expires=60), 1)


@check("malformed.stream-noise", "RFC 3261 §18.3", "RFC 3261 §7", needs=("stream",))
def stream_noise(ua: Agent) -> None:
    """Noise on a connection costs that connection at most."""
    channel = ua.open()
    try:
        channel.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n")
    finally:
        channel.close()
    ua.alive()
    ua.only(ua.register(ua.contact(), expires=60), 1)


@check("malformed.stray-response", "RFC 3261 §8.1.3.3", "RFC 3261 §18.1.2")
def stray_response(ua: Agent) -> None:
    """A response to nothing is thrown away, not answered."""
    draft = ua.draft(method="OPTIONS")
    draft.mangle = lambda data: b"SIP/2.0 200 OK" + data[data.index(b"\r\n") :]
    reply = ua.quiet(draft, 0.4)
    ua.must(reply is None, f"a response was answered with {reply.line if reply else ''}")
    ua.alive()
