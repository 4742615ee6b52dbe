# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure pjsip_py beside plain C, SIPp, PJSUA2 and baresip-python, against one Kamailio.

scripts/bench                        everything
scripts/bench --quick                fewer and shorter runs
scripts/bench --only memory          one measure (may be given several times)
scripts/bench --json figures.json    the figures, for machines
scripts/bench --page                 and docs/benchmarks.md with its plots
scripts/bench --from figures.json    what was measured earlier: the table, or the --page
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from measures import MEASURES, Bench
from page import PAGE, write_page
from peers import PeerError, build_c
from registrar import Registrar
from report import Row, commands, machine, table
from servers.process import MissingServer, ServerError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=list(MEASURES), default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, help="runs of each peer (default: 5, quick: 2)")
    parser.add_argument(
        "--count", type=int, help="registrations a run (default: 5000, quick: 2000)"
    )
    parser.add_argument("--window", type=int, default=100, help="registrations in flight")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read them there")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name} and its plots")
    parser.add_argument("--commands", action="store_true", help="print the command of each row")
    parser.add_argument(
        "--extension",
        type=Path,
        metavar="FOLDER",
        help="where Meson built the extension (default: what scripts/setup built)",
    )
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 2 if options.quick else 5
    if options.count is None:
        options.count = 2000 if options.quick else 5000
    if min(options.repeats, options.count, options.window) < 1:
        parser.error("--repeats, --count and --window must be at least 1")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.absolute().parent}")
    if options.source and (options.only or options.quick or options.json):
        parser.error("--from reads what was measured: without --only, --quick and --json")
    return options


def measure(options: argparse.Namespace, rows: list[Row]) -> bool:
    """Append to *rows* as they come; whether all did what they should."""
    c = build_c(options.extension)
    good = True
    with tempfile.TemporaryDirectory(prefix="pjsip-py-bench-") as folder:
        for name, function in MEASURES.items():
            if options.only and name not in options.only:
                continue
            print(f"{name}: {(function.__doc__ or '').splitlines()[0]}", file=sys.stderr)
            try:
                # A fresh one for each measure: nobody pays for what an earlier one left behind.
                with Registrar(Path(folder)) as registrar:
                    bench = Bench(registrar.uri, c, options.repeats, options.count, options.window)
                    rows += function(bench)
                if bench.interrupted.is_set():
                    raise KeyboardInterrupt
            except (PeerError, ServerError) as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                good = False
            else:
                good &= not bench.failed
    return good


def measured(options: argparse.Namespace) -> tuple[dict[str, Any], bool, bool]:
    """The figures, whether all peers did their work, and whether nobody interrupted them."""
    began = time.time()
    load = os.getloadavg()
    rows: list[Row] = []
    good = complete = True
    try:
        good = measure(options, rows)
    except (PeerError, MissingServer) as error:
        print(error, file=sys.stderr)
        good = False
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:", file=sys.stderr)
        complete = False
    figures = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "machine": machine(load),
        "repeats": options.repeats,
        "count": options.count,
        "window": options.window,
        "rows": [row.as_dict() for row in rows],
    }
    return figures, good, complete


def earlier(file: Path) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if not (figures["machine"] and figures["time"] and figures["rows"][0]["measure"]):
            raise ValueError
    except OSError as error:
        sys.exit(f"{file}: {error.strerror}")
    except (ValueError, LookupError, TypeError):
        sys.exit(f"{file} is not what scripts/bench --json writes")
    return figures


def main() -> int:
    options = arguments()
    if options.source:
        figures, good, complete = earlier(options.source), True, True
    else:
        figures, good, complete = measured(options)
    rows = figures["rows"]
    if not rows:
        return 1
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, fact in figures["machine"].items():
        print(f"{name:10} {fact}")
    print()
    print(table(rows))
    if options.commands:
        print()
        print(commands(rows))
    if options.page and complete:
        for file in write_page(figures):
            print(f"wrote {file}", file=sys.stderr)
    return 0 if good and complete else 1


if __name__ == "__main__":
    sys.exit(main())
