# SPDX-License-Identifier: GPL-3.0-or-later
"""Ladders: what a picture says, and that nothing from the wire is markup in it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pjsip_py as pjsip
from pjsip_py import ladder, pcap
from pjsip_py.ladder import Ladder, Row, record
from pjsip_py.pcap import CapturedMessage
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(30)

AOR = "sip:alice@example.com"
PASSWORD = "correct horse battery"
US, THEM = "192.0.2.1:5062", "198.51.100.7:5060"
T = 1_700_000_000.0
DIGEST = 'Digest username="alice", realm="example.com", nonce="n", response="deadbeef"'
CHALLENGE = 'Digest realm="example.com", nonce="n"'


def request(
    at: float = 0.0,
    source: str = US,
    destination: str = THEM,
    *headers: str,
    method: str = "REGISTER",
    cseq: int = 1,
    call_id: str = "c",
    aor: str = AOR,
    protocol: str = "udp",
) -> CapturedMessage:
    lines = [
        f"{method} sip:example.com SIP/2.0",
        f"Via: SIP/2.0/{protocol.upper()} {source};branch=z9hG4bK{call_id}{cseq}",
        f"From: <{aor}>;tag=1",
        f"To: <{aor}>",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        *headers,
        "Content-Length: 0",
    ]
    data = "\r\n".join(lines) + "\r\n\r\n"
    return CapturedMessage(T + at, protocol, source, destination, data.encode())


def response(
    at: float,
    status: str,
    *headers: str,
    source: str = THEM,
    destination: str = US,
    method: str = "REGISTER",
    cseq: int = 1,
    call_id: str = "c",
    protocol: str = "udp",
) -> CapturedMessage:
    lines = [
        f"SIP/2.0 {status}",
        f"Via: SIP/2.0/{protocol.upper()} {destination};branch=z9hG4bK{call_id}{cseq}",
        f"To: <{AOR}>;tag=2",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        *headers,
    ]
    data = "\r\n".join(lines) + "\r\n\r\n"
    return CapturedMessage(T + at, protocol, source, destination, data.encode())


def rows(*items: CapturedMessage) -> tuple[Row, ...]:
    drawn = Ladder()
    for item in items:
        drawn.add(item)
    return drawn.picture().rows


# -- what a row says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "style"),
    [
        ("100 Trying", "provisional"),
        ("200 OK", "success"),
        ("202", "success"),
        ("302 Moved Temporarily", "redirect"),
        ("401 Unauthorized", "challenge"),
        ("407 Proxy Authentication Required", "challenge"),
        ("403 Forbidden", "failure"),
        ("503 Service Unavailable", "failure"),
        ("600 Busy Everywhere", "failure"),
        ("999 What", "failure"),
        ("nonsense", "failure"),
    ],
)
def test_styles(status: str, style: str) -> None:
    asked, answered = rows(request(), response(0.0123, status))
    assert (asked.label, asked.style) == ("REGISTER", "request")
    assert answered.style == style
    assert answered.label == (status if status[:1] in "123456" else f"SIP/2.0 {status}")
    assert answered.details == ("CSeq 1", "after 12.3 ms")
    assert answered.text.startswith(f"SIP/2.0 {status}\r\n")
    assert answered.path == f"UDP {THEM} → {US}"


@pytest.mark.parametrize(
    ("proof", "challenge", "style"),
    [
        (f"Authorization: {DIGEST}", f"WWW-Authenticate: {CHALLENGE}", "failure"),
        (f"Authorization: {DIGEST}", f"WWW-Authenticate: {CHALLENGE}, stale=true", "challenge"),
        (f"Authorization: {DIGEST}", 'WWW-Authenticate: Digest realm="other"', "challenge"),
        (f"Authorization: {DIGEST}", f"Proxy-Authenticate: {CHALLENGE}", "challenge"),
        (f"Proxy-Authorization: {DIGEST}", f"Proxy-Authenticate: {CHALLENGE}", "failure"),
        ("Authorization: Bearer t0ken", 'WWW-Authenticate: Bearer realm="x"', "failure"),
        ("X: y", f"WWW-Authenticate: {CHALLENGE}", "challenge"),
    ],
)
def test_a_challenge_is_none_once_it_was_answered(proof: str, challenge: str, style: str) -> None:
    code = "407 x" if "Proxy-Authenticate" in challenge else "401 x"
    asked, answered = rows(request(0, US, THEM, proof), response(0.1, code, challenge))
    assert ("with credentials" in asked.details) == ("Authorization" in proof)
    assert answered.style == style


def test_what_was_sent_again_and_never_answered() -> None:
    found = rows(request(), request(0.5), request(1.5))
    messages = [row for row in found if row.kind == "message"]
    assert [row.again for row in messages] == [False, True, True]
    assert [row.details[0] for row in messages] == [
        "no answer",
        "sent again (1)",
        "sent again (2)",
    ]
    assert {row.style for row in messages} == {"failure"}
    assert [(row.kind, row.label) for row in found if row.kind == "gap"] == [("gap", "1 s")]


def test_a_request_at_the_end_may_still_be_answered() -> None:
    (only,) = rows(request())
    assert only.style == "request"
    assert "no answer" in only.details
    ack, _ = rows(request(method="ACK"), response(1, "200 OK", call_id="other"))[::2]
    assert "no answer" not in ack.details


def test_each_hop_of_a_proxy_is_answered_or_not() -> None:
    behind = "203.0.113.9:5060"
    found = rows(
        request(),
        request(0.1, THEM, behind),
        response(0.2, "200 OK"),
        request(9, call_id="later"),
    )
    messages = [row for row in found if row.kind == "message"]
    assert [("no answer" in row.details, row.style) for row in messages[:3]] == [
        (False, "request"),
        (True, "failure"),
        (False, "success"),
    ]
    assert messages[2].details[1] == "after 200 ms"


@pytest.mark.parametrize(
    ("headers", "leaves"),
    [
        (["Contact: *", "Expires: 0"], True),
        (["Contact: <sip:a@b>;expires=0"], True),
        (["Contact: <sip:a@b>", "Expires: 0"], True),
        (["Contact: <sip:a@b>;expires=0, <sip:c@d>"], False),
        (["Contact: <sip:a@b>"], False),
        ([], False),
    ],
)
def test_an_unregister_is_called_one(headers: list[str], leaves: bool) -> None:
    assert ("unregister" in rows(request(0, US, THEM, *headers))[0].details) == leaves


def test_particulars_are_told_where_they_tell_something_apart() -> None:
    one = rows(request(), response(0.1, "200 OK"))
    assert one[0].details == ("CSeq 1",)
    several = rows(request(), request(1, aor="sip:bob@example.com", call_id="d", protocol="tcp"))
    messages = [row for row in several if row.kind == "message"]
    assert messages[0].details[1:] == ("CSeq 1", "alice@example.com", "call 1", "UDP")
    assert messages[1].details[1:] == ("CSeq 1", "bob@example.com", "call 2", "TCP")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000123, "0.0123 ms"),
        (0.9996, "1 s"),
        (12.54, "12.5 s"),
        (59.96, "1:00"),
        (3800, "1:03:20"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert ladder.duration(seconds) == text


def test_times_that_no_calendar_has() -> None:
    made = Ladder()
    for when in (0.0, -5.0, 1e18, 9e15):
        made.add(CapturedMessage(when, "udp", US, THEM, request().data))
    assert "+0.000" in made.to_html()
    ElementTree.fromstring(made.to_svg())
    assert ladder.clock(1e300) == "?"
    assert ladder.since(3661.25) == "+1:01:01.250"


# -- lifelines ------------------------------------------------------------------------------------


def lanes(*items: CapturedMessage, **options: object) -> list[tuple[str, tuple[str, ...]]]:
    made = Ladder(**options)  # type: ignore[arg-type]
    for item in items:
        made.add(item)
    return [(lane.name, lane.addresses) for lane in made.picture().lanes]


def test_a_host_is_one_lifeline() -> None:
    again = "192.0.2.1:40000"
    found = lanes(request(), request(1, again, protocol="tcp"), response(2, "200 OK"))
    assert found == [("", (US, again)), ("", (THEM,))]


def test_who_asks_stands_left_of_who_answers() -> None:
    other = "203.0.113.9:5060"
    found = lanes(response(0, "200 OK"), request(1, other, THEM))
    assert [addresses for _, addresses in found] == [(US,), (other,), (THEM,)]


def test_on_one_host_each_address_is_a_lifeline_but_not_each_connection() -> None:
    server, udp = "127.0.0.1:5060", "127.0.0.1:5070"
    clients = [f"127.0.0.1:{40000 + number}" for number in range(3)]
    found = lanes(
        request(0, udp, server),
        *[request(1 + n, each, server, protocol="tcp") for n, each in enumerate(clients)],
        response(5, "200 OK", source=server, destination=clients[0], protocol="tcp"),
    )
    assert [addresses for _, addresses in found] == [(udp,), tuple(clients), (server,)]


def test_lifelines_have_names() -> None:
    names = {US: "phone", "198.51.100.7": "registrar"}
    assert [name for name, _ in lanes(request(), names=names)] == ["phone", "registrar"]


def test_ours_is_one_whatever_ports_we_used() -> None:
    made = Ladder()
    for direction, local in (("tx", "127.0.0.1:1"), ("rx", "127.0.0.1:1"), ("tx", "127.0.0.1:2")):
        made.add(
            pjsip.SipMessage(
                time=pjsip.EventTime(0, T),
                direction=direction,
                protocol="udp",
                local=local,
                remote="127.0.0.1:5060",
                text=request().text if direction == "tx" else response(0, "200 OK").text,
            )
        )
    picture = made.picture()
    assert [(lane.name, len(lane.addresses)) for lane in picture.lanes] == [
        ("this endpoint", 2),
        ("", 1),
    ]
    assert [(row.source, row.target) for row in picture.rows] == [(0, 1), (1, 0), (0, 1)]


# -- limits, order, notes -------------------------------------------------------------------------


def test_only_the_newest_are_kept() -> None:
    made = Ladder(limit=3)
    for number in range(10):
        made.add(request(number / 10, cseq=number))
    assert len(made) == 3
    picture = made.picture()
    assert picture.omitted == 7
    assert [row.details[0] for row in picture.rows] == ["no answer"] * 3
    assert [row.details[1] for row in picture.rows] == ["CSeq 7", "CSeq 8", "CSeq 9"]
    assert "7 older ones left out" in made.to_html()
    assert "7 older ones left out" in made.to_svg()
    with pytest.raises(ValueError, match="limit"):
        Ladder(limit=0)


def test_notes_stand_where_they_belong_in_time() -> None:
    made = Ladder()
    made.add(response(0.2, "200 OK"))
    made.note("restarted", T + 0.1)
    made.add(request())
    made.note("too late", T + 0.3, failure=True)
    assert [(row.kind, row.label, row.style) for row in made.picture().rows] == [
        ("message", "REGISTER", "request"),
        ("note", "restarted", "note"),
        ("message", "200 OK", "success"),
        ("note", "too late", "failure"),
    ]


def test_without_messages() -> None:
    assert "no messages" in Ladder().to_html()
    assert "no messages" in ElementTree.tostring(
        ElementTree.fromstring(Ladder().to_svg()), "unicode"
    )
    made = Ladder()
    made.note("nothing came", T)
    assert "nothing came" in made.to_html()
    assert "nothing came" in made.to_svg()


# -- nothing from the wire is markup --------------------------------------------------------------

ALLOWED = {
    *(
        "html",
        "meta",
        "title",
        "style",
        "main",
        "section",
        "h1",
        "h2",
        "p",
        "form",
        "label",
        "input",
    ),
    *("select", "option", "button", "output", "header", "div", "small", "i", "details", "summary"),
    *("span", "time", "b", "pre", "ul", "li", "script", "wbr"),
}
VOID = {"meta", "input", "wbr"}


class Page(HTMLParser):
    """The page's elements, checked to nest, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.shown = ""
        self.scripts: list[str] = []
        self.policy = ""
        self.names: list[str] = []
        self.feed(text)
        self.close()
        # A paragraph, a list item or an option may be left open; we leave none.
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        self.names.append(tag)
        given = dict(attrs)
        for name in given:
            assert not name.startswith("on")
            assert name not in ("src", "href", "action", "srcset", "id")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.shown += data


