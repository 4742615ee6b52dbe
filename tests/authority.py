# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that trustme does not make: out of date, with odd names, revoked, self-signed."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

DAY = datetime.timedelta(days=1)


def general_name(text: str) -> x509.GeneralName:
    """``IP:``, ``URI:`` and ``MAIL:`` say what it is; all else is a DNS name."""
    kind, _, value = text.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    if kind == "URI":
        return x509.UniformResourceIdentifier(value)
    if kind == "MAIL":
        return x509.RFC822Name(value)
    return x509.DNSName(text)


def key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: str | None = None) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption(),
        )

    def context(self, folder: Path) -> ssl.SSLContext:
        """For a server."""
        path = folder / f"{hashlib.sha256(self.der).hexdigest()[:16]}.pem"
        path.write_bytes(self.pem + self.key_pem())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Authority:
    """A CA of one level; without *identifiers* the keys of two with one name look the same."""

    def __init__(self, name: str = "authority of the tests", identifiers: bool = True) -> None:
        self.identifiers = identifiers
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.own = self._sign(self.name, self.key.public_key(), (), 0, 365, is_ca=True)

    @property
    def pem(self) -> bytes:
        return self.own.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: tuple[str, ...],
        begins: float,
        ends: float,
        is_ca: bool = False,
        purpose: x509.ObjectIdentifier | None = None,
        issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
        raw_names: bytes | None = None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        name, signing = issuer or (self.name, self.key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY - DAY / 24)
            .not_valid_after(now + ends * DAY)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(key_usage(is_ca), critical=True)
        )
        if self.identifiers:  # Python's own ssl insists on them from 3.13 on (RFC 5280, 4.2.1)
            authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
            builder = builder.add_extension(authority, critical=False)
            own = x509.SubjectKeyIdentifier.from_public_key(key)
            builder = builder.add_extension(own, critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName([general_name(n) for n in names])
            builder = builder.add_extension(alternatives, critical=False)
        if raw_names is not None:
            raw = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, raw_names)
            builder = builder.add_extension(raw, critical=False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(signing, hashes.SHA256())

    def issue(
        self,
        *names: str,
        cn: str | list[tuple[x509.ObjectIdentifier, str]] = "server",
        begins: float = 0,
        ends: float = 1,
        self_signed: bool = False,
        client: bool = False,
        raw_names: bytes | None = None,
    ) -> Issued:
        """A certificate with these subjectAltNames; *begins* and *ends* in days from now.

        *raw_names* is the whole extension, whatever it holds.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [(NameOID.COMMON_NAME, cn)] if isinstance(cn, str) else cn
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else None
        issuer = (subject, key) if self_signed else None
        certificate = self._sign(
            subject,
            key.public_key(),
            names,
            begins,
            ends,
            purpose=purpose,
            issuer=issuer,
            raw_names=raw_names,
        )
        return Issued(certificate, key)

    def revoke(self, *issued: Issued, ends: float = 1) -> bytes:
        """A revocation list, PEM."""
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - 2 * DAY)
            .next_update(now + ends * DAY)
        )
        for each in issued:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.certificate.serial_number)
                .revocation_date(now)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def write_hashed(self, folder: Path) -> None:
        """As ``openssl rehash`` names it: SHA-1 over the lower-case name, its first four bytes
        turned round. The name must be lower-case already, and short."""
        canonical = self.name.public_bytes()[2:]
        digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
        (folder / f"{digest[3::-1].hex()}.0").write_bytes(self.pem)
