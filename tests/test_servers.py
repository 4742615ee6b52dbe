# SPDX-License-Identifier: GPL-3.0-or-later
"""The test servers themselves, judged by a client that shares nothing with pjsip_py."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers.kamailio import BULK_PASSWORD, TRANSPORTS, Kamailio
from servers.process import ServerError, wait_until
from servers.rawclient import RawClient, Reply, authorization
from servers.sipp import Sipp

pytestmark = pytest.mark.timeout(20)


@pytest.mark.parametrize(("protocol", "host"), TRANSPORTS)
@pytest.mark.parametrize("server", ["kamailio", "kamailio_sha256"])
def test_kamailio_registers_over(
    request: pytest.FixtureRequest, server: str, protocol: str, host: str, user: str
) -> None:
    kamailio: Kamailio = request.getfixturevalue(server)
    with kamailio.client(protocol, host) as client:
        challenge = client.register(user)
        granted = client.register(user, BULK_PASSWORD, expires=33)
        fetched = client.register(user, BULK_PASSWORD, contact=None)
        removed = client.register(user, BULK_PASSWORD, contact="*", expires=0)
    assert challenge.code == 401
    assert f"algorithm={kamailio.algorithm}" in challenge.challenge
    assert granted.code == 200
    assert granted.get("Contact").endswith(";expires=33")
    assert granted.get("X-Received").startswith(f"{protocol}:")
    assert fetched.get("Contact")
    assert (removed.code, removed.get("Contact")) == (200, "")


@pytest.mark.parametrize(
    ("user", "password", "expires", "code", "header"),
    [
        ("alice", "wrong", 60, 401, "WWW-Authenticate"),
        ("proxied", "wrong", 60, 407, "Proxy-Authenticate"),
        ("proxied", "proxied-password", 60, 200, "Contact"),
        ("brief", "brief-password", 60, 423, "Min-Expires"),
        ("brief", "brief-password", 120, 200, "Contact"),
        ("open", None, 60, 200, "Contact"),
        ("banned", "any", 60, 403, ""),
        ("nobody", "any", 60, 404, ""),
    ],
)
def test_kamailio_treats_users_as_its_configuration_says(
    kamailio: Kamailio, user: str, password: str | None, expires: int, code: int, header: str
) -> None:
    with kamailio.client() as client:
        reply = client.register(user, password, expires=expires)
    assert reply.code == code
    assert not header or reply.get(header)


def test_kamailio_limits_contacts(kamailio: Kamailio) -> None:
    with kamailio.client() as client:
        assert client.register("single", "single-password", contact="*", expires=0).code == 200
        first = client.register("single", "single-password", contact="<sip:one@127.0.0.1>")
        second = client.register("single", "single-password", contact="<sip:two@127.0.0.1>")
    assert first.code == 200
    assert (second.code, second.get("Retry-After")) == (503, "7")


def test_kamailio_calls_a_replayed_nonce_count_stale(kamailio: Kamailio, user: str) -> None:
    with kamailio.client() as client:
        challenge = client.register(user).challenge
        answer = f"Authorization: {authorization(challenge, user, BULK_PASSWORD, 'sip:x')}"
        first, second = (client.request("REGISTER", user, (answer,)) for _ in range(2))
    assert first.code == 200
    assert second.code == 401
    assert "stale=true" in second.challenge


def test_kamailio_calls_an_old_nonce_stale(
    start_kamailio: Callable[..., Kamailio], user: str
) -> None:
    kamailio = start_kamailio(nonce_expire=1)
    with kamailio.client() as client:
        challenge = client.register(user).challenge
        uses = itertools.count(1)

        def use() -> Reply:
            answer = authorization(challenge, user, BULK_PASSWORD, "sip:x", next(uses))
            return client.request("REGISTER", user, (f"Authorization: {answer}",))

        assert use().code == 200
        wait_until(lambda: "stale=true" in use().challenge, 6, "the nonce expires", interval=0.1)


def test_kamailio_echoes_what_it_received(kamailio: Kamailio, user: str) -> None:
    with kamailio.client() as client:
        reply = client.register(user, BULK_PASSWORD, headers=("X-Echo: as sent",))
    assert reply.get("X-Echoed") == "as sent"
    assert reply.get("X-From-User") == user


def is_refused(kamailio: Kamailio) -> bool:
    try:
        with kamailio.client("tcp"):
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionError:
        return False


def test_kamailio_forgets_bindings_over_a_restart_and_keeps_its_ports(
    start_kamailio: Callable[..., Kamailio],
) -> None:
    kamailio = start_kamailio()
    ports = kamailio.port("udp"), kamailio.port("tls")
    with kamailio.client("tcp") as client:
        assert client.register("open").code == 200
        kamailio.kill()
        with pytest.raises(ConnectionError):
            client.register("open")
    # Its children die one after the other.
    wait_until(lambda: is_refused(kamailio), 5.0, "refused")
    kamailio.start()
    assert (kamailio.port("udp"), kamailio.port("tls")) == ports
    with kamailio.client() as client:
        assert client.register("open", contact=None).get("Contact") == ""


def test_kamailio_is_silent_while_paused(start_kamailio: Callable[..., Kamailio]) -> None:
    kamailio = start_kamailio()
    kamailio.pause()
    with kamailio.client(timeout=0.3) as client:
        with pytest.raises(TimeoutError):
            client.request("OPTIONS", "probe")
        kamailio.resume()
        client.timeout = 5
        assert client.request("OPTIONS", "probe").code == 200


def test_kamailio_stops_while_paused(start_kamailio: Callable[..., Kamailio]) -> None:
    kamailio = start_kamailio()
    kamailio.pause()
    began = time.monotonic()
    kamailio.stop(timeout=2)
    assert time.monotonic() - began < 4


def test_kamailio_tells_why_it_does_not_start(
    start_kamailio: Callable[..., Kamailio], kamailio: Kamailio
) -> None:
    with pytest.raises(ServerError, match="algorithm"):
        start_kamailio(algorithm="ROT13")


def test_kamailio_asks_for_a_client_certificate(start_kamailio: Callable[..., Kamailio]) -> None:
    kamailio = start_kamailio(verify_client=True)
    with pytest.raises((ssl.SSLError, ConnectionError)), kamailio.client("tls") as client:
        client.request("OPTIONS", "probe")


def test_a_wrong_ca_refuses_kamailio(kamailio: Kamailio) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        RawClient("tls", "127.0.0.1", kamailio.port("tls"), kamailio.certs.other_ca_file)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("scenario", ["ok", "challenge", "stale_nonce", "provisional"])
def test_sipp_grants(sipp: Callable[..., Sipp], scenario: str, protocol: str) -> None:
    server = sipp(scenario, protocol=protocol, expires=33)
    with RawClient(protocol, "127.0.0.1", server.port) as client:
        reply = client.register("alice", "alice-password")
        server.finish()
    assert reply.code == 200
    assert reply.get("Contact").endswith(";expires=33")


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_sipp_sends_late_duplicates(sipp: Callable[..., Sipp], protocol: str) -> None:
    server = sipp("late_duplicates", protocol=protocol)
    with RawClient(protocol, "127.0.0.1", server.port) as client:
        assert client.register("alice", "alice-password").code == 200
        assert client.register("alice").code == 200
        server.finish()


def test_sipp_asks_for_min_expires(sipp: Callable[..., Sipp]) -> None:
    server = sipp("too_brief", min_expires=90)
    with RawClient("udp", "127.0.0.1", server.port) as client:
        refused = client.register("alice", expires=60)
        granted = client.register("alice", expires=90)
    assert (refused.code, refused.get("Min-Expires"), granted.code) == (423, "90", 200)


def test_sipp_refuses_with_a_header(sipp: Callable[..., Sipp]) -> None:
    server = sipp("final", status="SIP/2.0 503 Service Unavailable", header="Retry-After: 7")
    with RawClient("udp", "127.0.0.1", server.port) as client:
        reply = client.register("alice")
    assert (reply.code, reply.reason) == (503, "Service Unavailable")
    assert reply.get("Retry-After") == "7"


def test_sipp_is_silent(sipp: Callable[..., Sipp]) -> None:
    server = sipp("silence")
    client = RawClient("udp", "127.0.0.1", server.port, timeout=0.5)
    with client, pytest.raises(TimeoutError):
        client.register("alice")
    server.finish()


@pytest.mark.parametrize(
    ("scenario", "attempts"),
    [
        ("ok", []),
        ("challenge", [{}]),
        ("challenge", [{"password": "wrong"}]),
        ("stale_nonce", [{"password": "wrong"}]),
        ("too_brief", [{"expires": 60}, {"expires": 60}]),
    ],
)
def test_sipp_notices_when_its_scenario_is_not_followed(
    sipp: Callable[..., Sipp], scenario: str, attempts: list[dict[str, Any]]
) -> None:
    server = sipp(scenario, timeout=1)
    with RawClient("udp", "127.0.0.1", server.port) as client:
        for attempt in attempts:
            client.register("alice", **attempt)
        with pytest.raises(ServerError, match=scenario):
            server.finish()


def test_sipp_complains_of_an_unknown_keyword(sipp: Callable[..., Sipp]) -> None:
    with pytest.raises(TypeError, match="retry_after"):
        sipp("ok", retry_after=7)


def test_servers_leave_their_ports(start_kamailio: Callable[..., Kamailio]) -> None:
    kamailio = start_kamailio()
    kamailio.stop()
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", kamailio.port("udp")))
