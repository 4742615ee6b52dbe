# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening transports."""

from __future__ import annotations

from . import _ffi
from ._typing import TYPE_CHECKING
from .errors import ClosedError, ConfigError
from .tls import TlsConfig
from .uri import check_int, check_text, host_port

if TYPE_CHECKING:
    from .endpoint import Endpoint


class Transport:
    """A socket that sends and receives SIP: UDP, or a TCP or TLS listener and its connections.

    Made by :meth:`Endpoint.listen`.
    """

    __slots__ = (
        "__weakref__",
        "_endpoint",
        "_handle",
        "host",
        "implicit",
        "port",
        "protocol",
        "tls",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        protocol: str,
        tls: TlsConfig | None,
        listening: _ffi.Listening,
    ) -> None:
        self._endpoint = endpoint
        self._handle = listening.handle
        #: "udp", "tcp" or "tls"
        self.protocol = protocol
        #: The address bound; 0.0.0.0 and :: stand for all.
        self.host = listening.host
        #: The port bound; the kernel's choice where 0 was asked for.
        self.port = listening.port
        self.tls = tls
        #: Opened on first use, not by listen().
        self.implicit = False

    @property
    def address(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return host_port(self.host, self.port)

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::")

    @property
    def closed(self) -> bool:
        return self._handle == 0

    def close(self) -> None:
        """Close the socket; safe to call twice.

        Registrations that were given this transport fail from then on with TransportError.
        Connections that others share live on until their last user lets go.
        """
        handle, self._handle = self._handle, 0
        if handle:
            self._endpoint._transport_closed(self, handle)

    def reload_tls(self, tls: TlsConfig | None = None) -> None:
        """Connections from now on are made with *tls*; None: the same settings, files read anew.

        Connections that stand go on as they are, and so do the registrations over them. When
        this raises, nothing has changed.

        :raises TlsError, ConfigError: as :meth:`Endpoint.listen`.
        :raises ClosedError: the transport is closed.
        """
        if tls is not None and not isinstance(tls, TlsConfig):
            raise ConfigError("tls must be a TlsConfig")
        if self.tls is None:
            raise ConfigError(f"{self.protocol} has no TLS to reload")
        tls = tls or self.tls
        _ffi.tls_reload(self.handle(), tls._c_fields())
        self.tls = tls
        self._endpoint._warn_about(tls)

    def handle(self) -> int:
        if not self._handle:
            raise ClosedError(f"transport {self.protocol} {self.address} is closed")
        return self._handle

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<Transport {self.protocol} {self.address}{state}>"


def check_listen(
    protocol: object, host: object, port: object, tls: object
) -> tuple[str, str, int, bool]:
    """Protocol, address literal, port and whether it is IPv6."""
    if protocol not in _ffi.PROTOCOLS:
        raise ConfigError(f"protocol must be 'udp', 'tcp' or 'tls', not {protocol!r}")
    name = str(protocol)
    text = check_text("host", host, maximum=64).strip("[]")
    if text == "localhost":
        text = "127.0.0.1"
    import ipaddress

    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"host must be an address of this machine, not {text!r}; 0.0.0.0 or :: for all"
        ) from None
    if tls is not None and not isinstance(tls, TlsConfig):
        raise ConfigError("tls must be a TlsConfig")
    if tls is not None and name != "tls":
        raise ConfigError(f"tls= goes with protocol 'tls', not {name!r}")
    return name, text, check_int("port", port, 0, 65535), address.version == 6