EVIL = (
    "\"'></pre></details></script></svg></style><script>alert(1)</script>"
    "<img src=x onerror=alert(1)>&amp;]]>\u202e\x1b[31m"
)


@pytest.mark.parametrize("evil", [EVIL, "\0\x01\x7f\x85\ufffe", "]]>", "--><!--", "${alert(1)}"])
def test_nothing_from_the_wire_is_markup(evil: str) -> None:
    made = Ladder(evil, names={US: evil, "198.51.100.7": evil})
    made.add(request(0, US, THEM, f"X: {evil}", call_id=evil, aor=f"sip:{evil}@x", method="A"))
    made.add(request(1, call_id="other", aor="sip:other@x"))
    made.add(response(2, f"200 {evil}"))
    made.add(CapturedMessage(T + 3, "udp", US, THEM, evil.encode() + b"\xff\xfe\xed\xa0\x80"))
    made.note(evil, T + 4)
    page = Page(made.to_html())
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert ladder.printable(evil) in page.shown
    assert page.names.count("details") == 4
    root = ElementTree.fromstring(made.to_svg())
    tags = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "path", "text", "g"}
    assert all(not name.startswith("on") for each in root.iter() for name in each.attrib)
    assert ladder.printable(evil) in "".join(root.itertext())


@settings(max_examples=40)
@given(
    data=st.lists(st.binary(max_size=200), max_size=4),
    text=st.text(max_size=50),
    start=st.sampled_from([b"", b"SIP/2.0 ", request().data[:-2], response(0, "401 x").data[:-2]]),
)
@example([b'Authorization: ,=\r\nContact: <<<;;"\r\nCSeq: x'], "\ud800", b"REGISTER x SIP/2.0\r\n")
def test_any_bytes_make_a_picture(data: list[bytes], text: str, start: bytes) -> None:
    made = Ladder(text, names={US: text})
    for number, each in enumerate(data):
        made.add(CapturedMessage(T + number / 3, "udp", US, THEM, start + each))
    made.note(text, T)
    Page(made.to_html().encode().decode())
    ElementTree.fromstring(made.to_svg().encode())


