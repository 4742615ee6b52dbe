# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures: Wireshark reads what we write, and we read what others write."""

from __future__ import annotations

import io
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import capture
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from servers.process import has_ipv6_loopback
from servers.tshark import Tshark

import pjsip_py as pjsip
from pjsip_py import _pcap_reader, pcap
from pjsip_py.pcap import CapturedMessage, PcapError, PcapWriter
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(60)

AOR = "sip:alice@example.com"
PASSWORD = "correct horse battery"
T = 1_700_000_000.125


def message(
    at: float = T,
    protocol: str = "udp",
    source: str = "192.0.2.1:5062",
    destination: str = "198.51.100.7:5060",
    body: bytes = b"",
    cseq: int = 1,
) -> CapturedMessage:
    head = (
        f"REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/{protocol.upper()} {source}"
        f";branch=z9hG4bK{cseq}\r\nFrom: <{AOR}>;tag=1\r\nTo: <{AOR}>\r\nCall-ID: c@example.com\r\n"
        f"CSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return CapturedMessage(at, protocol, source, destination, head.encode() + body)


def written(*messages: CapturedMessage, **options: object) -> bytes:
    file = io.BytesIO()
    with PcapWriter(file, **options) as writer:  # type: ignore[arg-type]
        for each in messages:
            writer.write(each)
    return file.getvalue()


def read(data: bytes) -> list[CapturedMessage]:
    return list(pcap.read(io.BytesIO(data)))


# -- what we write, read by Wireshark -------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "protocol", "link"),
    [
        *[("127.0.0.1", each, "ip") for each in ("udp", "tcp", "tls")],
        *[("::1", each, "ip") for each in ("udp", "tcp")],
        ("127.0.0.1", "tls", "pdu"),
    ],
)
def test_wireshark_reads_a_registration(
    tshark: Tshark, tmp_path: Path, host: str, protocol: str, link: str
) -> None:
    if ":" in host and not has_ipv6_loopback():
        pytest.skip("no IPv6 on loopback")
    path = tmp_path / "registration.pcap"
    messages: list[pjsip.SipMessage] = []
    with (
        Registrar((protocol,), host=host, users={"alice": PASSWORD}) as registrar,
        PcapWriter(path, link=link) as writer,  # type: ignore[arg-type]
        pjsip.Endpoint(trace=True, strict=True) as ep,
    ):
        ep.on(pjsip.Event, writer.write)
        ep.on(pjsip.SipMessage, messages.append)
        account = ep.add_account(
            AOR,
            registrar=registrar.uri(protocol),
            credentials=pjsip.Credentials("alice", PASSWORD),
            tls=pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None,
        )
        account.register().result(timeout=5)
        account.unregister().result(timeout=5)
    assert len(messages) >= 6
    assert tshark.faults(path) == ""
    layer = "ipv6" if ":" in host else "ip"
    ports = "udp" if protocol == "udp" else "tcp"
    names = ["sip.Method", "sip.Status-Code", "sip.CSeq.seq", "sip.Call-ID", "frame.time_epoch"]
    if link == "ip":
        names += [f"{layer}.src", f"{ports}.srcport"]
    seen = tshark.fields(path, *names, only="sip")
    assert len(seen) == len(messages)
    for each, fields in zip(messages, seen, strict=True):
        start = each.start_line.split()
        assert fields[0 if each.direction == "tx" else 1] == start[each.direction == "rx"]
        assert fields[2:4] == [each.headers["CSeq"].split()[0], each.headers["Call-ID"]]
        assert float(fields[4]) == pytest.approx(each.time.wall, abs=2e-6)
        if link == "ip":
            source = each.local if each.direction == "tx" else each.remote
            assert source == (f"[{fields[5]}]" if ":" in host else fields[5]) + f":{fields[6]}"
    if protocol != "udp" and link == "ip":
        names = ["tcp.flags.syn", "tcp.flags.fin", "tcp.stream", "tcp.analysis.flags"]
        whole = tshark.fields(path, *names)
        assert [syn for syn, *_ in whole].count("1") == 2
        assert [fin for _, fin, *_ in whole].count("1") == 2
        assert {stream for _, _, stream, _ in whole} == {"0"}
        assert not any(odd for *_, odd in whole)
    # And it is what was sent, but for the proof.
    assert [each.data for each in pcap.read(path)] == [each.raw for each in messages]
    everything = path.read_bytes()
    digests = [
        digest
        for request in registrar.requests
        for digest in re.findall(rb'(?:response|cnonce)="([^"]+)"', request.data)
    ]
    assert len(digests) >= 2
    assert not any(digest in everything for digest in [*digests, PASSWORD.encode()])


