# SPDX-License-Identifier: GPL-3.0-or-later
"""The header fields a registrar reads: URIs, addresses, Via (RFC 3261 §19, §20, §25).

``sipmessage`` 0.7 normalises parameters and refuses some of what RFC 3261 allows (quoted
semicolons, host names that end in a digit). A registrar has to give a Contact back as it was
sent, so the text is read here as it came; only the parsed URI is sipmessage's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from sipmessage import URI, Parameters

_NAME = r"[A-Za-z0-9\-.!%*_+`'~]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LIST_PART = re.compile(rf'(?:{_QUOTED}|<[^>]*>|[^",<])+')
_QUOTED_NAME = re.compile(rf"({_QUOTED})\s*(?=<)")
_PARAM = re.compile(
    rf"\s*;\s*({_NAME})\s*(?:=\s*({_QUOTED}|[^\s;,\"=<>?]+|\[[0-9A-Fa-f:.]+\])\s*)?(?=;|$)"
)
_URI = re.compile(
    r"(sips?):(?:([^@\s<>\"]+)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)(?::(\d{1,5}))?"
    r"((?:;[^;?\s<>\"]+)*)(?:\?([^\s<>\"]+))?$",
    re.IGNORECASE,
)
_OTHER_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\"]+$")
_VIA = re.compile(
    r"SIP\s*/\s*2\.0\s*/\s*([A-Za-z0-9\-]+)\s+(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)"
    r"(?:\s*:\s*(\d{1,5}))?\s*(.*)$",
    re.IGNORECASE | re.DOTALL,
)
_RPORT = re.compile(r";\s*rport\s*(?=;|$)", re.IGNORECASE)
_TAG = re.compile(r";\s*tag\s*=", re.IGNORECASE)


def whole_number(text: str) -> int | None:
    """A number of decimal digits, 2**32 - 1 at most (more counts as that), or None."""
    if not text.isascii() or not text.isdigit():
        return None
    return min(int(text), 2**32 - 1) if len(text) <= 10 else 2**32 - 1


def split_list(value: str) -> list[str]:
    """Split a header value at its commas, leaving those inside quotes and ``<>`` alone."""
    if "," not in value:
        return [value.strip()]
    return [part for part in (m.group().strip() for m in _LIST_PART.finditer(value)) if part]


def quoted_string(text: str) -> str:
    """The quoted-string of a text (RFC 3261 §25.1)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_parameters(text: str) -> dict[str, str | None]:
    """Read ``;name=value;name`` as it stands: names in lower case, quotes kept in the values."""
    params: dict[str, str | None] = {}
    position, end = 0, len(text.rstrip())
    while position < end:
        m = _PARAM.match(text, position)
        if m is None:
            raise ValueError(f"malformed parameters {text!r}")
        params.setdefault(m.group(1).lower(), m.group(2))
        position = m.end()
    return params


def parse_uri(text: str) -> URI:
    """Parse a SIP or SIPS URI (RFC 3261 §19.1). The ``?headers`` part is left out."""
    m = _URI.match(text)
    if m is None:
        raise ValueError(f"malformed SIP URI {text!r}")
    scheme, userinfo, host, port, params, _headers = m.groups()
    user, colon, password = (userinfo or "").partition(":")
    parsed = {k: None if v is None else unquote(v) for k, v in _uri_params(params)}
    try:
        parameters = Parameters(**parsed)
    except TypeError as error:  # sipmessage 0.7 cannot hold a parameter called "self"
        raise ValueError(f"unsupported URI parameter in {text!r}") from error
    return URI(
        scheme=scheme.lower(),
        host=host.lower(),
        user=unquote(user) if userinfo else None,
        password=unquote(password) if colon else None,
        port=_port(port),
        parameters=parameters,
    )


def _uri_params(text: str) -> Iterable[tuple[str, str | None]]:
    for part in text.split(";")[1:]:
        name, equal, value = part.partition("=")
        yield unquote(name).lower(), value if equal else None


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is out of range")
    return port


def same_uri(left: URI, right: URI) -> bool:
    """Compare two SIP URIs by RFC 3261 §19.1.4."""
    if (left.scheme, left.user, left.password, left.host, left.port) != (
        right.scheme,
        right.user,
        right.password,
        right.host,
        right.port,
    ):
        return False
    for name in {*left.parameters, *right.parameters}:
        mine, other = left.parameters.get(name), right.parameters.get(name)
        in_both = name in left.parameters and name in right.parameters
        if in_both and (mine or "").lower() != (other or "").lower():
            return False
        # These four change where or how a request goes: present in one only, the URIs differ.
        if not in_both and name in ("user", "ttl", "method", "maddr", "transport"):
            return False
    return True


