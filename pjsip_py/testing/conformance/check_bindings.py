# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding, listing, refreshing and removing bindings."""

from __future__ import annotations

from .agent import Agent
from .check import NotApplicable, NotSupported, check
from .client import Reply


def two_contacts(ua: Agent, expires: int = 60) -> Reply:
    """Bind contacts 1 and 2, for a check of something else."""
    reply = ua.ask(ua.draft(ua.contact(1), ua.contact(2), expires=expires))
    if reply.code != 200 or len(ua.mine(reply)) != 2:
        raise NotApplicable(f"it does not bind two contacts: {reply.line}")
    return reply


@check("bindings.add", "RFC 3261 §10.3 step 7", "RFC 3261 §10.3 step 8")
def add(ua: Agent) -> None:
    """A contact is bound, and the 200 lists it."""
    ua.only(ua.register(ua.contact(), expires=60), 1)


@check("bindings.fetch", "RFC 3261 §10.2.3")
def fetch(ua: Agent) -> None:
    """A REGISTER without Contact lists the bindings and changes none."""
    ua.register(ua.contact(), expires=60)
    ua.only(ua.fetch(), 1)
    ua.only(ua.another().fetch(), 1)
    ua.only(ua.fetch(), 1)


@check("bindings.fetch-expires", "RFC 3261 §10.2.3")
def fetch_expires(ua: Agent) -> None:
    """An Expires header in a REGISTER without Contact changes nothing.

    Even with 0: without a Contact the list of bindings is left as it is.
    """
    ua.register(ua.contact(), expires=60)
    ua.want(ua.ask(ua.draft(expires=0)), 200)
    ua.only(ua.fetch(), 1)


@check("bindings.several", "RFC 3261 §10.2.1", "RFC 3261 §10.3 step 7")
def several(ua: Agent) -> None:
    """Several contacts in one request are all bound.

    A registrar may have a limit, and says so by refusing the request.
    """
    reply = ua.ask(ua.draft(ua.contact(1), ua.contact(2), ua.contact(3), expires=60))
    if reply.code in (403, 480, 500, 503):
        raise NotSupported(f"several contacts: {reply.line}")
    ua.only(ua.want(reply, 200), 1, 2, 3)


@check("bindings.several-in-one-line", "RFC 3261 §7.3.1", "RFC 3261 §20.10")
def in_one_line(ua: Agent) -> None:
    """Contacts separated by commas count as those on lines of their own."""
    two_contacts(ua)
    ua.register(ua.contact(1, ";expires=0"), ua.contact(2, ";expires=0"))
    reply = ua.register(f"{ua.contact(1)}, {ua.contact(2)}", expires=60)
    ua.only(reply, 1, 2)


@check("bindings.add-later", "RFC 3261 §10.2.1", "RFC 3261 §10.3 step 7")
def add_later(ua: Agent) -> None:
    """A second request adds its contact and leaves the first one bound."""
    two_contacts(ua)
    ua.register(ua.contact(2, ";expires=0"))
    ua.only(ua.register(ua.contact(2), expires=60), 1, 2)


@check("bindings.other-client", "RFC 3261 §10.2.1", "RFC 3261 §10.3 step 7")
def other_client(ua: Agent) -> None:
    """A client with another Call-ID adds its contact beside those of the first."""
    two_contacts(ua)
    ua.register(ua.contact(2, ";expires=0"))
    ua.another().register(ua.contact(2), expires=60)
    ua.only(ua.fetch(), 1, 2)


@check("bindings.refresh", "RFC 3261 §10.2.4", "RFC 3261 §10.3 step 7")
def refresh(ua: Agent) -> None:
    """Registering a contact again renews its binding instead of adding one."""
    (first,) = ua.only(ua.register(ua.contact(), expires=600), 1)
    (after,) = ua.only(ua.register(ua.contact(), expires=60), 1)
    left = after.expires or 0
    if (first.expires or 0) <= 60:
        raise NotApplicable(f"it grants no more than {first.expires} s")
    ua.must(left <= 60, f"refreshed for 60 s, listed with {left}")


@check("bindings.refresh-other-client", "RFC 3261 §10.3 step 7")
def refresh_by_another(ua: Agent) -> None:
    """A contact that comes with another Call-ID renews the binding as well."""
    ua.register(ua.contact(), expires=60)
    ua.another().register(ua.contact(), expires=600)
    ua.only(ua.fetch(), 1)


@check("bindings.remove", "RFC 3261 §10.2.2")
def remove(ua: Agent) -> None:
    """expires=0 on a contact removes that binding and no other."""
    two_contacts(ua)
    ua.only(ua.register(ua.contact(1, ";expires=0"), expires=60), 2)
    ua.only(ua.fetch(), 2)


@check("bindings.remove-header", "RFC 3261 §10.2.2", "RFC 3261 §10.2.1.1")
def remove_by_header(ua: Agent) -> None:
    """An Expires header of 0 removes the contacts in the request and no others."""
    two_contacts(ua)
    ua.only(ua.register(ua.contact(1), expires=0), 2)
    ua.only(ua.fetch(), 2)


