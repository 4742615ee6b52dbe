# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a binding lasts."""

from __future__ import annotations

from .agent import Agent
from .check import NotApplicable, NotSupported, check
from .check_bindings import two_contacts


def granted(ua: Agent, params: str = "", expires: int | str | None = None) -> int:
    """Bind contact 1; the seconds that it got."""
    (bound,) = ua.only(ua.register(ua.contact(1, params), expires=expires), 1)
    ua.must(bound.expires is not None, "the contact is listed without expires")
    return bound.expires or 0


@check("expiry.listed", "RFC 3261 §10.3 step 8")
def listed(ua: Agent) -> None:
    """Each contact in a 200 has an expires parameter of its own."""
    for reply in (ua.register(ua.contact(1), expires=60), ua.fetch()):
        for value in reply.headers.values_of("Contact"):
            ua.must(";expires=" in value.replace(" ", "").lower(), f"no expires in {value}")


@check("expiry.header", "RFC 3261 §10.2.1.1", "RFC 3261 §10.3 step 7")
def header(ua: Agent) -> None:
    """The Expires header is for contacts that have no expires parameter."""
    seconds = granted(ua, expires=90)
    ua.must(0 < seconds <= 90, f"asked for 90 s by the header, got {seconds}")


@check("expiry.parameter-first", "RFC 3261 §10.2.1.1", "RFC 3261 §10.3 step 7")
def parameter_first(ua: Agent) -> None:
    """A contact's expires parameter goes before the Expires header."""
    seconds = granted(ua, ";expires=90", expires=1800)
    ua.must(seconds <= 90, f"asked for 90 s by the parameter and 1800 by the header, got {seconds}")


@check("expiry.each-its-own", "RFC 3261 §10.2.1.1")
def each_its_own(ua: Agent) -> None:
    """Contacts in one request may ask for different times."""
    two_contacts(ua)
    reply = ua.register(ua.contact(1, ";expires=90"), ua.contact(2, ";expires=180"))
    found = {each.uri: each.expires or 0 for each in ua.only(reply, 1, 2)}
    first = next(seconds for uri, seconds in found.items() if f"{ua.mark}-1@" in uri)
    second = next(seconds for uri, seconds in found.items() if f"{ua.mark}-2@" in uri)
    ua.must(first <= 90 and second <= 180, f"asked for 90 and 180 s, got {first} and {second}")


@check("expiry.not-more-than-asked", "RFC 3261 §10.3 step 7")
def not_more(ua: Agent) -> None:
    """The time granted may be shorter than what was asked for, never longer.

    A registrar that finds it too short refuses with 423.
    """
    for asked in (3600, 600, 90):
        reply = ua.ask(ua.draft(ua.contact(), expires=asked))
        if reply.code == 423:
            continue
        (bound,) = ua.only(ua.want(reply, 200), 1)
        seconds = bound.expires or 0
        ua.must(seconds <= asked, f"asked for {asked} s, got {seconds}")


@check("expiry.default", "RFC 3261 §10.3 step 7", "RFC 3261 §10.2.1.1")
def default(ua: Agent) -> None:
    """Who asks for no time gets one that the registrar chooses."""
    seconds = granted(ua)
    ua.must(seconds > 0, "the contact got no time")


@check("expiry.zero-wins", "RFC 3261 §10.2.2", "RFC 3261 §10.2.1.1")
def zero_wins(ua: Agent) -> None:
    """expires=0 removes, whatever the Expires header says."""
    granted(ua, expires=60)
    ua.only(ua.register(ua.contact(1, ";expires=0"), expires=600), *())


@check("expiry.nonzero-wins", "RFC 3261 §10.2.1.1")
def nonzero_wins(ua: Agent) -> None:
    """A contact's own expires keeps it, though the Expires header is 0."""
    seconds = granted(ua, ";expires=90", expires=0)
    ua.must(0 < seconds <= 90, f"asked for 90 s, got {seconds}")


@check("expiry.largest", "RFC 3261 §20.19", "RFC 3261 §10.2.1.1")
def largest(ua: Agent) -> None:
    """The largest number, 4294967295, is understood."""
    seconds = granted(ua, expires=2**32 - 1)
    ua.must(0 < seconds < 2**32, f"got {seconds} s")
    seconds = granted(ua, ";expires=4294967295")
    ua.must(0 < seconds < 2**32, f"got {seconds} s")


