# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials for digest authentication (RFC 7616, RFC 8760) and Bearer tokens (RFC 8898)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from ._lazy import pattern
from ._secret import StrPath, forgets, read_secret, references
from ._typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast
from .errors import ConfigError
from .uri import check_bool, check_text

if TYPE_CHECKING:
    from .message import Response

#: Digest algorithms that PJSIP computes, weakest first.
ALGORITHMS = ("MD5", "SHA-256", "SHA-512-256")
_HA1_DIGITS = {"MD5": 32, "SHA-256": 64, "SHA-512-256": 64}

# PJSIP_MAX_CREDENTIALS of one registration.
MAX_CREDENTIALS = 8
TEXTS = 5  # that C takes for each: realm, user name, secret, kind, weakest algorithm
MAX_TOKEN = 4096  # characters
# RFC 6750 §2.1, b64token
_HEX = pattern("[0-9A-Fa-f]+")
_QUOTABLE = pattern(r'["\\]')
_TOKEN = pattern(r"[A-Za-z0-9\-._~+/]+=*")


class Credentials:
    """User name and secret for one realm.

    Give *password*, or *ha1* to keep the password out of the process: the hexadecimal hash of
    ``user:realm:password``, as a string (32 digits: MD5, 64: SHA-256) or as a mapping from
    algorithm to digits.  An HA1 holds for its own realm and algorithm only, so *realm* must then
    be named; ``"*"`` answers any realm.

    Of the algorithms that a registrar offers for a realm the strongest is taken, whatever their
    order.  *min_algorithm* (``"MD5"``, ``"SHA-256"``, ``"SHA-512-256"``) refuses to prove the
    secret by anything weaker: no Authorization header leaves, and the registration fails with
    :class:`~pjsip_py.DowngradeError`.

    :raises ConfigError: when a field is missing, malformed or contradicts another.
    """

    __slots__ = ("_references", "_texts", "min_algorithm", "realm", "username")

    @forgets
    def __init__(
        self,
        username: str,
        password: str | None = None,
        *,
        realm: str = "*",
        ha1: str | Mapping[str, str] | None = None,
        min_algorithm: str | None = None,
    ) -> None:
        self.username = check_text("username", username, maximum=256)
        self.realm = check_text("realm", realm, maximum=256)
        if not username:
            raise ConfigError("username must not be empty")
        if _needs_quoting(username + realm):
            _check_quoting()
        if not realm:
            raise ConfigError("realm must not be empty; '*' stands for any")
        if (password is None) == (ha1 is None):
            raise ConfigError("Credentials need either password or ha1")
        if min_algorithm is not None and min_algorithm not in ALGORITHMS:
            raise ConfigError(f"min_algorithm must be one of {', '.join(ALGORITHMS)}")
        self.min_algorithm = min_algorithm
        # Where the secret was found; None if it was given as it is.
        self._references = None
        if type(password) is not str:
            self._references = references({"password": password} if ha1 is None else {"ha1": ha1})
        # As C takes them: five texts for the password, or for each HA1.
        least, quoted = min_algorithm or "", quote(realm)
        self._texts: tuple[str, ...]
        if password is not None:
            self._texts = (quoted, username, _secret("password", password), "", least)
        else:
            if realm == "*":
                raise ConfigError("ha1 is made for one realm: name it by realm=")
            items = _ha1_items(ha1, ALGORITHMS.index(min_algorithm or "MD5"))
            self._texts = tuple(
                text
                for secret, algorithm in items
                for text in (quoted, username, secret, algorithm, least)
            )

    @classmethod
    @forgets
    def from_reference(
        cls,
        username: str,
        password: str | None = None,
        *,
        realm: str = "*",
        ha1: str | Mapping[str, str] | None = None,
        min_algorithm: str | None = None,
        base: StrPath | None = None,
    ) -> Credentials:
        """Credentials whose *password* or *ha1* stands elsewhere, and that remember where.

        A reference is ``env:NAME``, ``file:/path`` (one line feed at its end is not part of the
        secret) or ``keyring:service/username``.  It is read once, here.

        :param base: folder of relative ``file:`` paths, by default the working directory.
        :raises ConfigError: a reference leads nowhere, or is none but a secret written out.
        """

        def read(field: str, given: object) -> Any:
            if given is None:
                return None
            if field == "ha1" and isinstance(given, Mapping):
                return {algorithm: read("ha1", value) for algorithm, value in given.items()}
            try:
                return read_secret(given, base)
            except ConfigError as error:
                raise ConfigError(f"{field}: {error}") from None

        return cls(
            username,
            read("password", password),
            realm=realm,
            ha1=read("ha1", ha1),
            min_algorithm=min_algorithm,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        return self._texts == other._texts

    def __hash__(self) -> int:
        return hash((self.username, self.realm, self.min_algorithm))

    def __repr__(self) -> str:
        kind = "ha1" if self._texts[3] else "password"
        shown = "<hidden>" if self._references is None else self._references[kind]
        return f"Credentials({self.username!r}, {kind}={shown}, realm={self.realm!r})"


def quote(text: str) -> str:
    """As it stands between quotes (RFC 3261 §25.1, quoted-pair), where PJSIP looks for it."""
    return _QUOTABLE.sub(r"\\\g<0>", text) if _needs_quoting(text) else text


def _needs_quoting(text: str) -> bool:
    return '"' in text or "\\" in text


def _check_quoting() -> None:
    from . import _ffi  # here, for hardly anybody needs it

    if "quoted-pairs-in-digests" not in _ffi.build_info()["patches"]:
        raise ConfigError(
            "username and realm must not contain a quote or a backslash: this build's PJSIP "
            "prints both between quotes as they are"
        )


def _secret(field: str, value: object) -> str:
    """As check_text, but no message ever quotes the value."""
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a str, not {type(value).__name__}")
    return check_text(field, value, maximum=1024)


def _ha1_items(ha1: str | Mapping[str, str] | None, least: int) -> Iterable[tuple[str, str]]:
    if isinstance(ha1, str):
        ha1 = {"MD5" if len(ha1) == 32 else "SHA-256": ha1}
    if not isinstance(ha1, Mapping) or not ha1:
        raise ConfigError("ha1 must be a string of hexadecimal digits or a mapping by algorithm")
    for algorithm, value in ha1.items():
        digits = _HA1_DIGITS.get(algorithm)
        if digits is None:
            raise ConfigError(f"ha1: unknown algorithm; use one of {', '.join(ALGORITHMS)}")
        if not isinstance(value, str) or not _HEX.fullmatch(value) or len(value) != digits:
            raise ConfigError(f"ha1: {algorithm} takes {digits} hexadecimal digits")
    if all(ALGORITHMS.index(algorithm) < least for algorithm in ha1):
        raise ConfigError("ha1 is made by a weaker algorithm than min_algorithm allows")
    for algorithm, value in ha1.items():
        if ALGORITHMS.index(algorithm) >= least:
            yield value.lower(), algorithm


class BearerToken:
    """An access token (RFC 6750), shown to a registrar that asks for one (RFC 8898).

    It goes out as ``Authorization: Bearer …`` once a challenge has asked for it, and from then on
    with every request; whoever reads it can use it, so over TLS only, unless *insecure* is True.
    *realm* is the one of the challenge, ``"*"`` any.

    :raises ConfigError: the token is none, or too long.
    """

    __slots__ = ("_token", "insecure", "realm")

    @forgets
    def __init__(self, token: str, *, realm: str = "*", insecure: bool = False) -> None:
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ConfigError("token must be a Bearer token: letters, digits and -._~+/ (RFC 6750)")
        if len(token) > MAX_TOKEN:
            raise ConfigError(f"token is too long: at most {MAX_TOKEN} characters")
        self._token = token
        self.realm = check_text("realm", realm, maximum=256)
        self.insecure = check_bool("insecure", insecure)

    @property
    def _texts(self) -> tuple[str, ...]:
        return quote(self.realm), "", self._token, "bearer" if self.insecure else "Bearer", ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BearerToken):
            return NotImplemented
        mine, theirs = ((t._token, t.realm, t.insecure) for t in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.realm, self.insecure))

    def __repr__(self) -> str:
        return f"BearerToken(<hidden>, realm={self.realm!r})"


