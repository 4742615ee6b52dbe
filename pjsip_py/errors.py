# SPDX-License-Identifier: GPL-3.0-or-later
"""Every exception that pjsip_py raises.

PjsipError
 ├─ RegistrationError            a REGISTER was refused, or nobody answered
 │   ├─ AuthenticationError      401, 407
 │   │   ├─ WrongPasswordError          the credential was refused
 │   │   ├─ NoCredentialError           none for the realm that asks
 │   │   ├─ UnsupportedAlgorithmError   no algorithm, qop or scheme in common
 │   │   ├─ DowngradeError              weaker than min_algorithm
 │   │   ├─ StaleNonceError             the registrar calls every nonce stale
 │   │   ├─ ChallengeError              a challenge that cannot be answered by anybody
 │   │   └─ CredentialsError            the credentials callable failed
 │   ├─ ForbiddenError           403
 │   ├─ NotFoundError            404
 │   ├─ RegistrationTimeout      408, from the registrar or from no answer; a TimeoutError
 │   ├─ IntervalTooBrief         423
 │   ├─ ServerError              5xx
 │   └─ GlobalError              6xx
 ├─ TransportError               the socket, the connection or the network
 │   ├─ TlsError                 handshake or certificate
 │   └─ ResolveError             the host name
 ├─ InvalidUriError              also a ValueError
 ├─ ConfigError                  any other bad argument; also a ValueError
 │   └─ AccountsFileError        … in a file of accounts, with file, line and key
 ├─ PcapError                    a capture file cannot be read; also a ValueError
 ├─ ClosedError                  the object, or its endpoint, is closed
 ├─ EndpointBusyError            a second open endpoint in one process
 ├─ ForkedError                  used in a child process
 ├─ WouldBlockError              waiting here would wait for itself; also a RuntimeError
 └─ NativeError                  any other status of the C library
"""

from __future__ import annotations

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .message import Response


class PjsipError(Exception):
    """Root of all; ``status`` is PJSIP's ``pj_status_t`` where there is one, else 0."""

    status: int = 0

    @property
    def hint(self) -> str:
        """What a person can do about it; may be empty."""
        return ""


class NativeError(PjsipError):
    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class InvalidUriError(PjsipError, ValueError):
    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(PjsipError, ValueError):
    """An argument that is unknown, out of range or contradicts another; names the field."""


class AccountsFileError(ConfigError):
    """What is wrong in a file of accounts, and where; ``others`` holds what else was found.

    *line* counts from 1 and is None where the whole file is meant; *key* is as in
    ``retry.initial`` or ``registrars[1].uri``.
    """

    def __init__(
        self,
        text: str,
        path: str = "",
        line: int | None = None,
        key: str = "",
        others: tuple[AccountsFileError, ...] = (),
    ) -> None:
        super().__init__(text, path, line, key, others)
        self.path = path
        self.line = line
        self.key = key
        self.others = others

    def __str__(self) -> str:
        where = self.path + (f":{self.line}" if self.line is not None else "")
        text = f"{where}: {self.args[0]}" if where else self.args[0]
        return "\n".join([text, *map(str, self.others)])


