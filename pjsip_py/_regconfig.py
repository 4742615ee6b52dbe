# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of a registration, checked before anything reaches C."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ._lazy import pattern
from ._typing import Any, NamedTuple, cast
from .auth import Proof, Source, check_credentials
from .errors import ConfigError, InvalidUriError
from .message import split_name_addr
from .tls import TlsConfig
from .transport import Transport
from .uri import (
    MAX_URI,
    SipUri,
    check_headers,
    check_int,
    check_params,
    check_seconds,
    check_text,
    parse_aor,
    parse_registrar,
    parse_uri,
)

# RFC 3261 §25.1, display-name
_DISPLAY_NAME = pattern(r'"(?:[^"\\]|\\.)*"|[A-Za-z0-9\-.!%*_+`\'~ ]*')
MAX_CONTACTS = 10  # PJSIP_REGC_MAX_CONTACT
MAX_CONTACT = 2048  # bytes and one more; PJSIP prints no Contact of a REGISTER into a buffer
_LONGEST_ADDRESS = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535;transport=tcp"
MAX_EXPIRES = 2**31 - 1


class RegSettings(NamedTuple):
    """What a regc is made of and thousands of registrations have in common, checked."""

    registrar: SipUri
    from_uri: SipUri | None  # None: the AOR
    display_name: str
    contacts: tuple[str, ...] | None
    expires: int | None
    headers: tuple[tuple[str, str], ...]
    route: tuple[str, ...]
    next_hop: SipUri
    protocol: str  # that the next hop asks for
    is_address: bool  # the next hop, which then needs no look-up
    contact_params: str
    contact_uri_params: str
    timeout: float | None
    refresh_margin: int | None  # None: a fifth of the grant
    credentials_timeout: float


class RegConfig(NamedTuple):
    """What a regc is made of, checked."""

    aor: str
    user: str  # of the AOR
    credentials: tuple[Proof, ...] | Source
    transport: Transport | None
    tls: TlsConfig | None
    settings: RegSettings

    def change(self, **changes: Any) -> RegConfig:
        """The same with other settings, which must be checked."""
        return self._replace(settings=self.settings._replace(**changes))


def _contact(value: object) -> str:
    """A contact as PJSIP takes it: a bare URI gets its brackets, so that its parameters stay."""
    text = check_text("contact", value, maximum=MAX_CONTACT - 1)
    parts = split_name_addr(text)
    if parts is None:
        return f"<{parse_uri('contact', text).text}>"
    name, uri, tail = parts
    parse_uri("contact", uri)
    if not _DISPLAY_NAME.fullmatch(name):
        raise InvalidUriError(f"contact: {text!r}: a display name is words or a quoted string")
    if tail and not tail.startswith(";"):
        raise InvalidUriError(f"contact: {text!r}: only ;parameters may follow the URI")
    check_params("contact", tail)
    return text


def _check_size(user: str, uri_params: str, params: str) -> None:
    """Whether a Contact with these fits, whatever our address will be."""
    uri = len(f"sips:{user}@{_LONGEST_ADDRESS}{uri_params}".encode())
    if uri > MAX_URI:
        raise ConfigError(f"contact_uri_params: {uri - MAX_URI} bytes too long for a Contact's URI")
    size = uri + len(f"<>{params}".encode())
    if size >= MAX_CONTACT:
        raise ConfigError(f"contact_params: {size - MAX_CONTACT + 1} bytes too long for a Contact")


def check_contacts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence):
        raise ConfigError("contacts must be a sequence of URIs")
    contacts = tuple(_contact(item) for item in value)
    if not contacts:
        raise ConfigError("contacts must not be empty; fetch_bindings() sends none")
    if len(contacts) > MAX_CONTACTS:
        raise ConfigError(f"contacts: at most {MAX_CONTACTS}")
    if len(set(contacts)) != len(contacts):
        raise ConfigError("contacts: the same contact twice")
    return contacts


