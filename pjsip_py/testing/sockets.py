# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test does to sockets that nobody else would."""

from __future__ import annotations

import asyncio
import socket
import struct


def send_from(local: tuple[str, int], data: bytes, destination: tuple[str, int]) -> bool:
    """Send a datagram from an address of its own. False when that could not be."""
    try:
        with _bound(local) as sock:
            sock.sendto(data, destination)
    except OSError:
        return False
    return True


def require_local(address: tuple[str, int], host: str) -> None:
    """Raise ``ValueError`` unless one can send from `address` to who sends to `host`."""
    if (":" in address[0]) != (":" in host):
        raise ValueError(f"sent_from {address[0]}: the registrar is at {host}")
    try:
        with _bound(address):
            pass
    except OSError as error:
        raise ValueError(f"cannot send from {address[0]} port {address[1]}: {error}") from error


def _bound(local: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind(local)
    except OSError:
        sock.close()
        raise
    return sock


def linger_not(sock: socket.socket) -> None:
    """Have the socket's close reset its connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cut(transport: asyncio.Transport) -> None:
    """Cut a connection with a TCP RST."""
    if not transport.is_closing():  # one that is closing may have let go of its socket
        linger_not(transport.get_extra_info("socket"))
    transport.abort()
