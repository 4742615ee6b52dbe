# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts that stay registered, against real servers that crash, hang, refuse and lose packets.

Every bound asserted here is the policy's own, computed from its fields; SLACK covers what this
machine and the servers take besides.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from servers.kamailio import BULK_PASSWORD, Kamailio
from servers.process import wait_until
from servers.rawclient import RawClient
from servers.relay import TcpProxy, UdpRelay, Way

import pjsip_py as pjsip
from pjsip_py import _ffi
from pjsip_py._engine import Engine
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(60)

E = TypeVar("E", bound=pjsip.Event)
SLACK = 1.0  # s
HOST = "127.0.0.1"
PASSWORD = "Through-thick-and-thin-25"


class Watch:
    """Every event of an endpoint, and the number of every record that its queue delivered.

    Made before the endpoint opens, so that the numbers begin with the first.
    """

    def __init__(self, ep: pjsip.Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[pjsip.Event] = []
        self.records: list[tuple[int, int]] = []  # number and kind
        ep.on(pjsip.Event, self.events.append)
        deliver = Engine._deliver

        def note(engine: Engine, record: _ffi.Record) -> None:
            self.records.append((record.seq, record.kind))
            deliver(engine, record)

        monkeypatch.setattr(Engine, "_deliver", note)

    def of(self, kind: type[E], since: float = 0.0) -> list[E]:
        """The events of class ``kind`` so far, those after ``since`` (monotonic) if given."""
        return [e for e in self.events if isinstance(e, kind) and e.time.monotonic >= since]

    def successes(self, since: float = 0.0) -> list[pjsip.RegState]:
        return [e for e in self.of(pjsip.RegState, since) if e.registered]

    def wait_registered(
        self, accounts: Sequence[pjsip.Account], since: float, timeout: float
    ) -> float:
        """Wait until each of ``accounts`` has had a success after ``since``; when the last had."""

        def done() -> bool:
            return {id(e.account) for e in self.successes(since)} >= {id(a) for a in accounts}

        wait_until(done, timeout, f"{len(accounts)} accounts register again", 0.05)
        first: dict[int, float] = {}
        for event in self.successes(since):
            first.setdefault(id(event.account), event.time.monotonic)
        return max(first[id(account)] for account in accounts)

    def check_nothing_lost(self, stats: dict[str, int]) -> None:
        """The records are numbered without a gap, and each that is an event was delivered, save
        those that came too late for a client that had been given up."""
        dropped = self.of(pjsip.EventsDropped)
        assert sum(e.trace for e in dropped) == stats["dropped_trace"] == 0
        assert sum(e.log for e in dropped) == stats["dropped_log"] == 0
        assert stats["outcomes_merged"] == 0
        numbers = [number for number, _ in self.records]
        assert numbers == list(range(1, len(numbers) + 1))
        kinds = (_ffi.EV_REG_STATE, _ffi.EV_REG_STARTED, _ffi.EV_TRANSPORT, _ffi.EV_MESSAGE)
        due = [number for number, kind in self.records if kind in kinds]
        wanted = (pjsip.RegState, pjsip.RegStarted, pjsip.TransportState, pjsip.SipMessage)
        seen = [e.seq for e in self.events if e.seq and isinstance(e, wanted)]
        assert seen == sorted(set(seen) & set(due))
        assert len(due) - len(seen) == stats["late_events"]

    def check_states_follow(self) -> None:
        """Each account's changes of state and registrar form a chain: none is missing."""
        state: dict[int, str] = {}
        registrar: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, pjsip.AccountState):
                assert event.previous == state.get(id(event.account), "idle")
                state[id(event.account)] = event.state
            elif isinstance(event, pjsip.RegistrarChanged):
                assert event.previous == registrar.get(id(event.account), event.previous)
                registrar[id(event.account)] = event.registrar
        assert set(state.values()) <= {"unregistered", "closed"}

    def check_one_outcome_each(self) -> list[pjsip.RegStarted]:
        """Each REGISTER that was begun has ended, once, before the client began the next.

        Returns those that have not ended, because their client was given up.
        """
        under_way: dict[int, pjsip.RegStarted] = {}
        for event in self.events:
            if isinstance(event, pjsip.RegStarted):
                assert id(event.client) not in under_way, "two at once"
                under_way[id(event.client)] = event
            elif isinstance(event, pjsip.RegState):
                assert under_way.pop(id(event.client), None) is not None, f"second: {event}"
        return list(under_way.values())


