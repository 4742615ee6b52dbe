# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts in a TOML file: :func:`load_accounts` and :func:`save_accounts`.

The file knows the fields of the configuration classes by their annotations, so that a new field
needs nothing here.  What is wrong is told with file, line and key; secrets stand elsewhere
(:mod:`pjsip_py._secret`).  ``docs/accounts-file.md`` describes the format.
"""

from __future__ import annotations

import enum
import os
import re
import stat
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _toml
from ._secret import Secret, StrPath, read_regular, read_secret
from ._toml import Place
from .account_config import AccountConfig
from .auth import Credentials
from .endpoint import EndpointConfig
from .errors import AccountsFileError, ConfigError, PjsipError
from .transport import Transport
from .uri import check_fields, check_text, parse_aor

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE = 64 << 20  # bytes
MAX_PROBLEMS = 10  # of one file that are told at once

_SECRETS = {"password", "ha1", "key_password", "key_data"}
# An account that gives the one does not want the other from [defaults].
_INSTEAD_OF = {"registrar": "registrars", "password": "ha1"}
_INSTEAD_OF |= {other: name for name, other in _INSTEAD_OF.items()}

_URI_PASSWORD = re.compile(r"(?i)(sips?:[^@:'\s]*:)[^@'\s]*@")
_LIVE = (
    "is a live object, which no file can hold; ;transport= in the registrar's URI chooses UDP, TCP "
    "or TLS"
)


class AccountsFile(NamedTuple):
    """A file of accounts as it was read."""

    accounts: list[AccountConfig]
    endpoint: dict[str, Any]  #: of the table ``[endpoint]``, for :class:`Endpoint`


def load_accounts(path: StrPath) -> list[AccountConfig]:
    """The accounts of a TOML file, in its order.

    :raises ConfigError: an :class:`AccountsFileError` with ``path``, ``line`` and ``key``: the
        file cannot be read or is no TOML, a key is unknown or its value wrong, two accounts have
        one AOR, a secret cannot be found.
    """
    return load_file(path).accounts


def load_file(path: StrPath) -> AccountsFile:
    """As :func:`load_accounts`, with the endpoint's settings."""
    name = _check_path(path)
    try:
        text = read_regular(name, MAX_FILE)[0].decode("utf-8-sig")
    except ConfigError as error:
        raise AccountsFileError(str(error), name) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise AccountsFileError("is not UTF-8", name, line) from None
    return _Loader(name, text).load()


def save_accounts(
    path: StrPath,
    configs: Iterable[AccountConfig],
    *,
    endpoint: Mapping[str, Any] | None = None,
) -> None:
    """Write a file that :func:`load_accounts` reads, in place of what is there, comments included.

    It holds what differs from the defaults.  A new file is the owner's alone (0600), an old one
    keeps its mode; either the whole file is there afterwards or the old one.

    :param endpoint: fields of :class:`EndpointConfig`.
    :raises ConfigError: a secret that is known without a reference (see
        :meth:`Credentials.from_reference`), a transport, two accounts with one AOR, or an
        :class:`AccountsFileError`: the file cannot be written.
    """
    name = _check_path(path)
    folder = _folder_of(name)
    document: dict[str, Any] = {}
    if endpoint:
        check_fields(endpoint, tuple(_schema(EndpointConfig)))
        document["endpoint"] = _table_of(EndpointConfig(**endpoint), folder)
    document["account"] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, config in enumerate(configs, 1):
        if not isinstance(config, AccountConfig):
            raise ConfigError(f"account {number} must be an AccountConfig")
        try:
            _check_twice(seen, config, ("account", number - 1))
            document["account"].append(_table_of(config, folder))
        except _Problem as problem:
            key = _key_of(problem.place)
            text = f"account {number} ({config.aor}): {key}: {problem.text}"
            raise AccountsFileError(text, name, key=key) from None
    try:
        _replace(name, _toml.dump(document))
    except OSError as error:
        raise AccountsFileError(error.strerror or str(error), name) from error


def _check_path(path: object) -> str:
    return check_text("path", os.fspath(path) if isinstance(path, os.PathLike) else path)


def _folder_of(path: str) -> Path:
    from pathlib import Path  # here: it costs the package 4 ms of import

    return Path(path).absolute().parent


