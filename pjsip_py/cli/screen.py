# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees: lines in colour on a terminal, plain ones elsewhere; or JSON Lines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.text import Text

from pjsip_py.errors import PjsipError
from pjsip_py.events import (
    AccountEvent,
    Event,
    EventsDropped,
    RegStarted,
    RegState,
    SipMessage,
    TransportState,
)
from pjsip_py.message import Binding
from pjsip_py.tls import TlsInfo

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

SENT, RECEIVED, NOTE, GOOD, BAD, MORE = "→", "←", "·", "✓", "✗", " "
_MARK_STYLES = {
    SENT: "cyan",
    RECEIVED: "blue",
    NOTE: "dim",
    GOOD: "bold green",
    BAD: "bold red",
    MORE: "",
}
_TEXT_STYLES = {NOTE: "dim", GOOD: "green", BAD: "red", MORE: "dim"}


def printable(text: str) -> str:
    """*text* from the network, its control characters spelled out: it cannot move a cursor."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


class ReaderGone(Exception):
    """Nobody reads standard output any more.

    Not a BrokenPipeError: click and rich make exit code 1 of that, which here means "refused".
    """


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise ReaderGone


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None


class Screen:
    """Standard output as a timeline, and standard error for what went wrong."""

    def __init__(self, *, as_json: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # an arrow must not fail where there is only ASCII
                reconfigure(errors="replace")
        self.as_json = as_json
        self._out = _Console(highlight=False, emoji=False, soft_wrap=True)
        self._err = _Console(highlight=False, emoji=False, soft_wrap=True, stderr=True)

    # -- lines ------------------------------------------------------------------------------------

    def print(self, text: Text | str = "") -> None:
        with _reader():
            self._out.print(text if isinstance(text, Text) else Text(text))
            self._out.file.flush()

    def show(self, what: RenderableType) -> None:
        """A table, say: as wide as the terminal; elsewhere 100 columns, or COLUMNS."""
        out = self._out
        if not out.is_terminal and "COLUMNS" not in os.environ:
            out = _Console(highlight=False, emoji=False, width=100)
        with _reader():
            out.print(what, soft_wrap=False)
            out.file.flush()

    def line(self, when: str, mark: str, text: str, detail: str = "") -> None:
        """One line of a timeline: when, an arrow, what happened, and the particulars."""
        shown = Text(printable(text), style=_TEXT_STYLES.get(mark, ""))
        if detail:
            shown.pad_right(max(0, 42 - shown.cell_len))
            shown.append(f"  {printable(detail)}", style="dim")
        line = Text.assemble((f"{when}  ", "dim"), (mark, _MARK_STYLES[mark]), "  ", shown)
        self.print(line)

    def end_line(self) -> None:
        """After the ^C that a terminal shows where the cursor is."""
        if not self.as_json and self._out.is_terminal:
            self.print()

    def json(self, record: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own."""
        with _reader():
            self._out.file.write(json.dumps(record) + "\n")
            self._out.file.flush()

    def error(self, message: str, hint: str = "") -> None:
        """What went wrong, and what to do about it, on standard error."""
        self._err.print(Text.assemble(("Error: ", "bold red"), printable(message)))
        if hint:
            self._err.print(Text.assemble(("Hint: ", "bold"), printable(hint)))

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """A moving sign of life, on a terminal only."""
        if self.as_json or not self._out.is_terminal:
            return nullcontext()
        return self._out.status(Text(what, style="dim"), spinner="dots")


def clock(wall: float) -> str:
    """Local time of day, to the millisecond."""
    return f"{time.strftime('%H:%M:%S', time.localtime(wall))}.{int(wall * 1000) % 1000:03d}"


