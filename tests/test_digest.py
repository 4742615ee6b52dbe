# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest authentication over real sockets: RFC 3261 §22, RFC 7616, RFC 8760.

The registrar computes with hashlib. What it can judge it judges (``request.proofs``); challenges
that no registrar should make are scripted, and their answers computed here.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy import until
from servers.process import has_ipv6_loopback

import pjsip_py as pjsip
from pjsip_py.testing import Answer, Proof, ReceivedRequest, Registrar

pytestmark = pytest.mark.timeout(30)

AOR = "sip:alice@example.com"
PASSWORD = "digest-s3cret"
USERS = {"alice": PASSWORD}
HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
STRONGEST_FIRST = ("SHA-512-256", "SHA-256", "MD5")
DEADLINE = 5.0  # s


def alice(password: str = PASSWORD, **options: Any) -> pjsip.Credentials:
    return pjsip.Credentials("alice", password, **options)


def registered(
    ep: pjsip.Endpoint, server: Registrar, credentials: Any = None, **options: Any
) -> tuple[pjsip.RegistrationClient, pjsip.RegistrationResult]:
    """A client that has registered."""
    client = ep.registration(server.uri(), AOR, credentials=credentials or alice(), **options)
    return client, client.register().result(DEADLINE)


def fails(client: pjsip.RegistrationClient, **options: Any) -> Any:
    """``register()``, which does not succeed: what it raised, with no secret in it."""
    began = time.monotonic()
    error = client.register(**options).exception(DEADLINE)
    assert isinstance(error, pjsip.PjsipError), error
    assert time.monotonic() - began < DEADLINE
    assert PASSWORD not in f"{error} {error!r} {error.hint}"
    return error


def answers(server: Registrar) -> list[int | None]:
    return [request.answered for request in server.requests]


def headers_sent(server: Registrar) -> list[list[str]]:
    """The (Proxy-)Authorization values of each request."""
    return [
        request.headers.getlist("Authorization") + request.headers.getlist("Proxy-Authorization")
        for request in server.requests
    ]


def proofs(server: Registrar) -> list[Proof]:
    return [proof for request in server.requests for proof in request.proofs]


def hashed(algorithm: str, *parts: str | bytes) -> str:
    """The hash of the parts joined with colons, in hexadecimal."""
    data = b":".join(p.encode() if isinstance(p, str) else p for p in parts)
    return hashlib.new(HASHES[algorithm], data, usedforsecurity=False).hexdigest()


def ha1(algorithm: str, realm: str, user: str = "alice", password: str = PASSWORD) -> str:
    return hashed(algorithm, user, realm, password)


# -- every way to prove a password ----------------------------------------------------------------

PLACES = [("udp", "127.0.0.1"), ("tcp", "127.0.0.1")]
PLACES += [("udp", "::1"), ("tcp", "::1")] if has_ipv6_loopback() else []


@pytest.mark.parametrize("qop", [None, "auth", "auth,auth-int", "auth-int,auth"])
@pytest.mark.parametrize("secret", ["password", "ha1"])
@pytest.mark.parametrize("algorithm", HASHES)
def test_a_proof(ep: pjsip.Endpoint, algorithm: str, secret: str, qop: str | None) -> None:
    credentials = alice()
    if secret == "ha1":
        credentials = pjsip.Credentials(
            "alice", ha1={algorithm: ha1(algorithm, "r.example")}, realm="r.example"
        )
    for protocol, host in PLACES:
        with Registrar(
            (protocol,),
            host,
            users=USERS,
            realm="r.example",
            algorithms=(algorithm,),
            qop=qop,
            nc_check="exact",
        ) as server:
            client, result = registered(ep, server, credentials)
            assert (result.algorithm, result.offered) == (algorithm, (algorithm,))
            again = client.register().result(DEADLINE)
            assert (again.algorithm, again.offered) == (algorithm, ())
            assert answers(server) == [401, 200, 200], (protocol, host)
            found = [(p.algorithm, p.qop, p.nc) for p in proofs(server)]
            counts = (1, 2) if qop else (None, None)
            assert found == [(algorithm, "auth" if qop else "", count) for count in counts]
            assert [len(values) for values in headers_sent(server)] == [0, 1, 1]


@pytest.mark.parametrize("algorithm", HASHES)
def test_auth_int_alone_is_not_supported(ep: pjsip.Endpoint, algorithm: str) -> None:
    for protocol, host in PLACES:
        with Registrar(
            (protocol,), host, users=USERS, algorithms=(algorithm,), qop="auth-int"
        ) as server:
            client = ep.registration(server.uri(), AOR, credentials=alice())
            error = fails(client)
            assert isinstance(error, pjsip.UnsupportedAlgorithmError)
            assert "auth-int" in f"{error} {error.hint}"
            assert answers(server) == [401]


def test_a_challenge_without_algorithm_means_md5(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, algorithms=("MD5",), nonce="n-o-n-c-e", opaque="o") as server:
        server.answer_next(
            401,
            headers={
                "WWW-Authenticate": 'Digest realm="example.com", nonce="n-o-n-c-e", opaque="o", '
                'qop="auth"'
            },
        )
        _, result = registered(ep, server)
        assert (result.algorithm, result.offered) == ("MD5", ("MD5",))
        assert answers(server) == [401, 200]


@pytest.mark.parametrize("spelling", ["md5", "sha-256", "Sha-512-256"])
def test_names_are_read_in_any_case(ep: pjsip.Endpoint, spelling: str) -> None:
    algorithm = spelling.upper()
    with Registrar(users=USERS, algorithms=(algorithm,), nonce="n", opaque="o") as server:
        server.answer_next(
            401,
            headers={
                "www-authenticate": f'dIGEST REALM="example.com",nonce="n",Opaque="o",'
                f"algorithm={spelling},QOP=AUTH"
            },
        )
        server.answer_next(200, match=lambda request: b"qop=AUTH" in request.data)
        _, result = registered(ep, server)
        assert (result.algorithm, result.offered) == (algorithm, (algorithm,))


def test_an_account_reports_what_was_offered_and_chosen(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, algorithms=("MD5", "SHA-256")) as server:
        account = ep.add_account(AOR, registrar=server.uri(), credentials=alice())
        seen: list[pjsip.RegState] = []
        account.on_reg_state(seen.append)
        account.register().result(DEADLINE)
        account.register().result(DEADLINE)
        assert [(e.algorithm, e.offered) for e in seen] == [
            ("SHA-256", ("SHA-256", "MD5")),
            ("SHA-256", ()),
        ]
        account.modify(credentials=alice("wrong"))
        with pytest.raises(pjsip.WrongPasswordError):
            account.register().result(DEADLINE)
        assert (seen[-1].algorithm, seen[-1].offered) == ("SHA-256", ("SHA-256", "MD5"))
        assert isinstance(seen[-1].error, pjsip.WrongPasswordError)
        account.close()


