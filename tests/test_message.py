# SPDX-License-Identifier: GPL-3.0-or-later
"""Responses, headers and bindings as Python reads them, whatever the wire held."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pjsip_py import Binding, Headers, Response
from pjsip_py.message import parse_contact, split_outside_quotes


def response(*lines: str, body: bytes = b"", start: str = "SIP/2.0 200 OK") -> Response:
    head = "\r\n".join((start, *lines)).encode()
    return Response(head + b"\r\n\r\n" + body, "127.0.0.1:5060")


# -- headers --------------------------------------------------------------------------------------


def test_headers_ignore_case_and_know_compact_forms() -> None:
    headers = response(
        "Via: SIP/2.0/UDP a", "v: SIP/2.0/UDP b", "X-Thing: 1", "x-thing:2", "m : <sip:a@b>"
    ).headers
    assert headers["VIA"] == "SIP/2.0/UDP a"
    assert headers.get_all("v") == ["SIP/2.0/UDP a", "SIP/2.0/UDP b"]
    assert headers.get_all("X-THING") == ["1", "2"]
    assert headers["contact"] == "<sip:a@b>"
    assert headers.get("absent") is None
    assert headers.get("absent", "x") == "x"
    assert "via" in headers
    assert "absent" not in headers
    assert 5 not in headers  # type: ignore[comparison-overlap]
    with pytest.raises(KeyError, match="absent"):
        headers["absent"]
    assert list(headers) == ["Via", "v", "X-Thing", "x-thing", "m"]
    assert len(headers) == 3
    assert "X-Thing" in repr(headers)
    assert list(Headers()) == []


def test_a_list_is_split_outside_quotes_and_brackets() -> None:
    headers = response('A: "x, y" <sip:a,b@c>, d', "A: e,,f").headers
    assert headers.values_of("a") == ['"x, y" <sip:a,b@c>', "d", "e", "f"]
    assert headers.get_all("a") == ['"x, y" <sip:a,b@c>, d', "e,,f"]


def test_folded_lines_are_one_value() -> None:
    assert response("Subject: one", "\ttwo", "  three", "X: y").headers["s"] == "one two three"


def test_latin_1_is_read_when_it_is_no_utf_8() -> None:
    raw = b"SIP/2.0 200 Gr\xfc\xdfe\r\nSubject: caf\xe9\r\n\r\n\xff\x00"
    answer = Response(raw, "[::1]:5060")
    assert (answer.reason, answer.headers["Subject"]) == ("Grüße", "café")
    assert answer.body == b"\xff\x00"
    assert answer.raw == raw
    assert answer.source == ("::1", 5060)


def test_the_parts_of_a_response() -> None:
    answer = response(
        "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;received=192.0.2.1;rport=4711",
        "Via: SIP/2.0/UDP 10.0.0.2;received=192.0.2.2;rport=1",
        "Retry-After: 120 (maintenance);duration=60",
        "Min-Expires: 90",
        "Path: <sip:p1;lr>, <sip:p2;lr>",
        "Path: <sip:p3;lr>",
        "Service-Route: <sip:s1;lr>",
        body=b"hello\r\n\r\nworld",
        start="SIP/2.0 503 Service  Unavailable",
    )
    assert (answer.code, answer.reason) == (503, "Service  Unavailable")
    assert (answer.received, answer.rport) == ("192.0.2.1", 4711)
    assert (answer.retry_after, answer.min_expires) == (120, 90)
    assert answer.path == ("<sip:p1;lr>", "<sip:p2;lr>", "<sip:p3;lr>")
    assert answer.service_route == ("<sip:s1;lr>",)
    assert answer.body == b"hello\r\n\r\nworld"
    assert answer.source == ("127.0.0.1", 5060)
    assert repr(answer) == "<Response 503 Service  Unavailable>"


def test_what_is_absent_is_none_or_empty() -> None:
    answer = response()
    assert (answer.retry_after, answer.min_expires, answer.received, answer.rport) == (None,) * 4
    assert (answer.path, answer.service_route, answer.bindings, answer.body) == ((), (), (), b"")
    assert not answer.stale


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), (" 18000;duration=3600", 18000), ("soon", None), ("-1", None), ("", None),
     ("99999999999999999999", 2**32 - 1), ("4294967296", 2**32 - 1), ("٣", None)],
)  # fmt: skip
def test_retry_after_is_bounded(value: str, seconds: int | None) -> None:
    assert response(f"Retry-After: {value}").retry_after == seconds


@pytest.mark.parametrize(
    ("value", "stale"),
    [
        ('Digest realm="r", nonce="n", stale=true', True),
        ('Digest realm="r", stale="TRUE", nonce="n"', True),
        ('Digest realm="r", nonce="n", stale=false', False),
        ('Digest realm="r", nonce="n"', False),
    ],
)
def test_stale_is_read(value: str, stale: bool) -> None:
    assert response(f"WWW-Authenticate: {value}").stale is stale
    assert (
        response('Proxy-Authenticate: Digest realm="x"', f"Proxy-Authenticate: {value}").stale
        is stale
    )


# -- bindings -------------------------------------------------------------------------------------


def test_bindings_keep_order_parameters_and_names() -> None:
    answer = response(
        'Contact: "Alice, \\"A\\"" <sip:a@127.0.0.1:5062;transport=tcp>;expires=75;q=0.5;reg-id=1',
        'm: <sip:b@[::1]>;+sip.instance="<urn:uuid:x>";expires=60, sip:c@d;expires=30;flag',
        "Expires: 300",
        "Contact: <sip:e@f>",
    )
    assert answer.bindings == (
        Binding("sip:a@127.0.0.1:5062;transport=tcp", 75, 0.5, {"reg-id": "1"}, 'Alice, "A"'),
        Binding("sip:b@[::1]", 60, None, {"+sip.instance": "<urn:uuid:x>"}),
        Binding("sip:c@d", 30, None, {"flag": ""}),
        Binding("sip:e@f", 300, None, {}),
    )


def test_a_star_is_no_binding() -> None:
    assert response("Contact: *").bindings == ()


def test_numbers_that_are_none_are_left_out() -> None:
    answer = response("Contact: <sip:a@b>;expires=soon;q=high, <sip:c@d>;expires=-5;q=")
    assert [(b.expires, b.q) for b in answer.bindings] == [(None, None), (None, None)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sip:a@b;x=1", ("", "sip:a@b", {"x": "1"})),
        ("<sip:a@b;x=1>;y", ("", "sip:a@b;x=1", {"y": ""})),
        ('"<x>" <sip:a@b>', ("<x>", "sip:a@b", {})),
        ("A B <sip:a@b> ; Q = 1", ("A B", "sip:a@b", {"q": "1"})),
        ('"a\\"b" <sip:c@d>;p="x;y\\"z"', ('a"b', "sip:c@d", {"p": 'x;y"z'})),
        ("<sip:a@b", ("", "sip:a@b", {})),
        ("", ("", "", {})),
    ],
)
def test_a_contact_is_parsed(text: str, parts: tuple[str, str, dict[str, str]]) -> None:
    assert parse_contact(text) == parts


def test_splitting() -> None:
    assert split_outside_quotes("a, b ,c", ",") == ["a", "b", "c"]
    assert split_outside_quotes('"a,b",c', ",") == ['"a,b"', "c"]
    assert split_outside_quotes('"a\\",b",c', ",") == ['"a\\",b"', "c"]
    assert split_outside_quotes("<a,b>,c", ",") == ["<a,b>", "c"]
    assert split_outside_quotes("", ",") == [""]


# -- anything -------------------------------------------------------------------------------------


def read_all(answer: Response) -> None:
    """Every property; none may raise."""
    assert 0 <= answer.code <= 999
    assert isinstance(answer.reason, str)
    assert isinstance(answer.body, bytes)
    assert isinstance(answer.source[1], int)
    for binding in answer.bindings:
        assert binding.expires is None or 0 <= binding.expires < 2**32
        assert binding.q is None or isinstance(binding.q, float)
    for value in (answer.retry_after, answer.min_expires, answer.rport):
        assert value is None or value >= 0
    assert isinstance(answer.stale, bool)
    assert all(isinstance(p, str) for p in (*answer.path, *answer.service_route))
    assert answer.received is None or isinstance(answer.received, str)
    for name in answer.headers:
        assert answer.headers[name] == answer.headers.get_all(name)[0]
        answer.headers.values_of(name)
    assert repr(answer)
    assert repr(answer.headers)


@given(raw=st.binary(max_size=400), source=st.text(max_size=30))
@example(raw=b"", source="")
@example(raw=b"\r\n\r\n", source=":")
@example(raw=b"SIP/2.0", source="[::1]:x")
@example(
    raw=b"SIP/2.0 abc\r\nVia:\r\nContact:;;;,,\r\nExpires: \xb2\r\n", source="[::1]:99999999999"
)
def test_any_bytes_are_read(raw: bytes, source: str) -> None:
    read_all(Response(raw, source))


_value = st.one_of(
    st.text(max_size=40),
    st.text(' "\\<>;,=:*()%@sip0123456789\t', max_size=40),
    st.sampled_from(["*", '"', "<sip:a@b>;expires=" + "9" * 5000, ";q=nan", ";rport=;received"]),
)


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(
                ["Contact", "m", "Via", "v", "Expires", "Path", "Service-Route", "Retry-After",
                 "Min-Expires", "WWW-Authenticate", "Proxy-Authenticate", ""]
            ),
            _value,
        ),
        max_size=8,
    )
)  # fmt: skip
@example(lines=[("Contact", "<sip:a@b>;q=1e999;expires=9999999999999")])
@example(lines=[("Contact", "<sip:a@b>;q=nan")])
def test_any_header_values_are_read(lines: list[tuple[str, str]]) -> None:
    text = "SIP/2.0 200 OK\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines)
    read_all(Response(text.encode("utf-8", "replace"), "127.0.0.1:5060"))


@given(text=st.text(' "\\<>;,=a', max_size=200))
def test_splitting_loses_nothing(text: str) -> None:
    parts = split_outside_quotes(text, ",")
    assert ",".join(parts).replace(" ", "") == text.replace(" ", "")


def test_a_long_line_is_read_in_no_time() -> None:
    # Quadratic code would take minutes here.
    huge = '"' + "\\" * 100_000
    read_all(response("Contact: " + huge, "Contact: " + "<" * 100_000, "Via: " + ";" * 100_000))
