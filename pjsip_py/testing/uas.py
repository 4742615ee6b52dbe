# SPDX-License-Identifier: GPL-3.0-or-later
"""The registrar as user agent server: from a message to its answer (RFC 3261 §8.2, §17.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pjsip_py._lazy import logger

from .answer import Answer
from .delivery import Delivery, Outgoing, Transaction
from .errors import UnmatchedRequest
from .faults import Fault
from .journal import Journal
from .message import Envelope, MalformedRequest, NotARequest, parse_request
from .report import unmatched
from .request import ReceivedRequest
from .rules import Connection
from .script import Script
from .server import Flow
from .service import RegistrarService, warning

log = logger("pjsip_py.testing")

_TRANSACTIONS_KEPT = 10_000
_TRANSACTION_LIFETIME = 32.0  # s; timer J of RFC 3261 §17.2.2
_OWN_ANSWER = Answer()

SeenAs = tuple[str, int | str]


class UserAgentServer:
    """Asks the script for each request, else the service, and sends the answer.

    It is the :class:`~.server.Receiver` of the transports, and works on their thread. With
    `strict` it answers nothing that the script does not.
    """

    def __init__(
        self,
        journal: Journal,
        script: Script,
        service: RegistrarService,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        token: Callable[[], str],
        call_later: Callable[[float, Callable[[], None]], None],
        name: str,
        strict: bool,
    ) -> None:
        self.answer_pings = True
        self.seen_as: SeenAs | Callable[[tuple[str, int]], SeenAs] | None = None
        self._journal = journal
        self._script = script
        self._service = service
        self._clock = clock
        self._wall = wall
        self._token = token
        self._name = name
        self._strict = strict
        self._delivery = Delivery(call_later, self._going, lambda: journal.count("unsent"))
        self._transactions: dict[tuple[object, ...], Transaction] = {}

    def restart(self) -> None:
        """Forget the transactions."""
        self._transactions.clear()
        self._delivery.clear()

    @property
    def held(self) -> list[ReceivedRequest]:
        """The requests whose answers wait for another one."""
        return self._delivery.held

    # -- what the transports tell (server.Receiver) ------------------------------------------------

    def on_message(self, data: bytes, flow: Flow) -> None:
        """Serve one message."""
        try:
            seen_as = self.seen_as(flow.source) if callable(self.seen_as) else self.seen_as
            parsed = parse_request(data, flow.source, seen_as)
        except NotARequest:
            self._journal.count("ignored")
        except MalformedRequest as error:
            self._journal.count("malformed")
            log.warning("malformed request over %s: %.200s", flow.protocol, error)
            self._refuse(error, flow)
        except Exception as error:
            self._journal.note_error(error)
        else:
            self._serve(ReceivedRequest(parsed, data, flow, self._clock(), self._wall()), flow)

    def on_accept(self, protocol: str, source: tuple[str, int]) -> Fault | None:
        """What is to go wrong with a connection, if anything."""
        return self._script.take_connection(Connection(protocol, source))

    def on_keepalive(self, flow: Flow) -> bool:
        """Count a CRLF keep-alive; whether it is answered."""
        self._journal.count("keepalives")
        return self.answer_pings

    def on_broken_stream(self, error: MalformedRequest, flow: Flow) -> None:
        """Count a connection that cannot be read on."""
        self._journal.count("malformed")
        log.warning("%s connection closed: %s", flow.protocol, error)

    # -- transactions ------------------------------------------------------------------------------

    def _serve(self, request: ReceivedRequest, flow: Flow) -> None:
        key = (flow.protocol, *request.parsed.transaction)
        if self._absorbed(key, request, flow):
            return
        self._journal.note_request(request)
        if request.method == "ACK":
            return
        transaction = Transaction(request, request.parsed.envelope)
        try:
            answer = self._script.take(request) or self._own_answer(request)
            # Over a stream nothing is sent twice: timer J is 0.
            if request.protocol == "udp" and answer.drop != "request":
                self._remember(key, transaction)
            self._answer(answer, transaction, flow)
        except BaseException as error:  # a callback's pytest.fail() and sys.exit(), too
            self._journal.note_error(error)
            data = self._reply(transaction.envelope, 500)
            self._going(transaction, data, 500)
            self._send(flow, data, transaction.envelope)
        finally:
            request.forget_parsed()

    def _own_answer(self, request: ReceivedRequest) -> Answer:
        if not self._strict:
            return _OWN_ANSWER
        rules = self._script.rules(live=False)
        self._journal.note_error(UnmatchedRequest(unmatched(request, rules)))
        return Answer(500, headers=[warning("no rule is for this request")])

    def _absorbed(self, key: tuple[object, ...], copy: ReceivedRequest, flow: Flow) -> bool:
        """Treat a retransmission as RFC 3261 §17.2.2: the same answer again, if there is one."""
        transaction = self._transactions.get(key)
        if transaction is None:
            return False
        request = transaction.request
        if copy.received_at - request.received_at >= _TRANSACTION_LIFETIME:
            return False
        request.retransmissions += 1
        self._journal.count("retransmissions")
        if transaction.response is not None:
            self._journal.note_answer(request, transaction.code)
            self._send(flow, transaction.response, transaction.envelope)
        elif transaction.provisional is not None:
            self._send(flow, transaction.provisional, transaction.envelope)
        return True

    def _remember(self, key: tuple[object, ...], transaction: Transaction) -> None:
        kept = self._transactions
        kept.pop(key, None)
        while len(kept) >= _TRANSACTIONS_KEPT:
            del kept[next(iter(kept))]
        kept[key] = transaction

    # -- answers -----------------------------------------------------------------------------------

    def _answer(self, answer: Answer, transaction: Transaction, flow: Flow) -> None:
        if answer.drop in ("request", "all") or answer.close == "before":
            self._journal.count("dropped")
            log.info("%s", transaction.request)
        else:
            for code in answer.all_provisional:
                self._proceed(transaction, flow, self._reply(transaction.envelope, code))
            code, data = self._compose(answer, transaction, flow)
            if answer.drop or answer.close == "instead":
                transaction.response, transaction.code = data, code
                self._journal.count("dropped")
            else:
                self._delivery.deliver(Outgoing(transaction, flow, data, code, answer))
        if answer.lost:
            self._delivery.hang_up(flow, answer)

    def _compose(self, answer: Answer, transaction: Transaction, flow: Flow) -> tuple[int, bytes]:
        """The final answer: its code, 0 for raw bytes, and its text."""
        request, envelope = transaction.request, transaction.envelope
        if answer.raw is not None:
            return 0, answer.raw(request) if callable(answer.raw) else answer.raw
        code = answer.code
        if code is not None:
            told = answer.dress([], self._token)
            data = answer.spoil(self._reply(envelope, code, told, answer.reason, answer.body))
            if code >= 200:
                return code, data
            self._proceed(transaction, flow, data)
        with self._journal.lock:
            final, headers = self._service.decide(request, stale=answer.stale)
        if code is not None:  # all that was scripted has gone
            return final, self._reply(envelope, final, headers)
        headers = answer.dress(headers, self._token)
        return final, answer.spoil(self._reply(envelope, final, headers))

    def _proceed(self, transaction: Transaction, flow: Flow, data: bytes) -> None:
        transaction.provisional = data
        self._send(flow, data, transaction.envelope)

    def _going(self, transaction: Transaction, data: bytes, code: int) -> None:
        transaction.response, transaction.code = data, code
        # Before it is sent: who has the answer finds it noted.
        self._journal.note_answer(transaction.request, code)

    def _refuse(self, error: MalformedRequest, flow: Flow) -> None:
        if error.envelope is not None:
            with self._journal.lock:
                self._journal.responses[error.code] += 1
            data = self._reply(error.envelope, error.code, [warning(str(error))])
            self._send(flow, data, error.envelope)

    def _send(self, flow: Flow, data: bytes, envelope: Envelope) -> None:
        if not flow.send(data, envelope.destination):
            self._journal.count("unsent")

    def _reply(
        self,
        envelope: Envelope,
        code: int,
        headers: Sequence[tuple[str, str]] = (),
        reason: str | None = None,
        body: bytes = b"",
    ) -> bytes:
        named = [("Server", self._name), *headers]
        return bytes(envelope.response(code, reason, named, tag=self._token(), body=body))
