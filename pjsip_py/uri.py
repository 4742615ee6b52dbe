# SPDX-License-Identifier: GPL-3.0-or-later
"""SIP URIs and the checks that every string passes before it may reach C (RFC 3261 §19.1, §25).

PJSIP parses a URI up to the first character it does not like and prints header values as they
are, so a line break in a caller's string would become a header of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from ._lazy import pattern
from ._typing import NamedTuple
from .errors import ConfigError, InvalidUriError
from .message import split_outside_quotes

# One less than PJSIP_MAX_URL_SIZE: PJSIP prints a URI into a buffer of that size.
MAX_URI = 1023
MAX_TEXT = 4096

_CONTROL = pattern(r"[\x00-\x1f\x7f]")
# Each in one way only, or what does not match would take for ever to find out.
_ESCAPED = "%[0-9A-Fa-f]{2}"
_USER_CHARS = r"[A-Za-z0-9\-_.!~*'()&=+$,;?/]*"
_USER = rf"(?!@){_USER_CHARS}(?:{_ESCAPED}{_USER_CHARS})*"
_PARAM_CHARS = r"[A-Za-z0-9\-_.!~*'()\[\]/:&+$]*"
_PARAM = rf"(?![;=]|$){_PARAM_CHARS}(?:{_ESCAPED}{_PARAM_CHARS})*"
_URI_PASSWORD = pattern(r"(?i)\bsips?:[^@:]*:[^@]*@")
_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9_.\-]*[A-Za-z0-9])?\.?"
_URI = pattern(
    rf"([sS][iI][pP][sS]?):(?:({_USER})@)?({_HOST})(?::([0-9]{{1,5}}))?((?:;{_PARAM}(?:={_PARAM})?)*)"
)
_NUMERIC = pattern(r"[0-9.]+")
_TOKEN = pattern(r"[A-Za-z0-9\-.!%*_+`'~]+")


_NO_PARAMS: Mapping[str, str] = MappingProxyType({})


class SipUri(NamedTuple):
    """A SIP or SIPS URI in its parts; ``host`` has no brackets, ``port`` 0 means none."""

    text: str
    scheme: str
    user: str
    host: str
    port: int
    params: Mapping[str, str]

    @property
    def transport(self) -> str:
        """``udp``, ``tcp`` or ``tls`` as RFC 3261 §19.1.1 and §26.2.2 have it; UDP if silent."""
        named = self.params.get("transport", "").lower()
        if self.scheme == "sips":
            return "tls"
        return named or "udp"

    @property
    def is_address(self) -> bool:
        """The host is an IP address, not a name; parse_uri() has seen that it is a valid one."""
        return ":" in self.host or _NUMERIC.fullmatch(self.host) is not None


def check_text(field: str, value: object, *, maximum: int = MAX_TEXT) -> str:
    """*value* as it is, or ConfigError: str, no control character, no lone surrogate."""
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a str, not {type(value).__name__}")
    if value.isascii() and value.isprintable() and len(value) <= maximum:
        return value
    found = _CONTROL.search(value)
    if found:
        raise ConfigError(f"{field} contains a control character (U+{ord(found[0]):04X})")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"{field} contains a lone surrogate, which is no character") from None
    if size > maximum:
        raise ConfigError(f"{field} is too long: {size} bytes of at most {maximum}")
    return value


def check_fields(given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a field that there is not, and name the one that was perhaps meant."""
    for name in given:
        if name not in known:
            import difflib  # only for who mistypes

            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"unknown field {name!r}" + (f": did you mean {near[0]!r}?" if near else "")
            )


def check_token(field: str, value: object) -> str:
    """A token of RFC 3261 §25.1: header and parameter names."""
    text = check_text(field, value, maximum=128)
    if not _TOKEN.fullmatch(text):
        raise ConfigError(f"{field} {text!r} is not a SIP token")
    return text


def check_int(field: str, value: object, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field} must be an int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ConfigError(f"{field} must be {minimum} to {maximum}, not {_shown(value)}")
    return value


def _shown(value: float) -> str:
    """Not an error of its own for a number that Python does not print."""
    try:
        return f"{value:g}" if isinstance(value, float) else str(value)
    except (OverflowError, ValueError):
        return "a number of thousands of digits"