@pytest.mark.parametrize("size", [1500, 20_000, 65_000])
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("192.0.2.1:5062", "198.51.100.7:5060"),
        ("[2001:db8::1]:5062", "[2001:db8::2]:5060"),
    ],
)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_wireshark_reads_long_messages(
    tshark: Tshark, tmp_path: Path, protocol: str, source: str, destination: str, size: int
) -> None:
    path = tmp_path / "long.pcap"
    sent = message(protocol=protocol, source=source, destination=destination, body=b"x" * size)
    more = message(T + 1, protocol, source, destination, cseq=2)
    path.write_bytes(written(sent, more))
    assert tshark.faults(path) == ""
    seen = tshark.fields(path, "sip.CSeq.seq", "sip.Content-Length", only="sip")
    assert seen == [["1", str(size)], ["2", "0"]]
    assert read(path.read_bytes()) == [sent, more]


def test_two_connections_one_after_the_other_between_the_same_ports(
    tshark: Tshark, tmp_path: Path
) -> None:
    path = tmp_path / "again.pcap"
    first = message(protocol="tcp")
    ended = pjsip.TransportState(
        time=pjsip.EventTime(0, T + 1),
        protocol="tcp",
        state="disconnected",
        local=first.source,
        remote=first.destination,
    )
    second = message(T + 2, "tcp", cseq=2)
    with PcapWriter(path) as writer:
        writer.write(first)
        writer.write(ended)
        writer.write(ended)
        writer.write(second)
    assert tshark.faults(path) == ""
    assert tshark.fields(path, "tcp.stream", "tcp.flags.fin")[-1][0] == "1"
    assert list(pcap.read(path)) == [first, second]


def test_a_connection_that_failed_is_reset(tshark: Tshark, tmp_path: Path) -> None:
    path = tmp_path / "refused.pcap"
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{unheard.getsockname()[1]}"
        with PcapWriter(path) as writer, pjsip.Endpoint(trace=True, strict=True) as ep:
            ep.on(pjsip.Event, writer.write)
            ep.registration(f"sip:{server};transport=tcp", AOR).register().exception(timeout=5)
    assert tshark.fields(path, "tcp.flags.reset", "tcp.flags.fin")[-1] == ["1", "0"]
    assert [each.destination for each in pcap.read(path)] == [server]


def test_wireshark_reads_any_port_as_sip_when_told_so(tshark: Tshark, tmp_path: Path) -> None:
    """X11, HTTP, DIS: with link="pdu" each message says itself that it is SIP."""
    path = tmp_path / "ports.pcap"
    messages = [
        message(T, protocol, f"192.0.2.1:{port}", f"198.51.100.7:{port}")
        for port in (6000, 8080, 3000)
        for protocol in ("udp", "tcp")
    ]
    path.write_bytes(written(*messages, link="pdu"))
    assert len(tshark.fields(path, "frame.number", only="sip")) == len(messages)
    assert tshark.faults(path) == ""
    assert read(path.read_bytes()) == messages


