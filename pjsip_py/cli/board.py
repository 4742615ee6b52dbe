# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``keep`` shows: lines, in a log file as well, and below them a table that is alive."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from .screen import BAD, Screen, clock, printable

LINES_AT_ONCE = 200  # that one drawing of the table may bring; the log file has all


def duration(seconds: float) -> str:
    """``0:08``, ``4:57``, ``3:20:05``, ``2 d 3:20:05``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02}"
    return (f"{days} d " if days else "") + f"{hour}:{minute:02}:{second:02}"


class LogFile:
    """Lines for a file; trouble with it is told to *complain*, once, and ends nothing."""

    def __init__(self, path: str, complain: Callable[[str, str], object]) -> None:
        self._path = path
        self._complain = complain
        self._well = True
        self._file = self._open()

    def _open(self) -> BinaryIO:
        return open(self._path, "ab", buffering=0)

    def reopen(self) -> None:
        """The file may have been moved away (logrotate)."""
        with self._trouble():
            before, self._file = self._file, self._open()
            before.close()

    def write(self, wall: float, mark: str, line: str) -> None:
        local = time.localtime(wall)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", local)
        when += f".{int(wall * 1000) % 1000:03d}{time.strftime('%z', local)}"
        level = "ERROR" if mark == BAD else "INFO"
        text = f"{when} {level} {' '.join(line.splitlines())}\n"
        with self._trouble():
            self._file.write(text.encode("utf-8", "replace"))
            self._well = True

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._well:
                self._well = False
                self._complain(f"log file {self._path}: {error.strerror}", "keeping on without it")

    def __enter__(self) -> LogFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()


class Board(Screen):
    """A :class:`Screen`; while ``with`` lasts it has a table at its end, where it may."""

    log: LogFile | None = None

    def __init__(self, *, as_json: bool, table: bool) -> None:
        super().__init__(as_json=as_json)
        self._live: Live | None = None
        self._held: list[Text | str] = []
        self._may = table and not as_json and sys.stdout.isatty() and not self._out.is_dumb_terminal

    @property
    def live(self) -> bool:
        """Whether there is a table."""
        return self._live is not None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        return self._out.size.width, self._out.size.height

    def __enter__(self) -> Board:
        if self._may:
            self._out.soft_wrap = False  # the table must know how many lines there are
            self._live = Live(
                console=self._out,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            self._release()

    def draw(self, table: RenderableType) -> None:
        """The table as it is now, and the lines since the last one."""
        if self._live is not None:
            self._release()
            self._live.update(table, refresh=True)

    def print(self, text: Text | str = "") -> None:
        """Print; with a table it waits for the next drawing, for a line would draw it all anew."""
        if self._live is not None:
            self._held.append(text)
        else:
            super().print(text)

    def _release(self) -> None:
        lines, self._held = self._held, []
        if len(lines) > LINES_AT_ONCE:
            lines[:-LINES_AT_ONCE] = [f"({len(lines) - LINES_AT_ONCE} lines are not shown)"]
        if lines:
            super().print(Text("\n").join(Text(x) if isinstance(x, str) else x for x in lines))

    def note(
        self, wall: float, mark: str, text: str, detail: str = "", *, routine: bool = False
    ) -> None:
        """A line; what is *routine* is left out where the table tells the same."""
        if self.log is not None:
            self.log.write(wall, mark, printable(f"{text}; {detail}" if detail else text))
        if not self.as_json and not (routine and self.live):
            self.line(clock(wall), mark, text, detail)

    def record(self, event: str, **fields: Any) -> None:
        """A JSON object, where those are wanted."""
        if self.as_json:
            self.json({"event": event, "time": round(time.time(), 6), **fields})

    def error(self, message: str, hint: str = "") -> None:
        if self.live and sys.stderr.isatty():  # most likely the terminal that has the table
            self.print(Text.assemble(("Error: ", "bold red"), printable(f"{message}; {hint}")))
        else:
            super().error(message, hint)