# -- challenges at random -------------------------------------------------------------------------


def parsed(value: str) -> dict[str, str]:
    """The parameters of an Authorization value, quotes taken away and quoted-pairs left."""
    found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))', value.partition(" ")[2])
    return {name.lower(): quoted or plain for name, quoted, plain in found}


@pytest.fixture(scope="class")
def bench() -> Iterator[tuple[pjsip.Endpoint, Registrar]]:
    """An endpoint and a registrar for hundreds of examples."""
    with Registrar(("udp", "tcp"), max_requests=10) as server, pjsip.Endpoint(strict=True) as ep:
        yield ep, server


class TestAnyChallenge:
    """The endpoint of ``bench`` is the only one while it runs."""

    NAMES = ("realm", "nonce", "algorithm", "qop", "opaque", "stale", "domain", "charset", "x-y")
    VALUE = st.one_of(
        st.sampled_from(
            [
                *(b'"example.com"', b'"n"', b'"auth"', b'"auth-int"', b"auth", b"MD5", b"SHA-256"),
                *(b"SHA-512-256", b"MD5-sess", b"AKAv1-MD5", b'"MD5"', b"true", b'""', b"", b'"'),
                *(b'"a\\"b"', b"\\", b"\xff\xfe", b'"\xc3\x28"', b'"\x00"', b"a b", b"%s%n", b"=,"),
                *(b'"' + b"x" * 1200 + b'"', b"-1", b"99999999999999999999"),
            ]
        ),
        st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")),
    )
    CHALLENGE = st.builds(
        lambda scheme, gap, parts, comma: scheme + gap + comma.join(parts),
        st.sampled_from([b"Digest", b"Digest", b"digest", b"Bearer", b"Basic", b"", b"Digest,"]),
        st.sampled_from([b" ", b" ", b"  ", b"\t", b"", b"\r\n "]),
        st.lists(
            st.builds(
                lambda name, equal, value: name + equal + value,
                st.sampled_from([name.encode() for name in NAMES]),
                st.sampled_from([b"=", b"=", b"=", b" = ", b"", b"=="]),
                VALUE,
            ),
            max_size=8,
        ),
        st.sampled_from([b", ", b",", b" ", b";", b",,"]),
    )

    @settings(
        max_examples=250,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        rounds=st.lists(
            st.lists(st.tuples(st.booleans(), CHALLENGE), min_size=1, max_size=12),
            min_size=1,
            max_size=3,
        ),
        code=st.sampled_from([401, 407]),
        info=CHALLENGE.map(lambda value: value.replace(b"nonce", b"nextnonce")),
        minimum=st.sampled_from([None, "SHA-256"]),
        how=st.sampled_from(["static", "token", "callable"]),
    )
    def test_any_challenge_ends_in_one_typed_outcome(
        self,
        bench: tuple[pjsip.Endpoint, Registrar],
        rounds: list[list[tuple[bool, bytes]]],
        code: int,
        info: bytes,
        minimum: str | None,
        how: str,
    ) -> None:
        ep, server = bench
        for challenges in rounds:
            lines = [
                (b"Proxy-Authenticate: " if proxy else b"WWW-Authenticate: ") + value
                for proxy, value in challenges
            ]
            server.script(Answer(raw=functools.partial(refusal, lines=lines, code=code)))
        lines = [b"Authentication-Info: " + info, b"Proxy-Authentication-Info: " + info]
        server.script(Answer(raw=functools.partial(refusal, lines=lines, code=200)), Answer(200))
        digest = alice(min_algorithm=minimum)
        given: Any = [digest, pjsip.BearerToken("t", insecure=True)] if how == "token" else digest
        if how == "callable":
            given = lambda challenge: digest  # noqa: E731
        client = ep.registration(server.uri(), AOR, credentials=given)
        before = server.stats().requests
        try:
            error = client.register(auto_refresh=False, timeout=0.15).exception(DEADLINE)
            client.register(auto_refresh=False, timeout=0.15).exception(DEADLINE)
        finally:
            server.clear_script()
            client.close()
        sent = server.requests[before - server.stats().requests :]
        assert error is None or isinstance(error, pjsip.RegistrationError), error
        assert PASSWORD not in f"{error} {error!r}"
        for request in sent:
            for header in ("Authorization", "Proxy-Authorization"):
                values = request.headers.getlist(header)
                assert values.count("Bearer t") <= 1
                values = [value for value in values if value != "Bearer t"]
                realms = [parsed(value)["realm"].lower() for value in values]
                assert len(realms) == len(set(realms)), values
                if minimum:
                    assert all(parsed(v)["algorithm"].upper() != "MD5" for v in values), values
        # Nothing else is disturbed.
        client = ep.registration(server.uri(), AOR)
        assert client.register(auto_refresh=False).result(DEADLINE).code == 200
        client.close()
        assert ep.stats()["assertions"] == 0


def refusal(request: ReceivedRequest, lines: Sequence[bytes], code: int) -> bytes:
    """An answer with any bytes for headers."""
    copied = [
        line
        for line in request.data.split(b"\r\n")[1:]
        if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
    ]
    start = b"SIP/2.0 %d So" % code
    return b"\r\n".join([start, *copied, *lines, b"Content-Length: 0", b"", b""])


# -- several challenges, one answer ---------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(HASHES)), ids=" ".join)
def test_the_strongest_is_chosen_in_every_order(ep: pjsip.Endpoint, order: Sequence[str]) -> None:
    for offered in (order, order[:2]):
        with Registrar(users=USERS, algorithms=offered) as server:
            client, result = registered(ep, server)
            strongest = sorted(offered, key=STRONGEST_FIRST.index)
            assert result.algorithm == strongest[0]
            assert result.offered == tuple(strongest)
            client.register().result(DEADLINE)
            assert answers(server) == [401, 200, 200]
            assert [len(values) for values in headers_sent(server)] == [0, 1, 1]


@pytest.mark.parametrize("order", [("MD5", "SHA-256"), ("SHA-256", "MD5")], ids=" ".join)
def test_the_strongest_that_a_ha1_is_there_for(ep: pjsip.Endpoint, order: Sequence[str]) -> None:
    with Registrar(users=USERS, algorithms=("SHA-512-256", *order)) as server:
        for given_for in (("MD5",), ("SHA-256", "MD5")):
            digests = {name: ha1(name, "example.com") for name in given_for}
            credentials = pjsip.Credentials("alice", ha1=digests, realm="example.com")
            _, result = registered(ep, server, credentials)
            assert result.algorithm == given_for[0]
            assert result.offered == STRONGEST_FIRST


