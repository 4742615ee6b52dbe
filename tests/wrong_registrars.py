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
    fails: str = ""
    lacks: str = ""
    passes: str = ""
    only: str = ""  # groups or ids to run; default: the groups of what is expected
    change: Change | None = None
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
        return sorted(self.expected)


# -- ways to change a registrar -------------------------------------------------------------------


def wrap(thing: object, name: str, around: Callable[..., Any]) -> None:
    """Put ``around(real, *args, **kwargs)`` in the place of a method."""
    real = getattr(thing, name)
    setattr(thing, name, lambda *args, **kwargs: around(real, *args, **kwargs))


def location_of(registrar: Registrar) -> LocationService:
    return registrar._service.location


def incoming(change: Callable[[bytes], bytes | None]) -> Change:
    """Change what arrives, None: it is lost."""

    def around(real: Any, data: bytes, flow: Any) -> None:
        new = change(data)
        if new is not None:
            real(new, flow)

    return lambda registrar: wrap(registrar, "on_message", around)


def outgoing(change: Callable[[int, bytes], bytes], *, after: int = 0) -> Change:
    """Change the answers, but not the first ones: ``change(code, data)``."""

    def apply(registrar: Registrar) -> None:
        count = 0

        def around(real: Any, envelope: Any, code: int, *args: Any, **kwargs: Any) -> bytes:
            nonlocal count
            count += 1
            data = real(envelope, code, *args, **kwargs)
            return data if count <= after else change(code, data)

        wrap(registrar, "_reply", around)

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
    for each in contacts or [None]:
        real(aor, [] if each is None else [each], **how)


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
        fails="bindings.equal-uris",
        only="bindings.equal-uris",
        change=updating(_as_text),
    ),
    Wrong(
        "binds nothing",
        fails="bindings.add bindings.fetch bindings.fetch-expires bindings.several bindings.refresh bindings.refresh-other-client bindings.remove-and-add bindings.q bindings.q-changed bindings.parameters bindings.uri-parameters bindings.without-brackets bindings.display-name bindings.equal-uris bindings.other-scheme bindings.aor-canonical",
        only="bindings",
        change=updating(_forgets),
    ),
    Wrong(
        "binds nothing, as the real stack sees it",
        fails="stack.udp stack.tcp stack.tls auth.right tls.registers",
        only="stack tls.registers auth.right",
        change=updating(_forgets),
        options={"protocols": ("udp", "tcp", "tls")},
    ),
    Wrong(
        "a contact takes the place of all others",
        fails="bindings.add-later bindings.other-client bindings.remove bindings.remove-header bindings.different-uris bindings.all-listed",
        only="bindings",
        change=updating(_replaces),
    ),
    Wrong(
        "the first contact of a line counts",
        fails="bindings.several-in-one-line",
        only="bindings",
        change=deciding(_one_line_is_one),
    ),
    Wrong(
        "the first contact of a request counts",
        fails="bindings.several bindings.remove-and-add",
        only="bindings.several bindings.remove-and-add",
        change=updating(_first_only),
    ),
    Wrong(
        "a client takes the place of another",
        fails="bindings.other-client",
        only="bindings.other-client bindings.add-later",
        change=updating(_one_client),
    ),
    Wrong(
        "a fetch removes",
        fails="bindings.fetch bindings.fetch-expires",
        only="bindings.fetch bindings.fetch-expires",
        change=updating(_fetch_removes),
    ),
    Wrong(
        "Expires: 0 without Contact removes",
        fails="bindings.fetch-expires",
        only="bindings",
        change=updating(_expires_0_removes),
    ),
    Wrong(
        "never removes",
        fails="bindings.remove bindings.remove-header bindings.remove-and-add bindings.remove-unknown expiry.zero-wins",
        only="bindings.remove* expiry.zero-wins",
        change=updating(_never_removes),
    ),
    Wrong(
        "a removal removes all",
        fails="bindings.remove bindings.remove-header bindings.remove-and-add",
        only="bindings.remove*",
        change=updating(_removes_all),
    ),
    Wrong(
        "removing what is not bound is an error",
        fails="bindings.remove-unknown",
        only="bindings.remove*",
        change=updating(_unknown_is_error),
    ),
    Wrong(
        "q stays as it was",
        fails="bindings.q-changed",
        only="bindings",
        change=updating(_keeps_parameters),
    ),
    Wrong(
        "refreshes are lost",
        fails="bindings.refresh bindings.q-changed",
        only="bindings",
        change=updating(_no_refresh),
    ),
    Wrong(
        "a binding for each Call-ID",
        fails="bindings.refresh-other-client",
        only="bindings.refresh*",
        change=updating(_by_call_id),
    ),
    Wrong(
        "lists the contacts of the request alone",
        fails="bindings.all-listed",
        only="bindings.all-listed",
        change=deciding(_own_listed),
    ),
    Wrong(
        "the AOR is compared as text",
        fails="bindings.aor-canonical",
        only="bindings",
        change=_raw_aor,
    ),
    Wrong(
        "q is not given back",
        fails="bindings.q bindings.q-changed bindings.display-name",
        only="bindings",
        change=replaced(r";q=[\d.]+", ""),
    ),
    Wrong(
        "parameters are not given back",
        lacks="bindings.parameters",
        only="bindings",
        change=replaced(r";audio;mobility=[^;]+", ""),
    ),
    Wrong(
        "the URI loses its parameters",
        fails="bindings.uri-parameters",
        only="bindings",
        change=replaced(r";ob;line=a1-b2>", ">"),
    ),
    Wrong(
        "the header's parameters become the URI's",
        fails="bindings.without-brackets",
        only="bindings",
        change=repaired(r"^Contact: (sip:[^\r]*)", r"Contact: <\1>"),
    ),
    Wrong(
        "quotes in a contact are not understood",
        fails="bindings.display-name",
        only="bindings",
        change=picky('^Contact: "'),
    ),
    Wrong(
        "no other contacts than SIP URIs",
        lacks="bindings.other-scheme",
        only="bindings",
        change=picky("^Contact: <mailto"),
    ),
    Wrong(
        "others than SIP URIs are lost",
        fails="bindings.other-scheme",
        only="bindings",
        change=repaired(r"^Contact: <mailto[^\r]*\r\n", ""),
    ),
    Wrong(
        "a contact out of nowhere",
        fails="bindings.none",
        only="bindings.none",
        change=outgoing(_out_of_nowhere, after=ENTERING),
    ),
    Wrong(
        "* is ignored",
        fails="star.removes-all star.with-others star.expires-not-zero star.no-expires",
        only="star",
        change=updating(_ignores_star),
    ),
    Wrong(
        "* is taken as it comes",
        fails="star.with-others star.expires-not-zero star.no-expires",
        only="star",
        change=updating(_any_star),
    ),
    Wrong(
        "the order does not matter",
        fails="order.late-refresh order.late-removal order.late-star order.same-cseq atomic.late-contact",
        only="order atomic",
        change=updating(_no_order),
    ),
    Wrong(
        "what is late is answered with 200",
        fails="order.late-refresh order.late-removal order.late-star order.same-cseq atomic.late-contact",
        only="order atomic",
        change=updating(_late_is_ok),
    ),
    Wrong(
        "one order for all Call-IDs",
        fails="order.other-call-id",
        only="order",
        change=updating(_one_call_id),
    ),
    Wrong(
        "CSeq must go up by one",
        fails="order.gap",
        only="order.gap order.other-call-id",
        change=_no_gap,
    ),
    Wrong(
        "the good contacts of a bad request are bound",
        fails="atomic.late-contact atomic.malformed-contact",
        only="atomic",
        change=updating(_one_by_one),
    ),
]