@check("expiry.too-large", "RFC 3261 §10.2.1.1", "RFC 4475 §3.1.2.4")
def too_large(ua: Agent) -> None:
    """A number beyond 4294967295 is cut down to it or refused, not wrapped around.

    A binding of a few seconds, or its removal, would be what an overflow makes of it.
    """
    for asked in ("4294967356", "18446744073709551676"):  # 2**32 + 60, 2**64 + 60
        reply = ua.ask(ua.draft(ua.contact(), expires=asked))
        if reply.code >= 400:
            ua.want(reply, 400, 423, what=f"Expires: {asked}")
            continue
        (bound,) = ua.only(ua.want(reply, 200), 1)
        seconds = bound.expires or 0
        ua.must(seconds not in range(1, 61), f"Expires: {asked} gave {seconds} s")


@check("expiry.malformed", "RFC 3261 §20.19", "RFC 3261 §10.2.1.1")
def malformed(ua: Agent) -> None:
    """An Expires or expires that is no number counts as 3600.

    That is recommended; a registrar that refuses it with 400 lacks it, and one that removes the
    binding or grants no time does wrong.
    """
    for what, params, value in (
        ("Expires: soon", "", "soon"),
        ("expires=soon", ";expires=soon", None),
        ("expires=-1", ";expires=-1", None),
    ):
        ua.register(ua.contact(), expires=60)
        reply = ua.ask(ua.draft(ua.contact(1, params), expires=value))
        left = ua.mine(ua.fetch())
        ua.must(left, f"{what} removed the binding")
        if reply.code == 400:
            raise NotSupported(f"{what}: {reply.line}")
        (bound,) = ua.only(ua.want(reply, 200, what=what), 1)
        ua.must(0 < (bound.expires or 0) <= 3600, f"{what} gave {bound.expires} s")


@check("expiry.too-brief", "RFC 3261 §10.3 step 7", "RFC 3261 §20.23", "RFC 3261 §21.4.17")
def too_brief(ua: Agent) -> None:
    """423 comes with Min-Expires, and asking for that long succeeds."""
    reply = ua.ask(ua.draft(ua.contact(), expires=1))
    if reply.code != 423:
        ua.want(reply, 200, what="Expires: 1")
        raise NotApplicable("it takes a registration for 1 s")
    least = reply.min_expires
    ua.must(least is not None, "the 423 has no Min-Expires")
    assert least is not None
    ua.must(least > 1, f"1 s is too brief, yet Min-Expires is {least}")
    ua.only(ua.fetch(), *())
    seconds = granted(ua, expires=least)
    ua.must(seconds <= least, f"asked for the {least} s of Min-Expires, got {seconds}")


@check("expiry.zero-not-too-brief", "RFC 3261 §10.3 step 7")
def zero_not_too_brief(ua: Agent) -> None:
    """A removal is never too brief."""
    granted(ua, expires=600)
    ua.only(ua.want(ua.ask(ua.draft(ua.contact(), expires=0)), 200), *())


@check("expiry.hour-not-too-brief", "RFC 3261 §10.3 step 7")
def hour_not_too_brief(ua: Agent) -> None:
    """An hour is never too brief."""
    ua.want(ua.ask(ua.draft(ua.contact(), expires=3600)), 200)


@check("expiry.counts-down", "RFC 3261 §10.2.4", "RFC 3261 §10.3 step 8")
def counts_down(ua: Agent) -> None:
    """What is listed is the time left, which does not grow by looking."""
    seconds = granted(ua, expires=90)
    (bound,) = ua.only(ua.fetch(), 1)
    left = bound.expires or 0
    ua.must(seconds - 30 <= left <= seconds, f"{seconds} s were granted, {left} are listed")


@check("expiry.lapses", "RFC 3261 §10.2", "RFC 3261 §10.3 step 8")
def lapses(ua: Agent) -> None:
    """A binding that is not refreshed is gone when its time is over."""
    reply = ua.ask(ua.draft(ua.contact(), expires=1))
    if reply.code == 423:
        raise NotApplicable(f"the shortest time is {reply.min_expires} s, too long to wait for")
    (bound,) = ua.only(ua.want(reply, 200), 1)
    seconds = bound.expires or 0
    if seconds > 5:
        raise NotApplicable(f"asked for 1 s it grants {seconds}, too long to wait for")
    # Some look for expired bindings once in a while only.
    gone = ua.wait_until(lambda: not ua.mine(), seconds + 2 + ua.target.timeout)
    ua.must(gone, f"granted {seconds} s, still listed {2 + ua.target.timeout:g} s after that")
