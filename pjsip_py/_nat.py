# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the registrar sees us where our Contact says (RFC 3581), as pjsua decides it."""

from __future__ import annotations

from ipaddress import ip_address

from .message import Response


def mapped_address(
    mode: int, protocol: str, contact: tuple[str, int], response: Response
) -> tuple[str, int] | None:
    """Address and port that the Contact should have; None when it is right, or nobody knows.

    :param mode: pjsua's ``allow_contact_rewrite``: 0 never, 2 always, 1 unless a private address
        is said to be that of a public contact and a public registrar, the work of a broken gateway.
    """
    host, port = response.received, response.rport
    if not mode or host is None:
        return None
    host = host.strip("[]")
    try:
        seen = ip_address(host)
    except ValueError:
        return None
    if seen.is_unspecified or seen.is_multicast or port == 0:
        return None
    same_host = seen == ip_address(contact[0])
    if protocol == "udp":
        if same_host and port in (None, contact[1]):
            return None
    elif same_host:
        return None  # the port is the connection's, our listener has another
    if mode == 1 and seen.is_private and _is_public(contact[0]) and _is_public(response.source[0]):
        return None
    return str(seen), contact[1] if port is None else port


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return False
