# SPDX-License-Identifier: GPL-3.0-or-later
"""Responses and bindings, parsed when somebody looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from ._lazy import pattern
from ._typing import NamedTuple

# RFC 3261 §7.3.3 and the registry of compact forms.
_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
}
_NUMBER = pattern(r"\s*([0-9]+)(?![\w.])")
_FOLD = pattern(r"\r?\n[ \t]+")
_LINE_END = pattern(r"\r\n|\r|\n")
_UNQUOTED = pattern(r"\\(.)")


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split where *separator* stands neither in a quoted string nor in angle brackets."""
    parts: list[str] = []
    start = 0
    quoted = angle = escaped = False
    for at, char in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == separator and not angle:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def unquote(text: str) -> str:
    """The value of a quoted-string (RFC 3261 §25.1); anything else as it is."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return _UNQUOTED.sub(r"\1", text[1:-1])
    return text


def _params(parts: list[str]) -> dict[str, str]:
    params = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name.strip():
            params[name.strip().lower()] = unquote(value.strip())
    return params


class Headers(Mapping[str, str]):
    """Header fields: names ignore case and know their compact forms; order is kept.

    ``headers[name]`` and ``get(name)`` give the first field, ``get_all(name)`` all of them, one
    item a field; ``values_of(name)`` also splits fields that hold a comma-separated list.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self.fields = fields

    @staticmethod
    def _key(name: str) -> str:
        name = name.lower()
        return _COMPACT.get(name, name)

    def __getitem__(self, name: str) -> str:
        for found in self.get_all(name):
            return found
        raise KeyError(name)

    def get_all(self, name: str) -> list[str]:
        key = self._key(name)
        return [value for field, value in self.fields if self._key(field) == key]

    def values_of(self, name: str) -> list[str]:
        return [v for field in self.get_all(name) for v in split_outside_quotes(field, ",") if v]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.fields))

    def __len__(self) -> int:
        return len({self._key(name) for name, _ in self.fields})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __repr__(self) -> str:
        return f"Headers({list(self)})"


class Binding(NamedTuple):
    """One Contact of a registrar's answer (RFC 3261 §10.3): what the AOR is bound to."""

    uri: str
    #: Seconds left, from the contact's own parameter or the Expires header; None if neither.
    expires: int | None = None
    q: float | None = None
    params: Mapping[str, str] = {}
    display_name: str = ""


def split_name_addr(text: str) -> tuple[str, str, str] | None:
    """What stands before, inside and after the angle brackets; None without any."""
    for at, char in enumerate(_outside_quotes(text)):
        if char == "<":
            uri, angle, tail = text[at + 1 :].partition(">")
            return (text[:at].strip(), uri.strip(), tail.strip()) if angle else None
    return None


def parse_contact(text: str) -> tuple[str, str, dict[str, str]]:
    """Display name, URI and header parameters of a name-addr or addr-spec."""
    parts = split_name_addr(text)
    if parts:
        name, uri, tail = parts
        return unquote(name), uri, _params(split_outside_quotes(tail, ";")[1:])
    # Without brackets every parameter is the header's (RFC 3261 §20.10).
    uri, *params = split_outside_quotes(text, ";")
    return "", uri.lstrip("<"), _params(params)


def _outside_quotes(text: str) -> Iterator[str]:
    """The characters of *text*, those inside quoted strings blanked."""
    quoted = escaped = False
    for char in text:
        if quoted:
            if not escaped and char == '"':
                quoted = False
            escaped = char == "\\" and not escaped
            yield " "
        else:
            quoted = char == '"'
            yield " " if quoted else char


def _int(text: str | None, maximum: int = 2**32 - 1) -> int | None:
    """The number at the start of *text*, bounded; None without any."""
    found = _NUMBER.match(text or "")
    return min(int(found[1][:20]), maximum) if found else None