class _Problem(Exception):
    """Something wrong at a place of the document."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(place, text)
        self.place = place
        self.text = text


def _key_of(place: Place) -> str:
    """``registrars[1].uri`` from a place; of an account, without what says which one."""
    if place[:1] == ("account",):
        place = place[2:]
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).lstrip(".")


def _check_twice(seen: dict[tuple[str, ...], int], config: AccountConfig, place: Place) -> None:
    uri = parse_aor("aor", config.aor)
    number = int(place[1]) + 1
    first = seen.setdefault((uri.scheme, uri.user, uri.host.lower(), str(uri.port)), number)
    if first != number:
        raise _Problem((*place, "aor"), f"account {first} has this one already")


# -- the classes and their fields ------------------------------------------------------------------


@cache
def _fields_of(cls: type) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(cls) if field.init}


@cache
def _schema(cls: type) -> dict[str, tuple[Any, ...]]:
    """Field to the alternatives of its annotation."""
    if cls is Credentials:
        hints = typing.get_type_hints(Credentials.__init__)
        names: Iterable[str] = hints.keys() - {"return"}
    else:
        hints, names = typing.get_type_hints(cls), _fields_of(cls)
    return {name: _kinds(hints[name]) for name in names}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


@cache
def _required(cls: type) -> tuple[str, ...]:
    if cls is Credentials:
        return ("username",)
    return tuple(
        name
        for name, field in _fields_of(cls).items()
        if field.default is MISSING and field.default_factory is MISSING
    )


def _base(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _is_table(kind: Any) -> bool:
    return is_dataclass(kind) or _base(kind) in (Credentials, Mapping)


def _is_path(kinds: tuple[Any, ...]) -> bool:
    return any(_base(kind) is os.PathLike for kind in kinds)


def _is_array(kind: Any) -> bool:
    return _base(kind) in (Sequence, tuple)


_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _expected(kinds: Iterable[Any]) -> str:
    """What may stand there, in words."""
    words = []
    for kind in kinds:
        if isinstance(kind, enum.EnumMeta):
            words += [f"{member.value!r}" for member in list[enum.Enum](kind)]
        elif _is_table(kind):
            words.append("a table")
        elif _is_array(kind):
            words.append("an array")
        elif kind in _WORDS:
            words.append(_WORDS[kind])
        elif kind is type(None):
            words.append("false")
    *others, last = dict.fromkeys(words or ["something else"])
    return f"{', '.join(others)} or {last}" if others else last


def _met(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    found = {dict: "a table", list: "an array", **_WORDS}
    return next((word for kind, word in found.items() if isinstance(value, kind)), "a date or time")


# -- reading ---------------------------------------------------------------------------------------


class _Loader:
    """One document on its way to configurations."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._folder = _folder_of(path)
        self._text = text
        self._data: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        self._problems: dict[tuple[int | None, str], AccountsFileError] = {}
        # Thousands of accounts share a registrar's TLS settings, a policy, a secret.
        self._made: dict[tuple[type, str], Any] = {}
        self._read: dict[object, Secret] = {}

    def load(self) -> AccountsFile:
        try:
            self._data = _toml.parse(self._text)
        except _toml.TomlError as error:
            raise AccountsFileError(error.text, self._path, error.line) from None
        with self._noting():
            self._check_names(self._data, ("endpoint", "defaults", "account"), ())
        with self._noting():
            self._defaults = self._table("defaults")
            if "aor" in self._defaults:
                raise _Problem(("defaults", "aor"), "belongs to one account")
        endpoint: dict[str, Any] = {}
        with self._noting():
            given = self._table("endpoint")
            config = self._make(EndpointConfig, given, ("endpoint",))
            endpoint = {name: getattr(config, name) for name in given}
        accounts: list[AccountConfig] = []
        seen: dict[tuple[str, ...], int] = {}
        with self._noting():
            for index, table in enumerate(self._tables()):
                with self._noting():
                    accounts.append(self._account(table, ("account", index), seen))
        self._raise_problems()
        return AccountsFile(accounts, endpoint)

    def _table(self, name: str) -> dict[str, Any]:
        table = self._data.get(name, {})
        if not isinstance(table, dict):
            raise _Problem((name,), f"must be a table, not {_met(table)}")
        return table

    def _tables(self) -> list[Any]:
        tables = self._data.get("account")
        if tables is None:
            raise _Problem((), "has no account: write [[account]] and its aor")
        if not isinstance(tables, list):
            raise _Problem(("account",), "must be an array of tables: write [[account]]")
        return tables

    # What a table becomes.

    def _account(self, table: Any, place: Place, seen: dict[tuple[str, ...], int]) -> AccountConfig:
        if not isinstance(table, dict):
            raise _Problem(place, f"must be a table, not {_met(table)}")
        config: AccountConfig = self._make(AccountConfig, _merge(self._defaults, table), place)
        _check_twice(seen, config, place)
        return config

    def _build(self, cls: type, table: dict[str, Any], place: Place) -> Any:
        """As :meth:`_make`; equal tables give one object."""
        same = (cls, repr(table))
        if same not in self._made:
            self._made[same] = self._make(cls, table, place)
        return self._made[same]

    def _make(self, cls: type, table: dict[str, Any], place: Place) -> Any:
        """*cls* from a table of its fields."""
        schema = _schema(cls)
        self._check_names(table, tuple(schema), place)
        for name in _required(cls):
            if name not in table:
                raise _Problem((*place, name), "is missing")
        options: dict[str, Any] = {}
        for name, value in table.items():
            made = self._value(schema[name], value, (*place, name))
            options[name] = self._secret(made, (*place, name)) if name in _SECRETS else made
        try:
            return cls(**options)
        except PjsipError as error:
            raise _blame(str(error), table, place) from None

    def _check_names(self, table: dict[str, Any], known: tuple[str, ...], place: Place) -> None:
        for name in table:
            try:
                check_fields([name], known)
            except ConfigError as error:
                advice = str(error).rpartition(": ")[2] if "did you mean" in str(error) else ""
                text = "unknown key" + (f": {advice}" if advice else "")
                raise _Problem((*place, name), text) from None

    def _value(self, kinds: tuple[Any, ...], value: Any, place: Place) -> Any:
        """*value* as the first of *kinds* that it fits."""
        if Transport in kinds:
            raise _Problem(place, _LIVE)
        if value is False and type(None) in kinds and bool not in kinds:
            return None  # which TOML does not have
        if type(value) is int and abs(value) > 2**64:  # no float could hold the largest
            raise _Problem(place, "is too large")
        for kind in kinds:
            if isinstance(value, dict) and _is_table(kind):
                if _base(kind) is Mapping:
                    return self._mapping(typing.get_args(kind), value, place)
                return self._build(kind, value, place)
            if isinstance(value, list) and _is_array(kind):
                return self._array(kind, value, place)
            if isinstance(kind, enum.EnumMeta):
                with suppress(ValueError):
                    return kind(value)
            if type(value) is str and kind in (str, Sequence[str]):
                return str(self._folder / value) if _is_path(kinds) else value
            if type(value) is kind or (kind is float and type(value) is int):
                return value
        raise _Problem(place, f"must be {_expected(kinds)}, not {_met(value)}")

    def _array(self, kind: Any, values: list[Any], place: Place) -> tuple[Any, ...]:
        args = typing.get_args(kind)
        if _base(kind) is tuple and args[-1] is not Ellipsis:
            if len(values) != len(args):
                raise _Problem(place, f"must be an array of {len(args)}")
            wanted = args
        else:
            wanted = args[:1] * len(values)
        return tuple(
            self._value(_kinds(hint), value, (*place, index))
            for index, (hint, value) in enumerate(zip(wanted, values, strict=True))
        )

    def _mapping(self, args: tuple[Any, ...], table: dict[str, Any], place: Place) -> Any:
        key_kind, kinds = args[0], _kinds(args[1])
        may_lack = type(None) in kinds
        if may_lack:  # a parameter without a value: ob = true
            kinds = tuple(kind for kind in kinds if kind is not type(None))
        made: dict[Any, Any] = {}
        for name, value in table.items():
            key: str | int = name
            if key_kind is int:
                if not re.fullmatch(r"[0-9]{1,9}", name):
                    raise _Problem((*place, name), "the key must be a number")
                key = int(name)
            lacks = may_lack and value is True
            made[key] = None if lacks else self._value(kinds, value, (*place, name))
        return made

    def _secret(self, reference: Any, place: Place) -> Any:
        if reference is None:
            return None
        if isinstance(reference, dict):
            return {name: self._secret(value, (*place, name)) for name, value in reference.items()}
        if reference not in self._read:
            try:
                self._read[reference] = read_secret(reference, self._folder)
            except ConfigError as error:
                raise _Problem(place, str(error)) from None
        return self._read[reference]

    # What is wrong, and where.

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except _Problem as problem:
            error = self._error(problem)
            self._problems.setdefault((error.line, error.key), error)
        if len(self._problems) == MAX_PROBLEMS:
            self._raise_problems()

    def _raise_problems(self) -> None:
        if not self._problems:
            return
        first, *others = sorted(self._problems.values(), key=lambda error: error.line or 0)
        raise AccountsFileError(
            first.args[0], first.path, first.line, first.key, tuple(others)
        ) from None

    def _error(self, problem: _Problem) -> AccountsFileError:
        place = problem.place
        line, inherited = self._line_of(place)
        key = ("defaults." if inherited else "") + _key_of(place)
        text = f"{key}: {problem.text}" if key else problem.text
        if place[:1] == ("account",) and len(place) > 1:
            number = int(place[1])
            aor = ""
            with suppress(PjsipError, AttributeError):  # no table, or not one to be shown
                aor = f" ({parse_aor('aor', self._data['account'][number].get('aor')).text})"
            text = f"account {number + 1}{aor}: {text}"
        return AccountsFileError(text, self._path, line, key)

    @cached_property
    def _lines(self) -> _toml.Lines:
        return _toml.Lines(self._text)

    def _line_of(self, place: Place) -> tuple[int | None, bool]:
        """Line of the innermost key that is written down, and whether that is in [defaults]."""
        found = self._lines.found
        for length in range(len(place), 0, -1):
            part = place[:length]
            if part in found:
                return found[part], False
            if part[0] == "account" and length > 2:
                named = tuple(name for name in part[2:] if isinstance(name, str))
                for inherited in (("defaults", *part[2:]), ("defaults", *named)):
                    if inherited in found:
                        return found[inherited], True
        return None, False


