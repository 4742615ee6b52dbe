# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration against SIPp, which follows its scenario to the letter and counts every message.

Each test fails too when SIPp saw a message that its scenario does not have, or missed one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers.sipp import Sipp

import pjsip_py as pjsip

pytestmark = pytest.mark.timeout(20)

PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])
StartSipp = Callable[..., Sipp]


def registration(
    ep: pjsip.Endpoint, server: Sipp, *, password: str = "alice-password", **options: Any
) -> pjsip.RegistrationClient:
    return ep.registration(
        server.uri(),
        "sip:alice@example.com",
        credentials=[pjsip.Credentials("alice", password)],
        **options,
    )


@PROTOCOLS
def test_200(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    server = sipp("ok", protocol=protocol, expires=33)
    result = registration(ep, server).register().result(timeout=5)
    assert (result.code, result.reason, result.expires) == (200, "OK", 33)
    assert [binding.expires for binding in result.bindings] == [33]
    assert result.response.source == ("127.0.0.1", server.port)


@PROTOCOLS
def test_401_then_200(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    result = registration(ep, sipp("challenge", protocol=protocol)).register().result(timeout=5)
    assert (result.code, result.algorithm) == (200, "MD5")


@PROTOCOLS
def test_a_stale_nonce_is_replaced(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    client = registration(ep, sipp("stale_nonce", protocol=protocol))
    assert client.register().result(timeout=5).code == 200


def test_423_is_followed_by_the_interval_that_it_asks_for(
    ep: pjsip.Endpoint, sipp: StartSipp
) -> None:
    server = sipp("too_brief", min_expires=90)
    result = registration(ep, server, expires=60).register().result(timeout=5)
    assert (result.code, result.expires) == (200, 90)


def test_423_for_an_interval_that_is_long_enough_is_an_error(
    ep: pjsip.Endpoint, sipp: StartSipp
) -> None:
    server = sipp("final", status="SIP/2.0 423 Interval Too Brief", header="Min-Expires: 60")
    with pytest.raises(pjsip.IntervalTooBrief) as caught:
        registration(ep, server, expires=600).register().result(timeout=5)
    assert (caught.value.code, caught.value.min_expires) == (423, 60)


def test_503_tells_when_to_come_again(ep: pjsip.Endpoint, sipp: StartSipp) -> None:
    server = sipp("final", status="SIP/2.0 503 Service Unavailable", header="Retry-After: 7")
    with pytest.raises(pjsip.ServerError) as caught:
        registration(ep, server).register().result(timeout=5)
    error = caught.value
    assert (error.code, error.reason, error.retry_after) == (503, "Service Unavailable", 7)
    assert not error.local
    assert error.response is not None
    assert error.response.headers.get("retry-after") == "7"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("302 Moved Temporarily", pjsip.RegistrationError),
        ("400 Bad Request", pjsip.RegistrationError),
        ("403 Forbidden", pjsip.ForbiddenError),
        ("404 Not Found", pjsip.NotFoundError),
        ("408 Request Timeout", pjsip.RegistrationTimeout),
        ("480 Temporarily Unavailable", pjsip.RegistrationError),
        ("500 Server Internal Error", pjsip.ServerError),
        ("504 Server Time-out", pjsip.ServerError),
        ("603 Decline", pjsip.GlobalError),
        ("699 Zażółć", pjsip.GlobalError),
    ],
)
def test_a_refusal_keeps_its_code_and_reason(
    ep: pjsip.Endpoint, sipp: StartSipp, status: str, error: type[pjsip.RegistrationError]
) -> None:
    server = sipp("final", status=f"SIP/2.0 {status}")
    with pytest.raises(error) as caught:
        registration(ep, server).register().result(timeout=5)
    code, reason = status.split(" ", 1)
    assert (caught.value.code, caught.value.reason) == (int(code), reason)
    assert not caught.value.local


def test_302_names_the_contact_and_is_not_followed(ep: pjsip.Endpoint, sipp: StartSipp) -> None:
    server = sipp(
        "final", status="SIP/2.0 302 Moved Temporarily", header="Contact: <sip:there@127.0.0.9>"
    )
    with pytest.raises(pjsip.RegistrationError) as caught:
        registration(ep, server).register().result(timeout=5)
    assert caught.value.response is not None
    assert caught.value.response.headers.get("Contact") == "<sip:there@127.0.0.9>"


@PROTOCOLS
def test_silence_is_a_timeout(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    server = sipp("silence", protocol=protocol)
    began = time.monotonic()
    with pytest.raises(pjsip.RegistrationTimeout) as caught:
        registration(ep, server).register(timeout=1.0).result(timeout=5)
    assert 0.9 < time.monotonic() - began < 1.5
    assert caught.value.local


@PROTOCOLS
def test_a_100_only_delays(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    client = registration(ep, sipp("provisional", protocol=protocol))
    assert client.register().result(timeout=5).code == 200


@PROTOCOLS
def test_late_duplicates_change_nothing(ep: pjsip.Endpoint, sipp: StartSipp, protocol: str) -> None:
    client = registration(ep, sipp("late_duplicates", protocol=protocol, expires=60))
    outcomes: list[pjsip.RegState] = []
    client.on_reg_state(outcomes.append)
    assert client.register().result(timeout=5).expires == 60
    assert client.register().result(timeout=5).expires == 60
    # Exactly one outcome for each request, whatever else arrived.
    assert [event.code for event in outcomes] == [200, 200]


@pytest.mark.parametrize(
    "broken",
    [
        {"status": "SIP/9.9 200 OK"},
        {"status": "BANANA 200 OK"},
        {"header": "CSeq: banana"},
        {"header": "Via: not a via"},
    ],
    ids=lambda broken: "=".join(*broken.items()),
)
def test_a_malformed_response_is_passed_over(
    ep: pjsip.Endpoint, sipp: StartSipp, broken: dict[str, str]
) -> None:
    server = sipp("malformed", absorb_retransmissions=False, **broken)
    assert registration(ep, server).register().result(timeout=5).code == 200


def test_a_wrong_password_is_answered_once(ep: pjsip.Endpoint, sipp: StartSipp) -> None:
    # SIPp's second 401 carries the same nonce and no stale: the password, then, is wrong.
    server = sipp("refused_twice")
    with pytest.raises(pjsip.WrongPasswordError) as caught:
        registration(ep, server, password="Wrong-password-9").register().result(timeout=5)
    assert caught.value.code == 401


def test_two_hundred_call_ids_go_through_one_scenario(ep: pjsip.Endpoint, sipp: StartSipp) -> None:
    server = sipp("challenge", calls=200)
    clients = [registration(ep, server) for _ in range(200)]
    operations = [client.register() for client in clients]
    assert {operation.result(timeout=10).code for operation in operations} == {200}


def test_asyncio_401_then_200(sipp: StartSipp) -> None:
    server = sipp("challenge")

    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            assert (await registration(ep, server).register()).code == 200

    asyncio.run(asyncio.wait_for(main(), 10))


def test_asyncio_silence_is_a_timeout(sipp: StartSipp) -> None:
    server = sipp("silence")

    async def main() -> None:
        async with pjsip.Endpoint(strict=True) as ep:
            with pytest.raises(pjsip.RegistrationTimeout):
                await registration(ep, server).register(timeout=0.5)

    asyncio.run(asyncio.wait_for(main(), 10))
