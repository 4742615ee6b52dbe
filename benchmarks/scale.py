# SPDX-License-Identifier: GPL-3.0-or-later
"""Many accounts of one process, registered and kept registered in real time; was any lost?

scripts/bench --scale                                   100,000 accounts for ten minutes
scripts/bench --scale --accounts 20000 --minutes 2      fewer, and less long
scripts/bench --scale --json scale.json                 the figures, for machines

An account is lost when a binding of its ends before it is refreshed, by our clock or by the
registrar's own count, or when it is not registered at the end.  Exit: 0 none was, 1 some were.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from phases import rss_kb
from register import Load
from registrar import PASSWORD, Bindings, Registrar
from report import machine
from servers.process import MissingServer, ServerError

import pjsip_py as pjsip

FASTEST = 5000  # registrations a second at the start, unless --ramp says otherwise


class Delays:
    """A histogram of seconds."""

    EDGES = (-0.002, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

    def __init__(self) -> None:
        self._counts = [0] * (len(self.EDGES) + 1)
        self.max = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self.EDGES, seconds)] += 1
        self.max = max(self.max, seconds)

    def within(self, share: float) -> float:
        """The edge below which this share is; the largest of all when it is past the last."""
        wanted, seen = share * sum(self._counts), 0
        for count, edge in zip(self._counts, self.EDGES, strict=False):
            seen += count
            if seen >= wanted:
                return min(edge, self.max)
        return self.max

    def as_dict(self) -> dict[str, Any]:
        names = [f"<= {edge:g} s" for edge in self.EDGES] + [f"> {self.EDGES[-1]:g} s"]
        counts = dict(zip(names, self._counts, strict=True))
        return {
            "max": self.max,
            "p50": self.within(0.5),
            "p99": self.within(0.99),
            "counts": {name: count for name, count in counts.items() if count},
        }


class Watch:
    """What becomes of all accounts; written where events are delivered, read by the main thread."""

    def __init__(self, accounts: int, margin: int) -> None:
        self.accounts = accounts
        self.margin = margin  # seconds before its end at which a binding is refreshed
        self.registered = 0  # for the first time
        self.given_up = 0
        self.begun = threading.Event()  # by all, one way or the other
        self.events = self.requests = self.refreshes = 0
        self.gaps = 0  # bindings that had ended before their refresh came
        self.failures: Counter[str] = Counter()
        self.late = Delays()  # refreshes, behind the moment at which they were due
        self.handler = Delays()  # handlers, behind PJSIP's callback

    def saw(self, account: Kept, event: pjsip.RegState) -> None:
        now = time.monotonic()
        self.events += 1
        self.requests += event.requests
        self.handler.add(now - event.time.monotonic)
        if event.error is not None:
            self.failures[f"{event.code} {event.reason}"] += 1
            self.given_up += event.retry_in is None
            self._begins()
            return
        if event.is_unregister:
            return
        if account.ends is None:
            self.registered += 1
            self._begins()
        else:
            self.refreshes += 1
            self.gaps += event.time.monotonic > account.ends
            self.late.add(event.time.monotonic - account.ends + self.margin)
        account.ends = event.time.monotonic + (event.expires or 0)

    def _begins(self) -> None:
        if self.registered + self.given_up >= self.accounts:
            self.begun.set()


class Kept(pjsip.Account):
    """An account that tells the watch, as a program's own would be written."""

    __slots__ = ("ends",)
    watch: Watch

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ends: float | None = None  # of its binding, time.monotonic()

    def on_reg_state(self, event: Any) -> Any:
        if isinstance(event, pjsip.RegState):
            return self.watch.saw(self, event)
        return super().on_reg_state(event)