def aor_key(uri: URI) -> str:
    """The key of an address-of-record: ``user@host[:port]``, RFC 3261 §10.3 step 5.

    The user part is escaped in one way, whatever way it came in, so the key is printable.
    ``sip`` and ``sips`` name the same user (RFC 5630 §3.1), so the scheme is no part of it.
    """
    port = "" if uri.port is None else f":{uri.port}"
    user = quote(uri.user or "", safe="-_.!~*'()&=+$,;?/")
    return f"{user}@{uri.host}{port}" if uri.user else f"{uri.host}{port}"


@dataclass(frozen=True)
class Contact:
    """One address of a Contact, To or From header, as it was sent.

    ``params`` holds the header parameters; a quoted value keeps its quotes, and a parameter
    without a value is None. ``uri`` is the text between the brackets.
    """

    uri: str
    display_name: str = ""
    params: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Contact:
        """Parse a name-addr or an addr-spec with its parameters (RFC 3261 §20.10)."""
        text = text.strip()
        quoted = _QUOTED_NAME.match(text)
        if quoted is not None:
            name, rest = re.sub(r"\\(.)", r"\1", quoted[1][1:-1]), text[quoted.end() :]
        else:
            name, bracket, rest = text.partition("<")
            name, rest = name.rstrip(), bracket + rest
        if rest and (quoted or '"' not in name):
            uri, closed, params = rest[1:].partition(">")
            if not closed:
                raise ValueError(f"malformed address {text!r}")
        else:
            # Without brackets everything after ";" belongs to the header, not to the URI.
            uri, semicolon, params = text.partition(";")
            name, params = "", semicolon + params
        uri = uri.strip()
        if not _OTHER_URI.match(uri):
            raise ValueError(f"malformed address {text!r}")
        return cls(uri, name, parse_parameters(params))

    @property
    def sip_uri(self) -> URI | None:
        """The parsed URI, or None when it is not a SIP or SIPS URI (mailto:, tel:, …)."""
        if self.uri[:4].lower() == "sip:" or self.uri[:5].lower() == "sips:":
            return parse_uri(self.uri)
        return None

    @property
    def flow(self) -> tuple[str, str] | None:
        """Instance and reg-id (RFC 5626 §4.2), or None; a reg-id alone is none."""
        instance, number = (self.params.get(name) for name in ("+sip.instance", "reg-id"))
        return (instance, number) if instance and number else None

    def __str__(self) -> str:
        params = "".join(f";{k}" if v is None else f";{k}={v}" for k, v in self.params.items())
        name = f"{quoted_string(self.display_name)} " if self.display_name else ""
        return f"{name}<{self.uri}>{params}"


@dataclass(frozen=True)
class Via:
    """The topmost Via of a request: what says where its response goes (RFC 3261 §18.2.2)."""

    protocol: str
    host: str
    port: int | None
    params: Mapping[str, str | None]

    @classmethod
    def parse(cls, text: str) -> Via:
        m = _VIA.match(text.strip())
        if m is None:
            raise ValueError(f"malformed Via {text!r}")
        protocol, host, port, params = m.groups()
        return cls(protocol.upper(), host.lower(), _port(port), parse_parameters(params))

    def destination(self, source: tuple[str, int]) -> tuple[str, int]:
        """Where a response over UDP goes: rport (RFC 3581 §4), else the port of sent-by.

        The address is always the one the request came from, so no request can make the
        registrar send to a third host (``maddr`` is not followed).
        """
        return source if "rport" in self.params else (source[0], self.port or 5060)


def mark_via(text: str, via: Via, source: tuple[str, int | str]) -> str:
    """Fill in ``received`` and ``rport`` (RFC 3261 §18.2.1, RFC 3581 §4)."""
    host, port = source
    asked = "rport" in via.params
    if asked:
        text = _RPORT.sub(f";rport={port}", text)
    if (asked or via.host.strip("[]") != host) and "received" not in via.params:
        text += f";received={host}"
    return text


def has_tag(address: str) -> bool:
    """True when a From or To header value carries a tag."""
    return _TAG.search(address, address.rfind(">") + 1) is not None
