# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are written oddly and are right all the same."""

from __future__ import annotations

import re
from functools import partial

from pjsip_py.message import Binding

from .agent import Agent
from .check import NoAnswer, NotSupported, check
from .client import Draft

_COMPACT = {
    "Via": "v",
    "From": "f",
    "To": "t",
    "Call-ID": "i",
    "Contact": "m",
    "Content-Length": "l",
    "Supported": "k",
}


def served(ua: Agent, draft: Draft, what: str) -> Binding:
    """Send a request that binds contact 1, which must be carried out: the binding."""
    try:
        reply = ua.ask(draft)
    except NoAnswer as error:
        raise NoAnswer(f"{what}: {error}") from error
    (bound,) = ua.only(ua.want(reply, 200, what=what), 1)
    return bound


@check("syntax.compact", "RFC 3261 §7.3.3")
def compact(ua: Agent) -> None:
    """The short names of headers stand for the long ones."""
    draft = ua.draft(ua.contact(), expires=60, headers={"Supported": "path"})
    served(ua, draft.rename(_COMPACT), "compact header names")


@check("syntax.case", "RFC 3261 §7.3.1")
def case(ua: Agent) -> None:
    """Header and parameter names may be in any case."""
    draft = ua.draft(f"<{ua.contact_uri()}>;EXPIRES=90;Q=0.5")
    draft.set("Via", draft.get("Via").replace(";branch=", ";BRANCH=").replace("rport", "RPORT"))
    draft.set("From", draft.get("From").replace(";tag=", ";TAG="))
    names = {name: name.upper() for name, _ in draft.headers[::2]}
    names |= {name: name.lower() for name, _ in draft.headers[1::2]}
    bound = served(ua, draft.rename(names), "names in other cases")
    ua.must((bound.expires or 0) <= 90 and bound.q == 0.5, "EXPIRES=90 and Q=0.5 were not read")


@check("syntax.folding", "RFC 3261 §7.3.1", "RFC 4475 §3.1.1.1")
def folding(ua: Agent) -> None:
    """A header may go on in the next line, which begins with space or tab."""
    for name, place in (
        ("Via", rb";(?=branch)"),
        ("From", rb";(?=tag)"),
        ("CSeq", rb" (?=REGISTER)"),
        ("Expires", rb" (?=90)"),
        ("Contact", rb";(?=q=)"),
    ):
        draft = ua.draft(ua.contact(1, ";q=0.5"), expires=90)
        pattern = re.compile(rb"(\r\n%b:[^\r]*?)(%b)" % (name.encode(), place))
        draft.mangle = partial(pattern.sub, rb"\1\r\n\t\2")
        bound = served(ua, draft, f"a fold in {name}")
        ua.must((bound.expires or 0) <= 90, f"a fold in {name}: {bound.expires} s of 90 granted")
        ua.must(bound.q == 0.5, f"a fold in {name}: q=0.5 is lost")


@check("syntax.whitespace", "RFC 3261 §7.3.1", "RFC 3261 §25.1", "RFC 4475 §3.1.1.1")
def whitespace(ua: Agent) -> None:
    """Space may stand before the colon, around semicolons and equals signs, or be left out."""
    draft = ua.draft(f"  <{ua.contact_uri()}>  ;  q = 0.5 ;\texpires  =  90  ")
    draft.set("Via", draft.get("Via").replace(";branch=", " ; branch = "))
    draft.set("From", draft.get("From").replace(";tag=", " ;  tag = "))
    draft.rename({"Call-ID": "Call-ID ", "To": "To\t", "Max-Forwards": "Max-Forwards   "})
    draft.mangle = lambda data: data.replace(b"\r\nContact:   ", b"\r\nContact:")
    bound = served(ua, draft, "odd whitespace")
    ua.must((bound.expires or 0) <= 90 and bound.q == 0.5, "q = 0.5 and expires = 90 were not read")


