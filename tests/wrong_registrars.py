# SPDX-License-Identifier: GPL-3.0-or-later
"""Registrars that do one thing wrong each, and the conformance checks that must see it.

Each is the embedded registrar with what goes in, what comes out, what it decides or how it keeps
its bindings changed. ``fails`` and ``lacks`` are the checks that must end with "fail" and with
"not supported"; of the groups that are run, every other one must end as it does against the
registrar that does right.
"""

from __future__ import annotations

import re
import ssl
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import trustme

from pjsip_py.testing import Registrar
from pjsip_py.testing.digest import DigestAuthenticator, Verdict
from pjsip_py.testing.framing import StreamFramer
from pjsip_py.testing.headers import split_list
from pjsip_py.testing.location import LocationService, UpdateRefused
from pjsip_py.testing.message import MalformedRequest

Change = Callable[[Registrar], None]

#: What the registrar that does right is made with.
RIGHT: Mapping[str, Any] = {
    "protocols": ("udp", "tcp"),
    "users": {"alice": "secret"},
    "algorithms": ("SHA-512-256", "SHA-256"),
    "domains": ("example.com",),
    "own_aor": True,
    "outbound": True,
    "gruu": True,
    "flow_timer": 60,
    "service_route": ("<sip:edge.example;lr>",),
}


@dataclass(frozen=True)
class Wrong:
    """A wrong registrar. ``options`` are its own arguments, ``change`` is done before it starts."""

    name: str
    change: Change | None = None
    fails: str = ""
    lacks: str = ""
    passes: str = ""
    only: str = ""  # groups or ids to run; default: the groups of what is expected
    options: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)  # of the suite's Target
    patches: Mapping[str, object] = field(default_factory=dict)  # names in modules, and what for

    @property
    def expected(self) -> dict[str, str]:
        found = dict.fromkeys(self.fails.split(), "fail")
        found |= dict.fromkeys(self.lacks.split(), "not supported")
        return found | dict.fromkeys(self.passes.split(), "pass")

    @property
    def patterns(self) -> list[str]:
        if self.only:
            return self.only.split()
        return sorted({name.partition(".")[0] for name in self.expected})


# -- ways to change a registrar -------------------------------------------------------------------


def wrap(thing: object, name: str, around: Callable[..., Any]) -> None:
    """Put ``around(real, *args, **kwargs)`` in the place of a method."""
    real = getattr(thing, name)
    setattr(thing, name, lambda *args, **kwargs: around(real, *args, **kwargs))


def wrap_answering(registrar: Registrar, name: str, around: Callable[..., Any]) -> None:
    """The same for a method of the half that receives and answers."""
    half = getattr(registrar, "_uas", registrar)
    wrap(half if hasattr(half, name) else registrar, name, around)


def location_of(registrar: Registrar) -> LocationService:
    return registrar._service.location


def incoming(change: Callable[[bytes], bytes | None]) -> Change:
    """Change what arrives, None: it is lost."""

    def around(real: Any, data: bytes, flow: Any) -> None:
        new = change(data)
        if new is not None:
            real(new, flow)

    return lambda registrar: wrap_answering(registrar, "on_message", around)


def outgoing(change: Callable[[int, bytes], bytes], *, after: int = 0) -> Change:
    """Change the answers, but not the first ones: ``change(code, data)``."""

    def apply(registrar: Registrar) -> None:
        count = 0

        def around(real: Any, envelope: Any, code: int, *args: Any, **kwargs: Any) -> bytes:
            nonlocal count
            count += 1
            data = real(envelope, code, *args, **kwargs)
            return data if count <= after else change(code, data)

        wrap_answering(registrar, "_reply", around)

    return apply


#: Requests that the suite sends before its first check.
ENTERING = 5


def both(*changes: Change) -> Change:
    def change(registrar: Registrar) -> None:
        for each in changes:
            each(registrar)

    return change


def replaced(pattern: str, new: str, *, code: int = 0) -> Change:
    """Replace text in the answers, of one code only."""
    wanted, by = re.compile(pattern.encode(), re.I | re.M), new.encode()
    return outgoing(lambda got, data: data if code not in (0, got) else wanted.sub(by, data))


def picky(pattern: str, code: int = 400) -> Change:
    """Refuse requests that match."""
    wanted = re.compile(pattern.encode("utf-8", "surrogateescape"), re.M | re.S)

    def change(registrar: Registrar) -> None:
        matched = False

        def look(data: bytes) -> bytes:
            nonlocal matched
            matched = wanted.search(data) is not None
            return data

        def decide(real: Any, *args: Any, **kwargs: Any) -> Any:
            return (code, []) if matched else real(*args, **kwargs)

        incoming(look)(registrar)
        wrap(registrar._service, "decide", decide)

    return change


def deciding(around: Callable[..., Any]) -> Change:
    return lambda registrar: wrap(registrar._service, "decide", around)


def for_method(method: str, code: int) -> Change:
    """Answer one method with a code and no more."""

    def around(real: Any, request: Any, **kwargs: Any) -> Any:
        return (code, []) if request.method == method else real(request, **kwargs)

    return deciding(around)


def for_header(name: str, code: int | None) -> Change:
    """Answer requests that have a header with a code; None: as if they had not."""

    def around(real: Any, request: Any, **kwargs: Any) -> Any:
        if not request.headers.getlist(name):
            return real(request, **kwargs)
        if code is not None:
            return code, []
        request.headers.setlist(name, [])
        return real(request, **kwargs)

    return deciding(around)


def updating(around: Callable[..., Any]) -> Change:
    """``around(real, aor, contacts, **how)`` in place of the change of bindings."""
    return lambda registrar: wrap(location_of(registrar), "update", around)


def repaired(pattern: str, new: str) -> Change:
    """Make something right of what is wrong in a request, and carry it out."""
    wanted, by = re.compile(pattern.encode(), re.M | re.S), new.encode()
    return incoming(lambda data: wanted.sub(by, data, count=1))


def deaf_after(pattern: bytes) -> Change:
    """Hear nothing any more after a certain message."""
    heard = False

    def change(data: bytes) -> bytes | None:
        nonlocal heard
        heard = heard or re.search(pattern, data, re.S) is not None
        return None if heard else data

    return incoming(change)


# -- bindings -------------------------------------------------------------------------------------


