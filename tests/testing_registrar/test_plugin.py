# SPDX-License-Identifier: GPL-3.0-or-later
"""The pytest fixtures that the package brings."""

from __future__ import annotations

from typing import Any

from pjsip_py.testing import Registrar


def test_sip_registrar(sip_registrar: Registrar, connect: Any) -> None:
    for protocol in ("udp", "tcp"):
        client = connect(sip_registrar, protocol)
        reply = client.register()
        assert reply.code == 401
        assert (
            client.register(headers=[client.authorization(reply.challenge(), "secret")]).code == 200
        )


def test_sip_endpoint_registers(sip_endpoint: Any, sip_registrar: Registrar) -> None:
    import pjsip_py as pjsip

    account = sip_endpoint.add_account(
        "sip:alice@example.com",
        registrar=sip_registrar.uri(),
        credentials=pjsip.Credentials("alice", "secret"),
    )
    assert account.register().result(timeout=10).code == 200
    assert len(sip_registrar.bindings("sip:alice@example.com")) == 1
