# SPDX-License-Identifier: GPL-3.0-or-later
"""RetryPolicy: what an account does after a failure, and when."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ._record import field, record
from .errors import (
    AuthenticationError,
    ConfigError,
    CredentialsError,
    PjsipError,
    StaleNonceError,
    TransportError,
)
from .uri import check_bool, check_int, check_seconds


class Verdict(Enum):
    """What a failure means; :data:`STOP`, :data:`RETRY` and :data:`FAILOVER`."""

    STOP = "stop"  #: trying again will not help, or does harm
    RETRY = "retry"  #: the same registrar, later
    FAILOVER = "failover"  #: the next registrar at once; later when all have failed

    def __repr__(self) -> str:
        return self.name


STOP, RETRY, FAILOVER = Verdict.STOP, Verdict.RETRY, Verdict.FAILOVER

# RFC 3263 §4.3 calls these the failures after which the next server is tried.
_FAILOVER_CODES = frozenset({408, 503})
# A server's error that another try cannot mend: not implemented, version, message too large, no
# such push service.
_FATAL_5XX = frozenset({501, 505, 513, 555})
# With a Retry-After these mean "not now" (RFC 3261 §20.33).
_RETRY_AFTER_CODES = frozenset({404, 413, 480, 486, 500, 503, 600, 603})


@record(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with jitter, a verdict for each code, and an end.

    The first retry comes exactly *initial* seconds after the failure, the n-th between *initial*
    and ``min(maximum, initial * factor**(n-1))``.  A round through all registrars is one attempt.

    By default 401, 403, 404, 407 and the other 4xx and 6xx stop at once: RFC 3261 §8.1.3.5 has
    them repeated only after a change, and a wrong password sent again and again locks accounts.
    408, 503 and every failure without a response (DNS, connect, TLS) go to the next registrar
    (RFC 3263 §4.3); 430, 480, 491, 500, 502, 504, 580, 600 and unknown 5xx are tried later.

    :raises ConfigError: a field is out of range, by its name.
    """

    initial: float = 2.0  #: seconds before the first retry
    factor: float = 2.0  #: growth of the bound, 1 for none
    maximum: float = 300.0  #: seconds, the bound's own bound
    #: "full": anywhere up to the bound; "half": its upper half (RFC 5626 §4.5); "none": the bound
    jitter: str = "full"
    max_attempts: int | None = None  #: rounds that may fail in a row; None: no end
    honour_retry_after: bool = True  #: never earlier than the registrar's Retry-After
    maximum_retry_after: float = 3600.0  #: seconds, as much of a Retry-After is honoured
    #: status code → STOP, RETRY, FAILOVER or seconds until the retry, before the defaults
    per_code: Mapping[int, Verdict | float] = field(default_factory=dict)
    reconnect: float = 1.0  #: seconds: random wait, at most, after a connection died
    seed: int | None = None  #: makes the jitter repeatable, for each account its own

    def __post_init__(self) -> None:
        check_seconds("initial", self.initial, 0.001, 86400)
        check_seconds("maximum", self.maximum, self.initial, 7 * 86400)
        check_seconds("factor", self.factor, 1, 100)
        check_seconds("maximum_retry_after", self.maximum_retry_after, 0, 7 * 86400)
        check_seconds("reconnect", self.reconnect, 0, 3600)
        if self.jitter not in ("full", "half", "none"):
            raise ConfigError("jitter must be 'full', 'half' or 'none'")
        if self.max_attempts is not None:
            check_int("max_attempts", self.max_attempts, 1, 2**31)
        check_bool("honour_retry_after", self.honour_retry_after)
        if self.seed is not None:
            check_int("seed", self.seed, -(2**63), 2**63)
        if not isinstance(self.per_code, Mapping):
            raise ConfigError("per_code must be a mapping from status code to verdict")
        object.__setattr__(self, "per_code", dict(self.per_code))
        for code, verdict in self.per_code.items():
            check_int("per_code", code, 300, 699)
            if not isinstance(verdict, Verdict):
                check_seconds(f"per_code {code}", verdict, 0.001, 7 * 86400)

    def __hash__(self) -> int:
        return hash((self.initial, self.factor, self.maximum, self.max_attempts, self.seed))

    def verdict(self, error: PjsipError) -> Verdict | float:
        """STOP, RETRY, FAILOVER, or the seconds that ``per_code`` names."""
        code: int = getattr(error, "code", 0)
        if code in self.per_code:
            return self.per_code[code]
        if isinstance(error, AuthenticationError):
            return RETRY if isinstance(error, (StaleNonceError, CredentialsError)) else STOP
        if isinstance(error, TransportError) or code in _FAILOVER_CODES:
            return FAILOVER
        if code in _RETRY_AFTER_CODES and getattr(error, "retry_after", None) is not None:
            return RETRY
        if code // 100 == 2:
            return RETRY  # a success that granted no time
        if code // 100 == 5:
            return STOP if code in _FATAL_5XX else RETRY
        return RETRY if code in (430, 480, 491, 600) else STOP

    def delay(self, failures: int, key: str = "") -> float:
        """Seconds before the next round, after *failures* rounds in a row have failed.

        :param key: of the account, so that with a *seed* each has a sequence of its own.
        """
        if failures <= 1:
            return self.initial
        try:
            bound = min(self.maximum, self.initial * float(self.factor) ** (failures - 1))
        except OverflowError:
            bound = self.maximum
        if self.jitter == "none":
            return bound
        least = max(self.initial, bound / 2) if self.jitter == "half" else self.initial
        return self._uniform(least, bound, f"{key}/{failures}")

    def reconnect_delay(self, key: str = "") -> float:
        """Seconds before the first attempt after a connection died."""
        return self._uniform(0.0, self.reconnect, f"{key}/reconnect")

    def wait_asked(self, error: PjsipError) -> float:
        """Seconds of the error's Retry-After that are honoured, 0 without one."""
        asked: float | None = getattr(error, "retry_after", None)
        if asked is None or not self.honour_retry_after:
            return 0.0
        return min(float(asked), self.maximum_retry_after)

    def _uniform(self, least: float, most: float, key: str) -> float:
        import random  # here and elsewhere: the package's import need not wait for it

        if self.seed is None:
            return random.uniform(least, most)
        return random.Random(f"{self.seed}/{key}").uniform(least, most)


DEFAULT_POLICY = RetryPolicy()  # one for all accounts that name none