def test_tls_is_marked_as_such(tshark: Tshark, tmp_path: Path) -> None:
    path = tmp_path / "tls.pcap"
    sent = message(protocol="tls", destination="198.51.100.7:5061")
    path.write_bytes(written(sent))
    comments = tshark.fields(path, "frame.comment", only="sip")
    assert "TLS" in comments[0][0]
    assert [each.data for each in pcap.read(path)] == [sent.data]


def test_the_same_messages_give_the_same_bytes() -> None:
    messages = [message(), message(T + 1, "tcp"), message(T + 2, "tls", cseq=3)]
    assert written(*messages) == written(*messages)


@given(
    st.lists(
        st.builds(
            message,
            at=st.integers(0, 2**32 * 1000).map(lambda each: each / 1000),
            protocol=st.sampled_from(["udp", "tcp"]),
            source=st.sampled_from(["192.0.2.1:1", "192.0.2.1:65535", "198.51.100.7:5060"]),
            destination=st.sampled_from(["192.0.2.2:5060", "203.0.113.9:5060"]),
            body=st.binary(max_size=40_000),
            cseq=st.integers(0, 2**31),
        ),
        max_size=6,
    )
)
def test_what_was_written_is_read_again(messages: list[CapturedMessage]) -> None:
    for link in ("ip", "pdu"):
        found = read(written(*messages, link=link))
        assert [each.data for each in found] == [each.data for each in messages]
        assert [(each.protocol, each.source, each.destination) for each in found] == [
            (each.protocol, each.source, each.destination) for each in messages
        ]
        times = [each.time for each in found]
        assert times == pytest.approx([each.time for each in messages], abs=1e-6)


def test_text_that_is_not_utf8_is_written_as_it_came(tmp_path: Path) -> None:
    raw = "SIP/2.0 200 Schön\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    event = pjsip.SipMessage(
        time=pjsip.EventTime(0, T),
        direction="rx",
        protocol="udp",
        local="192.0.2.1:5062",
        remote="192.0.2.2:5060",
        text=raw.decode("latin-1"),
        raw=raw,
    )
    with PcapWriter(tmp_path / "x.pcap") as writer:
        writer.write(event)
    (found,) = pcap.read(tmp_path / "x.pcap")
    assert found.data == raw
    assert found.start_line == "SIP/2.0 200 Schön"
    assert (found.source, found.destination) == ("192.0.2.2:5060", "192.0.2.1:5062")


def test_secrets_of_a_message_from_elsewhere_are_blotted_out() -> None:
    data = (
        b"REGISTER sip:x SIP/2.0\r\n"
        b'Authorization: Digest username="alice", response="c0ffee"\r\n'
        b"Proxy-Authorization: Bearer t0ken\r\nContent-Length: 0\r\n\r\n"
    )
    made = CapturedMessage(T, "tcp", "192.0.2.1:1", "192.0.2.2:2", data)
    assert b"c0ffee" not in made.data
    assert b"t0ken" not in made.data
    assert b'username="alice"' in made.data
    assert len(made.data) == len(data)
    assert "REGISTER" not in repr(made)
    foreign = Capture().tcp(T, data).pcap()
    assert b"c0ffee" in foreign
    assert [each.data for each in read(foreign)] == [made.data]


@pytest.mark.parametrize(
    ("source", "destination", "wrong"),
    [
        ("example.com:5060", "192.0.2.1:5060", "example.com:5060"),
        ("192.0.2.1", "192.0.2.2:5060", "192.0.2.1"),
        ("192.0.2.1:65536", "192.0.2.2:5060", "65536"),
        ("192.0.2.1:5060", "[2001:db8::1]:5060", "two families"),
        ("", "192.0.2.1:5060", "''"),
    ],
)
def test_addresses_that_are_none(source: str, destination: str, wrong: str) -> None:
    with PcapWriter(io.BytesIO()) as writer:
        with pytest.raises(ValueError, match=re.escape(wrong)):
            writer.write(message(source=source, destination=destination))
        assert writer.messages == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'ip' or 'pdu'"):
        PcapWriter(tmp_path / "x", link="ethernet")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        PcapWriter(tmp_path / "no" / "x.pcap")
    with PcapWriter(io.BytesIO()) as writer, pytest.raises(ValueError, match="UDP datagram"):
        writer.write(message(body=b"x" * 70_000))
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(message())
    with pytest.raises(OSError, match="No space left"):
        PcapWriter("/dev/full")