class Response:
    """A response as it came off the wire, its digests blotted out."""

    def __init__(self, raw: bytes, source: str) -> None:
        self._raw = raw
        self._source = source

    @cached_property
    def _parts(self) -> tuple[str, Headers, bytes]:
        head, _, body = self._raw.partition(b"\r\n\r\n")
        try:
            text = head.decode()
        except UnicodeDecodeError:
            text = head.decode("latin-1")
        lines = _LINE_END.split(_FOLD.sub(" ", text))
        fields = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                fields.append((name.strip(), value.strip()))
        return lines[0] if lines else "", Headers(tuple(fields)), body

    @property
    def code(self) -> int:
        return _int(self._parts[0].partition(" ")[2], 999) or 0

    @property
    def reason(self) -> str:
        return self._parts[0].partition(" ")[2].partition(" ")[2]

    @property
    def headers(self) -> Headers:
        return self._parts[1]

    @property
    def body(self) -> bytes:
        return self._parts[2]

    @property
    def source(self) -> tuple[str, int]:
        """Address and port it came from."""
        host, _, port = self._source.rpartition(":")
        return host.strip("[]"), _int(port) or 0

    @property
    def raw(self) -> bytes:
        return self._raw

    @cached_property
    def bindings(self) -> tuple[Binding, ...]:
        """All Contacts, in the registrar's order."""
        default = _int(self.headers.get("Expires"))
        found = []
        for text in self.headers.values_of("Contact"):
            if text == "*":
                continue
            name, uri, params = parse_contact(text)
            expires = _int(params.pop("expires", None))
            try:
                q = float(params["q"]) if "q" in params else None
            except ValueError:
                q = None
            params.pop("q", None)
            found.append(Binding(uri, default if expires is None else expires, q, params, name))
        return tuple(found)

    @property
    def retry_after(self) -> float | None:
        """Retry-After in seconds (RFC 3261 §20.33)."""
        return _int(self.headers.get("Retry-After"))

    @property
    def min_expires(self) -> int | None:
        """Min-Expires in seconds (RFC 3261 §20.23)."""
        return _int(self.headers.get("Min-Expires"))

    @property
    def flow_timer(self) -> int | None:
        """Flow-Timer in seconds: how often the path wants to be kept alive (RFC 5626 §10.5)."""
        return _int(self.headers.get("Flow-Timer"))

    @property
    def stale(self) -> bool:
        """Whether a challenge says that only the nonce was too old (RFC 7616 §3.3)."""
        return any(params.get("stale", "").lower() == "true" for _, _, params in self.challenges)

    @cached_property
    def challenges(self) -> tuple[tuple[bool, str, Mapping[str, str]], ...]:
        """Of each challenge: whether it is a proxy's, its scheme, its parameters, unquoted."""
        found = []
        for name, proxy in (("WWW-Authenticate", False), ("Proxy-Authenticate", True)):
            for field in self.headers.get_all(name):
                scheme, _, rest = field.strip().partition(" ")
                found.append((proxy, scheme, _params(split_outside_quotes(rest, ","))))
        return tuple(found)

    @property
    def path(self) -> tuple[str, ...]:
        """Path (RFC 3327), topmost first."""
        return tuple(self.headers.values_of("Path"))

    @property
    def service_route(self) -> tuple[str, ...]:
        """Service-Route (RFC 3608), topmost first."""
        return tuple(self.headers.values_of("Service-Route"))

    @cached_property
    def _via(self) -> dict[str, str]:
        vias = self.headers.values_of("Via")
        return _params(split_outside_quotes(vias[0], ";")[1:]) if vias else {}

    @property
    def received(self) -> str | None:
        """The address that the registrar saw us at (RFC 3261 §18.2.1)."""
        return self._via.get("received")

    @property
    def rport(self) -> int | None:
        """The port that the registrar saw us at (RFC 3581)."""
        return _int(self._via.get("rport"), 65535)

    def __repr__(self) -> str:
        return f"<Response {self.code} {repr(self.reason)[1:-1]}>"
