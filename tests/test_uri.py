# SPDX-License-Identifier: GPL-3.0-or-later
"""URIs and every other string, before C: what is refused, and that PJSIP takes what is not."""

from __future__ import annotations

import socket
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pjsip_py as pjsip
from pjsip_py import uri as uris
from pjsip_py.testing import Registrar

AOR = "sip:alice@example.com"
PASSWORD = "Uniform-locator-3986"

# -- what a URI may be ----------------------------------------------------------------------------

GOOD = [
    "sip:example.com",
    "sip:example.com:5061",
    "sip:example.com.",
    "sip:127.0.0.1",
    "sip:[::1]:5060",
    "sip:[2001:db8::1];transport=tcp",
    "sips:example.com",
    "sips:example.com;transport=tcp",
    "SIP:alice@Example.COM;Transport=TCP;lr",
    "sip:alice@example.com;x-param=1234;ob",
    "sip:+15551234;npdi@example.com",
    "sip:al%40ice%20b@example.com",
    "sip:*97@example.com",
    "sip:a_b.example",
    "sip:alice@xn--bcher-kva.example",
    "sip:" + "a" * 1000 + "@example.com",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_uri_is_taken_as_it_is(text: str) -> None:
    assert uris.parse_uri("uri", text).text == text


BAD = [
    "sip:alice:secret@example.com",  # RFC 3261 §19.1.1 advises against it; Credentials are for that
    "sip:alice:@example.com",
    "",
    "alice",
    "alice@example.com",
    "tel:+15551234",
    "http://example.com",
    "sip:",
    "sip:@example.com",
    "sip:alice@",
    "sip:alice@@example.com",
    "sip:alice@example.com:",
    "sip:alice@example.com:0",
    "sip:alice@example.com:65536",
    "sip:alice@example.com:99999999",
    "sip:alice@example.com:-1",
    "sip:alice@example.com;",
    "sip:alice@example.com;=x",
    "sip:alice@example.com;transport=sctp",
    "sip:alice@example.com;transport=",
    "sips:alice@example.com;transport=udp",
    "sip:alice@example.com?Subject=x",
    "sip:alice@exam ple.com",
    "sip:ali ce@example.com",
    "sip:ali%4@example.com",
    "sip:ali%zz@example.com",
    'sip:"alice"@example.com',
    "sip:alice@-example.com",
    "sip:alice@example-.com-",
    "sip:alice@ex..ample",
    "sip:alice@.",
    "sip:1.2.3",
    "sip:1.2.3.4.5",
    "sip:256.1.1.1",
    "sip:[::1",
    "sip:::1",
    "sip:[:::1]",
    "sip:[1.2.3.4]",
    "sip:[fe80::1%eth0]",
    "<sip:alice@example.com>",
    "Alice <sip:alice@example.com>",
    "sip:alice@example.com>",
    "sip:alice@example.com,sip:bob@example.com",
    "sip:älice@example.com",
    "sip:alice@exämple.com",
    " sip:alice@example.com",
    "sip:alice@example.com ",
    "sip:alice@example.com\r\nX: y",
    "sip:alice@example.com\n",
    "sip:ali\x00ce@example.com",
    "sip:ali\x7fce@example.com",
    "sip:ali\ud800ce@example.com",
    "sip:" + "a" * 1020 + "@example.com",
    "sip:alice@" + "a" * 2000,
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_uri_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(pjsip.InvalidUriError, match="the field") as caught:
        uris.parse_uri("the field", text)
    str(caught.value).encode()  # to be printed and logged without a second error
    assert "\n" not in str(caught.value)
    assert "\x00" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 1, b"sip:a@b", ["sip:a@b"], object()])
def test_a_uri_is_a_str(value: object) -> None:
    with pytest.raises(pjsip.InvalidUriError, match="must be a str"):
        uris.parse_uri("uri", value)


