# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets by reference: ``env:NAME``, ``file:/path`` and ``keyring:service/username``.

No message, log record or repr of this module shows what a reference leads to, nor what somebody
wrote in the place of one.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Mapping

from ._lazy import logger
from ._typing import Any, ParamSpec, TypeVar
from .errors import ConfigError

StrPath = str | os.PathLike[str]

MAX_SECRET = 4096  # bytes of a file: who names a larger one meant another

_log = logger("pjsip_py")

P = ParamSpec("P")
R = TypeVar("R")


def forgets(function: Callable[P, R]) -> Callable[P, R]:
    """What *function* raises comes without its variables, nor those of what it called.

    They hold secrets, and there are those who show them beside a traceback: crash reporters,
    ``pytest --showlocals``.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = error.with_traceback(None)
        if failure.__suppress_context__:
            failure.__context__ = None
        del args, kwargs
        try:
            raise failure
        finally:
            del failure  # no cycle through the traceback

    return call


class Secret(str):
    """A secret that knows its reference, and shows only that."""

    __slots__ = ("reference",)
    reference: str

    def __new__(cls, text: str, reference: str) -> Secret:
        secret = super().__new__(cls, text)
        secret.reference = reference
        return secret

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.reference

    def __repr__(self) -> str:
        return f"<{self.reference}>"


@forgets
def read_secret(reference: object, base: StrPath | None = None) -> Secret:
    """What *reference* leads to.

    :param base: folder of relative ``file:`` paths, by default the working directory.
    :raises ConfigError: there is no such secret, or *reference* is none.
    """
    if not isinstance(reference, str):
        raise ConfigError(f"must be a reference to a secret, not {type(reference).__name__}")
    kind, _, where = reference.partition(":")
    if where and kind == "env":
        return Secret(_from_environment(where), reference)
    if where and kind == "file":
        from pathlib import Path  # here: it costs the package 4 ms of import

        path = str(Path(base or "").absolute() / where)
        return Secret(_from_file(path), f"file:{path}")
    if where and kind == "keyring":
        return Secret(_from_keyring(where), reference)
    raise ConfigError(
        "a secret is not written out but referred to, as env:NAME, file:/path or "
        "keyring:service/username"
    )


def references(secrets: Mapping[str, object]) -> dict[str, Any] | None:
    """The references of *secrets*, one of which may be a mapping of more; None if one has none."""
    found: dict[str, Any] = {}
    for name, secret in secrets.items():
        if isinstance(secret, Secret):
            found[name] = secret.reference
        elif isinstance(secret, Mapping) and (more := references(secret)):
            found[name] = more
        else:
            return None
    return found


def _from_environment(name: str) -> str:
    try:
        secret = os.environ.get(name)
    except UnicodeEncodeError:  # a lone surrogate, which no variable's name can have
        secret = None
    if not secret:
        raise ConfigError(f"the environment variable {name!r} is not set, or empty")
    return secret


def _from_file(path: str) -> str:
    try:
        data, mode = read_regular(path, MAX_SECRET)
    except ConfigError as error:
        raise ConfigError(f"{path!r}: {error}") from None
    if mode & 0o077:
        _log.warning("%r holds a secret and is open to others (mode %03o): chmod 600", path, mode)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None  # raised below: the exception at hand holds the bytes
    if text is None:
        raise ConfigError(f"{path!r} is not UTF-8")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"{path!r} is empty")
    return text


def _from_keyring(where: str) -> str:
    service, _, username = where.rpartition("/")  # a service may be an URL
    if not service or not username:
        raise ConfigError("a keyring's entry is named as keyring:service/username")
    try:
        import keyring
    except ImportError:
        raise ConfigError("needs a library: pip install 'pjsip-py[keyring]'") from None
    try:
        secret = keyring.get_password(service, username)
    except Exception as error:  # each of its backends has exceptions of its own
        reason = str(error) or type(error).__name__
        raise ConfigError(f"the keyring gives no entry {where!r}: {reason}") from None
    if not secret:
        raise ConfigError(f"the keyring has no entry {where!r}: keyring set {service} {username}")
    return secret


def read_regular(path: str, limit: int) -> tuple[bytes, int]:
    """Content and mode of a regular file; a FIFO or a device is never waited for.

    :raises ConfigError: it cannot be read, or has more than *limit* bytes; without the path.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if stat.S_ISDIR(found.st_mode):
                raise ConfigError("is a directory")
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError("is no regular file")
            with open(file, "rb", closefd=False) as stream:
                data = stream.read(limit + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("no file can have this name") from None  # a NUL in it
    if len(data) > limit:
        raise ConfigError(f"has more than {limit} bytes")
    return data, stat.S_IMODE(found.st_mode)
