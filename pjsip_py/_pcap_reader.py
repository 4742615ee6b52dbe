# SPDX-License-Identifier: GPL-3.0-or-later
"""From a capture file to its SIP messages, in four steps: records, packets, streams, messages.

What a file says of itself is never believed where memory depends on it.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from os import PathLike, fspath
from typing import BinaryIO, NamedTuple

from .pcap import CapturedMessage, PcapError

_RECORD_LIMIT = 1 << 18  # bytes of a packet; libpcap's limit too
_BLOCK_LIMIT = 1 << 20  # bytes of a pcapng block that is looked into; others are skipped
_INTERFACES = 4096
_STREAMS = 4096  # directions of TCP connections, and incomplete datagrams: the oldest go
_FRAGMENTED, _PARTS = 256, 256  # datagrams that are not whole, and pieces of one
_FRAGMENT_AGE = 60.0  # s; RFC 8200 §4.5
_WINDOW = 1 << 18  # bytes waiting for one that is missing, before it is given up
_HEAD = 1 << 16  # bytes of a message's header
_BODY = 1 << 20
_TOTAL = 64 << 20  # bytes that all streams together may keep

_NOT_A_CAPTURE = (
    "give a pcap or pcapng file, such as tcpdump -w, Wireshark and pjsip-py --pcap write"
)
_DAMAGED = "record it again, or save what is left of it with: editcap damaged.pcap good.pcap"


# -- records --------------------------------------------------------------------------------------


class _Record(NamedTuple):
    time: float
    linktype: int
    data: bytes


class _File:
    """A file read from its start, that knows where it is."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.at = 0

    def take(self, size: int) -> bytes:
        """*size* bytes; fewer only at the end."""
        data = self._file.read(size)
        self.at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        data = self.take(size)
        if len(data) < size:
            raise self.damaged("cut short in the middle of a packet")
        return data

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.exactly(min(size, 1 << 16)))

    def damaged(self, what: str) -> PcapError:
        return PcapError(f"{self._name}: {what} (at byte {self.at})", _DAMAGED)

    def foreign(self, what: str, hint: str = _NOT_A_CAPTURE) -> PcapError:
        return PcapError(f"{self._name}: {what}", hint)


