# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP Digest for SIP, the server's side: RFC 3261 §22, RFC 7616, RFC 8760.

The digests are computed here with :mod:`hashlib`, independently of what the client uses.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .headers import parse_uri, quoted_string, same_uri

#: Algorithm name on the wire -> name of the hash (RFC 7616 §6.1).
ALGORITHMS: Mapping[str, str] = {
    "MD5": "md5",
    "SHA-256": "sha256",
    "SHA-512-256": "sha512_256",
}

_PARAM = re.compile(
    r"\s*([A-Za-z0-9\-*_]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))\s*(?:,|$)", re.DOTALL
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NC = re.compile(r"[0-9a-fA-F]{8}")
_NONCES_KEPT = 200_000


class DigestCredentials(dict[str, str]):
    """The parameters of an Authorization header, unquoted. Its repr hides the digest."""

    @classmethod
    def parse(cls, value: str) -> DigestCredentials | None:
        """Parse a header value; None when its scheme is not Digest.

        Raises ``ValueError`` when it is malformed.
        """
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() != "digest":
            return None
        found = cls()
        position, rest = 0, rest.strip()
        while position < len(rest):
            m = _PARAM.match(rest, position)
            if m is None:
                raise ValueError("malformed Digest credentials")
            name, quoted, plain = m.groups()
            if name.lower() in found:
                raise ValueError(f"the Digest parameter {name} is given twice")
            found[name.lower()] = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            position = m.end()
        return found

    def __repr__(self) -> str:
        shown = {k: "…" if k in ("response", "cnonce") else v for k, v in self.items()}
        return f"DigestCredentials({shown!r})"

    __str__ = __repr__


class Verdict(enum.Enum):
    """What the check of credentials came to."""

    OK = "ok"
    STALE = "stale"  # right digest, but the nonce is old, unknown or its count was replayed
    DENIED = "denied"  # unknown user or wrong password


@dataclass
class _Nonce:
    issued: float
    last_nc: int = 0
    uses: int = 0


@dataclass(frozen=True)
class DigestOptions:
    """How a registrar authenticates by Digest; see :class:`~pjsip_py.testing.Registrar`."""

    order: Sequence[str]  # of the challenges: algorithms, and "Bearer"
    qop: str | None
    nonce: str | Callable[[], str] | None
    opaque: str | None
    nonce_lifetime: float | None
    nonce_uses: int | None
    nextnonce: bool
    nc_check: str | None
    clock: Callable[[], float]
    token: Callable[[], str]


class DigestAuthenticator:
    """Makes challenges for one realm and checks credentials against a table of passwords."""

    def __init__(self, users: Mapping[str, str], realm: str, options: DigestOptions) -> None:
        self._users = users
        self._realm = realm
        self._options = options
        self._algorithms = [name for name in options.order if name in ALGORITHMS]
        self._qops = () if options.qop is None else tuple(map(str.strip, options.qop.split(",")))
        self._uses = 1 if options.nextnonce else options.nonce_uses
        self._nonces: dict[str, _Nonce] = {}  # in the order they were issued
        self.forget_nonces()

    def forget_nonces(self) -> None:
        """Every nonce handed out becomes stale, as after a restart."""
        given = self._options
        self._nonces.clear()
        self._opaque = given.token() if given.opaque is None else given.opaque
        if isinstance(given.nonce, str):
            self._nonces[given.nonce] = _Nonce(given.clock())

    def challenges(self, stale: bool) -> dict[str, str]:
        """The values for WWW-Authenticate by algorithm, with one nonce (RFC 8760 §2.3)."""
        rest = f', qop="{",".join(self._qops)}"' if self._qops else ""
        rest += ", stale=true" if stale else ""
        start = (
            f"Digest realm={quoted_string(self._realm)}, nonce={quoted_string(self._new_nonce())}, "
            f"opaque={quoted_string(self._opaque)}, algorithm="
        )
        return {name: start + name + rest for name in self._algorithms}

    def authentication_info(self) -> str | None:
        """The value for Authentication-Info in an answer to proven credentials, if any."""
        return f"nextnonce={quoted_string(self._new_nonce())}" if self._options.nextnonce else None

    def _new_nonce(self) -> str:
        given = self._options.nonce
        if isinstance(given, str):
            return given
        nonce = self._options.token() + self._options.token() if given is None else given()
        while len(self._nonces) >= _NONCES_KEPT:
            del self._nonces[next(iter(self._nonces))]
        self._nonces.setdefault(nonce, _Nonce(self._options.clock()))
        return nonce

    def check(
        self, credentials: DigestCredentials, *, method: str, uri: str, body: bytes
    ) -> Verdict | None:
        """Judge one set of credentials; None when it is for another realm.

        Raises ``ValueError`` for credentials that break RFC 7616 §3.4.
        """
        if credentials.get("realm") != self._realm:
            return None
        for name in ("username", "nonce", "uri", "response"):
            if name not in credentials:
                raise ValueError(f"the Digest credentials have no {name}")
        algorithm = credentials.get("algorithm", "MD5")
        # What came with an unknown nonce, nobody knows: any algorithm and qop may be right.
        issued = credentials["nonce"] in self._nonces
        if algorithm.upper() not in (self._algorithms if issued else ALGORITHMS):
            raise ValueError(f"the Digest algorithm {algorithm!r} was not offered")
        if not _same_text_or_uri(credentials["uri"], uri):
            raise ValueError("the Digest uri is not the Request-URI")
        nc = self._nonce_count(credentials, self._qops if issued else None)
        password = self._users.get(credentials["username"])
        if password is None or not hmac.compare_digest(
            digest_response(credentials, password, method, body).encode(),
            credentials["response"].encode(),
        ):
            return Verdict.DENIED
        return self._use_nonce(credentials, nc)

    def _nonce_count(
        self, credentials: DigestCredentials, offered: Sequence[str] | None
    ) -> int | None:
        qop = credentials.get("qop")
        if offered is None:
            offered = ("auth", "auth-int") if qop is not None else ()
        if not offered:
            if qop is not None:
                raise ValueError("the Digest credentials have a qop that was not offered")
            return None
        if qop not in offered:
            raise ValueError(f"the Digest qop {qop!r} was not offered")
        if not credentials.get("cnonce"):
            raise ValueError("the Digest credentials have no cnonce")
        nc = credentials.get("nc", "")
        if not _NC.fullmatch(nc):
            raise ValueError("the Digest nc is not eight hexadecimal digits")
        return int(nc, 16)

    def _use_nonce(self, credentials: DigestCredentials, nc: int | None) -> Verdict:
        nonce = self._nonces.get(credentials["nonce"])
        if nonce is None:
            return Verdict.STALE
        if credentials.get("opaque") != self._opaque:
            raise ValueError("the Digest opaque is not the one of the challenge")
        lifetime, now = self._options.nonce_lifetime, self._options.clock()
        if lifetime is not None and now - nonce.issued >= lifetime:
            return Verdict.STALE
        if self._uses is not None and nonce.uses >= self._uses:
            return Verdict.STALE
        if nc is not None and self._options.nc_check is not None:
            if nc <= nonce.last_nc:
                return Verdict.STALE
            if self._options.nc_check == "exact" and nc != nonce.last_nc + 1:
                return Verdict.STALE
            nonce.last_nc = nc
        nonce.uses += 1
        return Verdict.OK


def _same_text_or_uri(left: str, right: str) -> bool:
    if left == right:
        return True
    try:
        return same_uri(parse_uri(left), parse_uri(right))
    except ValueError:
        return False


def digest_response(
    credentials: Mapping[str, str], password: str, method: str, body: bytes = b""
) -> str:
    """Compute the ``response`` of Digest credentials (RFC 7616 §3.4.1).

    `credentials` holds the unquoted parameters of the Authorization header, whose algorithm
    has to be one of :data:`ALGORITHMS`.
    """
    name = ALGORITHMS[credentials.get("algorithm", "MD5").upper()]

    def h(*parts: str) -> str:
        return hashlib.new(name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

    ha1 = h(credentials["username"], credentials["realm"], password)
    qop = credentials.get("qop")
    if qop == "auth-int":
        ha2 = h(method, credentials["uri"], hashlib.new(name, body).hexdigest())
    else:
        ha2 = h(method, credentials["uri"])
    if qop is None:
        return h(ha1, credentials["nonce"], ha2)
    return h(ha1, credentials["nonce"], credentials["nc"], credentials["cnonce"], qop, ha2)


def require_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    """Check that `algorithms` are known and that this Python can compute them.

    Raises ``ValueError``.
    """
    if not algorithms:
        raise ValueError("algorithms is empty: name at least one of " + ", ".join(ALGORITHMS))
    for algorithm in algorithms:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"unknown digest algorithm {algorithm!r}: " + ", ".join(ALGORITHMS))
        try:
            hashlib.new(ALGORITHMS[algorithm], usedforsecurity=False)
        except ValueError as error:
            raise ValueError(
                f"this Python's OpenSSL cannot compute {algorithm}; leave it out of algorithms"
            ) from error
    return tuple(algorithms)
