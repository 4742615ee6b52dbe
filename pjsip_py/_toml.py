# SPDX-License-Identifier: GPL-3.0-or-later
"""TOML: reading, writing, and the lines that its keys stand on."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Any

from .errors import ConfigError

# Where in the document: keys and indices, as in ("account", 1, "credentials", "password").
Place = tuple[str | int, ...]


class TomlError(Exception):
    """The text is not TOML."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text, line)
        self.text = text
        self.line = line


def parse(text: str) -> dict[str, Any]:
    """The document.

    :raises TomlError: it is none; :raises ConfigError: Python 3.10 without the library.
    """
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ImportError:
        raise ConfigError("Python 3.10 reads no TOML: pip install 'pjsip-py[toml]'") from None
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise TomlError("is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        message, _, where = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", where)
        if line is None and where:  # the end of the document
            raise TomlError(message, text.count("\n") + 1) from None
        raise TomlError(message, int(line[1]) if line else None) from None
    return document


def dump(document: dict[str, Any]) -> str:
    """A table or an array of tables for each name; what is in them stands in one line each."""
    lines: list[str] = []
    for name, value in document.items():
        if value == []:
            lines.insert(0, f"{name} = []")  # the top has no header, so nothing may come before
        for table in value if isinstance(value, list) else [value]:
            header = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            lines += [header, *map(_pair, table.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _pair(item: tuple[str, Any]) -> str:
    name, value = item
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)
    return f"{key} = {_inline(value)}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(map(_pair, value.items())) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)  # int and float


def _string(text: str) -> str:
    def escape(found: re.Match[str]) -> str:
        return f"\\{found[0]}" if found[0] in '"\\' else f"\\u{ord(found[0]):04X}"

    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', escape, text) + '"'


_TOKEN = re.compile(
    r"""
      (?P<skip> [^\S\n]+ | \#[^\n]* )
    | (?P<string> \"{3} (?: \\[\s\S] | [^\\] )*? \"{3,5} | '{3} [\s\S]*? '{3,5}
                | \" (?: \\. | [^"\\\n] )* \" | '[^'\n]*' )
    | (?P<other> \n | [\[\]{}=,.] | [^\s\[\]{}=,."'\#]+ )
    """,
    re.VERBOSE,
)


class Lines:
    """Where the keys of a document stand, which no parser tells.

    parse() has taken the document, so it is walked through and not checked.
    """

    def __init__(self, text: str) -> None:
        self.found: dict[Place, int] = {}
        self._last: dict[Place, int] = {}  # of each array of tables, the index of its last
        self._tokens: list[tuple[str, int]] = []
        self._next = 0
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "skip":
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("", line))
        with suppress(RecursionError, TomlError):  # then with what was found so far
            self._walk()

    def _peek(self) -> str:
        return self._tokens[self._next][0]

    def _take(self) -> str:
        token = self._peek()
        if token:  # the last one stays
            self._next += 1
        return token

    def _note(self, place: Place) -> None:
        self.found.setdefault(place, self._tokens[self._next][1])

    def _walk(self) -> None:
        table: Place = ()
        while token := self._peek():
            if token == "\n":
                self._take()
            elif token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Place:
        """``[a.b]`` or ``[[a.b]]``; its table's place."""
        self._take()
        is_array = self._peek() == "["
        if is_array:
            self._take()
        *parents, name = self._key()
        place: Place = ()
        for parent in parents:
            place = (*place, parent)
            if place in self._last:
                place = (*place, self._last[place])
            self._note(place)
        place = (*place, name)
        self._note(place)
        if is_array:
            self._last[place] = self._last.get(place, -1) + 1
            place = (*place, self._last[place])
            self._note(place)
        while self._peek() == "]":
            self._take()
        return place

    def _pair(self, table: Place) -> None:
        place = table
        for name in self._key():
            self._note(place := (*place, name))
        self._take()  # the equals sign
        self._value(place)

    def _key(self) -> list[str]:
        names = []
        while True:
            name = self._take()
            names.append(str(parse(f"name = {name}")["name"]) if name[:1] in "\"'" else name)
            if self._peek() != ".":
                return names
            self._take()

    def _value(self, place: Place) -> None:
        first = self._take()
        if first == "[":
            index = 0
            while self._peek() not in ("]", ""):
                if self._peek() in ("\n", ","):
                    index += self._take() == ","
                else:
                    self._note((*place, index))
                    self._value((*place, index))
            self._take()
        elif first == "{":
            while self._peek() not in ("}", ""):
                if self._peek() in ("\n", ","):
                    self._take()
                else:
                    self._pair(place)
            self._take()
        else:
            while self._peek() not in ("\n", ",", "]", "}", ""):
                self._take()