EXPIRY = [
    Wrong(
        "the time does not run down",
        fails="expiry.counts-down",
        only="expiry",
        change=deciding(_always_fresh),
    ),
    Wrong(
        "expires is not listed",
        fails="expiry.listed expiry.header expiry.default",
        only="expiry.listed expiry.header expiry.default",
        change=replaced(r"(Contact: .*);expires=\d+", r"\1"),
    ),
    Wrong(
        "grants two hours",
        fails="expiry.header expiry.parameter-first expiry.each-its-own expiry.not-more-than-asked expiry.nonzero-wins expiry.malformed",
        only="expiry",
        change=_listed_expires("7200"),
    ),
    Wrong(
        "grants 0",
        fails="expiry.header expiry.default expiry.nonzero-wins",
        only="expiry.default expiry.header expiry.nonzero-wins",
        change=_listed_expires("0"),
    ),
    Wrong(
        "the Expires header wins",
        fails="expiry.parameter-first expiry.zero-wins expiry.nonzero-wins",
        only="expiry",
        change=updating(_header_wins),
    ),
    Wrong(
        "the default is 0", fails="expiry.default", only="expiry", change=updating(_default_zero)
    ),
    Wrong(
        "large numbers wrap around",
        fails="expiry.too-large",
        only="expiry",
        change=_expires_text(_wraps),
    ),
    Wrong(
        "large numbers are negative",
        fails="expiry.largest",
        only="expiry",
        change=_expires_text(_signed),
    ),
    Wrong(
        "a malformed time is 0",
        fails="expiry.malformed",
        only="expiry",
        change=_expires_text(_bad_is_zero),
    ),
    Wrong(
        "a malformed time is an error",
        lacks="expiry.malformed",
        only="expiry",
        change=updating(_bad_is_an_error),
    ),
    Wrong(
        "423 without Min-Expires",
        fails="expiry.too-brief",
        only="expiry",
        change=replaced(r"^Min-Expires: .*\r\n", ""),
        options={"min_expires": 60},
    ),
    Wrong(
        "Min-Expires is too low",
        fails="expiry.too-brief",
        only="expiry",
        change=replaced("^Min-Expires: .*", "Min-Expires: 30\r"),
        options={"min_expires": 60},
    ),
    Wrong(
        "0 is too brief",
        fails="expiry.zero-not-too-brief",
        only="expiry.zero-not-too-brief",
        change=updating(_zero_too_brief),
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
        fails="auth.unproven auth.wrong-password",
        only="auth.unproven auth.wrong-password",
        change=deciding(_binds_first),
    ),
    Wrong(
        "any digest will do",
        fails="auth.not-offered auth.wrong-password auth.unknown-user auth.other-realm auth.other-nonce auth.digest-uri auth.digest-method auth.no-cnonce auth.incomplete auth.several-credentials",
        lacks="auth.replay",
        only="auth",
        change=checking(_any_digest),
    ),
    Wrong(
        "credentials without cnonce will do",
        fails="auth.no-cnonce auth.incomplete",
        only="auth",
        change=checking(_leaves_out("cnonce", "nc")),
    ),
    Wrong(
        "incomplete credentials will do",
        fails="auth.no-cnonce auth.incomplete",
        only="auth",
        change=checking(_leaves_out("have no")),
    ),
    Wrong(
        "any realm will do",
        fails="auth.other-realm auth.several-credentials",
        only="auth",
        change=checking(_leaves_out("realm")),
    ),
    Wrong(
        "the digest's URI is not looked at",
        fails="auth.digest-uri",
        only="auth",
        change=checking(_other_uri),
    ),
    Wrong(
        "the digest's method is not looked at",
        fails="auth.digest-method",
        only="auth",
        change=checking(_other_method),
    ),
    Wrong(
        "nonces are not looked at",
        fails="auth.other-nonce",
        lacks="auth.replay",
        only="auth",
        change=checking(_stale_is_ok),
    ),
    Wrong(
        "a stale nonce is not called so",
        fails="auth.count-on",
        lacks="auth.replay-stale",
        only="auth",
        change=checking(_stale_is_denied),
        options={"nonce_uses": 1},
    ),
    Wrong(
        "a wrong password is called stale",
        fails="auth.wrong-password",
        only="auth",
        change=checking(_denied_is_stale),
    ),
    Wrong(
        "an algorithm that does not work",
        fails="auth.algorithms-work",
        only="auth",
        change=checking(_no_sha256),
    ),
    Wrong(
        "MD5 is taken though not offered",
        fails="auth.not-offered",
        only="auth",
        change=checking(_weak_too),
    ),
    Wrong("MD5 alone", lacks="auth.algorithms", only="auth", options={"algorithms": ("MD5",)}),
    Wrong(
        "the weakest algorithm first",
        fails="auth.algorithms",
        only="auth",
        options={"algorithms": ("SHA-256", "SHA-512-256")},
    ),
    Wrong("no qop", fails="auth.qop", only="auth", options={"qop": None}),
    Wrong(
        "a realm without quotes",
        fails="auth.challenge",
        only="auth.challenge",
        change=replaced('realm="example.com"', "realm=example.com"),
    ),
    Wrong(
        "an algorithm in quotes",
        fails="auth.challenge",
        only="auth.challenge",
        change=replaced("algorithm=(SHA[^,]*)", r'algorithm="\1"'),
    ),
    Wrong(
        "stale at once",
        fails="auth.challenge",
        only="auth.challenge",
        change=replaced('qop="auth"\r$', 'qop="auth", stale=true\r'),
    ),
    Wrong(
        "one nonce for all",
        lacks="auth.replay auth.nonces-differ",
        only="auth",
        options={"nonce": "always", "nc_check": None},
    ),
    Wrong(
        "a stale nonce is given again",
        fails="auth.replay-stale",
        only="auth.replay-stale auth.replay",
        change=_same_nonce,
    ),
    Wrong(
        "who does not exist gets 400",
        fails="auth.several-credentials",
        lacks="auth.unknown-user",
        only="auth",
        change=checking(_unknown_users_differ),
    ),
    Wrong(
        "parameter names in capitals are not known",
        fails="auth.spelling",
        only="auth",
        change=picky("^Authorization: dIGEST", 401),
    ),
    Wrong(
        "the first credentials count",
        fails="auth.several-credentials",
        only="auth",
        change=deciding(_first_credentials),
    ),
    Wrong(
        "one of two realms at a time",
        fails="auth.several-realms",
        only="auth.several-realms",
        change=picky("^Authorization.*^Proxy-Auth", 500),
        options={"proxy_realm": "edge"},
    ),
    Wrong(
        "any user registers any AOR",
        fails="auth.other-aor",
        only="auth",
        options={"own_aor": False},
    ),
    Wrong(
        "a wrong rspauth",
        fails="auth.info",
        only="auth.info",
        change=_at_start(200, 'Authentication-Info: rspauth="00"'),
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
        fails="answer.copies",
        only="answer.copies",
        change=replaced(";branch=[^;\r]*", ""),
    ),
    Wrong(
        "From comes back changed", fails="answer.copies", only="answer", change=outgoing(_mangled)
    ),
    Wrong(
        "To without a tag",
        fails="answer.copies",
        only="answer",
        change=replaced("^(To: .*);tag=.*\r$", "\\1\r"),
    ),
    Wrong(
        "the first Via alone",
        fails="answer.vias",
        only="answer",
        change=replaced("^Via: SIP/2.0/UDP proxy.*\r\n", ""),
    ),
    Wrong("no Date", lacks="answer.date", only="answer", change=replaced("^Date: .*\r\n", "")),
    Wrong(
        "a Date of its own",
        fails="answer.date",
        only="answer",
        change=replaced("^Date: .*\r$", "Date: today\r"),
    ),
    Wrong(
        "Record-Route comes back",
        lacks="answer.no-record-route",
        only="answer",
        change=_at_start(200, "Record-Route: <sip:a.example;lr>"),
    ),
    Wrong("no OPTIONS", lacks="method.options", change=for_method("OPTIONS", 405)),
    Wrong(
        "405 without Allow",
        fails="method.unknown",
        only="method",
        change=replaced("^Allow: .*\r\n", ""),
    ),
    Wrong(
        "methods in any case",
        fails="method.case",
        only="method",
        change=repaired("^register sip:(.*)^(CSeq: \\d+) register", "REGISTER sip:\\1\\2 REGISTER"),
        options={"users": None},
    ),
    Wrong("ACK is answered", fails="method.stray-ack", only="method", change=_answers_ack),
    Wrong(
        "CANCEL is answered with 200",
        fails="method.stray-cancel",
        only="method",
        change=for_method("CANCEL", 200),
    ),
    Wrong(
        "CANCEL is not known",
        lacks="method.stray-cancel",
        only="method",
        change=for_method("CANCEL", 405),
    ),
    Wrong(
        "Require is ignored",
        fails="extension.require extension.require-several",
        only="extension",
        change=deciding(_no_require),
    ),
    Wrong(
        "Unsupported names one",
        fails="extension.require-several",
        only="extension",
        change=replaced("^(Unsupported: [^,\r]*),.*", "\\1\r"),
    ),
    Wrong(
        "420 without Unsupported",
        fails="extension.require extension.require-several extension.proxy-require",
        only="extension",
        change=both(for_header("Proxy-Require", 420), replaced("^Unsupported: .*\r\n", "")),
    ),
    Wrong(
        "what is supported is required",
        fails="extension.supported",
        only="extension",
        change=_at_start(200, "Require: 100rel"),
    ),
    Wrong("any domain", fails="aor.other-domain", only="aor uri", options={"domains": None}),
    Wrong(
        "no third parties",
        lacks="aor.third-party",
        only="aor",
        change=picky("^From: <sip:assistant", 403),
    ),
    Wrong(
        "From must be To",
        fails="aor.third-party",
        only="aor",
        change=picky("^From: <sip:assistant", 500),
    ),
    Wrong(
        "a To tag is an error of the server",
        fails="aor.to-tag",
        only="aor",
        change=picky("^To: .*;tag=", 500),
    ),
    Wrong(
        "no bodies",
        fails="body.unknown body.optional",
        only="body",
        change=for_header("Content-Type", 415),
    ),
    Wrong(
        "a Request-URI of any scheme",
        fails="uri.scheme",
        only="uri",
        change=repaired("^(REGISTER) conformance:nothing", "\\1 sip:example.com"),
        options={"users": None},
    ),
    Wrong(
        "404 for an unknown scheme",
        lacks="uri.scheme",
        only="uri",
        change=replaced("^SIP/2.0 416.*\r$", "SIP/2.0 404 Not Found\r"),
    ),
    Wrong(
        "a To of any scheme",
        fails="uri.to-scheme",
        only="uri",
        change=repaired("^To: <mailto:[^>]*>", "To: <sip:alice@example.com>"),
    ),
]