Open = Callable[..., tuple[pjsip.Endpoint, Watch]]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """``endpoint(**options)`` opens the test's endpoint; an exception in a handler fails it."""
    opened: list[pjsip.Endpoint] = []

    def open_one(**options: Any) -> tuple[pjsip.Endpoint, Watch]:
        ep = pjsip.Endpoint(strict=True, **options)
        watch = Watch(ep, monkeypatch)
        opened.append(ep.open())
        return ep, watch

    yield open_one
    for ep in opened:
        ep.close(network=False)


def bulk(ep: pjsip.Endpoint, count: int, first: int = 0, **options: Any) -> list[pjsip.Account]:
    """Accounts of Kamailio's users bulk<first> and on."""
    return [
        ep.add_account(
            f"sip:bulk{number}@example.com",
            credentials=pjsip.Credentials(f"bulk{number}", BULK_PASSWORD),
            **options,
        )
        for number in range(first, first + count)
    ]


def register_all(accounts: Sequence[pjsip.Account]) -> None:
    for operation in [account.register() for account in accounts]:
        assert operation.result(timeout=20).code == 200


def contacts_at(server: Kamailio, accounts: Sequence[pjsip.Account]) -> dict[str, list[str]]:
    """The bindings of ``accounts`` as somebody else sees them, by AOR, none left out."""
    found = {}
    with server.client() as client:
        for account in accounts:
            user = account.aor.partition(":")[2].partition("@")[0]
            reply = client.register(user, BULK_PASSWORD, contact=None)
            assert reply.code == 200
            found[account.aor] = [v for v in reply.get("Contact").split(", ") if v]
    return found


def pacing(ep: pjsip.Endpoint, attempts: int) -> float:
    """Seconds until as many attempts with credentials have been let through, two tokens each."""
    assert ep.config.register_rate is not None
    return max(0.0, 2 * attempts - ep.config.register_burst) / ep.config.register_rate


def peak(times: Sequence[float], width: float = 1.0) -> int:
    """The most of ``times`` in any window of ``width`` seconds."""
    ordered = sorted(times)
    return max(
        (bisect.bisect_left(ordered, t + width) - i for i, t in enumerate(ordered)), default=0
    )


# -- a registrar that crashes ----------------------------------------------------------------------


