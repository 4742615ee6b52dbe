# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS settings: verification on, TLS 1.2 and 1.3, the system's trust store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError, TlsError
from .uri import check_bool, check_seconds, check_text

StrPath = str | os.PathLike[str]

# PJ_SSL_SOCK_PROTO_...
_VERSIONS = {"TLSv1": 4, "TLSv1.1": 8, "TLSv1.2": 16, "TLSv1.3": 32}


@dataclass(frozen=True)
class TlsConfig:
    """How a TLS transport proves itself and whom it trusts.

    The name verified is the host of the registrar's URI (RFC 5922).  Without *ca_file* and
    *ca_path* the system's trust store is taken, or certifi's where there is none.

    :raises ConfigError: a file that cannot be read, a key without a certificate, an unknown
        version; the message names it.
    """

    ca_file: StrPath | None = None  #: PEM file of trusted CAs
    ca_path: StrPath | None = None  #: directory of trusted CAs, hashed as OpenSSL wants it
    cert_file: StrPath | None = None  #: PEM file of our certificate and its chain
    key_file: StrPath | None = None  #: PEM file of its key; may be the same file
    key_password: str | None = None
    #: Accept any certificate.  Whoever is in the path can then read and change everything.
    insecure: bool = False
    versions: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    timeout: float = 10.0  #: seconds for the handshake

    def __post_init__(self) -> None:
        for field in ("ca_file", "ca_path", "cert_file", "key_file"):
            path = getattr(self, field)
            if isinstance(path, os.PathLike):
                path = os.fspath(path)
            if path is not None:
                object.__setattr__(self, field, check_text(field, path))
        for field in ("ca_file", "cert_file", "key_file"):
            self._check_readable(field)
        if self.ca_path is not None and not os.path.isdir(self.ca_path):
            raise ConfigError(f"ca_path: {self.ca_path!r} is no directory")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("cert_file and key_file go together")
        if self.key_password is not None:
            check_text("key_password", self.key_password, maximum=1024)
            if self.key_file is None:
                raise ConfigError("key_password without key_file")
        if not self.versions or not set(self.versions) <= set(_VERSIONS):
            raise ConfigError(f"versions must be some of {', '.join(_VERSIONS)}")
        check_bool("insecure", self.insecure)
        check_seconds("timeout", self.timeout, 0.1, 300)

    def _check_readable(self, field: str) -> None:
        path = getattr(self, field)
        if path is None:
            return
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{field}: {path!r}: {error.strerror}") from error

    def __repr__(self) -> str:
        shown = ("ca_file", "ca_path", "cert_file", "key_file", "insecure", "versions")
        text = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"TlsConfig({text})"

    def check_files(self) -> None:
        """Load certificate, key and CAs once, as PJSIP would with the first connection only.

        :raises TlsError: one of them cannot be used; the message names it.
        """
        import ssl  # here, for who uses no TLS is spared its import

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.cert_file is not None:
                what = f"cert_file {self.cert_file!r}, key_file {self.key_file!r}"
                # Without a password OpenSSL would ask for one on the terminal.
                password = self.key_password or ""
                context.load_cert_chain(self.cert_file, self.key_file, lambda: password)
            if self.ca_file is not None:
                what = f"ca_file {self.ca_file!r}"
                context.load_verify_locations(cafile=self.ca_file)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise TlsError(f"{what}: {reason}") from None

    def _c_fields(self) -> dict[str, Any]:
        self.check_files()
        ca_file, ca_path = self.ca_file, self.ca_path
        if not self.insecure and not ca_file and not ca_path:
            ca_file, ca_path = system_trust()
        fields: dict[str, Any] = {
            "verify": int(not self.insecure),
            "protocols": sum(_VERSIONS[v] for v in set(self.versions)),
            "timeout_ms": round(self.timeout * 1000),
        }
        named = {
            "ca_file": ca_file,
            "ca_path": ca_path,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
            "key_password": self.key_password,
        }
        return fields | {name: value for name, value in named.items() if value}


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
