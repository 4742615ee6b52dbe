# SPDX-License-Identifier: GPL-3.0-or-later
"""Kamailio as the registrar that all peers are measured against: a process of its own."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from servers.certs import Certificates
from servers.process import (
    MissingServer,
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
INSTALL = "apt-get install kamailio kamailio-tls-modules"


class Bindings(NamedTuple):
    """What the registrar itself says that it has."""

    bound: int
    expired: int  # ever: bindings that were not refreshed in time


class Registrar:
    """``with Registrar(folder) as registrar: registrar.uri``; any user name, one password.

    :param protocol: "udp", "tcp" or "tls", of :attr:`uri`.  UDP is there besides, for questions.
    :param addresses: of the registrar; beyond the first they are 127.1.0.1, 127.1.0.2 and so on, as
        ``--spread`` of the peers counts them.
    :param connections: that TCP and TLS may have.
    :param timer: seconds between looks for expired bindings.
    """

    def __init__(
        self,
        directory: Path,
        children: int = 1,
        *,
        protocol: str = "udp",
        addresses: int = 1,
        connections: int = 2048,
        timer: int = 60,
    ) -> None:
        self.directory = directory
        self.children = children
        self.protocol = protocol
        self.hosts = spread(addresses) if addresses > 1 else ["127.0.0.1"]
        self.connections = connections
        self.timer = timer
        self.port = 0
        self.ca_file: Path | None = None
        self._udp_port = 0
        self._log = directory / "kamailio.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        parameter = "" if self.protocol == "udp" else f";transport={self.protocol}"
        return f"sip:127.0.0.1:{self.port}{parameter}"

    def __enter__(self) -> Registrar:
        program = find_program("kamailio", INSTALL)
        for _ in range(5):
            stream = "udp" if self.protocol == "udp" else "tcp"
            self.port = free_port([(host, stream) for host in self.hosts])
            self._udp_port = self.port if stream == "udp" else free_port([("127.0.0.1", "udp")])
            config = self.directory / "kamailio.cfg"
            config.write_text(self._config())
            options = ["-f", str(config), "-DD", "-E", "-Y", str(self.directory)]
            memory = ["-m", "1024", "-M", "32"]
            self._process = spawn([program, *options, *memory], self.directory, self._log)
            try:
                if self._answers():
                    return self
            except BaseException:
                kill_group(self._process)
                raise
            kill_group(self._process)
        log = tail(self._log)
        if "tls.so" in log and "could not find module" in log:
            raise MissingServer(f"Kamailio lacks its TLS module: {INSTALL}")
        raise ServerError(f"Kamailio does not start:\n{log}")

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            stop_group(self._process, 3.0)
            self._process = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def bindings(self) -> Bindings:
        with RawClient("udp", "127.0.0.1", self._udp_port) as client:
            reply = client.request("OPTIONS", "probe")
        return Bindings(int(reply.get("X-Contacts")), int(reply.get("X-Expired")))

    def _config(self) -> str:
        listen = [f"udp:127.0.0.1:{self._udp_port}"]
        core, modules = "disable_tcp=yes", ""
        if self.protocol != "udp":
            listen += [f"{self.protocol}:{host}:{self.port}" for host in self.hosts]
            core = (
                f"tcp_connection_lifetime=3605\ntcp_max_connections={self.connections}\n"
                f"open_files_limit={self.connections + 100}"
            )
        if self.protocol == "tls":
            certs = Certificates.make(self.directory)
            self.ca_file = certs.ca_file
            core += f"\nenable_tls=yes\ntls_max_connections={self.connections}"
            modules = (
                'loadmodule "tls.so"\nmodparam("tls", "tls_method", "TLSv1.2+")\n'
                f'modparam("tls", "certificate", "{certs.cert_file}")\n'
                f'modparam("tls", "private_key", "{certs.key_file}")'
            )
        values = {
            "CHILDREN": self.children,
            "CORE": core,
            "LISTEN": "\n".join(f"listen={address}" for address in listen),
            "MODULES": modules,
            "REALM": REALM,
            "PASSWORD": PASSWORD,
            "TIMER": self.timer,
        }
        return re.sub(r"@([A-Z]+)@", lambda match: str(values[match[1]]), TEMPLATE.read_text())

    def _answers(self) -> bool:
        """UDP answers last: it is bound with the others, before the first request is read."""
        assert self._process is not None
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with RawClient("udp", "127.0.0.1", self._udp_port, timeout=0.2) as client:
                    client.request("OPTIONS", "probe")
                if self.protocol != "udp":
                    with RawClient(
                        self.protocol, self.hosts[0], self.port, self.ca_file, timeout=1.0
                    ) as client:
                        client.request("OPTIONS", "probe")
                return True
            except OSError:
                time.sleep(0.02)
        return False


def spread(addresses: int) -> list[str]:
    """127.1.0.1 to 127.1.0.250, 127.1.1.1 and so on."""
    return [f"127.1.{n // 250}.{1 + n % 250}" for n in range(addresses)]


@contextmanager
def registrar_over(
    protocol: str, *, addresses: int = 1, connections: int = 2048
) -> Iterator[Registrar]:
    """One of a measure's own, in a folder of its own."""
    with (
        TemporaryDirectory(prefix="pjsip-py-bench-") as folder,
        Registrar(
            Path(folder), protocol=protocol, addresses=addresses, connections=connections
        ) as registrar,
    ):
        yield registrar