def test_an_unknown_algorithm_beside_a_known_one_is_passed_over(ep: pjsip.Endpoint) -> None:
    others = ("MD5-sess", "SHA-256-sess", "AKAv1-MD5", "SHA3-512", "token")
    for known_at in range(len(others) + 1):
        with Registrar(users=USERS, algorithms=("SHA-256",), nonce="n", opaque="o") as server:
            names = [*others[:known_at], "SHA-256", *others[known_at:]]
            digest = 'Digest realm="example.com", nonce="n", opaque="o", qop="auth", algorithm='
            server.answer_next(401, headers=[("WWW-Authenticate", digest + name) for name in names])
            _, result = registered(ep, server)
            assert result.algorithm == "SHA-256"
            assert result.offered[0] == "SHA-256"
            assert len(result.offered) > 1
            assert answers(server) == [401, 200]
            assert [len(values) for values in headers_sent(server)] == [0, 1]


def test_a_weaker_challenge_later_on_is_followed_where_it_is_allowed(ep: pjsip.Endpoint) -> None:
    """And the proof of before does not go along with the new one."""
    with Registrar(users=USERS, algorithms=("SHA-256",)) as strong:
        client, _ = registered(ep, strong)
        port = strong.port()
    for algorithm in ("MD5", "SHA-512-256", "SHA-256"):
        with Registrar(users=USERS, algorithms=(algorithm,), ports={"udp": port}) as server:
            for offered in ((algorithm,), ()):
                result = client.register().result(DEADLINE)
                assert (result.algorithm, result.offered) == (algorithm, offered)
            assert answers(server)[1:] == [200, 200]
            for values in headers_sent(server)[1:]:
                assert [parsed(v)["algorithm"] for v in values] == [algorithm]


def test_a_challenge_without_qop_after_one_with_it(ep: pjsip.Endpoint) -> None:
    """The cached challenge is the last one, not a mixture."""
    with Registrar(users=USERS, nc_check="exact") as server:
        client, _ = registered(ep, server)
        port = server.port()
    for qop in (None, "auth", None, "auth,auth-int"):
        with Registrar(users=USERS, qop=qop, ports={"udp": port}, nc_check="exact") as server:
            assert [client.register().result(DEADLINE).code for _ in range(3)] == [200] * 3
            assert answers(server)[-3:] == [200] * 3
            assert len(server.requests) <= 4


# -- no weaker than asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minimum", "offered"),
    [
        ("SHA-256", ("MD5",)),
        ("SHA-512-256", ("MD5",)),
        ("SHA-512-256", ("SHA-256", "MD5")),
    ],
)
@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
def test_nothing_weaker_than_the_minimum_leaves(
    ep: pjsip.Endpoint, minimum: str, offered: Sequence[str], proxy: bool
) -> None:
    for protocol, host in PLACES:
        with Registrar(
            (protocol,), host, users=USERS, algorithms=offered, proxy_auth=proxy
        ) as server:
            client = ep.registration(server.uri(), AOR, credentials=alice(min_algorithm=minimum))
            seen: list[pjsip.RegState] = []
            client.on_reg_state(seen.append)
            for _ in range(3):
                error = fails(client)
                assert isinstance(error, pjsip.DowngradeError)
                assert error.code == (407 if proxy else 401)
            assert b"uthorization" not in b"".join(r.data for r in server.requests)
            assert answers(server) == [error.code] * 3
            assert {e.offered for e in seen} == {offered}
            assert {e.algorithm for e in seen} == {""}


def test_the_minimum_itself_and_what_is_stronger_are_allowed(ep: pjsip.Endpoint) -> None:
    for offered, chosen in (
        (("MD5", "SHA-256"), "SHA-256"),
        (("MD5", "SHA-512-256", "SHA-256"), "SHA-512-256"),
        (("SHA-512-256",), "SHA-512-256"),
    ):
        with Registrar(users=USERS, algorithms=offered) as server:
            _, result = registered(ep, server, alice(min_algorithm="SHA-256"))
            assert result.algorithm == chosen
            assert [len(values) for values in headers_sent(server)] == [0, 1]


def test_one_realm_below_the_minimum_gets_nothing(ep: pjsip.Endpoint) -> None:
    with Registrar() as server:
        server.answer_next(
            407,
            headers=[
                ("Proxy-Authenticate", 'Digest realm="a", nonce="n", algorithm=SHA-256'),
                ("WWW-Authenticate", 'Digest realm="b", nonce="n", algorithm=MD5'),
            ],
            times=None,
        )
        client = ep.registration(server.uri(), AOR, credentials=alice(min_algorithm="SHA-256"))
        assert isinstance(fails(client), pjsip.DowngradeError)
        assert len(server.requests) <= 2
        sent = [parsed(value) for values in headers_sent(server) for value in values]
        assert {(one["realm"], one["algorithm"]) for one in sent} <= {("a", "SHA-256")}


@pytest.mark.parametrize("stale", [False, True])
def test_a_registrar_that_turns_weak_gets_no_weak_proof(ep: pjsip.Endpoint, stale: bool) -> None:
    """Its nonce was reused, and nothing but the strong proof ever leaves."""
    with Registrar(users=USERS, algorithms=("SHA-256",)) as server:
        client, _ = registered(ep, server, alice(min_algorithm="SHA-256"))
        weak = 'Digest realm="example.com", nonce="weak", algorithm=MD5, qop="auth"'
        server.answer_next(
            401,
            headers={"WWW-Authenticate": weak + (", stale=true" if stale else "")},
            times=None,
        )
        for _ in range(3):
            assert isinstance(fails(client), pjsip.DowngradeError)
        sent = [parsed(value) for values in headers_sent(server) for value in values]
        assert sent
        assert {one["algorithm"] for one in sent} == {"SHA-256"}
        assert "weak" not in {one["nonce"] for one in sent}
        server.clear_script()
        assert client.register().result(DEADLINE).algorithm == "SHA-256"


def test_a_ha1_for_none_of_what_is_offered(ep: pjsip.Endpoint) -> None:
    credentials = pjsip.Credentials(
        "alice",
        ha1={"SHA-512-256": ha1("SHA-512-256", "example.com")},
        realm="example.com",
        min_algorithm="SHA-256",
    )
    for offered in (("SHA-256", "MD5"), ("MD5",)):
        with Registrar(users=USERS, algorithms=offered) as server:
            client = ep.registration(server.uri(), AOR, credentials=credentials)
            error = fails(client)
            assert isinstance(error, (pjsip.DowngradeError, pjsip.NoCredentialError))
            assert headers_sent(server) == [[]]