def test_only_the_pages_own_scripts_run() -> None:
    page = Page(ladder.page("x", Ladder("a").to_fragment(), style="b{}", script="let own = 1;"))
    assert len(page.scripts) == 2
    for script in page.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none';")
    assert page.scripts[1] == "let own = 1;"


def test_a_page_may_have_several() -> None:
    parts = []
    for name in ("first", "second"):
        made = Ladder(name)
        made.add(request())
        made.add(response(1, "200 OK"))
        parts.append(made.to_fragment())
    page = Page(ladder.page("both", "".join(parts)))
    assert page.names.count("section") == 2
    assert page.names.count("details") == 4


def test_secrets_are_blotted_out() -> None:
    made = Ladder()
    made.add(request(0, US, THEM, f"Authorization: {DIGEST}", "Proxy-Authorization: Bearer t0ken"))
    for text in (made.to_html(), made.to_svg()):
        assert "deadbeef" not in text
        assert "t0ken" not in text
        assert "********" in text
        assert "alice" in text


def test_the_same_messages_give_the_same_picture() -> None:
    def draw() -> Ladder:
        made = Ladder("x")
        made.add(request())
        made.add(response(3, "200 OK"))
        return made

    assert draw().to_html() == draw().to_html()
    assert draw().to_svg() == draw().to_svg()


