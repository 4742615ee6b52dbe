# SPDX-License-Identifier: GPL-3.0-or-later
"""PJSUA2's way: a subclass of Account with the callbacks as methods."""

from __future__ import annotations

import threading

from _target import target

import pjsip_py as pjsip


class MyAccount(pjsip.Account):
    """Knows when it has been registered."""

    def __init__(self, endpoint: pjsip.Endpoint, config: pjsip.AccountConfig) -> None:
        super().__init__(endpoint, config)
        self.is_registered = threading.Event()

    def on_reg_started(self, event: pjsip.RegStarted) -> None:
        print("REGISTER", "to leave" if event.is_unregister else self.aor)

    def on_reg_state(self, event: pjsip.RegState) -> None:
        print(f"{event.code} {event.reason}")
        if event.registered:
            self.is_registered.set()


def main() -> None:
    with target() as to, pjsip.Endpoint(strict=True) as ep:
        config = pjsip.AccountConfig(
            aor=to.aor, registrar=to.registrar, credentials=to.credentials, expires=600
        )
        account = ep.add_account(config, cls=MyAccount)
        account.register()
        if not account.is_registered.wait(timeout=10):
            raise SystemExit("not registered within 10 s")
        account.unregister().result(timeout=10)
        print(account.state)
    # Leaving the block freed the sockets.


if __name__ == "__main__":
    main()