# -- realms ---------------------------------------------------------------------------------------


def two_users() -> list[pjsip.Credentials]:
    return [
        pjsip.Credentials("alice", PASSWORD, realm="inner"),
        pjsip.Credentials("bob", "bob-s3cret", realm="outer"),
    ]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_proxy_and_the_registrar(ep: pjsip.Endpoint, protocol: str, one_by_one: bool) -> None:
    with Registrar(
        (protocol,),
        users={"alice": PASSWORD, "bob": "bob-s3cret"},
        realm="inner",
        proxy_realm="outer",
        one_by_one=one_by_one,
        nc_check="exact",
        algorithms=("MD5", "SHA-256"),
    ) as server:
        client, result = registered(ep, server, two_users())
        assert (result.algorithm, result.offered) == ("SHA-256", ("SHA-256", "MD5"))
        for _ in range(12):
            assert client.register().result(DEADLINE).offered == ()
        assert answers(server) == [407, *([401] if one_by_one else []), *[200] * 13]
        last = server.requests[-1]
        assert [(p.realm, p.username, p.proxy, p.verdict) for p in last.proofs] == [
            ("outer", "bob", True, "ok"),
            ("inner", "alice", False, "ok"),
        ]
        assert {p.verdict for p in proofs(server)} == {"ok"}
        for header in ("Authorization", "Proxy-Authorization"):
            assert len(last.headers.getlist(header)) == 1


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
def test_one_realm_on_both_sides(ep: pjsip.Endpoint, one_by_one: bool) -> None:
    """Two nonces, each with a count of its own, though realm and algorithm are the same."""
    with Registrar(
        users=USERS, proxy_realm="example.com", one_by_one=one_by_one, nc_check="exact"
    ) as server:
        client, _ = registered(ep, server)
        for _ in range(12):
            client.register().result(DEADLINE)
        assert answers(server) == [407, *([401] if one_by_one else []), *[200] * 13]
        last = server.requests[-1].proofs
        assert [(p.proxy, p.nc) for p in last] == [(True, 13 + one_by_one), (False, 13)]
        assert last[0].nonce != last[1].nonce
        server.expire_nonces()
        client.register().result(DEADLINE)
        assert server.requests[-1].answered == 200


def test_several_realms_of_one_registrar(ep: pjsip.Endpoint) -> None:
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}
    with Registrar(users=users, realm=("inner", "outer"), nc_check="exact") as server:
        client, _ = registered(ep, server, two_users())
        client.register().result(DEADLINE)
        assert answers(server) == [401, 200, 200]
        found = [(p.realm, p.username, p.nc) for p in server.requests[-1].proofs]
        assert found == [("inner", "alice", 2), ("outer", "bob", 2)]


@pytest.mark.parametrize("missing", ["inner", "outer"])
def test_a_realm_without_credential_among_others(ep: pjsip.Endpoint, missing: str) -> None:
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}
    credentials = [one for one in two_users() if one.realm != missing]
    with Registrar(users=users, realm="inner", proxy_realm="outer") as server:
        client = ep.registration(server.uri(), AOR, credentials=credentials)
        error = fails(client)
        assert isinstance(error, pjsip.NoCredentialError)
        assert len(server.requests) <= 2
        client.set_credentials(two_users())
        assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("wrong", ["inner", "outer"])
def test_a_wrong_password_for_one_of_two_realms(ep: pjsip.Endpoint, wrong: str) -> None:
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}
    users["alice" if wrong == "inner" else "bob"] = "changed"
    for one_by_one in (False, True):
        with Registrar(
            users=users, realm="inner", proxy_realm="outer", one_by_one=one_by_one
        ) as server:
            client = ep.registration(server.uri(), AOR, credentials=two_users())
            error = fails(client)
            assert isinstance(error, pjsip.WrongPasswordError)
            assert len(server.requests) <= 6


def test_a_realm_is_compared_whole_and_by_case_as_it_is_hashed(ep: pjsip.Endpoint) -> None:
    credentials = [
        pjsip.Credentials("alice", "prefix", realm="example"),
        pjsip.Credentials("alice", PASSWORD, realm="example.com"),
        pjsip.Credentials("alice", "any"),
    ]
    with Registrar(users=USERS) as server:
        registered(ep, server, credentials)
    with Registrar(users={"alice": "any"}, realm="example.org") as server:
        registered(ep, server, credentials)


@pytest.mark.parametrize(
    "realm", ["", " ", "r" * 200, 'a "quoted" realm', "back\\slash", '"', "rëalm 皇", "a,b=c;d"]
)
def test_realms_of_any_text(ep: pjsip.Endpoint, realm: str) -> None:
    with Registrar(users=USERS, realm=realm, nc_check="exact") as server:
        client, _ = registered(ep, server)
        client.register().result(DEADLINE)
        assert answers(server) == [401, 200, 200]


def test_nonce_and_opaque_of_any_text(ep: pjsip.Endpoint) -> None:
    for text in ('"', "\\", 'a "b" \\c', "é皇", "a,b=c;d", "%s%n", " "):
        with Registrar(users=USERS, nonce=text, opaque=text) as server:
            client, _ = registered(ep, server)
            client.register().result(DEADLINE)
            assert answers(server) == [401, 200, 200], text


@pytest.mark.parametrize("user", ['"', "back\\slash\\", 'a"b', "jäsøn 皇", "a:b", "a,b=c", " "])
def test_user_names_of_any_text(ep: pjsip.Endpoint, user: str) -> None:
    with Registrar(users={user: PASSWORD}, nc_check="exact") as server:
        client, _ = registered(ep, server, pjsip.Credentials(user, PASSWORD))
        client.register().result(DEADLINE)
        assert answers(server) == [401, 200, 200]
        assert {p.username for p in proofs(server)} == {user}


def test_eight_realms_at_once(ep: pjsip.Endpoint) -> None:
    names = [f"realm{i}" for i in range(8)]
    credentials = [
        pjsip.Credentials(f"user{i}", f"{PASSWORD}{i}", realm=name) for i, name in enumerate(names)
    ]
    users = {f"user{i}": f"{PASSWORD}{i}" for i in range(8)}
    with Registrar(
        ("tcp",), users=users, realm=names[:4], proxy_realm=names[4:], nc_check="exact"
    ) as server:
        client, _ = registered(ep, server, credentials)
        client.register().result(DEADLINE)
        assert answers(server) == [407, 200, 200]
        assert sorted(p.realm for p in server.requests[-1].proofs) == names
        assert {p.nc for p in server.requests[-1].proofs} == {2}


