# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer baresip-python: N registrations, with the options of register.py.

As its documentation has it: one Runtime, a UserAgent for each, and ``await ua.register()``, with
*window* tasks at a time.  Renewals are its timer's, after 90 % of an interval that is made just
long enough for the phases before.  It has no call that renews: a second ``register()`` unregisters
and begins anew.  Its table of handles ends at 1,023 and an agent's is free when the runtime closes:
``--count`` beyond 1,000 is 1,000, and the report says so.

``--startup`` prints what startup.py prints instead, ``--rate`` what latency.py prints.
"""

from __future__ import annotations

import time

before = time.perf_counter()
import baresip  # noqa: E402

import_seconds = time.perf_counter() - before

import argparse  # noqa: E402
import asyncio  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from phases import Report, trim  # noqa: E402

MAX_AGENTS = 1000
DEADLINE = 600.0  # seconds
T4 = 5.3  # seconds, and a little: here it can't be shortened


def interval(options: argparse.Namespace) -> int:
    """Seconds; the first renewal comes when all have registered and settled, at 500 a second."""
    return int(8 + options.count / 500) if options.renewals else int(options.expires)


async def opened() -> baresip.Runtime:
    runtime = baresip.Runtime()
    await runtime.start(baresip.Config(net_interface="127.0.0.1"))
    return runtime


async def make(
    runtime: baresip.Runtime, options: argparse.Namespace, number: int
) -> baresip.UserAgent:
    account = baresip.Account(
        user=f"bulk{number}",
        domain="example.com",
        password=options.password,
        registrar=options.registrar,
        reg_interval=interval(options),
    )
    return await baresip.UserAgent.create(runtime, account)


async def renewed(runtime: baresip.Runtime, wanted: int) -> int:
    """Wait for *wanted* renewals; how many were answered 200."""
    ok = ended = 0
    finished = asyncio.Event()

    def listener(event: baresip.StackEvent) -> None:
        nonlocal ok, ended
        if event.event in (baresip.Event.REGISTER_OK, baresip.Event.REGISTER_FAIL):
            ended += 1
            ok += event.event is baresip.Event.REGISTER_OK
            if ended == wanted:
                finished.set()

    runtime.subscribe(listener)
    await asyncio.wait_for(finished.wait(), DEADLINE)
    runtime.unsubscribe(listener)
    return ok


async def measure(options: argparse.Namespace) -> int:
    report = Report()
    runtime = await opened()
    report.mark("open")
    await (await make(runtime, options, options.first)).register()
    report.mark("warm")

    numbers = range(options.first + 1, options.first + 1 + options.count)
    agents = [await make(runtime, options, number) for number in numbers]
    report.mark("create")
    waiting, ok = iter(agents), 0

    async def worker() -> None:
        nonlocal ok
        for agent in waiting:
            try:
                await agent.register()
            except baresip.RegistrationError:
                continue
            ok += 1

    await asyncio.gather(*(worker() for _ in range(options.window)))
    report.mark("register")
    settle = max(options.settle, T4) if options.settle else 0.0
    await asyncio.sleep(settle)
    report.mark("settle")
    renewals = 0
    if options.renewals:
        # and of the one that warmed up
        renewals = await renewed(runtime, (options.count + 1) * options.renewals)
        report.mark("renew")
        await asyncio.sleep(settle)
        report.mark("renew_settle")
    trim()
    report.mark("trim")
    await runtime.close()
    report.mark("close")
    print(
        json.dumps(
            {
                "peer": "baresip-python",
                "count": options.count,
                "ok": ok,
                "renewed": renewals,
                **report.phases,
            }
        )
    )
    return 0 if ok == options.count else 1


async def latency(options: argparse.Namespace) -> int:
    """As in latency.py, of which it has one time: from ``register()`` to its outcome."""
    runtime = await opened()
    agents = [await make(runtime, options, number) for number in range(options.count)]
    registered: list[float] = []

    async def timed(agent: baresip.UserAgent) -> None:
        started = time.monotonic()
        await agent.register()
        registered.append(time.monotonic() - started)

    tasks: list[asyncio.Task[None]] = []
    began = time.monotonic()
    for number, agent in enumerate(agents):
        ahead = began + number / options.rate - time.monotonic()
        # At once, when that is past, yet the others must have their turn.
        await asyncio.sleep(max(0, ahead))
        tasks.append(asyncio.create_task(timed(agent)))
    rate = options.count / (time.monotonic() - began)
    await asyncio.gather(*tasks, return_exceptions=True)
    ok = len(registered)
    await runtime.close()
    print(json.dumps({"count": options.count, "ok": ok, "rate": rate, "registered": registered}))
    return 0 if ok == options.count else 1


async def startup(options: argparse.Namespace) -> int:
    opening = time.monotonic()
    runtime = await opened()
    ready = time.monotonic()
    agents = [await make(runtime, options, number) for number in range(options.count)]
    registering = asyncio.gather(*(agent.register() for agent in agents), return_exceptions=True)
    if options.silent:
        await asyncio.to_thread(input)  # the other side has the REGISTER
        registering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await registering
    else:
        outcomes: list[Any] = await registering
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
    closing = time.perf_counter()
    await runtime.close()
    closed = time.perf_counter()
    print(
        json.dumps(
            {
                "import": import_seconds,
                "opening": opening,
                "open": ready - opening,
                "close": closed - closing,
            }
        )
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds")
    parser.add_argument("--expires", type=int, default=300, help="seconds asked for")
    parser.add_argument("--renewals", type=int, default=0, help="rounds, by its timer")
    parser.add_argument("--refreshes", type=int, help="not to be had")
    parser.add_argument("--t4-ms", type=int, help="not to be had: it is 5000")
    parser.add_argument("--password", default="bulk-password")
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--silent", action="store_true", help="as in startup.py")
    parser.add_argument("--rate", type=float, help="registrations a second, as in latency.py")
    options = parser.parse_args()
    options.count = min(options.count, MAX_AGENTS)
    run = startup if options.startup else latency if options.rate else measure
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