SYNTAX = [
    Wrong(name, fails=check, only="syntax", change=picky(pattern))
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
    Wrong(
        "Date must be a date",
        lacks="syntax.bad-but-unneeded",
        only="syntax",
        change=picky("^Date: yes"),
    ),
    Wrong(
        "dies of Latin-1",
        fails="syntax.not-utf8",
        only="syntax.not-utf8",
        change=deaf_after(b"caf\xe9"),
    ),
    Wrong(
        "long headers are the server's error",
        fails="syntax.long-header",
        only="syntax.long-header",
        change=picky("(long ){100}", 500),
    ),
    Wrong(
        "Max-Forwards or nothing",
        fails="syntax.no-max-forwards",
        only="syntax.no-max-forwards",
        change=picky("^Via: [^\r]*\r\nFrom", 500),
    ),
    Wrong(
        "a Date of any kind is the server's error",
        lacks="syntax.bad-but-unneeded",
        only="syntax.bad-but-unneeded",
        change=picky("^Date: yes", 500),
    ),
    Wrong(
        "escapes are undone",
        fails="syntax.escaped-user",
        only="syntax",
        change=replaced("%20%41", "%20A"),
    ),
    Wrong(
        "what follows the body is part of it",
        fails="syntax.trailing",
        only="syntax",
        change=picky("something more", 400),
    ),
]

