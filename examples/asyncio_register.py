# SPDX-License-Identifier: GPL-3.0-or-later
"""The same objects under asyncio: await a request, iterate over what happens."""

from __future__ import annotations

import asyncio

from _target import target

import pjsip_py as pjsip


async def until_refreshed(events: pjsip.EventStream) -> None:
    async for event in events:
        if isinstance(event, pjsip.RegState):
            how = "refresh" if event.renewal else "request"
            print(f"{how}: {event.code} {event.reason}, {event.expires} s")
            if event.renewal:
                return


async def main() -> None:
    with target() as to:
        async with pjsip.Endpoint() as ep:
            account = ep.add_account(
                to.aor,
                registrar=to.registrar,
                credentials=to.credentials,
                expires=2,  # so that PJSIP's refresh is soon to be seen
            )
            events = account.events()
            result = await account.register()
            print(f"registered with {result.algorithm or 'no'} digest")
            await asyncio.wait_for(until_refreshed(events), timeout=600)
            await account.unregister()
            print(account.state)


if __name__ == "__main__":
    asyncio.run(main())