@pytest.mark.timeout(150)
def test_500_accounts_over_udp_and_500_over_tcp_outlive_a_killed_registrar(
    endpoint: Open,
    start_kamailio: Callable[..., Kamailio],
) -> None:
    server = start_kamailio(memory=256, children=4)
    each, expires, down, timeout, rate, burst = 500, 20, 20.0, 2.0, 300.0, 50
    policy = pjsip.RetryPolicy(initial=1.0, maximum=8.0)
    ep, watch = endpoint(trace=True, register_rate=rate, register_burst=burst)
    options: dict[str, Any] = {"expires": expires, "timeout": timeout, "retry": policy}
    udp = bulk(ep, each, registrar=server.uri("udp"), **options)
    tcp = bulk(ep, each, first=each, registrar=server.uri("tcp"), **options)
    accounts = udp + tcp
    register_all(accounts)

    killed = time.monotonic()
    server.kill()
    time.sleep(down)  # the outage itself: there is nothing to wait for in it
    assert all(
        {id(a) for a in group}
        <= {id(e.account) for e in watch.of(pjsip.RegState, killed) if e.error is not None}
        for group in (udp, tcp)
    ), "each has noticed that the registrar is gone"
    back = time.monotonic()
    server.start()

    # Who had not noticed yet is refreshed, and all have planned a retry.
    refresh = expires - max(5, expires // 5)
    bound = policy.maximum + refresh + pacing(ep, len(accounts)) + timeout
    ready = watch.wait_registered(accounts, back, bound + SLACK)
    assert ready - back <= bound
    assert all(account.state == "registered" for account in accounts)

    sent = [
        e.time.monotonic
        for e in watch.of(pjsip.SipMessage, back)
        if e.direction == "tx" and e.start_line.startswith("REGISTER") and e.time.monotonic <= ready
    ]
    assert len(sent) >= 2 * len(accounts)
    assert rate / 2 < peak(sent) <= rate + burst  # there was a crowd, and it was paced

    assert {len(contacts) for contacts in contacts_at(server, accounts).values()} == {1}
    assert watch.of(pjsip.GaveUp) == []
    stats = ep.stats()
    ep.close()
    assert stats["late_events"] == 0
    watch.check_nothing_lost(stats)
    assert watch.check_one_outcome_each() == []
    watch.check_states_follow()


# -- a registrar that hangs, and another in its place ----------------------------------------------


def test_a_backup_serves_while_the_primary_hangs_and_everybody_comes_home(
    endpoint: Open,
    start_kamailio: Callable[..., Kamailio],
) -> None:
    primary, backup = start_kamailio(), start_kamailio()
    each, expires, timeout, failback = 50, 8, 1.0, 2.0
    ep, watch = endpoint(register_burst=4 * each)  # pacing is not what this is about
    accounts: list[pjsip.Account] = []
    for protocol in ("udp", "tcp"):
        accounts += bulk(
            ep,
            each,
            first=len(accounts),
            registrars=[primary.uri(protocol), backup.uri(protocol)],
            expires=expires,
            refresh_margin=3,
            timeout=timeout,
            failback=failback,
            retry=pjsip.RetryPolicy(initial=0.5, maximum=2.0, reconnect=0.5),
        )
    protocols = ["udp"] * each + ["tcp"] * each
    home = {a.aor: primary.uri(p) for a, p in zip(accounts, protocols, strict=True)}
    away = {a.aor: backup.uri(p) for a, p in zip(accounts, protocols, strict=True)}

    def served() -> dict[str, str]:
        return {a.aor: a.registrar for a in accounts if a.registered}

    def changes(since: float) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for e in watch.of(pjsip.RegistrarChanged, since):
            error = None if e.error is None else type(e.error)
            found.setdefault(e.account.aor, []).append((e.previous, e.registrar, e.reason, error))
        return found

    register_all(accounts)
    assert served() == home
    assert changes(0.0) == {}

    paused = time.monotonic()
    primary.pause()
    watch.wait_registered(accounts, paused, expires + 2 * timeout + SLACK)
    for account in accounts:
        asked, answered = (
            min(e.time.monotonic for e in events if e.account is account)
            for events in (watch.of(pjsip.RegStarted, paused), watch.successes(paused))
        )
        assert answered - asked <= 2 * timeout, account
    assert served() == away
    assert changes(paused) == {
        a: [(home[a], away[a], "failover", pjsip.RegistrationTimeout)] for a in home
    }
    assert all(len(c) == 1 for c in contacts_at(backup, accounts).values())

    # A probe of the primary that is not answered disturbs nobody, and moves nobody.
    def probed() -> list[pjsip.RegState]:
        return [e for e in watch.of(pjsip.RegState, paused) if e.probe and e.error is not None]

    wait_until(
        lambda: {e.account for e in probed()} == set(accounts),
        failback + timeout + SLACK,
        "every account has probed the primary",
        0.05,
    )
    assert served() == away
    assert all(len(c) == 1 for c in changes(paused).values())

    resumed = time.monotonic()
    primary.resume()
    # A probe under way may time out first; the next is sent failback seconds after it.
    wait_until(
        lambda: served() == home,
        timeout + failback + pacing(ep, 2 * each) + SLACK,
        "all come home",
        0.05,
    )
    assert changes(resumed) == {a: [(away[a], home[a], "home", None)] for a in home}
    assert all(len(c) == 1 for c in contacts_at(primary, accounts).values())
    wait_until(
        lambda: not any(contacts_at(backup, accounts).values()),
        expires + SLACK,
        "the bindings at the backup expire",
        0.2,
    )
    assert all(len(c) == 1 for c in contacts_at(primary, accounts).values())
    assert served() == home
    assert all(len(c) == 2 for c in changes(0.0).values())
    stats = ep.stats()
    ep.close()
    watch.check_nothing_lost(stats)
    # Who comes home while being refreshed at the backup does not wait for that.
    unfinished = watch.check_one_outcome_each()
    assert {e.client.registrar for e in unfinished} <= set(away.values())
    watch.check_states_follow()


# -- what a registrar answers, on the real clock ---------------------------------------------------


def test_a_busy_registrar_a_refusal_and_silence_are_each_taken_as_meant(
    endpoint: Open,
) -> None:
    busy, banned, silent = (f"sip:{name}@example.com" for name in ("busy", "banned", "silent"))
    with Registrar() as registrar:
        registrar.answer_next(503, headers={"Retry-After": "7"}, aor=busy)
        registrar.answer_next(403, aor=banned, times=None)
        registrar.drop_next(times=None, aor=silent)
        ep, watch = endpoint(t1=10.0)  # no retransmissions: a request that arrives is an attempt
        timeout, policy = 0.5, pjsip.RetryPolicy(initial=1.0, factor=2.0, jitter="none")
        accounts = {
            aor: ep.add_account(aor, registrar=registrar.uri(), timeout=timeout, retry=policy)
            for aor in (busy, banned, silent)
        }
        operations = {aor: account.register() for aor, account in accounts.items()}
        with pytest.raises(pjsip.ServerError) as overload:
            operations[busy].result(5)
        assert (overload.value.code, overload.value.retry_after) == (503, 7)
        assert accounts[busy].state == "waiting"
        with pytest.raises(pjsip.ForbiddenError):
            operations[banned].result(5)
        with pytest.raises(pjsip.RegistrationTimeout):
            operations[silent].result(5)
        retry_at = accounts[busy].retry_at
        assert retry_at is not None
        assert 6 < retry_at - time.time() <= 7.5

        assert accounts[busy].wait_registered(10).code == 200
        times = {
            aor: [r.received_at for r in registrar.requests if r.aor == aor] for aor in accounts
        }
        first, second = times[busy]
        assert 7.0 <= second - first <= 9.0

        assert len(times[banned]) == 1
        assert accounts[banned].state == "failed"
        [gave_up] = watch.of(pjsip.GaveUp)
        assert gave_up.account is accounts[banned]
        assert isinstance(gave_up.error, pjsip.ForbiddenError)
        assert gave_up.attempts == 1
        assert gave_up.hint
        with pytest.raises(pjsip.ForbiddenError):
            accounts[banned].wait_registered(1)

        # At 0, then 1, 2 and 4 s after each time-out: 0, 1.5, 4, (8.5).
        gaps = [b - a for a, b in itertools.pairwise(times[silent])]
        assert len(gaps) >= 2
        for gap, wanted in zip(gaps, (1.0, 2.0, 4.0), strict=False):
            assert wanted + timeout - 0.002 <= gap <= wanted + timeout + 0.3
        assert accounts[silent].state in ("waiting", "registering")


# -- a name that resolves slowly -------------------------------------------------------------------


@pytest.mark.parametrize("slow", [1, 30])
def test_names_that_resolve_slowly_delay_nobody_else(endpoint: Open, slow: int) -> None:
    ended = threading.Event()

    def resolve(query: Any) -> list[str]:
        if query.host.startswith("slow"):
            ended.wait(5.0)
        return [HOST]

    with Registrar() as registrar:
        ep, _ = endpoint(resolver=resolve)
        try:
            port = registrar.port()

            def add(name: str, number: int) -> pjsip.Account:
                return ep.add_account(
                    f"sip:{name}{number}@example.com", registrar=f"sip:{name}{number}.test:{port}"
                )

            add("warm", 0).register().result(5)  # transport, threads and imports are there then
            alone = latencies([add("alone", n) for n in range(20)])
            operations = [add("slow", n).register() for n in range(slow)]
            beside = latencies([add("beside", n) for n in range(20)])
            assert not any(operation.done() for operation in operations)
            for mine, usual in zip(beside, alone, strict=True):
                assert mine - usual < 0.05
        finally:
            ended.set()
        assert {operation.result(10).code for operation in operations} == {200}


def latencies(accounts: Sequence[pjsip.Account]) -> list[float]:
    """Seconds from ``register()`` to its outcome, one account after the other, sorted."""
    found = []
    for account in accounts:
        began = time.monotonic()
        account.register().result(10)
        found.append(time.monotonic() - began)
    return sorted(found)


# -- a network that loses a quarter of everything --------------------------------------------------


@pytest.mark.timeout(120)
def test_200_of_200_accounts_are_kept_through_25_percent_loss_both_ways(
    endpoint: Open,
) -> None:
    count, expires, margin, renewals = 200, 15, 6, 3
    there, back = Way(loss=0.25, seed=11), Way(loss=0.25, seed=12)
    users = {f"lossy{number}": PASSWORD for number in range(count)}
    with (
        Registrar(users=users) as registrar,
        UdpRelay(registrar.address(), there=there, back=back) as relay,
    ):
        ep, watch = endpoint(t1=0.1, t2=0.4)
        accounts = [
            ep.add_account(
                f"sip:{user}@example.com",
                registrar=relay.uri,
                credentials=pjsip.Credentials(user, password),
                expires=expires,
                refresh_margin=margin,
                timeout=2.5,
                retry=pjsip.RetryPolicy(initial=0.3, maximum=1.0),
                contact_rewrite=0,
            )
            for user, password in users.items()
        ]
        for account in accounts:
            account.register()
        for account in accounts:
            account.wait_registered(20)

        def renewed() -> bool:
            seen = Counter(id(e.account) for e in watch.successes())
            return all(seen[id(a)] > renewals for a in accounts)

        wait_until(renewed, (renewals + 1) * (expires - margin), "three renewals each", 0.2)
        granted: dict[str, list[float]] = {account.aor: [] for account in accounts}
        for request in registrar.requests:
            if request.answered == 200:
                granted[request.aor].append(request.received_at)
        for aor, times in granted.items():
            gaps = [b - a for a, b in itertools.pairwise(times)]
            assert len(gaps) >= renewals
            assert max(gaps) < expires, f"the binding of {aor} lapsed"
            assert len(registrar.bindings(aor)) == 1
        assert all(a.registered for a in accounts)
        assert watch.of(pjsip.GaveUp) == []
        for way in (there, back):  # it was as bad as said
            assert way.received > 4 * count
            assert way.lost / way.received == pytest.approx(0.25, abs=0.05)


# -- connections that die --------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_frozen_connection_is_noticed_by_its_missing_pong(
    endpoint: Open, kamailio: Kamailio, protocol: str
) -> None:
    count, keep_alive, pong_timeout, reconnect = 20, 1.0, 1.0, 1.0
    with TcpProxy((HOST, kamailio.port(protocol))) as proxy:
        ep, watch = endpoint()
        accounts = bulk(
            ep,
            count,
            first=30_000,
            registrar=proxy.uri(protocol),
            tls=pjsip.TlsConfig(ca_file=kamailio.certs.ca_file) if protocol == "tls" else None,
            expires=600,
            keep_alive=keep_alive,
            pong_timeout=pong_timeout,
            retry=pjsip.RetryPolicy(initial=0.5, reconnect=reconnect),
        )
        register_all(accounts)
        assert (proxy.connections, proxy.accepted) == (1, 1)
        before = {e.connection for e in watch.successes()}
        # Pings that are answered keep the connection as it is.
        answers = proxy.answers
        wait_until(lambda: proxy.answers >= answers + 2, 5, "two pongs")
        assert proxy.accepted == 1
        assert len(watch.successes()) == count

        frozen = time.monotonic()
        assert proxy.freeze() == 1
        bound = keep_alive + pong_timeout + reconnect + pacing(ep, count) + SLACK
        ready = watch.wait_registered(accounts, frozen, bound)
        assert ready - frozen <= bound
        again = watch.successes(frozen)
        assert min(e.time.monotonic for e in again) - frozen >= pong_timeout * 0.9
        assert len({e.connection for e in again} | before) == 2
        assert proxy.accepted == 2
        wait_until(lambda: proxy.connections == 1, 5, "the dead connection is let go")
        assert all(a.registered for a in accounts)
        assert Counter(e.account for e in again) == dict.fromkeys(accounts, 1)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_an_idle_connection_that_is_cut_is_noticed_at_once(
    endpoint: Open, kamailio: Kamailio, protocol: str, reset: bool
) -> None:
    count, reconnect = 20, 2.0
    with TcpProxy((HOST, kamailio.port(protocol))) as proxy:
        ep, watch = endpoint()
        accounts = bulk(
            ep,
            count,
            first=31_000,
            registrar=proxy.uri(protocol),
            tls=pjsip.TlsConfig(ca_file=kamailio.certs.ca_file) if protocol == "tls" else None,
            expires=600,
            retry=pjsip.RetryPolicy(initial=0.5, reconnect=reconnect),
        )
        register_all(accounts)
        cut = time.monotonic()
        assert proxy.cut(reset=reset) == 1
        ready = watch.wait_registered(accounts, cut, reconnect + pacing(ep, count) + SLACK)
        assert ready - cut <= reconnect + pacing(ep, count) + 0.3
        gone = min(
            e.time.monotonic
            for e in watch.of(pjsip.TransportState, cut)
            if e.state == "disconnected"
        )
        assert gone - cut < 0.3
        started = sorted(e.time.monotonic - cut for e in watch.of(pjsip.RegStarted, cut))
        assert len(started) == count
        # Spread, not all at once: of 20 even choices in 2 s, no half second gets 15.
        assert peak(started, 0.5) < 15
        assert proxy.accepted == 2