class PcapError(PjsipError, ValueError):
    """A capture file is damaged, cut short or no capture; *hint* says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self._hint = hint

    @property
    def hint(self) -> str:
        return self._hint


class ClosedError(PjsipError):
    pass


class EndpointBusyError(PjsipError):
    pass


class ForkedError(PjsipError):
    pass


class WouldBlockError(PjsipError, RuntimeError):
    pass


class TransportError(PjsipError):
    """``errno`` and ``strerror`` are the operating system's, where it was the one to refuse.

    Raised by a registration too: ``code`` is then what PJSIP made of it (503, or 502 for a
    name), ``local`` True and ``attempts`` 1, so that code which looks at those of a
    :class:`RegistrationError` need not ask first.
    """

    code = 503
    local = True
    retriable = True
    retry_after: float | None = None
    response: Response | None = None
    attempts = 1

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.errno: int | None = status - OS_ERRNO if OS_ERRNO < status < OS_ERRNO_END else None

    @property
    def strerror(self) -> str | None:
        import os

        return os.strerror(self.errno) if self.errno is not None else None

    @property
    def hint(self) -> str:
        return "check host, port and transport, and that the registrar is running"


class ResolveError(TransportError):
    code = 502

    @property
    def hint(self) -> str:
        return "check the spelling of the host name and the machine's DNS"


# Why TLS failed, a bit each: PJSIP's PJ_SSL_CERT_E... and pjpy_tls_why of shim.cdef.h, with the
# reason's name, the words of people, and the bits that say it more exactly.
_VERIFY_STATUS = 0xC00003FF
_EXPIRED, _NOT_YET_VALID, _SELF_SIGNED, _UNKNOWN_CA, _WEAK = (1 << n for n in range(10, 15))
_EXACT_TRUST = _SELF_SIGNED | _UNKNOWN_CA
_TLS_REASONS: tuple[tuple[int, str, str, int], ...] = (
    (_EXPIRED, "expired", "the certificate, or one above it, has expired", 0),
    (_NOT_YET_VALID, "not-yet-valid", "the certificate, or one above it, is not yet valid", 0),
    (_SELF_SIGNED, "self-signed", "the certificate has signed itself, and is not trusted", 0),
    (_UNKNOWN_CA, "unknown-ca", "no trusted CA has issued the certificate", _SELF_SIGNED),
    (1 << 0, "unknown-ca", "the issuer of the certificate is not known", _EXACT_TRUST),
    (1 << 1, "untrusted", "the certificate is not trusted", _EXACT_TRUST),
    (1 << 2, "validity", "the certificate has expired or is not yet valid", 3 << 10),
    (1 << 3, "format", "the certificate is malformed", 0),
    (1 << 4, "purpose", "the certificate is not meant for this use", 0),
    (1 << 5, "issuer-mismatch", "the certificate does not match its issuer", _EXACT_TRUST),
    (1 << 6, "crl", "no valid revocation list of the certificate's issuer is there", 0),
    (1 << 7, "revoked", "the certificate was revoked", 0),
    (1 << 8, "chain-too-long", "the certificate chain is too long", 0),
    (1 << 9, "weak-signature", "the certificate has a weak signature", _WEAK),
    (_WEAK, "weak-signature", "a key or signature of the server is too weak", 0),
    (1 << 30, "name", "the certificate is for another name", 0),
    (1 << 15, "nul-in-name", "a name in the certificate has a NUL inside", 0),
    (1 << 16, "", "SIP takes no wildcard for a name (RFC 5922 §7.2)", 0),
    (1 << 31, "unknown", "the certificate could not be verified", 0),
    (1 << 17, "client-certificate-missing", "the server asks for a client certificate", 0),
    (1 << 18, "client-certificate-revoked", "our certificate was revoked, says the server", 0),
    (1 << 19, "client-certificate-refused", "the server refuses our certificate", 0),
    (1 << 20, "no-common-version", "the server has no TLS version in common with us", 0),
    (1 << 21, "no-common-cipher", "the server has no cipher in common with us", 0),
    (1 << 22, "plain-text", "what answers there does not speak TLS", 0),
    (1 << 23, "timeout", "the TLS handshake took too long", 0),
    (1 << 24, "closed", "the server closed the connection during the TLS handshake", 0),
    (1 << 25, "server-name", "the server does not know the name that it is asked for", 0),
    (1 << 26, "protocol", "TLS failed", 0),
)
_TLS_HINTS = {
    "expired": "the registrar needs a new certificate, or this machine's clock is wrong",
    "not-yet-valid": "look at this machine's clock, and at the registrar's certificate",
    "self-signed": "if it is the right one, trust it by TlsConfig(ca_file=…)",
    "name": "use the name that the certificate is for: in the URI, or as TlsConfig(server_name=…)",
    "revoked": "the registrar needs a new certificate",
    "crl": "get a new list from the CA that has issued the registrar's certificate",
    "client-certificate-missing": "give cert_file and key_file, from a CA that the server trusts",
    "client-certificate-revoked": "get a new certificate, and give it as cert_file and key_file",
    "client-certificate-refused": "look at cert_file: its CA, its dates, and what the server wants",
    "no-common-version": "compare TlsConfig(versions=…) with what the registrar speaks",
    "no-common-cipher": "compare TlsConfig(ciphers=…) with what the registrar speaks",
    "plain-text": "check that the port is the registrar's for TLS, often 5061",
    "timeout": "check that the registrar speaks TLS on this port, and that it is not overloaded",
    "closed": "the registrar's log may say why; compare versions and ciphers with what it speaks",
    "server-name": "check the host in the registrar's URI, or TlsConfig(server_name=…)",
}
_CERTIFICATE_HINT = (
    "give the registrar's CA by TlsConfig(ca_file=…), or use the name it is made for"
)


class TlsError(TransportError):
    """Handshake, certificate, or what TlsConfig names cannot be used.

    ``reasons`` names why, in words of this library: see docs/tls.md; it is () for settings that
    cannot be used.  ``verify_status`` holds PJSIP's ``PJ_SSL_CERT_E…`` bits.
    """

    def __init__(
        self, reason: str, status: int = 0, verify_status: int = 0, detail: str = ""
    ) -> None:
        why = verify_status & 0xFFFFFFFF
        found = [row for row in _TLS_REASONS if why & row[0] and not why & row[3]]
        self.verify_status = why & _VERIFY_STATUS
        self.reasons = tuple(dict.fromkeys(name for _, name, _, _ in found if name))
        if status and not self.reasons:
            self.reasons = ("protocol",)
        words = [detail if detail and name == "name" else text for _, name, text, _ in found]
        super().__init__("; ".join([reason, *words]), status)

    @property
    def hint(self) -> str:
        for name in self.reasons:
            if name in _TLS_HINTS:
                return _TLS_HINTS[name]
        if self.verify_status:
            return _CERTIFICATE_HINT
        if self.reasons:
            return "check that the registrar speaks TLS on this port, and its versions and ciphers"
        return "the file or field that the message names cannot be used as it is"


class RegistrationError(PjsipError):
    """A REGISTER without success.

    *code* and *reason* are the response's (RFC 3261 §21); with *local* True no response came and
    they are PJSIP's own.  *retry_after* is the header's value in seconds, *retriable* whether the
    same request may succeed later (RFC 3261 §21.4-21.6), *attempts* how many were made, *detail*
    what more there is to say.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        response: Response | None = None,
        local: bool = False,
        retry_after: float | None = None,
        retriable: bool | None = None,
        attempts: int = 1,
        status: int = 0,
        detail: str = "",
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.response = response
        self.local = local
        self.retry_after = retry_after
        self.retriable = code in RETRIABLE if retriable is None else retriable
        self.attempts = attempts
        self.status = status
        self.detail = detail

    @property
    def hint(self) -> str:
        if self.code // 100 == 2:
            return "the registrar granted no time: look at its limits, or ask for a longer expiry"
        if self.code // 100 == 3:
            return "the registrar redirects: register with the Contact that it names"
        return "the registrar refuses the request; its reason, and a Warning header, may say why"

    def __str__(self) -> str:
        text = f"{self.code} {self.reason}" + (" (no response)" if self.local else "")
        return f"{text}: {self.detail}" if self.detail else text


