# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for the TLS servers, made for one test run by trustme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files: the CA that signed the server, the server's own, and a CA that signed nothing."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    other_ca_file: Path
    ca: trustme.CA

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        ca, other = trustme.CA(), trustme.CA()
        certs = cls(
            ca_file=directory / "ca.pem",
            cert_file=directory / "server.pem",
            key_file=directory / "server.key",
            other_ca_file=directory / "other-ca.pem",
            ca=ca,
        )
        server = ca.issue_cert("127.0.0.1", "::1", "localhost", "example.com")
        ca.cert_pem.write_to_path(str(certs.ca_file))
        other.cert_pem.write_to_path(str(certs.other_ca_file))
        server.private_key_pem.write_to_path(str(certs.key_file))
        certs.cert_file.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        return certs