def check_bool(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{field} must be True or False, not {type(value).__name__}")
    return value


def check_seconds(field: str, value: object, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{field} must be a number of seconds, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ConfigError(f"{field} must be {minimum:g} to {maximum:g} s, not {_shown(value)}")
    return float(value)


def parse_uri(field: str, value: object) -> SipUri:
    """Parse a ``sip:`` or ``sips:`` URI without headers, or raise :class:`InvalidUriError`."""
    try:
        text = check_text(field, value, maximum=MAX_URI)
    except ConfigError as error:
        raise InvalidUriError(str(error)) from None
    found = _URI.fullmatch(text)
    if not found:
        raise InvalidUriError(f"{field}: {_why_no_uri(text)}")
    scheme, user, host, digits, tail = found.groups()
    scheme = "sip" if len(scheme) == 3 else "sips"
    try:
        host = _check_host(host)
    except ValueError as error:
        raise InvalidUriError(f"{field}: {text!r}: {error}") from None
    port = int(digits) if digits else 0
    if digits and not 1 <= port <= 65535:
        raise InvalidUriError(f"{field}: {text!r}: the port must be 1 to 65535")
    if not tail:
        return _make_uri((text, scheme, user or "", host, port, _NO_PARAMS))
    params: dict[str, str] = {}
    for part in tail.split(";")[1:]:
        name, _, content = part.partition("=")
        params[name.lower()] = content
    transport = params.get("transport", "udp").lower()
    if transport not in ("udp", "tcp", "tls"):
        raise InvalidUriError(f"{field}: {text!r}: transport must be udp, tcp or tls")
    if "ttl" in params and not (params["ttl"].isdecimal() and int(params["ttl"]) <= 255):
        raise InvalidUriError(f"{field}: {text!r}: ttl must be 0 to 255")
    if scheme == "sips" and params.get("transport", "").lower() == "udp":
        raise InvalidUriError(f"{field}: {text!r}: sips: cannot go over UDP (RFC 3261 §26.2.2)")
    return SipUri(text, scheme, user or "", host, port, params)


_make_uri = SipUri._make


def _why_no_uri(text: str) -> str:
    if _URI_PASSWORD.search(text):
        return "a password in a URI travels in clear text (RFC 3261 §19.1.1): give Credentials"
    if "<" in text:
        why = "give the bare URI, and the name as display_name"
    elif not text.lower().startswith(("sip:", "sips:")):
        why = "it must begin with sip: or sips:"
    elif not text.isascii():
        why = "characters beyond ASCII must be %-escaped"
    else:
        why = "expected sip:user@host[:port][;parameter=value]"
    return f"{text!r} is not a SIP URI: {why}"


@lru_cache(maxsize=64)  # and one string for thousands of AORs in a domain
def _check_host(host: str) -> str:
    """Without its brackets; :raises ValueError: an address that is none."""
    if host.startswith("["):
        host = host[1:-1]
        import ipaddress

        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IPv6 address") from None
    elif _NUMERIC.fullmatch(host):
        import ipaddress

        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IPv4 address") from None
    elif ".." in host:
        raise ValueError(f"{host!r} is no host name")
    return host


def parse_aor(field: str, value: object) -> SipUri:
    """An address of record: a URI with a user part (RFC 3261 §10)."""
    uri = parse_uri(field, value)
    if not uri.user:
        raise InvalidUriError(f"{field}: {uri.text!r} has no user part")
    return uri


def parse_registrar(field: str, value: object) -> SipUri:
    """A registrar's URI: no user part (RFC 3261 §10.2, Request-URI)."""
    if isinstance(value, str):
        return _parse_registrar(field, value)
    return parse_uri(field, value)  # which says what is wrong with it


@lru_cache(maxsize=64)  # thousands of accounts share a registrar
def _parse_registrar(field: str, text: str) -> SipUri:
    uri = parse_uri(field, text)
    if uri.user:
        raise InvalidUriError(
            f"{field}: {uri.text!r} has a user part; a registrar is named by its domain alone"
        )
    return uri


def default_registrar(aor: SipUri) -> SipUri:
    """The registrar that RFC 3261 §10.2.6 takes when none is configured: the AOR's domain."""
    host = f"[{aor.host}]" if ":" in aor.host else aor.host
    text = f"{aor.scheme}:{host}" + (f":{aor.port}" if aor.port else "")
    if "transport" in aor.params:
        text += f";transport={aor.params['transport']}"
    return parse_uri("registrar", text)


def host_port(host: str, port: int) -> str:
    """``host:port`` as it stands in a URI, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What PJSIP or an argument of its own makes; a second one would contradict it.
_OWN_HEADERS = {
    *("via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "contact", "m", "expires"),
    *("max-forwards", "route", "record-route", "authorization", "proxy-authorization"),
    *("content-length", "l", "content-type", "c", "user-agent"),
}


def check_headers(value: object) -> tuple[tuple[str, str], ...]:
    """Extra headers: a mapping or a sequence of (name, value) pairs."""
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError("headers must be a mapping or a sequence of (name, value) pairs")
    headers = []
    for item in value:
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
            raise ConfigError("headers must be (name, value) pairs")
        name = check_token("header name", item[0])
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"header {name} has an argument of its own or is PJSIP's to write")
        headers.append((name, check_text(f"header {name}", item[1])))
    if len(headers) > 32:
        raise ConfigError("headers: at most 32")
    return tuple(headers)


_PARAM_VALUE = pattern(rf'{_PARAM}|"(?:[^"\\]|\\.)*"')


def check_params(field: str, value: object) -> str:
    """``;name=value…`` from a mapping (None: no value) or from such a string."""
    if isinstance(value, str):
        value = {
            p.partition("=")[0].strip(): p.partition("=")[2].strip() if "=" in p else None
            for p in split_outside_quotes(check_text(field, value), ";")
            if p
        }
    if not isinstance(value, dict):
        raise ConfigError(f"{field} must be a mapping or a string of ;name=value")
    text = ""
    for name, content in value.items():
        text += ";" + check_token(f"{field} name", name)
        if content is None:
            continue
        content = check_text(f"{field} {name}", content)
        if not _PARAM_VALUE.fullmatch(content):
            raise ConfigError(f'{field} {name}: {content!r} must be a token or a "quoted string"')
        text += "=" + content
    return text
