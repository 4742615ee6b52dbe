# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what the sanitizers have to say of this project; the exit code is 1 if that is anything.

Leaks are counted when a frame of their stack is ours or PJSIP's: an interpreter leaves thousands
of blocks behind, and a suppression by its name would hide ours, which it called.

    reports.py FOLDER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

OURS = re.compile(r"^\s+#\d+ .*(?:/cbuild/|/pjproject-|_pjsip\.(?:c|abi3))", re.M)
LEAK = re.compile(r"^(?:Direct|Indirect) leak of .*?(?:\n\n|\Z)", re.M | re.S)


def findings(text: str) -> list[str]:
    leaks = LEAK.findall(text)
    rest = LEAK.sub("", text)
    found = [leak for leak in leaks if OURS.search(leak)]
    if re.search(r"runtime error:|ERROR: AddressSanitizer|WARNING: ThreadSanitizer", rest):
        found.append(rest)
    return found


def main(folder: str) -> int:
    seen = 0
    for path in sorted(Path(folder).iterdir()):
        for each in findings(path.read_text(errors="replace")):
            seen += 1
            if seen <= 20:
                print(f"--- {path.name}\n{each[:6000]}")
    if seen > 20:
        print(f"... and {seen - 20} more in {folder}")
    return int(seen > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
