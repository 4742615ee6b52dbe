# SPDX-License-Identifier: GPL-3.0-or-later
"""SIPp as a registrar that follows a scenario to the letter, and says whether the client did."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers.process import (
    ServerError,
    find_program,
    free_port,
    kill_group,
    spawn,
    tail,
    wait_until,
)

INSTALL = "apt-get install sip-tester"
SCENARIOS = Path(__file__).with_name("scenarios")

# What the scenarios' [keywords] stand for, unless a test says otherwise.
DEFAULTS = {
    "expires": "60",
    "min_expires": "120",
    "user": "alice",
    "password": "alice-password",
    "status": "SIP/2.0 200 OK",
    "header": "X-Nothing: 0",
}


class Sipp:
    """One SIPp in server mode on loopback, for ``calls`` Call-IDs through one scenario.

    scenario: the name of a file in servers/scenarios. protocol: "udp" or "tcp".
    timeout: seconds after which SIPp gives up, as a failure.
    absorb_retransmissions: SIPp answers a repeated request with its last response; False makes
    each copy a message of its own in the scenario.
    """

    def __init__(
        self,
        directory: Path,
        scenario: str,
        *,
        protocol: str = "udp",
        calls: int = 1,
        timeout: int = 10,
        absorb_retransmissions: bool = True,
        **keywords: str | int,
    ) -> None:
        self.directory = directory
        self.scenario = scenario
        self.protocol = protocol
        self.log = directory / "sipp.log"
        self.errors = directory / "errors.log"
        self.messages = directory / "messages.log"
        if unknown := keywords.keys() - DEFAULTS.keys():
            raise TypeError(f"SIPp scenarios have no keyword {', '.join(sorted(unknown))}")
        options = ["-nr"] if not absorb_retransmissions else []
        for name, value in {**DEFAULTS, **keywords}.items():
            options += ["-key", name, str(value)]
        self._options = [
            *("-sf", str(SCENARIOS / f"{scenario}.xml")),
            *("-m", str(calls)),
            *("-timeout", f"{timeout}s", "-timeout_error"),
            *("-t", "u1" if protocol == "udp" else "t1"),
            *("-i", "127.0.0.1", "-bind_local", "-ci", "127.0.0.1"),
            *("-trace_err", "-error_file", str(self.errors)),
            *("-trace_msg", "-message_file", str(self.messages)),
            "-nostdin",
            *options,
        ]
        self._timeout = timeout
        self._program = find_program("sipp", INSTALL)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def uri(self) -> str:
        parameter = "" if self.protocol == "udp" else f";transport={self.protocol}"
        return f"sip:127.0.0.1:{self.port}{parameter}"

    def start(self) -> None:
        for _ in range(5):
            self.port = free_port([("127.0.0.1", self.protocol)])
            control = free_port([("127.0.0.1", "udp")])
            ports = ["-p", str(self.port), "-cp", str(control)]
            self._process = spawn([self._program, *self._options, *ports], self.directory, self.log)
            wait_until(self._bound_or_ended, 5, "SIPp opens its port")
            if self._process.poll() is None:
                return
        raise ServerError(f"SIPp does not start:\n{self.log_tail()}")

    def finish(self, timeout: float | None = None) -> None:
        """Wait for SIPp to end, at most ``timeout`` seconds, and check that every message came
        as the scenario says: none unexpected, none missing."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            code = process.wait(self._timeout + 2 if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"SIPp waits for more messages of {self.scenario}:\n{self.log_tail()}"
            ) from None
        finally:
            kill_group(process)
        if code != 0:
            raise ServerError(
                f"{self.scenario} was not followed (SIPp exit {code}):\n{self.log_tail()}"
            )

    def stop(self) -> None:
        """End SIPp, whatever it has seen."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def log_tail(self) -> str:
        """The last messages and complaints of SIPp; its screen is left out."""
        return "\n".join(part for part in (tail(self.errors), tail(self.messages)) if part)

    def _bound_or_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or _is_bound(self.protocol, self.port)


def _is_bound(protocol: str, port: int) -> bool:
    """Whether the kernel lists a socket on 127.0.0.1:``port``; asking it disturbs nobody."""
    local = f"0100007F:{port:04X}"
    listening = "07" if protocol == "udp" else "0A"
    with Path(f"/proc/net/{protocol}").open() as table:
        rows = (row.split() for row in table)
        return any(row[1] == local and row[3] == listening for row in rows)
