# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure pjsip_py beside plain C and SIPp, against one Kamailio, and print a table.

scripts/bench                     everything, about seven minutes
scripts/bench --quick             fewer and shorter runs, about three
scripts/bench --only memory       one measure (may be given several times)
scripts/bench --json figures.json the figures, for machines
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from measures import MEASURES, Bench
from peers import PeerError, build_c
from registrar import Registrar
from report import Row, commands, machine, table
from servers.process import MissingServer, ServerError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(MEASURES), default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, help="runs of each peer (default: 5, quick: 2)")
    parser.add_argument("--count", type=int, help="registrations a run (default: 5000)")
    parser.add_argument("--window", type=int, default=100, help="registrations in flight")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--commands", action="store_true", help="print the command of each row")
    parser.add_argument(
        "--extension",
        type=Path,
        metavar="FOLDER",
        help="where Meson built the extension (default: what scripts/setup built)",
    )
    options = parser.parse_args()
    options.repeats = options.repeats or (2 if options.quick else 5)
    options.count = options.count or (2000 if options.quick else 5000)
    if min(options.repeats, options.count, options.window) < 1:
        parser.error("--repeats, --count and --window must be at least 1")
    return options


def measure(options: argparse.Namespace, rows: list[Row]) -> None:
    """Append to *rows* as they come: a measure that fails leaves those before it."""
    c = build_c(options.extension)
    with tempfile.TemporaryDirectory(prefix="pjsip-py-bench-") as folder:
        for name, function in MEASURES.items():
            if options.only and name not in options.only:
                continue
            print(f"{name}: {(function.__doc__ or '').splitlines()[0]}", file=sys.stderr)
            # A fresh one for each measure: nobody pays for what an earlier one left behind.
            with Registrar(Path(folder)) as registrar:
                bench = Bench(registrar.uri, c, options.repeats, options.count, options.window)
                rows += function(bench)


def main() -> int:
    options = arguments()
    began = time.time()
    rows: list[Row] = []
    failed = False
    try:
        measure(options, rows)
    except (PeerError, MissingServer, ServerError) as error:
        print(error, file=sys.stderr)
        failed = True
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:", file=sys.stderr)
        failed = True
    if not rows:
        return 1
    facts = machine()
    for name, fact in facts.items():
        print(f"{name:10} {fact}")
    print()
    print(table(rows))
    if options.commands:
        print()
        print(commands(rows))
    if options.json:
        figures = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "machine": facts,
            "repeats": options.repeats,
            "count": options.count,
            "window": options.window,
            "rows": [row.as_dict() for row in rows],
        }
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