# -- what others write, read by us ----------------------------------------------------------------


class Capture:
    """Packets in the making: as a network would carry them, and not as PcapWriter makes them."""

    def __init__(self, version: int = 4) -> None:
        hosts = ("192.0.2.1", "198.51.100.7") if version == 4 else ("2001:db8::1", "2001:db8::2")
        self.ends = [ip_address(each).packed for each in hosts]
        self.version = version
        self.packets: list[tuple[float, bytes]] = []
        self.sequence = [1000, 5000]
        self.ident = 0

    def ip(self, when: float, protocol: int, payload: bytes, way: int = 0) -> Capture:
        self.packets.append((when, self.packet(protocol, payload, way)))
        return self

    def packet(
        self, protocol: int, payload: bytes, way: int = 0, place: int = 0, ident: int = 0
    ) -> bytes:
        ends = self.ends[way] + self.ends[1 - way]
        if self.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 60) + ends + payload
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), ident, place, 60, protocol, 0)
        return head + ends + payload

    def udp(self, when: float, data: bytes) -> Capture:
        return self.ip(when, 17, self.datagram(data))

    @staticmethod
    def datagram(data: bytes) -> bytes:
        return struct.pack("!HHHH", 5062, 5060, 8 + len(data), 0) + data

    def fragments(
        self, when: float, data: bytes, size: int, order: Callable[[list[bytes]], None]
    ) -> Capture:
        """One UDP datagram in pieces of *size* bytes, a multiple of 8."""
        self.ident += 1
        whole = self.datagram(data)
        pieces = []
        for at in range(0, len(whole), size):
            more = at + size < len(whole)
            piece = whole[at : at + size]
            if self.version == 6:
                head = struct.pack("!BBHI", 17, 0, at | more, self.ident)
                pieces.append(self.packet(44, head + piece))
            else:
                place = at // 8 | (0x2000 if more else 0)
                pieces.append(self.packet(17, piece, place=place, ident=self.ident))
        order(pieces)
        self.packets += [(when, piece) for piece in pieces]
        return self

    def tcp(
        self, when: float, data: bytes, way: int = 0, flags: int = 0x18, shift: int = 0
    ) -> Capture:
        """A segment; *shift* bytes beyond what is next."""
        ports = (5062, 5060) if way == 0 else (5060, 5062)
        sequence = (self.sequence[way] + shift) % 2**32
        head = struct.pack(
            "!HHIIBBHHH", *ports, sequence, self.sequence[1 - way], 0x80, flags, 9000, 0, 0
        )
        options = b"\x01\x01\x08\x0a" + bytes(8)  # timestamps, as everybody has them
        if shift == 0:
            self.sequence[way] = (self.sequence[way] + len(data) + bool(flags & 3)) % 2**32
        return self.ip(when, 6, head + options + data, way)

    def framed(self, link: int) -> list[tuple[float, bytes]]:
        kind = b"\x08\x00" if self.version == 4 else b"\x86\xdd"
        before = {
            0: struct.pack("<I", 2 if self.version == 4 else 30),
            1: bytes(12) + kind,
            100: bytes(12) + b"\x81\x00\x00\x05" + b"\x88\xa8\x00\x06" + kind,  # stands for 1
            12: b"",
            101: b"",
            108: struct.pack(">I", 2 if self.version == 4 else 24),
            113: struct.pack("!HHH", 0, 772, 6) + bytes(8) + kind,
            228: b"",
            229: b"",
            276: kind + bytes(18),
        }[link]
        return [(when, before + packet) for when, packet in self.packets]

    def pcap(self, order: str = "<", nano: bool = False, link: int = 101) -> bytes:
        unit = 10**9 if nano else 10**6
        magic = 0xA1B23C4D if nano else 0xA1B2C3D4
        linktype = 1 if link == 100 else link
        data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, linktype)
        for when, packet in self.framed(link):
            ticks = round(when * unit)
            data += struct.pack(
                f"{order}IIII", ticks // unit, ticks % unit, len(packet), len(packet)
            )
            data += packet
        return data

    def pcapng(
        self, order: str = "<", resolution: int = 6, link: int = 101, kind: int = 6
    ) -> bytes:
        def block(number: int, body: bytes) -> bytes:
            body += bytes(-len(body) % 4)
            size = struct.pack(f"{order}I", 12 + len(body))
            return struct.pack(f"{order}I", number) + size + body + size

        linktype = 1 if link == 100 else link
        data = block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
        data += block(5, bytes(12))  # statistics: to be skipped
        data += block(1, struct.pack(f"{order}HHI", 147, 0, 0))  # an interface nobody reads
        options = struct.pack(f"{order}HHB3x", 9, 1, resolution) + bytes(4)
        data += block(1, struct.pack(f"{order}HHI", linktype, 0, 0) + options)
        ticks = 2 ** (resolution & 127) if resolution & 128 else 10**resolution
        for when, packet in self.framed(link):
            stamp = round(when * ticks)
            head = struct.pack(
                f"{order}IIIII" if kind == 6 else f"{order}HHIIII",
                *((1,) if kind == 6 else (1, 0)),
                stamp >> 32,
                stamp & 0xFFFFFFFF,
                len(packet),
                len(packet),
            )
            data += block(kind, head + packet)
        return data


