# SPDX-License-Identifier: GPL-3.0-or-later
"""What every server does with a request, and the form of its answers."""

from __future__ import annotations

import secrets
from email.utils import parsedate_to_datetime

from .agent import Agent
from .check import NotApplicable, NotSupported, check
from .client import MAGIC


@check("answer.copies", "RFC 3261 §8.2.6.2")
def copies(ua: Agent) -> None:
    """An answer repeats Via, From, Call-ID and CSeq, and To with a tag."""
    draft = ua.draft(ua.contact(), expires=60)
    reply = ua.send(draft)
    ua.must(reply.branch == draft.branch, f"the branch of Via came back as {reply.branch!r}")
    for name in ("From", "Call-ID"):
        got = reply.headers.get(name, "")
        ua.must(
            got.replace(" ", "") == draft.get(name).replace(" ", ""),
            f"{name} was {draft.get(name)!r} and came back as {got!r}",
        )
    ua.must(reply.cseq == draft.get("CSeq"), f"CSeq came back as {reply.cseq!r}")
    ua.must(reply.headers.get("To", "").startswith(draft.get("To")), "To came back changed")
    ua.must(reply.to_tag, "the To of the answer has no tag")


@check("answer.vias", "RFC 3261 §8.2.6.2", "RFC 3261 §18.2.2")
def vias(ua: Agent) -> None:
    """An answer has all Via values of its request, in their order.

    A client that stands behind proxies gets no answer otherwise.
    """
    draft = ua.draft(ua.contact(), expires=60)
    below = [f"SIP/2.0/UDP proxy{n}.example:507{n};branch={MAGIC}{n}" for n in (1, 2)]
    draft.set("Via", draft.get("Via"), *below)
    reply = ua.ask(draft)
    got = [value.partition(";")[0].split()[-1] for value in reply.headers.values_of("Via")]
    ua.must(
        got[1:] == ["proxy1.example:5071", "proxy2.example:5072"],
        f"the Via values came back as {', '.join(got)}",
    )


@check("answer.date", "RFC 3261 §10.3 step 8", "RFC 3261 §20.17")
def date(ua: Agent) -> None:
    """A 200 tells the time, in GMT."""
    value = ua.register(ua.contact(), expires=60).headers.get("Date", "")
    ua.should(value, "the 200 has no Date")
    try:
        parsed = parsedate_to_datetime(value)
    except ValueError:
        parsed = None
    ua.must(parsed is not None and value.endswith("GMT"), f"no date of RFC 3261: {value!r}")


