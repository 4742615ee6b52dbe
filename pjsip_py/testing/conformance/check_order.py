# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of requests (CSeq, Call-ID), and that one is carried out wholly or not at all."""

from __future__ import annotations

from .agent import Agent
from .check import check
from .check_bindings import two_contacts
from .client import Draft


def _late(ua: Agent, draft: Draft, back: int) -> Draft:
    """The request as if it had been made `back` requests before the last one."""
    cseq = ua.cseq - 1 - back
    late = draft.renewed(draft.branch + "late", cseq)
    ua.cseq = cseq  # what follows a challenge is numbered on from here
    return late


@check("order.late-refresh", "RFC 3261 §10.3 step 7")
def late_refresh(ua: Agent) -> None:
    """A refresh whose CSeq is below the last one of its Call-ID fails and changes nothing."""
    ua.cseq += 100
    ua.register(ua.contact(1, ";q=0.5"), expires=600)
    number = ua.cseq
    draft = _late(ua, ua.draft(ua.contact(1, ";q=0.1"), expires=60), 50)
    ua.refused(ua.ask(draft), f"CSeq {draft.cseq} after {number}")
    ua.cseq = number + 1
    (bound,) = ua.only(ua.fetch(), 1)
    ua.must(bound.q == 0.5, "the late request changed the binding")


@check("order.late-removal", "RFC 3261 §10.3 step 7")
def late_removal(ua: Agent) -> None:
    """A removal whose CSeq is below the last one of its Call-ID removes nothing."""
    ua.cseq += 100
    ua.register(ua.contact(), expires=60)
    number = ua.cseq
    draft = _late(ua, ua.draft(ua.contact(1, ";expires=0")), 50)
    ua.refused(ua.ask(draft), f"a removal with CSeq {draft.cseq} after {number}")
    ua.cseq = number + 1
    ua.only(ua.fetch(), 1)


@check("order.late-star", "RFC 3261 §10.3 step 6", needs=("own AOR",))
def late_star(ua: Agent) -> None:
    """Contact: * whose CSeq is below the last one of its Call-ID removes nothing."""
    ua.cseq += 100
    ua.register(ua.contact(), expires=60)
    number = ua.cseq
    draft = _late(ua, ua.draft("*", expires=0), 50)
    ua.refused(ua.ask(draft), f"* with CSeq {draft.cseq} after {number}")
    ua.cseq = number + 1
    ua.only(ua.fetch(), 1)


@check("order.same-cseq", "RFC 3261 §10.3 step 7")
def same_cseq(ua: Agent) -> None:
    """A new request with the CSeq of the last one of its Call-ID fails and changes nothing."""
    ua.register(ua.contact(1, ";q=0.5"), expires=600)
    number = ua.cseq
    # Where a password is asked for, it is the second try that has to have the number.
    ua.cseq = number - 1
    draft = ua.draft(ua.contact(1, ";q=0.1"), expires=60)
    if ua.site.asks_password:
        draft = draft.renewed(draft.branch, number - 1)
        ua.cseq = number - 1
    ua.refused(ua.ask(draft), f"CSeq {number} once more")
    ua.cseq = number + 1
    (bound,) = ua.only(ua.fetch(), 1)
    ua.must(bound.q == 0.5, "the request changed the binding")


@check("order.other-call-id", "RFC 3261 §10.3 step 7", "RFC 3261 §10.2.4")
def other_call_id(ua: Agent) -> None:
    """A lower CSeq is right when the Call-ID is another: a client that has restarted."""
    ua.cseq += 1000
    ua.register(ua.contact(1, ";q=0.5"), expires=60)
    other = ua.another()
    other.cseq = 1
    other.register(ua.contact(1, ";q=0.2"), expires=60)
    (bound,) = ua.only(ua.fetch(), 1)
    ua.must(bound.q == 0.2, "the other client's refresh did not change the binding")


@check("order.gap", "RFC 3261 §8.1.1.5", "RFC 3261 §10.3 step 7")
def gap(ua: Agent) -> None:
    """A CSeq that leaves some numbers out is right."""
    ua.register(ua.contact(), expires=60)
    ua.cseq += 500
    ua.register(ua.contact(), expires=60)


@check("atomic.late-contact", "RFC 3261 §10.3 step 7")
def atomic(ua: Agent) -> None:
    """Where the update of one contact fails, those of the others are not made either.

    A request that is late for one of its contacts, by CSeq, must add none of them.
    """
    two_contacts(ua)
    ua.register(ua.contact(2, ";expires=0"))
    ua.cseq += 100
    ua.register(ua.contact(1), expires=60)
    number = ua.cseq
    draft = _late(ua, ua.draft(ua.contact(2), ua.contact(1), expires=60), 50)
    reply = ua.ask(draft)
    ua.cseq = number + 1
    ua.refused(reply, f"CSeq {draft.cseq} after {number}")
    ua.only(ua.fetch(), 1)


@check("atomic.malformed-contact", "RFC 3261 §10.3", "RFC 3261 §8.2", "RFC 3261 §21.4.1")
def atomic_malformed(ua: Agent) -> None:
    """A request with one contact that cannot be read binds none."""
    draft = ua.draft(ua.contact(1), f"<sip:{ua.mark}-2@>", expires=60)
    reply = ua.quiet(draft, 2.0)
    if reply is not None:
        reply = ua.follow(draft, reply)
        ua.refused(reply, "a Contact without a host")
    ua.only(ua.fetch(), *())
