# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured.  A measure takes a Bench and gives rows; ``MEASURES`` names them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from report import Row

from .bench import Bench
from .growth import growth
from .instructions import instructions
from .latency import latency
from .memory import memory
from .registration import refresh, registration, throughput
from .startup import startup
from .transports import connections, transports

__all__ = ["MEASURES", "Bench"]

MEASURES: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "registration": registration,
    "refresh": refresh,
    "throughput": throughput,
    "transports": transports,
    "memory": memory,
    "growth": growth,
    "connections": connections,
    "startup": startup,
    "latency": latency,
    "instructions": instructions,
}
