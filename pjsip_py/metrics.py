# SPDX-License-Identifier: GPL-3.0-or-later
"""An endpoint's registrations in numbers, for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from weakref import WeakKeyDictionary

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily, Metric
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pjsip_py.metrics needs the library prometheus_client: pip install 'pjsip-py[metrics]'",
        name="prometheus_client",
    ) from error

from ._keeper import STATES
from .endpoint import Endpoint
from .events import EventsDropped, GaveUp, RegistrarChanged, RegStarted, RegState
from .regc import RegistrationClient

#: States of an account that always have a sample, if only of 0.
SHOWN = tuple(state for state in STATES if state != "closed")
#: Registrars with a label of their own; the ones after them share "other".
MAX_REGISTRARS = 100
# s; from a registrar in the same rack to SIP timer F, which is 32 s
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 32.5)


class Metrics:
    """Counts an endpoint's registrations from now on; a collector of *registry*.

    No label holds an AOR: the number of series does not grow with the number of accounts.

    :param registry: default: prometheus_client's own.
    :raises ValueError: there are Metrics in this registry already; :meth:`close` those first.
    """

    def __init__(self, endpoint: Endpoint, registry: CollectorRegistry | None = None) -> None:
        self._endpoint = endpoint
        self._registry = REGISTRY if registry is None else registry
        self._sent: WeakKeyDictionary[RegistrationClient, float] = WeakKeyDictionary()
        self._registrars: set[str] = set()
        self._attempts = Counter(
            "pjsip_register_attempts",
            "Requests begun: registers, refreshes and unregisters",
            ["registrar"],
            registry=None,
        )
        self._outcomes = Counter(
            "pjsip_register_outcomes",
            "Their outcomes by status code; local: no response came off the wire",
            ["code", "local"],
            registry=None,
        )
        self._latency = Histogram(
            "pjsip_register_seconds",
            "From the first REGISTER of a request to its outcome, challenges included",
            buckets=BUCKETS,
            registry=None,
        )
        self._failovers = Counter(
            "pjsip_failovers", "Changes of the registrar in use, back home included", registry=None
        )
        self._give_ups = Counter("pjsip_give_ups", "Accounts that stopped trying", registry=None)
        self._dropped = Counter(
            "pjsip_events_dropped", "Trace and log records lost", ["kind"], registry=None
        )
        for kind in ("trace", "log"):
            self._dropped.labels(kind)
        self._registry.register(self)
        endpoint.on(RegStarted, self._on_started)
        endpoint.on(RegState, self._on_state)
        endpoint.on(RegistrarChanged, lambda _: self._failovers.inc())
        endpoint.on(GaveUp, lambda _: self._give_ups.inc())
        endpoint.on(EventsDropped, self._on_dropped)

    def close(self) -> None:
        """Take the metrics out of the registry."""
        self._registry.unregister(self)

    # -- what happens -----------------------------------------------------------------------------

    def _on_started(self, event: RegStarted) -> None:
        self._attempts.labels(self._label(event.client.registrar)).inc()
        self._sent[event.client] = event.time.monotonic

    def _on_state(self, event: RegState) -> None:
        self._outcomes.labels(event.code, "true" if event.local else "false").inc()
        if not event.cancelled:  # which may be of a request that still had to wait its turn
            sent = self._sent.pop(event.client, None)
            if sent is not None:
                self._latency.observe(event.time.monotonic - sent)

    def _on_dropped(self, event: EventsDropped) -> None:
        self._dropped.labels("trace").inc(event.trace)
        self._dropped.labels("log").inc(event.log)

    def _label(self, registrar: str) -> str:
        if registrar not in self._registrars:
            if len(self._registrars) >= MAX_REGISTRARS:
                return "other"
            self._registrars.add(registrar)
        return registrar

    # -- what prometheus_client asks for ----------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now; called by the registry."""
        for counted in (
            *(self._attempts, self._outcomes, self._latency),
            *(self._failovers, self._give_ups, self._dropped),
        ):
            yield from counted.collect()
        accounts = self._endpoint.accounts
        yield GaugeMetricFamily(
            "pjsip_accounts_registered",
            "Accounts with a binding",
            value=float(sum(account.registered for account in accounts)),
        )
        states = Tally(account.state for account in accounts)
        family = GaugeMetricFamily("pjsip_accounts", "Accounts by state", labels=["state"])
        for state in dict.fromkeys((*SHOWN, *states)):
            family.add_metric([state], states[state])
        yield family

    def describe(self) -> Iterator[Metric]:
        """What :meth:`collect` gives: so the registry refuses a second one."""
        return self.collect()