ONE, TWO = message(), message(T + 1, cseq=2, body=b"two")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("link", [0, 1, 100, 12, 101, 108, 113, 228, 276])
def test_every_kind_of_pcap(order: str, nano: bool, link: int) -> None:
    made = Capture().udp(ONE.time, ONE.data).udp(TWO.time, TWO.data)
    assert read(made.pcap(order, nano, link)) == [ONE, TWO]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("resolution", [6, 9, 3, 128 | 20])
@pytest.mark.parametrize("link", [1, 101, 276])
@pytest.mark.parametrize("kind", [6, 2])
def test_every_kind_of_pcapng(order: str, resolution: int, link: int, kind: int) -> None:
    made = Capture().udp(ONE.time, ONE.data).udp(TWO.time, TWO.data)
    assert read(made.pcapng(order, resolution, link, kind)) == [ONE, TWO]


def test_ipv6_with_extension_headers() -> None:
    made = Capture(6)
    padding = struct.pack("!BBH4x", 60, 0, 0x0104) + struct.pack("!BBH4x", 17, 0, 0x0104)
    made.ip(T, 0, padding + made.datagram(ONE.data))
    assert [(each.source, each.data) for each in read(made.pcap())] == [
        ("[2001:db8::1]:5062", ONE.data)
    ]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_fragments_in_any_order(version: int, seed: int) -> None:
    long = message(body=b"y" * 9000)
    made = Capture(version)
    made.fragments(T, long.data, 1480, random.Random(seed).shuffle)
    made.fragments(T, ONE.data, 104, random.Random(seed).shuffle)
    assert [each.data for each in read(made.pcap())] == [long.data, ONE.data]


def lose_one(pieces: list[bytes]) -> None:
    del pieces[1]


def test_a_fragment_that_is_missing_spoils_its_datagram_only() -> None:
    made = Capture().fragments(T, message(body=b"z" * 5000).data, 1480, lose_one)
    made.udp(T, ONE.data)
    assert read(made.pcap()) == [ONE]


