# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures: SIP messages into a file that Wireshark opens, and out of any capture file.

The file written is pcapng (draft-ietf-opsawg-pcapng) with bare IP packets: what TLS carried is
there in the clear, as TCP, with a comment that says so.  What proves a password is blotted out.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from os import PathLike, fspath
from types import TracebackType
from typing import BinaryIO, Literal, NamedTuple

from . import _ffi
from .errors import PcapError
from .events import Event, SipMessage, TransportState
from .message import Headers, Response

__all__ = ["CapturedMessage", "PcapError", "PcapWriter", "captured", "read"]


@dataclass(frozen=True)
class CapturedMessage:
    """One SIP message as it passed from *source* to *destination*, its digests blotted out."""

    #: Seconds since 1970.
    time: float
    #: "udp", "tcp" or "tls"
    protocol: str
    #: Address and port: ``192.0.2.1:5060``, ``[2001:db8::1]:5060``.
    source: str
    destination: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _ffi.redact(self.data))

    @property
    def text(self) -> str:
        return _ffi.text_of(self.data)

    @property
    def start_line(self) -> str:
        return self.text.partition("\n")[0].rstrip("\r")

    @cached_property
    def headers(self) -> Headers:
        return Response(self.data, "").headers


def captured(message: SipMessage | CapturedMessage) -> CapturedMessage:
    """The same message, whoever saw it."""
    if isinstance(message, CapturedMessage):
        return message
    ends = (message.local, message.remote)
    source, destination = ends if message.direction == "tx" else reversed(ends)
    data = message.raw or message.text.encode("utf-8", "surrogateescape")
    return CapturedMessage(message.time.wall, message.protocol, source, destination, data)


def read(file: str | PathLike[str] | BinaryIO) -> Iterator[CapturedMessage]:
    """The SIP messages in a capture, in the order in which they were complete.

    pcap and pcapng of either byte order; UDP, fragmented or not, and TCP, put in order; any port.

    :param file: a path, or a binary file
    :raises OSError: the file cannot be read
    :raises PcapError: it is no capture, or damaged; what comes before the damage is given first
    """
    from ._pcap_reader import PcapReader

    return iter(PcapReader(file))


# -- writing --------------------------------------------------------------------------------------

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _APPLICATION = 1, 4
_LINKTYPE_RAW, _LINKTYPE_PDU = 101, 252
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_SEGMENT = 32_768  # bytes of one TCP segment; Wireshark puts them together
_MAX_UDP = 65_507 - 20  # what IPv6 leaves too
_TLS_COMMENT = "TLS on the wire; written in the clear by pjsip_py, secrets blotted out"


class _End(NamedTuple):
    """One end of a conversation."""

    ip: IPv4Address | IPv6Address
    port: int


_ADDRESS = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]]+)):([0-9]{1,5})")


def _end(text: str) -> _End:
    found = _ADDRESS.fullmatch(text)
    try:
        if found is None or int(found[3]) > 0xFFFF:
            raise ValueError
        return _End(ip_address((found[1] or found[2]).partition("%")[0]), int(found[3]))
    except ValueError:
        raise ValueError(f"not an IP address and a port: {text!r}") from None


class _Stream:
    """A TCP connection: how much each end has sent."""

    def __init__(self, client: _End, start: int) -> None:
        self.client = client
        self.sent: dict[_End, int] = {}
        self.start = start


