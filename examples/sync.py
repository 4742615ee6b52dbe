# SPDX-License-Identifier: GPL-3.0-or-later
"""Register, look at the result, unregister: plain blocking calls."""

from __future__ import annotations

from _target import target

import pjsip_py as pjsip


def main() -> None:
    with target() as to, pjsip.Endpoint() as ep:
        account = ep.add_account(to.aor, registrar=to.registrar, credentials=to.credentials)

        result = account.register().result(timeout=10)
        print(f"{result.code} {result.reason}: registered for {result.expires} s")
        for binding in result.bindings:
            print(f"bound to {binding.uri}, {binding.expires} s left")

        result = account.unregister().result(timeout=5)
        print(f"{result.code} {result.reason}: {account.state}")


if __name__ == "__main__":
    main()