def _merge(defaults: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """*table* over *defaults*: tables are merged key by key, all else is replaced."""
    if not defaults:
        return table
    merged = {name: v for name, v in defaults.items() if _INSTEAD_OF.get(name) not in table}
    for name, value in table.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        elif isinstance(below, dict) and isinstance(value, list) and name == "credentials":
            value = [_merge(below, v) if isinstance(v, dict) else v for v in value]
        merged[name] = value
    return merged


def _blame(message: str, table: dict[str, Any], place: Place) -> _Problem:
    """The problem that a configuration's *message* tells of.

    A message begins with the field's name, or with something around it and a colon.
    """
    message = _URI_PASSWORD.sub(r"\1<hidden>@", message)
    parts = message.split(": ")
    tails = [": ".join(parts[index:]) for index in range(len(parts))]
    words = [(word, tail) for tail in reversed(tails) for word in re.findall(r"^\w+", tail)]
    words += [(word, message) for word in re.findall(r"[a-z_]\w*", message)]
    for word, text in words:
        for name in (word, f"{word}s"):  # header, contact: one of several
            if name in table:
                text = re.sub(rf"^{name}(: | (?=must |is |contains ))", "", text)
                return _Problem((*place, name), text)
    return _Problem(place, message)


# -- writing ---------------------------------------------------------------------------------------


def _table_of(config: Any, folder: Path) -> dict[str, Any]:
    """The fields of a configuration that differ from their defaults."""
    cls: type = type(config)
    table: dict[str, Any] = {}
    for name, kinds in _schema(cls).items():
        value = getattr(config, name)
        if value == _default_of(_fields_of(cls)[name]):
            continue
        if name in _SECRETS and not isinstance(value, Secret):
            raise _Problem((name,), "a file holds references to secrets only")
        try:
            made = _plain(value, folder)
        except _Problem as problem:
            raise _Problem((name, *problem.place), problem.text) from None
        table[name] = _shorten(made, folder) if _is_path(kinds) and made else made
    return table


def _default_of(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any, folder: Path) -> Any:
    """As it stands in the file."""
    if value is None:
        return False
    if isinstance(value, Secret):
        return _refer(value.reference, folder)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Credentials):
        return _credentials_table(value, folder)
    if is_dataclass(value):
        return _table_of(value, folder)
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):  # PEM
        return value.decode()
    if isinstance(value, Mapping):
        return {str(k): True if v is None else _plain(v, folder) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, folder) for item in value]
    raise _Problem((), _LIVE if isinstance(value, Transport) else "cannot stand in a file")


