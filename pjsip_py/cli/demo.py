# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py demo``."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.text import Text

import pjsip_py as pjsip

from . import codes
from .inbox import Inbox, Interrupted, Stop
from .registrar import import_registrar
from .screen import BAD, GOOD, MORE, NOTE, RECEIVED, SENT, Screen, describe_error

EXPIRES = 3  # s; PJSIP then refreshes after two
SILENCE = 1.0  # s to wait for a registrar that does not answer
DEADLINE = 10.0  # s for any one step


@click.command(short_help="Watch PJSIP register, here and now.")
def demo() -> int:
    """Watch PJSIP register, here and now; takes about five seconds.

    A registrar and an endpoint in one process, talking over real sockets on 127.0.0.1: a
    registration with a digest, PJSIP's own refresh, a wrong password, two registrars that cannot
    be reached, and the unregister.  Exits with 0 if all went as it should.
    """
    Registrar = import_registrar()
    password = secrets.token_urlsafe()
    with (
        Inbox() as inbox,
        Registrar(users={"alice": password, "bob": password}) as registrar,
        pjsip.Endpoint(trace=True) as endpoint,
    ):
        show = Demo(endpoint, inbox)
        uri = registrar.uri()
        show.note(
            f"registrar at {uri}; PJSIP {pjsip.build_info()['pjsip_version']} in this process"
        )

        show.title("Register, with the right password")
        alice = endpoint.add_account(
            "sip:alice@example.com",
            registrar=uri,
            credentials=pjsip.Credentials("alice", password),
            expires=EXPIRES,
        )
        alice.register()
        show.expect("registered", alice, lambda e: e.registered and not e.renewal)

        show.title("PJSIP refreshes by itself, before the binding expires")
        with show.screen.waiting("waiting for the refresh"):
            show.expect("refreshed", alice, lambda e: e.registered and e.renewal)

        show.title("A wrong password")
        bob = endpoint.add_account(
            "sip:bob@example.com",
            registrar=uri,
            credentials=pjsip.Credentials("bob", "not the password"),
        )
        bob.register()
        show.expect("refused", bob, lambda e: isinstance(e.error, pjsip.AuthenticationError))

        show.title("A registrar that is not there")
        with closed_port() as port:
            carol = endpoint.add_account(
                "sip:carol@example.com", registrar=f"sip:127.0.0.1:{port};transport=tcp"
            )
            carol.register()
            show.expect("no connection", carol, lambda e: isinstance(e.error, pjsip.TransportError))
        with silent_port() as port, show.screen.waiting("waiting for an answer"):
            dave = endpoint.add_account("sip:dave@example.com", registrar=f"sip:127.0.0.1:{port}")
            dave.register(timeout=SILENCE)
            show.expect(
                "no answer",
                dave,
                lambda e: e.local and isinstance(e.error, pjsip.RegistrationTimeout),
            )

        show.title("Unregister")
        alice.unregister()
        show.expect(
            "unregistered",
            alice,
            lambda e: e.is_unregister and e.error is None and not registrar.bindings(alice.aor),
        )
        endpoint.close(network=False)
        return show.summary()


class Demo:
    """The timeline: each message as it passes, and after each step whether it went well."""

    def __init__(self, endpoint: pjsip.Endpoint, inbox: Inbox) -> None:
        self.screen = Screen()
        self._inbox = inbox
        self._start = time.time()
        self._done: list[str] = []
        self._failed: list[str] = []
        self._sent: set[str] = set()
        endpoint.on(pjsip.SipMessage, inbox.put)
        endpoint.on(pjsip.RegState, inbox.put)

    def _when(self, wall: float | None = None) -> str:
        return f"{(wall or time.time()) - self._start:7.3f} s"

    def title(self, text: str) -> None:
        self.screen.print()
        self.screen.print(Text(text, style="bold"))

    def note(self, text: str) -> None:
        self.screen.line(self._when(), NOTE, text)

    def expect(
        self, what: str, account: pjsip.Account, wanted: Callable[[pjsip.RegState], bool]
    ) -> None:
        """Show what happens until *account* has an outcome, and judge that."""
        deadline = time.monotonic() + DEADLINE
        while True:
            item = self._inbox.get(max(0.0, deadline - time.monotonic()))
            if isinstance(item, Stop):
                raise Interrupted(item.signum)
            if item is None:
                self._verdict(what, False, f"no outcome within {DEADLINE:g} s", "")
                return
            if isinstance(item, pjsip.SipMessage):
                self._message(item)
            elif isinstance(item, pjsip.RegState) and item.account is account:
                self._verdict(what, wanted(item), *self._outcome(item))
                if item.error is not None:
                    self.screen.line(" " * 9, MORE, f"hint: {item.error.hint}")
                return

    def _message(self, message: pjsip.SipMessage) -> None:
        headers = message.headers
        when = self._when(message.time.wall)
        if message.direction == "tx":
            detail = f"Expires {headers.get('Expires', '?')}"
            if "Authorization" in headers:
                detail += f", digest {parameter(headers['Authorization'], 'algorithm')}"
            via = headers["Via"]
            if via in self._sent:
                detail = "sent again"
            self._sent.add(via)
            aor = headers.get("To", "").strip("<>")
            self.screen.line(when, SENT, f"REGISTER {aor}", detail)
        else:
            _, _, status = message.start_line.partition(" ")
            challenge = headers.get("WWW-Authenticate", "")
            detail = f"challenge {parameter(challenge, 'algorithm')}" if challenge else ""
            self.screen.line(when, RECEIVED, status, detail)

    def _outcome(self, event: pjsip.RegState) -> tuple[str, str]:
        if event.error is not None:
            return describe_error(event.error), ""
        if event.is_unregister:
            return "unregistered; the registrar has no binding left", ""
        what = "refreshed" if event.renewal else "registered"
        return f"{what} for {event.expires} s", f"next refresh in {event.refresh_in} s"

    def _verdict(self, what: str, good: bool, text: str, detail: str) -> None:
        (self._done if good else self._failed).append(what)
        self.screen.line(self._when(), GOOD if good else BAD, text, detail)

    def summary(self) -> int:
        took = f"{time.time() - self._start:.1f} s"
        self.screen.print()
        if self._failed:
            self.screen.line(took, BAD, f"Not as expected: {', '.join(self._failed)}")
            return codes.REFUSED
        self.screen.line(took, GOOD, f"All as expected: {', '.join(self._done)}")
        return codes.OK


def parameter(header: str, name: str) -> str:
    """A parameter of a Digest header, MD5 being the algorithm of one that names none."""
    for part in header.partition(" ")[2].split(","):
        key, _, value = part.strip().partition("=")
        if key.lower() == name:
            return value.strip('"')
    return "MD5"


@contextmanager
def closed_port() -> Iterator[int]:
    """A TCP port where nobody listens, and nobody else will meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A UDP port that takes everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