_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_SECTION = b"\x0a\x0d\x0d\x0a"
_FOREIGN = {
    b"\x1f\x8b": ("compressed with gzip", "decompress it first: gunzip FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "decompress it first: unzstd FILE"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "decompress it first: unlz4 FILE"),
    b"PK\x03\x04": ("a zip archive", "unpack it first: unzip FILE"),
    b"\x34\xcd\xb2\xa1": ("a pcap of a variant long gone", "convert it: editcap FILE new.pcapng"),
    b"\xa1\xb2\xcd\x34": ("a pcap of a variant long gone", "convert it: editcap FILE new.pcapng"),
    b"snoop\0": ("a snoop capture", "convert it: editcap FILE new.pcapng"),
}


def _records(file: _File) -> Iterator[_Record]:
    magic = file.take(4)
    if not magic:
        raise file.foreign("the file is empty")
    if magic in _MAGICS:
        return _pcap(file, *_MAGICS[magic])
    if magic == _SECTION:
        return _pcapng(file)
    start = magic + file.take(4)
    for known, (what, hint) in _FOREIGN.items():
        if start.startswith(known):
            raise file.foreign(f"not a capture, but {what}", hint)
    raise file.foreign("not a capture file")


def _pcap(file: _File, order: str, unit: float) -> Iterator[_Record]:
    head = struct.Struct(f"{order}HHiIII")
    major, _, _, _, _, network = head.unpack(file.exactly(head.size))
    if major != 2:
        raise file.foreign(f"pcap of version {major}, where 2 is known")
    linktype = network & 0xFFFF  # above: how much of the frame check sequence there is
    if linktype not in _LINKS:
        raise file.foreign(*_unknown_link(linktype))
    packet = struct.Struct(f"{order}IIII")
    while True:
        data = file.take(packet.size)
        if not data:
            return
        if len(data) < packet.size:
            raise file.damaged("cut short in the middle of a packet")
        seconds, fraction, size, _ = packet.unpack(data)
        if size > _RECORD_LIMIT:
            raise file.damaged(f"a packet of {size} bytes")
        yield _Record(seconds + fraction * unit, linktype, file.exactly(size))


class _Interface(NamedTuple):
    linktype: int
    unit: float
    offset: int


def _pcapng(file: _File) -> Iterator[_Record]:
    order = ""
    interfaces: list[_Interface] = []
    kind_bytes = _SECTION
    unknown: set[int] = set()
    read = 0
    while kind_bytes:
        if len(kind_bytes) < 4:
            raise file.damaged("cut short in the middle of a block")
        size_bytes = file.exactly(4)
        if kind_bytes == _SECTION:
            magic = file.exactly(4)
            order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(magic, "")
            if not order:
                raise file.foreign("not a capture file: a section of pcapng without byte order")
            interfaces = []
            done = 12
        else:
            done = 8
        kind = struct.unpack(f"{order}I", kind_bytes)[0]
        size = struct.unpack(f"{order}I", size_bytes)[0]
        if size < done + 4 or size % 4:
            raise file.damaged(f"a block of {size} bytes")
        if kind in (1, 2, 3, 6):
            if size > _BLOCK_LIMIT:
                raise file.damaged(f"a packet of {size} bytes")
            body = file.exactly(size - done - 4)
        else:
            file.skip(size - done - 4)
            body = b""
        if file.exactly(4) != size_bytes:
            raise file.damaged("a block whose two lengths differ")
        if kind == 1:
            if len(interfaces) >= _INTERFACES:
                raise file.damaged(f"more than {_INTERFACES} interfaces")
            interfaces.append(_interface(file, body, order))
        elif kind in (2, 3, 6):
            record = _pcapng_packet(file, kind, body, order, interfaces)
            if record.linktype in _LINKS:
                read += 1
                yield record
            else:
                unknown.add(record.linktype)
        kind_bytes = file.take(4)
    if unknown and not read:
        raise file.foreign(*_unknown_link(min(unknown)))


def _interface(file: _File, body: bytes, order: str) -> _Interface:
    if len(body) < 8:
        raise file.damaged("an interface without a link type")
    linktype = struct.unpack_from(f"{order}H", body)[0]
    unit, offset = 1e-6, 0
    at = 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4
        if code == 0:
            break
        if code == 9 and len(value) == 1:  # if_tsresol
            exponent = value[0] & 0x7F
            unit = 2.0**-exponent if value[0] & 0x80 else 10.0**-exponent
        elif code == 14 and len(value) == 8:  # if_tsoffset
            offset = struct.unpack(f"{order}q", value)[0]
    return _Interface(linktype, unit, offset)


def _pcapng_packet(
    file: _File, kind: int, body: bytes, order: str, interfaces: list[_Interface]
) -> _Record:
    if kind == 3:  # Simple Packet Block: no time, the first interface
        if len(body) < 4 or not interfaces:
            raise file.damaged("a packet without an interface")
        size = min(struct.unpack_from(f"{order}I", body)[0], len(body) - 4)
        return _Record(0.0, interfaces[0].linktype, body[4 : 4 + size])
    if len(body) < 20:
        raise file.damaged("a packet without a header")
    layout = f"{order}HHIIII" if kind == 2 else f"{order}IIIII"
    number, *rest = struct.unpack_from(layout, body)
    high, low, size, _ = rest[-4:]
    if number >= len(interfaces):
        raise file.damaged(f"a packet of interface {number}, which there is not")
    if size > len(body) - 20:
        raise file.damaged(f"a packet of {size} bytes in a block of {len(body)}")
    interface = interfaces[number]
    when = (high << 32 | low) * interface.unit + interface.offset
    return _Record(when, interface.linktype, body[20 : 20 + size])


# -- packets --------------------------------------------------------------------------------------

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_PPPOE = 0x8864


def _ethernet(data: bytes, at: int = 12) -> bytes:
    """What an EtherType at *at* says is IP; tags of VLANs and PPPoE before it are passed by."""
    for _ in range(8):
        kind = int.from_bytes(data[at : at + 2], "big")
        at += 2
        if kind in (_IPV4, _IPV6):
            return data[at:]
        if kind in _VLAN:
            at += 2
        elif kind == _PPPOE:
            ppp = int.from_bytes(data[at + 6 : at + 8], "big")
            return data[at + 8 :] if ppp in (0x21, 0x57) else b""
        else:
            return b""
    return b""


#: Where the IP packet is, by link type (https://www.tcpdump.org/linktypes.html).
_LINKS: dict[int, Callable[[bytes], bytes]] = {
    0: lambda data: data[4:],  # BSD loopback
    1: _ethernet,
    12: lambda data: data,  # raw IP, as some systems number it
    14: lambda data: data,
    101: lambda data: data,  # raw IP
    108: lambda data: data[4:],  # OpenBSD loopback
    113: lambda data: _ethernet(data, 14),  # Linux "any"
    228: lambda data: data,
    229: lambda data: data,
    252: lambda data: data,  # exported PDUs, which are no packets
    276: lambda data: _ethernet(data[:2] + data[20:], 0),  # Linux "any", version 2
}


def _unknown_link(linktype: int) -> tuple[str, str]:
    return (
        f"packets of link type {linktype}, which is not read",
        "capture on an Ethernet or loopback interface, or on 'any'",
    )


class _Datagram(NamedTuple):
    """What IP carries, put together."""

    source: bytes
    destination: bytes
    protocol: int
    data: bytes


class _Fragments:
    """Datagrams of which parts are missing still."""

    def __init__(self) -> None:
        self._parts: OrderedDict[object, tuple[float, dict[int, bytes], list[int]]] = OrderedDict()

    def add(self, key: object, when: float, offset: int, more: bool, data: bytes) -> bytes:
        """A fragment; the datagram, when this one completes it, else nothing."""
        if offset + len(data) > 0xFFFF:
            return b""
        begun, parts, end = self._parts.pop(key, (when, {}, []))
        if not 0 <= when - begun <= _FRAGMENT_AGE:
            begun, parts, end = when, {}, []
        if offset not in parts and len(parts) < _PARTS:
            parts[offset] = data
        if not more:
            end[:] = [offset + len(data)]
        if end and sum(map(len, parts.values())) >= end[0]:
            whole = bytearray()
            for at in sorted(parts):
                if at > len(whole):
                    break
                whole += parts[at][len(whole) - at :]
            if len(whole) >= end[0]:
                return bytes(whole[: end[0]])
        self._parts[key] = begun, parts, end
        if len(self._parts) > _FRAGMENTED:
            self._parts.popitem(last=False)
        return b""


def _ip(data: bytes, when: float, fragments: _Fragments) -> _Datagram | None:
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        size = (data[0] & 15) * 4
        total, ident, place = struct.unpack_from("!HHH", data, 2)
        # 0 where the network card was to cut it in pieces.
        body = data[size : total or len(data)]
        source, destination, protocol = data[12:16], data[16:20], data[9]
        if size < 20 or len(data) < size:
            return None
        offset, more = (place & 0x1FFF) * 8, bool(place & 0x2000)
        if offset or more:
            body = fragments.add((source, destination, protocol, ident), when, offset, more, body)
        return _Datagram(source, destination, protocol, body) if body else None
    if version == 6 and len(data) >= 40:
        total, protocol = struct.unpack_from("!HB", data, 4)
        source, destination = data[8:24], data[24:40]
        body = data[40 : 40 + total if total else len(data)]
        for _ in range(16):  # extension headers, RFC 8200 §4
            if protocol in (0, 43, 60, 135, 139, 140) and len(body) >= 8:
                protocol, body = body[0], body[8 + body[1] * 8 :]
            elif protocol == 51 and len(body) >= 8:
                protocol, body = body[0], body[8 + body[1] * 4 :]
            elif protocol == 44 and len(body) >= 8:
                place, ident = struct.unpack_from("!HI", body, 2)
                protocol, part = body[0], body[8:]
                key = source, destination, ident
                body = fragments.add(key, when, place & 0xFFF8, bool(place & 1), part)
            else:
                break
        return _Datagram(source, destination, protocol, body) if body else None
    return None


# -- streams --------------------------------------------------------------------------------------

_SYN, _ACK = 2, 16


class _Stream:
    """One direction of a TCP connection: bytes in order, then messages."""

    __slots__ = (
        "astray",
        "buffer",
        "expected",
        "first",
        "needed",
        "tls",
        "waiting",
        "waiting_size",
    )

    def __init__(self, first: int | None = None) -> None:
        self.first = first
        self.expected = first
        self.waiting: dict[int, bytes] = {}
        self.waiting_size = 0
        self.buffer = bytearray()
        self.needed = 0  # bytes in the buffer before it is worth a look
        self.astray = False  # not known to be where a message starts
        self.tls = False

    @property
    def size(self) -> int:
        return len(self.buffer) + self.waiting_size

    def add(self, sequence: int, data: bytes) -> Iterator[bytes]:
        """A segment; the messages that are complete with it."""
        if self.expected is None:
            self.expected = sequence
        ahead = _ahead(sequence, self.expected)
        if ahead > 0:
            known = len(self.waiting.get(sequence, b""))
            if ahead < 1 << 24 and known < len(data):
                self.waiting_size += len(data) - known
                self.waiting[sequence] = data
            if self.waiting_size > _WINDOW or len(self.waiting) > 1024:
                yield from self.give_up()
            return
        yield from self._take(data[-ahead:] if ahead else data)
        yield from self._go_on()

    def _take(self, data: bytes) -> Iterator[bytes]:
        if data:
            assert self.expected is not None
            self.expected = (self.expected + len(data)) & 0xFFFFFFFF
            self.buffer += data
            yield from self._messages()

    def _go_on(self) -> Iterator[bytes]:
        """With what came too early."""
        while self.waiting:
            expected = self.expected or 0
            first = min(self.waiting, key=lambda sequence: _ahead(sequence, expected))
            ahead = _ahead(first, expected)
            if ahead > 0:
                return
            data = self.waiting.pop(first)
            self.waiting_size -= len(data)
            yield from self._take(data[-ahead:] if ahead else data)

    def acknowledged(self, number: int) -> Iterator[bytes]:
        """The other end has all before *number*: what is missing the capture has missed."""
        if self.waiting and self.expected is not None and _ahead(number, self.expected) > 0:
            first = min(self.waiting, key=lambda each: _ahead(each, self.expected or 0))
            if _ahead(number, first) >= 0:
                yield from self.give_up()

    def give_up(self) -> Iterator[bytes]:
        """Go on behind what is missing, with the next message that can be made out."""
        if self.waiting:
            expected = self.expected or 0
            self.expected = min(self.waiting, key=lambda each: _ahead(each, expected))
            # Half a message: what follows is the rest of another.
            self.buffer.clear()
            self.needed = 0
            self.astray = True
            yield from self._go_on()

    # Message framing, RFC 3261 §18.3

    def _messages(self) -> Iterator[bytes]:
        buffer = self.buffer
        while len(buffer) > self.needed:
            self.needed = 0
            blank = len(buffer) - len(buffer.lstrip(b"\r\n"))  # keep-alives, RFC 5626 §3.5.1
            del buffer[:blank]
            if not buffer:
                return
            if buffer[:2] == b"\x16\x03" and buffer[5:6] == b"\x01":  # ClientHello
                self.tls = True
            if b"\n" not in buffer:
                if len(buffer) > _HEAD or self.tls:
                    buffer.clear()
                    self.astray = True
                return
            found = _KNOWN_START.search(buffer) if self.astray else _START.match(buffer)
            if found is None:
                # The last line may go on as the start of a message.
                if self.astray:
                    del buffer[: buffer.rfind(b"\n") + 1]
                self.astray = True
                continue
            del buffer[: found.start()]
            self.astray = False
            end = buffer.find(b"\r\n\r\n", 0, _HEAD)
            if end < 0:
                if len(buffer) <= _HEAD:
                    return
                del buffer[: found.end() - found.start()]
                self.astray = True
                continue
            size = end + 4 + _content_length(bytes(buffer[: end + 2]))
            if len(buffer) < size:
                self.needed = size - 1
                return
            yield bytes(buffer[:size])
            del buffer[:size]


def _ahead(sequence: int, other: int) -> int:
    """How far *sequence* is beyond *other*, in the arithmetic of RFC 9293 §3.4."""
    return (sequence - other + 0x80000000) % 0x100000000 - 0x80000000


_LINE = (
    rb"(?:SIP/[0-9]\.[0-9] [0-9]{3}[^\n]*"
    rb"|[A-Za-z0-9.!%*_+`'~-]{1,64} [^\n]{1,8192} SIP/[0-9]\.[0-9])\r?\n"
)
_START = re.compile(_LINE)
# Where it may stand anywhere, even behind a body: none that could be the end of a longer word.
_KNOWN_START = re.compile(
    rb"(?:SIP/2\.0 [1-6][0-9]{2} [^\n]*"
    rb"|(?:REGISTER|INVITE|ACK|BYE|CANCEL|OPTIONS|SUBSCRIBE|NOTIFY|PUBLISH|INFO|UPDATE|PRACK|REFER"
    rb"|MESSAGE) [^\n]{1,8192} SIP/2\.0)\r?\n"
)
_LENGTH = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,7})[ \t]*\r?\n", re.I)