def test_a_refused_connection_is_tried_until_it_is_accepted(
    endpoint: Open, kamailio: Kamailio
) -> None:
    with TcpProxy((HOST, kamailio.port("tcp"))) as proxy:
        ep, watch = endpoint()
        policy = pjsip.RetryPolicy(initial=0.2, maximum=0.4, reconnect=0.2)
        accounts = bulk(ep, 5, first=32_000, registrar=proxy.uri(), expires=600, retry=policy)
        register_all(accounts)
        proxy.refuse()
        cut = time.monotonic()
        proxy.cut()
        wait_until(
            lambda: all(a.attempts >= 3 for a in accounts), 5, "each has been refused three times"
        )
        assert {type(a.error) for a in accounts} == {pjsip.TransportError}
        proxy.accept()
        opened = time.monotonic()
        watch.wait_registered(accounts, cut, policy.maximum + SLACK)
        assert time.monotonic() - opened <= policy.maximum + SLACK
        assert all(a.error is None for a in accounts)


# -- behind a NAT ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [1, 2])
def test_the_contact_becomes_what_the_registrar_sees(endpoint: Open, mode: int) -> None:
    aor = "sip:alice@example.com"
    with (
        Registrar(users={"alice": PASSWORD}) as registrar,
        UdpRelay(registrar.address()) as relay,
    ):
        ep, watch = endpoint()
        udp = ep.listen("udp", HOST)
        account = ep.add_account(
            aor,
            registrar=relay.uri,
            credentials=pjsip.Credentials("alice", PASSWORD),
            expires=2,  # refreshed after one
            contact_rewrite=mode,
        )
        account.register().result(5)

        def changed_to_what_the_relay_shows(times: int) -> None:
            wait_until(lambda: len(watch.of(pjsip.ContactChanged)) == times, 5, "rewritten")
            mapped = f"{HOST}:{relay.mapped[udp.host, udp.port][1]}"
            wait_until(
                lambda: [mapped in b.uri for b in registrar.bindings(aor)] == [True],
                5,
                "the new contact alone is bound",
            )
            event = watch.of(pjsip.ContactChanged)[-1]
            assert event.account is account
            assert (event.local, event.mapped) == (udp.address, mapped)
            assert mapped in event.contact
            assert mapped not in event.previous
            wait_until(
                lambda: account.binding is not None and mapped in account.binding.uri,
                5,
                "the account knows it",
            )

        changed_to_what_the_relay_shows(1)
        assert udp.address in watch.of(pjsip.ContactChanged)[0].previous
        # Refreshed as it is: what is right is not rewritten again.
        seen = len(watch.successes())
        wait_until(lambda: len(watch.successes()) >= seen + 2, 10, "two refreshes")
        assert len(watch.of(pjsip.ContactChanged)) == 1
        # The NAT forgets, and gives another port.
        relay.rebind()
        changed_to_what_the_relay_shows(2)
        # Each Contact was removed by the request that brought the next.
        removed = [
            c.uri for r in registrar.requests for c in r.contacts if c.params.get("expires") == "0"
        ]
        assert [f"<{uri}>" for uri in removed] == [
            e.previous for e in watch.of(pjsip.ContactChanged)
        ]
        account.unregister().result(5)
        assert registrar.bindings(aor) == []


