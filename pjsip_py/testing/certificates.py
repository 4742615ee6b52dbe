# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for a TLS registrar, made on the spot with the ``trustme`` library."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
import weakref
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import Certificate

if TYPE_CHECKING:
    import trustme


class TestAuthority:
    """A throw-away certificate authority, and a certificate for the registrar.

    ``ca_file`` is removed together with this object.
    """

    __test__ = False  # no test class, whatever pytest makes of its name

    def __init__(self, names: Sequence[str]) -> None:
        try:
            import trustme
        except ModuleNotFoundError as error:
            raise RuntimeError(
                "a TLS registrar without tls=(certfile, keyfile) makes its certificates with "
                "the library trustme, which is not installed: pip install trustme"
            ) from error
        self._authority = trustme.CA(organization_name="pjsip_py.testing")
        self.ca_pem: bytes = self._authority.cert_pem.bytes()
        folder = Path(tempfile.mkdtemp(prefix="pjsip_py-ca-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.ca_pem)
        self._names = tuple(names)
        self.context = self._context(names)

    def _context(
        self,
        names: Sequence[str],
        *,
        authority: trustme.CA | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made = (authority or self._authority).issue_cert(
            *names, not_before=not_before, not_after=not_after
        )
        made.configure_cert(context)
        return context

    def bad_context(self, flaw: Certificate) -> ssl.SSLContext:
        """A context whose certificate no client that trusts ``ca_file`` should take."""
        now, day = datetime.now(timezone.utc), timedelta(days=1)
        if flaw == "wrong-host":
            return self._context(["elsewhere.example.net"])
        if flaw == "expired":
            return self._context(self._names, not_before=now - 30 * day, not_after=now - day)
        if flaw == "not-yet-valid":
            return self._context(self._names, not_before=now + day, not_after=now + 30 * day)
        import trustme

        return self._context(self._names, authority=trustme.CA(organization_name="Nobody"))


def server_context(
    cert_file: str | os.PathLike[str], key_file: str | os.PathLike[str]
) -> ssl.SSLContext:
    """A TLS context for a certificate chain and its key in PEM files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context
