# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py registrar``."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TextIO

import click

from . import codes
from .inbox import Inbox, Stop
from .screen import BAD, GOOD, RECEIVED, Screen, clock

if TYPE_CHECKING:
    from pjsip_py.testing import DigestCredentials, ReceivedRequest, Registrar

USERS_VARIABLE = "PJSIP_PY_USERS"


@click.command(
    short_help="Run a registrar to register at.",
    epilog="""\b
Examples:
  pjsip-py registrar --port 5060
  PJSIP_PY_USERS=alice:secret pjsip-py registrar --transport udp --transport tls
""",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65534),
    default=0,
    metavar="PORT",
    help="For UDP and TCP, one more for TLS. Default: free ones.",
)
@click.option(
    "--transport",
    "transports",
    type=click.Choice(["udp", "tcp", "tls"]),
    multiple=True,
    default=["udp", "tcp"],
    show_default=True,
    help="May be repeated.",
)
@click.option(
    "--users-file",
    type=click.File("r", lazy=False),
    metavar="FILE",
    help="Who may register: one 'name:password' a line; '-' is standard input.",
)
@click.option("--realm", default="example.com", show_default=True, metavar="REALM")
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(["MD5", "SHA-256", "SHA-512-256"]),
    multiple=True,
    default=["SHA-256", "MD5"],
    show_default=True,
    help="Challenge with this digest, the strongest first. May be repeated.",
)
@click.option("--default-expires", type=int, default=3600, show_default=True, metavar="SECONDS")
@click.option("--min-expires", type=int, metavar="SECONDS", help="Below it: 423.")
@click.option("--max-expires", type=int, metavar="SECONDS", help="More is cut down to it.")
@click.option("--cert-file", metavar="PEM", help="Certificate for TLS. Default: one is made.")
@click.option("--key-file", metavar="PEM", help="Its key.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def registrar(
    host: str,
    port: int,
    transports: tuple[str, ...],
    users_file: TextIO | None,
    cert_file: str | None,
    key_file: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a SIP registrar for tests until Ctrl-C, and show what it receives.

    It keeps its bindings in memory.  Users come from --users-file or the environment variable
    PJSIP_PY_USERS, one 'name:password' a line; without either anyone may register.
    """
    Registrar = import_registrar()
    if (cert_file is None) != (key_file is None):
        raise click.UsageError("--cert-file and --key-file go together.")
    users = read_users(users_file)
    protocols = tuple(dict.fromkeys(transports))
    ports = {each: port + (each == "tls") for each in protocols} if port else None
    screen = Screen(as_json=as_json)
    with Inbox() as inbox, AnsweredRequests(inbox):
        try:
            server = Registrar(
                protocols,
                host,
                ports,
                users=users,
                tls=(cert_file, key_file) if cert_file and key_file else None,
                **options,
            )
            server.start()
        except (ValueError, OSError, RuntimeError) as error:
            raise click.UsageError(str(error)) from None
        try:
            announce(server, users is not None, screen)
            while not isinstance(item := inbox.get(), Stop):
                show(item, server, screen)
            screen.end_line()
        finally:
            server.stop()
    return codes.OK


def import_registrar() -> type[Registrar]:
    try:
        from pjsip_py.testing import Registrar
    except ModuleNotFoundError as error:
        raise click.UsageError(str(error)) from None
    return Registrar


def read_users(file: TextIO | None) -> dict[str, str] | None:
    """Passwords by name, None for no authentication; no message quotes a line."""
    source, text = f"--users-file {file.name}" if file else USERS_VARIABLE, ""
    if file is not None:
        text = file.read()
    elif USERS_VARIABLE in os.environ:
        text = os.environ[USERS_VARIABLE]
    else:
        return None
    users = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not name or not colon:
            raise click.UsageError(f"{source}, line {number}: write it as 'name:password'.")
        users[name] = password
    if not users:
        raise click.UsageError(f"{source}: there is no user in it.")
    return users


class AnsweredRequests(logging.Handler):
    """The registrar's log of answered requests, into an inbox, while ``with`` lasts."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(logging.INFO)
        self._inbox = inbox
        self._logger = logging.getLogger("pjsip_py.testing")

    def emit(self, record: logging.LogRecord) -> None:
        request = record.args[0] if isinstance(record.args, tuple) and record.args else None
        self._inbox.put(request if record.levelno == logging.INFO else record.getMessage())

    def __enter__(self) -> None:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before


def announce(server: Registrar, authenticates: bool, screen: Screen) -> None:
    ca_file = str(server.ca_file) if "tls" in server.protocols else None
    uris = [server.uri(each) for each in server.protocols]
    if screen.as_json:
        record = {"event": "listening", "uris": uris, "authentication": authenticates}
        screen.json(record | {"ca_file": ca_file})
        return
    for uri in uris:
        screen.print(f"Listening: {uri}")
    if ca_file:
        screen.print(f"CA to trust: {ca_file}")
    if not authenticates:
        screen.print(f"Anyone may register: no users by --users-file or {USERS_VARIABLE}.")
    screen.print("Ctrl-C ends it.")


def show(item: object, server: Registrar, screen: Screen) -> None:
    from pjsip_py.testing import ReceivedRequest

    if not isinstance(item, ReceivedRequest):
        screen.error(str(item))
        return
    if screen.as_json:
        screen.json(_record(item, server))
        return
    good = item.answered is not None and item.answered < 300
    challenge = item.answered in (401, 407) and credentials_of(item) is None
    mark = GOOD if good else RECEIVED if challenge else BAD
    host, port = item.source
    details = [f"{item.protocol} {host} port {port}", f"CSeq {item.cseq}"]
    if item.method == "REGISTER" and good:
        bound = server.bindings(item.aor)
        details.insert(0, f"{len(bound)} binding{'s' * (len(bound) != 1)}")
    answer = "challenged" if challenge else str(item.answered or "dropped")
    screen.line(clock(item.time), mark, f"{item.method} {item.aor}: {answer}", ", ".join(details))


def credentials_of(request: ReceivedRequest) -> DigestCredentials | None:
    try:
        return request.authorization
    except ValueError:  # malformed: answered with 400
        return None


def _record(request: ReceivedRequest, server: Registrar) -> dict[str, Any]:
    host, port = request.source
    credentials = credentials_of(request)
    return {
        "event": "request",
        "time": round(request.time, 6),
        "method": request.method,
        "aor": request.aor,
        "code": request.answered,
        "protocol": request.protocol,
        "source": f"{host}:{port}",
        "cseq": request.cseq,
        "call_id": request.call_id,
        "expires": request.expires,
        "contacts": [each.uri for each in request.contacts],
        "user": credentials.get("username") if credentials else None,
        "algorithm": credentials.get("algorithm", "MD5") if credentials else None,
        "bindings": [each.uri for each in server.bindings(request.aor)],
    }