@check("syntax.via-whitespace", "RFC 3261 §25.1", "RFC 4475 §3.1.1.1")
def via_whitespace(ua: Agent) -> None:
    """Via may have space around its slashes, and its protocol name may be in any case."""
    draft = ua.draft(ua.contact(), expires=60)
    value = draft.get("Via").replace("SIP/2.0/", "sip / 2.0 / ", 1)
    served(ua, draft.set("Via", value), "sip / 2.0 / in Via")


@check("syntax.order", "RFC 3261 §7.3.1")
def order(ua: Agent) -> None:
    """The order of headers with different names does not matter."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.headers.reverse()
    served(ua, draft, "the headers in reverse")


@check("syntax.unknown-headers", "RFC 3261 §8.2.2", "RFC 3261 §7.3.1")
def unknown_headers(ua: Agent) -> None:
    """Unknown headers are ignored, whatever is in them."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.headers[3:3] = [("X-Conformance", 'anything; "goes", <here>'), ("X-Other", "1")]
    served(ua, draft, "unknown headers")


@check("syntax.empty-headers", "RFC 3261 §25.1", "RFC 3261 §7.3.1", "RFC 4475 §3.1.1.1")
def empty_headers(ua: Agent) -> None:
    """Headers that may be empty may be: Subject, and those that nobody knows."""
    for name in ("Subject", "X-Conformance"):
        draft = ua.draft(ua.contact(), expires=60)
        draft.headers[3:3] = [(name, "")]
        served(ua, draft, f"an empty {name}")


@check("syntax.header-names", "RFC 3261 §25.1", "RFC 4475 §3.1.1.2")
def header_names(ua: Agent) -> None:
    """A header name may have any character of a token."""
    name = "!interesting-Header0123456789_*+`.%'~"
    draft = ua.draft(ua.contact(), expires=60)
    draft.headers[3:3] = [(name, "newfangled")]
    served(ua, draft, f"a header called {name}")


@check("syntax.bad-but-unneeded", "RFC 3261 §8.2.2", "RFC 4475 §3.1.2.12")
def bad_but_unneeded(ua: Agent) -> None:
    """A malformed header that a registrar does not need should be ignored."""
    for name, value in (("Date", "yesterday, perhaps"), ("Retry-After", "later")):
        draft = ua.draft(ua.contact(), expires=60).add(name, value)
        reply = ua.quiet(draft)
        reply = ua.follow(draft, reply) if reply else None
        line = reply.line if reply else "no answer"
        ua.should(reply and reply.code == 200, f"{name}: {value} is met with {line}")


@check("syntax.utf8", "RFC 3261 §7.3.1", "RFC 3261 §25.1", "RFC 4475 §3.1.1.1")
def utf8(ua: Agent) -> None:
    """Display names may be in any script, by UTF-8."""
    draft = ua.draft(f'"Šárka 漢字 🙂" {ua.contact()}', expires=60)
    draft.set("From", f'"Zoë" <{ua.target.aor}>;tag={ua.from_tag}')
    served(ua, draft, "display names in UTF-8")


@check("syntax.not-utf8", "RFC 3261 §7", "RFC 3261 §21.4.1")
def not_utf8(ua: Agent) -> None:
    """Bytes that are no UTF-8 are borne or refused with 400; the registrar goes on."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.add("Subject", "caf\udce9 \udcff\udcfe")
    reply = ua.quiet(draft, 2.0)
    if reply is not None:
        ua.want(ua.follow(draft, reply), 200, 400, what="a Subject in Latin-1")
    ua.alive()


@check("syntax.long-header", "RFC 3261 §7.3.1", "RFC 4475 §3.1.1.7", needs=("stream",))
def long_header(ua: Agent) -> None:
    """A header of 4000 bytes is no reason to fail; a limit is told by 4xx or 513."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.set("Subject", "long " * 800)
    reply = ua.ask(draft)
    if reply.code != 200:
        ua.must(400 <= reply.code < 500 or reply.code == 513, f"a long header: {reply.line}")
        raise NotSupported(f"a header of 4000 bytes: {reply.line}")
    ua.only(reply, 1)


