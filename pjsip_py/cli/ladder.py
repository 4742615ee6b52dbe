# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py ladder``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pjsip_py._pcap_reader import PcapReader
from pjsip_py.ladder import LIMIT, Ladder
from pjsip_py.pcap import CapturedMessage, PcapError

from . import codes
from .recording import open_picture
from .screen import Screen, printable


@click.command(
    short_help="Draw the SIP messages of a capture.",
    epilog="""\b
Exit codes:
  0  drawn
  1  no SIP message in it, or it is damaged: what was readable is drawn
  2  wrong usage, or a file cannot be opened

\b
Examples:
  pjsip-py ladder trace.pcap
  pjsip-py ladder trace.pcap -o alice.svg --aor alice@example.com --name 192.0.2.1=proxy
  tcpdump -i any -w - port 5060 | pjsip-py ladder - -o now.html
""",
)
@click.argument("capture", metavar="FILE")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="An .html or .svg. Default: the capture's name, with .html.",
)
@click.option("--title", metavar="TEXT", help="Default: the capture's name.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="ADDRESS=NAME",
    help="Name the lifeline of a host, or of a host:port. May be repeated.",
)
@click.option("--aor", metavar="TEXT", help="Only messages with this in From or To.")
@click.option("--call-id", metavar="TEXT", help="Only messages with this in their Call-ID.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Draw the last N messages.",
)
def ladder(
    capture: str,
    output: str | None,
    title: str | None,
    names: tuple[str, ...],
    aor: str | None,
    call_id: str | None,
    limit: int,
) -> int:
    """Draw the SIP messages of FILE, a pcap or pcapng, as a ladder.

    UDP and TCP over IPv4 and IPv6 are read, from any port; '-' is standard input. What TLS hides
    stays hidden: have it written by `pjsip-py register --pcap`. Secrets are blotted out.
    """
    named = dict(_name(each) for each in names)
    if output is None:
        if capture == "-":
            raise click.UsageError("standard input has no name: give the picture one by -o.")
        output = capture.removesuffix(Path(capture).suffix) + ".html"
    if Path(output) == Path(capture):
        raise click.UsageError(f"{capture} would be overwritten: name the picture by -o.")
    screen = Screen()
    picture = Ladder(title or Path(capture).name, names=named, limit=limit)
    reader = PcapReader(sys.stdin.buffer if capture == "-" else capture)
    damage: PcapError | None = None
    found = 0
    try:
        for message in reader:
            found += 1
            if _fits(message, aor, call_id):
                picture.add(message)
    except PcapError as error:
        damage = error
        if picture:
            picture.note(f"The capture ends here: {error}", message.time, failure=True)
    except OSError as error:
        raise click.UsageError(f"{capture}: {error.strerror}.") from None
    if damage is not None:
        screen.error(str(damage), damage.hint)
    if not picture:
        if damage is None:
            screen.error(*_nothing(capture, reader, found))
        return codes.REFUSED
    svg, file = open_picture("-o", output)
    try:
        with file:
            file.write(picture.to_svg() if svg else picture.to_html())
    except OSError as error:
        screen.error(f"-o {output}: {error.strerror}")
        return codes.OUTPUT_FAILED
    drawn = picture.picture()
    text = f"{output}: {drawn.messages} message{'s' * (drawn.messages != 1)}"
    if drawn.failures:
        text += f", {drawn.failures} failure{'s' * (drawn.failures != 1)}"
    if drawn.omitted:
        text += f"; {drawn.omitted} older ones are left out (--limit, --aor, --call-id)"
    screen.print(printable(text))
    return codes.OK if damage is None else codes.REFUSED


def _name(text: str) -> tuple[str, str]:
    address, equals, name = text.partition("=")
    if not address or not equals or not name:
        raise click.UsageError(f"--name {text!r}: write it as ADDRESS=NAME.")
    return address, name


def _fits(message: CapturedMessage, aor: str | None, call_id: str | None) -> bool:
    headers = message.headers
    if call_id is not None and call_id not in headers.get("Call-ID", ""):
        return False
    return aor is None or any(aor in headers.get(name, "") for name in ("From", "To"))


def _nothing(capture: str, reader: PcapReader, found: int) -> tuple[str, str]:
    """Why there is nothing to draw, and what to do."""
    if found:
        return f"{capture}: none of its {found} SIP messages is asked for", "widen the filter"
    text = f"{capture}: no SIP message in its {reader.packets} packets"
    if reader.encrypted:
        return (
            f"{text}; {reader.encrypted} connections are encrypted",
            "have the messages written in the clear by pjsip-py register --pcap FILE",
        )
    return text, "capture where the messages pass, e.g. tcpdump -i any -w FILE port 5060"