@check("answer.no-record-route", "RFC 3261 §10.2", "RFC 3261 §10.3")
def no_record_route(ua: Agent) -> None:
    """Record-Route in a REGISTER is ignored; giving it back has no meaning."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.add("Record-Route", "<sip:proxy.example;lr>")
    reply = ua.want(ua.ask(draft), 200)
    ua.should("Record-Route" not in reply.headers, "the 200 has a Record-Route")


@check("method.options", "RFC 3261 §11.2")
def options(ua: Agent) -> None:
    """OPTIONS is answered, and says what is allowed and supported."""
    reply = ua.ask(ua.draft(method="OPTIONS"))
    if reply.code != 200:
        raise NotSupported(f"OPTIONS: {reply.line}")
    missing = [name for name in ("Allow", "Accept", "Supported") if name not in reply.headers]
    ua.should(not missing, f"its 200 has no {', '.join(missing)}")


@check("method.unknown", "RFC 3261 §8.2.1", "RFC 3261 §21.4.6", "RFC 3261 §21.5.2")
def unknown_method(ua: Agent) -> None:
    """An unknown method gets 405 with Allow, or 501."""
    reply = ua.ask(ua.draft(method="CONFORM"))
    ua.want(reply, 405, 501, what="the method CONFORM")
    if reply.code == 405:
        ua.must("Allow" in reply.headers, "the 405 does not say in Allow what is allowed")


@check("method.case", "RFC 3261 §7.1")
def method_case(ua: Agent) -> None:
    """Methods are compared with regard to case: register is not REGISTER."""
    draft = ua.draft(ua.contact(), method="register", expires=60)
    reply = ua.quiet(draft)
    if reply is not None:
        ua.refused(ua.follow(draft, reply), "the method register")
    ua.only(ua.fetch(), *())


@check("method.stray-ack", "RFC 3261 §17.1.1.3", "RFC 3261 §13.2.2.4")
def stray_ack(ua: Agent) -> None:
    """An ACK is never answered."""
    reply = ua.quiet(ua.draft(method="ACK"), 0.4)
    ua.must(reply is None, f"an ACK got {reply.line if reply else ''}")


@check("method.stray-cancel", "RFC 3261 §9.2")
def stray_cancel(ua: Agent) -> None:
    """A CANCEL for nothing gets 481."""
    reply = ua.quiet(ua.draft(method="CANCEL"))
    if reply is None:
        raise NotSupported("no answer")
    if reply.code in (405, 501):
        raise NotSupported(reply.line)
    ua.want(reply, 481, what="a CANCEL for nothing")


@check("extension.require", "RFC 3261 §8.2.2.3", "RFC 3261 §20.32", "RFC 3261 §21.4.15")
def require(ua: Agent) -> None:
    """An unknown extension in Require gets 420, and Unsupported names it."""
    reply = ua.ask(ua.draft(ua.contact(), expires=60, headers={"Require": "conformance-nonsense"}))
    ua.want(reply, 420, what="Require: conformance-nonsense")
    ua.only(ua.fetch(), *())
    named = [value.lower() for value in reply.headers.values_of("Unsupported")]
    ua.must(named == ["conformance-nonsense"], f"Unsupported is {', '.join(named) or 'missing'}")


@check("extension.require-several", "RFC 3261 §8.2.2.3")
def require_several(ua: Agent) -> None:
    """Unsupported names all extensions that are unknown."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.add("Require", "conformance-one, conformance-two").add("Require", "conformance-three")
    reply = ua.want(ua.ask(draft), 420, what="three unknown extensions")
    named = sorted(value.lower() for value in reply.headers.values_of("Unsupported"))
    wanted = sorted(f"conformance-{each}" for each in ("one", "two", "three"))
    ua.must(named == wanted, f"Unsupported is {', '.join(named) or 'missing'}")


@check("extension.proxy-require", "RFC 3261 §20.29", "RFC 3261 §16.3", "RFC 4475 §3.3.5")
def proxy_require(ua: Agent) -> None:
    """An unknown Proxy-Require is a proxy's matter: ignored by a registrar, else 420."""
    headers = {"Proxy-Require": "conformance-nonsense"}
    reply = ua.ask(ua.draft(ua.contact(), expires=60, headers=headers))
    ua.want(reply, 200, 420, what="Proxy-Require: conformance-nonsense")
    if reply.code == 420:
        named = [value.lower() for value in reply.headers.values_of("Unsupported")]
        ua.must("conformance-nonsense" in named, "the 420 has no Unsupported that names it")


@check("extension.supported", "RFC 3261 §20.37", "RFC 3261 §8.2.4")
def supported(ua: Agent) -> None:
    """Unknown extensions in Supported do no harm, and none is required in return."""
    headers = {"Supported": "conformance-nonsense, 100rel"}
    reply = ua.register(ua.contact(), expires=60, headers=headers)
    asked = reply.headers.values_of("Require")
    ua.must(not asked, f"the 200 requires {', '.join(asked)}")


@check("aor.other-domain", "RFC 3261 §10.3 step 1", "RFC 3261 §10.3 step 5")
def other_domain(ua: Agent) -> None:
    """An AOR in a domain that is not the registrar's gets 404, or 403."""
    user = ua.target.aor.partition(":")[2].rpartition("@")[0]
    aor = f"{ua.target.scheme}:{user}@conformance-{secrets.token_hex(3)}.example"
    draft = ua.draft(ua.contact(), expires=60)
    draft.set("To", f"<{aor}>")
    reply = ua.ask(draft)
    if reply.code == 200:
        ua.ask(ua.draft(ua.contact(1, ";expires=0")).set("To", f"<{aor}>"))
    ua.want(reply, 404, 403, what=f"registering {aor}")


