# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest authentication: RFC 3261 §22, RFC 7616, RFC 8760. The test computes with hashlib."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pjsip_py.testing import DigestCredentials, Registrar, digest_response

USERS = {"alice": "secret", 'b"o\\b, x=1': "pass:wörd", "empty": ""}


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
            {"password": "guess"},
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
        reply = answer(client, challenged(client), password="guess")
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
        wrong = answer(client, challenge, nc=3, password="guess")
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
        params["response"] = digest_response(params, "secret", "REGISTER", b"hello")
        header = "Authorization: Digest " + ", ".join(
            f"{k}={v}" if k in ("qop", "nc", "algorithm") else f'{k}="{v}"'
            for k, v in params.items()
        )
        assert client.ask(client.build((), [header], body="other")).code == 401
        assert client.ask(client.build((), [header], body="hello")).code == 200


def test_password_changes_while_it_runs(connect: Any) -> None:
    with Registrar(users={"alice": "old"}) as registrar:
        client = connect(registrar)
        challenge = challenged(client)
        registrar.set_password("alice", "secret")
        assert answer(client, challenge, password="old").code == 401
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
    ],
    ids=str,
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Registrar(users=USERS, **arguments)