def test_the_contact_stays_as_it_is_when_told_so(
    endpoint: Open,
) -> None:
    aor = "sip:alice@example.com"
    with Registrar() as registrar, UdpRelay(registrar.address()) as relay:
        ep, watch = endpoint()
        udp = ep.listen("udp", HOST)
        account = ep.add_account(aor, registrar=relay.uri, expires=2, contact_rewrite=0)
        account.register().result(5)
        wait_until(lambda: len(watch.successes()) >= 3, 10, "two refreshes")
        assert relay.mapped[udp.host, udp.port][1] != udp.port
        assert watch.of(pjsip.ContactChanged) == []
        assert [udp.address in b.uri for b in registrar.bindings(aor)] == [True]
        assert {c.uri for r in registrar.requests for c in r.contacts} == {
            f"sip:alice@{udp.address}"
        }


# -- the relay and the proxy themselves, judged by a client that shares nothing with pjsip_py ------


def test_the_relay_serves_200_clients_at_once(kamailio: Kamailio) -> None:
    with UdpRelay((HOST, kamailio.port("udp"))) as relay:
        clients = [RawClient("udp", HOST, relay.port) for _ in range(200)]
        try:
            for client in clients:
                assert client.request("OPTIONS", "probe").code == 200
            mapped = relay.mapped
            assert set(mapped) == {(HOST, client.local_port) for client in clients}
            assert len(set(mapped.values())) == 200
            relay.rebind()
            assert set(relay.mapped) == set(mapped)
            assert not set(relay.mapped.values()) & set(mapped.values())
            assert clients[0].request("OPTIONS", "probe").code == 200
        finally:
            for client in clients:
                client.close()
    assert (relay.there.received, relay.there.lost, relay.back.lost) == (201, 0, 0)