def check_route(value: object) -> tuple[tuple[str, ...], SipUri | None]:
    """Route headers and the URI of the first."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence):
        raise ConfigError("route must be a sequence of URIs")
    routes, first = [], None
    for item in value:
        text = check_text("route", item)
        parts = split_name_addr(text)
        uri = parse_uri("route", parts[1] if parts else text)
        first = first or uri
        lr = uri.text if "lr" in uri.params else uri.text + ";lr"
        routes.append(f"<{lr}>")
    if len(routes) > 8:
        raise ConfigError("route: at most 8")
    return tuple(routes), first


def check_expires(value: object) -> int | None:
    return None if value is None else check_int("expires", value, 1, MAX_EXPIRES)


def check_margin(value: object) -> int | None:
    return None if value is None else check_int("refresh_margin", value, 1, 86400)


def check_timeout(value: object) -> float | None:
    return None if value is None else check_seconds("timeout", value, 0.01, 3600)


def check_config(
    aor: object, credentials: object, transport: object, tls: object, *options: object
) -> RegConfig:
    """All arguments of a registration, checked before anything reaches C.

    :param options: the arguments of :func:`_check_settings`.
    """
    _registrar, contacts, _expires, headers, route, *_ = options
    try:
        plain = contacts is None and headers == () and route == ()
        settings = (_check_common_settings if plain else _check_settings)(*options)
    except TypeError:  # a mapping among them, which has no hash
        settings = _check_settings(*options)
    to = parse_aor("aor", aor)
    if transport is not None or tls is not None:
        _check_transport(transport, tls, settings.next_hop)
    if settings.contact_params or settings.contact_uri_params:
        _check_size(to.user, settings.contact_uri_params, settings.contact_params)
    return RegConfig(
        to.text,
        to.user,
        check_credentials(credentials),
        cast("Transport | None", transport),
        cast("TlsConfig | None", tls),
        settings,
    )


def _check_settings(
    registrar: object,
    contacts: object,
    expires: object,
    headers: object,
    route: object,
    from_uri: object,
    display_name: object,
    contact_params: object,
    contact_uri_params: object,
    timeout: object,
    refresh_margin: object,
    credentials_timeout: object,
) -> RegSettings:
    server = parse_registrar("registrar", registrar)
    routes, hop = check_route(route)
    next_hop = hop or server
    listed = None if contacts is None else check_contacts(contacts)
    params = check_params("contact_params", contact_params)
    uri_params = check_params("contact_uri_params", contact_uri_params)
    if listed is not None and (params or uri_params):
        raise ConfigError("contact_params and contact_uri_params go with a contact of our making")
    return RegSettings(
        registrar=server,
        from_uri=None if from_uri is None else parse_aor("from_uri", from_uri),
        display_name=check_text("display_name", display_name, maximum=256),
        contacts=listed,
        expires=check_expires(expires),
        headers=check_headers(headers),
        route=routes,
        next_hop=next_hop,
        protocol=next_hop.transport,
        is_address=next_hop.is_address,
        contact_params=params,
        contact_uri_params=uri_params,
        timeout=check_timeout(timeout),
        refresh_margin=check_margin(refresh_margin),
        credentials_timeout=check_seconds("credentials_timeout", credentials_timeout, 0.01, 3600),
    )


# Thousands of registrations differ by user and password alone.  Of headers none is remembered, for
# they may hold secrets.
_check_common_settings = lru_cache(maxsize=64, typed=True)(_check_settings)


def _check_transport(transport: object, tls: object, next_hop: SipUri) -> None:
    if transport is not None and not isinstance(transport, Transport):
        raise ConfigError("transport must be what Endpoint.listen() returned")
    if tls is not None and not isinstance(tls, TlsConfig):
        raise ConfigError("tls must be a TlsConfig")
    if transport is not None and tls is not None:
        raise ConfigError("transport already has its TLS settings: give transport or tls")
    if tls is not None and next_hop.transport != "tls":
        raise ConfigError(f"tls= but {next_hop.text!r} asks for {next_hop.transport}: use sips:")
    if transport is not None and transport.protocol != next_hop.transport:
        raise ConfigError(
            f"transport is {transport.protocol}, but {next_hop.text!r} asks for "
            f"{next_hop.transport}: write ;transport={transport.protocol}"
        )


def name_addr(uri: str, display_name: str) -> str:
    if not display_name:
        return f"<{uri}>"
    quoted = display_name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{uri}>'
