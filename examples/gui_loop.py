# SPDX-License-Identifier: GPL-3.0-or-later
"""In a loop of one's own, as a GUI toolkit has: fileno() and dispatch().

With Qt it is ``QSocketNotifier(ep.fileno(), QSocketNotifier.Type.Read)`` and its ``activated``
signal connected to ``lambda: ep.dispatch()``; with GTK, ``GLib.io_add_watch``.
"""

from __future__ import annotations

import selectors

from _target import target

import pjsip_py as pjsip


def main() -> None:
    with target() as to, pjsip.Endpoint(dispatch="manual") as ep:
        account = ep.add_account(to.aor, registrar=to.registrar, credentials=to.credentials)
        done = False

        @account.on_reg_state
        def on_reg_state(event: pjsip.RegState) -> None:  # called by dispatch(), on this thread
            nonlocal done
            print(f"{event.code} {event.reason}, {account.state}")
            if event.registered:
                account.unregister()  # from a handler one never waits, one asks
            else:
                done = True

        account.register()
        with selectors.DefaultSelector() as selector:
            selector.register(ep.fileno(), selectors.EVENT_READ)
            while not done:
                for _key, _events in selector.select(timeout=1.0):
                    ep.dispatch()


if __name__ == "__main__":
    main()