def test_the_segments_of_a_stream_need_not_be_messages() -> None:
    stream = b"\r\n\r\n" + ONE.data + b"\r\n" + TWO.data + b"\r\n\r\n" + ONE.data
    for size in (1, 7, 100, 600, 10_000):
        made = Capture().tcp(T, b"", flags=2).tcp(T, b"", way=1, flags=0x12)
        for at in range(0, len(stream), size):
            made.tcp(T, stream[at : at + size])
        found = read(made.pcap())
        assert [each.data for each in found] == [ONE.data, TWO.data, ONE.data]
        assert {each.protocol for each in found} == {"tcp"}


@given(
    order=st.permutations(list(range(8))),
    again=st.lists(st.integers(0, 7), max_size=4),
    start=st.sampled_from([0, 1000, 2**32 - 700]),
    overlap=st.integers(0, 30),
)
def test_segments_out_of_order_and_sent_again(
    order: list[int], again: list[int], start: int, overlap: int
) -> None:
    stream = (ONE.data + TWO.data) * 2
    size = -(-len(stream) // 8)
    made = Capture()
    made.sequence[0] = start
    made.tcp(T, b"", flags=2)
    base = made.sequence[0]
    for number in [*order, *again]:
        at = max(0, number * size - overlap)
        made.sequence[0] = base
        piece = stream[at : (number + 1) * size]
        if at:
            made.tcp(T, piece, shift=at)
        else:
            made.tcp(T, piece)
    assert [each.data for each in read(made.pcap())] == [ONE.data, TWO.data] * 2


def test_a_capture_that_begins_in_the_middle() -> None:
    made = Capture().tcp(T, ONE.data[100:] + TWO.data).tcp(T, ONE.data)
    assert [each.data for each in read(made.pcap())] == [TWO.data, ONE.data]


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_segment_that_the_capture_missed(acknowledged: bool) -> None:
    made = Capture().tcp(T, ONE.data)
    made.sequence[0] += 50  # of a message, lost to the capture
    made.tcp(T, TWO.data[50:] + ONE.data)
    if acknowledged:
        made.tcp(T + 1, b"", way=1, flags=0x10)
        made.tcp(T + 2, TWO.data)
    found = [each.data for each in read(made.pcap())]
    assert found == [ONE.data, ONE.data, *([TWO.data] if acknowledged else [])]


def test_a_connection_from_the_same_port_again() -> None:
    made = Capture().tcp(T, b"", flags=2).tcp(T, ONE.data[:200])
    made.sequence[0] = 77_000_000
    made.tcp(T, b"", flags=2).tcp(T, TWO.data[:100])
    made.packets.insert(-1, made.packets[-2])  # its SYN once more
    made.tcp(T, TWO.data[100:])
    assert [each.data for each in read(made.pcap())] == [TWO.data]


def test_what_is_not_sip_is_passed_by() -> None:
    made = Capture()
    for data in (b"", b"\r\n\r\n", b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), b"x" * 2000):
        made.udp(T, data)
    made.ip(T, 1, b"ping").ip(T, 17, b"").ip(T, 6, b"short")
    made.packets.append((T, b""))
    made.packets.append((T, b"\x45"))
    made.tcp(T, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    made.udp(T, ONE.data)
    assert read(made.pcap()) == [ONE]
    assert read(made.pcap(link=1)) == [ONE]


def test_tls_is_noticed(tmp_path: Path) -> None:
    hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(range(189))
    reader = _pcap_reader.PcapReader(io.BytesIO(Capture().tcp(T, hello).tcp(T, hello, 1).pcap()))
    assert list(reader) == []
    assert reader.encrypted == 2
    assert reader.packets == 2


def test_what_tshark_has_converted(tshark: Tshark, tmp_path: Path) -> None:
    messages = [ONE, message(T + 0.5, "tcp", body=b"x" * 50_000), TWO]
    path = tmp_path / "ours.pcapng"
    path.write_bytes(written(*messages))
    for kind in ("pcap", "nsecpcap", "pcapng", "modpcap"):
        converted = tmp_path / kind
        tshark.run(path, "-F", kind, "-w", str(converted))
        if kind == "modpcap":
            with pytest.raises(PcapError, match=str(converted)) as caught:
                list(pcap.read(converted))
            assert "editcap" in caught.value.hint
        else:
            assert list(pcap.read(converted)) == messages


def test_a_capture_of_loopback() -> None:
    """Real packets, as the kernel makes them: both ways of TCP, with all its acknowledgements."""
    path = Path(tempfile.mkdtemp()) / "lo.pcap"  # with digests in it, as the wire has them
    recorder = capture.Capture(path, 1 << 24)
    if not recorder.running:
        pytest.skip(recorder.reason)
    messages: list[pjsip.SipMessage] = []
    with (
        Registrar(("udp", "tcp"), users={"alice": PASSWORD}) as registrar,
        pjsip.Endpoint(trace=True, strict=True) as ep,
    ):
        ep.on(pjsip.SipMessage, messages.append)
        for protocol in ("udp", "tcp"):
            client = ep.registration(
                registrar.uri(protocol), AOR, credentials=pjsip.Credentials("alice", PASSWORD)
            )
            client.register().result(timeout=5)
            client.close()
        ports = {registrar.port("udp"), registrar.port("tcp")}
    recorder.stop()
    found = [
        (each.protocol, each.source, each.destination, each.data)
        for each in pcap.read(path)
        if {int(end.rpartition(":")[2]) for end in (each.source, each.destination)} & ports
    ]
    shutil.rmtree(path.parent)
    sent = [pcap.captured(each) for each in messages]
    assert len(sent) == 8
    # Redacted by the reader as it was by PJSIP's trace.
    assert found == [(each.protocol, each.source, each.destination, each.data) for each in sent]


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        (b"", "empty", "pcap"),
        (b"\xd4", "not a capture", "tcpdump"),
        (b"<html>", "not a capture", "tcpdump"),
        (b"\x1f\x8b\x08\x00", "gzip", "gunzip"),
        (b"\x28\xb5\x2f\xfd1234", "zstd", "unzstd"),
        (b"PK\x03\x04aaaa", "zip", "unzip"),
        (Capture().pcap().replace(b"\x65\0\0\0", b"\x7f\0\0\0", 1), "127", "any"),
        (Capture().udp(T, ONE.data).pcap()[:-1], "cut short", "editcap"),
        (Capture().udp(T, ONE.data).pcap()[:30], "cut short", "editcap"),
        (Capture().udp(T, ONE.data).pcapng()[:-1], "cut short", "editcap"),
        (Capture().udp(T, ONE.data).pcapng()[:-6] + b"\1\0\0\0\0\0", "lengths differ", "editcap"),
        (Capture().pcap() + struct.pack("<IIII", 0, 0, 2**31, 2**31), f"{2**31} bytes", "editcap"),
        (Capture().pcapng() + struct.pack("<II", 6, 2**31), f"{2**31} bytes", "editcap"),
        (Capture().pcapng() + struct.pack("<II", 6, 13), "13 bytes", "editcap"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng", "tcpdump"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, data: bytes, what: str, hint: str) -> None:
    path = tmp_path / "damaged.pcap"
    path.write_bytes(data)
    with pytest.raises(PcapError, match=what) as caught:
        list(pcap.read(path))
    assert str(path) in str(caught.value)
    assert hint in caught.value.hint
    assert isinstance(caught.value, pjsip.PjsipError)


def test_what_comes_before_the_damage_is_given() -> None:
    reading = pcap.read(io.BytesIO(Capture().udp(T, ONE.data).udp(T, TWO.data).pcap()[:-10]))
    assert next(reading) == ONE
    with pytest.raises(PcapError):
        next(reading)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(pcap.read(tmp_path / "no.pcap"))
    with pytest.raises(IsADirectoryError):
        list(pcap.read(tmp_path))


def seeds() -> Iterator[bytes]:
    made = Capture().udp(T, ONE.data).tcp(T, b"", flags=2).tcp(T, ONE.data[:150])
    made.tcp(T, TWO.data, shift=300).tcp(T, b"", 1, 0x10).tcp(T, ONE.data[150:] + TWO.data)
    made.fragments(T, ONE.data, 104, list.reverse)
    six = Capture(6).fragments(T, ONE.data, 104, list.reverse).tcp(T, ONE.data)
    for each in (made, six):
        yield each.pcap()
        yield each.pcap(">", True, 100)
        yield each.pcapng()
        yield each.pcapng(">", 9, 276)
    yield written(ONE, message(protocol="tcp"), link="pdu")


SEEDS = list(seeds())


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=8),
    st.integers(0, 5000),
)
def test_a_damaged_file_is_read_or_refused(
    seed: bytes, changes: list[tuple[int, bytes]], end: int
) -> None:
    data = bytearray(seed)
    for at, value in changes:
        at %= len(data)
        data[at : at + len(value)] = value
    refused_or_read(bytes(data[: len(data) - end % 64]))