def test_the_message_says_what_to_do() -> None:
    for text, why in [
        ("Alice <sip:alice@example.com>", "display_name"),
        ("alice@example.com", "must begin with sip: or sips:"),
        ("sip:älice@example.com", "%-escaped"),
        ("sip:a@b;transport=ws", "udp, tcp or tls"),
    ]:
        with pytest.raises(pjsip.InvalidUriError, match=why):
            uris.parse_uri("aor", text)
    with pytest.raises(pjsip.InvalidUriError, match="no user part"):
        uris.parse_aor("aor", "sip:example.com")
    with pytest.raises(pjsip.InvalidUriError, match="has a user part"):
        uris.parse_registrar("registrar", AOR)


def test_the_parts_of_a_uri() -> None:
    uri = uris.parse_uri("uri", "sip:alice@[::1]:5070;Transport=TCP;lr;ob=1")
    assert (uri.scheme, uri.user, uri.host, uri.port) == ("sip", "alice", "::1", 5070)
    assert uri.params == {"transport": "TCP", "lr": "", "ob": "1"}
    assert (uri.transport, uri.is_address) == ("tcp", True)
    assert uris.parse_uri("uri", "sips:example.com").transport == "tls"
    assert uris.parse_uri("uri", "sip:example.com").transport == "udp"


@pytest.mark.parametrize(
    ("aor", "registrar"),
    [
        ("sip:alice@example.com", "sip:example.com"),
        ("sip:alice@example.com:5070", "sip:example.com:5070"),
        ("sip:alice@[::1]:5070", "sip:[::1]:5070"),
        ("sips:alice@example.com", "sips:example.com"),
        ("sip:alice@example.com;transport=tcp", "sip:example.com;transport=tcp"),
    ],
)
def test_the_default_registrar_is_the_domain(aor: str, registrar: str) -> None:
    assert uris.default_registrar(uris.parse_aor("aor", aor)).text == registrar


# -- what is accepted, PJSIP accepts --------------------------------------------------------------