# 408, 430, 480 and the 5xx a later try can cure; 423 is cured by PJSIP itself.
RETRIABLE = frozenset({408, 430, 480, 500, 502, 503, 504, 580, 600, 603})


class AuthenticationError(RegistrationError):
    @property
    def hint(self) -> str:
        return "check user name, password and realm"


class WrongPasswordError(AuthenticationError):
    pass


class NoCredentialError(AuthenticationError):
    @property
    def hint(self) -> str:
        return "add Credentials for the realm that the registrar names, or realm='*'"


class UnsupportedAlgorithmError(AuthenticationError):
    @property
    def hint(self) -> str:
        return "PJSIP answers MD5, SHA-256 and SHA-512-256 with qop 'auth' or none"


class DowngradeError(AuthenticationError):
    @property
    def hint(self) -> str:
        return "the registrar offers nothing as strong as min_algorithm; no proof was sent"


class StaleNonceError(AuthenticationError):
    @property
    def hint(self) -> str:
        return "the registrar called every fresh nonce stale; look at its clock and its cluster"


class ChallengeError(AuthenticationError):
    @property
    def hint(self) -> str:
        return "the registrar's challenge breaks RFC 7616 §3.3: realm and nonce are needed"


class CredentialsError(AuthenticationError):
    """``__cause__`` is what the callable raised, if it did; a later try may succeed."""

    @property
    def hint(self) -> str:
        return "look at the credentials= callable, and at credentials_timeout"


