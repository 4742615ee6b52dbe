# SPDX-License-Identifier: GPL-3.0-or-later
"""Path, Service-Route, outbound, GRUU: what a registrar may offer besides."""

from __future__ import annotations

import secrets
import uuid

from pjsip_py.message import parse_contact

from .agent import Agent
from .check import NotSupported, check
from .client import Reply

PATH = "<sip:conformance@edge.example;lr;ob>"


def _instance() -> str:
    return f'"<urn:uuid:{uuid.UUID(bytes=secrets.token_bytes(16), version=4)}>"'


@check("path.kept", "RFC 3327 §5.3", "RFC 3327 §4")
def path(ua: Agent) -> None:
    """Path in a REGISTER comes back in the 200, all of it and in its order.

    Two values that the proxies between have added, to a client that supports it.
    """
    draft = ua.draft(ua.contact(), expires=60, headers={"Supported": "path"})
    draft.add("Path", PATH).add("Path", "<sip:second.example;lr>")
    reply = ua.ask(draft)
    if reply.code == 420:
        raise NotSupported(reply.line)
    ua.want(reply, 200, what="a REGISTER with Path")
    if not reply.path:
        raise NotSupported("Path does not come back")
    got = [value.replace(" ", "") for value in reply.path]
    ua.must(got == [PATH, "<sip:second.example;lr>"], f"Path came back as {', '.join(got)}")


@check("path.unasked", "RFC 3327 §5.3")
def path_unasked(ua: Agent) -> None:
    """Where the client does not support Path, the request is served or refused with 420."""
    draft = ua.draft(ua.contact(), expires=60).add("Path", PATH)
    reply = ua.ask(draft)
    ua.want(reply, 200, 420, what="Path without Supported: path")
    if reply.code == 420:
        named = [value.lower() for value in reply.headers.values_of("Unsupported")]
        ua.must("path" in named, "the 420 does not name path in Unsupported")


@check("service-route.form", "RFC 3608 §5", "RFC 3608 §6.3")
def service_route(ua: Agent) -> None:
    """Service-Route, where it comes, is a list of routes: <sip:…;lr>."""
    found = ua.register(ua.contact(), expires=60).service_route
    if not found:
        raise NotSupported("there is no Service-Route")
    for value in found:
        _, uri, _ = parse_contact(value)
        ua.must(
            value.lstrip().startswith("<") and uri.lower().startswith(("sip:", "sips:")),
            f"no address in <>: {value}",
        )
        ua.must(";lr" in uri.lower(), f"not a loose router: {value}")


# -- outbound -------------------------------------------------------------------------------------


def _outbound(ua: Agent, *contacts: str, require: bool = True) -> Reply:
    reply = ua.ask(ua.draft(*contacts, expires=120, headers={"Supported": "path, outbound"}))
    if reply.code in (420, 439):
        raise NotSupported(reply.line)
    if require:
        ua.want(reply, 200, what="a REGISTER with reg-id")
        asked = [value.lower() for value in reply.headers.values_of("Require")]
        if "outbound" not in asked:
            raise NotSupported("the 200 does not require outbound")
    return reply


@check("outbound.registers", "RFC 5626 §6", "RFC 5626 §4.2.1")
def outbound(ua: Agent) -> None:
    """A contact with instance and reg-id is bound with both, and the 200 requires outbound."""
    instance = _instance()
    reply = _outbound(ua, ua.contact(1, f";+sip.instance={instance};reg-id=1"))
    (bound,) = ua.only(reply, 1)
    ua.must(
        bound.params.get("+sip.instance") == instance.strip('"'),
        f"the instance is listed as {bound.params.get('+sip.instance')}",
    )
    ua.must(bound.params.get("reg-id") == "1", f"reg-id is {bound.params.get('reg-id')}")


@check("outbound.replaces", "RFC 5626 §6")
def outbound_replaces(ua: Agent) -> None:
    """The same instance and reg-id with another URI take the old binding's place."""
    params = f";+sip.instance={_instance()};reg-id=1"
    _outbound(ua, ua.contact(1, params))
    ua.only(_outbound(ua, ua.contact(2, params)), 2)


@check("outbound.two-flows", "RFC 5626 §6")
def outbound_two(ua: Agent) -> None:
    """Another reg-id of the same instance is a second flow beside the first."""
    instance = _instance()
    _outbound(ua, ua.contact(1, f";+sip.instance={instance};reg-id=1"))
    other = ua.another()
    other.mark = ua.mark
    reply = _outbound(other, ua.contact(2, f";+sip.instance={instance};reg-id=2"))
    ua.only(reply, 1, 2)


