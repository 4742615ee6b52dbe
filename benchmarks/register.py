# SPDX-License-Identifier: GPL-3.0-or-later
"""N registrations by pjsip_py: what c_regc.c does in C, phase by phase, and the same report.

``--api`` chooses RegistrationClient or Account, ``--dispatch`` who delivers the events: a thread
(plain ``with``), the calling thread, or an asyncio loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from phases import Report, trim

import pjsip_py as pjsip

Registration = Any  # RegistrationClient or Account: both have register() and on_reg_state()


class Load:
    """Keeps ``window`` registrations in flight; each outcome starts the next."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.ok = 0
        self.outcomes = 0
        self.finished = threading.Event()
        self._rest: list[Registration] = []
        self._wanted = 0

    def on_reg_state(self, event: pjsip.RegState) -> None:
        self.outcomes += 1
        if event.code == 200:
            self.ok += 1
        if self._rest:
            self._rest.pop().register()
        elif self.outcomes == self._wanted:
            self.finished.set()

    def start(self, registrations: list[Registration]) -> None:
        self.finished.clear()
        self.ok = self.outcomes = 0
        self._wanted = len(registrations)
        first = registrations[: self.window]
        self._rest = registrations[: self.window - 1 : -1]
        for registration in first:
            registration.register()


def make(endpoint: pjsip.Endpoint, options: argparse.Namespace, number: int) -> Registration:
    user = f"bulk{number}"
    aor = f"sip:{user}@example.com"
    credentials = pjsip.Credentials(user, options.password)
    if options.api == "account":
        return endpoint.add_account(aor, registrar=options.registrar, credentials=credentials)
    return endpoint.registration(options.registrar, aor, credentials=credentials)


def numbers(options: argparse.Namespace) -> range:
    return range(options.first + 1, options.first + 1 + options.count)


def run_sync(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    manual = options.dispatch == "manual"
    endpoint = pjsip.Endpoint(
        dispatch="manual" if manual else "auto", t4=options.t4_ms / 1000
    ).open()
    endpoint.listen("udp", "127.0.0.1")
    report.mark("open")

    load = Load(options.window)

    def register(registrations: list[Registration]) -> None:
        load.start(registrations)
        if manual:
            while not load.finished.is_set():
                endpoint.dispatch(1.0)
        elif not load.finished.wait(600):
            raise TimeoutError("registrations did not end")

    warm = make(endpoint, options, options.first)
    warm.on_reg_state(load.on_reg_state)
    register([warm])
    report.mark("warm")

    registrations = [make(endpoint, options, number) for number in numbers(options)]
    for registration in registrations:
        registration.on_reg_state(load.on_reg_state)
    report.mark("create")

    register(registrations)
    report.mark("register")
    ok = load.ok

    rest(options.settle, endpoint.dispatch if manual else None)
    report.mark("settle")
    trim()
    report.mark("trim")
    stats = endpoint.stats()
    endpoint.close(network=False)
    report.mark("close")
    return {"ok": ok, "stats": stats}


def rest(seconds: float, dispatch: Callable[[float], int] | None) -> None:
    """Let timer K run out, delivering what comes."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if dispatch:
            dispatch(left)
        else:
            time.sleep(left)


async def run_async(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    endpoint = pjsip.Endpoint(t4=options.t4_ms / 1000)
    async with endpoint:
        endpoint.listen("udp", "127.0.0.1")
        report.mark("open")
        await make(endpoint, options, options.first).register()
        report.mark("warm")

        registrations = [make(endpoint, options, number) for number in numbers(options)]
        report.mark("create")
        waiting, ok = iter(registrations), 0

        async def worker() -> None:
            nonlocal ok
            for registration in waiting:
                result = await registration.register()
                ok += result.code == 200

        await asyncio.gather(*(worker() for _ in range(options.window)))
        report.mark("register")

        await asyncio.sleep(options.settle)
        report.mark("settle")
        trim()
        report.mark("trim")
        stats = endpoint.stats()
        await endpoint.aclose(network=False)
    report.mark("close")
    return {"ok": ok, "stats": stats}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds")
    parser.add_argument("--t4-ms", type=int, default=5000)
    parser.add_argument("--password", default="bulk-password")
    parser.add_argument("--api", choices=["client", "account"], default="account")
    parser.add_argument("--dispatch", choices=["thread", "manual", "asyncio"], default="thread")
    options = parser.parse_args()

    report = Report()
    if options.dispatch == "asyncio":
        outcome = asyncio.run(run_async(options, report))
    else:
        outcome = run_sync(options, report)
    print(
        json.dumps(
            {
                "peer": f"pjsip_py {options.api} {options.dispatch}",
                "count": options.count,
                **outcome,
                **report.phases,
                "peak_rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )
    return 0 if outcome["ok"] == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
