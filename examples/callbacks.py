# SPDX-License-Identifier: GPL-3.0-or-later
"""Handlers: of one account, of the whole endpoint, and what happens when one raises."""

from __future__ import annotations

from _target import target

import pjsip_py as pjsip


def main() -> None:
    with target() as to, pjsip.Endpoint() as ep:

        @ep.on(pjsip.TransportState)
        def on_transport_state(event: pjsip.TransportState) -> None:
            print(f"{event.protocol} {event.state}")

        @ep.on(pjsip.CallbackFailed)
        def on_callback_failed(event: pjsip.CallbackFailed) -> None:
            print(f"a handler raised {event.exception!r}")

        account = ep.add_account(to.aor, registrar=to.registrar, credentials=to.credentials)

        @account.on_reg_state
        def on_reg_state(event: pjsip.RegState) -> None:
            what = "unregistered" if event.is_unregister else "registered"
            print(f"{what}: {event.code} {event.reason}")

        @account.on_reg_state
        def faulty(event: pjsip.RegState) -> None:
            raise LookupError("what a pity")

        # Handlers run on the endpoint's thread, before the result is there for us.
        account.register().result(timeout=10)
        account.unregister().result(timeout=5)
        print(f"{len(ep.callback_errors)} failures are kept in ep.callback_errors")


if __name__ == "__main__":
    main()