_HEAD = "(REGISTER sip:example.com SIP/2.0\r\n)"
MALFORMED = [
    Wrong(
        "no From is no matter",
        fails="malformed.no-from",
        only="malformed.no-*",
        change=repaired(
            "^(Max-Forwards: 70\r\n)(To: )", "\\1From: <sip:alice@example.com>;tag=1\r\n\\2"
        ),
    ),
    Wrong(
        "no To is no matter",
        fails="malformed.no-to",
        only="malformed.no-*",
        change=repaired("^(From: [^\r]*\r\n)(Call-ID)", "\\1To: <sip:alice@example.com>\r\n\\2"),
    ),
    Wrong(
        "no Call-ID is no matter",
        fails="malformed.no-call-id",
        only="malformed.no-*",
        change=repaired("^(To: [^\r]*\r\n)(CSeq)", "\\1Call-ID: 1\r\n\\2"),
    ),
    Wrong(
        "no CSeq is no matter",
        fails="malformed.no-cseq",
        only="malformed.no-*",
        change=repaired("^(Call-ID: [^\r]*\r\n)(Contact)", "\\1CSeq: 1 REGISTER\r\n\\2"),
    ),
    Wrong(
        "no Via is no matter",
        fails="malformed.no-via",
        only="malformed.no-*",
        change=repaired(
            "^(REGISTER [^\r]*\r\n)(Max)", "\\1Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1\r\n\\2"
        ),
        options={"users": None},
    ),
    Wrong(
        "the method of CSeq is not looked at",
        fails="malformed.cseq-method",
        only="malformed",
        change=repaired("^(REGISTER .*^CSeq: \\d+) OPTIONS", "\\1 REGISTER"),
    ),
    Wrong(
        "any CSeq",
        fails="malformed.cseq-number",
        only="malformed.cseq-number",
        change=repaired("^CSeq: 36893488147419103232", "CSeq: 1"),
    ),
    Wrong(
        "the first of two Call-IDs counts",
        fails="malformed.duplicates",
        only="malformed.duplicates",
        change=repaired("\r\nCall-ID: conformance-another", ""),
    ),
    Wrong(
        "Content-Length is not looked at",
        fails="malformed.content-length malformed.negative-length",
        only="malformed.*length",
        change=repaired("^Content-Length: (500|-999)", "Content-Length: 0"),
    ),
    Wrong(
        "a Request-URI in brackets",
        fails="malformed.request-uri",
        only="malformed.request-uri",
        change=repaired("^REGISTER <([^>]*)>", "REGISTER \\1"),
        options={"users": None},
    ),
    Wrong(
        "any version",
        fails="malformed.version",
        only="malformed.version",
        change=repaired("SIP/7.0", "SIP/2.0"),
    ),
    Wrong(
        "another version is 400",
        lacks="malformed.version",
        only="malformed.version",
        change=replaced("^SIP/2.0 505.*\r$", "SIP/2.0 400 Bad Request\r"),
    ),
    Wrong(
        "a contact without its end",
        fails="malformed.contact",
        only="malformed.contact",
        change=repaired("^(Contact: <[^>\r]*)\r", "\\1>\r"),
    ),
    Wrong(
        "any q",
        fails="malformed.q",
        only="malformed.q",
        change=both(repaired(";q=7", ""), replaced("(^Contact: <[^>]*>)", "\\1;q=7")),
    ),
    Wrong(
        "any To",
        fails="malformed.to",
        only="malformed.to",
        change=repaired('^To: "Mr. Unfinished ', "To: "),
    ),
    Wrong(
        "a line without colon is the server's error",
        fails="malformed.header-line",
        only="malformed.header-line",
        change=replaced("^SIP/2.0 400.*\r$", "SIP/2.0 500 Broken\r"),
    ),
    Wrong(
        "what is cut off is carried out",
        fails="malformed.no-empty-line",
        only="malformed.no-empty-line",
        change=repaired("(^Contact: [^\r]*)\\Z", "\\1>\r\n\r\n"),
        options={"users": None},
    ),
    Wrong(
        "dies of noise",
        fails="malformed.noise",
        only="malformed.noise",
        change=deaf_after(b"HTTP/1.1"),
    ),
    Wrong(
        "answers responses",
        fails="malformed.stray-response",
        only="malformed.stray-response",
        change=repaired("^SIP/2.0 200 OK", "OPTIONS sip:example.com SIP/2.0"),
    ),
]


