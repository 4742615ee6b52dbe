# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS settings, and what is known of a connection over it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._lazy import pattern
from ._record import field, field_names, record
from ._secret import forgets
from ._typing import Any
from .errors import ConfigError
from .uri import check_bool, check_seconds, check_text

StrPath = str | os.PathLike[str]

# PJ_SSL_SOCK_PROTO_...
_VERSIONS = {"TLSv1": 4, "TLSv1.1": 8, "TLSv1.2": 16, "TLSv1.3": 32}
_HOST_NAME = pattern(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*[A-Za-z0-9_])?")
_HASHED = pattern(r"[0-9a-f]{8}\.[0-9]+")
_SEPARATOR = pattern(r"[:,;\s]+")
_CIPHER = pattern(r"[!+\-]?[A-Za-z0-9_\-.+=]+|@[A-Z]+(?:=[0-9])?")
_HIDDEN = ("key_data", "key_password")


@record(frozen=True)
class TlsConfig:
    """How a TLS transport proves itself and whom it trusts.

    The server's certificate must be for the host of the registrar's URI, or for *server_name*
    (RFC 5922).  Without any *ca_…* the system's trust store is taken, or certifi's where there is
    none.  Files are read when a transport is opened with it, and again by
    :meth:`Transport.reload_tls`.

    :raises ConfigError: a file that cannot be read, a key without a certificate, an unknown
        version; the message names it.  What is in the files, and whether OpenSSL knows the
        ciphers, shows when it is used: TlsError, ConfigError.
    """

    ca_file: StrPath | None = None  #: PEM file of trusted CAs
    ca_path: StrPath | None = None  #: directory of trusted CAs, hashed as OpenSSL wants it
    ca_data: str | bytes | None = None  #: trusted CAs, as PEM
    cert_file: StrPath | None = None  #: PEM file of our certificate and its chain
    cert_data: str | bytes | None = None  #: the same, as PEM
    key_file: StrPath | None = None  #: PEM file of its key; may be the same file
    key_data: str | bytes | None = field(default=None, repr=False)  #: its key, as PEM
    key_password: str | None = field(default=None, repr=False)  #: of an encrypted key
    #: PEM file of revocation lists; a server whose issuer has none there is then refused.
    crl_file: StrPath | None = None
    #: Accept any certificate.  Whoever is in the path can then read and change everything.
    insecure: bool = False
    #: "TLSv1" and "TLSv1.1" too, which lowers OpenSSL's security level to 0.
    versions: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    #: OpenSSL's names, for TLS 1.2 and 1.3 alike, as a sequence or with ":" between; default:
    #: PJSIP's choice for TLS 1.2, OpenSSL's for 1.3.
    ciphers: str | Sequence[str] | None = None
    #: Sent (SNI) and verified for every connection, in place of the host of the URI.
    server_name: str | None = None
    #: The secrets of each connection are appended here, for Wireshark: whoever reads the file
    #: can read the traffic.  Its mode is set to 0600.
    keylog_file: StrPath | None = None
    timeout: float = 10.0  #: seconds for the handshake

    def __post_init__(self) -> None:
        for name in ("ca_file", "ca_path", "cert_file", "key_file", "crl_file", "keylog_file"):
            path = getattr(self, name)
            if isinstance(path, os.PathLike):
                path = os.fspath(path)
            if path is not None:
                self._set(name, check_text(name, path))
        for name in ("ca_data", "cert_data", "key_data"):
            if getattr(self, name) is not None:
                self._set(name, _check_pem(name, getattr(self, name)))
        for name in ("ca_file", "cert_file", "key_file", "crl_file"):
            self._check_readable(name)
        if self.ca_path is not None and not os.path.isdir(self.ca_path):
            raise ConfigError(f"ca_path: {self.ca_path!r} is no directory")
        self._check_own_certificate()
        self._check_versions()
        if self.server_name is not None:
            self._set("server_name", _check_server_name(self.server_name))
        check_bool("insecure", self.insecure)
        check_seconds("timeout", self.timeout, 0.1, 300)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_readable(self, name: str) -> None:
        path = getattr(self, name)
        if path is None:
            return
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{name}: {path!r}: {error.strerror}") from error

    def _check_own_certificate(self) -> None:
        for what in ("cert", "key"):
            file, data = f"{what}_file", f"{what}_data"
            if getattr(self, file) is not None and getattr(self, data) is not None:
                raise ConfigError(f"give {file} or {data}, not both")
        certificate = self.cert_file is not None or self.cert_data is not None
        key = self.key_file is not None or self.key_data is not None
        if certificate != key:
            raise ConfigError("cert_file and key_file go together (or cert_data and key_data)")
        if self.key_password is not None:
            check_text("key_password", self.key_password, maximum=1024)
            if not key:
                raise ConfigError("key_password without key_file or key_data")

    def _check_versions(self) -> None:
        if isinstance(self.versions, str) or not isinstance(self.versions, Sequence):
            raise ConfigError(f"versions must be a tuple of some of {', '.join(_VERSIONS)}")
        if not self.versions or not set(self.versions) <= set(_VERSIONS):
            raise ConfigError(f"versions must be some of {', '.join(_VERSIONS)}")
        self._set("versions", tuple(self.versions))
        if self.ciphers is None:
            return
        names = _check_ciphers(self.ciphers)
        self._set("ciphers", names)
        new = {_is_of_tls13(name) for name in names if not name.startswith("@")}
        if new == {True} and "TLSv1.3" not in self.versions:
            raise ConfigError("ciphers are all of TLS 1.3, which versions leaves out")
        if new == {False} and set(self.versions) == {"TLSv1.3"}:
            raise ConfigError("ciphers has none of TLS 1.3, and versions leaves out the others")

    def __repr__(self) -> str:
        shown = []
        for name in _FIELDS:
            value = getattr(self, name)
            if value == getattr(TlsConfig, name):
                continue
            if name in _HIDDEN:
                value = "<hidden>"
            elif name.endswith("_data"):
                value = f"<{len(value)} bytes>"
            else:
                value = repr(value)
            shown.append(f"{name}={value}")
        return f"TlsConfig({', '.join(shown)})"

    @forgets
    def check_files(self) -> None:
        """Load all of it once, as opening a transport does, with the OpenSSL that will speak.

        :raises TlsError: certificate, key, CA or revocation list cannot be used; the message
            names the file or the field, and OpenSSL's reason.
        :raises ConfigError: a cipher or version that OpenSSL does not have, a key log that
            cannot be opened.
        """
        from . import _ffi

        _ffi.tls_check(self._c_fields())

    def _c_fields(self) -> dict[str, Any]:
        ca_file, ca_path = self.ca_file, self.ca_path
        if not (self.insecure or ca_file or ca_path or self.ca_data):
            ca_file, ca_path = system_trust()
        elif ca_path is not None:
            _check_hashed(str(ca_path))
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in _FIELDS
            if name not in ("insecure", "versions", "timeout", "ciphers")
        }
        given |= {
            "ca_file": ca_file,
            "ca_path": ca_path,
            "ciphers": " ".join(self.ciphers) if self.ciphers else None,
        }
        return {name: value for name, value in given.items() if value is not None} | {
            "verify": int(not self.insecure),
            "protocols": sum(_VERSIONS[v] for v in set(self.versions)),
            "timeout_ms": round(self.timeout * 1000),
        }

    @property
    def _warnings(self) -> list[str]:
        """What the log has to say when a transport is opened with it."""
        found = []
        if self.insecure:
            found.append("TLS without verification: anyone in the path can impersonate registrars")
        if self.keylog_file is not None:
            found.append(
                f"the secrets of TLS connections are written to {self.keylog_file!r}: "
                "whoever reads it can read the traffic"
            )
        if not set(self.versions) <= {"TLSv1.2", "TLSv1.3"}:
            found.append("TLS older than 1.2 is allowed, with the weak signatures that it needs")
        return found