def test_another_realm_each_time(ep: pjsip.Endpoint) -> None:
    """What is proven to realms of before does not pile up in each request."""
    with Registrar(users=USERS) as server:
        client, _ = registered(ep, server)
        port = server.port()
    for i in range(20):
        with Registrar(users=USERS, realm=f"realm{i}", ports={"udp": port}) as server:
            assert client.register().result(DEADLINE).code == 200
            assert max(len(values) for values in headers_sent(server)) <= 9


@pytest.mark.parametrize(
    ("code", "header"), [(401, "Proxy-Authenticate"), (407, "WWW-Authenticate")]
)
def test_the_header_says_who_asks_and_not_the_code(
    ep: pjsip.Endpoint, code: int, header: str
) -> None:
    with Registrar(
        users=USERS, nonce="n", opaque="o", proxy_auth=header == "Proxy-Authenticate"
    ) as server:
        challenge = 'Digest realm="example.com", nonce="n", opaque="o", qop="auth"'
        server.answer_next(code, headers={header: f"{challenge}, algorithm=SHA-256"})
        registered(ep, server)
        assert answers(server) == [code, 200]


# -- one nonce for many requests ------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
def test_a_hundred_refreshes_on_one_nonce(ep: pjsip.Endpoint, protocol: str, proxy: bool) -> None:
    with Registrar(
        (protocol,), users=USERS, nc_check="exact", nonce_lifetime=None, proxy_auth=proxy
    ) as server:
        account = ep.add_account(AOR, registrar=server.uri(), credentials=alice())
        seen: list[pjsip.RegState] = []
        account.on_reg_state(seen.append)
        for _ in range(101):
            account.register().result(DEADLINE)
        assert answers(server) == [407 if proxy else 401, *[200] * 101]
        found = proofs(server)
        assert [p.nc for p in found] == list(range(1, 102))
        assert len({p.nonce for p in found}) == 1
        counts = [parsed(v)["nc"] for values in headers_sent(server) for v in values]
        assert counts == [f"{n:08x}" for n in range(1, 102)]
        assert [e.requests for e in seen] == [2, *[1] * 100]
        assert [e.offered for e in seen] == [("SHA-256",), *[()] * 100]
        account.close()


def test_refreshes_by_the_timer_go_on_counting(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, nc_check="exact", max_expires=1) as server:
        registered(ep, server)
        server.wait_for(lambda r: r.answered == 200 and r.proofs[0].nc == 3, timeout=DEADLINE)
        assert answers(server)[:4] == [401, 200, 200, 200]


def test_an_unregister_and_a_fetch_count_on(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, nc_check="exact") as server:
        client, _ = registered(ep, server)
        client.fetch_bindings().result(DEADLINE)
        client.unregister().result(DEADLINE)
        client.register().result(DEADLINE)
        assert {p.verdict for p in proofs(server)} == {"ok"}
        assert answers(server).count(200) == 4
        assert [p.nc for p in proofs(server) if p.nonce == proofs(server)[0].nonce][:1] == [1]


def test_a_lost_answer_does_not_upset_the_count(ep: pjsip.Endpoint) -> None:
    """RFC 7616 §3.4: the count goes up with every request, retransmissions left out."""
    with Registrar(users=USERS, nc_check="exact") as server:
        client, _ = registered(ep, server)
        server.drop_next(what="response")
        assert client.register().result(DEADLINE).code == 200
        assert client.register().result(DEADLINE).code == 200
        assert [p.nc for p in proofs(server)] == [1, 2, 3]
        assert {p.verdict for p in proofs(server)} == {"ok"}


def test_a_request_that_was_never_heard_is_forgiven(ep: pjsip.Endpoint) -> None:
    """The count has gone on: an exact registrar calls it stale, and that costs one more."""
    with Registrar(users=USERS, nc_check="exact") as server:
        client, _ = registered(ep, server)
        server.drop_next(times=None)
        assert isinstance(fails(client, timeout=0.3), pjsip.RegistrationTimeout)
        server.clear_script()
        assert client.register().result(DEADLINE).code == 200


@pytest.mark.parametrize("nextnonce", [False, True])
def test_a_423_in_between_counts_on(ep: pjsip.Endpoint, nextnonce: bool) -> None:
    with Registrar(users=USERS, min_expires=600, nc_check="exact", nextnonce=nextnonce) as server:
        _, result = registered(ep, server, expires=60)
        assert result.expires == 600
        # With single-use nonces only a 2xx gives the next.
        assert answers(server) == ([401, 423, 401, 200] if nextnonce else [401, 423, 200])
        assert "denied" not in {p.verdict for p in proofs(server)}


def test_silence_after_a_challenge_is_a_timeout(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS) as server:
        server.drop_next(times=None, match=lambda request: request.authorization is not None)
        client = ep.registration(server.uri(), AOR, credentials=alice())
        began = time.monotonic()
        assert isinstance(fails(client, timeout=0.4), pjsip.RegistrationTimeout)
        assert time.monotonic() - began < 1.0


def test_a_connection_that_ends_with_the_challenge(ep: pjsip.Endpoint) -> None:
    """The nonce is good on the next connection as well."""
    with Registrar(("tcp",), users=USERS, nc_check="exact") as server:
        ended: list[pjsip.TransportState] = []
        ep.on(pjsip.TransportState, lambda e: ended.append(e) if e.state == "destroyed" else None)
        client, _ = registered(ep, server)
        for i in range(3):
            server.drop_connections()
            until(lambda n=i: len(ended) > n, "the end of the connection")  # type: ignore[misc]
            assert client.register().result(DEADLINE).code == 200
        assert {p.verdict for p in proofs(server)} == {"ok"}


# -- nextnonce ------------------------------------------------------------------------------------


@pytest.mark.parametrize("qop", ["auth", None])
@pytest.mark.parametrize("algorithm", HASHES)
def test_the_next_nonce_is_used(ep: pjsip.Endpoint, algorithm: str, qop: str | None) -> None:
    for protocol in ("udp", "tcp"):
        with Registrar(
            (protocol,), users=USERS, algorithms=(algorithm,), nextnonce=True, qop=qop
        ) as server:
            client, _ = registered(ep, server)
            for _ in range(12):
                result = client.register().result(DEADLINE)
                assert (result.algorithm, result.offered) == (algorithm, ())
            assert answers(server) == [401, *[200] * 13]
            found = proofs(server)
            assert [p.nc for p in found] == [1 if qop else None] * 13
            assert len({p.nonce for p in found}) == 13