# -- from an endpoint -----------------------------------------------------------------------------


def test_a_registration_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "alice.html"
    with (
        Registrar(("tcp",), users={"alice": PASSWORD}) as registrar,
        pjsip.Endpoint(strict=True) as ep,
    ):
        with record(ep, path, "alice registers") as made:
            account = ep.add_account(
                AOR,
                registrar=registrar.uri("tcp"),
                credentials=pjsip.Credentials("alice", PASSWORD),
            )
            account.register().result(timeout=5)
        account.unregister().result(timeout=5)  # not recorded any more
        host, port = registrar.address("tcp")
    picture = made.picture()
    assert [(row.style, row.label) for row in picture.rows if row.kind == "message"] == [
        ("request", "REGISTER"),
        ("challenge", "401 Unauthorized"),
        ("request", "REGISTER"),
        ("success", "200 OK"),
    ]
    assert [row.label for row in picture.rows if row.kind == "note"] == [
        f"TCP connected to {host}:{port}"
    ]
    assert [lane.name for lane in picture.lanes] == ["this endpoint", ""]
    assert (picture.messages, picture.failures) == (4, 0)
    shown = Page(path.read_text("utf-8")).shown
    for wanted in ("alice registers", "401 Unauthorized", "WWW-Authenticate", f"{host}:{port}"):
        assert wanted in shown


