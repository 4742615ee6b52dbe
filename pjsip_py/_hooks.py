# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls what the program gave us to ask, on threads of its own: a resolver, a vault.

Neither the worker nor an event loop waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine

from ._typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from concurrent.futures import Future

RunCoroutine: TypeAlias = Callable[[Coroutine[Any, Any, Any]], "Future[Any] | None"]

# One call may take for ever, and so takes one of these.
MAX_THREADS = 512


class Hooks:
    """Runs hooks, plain functions and coroutine functions alike; all threads that live are busy.

    :param run_coroutine: starts a coroutine on a running loop, or returns None if there is none:
        then it runs on a thread of ours.
    """

    #: Calls of all Hooks that have not been done; a virtual clock waits for them.
    pending = 0
    _counting = threading.RLock()

    def __init__(self, name: str, run_coroutine: RunCoroutine | None = None) -> None:
        self._name = name
        self._run_coroutine = run_coroutine or (lambda coroutine: None)
        self._lock = threading.RLock()
        self._queue: deque[tuple[Callable[[], Any], Callable[[Future[Any]], object]]] = deque()
        self._threads = 0

    def call(self, hook: Callable[[], Any], done: Callable[[Future[Any]], object]) -> bool:
        """Call *done*, on some thread, with what *hook* returned or raised.

        False: there is no thread to be had, and nothing will happen.
        """
        work = (hook, done)
        self._count(1)
        with self._lock:
            self._queue.append(work)
            if self._threads >= MAX_THREADS:
                return True
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had
                if self._threads:
                    return True
                self._queue.remove(work)
                self._count(-1)
                return False
            self._threads += 1
            return True

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                hook, done = self._queue.popleft()
            outcome = self._ask(hook)
            outcome.add_done_callback(done)
            outcome.add_done_callback(lambda _: self._count(-1))
            del hook, done, outcome

    @classmethod
    def _count(cls, by: int) -> None:
        with cls._counting:
            Hooks.pending += by

    def _ask(self, hook: Callable[[], Any]) -> Future[Any]:
        """What the hook returns or raises; a coroutine on a loop leaves this thread free."""
        # Here and below, off the path of the package's import.
        import inspect
        from concurrent.futures import Future

        outcome: Future[Any] = Future()
        try:
            found = hook()
            if inspect.isawaitable(found):
                if not inspect.iscoroutine(found):
                    found = _wait_for(found)
                try:
                    elsewhere = self._run_coroutine(found)
                except BaseException:
                    found.close()
                    raise
                if elsewhere is not None:
                    return elsewhere
                import asyncio

                found = asyncio.run(found)
            outcome.set_result(found)
        except BaseException as error:  # SystemExit too: somebody waits for the answer
            outcome.set_exception(error)
        return outcome


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