@check("bindings.remove-and-add", "RFC 3261 §10.2.1", "RFC 3261 §10.2.2")
def remove_and_add(ua: Agent) -> None:
    """One request removes a contact and adds another."""
    ua.register(ua.contact(1), expires=60)
    ua.only(ua.register(ua.contact(1, ";expires=0"), ua.contact(2, ";expires=60")), 2)


@check("bindings.remove-unknown", "RFC 3261 §10.3 step 7", "RFC 3261 §10.2.2")
def remove_unknown(ua: Agent) -> None:
    """Removing a contact that is not bound is no error."""
    ua.only(ua.register(ua.contact(1, ";expires=0")), *())


@check("bindings.q", "RFC 3261 §10.2.1.2", "RFC 3261 §10.3 step 8")
def q_kept(ua: Agent) -> None:
    """The preference q of a contact is kept and given back."""
    (bound,) = ua.only(ua.register(ua.contact(1, ";q=0.3"), expires=60), 1)
    ua.must(bound.q == 0.3, f"the contact came with q=0.3 and is listed with q={bound.q}")


@check("bindings.q-changed", "RFC 3261 §10.2.4", "RFC 3261 §10.3 step 7")
def q_changed(ua: Agent) -> None:
    """A refresh with another q changes it."""
    ua.register(ua.contact(1, ";q=0.3"), expires=60)
    (bound,) = ua.only(ua.register(ua.contact(1, ";q=0.7"), expires=60), 1)
    ua.must(bound.q == 0.7, f"the contact came again with q=0.7 and is listed with q={bound.q}")


@check("bindings.parameters", "RFC 3840 §6", "RFC 3261 §20.10")
def parameters(ua: Agent) -> None:
    """Contact parameters that describe the user agent are kept and given back.

    Callee capabilities (RFC 3840) are for others to route by; a registrar that does not know of
    them may leave them out.
    """
    reply = ua.register(
        ua.contact(1, ';audio;mobility="fixed";+sip.x-conformance="yes"'), expires=60
    )
    (bound,) = ua.only(reply, 1)
    missing = [
        name
        for name, value in (("audio", ""), ("mobility", "fixed"), ("+sip.x-conformance", "yes"))
        if bound.params.get(name) != value
    ]
    ua.should(not missing, f"not given back: {', '.join(missing)}")


@check("bindings.uri-parameters", "RFC 3261 §10.3 step 8", "RFC 3261 §19.1.1", "RFC 4475 §3.3.13")
def uri_parameters(ua: Agent) -> None:
    """The contact's URI comes back with its own parameters."""
    (bound,) = ua.only(ua.register(f"<{ua.contact_uri(1, ';ob;line=a1-b2')}>", expires=60), 1)
    ua.must(
        ";line=a1-b2" in bound.uri and ";ob" in bound.uri,
        f"registered with ;ob;line=a1-b2, listed as {bound.uri}",
    )


@check("bindings.without-brackets", "RFC 3261 §20.10", "RFC 4475 §3.3.12")
def without_brackets(ua: Agent) -> None:
    """In a Contact without <> the parameters belong to the header, not to the URI."""
    host = ua.local
    uri = f"sip:{ua.mark}-1@{host}"
    (bound,) = ua.only(ua.register(f"{uri};q=0.5;expires=60"), 1)
    ua.must("q=" not in bound.uri, f"q became a part of the URI: {bound.uri}")
    ua.must((bound.expires or 0) <= 60, f"expires=60 was not read: {bound.expires} s are left")
    ua.only(ua.register(f"{uri};expires=0"), *())


@check("bindings.display-name", "RFC 3261 §20.10", "RFC 3261 §25.1", "RFC 4475 §3.1.1.1")
def display_name(ua: Agent) -> None:
    """A display name may hold commas, brackets, semicolons and escaped quotes."""
    name = '"Conformance, \\"the <suite>\\"; q=0.1"'
    (bound,) = ua.only(ua.register(f"{name} {ua.contact(1, ';q=0.6')}", expires=60), 1)
    ua.must(bound.q == 0.6, f"q=0.6 was not read past the display name: q={bound.q}")


@check("bindings.equal-uris", "RFC 3261 §19.1.4", "RFC 3261 §10.3 step 7")
def equal_uris(ua: Agent) -> None:
    """URIs that are equal by SIP's rules name one binding.

    The host is compared without regard to case, an escaped character with the plain one, and an
    unknown parameter counts only when both have it.
    """
    user, tail = ua.mark, f"@Host.Example:{ua.channel.local[1]}"
    escaped = f"%{ord(user[0]):02X}{user[1:]}"
    ua.register(f"<sip:{user}-1{tail}>", expires=60)
    for what, uri in (
        ("the host in another case", f"sip:{user}-1{tail.lower()}"),
        ("a character of the user escaped", f"sip:{escaped}-1{tail}"),
        ("an unknown parameter", f"sip:{user}-1{tail};line=7"),
    ):
        reply = ua.register(f"<{uri}>", expires=60)
        left = [each for each in reply.bindings if user[1:] in each.uri]
        ua.must(len(left) == 1, f"{what} made {len(left)} bindings of one")


