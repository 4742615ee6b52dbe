# SPDX-License-Identifier: GPL-3.0-or-later
"""The public surface: which names there are, that each is documented, and that nothing prints."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from programs import run_program

import pjsip_py as pjsip

PACKAGE = Path(pjsip.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))

# A name that goes from here breaks somebody's program; a new one belongs into the docs first.
NAMES = {
    "Account",
    "AccountConfig",
    "AccountEvent",
    "AccountState",
    "AccountsFileError",
    "AuthenticationError",
    "BearerToken",
    "Binding",
    "CallbackFailed",
    "Challenge",
    "ChallengeError",
    "ClosedError",
    "ConfigError",
    "ContactChanged",
    "Credentials",
    "CredentialsError",
    "DowngradeError",
    "Endpoint",
    "EndpointBusyError",
    "EndpointConfig",
    "Event",
    "EventStream",
    "EventTime",
    "EventsDropped",
    "FAILOVER",
    "ForbiddenError",
    "ForkedError",
    "GaveUp",
    "GlobalError",
    "Headers",
    "IntervalTooBrief",
    "InvalidUriError",
    "NativeError",
    "NoCredentialError",
    "NotFoundError",
    "Operation",
    "PcapError",
    "PeerCertificate",
    "PjsipError",
    "PjsuaFieldWarning",
    "Query",
    "RETRY",
    "RegStarted",
    "RegState",
    "RegistrarChanged",
    "RegistrarConfig",
    "RegistrationClient",
    "RegistrationError",
    "RegistrationResult",
    "RegistrationTimeout",
    "ResolveError",
    "Resolved",
    "Response",
    "RetryPolicy",
    "STOP",
    "ServerError",
    "SipMessage",
    "StaleNonceError",
    "Target",
    "TlsConfig",
    "TlsError",
    "TlsInfo",
    "Transport",
    "TransportError",
    "TransportState",
    "UnsupportedAlgorithmError",
    "Verdict",
    "WouldBlockError",
    "WrongPasswordError",
    "__version__",
    "build_info",
    "errors",
    "load_accounts",
    "save_accounts",
}

MEMBERS = {
    "Endpoint": """accounts aclose add_account callback_errors close closed config dispatch events
        fileno listen network_changed on open registration stats strict trace transports""",
    "RegistrationClient": """aor close closed contacts events expires fetch_bindings info
        on_reg_state register registrar set_credentials transport unregister unregister_all
        update_contacts update_expires""",
    "Account": """add_handler aor attempts binding client close closed config error events
        expires_at flows gruu instance_id modify on_reg_started on_reg_state path refresh_at
        register registered registrar registrars retry_at service_route state temp_gruu unregister
        wait_registered""",
    "Operation": """add_done_callback cancel cancelled done exception name request result""",
    "Transport": """address close closed handle host implicit is_ipv6 is_wildcard port protocol
        reload_tls tls""",
    "Response": """bindings body challenges code flow_timer headers min_expires path raw reason
        received retry_after rport service_route source stale""",
    "RegState": """account algorithm attempt bindings cancelled client code connection error
        offered expires is_unregister local local_address mapped_address merged min_expires probe
        reason refresh_in reg_id registered registrar renewal requests response retry_in seq
        time""",
}


def test_the_names() -> None:
    assert sorted(pjsip.__all__) == sorted(NAMES)
    for name in NAMES:
        assert getattr(pjsip, name) is not None
    visible = {n for n, v in vars(pjsip).items() if not n.startswith("_") and not _is_module(v)}
    assert visible <= {*NAMES, "annotations", "Any", "TYPE_CHECKING"}, (
        "imported, and not in __all__"
    )


def _is_module(value: object) -> bool:
    return isinstance(value, ModuleType)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_members(name: str) -> None:
    cls = getattr(pjsip, name)
    found = {n for n in dir(cls) if not n.startswith("_")}
    found |= set(getattr(cls, "__dataclass_fields__", {}))
    source = inspect.getsource(cls)
    found |= set(re.findall(r"^        self\.([a-z]\w*)(?::| =)", source, re.MULTILINE))
    assert sorted(found) == sorted(MEMBERS[name].split())


def documented(owner: str, name: str, value: object) -> str | None:
    if inspect.isfunction(value) or isinstance(value, property):
        doc = inspect.getdoc(value)
        if not doc:
            return f"{owner}.{name}"
    return None


# What says all by its name and annotation, and by the class it belongs to.
SELF_EVIDENT = {
    *("Account.aor", "Account.registrar", "Account.closed", "Account.registered"),
    *("Endpoint.closed", "Endpoint.transports", "Endpoint.accounts"),
    *("RegistrationClient.aor", "RegistrationClient.registrar"),
    *("Operation.done", "Operation.cancelled", "Operation.name"),
    *("Transport.is_ipv6", "Transport.is_wildcard", "Transport.closed", "Transport.handle"),
    *("Response.code", "Response.reason", "Response.headers", "Response.body", "Response.raw"),
    *("Headers.get_all", "Headers.values_of", "EventStream.close", "EventsDropped.count"),
    *("RegState.registered", "RegistrationResult.bindings"),
    *("SipMessage.start_line", "SipMessage.headers", "TlsError.reasons"),
    *("TransportError.strerror",),
}


def test_every_public_name_is_documented() -> None:
    missing = []
    for name in NAMES:
        value = getattr(pjsip, name)
        if name == "__version__":
            continue
        doc = inspect.getdoc(value)
        generated = not doc or doc == inspect.getdoc(Exception) or doc.startswith(f"{name}(")
        # An exception explains itself in the tree at the top of pjsip_py.errors.
        if generated and name not in (pjsip.errors.__doc__ or ""):
            missing.append(name)
        if inspect.isclass(value):
            for member, content in vars(value).items():
                if member.startswith("_") or member == "hint":
                    continue
                lack = documented(name, member, content)
                if lack and lack not in SELF_EVIDENT:
                    missing.append(lack)
    assert missing == []


SELF_EVIDENT_FIELDS = {
    *("transport", "headers", "display_name", "tls", "credentials", "versions", "key_password"),
}


def test_every_field_of_a_configuration_is_explained() -> None:
    for cls in (pjsip.AccountConfig, pjsip.EndpointConfig, pjsip.TlsConfig):
        source = inspect.getsource(cls)
        for name in cls.__dataclass_fields__:
            line = next(x for x in source.splitlines() if re.match(rf"    {name}: ", x))
            above = source.splitlines()[source.splitlines().index(line) - 1]
            explained = "#:" in line or "#:" in above or name in SELF_EVIDENT_FIELDS
            assert explained, f"{cls.__name__}.{name}"


def test_everything_public_is_annotated() -> None:
    for name in NAMES:
        value = getattr(pjsip, name)
        if not inspect.isclass(value):
            continue
        for member, content in vars(value).items():
            if inspect.isfunction(content) and not member.startswith("_"):
                hints: dict[str, Any] = content.__annotations__
                assert "return" in hints, f"{name}.{member}"
                wanted = set(inspect.signature(content).parameters) - {"self"}
                assert wanted <= set(hints), f"{name}.{member}"


def test_events_are_frozen_and_slotted() -> None:
    classes = [getattr(pjsip, name) for name in NAMES]
    events = [c for c in classes if inspect.isclass(c) and issubclass(c, pjsip.Event)]
    assert len(events) == 12
    for cls in events:
        assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
        assert "__slots__" in vars(cls), cls
        for field in cls.__dataclass_fields__.values():
            assert field.kw_only, (cls, field.name)


# The command line talks to people; so does ``python -m pjsip_py``.
MAY_PRINT = {"cli", "__main__.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_prints(path: Path) -> None:
    if MAY_PRINT & set(path.relative_to(PACKAGE).parts):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
            assert not (isinstance(node.value, ast.Name) and node.value.id == "sys"), path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_one_module_knows_c(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "SPDX-License-Identifier: GPL-3.0-or-later" in text.splitlines()[0]
    if path.name != "_ffi.py":
        assert not re.search(r"_pjsip\b|\bcffi\b", re.sub(r'"[^"\n]*"', "", text)), path.name


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert typing.get_type_hints(pjsip.build_info)["return"]


def test_the_import_is_light() -> None:
    """cffi alone: nothing of the extras, and neither asyncio nor a thread."""
    out = run_program(
        """
        import sys, threading
        before = set(sys.modules)
        import pjsip_py
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"click", "rich", "sipmessage", "pytest", "trustme", "asyncio"}))
        print(threading.active_count())
        """
    ).check()
    assert out.splitlines() == ["[]", "1"]


def test_build_info() -> None:
    info = pjsip.build_info()
    assert info["pjsip_py_version"] == pjsip.__version__ == info["version"]
    assert info["pjsip_version"].startswith("2.")
    assert {"MD5"} <= set(info["algorithms"].split())
    assert info["limits"]["contacts"] == 10
    assert info["limits"]["url"] >= 1024
    assert isinstance(info["patches"], tuple)
    assert pjsip.build_info() == info
    out = run_program(
        "import runpy; runpy.run_module('pjsip_py', run_name='__main__')", timeout=10
    ).check()
    assert f"pjsip_py_version: {pjsip.__version__}" in out