@check("outbound.several-contacts", "RFC 5626 §6")
def outbound_several(ua: Agent) -> None:
    """reg-id in a request that binds several contacts is refused with 400."""
    instance = _instance()
    _outbound(ua, ua.contact(1, f";+sip.instance={instance};reg-id=1"))
    ua.register(ua.contact(1, ";expires=0"), headers={"Supported": "path"})
    pair = (ua.contact(2, f";+sip.instance={instance};reg-id=2"), ua.contact(3))
    reply = _outbound(ua, *pair, require=False)
    ua.should(reply.code == 400, f"reg-id on one of two contacts: {reply.line}")


@check("outbound.no-instance", "RFC 5626 §6")
def outbound_no_instance(ua: Agent) -> None:
    """reg-id without an instance is ignored: an ordinary binding."""
    reply = ua.ask(
        ua.draft(ua.contact(1, ";reg-id=1"), expires=60, headers={"Supported": "path, outbound"})
    )
    ua.only(ua.want(reply, 200, what="reg-id without instance"), 1)
    asked = [value.lower() for value in reply.headers.values_of("Require")]
    ua.must("outbound" not in asked, "the 200 requires outbound, though there is no instance")


@check("outbound.flow-timer", "RFC 5626 §4.4", "RFC 5626 §10")
def flow_timer(ua: Agent) -> None:
    """Flow-Timer, where it comes, is a number of seconds."""
    reply = _outbound(ua, ua.contact(1, f";+sip.instance={_instance()};reg-id=1"))
    value = reply.headers.get("Flow-Timer")
    if value is None:
        raise NotSupported("there is no Flow-Timer")
    ua.must(value.isdigit() and int(value) > 0, f"Flow-Timer: {value}")


@check("outbound.not-asked", "RFC 3261 §8.2.4", "RFC 5626 §6")
def outbound_not_asked(ua: Agent) -> None:
    """Nothing of outbound is required of a client that does not support it."""
    params = f";+sip.instance={_instance()};reg-id=1"
    reply = ua.register(ua.contact(1, params), expires=60)
    asked = [value.lower() for value in reply.headers.values_of("Require")]
    ua.must("outbound" not in asked, "the 200 requires outbound of a client without it")


# -- GRUU -----------------------------------------------------------------------------------------


def _gruus(ua: Agent, instance: str) -> tuple[str, str]:
    reply = ua.ask(
        ua.draft(
            ua.contact(1, f";+sip.instance={instance}"), expires=60, headers={"Supported": "gruu"}
        )
    )
    (bound,) = ua.only(ua.want(reply, 200), 1)
    found = bound.params.get("pub-gruu", ""), bound.params.get("temp-gruu", "")
    if not any(found):
        raise NotSupported("the contact gets no GRUU")
    return found


@check("gruu.given", "RFC 5627 §5.2", "RFC 5627 §3.1.1", "RFC 5627 §3.1.2")
def gruu(ua: Agent) -> None:
    """A contact with an instance gets a public GRUU, the AOR with gr, and a temporary one."""
    public, temporary = _gruus(ua, _instance())
    ua.must(";gr=" in public, f"the public GRUU has no gr value: {public}")
    user = ua.target.aor.partition(":")[2].partition("@")[0]
    ua.must(f":{user}@" in public, f"the public GRUU is not of the AOR: {public}")
    ua.must(temporary, "there is no temp-gruu")
    ua.must(";gr" in temporary, f"the temporary GRUU has no gr: {temporary}")
    ua.must(user not in temporary, f"the temporary GRUU tells who it is: {temporary}")


@check("gruu.stays", "RFC 5627 §5.4", "RFC 5627 §3.1.1", "RFC 5627 §3.1.2")
def gruu_stays(ua: Agent) -> None:
    """A refresh leaves the public GRUU as it is and makes a new temporary one."""
    instance = _instance()
    public, temporary = _gruus(ua, instance)
    again, other = _gruus(ua, instance)
    ua.must(again == public, f"the public GRUU was {public}, now it is {again}")
    ua.should(other != temporary, "the temporary GRUU is the old one")


@check("gruu.not-asked", "RFC 5627 §5.2", "RFC 3261 §8.2.4")
def gruu_not_asked(ua: Agent) -> None:
    """A client that does not support GRUUs gets none."""
    _gruus(ua, _instance())
    other = ua.another()
    uri = other.contact(1, f";+sip.instance={_instance()}")
    (bound,) = other.only(other.register(uri, expires=60), 1)
    found = [name for name in ("pub-gruu", "temp-gruu") if name in bound.params]
    ua.must(not found, f"a client without gruu gets {', '.join(found)}")