@check("syntax.many-headers", "RFC 3261 §7.3.1", needs=("stream",))
def many_headers(ua: Agent) -> None:
    """A hundred unknown headers are no reason to fail."""
    draft = ua.draft(ua.contact(), expires=60)
    for number in range(100):
        draft.add(f"X-Conformance-{number}", "x")
    served(ua, draft, "a hundred headers more")


@check("syntax.escaped-user", "RFC 3261 §19.1.2", "RFC 3261 §10.3 step 8", "RFC 4475 §3.1.1.9")
def escaped_user(ua: Agent) -> None:
    """The user part of a contact may have escapes and ; & = + $ , ? / and comes back as it was."""
    odd = f"{ua.mark};a=b&c=+$,?/%20%41-1"
    uri = f"sip:{odd}@{ua.local}"
    reply = ua.register(f"<{uri}>", expires=60)
    found = [each.uri for each in ua.mine(reply)]
    ua.must(found, "the contact is not listed")
    ua.must(odd in found[0], f"registered {odd}, listed {found[0]}")


@check("syntax.ipv6-contact", "RFC 3261 §19.1.1", "RFC 5118 §4.1")
def ipv6_contact(ua: Agent) -> None:
    """A contact may have an IPv6 address, whatever the request came over."""
    uri = f"sip:{ua.mark}-1@[2001:db8::7]:5070"
    (bound,) = ua.only(ua.register(f"<{uri}>", expires=60), 1)
    ua.must("[2001:db8::7]" in bound.uri.lower(), f"the contact is listed as {bound.uri}")


@check("syntax.largest-cseq", "RFC 3261 §8.1.1.5", "RFC 4475 §3.1.2.4")
def largest_cseq(ua: Agent) -> None:
    """CSeq may be as large as 2147483647."""
    ua.cseq = 2**31 - 3
    reply = ua.ask(ua.draft(ua.contact(), expires=60))
    ua.only(ua.want(reply, 200, what=f"CSeq {ua.cseq}"), 1)


@check("syntax.leading-zeros", "RFC 3261 §25.1", "RFC 4475 §3.1.1.1")
def leading_zeros(ua: Agent) -> None:
    """Numbers may have leading zeros: 0060 is 60."""
    draft = ua.draft(ua.contact(), expires="0000000090")
    draft.set("Max-Forwards", "0070").set("Content-Length", "000")
    bound = served(ua, draft, "leading zeros")
    ua.must(0 < (bound.expires or 0) <= 90, f"Expires: 0000000090 gave {bound.expires} s")


@check("syntax.trailing", "RFC 3261 §18.3", "RFC 4475 §3.1.1.8", needs=("udp",))
def trailing(ua: Agent) -> None:
    """In a datagram, what follows the body is thrown away."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.mangle = lambda data: data + b"and something more\r\n\r\n"
    served(ua, draft, "bytes after the body")


@check("syntax.no-content-length", "RFC 3261 §18.3", "RFC 3261 §20.14", needs=("udp",))
def no_content_length(ua: Agent) -> None:
    """In a datagram Content-Length may be left out."""
    draft = ua.draft(ua.contact(), expires=60)
    served(ua, draft.set("Content-Length"), "no Content-Length")


@check("syntax.no-max-forwards", "RFC 3261 §8.1.1", "RFC 3261 §16.3")
def no_max_forwards(ua: Agent) -> None:
    """A request without Max-Forwards, as RFC 2543 knew them, is served."""
    draft = ua.draft(ua.contact(), expires=60)
    reply = ua.ask(draft.set("Max-Forwards"))
    if reply.code == 400:
        raise NotSupported(f"no Max-Forwards: {reply.line}")
    ua.only(ua.want(reply, 200, what="no Max-Forwards"), 1)