def test_the_next_nonce_is_the_realm_s_own(ep: pjsip.Endpoint) -> None:
    """Authentication-Info names no realm: it is the registrar's, and the proxy has its own."""
    with Registrar(users=USERS, realm="inner", proxy_realm="outer", nextnonce=True) as server:
        client, _ = registered(ep, server)
        for _ in range(5):
            assert client.register().result(DEADLINE).code == 200
        assert "denied" not in {p.verdict for p in proofs(server)}
        inner = [p.nonce for p in proofs(server) if p.realm == "inner" and p.verdict == "ok"]
        assert len(set(inner)) == len(inner)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nextnonce",
        "nextnonce=",
        'nextnonce=""',
        'nextnonce="open',
        "nextnonce=bare",
        'nextnonce="a", nextnonce="b"',
        'qop=auth, rspauth="00", cnonce="x", nc=00000001',
        'nextnonce="a\\"b"',
        'nextnonce="' + "n" * 3000 + '"',
        'xnextnonce="a"',
        'nextnonce = "spaced"',
        ',,nextnonce="a"',
        "\x01\x02",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_strange_next_nonce_costs_a_challenge_at_most(ep: pjsip.Endpoint, value: str) -> None:
    with Registrar(users=USERS) as server:
        server.script(Answer(headers={"Authentication-Info": value}), times=None)
        client, _ = registered(ep, server)
        for _ in range(3):
            assert client.register().result(DEADLINE).code == 200
        assert len(server.requests) <= 8
        assert ep.stats()["assertions"] == 0


def test_a_next_nonce_in_a_refusal_or_without_a_challenge_before(ep: pjsip.Endpoint) -> None:
    with Registrar() as server:
        info = {"Authentication-Info": 'nextnonce="n"'}
        server.script(Answer(403, headers=info), Answer(200, headers=info), Answer(200))
        client = ep.registration(server.uri(), AOR, credentials=alice())
        assert isinstance(fails(client), pjsip.ForbiddenError)
        for _ in range(2):
            client.register().result(DEADLINE)
        assert headers_sent(server) == [[], [], []]


# -- stale ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
def test_a_stale_nonce_is_one_more_round_trip(ep: pjsip.Endpoint, proxy: bool) -> None:
    with Registrar(users=USERS, proxy_auth=proxy, nc_check="exact") as server:
        code = 407 if proxy else 401
        client, _ = registered(ep, server)
        for _ in range(5):
            server.expire_nonces()
            result = client.register().result(DEADLINE)
            assert result.offered == ("SHA-256",)
        assert answers(server) == [code, 200, *[code, 200] * 5]
        assert [len(values) for values in headers_sent(server)] == [0, *[1] * 11]


def test_a_nonce_that_serves_once_without_a_next_one(ep: pjsip.Endpoint) -> None:
    for qop in ("auth", None):
        with Registrar(users=USERS, nonce_uses=1, qop=qop) as server:
            client, _ = registered(ep, server)
            for _ in range(10):
                assert client.register().result(DEADLINE).code == 200
            assert answers(server) == [401, 200] * 11


@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
@pytest.mark.parametrize("qop", ["auth", None])
def test_a_registrar_that_calls_every_nonce_stale(
    ep: pjsip.Endpoint, qop: str | None, proxy: bool
) -> None:
    with Registrar(users=USERS, nonce_uses=0, qop=qop, proxy_auth=proxy) as server:
        client = ep.registration(server.uri(), AOR, credentials=alice())
        error = fails(client)
        assert isinstance(error, pjsip.StaleNonceError)
        assert error.code == (407 if proxy else 401)
        assert 3 <= len(server.requests) <= 10
        # And once more: what was counted before does not shorten the next try.
        before = len(server.requests)
        assert isinstance(fails(client), pjsip.StaleNonceError)
        assert 2 <= len(server.requests) - before <= 10


def test_the_same_nonce_called_stale_again_and_again(ep: pjsip.Endpoint) -> None:
    with Registrar() as server:
        server.answer_next(
            401,
            headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", stale=true, algorithm=MD5'},
            times=None,
        )
        client = ep.registration(server.uri(), AOR, credentials=alice())
        assert isinstance(fails(client), pjsip.StaleNonceError)
        assert 2 <= len(server.requests) <= 10


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [False, True], ids=["401", "407"])
@pytest.mark.parametrize("qop", ["auth", None])
@pytest.mark.parametrize("algorithm", HASHES)
def test_a_wrong_password(ep: pjsip.Endpoint, algorithm: str, qop: str | None, proxy: bool) -> None:
    with Registrar(users=USERS, algorithms=(algorithm,), qop=qop, proxy_auth=proxy) as server:
        for credentials in (alice("wrong"), pjsip.Credentials("nobody", PASSWORD)):
            client = ep.registration(server.uri(), AOR, credentials=credentials)
            error = fails(client)
            assert isinstance(error, pjsip.WrongPasswordError)
            assert (error.code, error.local, error.retriable) == (
                407 if proxy else 401,
                False,
                False,
            )
        assert len(server.requests) <= 8
        assert server.aors == []


def test_a_wrong_password_with_the_same_nonce_again(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, nonce="always the same") as server:
        client = ep.registration(server.uri(), AOR, credentials=alice("wrong"))
        assert isinstance(fails(client), pjsip.WrongPasswordError)
        assert answers(server) == [401, 401]
        client.set_credentials(alice())
        assert client.register().result(DEADLINE).code == 200


def test_a_wrong_password_that_is_forbidden(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, on_bad_credentials=403) as server:
        client = ep.registration(server.uri(), AOR, credentials=alice("wrong"))
        assert isinstance(fails(client), pjsip.ForbiddenError)
        assert answers(server) == [401, 403]


def test_a_password_that_was_right_until_now(ep: pjsip.Endpoint) -> None:
    """The nonce is reused when the registrar has changed the password."""
    with Registrar(users=USERS) as server:
        client, _ = registered(ep, server)
        server.set_password("alice", "changed")
        assert isinstance(fails(client), pjsip.WrongPasswordError)
        server.expire_nonces()
        assert isinstance(fails(client), pjsip.WrongPasswordError)
        server.set_password("alice", PASSWORD)
        assert client.register().result(DEADLINE).code == 200


def test_a_stale_nonce_and_then_a_wrong_password(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS) as server:
        client, _ = registered(ep, server)
        server.answer_next(
            401,
            headers={
                "WWW-Authenticate": 'Digest realm="example.com", nonce="old", stale=true, '
                'algorithm=SHA-256, qop="auth"'
            },
        )
        server.set_password("alice", "changed")
        assert isinstance(fails(client), pjsip.WrongPasswordError)


