# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, and how to tell it apart."""

from __future__ import annotations

import socket

from _target import target

import pjsip_py as pjsip


def try_to_register(account: pjsip.Account) -> str:
    """Register and put the outcome into words; most special errors first."""
    try:
        result = account.register().result(timeout=10)
    except pjsip.AuthenticationError as error:
        return f"{type(error).__name__}: {error.code}: {error.hint}"
    except pjsip.RegistrationTimeout as error:
        return f"nobody answered: {error.hint}"
    except pjsip.RegistrationError as error:  # the registrar said no
        when = f", try again in {error.retry_after} s" if error.retry_after else ""
        return f"refused: {error.code} {error.reason}{when}"
    except pjsip.TransportError as error:  # TlsError and ResolveError are TransportErrors
        return f"no connection: {error.reason}"
    else:
        return f"registered for {result.expires} s"


def main() -> None:
    with target() as to, pjsip.Endpoint() as ep:
        good = ep.add_account(to.aor, registrar=to.registrar, credentials=to.credentials)
        print(try_to_register(good))

        wrong = pjsip.Credentials(to.credentials.username, "not the password")
        print(try_to_register(ep.add_account(to.aor, registrar=to.registrar, credentials=wrong)))

        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            print(
                try_to_register(
                    ep.add_account(to.aor, registrar=f"sip:127.0.0.1:{port};transport=tcp")
                )
            )

        # A bad argument is an error at once, before anything is sent.
        try:
            ep.add_account("alice@example.com")
        except pjsip.InvalidUriError as error:
            print(error)
        try:
            ep.add_account(to.aor, expire=60)
        except pjsip.ConfigError as error:
            print(error)


if __name__ == "__main__":
    main()