_FIELDS = field_names(TlsConfig)
# The one that dataclass makes has the key and its password among its variables.
TlsConfig.__init__ = forgets(TlsConfig.__init__)  # type: ignore[method-assign]


def _check_hashed(path: str) -> None:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise ConfigError(f"ca_path: {path!r}: {error.strerror}") from error
    if not any(map(_HASHED.fullmatch, names)):
        raise ConfigError(
            f"ca_path: {path!r} holds no CA under the hash of its name: "
            "openssl rehash makes the links"
        )


def _check_pem(name: str, value: object) -> str | bytes:
    if isinstance(value, (bytearray, memoryview)):
        value = bytes(value)
    if not isinstance(value, (str, bytes)):
        raise ConfigError(f"{name} must be PEM as bytes or str, not {type(value).__name__}")
    try:
        data = value.encode() if isinstance(value, str) else value
        data.decode()
    except UnicodeError:
        raise ConfigError(f"{name} is no PEM: it is not even text") from None
    if not data.strip():
        raise ConfigError(f"{name} is empty")
    if b"\0" in data or b"-----BEGIN " not in data:
        raise ConfigError(f"{name} is no PEM: it has no line -----BEGIN …")
    return value


def _check_ciphers(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [name for name in _SEPARATOR.split(value) if name]
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise ConfigError("ciphers must be a str or a sequence of names")
    for name in value:
        if not isinstance(name, str) or not _CIPHER.fullmatch(name) or len(name) > 128:
            raise ConfigError(f"ciphers: {name!r} is no name of a cipher")
    if not value:
        raise ConfigError("ciphers is empty; None leaves the choice to PJSIP and OpenSSL")
    if len(value) > 256:
        raise ConfigError("ciphers: at most 256 names")
    return tuple(value)


def _is_of_tls13(name: str) -> bool:
    return name.startswith("TLS_") and "_WITH_" not in name


def _check_server_name(value: object) -> str:
    text = check_text("server_name", value, maximum=255)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    name = text[:-1] if text.endswith(".") else text
    if not _HOST_NAME.fullmatch(name):
        raise ConfigError(
            f"server_name must be a host name or an IP address, not {text!r}"
            + ("" if text.isascii() else "; write an international name as xn--…")
        )
    return name


@record(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that the other end has shown, whether or not it was accepted."""

    subject: str  #: distinguished name, as RFC 4514 writes it
    issuer: str
    #: Alternative names in the certificate's order: DNS names, IP addresses, URIs, mail addresses.
    san: tuple[str, ...]
    not_before: float  #: seconds since 1970 (UTC)
    not_after: float
    der: bytes = field(repr=False)  #: the whole of it


@record(frozen=True, slots=True)
class TlsInfo:
    """What TLS has agreed on; ``protocol`` and ``cipher`` are "" when it did not come so far."""

    protocol: str  #: "TLSv1.3"
    cipher: str  #: OpenSSL's name
    peer: PeerCertificate | None


def parse_info(raw: bytes) -> TlsInfo | None:
    """From what C knows of a connection; None when that is nothing."""
    if not raw:
        return None
    from ._ffi import line_of

    head, _, der = raw.partition(b"\0")
    names: list[str] = []
    facts: dict[str, str] = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b"=")
        if name == b"san":
            names.append(line_of(value))
        else:
            facts[name.decode()] = line_of(value)
    peer = PeerCertificate(
        subject=facts.get("subject", ""),
        issuer=facts.get("issuer", ""),
        san=tuple(names),
        not_before=float(facts.get("not_before", "nan")),
        not_after=float(facts.get("not_after", "nan")),
        der=der,
    )
    return TlsInfo(facts.get("protocol", ""), facts.get("cipher", ""), peer if der else None)


def describe_mismatch(info: TlsInfo | None, host: str) -> str:
    """Whose certificate it is, where it is not the one of *host*."""
    if info is None or info.peer is None:
        return ""
    names = info.peer.san or (info.peer.subject or "nobody",)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"the certificate is for {shown}, not for {host}"


def system_trust() -> tuple[str | None, str | None]:
    """CA file and directory of this machine.

    Looked up at run time: OpenSSL inside the wheel would look where its builder kept them.

    :raises ConfigError: when there are none and certifi is not installed.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile, None
    if paths.capath and os.path.isdir(paths.capath) and os.listdir(paths.capath):
        return None, paths.capath
    for file in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        if os.path.isfile(file):
            return file, None
    try:
        import certifi
    except ImportError:
        raise ConfigError(
            "no trusted CAs on this machine: install ca-certificates (or pip install certifi), "
            "or give TlsConfig(ca_file=…)"
        ) from None
    return certifi.where(), None
