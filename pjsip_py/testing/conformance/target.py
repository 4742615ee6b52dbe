# SPDX-License-Identifier: GPL-3.0-or-later
"""Which registrar is checked, and as whom."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field

from pjsip_py.errors import ConfigError
from pjsip_py.uri import SipUri, parse_aor, parse_registrar

from .client import Address, family_of

TRANSPORTS = ("udp", "tcp", "tls")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which registrar is checked, and as whom.

    ``registrar``
        its URI, ``sip:host[:port]``. With ``;transport=`` or ``sips:`` that transport alone is
        checked, unless ``transports`` names more.
    ``aor``
        whose bindings are made and removed; default ``sip:user@host``. It should be an account for
        tests: where it has bindings of others, the checks that would remove them do not run.
    ``user``, ``password``
        of the digest credentials; ``user`` may be left out when it is the AOR's. Without a
        password the checks of authentication do not run.
    ``transports``
        any of ``"udp"``, ``"tcp"``, ``"tls"``; default: those that answer.
    ``tls_port``
        default: 5061 when UDP and TCP are on 5060.
    ``ca_file``, ``server_name``, ``insecure``
        whose certificates to trust (default: the system's), the name that it must be for (default:
        the host), and whether to accept any.
    ``timeout``
        seconds that one answer may take, 0.5 to 60. Requests over UDP are sent again in that time
        as RFC 3261 §17.1.2.2 says.

    Raises :class:`~pjsip_py.ConfigError` (a ``ValueError``) or
    :class:`~pjsip_py.InvalidUriError`.
    """

    registrar: str
    aor: str = ""
    user: str = ""
    password: str | None = field(default=None, repr=False)
    transports: tuple[str, ...] = ()
    tls_port: int | None = None
    ca_file: str | None = None
    server_name: str | None = None
    insecure: bool = False
    timeout: float = 5.0

    def __post_init__(self) -> None:
        uri = parse_registrar("registrar", self.registrar)
        if self.aor:
            address = parse_aor("aor", self.aor)
        elif self.user:
            address = parse_aor("aor", f"sip:{self.user}@{_host(uri)}")
        else:
            raise ConfigError("give user or aor: the suite registers as somebody")
        for each in self.transports:
            if each not in TRANSPORTS:
                raise ConfigError(f"transports: {each!r} is none of {', '.join(TRANSPORTS)}")
        if not 0.5 <= self.timeout <= 60:
            raise ConfigError(f"timeout must be 0.5 to 60 s, not {self.timeout:g}")
        if self.tls_port is not None and not 0 < self.tls_port < 65536:
            raise ConfigError(f"tls_port {self.tls_port} is not between 1 and 65535")
        if self.ca_file is not None and not self.insecure:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as error:
                why = getattr(error, "strerror", None) or "it holds no certificate"
                raise ConfigError(f"ca_file {self.ca_file!r}: {why}") from None
        put = object.__setattr__
        put(self, "aor", f"{address.scheme}:{address.user}@{_host(address)}{_port(address)}")
        put(self, "user", self.user or address.user)
        put(self, "transports", tuple(dict.fromkeys(self.transports)) or self._default(uri))

    def _default(self, uri: SipUri) -> tuple[str, ...]:
        if uri.scheme == "sips" or "transport" in uri.params:
            return (uri.transport,)
        has_tls = self.tls_port is not None or uri.port in (0, 5060)
        return TRANSPORTS if has_tls else TRANSPORTS[:2]

    @property
    def uri(self) -> SipUri:
        return parse_registrar("registrar", self.registrar)

    @property
    def request_uri(self) -> str:
        """The domain that is registered at (RFC 3261 §10.2): the AOR's."""
        address, uri = parse_aor("aor", self.aor), self.uri
        if address.host.lower() == uri.host.lower() and not address.port:
            return f"{self.scheme}:{_host(uri)}{_port(uri)}"
        return f"{self.scheme}:{_host(address)}{_port(address)}"

    @property
    def domain(self) -> str:
        return _host(parse_aor("aor", self.aor))

    @property
    def scheme(self) -> str:
        return parse_aor("aor", self.aor).scheme

    def port(self, transport: str) -> int:
        uri = self.uri
        if transport == "tls":
            if self.tls_port is not None:
                return self.tls_port
            return uri.port if uri.transport == "tls" and uri.port else 5061
        return uri.port or 5060

    def address(self, transport: str) -> Address:
        """Where it is; :raises OSError: its name leads to no address."""
        host = self.uri.host
        found = socket.getaddrinfo(host, self.port(transport), type=socket.SOCK_DGRAM)
        name = found[0][4]
        return str(name[0]), int(name[1])

    def tls_context(self, *, verify: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=None if self.insecure else self.ca_file)
        if self.insecure or not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def tls_name(self) -> str:
        return self.server_name or self.uri.host


def _host(uri: SipUri) -> str:
    return f"[{uri.host}]" if ":" in uri.host else uri.host


def _port(uri: SipUri) -> str:
    return f":{uri.port}" if uri.port else ""


def local_host(remote: Address) -> str:
    """The address that this machine has towards `remote`; nothing is sent."""
    with socket.socket(family_of(remote), socket.SOCK_DGRAM) as sock:
        sock.connect(remote)
        return str(sock.getsockname()[0])