class Challenge(NamedTuple):
    """What a ``credentials=`` callable is asked: how is this realm answered?"""

    scheme: str  #: "Digest" or "Bearer"
    realm: str  #: as the challenge names it; "" for a Bearer challenge that names none
    algorithm: str  #: the strongest that is offered and known: what a password would be used with
    algorithms: tuple[str, ...]  #: all that are offered for the realm, strongest first
    registrar: str  #: URI of the registrar that the request goes to
    aor: str
    proxy: bool  #: a proxy on the way asks (407, Proxy-Authenticate)
    refused: bool  #: what was given before is not taken any more
    #: parameters of the challenge, as realm, qop and opaque, or authz_server and scope
    parameters: Mapping[str, str]
    response: Response  #: the whole 401 or 407


Proof: TypeAlias = Credentials | BearerToken
#: What a callable may return; None: nothing for this realm.
Answer: TypeAlias = Proof | Sequence[Proof] | None
Source: TypeAlias = Callable[[Challenge], Answer | Awaitable[Answer]]


def check_credentials(value: object) -> tuple[Proof, ...] | Source:
    """One Credentials or BearerToken, a sequence of them, or a callable that returns such."""
    if isinstance(value, (Credentials, BearerToken)):
        return (value,)
    if callable(value):
        return cast(Source, value)
    return check_proofs(value, ", or a callable that returns them")


def check_proofs(value: object, or_else: str = "") -> tuple[Proof, ...]:
    items = (value,) if isinstance(value, Proof) else value
    if not isinstance(items, (tuple, list)) or not all(isinstance(i, Proof) for i in items):
        raise ConfigError(
            f"credentials must be Credentials or BearerToken, or a sequence of them{or_else}"
        )
    if sum(len(item._texts) for item in items) > MAX_CREDENTIALS * TEXTS:
        raise ConfigError(f"credentials: at most {MAX_CREDENTIALS} (each HA1 counts as one)")
    return tuple(items)


def credential_texts(credentials: tuple[Proof, ...] | Source) -> tuple[str, ...]:
    """As C takes them, ``TEXTS`` for each; of a callable it has none until it asks."""
    if callable(credentials):
        return ()
    if len(credentials) == 1:
        return credentials[0]._texts
    return tuple(text for proof in credentials for text in proof._texts)
