# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registrar decides about a request: RFC 3261 §8.2, §10.3 and §22."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from email.utils import formatdate

from .digest import Verdict
from .guard import Guard
from .headers import split_list
from .location import LocationService, UpdateRefused
from .request import ReceivedRequest

HeaderList = list[tuple[str, str]]
Decision = tuple[int, HeaderList]

_METHODS = "REGISTER, OPTIONS"


class RegistrarService:
    """The registrar's own answers; without `guards` it authenticates nobody.

    Not thread-safe: the registrar locks.
    """

    def __init__(
        self,
        location: LocationService,
        guards: Sequence[Guard],
        *,
        one_by_one: bool,
        on_bad_credentials: int,
        own_aor: bool,
        domains: Sequence[str] | None,
        service_route: Sequence[str],
        gruu: bool,
        outbound: bool,
        flow_timer: int | None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.location = location
        self.guards = tuple(guards)
        self._one_by_one = one_by_one
        self._on_bad_credentials = on_bad_credentials
        self._own_aor = own_aor
        self._domains = None if domains is None else frozenset(d.lower() for d in domains)
        self._service_route = tuple(service_route)
        self._flow_timer = flow_timer
        self._supported = ["path", *["gruu"] * gruu, *["outbound"] * outbound]
        self._date = (0, "")
        self._wall = wall

    def decide(self, request: ReceivedRequest, *, stale: bool = False) -> Decision:
        """RFC 3261 §8.2 and §10.3: the status code and the headers that go with it.

        With `stale` right credentials are taken for ones with a stale nonce.
        """
        if request.method == "CANCEL":
            return 481, []
        if request.method not in ("REGISTER", "OPTIONS"):
            return 405, [("Allow", _METHODS)]
        unknown = [tag for tag in request.message.require if tag.lower() not in self._supported]
        if unknown:
            return 420, [("Unsupported", ", ".join(unknown))]
        if request.method == "OPTIONS":
            return 200, [("Allow", _METHODS), ("Supported", ", ".join(self._supported))]
        refusal = self._authenticate(request, stale)
        if refusal is not None:
            return refusal
        if self._own_aor and self.guards and not _is_own(request):
            return 403, [warning("not the user's own address-of-record")]
        code, headers = self._register(request)
        if code // 100 == 2:  # RFC 3261 §20.6
            headers += [one for guard in self.guards for one in guard.info()]
        return code, headers

    def _register(self, request: ReceivedRequest) -> Decision:
        aor = request.parsed.to_uri
        if self._domains is not None and aor.host not in self._domains:
            return 404, []
        path = tuple(one for value in request.headers.getlist("Path") for one in split_list(value))
        both = {tag.lower() for tag in request.message.supported}.intersection(self._supported)
        try:
            self.location.update(
                aor,
                request.contact_values,
                expires=request.headers.get("Expires"),
                call_id=request.call_id,
                cseq=request.cseq,
                path=path,
                outbound="outbound" in both,
            )
        except UpdateRefused as refused:
            if refused.code == 423:
                return 423, [("Min-Expires", str(self.location.min_expires))]
            return refused.code, [warning(str(refused))]
        listed = self.location.contact_headers(aor, gruu="gruu" in both)
        headers = [("Contact", text) for text in listed]
        if path and "path" in both:
            headers += [("Path", one) for one in path]
        if "outbound" in both and any(c.flow is not None for c in request.contacts):
            headers.append(("Require", "outbound"))
        if self._flow_timer is not None:
            headers.append(("Flow-Timer", str(self._flow_timer)))
        headers += [("Service-Route", route) for route in self._service_route]
        headers.append(("Date", self._http_date()))
        return 200, headers

    def _authenticate(self, request: ReceivedRequest, stale: bool) -> Decision | None:
        """None when the request may go on, else how it is refused (RFC 3261 §22)."""
        code = 0
        challenges: HeaderList = []
        for guard in self.guards:
            try:
                verdict = guard.check(request)
            except ValueError as error:
                return 400, [warning(str(error))]
            if verdict is Verdict.OK and stale:
                verdict = Verdict.STALE
            if verdict is Verdict.OK:
                continue
            if verdict is Verdict.DENIED and self._on_bad_credentials == 403:
                return 403, []
            code = code or guard.code
            challenges += guard.challenges(verdict)
            if self._one_by_one:
                break
        return (code, challenges) if code else None

    def _http_date(self) -> str:
        now = int(self._wall())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]


def _is_own(request: ReceivedRequest) -> bool:
    """Whether the user proven is the one whose bindings are changed (RFC 3261 §10.3 step 4)."""
    names = {proof.username for proof in request.proofs if proof.verdict == "ok"}
    return (request.parsed.to_uri.user or "") in names


def warning(text: str) -> tuple[str, str]:
    """A Warning header that tells a person why (RFC 3261 §20.43)."""
    clean = "".join(c if c.isprintable() and c not in '"\\' else "'" for c in text[:200])
    return "Warning", f'399 pjsip_py.testing "{clean}"'