@check("bindings.different-uris", "RFC 3261 §19.1.4", "RFC 3261 §10.3 step 7")
def different_uris(ua: Agent) -> None:
    """URIs that differ in the user's case, the port or the transport name different bindings."""
    two_contacts(ua)
    host = "host.example"
    first = f"sip:{ua.mark}-x@{host}:5070"
    for what, uri in (
        ("the user in another case", f"sip:{ua.mark}-X@{host}:5070"),
        ("another port", f"sip:{ua.mark}-x@{host}:5071"),
        ("another transport", f"sip:{ua.mark}-x@{host}:5070;transport=tcp"),
    ):
        ua.register(f"<{first}>", expires=60)
        reply = ua.register(f"<{uri}>", expires=60)
        uris = {each.uri for each in ua.mine(reply) if f"{ua.mark}-x@" in each.uri.lower()}
        ua.must(len(uris) == 2, f"{what}: {len(uris)} of 2 bindings are listed")
        ua.register(f"<{uri}>;expires=0", f"<{first}>;expires=0")


@check("bindings.other-scheme", "RFC 3261 §10.2.1", "RFC 3261 §20.10")
def other_scheme(ua: Agent) -> None:
    """A contact may be a URI of another kind: mailto:, tel:."""
    uri = f"mailto:{ua.mark}-1@host.example"
    reply = ua.ask(ua.draft(f"<{uri}>", expires=60))
    if reply.code != 200:
        raise NotSupported(f"a mailto: contact: {reply.line}")
    ua.must(ua.mine(reply), "the 200 does not list the mailto: contact")


@check("bindings.aor-canonical", "RFC 3261 §10.3 step 5", "RFC 3261 §19.1.4")
def aor_canonical(ua: Agent) -> None:
    """The AOR is the same with escaped characters and with URI parameters."""
    user, _, host = ua.target.aor.partition(":")[2].rpartition("@")
    escaped = f"{ua.target.scheme}:%{ord(user[0]):02X}{user[1:]}@{host}"
    for what, aor in (("escaped", escaped), ("with a parameter", f"{ua.target.aor};user=phone")):
        draft = ua.draft(ua.contact(), expires=60)
        draft.set("To", f"<{aor}>")
        ua.want(ua.ask(draft), 200, what=f"the AOR {what}")
        ua.only(ua.fetch(), 1)
        ua.register(ua.contact(1, ";expires=0"))


@check("bindings.all-listed", "RFC 3261 §10.3 step 8")
def all_listed(ua: Agent) -> None:
    """A 200 to whichever request lists all bindings, not only the request's."""
    two_contacts(ua)
    ua.only(ua.register(ua.contact(1), expires=60), 1, 2)


@check("bindings.none", "RFC 3261 §10.3 step 8", needs=("own AOR",))
def none(ua: Agent) -> None:
    """Without bindings the 200 has no Contact."""
    reply = ua.fetch()
    ua.must("Contact" not in reply.headers, "the 200 has a Contact, though nothing is bound")


# -- Contact: * -----------------------------------------------------------------------------------


@check("star.removes-all", "RFC 3261 §10.2.2", "RFC 3261 §10.3 step 6", needs=("own AOR",))
def star(ua: Agent) -> None:
    """Contact: * with Expires: 0 removes every binding."""
    ua.register(ua.contact(1), expires=60)
    ua.another().register(ua.contact(2), expires=60)
    reply = ua.register("*", expires=0)
    ua.must("Contact" not in reply.headers, "bindings are listed after all were removed")
    ua.only(ua.fetch(), *())


def _star_refused(ua: Agent, *contacts: str, expires: int | None, what: str) -> None:
    ua.register(ua.contact(), expires=60)
    reply = ua.ask(ua.draft(*contacts, expires=expires))
    ua.only(ua.fetch(), 1)
    ua.want(reply, 400, what=what)


@check("star.with-others", "RFC 3261 §10.3 step 6", needs=("own AOR",))
def star_with_others(ua: Agent) -> None:
    """Contact: * beside other contacts is a 400, and changes nothing."""
    _star_refused(ua, "*", ua.contact(2), expires=0, what="* beside a contact")


@check("star.expires-not-zero", "RFC 3261 §10.3 step 6", "RFC 3261 §10.2.2", needs=("own AOR",))
def star_expires(ua: Agent) -> None:
    """Contact: * with another Expires than 0 is a 400, and changes nothing."""
    _star_refused(ua, "*", expires=60, what="* with Expires: 60")


@check("star.no-expires", "RFC 3261 §10.3 step 6", "RFC 3261 §10.2.2", needs=("own AOR",))
def star_no_expires(ua: Agent) -> None:
    """Contact: * without Expires is a 400, and changes nothing."""
    _star_refused(ua, "*", expires=None, what="* without Expires")
