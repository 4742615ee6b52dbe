# SPDX-License-Identifier: GPL-3.0-or-later
"""A challenge that the program answers: its ``credentials=`` callable, a deadline, the way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from . import _ffi
from ._typing import TYPE_CHECKING, Any
from .auth import TEXTS, BearerToken, Challenge, Source, check_proofs
from .errors import ClosedError, ConfigError
from .message import Response, unquote

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .regc import RegistrationClient

WITHHELD = "a Bearer token goes over TLS only, unless it is made insecure=True"


class Asking:
    """One CHALLENGE event of C's, from its arrival to the outcome of its request.

    Everything but the program's callable runs where events are delivered.
    """

    __slots__ = (
        "_alarm",
        "_client",
        "_id",
        "_left",
        "_open",
        "_source",
        "_texts",
        "cause",
        "why",
    )

    def __init__(self, client: RegistrationClient, source: Source, record: _ffi.Record) -> None:
        self._client = client
        self._source = source
        self._id = record.request
        self._left = deque(_challenges(client, record))
        self._texts: tuple[str, ...] = ()
        self._open = True
        self.why = ""  #: what went wrong; "" if nothing did
        self.cause: BaseException | None = None
        timeout = client._config.settings.credentials_timeout
        text = f"the credentials callable gave no answer in {timeout:g} s"
        self._alarm = client._engine.call_later(timeout, partial(self._fail, text))
        self._ask()

    def _ask(self) -> None:
        challenge, _ = self._left[0]
        if not self._client._endpoint._hooks.call(partial(self._source, challenge), self._done):
            self._fail("there is no thread to be had for the credentials callable")

    def _done(self, outcome: Future[Any]) -> None:
        """On whatever thread the callable ran."""
        self._client._engine.soon(partial(self._got, outcome))

    def _got(self, outcome: Future[Any]) -> None:
        if not self._open:
            return  # too late
        challenge, realm = self._left.popleft()
        if outcome.cancelled() or outcome.exception() is not None:
            self.cause = None if outcome.cancelled() else outcome.exception()
            # Not its text, which may hold anything: that is the cause's.
            name = "CancelledError" if self.cause is None else type(self.cause).__name__
            self._fail(f"the credentials callable raised {name}")
            return
        answer = outcome.result()
        try:
            proofs = () if answer is None else check_proofs(answer)
        except ConfigError as error:
            self.cause = error.with_traceback(None)  # which would show the answer
            self._fail(f"the credentials callable returned {type(answer).__name__}: {error}")
            return
        transport = self._client.transport
        for proof in proofs:
            tls = transport is not None and transport.protocol == "tls"
            if isinstance(proof, BearerToken) and not (tls or proof.insecure):
                self._fail(WITHHELD)
                return
            texts = proof._texts
            for at in range(0, len(texts), TEXTS):
                named, *rest = texts[at : at + TEXTS]
                # It was asked for this realm, and holds for no other.
                self._texts += (realm if named in ("*", challenge.realm) else named, *rest)
        if self._left:
            self._ask()
        else:
            self._answer()

    def _fail(self, why: str) -> None:
        if self._open:
            self.why = why
            self._texts = ()
            self._answer()

    def _answer(self) -> None:
        self._close()
        texts, self._texts = self._texts, ()
        with suppress(ClosedError):  # nobody waits any more
            _ffi.client_answer(self._client._handle, self._id, texts, len(texts) // TEXTS)

    def _close(self) -> None:
        self._open = False
        self._left.clear()
        self._client._engine.call_cancel(self._alarm)

    def end(self) -> None:
        """The request has its outcome, whatever became of this."""
        if self._open:
            self.why = "the request's time was over before the credentials callable answered"
            self._close()


def _challenges(client: RegistrationClient, record: _ffi.Record) -> Iterator[tuple[Challenge, str]]:
    """Each with its realm as C has it."""
    response = Response(record.text[1], _ffi.text_of(record.text[2]))
    fields = record.text[0].split(b"\0")
    for numbers, realm in zip(fields[0::2], fields[1::2], strict=False):
        proxy, algorithm, offered, refused = map(int, numbers.split())
        name = _ffi.ALGORITHMS[algorithm]
        scheme = "Bearer" if name == "Bearer" else "Digest"
        quoted = _ffi.text_of(realm)
        text = unquote(f'"{quoted}"')
        parameters = next(
            (
                params
                for by_proxy, its_scheme, params in response.challenges
                if by_proxy == bool(proxy)
                and its_scheme.lower() == scheme.lower()
                and params.get("realm", "").lower() in (text.lower(), "")
                and (scheme == "Bearer" or params.get("algorithm", "MD5").upper() == name)
            ),
            {},
        )
        challenge = Challenge(
            scheme=scheme,
            realm=text,
            algorithm=name,
            algorithms=_ffi.algorithms_of(offered),
            registrar=client.registrar,
            aor=client.aor,
            proxy=bool(proxy),
            refused=bool(refused),
            parameters=parameters,
            response=response,
        )
        yield challenge, quoted
