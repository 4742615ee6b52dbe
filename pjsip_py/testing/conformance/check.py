# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check is, how it is declared, and what can come of it."""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .agent import Agent
    from .client import Message

#: What a check may need: a transport that the registrar answers on (a stream is TCP, or TLS where
#: there is no TCP), a user name with password, an AOR that has no binding but the suite's own.
TRANSPORTS = ("udp", "tcp", "tls", "stream")
NEEDS = (*TRANSPORTS, "credentials", "own AOR")


class Status(enum.Enum):
    """What came of a check."""

    PASS = "pass"
    FAIL = "fail"
    #: The registrar lacks something that it may lack: an extension, or what is recommended only.
    NOT_SUPPORTED = "not supported"
    #: It could not be looked at here; the reason says why.
    NOT_APPLICABLE = "not applicable"


class Outcome(Exception):
    """Ends a check with another status than pass; the text says why."""

    status = Status.FAIL


class Failed(Outcome):
    """What the registrar did is not what the RFC demands."""


class NoAnswer(Failed):
    """A request that had to be answered was not, in the time there is."""


class NotSupported(Outcome):
    status = Status.NOT_SUPPORTED


class NotApplicable(Outcome):
    status = Status.NOT_APPLICABLE


@dataclass(frozen=True)
class Check:
    """One check. ``id`` is ``group.name``; ``title`` says in a line what must be so, ``rule`` in
    full; ``sections`` are the places in the RFCs that say so."""

    id: str
    title: str
    rule: str
    sections: tuple[str, ...]
    needs: tuple[str, ...]
    function: Callable[[Agent], None]

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    @property
    def transport(self) -> str | None:
        """The transport that it has to run over; None: whichever there is."""
        return next((each for each in self.needs if each in TRANSPORTS), None)


@dataclass(frozen=True)
class Result:
    """What came of one check.

    ``reason`` is empty for a pass; ``exchange`` are the messages, without their secrets;
    ``attempts`` how often it was tried, because messages were lost.
    """

    check: Check
    status: Status
    reason: str
    seconds: float
    exchange: Sequence[Message] = ()
    attempts: int = 1


class CertificateRefused(NotApplicable):
    """TLS could not be spoken, for the registrar's certificate; a check of its own tells it."""


_checks: dict[str, Check] = {}

# In the order they run.
_MODULES = (
    "stack",
    "bindings",
    "order",
    "expiry",
    "auth",
    "service",
    "syntax",
    "malformed",
    "transport",
    "extensions",
)


def check(
    id: str, *sections: str, needs: Sequence[str] = ()
) -> Callable[[Callable[[Agent], None]], Callable[[Agent], None]]:
    """Declare a function a check. Its docstring's first paragraph is the title, all of it the
    rule; it returns when the registrar does right and raises an :class:`Outcome` else."""

    def declare(function: Callable[[Agent], None]) -> Callable[[Agent], None]:
        rule = inspect.getdoc(function) or ""
        assert rule, id
        assert sections, id
        assert id not in _checks, id
        assert set(needs) <= set(NEEDS), id
        title = " ".join(rule.partition("\n\n")[0].split())
        _checks[id] = Check(id, title, " ".join(rule.split()), sections, tuple(needs), function)
        return function

    return declare


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order they run."""
    for name in _MODULES:  # importing is what declares them
        importlib.import_module(f".check_{name}", __package__)
    return tuple(_checks.values())