@given(st.binary(max_size=400))
@example(b"\n")
@example(b" SIP/2.0\r\n")
def test_any_bytes_may_come_in_packets(data: bytes) -> None:
    raw = Capture()
    raw.packets.append((T, data))
    for link in (0, 1, 101, 276):
        refused_or_read(raw.pcap(link=link))
    for start in (b"", b"SIP/2.0 200 OK\r\n", ONE.data[:120]):
        refused_or_read(
            Capture().tcp(T, start).tcp(T, data).udp(T, data).udp(T, start + data).pcap()
        )
    refused_or_read(Capture().pcap() + data)
    refused_or_read(Capture().pcapng() + data)


def refused_or_read(data: bytes) -> None:
    try:
        for each in read(data):
            assert each.data
            assert each.headers is not None
    except PcapError as error:
        refused = error
    else:
        return
    assert str(refused)
    assert refused.hint


@pytest.mark.parametrize(
    "stream",
    [
        b"x" * 1000,
        b"x\n" * 500,
        b"REGISTER " + b"x" * 991,
        b"SIP/2.0 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 957,
        b"SIP/2.0 200 OK\r\n" + b"X: y\r\n" * 164,
    ],
)
def test_a_stream_without_end_takes_bounded_memory(stream: bytes) -> None:
    reader = _pcap_reader.PcapReader(io.BytesIO())
    made = Capture()
    for _ in range(1500):  # 1.5 MB in one stream
        made.tcp(T, stream)
    kept = 0
    reader = _pcap_reader.PcapReader(io.BytesIO(made.pcap()))
    for _ in reader:
        pass
    kept = max(each.size for each in reader._streams.values())
    assert kept <= _pcap_reader._BODY + _pcap_reader._HEAD


def test_many_streams_and_fragments_take_bounded_memory() -> None:
    made = Capture()
    for number in range(6000):
        made.ends[0] = struct.pack("!I", number)
        made.sequence[0] = 0
        made.tcp(T, b"REGISTER sip:x SIP/2.0\r\n").tcp(T, b"y", shift=100)
        made.packets.append((T, made.packet(17, bytes(8), place=0x2000, ident=number)))
    reader = _pcap_reader.PcapReader(io.BytesIO(made.pcap()))
    assert list(reader) == []
    assert len(reader._streams) <= _pcap_reader._STREAMS
    assert len(reader._fragments._parts) <= _pcap_reader._FRAGMENTED
    assert reader._kept == 25 * len(reader._streams)


def test_editcap_has_the_options_that_the_hints_name(tmp_path: Path, tshark: Tshark) -> None:
    """The advice for a file that is cut short: it works."""
    cut, good = tmp_path / "cut.pcap", tmp_path / "good.pcap"
    cut.write_bytes(Capture().udp(T, ONE.data).udp(T, TWO.data).pcap()[:-10])
    subprocess.run(["editcap", str(cut), str(good)], capture_output=True, timeout=30, check=False)
    assert list(pcap.read(good)) == [ONE]