def test_the_relay_loses_repeats_and_delays_as_told(kamailio: Kamailio) -> None:
    with (
        UdpRelay((HOST, kamailio.port("udp"))) as relay,
        RawClient("udp", HOST, relay.port) as client,
    ):
        relay.there.delay = relay.back.delay = 0.05
        began = time.monotonic()
        client.request("OPTIONS", "probe")
        assert time.monotonic() - began >= 0.1
        relay.there.delay = relay.back.delay = 0.0
        relay.there.duplicate = 1.0
        received = relay.back.received
        client.request("OPTIONS", "probe")
        wait_until(lambda: relay.back.received == received + 2, 2, "two answers")
        relay.back.loss = 1.0
        client.timeout = 0.3
        with pytest.raises(TimeoutError):
            client.request("OPTIONS", "probe")
        assert relay.back.lost == relay.back.received - received - 2 > 0


def test_the_proxy_freezes_cuts_and_refuses(kamailio: Kamailio) -> None:
    with TcpProxy((HOST, kamailio.port("tcp"))) as proxy:
        with RawClient("tcp", HOST, proxy.port, timeout=0.3) as client:
            assert client.request("OPTIONS", "probe").code == 200
            assert proxy.freeze() == 1
            with pytest.raises(TimeoutError):
                client.request("OPTIONS", "probe")
            with RawClient("tcp", HOST, proxy.port) as other:
                assert other.request("OPTIONS", "probe").code == 200
                assert proxy.connections == 2
                proxy.cut()
                with pytest.raises(ConnectionError):
                    other.request("OPTIONS", "probe")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            RawClient("tcp", HOST, proxy.port)
        proxy.accept()
        with RawClient("tcp", HOST, proxy.port) as client:
            assert client.request("OPTIONS", "probe").code == 200
