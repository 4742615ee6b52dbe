# SPDX-License-Identifier: GPL-3.0-or-later
"""How late a program hears of an outcome, at a steady rate: each time of each registration.

First every account registers (REGISTER, 401, REGISTER, 200), paced, then each again, paced.  Of the
first, the times to the handler: from ``register()``; from the X-Sent header, which the registrar
writes before its answer leaves; from PJSIP's callback in C (``event.time``).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pjsip_py as pjsip


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def paced(rate: float, calls: list[Callable[[], object]]) -> float:
    """Make each call at its time, or at once when that is past; the rate reached."""
    began = time.perf_counter()
    for number, call in enumerate(calls):
        ahead = began + number / rate - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        call()
    return len(calls) / (time.perf_counter() - began)


class Times:
    """The handler of all accounts: notes when it heard, and computes when all is over."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, float, pjsip.RegState]] = []
        self.wanted = 0
        self.complete = threading.Event()

    def on_reg_state(self, event: pjsip.RegState) -> None:
        self.heard.append((time.monotonic(), time.time(), event))
        if len(self.heard) == self.wanted:
            self.complete.set()

    def expect(self, count: int) -> None:
        self.heard.clear()
        self.wanted = count
        self.complete.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--rate", type=float, default=1000.0, help="registrations a second")
    parser.add_argument("--count", type=int, default=5000, help="accounts")
    parser.add_argument("--password", default="bulk-password")
    options = parser.parse_args()

    times = Times()
    started: dict[pjsip.Account | None, float] = {}

    def first(account: pjsip.Account) -> None:
        started[account] = time.monotonic()
        account.register()

    with pjsip.Endpoint() as endpoint:
        endpoint.listen("udp", "127.0.0.1")
        accounts = []
        for number in range(options.count):
            user = f"bulk{number}"
            account = endpoint.add_account(
                f"sip:{user}@example.com",
                registrar=options.registrar,
                credentials=pjsip.Credentials(user, options.password),
            )
            account.on_reg_state(times.on_reg_state)
            accounts.append(account)

        times.expect(options.count)
        before = cpu()
        rate = paced(options.rate, [partial(first, account) for account in accounts])
        complete = times.complete.wait(60)
        cpu_first = cpu() - before
        heard = list(times.heard)

        times.expect(options.count)
        before = cpu()
        paced(options.rate, [account.register for account in accounts])
        complete &= times.complete.wait(60)
        cpu_again = cpu() - before
        heard_again = list(times.heard)
        endpoint.close(network=False)

    registered, answer, callback = [], [], []
    for monotonic, wall, event in heard:
        if event.code == 200 and event.response is not None:
            registered.append(monotonic - started[event.account])
            answer.append(wall - float(event.response.headers["X-Sent"]))
            callback.append(monotonic - event.time.monotonic)
    ok = len(registered)
    print(
        json.dumps(
            {
                "count": options.count,
                "ok": ok,
                "ok_again": sum(event.code == 200 for _, _, event in heard_again),
                "rate": rate,
                "cpu_us": cpu_first / options.count * 1e6,
                "cpu_again_us": cpu_again / options.count * 1e6,
                "registered": registered,
                "answer": answer,
                "callback": callback,
            }
        )
    )
    return 0 if complete and ok == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
