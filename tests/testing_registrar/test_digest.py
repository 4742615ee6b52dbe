# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest authentication: RFC 3261 §22, RFC 7616, RFC 8760. The test computes with hashlib."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from pjsip_py.testing import DigestCredentials, Proof, Registrar, RegistrarError, digest_response

PASSWORD = "Al-Chwarizmi-820"  # what conftest.py's client proves by itself
USERS = {"alice": PASSWORD, 'b"o\\b, x=1': "pass:wörd", "empty": ""}


def challenged(client: Any, index: int = 0) -> dict[str, str]:
    reply = client.register()
    assert reply.code in (401, 407)
    challenge: dict[str, str] = reply.challenge(index)
    return challenge


def answer(client: Any, challenge: dict[str, str], **how: Any) -> Any:
    return client.register(headers=[client.authorization(challenge, **how)])


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
@pytest.mark.parametrize("qop", ["auth", None])
def test_right_password(connect: Any, algorithm: str, qop: str | None) -> None:
    with Registrar(users=USERS, algorithms=[algorithm], qop=qop) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        assert challenge["algorithm"] == algorithm
        assert challenge.get("qop") == qop
        assert "stale" not in challenge
        assert answer(client, challenge).code == 200
        assert [r.answered for r in registrar.requests] == [401, 200]
        assert registrar.bindings("sip:alice@example.com")


def test_vectors_of_rfc_7616() -> None:
    credentials = {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "qop": "auth",
    }
    md5 = digest_response({**credentials, "algorithm": "MD5"}, "Circle of Life", "GET")
    assert md5 == "8ca523f5e9506fed4657c9700eebdbec"
    sha = digest_response({**credentials, "algorithm": "SHA-256"}, "Circle of Life", "GET")
    assert sha == "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"


@pytest.mark.parametrize("user", list(USERS))
def test_awkward_names_and_passwords(connect: Any, user: str) -> None:
    with Registrar(users=USERS, realm='a "quoted" realm') as registrar:
        client = connect(registrar)
        reply = client.register()
        assert r'realm="a \"quoted\" realm"' in reply["WWW-Authenticate"]
        escaped = r'"a \"quoted\" realm"'
        nonce = reply.challenge()["nonce"]
        opaque = reply.challenge()["opaque"]
        challenge = {
            "realm": 'a "quoted" realm',
            "nonce": nonce,
            "opaque": opaque,
            "algorithm": "SHA-256",
            "qop": "auth",
        }
        how = {"password": USERS[user], "username": user, "spoil": {"realm": escaped}}
        assert answer(client, challenge, **how).code == 200


def test_wrong_password_gets_a_fresh_challenge_that_is_not_stale(connect: Any) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        for bad in (
            {"password": "Guess-work-3"},
            {"username": "nobody"},
            {"spoil": {"response": '"0000"'}},
        ):
            reply = answer(client, challenge, **bad)
            assert reply.code == 401
            assert "stale" not in reply.challenge()
            assert reply.challenge()["nonce"] != challenge["nonce"]
        assert not registrar.bindings("sip:alice@example.com")
        # A wrong guess has not used up the nonce.
        assert answer(client, challenge).code == 200


def test_wrong_password_can_be_forbidden(connect: Any) -> None:
    with Registrar(users=USERS, on_bad_credentials=403) as registrar:
        client = connect(registrar)
        reply = answer(client, challenged(client), password="Guess-work-3")
        assert (reply.code, reply.all("WWW-Authenticate")) == (403, [])


def test_proxy_authentication(connect: Any) -> None:
    with Registrar(users=USERS, proxy_auth=True) as registrar:
        client = connect(registrar)
        first = client.register()
        assert (first.code, first.all("WWW-Authenticate")) == (407, [])
        header = client.authorization(first.challenge(), header="Authorization")
        assert client.register(headers=[header]).code == 407  # the wrong header is not looked at
        assert answer(client, first.challenge(), header="Proxy-Authorization").code == 200


def test_several_challenges_in_the_given_order(connect: Any) -> None:
    order = ["SHA-512-256", "SHA-256", "MD5"]
    with Registrar(users=USERS, algorithms=order) as registrar:
        client = connect(registrar)
        challenges = [client.register().challenge(i) for i in range(3)]
        assert [c["algorithm"] for c in challenges] == order
        for challenge in challenges:
            assert answer(client, challenge).code == 200
        both = [
            client.authorization(challenges[0], spoil={"realm": '"elsewhere"'}),
            client.authorization(challenges[1], nc=2),
        ]
        assert client.register(headers=both).code == 200


