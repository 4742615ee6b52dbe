# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer PJSUA2: N registrations through its Python module, with the options of register.py.

Its build aborts at the ninth account, so N registrations are shared by 8: an account whose
registration is done is told to register again, which costs the wire the same four messages, as
PJSUA2 does not keep the nonce.  No threads, events handled by the calling one, is what its
documentation asks of Python programs.

``--startup`` prints what startup.py prints instead.
"""

from __future__ import annotations

import time

before = time.perf_counter()
import pjsua2  # noqa: E402

import_seconds = time.perf_counter() - before

import argparse  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

from phases import Report, trim  # noqa: E402

MAX_ACCOUNTS = 8  # PJSUA_MAX_ACC
DEADLINE = 600.0  # seconds
T4 = 5.3  # seconds, and a little: here it can't be shortened


class Account(pjsua2.Account):  # type: ignore[misc]
    """Puts itself in *idle* when its REGISTER has ended."""

    def __init__(self, idle: list[Account]) -> None:
        super().__init__()
        self.idle = idle
        self.code = 0

    def onRegState(self, parameter: pjsua2.OnRegStateParam) -> None:
        self.code = parameter.code
        self.idle.append(self)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PJLIB logs to standard output until it is told not to."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def opened() -> pjsua2.Endpoint:
    endpoint = pjsua2.Endpoint()
    with quiet():
        endpoint.libCreate()
    config = pjsua2.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.medConfig.threadCnt = 0  # nobody calls
    endpoint.libInit(config)
    endpoint.audDevManager().setNullDev()
    transport = pjsua2.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    endpoint.transportCreate(pjsua2.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    return endpoint


def make(options: argparse.Namespace, number: int, idle: list[Account]) -> Account:
    user = f"bulk{number}"
    config = pjsua2.AccountConfig()
    config.idUri = f"sip:{user}@example.com"
    config.regConfig.registrarUri = options.registrar
    config.regConfig.registerOnAdd = False
    config.sipConfig.authCreds.append(pjsua2.AuthCredInfo("digest", "*", user, 0, options.password))
    account = Account(idle)
    account.create(config)
    return account


def handle(endpoint: pjsua2.Endpoint, until: Callable[[], bool], wait_ms: int = 10) -> None:
    deadline = time.monotonic() + DEADLINE
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError("registrations did not end")
        endpoint.libHandleEvents(wait_ms)


def register(
    endpoint: pjsua2.Endpoint, accounts: list[Account], idle: list[Account], count: int
) -> int:
    """*count* registrations, one in flight for each of *accounts*; how many were answered 200."""
    started = ok = ended = 0
    for account in accounts[:count]:
        account.setRegistration(True)
        started += 1
    while ended < count:
        handle(endpoint, lambda: bool(idle))
        account = idle.pop()
        ended += 1
        ok += account.code == 200
        if started < count:
            account.setRegistration(True)
            started += 1
    return ok


def settle(endpoint: pjsua2.Endpoint, options: argparse.Namespace) -> None:
    """Let the transactions end, whatever T4 was asked for."""
    if options.settle:
        end = time.monotonic() + max(options.settle, T4)
        handle(endpoint, lambda: time.monotonic() >= end, 500)  # asking often costs, too


def measure(options: argparse.Namespace) -> int:
    report = Report()
    idle: list[Account] = []
    endpoint = opened()
    report.mark("open")
    accounts = [make(options, options.first, idle)]
    register(endpoint, accounts, idle, 1)
    report.mark("warm")

    used = min(MAX_ACCOUNTS, options.window, options.count)
    accounts += [make(options, options.first + n, idle) for n in range(1, used)]
    report.mark("create")
    ok = register(endpoint, accounts, idle, options.count)
    report.mark("register")
    settle(endpoint, options)
    report.mark("settle")
    refreshed = 0
    if options.refreshes:
        refreshed = register(endpoint, accounts, idle, options.count * options.refreshes)
        report.mark("refresh")
        settle(endpoint, options)
        report.mark("refresh_settle")
    trim()
    report.mark("trim")
    for account in accounts:
        account.shutdown()
    endpoint.libDestroy(pjsua2.PJSUA_DESTROY_NO_NETWORK)
    report.mark("close")
    print(
        json.dumps(
            {
                "peer": "PJSUA2",
                "count": options.count,
                "ok": ok,
                "refreshed": refreshed,
                "accounts": used,
                **report.phases,
            }
        )
    )
    return 0 if ok == options.count else 1


def startup(options: argparse.Namespace) -> int:
    idle: list[Account] = []
    opening = time.monotonic()
    endpoint = opened()
    ready = time.monotonic()
    accounts = [make(options, number, idle) for number in range(options.count)]
    if options.silent:
        accounts[0].setRegistration(True)
        input()  # the other side has the REGISTER
    else:
        register(endpoint, accounts, idle, options.count)
    closing = time.perf_counter()
    if options.silent:
        endpoint.libDestroy(pjsua2.PJSUA_DESTROY_NO_NETWORK)
    else:
        for account in accounts:
            account.shutdown()
        endpoint.libDestroy()
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
    parser.add_argument("--window", type=int, default=MAX_ACCOUNTS, help="at most 8")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds")
    parser.add_argument("--refreshes", type=int, default=0, help="rounds of re-REGISTERs")
    parser.add_argument("--expires", type=int, help="always 300: no refresh comes between")
    parser.add_argument("--renewals", type=int, help="not to be had")
    parser.add_argument("--t4-ms", type=int, help="not to be had: it is 5000")
    parser.add_argument("--password", default="bulk-password")
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--silent", action="store_true", help="as in startup.py")
    options = parser.parse_args()
    if options.startup and options.count > MAX_ACCOUNTS:
        parser.error(f"PJSUA2 aborts at account {MAX_ACCOUNTS + 1}: --count at most {MAX_ACCOUNTS}")
    return startup(options) if options.startup else measure(options)


if __name__ == "__main__":
    sys.exit(main())
