# SPDX-License-Identifier: GPL-3.0-or-later
"""Kamailio as a registrar on loopback: UDP, TCP and TLS, IPv4 and IPv6, in one instance."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from servers.certs import Certificates
from servers.process import (
    LASTING,
    MissingServer,
    ServerError,
    find_program,
    free_port,
    has_ipv6_loopback,
    kill_group,
    signal_group,
    spawn,
    stop_group,
    tail,
)
from servers.rawclient import RawClient

INSTALL = "apt-get install kamailio kamailio-tls-modules"
TEMPLATE = Path(__file__).with_name("kamailio.cfg.in")
REALM = "example.com"
BULK_PASSWORD = "bulk-password"
USERS = {
    "alice": "alice-password",
    "bob": "bob-password",
    "brief": "brief-password",
    "single": "single-password",
    "proxied": "proxied-password",
    "assistant": "assistant-password",
}

# Every (protocol, host) that a Kamailio listens on, to parametrize tests with.
TRANSPORTS = [
    pytest.param(
        protocol,
        host,
        marks=pytest.mark.skipif(
            ":" in host and not has_ipv6_loopback(),
            reason="no [::1] here: sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
        ),
    )
    for host in ("127.0.0.1", "::1")
    for protocol in ("udp", "tcp", "tls")
]


class Kamailio:
    """One Kamailio. The port of UDP and TCP is one number, TLS has another; both stay the same
    over ``stop()``/``kill()`` and ``start()``, and the bindings, kept in memory, do not.

    users: name to password; the users ``bulk<number>`` exist besides, all with BULK_PASSWORD.
    algorithm: "MD5" or "SHA-256", the one that it challenges with.
    min_expires: seconds, for the user "brief". nonce_expire: seconds until a nonce is stale.
    memory: shared, in MB; a request takes 10 kB for the 5 s that its transaction lives.
    verify_client: ask TLS clients for a certificate of the CA, and refuse those without.
    """

    def __init__(
        self,
        directory: Path,
        certs: Certificates,
        *,
        users: Mapping[str, str] = USERS,
        algorithm: str = "MD5",
        min_expires: int = 120,
        retry_after: int = 7,
        nonce_expire: int = 300,
        children: int = 2,
        memory: int = 128,
        verify_client: bool = False,
    ) -> None:
        self.directory = directory
        self.certs = certs
        self.users = dict(users)
        self.algorithm = algorithm
        self.min_expires = min_expires
        self.retry_after = retry_after
        self.nonce_expire = nonce_expire
        self.children = children
        self.memory = memory
        self.verify_client = verify_client
        self.program = find_program("kamailio", INSTALL)
        self.version = _version(self.program)
        self.hosts = ("127.0.0.1", "::1") if has_ipv6_loopback() else ("127.0.0.1",)
        self.log = directory / "kamailio.log"
        self._ports: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Kamailio:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def port(self, protocol: str) -> int:
        if self._ports is None:
            raise ServerError("Kamailio has not been started")
        return self._ports[protocol == "tls"]

    def uri(self, protocol: str = "udp", host: str = "127.0.0.1", scheme: str = "sip") -> str:
        """The registrar's URI: ``uri("tls", "::1")`` is ``sip:[::1]:PORT;transport=tls``."""
        address = f"[{host}]" if ":" in host else host
        parameter = "" if protocol == "udp" else f";transport={protocol}"
        return f"{scheme}:{address}:{self.port(protocol)}{parameter}"

    def client(
        self, protocol: str = "udp", host: str = "127.0.0.1", timeout: float = 5.0
    ) -> RawClient:
        return RawClient(protocol, host, self.port(protocol), self.certs.ca_file, timeout)

    def start(self, timeout: float = 10.0) -> None:
        """Start and return when every transport answers OPTIONS; a taken port is replaced."""
        if self._process is not None:
            raise ServerError("Kamailio is running already")
        for _ in range(5):
            mark = self.log.stat().st_size if self.log.exists() else 0
            ports = self._ports or self._choose_ports()
            self._process = self._spawn(ports)
            try:
                self._wait_ready(ports, timeout)
            except BaseException as exc:
                kill_group(self._process)
                self._process = None
                log = self.log.read_text(errors="replace")[mark:]
                if "tls.so" in log and "could not find module" in log:
                    raise MissingServer(f"Kamailio lacks its TLS module: {INSTALL}") from exc
                if self._ports is None and "in use" in log:
                    continue
                raise
            self._ports = ports
            return
        raise ServerError("Kamailio found no free ports in five attempts")

    def stop(self, timeout: float = 3.0) -> None:
        """SIGTERM, and SIGKILL when ``timeout`` seconds were not enough."""
        if self._process is not None:
            stop_group(self._process, timeout)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the master and the workers at once: what a crash looks like."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop and start on the same ports, with all bindings and connections gone."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers, until ``resume()``."""
        if self._process is not None:
            signal_group(self._process, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            signal_group(self._process, signal.SIGCONT)

    def log_tail(self) -> str:
        return tail(self.log)

    def _choose_ports(self) -> tuple[int, int]:
        sip = free_port([(host, kind) for host in self.hosts for kind in ("tcp", "udp")], LASTING)
        while (tls := free_port([(host, "tcp") for host in self.hosts], LASTING)) == sip:
            pass
        return sip, tls

    def _spawn(self, ports: tuple[int, int]) -> subprocess.Popen[bytes]:
        config = self.directory / "kamailio.cfg"
        config.write_text(self._config(ports))
        run = self.directory / "run"
        run.mkdir(exist_ok=True)
        memory = ["-m", str(self.memory), "-M", "8"]
        options = ["-f", str(config), "-DD", "-E", "-Y", str(run), "-w", str(self.directory)]
        return spawn([self.program, *options, *memory], self.directory, self.log)

    def _config(self, ports: tuple[int, int]) -> str:
        sip, tls = ports
        hosts = [f"[{host}]" if ":" in host else host for host in self.hosts]
        listen = [f"listen={kind}:{host}:{sip}" for host in hosts for kind in ("udp", "tcp")]
        listen += [f"listen=tls:{host}:{tls}" for host in hosts]
        values = {
            "CHILDREN": self.children,
            # Since 5.8: OpenSSL 3 keeps thread-local state that a forked worker must not inherit.
            "CORE_EXTRA": "tls_threads_mode=2" if self.version >= (5, 8) else "",
            "LISTEN": "\n".join(listen),
            "CERT_FILE": self.certs.cert_file,
            "KEY_FILE": self.certs.key_file,
            "TLS_EXTRA": "\n".join(
                [
                    f'modparam("tls", "ca_list", "{self.certs.ca_file}")',
                    'modparam("tls", "verify_certificate", 1)',
                    'modparam("tls", "require_certificate", 1)',
                ]
                if self.verify_client
                else []
            ),
            "ALGORITHM": self.algorithm,
            "NONCE_EXPIRE": self.nonce_expire,
            "RETRY_AFTER": self.retry_after,
            "MIN_EXPIRES": self.min_expires,
            "REALM": REALM,
            "BULK_PASSWORD": _plain(BULK_PASSWORD),
            "USERS": "\n".join(
                f'\t$sht(users=>{_plain(user)}) = "{_plain(password)}";'
                for user, password in self.users.items()
            ),
        }
        return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), TEMPLATE.read_text())

    def _wait_ready(self, ports: tuple[int, int], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for host in self.hosts:
            for protocol, port in (("udp", ports[0]), ("tcp", ports[0]), ("tls", ports[1])):
                self._wait_answer(protocol, host, port, deadline)

    def _wait_answer(self, protocol: str, host: str, port: int, deadline: float) -> None:
        while True:
            if self._process is None or self._process.poll() is not None:
                raise ServerError(f"Kamailio ended while starting:\n{self.log_tail()}")
            try:
                with RawClient(protocol, host, port, self.certs.ca_file, timeout=0.5) as client:
                    client.request("OPTIONS", "probe")
                    return
            except OSError as exc:
                # A server that verifies clients refuses the probe, and is ready all the same.
                if protocol == "tls" and self.verify_client and "certificate" in str(exc).lower():
                    return
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"Kamailio does not answer on {protocol} {host}:\n{self.log_tail()}"
                    ) from exc
            time.sleep(0.01)


def _version(program: str) -> tuple[int, int]:
    output = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10).stdout
    match = re.search(r"kamailio (\d+)\.(\d+)", output)
    if match is None:
        raise ServerError(f"{program} -v does not tell a version: {output[:200]}")
    return int(match[1]), int(match[2])


def _plain(text: str) -> str:
    """``text`` if it means the same inside a Kamailio configuration; no quoting is needed then."""
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", text):
        raise ValueError(f"not usable in the Kamailio configuration: {text!r}")
    return text