def test_a_failure_is_recorded_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "failure.svg"

    class Failed(Exception):
        pass

    with Registrar() as registrar, pjsip.Endpoint(trace=True, strict=True) as ep:
        registrar.script(Answer(403, headers={"Reason": "x"}))
        account = ep.add_account(AOR, registrar=registrar.uri(), retry=None)
        silent = ep.add_account(AOR, registrar="sip:127.0.0.1:9", retry=None, timeout=0.6)
        with suppress(Failed), record(ep, path):
            account.register().exception(timeout=5)
            silent.register().exception(timeout=5)
            raise Failed
    text = path.read_text("utf-8")
    ElementTree.fromstring(text)
    for wanted in ("✗ 403 Forbidden", "ForbiddenError: 403", "RegistrationTimeout", "no answer"):
        assert wanted in text


def test_from_asyncio(tmp_path: Path) -> None:
    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            with record(ep, tmp_path / "async.html") as made:
                account = ep.add_account(AOR, registrar=registrar.uri())
                await asyncio.wait_for(account.register(), 5)
            assert made.picture().messages == 2

    with Registrar() as registrar:
        asyncio.run(main())
    assert "200 OK" in (tmp_path / "async.html").read_text("utf-8")


def test_from_a_capture(tmp_path: Path) -> None:
    with pcap.PcapWriter(tmp_path / "x.pcap") as writer:
        writer.write(request(protocol="tcp"))
        writer.write(response(0.5, "200 OK", protocol="tcp"))
    made = Ladder()
    for message in pcap.read(tmp_path / "x.pcap"):
        made.add(message)
    assert [row.label for row in made.picture().rows] == ["REGISTER", "200 OK"]


@pytest.mark.parametrize("name", ["x.txt", "x", "html", "x.html.pdf"])
def test_a_name_that_says_neither(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.html or \.svg"):
        Ladder().write(tmp_path / name)
    with pjsip.Endpoint() as ep:
        told_at_once = record(ep, tmp_path / name)
        with pytest.raises(ValueError, match=r"\.html or \.svg"):
            told_at_once.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_it_costs_an_import_nothing() -> None:
    code = "import sys, pjsip_py; print([m for m in sys.modules if 'ladder' in m or 'pcap' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_the_colours_can_be_read() -> None:
    """WCAG 2.1 asks for a contrast of 4.5 : 1, on the page and in its boxes, light and dark."""
    style = Ladder().to_svg()
    light, dark = re.findall(r"--ink:#.*?}", style, re.S)
    for block in (light, dark):
        colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", block))
        assert len(colours) == 11
        grounds = [luminance(colours.pop("paper")), luminance(colours.pop("box"))]
        del colours["line"]
        for name, colour in colours.items():
            for ground in grounds:
                high, low = sorted((luminance(colour), ground), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, name


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * each for each in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