@check("aor.third-party", "RFC 3261 §10.2", "RFC 3261 §10.3 step 4")
def third_party(ua: Agent) -> None:
    """Whoever may, registers for somebody else: From names another than To.

    Whether one may is the registrar's to decide; the binding is To's.
    """
    draft = ua.draft(ua.contact(), expires=60)
    draft.set("From", f"<{ua.target.scheme}:assistant@{ua.target.domain}>;tag={ua.from_tag}")
    reply = ua.ask(draft)
    if reply.code == 403:
        ua.only(ua.fetch(), *())
        raise NotSupported(f"registering for another: {reply.line}")
    ua.only(ua.want(reply, 200), 1)
    ua.only(ua.fetch(), 1)


@check("aor.to-tag", "RFC 3261 §8.1.1.2", "RFC 3261 §12.2.2")
def to_tag(ua: Agent) -> None:
    """A To tag in a REGISTER, which is in no dialog, binds nothing new or does no harm.

    481 is what a server says that looks for the dialog; one that does not look serves it.
    """
    draft = ua.draft(ua.contact(), expires=60)
    draft.set("To", f"<{ua.target.aor}>;tag={secrets.token_hex(4)}")
    reply = ua.ask(draft)
    ua.want(reply, 200, 400, 481, what="a REGISTER with a To tag")
    if reply.code == 200:
        ua.must(reply.headers.get("To", "").count(";tag=") == 1, "the answer's To has several tags")
    else:
        ua.only(ua.fetch(), *())


@check("body.unknown", "RFC 3261 §8.2.3", "RFC 3261 §21.4.13", "RFC 4475 §3.3.6")
def unknown_body(ua: Agent) -> None:
    """A body of an unknown type is left alone, or refused with 415 and Accept."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.body = b"nothing to see here\r\n"
    draft.set("Content-Type", "application/x-conformance")
    draft.set("Content-Length", str(len(draft.body)))
    reply = ua.want(ua.ask(draft), 200, 415, what="an unknown body")
    if reply.code == 415:
        ua.must("Accept" in reply.headers, "the 415 does not say in Accept what it takes")


@check("body.optional", "RFC 3261 §20.11", "RFC 3261 §8.2.3")
def optional_body(ua: Agent) -> None:
    """An unknown body with handling=optional is no reason to refuse."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.body = b"nothing to see here\r\n"
    draft.set("Content-Type", "application/x-conformance")
    draft.set("Content-Disposition", "x-conformance;handling=optional")
    draft.set("Content-Length", str(len(draft.body)))
    ua.want(ua.ask(draft), 200, what="an optional body")


@check("uri.scheme", "RFC 3261 §8.2.2.1", "RFC 3261 §21.4.14", "RFC 4475 §3.3.2")
def request_uri_scheme(ua: Agent) -> None:
    """A Request-URI of an unknown scheme gets 416."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.uri = "conformance:nothing"
    reply = ua.quiet(draft)
    ua.alive()
    ua.only(ua.fetch(), *())
    if reply is None:
        raise NotSupported("no answer")
    reply = ua.follow(draft, reply)
    ua.refused(reply, "the Request-URI conformance:nothing")
    ua.should(reply.code == 416, f"expected 416, got {reply.line}")


@check("uri.to-scheme", "RFC 3261 §10.3 step 5", "RFC 3261 §10.2", "RFC 4475 §3.3.4")
def to_scheme(ua: Agent) -> None:
    """A To that is neither a SIP nor a SIPS URI is refused."""
    draft = ua.draft(ua.contact(), expires=60)
    draft.set("To", "<mailto:conformance@host.example>")
    reply = ua.quiet(draft)
    if reply is None:
        raise NotApplicable("no answer, and nothing to see")
    reply = ua.follow(draft, reply)
    if reply.code == 200:
        ua.ask(ua.draft(ua.contact(1, ";expires=0")).set("To", draft.get("To")))
    ua.refused(reply, "the AOR mailto:conformance@host.example")
    ua.only(ua.fetch(), *())