def test_credentials_for_another_realm_are_none(connect: Any) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        reply = answer(client, challenged(client), spoil={"realm": '"elsewhere"'})
        assert reply.code == 401
        assert client.register(headers=["Authorization: Bearer abc.def"]).code == 401


def test_nonce_count_must_rise(connect: Any) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        codes = [answer(client, challenge, nc=nc).code for nc in (1, 2, 9, 10, 0x100)]
        assert codes == [200] * 5
        for replay in (0x100, 1, 0):
            reply = answer(client, challenge, nc=replay)
            assert (reply.code, reply.challenge()["stale"]) == (401, "true")
        assert answer(client, challenge, nc=0x101).code == 200


def test_a_replayed_request_is_refused(connect: Any) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        header = client.authorization(challenged(client))
        assert client.register(headers=[header]).code == 200
        reply = client.register(headers=[header])
        assert (reply.code, reply.challenge()["stale"]) == (401, "true")


def test_exact_nonce_count_catches_a_decimal_counter(connect: Any) -> None:
    with Registrar(users=USERS, nc_check="exact") as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        for nc in range(1, 10):
            assert answer(client, challenge, nc=nc).code == 200
        assert answer(client, challenge, nc="00000010").challenge()["stale"] == "true"
        assert answer(client, challenge, nc="0000000a").code == 200


def test_nonce_count_can_be_left_alone(connect: Any) -> None:
    with Registrar(users=USERS, nc_check=None) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        assert [answer(client, challenge, nc=nc).code for nc in (5, 5, 1)] == [200] * 3


def test_nonce_lifetime(connect: Any) -> None:
    now = [0.0]
    with Registrar(users=USERS, nonce_lifetime=60, clock=lambda: now[0]) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        now[0] = 59.9
        assert answer(client, challenge, nc=1).code == 200
        now[0] = 60.0
        reply = answer(client, challenge, nc=2)
        assert (reply.code, reply.challenge()["stale"]) == (401, "true")
        wrong = answer(client, challenge, nc=3, password="Guess-work-3")
        assert "stale" not in wrong.challenge()  # stale says: the password was right
        assert answer(client, reply.challenge()).code == 200


def test_nonce_uses(connect: Any) -> None:
    with Registrar(users=USERS, nonce_uses=1, qop=None) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        assert answer(client, challenge).code == 200
        assert answer(client, challenge).challenge()["stale"] == "true"


def test_nonces_can_be_expired_at_once(connect: Any) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        registrar.expire_nonces()
        assert answer(client, challenge).challenge()["stale"] == "true"


@pytest.mark.parametrize("qop", ["auth", None])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_what_came_with_an_unknown_nonce_is_not_asked(
    connect: Any, algorithm: str, qop: str | None
) -> None:
    """As after a restart with other settings: it is stale, if the password was right."""
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        old = {"realm": "example.com", "nonce": "old", "opaque": "o", "algorithm": algorithm}
        old |= {} if qop is None else {"qop": qop}
        reply = answer(client, old)
        assert (reply.code, reply.challenge()["stale"]) == (401, "true")
        assert "stale" not in answer(client, old, password="guess").challenge()


@pytest.mark.parametrize(
    "spoil",
    [
        {"uri": '"sip:elsewhere.example"'},
        {"nc": None},
        {"nc": "1"},
        {"nc": "0000000g"},
        {"cnonce": None},
        {"qop": None},
        {"qop": "auth-int"},
        {"algorithm": "MD5"},
        {"algorithm": None},
        {"opaque": None},
        {"opaque": '"changed"'},
        {"username": None},
        {"response": None},
        {"nonce": None},
        {"nc": "00000001, nc=00000001"},
        {"username": '"open'},
    ],
    ids=str,
)
def test_broken_credentials_are_a_bad_request(connect: Any, spoil: dict[str, Any]) -> None:
    with Registrar(users=USERS) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        reply = answer(client, challenge, spoil=spoil)
        assert reply.code == 400
        assert "Digest" in reply["Warning"]
        assert not registrar.bindings("sip:alice@example.com")


