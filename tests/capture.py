# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything on the loopback interface, into a pcap file, by a process of its own.

A raw packet socket of Linux, which root may open: ``python capture.py FILE LIMIT`` says "ready",
writes until its standard input closes or the file has LIMIT bytes, and ends with one line of
JSON: packets, dropped (by the kernel), bytes, full.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ETH_P_ALL = 3
OUTGOING = 4  # PACKET_OUTGOING: on loopback each packet is seen twice, going and coming
SOL_PACKET, PACKET_STATISTICS = 263, 6
SNAPLEN = 65535
BUFFER = 64 << 20
_HEADER = struct.Struct("=IHHiIII")
_PACKET = struct.Struct("=IIII")


def main(path: str, limit: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        for option in (socket.SO_RCVBUF, 33):  # SO_RCVBUFFORCE, where we may
            with contextlib.suppress(OSError):
                packets.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        packets.bind(("lo", 0))
        packets.setblocking(False)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        count = size = 0
        poll = select.poll()
        poll.register(packets, select.POLLIN)
        poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
        with open(path, "wb") as file:
            file.write(_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, 1))
            ending = False
            while not ending:
                ending = any(fd == sys.stdin.fileno() for fd, _ in poll.poll())
                while True:  # what is there; at the end all that was there before it
                    try:
                        data, address = packets.recvfrom(SNAPLEN)
                    except BlockingIOError:
                        break
                    if address[2] == OUTGOING or size >= limit:
                        continue
                    now = time.time()
                    seconds = int(now)
                    micro = int((now - seconds) * 1e6)
                    file.write(_PACKET.pack(seconds, micro, len(data), len(data)))
                    file.write(data)
                    count += 1
                    size += len(data)
        dropped = struct.unpack("II", packets.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        stats = {"packets": count, "dropped": dropped, "bytes": size, "full": size >= limit}
        sys.stdout.write(json.dumps(stats))


class Packet(NamedTuple):
    time: float
    data: bytes

    def __str__(self) -> str:
        """Its addresses, as far as it is UDP or TCP over IP."""
        ip = self.data[14:]
        if not ip:
            return "an empty frame"
        if ip[0] >> 4 == 6:
            protocol, rest = ip[6], ip[40:]
            hosts = [socket.inet_ntop(socket.AF_INET6, ip[at : at + 16]) for at in (8, 24)]
        else:
            protocol, rest = ip[9], ip[(ip[0] & 15) * 4 :]
            hosts = [socket.inet_ntop(socket.AF_INET, ip[at : at + 4]) for at in (12, 16)]
        ports = struct.unpack("!HH", rest[:4]) if len(rest) >= 4 else (0, 0)
        name = {6: "TCP", 17: "UDP"}.get(protocol, str(protocol))
        ends = [f"{host} port {port}" for host, port in zip(hosts, ports, strict=True)]
        return f"{name} {ends[0]} to {ends[1]}"


def read(path: Path) -> Iterator[Packet]:
    with open(path, "rb") as file:
        file.read(_HEADER.size)
        while len(head := file.read(_PACKET.size)) == _PACKET.size:
            seconds, micro, kept, _ = _PACKET.unpack(head)
            yield Packet(seconds + micro / 1e6, file.read(kept))


class Capture:
    """A running capture; *reason* says why there is none."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.reason = ""
        self.stats: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":
            self.reason = "packets are captured on Linux only"
            return
        process = subprocess.Popen(
            [sys.executable, __file__, str(path), str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            _, error = process.communicate(timeout=10)
            last = error.decode().strip().rpartition("\n")[2]
            self.reason = f"loopback cannot be captured here ({last}): root can"
            return
        self._process = process

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            out, _ = process.communicate(timeout=30)
            self.stats = json.loads(out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
