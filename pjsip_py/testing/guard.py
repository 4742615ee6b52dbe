# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks for a proof: a registrar, or a proxy before it, for a realm (RFC 3261 §22)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .digest import DigestAuthenticator, DigestCredentials, Verdict, require_algorithms
from .headers import quoted_string

if TYPE_CHECKING:
    from .request import ReceivedRequest

#: What a challenge can ask for, as Registrar's ``algorithms`` names it.
BEARER = "Bearer"

_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


@dataclass(frozen=True)
class Proof:
    """One set of credentials of a request, and what the registrar found; no digest, no token.

    ``scheme`` is ``"Digest"`` or ``"Bearer"``, ``username`` the one given or the token's owner
    (empty for an unknown token), ``nc`` the nonce count as a number, None without qop; ``proxy``
    says that it came in Proxy-Authorization. ``verdict``: ``"ok"``, ``"stale"`` (right, but the
    nonce is old, unknown or was replayed), ``"denied"`` or ``"bad"`` (breaks the rules: 400).
    """

    scheme: str
    realm: str
    username: str
    algorithm: str
    qop: str
    nonce: str
    nc: int | None
    proxy: bool
    verdict: str


class Guard:
    """Demands one proof from each request: a digest for its realm, or a token.

    `users` and `tokens` are shared with who changes them.
    """

    def __init__(
        self,
        realm: str,
        proxy: bool,
        order: Sequence[str],
        digest: DigestAuthenticator | None,
        tokens: Mapping[str, str] | None,
        bearer: Mapping[str, str],
    ) -> None:
        self.code = 407 if proxy else 401
        self._realm = realm
        self._proxy = proxy
        self._order = order
        self.digest = digest
        self._tokens = tokens
        self._bearer = dict(bearer)

    def check(self, request: ReceivedRequest) -> Verdict | None:
        """Judge a request's credentials, noting them in its ``proofs``; None when it has none
        for this realm.

        With several, the first good one decides (RFC 8760 §2.4). Raises ``ValueError`` for
        credentials that break RFC 7616 §3.4 or RFC 6750 §2.1.
        """
        verdict: Verdict | None = None
        header = "Proxy-Authorization" if self._proxy else "Authorization"
        for value in request.headers.getlist(header):
            found = self._check_one(value, request)
            verdict = found or verdict
            if found is Verdict.OK:
                break
        return verdict

    def _check_one(self, value: str, request: ReceivedRequest) -> Verdict | None:
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() == "bearer" and self._tokens is not None:
            return self._check_token(rest.strip(), request)
        credentials = DigestCredentials.parse(value)
        if credentials is None or self.digest is None:
            return None
        try:
            verdict = self.digest.check(
                credentials,
                method=request.method,
                uri=request.uri,
                body=request.message.body,
            )
        except ValueError:
            self._note(request, "bad", credentials)
            raise
        if verdict is not None:
            self._note(request, verdict.value, credentials)
        return verdict

    def _check_token(self, token: str, request: ReceivedRequest) -> Verdict:
        assert self._tokens is not None
        owner = self._tokens.get(token)
        verdict = "bad" if not _TOKEN68.fullmatch(token) else "denied" if owner is None else "ok"
        request.proofs += (
            Proof(BEARER, self._realm, owner or "", "", "", "", None, self._proxy, verdict),
        )
        if verdict == "bad":
            raise ValueError("the Bearer token is none (RFC 6750 §2.1)")
        return Verdict(verdict)

    def _note(self, request: ReceivedRequest, verdict: str, given: DigestCredentials) -> None:
        count = given.get("nc", "")
        request.proofs += (
            Proof(
                scheme="Digest",
                realm=self._realm,
                username=given.get("username", ""),
                algorithm=given.get("algorithm", "MD5"),
                qop=given.get("qop", ""),
                nonce=given.get("nonce", ""),
                nc=int(count, 16) if re.fullmatch("[0-9a-fA-F]{8}", count) else None,
                proxy=self._proxy,
                verdict=verdict,
            ),
        )

    def challenges(self, verdict: Verdict | None) -> list[tuple[str, str]]:
        """The challenges to a request without a good proof, as headers, in the order asked for."""
        header = "Proxy-Authenticate" if self._proxy else "WWW-Authenticate"
        made = {} if self.digest is None else self.digest.challenges(verdict is Verdict.STALE)
        if self._tokens is not None:
            made[BEARER] = self._bearer_challenge(verdict)
        return [(header, made[name]) for name in self._order if name in made]

    def _bearer_challenge(self, verdict: Verdict | None) -> str:
        # RFC 8898 §3; the error is RFC 6750's §3.1.
        parameters = dict(self._bearer)
        if verdict is Verdict.DENIED:
            parameters["error"] = "invalid_token"
        return "Bearer " + ", ".join(f"{k}={quoted_string(v)}" for k, v in parameters.items())

    def info(self) -> list[tuple[str, str]]:
        """What goes with a 2xx to a proven request (RFC 7616 §3.5, RFC 7615)."""
        value = None if self.digest is None else self.digest.authentication_info()
        name = "Proxy-Authentication-Info" if self._proxy else "Authentication-Info"
        return [] if value is None else [(name, value)]


def require_order(algorithms: Sequence[str], tokens: object) -> tuple[str, ...]:
    """Check Registrar's ``algorithms``; ``"Bearer"`` is put last where it is needed and missing.

    Raises ``ValueError``.
    """
    digests = [name for name in algorithms if name != BEARER]
    if len(algorithms) - len(digests) > (tokens is not None):
        raise ValueError('algorithms names "Bearer": give tokens, and name it once')
    if digests or tokens is None:
        require_algorithms(digests)
    return (*algorithms, BEARER) if len(digests) == len(algorithms) else tuple(algorithms)
