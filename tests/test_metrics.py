# SPDX-License-Identifier: GPL-3.0-or-later
"""pjsip_py.metrics: what is counted is what the registrar saw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import pjsip_py as pjsip
from pjsip_py import metrics as module
from pjsip_py.metrics import SHOWN, Metrics
from pjsip_py.testing import Registrar

PASSWORD = "correct horse battery"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar(users={"alice": PASSWORD, "bob": PASSWORD}) as server:
        yield server


def add(ep: pjsip.Endpoint, server: Registrar, user: str, **options: object) -> pjsip.Account:
    settings = {
        "registrar": server.uri(),
        "credentials": pjsip.Credentials(user, PASSWORD),
        **options,
    }
    return ep.add_account(f"sip:{user}@example.com", **settings)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(f"pjsip_{name}", labels)
    assert found is not None, f"{name} {labels}"
    return found


def outcomes(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["code"], sample.labels["local"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "pjsip_register_outcomes_total"
    }


def test_a_registration_and_its_end_are_counted(
    registrar: Registrar, ep: pjsip.Endpoint, registry: CollectorRegistry
) -> None:
    Metrics(ep, registry)
    alice, bob = (add(ep, registrar, user) for user in ("alice", "bob"))
    assert value(registry, "accounts", state="idle") == 2
    for account in (alice, bob):
        account.register().result(timeout=5)
    assert value(registry, "accounts_registered") == 2
    assert value(registry, "accounts", state="registered") == 2
    bob.unregister().result(timeout=5)
    uri = registrar.uri()
    # Two requests of alice's challenge and one more: a request is counted once.
    assert value(registry, "register_attempts_total", registrar=uri) == 3
    assert outcomes(registry) == {("200", "false"): 3}
    assert value(registry, "register_seconds_count") == 3
    assert 0 < value(registry, "register_seconds_sum") < 5
    assert value(registry, "accounts_registered") == 1
    assert value(registry, "accounts", state="unregistered") == 1
    assert sum(value(registry, "accounts", state=state) for state in SHOWN) == 2


def test_a_refresh_is_counted_with_its_latency(
    registrar: Registrar, ep: pjsip.Endpoint, registry: CollectorRegistry
) -> None:
    Metrics(ep, registry)
    account = add(ep, registrar, "alice", expires=2)
    with account.events() as events:
        account.register().result(timeout=5)
        registrar.delay_next(0.3)
        next(e for e in events if isinstance(e, pjsip.RegState) and e.renewal)
    assert value(registry, "register_seconds_count") == 2
    assert 0.3 <= value(registry, "register_seconds_sum") < 3
    assert value(registry, "register_attempts_total", registrar=registrar.uri()) == 2


def test_failures_are_told_apart_by_code_and_by_who_spoke(
    registrar: Registrar, ep: pjsip.Endpoint, registry: CollectorRegistry
) -> None:
    Metrics(ep, registry)
    registrar.answer_next(403)
    account = add(ep, registrar, "alice", retry=None)
    with pytest.raises(pjsip.ForbiddenError):
        account.register().result(timeout=5)
    registrar.drop_next(times=None)
    with pytest.raises(pjsip.RegistrationTimeout):
        account.register(timeout=0.2).result(timeout=5)
    assert outcomes(registry) == {("403", "false"): 1, ("408", "true"): 1}
    assert value(registry, "accounts_registered") == 0
    assert value(registry, "register_seconds_bucket", le="+Inf") == 2
    assert value(registry, "register_seconds_bucket", le="0.1") == 1


def test_giving_up_and_going_to_a_backup_are_counted(
    registrar: Registrar, ep: pjsip.Endpoint, registry: CollectorRegistry
) -> None:
    Metrics(ep, registry)
    with Registrar() as primary:
        uris = [primary.uri(), registrar.uri()]
        moving = add(ep, registrar, "alice", registrar=None, registrars=uris)
        moving.register().result(timeout=5)
        assert value(registry, "failovers_total") == 0
        primary.answer_next(503, times=None)
        with moving.events() as events:
            moving.register().result(timeout=5)
            next(e for e in events if isinstance(e, pjsip.RegistrarChanged))
    hopeless = add(ep, registrar, "bob")
    registrar.answer_next(403, aor=hopeless.aor)
    with hopeless.events() as events:
        with pytest.raises(pjsip.ForbiddenError):
            hopeless.register().result(timeout=5)
        next(e for e in events if isinstance(e, pjsip.GaveUp))
    assert value(registry, "failovers_total") == 1
    assert value(registry, "give_ups_total") == 1
    assert value(registry, "accounts", state="failed") == 1
    # One after the other gave a verdict: two requests of one attempt.
    assert outcomes(registry) == {
        ("200", "false"): 2,
        ("503", "false"): 1,
        ("403", "false"): 1,
    }


def test_lost_trace_records_are_counted(registry: CollectorRegistry, registrar: Registrar) -> None:
    with pjsip.Endpoint(trace=True, trace_limit=100, dispatch="manual") as ep:
        Metrics(ep, registry)
        add(ep, registrar, "alice").register()
        while value(registry, "register_seconds_count") == 0:
            ep.dispatch(5.0)
        ep.dispatch()
        assert value(registry, "events_dropped_total", kind="trace") > 0
        assert value(registry, "events_dropped_total", kind="log") >= 0


def test_no_series_grows_with_the_accounts(
    registrar: Registrar,
    ep: pjsip.Endpoint,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_REGISTRARS", 1)
    Metrics(ep, registry)
    with Registrar() as another:
        for server in (registrar, another, registrar):
            account = add(ep, server, "alice")
            account.register().result(timeout=5)
            account.close()
        text = generate_latest(registry).decode()
    assert "alice" not in text
    assert value(registry, "register_attempts_total", registrar=registrar.uri()) == 2
    assert value(registry, "register_attempts_total", registrar="other") == 1


def test_a_registry_has_one_at_a_time(ep: pjsip.Endpoint, registry: CollectorRegistry) -> None:
    metrics = Metrics(ep, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(ep, registry)
    metrics.close()
    assert list(registry.collect()) == []
    Metrics(ep, registry)


def test_without_the_library_it_says_what_to_install() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['prometheus_client'] = None; import pjsip_py.metrics",
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "pip install 'pjsip-py[metrics]'" in done.stderr