def abandon_stdout() -> None:
    """Let nothing, not even the interpreter's last flush, write to a pipe nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- in words -------------------------------------------------------------------------------------


def describe_error(error: PjsipError) -> str:
    """``WrongPasswordError: 401 Unauthorized``."""
    return f"{type(error).__name__}: {error}"


def describe_outcome(event: RegState) -> tuple[str, str, str]:
    """Mark, what happened and particulars of the outcome of a request."""
    if event.error is not None:
        what = event.reason if event.local else f"{event.code} {event.reason}"
        return BAD, what, type(event.error).__name__
    details = [event.algorithm] if event.algorithm else []
    if event.is_unregister:
        return GOOD, f"{event.code} {event.reason}: unregistered", ", ".join(details)
    if event.refresh_in is not None:
        details.append(f"next refresh in {event.refresh_in} s")
    what = "refreshed" if event.renewal else "registered"
    return GOOD, f"{event.code} {event.reason}: {what} for {event.expires} s", ", ".join(details)


def describe_binding(binding: Binding) -> str:
    parts = [f"bound to {binding.uri}"]
    if binding.expires is not None:
        parts.append(f"for {binding.expires} s")
    if binding.q is not None:
        parts.append(f"q={binding.q:g}")
    return " ".join(parts)


def describe_connection(event: TransportState) -> tuple[str, str]:
    tls = f"{event.tls.protocol} {event.tls.cipher}".strip() if event.tls else ""
    way = "from" if event.state == "disconnected" else "to"
    where = f" {way} {event.remote}" if event.remote else f" on {event.local}"
    return f"{event.protocol} {event.state}{where}", tls or event.reason


# -- in JSON --------------------------------------------------------------------------------------


def error_record(error: PjsipError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "hint": error.hint,
        "status": error.status,
    }


def event_record(event: Event) -> dict[str, Any] | None:
    """An event as a JSON object; None for a kind that has none."""
    head: dict[str, Any] = {"event": "", "time": round(event.time.wall, 6)}
    if isinstance(event, RegStarted):
        return head | {
            "event": "reg_started",
            "aor": event.client.aor,
            "registrar": event.client.registrar,
            "renewal": event.renewal,
            "unregister": event.is_unregister,
        }
    if isinstance(event, RegState):
        return head | {
            "event": "reg_state",
            "aor": event.client.aor,
            "registrar": event.registrar,
            "code": event.code,
            "reason": event.reason,
            "registered": event.registered,
            "expires": event.expires,
            "refresh_in": event.refresh_in,
            "renewal": event.renewal,
            "unregister": event.is_unregister,
            "local": event.local,
            "algorithm": event.algorithm,
            "offered": event.offered,
            "attempt": event.attempt,
            "requests": event.requests,
            "probe": event.probe,
            "reg_id": event.reg_id,
            "min_expires": event.min_expires,
            "retry_in": event.retry_in,
            "retry_after": getattr(event.error, "retry_after", None),
            "local_address": event.local_address,
            "mapped_address": event.mapped_address,
            "bindings": [_binding_record(each) for each in event.bindings],
            "error": error_record(event.error),
        }
    if isinstance(event, AccountEvent):
        return head | _account_record(event)
    if isinstance(event, TransportState):
        return head | {
            "event": "transport_state",
            "protocol": event.protocol,
            "state": event.state,
            "local": event.local,
            "remote": event.remote,
            "reason": event.reason,
            "tls": _tls_record(event.tls),
            "error": error_record(event.error),
        }
    if isinstance(event, SipMessage):
        return head | {
            "event": "message",
            "direction": event.direction,
            "protocol": event.protocol,
            "local": event.local,
            "remote": event.remote,
            "text": event.text,
        }
    if isinstance(event, EventsDropped):
        return head | {"event": "events_dropped", "trace": event.trace, "log": event.log}
    return None


def _tls_record(tls: TlsInfo | None) -> dict[str, Any] | None:
    if tls is None:
        return None
    record: dict[str, Any] = {"protocol": tls.protocol, "cipher": tls.cipher, "peer": None}
    if tls.peer is not None:
        record["peer"] = {
            "subject": tls.peer.subject,
            "issuer": tls.peer.issuer,
            "san": list(tls.peer.san),
            "not_before": tls.peer.not_before,
            "not_after": tls.peer.not_after,
            "sha256": hashlib.sha256(tls.peer.der).hexdigest(),
        }
    return record


def _binding_record(binding: Binding) -> dict[str, Any]:
    return {
        "uri": binding.uri,
        "expires": binding.expires,
        "q": binding.q,
        "params": dict(binding.params),
        "display_name": binding.display_name,
    }


def _account_record(event: AccountEvent) -> dict[str, Any]:
    """AccountState, RegistrarChanged, ContactChanged and GaveUp, field by field."""
    own = [f.name for f in fields(event) if f.name not in ("time", "seq", "account")]
    values = {name: getattr(event, name) for name in own}
    if "error" in values:
        values["error"] = error_record(values["error"])
    name = re.sub("(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return {"event": name, "aor": event.account.aor} | values
