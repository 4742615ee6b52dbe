# SPDX-License-Identifier: GPL-3.0-or-later
"""How answers go out: late, twice, in another order, in pieces, or with their connection's end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from .answer import Answer
from .message import Envelope
from .request import ReceivedRequest
from .server import Datagrams, Flow, Stream


@dataclass
class Transaction:
    """A server transaction: what a retransmission of its request gets."""

    request: ReceivedRequest
    envelope: Envelope
    response: bytes | None = None
    code: int = 0
    provisional: bytes | None = None  # the last one


@dataclass
class Outgoing:
    """A final answer on its way."""

    transaction: Transaction
    flow: Flow
    data: bytes
    code: int
    answer: Answer


class Delivery:
    """Sends answers as their script wants; all of it on the server's thread.

    `going` is told before an answer is sent, `unsent` when it could not be, `call_later` runs a
    function after some seconds.
    """

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], None],
        going: Callable[[Transaction, bytes, int], None],
        unsent: Callable[[], None],
    ) -> None:
        self._call_later = call_later
        self._going = going
        self._unsent = unsent
        self._held: list[tuple[Outgoing, int]] = []  # with how many answers to wait for

    @property
    def held(self) -> list[ReceivedRequest]:
        """The requests whose answers wait for another one."""
        return [out.transaction.request for out, _ in self._held]

    def clear(self) -> None:
        """Forget the answers that wait."""
        self._held.clear()

    def deliver(self, out: Outgoing) -> None:
        """Send an answer when its time has come."""
        if out.answer.delay:
            self._call_later(out.answer.delay, lambda: self._due(out))
        else:
            self._due(out)

    def hang_up(self, flow: Flow, answer: Answer) -> None:
        """End a connection in place of an answer."""
        stream = cast(Stream, flow)  # or the rule would not have matched
        if answer.delay:
            self._call_later(answer.delay, lambda: stream.end(answer.how))
        else:
            stream.end(answer.how)

    def _due(self, out: Outgoing) -> None:
        if out.answer.behind or out.answer.joined:
            self._held.append((out, out.answer.behind))
        else:
            self._go(out)

    def _go(self, out: Outgoing) -> None:
        joined = [o for o, _ in self._held if o.answer.joined and o.flow is out.flow]
        waiting = [(o, n - 1) for o, n in self._held if not any(o is j for j in joined)]
        for each in (*joined, out):
            self._going(each.transaction, each.data, each.code)
        # whoever waits to be joined has no number to wait for
        self._held = [(o, n) for o, n in waiting if n or o.answer.joined]
        self._send(out, b"".join(each.data for each in joined))
        for each, left in waiting:
            if not left and not each.answer.joined:
                self._go(each)

    def _send(self, out: Outgoing, before: bytes) -> None:
        answer, flow, destination = out.answer, out.flow, out.transaction.envelope.destination
        data = before + out.data
        if answer.sent_from is not None:
            udp = cast(Datagrams, flow)
            sent = [
                udp.send_from(answer.sent_from, data, destination) for _ in range(answer.copies)
            ]
        elif answer.split != 1 or answer.close:
            stream = cast(Stream, flow)
            sent = [stream.send_pieces(answer.pieces(data) * answer.copies, answer.pause)]
            if answer.close:
                stream.end(answer.how)
        else:
            sent = [flow.send(data, destination) for _ in range(answer.copies)]
        for done in sent:
            if not done:
                self._unsent()
