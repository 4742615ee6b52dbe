# SPDX-License-Identifier: GPL-3.0-or-later
"""RegistrationClient, the plain pjsip_regc: contacts of our choice, bindings, Contact: *."""

from __future__ import annotations

from _target import target

import pjsip_py as pjsip


def show(what: str, result: pjsip.RegistrationResult) -> None:
    print(f"{what}: {', '.join(binding.uri for binding in result.bindings) or 'no binding'}")


def main() -> None:
    with target() as to, pjsip.Endpoint() as ep:
        registrar = to.registrar or "sip:" + to.aor.partition("@")[2]
        with ep.registration(
            registrar,
            to.aor,
            from_uri=to.aor.replace("alice", "secretary"),  # a third party registers for alice
            contacts=["sip:alice@192.0.2.1", "<sip:alice@192.0.2.2:5080>;q=0.5"],
            credentials=to.credentials,
            expires=120,
            headers={"Subject": "two phones"},
        ) as client:
            show("registered", client.register(auto_refresh=False).result(timeout=10))

            # From the next request on; the contact that is gone is removed by it.
            client.update_contacts(["sip:alice@192.0.2.1"])
            client.update_expires(60)
            show("updated", client.register(auto_refresh=False).result(timeout=10))

            # A REGISTER without Contact asks and changes nothing.
            show("fetched", client.fetch_bindings().result(timeout=10))

            info = client.info()
            print(f"busy: {info['busy']}, auto refresh: {info['auto_refresh']}")

            # Everybody's bindings, not only ours.
            show("removed all", client.unregister_all().result(timeout=10))


if __name__ == "__main__":
    main()