@pytest.mark.parametrize("realm", [None, "other.example"])
def test_no_credential_for_the_realm(ep: pjsip.Endpoint, realm: str | None) -> None:
    with Registrar(users=USERS) as server:
        credentials = () if realm is None else alice(realm=realm)
        client = ep.registration(server.uri(), AOR, credentials=credentials)
        seen: list[pjsip.RegState] = []
        client.on_reg_state(seen.append)
        error = fails(client)
        assert isinstance(error, pjsip.NoCredentialError)
        assert (answers(server), headers_sent(server)) == ([401], [[]])
        assert (seen[0].algorithm, seen[0].offered) == ("", ("SHA-256",))


@pytest.mark.parametrize(
    ("challenge", "named"),
    [
        ('Digest realm="r", nonce="n", algorithm=MD5-sess', "MD5-sess"),
        ('Digest realm="r", nonce="n", algorithm=SHA-256-sess, qop="auth"', "SHA-256-sess"),
        ('Digest realm="r", nonce="n", algorithm=SHA-512-256-sess', "SHA-512-256-sess"),
        ('Digest realm="r", nonce="n", algorithm=AKAv1-MD5, qop="auth"', "AKAv1-MD5"),
        ('Digest realm="r", nonce="n", algorithm=AKAv2-MD5', "AKAv2-MD5"),
        ('Digest realm="r", nonce="n", algorithm=SHA3-512', "SHA3-512"),
        ('Digest realm="r", nonce="n", qop="auth-int"', "auth-int"),
        ('Digest realm="r", nonce="n", qop="auth-conf"', "auth-conf"),
        ('Digest realm="r", nonce="n", algorithm=SHA-256, qop="auth-int"', "auth-int"),
        ('Basic realm="r"', "Basic"),
        ('NTLM realm="r", targetname="t", version=3', "NTLM"),
        ('Kerberos realm="r", targetname="t"', "Kerberos"),
        ("Negotiate", "Negotiate"),
    ],
    ids=lambda text: text[:60],
)
@pytest.mark.parametrize("code", [401, 407])
def test_what_pjsip_cannot_answer_is_named(
    ep: pjsip.Endpoint, challenge: str, named: str, code: int
) -> None:
    with Registrar() as server:
        header = "WWW-Authenticate" if code == 401 else "Proxy-Authenticate"
        server.answer_next(code, headers={header: challenge}, times=None)
        client = ep.registration(server.uri(), AOR, credentials=alice())
        seen: list[pjsip.RegState] = []
        client.on_reg_state(seen.append)
        error = fails(client, timeout=1.0)
        assert isinstance(error, pjsip.UnsupportedAlgorithmError)
        assert named in f"{error} {error.hint}"
        assert (error.code, error.local) == (code, False)
        assert headers_sent(server) == [[]]
        if " " in challenge:  # else PJSIP cannot read it
            assert seen[0].offered


def test_a_scheme_pjsip_does_not_know_beside_digest(ep: pjsip.Endpoint) -> None:
    for place in (0, 1):
        with Registrar(users=USERS, nonce="n", opaque="o") as server:
            digest = 'Digest realm="example.com", nonce="n", opaque="o", qop="auth", '
            values = [digest + "algorithm=SHA-256"]
            values.insert(place, 'Basic realm="example.com"')
            server.answer_next(401, headers=[("WWW-Authenticate", value) for value in values])
            _, result = registered(ep, server)
            assert (result.algorithm, result.offered) == ("SHA-256", ("SHA-256", "other"))


# -- other credentials, from now on ---------------------------------------------------------------


def test_set_credentials_forgets_the_proof_of_before(ep: pjsip.Endpoint) -> None:
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}
    with Registrar(users=users, nc_check="exact") as server:
        client, _ = registered(ep, server)
        client.set_credentials(pjsip.Credentials("bob", "bob-s3cret"))
        client.register().result(DEADLINE)
        assert [p.username for p in proofs(server)] == ["alice", "bob"]
        server.set_password("bob", "rotated")
        client.set_credentials(pjsip.Credentials("bob", "rotated"))
        client.register().result(DEADLINE)
        assert {p.verdict for p in proofs(server)} == {"ok"}
        client.set_credentials(pjsip.Credentials("bob", "rotated", realm="elsewhere"))
        assert isinstance(fails(client), pjsip.NoCredentialError)
        assert headers_sent(server)[-1] == []
        assert {p.verdict for p in proofs(server)} == {"ok"}


def test_a_minimum_set_later_holds_for_the_next_request(ep: pjsip.Endpoint) -> None:
    with Registrar(users=USERS, algorithms=("MD5",)) as server:
        client, _ = registered(ep, server)
        sent = len(proofs(server))
        client.set_credentials(alice(min_algorithm="SHA-256"))
        assert isinstance(fails(client), pjsip.DowngradeError)
        assert len(proofs(server)) == sent
        assert headers_sent(server)[-1] == []


def test_modify_forgets_the_proof_of_before(ep: pjsip.Endpoint) -> None:
    users = {"alice": PASSWORD, "bob": "bob-s3cret"}
    with Registrar(users=users, nc_check="exact") as server:
        account = ep.add_account(AOR, registrar=server.uri(), credentials=alice())
        account.register().result(DEADLINE)
        account.modify(credentials=pjsip.Credentials("bob", "bob-s3cret"))
        account.register().result(DEADLINE)
        found = [(p.username, p.verdict) for p in proofs(server)]
        assert found[0] == ("alice", "ok")
        assert found[1:]
        assert set(found[1:]) == {("bob", "ok")}
        account.close()


# -- bad challenges -------------------------------------------------------------------------------

