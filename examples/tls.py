# SPDX-License-Identifier: GPL-3.0-or-later
"""Register over TLS; the registrar's certificate is verified."""

from __future__ import annotations

from _target import target

import pjsip_py as pjsip


def main() -> None:
    with target("tls") as to, pjsip.Endpoint() as ep:

        @ep.on(pjsip.TransportState)
        def on_transport_state(event: pjsip.TransportState) -> None:
            if event.state == "connected" and event.tls is not None:
                print(f"connected with {event.tls.cipher}")

        trusted = pjsip.TlsConfig(ca_file=to.ca_file)
        account = ep.add_account(
            to.aor, registrar=to.registrar, credentials=to.credentials, tls=trusted
        )
        print(account.register().result(timeout=10).code)
        account.unregister().result(timeout=5)

        if to.ca_file is None:
            return
        # Without that CA the connection is refused, and nothing is sent.
        untrusting = ep.add_account(to.aor, registrar=to.registrar, tls=pjsip.TlsConfig())
        try:
            untrusting.register().result(timeout=10)
        except pjsip.TlsError as error:
            print(", ".join(error.reasons))


if __name__ == "__main__":
    main()
