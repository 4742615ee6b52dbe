# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain registration by the real stack, over each transport."""

from __future__ import annotations

import pjsip_py as pjsip

from .agent import Agent
from .check import Failed, NotApplicable, check
from .client import Message


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def _plain(ua: Agent) -> None:
    target = ua.target
    port = ua.remote[1]
    host = f"[{target.uri.host}]" if ":" in target.uri.host else target.uri.host
    suffix = "" if ua.transport == "udp" else f";transport={ua.transport}"
    tls = pjsip.TlsConfig(
        ca_file=target.ca_file, server_name=target.server_name, insecure=target.insecure
    )
    try:
        endpoint = pjsip.Endpoint(trace=True)
        endpoint.open()
    except pjsip.EndpointBusyError as error:
        raise NotApplicable("this process has an endpoint of its own open") from error

    def note(event: pjsip.SipMessage) -> None:
        sent = event.direction == "tx"
        ends = _address(event.local), _address(event.remote)
        source, to = ends if sent else ends[::-1]
        data = event.text.encode()
        ua.exchange.append(Message(event.time.wall, sent, event.protocol, source, to, data))

    with endpoint:
        endpoint.on(pjsip.SipMessage, note)
        uri = ua.contact_uri()
        ua.used = True
        account = endpoint.add_account(
            target.aor,
            registrar=f"{target.scheme}:{host}:{port}{suffix}",
            credentials=()
            if target.password is None
            else (pjsip.Credentials(target.user, target.password),),
            contacts=[uri],
            expires=120,
            timeout=target.timeout,
            retry=None,
            tls=tls if ua.transport == "tls" else None,
        )
        limit = 3 * target.timeout + 5
        try:
            result = account.register().result(timeout=limit)
            ua.must(
                any(ua.mark in each.uri for each in result.bindings),
                "the 200 does not list the contact that was registered",
            )
            again = account.register().result(timeout=limit)
            ua.must(again.code == 200, f"the refresh got {again.code}")
            gone = account.unregister().result(timeout=limit)
            ua.must(
                not any(ua.mark in each.uri for each in gone.bindings),
                "the contact is still bound after it was unregistered",
            )
        except pjsip.PjsipError as error:
            raise Failed(f"PJSIP: {error}") from error
        except TimeoutError as error:
            raise Failed(f"PJSIP had no outcome in {limit:g} s") from error


@check("stack.udp", "RFC 3261 §10.2", "RFC 3261 §18", needs=("udp",))
def udp(ua: Agent) -> None:
    """PJSIP registers, refreshes and unregisters over UDP."""
    _plain(ua)


@check("stack.tcp", "RFC 3261 §10.2", "RFC 3261 §18", needs=("tcp",))
def tcp(ua: Agent) -> None:
    """PJSIP registers, refreshes and unregisters over TCP."""
    _plain(ua)


@check("stack.tls", "RFC 3261 §10.2", "RFC 3261 §26.2", needs=("tls",))
def tls(ua: Agent) -> None:
    """PJSIP registers, refreshes and unregisters over TLS."""
    _plain(ua)
