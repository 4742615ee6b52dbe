# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest responses: PJSIP's own function and whole registrations against hashlib and the RFCs.

The judge is ``pjsip_py.testing.digest.digest_response``, which shares nothing with PJSIP; that
it is right is shown by the vectors that the RFCs print.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import leaks
import pytest
from c_targets import build, options
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Registrar
from pjsip_py.testing.digest import ALGORITHMS, DigestCredentials, digest_response

EXAMPLES = 334  # for each of the three algorithms


class Case(NamedTuple):
    """What goes into one response; without nc there is no qop, else it is "auth"."""

    algorithm: str
    username: str
    realm: str
    password: str
    method: str
    uri: str
    nonce: str
    nc: str = ""
    cnonce: str = ""

    def judged(self) -> str:
        parameters = {**self._asdict(), "qop": "auth"}
        if not self.nc:
            del parameters["qop"]
        return digest_response(parameters, self.password, self.method)

    def ha1(self) -> str:
        return ha1(self.algorithm, self.username, self.realm, self.password)

    def line(self, kind: str) -> bytes:
        """The case as cbuild/tests/digest.c reads it."""
        secret = self.password if kind == "password" else self.ha1()
        strings = [self.algorithm, kind, secret, self.username, self.realm]
        strings += [self.method, self.uri, self.nonce, self.nc, self.cnonce]
        return b"".join(text.encode() + b"\0" for text in strings)


def ha1(algorithm: str, *parts: str) -> str:
    return hashlib.new(ALGORITHMS[algorithm], ":".join(parts).encode()).hexdigest()


def algorithms() -> Sequence[str]:
    """What this build of PJSIP computes: the SHA-2 digests come with OpenSSL."""
    return tuple(ALGORITHMS) if options()["tls"] else ("MD5",)


@pytest.fixture(scope="module")
def program() -> Path:
    return build("digest") / "digest"