_user = st.text(string.ascii_letters + string.digits + "-_.!~*'()&=+$,;?/", min_size=1, max_size=20)
_label = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9\-_]{0,10}[A-Za-z0-9])?", fullmatch=True)
_host = st.one_of(
    st.lists(_label, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
)
_param_text = st.text(
    string.ascii_letters + string.digits + "-_.!~*'()[]/:&+$", min_size=1, max_size=8
)
_uri = st.builds(
    lambda scheme, user, password, host, port, params: (
        f"{scheme}:{user}{':' + password if password is not None else ''}@{host}"
        f"{':' + str(port) if port else ''}"
        + "".join(f";{n}" + ("" if v is None else f"={v}") for n, v in params.items())
    ),
    st.sampled_from(["sip", "sips", "SIP", "Sips"]),
    _user,
    st.none() | st.text(string.ascii_letters + string.digits + "-_.!~*'()&=+$,", max_size=8),
    _host,
    st.integers(0, 65535),
    st.dictionaries(_param_text, st.none() | _param_text, max_size=3),
)
_any_uri = st.one_of(
    _uri,
    st.text(max_size=40).map("sip:a@".__add__),
    st.text(max_size=40).map("sip:{}@example.com".format),
    st.text(max_size=40).map("sip:a@example.com;".__add__),
)


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A UDP port of ours where nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


@pytest.fixture(scope="module")
def open_ep(silent: int) -> Iterator[pjsip.Endpoint]:
    with pjsip.Endpoint(log_level=0) as ep:
        yield ep


def create_status(client: pjsip.RegistrationClient) -> int:
    """Makes the regc in C, and tells what PJSIP said to its arguments."""
    operation = client.register()
    status = client.info()["create_status"]
    operation.cancel()
    client.close()
    return int(status)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(text=_any_uri)
@example(text="sip:a;b=c?d@example.com")
@example(text="sip:a@example.com;user=phone;method=REGISTER;ttl=1;maddr=127.0.0.1;lr")
@example(text="sip:a@example.com;ttl=x")
@example(text="sip:a@example.com;ttl=256")
@example(text="sip:a@example.com;ttl=-5")
@example(text="sip:a@example.com;maddr=[")
@example(text="sip:a@example.com;a[]=::")
@example(text="sip:a%00b@example.com;x=%0d%0a")
@example(text="sip:a@1.2.3.4.")
@example(text="sip:a:@example.com")
def test_pjsip_takes_every_uri_that_we_take(
    open_ep: pjsip.Endpoint, silent: int, text: str
) -> None:
    try:
        uri = uris.parse_aor("aor", text)
    except pjsip.InvalidUriError:
        return
    server = f"sip:127.0.0.1:{silent}"
    routed = f"sip:127.0.0.1:{silent};lr"
    assert create_status(open_ep.registration(server, text, from_uri=text)) == 0
    if len(text) < 500:
        assert create_status(open_ep.registration(server, AOR, contacts=[text])) == 0
    if uri.transport == "udp":
        registrar = f"{uri.scheme}:" + text.partition("@")[2]
        assert create_status(open_ep.registration(registrar, AOR, route=[routed])) == 0


# -- control characters, everywhere ---------------------------------------------------------------

POISON = {
    "CR": "a\rb",
    "LF": "a\nb",
    "CRLF": "a\r\nX-Injected: yes",
    "NUL": "a\0b",
    "TAB": "a\tb",
    "ESC": "a\x1b[2Jb",
    "DEL": "a\x7fb",
    "surrogate": "a\udc80b",
}

Call = Callable[[pjsip.Endpoint, str, str], object]  # endpoint, registrar, poison


def registration(**fields: Callable[[str], Any]) -> Call:
    def call(ep: pjsip.Endpoint, server: str, poison: str) -> object:
        options: dict[str, Any] = {name: make(poison) for name, make in fields.items()}
        return ep.registration(options.pop("registrar", server), options.pop("aor", AOR), **options)

    return call


def account(**fields: Callable[[str], Any]) -> Call:
    def call(ep: pjsip.Endpoint, server: str, poison: str) -> object:
        options: dict[str, Any] = {name: make(poison) for name, make in fields.items()}
        options.setdefault("registrar", server)
        return ep.add_account(options.pop("aor", AOR), **options)

    return call


def client(method: Callable[[pjsip.RegistrationClient, str], object]) -> Call:
    return lambda ep, server, poison: method(ep.registration(server, AOR), poison)


ARGUMENTS: dict[str, Call] = {
    "registration registrar": registration(registrar=lambda p: f"sip:{p}"),
    "registration aor user": registration(aor=lambda p: f"sip:{p}@example.com"),
    "registration aor host": registration(aor=lambda p: f"sip:alice@{p}"),
    "registration aor param": registration(aor=lambda p: f"{AOR};x={p}"),
    "registration aor tail": registration(aor=lambda p: AOR + p),
    "registration from_uri": registration(from_uri=lambda p: f"sip:{p}@example.com"),
    "registration display_name": registration(display_name=lambda p: p),
    "registration contacts": registration(contacts=lambda p: [f"sip:{p}@127.0.0.1"]),
    "registration contact name": registration(contacts=lambda p: [f'"{p}" <sip:a@127.0.0.1>']),
    "registration contact param": registration(contacts=lambda p: [f"<sip:a@127.0.0.1>;x={p}"]),
    "registration contact quoted": registration(contacts=lambda p: [f'<sip:a@127.0.0.1>;x="{p}"']),
    "registration route": registration(route=lambda p: [f"sip:{p}"]),
    "registration route name-addr": registration(route=lambda p: [f"{p} <sip:127.0.0.1>"]),
    "registration header name": registration(headers=lambda p: {p: "x"}),
    "registration header value": registration(headers=lambda p: [("X-Header", p)]),
    "registration contact_params name": registration(contact_params=lambda p: {p: "x"}),
    "registration contact_params value": registration(contact_params=lambda p: {"x": p}),
    "registration contact_params quoted": registration(contact_params=lambda p: {"x": f'"{p}"'}),
    "registration contact_params text": registration(contact_params=lambda p: f";x={p}"),
    "registration contact_uri_params": registration(contact_uri_params=lambda p: {"x": p}),
    "registration credentials username": registration(
        credentials=lambda p: pjsip.Credentials(p, PASSWORD)
    ),
    "registration credentials password": registration(
        credentials=lambda p: pjsip.Credentials("alice", p)
    ),
    "registration credentials realm": registration(
        credentials=lambda p: pjsip.Credentials("alice", PASSWORD, realm=p)
    ),
    "registration credentials ha1": registration(
        credentials=lambda p: pjsip.Credentials("alice", ha1=p.ljust(32, "0")[:32], realm="r")
    ),
    "registration credentials min_algorithm": registration(
        credentials=lambda p: pjsip.Credentials("alice", PASSWORD, min_algorithm=p)
    ),
    "account aor": account(aor=lambda p: f"sip:{p}@example.com"),
    "account registrar": account(registrar=lambda p: f"sip:{p}"),
    "account display_name": account(display_name=lambda p: p),
    "account header value": account(headers=lambda p: {"X-Header": p}),
    "account route": account(route=lambda p: [f"sip:{p}"]),
    "account contacts": account(contacts=lambda p: [f"sip:{p}@127.0.0.1"]),
    "account contact_uri_params": account(contact_uri_params=lambda p: {p: None}),
    "account from_uri": account(from_uri=lambda p: f"sip:{p}@example.com"),
    "update_contacts": client(lambda c, p: c.update_contacts([f"sip:{p}@127.0.0.1"])),
    "update_contacts text": client(lambda c, p: c.update_contacts(f"<sip:a@127.0.0.1>;x={p}")),
    "set_credentials": client(lambda c, p: c.set_credentials(pjsip.Credentials(p, PASSWORD))),
    "listen protocol": lambda ep, server, poison: ep.listen(poison),
    "listen host": lambda ep, server, poison: ep.listen("udp", poison),
    "user_agent": lambda ep, server, poison: pjsip.EndpointConfig(user_agent=poison),
    "tls ca_file": lambda ep, server, poison: pjsip.TlsConfig(ca_file=poison),
    "tls ca_path": lambda ep, server, poison: pjsip.TlsConfig(ca_path=poison),
    "tls cert_file": lambda ep, server, poison: pjsip.TlsConfig(cert_file=poison, key_file=poison),
    "tls key_password": lambda ep, server, poison: pjsip.TlsConfig(
        cert_file=__file__, key_file=__file__, key_password=poison
    ),
    "tls versions": lambda ep, server, poison: pjsip.TlsConfig(versions=(poison,)),
}


@pytest.fixture(scope="module")
def registrar() -> Iterator[Registrar]:
    with Registrar() as server:
        yield server


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("call", ARGUMENTS.values(), ids=ARGUMENTS)
def test_control_characters_are_refused_everywhere(
    open_ep: pjsip.Endpoint, registrar: Registrar, call: Call, poison: str
) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError)) as caught:
        call(open_ep, registrar.uri(), poison)
    str(caught.value).encode()
    assert poison not in str(caught.value)
    assert create_status(open_ep.registration(registrar.uri(), AOR)) == 0


