# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of a test, as few lines of text."""

from __future__ import annotations

import threading
from collections import deque

from pjsip_py import Event, SipMessage

KEPT = 20_000  # events
KEPT_CHARACTERS = 32 << 20
FIRST, LAST = 15, 45  # lines, of more than both together
WHOLE = 2  # messages that are shown in full
WHOLE_LINES = 40  # of each


class Trace:
    """Keeps the events that it is given, the last :data:`KEPT`; any thread may add."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._lost = 0  # messages
        self._size = 0
        self._lock = threading.RLock()

    def add(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            self._size += _size(event)
            while len(self._events) > KEPT or self._size > KEPT_CHARACTERS:
                first = self._events.popleft()
                self._size -= _size(first)
                self._lost += isinstance(first, SipMessage)

    @property
    def events(self) -> list[Event]:
        with self._lock:
            return list(self._events)

    @property
    def messages(self) -> list[SipMessage]:
        return [event for event in self.events if isinstance(event, SipMessage)]

    def text(self) -> str:
        """A line for each message, and the last ones in full; '' without messages."""
        messages = self.messages
        if not messages:
            return ""
        start = messages[0].time.monotonic
        lines = [_line(message, message.time.monotonic - start) for message in messages]
        if len(lines) > FIRST + LAST:
            left_out = len(lines) - FIRST - LAST
            lines[FIRST:-LAST] = [f"          ... {left_out} more ..."]
        if self._lost:
            lines.insert(0, f"          ... {self._lost} before these were not kept")
        for message in messages[-WHOLE:]:
            whole = message.text.replace("\r\n", "\n").rstrip("\n").split("\n")
            if len(whole) > WHOLE_LINES:
                whole[WHOLE_LINES:] = [f"... {len(whole) - WHOLE_LINES} more lines"]
            lines += ["", *(f"    {line}" for line in whole)]
        return "\n".join(lines)


def _size(event: Event) -> int:
    return len(event.text) if isinstance(event, SipMessage) else 0


def _line(message: SipMessage, after: float) -> str:
    arrow = "->" if message.direction == "tx" else "<-"
    what = message.start_line.removesuffix(" SIP/2.0").removeprefix("SIP/2.0 ")
    cseq = (message.headers.get("CSeq") or "?").partition(" ")[0]
    return f"{after:8.3f} {arrow} {message.protocol} {message.remote:21} {what}  (CSeq {cseq})"
