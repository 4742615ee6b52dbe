# SPDX-License-Identifier: GPL-3.0-or-later
"""Kamailio as the registrar that all peers are measured against: a process of its own."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from servers.process import (
    ServerError,
    find_program,
    free_port,
    kill_group,
    spawn,
    stop_group,
    tail,
)
from servers.rawclient import RawClient

TEMPLATE = Path(__file__).with_name("kamailio.cfg.in")
REALM = "example.com"
PASSWORD = "bulk-password"


class Registrar:
    """``with Registrar(folder) as registrar: registrar.uri``; any user name, one password."""

    def __init__(self, directory: Path, children: int = 1) -> None:
        self.directory = directory
        self.children = children
        self.port = 0
        self._log = directory / "kamailio.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"sip:127.0.0.1:{self.port}"

    def __enter__(self) -> Registrar:
        program = find_program("kamailio", "apt-get install kamailio")
        for _ in range(5):
            self.port = free_port([("127.0.0.1", "udp")])
            config = self.directory / "kamailio.cfg"
            config.write_text(self._config())
            options = ["-f", str(config), "-DD", "-E", "-Y", str(self.directory)]
            memory = ["-m", "512", "-M", "16"]
            self._process = spawn([program, *options, *memory], self.directory, self._log)
            if self._answers():
                return self
            kill_group(self._process)
        raise ServerError(f"Kamailio does not start:\n{tail(self._log)}")

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            stop_group(self._process, 3.0)
            self._process = None

    def _config(self) -> str:
        values = {
            "CHILDREN": self.children,
            "PORT": self.port,
            "REALM": REALM,
            "PASSWORD": PASSWORD,
        }
        return re.sub(r"@([A-Z]+)@", lambda match: str(values[match[1]]), TEMPLATE.read_text())

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with RawClient("udp", "127.0.0.1", self.port, timeout=0.2) as client:
                    client.request("OPTIONS", "probe")
                    return True
            except OSError:
                time.sleep(0.02)
        return False