def pjsip_responses(program: Path, cases: Sequence[Case], kind: str) -> list[str]:
    """What PJSIP makes of them with the password, or with its "ha1"."""
    done = subprocess.run(
        [program],
        input=b"".join(case.line(kind) for case in cases),
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


# -- what the RFCs print --------------------------------------------------------------------------

_7616 = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
_7616_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
_2617 = "dcd98b7102dd2f0e8b11d0f600bfb0c093"

# RFC 8760 prints no digests: it takes these over for SIP.  RFC 3261's and RFC 3665's are made up.
VECTORS = {
    "RFC 7616, 3.9.1, MD5": (
        Case(
            *("MD5", "Mufasa", "http-auth@example.org", "Circle of Life", "GET"),
            *("/dir/index.html", _7616, "00000001", _7616_CNONCE),
        ),
        "8ca523f5e9506fed4657c9700eebdbec",
    ),
    "RFC 7616, 3.9.1, SHA-256": (
        Case(
            *("SHA-256", "Mufasa", "http-auth@example.org", "Circle of Life", "GET"),
            *("/dir/index.html", _7616, "00000001", _7616_CNONCE),
        ),
        "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
    ),
    # As erratum 4897 has it: the RFC itself printed a SHA-512 that was cut off.
    "RFC 7616, 3.9.2, SHA-512-256": (
        Case(
            *("SHA-512-256", "Jäsøn Doe", "api@example.org", "Secret, or not?", "GET"),
            *("/doe.json", "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", "00000001"),
            "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
        ),
        "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
    ),
    "RFC 2617, 3.5": (
        Case(
            *("MD5", "Mufasa", "testrealm@host.com", "Circle Of Life", "GET"),
            *("/dir/index.html", _2617, "00000001", "0a4f113b"),
        ),
        "6629fae49393a05397450978507c4ef1",
    ),
    # As erratum 749 has it; RFC 3261, 22.4 keeps this form for challenges without qop.
    "RFC 2069, 2.4, no qop": (
        Case(
            *("MD5", "Mufasa", "testrealm@host.com", "CircleOfLife", "GET"),
            *("/dir/index.html", _2617),
        ),
        "1949323746fe6a43ef61f9606e7febea",
    ),
    "draft-smith-sipping-auth-examples-01, 3.1, no qop": (
        Case("MD5", "bob", "biloxi.com", "zanzibar", "INVITE", "sip:bob@biloxi.com", _2617),
        "bf57e4e0d0bffc0fbaedce64d59add5e",
    ),
    "draft-smith-sipping-auth-examples-01, 3.3, auth": (
        Case(
            *("MD5", "bob", "biloxi.com", "zanzibar", "INVITE", "sip:bob@biloxi.com"),
            *(_2617, "00000001", "0a4f113b"),
        ),
        "89eb0059246c02b2f6ee02c7961d5ea3",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_judge_gives_what_the_rfc_prints(name: str) -> None:
    case, printed = VECTORS[name]
    assert case.judged() == printed


@pytest.mark.parametrize("kind", ["password", "ha1"])
@pytest.mark.parametrize("name", VECTORS)
def test_pjsip_gives_what_the_rfc_prints(program: Path, name: str, kind: str) -> None:
    case, printed = VECTORS[name]
    if case.algorithm not in algorithms():
        pytest.skip("this build has no TLS, and so no SHA-2 digests (PJSIP_PY_TLS=off)")
    assert pjsip_responses(program, [case], kind) == [printed]


# -- PJSIP's function against hashlib -------------------------------------------------------------

# All that Credentials takes: no control characters, and nothing that needs an escape in quotes.
_characters = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
_quotable = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\\')
usernames = st.text(_quotable, min_size=1, max_size=40)
realms = st.text(_quotable, min_size=1, max_size=40)
passwords = st.just("") | st.text(_characters, max_size=60).map(leaks.marked)
nonces = st.text(_quotable, min_size=1, max_size=60)
_label = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_hosts = st.one_of(
    st.lists(_label, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
_parameters = st.from_regex(
    r"(;x-[a-z]{1,8}(=([A-Za-z0-9_.!~+-]|%[0-9A-F]{2}){1,12})?)?", fullmatch=True
)
uris = st.builds(
    lambda host, port, parameters: f"sip:{host}{port}{parameters}",
    _hosts,
    st.one_of(st.just(""), st.integers(1, 65535).map(":{}".format)),
    _parameters,
)


def test_pjsips_function_agrees_with_hashlib(program: Path) -> None:
    """One process computes what hypothesis has gathered."""
    cases: list[Case] = []

    @settings(max_examples=200, deadline=None, database=None)
    @given(
        st.builds(
            Case,
            st.sampled_from(algorithms()),
            usernames,
            realms,
            passwords,
            st.sampled_from(["REGISTER", "OPTIONS"]),
            uris,
            nonces,
            st.one_of(st.just(""), st.integers(1, 2**32 - 1).map("{:08x}".format)),
            nonces,
        )
    )
    def gather(case: Case) -> None:
        cases.append(case)

    gather()
    for kind in ("password", "ha1"):
        for case, response in zip(cases, pjsip_responses(program, cases, kind), strict=True):
            assert response == case.judged(), (kind, case)


# -- whole registrations --------------------------------------------------------------------------


class World(NamedTuple):
    registrar: Registrar
    endpoint: pjsip.Endpoint


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """TCP: what does not fit a datagram is no case of its own."""
    with Registrar(protocols=("tcp",)) as registrar, pjsip.Endpoint(log_level=1) as endpoint:
        yield World(registrar, endpoint)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_registrations_prove_what_hashlib_computes(world: World, algorithm: str) -> None:
    if algorithm not in algorithms():
        pytest.skip("this build has no TLS, and so no SHA-2 digests (PJSIP_PY_TLS=off)")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        username=usernames,
        realm=realms,
        password=passwords,
        uri=uris,
        nonce=nonces,
        qop=st.sampled_from(["", 'qop="auth"', 'qop="auth,auth-int"', "qop=auth"]),
        proxy=st.booleans(),
        kind=st.sampled_from(["password", "password for the realm", "ha1"]),
    )
    @example("bob", "biloxi.com", "zanzibar", "sip:biloxi.com", _2617, "", False, "password")
    @example("a:b", "c:d", "", "sip:[::1]:5070", "n", 'qop="auth"', True, "ha1")
    @example("Jäsøn Doe", " ", "パスワード", "sip:a", "n", "qop=auth", False, "password")
    def check(
        username: str,
        realm: str,
        password: str,
        uri: str,
        nonce: str,
        qop: str,
        proxy: bool,
        kind: str,
    ) -> None:
        if kind == "ha1":
            digits = ha1(algorithm, username, realm, password)
            credentials = pjsip.Credentials(username, ha1={algorithm: digits}, realm=realm)
        else:
            named = "*" if kind == "password" else realm
            credentials = pjsip.Credentials(username, password, realm=named)
        challenge = ", ".join(
            part
            for part in (f'Digest realm="{realm}"', f'nonce="{nonce}"', _named(algorithm, qop), qop)
            if part
        )
        sent = _register(world, uri, credentials, challenge, proxy)
        assert (sent["username"], sent["realm"], sent["nonce"]) == (username, realm, nonce)
        assert sent["uri"] == world.registrar.requests[-1].uri
        assert sent.get("qop") == ("auth" if qop else None)
        assert sent.get("nc") == ("00000001" if qop else None)
        assert sent.get("algorithm", "MD5") == algorithm
        assert sent["response"] == digest_response(sent, password, "REGISTER")

    check()


def _named(algorithm: str, qop: str) -> str:
    """Left away, it is MD5 (RFC 7616 §3.3)."""
    return "" if algorithm == "MD5" and not qop else f"algorithm={algorithm}"


def _register(
    world: World, uri: str, credentials: pjsip.Credentials, challenge: str, proxy: bool
) -> DigestCredentials:
    """One registration after *challenge*; what it proves itself with."""
    registrar, endpoint = world
    registrar.clear_requests()
    name, code = ("Proxy-Authenticate", 407) if proxy else ("WWW-Authenticate", 401)
    registrar.script(Answer(code, headers={name: challenge}))
    client = endpoint.registration(
        uri,
        "sip:alice@example.com",
        credentials=credentials,
        route=f"<{registrar.uri()};lr>",
    )
    with client:
        assert client.register(auto_refresh=False).result(10).code == 200
    first, second = registrar.requests
    assert first.authorization is None
    answer = "Proxy-Authorization" if proxy else "Authorization"
    (value,) = second.headers.getlist(answer)
    sent = DigestCredentials.parse(value)
    assert sent is not None
    return sent
