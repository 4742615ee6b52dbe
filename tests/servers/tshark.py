# SPDX-License-Identifier: GPL-3.0-or-later
"""Wireshark's own reading of a capture."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .process import find_program

INSTALL = "apt-get install tshark"


class Tshark:
    def __init__(self) -> None:
        self._program = find_program("tshark", INSTALL)

    def fields(self, path: Path, *names: str, only: str = "") -> list[list[str]]:
        """The fields of each packet that the display filter *only* lets through; a flag is 1 or 0,
        as it was before Wireshark 4.4 said True and False."""
        wanted = [word for name in names for word in ("-e", name)]
        lines = self.run(path, *(["-Y", only] if only else []), "-T", "fields", *wanted)
        flags = {"True": "1", "False": "0"}
        return [[flags.get(one, one) for one in line.split("\t")] for line in lines.splitlines()]

    def faults(self, path: Path) -> str:
        """What Wireshark calls malformed, wrong or worth a warning, checksums included."""
        checks = (
            *("-o", "ip.check_checksum:TRUE"),
            *("-o", "tcp.check_checksum:TRUE"),
            *("-o", "udp.check_checksum:TRUE"),
        )
        bad = "_ws.malformed || _ws.expert.severity >= warning"
        return self.run(path, *checks, "-Y", bad)

    def run(self, path: Path, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, "-n", "-r", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