def _content_length(head: bytes) -> int:
    found = _LENGTH.search(head)
    size = int(found[1]) if found else 0
    return size if size <= _BODY else 0


# -- messages -------------------------------------------------------------------------------------


class PcapReader:
    """Iterates over the SIP messages of a capture; once."""

    def __init__(self, file: str | PathLike[str] | BinaryIO) -> None:
        self._file = file
        #: Packets read so far.
        self.packets = 0
        #: Connections that were encrypted: their messages cannot be seen.
        self.encrypted = 0
        self._fragments = _Fragments()
        self._streams: OrderedDict[tuple[bytes, int, bytes, int], _Stream] = OrderedDict()
        self._kept = 0

    def __iter__(self) -> Iterator[CapturedMessage]:
        if isinstance(self._file, (str, PathLike)):
            with open(fspath(self._file), "rb") as file:
                yield from self._messages(_File(file, fspath(self._file)))
        else:
            name = getattr(self._file, "name", "")
            yield from self._messages(_File(self._file, name if isinstance(name, str) else ""))

    def _messages(self, file: _File) -> Iterator[CapturedMessage]:
        when = 0.0
        for record in _records(file):
            self.packets += 1
            when = record.time
            if record.linktype == 252:
                yield from _exported(record)
                continue
            datagram = _ip(_LINKS[record.linktype](record.data), when, self._fragments)
            if datagram is None:
                continue
            if datagram.protocol == 17:
                yield from _udp(when, datagram)
            elif datagram.protocol == 6:
                yield from self._tcp(when, datagram)
        for key, stream in self._streams.items():
            for message in stream.give_up():
                yield _captured(when, "tcp", key, message)

    def _tcp(self, when: float, datagram: _Datagram) -> Iterator[CapturedMessage]:
        segment = datagram.data
        if len(segment) < 20:
            return
        source, destination, sequence, number, offset, flags = struct.unpack_from(
            "!HHIIBB", segment
        )
        data = segment[(offset >> 4) * 4 :] if offset >= 0x50 else b""
        key = datagram.source, source, datagram.destination, destination
        stream = self._streams.pop(key, None)
        if stream is None:
            if not data and not flags & _SYN:
                return
            stream = _Stream()
        before, was_tls = stream.size, stream.tls
        if flags & _SYN:
            sequence = (sequence + 1) & 0xFFFFFFFF
            if stream.first != sequence:  # not just sent again
                stream = _Stream(sequence)
        self._streams[key] = stream
        if data:
            for message in stream.add(sequence, data):
                yield _captured(when, "tcp", key, message)
        self._kept += stream.size - before
        self.encrypted += stream.tls and not was_tls
        if flags & _ACK:
            back_key = key[2], key[3], key[0], key[1]
            back = self._streams.get(back_key)
            if back is not None and back.waiting:
                self._kept -= back.size
                for message in back.acknowledged(number):
                    yield _captured(when, "tcp", back_key, message)
                self._kept += back.size
        while len(self._streams) > _STREAMS or (self._kept > _TOTAL and len(self._streams) > 1):
            _, old = self._streams.popitem(last=False)
            self._kept -= old.size