GOOD = b'realm="r", nonce="n"'
BAD: dict[str, tuple[Sequence[bytes], Any]] = {
    "no challenge": ([], pjsip.AuthenticationError),
    "no realm": ([b'Digest nonce="n"'], "ChallengeError"),
    "no nonce": ([b'Digest realm="r"'], "ChallengeError"),
    "no nonce, and qop": ([b'Digest realm="r", qop="auth", algorithm=MD5'], "ChallengeError"),
    "empty nonce": ([b'Digest realm="r", nonce=""'], "ChallengeError"),
    "empty realm": ([b'Digest realm="", nonce="n"'], pjsip.AuthenticationError),
    "empty both": ([b'Digest realm="", nonce=""'], "ChallengeError"),
    "bare empty values": ([b"Digest realm=, nonce="], pjsip.AuthenticationError),
    "no parameters": ([b"Digest"], "ChallengeError"),
    "empty": ([b""], pjsip.AuthenticationError),
    "no scheme": ([GOOD], pjsip.AuthenticationError),
    "empty algorithm": ([b"Digest " + GOOD + b', algorithm=""'], pjsip.AuthenticationError),
    "empty qop": ([b"Digest " + GOOD + b', qop=""'], pjsip.AuthenticationError),
    "unknown algorithm": (
        [b"Digest " + GOOD + b", algorithm=ROT13"],
        pjsip.UnsupportedAlgorithmError,
    ),
    "algorithm of 3000 bytes": (
        [b"Digest " + GOOD + b", algorithm=" + b"A" * 3000],
        pjsip.UnsupportedAlgorithmError,
    ),
    # Sent back as they came, as a registrar of Latin-1 wants it; this one answers 400.
    "realm not UTF-8": ([b'Digest realm="\xff\xfe\x80", nonce="n"'], pjsip.RegistrationError),
    "nonce not UTF-8": ([b'Digest realm="r", nonce="\xc3\x28"'], pjsip.RegistrationError),
    "algorithm not UTF-8": (
        [b"Digest " + GOOD + b', algorithm="\xff"'],
        pjsip.AuthenticationError,
    ),
    "NUL in the realm": ([b'Digest realm="r\0", nonce="n"'], pjsip.AuthenticationError),
    "NUL in the nonce": ([b'Digest realm="r", nonce="n\0m"'], pjsip.AuthenticationError),
    "NUL between": ([b'Digest realm="r",\0nonce="n"'], pjsip.AuthenticationError),
    "unclosed realm": ([b'Digest realm="r, nonce=n'], pjsip.AuthenticationError),
    "unclosed nonce": ([b'Digest realm="r", nonce="n'], pjsip.AuthenticationError),
    "escaped to the end": ([b'Digest realm="r", nonce="n\\'], pjsip.AuthenticationError),
    "realm twice": ([b"Digest " + GOOD + b', realm="s"'], pjsip.AuthenticationError),
    "nonce twice": ([b"Digest " + GOOD + b', nonce="m"'], pjsip.AuthenticationError),
    "algorithm twice": (
        [b"Digest " + GOOD + b", algorithm=SHA-256, algorithm=MD5"],
        pjsip.AuthenticationError,
    ),
    "commas": ([b"Digest ,,,,"], pjsip.AuthenticationError),
    "equals": ([b"Digest ====,=,="], pjsip.AuthenticationError),
    "semicolons": ([b'Digest realm="r"; nonce="n"'], pjsip.AuthenticationError),
    "100 challenges, 100 realms": (
        [b'Digest realm="r%d", nonce="n"' % i for i in range(100)],
        "ChallengeError",
    ),
    "9 realms": ([b'Digest realm="r%d", nonce="n"' % i for i in range(9)], "ChallengeError"),
    "100 challenges, one realm": ([b"Digest " + GOOD] * 100, pjsip.WrongPasswordError),
    "100 algorithms": (
        [b"Digest " + GOOD + b", algorithm=A%d" % i for i in range(100)],
        pjsip.UnsupportedAlgorithmError,
    ),
    "100 parameters": (
        [b"Digest " + GOOD + b"".join(b", x%d=y" % i for i in range(100))],
        pjsip.WrongPasswordError,
    ),
    "Digest and Digest in one header": (
        [b"Digest " + GOOD + b', Digest realm="s", nonce="n"'],
        pjsip.AuthenticationError,
    ),
    "nonce of 1 KiB": ([b'Digest realm="r", nonce="' + b"n" * 1024 + b'"'], pjsip.PjsipError),
    "nonce of 4 KiB": ([b'Digest realm="r", nonce="' + b"n" * 4096 + b'"'], pjsip.PjsipError),
    "nonce of 7 KiB": ([b'Digest realm="r", nonce="' + b"n" * 7168 + b'"'], pjsip.PjsipError),
    "nonce of 60 KiB": ([b'Digest realm="r", nonce="' + b"n" * 61440 + b'"'], pjsip.PjsipError),
    "nonce of 64 KiB": ([b'Digest realm="r", nonce="' + b"n" * 65536 + b'"'], pjsip.PjsipError),
    "realm of 7 KiB": ([b'Digest nonce="n", realm="' + b"r" * 7168 + b'"'], pjsip.PjsipError),
    "opaque of 4 KiB": ([b"Digest " + GOOD + b', opaque="' + b"o" * 4096 + b'"'], pjsip.PjsipError),
}


@pytest.mark.parametrize("code", [401, 407])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_bad_challenge_is_a_typed_failure(protocol: str, code: int) -> None:
    """Each at a registrar's port of its own time, while another account registers on."""
    with (
        Registrar((protocol,)) as bad,
        Registrar((protocol,), users=USERS, nc_check="exact") as good,
        pjsip.Endpoint(strict=True) as ep,
    ):
        other, _ = registered(ep, good)
        name_of = b"WWW-Authenticate: " if code == 401 else b"Proxy-Authenticate: "
        wrong = []
        for name, (values, kind) in BAD.items():
            lines = [name_of + value for value in values]
            raw = functools.partial(refusal, lines=lines, code=code)
            bad.script(Answer(raw=raw), times=None)
            client = ep.registration(bad.uri(), AOR, credentials=alice())
            began = time.monotonic()
            error = client.register(timeout=0.4).exception(DEADLINE)
            if time.monotonic() - began > 1.0:
                wrong.append(f"{name}: took too long")
            kind = getattr(pjsip, kind) if isinstance(kind, str) else kind
            if not isinstance(error, kind):
                wrong.append(f"{name}: {error!r}, not {kind.__name__}")
            assert PASSWORD not in f"{error!r} {error}"
            client.close()
            bad.clear_script()
            assert other.register().result(DEADLINE).code == 200, name
        assert answers(good) == [401, *[200] * (len(BAD) + 1)]
        assert ep.stats()["assertions"] == 0
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kib", [1, 4, 7])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_long_nonce_is_answered_while_it_fits(
    ep: pjsip.Endpoint, protocol: str, kib: int
) -> None:
    """PJSIP writes messages of up to 8000 bytes (PJSIP_MAX_PKT_LEN)."""
    with Registrar(("udp", "tcp"), users=USERS, nonce="n" * (1024 * kib)) as server:
        client = ep.registration(server.uri(protocol), AOR, credentials=alice())
        assert client.register().result(DEADLINE).code == 200
        assert client.register().result(DEADLINE).code == 200