_bad_char = st.one_of(
    st.integers(0, 31).map(chr),
    st.just("\x7f"),
    st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=["Cs"]),
)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(ARGUMENTS)),
    before=st.text(max_size=10),
    bad=_bad_char,
    after=st.text(max_size=10),
)
def test_any_text_with_a_control_character_is_refused(
    open_ep: pjsip.Endpoint, registrar: Registrar, name: str, before: str, bad: str, after: str
) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError)) as caught:
        ARGUMENTS[name](open_ep, registrar.uri(), before + bad + after)
    str(caught.value).encode()


def test_after_all_that_the_endpoint_registers(
    open_ep: pjsip.Endpoint, registrar: Registrar
) -> None:
    client = open_ep.registration(registrar.uri(), AOR)
    assert client.register().result(5).code == 200
    client.close()
    assert not any(b"Injected" in request.data for request in registrar.requests)
    assert open_ep.stats()["assertions"] == 0


def _is_refused(char: str) -> bool:
    return ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(text=st.text(min_size=1, max_size=60), name=st.sampled_from(["display", "header", "user"]))
@example(text='a" <sip:x@y>;expires=0\\', name="display")
@example(text="\\", name="display")
@example(text='"', name="user")
@example(text='x", realm="y', name="user")  # PJSIP does not escape it, so it is refused
@example(text="  ", name="header")
@example(text="é☃𝄞", name="display")
def test_any_text_arrives_as_it_is_or_is_refused(
    open_ep: pjsip.Endpoint, text: str, name: str
) -> None:
    """A display name, header value or user name cannot become anything else on the wire."""
    fields: dict[str, dict[str, Any]] = {
        "display": {"display_name": text},
        "header": {"headers": {"X-Text": text}},
        "user": {},
    }
    options = fields[name]
    user = text if name == "user" else "alice"
    with Registrar(users={user: PASSWORD}) as server:
        try:
            credentials = pjsip.Credentials(user, PASSWORD)
            client = open_ep.registration(server.uri(), AOR, credentials=credentials, **options)
        except pjsip.ConfigError:
            refused = [c for c in text if c not in '"\\' or name != "user"]
            assert any(_is_refused(c) for c in refused) or len(refused) < len(text)
            return
        result = client.register().result(5)
        assert result.code == 200  # so the user name arrived, for the digest counts it in
        message = server.requests[-1].message
        lines = server.requests[-1].data.decode().split("\r\n")
        if name == "display":
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            assert f'To: "{quoted}" <{AOR}>' in lines
        elif name == "header":
            assert (message.headers.get("X-Text") or "").strip() == text.strip()
        assert len([line for line in lines if line.startswith("Contact")]) == 1
        client.close()