def _captured(
    when: float, protocol: str, key: tuple[bytes, int, bytes, int], data: bytes
) -> CapturedMessage:
    source, port, destination, other = key
    return CapturedMessage(
        when, protocol, _address(source, port), _address(destination, other), data
    )


def _address(packed: bytes, port: int) -> str:
    ip = ip_address(packed)
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _udp(when: float, datagram: _Datagram) -> Iterator[CapturedMessage]:
    data = datagram.data
    if len(data) < 8:
        return
    source, destination, size = struct.unpack_from("!HHH", data)
    payload = data[8 : size if size >= 8 else len(data)]
    if _START.match(payload.lstrip(b"\r\n")):
        key = datagram.source, source, datagram.destination, destination
        yield _captured(when, "udp", key, payload)


def _exported(record: _Record) -> Iterator[CapturedMessage]:
    """A message that Wireshark, or a PcapWriter, exported: tags, then the message."""
    data, at = record.data, 0
    tags: dict[int, bytes] = {}
    while True:
        if at + 4 > len(data):
            return
        tag, size = struct.unpack_from("!HH", data, at)
        at += 4
        if tag == 0:
            at += size
            break
        tags[tag] = data[at : at + size]
        at += size
    message = data[at:]
    ends = [tags.get(v4) or tags.get(v6) or b"" for v4, v6 in ((20, 22), (21, 23))]
    ports = [int.from_bytes(tags.get(each, b""), "big") for each in (25, 26)]
    if any(len(each) not in (4, 16) for each in ends) or not _START.match(message.lstrip(b"\r\n")):
        return
    protocol = "udp" if int.from_bytes(tags.get(24, b""), "big") == 3 else "tcp"
    yield _captured(record.time, protocol, (ends[0], ports[0], ends[1], ports[1]), message)
