# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting a TCP or TLS stream into SIP messages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .headers import whole_number
from .message import MAX_MESSAGE, MalformedRequest

_LENGTH = re.compile(rb"(?im)^(?:content-length|l)[ \t]*:([^\r\n]*)\r$")


class StreamFramer:
    """Cuts a byte stream into messages by Content-Length (RFC 3261 §18.3).

    Between messages a double CRLF is a ping that wants a CRLF back, a single one is skipped
    (RFC 5626 §3.5.1).
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every message that is complete; ``b""`` stands for a ping.

        Raises :class:`MalformedRequest` when the end of a message cannot be found; the
        connection is of no use then.
        """
        buffer = self._buffer
        buffer += data
        while buffer:
            if buffer.startswith(b"\r\n\r\n"):
                del buffer[:4]
                yield b""
                continue
            if buffer.startswith(b"\r\n") and len(buffer) > 2 and buffer[2:3] != b"\r":
                del buffer[:2]
                continue
            if b"\r\n\r".startswith(buffer):
                return  # the rest of a ping may still come
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > MAX_MESSAGE:
                    raise MalformedRequest("the headers do not end", 513)
                return
            head = bytes(buffer[: end + 4])
            total = end + 4 + self._length(head)
            if total > MAX_MESSAGE:
                raise MalformedRequest("the message is too long", 513)
            if len(buffer) < total:
                return
            message = bytes(buffer[:total])
            del buffer[:total]
            yield message

    @staticmethod
    def _length(head: bytes) -> int:
        values = {m.group(1).strip() for m in _LENGTH.finditer(head)}
        length = whole_number(values.pop().decode("ascii", "replace")) if len(values) == 1 else None
        if length is None:
            raise MalformedRequest("a stream needs one Content-Length in each message", 400)
        return length