def _credentials_table(credentials: Credentials, folder: Path) -> dict[str, Any]:
    if credentials._references is None:
        raise _Problem(
            (), "a file holds references to secrets only: make it by Credentials.from_reference()"
        )
    table: dict[str, Any] = {"username": credentials.username}
    for name, reference in credentials._references.items():
        table[name] = (
            {key: _refer(item, folder) for key, item in reference.items()}
            if isinstance(reference, Mapping)
            else _refer(reference, folder)
        )
    if credentials.realm != "*":
        table["realm"] = credentials.realm
    if credentials.min_algorithm is not None:
        table["min_algorithm"] = credentials.min_algorithm
    return table


def _refer(reference: str, folder: Path) -> str:
    kind, _, where = reference.partition(":")
    return f"file:{_shorten(where, folder)}" if kind == "file" else reference


def _shorten(path: str, folder: Path) -> str:
    """Relative to the file's folder, so that both can be moved; others as they are, absolute."""
    absolute = folder.cwd() / path
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _replace(path: str, text: str) -> None:
    """The file at *path* holds *text*, or, whatever happens, what it held before."""
    import tempfile
    from pathlib import Path

    target = Path(os.path.realpath(path))  # a link stays one
    try:
        old = target.stat()
    except FileNotFoundError:
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(0, "is no regular file")
    file, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(file, "w", encoding="utf-8", newline="\n") as stream:
            if old is not None:
                with suppress(PermissionError):
                    os.fchown(file, old.st_uid, old.st_gid)
                os.fchmod(file, stat.S_IMODE(old.st_mode))
            stream.write(text)
            stream.flush()
            os.fsync(file)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