class PcapWriter:
    """Writes messages as the packets that could have carried them.

    ``ep.on(pjsip.Event, writer.write)`` is all it takes; only :class:`SipMessage` needs
    ``trace=True``.  A TCP connection gets a handshake before its first message, and a FIN (after
    an error a RST) when its :class:`TransportState` tells of its end, or at :meth:`close`.  The
    same messages give the same bytes.  Any thread may write.

    :param file: a path, or a binary file that stays open
    :param link: ``"ip"``; or ``"pdu"``, Wireshark's own link type, where each message is marked as
        SIP.  That is for ports that Wireshark knows for something else (6000, 8080, ...); other
        programs cannot read it.
    :raises OSError: the file cannot be written, from any method
    """

    def __init__(
        self, file: str | PathLike[str] | BinaryIO, *, link: Literal["ip", "pdu"] = "ip"
    ) -> None:
        if link not in ("ip", "pdu"):
            raise ValueError(f"link is 'ip' or 'pdu', not {link!r}")
        self._own = isinstance(file, (str, PathLike))
        self._file: BinaryIO | None
        if isinstance(file, (str, PathLike)):
            self._file = open(fspath(file), "wb")  # noqa: SIM115 it is ours until close()
        else:
            self._file = file
        self._pdu = link == "pdu"
        self._lock = threading.Lock()
        self._streams: dict[frozenset[_End], _Stream] = {}
        self._opened = 0
        self._ip_id = 0
        self._last = 0.0
        #: Messages written.
        self.messages = 0
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options((_APPLICATION, "pjsip_py"))
        linktype = _LINKTYPE_PDU if self._pdu else _LINKTYPE_RAW
        # No if_tsresol: microseconds.
        interface = struct.pack("<HHI", linktype, 0, 0)
        try:
            self._put(_block(_SECTION, section) + _block(_INTERFACE, interface))
        except BaseException:
            self._release()
            raise

    def write(self, message: Event | CapturedMessage) -> None:
        """Add a message, or the end of a connection; an event of any other kind is ignored.

        :raises ValueError: its addresses are none, or it is too long for UDP
        """
        if isinstance(message, TransportState):
            if message.state in ("disconnected", "destroyed") and message.remote:
                ends = frozenset((_end(message.local), _end(message.remote)))
                with self._lock:
                    stream = self._streams.pop(ends, None)
                    if stream is not None:
                        reset = message.error is not None
                        self._put(self._finish(message.time.wall, stream, reset))
        elif isinstance(message, (SipMessage, CapturedMessage)):
            plain = captured(message)
            with self._lock:
                self._write(plain)

    def _write(self, message: CapturedMessage) -> None:
        source, destination = _end(message.source), _end(message.destination)
        if source.ip.version != destination.ip.version:
            raise ValueError(f"{message.source} and {message.destination} are of two families")
        when = message.time
        comment = _TLS_COMMENT if message.protocol == "tls" else ""
        if self._pdu:
            packets = _packet(when, _pdu(message, source, destination), comment)
        elif message.protocol == "udp":
            if len(message.data) > _MAX_UDP:
                raise ValueError(f"{len(message.data)} bytes do not fit into a UDP datagram")
            packets = self._udp(when, source, destination, message.data)
        else:
            packets = self._tcp(when, source, destination, message.data, comment)
        self._last = max(self._last, when)
        self._put(packets)
        self.messages += 1

    def _udp(self, when: float, source: _End, destination: _End, data: bytes) -> bytes:
        header = struct.pack("!HHHH", source.port, destination.port, 8 + len(data), 0)
        datagram = header + data
        # 0 would say that there is none (RFC 768).
        checksum = _checksum(_pseudo(source, destination, 17, len(datagram)) + datagram) or 0xFFFF
        datagram = header[:6] + struct.pack("!H", checksum) + data
        return _packet(when, self._ip(source, destination, 17, datagram))

    def _tcp(
        self, when: float, source: _End, destination: _End, data: bytes, comment: str
    ) -> bytes:
        ends = frozenset((source, destination))
        stream = self._streams.get(ends)
        packets = b""
        if stream is None:
            stream = self._streams[ends] = _Stream(source, self._opened << 16)
            self._opened += 1
            stream.sent = {source: 0, destination: 0}
            packets += self._segment(when, stream, source, destination, _SYN, b"", comment)
            packets += self._segment(when, stream, destination, source, _SYN | _ACK)
            packets += self._segment(when, stream, source, destination, _ACK)
        for at in range(0, len(data), _SEGMENT):
            piece = data[at : at + _SEGMENT]
            packets += self._segment(when, stream, source, destination, _PSH | _ACK, piece, comment)
        return packets

    def _finish(self, when: float, stream: _Stream, reset: bool = False) -> bytes:
        client = stream.client
        server = next((end for end in stream.sent if end != client), client)
        if reset:
            return self._segment(when, stream, server, client, _RST | _ACK)
        return (
            self._segment(when, stream, client, server, _FIN | _ACK)
            + self._segment(when, stream, server, client, _FIN | _ACK)
            + self._segment(when, stream, client, server, _ACK)
        )

    def _segment(
        self,
        when: float,
        stream: _Stream,
        source: _End,
        destination: _End,
        flags: int,
        data: bytes = b"",
        comment: str = "",
    ) -> bytes:
        sequence = stream.start + stream.sent[source]
        acknowledged = stream.start + stream.sent[destination] if flags & _ACK else 0
        stream.sent[source] += len(data) + bool(flags & (_SYN | _FIN))
        header = struct.pack(
            "!HHIIBBHHH",
            source.port,
            destination.port,
            sequence & 0xFFFFFFFF,
            acknowledged & 0xFFFFFFFF,
            5 << 4,
            flags,
            0xFFFF,
            0,
            0,
        )
        segment = header + data
        checksum = _checksum(_pseudo(source, destination, 6, len(segment)) + segment)
        segment = header[:16] + struct.pack("!HH", checksum, 0) + data
        return _packet(when, self._ip(source, destination, 6, segment), comment)

    def _ip(self, source: _End, destination: _End, protocol: int, payload: bytes) -> bytes:
        ends = source.ip.packed + destination.ip.packed
        if source.ip.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
        self._ip_id = self._ip_id % 0xFFFF + 1
        header = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(payload), self._ip_id, 0x4000, 64, protocol, 0
        )
        checksum = _checksum(header + ends)
        return header[:10] + struct.pack("!H", checksum) + ends + payload

    def _put(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError("the capture is closed")
        self._file.write(data)
        self._file.flush()  # whatever happens to us, the file has it

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._own:
            file.close()

    def close(self) -> None:
        """End the connections that are open, and the file; once more does nothing."""
        with self._lock:
            if self._file is None:
                return
            try:
                streams, self._streams = self._streams, {}
                self._put(b"".join(self._finish(self._last, each) for each in streams.values()))
            finally:
                self._release()

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # A number in base 65536 leaves, modulo 65535, what the sum of its digits leaves.
    total = int.from_bytes(data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def _pseudo(source: _End, destination: _End, protocol: int, length: int) -> bytes:
    """The pseudo header of RFC 768, RFC 9293 §3.1 and RFC 8200 §8.1, as far as sums go."""
    return source.ip.packed + destination.ip.packed + struct.pack("!IHH", length, 0, protocol)


def _pdu(message: CapturedMessage, source: _End, destination: _End) -> bytes:
    """Wireshark's exported PDU: tag, length and value, big-endian, padded to four bytes."""
    tags: list[tuple[int, bytes]] = [(12, b"sip\0")]
    v6 = source.ip.version == 6
    tags.append((22 if v6 else 20, source.ip.packed))
    tags.append((23 if v6 else 21, destination.ip.packed))
    tags.append((24, struct.pack("!I", 3 if message.protocol == "udp" else 2)))
    tags.append((25, struct.pack("!I", source.port)))
    tags.append((26, struct.pack("!I", destination.port)))
    head = b"".join(struct.pack("!HH", tag, len(value)) + value for tag, value in tags)
    return head + bytes(4) + message.data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, str]) -> bytes:
    parts = []
    for code, text in options:
        if text:
            value = text.encode()
            parts.append(struct.pack("<HH", code, len(value)) + _padded(value))
    return b"".join(parts) + bytes(4) if parts else b""


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def _packet(when: float, data: bytes, comment: str = "") -> bytes:
    stamp = max(0, round(when * 1_000_000))
    head = struct.pack(
        "<IIIII", 0, stamp >> 32 & 0xFFFFFFFF, stamp & 0xFFFFFFFF, len(data), len(data)
    )
    return _block(_PACKET, head + _padded(data) + _options((_COMMENT, comment)))