class Collections:
    """Passes of Python's cyclic garbage collector, and how long each stopped the world."""

    def __init__(self) -> None:
        self._passes = [0, 0, 0]
        self._seconds = [0.0, 0.0, 0.0]
        self._longest = [0.0, 0.0, 0.0]
        self._began = 0.0

    def __enter__(self) -> Collections:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        took, generation = time.perf_counter() - self._began, info["generation"]
        self._passes[generation] += 1
        self._seconds[generation] += took
        self._longest[generation] = max(self._longest[generation], took)

    def as_dict(self) -> dict[str, Any]:
        return {
            f"generation {n}": {
                "passes": self._passes[n],
                "seconds": self._seconds[n],
                "longest_ms": self._longest[n] * 1e3,
            }
            for n in range(3)
        }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def group_cpu_seconds(group: int) -> float:
    """CPU of all processes of a group: Kamailio and its children."""
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Series:
    """A line for each interval, told as it comes."""

    def __init__(self, watch: Watch, interval: float, registrar: int) -> None:
        self._watch = watch
        self._interval = interval
        self._registrar = registrar
        self.lines: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._last = self._now()

    def _now(self) -> dict[str, float]:
        return {
            "at": time.monotonic() - self._began,
            "cpu": cpu_seconds(),
            "registrar_cpu": group_cpu_seconds(self._registrar) if self._registrar else 0.0,
            "events": self._watch.events,
            "requests": self._watch.requests,
            "refreshes": self._watch.refreshes,
        }

    def until(self, phase: str, deadline: float, end: threading.Event | None = None) -> bool:
        """Note an interval after the other, until *end* or the deadline; whether it was *end*."""
        while True:
            left = deadline - time.monotonic()
            tick = self._last["at"] + self._interval + self._began - time.monotonic()
            wait = max(0.0, min(left, tick))
            if end is not None and end.wait(wait):
                return True
            if end is None:
                time.sleep(wait)
            if tick <= left:
                self._note(phase)
            if left <= 0 or (tick > left and wait >= left):
                return False

    def _note(self, phase: str) -> None:
        last, now = self._last, self._now()
        seconds = now["at"] - last["at"]
        rate = {name: (now[name] - last[name]) / seconds for name in now if name != "at"}
        line: dict[str, Any] = {
            "phase": phase,
            "at": now["at"],
            "registered": self._watch.registered,
            "registers_per_s": rate["requests"],
            "refreshes_per_s": rate["refreshes"],
            "events_per_s": rate["events"],
            "rss_mb": rss_kb() / 1024,
            "cpu_percent": rate["cpu"] * 100,
            "registrar_cpu_percent": rate["registrar_cpu"] * 100,
        }
        self.lines.append(line)
        self._last = now
        print(
            "{at:6.0f} s  {phase:6}{registered:8} registered {registers_per_s:6.0f} REGISTERs/s"
            " {refreshes_per_s:6.0f} refreshes/s {rss_mb:6.0f} MB  CPU {cpu_percent:3.0f} %,"
            " registrar {registrar_cpu_percent:3.0f} %".format(**line),
            file=sys.stderr,
        )

    def rates(self, phase: str, name: str) -> dict[str, float]:
        values = [line[name] for line in self.lines if line["phase"] == phase]
        if not values:
            return {}
        return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench --scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--expires", type=int, default=300, help="seconds asked for (default: 300)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="kept for so long, once all are"
    )
    parser.add_argument(
        "--ramp",
        type=float,
        help="seconds in which they begin (default: one refresh interval, so that refreshes are"
        f" spread evenly; at most {FASTEST} a second)",
    )
    parser.add_argument("--interval", type=float, default=10.0, help="seconds of a line")
    parser.add_argument(
        "--registrar", metavar="URI", help="another than a Kamailio of its own; any sip:bulk<n>"
    )
    parser.add_argument("--password", default=PASSWORD, help=argparse.SUPPRESS)
    parser.add_argument(
        "--close-timeout", type=float, default=30.0, help="seconds for close(), which unregisters"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    if options.accounts < 1 or options.expires < 2 or options.minutes <= 0:
        parser.error("--accounts takes 1 or more, --expires 2 or more, --minutes more than 0")
    if options.interval <= 0 or (options.ramp is not None and options.ramp <= 0):
        parser.error("--interval and --ramp take more than 0 seconds")
    if options.json:
        try:  # now, not when the work is done
            options.json.open("a").close()
        except OSError as error:
            parser.error(f"--json: {error}")
    # What an account does by itself, and PJSIP with grants of few seconds.
    margin = min(32, max(5, options.expires // 5), options.expires - 5)
    options.margin = margin if options.expires > 5 else 1
    if options.ramp is None:
        options.ramp = max(options.expires - options.margin, options.accounts / FASTEST)
    return options


class Scale:
    """One run; ``report`` has what is known so far."""

    def __init__(
        self, options: argparse.Namespace, uri: str, registrar: Registrar | None = None
    ) -> None:
        self.options = options
        self.uri = uri
        self.registrar = registrar
        self.watch = Kept.watch = Watch(options.accounts, options.margin)
        self.series = Series(self.watch, options.interval, registrar.pid if registrar else 0)
        self.report: dict[str, Any] = {
            "accounts": options.accounts,
            "expires": options.expires,
            "ramp": options.ramp,
            "minutes": options.minutes,
        }

    def run(self) -> None:
        endpoint = pjsip.Endpoint(
            # An attempt with credentials counts as two.
            register_rate=2 * self.options.accounts / self.options.ramp
        )
        with Collections() as collections:
            try:
                endpoint.open()
                self._keep(endpoint)
                self._judge(endpoint)
            finally:
                self._sum_up(endpoint, collections)
                if "lost" not in self.report:  # interrupted
                    endpoint.close(network=False)
        self._close(endpoint)
        if not any(self.report["lost"].values()):
            self._close_silently()

    def _keep(self, endpoint: pjsip.Endpoint) -> None:
        options, watch = self.options, self.watch
        before, began, cpu = rss_kb(), time.monotonic(), cpu_seconds()
        self.accounts = [
            self._add(endpoint, n, register_on_add=True) for n in range(options.accounts)
        ]
        self.report["add"] = {
            "seconds": time.monotonic() - began,
            "cpu_us_each": (cpu_seconds() - cpu) / options.accounts * 1e6,
        }
        enough = began + 2 * options.ramp + 60
        self.series.until("start", enough, watch.begun)
        if watch.registered < options.accounts:
            failures = shown(dict(watch.failures))
            raise ServerError(
                f"{watch.registered} of {options.accounts} registered in"
                f" {time.monotonic() - began:.1f} s (failures: {failures})"
            )
        self.report["start"] = {
            "seconds": time.monotonic() - began,
            "cpu_us_each": (cpu_seconds() - cpu) / options.accounts * 1e6,
        }
        kept, cpu, refreshes = time.monotonic(), cpu_seconds(), watch.refreshes
        self.series.until("keep", kept + 60 * options.minutes)
        seconds, cpu = time.monotonic() - kept, cpu_seconds() - cpu
        refreshes = watch.refreshes - refreshes
        self.report["keep"] = {
            "seconds": seconds,
            "refreshes": refreshes,
            "cpu_percent": cpu / seconds * 100,
            "cpu_us_per_refresh": cpu / max(1, refreshes) * 1e6,
            "rss_kb_each": (rss_kb() - before) / options.accounts,
        }

    def _add(self, endpoint: pjsip.Endpoint, number: int, **fields: Any) -> Kept:
        return endpoint.add_account(
            f"sip:bulk{number}@example.com",
            cls=Kept,
            registrar=self.uri,
            credentials=pjsip.Credentials(f"bulk{number}", self.options.password),
            expires=self.options.expires,
            refresh_margin=self.options.margin,
            **fields,
        )

    def _bindings(self) -> Bindings | None:
        return self.registrar.bindings() if self.registrar else None

    def _judge(self, endpoint: pjsip.Endpoint) -> None:
        """Lost by our own account of it, and by the registrar's."""
        gone = sum(not account.registered for account in self.accounts)
        lost = {"not registered at the end": gone, "refreshed too late": self.watch.gaps}
        bindings = self._bindings()
        if bindings is not None:
            lost["missing at the registrar"] = self.options.accounts - bindings.bound
            lost["expired at the registrar"] = bindings.expired
        self.report["lost"] = lost

    def _sum_up(self, endpoint: pjsip.Endpoint, collections: Collections) -> None:
        watch, series = self.watch, self.series
        self.report |= {
            "registered": watch.registered,
            "events": watch.events,
            "registers": watch.requests,
            "refreshes": watch.refreshes,
            "failures": dict(watch.failures),
            "refreshes_per_s": series.rates("keep", "refreshes_per_s"),
            "registers_per_s": series.rates("keep", "registers_per_s"),
            "rss_mb": series.rates("keep", "rss_mb"),
            "cpu_percent": series.rates("keep", "cpu_percent"),
            "registrar_cpu_percent": series.rates("keep", "registrar_cpu_percent"),
            "late": watch.late.as_dict(),
            "handler": watch.handler.as_dict(),
            "gc": collections.as_dict(),
            "series": series.lines,
        }
        if not endpoint.closed:
            self.report["stats"] = endpoint.stats()

    def _close(self, endpoint: pjsip.Endpoint) -> None:
        peak = _peak_kb()
        began, cpu = time.monotonic(), cpu_seconds()
        endpoint.close(self.options.close_timeout)
        self.accounts.clear()
        bindings = self._bindings()
        self.report["close, unregistering"] = {
            "seconds": time.monotonic() - began,
            "cpu_us_each": (cpu_seconds() - cpu) / self.options.accounts * 1e6,
            "peak_mb": _peak_kb() / 1024,
            "peak_mb_before": peak / 1024,
            **({"left at the registrar": bindings.bound} if bindings else {}),
        }

    def _close_silently(self) -> None:
        """Once more, registered as fast as it goes, to close without a word."""
        load = Load(100)
        Kept.watch = Watch(self.options.accounts, self.options.margin)
        with pjsip.Endpoint() as endpoint:
            accounts = [self._add(endpoint, n) for n in range(self.options.accounts)]
            for account in accounts:
                account.on_reg_state(load.on_reg_state)
            load.start(list(accounts))
            load.finished.wait(60 + self.options.accounts / 200)
            registered = sum(account.registered for account in accounts)
            began, cpu = time.monotonic(), cpu_seconds()
            endpoint.close(network=False)
            self.report["close, silent"] = {
                "seconds": time.monotonic() - began,
                "cpu_us_each": (cpu_seconds() - cpu) / self.options.accounts * 1e6,
                "registered": registered,
            }


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    options = arguments()
    scale: Scale | None = None
    ended = "done"
    try:
        with tempfile.TemporaryDirectory(prefix="pjsip-py-scale-") as folder:
            if options.registrar:
                scale = Scale(options, options.registrar)
                scale.run()
            else:
                with Registrar(Path(folder), timer=5) as registrar:
                    scale = Scale(options, registrar.uri, registrar)
                    scale.run()
    except KeyboardInterrupt:
        ended = "interrupted"
    except (MissingServer, ServerError, pjsip.PjsipError) as error:
        print(error, file=sys.stderr)
        ended = str(error).partition("\n")[0]
    if scale is None:
        return 1
    report = scale.report | {"ended": ended}
    lost = report.get("lost")
    report["ok"] = ended == "done" and lost is not None and not any(lost.values())
    for name, value in report.items():
        if name != "series":
            print(f"{name:22} {shown(value)}")
    if options.json:
        report["machine"] = machine()
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0 if report["ok"] else 130 if ended == "interrupted" else 1


if __name__ == "__main__":
    sys.exit(main())
