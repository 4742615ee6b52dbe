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
    """Keeps ``window`` registrations in flight; each outcome starts the next.

    ``failed`` counts over all rounds.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.failed = 0
        self.outcomes = 0
        self.requests = 0
        self.finished = threading.Event()
        self._rest: list[Registration] = []
        self._wanted = 0

    def on_reg_state(self, event: pjsip.RegState) -> None:
        self.outcomes += 1
        self.requests += event.requests
        if event.code != 200:
            self.failed += 1
        if self._rest:
            self._rest.pop().register()
        elif self.outcomes == self._wanted:
            self.finished.set()

    def start(self, registrations: list[Registration]) -> None:
        self.expect(len(registrations))
        first = registrations[: self.window]
        self._rest = registrations[: self.window - 1 : -1]
        for registration in first:
            registration.register()

    def expect(self, outcomes: int) -> None:
        self.finished.clear()
        self._wanted = self.outcomes + outcomes


class Maker:
    """Makes registrations: of all numbers at one registrar over one transport; or, spread over
    so many addresses of it from as many listeners as it takes, each with a connection of its own.
    """

    def __init__(self, endpoint: pjsip.Endpoint, options: argparse.Namespace) -> None:
        self.endpoint = endpoint
        self.options = options
        self._protocol = (options.registrar.partition(";transport=")[2] or "udp").lower()
        self._listeners: list[pjsip.Transport] = []
        self._listen()

    def _listen(self) -> pjsip.Transport:
        tls = pjsip.TlsConfig(ca_file=self.options.ca_file) if self._protocol == "tls" else None
        self._listeners.append(self.endpoint.listen(self._protocol, "127.0.0.1", tls=tls))
        return self._listeners[-1]

    def __call__(self, number: int) -> Registration:
        options = self.options
        user = f"bulk{number}"
        aor = f"sip:{user}@example.com"
        registrar = options.registrar
        chosen: dict[str, Any] = {"refresh_margin": options.margin}
        if options.spread:
            index, n = divmod(number - options.first, options.spread)
            registrar = f"sip:127.1.{n // 250}.{1 + n % 250}:{registrar.rpartition(':')[2]}"
            while index >= len(self._listeners):
                self._listen()
            chosen["transport"] = self._listeners[index]
        credentials = pjsip.Credentials(user, options.password)
        if options.api == "account":
            return self.endpoint.add_account(
                aor,
                registrar=registrar,
                credentials=credentials,
                expires=options.expires,
                **chosen,
            )
        return self.endpoint.registration(
            registrar, aor, credentials=credentials, expires=options.expires, **chosen
        )

    def all(self) -> list[Registration]:
        first = self.options.first + 1
        return [self(number) for number in range(first, first + self.options.count)]


def allow_connections(count: int) -> None:
    """As many open files as *count* connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = count + 1000
    if soft < need and hard != resource.RLIM_INFINITY and hard < need:
        try:  # for root only
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, need))
        except (ValueError, OSError):
            raise SystemExit(
                f"{count} connections need {need} open files and {hard} are allowed: "
                f"ulimit -Hn {need}"
            ) from None
    elif soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def run_sync(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    manual = options.dispatch == "manual"
    endpoint = pjsip.Endpoint(
        dispatch="manual" if manual else "auto", t4=options.t4_ms / 1000
    ).open()
    make = Maker(endpoint, options)
    report.mark("open")

    load = Load(options.window)

    def wait() -> None:
        if manual:
            while not load.finished.is_set():
                endpoint.dispatch(1.0)
        elif not load.finished.wait(600):
            raise TimeoutError("registrations did not end")

    def register(registrations: list[Registration]) -> None:
        load.start(registrations)
        wait()

    def settle(phase: str) -> None:
        rest(options.settle, endpoint.dispatch if manual else None)
        report.mark(phase)

    if not options.in_flight:
        warm = make(options.first)
        warm.on_reg_state(load.on_reg_state)
        register([warm])
        warm.close()  # or its refreshes would count
        load.failed = load.requests = 0
    report.mark("warm")

    registrations = make.all()
    for registration in registrations:
        registration.on_reg_state(load.on_reg_state)
    report.mark("create")

    if options.in_flight:
        for registration in registrations:
            registration.register()
        # Answered in its turn: by now the worker has sent them all.
        last = registrations[-1]
        (last.client if options.api == "account" else last).info()
        report.mark("flight")
        load.failed = load.outcomes  # nobody answers
    else:
        register(registrations)
        report.mark("register")
        settle("settle")
        trim()
        report.mark("trim")
        for _ in range(options.refreshes):
            register(registrations)
        if options.refreshes:
            report.mark("refresh")
            settle("refresh_settle")
        if options.renewals:
            load.expect(options.renewals * options.count)
            wait()
            report.mark("renew")
            settle("renew_settle")
    stats = endpoint.stats()
    endpoint.close(network=False)
    report.mark("close")
    return {"ok": options.count - load.failed, "requests": load.requests, "stats": stats}


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
        make = Maker(endpoint, options)
        report.mark("open")
        warm = make(options.first)
        await warm.register()
        warm.close()
        report.mark("warm")

        registrations = make.all()
        report.mark("create")
        failed = 0

        async def register() -> None:
            waiting = iter(registrations)

            async def worker() -> None:
                nonlocal failed
                for registration in waiting:
                    result = await registration.register()
                    failed += result.code != 200

            await asyncio.gather(*(worker() for _ in range(options.window)))

        await register()
        report.mark("register")
        await asyncio.sleep(options.settle)
        report.mark("settle")
        trim()
        report.mark("trim")
        for _ in range(options.refreshes):
            await register()
        if options.refreshes:
            report.mark("refresh")
            await asyncio.sleep(options.settle)
            report.mark("refresh_settle")
        stats = endpoint.stats()
        await endpoint.aclose(network=False)
    report.mark("close")
    return {"ok": options.count - failed, "stats": stats}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds")
    parser.add_argument("--t4-ms", type=int, default=5000)
    parser.add_argument("--password", default="bulk-password")
    parser.add_argument("--expires", type=int, default=300, help="seconds asked for")
    parser.add_argument("--margin", type=int, default=5, help="seconds before expiry to refresh")
    parser.add_argument("--refreshes", type=int, default=0, help="rounds by register()")
    parser.add_argument("--renewals", type=int, default=0, help="rounds by PJSIP's timer")
    parser.add_argument("--ca-file", help="for a registrar over TLS")
    parser.add_argument(
        "--spread", type=int, default=0, metavar="N", help="a connection each, to N addresses"
    )
    parser.add_argument("--in-flight", action="store_true", help="to a registrar that is silent")
    parser.add_argument("--api", choices=["client", "account"], default="account")
    parser.add_argument("--dispatch", choices=["thread", "manual", "asyncio"], default="thread")
    options = parser.parse_args()
    if options.dispatch == "asyncio" and (options.renewals or options.in_flight):
        parser.error("--renewals and --in-flight are not for --dispatch asyncio")
    if options.spread:
        allow_connections(options.count + options.count // options.spread)

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
