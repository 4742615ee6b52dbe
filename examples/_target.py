# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the examples register, and where.

``python examples/sync.py`` brings a registrar of its own;
``python examples/sync.py AOR [REGISTRAR]`` registers for real, with the password from the
environment variable ``PJSIP_PY_PASSWORD``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pjsip_py as pjsip


class Target(NamedTuple):
    aor: str
    registrar: str | None  # None: the domain of the AOR
    credentials: pjsip.Credentials
    ca_file: str | None = None  # None: the CAs that the system trusts


@contextmanager
def target(protocol: str = "udp") -> Iterator[Target]:
    """The AOR of the command line, or alice at an embedded registrar."""
    if len(sys.argv) > 1:
        aor, registrar = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
        user = aor.partition(":")[2].partition("@")[0]
        password = os.environ.get("PJSIP_PY_PASSWORD", "")
        yield Target(aor, registrar, pjsip.Credentials(user, password))
        return
    from pjsip_py.testing import Registrar

    with Registrar((protocol,), users={"alice": "secret"}) as server:
        yield Target(
            "sip:alice@example.com",
            server.uri(),
            pjsip.Credentials("alice", "secret"),
            str(server.ca_file) if protocol == "tls" else None,
        )
