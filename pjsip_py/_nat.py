# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the registrar sees us where our Contact says (RFC 3581), as pjsua decides it."""

from __future__ import annotations

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


def mapped_address(
    mode: int, protocol: str, contact: str, mapped: str, registrar: str
) -> tuple[str, int] | None:
    """Address and port that the Contact should have; None when it is right, or nobody knows.

    :param mode: pjsua's ``allow_contact_rewrite``: 0 never, 2 always, 1 unless a private address
        is said to be that of a public contact and a public registrar, the work of a broken gateway.
    :param contact: ``host:port`` of our Contact; :param mapped: as the registrar sees it, port 0
        when it does not say; :param registrar: its address.
    """
    seen, port = _parts(mapped)
    own, own_port = _parts(contact)
    if not mode or seen is None or own is None or seen.version != own.version:
        return None
    if seen.is_unspecified or seen.is_multicast or seen.is_reserved:
        return None  # nobody's address
    if seen == own and (protocol != "udp" or port in (0, own_port)):
        return None  # of a connection the port is its own; our listener has another
    if mode == 1 and not seen.is_global and own.is_global and _is_public(registrar):
        return None
    return str(seen), port or own_port


def _parts(address: str) -> tuple[IPv4Address | IPv6Address | None, int]:
    host, _, port = address.rpartition(":")
    if "%" in host:
        return None, 0  # of a link; nobody else can go there
    from ipaddress import ip_address

    try:
        return ip_address(host.strip("[]")), int(port) if 0 <= int(port) < 65536 else 0
    except ValueError:
        return None, 0


def _is_public(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_global
    except ValueError:
        return False