# -- numbers, counts and names --------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {
    "expires 0": {"expires": 0},
    "expires negative": {"expires": -1},
    "expires too large": {"expires": 2**31},
    "expires text": {"expires": "300"},
    "expires bool": {"expires": True},
    "expires float": {"expires": 300.5},
    "timeout 0": {"timeout": 0},
    "timeout negative": {"timeout": -1.0},
    "timeout nan": {"timeout": float("nan")},
    "timeout inf": {"timeout": float("inf")},
    "timeout text": {"timeout": "1"},
    "eleven contacts": {"contacts": [f"sip:a{i}@127.0.0.1" for i in range(11)]},
    "no contacts": {"contacts": []},
    "contact twice": {"contacts": ["sip:a@127.0.0.1", "sip:a@127.0.0.1"]},
    "contact *": {"contacts": ["*"]},
    "contact not closed": {"contacts": ["<sip:a@127.0.0.1"]},
    "contact with tail": {"contacts": ["<sip:a@127.0.0.1> x"]},
    "two contacts in one": {"contacts": ["<sip:a@127.0.0.1>, <sip:b@127.0.0.1>"]},
    "contact before a contact": {"contacts": ["sip:x@y.z, <sip:a@127.0.0.1>"]},
    "contact name with a quote": {"contacts": ['a" <sip:a@127.0.0.1>']},
    "contact open quote": {"contacts": ['<sip:a@127.0.0.1>;x="y']},
    "contact URI over 1023 bytes": {"contacts": ["sip:" + "a" * 1013 + "@127.0.0.1"]},
    "contact over 2 kB": {"contacts": ["<sip:a@127.0.0.1>;x=" + "a" * 2040]},
    "contacts number": {"contacts": 5},
    "contact params over 4 kB": {"contacts": None, "contact_params": {"x": "y" * 4097}},
    "nine credentials": {"credentials": [pjsip.Credentials(f"u{i}", "p") for i in range(9)]},
    "credentials text": {"credentials": "alice:secret"},
    "credentials pairs": {"credentials": [("alice", "secret")]},
    "headers text": {"headers": "X: y"},
    "headers triple": {"headers": [("X", "y", "z")]},
    "header name with space": {"headers": {"X Y": "z"}},
    "header name with colon": {"headers": {"X:": "z"}},
    "header name empty": {"headers": {"": "z"}},
    "header value number": {"headers": {"X": 5}},
    "header too long": {"headers": {"X": "y" * 5000}},
    "headers too many": {"headers": [(f"X-{i}", "y") for i in range(33)]},
    "route not sip": {"route": ["tel:1"]},
    "route number": {"route": 5},
    "routes too many": {"route": ["sip:127.0.0.1"] * 9},
    "contact_params with contacts": {"contacts": ["sip:a@b.c"], "contact_params": {"x": "y"}},
    "contact_params not a token": {"contact_params": {"x": "y z"}},
    "contact_params injects": {"contact_params": {"x": "y>;z"}},
    "contact_uri_params closes": {"contact_uri_params": {"x": "y>"}},
    "contact_params open quote": {"contact_params": ';x="y'},
    "contact_params number": {"contact_params": 5},
    "from_uri without user": {"from_uri": "sip:example.com"},
    "transport text": {"transport": "udp"},
    "tls text": {"tls": "yes"},
    "tls without sips": {"tls": pjsip.TlsConfig(insecure=True)},
    "display_name too long": {"display_name": "x" * 257},
    "display_name number": {"display_name": 5},
}