def test_auth_int_covers_the_body(connect: Any) -> None:
    with Registrar(users=USERS, qop="auth,auth-int") as registrar:
        client = connect(registrar)
        challenge = client.register().challenge()
        assert challenge["qop"] == "auth,auth-int"
        params = {
            "username": "alice",
            "realm": "example.com",
            "nonce": challenge["nonce"],
            "uri": registrar.uri(),
            "algorithm": "SHA-256",
            "qop": "auth-int",
            "nc": "00000001",
            "cnonce": "abc",
            "opaque": challenge["opaque"],
        }
        params["response"] = digest_response(params, PASSWORD, "REGISTER", b"hello")
        header = "Authorization: Digest " + ", ".join(
            f"{k}={v}" if k in ("qop", "nc", "algorithm") else f'{k}="{v}"'
            for k, v in params.items()
        )
        assert client.ask(client.build((), [header], body="other")).code == 401
        assert client.ask(client.build((), [header], body="hello")).code == 200


# -- realms, and who asks for them ----------------------------------------------------------------


@pytest.mark.parametrize("realm", ["inner", "outer"], ids=["two realms", "one realm"])
def test_a_proxy_and_the_registrar_ask_at_once(connect: Any, realm: str) -> None:
    with Registrar(users=USERS, realm=realm, proxy_realm="outer") as registrar:
        client = connect(registrar)
        reply = client.register()
        assert reply.code == 407
        proxy = client.authorization(challenge_of(reply, "Proxy-Authenticate"))
        own = client.authorization(challenge_of(reply, "WWW-Authenticate"))
        proxy = proxy.replace("Authorization", "Proxy-Authorization")
        halves = client.register(headers=[own]), client.register(headers=[proxy])
        assert [half.code for half in halves] == [407, 401]
        assert halves[0].all("WWW-Authenticate") == halves[1].all("Proxy-Authenticate") == []
        own = client.authorization(challenge_of(halves[1], "WWW-Authenticate"))
        proxy = client.authorization(challenge_of(halves[0], "Proxy-Authenticate"))
        swapped = [own.replace("Authorization", "Proxy-Authorization"), proxy]
        assert client.register(headers=swapped).code == 407
        proxy = proxy.replace("Authorization", "Proxy-Authorization")
        assert client.register(headers=[own, proxy]).code == 200
        proofs = registrar.requests[-1].proofs
        assert [(p.realm, p.proxy, p.nc, p.verdict) for p in proofs] == [
            ("outer", True, 1, "ok"),
            (realm, False, 1, "ok"),
        ]