def _forgets(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    """Binds nothing."""


def _replaces(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if contacts:
        real.__self__.clear()
    real(aor, contacts, **how)


def _first_only(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    real(aor, contacts[:1], **how)


def _never_removes(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if "*" in contacts:
        real(aor, contacts, **how)
        return
    kept = [each.replace(";expires=0", ";expires=60") for each in contacts]
    how["expires"] = "60" if how["expires"] == "0" else how["expires"]
    real(aor, kept, **how)


def _removes_all(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if any(each.endswith(";expires=0") for each in contacts) or how["expires"] == "0":
        real.__self__.clear()
    else:
        real(aor, contacts, **how)


def _fetch_removes(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if not contacts:
        real.__self__.clear()
    real(aor, contacts, **how)


def _expires_0_removes(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if not contacts and how["expires"] == "0":
        real.__self__.clear()
    real(aor, contacts, **how)


def _unknown_is_error(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    bound = {each.uri for each in real.__self__.bindings(aor)}
    for each in contacts:
        if each.endswith(";expires=0") and each.partition(">")[0][1:] not in bound:
            raise UpdateRefused(404, "no such binding")
    real(aor, contacts, **how)


def _keeps_parameters(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    bound = {each.uri: each for each in real.__self__.bindings(aor)}
    for at, each in enumerate(contacts):
        old = bound.get(each.partition(">")[0][1:])
        if old is not None and old.q is not None and ";q=" in each:
            contacts[at] = re.sub(r";q=[\d.]+", f";q={old.q}", each)
    real(aor, contacts, **how)


def _one_client(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    bound = real.__self__.bindings(aor)
    if contacts and bound and bound[0].call_id != how["call_id"]:
        real.__self__.clear()
    real(aor, contacts, **how)


def _no_refresh(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    bound = {each.uri for each in real.__self__.bindings(aor)}
    new = [
        each
        for each in contacts
        if each.endswith("=0") or each.partition(">")[0][1:] not in bound or how["expires"] == "0"
    ]
    real(aor, new, **how)


def _by_call_id(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    """A contact of another Call-ID is another binding."""
    tag = f";from={how['call_id']}"
    real(aor, [each.replace(">", tag + ">") for each in contacts], **how)


def _own_listed(real: Any, request: Any, **kwargs: Any) -> Any:
    """Lists the request's contacts alone."""
    code, headers = real(request, **kwargs)
    if code == 200 and request.contacts:
        mine = {each.uri for each in request.contacts}
        headers = [
            (name, value)
            for name, value in headers
            if name != "Contact" or value.partition(">")[0][1:] in mine
        ]
    return code, headers


def _one_line_is_one(real: Any, request: Any, **kwargs: Any) -> Any:
    values = request.headers.getlist("Contact")
    request.headers.setlist("Contact", [split_list(value)[0] for value in values])
    return real(request, **kwargs)


def _raw_aor(registrar: Registrar) -> None:
    """Keeps the bindings of an AOR under the text that it came with."""
    users = {}

    def look(data: bytes) -> bytes:
        found = re.search(rb"\nTo: <([^>]*)>", data)
        users["last"] = found[1].decode() if found else ""
        return data

    def contact_headers(real: Any, aor: Any, **kwargs: Any) -> Any:
        return real(aor, **kwargs) if users["last"] == "sip:alice@example.com" else []

    def update(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
        if users["last"] == "sip:alice@example.com":
            real(aor, contacts, **how)

    incoming(look)(registrar)
    wrap(location_of(registrar), "contact_headers", contact_headers)
    updating(update)(registrar)


def _ignores_star(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if "*" not in contacts:
        real(aor, contacts, **how)


def _any_star(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if "*" in contacts:
        real.__self__.clear()
        contacts = [each for each in contacts if each != "*"]
    real(aor, contacts, **how)


def _no_order(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    how["cseq"] = _no_order.next = getattr(_no_order, "next", 0) + 1  # type: ignore[attr-defined]
    real(aor, contacts, **how)


def _one_call_id(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    real(aor, contacts, **{**how, "call_id": "always"})


def _no_gap(registrar: Registrar) -> None:
    last: dict[str, int] = {}

    def around(real: Any, request: Any, **kwargs: Any) -> Any:
        before = last.setdefault(request.call_id, request.cseq)
        last[request.call_id] = request.cseq
        return (500, []) if request.cseq > before + 10 else real(request, **kwargs)

    deciding(around)(registrar)


def _one_by_one(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    """Each contact on its own: those before a bad one are bound."""
    for each in contacts:
        real(aor, [each], **how)


def _late_is_ok(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    """Like some registrars: what is late is skipped, the request succeeds."""
    try:
        real(aor, contacts, **how)
    except UpdateRefused as error:
        if error.code != 500:
            raise


def _listed_expires(seconds: str) -> Change:
    return replaced(r"(Contact: .*;expires=)\d+", r"\g<1>" + seconds, code=200)


def _header_wins(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if how["expires"] is not None and "*" not in contacts:
        contacts = [each.partition(";expires=")[0] for each in contacts]
    real(aor, contacts, **how)


def _default_zero(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    how["expires"] = how["expires"] or "0"
    real(aor, contacts, **how)


def _expires_text(change: Callable[[str], str]) -> Change:
    """Reads the numbers of Expires and expires in another way."""

    def around(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
        if how["expires"] is not None:
            how["expires"] = change(how["expires"])
        contacts = [
            re.sub(r";expires=([^;]*)", lambda m: f";expires={change(m[1])}", each)
            for each in contacts
        ]
        real(aor, contacts, **how)

    return updating(around)


def _wraps(text: str) -> str:
    return str(int(text) % 2**32) if text.isdigit() else text


def _signed(text: str) -> str:
    return "0" if text.isdigit() and 2**31 <= int(text) < 2**32 else text


def _bad_is_zero(text: str) -> str:
    return text if text.isdigit() else "0"


def _bad_is_an_error(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    texts = [how["expires"] or "1"]
    texts += [each.partition(";expires=")[2] or "1" for each in contacts]
    if not all(text.isdigit() for text in texts):
        raise UpdateRefused(400, "no number")
    real(aor, contacts, **how)


def _zero_too_brief(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    if how["expires"] == "0" and contacts and "*" not in contacts:
        raise UpdateRefused(423, "too brief")
    real(aor, contacts, **how)


def _at_start(code: int, headers: str) -> Change:
    """Put headers into the answers of a code."""
    return replaced(r"^Content-Length:", headers + r"\r\nContent-Length:", code=code)


def _out_of_nowhere(code: int, data: bytes) -> bytes:
    stray = b"Contact: <sip:x@x.example>;expires=9\r\nContent-Length"
    return data if code != 200 else data.replace(b"Content-Length", stray)


def _as_text(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    """URIs that are not the same text are different: what tells them apart is made part of them."""
    real(aor, [re.sub("(<[^>]*)>", _marked, each) for each in contacts], **how)


def _marked(found: re.Match[str]) -> str:
    return f"{found[1]};text={zlib.crc32(found[1].encode())}>"


def _always_fresh(real: Any, request: Any, **kwargs: Any) -> Any:
    """Lists two hours for each contact whenever it is asked."""
    code, headers = real(request, **kwargs)
    if not request.contact_values:
        headers = [(name, re.sub(r"expires=\d+", "expires=7200", value)) for name, value in headers]
    return code, headers


BINDINGS = [
    Wrong(
        "URIs are compared as text",
        updating(_as_text),
        "bindings.equal-uris",
        only="bindings.equal-uris",
    ),
    Wrong(
        "binds nothing",
        updating(_forgets),
        "bindings.add bindings.fetch bindings.fetch-expires bindings.several "
        "bindings.refresh bindings.refresh-other-client bindings.remove-and-add "
        "bindings.q bindings.q-changed bindings.parameters bindings.uri-parameters "
        "bindings.without-brackets bindings.display-name bindings.equal-uris "
        "bindings.other-scheme bindings.aor-canonical",
    ),
    Wrong(
        "binds nothing, as the real stack sees it",
        updating(_forgets),
        "stack.udp stack.tcp stack.tls auth.right tls.registers",
        only="stack tls.registers auth.right",
        options={"protocols": ("udp", "tcp", "tls")},
    ),
    Wrong(
        "a contact takes the place of all others",
        updating(_replaces),
        "bindings.add-later bindings.other-client bindings.remove "
        "bindings.remove-header bindings.different-uris bindings.all-listed",
    ),
    Wrong(
        "the first contact of a line counts",
        deciding(_one_line_is_one),
        "bindings.several-in-one-line",
    ),
    Wrong(
        "the first contact of a request counts",
        updating(_first_only),
        "bindings.several bindings.remove-and-add",
        only="bindings.several bindings.remove-and-add",
    ),
    Wrong(
        "a client takes the place of another",
        updating(_one_client),
        "bindings.other-client",
        only="bindings.other-client bindings.add-later",
    ),
    Wrong(
        "a fetch removes",
        updating(_fetch_removes),
        "bindings.fetch bindings.fetch-expires",
        only="bindings.fetch bindings.fetch-expires",
    ),
    Wrong(
        "Expires: 0 without Contact removes", updating(_expires_0_removes), "bindings.fetch-expires"
    ),
    Wrong(
        "never removes",
        updating(_never_removes),
        "bindings.remove bindings.remove-header bindings.remove-and-add "
        "bindings.remove-unknown expiry.zero-wins",
        only="bindings.remove* expiry.zero-wins",
    ),
    Wrong(
        "a removal removes all",
        updating(_removes_all),
        "bindings.remove bindings.remove-header bindings.remove-and-add",
        only="bindings.remove*",
    ),
    Wrong(
        "removing what is not bound is an error",
        updating(_unknown_is_error),
        "bindings.remove-unknown",
        only="bindings.remove*",
    ),
    Wrong("q stays as it was", updating(_keeps_parameters), "bindings.q-changed"),
    Wrong("refreshes are lost", updating(_no_refresh), "bindings.refresh bindings.q-changed"),
    Wrong(
        "a binding for each Call-ID",
        updating(_by_call_id),
        "bindings.refresh-other-client",
        only="bindings.refresh*",
    ),
    Wrong(
        "lists the contacts of the request alone",
        deciding(_own_listed),
        "bindings.all-listed",
        only="bindings.all-listed",
    ),
    Wrong("the AOR is compared as text", _raw_aor, "bindings.aor-canonical"),
    Wrong(
        "q is not given back",
        replaced(r";q=[\d.]+", ""),
        "bindings.q bindings.q-changed bindings.display-name",
    ),
    Wrong(
        "parameters are not given back",
        replaced(r";audio;mobility=[^;]+", ""),
        lacks="bindings.parameters",
    ),
    Wrong(
        "the URI loses its parameters", replaced(r";ob;line=a1-b2>", ">"), "bindings.uri-parameters"
    ),
    Wrong(
        "the header's parameters become the URI's",
        repaired(r"^Contact: (sip:[^\r]*)", r"Contact: <\1>"),
        "bindings.without-brackets",
    ),
    Wrong("quotes in a contact are not understood", picky('^Contact: "'), "bindings.display-name"),
    Wrong(
        "no other contacts than SIP URIs", picky("^Contact: <mailto"), lacks="bindings.other-scheme"
    ),
    Wrong(
        "others than SIP URIs are lost",
        repaired(r"^Contact: <mailto[^\r]*\r\n", ""),
        "bindings.other-scheme",
    ),
    Wrong(
        "a contact out of nowhere",
        outgoing(_out_of_nowhere, after=ENTERING),
        "bindings.none",
        only="bindings.none",
    ),
    Wrong(
        "* is ignored",
        updating(_ignores_star),
        "star.removes-all star.with-others star.expires-not-zero star.no-expires",
    ),
    Wrong(
        "* is taken as it comes",
        updating(_any_star),
        "star.with-others star.expires-not-zero star.no-expires",
    ),
    Wrong(
        "the order does not matter",
        updating(_no_order),
        "order.late-refresh order.late-removal order.late-star order.same-cseq atomic.late-contact",
    ),
    Wrong(
        "what is late is answered with 200",
        updating(_late_is_ok),
        "order.late-refresh order.late-removal order.late-star order.same-cseq atomic.late-contact",
    ),
    Wrong("one order for all Call-IDs", updating(_one_call_id), "order.other-call-id"),
    Wrong("CSeq must go up by one", _no_gap, "order.gap", only="order.gap order.other-call-id"),
    Wrong(
        "the good contacts of a bad request are bound",
        updating(_one_by_one),
        "atomic.late-contact atomic.malformed-contact",
    ),
]

EXPIRY = [
    Wrong("the time does not run down", deciding(_always_fresh), "expiry.counts-down"),
    Wrong(
        "expires is not listed",
        replaced(r"(Contact: .*);expires=\d+", r"\1"),
        "expiry.listed expiry.header expiry.default",
        only="expiry.listed expiry.header expiry.default",
    ),
    Wrong(
        "grants two hours",
        _listed_expires("7200"),
        "expiry.header expiry.parameter-first expiry.each-its-own "
        "expiry.not-more-than-asked expiry.nonzero-wins expiry.malformed",
    ),
    Wrong(
        "grants 0",
        _listed_expires("0"),
        "expiry.header expiry.default expiry.nonzero-wins",
        only="expiry.default expiry.header expiry.nonzero-wins",
    ),
    Wrong(
        "the Expires header wins",
        updating(_header_wins),
        "expiry.parameter-first expiry.zero-wins expiry.nonzero-wins",
    ),
    Wrong("the default is 0", updating(_default_zero), "expiry.default"),
    Wrong("large numbers wrap around", _expires_text(_wraps), "expiry.too-large"),
    Wrong("large numbers are negative", _expires_text(_signed), "expiry.largest"),
    Wrong("a malformed time is 0", _expires_text(_bad_is_zero), "expiry.malformed"),
    Wrong("a malformed time is an error", updating(_bad_is_an_error), lacks="expiry.malformed"),
    Wrong(
        "423 without Min-Expires",
        replaced(r"^Min-Expires: .*\r\n", ""),
        "expiry.too-brief",
        options={"min_expires": 60},
    ),
    Wrong(
        "Min-Expires is too low",
        replaced("^Min-Expires: .*", "Min-Expires: 30\r"),
        "expiry.too-brief",
        options={"min_expires": 60},
    ),
    Wrong(
        "0 is too brief",
        updating(_zero_too_brief),
        "expiry.zero-not-too-brief",
        only="expiry.zero-not-too-brief",
    ),
    Wrong(
        "an hour is too brief",
        fails="expiry.zero-not-too-brief expiry.hour-not-too-brief",
        only="expiry.*-not-*",
        options={"min_expires": 7200},
    ),
    Wrong(
        "time stands still",
        fails="expiry.lapses",
        only="expiry.lapses",
        options={"clock": lambda: 0.0, "nonce_lifetime": None},
    ),
]


# -- authentication -------------------------------------------------------------------------------


def _digests(registrar: Registrar) -> list[DigestAuthenticator]:
    return [guard.digest for guard in registrar._service.guards if guard.digest is not None]


def checking(around: Callable[..., Any]) -> Change:
    """``around(real, credentials, method=, uri=, body=)`` in place of the check of a digest."""

    def change(registrar: Registrar) -> None:
        for each in _digests(registrar):
            wrap(each, "check", around)

    return change


def _any_digest(real: Any, credentials: Any, **request: Any) -> Verdict:
    return Verdict.OK


def _leaves_out(*names: str) -> Callable[..., Any]:
    """Takes credentials that do not fit in one respect."""

    def around(real: Any, credentials: Any, **request: Any) -> Any:
        try:
            verdict = real(credentials, **request)
        except ValueError as error:
            if any(name in str(error) for name in names):
                return Verdict.OK
            raise
        return Verdict.OK if verdict is None and "realm" in names else verdict

    return around


def _other_uri(real: Any, credentials: Any, *, uri: str, **request: Any) -> Any:
    return real(credentials, uri=credentials.get("uri", uri), **request)


def _other_method(real: Any, credentials: Any, *, method: str, **request: Any) -> Any:
    verdict = real(credentials, method=method, **request)
    if verdict is Verdict.DENIED:
        verdict = real(credentials, method="INVITE", **request)
    return verdict


def _stale_is_ok(real: Any, credentials: Any, **request: Any) -> Any:
    verdict = real(credentials, **request)
    return Verdict.OK if verdict is Verdict.STALE else verdict


def _stale_is_denied(real: Any, credentials: Any, **request: Any) -> Any:
    verdict = real(credentials, **request)
    return Verdict.DENIED if verdict is Verdict.STALE else verdict


def _denied_is_stale(real: Any, credentials: Any, **request: Any) -> Any:
    verdict = real(credentials, **request)
    return Verdict.STALE if verdict is Verdict.DENIED else verdict


def _no_sha256(real: Any, credentials: Any, **request: Any) -> Any:
    return (
        Verdict.DENIED
        if credentials.get("algorithm") == "SHA-256"
        else real(credentials, **request)
    )


def _weak_too(real: Any, credentials: Any, **request: Any) -> Any:
    return Verdict.OK if credentials.get("algorithm") == "MD5" else real(credentials, **request)


def _unknown_users_differ(real: Any, credentials: Any, **request: Any) -> Any:
    if credentials.get("username", "alice") != "alice":
        raise ValueError("there is no such user")
    return real(credentials, **request)


def _same_nonce(registrar: Registrar) -> None:
    """Says stale=true and gives the stale nonce again."""
    last = b""

    def look(data: bytes) -> bytes:
        nonlocal last
        found = re.search(rb'nonce="([^"]*)"', data)
        last = found[1] if found else b""
        return data

    def change(code: int, data: bytes) -> bytes:
        return (
            re.sub(rb'nonce="[^"]*"', b'nonce="' + last + b'"', data) if b"stale" in data else data
        )

    both(incoming(look), outgoing(change))(registrar)


def _binds_first(real: Any, request: Any, **kwargs: Any) -> Any:
    """The bindings change before the proof is asked for."""
    service = real.__self__
    if request.method == "REGISTER" and request.authorization is None:
        service._register(request)
    return real(request, **kwargs)


def _first_credentials(real: Any, request: Any, **kwargs: Any) -> Any:
    values = request.headers.getlist("Authorization")
    request.headers.setlist("Authorization", values[:1])
    return real(request, **kwargs)


AUTH = [
    Wrong(
        "a proof is asked for when all is done",
        deciding(_binds_first),
        "auth.unproven auth.wrong-password",
        only="auth.unproven auth.wrong-password",
    ),
    Wrong(
        "any digest will do",
        checking(_any_digest),
        "auth.not-offered auth.wrong-password auth.unknown-user auth.other-realm "
        "auth.other-nonce auth.digest-uri auth.digest-method auth.no-cnonce "
        "auth.incomplete auth.several-credentials",
        lacks="auth.replay",
    ),
    Wrong(
        "credentials without cnonce will do",
        checking(_leaves_out("cnonce", "nc")),
        "auth.no-cnonce auth.incomplete",
    ),
    Wrong(
        "incomplete credentials will do",
        checking(_leaves_out("have no")),
        "auth.no-cnonce auth.incomplete",
    ),
    Wrong(
        "any realm will do",
        checking(_leaves_out("realm")),
        "auth.other-realm auth.several-credentials",
    ),
    Wrong("the digest's URI is not looked at", checking(_other_uri), "auth.digest-uri"),
    Wrong("the digest's method is not looked at", checking(_other_method), "auth.digest-method"),
    Wrong(
        "nonces are not looked at", checking(_stale_is_ok), "auth.other-nonce", lacks="auth.replay"
    ),
    Wrong(
        "a stale nonce is not called so",
        checking(_stale_is_denied),
        "auth.count-on",
        lacks="auth.replay-stale",
        options={"nonce_uses": 1},
    ),
    Wrong("a wrong password is called stale", checking(_denied_is_stale), "auth.wrong-password"),
    Wrong("an algorithm that does not work", checking(_no_sha256), "auth.algorithms-work"),
    Wrong("MD5 is taken though not offered", checking(_weak_too), "auth.not-offered"),
    Wrong("MD5 alone", lacks="auth.algorithms", options={"algorithms": ("MD5",)}),
    Wrong(
        "the weakest algorithm first",
        fails="auth.algorithms",
        options={"algorithms": ("SHA-256", "SHA-512-256")},
    ),
    Wrong("no qop", fails="auth.qop", options={"qop": None}),
    Wrong(
        "a realm without quotes",
        replaced('realm="example.com"', "realm=example.com"),
        "auth.challenge",
        only="auth.challenge",
    ),
    Wrong(
        "an algorithm in quotes",
        replaced("algorithm=(SHA[^,]*)", r'algorithm="\1"'),
        "auth.challenge",
        only="auth.challenge",
    ),
    Wrong(
        "stale at once",
        replaced('qop="auth"\r$', 'qop="auth", stale=true\r'),
        "auth.challenge",
        only="auth.challenge",
    ),
    Wrong(
        "one nonce for all",
        lacks="auth.replay auth.nonces-differ",
        options={"nonce": "always", "nc_check": None},
    ),
    Wrong(
        "a stale nonce is given again",
        _same_nonce,
        "auth.replay-stale",
        only="auth.replay-stale auth.replay",
    ),
    Wrong(
        "who does not exist gets 400",
        checking(_unknown_users_differ),
        "auth.several-credentials",
        lacks="auth.unknown-user",
    ),
    Wrong(
        "parameter names in capitals are not known",
        picky("^Authorization: dIGEST", 401),
        "auth.spelling",
    ),
    Wrong("the first credentials count", deciding(_first_credentials), "auth.several-credentials"),
    Wrong(
        "one of two realms at a time",
        picky("^Contact.*^Authorization.*^Proxy-Auth", 500),
        "auth.several-realms",
        only="auth.several-realms",
        options={"proxy_realm": "edge"},
    ),
    Wrong("any user registers any AOR", fails="auth.other-aor", options={"own_aor": False}),
    Wrong(
        "a wrong rspauth",
        _at_start(200, 'Authentication-Info: rspauth="00"'),
        "auth.info",
        only="auth.info",
    ),
    Wrong(
        "Bearer without a server",
        fails="auth.bearer",
        only="auth.bearer",
        options={"tokens": {}, "bearer": {"scope": "sip"}},
    ),
]

# -- requests of all kinds ------------------------------------------------------------------------


def _mangled(code: int, data: bytes) -> bytes:
    return re.sub(rb"^(From: .*)\r$", rb"\1;x=y\r", data, flags=re.M)


def _answers_ack(registrar: Registrar) -> None:
    def change(data: bytes) -> bytes:
        return data.replace(b"ACK sip:", b"OPTIONS sip:").replace(b" ACK\r\n", b" OPTIONS\r\n")

    incoming(change)(registrar)


def _no_require(real: Any, request: Any, **kwargs: Any) -> Any:
    request.headers.setlist("Require", [])
    return real(request, **kwargs)


SERVICE = [
    Wrong(
        "Via loses its branch",
        replaced(";branch=[^;\r]*", ""),
        "answer.copies",
        only="answer.copies",
    ),
    Wrong("From comes back changed", outgoing(_mangled), "answer.copies"),
    Wrong("To without a tag", replaced("^(To: .*);tag=.*\r$", "\\1\r"), "answer.copies"),
    Wrong("the first Via alone", replaced("^Via: SIP/2.0/UDP proxy.*\r\n", ""), "answer.vias"),
    Wrong("no Date", replaced("^Date: .*\r\n", ""), lacks="answer.date"),
    Wrong("a Date of its own", replaced("^Date: .*\r$", "Date: today\r"), "answer.date"),
    Wrong(
        "Record-Route comes back",
        _at_start(200, "Record-Route: <sip:a.example;lr>"),
        lacks="answer.no-record-route",
    ),
    Wrong("no OPTIONS", for_method("OPTIONS", 405), lacks="method.options"),
    Wrong("405 without Allow", replaced("^Allow: .*\r\n", ""), "method.unknown"),
    Wrong(
        "methods in any case",
        repaired("^register sip:(.*)^(CSeq: \\d+) register", "REGISTER sip:\\1\\2 REGISTER"),
        "method.case",
        options={"users": None},
    ),
    Wrong("ACK is answered", _answers_ack, "method.stray-ack"),
    Wrong("CANCEL is answered with 200", for_method("CANCEL", 200), "method.stray-cancel"),
    Wrong("CANCEL is not known", for_method("CANCEL", 405), lacks="method.stray-cancel"),
    Wrong(
        "Require is ignored", deciding(_no_require), "extension.require extension.require-several"
    ),
    Wrong(
        "Unsupported names one",
        replaced("^(Unsupported: [^,\r]*),.*", "\\1\r"),
        "extension.require-several",
    ),
    Wrong(
        "420 without Unsupported",
        both(for_header("Proxy-Require", 420), replaced("^Unsupported: .*\r\n", "")),
        "extension.require extension.require-several extension.proxy-require",
    ),
    Wrong(
        "what is supported is required", _at_start(200, "Require: 100rel"), "extension.supported"
    ),
    Wrong("any domain", fails="aor.other-domain", only="aor uri", options={"domains": None}),
    Wrong("no third parties", picky("^From: <sip:assistant", 403), lacks="aor.third-party"),
    Wrong("From must be To", picky("^From: <sip:assistant", 500), "aor.third-party"),
    Wrong("a To tag is an error of the server", picky("^To: .*;tag=", 500), "aor.to-tag"),
    Wrong("no bodies", for_header("Content-Type", 415), "body.unknown body.optional"),
    Wrong(
        "a Request-URI of any scheme",
        repaired("^(REGISTER) conformance:nothing", "\\1 sip:example.com"),
        "uri.scheme",
        options={"users": None},
    ),
    Wrong(
        "404 for an unknown scheme",
        replaced("^SIP/2.0 416.*\r$", "SIP/2.0 404 Not Found\r"),
        lacks="uri.scheme",
    ),
    Wrong(
        "a To of any scheme",
        repaired("^To: <mailto:[^>]*>", "To: <sip:alice@example.com>"),
        "uri.to-scheme",
    ),
]

SYNTAX = [
    Wrong(name, picky(pattern), check, only="syntax")
    for name, check, pattern in (
        ("no compact names", "syntax.compact", "^v: "),
        ("names in one case", "syntax.case", "^VIA: "),
        ("no folding", "syntax.folding", "\r\n[ \t]"),
        ("no space before a colon", "syntax.whitespace", "^Call-ID :"),
        ("no space in Via", "syntax.via-whitespace", "sip / 2.0"),
        ("Via comes first", "syntax.order", "^Content-Length: 0\r\nUser"),
        ("no unknown headers", "syntax.unknown-headers", "^X-Conformance: a"),
        ("no empty headers", "syntax.empty-headers", "^Subject: \r"),
        ("names of letters", "syntax.header-names", "^!"),
        ("no UTF-8", "syntax.utf8", "漢"),
        ("few headers", "syntax.many-headers", "^X-Conformance-90"),
        ("no odd users", "syntax.escaped-user", "a=b&c"),
        ("no IPv6", "syntax.ipv6-contact", "2001:db8"),
        ("CSeq below 2**30", "syntax.largest-cseq", "^CSeq: 2147"),
        ("no leading zeros", "syntax.leading-zeros", "^Expires: 0+9"),
        ("Content-Length is needed", "syntax.no-content-length", "^User-Agent: [^\r]*\r\n\r\n"),
    )
] + [
    Wrong("Date must be a date", picky("^Date: yes"), lacks="syntax.bad-but-unneeded"),
    Wrong("dies of Latin-1", deaf_after(b"caf\xe9"), "syntax.not-utf8", only="syntax.not-utf8"),
    Wrong(
        "long headers are the server's error",
        picky("(long ){100}", 500),
        "syntax.long-header",
        only="syntax.long-header",
    ),
    Wrong(
        "Max-Forwards or nothing",
        picky("^Via: [^\r]*\r\nFrom", 500),
        "syntax.no-max-forwards",
        only="syntax.no-max-forwards",
    ),
    Wrong(
        "a Date of any kind is the server's error",
        picky("^Date: yes", 500),
        lacks="syntax.bad-but-unneeded",
        only="syntax.bad-but-unneeded",
    ),
    Wrong("escapes are undone", replaced("%20%41", "%20A"), "syntax.escaped-user"),
    Wrong("what follows the body is part of it", picky("something more", 400), "syntax.trailing"),
]

_HEAD = "(REGISTER sip:example.com SIP/2.0\r\n)"
MALFORMED = [
    Wrong(
        "no From is no matter",
        repaired("^(Max-Forwards: 70\r\n)(To: )", "\\1From: <sip:alice@example.com>;tag=1\r\n\\2"),
        "malformed.no-from",
        only="malformed.no-*",
    ),
    Wrong(
        "no To is no matter",
        repaired("^(From: [^\r]*\r\n)(Call-ID)", "\\1To: <sip:alice@example.com>\r\n\\2"),
        "malformed.no-to",
        only="malformed.no-*",
    ),
    Wrong(
        "no Call-ID is no matter",
        repaired("^(To: [^\r]*\r\n)(CSeq)", "\\1Call-ID: 1\r\n\\2"),
        "malformed.no-call-id",
        only="malformed.no-*",
    ),
    Wrong(
        "no CSeq is no matter",
        repaired("^(Call-ID: [^\r]*\r\n)(Contact)", "\\1CSeq: 1 REGISTER\r\n\\2"),
        "malformed.no-cseq",
        only="malformed.no-*",
    ),
    Wrong(
        "no Via is no matter",
        repaired(
            "^(REGISTER [^\r]*\r\n)(Max)", "\\1Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1\r\n\\2"
        ),
        "malformed.no-via",
        only="malformed.no-*",
        options={"users": None},
    ),
    Wrong(
        "the method of CSeq is not looked at",
        repaired("^(REGISTER .*^CSeq: \\d+) OPTIONS", "\\1 REGISTER"),
        "malformed.cseq-method",
    ),
    Wrong(
        "any CSeq",
        repaired("^CSeq: 36893488147419103232", "CSeq: 1"),
        "malformed.cseq-number",
        only="malformed.cseq-number",
    ),
    Wrong(
        "the first of two Call-IDs counts",
        repaired("\r\nCall-ID: conformance-another", ""),
        "malformed.duplicates",
        only="malformed.duplicates",
    ),
    Wrong(
        "Content-Length is not looked at",
        repaired("^Content-Length: (500|-999)", "Content-Length: 0"),
        "malformed.content-length malformed.negative-length",
        only="malformed.*length",
    ),
    Wrong(
        "a Request-URI in brackets",
        repaired("^REGISTER <([^>]*)>", "REGISTER \\1"),
        "malformed.request-uri",
        only="malformed.request-uri",
        options={"users": None},
    ),
    Wrong(
        "any version", repaired("SIP/7.0", "SIP/2.0"), "malformed.version", only="malformed.version"
    ),
    Wrong(
        "another version is 400",
        replaced("^SIP/2.0 505.*\r$", "SIP/2.0 400 Bad Request\r"),
        lacks="malformed.version",
        only="malformed.version",
    ),
    Wrong(
        "a contact without its end",
        repaired("^(Contact: <[^>\r]*)\r", "\\1>\r"),
        "malformed.contact",
        only="malformed.contact",
    ),
    Wrong(
        "any q",
        both(repaired(";q=7", ""), replaced("(^Contact: <[^>]*>)", "\\1;q=7")),
        "malformed.q",
        only="malformed.q",
    ),
    Wrong("any To", repaired('^To: "Mr. Unfinished ', "To: "), "malformed.to", only="malformed.to"),
    Wrong(
        "a line without colon is the server's error",
        replaced("^SIP/2.0 400.*\r$", "SIP/2.0 500 Broken\r"),
        "malformed.header-line",
        only="malformed.header-line",
    ),
    Wrong(
        "what is cut off is carried out",
        repaired("(^Contact: [^\r]*)\\Z", "\\1>\r\n\r\n"),
        "malformed.no-empty-line",
        only="malformed.no-empty-line",
        options={"users": None},
    ),
    Wrong("dies of noise", deaf_after(b"HTTP/1.1"), "malformed.noise", only="malformed.noise"),
    Wrong(
        "answers responses",
        repaired("^SIP/2.0 200 OK", "OPTIONS sip:example.com SIP/2.0"),
        "malformed.stray-response",
        only="malformed.stray-response",
    ),
]


# -- transports -----------------------------------------------------------------------------------


def on_arrival(around: Callable[..., None]) -> Change:
    """``around(real, data, flow)`` in place of what is done with a message."""
    return lambda registrar: wrap_answering(registrar, "on_message", around)


def _sent_to(choose: Callable[[Any, Any], tuple[str, int]]) -> Change:
    """Sends answers elsewhere: ``choose(envelope, source)``."""

    def apply(registrar: Registrar) -> None:
        source = ("", 0)

        def look(real: Any, data: bytes, flow: Any) -> None:
            nonlocal source
            source = flow.source
            real(data, flow)

        def around(real: Any, envelope: Any, *args: Any, **kwargs: Any) -> bytes:
            envelope.destination = choose(envelope, source)
            data: bytes = real(envelope, *args, **kwargs)
            return data

        wrap_answering(registrar, "on_message", look)
        wrap_answering(registrar, "_reply", around)

    return apply


def _via_port(envelope: Any, source: tuple[str, int]) -> tuple[str, int]:
    return source[0], int(envelope.vias[0].partition(";")[0].rpartition(":")[2])


def _same_answer_for_a_branch(registrar: Registrar) -> None:
    """Takes branches that are no identifiers for ones that are."""
    answers: dict[bytes, bytes] = {}
    branch = b""

    def look(real: Any, data: bytes, flow: Any) -> None:
        nonlocal branch
        found = re.search(rb"branch=([^;\r]*)", data)
        branch = found[1] if found else b""
        if branch == b"1" and branch in answers:
            flow.send(answers[branch], flow.source)
        else:
            real(data, flow)

    def keep(code: int, data: bytes) -> bytes:
        answers[branch] = data
        return data

    both(on_arrival(look), outgoing(keep))(registrar)


def _forgets_transactions(registrar: Registrar) -> None:
    count = 0

    def look(data: bytes) -> bytes:
        nonlocal count
        count += 1
        return data.replace(b"branch=z9hG4bK", b"branch=z9hG4bK-%d-" % count)

    def restore(code: int, data: bytes) -> bytes:
        return re.sub(rb"branch=z9hG4bK-\d+-", b"branch=z9hG4bK", data)

    both(incoming(look), outgoing(restore))(registrar)


def _merges(registrar: Registrar) -> None:
    """Answers the second copy of a request with 482, as it should."""
    seen: dict[tuple[str, int], str] = {}

    def around(real: Any, request: Any, **kwargs: Any) -> Any:
        branch = request.parsed.via.params.get("branch") or ""
        first = seen.setdefault((request.call_id, request.cseq), branch)
        return (482, []) if first != branch else real(request, **kwargs)

    deciding(around)(registrar)


class OneInASegment(StreamFramer):
    """Sees one message in what arrives at once."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield from list(super().feed(data))[:1]


class SegmentsAreMessages(StreamFramer):
    """Takes what arrives at once for whole messages."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield from super().feed(data)
        if self._buffer:
            raise MalformedRequest("cut off")


class NoEmptyLines(StreamFramer):
    """Is confused by empty lines before a message."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data.startswith(b"\r\n") and data.strip():
            raise MalformedRequest("no request line")
        yield from super().feed(data)


class NoPings(StreamFramer):
    """Takes a ping for a broken message."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data == b"\r\n\r\n":
            raise MalformedRequest("no request line")
        yield from super().feed(data)


SERVER_FRAMER = "pjsip_py.testing.server.StreamFramer"


def _hangs_up(real: Any, data: bytes, flow: Any) -> None:
    real(data, flow)
    if flow.protocol == "tcp":
        flow.close()


def _by_transport(real: Any, data: bytes, flow: Any) -> None:
    """What comes over TCP is another AOR's."""
    if flow.protocol == "tcp":
        data = data.replace(b"To: <sip:alice@example.com>", b"To: <sip:alice@example.com:5070>")
    real(data, flow)


def _deaf_after_noise(registrar: Registrar) -> None:
    deaf = False

    def broken(real: Any, *args: Any) -> None:
        nonlocal deaf
        deaf = True
        real(*args)

    def listen(real: Any, data: bytes, flow: Any) -> None:
        if not deaf:
            real(data, flow)

    wrap_answering(registrar, "on_broken_stream", broken)
    wrap_answering(registrar, "on_message", listen)


def tls_context(*names: str, old: bool = False) -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts; with `old`, TLS 1.1 and below."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(*names).configure_cert(context)
    if old:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
    return context


TLS_TOO: Mapping[str, Any] = {"protocols": ("udp", "tcp", "tls")}
TRANSPORT = [
    Wrong("rport is not filled in", replaced(r";rport=\d+", ";rport"), "via.rport"),
    Wrong("no received", replaced(r";received=[^;\r]*", ""), "via.rport via.received"),
    Wrong("answers go to the port in Via", _sent_to(_via_port), "via.rport-route"),
    Wrong(
        "answers go where requests come from",
        _sent_to(lambda _, source: source),
        "via.sent-by-port",
    ),
    Wrong("any branch is an identifier", _same_answer_for_a_branch, "via.no-cookie"),
    Wrong(
        "transactions are forgotten",
        _forgets_transactions,
        "transaction.retransmission transaction.refused-again",
    ),
    Wrong("merged requests are seen", _merges, passes="transaction.merged"),
    Wrong(
        "one request in a segment",
        fails="stream.several-in-one stream.crlf-between",
        patches={SERVER_FRAMER: OneInASegment},
    ),
    Wrong(
        "segments are messages", fails="stream.split", patches={SERVER_FRAMER: SegmentsAreMessages}
    ),
    Wrong(
        "no empty lines",
        fails="stream.split stream.crlf-between",
        patches={SERVER_FRAMER: NoEmptyLines},
    ),
    Wrong(
        "a ping breaks the connection", fails="stream.keep-alive", patches={SERVER_FRAMER: NoPings}
    ),
    Wrong(
        "no pongs",
        lambda registrar: setattr(registrar, "answer_pings", False),
        lacks="stream.keep-alive",
        only="stream.keep-alive",
    ),
    Wrong(
        "Via names who is connected",
        incoming(lambda data: None if b"elsewhere.example:9" in data else data),
        "stream.same-connection",
    ),
    Wrong(
        "hangs up after each answer",
        on_arrival(_hangs_up),
        "stream.several-in-one stream.split stream.stays-open stream.crlf-between "
        "stream.keep-alive stream.one-location",
    ),
    Wrong(
        "no Content-Length",
        outgoing(lambda code, data: data.replace(b"Content-Length: 0\r\n", b""), after=ENTERING),
        "stream.content-length",
        only="stream.content-length",
    ),
    Wrong("bindings by transport", on_arrival(_by_transport), "stream.one-location"),
    Wrong(
        "dies of noise on a connection",
        _deaf_after_noise,
        "malformed.stream-noise",
        only="malformed.stream-noise",
    ),
    Wrong(
        "a certificate that nobody trusts",
        fails="tls.certificate",
        only="tls stack.tls",
        options={**TLS_TOO, "tls": tls_context("127.0.0.1")},
    ),
    Wrong(
        "TLS 1.1",
        fails="tls.old-versions",
        options={**TLS_TOO, "tls": tls_context("127.0.0.1", old=True)},
        target={"insecure": True},
    ),
    Wrong(
        "TLS is called TCP",
        replaced("SIP/2.0/TLS", "SIP/2.0/TCP"),
        "tls.registers",
        options=TLS_TOO,
    ),
]


# -- extensions -----------------------------------------------------------------------------------


def _one_flow(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    real(aor, [each.replace("reg-id=2", "reg-id=1") for each in contacts], **how)


def _no_flows(real: Any, aor: Any, contacts: list[str], **how: Any) -> None:
    real(aor, contacts, **{**how, "outbound": False})


def _new_gruus(registrar: Registrar) -> None:
    count = 0

    def change(code: int, data: bytes) -> bytes:
        nonlocal count
        count += 1
        return data.replace(b";gr=urn", b";gr=urn%d" % count)

    outgoing(change)(registrar)


EXTENSIONS = [
    Wrong("Path loses a part", replaced("^Path: <sip:second.*\r\n", ""), "path.kept"),
    Wrong("no Path", replaced("^Path: .*\r\n", ""), lacks="path.kept"),
    Wrong("Path must be supported", picky("\\A(?!.*^Supported).*^Path", 500), "path.unasked"),
    Wrong(
        "Path must be supported, and it is not said",
        picky("\\A(?!.*^Supported).*^Path", 420),
        "path.unasked",
    ),
    Wrong("no Service-Route", lacks="service-route.form", options={"service_route": ()}),
    Wrong(
        "a strict router",
        fails="service-route.form",
        options={"service_route": ("<sip:edge.example>",)},
    ),
    Wrong(
        "no outbound",
        lacks="outbound.registers outbound.replaces outbound.two-flows "
        "outbound.several-contacts outbound.flow-timer",
        options={"outbound": False},
    ),
    Wrong("the instance is lost", replaced(r";\+sip.instance=[^;]*", ""), "outbound.registers"),
    Wrong(
        "flows are ordinary bindings",
        updating(_no_flows),
        "outbound.replaces",
        lacks="outbound.several-contacts",
    ),
    Wrong("one flow for an instance", updating(_one_flow), "outbound.two-flows"),
    Wrong(
        "outbound is required of all",
        _at_start(200, "Require: outbound"),
        "outbound.no-instance outbound.not-asked",
    ),
    Wrong(
        "Flow-Timer: soon", replaced("^Flow-Timer: 60", "Flow-Timer: soon"), "outbound.flow-timer"
    ),
    Wrong("no Flow-Timer", lacks="outbound.flow-timer", options={"flow_timer": None}),
    Wrong("no GRUU", lacks="gruu.given gruu.stays gruu.not-asked", options={"gruu": False}),
    Wrong("a GRUU without gr", replaced(';gr=[^"]*', ""), "gruu.given"),
    Wrong("another public GRUU each time", _new_gruus, "gruu.stays"),
    Wrong(
        "one temporary GRUU",
        replaced('temp-gruu="[^"]*"', 'temp-gruu="sip:t@example.com;gr"'),
        lacks="gruu.stays",
    ),
    Wrong(
        "GRUUs for all", repaired("^User-Agent", "Supported: gruu\r\nUser-Agent"), "gruu.not-asked"
    ),
]

#: What the embedded registrar can, when it is told to.
MORE = [
    Wrong("OPTIONS tells all", _at_start(200, "Accept: application/sdp"), passes="method.options"),
    Wrong("Authentication-Info", passes="auth.info", options={"nextnonce": True}),
    Wrong("Bearer", passes="auth.bearer", options={"tokens": {}}),
    Wrong("several realms", passes="auth.several-realms", options={"proxy_realm": "edge"}),
    Wrong("a minimum", passes="expiry.too-brief", options={"min_expires": 60}),
]

#: All of them.
WRONG = [*BINDINGS, *EXPIRY, *AUTH, *SERVICE, *SYNTAX, *MALFORMED, *TRANSPORT, *EXTENSIONS, *MORE]
