# SPDX-License-Identifier: GPL-3.0-or-later
"""What the package takes from ``typing``, without the import of it: a fifth of its own.

Type checkers see the real names.  At run time nothing here looks at a type.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import (
        Any,
        Generic,
        NamedTuple,
        ParamSpec,
        Protocol,
        TypeAlias,
        TypeVar,
        cast,
        overload,
    )
else:
    from collections import namedtuple
    from types import GenericAlias

    Any = TypeAlias = Protocol = object

    class Generic:
        __slots__ = ()

        __class_getitem__ = classmethod(GenericAlias)

    class TypeVar:
        """Also what stands in the brackets of Generic."""

        def __init__(self, name, **_bound):
            self.__name__ = name

    ParamSpec = TypeVar

    def cast(_kind, value):
        return value

    def overload(function):
        return function

    class _NamedTupleMeta(type):
        def __new__(mcls, name, bases, body):
            if not bases:
                return super().__new__(mcls, name, bases, body)
            types = body.pop("__annotations__")
            defaults = [body.pop(field) for field in types if field in body]
            made = namedtuple(name, types, defaults=defaults, module=body["__module__"])
            made.__annotations__ = types
            for each, value in body.items():
                if each not in ("__module__", "__qualname__"):
                    setattr(made, each, value)
            return made

    class NamedTuple(metaclass=_NamedTupleMeta):
        pass


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "Generic",
    "NamedTuple",
    "ParamSpec",
    "Protocol",
    "TypeAlias",
    "TypeVar",
    "cast",
    "overload",
]
