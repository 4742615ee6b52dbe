# SPDX-License-Identifier: GPL-3.0-or-later
"""The message trace and the log, and that no secret is in them or anywhere else."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pjsip_py as pjsip
from pjsip_py import _ffi
from pjsip_py.testing import Answer, Registrar

pytestmark = pytest.mark.timeout(20)

AOR = "sip:alice@example.com"
PASSWORD = "Tr0ub4dor&3"
HIDDEN = "5e884898da28047151d0e56f8dc62927"

# -- the trace ------------------------------------------------------------------------------------


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(protocols=("udp", "tcp", "tls"), users={"alice": PASSWORD}) as server:
        yield server


def register(
    ep: pjsip.Endpoint, registrar: Registrar, protocol: str = "udp"
) -> pjsip.RegistrationResult:
    tls = pjsip.TlsConfig(ca_file=registrar.ca_file) if protocol == "tls" else None
    client = ep.registration(
        registrar.uri(protocol), AOR, credentials=pjsip.Credentials("alice", PASSWORD), tls=tls
    )
    result = client.register().result(5)
    client.close()
    return result


@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_every_message_is_traced_with_its_addresses(registrar: Registrar, protocol: str) -> None:
    with pjsip.Endpoint(trace=True, strict=True) as ep:
        messages: list[pjsip.SipMessage] = []
        ep.on(pjsip.SipMessage, messages.append)
        register(ep, registrar, protocol)
    assert [
        (m.direction, m.start_line.split()[0 if m.direction == "tx" else 1]) for m in messages
    ] == [
        ("tx", "REGISTER"),
        ("rx", "401"),
        ("tx", "REGISTER"),
        ("rx", "200"),
    ]
    host, port = registrar.address(protocol)
    for message in messages:
        assert message.protocol == protocol
        assert message.remote == f"{host}:{port}"
        assert message.local.startswith("127.0.0.1:")
        assert message.headers["Call-ID"] == registrar.requests[0].call_id
        assert message.headers["cseq"].endswith("REGISTER")
        assert message.text.endswith("\r\n\r\n")
        assert PASSWORD not in repr(message)
    sequence = [m.seq for m in messages]
    assert sequence == sorted(sequence)


def test_the_trace_is_off_unless_asked_for_and_can_be_switched(registrar: Registrar) -> None:
    with pjsip.Endpoint(strict=True) as ep:
        messages: list[pjsip.SipMessage] = []
        ep.on(pjsip.SipMessage, messages.append)
        register(ep, registrar)
        assert messages == []
        ep.trace()
        register(ep, registrar)
        assert len(messages) == 4
        ep.trace(False)
        register(ep, registrar)
        assert len(messages) == 4


def test_the_digest_is_blotted_out_and_nothing_else(registrar: Registrar) -> None:
    with pjsip.Endpoint(trace=True, strict=True) as ep:
        messages: list[pjsip.SipMessage] = []
        ep.on(pjsip.SipMessage, messages.append)
        register(ep, registrar)
    sent = registrar.requests[1]
    text = messages[2].text
    assert len(text.encode()) == len(sent.data)
    real = sent.headers.get("Authorization") or ""
    shown = messages[2].headers["Authorization"]
    hidden = re.compile(r'(response|cnonce)="[^"]*"')
    assert hidden.sub("", shown) == hidden.sub("", real)
    assert re.search(r'response="\*+"', shown)
    assert re.search(r'cnonce="\*+"', shown)
    digest = re.search(rb'response="([0-9a-f]+)"', sent.data)
    assert digest is not None
    assert digest[1].decode() not in "".join(m.text for m in messages)


def test_no_secret_anywhere(registrar: Registrar, caplog: pytest.LogCaptureFixture) -> None:
    """Password, HA1 and digests: in no log, event, error, repr or traceback."""
    ha1 = "0123456789abcdef" * 2
    texts: list[str] = []
    with caplog.at_level(0), pjsip.Endpoint(trace=True, log_level=5, user_agent="x") as ep:
        ep.on(pjsip.Event, lambda e: texts.append(repr(e)))
        register(ep, registrar)
        registrar.script(
            Answer(401, headers={"WWW-Authenticate": 'Digest realm="example.com", nonce="n"'}),
            times=3,
        )
        for credentials in (
            pjsip.Credentials("alice", PASSWORD),
            pjsip.Credentials("alice", "wrong-" + PASSWORD),
            pjsip.Credentials("alice", ha1={"MD5": ha1}, realm="example.com"),
        ):
            client = ep.registration(registrar.uri(), AOR, credentials=credentials)
            try:
                client.register().result(5)
            except pjsip.PjsipError as error:
                texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
                texts.append(repr(getattr(error, "response", None)))
            texts += [repr(client), repr(client.info()), repr(credentials), repr(client._config)]
            client.close()
        account = ep.add_account(AOR, registrar=registrar.uri(), credentials=credentials)
        names = set(pjsip.Account.__slots__) - {"__weakref__"}
        attributes = {name: getattr(account, name) for name in names}
        texts += [repr(account), repr(account.config), repr(attributes)]
        texts += [repr(ep), repr(ep.stats()), repr(ep.callback_errors)]
    digests = {
        found.decode()
        for request in registrar.requests
        for found in re.findall(rb'(?:response|cnonce)="([^"]+)"', request.data)
    }
    assert len(digests) >= 4
    everything = "\n".join([caplog.text, *texts])
    for secret in {PASSWORD, ha1, *digests}:
        assert secret not in everything


def test_a_response_is_redacted_too(registrar: Registrar) -> None:
    with Registrar() as server, pjsip.Endpoint(trace=True, strict=True) as ep:
        messages: list[pjsip.SipMessage] = []
        ep.on(pjsip.SipMessage, messages.append)
        info = f'qop=auth, rspauth="{HIDDEN}", cnonce="{HIDDEN}", nc=00000001'
        server.script(Answer(200, headers={"Authentication-Info": info}))
        response = ep.registration(server.uri(), AOR).register().result(5).response
        assert HIDDEN not in messages[-1].text
        assert HIDDEN.encode() not in response.raw
        assert "qop=auth" in response.headers["Authentication-Info"]


# -- the log --------------------------------------------------------------------------------------


def test_pjsips_log_goes_to_its_logger(
    registrar: Registrar, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), pjsip.Endpoint(log_level=5) as ep:
        register(ep, registrar)
    records = [r for r in caplog.records if r.name == "pjsip"]
    assert any("REGISTER" in r.getMessage() for r in records)
    assert not any(r.getMessage().endswith(("\n", " ")) for r in records)
    out, _ = capfd.readouterr()
    assert out == ""


def test_the_levels_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pjsip.Endpoint(log_level=5) as ep:
        transport = ep.listen("udp", "127.0.0.1")
        with pytest.raises(pjsip.TransportError):
            ep.listen("udp", "127.0.0.1", transport.port)
    levels = {r.levelno for r in caplog.records if r.name == "pjsip"}
    assert logging.DEBUG in levels
    assert levels <= {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}


# -- redaction ------------------------------------------------------------------------------------


def redact(text: str) -> str:
    return _ffi.redact(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "value",
    [
        f'Digest username="a", realm="r", response="{HIDDEN}"',
        f"Digest username=a,response={HIDDEN}",
        f'digest\tRESPONSE = "{HIDDEN}"',
        f'Digest response="\\"{HIDDEN}"',
        f'Digest realm="a, response=\\"", response="{HIDDEN}"',
        f'Digest realm="r",\r\n response="{HIDDEN}"',
        f'Digest realm="r",\r\n\tcnonce="{HIDDEN}", nc=1',
        f"Digest response='{HIDDEN}'",
        f'Digest response="{HIDDEN}',
        f"Digest {HIDDEN}",
        f'Digest x="y" {HIDDEN}',
        f'Digest auts="{HIDDEN}"',
        f'Digest unknown="{HIDDEN}"',
        f"Basic {HIDDEN}",
        f"Bearer {HIDDEN}",
        f"{HIDDEN}",
        f'NTLM realm="r", gssapi-data="{HIDDEN}"',
        f", Digest response={HIDDEN}",
        f'Digest realm="r", Bearer {HIDDEN}',
    ],
)
@pytest.mark.parametrize("name", ["Authorization", "proxy-authorization", "AUTHORIZATION "])
def test_a_proof_is_blotted_out_in_any_form(name: str, value: str) -> None:
    text = f"REGISTER sip:x SIP/2.0\r\nTo: <sip:a@b>\r\n{name}: {value}\r\nX: y\r\n\r\nbody"
    result = redact(text)
    assert HIDDEN not in result
    assert len(result) == len(text)
    assert result.startswith("REGISTER sip:x SIP/2.0\r\nTo: <sip:a@b>\r\n")
    assert result.endswith("\r\nX: y\r\n\r\nbody")


def test_what_proves_nothing_is_left_alone() -> None:
    text = (
        'SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm="r", nonce="n", opaque="o"\r\n'
        "Subject: Authorization: none\r\nX: a response, 5\r\nContact: <sip:a@b>;expires=5\r\n\r\n"
    )
    assert redact(text) == text


def test_several_headers_are_all_redacted() -> None:
    line = f'Authorization: Digest realm="r", response="{HIDDEN}"\r\n'
    text = "REGISTER sip:x SIP/2.0\r\n" + line * 3 + "Proxy-" + line + "\r\n"
    assert HIDDEN not in redact(text)
    assert redact(text).count('realm="r"') == 4


_public = ["username", "realm", "nonce", "uri", "algorithm", "opaque", "qop", "nc"]
_gap = st.sampled_from(["", " ", "\t", "\r\n ", "\r\n\t ", "  "])
_plain = st.text(st.characters(codec="ascii", exclude_characters='"\\\r\n\0,= \t'), max_size=12)
_param = st.tuples(st.sampled_from([*_public, "response", "cnonce", "x", ""]), _gap, _gap, _plain)


@given(
    before=st.lists(_param, max_size=4),
    after=st.lists(_param, max_size=4),
    scheme=st.sampled_from(["Digest", "digest", "DIGEST", "Bearer", "Basic", "", "Digest,", "X"]),
    name=st.sampled_from(["response", "cnonce", "RESPONSE", "Response", "rspauth", "token"]),
    gaps=st.tuples(_gap, _gap, _gap),
    quoted=st.booleans(),
    escaped=st.booleans(),
    header=st.sampled_from(["Authorization", "Proxy-Authorization", "authorization"]),
)
def test_a_secret_never_stays(
    before: list[tuple[str, str, str, str]],
    after: list[tuple[str, str, str, str]],
    scheme: str,
    name: str,
    gaps: tuple[str, str, str],
    quoted: bool,
    escaped: bool,
    header: str,
) -> None:
    """Whatever stands round it in a header that PJSIP or a peer could write."""
    secret = ('\\"' if quoted and escaped else "") + HIDDEN
    value = f'"{secret}"' if quoted else secret
    parts = [f'{n}{a}={b}"{v}"' for n, a, b, v in before]
    parts.append(f"{name}{gaps[1]}={gaps[2]}{value}")
    parts += [f"{n}{a}={b}{v}" for n, a, b, v in after]
    text = (
        f"REGISTER sip:x SIP/2.0\r\n{header}:{gaps[0]}{scheme} {', '.join(parts)}\r\nTo: x\r\n\r\n"
    )
    result = redact(text)
    assert HIDDEN not in result
    assert len(result) == len(text)
    assert result.startswith("REGISTER sip:x SIP/2.0\r\n")
    assert result.endswith("\r\nTo: x\r\n\r\n")
    assert redact(result) == result


@given(raw=st.binary(max_size=300))
@example(raw=b"")
@example(raw=b"Authorization")
@example(raw=b"Authorization:")
@example(raw=b"\nAuthorization:\n \n")
@example(raw=b'Authorization: Digest x="\\')
@example(raw=b'Authorization: Digest x="')
@example(raw=b"Authorization: Digest x=")
@example(raw=b"\0Authorization: Digest response=1\0")
def test_any_bytes_can_be_redacted(raw: bytes) -> None:
    for data in (raw, b"Authorization: Digest " + raw, b"a\r\nProxy-Authorization:" + raw):
        result = _ffi.redact(data)
        assert len(result) == len(data)
        # Only non-space bytes become stars; lines stay lines.
        changed = [(a, b) for a, b in zip(data, result, strict=True) if a != b]
        assert all(b == ord("*") and a not in b" \t\r\n" for a, b in changed)


def test_redaction_takes_linear_time() -> None:
    for data in (
        b"Authorization: Digest " + b'a="b",' * 200_000,
        b"Authorization: Digest " + b"\\" * 1_000_000,
        b"Authorization:\r\n " * 100_000,
        b":" * 1_000_000,
    ):
        assert len(_ffi.redact(data)) == len(data)
