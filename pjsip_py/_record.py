# SPDX-License-Identifier: GPL-3.0-or-later
"""Frozen dataclasses that cost nothing to define.

``dataclasses`` writes and compiles six functions for each class, and imports a disassembler to do
so: that was half of what importing this package took.  Here the classes share functions.  A type
checker sees the real decorator; a program that asks (``dataclasses.fields``, ``replace``,
``asdict``, ``inspect.signature``) gets its answers from a real dataclass that is made then.
"""

from __future__ import annotations

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field, replace

    __all__ = ["field", "field_names", "record", "replace"]

    def field_names(cls: type) -> list[str]: ...

else:
    _set = object.__setattr__
    _REQUIRED = object()

    class field:
        """What sets a field apart; any other default is that of a plain one."""

        __slots__ = ("compare", "default", "default_factory", "init", "repr")

        def __init__(
            self, default=_REQUIRED, default_factory=None, init=True, repr=True, compare=True
        ):
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.repr = repr
            self.compare = compare

    def record(cls=None, /, *, frozen, slots=False, kw_only=False):
        """As ``dataclasses.dataclass``, always frozen."""
        if cls is None:
            return lambda cls: record(cls, frozen=frozen, slots=slots, kw_only=kw_only)
        body = dict(cls.__dict__)
        own = {}
        for name in cls.__annotations__:
            given = body.pop(name, _REQUIRED)
            own[name] = given if isinstance(given, field) else field(given)
        fields = {**getattr(cls, "__record__", {}), **own}
        for name in ("__dict__", "__weakref__"):  # descriptors of the first class
            body.pop(name, None)
        if slots:
            body["__slots__"] = tuple(own)
        else:
            body |= {name: f.default for name, f in own.items() if f.default is not _REQUIRED}
        body["__record__"] = fields
        body["__match_args__"] = () if kw_only else tuple(n for n, f in fields.items() if f.init)
        for name, function in _SHARED.items():
            body.setdefault(name, function)
        made = type(cls)(cls.__name__, cls.__bases__, body)
        made.__qualname__ = cls.__qualname__
        return made

    def field_names(cls):
        """Of the fields that ``__init__`` takes."""
        return [name for name, f in cls.__record__.items() if f.init]

    def replace(self, /, **changes):
        """Another with *changes*."""
        kept = {name: getattr(self, name) for name in field_names(type(self))}
        return type(self)(**{**kept, **changes})

    def _init(self, /, *args, **given):
        cls = type(self)
        if args:
            names = cls.__match_args__
            if len(args) > len(names):
                raise TypeError(
                    f"{cls.__name__}() takes {len(names)} positional arguments, not {len(args)}"
                )
            for name, value in zip(names, args, strict=False):
                if name in given:
                    raise TypeError(f"{cls.__name__}() got {name!r} twice")
                given[name] = value
        for name, f in cls.__record__.items():
            if name in given and f.init:
                value = given.pop(name)
            elif f.default is not _REQUIRED:
                value = f.default
            elif f.default_factory is not None:
                value = f.default_factory()
            elif f.init:
                raise TypeError(f"{cls.__name__}() needs the argument {name!r}")
            else:
                continue
            _set(self, name, value)
        if given:
            raise TypeError(f"{cls.__name__}() got an unexpected argument {next(iter(given))!r}")
        check = getattr(cls, "__post_init__", None)
        if check is not None:
            check(self)

    def _repr(self):
        shown = [f"{n}={getattr(self, n)!r}" for n, f in self.__record__.items() if f.repr]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _compared(self):
        return tuple([getattr(self, n) for n, f in self.__record__.items() if f.compare])

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _compared(self) == _compared(other)

    def _hash(self):
        return hash(_compared(self))

    def _refuse_set(self, name, _value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _get_state(self):
        return {name: getattr(self, name) for name in self.__record__ if hasattr(self, name)}

    def _set_state(self, state):
        for name, value in state.items():
            _set(self, name, value)

    class _Dataclass:
        """An attribute of the dataclass that a record stands for."""

        def __init__(self, read):
            self.read = read

        def __get__(self, _instance, cls):
            return self.read(_dataclass_of(next(c for c in cls.__mro__ if "__record__" in vars(c))))

    _made = {}

    def _dataclass_of(cls):
        if cls not in _made:
            import dataclasses

            annotations = {}
            for base in reversed(cls.__mro__[:-1]):
                annotations.update(base.__annotations__)
            fields = []
            for name, f in cls.__record__.items():
                options = {"init": f.init, "repr": f.repr, "compare": f.compare}
                if f.default is not _REQUIRED:
                    options["default"] = f.default
                elif f.default_factory is not None:
                    options["default_factory"] = f.default_factory
                options["kw_only"] = name not in cls.__match_args__
                fields.append((name, annotations[name], dataclasses.field(**options)))
            _made[cls] = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
        return _made[cls]

    def _signature(cls):
        import inspect

        return inspect.signature(cls)

    _SHARED = {
        "__init__": _init,
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": _hash,
        "__setattr__": _refuse_set,
        "__delattr__": _refuse_delete,
        "__getstate__": _get_state,
        "__setstate__": _set_state,
        "__replace__": replace,
        "__dataclass_fields__": _Dataclass(lambda cls: cls.__dataclass_fields__),
        "__dataclass_params__": _Dataclass(lambda cls: cls.__dataclass_params__),
        "__signature__": _Dataclass(_signature),
    }
