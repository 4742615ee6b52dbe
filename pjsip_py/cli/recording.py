# SPDX-License-Identifier: GPL-3.0-or-later
"""``--ladder`` and ``--pcap``: what was sent and received, into files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, TypeVar

import click

import pjsip_py as pjsip
from pjsip_py.ladder import Ladder, kind_of
from pjsip_py.pcap import PcapWriter

F = TypeVar("F", bound=Callable[..., Any])


def recording_options(function: F) -> F:
    """``--ladder`` and ``--pcap``."""
    ladder = click.option(
        "--ladder",
        metavar="FILE",
        help="Draw the messages into this .html or .svg, also when the registration fails.",
    )
    pcap = click.option(
        "--pcap",
        metavar="FILE",
        help="Write the messages as a capture for Wireshark, those over TLS in the clear.",
    )
    return ladder(pcap(function))


class Recording:
    """The files, open from the start: what cannot be written is told before anything is sent.

    :raises click.UsageError: a file cannot be opened
    """

    def __init__(self, title: str, ladder: str | None, pcap: str | None) -> None:
        #: What went wrong later; that file has ended then, and nothing else.
        self.errors: list[str] = []
        self._names = {"ladder": ladder, "pcap": pcap}
        self._page: TextIO | None = None
        self._pcap: PcapWriter | None = None
        self._ladder = Ladder(title)
        if ladder is not None and ladder == pcap:
            raise click.UsageError("--ladder and --pcap: one file cannot be both.")
        if ladder is not None:
            self._svg, self._page = open_picture("--ladder", ladder)
        if pcap is not None:
            try:
                self._pcap = PcapWriter(pcap)
            except OSError as error:
                if self._page is not None:
                    self._page.close()
                raise click.UsageError(f"--pcap {pcap}: {error.strerror}.") from None

    @property
    def wanted(self) -> bool:
        return self._page is not None or self._pcap is not None

    def add(self, event: pjsip.Event) -> None:
        """A handler for all events of an endpoint."""
        if self._page is not None:
            self._ladder.add(event)
        if self._pcap is not None:
            try:
                self._pcap.write(event)
            except OSError as error:
                self._failed("pcap", error)
                self._end_pcap()

    def _failed(self, what: str, error: OSError) -> None:
        self.errors.append(f"--{what} {self._names[what]}: {error.strerror}")

    def _end_pcap(self) -> None:
        pcap, self._pcap = self._pcap, None
        if pcap is not None:
            with suppress(OSError):  # told before
                pcap.close()

    def close(self) -> None:
        """Draw the picture and end the files; what fails is in ``errors``."""
        page, self._page = self._page, None
        if page is not None:
            try:
                with page:
                    page.write(self._ladder.to_svg() if self._svg else self._ladder.to_html())
            except OSError as error:
                self._failed("ladder", error)
        pcap, self._pcap = self._pcap, None
        if pcap is not None:
            try:
                pcap.close()
            except OSError as error:
                self._failed("pcap", error)


def open_picture(option: str, path: str) -> tuple[bool, TextIO]:
    """Whether it is to be an SVG, and the file; :raises click.UsageError: there can be none."""
    try:
        svg = kind_of(path) == "svg"
        return svg, open(path, "w", encoding="utf-8", newline="\n")
    except ValueError as error:
        raise click.UsageError(f"{option} {path}: {error}.") from None
    except OSError as error:
        raise click.UsageError(f"{option} {path}: {error.strerror}.") from None