class ForbiddenError(RegistrationError):
    @property
    def hint(self) -> str:
        return "the registrar refuses this AOR or this credential; trying again will not help"


class NotFoundError(RegistrationError):
    @property
    def hint(self) -> str:
        return "the registrar does not know this AOR"


class RegistrationTimeout(RegistrationError, TimeoutError):
    @property
    def hint(self) -> str:
        return "no answer: check host, port, transport and firewall"


class IntervalTooBrief(RegistrationError):
    @property
    def min_expires(self) -> int | None:
        """The registrar's Min-Expires in seconds, where it gave one."""
        return self.response.min_expires if self.response else None

    @property
    def hint(self) -> str:
        return f"ask for an expiry of {self.min_expires or 3600} s or more"


class ServerError(RegistrationError):
    @property
    def hint(self) -> str:
        return "the registrar has a problem; try later, or another registrar"


class GlobalError(RegistrationError):
    pass


class PjsuaFieldWarning(UserWarning):
    """Fields of pjsua's were set that change nothing here; the message names them."""


# -- from C's numbers ----------------------------------------------------------------------------

PJ_ENOTSUP, PJ_ECANCELLED, PJ_ERESOLVE = 70012, 70014, 70018
OS_ERRNO, OS_ERRNO_END = 120000, 170000
_SIP, _SIP_END = 170100, 170800

# PJSIP's statuses that mean more than "an error of the library": first, last, class.
STATUS_CLASSES: tuple[tuple[int, int, type[PjsipError]], ...] = (
    (70018, 70018, ResolveError),  # PJ_ERESOLVE
    (70021, 70022, TransportError),  # PJ_EIPV6NOTSUP, PJ_EAFNOTSUP
    (70024, 70024, TransportError),  # PJ_ESOCKETSTOP
    (OS_ERRNO + 1, OS_ERRNO_END - 1, TransportError),
    (_SIP, _SIP_END - 1, RegistrationError),
    (171003, 171003, TransportError),  # PJSIP_ESHUTDOWN
    (171039, 171043, InvalidUriError),  # PJSIP_EINVALIDURI .. PJSIP_EURITOOLONG
    (171060, 171069, TransportError),  # PJSIP_EUNSUPTRANSPORT ..
    (171100, 171100, WrongPasswordError),  # PJSIP_EFAILEDCREDENTIAL
    (171101, 171101, NoCredentialError),  # PJSIP_ENOCREDENTIAL
    (171102, 171104, UnsupportedAlgorithmError),  # algorithm, qop, scheme
    (171105, 171110, AuthenticationError),
    (171111, 171111, StaleNonceError),  # PJSIP_EAUTHSTALECOUNT
    (171112, 171113, AuthenticationError),
    (171114, 171114, ChallengeError),  # PJSIP_EAUTHNOCHAL
    (171115, 171119, AuthenticationError),
    (171160, 171199, TlsError),
    (320040, 320069, ResolveError),  # PJLIB_UTIL_EDNS...
    (470000, 519999, TlsError),  # PJ_SSL_ERRNO_START
)


def class_of_status(status: int) -> type[PjsipError]:
    if _SIP <= status < _SIP_END:
        return class_of_code(status - 170000)
    for first, last, cls in STATUS_CLASSES:
        if first <= status <= last:
            return cls
    return NativeError