def challenge_of(reply: Any, header: str) -> dict[str, str]:
    """The only challenge in a header, apart."""
    (value,) = reply.all(header)
    return {k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', value)}


def test_a_proxy_before_the_registrar_asks_first(connect: Any) -> None:
    with Registrar(
        users=USERS, realm=("b", "c"), proxy_realm="a", one_by_one=True, nc_check="exact"
    ) as registrar:
        client = connect(registrar)
        proven: list[str] = []
        codes, realms = [], []
        while True:
            reply = client.register(headers=proven)
            codes.append(reply.code)
            if reply.code == 200:
                break
            challenge = reply.challenge()
            realms.append(challenge["realm"])
            header = "Authorization" if reply.code == 401 else "Proxy-Authorization"
            seen = [p for p in proven if f'realm="{challenge["realm"]}"' not in p]
            # Each nonce is counted on, as nc_check wants it.
            proven = [counted(client, p) for p in seen]
            proven.append(client.authorization(challenge, header=header))
        assert codes == [407, 401, 401, 200]
        assert realms == ["a", "b", "c"]
        assert [p.nc for p in registrar.requests[-1].proofs] == [3, 2, 1]


def counted(client: Any, header: str) -> str:
    """The same credentials, their nonce counted on by one."""
    fields = dict(re.findall(r'(\w+)="?([^",]*)"?', header.partition("Digest ")[2]))
    name = header.partition(":")[0]
    return str(client.authorization(fields, header=name, nc=int(fields["nc"], 16) + 1))


# -- nextnonce, and a nonce of the test's choice --------------------------------------------------


def test_each_answer_gives_the_next_nonce(connect: Any) -> None:
    with Registrar(users=USERS, nextnonce=True) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        for _ in range(5):
            reply = answer(client, challenge)
            assert reply.code == 200
            given = reply["Authentication-Info"]
            assert given != f'nextnonce="{challenge["nonce"]}"'
            old = dict(challenge)
            challenge["nonce"] = re.fullmatch('nextnonce="([0-9a-f]+)"', given)[1]  # type: ignore[index]
        assert answer(client, old, nc=2).challenge()["stale"] == "true"  # it serves once
        assert {p.nc for r in registrar.requests[1:-1] for p in r.proofs} == {1}


def test_next_nonces_of_a_proxy_go_by_another_header(connect: Any) -> None:
    with Registrar(users=USERS, nextnonce=True, proxy_auth=True) as registrar:
        client = connect(registrar)
        reply = answer(client, challenged(client), header="Proxy-Authorization")
        assert reply["Proxy-Authentication-Info"].startswith("nextnonce=")
        assert reply.all("Authentication-Info") == []


def test_only_a_proof_gets_a_next_nonce(connect: Any) -> None:
    with Registrar(nextnonce=True) as registrar:
        assert connect(registrar).register().all("Authentication-Info") == []
    with Registrar(users=USERS, nextnonce=True, min_expires=100) as registrar:
        client = connect(registrar)
        header = client.authorization(challenged(client))
        reply = client.register(headers=[header], expires=60)
        assert (reply.code, reply.all("Authentication-Info")) == (423, [])


def test_nonce_and_opaque_can_be_given(connect: Any) -> None:
    with Registrar(users=USERS, nonce='a "b\\', opaque="c") as registrar:
        client = connect(registrar)
        value = client.register()["WWW-Authenticate"]
        assert r'nonce="a \"b\\", opaque="c"' in value
        challenge = {"realm": "example.com", "opaque": "c", "algorithm": "SHA-256", "qop": "auth"}
        spoil = {"nonce": r'"a \"b\\"'}
        challenge["nonce"] = 'a "b\\'
        assert answer(client, challenge, spoil=spoil).code == 200
        assert answer(client, challenge, spoil=spoil).code == 401  # the count goes on
        assert answer(client, challenge, spoil=spoil, nc=2).code == 200
    nonces = iter(["one", "two"])
    with Registrar(users=USERS, nonce=lambda: next(nonces)) as registrar:
        client = connect(registrar)
        assert [challenged(client)["nonce"] for _ in range(2)] == ["one", "two"]


# -- what a request proved ------------------------------------------------------------------------


def test_proofs_say_what_was_judged_and_no_more(connect: Any) -> None:
    with Registrar(users=USERS, realm="rëalm 皇", algorithms=["MD5"]) as registrar:
        client = connect(registrar)
        challenge = {**challenged(client), "realm": "rëalm 皇"}
        user = 'b"o\\b, x=1'
        codes = [
            answer(client, challenge, username=user, password=USERS[user], nc=0x10).code,
            answer(client, challenge, username=user, password=USERS[user], nc=0x10).code,
            answer(client, challenge, password="guess").code,
            answer(client, challenge, spoil={"nc": "1"}).code,
            answer(client, {**challenge, "realm": "elsewhere"}).code,
        ]
        assert codes == [200, 401, 401, 400, 401]
        proofs = [request.proofs for request in registrar.requests]
        assert proofs[0] == proofs[5] == ()
        (first,) = proofs[1]
        assert first == Proof(
            "Digest", "rëalm 皇", user, "MD5", "auth", challenge["nonce"], 16, False, "ok"
        )
        assert [one.verdict for (one,) in proofs[2:5]] == ["stale", "denied", "bad"]
        assert registrar.requests[1].authorization["response"] not in repr(proofs)  # type: ignore[index]


# -- Bearer ---------------------------------------------------------------------------------------


def test_a_token_serves_until_it_is_revoked(connect: Any) -> None:
    with Registrar(tokens={"mF_9.B5f-4.1JqM": "alice"}) as registrar:
        client = connect(registrar)
        reply = client.register()
        assert reply.code == 401
        assert (
            reply["WWW-Authenticate"]
            == 'Bearer authz_server="https://authz.example.com", scope="sip"'
        )
        right = "Authorization: Bearer mF_9.B5f-4.1JqM"
        assert client.register(headers=[right]).code == 200
        wrong = client.register(headers=["Authorization: bearer other"])
        assert (wrong.code, 'error="invalid_token"' in wrong["WWW-Authenticate"]) == (401, True)
        registrar.set_token("mF_9.B5f-4.1JqM", None)
        registrar.set_token("second", "alice")
        assert client.register(headers=[right]).code == 401
        assert client.register(headers=["Authorization: Bearer second"]).code == 200
        assert client.register(headers=["Authorization: Bearer a b"]).code == 400
        assert client.register(headers=[f"Proxy-{right}"]).code == 401
        found = [(p.username, p.verdict) for r in registrar.requests for p in r.proofs]
        assert found == [
            ("alice", "ok"),
            ("", "denied"),
            ("", "denied"),
            ("alice", "ok"),
            ("", "bad"),
        ]
        assert "second" not in repr([r.proofs for r in registrar.requests])


@pytest.mark.parametrize(
    ("algorithms", "schemes"),
    [
        (["SHA-256"], ["Digest", "Bearer"]),
        (["Bearer", "SHA-256"], ["Bearer", "Digest"]),
        (["SHA-256", "Bearer", "MD5"], ["Digest", "Bearer", "Digest"]),
    ],
)
def test_bearer_beside_digest(connect: Any, algorithms: list[str], schemes: list[str]) -> None:
    with Registrar(
        users=USERS,
        tokens={"t": "alice"},
        algorithms=algorithms,
        bearer={"realm": 'a "b"', "authz_server": "https://x"},
        on_bad_credentials=403,
    ) as registrar:
        client = connect(registrar)
        challenges = client.register().all("WWW-Authenticate")
        assert [value.partition(" ")[0] for value in challenges] == schemes
        assert r'Bearer realm="a \"b\"", authz_server="https://x"' in challenges
        assert client.register(headers=["Authorization: Bearer t"]).code == 200
        registrar.expire_nonces()
        at = schemes.index("Digest")
        digest = dict(
            re.findall(r'(\w+)="?([^",]+)', client.register().all("WWW-Authenticate")[at])
        )
        assert answer(client, digest).code == 200
        assert client.register(headers=["Authorization: Bearer no"]).code == 403


def test_tokens_are_not_asked_for_unless_there_are_any() -> None:
    with Registrar(users=USERS) as registrar, pytest.raises(RegistrarError, match="no tokens"):
        registrar.set_token("t", "alice")
    with Registrar(tokens={}) as registrar, pytest.raises(RegistrarError, match="no users"):
        registrar.set_password("alice", "x")


def test_password_changes_while_it_runs(connect: Any) -> None:
    with Registrar(users={"alice": "Old-and-Grey-4"}) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        registrar.set_password("alice", PASSWORD)
        assert answer(client, challenge, password="Old-and-Grey-4").code == 401
        assert answer(client, challenge).code == 200
        registrar.set_password("alice", None)
        assert answer(client, challenge, nc=2).code == 401


def test_no_secret_is_shown(connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Registrar(users={"alice": "tops3cret"}) as registrar:
        client = connect(registrar)
        header = client.authorization(challenged(client), password="tops3cret")
        client.register(headers=[header])
        client.ask(client.build((), [header, "Expires"]))  # malformed
        request = registrar.requests[1]
        credentials = request.authorization
        assert isinstance(credentials, DigestCredentials)
        shown = caplog.text + "".join(
            f"{thing!r} {thing!s}"
            for thing in (registrar, request, credentials, registrar.stats(), registrar.requests)
        )
        assert "tops3cret" not in shown
        assert credentials["response"] not in shown
        assert "CSeq 2" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        {"algorithms": ["SHA-1"]},
        {"algorithms": []},
        {"algorithms": "MD5"},
        {"qop": "auth-conf"},
        {"nc_check": "maybe"},
        {"on_bad_credentials": 500},
        {"realm": ()},
        {"algorithms": ["Bearer"]},
        {"algorithms": ["Bearer", "MD5", "Bearer"], "tokens": {}},
        {"users": None, "tokens": {}, "proxy_realm": "p"},
    ],
    ids=str,
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Registrar(**{"users": USERS, **arguments})
