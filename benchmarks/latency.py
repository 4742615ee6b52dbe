# SPDX-License-Identifier: GPL-3.0-or-later
"""How late a handler hears of an outcome, at a steady rate of registrations.

Two times for each: from PJSIP's callback in C (``event.time``) to the handler, and from the
registrar's X-Sent header, written before its answer left, to the handler.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import threading
import time

import pjsip_py as pjsip


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": percentile(ordered, 0.50),
        "p90": percentile(ordered, 0.90),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--rate", type=float, default=1000.0, help="registrations a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--password", default="bulk-password")
    options = parser.parse_args()

    from_callback: list[float] = []
    arrivals: list[tuple[float, pjsip.Response]] = []
    wanted = int(options.rate * options.seconds)
    failed = 0
    finished = threading.Event()

    def on_reg_state(event: pjsip.RegState) -> None:
        nonlocal failed
        now, wall = time.monotonic(), time.time()
        if not recording:
            return
        if event.response is None or event.code != 200:
            failed += 1
        else:
            from_callback.append(now - event.time.monotonic)
            arrivals.append((wall, event.response))
        if len(from_callback) + failed == wanted:
            finished.set()

    recording = False
    with pjsip.Endpoint() as endpoint:
        endpoint.listen("udp", "127.0.0.1")
        clients = []
        for number in range(options.clients):
            user = f"bulk{number}"
            client = endpoint.registration(
                options.registrar,
                f"sip:{user}@example.com",
                credentials=pjsip.Credentials(user, options.password),
            )
            client.on_reg_state(on_reg_state)
            clients.append(client)
        for start in range(0, len(clients), 100):
            for operation in [c.register() for c in clients[start : start + 100]]:
                operation.result(30)

        recording = True
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        for sent in range(wanted):
            ahead = began + sent / options.rate - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            clients[sent % len(clients)].register()
        took = time.perf_counter() - began
        complete = finished.wait(30)
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps(
            {
                "count": len(from_callback),
                "failed": failed,
                "rate": wanted / took,
                "cpu_us": cpu / wanted * 1e6,
                "callback": summary(from_callback),
                "wire": summary([at - float(r.headers["X-Sent"]) for at, r in arrivals]),
            }
        )
    )
    return 0 if complete and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