@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_an_error_at_once(
    open_ep: pjsip.Endpoint, registrar: Registrar, options: dict[str, Any]
) -> None:
    for call in (
        lambda: open_ep.registration(registrar.uri(), AOR, **options),
        lambda: open_ep.add_account(AOR, registrar=registrar.uri(), **options),
        lambda: pjsip.AccountConfig(aor=AOR, registrar=registrar.uri(), **options),
    ):
        with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError)) as caught:
            call()
        assert str(caught.value)
    assert create_status(open_ep.registration(registrar.uri(), AOR)) == 0


@pytest.mark.parametrize("header", sorted(uris._OWN_HEADERS))
def test_a_header_of_pjsips_own_is_refused(header: str) -> None:
    with pytest.raises(pjsip.ConfigError, match=f"(?i){header}"):
        uris.check_headers({header.upper(): "x"})


@pytest.mark.parametrize(
    "call",
    [
        lambda ep: ep.registration("sip:127.0.0.1", AOR, expire_s=5),
        lambda ep: ep.add_account(AOR, expire_s=5),
        lambda ep: pjsip.Endpoint(expire_s=5),
        lambda ep: pjsip.AccountConfig(aor=AOR, expire_s=5),  # type: ignore[call-arg]
    ],
    ids=["registration", "account", "endpoint", "config"],
)
def test_an_unknown_field_is_named(
    open_ep: pjsip.Endpoint, call: Callable[[pjsip.Endpoint], object]
) -> None:
    with pytest.raises((pjsip.ConfigError, TypeError), match="expire_s"):
        call(open_ep)


def test_a_near_miss_is_suggested(open_ep: pjsip.Endpoint) -> None:
    with pytest.raises(pjsip.ConfigError, match="did you mean 'registrar'"):
        open_ep.add_account(AOR, registrer="sip:127.0.0.1")
    with pytest.raises(pjsip.ConfigError, match="not both"):
        open_ep.add_account(pjsip.AccountConfig(aor=AOR), expires=5)


@pytest.mark.parametrize("port", [-1, 65536, 2**31, "5060", 1.5, True, None])
def test_a_port_out_of_range_is_refused(open_ep: pjsip.Endpoint, port: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match="port"):
        open_ep.listen("udp", "127.0.0.1", port)