# -- transports -----------------------------------------------------------------------------------


def on_arrival(around: Callable[..., None]) -> Change:
    """``around(real, data, flow)`` in place of what is done with a message."""
    return lambda registrar: wrap(registrar, "on_message", around)


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

        wrap(registrar, "on_message", look)
        wrap(registrar, "_reply", around)

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

    wrap(registrar, "on_broken_stream", broken)
    wrap(registrar, "on_message", listen)


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
    Wrong(
        "rport is not filled in",
        fails="via.rport",
        only="via",
        change=replaced(r";rport=\d+", ";rport"),
    ),
    Wrong(
        "no received",
        fails="via.rport via.received",
        only="via",
        change=replaced(r";received=[^;\r]*", ""),
    ),
    Wrong(
        "answers go to the port in Via",
        fails="via.rport-route",
        only="via",
        change=_sent_to(_via_port),
    ),
    Wrong(
        "answers go where requests come from",
        fails="via.sent-by-port",
        only="via",
        change=_sent_to(lambda _, source: source),
    ),
    Wrong(
        "any branch is an identifier",
        fails="via.no-cookie",
        only="via",
        change=_same_answer_for_a_branch,
    ),
    Wrong(
        "transactions are forgotten",
        fails="transaction.retransmission transaction.refused-again",
        only="transaction",
        change=_forgets_transactions,
    ),
    Wrong("merged requests are seen", passes="transaction.merged", change=_merges),
    Wrong(
        "one request in a segment",
        fails="stream.several-in-one stream.crlf-between",
        only="stream",
        patches={SERVER_FRAMER: OneInASegment},
    ),
    Wrong(
        "segments are messages",
        fails="stream.split",
        only="stream",
        patches={SERVER_FRAMER: SegmentsAreMessages},
    ),
    Wrong(
        "no empty lines",
        fails="stream.split stream.crlf-between",
        only="stream",
        patches={SERVER_FRAMER: NoEmptyLines},
    ),
    Wrong(
        "a ping breaks the connection",
        fails="stream.keep-alive",
        only="stream",
        patches={SERVER_FRAMER: NoPings},
    ),
    Wrong(
        "no pongs",
        lacks="stream.keep-alive",
        only="stream.keep-alive",
        change=lambda registrar: setattr(registrar, "answer_pings", False),
    ),
    Wrong(
        "Via names who is connected",
        fails="stream.same-connection",
        only="stream",
        change=incoming(lambda data: None if b"elsewhere.example:9" in data else data),
    ),
    Wrong(
        "hangs up after each answer",
        fails="stream.several-in-one stream.split stream.stays-open stream.crlf-between stream.keep-alive stream.one-location",
        only="stream",
        change=on_arrival(_hangs_up),
    ),
    Wrong(
        "no Content-Length",
        fails="stream.content-length",
        only="stream.content-length",
        change=outgoing(
            lambda code, data: data.replace(b"Content-Length: 0\r\n", b""), after=ENTERING
        ),
    ),
    Wrong(
        "bindings by transport",
        fails="stream.one-location",
        only="stream",
        change=on_arrival(_by_transport),
    ),
    Wrong(
        "dies of noise on a connection",
        fails="malformed.stream-noise",
        only="malformed.stream-noise",
        change=_deaf_after_noise,
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
        only="tls",
        options={**TLS_TOO, "tls": tls_context("127.0.0.1", old=True)},
        target={"insecure": True},
    ),
    Wrong(
        "TLS is called TCP",
        fails="tls.registers",
        only="tls",
        change=replaced("SIP/2.0/TLS", "SIP/2.0/TCP"),
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
    Wrong(
        "Path loses a part",
        fails="path.kept",
        only="path",
        change=replaced("^Path: <sip:second.*\r\n", ""),
    ),
    Wrong("no Path", lacks="path.kept", only="path", change=replaced("^Path: .*\r\n", "")),
    Wrong(
        "Path must be supported",
        fails="path.unasked",
        only="path",
        change=picky("\\A(?!.*^Supported).*^Path", 500),
    ),
    Wrong(
        "Path must be supported, and it is not said",
        fails="path.unasked",
        only="path",
        change=picky("\\A(?!.*^Supported).*^Path", 420),
    ),
    Wrong(
        "no Service-Route",
        lacks="service-route.form",
        only="service-route",
        options={"service_route": ()},
    ),
    Wrong(
        "a strict router",
        fails="service-route.form",
        only="service-route",
        options={"service_route": ("<sip:edge.example>",)},
    ),
    Wrong(
        "no outbound",
        lacks="outbound.registers outbound.replaces outbound.two-flows outbound.several-contacts outbound.flow-timer",
        only="outbound",
        options={"outbound": False},
    ),
    Wrong(
        "the instance is lost",
        fails="outbound.registers",
        only="outbound",
        change=replaced(r";\+sip.instance=[^;]*", ""),
    ),
    Wrong(
        "flows are ordinary bindings",
        fails="outbound.replaces",
        lacks="outbound.several-contacts",
        only="outbound",
        change=updating(_no_flows),
    ),
    Wrong(
        "one flow for an instance",
        fails="outbound.two-flows",
        only="outbound",
        change=updating(_one_flow),
    ),
    Wrong(
        "outbound is required of all",
        fails="outbound.no-instance outbound.not-asked",
        only="outbound",
        change=_at_start(200, "Require: outbound"),
    ),
    Wrong(
        "Flow-Timer: soon",
        fails="outbound.flow-timer",
        only="outbound",
        change=replaced("^Flow-Timer: 60", "Flow-Timer: soon"),
    ),
    Wrong(
        "no Flow-Timer", lacks="outbound.flow-timer", only="outbound", options={"flow_timer": None}
    ),
    Wrong(
        "no GRUU",
        lacks="gruu.given gruu.stays gruu.not-asked",
        only="gruu",
        options={"gruu": False},
    ),
    Wrong("a GRUU without gr", fails="gruu.given", only="gruu", change=replaced(';gr=[^"]*', "")),
    Wrong("another public GRUU each time", fails="gruu.stays", only="gruu", change=_new_gruus),
    Wrong(
        "one temporary GRUU",
        lacks="gruu.stays",
        only="gruu",
        change=replaced('temp-gruu="[^"]*"', 'temp-gruu="sip:t@example.com;gr"'),
    ),
    Wrong(
        "GRUUs for all",
        fails="gruu.not-asked",
        only="gruu",
        change=repaired("^User-Agent", "Supported: gruu\r\nUser-Agent"),
    ),
]

#: What the embedded registrar can, when it is told to.
MORE = [
    Wrong(
        "OPTIONS tells all",
        passes="method.options",
        change=_at_start(200, "Accept: application/sdp"),
    ),
    Wrong("Authentication-Info", passes="auth.info", options={"nextnonce": True}),
    Wrong("Bearer", passes="auth.bearer", options={"tokens": {}}),
    Wrong("several realms", passes="auth.several-realms", options={"proxy_realm": "edge"}),
    Wrong("a minimum", passes="expiry.too-brief", options={"min_expires": 60}),
]

#: All of them.
WRONG = [*BINDINGS, *EXPIRY, *AUTH, *SERVICE, *SYNTAX, *MALFORMED, *TRANSPORT, *EXTENSIONS, *MORE]
