# SPDX-License-Identifier: GPL-3.0-or-later
"""A program of PJSUA2's, ported: its settings by from_pjsua, its callbacks in a subclass.

The comments name what stood there; docs/pjsua.md shows both programs side by side.
"""

from __future__ import annotations

import threading
import warnings

from _target import target

import pjsip_py as pjsip


class MyAccount(pjsip.Account):  # pj.Account
    """Its callbacks run on the endpoint's thread."""

    def __init__(self, endpoint: pjsip.Endpoint, config: pjsip.AccountConfig) -> None:
        super().__init__(endpoint, config)
        self.is_registered = threading.Event()

    def on_reg_started(self, event: pjsip.RegStarted) -> None:  # onRegStarted(prm)
        print("unregistering" if event.is_unregister else "registering")  # prm.renew

    def on_reg_state(self, event: pjsip.RegState) -> None:  # onRegState(prm)
        print(event.code, event.reason, event.expires)  # prm.code, prm.reason, prm.expiration
        if event.registered:  # getInfo().regIsActive
            self.is_registered.set()


def settings(aor: str, registrar: str, credentials: pjsip.Credentials) -> pjsip.AccountConfig:
    """pj.AccountConfig's members under their own names, those for calls and presence included."""
    return pjsip.AccountConfig.from_pjsua(
        idUri=f'"Alice" <{aor}>',
        regConfig={
            "registrarUri": registrar,
            "timeoutSec": 600,
            "retryIntervalSec": 30,
            "firstRetryIntervalSec": 15,
        },
        sipConfig={"authCreds": [credentials]},  # or AuthCredInfo's members, as a mapping
        natConfig={"udpKaIntervalSec": 20, "iceEnabled": True},
        mwiConfig={"enabled": True},
    )


def main() -> None:
    with target() as to, pjsip.Endpoint(strict=True) as ep:  # libCreate, libInit, libStart
        registrar = to.registrar or "sip:" + to.aor.partition("@")[2]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = settings(to.aor, registrar, to.credentials)
        print("warned:", *(warning.message for warning in caught))
        account = ep.add_account(config, cls=MyAccount)  # create(config), which registers
        if not account.is_registered.wait(timeout=10):
            raise SystemExit("not registered within 10 s")
        account.unregister().result(timeout=5)  # setRegistration(False)
        print(account.state)
    # The block's end was libDestroy.


if __name__ == "__main__":
    main()