def class_of_code(code: int) -> type[RegistrationError]:
    """The class for a SIP status code."""
    exact: dict[int, type[RegistrationError]] = {
        401: AuthenticationError,
        403: ForbiddenError,
        404: NotFoundError,
        407: AuthenticationError,
        408: RegistrationTimeout,
        423: IntervalTooBrief,
    }
    if code in exact:
        return exact[code]
    return {5: ServerError, 6: GlobalError}.get(code // 100, RegistrationError)


def from_status(status: int, text: str, operation: str = "") -> PjsipError:
    """The exception for a ``pj_status_t``, with PJSIP's own *text*."""
    cls = class_of_status(status)
    if issubclass(cls, RegistrationError):
        code = status - 170000 if _SIP <= status < _SIP_END else 401
        return cls(code, text, local=True, status=status)
    message = f"{operation}: {text}" if operation else text
    if issubclass(cls, (TransportError, InvalidUriError, NativeError)):
        return cls(message, status)
    return NativeError(message, status)


def _is_tls(status: int, verify_status: int, handshake: bool) -> bool:
    """TLS failed, not the connection under it, for which the system has a number."""
    if verify_status or class_of_status(status) is TlsError:
        return True
    return handshake and status != PJ_ECANCELLED and not OS_ERRNO < status < OS_ERRNO_END


def transport_error(
    status: int, text: str, *, verify_status: int, handshake: bool, detail: str = ""
) -> PjsipError:
    """The exception for the end of a connection; *handshake*: TLS that never got through."""
    if _is_tls(status, verify_status, handshake):
        return TlsError(text, status, verify_status, detail)
    error = from_status(status, text)
    return error if isinstance(error, TransportError) else TransportError(text, status)


def from_outcome(
    code: int,
    reason: str,
    status: int,
    *,
    response: Response | None,
    downgrade: bool = False,
    verify_status: int = 0,
    handshake: bool = False,
    detail: str = "",
    attempts: int = 1,
) -> PjsipError:
    """The exception for a registration's outcome that is no 2xx."""
    local = response is None
    if downgrade:
        cls: type[PjsipError] = DowngradeError
        code = code if code in (401, 407) else 401
    elif not local and code in (401, 407):
        cls = class_of_status(status) if status else AuthenticationError
        if status == PJ_ENOTSUP:
            cls = UnsupportedAlgorithmError
        if cls is ChallengeError and response is not None and _no_scheme_of_ours(response):
            cls = UnsupportedAlgorithmError
        if cls is StaleNonceError and response is not None and not response.stale:
            # PJSIP takes any new nonce for a stale one and tries again; the registrar never
            # called ours stale, so it was the secret that it refused.
            cls = WrongPasswordError
    elif not local or code == 408:
        cls = class_of_code(code)
    elif _is_tls(status, verify_status, handshake):
        cls = TlsError
    else:
        cls = class_of_status(status)
        if cls is NativeError or issubclass(cls, RegistrationError):
            cls = ResolveError if code == 502 else TransportError
    error: PjsipError
    if issubclass(cls, RegistrationError):
        error = cls(
            code,
            reason,
            response,
            local,
            retry_after=response.retry_after if response else None,
            attempts=attempts,
            status=status,
            detail=_detail(cls, response),
        )
    elif issubclass(cls, TlsError):
        error = cls(reason, status, verify_status, detail)
    elif issubclass(cls, (TransportError, InvalidUriError)):
        error = cls(reason, status)
    else:
        error = NativeError(reason, status)
    return error


def credentials_failed(
    code: int, reason: str, response: Response | None, why: str, attempts: int
) -> CredentialsError:
    """The outcome of a request whose challenge the program's callable could not answer."""
    if response is None:
        code, reason = 401, "Unauthorized"
    return CredentialsError(
        code,
        reason,
        response,
        local=response is None,
        retriable=True,
        attempts=attempts,
        detail=why,
    )


def _detail(cls: type[RegistrationError], response: Response | None) -> str:
    """What the registrar's challenges have to do with it; they are the wire's, so quoted."""
    if response is None or not issubclass(cls, AuthenticationError):
        return ""
    challenges = response.challenges
    if cls is NoCredentialError:
        realms = sorted({params["realm"] for _, _, params in challenges if "realm" in params})
        if not realms:
            return "no Bearer token"
        return "no credential for realm " + " or ".join(f"{realm!r:.80}" for realm in realms[:8])
    if cls in (UnsupportedAlgorithmError, DowngradeError):
        offers = sorted({_offer(scheme, params) for _, scheme, params in challenges})
        return "offered: " + (", ".join(offers[:8]) or "nothing that can be read")
    if cls is ChallengeError and not challenges:
        return "no challenge that can be read"
    return ""


def _no_scheme_of_ours(response: Response) -> bool:
    schemes = {scheme.lower() for _, scheme, _ in response.challenges}
    return bool(schemes) and not schemes & {"digest", "bearer", ""}


def _offer(scheme: str, params: Mapping[str, str]) -> str:
    words = [scheme]
    if scheme.lower() == "digest":
        words.append(params.get("algorithm", "MD5"))
        qop = params.get("qop", "")
        if qop and "auth" not in [each.strip().lower() for each in qop.split(",")]:
            words.append(f"qop={qop}")
    return " ".join(words).encode("unicode_escape").decode()[:80]
