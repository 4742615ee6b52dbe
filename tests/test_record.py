# SPDX-License-Identifier: GPL-3.0-or-later
"""Records behave as the frozen dataclasses that they stand for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

import pjsip_py as pjsip

MADE = [
    (pjsip.TlsConfig, {"insecure": True}),
    (pjsip.RetryPolicy, {"initial": 3.0}),
    (pjsip.EndpointConfig, {"t1": 0.1}),
    (pjsip.AccountConfig, {"aor": "sip:alice@example.com", "expires": 60}),
    (pjsip.RegistrarConfig, {"uri": "sip:example.com"}),
    (pjsip.EventsDropped, {"time": pjsip.EventTime(1.0, 2.0), "trace": 3}),
]


@pytest.mark.parametrize(("cls", "given"), MADE, ids=lambda value: getattr(value, "__name__", ""))
def test_as_dataclasses_do(cls: Any, given: dict[str, Any]) -> None:
    one: Any = cls(**given)
    assert [dataclasses.is_dataclass(each) for each in (one, cls)] == [True, True]
    names = [field.name for field in dataclasses.fields(one) if field.init]
    assert list(inspect.signature(cls).parameters) == names
    assert copy.copy(one) == dataclasses.replace(one) == one
    if cls is not pjsip.AccountConfig:  # whose credentials are nothing for a file
        assert pickle.loads(pickle.dumps(one)) == one
    name, value = next(iter(given.items()))
    assert getattr(one, name) == value
    assert one != dataclasses.replace(one, **{name: other(value)})
    assert f"{name}={value!r}" in repr(one)
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(one, name, value)
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        delattr(one, name)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return pjsip.EventTime(3.0, 4.0)
    return value.replace(".com", ".org") if isinstance(value, str) else value + 1


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="unexpected argument 'tarce'"):
        pjsip.EventsDropped(time=pjsip.EventTime(1.0, 2.0), tarce=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="needs the argument 'time'"):
        pjsip.EventsDropped(trace=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        pjsip.EventsDropped(pjsip.EventTime(1.0, 2.0))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'uri' twice"):
        pjsip.RegistrarConfig("sip:example.com", uri="sip:b.org")  # type: ignore[misc]


@pytest.mark.parametrize("name", ["dataclasses", "logging", "re", "typing", "asyncio", "ipaddress"])
def test_import_leaves_out(name: str) -> None:
    """What costs milliseconds and is needed later, or never."""
    code = (
        "import sys; sys.modules.pop(sys.argv[1], None); import pjsip_py;"
        "sys.exit(sys.argv[1] in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, name], timeout=30).returncode == 0
