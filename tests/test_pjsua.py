# SPDX-License-Identifier: GPL-3.0-or-later
"""pjsua's and PJSUA2's account settings, read as ours."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run_program

import pjsip_py as pjsip
from pjsip_py._pjsua import TABLE, Row, from_pjsua_fields
from pjsip_py.account_config import AccountConfig
from pjsip_py.errors import PjsuaFieldWarning
from pjsip_py.retry import RetryPolicy
from pjsip_py.testing import Registrar

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).resolve().parent.parent
HEADER = next(ROOT.glob("vendor/pjproject-*/pjsip/include/pjsua-lib/pjsua.h"), None)
AOR = "sip:alice@example.com"
UDP, TCP = "sip:192.0.2.1", "sip:192.0.2.1;transport=tcp"
HA1 = "0123456789abcdef" * 2
SECRET = "hunter2-of-all-places"
BASE: dict[str, object] = {"id": AOR, "reg_uri": UDP}

ROWS = {row.key: row for row in TABLE}
KEYS = [pytest.param(row, id=row.key) for row in TABLE]
NAMES = [name for row in TABLE for name in (row.pjsua, row.pjsua2) if name]


# -- ways to say it -------------------------------------------------------------------------------


def nested(fields: dict[str, object]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in fields.items():
        *groups, member = path.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[member] = value
    return tree


def objects(tree: dict[str, Any]) -> dict[str, Any]:
    """The structures in it as objects."""
    return {
        name: SimpleNamespace(**objects(value)) if isinstance(value, dict) and value else value
        for name, value in tree.items()
    }


def in_pjsua(fields: dict[str, object]) -> dict[str, Any]:
    return from_pjsua_fields(**nested(fields))


def in_pjsua2(fields: dict[str, object]) -> dict[str, Any]:
    return from_pjsua_fields(**nested(spelled_for_pjsua2(fields)))


def in_structures(fields: dict[str, object]) -> dict[str, Any]:
    return from_pjsua_fields(**objects(nested(spelled_for_pjsua2(fields))))


def as_one_object(fields: dict[str, object]) -> dict[str, Any]:
    return from_pjsua_fields(SimpleNamespace(**objects(nested(spelled_for_pjsua2(fields)))))


def spelled_for_pjsua2(fields: dict[str, object]) -> dict[str, object]:
    return {ROWS[key].pjsua2 or key: value for key, value in fields.items()}


WAYS = [in_pjsua, in_pjsua2, in_structures, as_one_object]
every_way = pytest.mark.parametrize("say", WAYS, ids=lambda way: way.__name__)


# -- every row ------------------------------------------------------------------------------------

CREDENTIAL = SimpleNamespace(scheme="digest", realm="*", username="alice", dataType=0, data=SECRET)

# For each row that decides something of ours: what else is said, its value, and what comes of it.
CASES: dict[str, tuple[dict[str, object], object, dict[str, object]]] = {
    "id": ({}, '"Alice" <sip:alice@example.com>', {"aor": AOR, "display_name": "Alice"}),
    "reg_uri": ({}, "sip:192.0.2.9", {"registrar": "sip:192.0.2.9", "register_on_add": True}),
    "register_on_acc_add": ({}, False, {"register_on_add": False}),
    "cred_info": ({}, [CREDENTIAL], {"credentials": (pjsip.Credentials("alice", SECRET),)}),
    "cred_count": (
        {"cred_info": [CREDENTIAL, SimpleNamespace(username="", realm="", data="")]},
        1,
        {"credentials": (pjsip.Credentials("alice", SECRET),)},
    ),
    "proxy": ({}, ["sip:a;lr", "<sip:b;lr>"], {"route": ("sip:a;lr", "<sip:b;lr>")}),
    "proxy_cnt": ({"proxy": ["sip:a", "", ""]}, 1, {"route": ("sip:a",)}),
    "reg_use_proxy": ({"proxy": ["sip:a"]}, 2, {"route": ("sip:a",)}),
    "reg_timeout": ({}, 600, {"expires": 600}),
    "reg_delay_before_refresh": ({}, 20, {"refresh_margin": 20}),
    "reg_retry_interval": ({}, 0, {"retry": None}),
    "reg_first_retry_interval": (
        {"reg_retry_interval": 60, "reg_retry_random_interval": 0},
        15,
        {
            "retry": RetryPolicy(
                initial=15, factor=4, maximum=60, jitter="none", reconnect=15, per_code={}
            )
        },
    ),
    "reg_retry_random_interval": (
        {"reg_retry_interval": 60, "reg_first_retry_interval": 15},
        5,
        {"retry": RetryPolicy(initial=15, factor=4, maximum=60, jitter="half", reconnect=20)},
    ),
    "reg_hdr_list": (
        {},
        [SimpleNamespace(hName="X-Line", hValue="7")],
        {"headers": (("X-Line", "7"),)},
    ),
    "contact_params": ({}, ";a=1", {"contact_params": ";a=1"}),
    "reg_contact_params": ({"contact_params": ";a=1"}, ";b", {"contact_params": ";a=1;b"}),
    "contact_uri_params": ({}, ";a=1", {"contact_uri_params": ";a=1"}),
    "reg_contact_uri_params": (
        {"contact_uri_params": ";a=1"},
        ";b",
        {"contact_uri_params": ";a=1;b"},
    ),
    "force_contact": ({}, "sip:alice@192.0.2.7", {"contacts": ("sip:alice@192.0.2.7",)}),
    "allow_contact_rewrite": ({}, 2, {"contact_rewrite": 2}),
    "use_rfc5626": ({"reg_uri": TCP}, 1, {"outbound": True}),
    "rfc5626_instance_id": (
        {"reg_uri": TCP},
        "<urn:uuid:00000000-0000-1000-8000-aabbccddeeff>",
        {"outbound": True, "instance_id": "urn:uuid:00000000-0000-1000-8000-aabbccddeeff"},
    ),
    "ka_interval": ({}, 20, {"keep_alive": 20.0}),
}


def test_every_row_that_decides_something_has_a_case() -> None:
    deciding = {row.key for row in TABLE if row.ours}
    assert deciding - CASES.keys() == {"transport_id"}  # which takes a Transport: see below
    assert CASES.keys() <= deciding


@every_way
@pytest.mark.parametrize("key", CASES)
def test_a_field_becomes_ours(key: str, say: Callable[[dict[str, object]], Any]) -> None:
    context, value, wanted = CASES[key]
    if key == "cred_info" and say is in_pjsua:
        value = {"realm": "*", "scheme": "digest", "username": "alice", "data": SECRET}
    options = say({**BASE, **context, key: value})
    assert {name: options[name] for name in wanted} == wanted
    AccountConfig(**options)


@pytest.mark.parametrize("key", CASES)
def test_our_own_config_takes_what_comes_out(key: str) -> None:
    context, value, _ = CASES[key]
    options = in_pjsua({**BASE, **context, key: value})
    config = AccountConfig(**options)
    assert all(getattr(config, name) == content for name, content in options.items())


def other_value(row: Row) -> object:
    """Some value that is not the default."""
    default = row.defaults[0] if row.defaults else None
    if isinstance(default, int):
        return default + 7
    if isinstance(default, str):
        return "x"
    return {"of": "one's own"}


WITHOUT_EFFECT = [row for row in TABLE if row.check is None]
REFUSED = [row for row in TABLE if row.check is not None and not row.ours]


@pytest.mark.parametrize(
    "name", [n for r in WITHOUT_EFFECT for n in dict.fromkeys((r.pjsua, r.pjsua2)) if n]
)
def test_a_field_without_effect_is_named_in_a_warning(name: str) -> None:
    row = next(r for r in TABLE if name in (r.pjsua, r.pjsua2))
    said = nested({name: other_value(row)})
    with pytest.warns(PjsuaFieldWarning, match=re.escape(name)) as caught:
        options = from_pjsua_fields(**BASE, **said)
    assert len(caught) == 1
    assert options == in_pjsua(BASE)


@pytest.mark.parametrize("name", [n for r in REFUSED for n in (r.pjsua, r.pjsua2)])
def test_a_field_that_would_register_in_another_way_is_refused(name: str) -> None:
    row = next(r for r in TABLE if name in (r.pjsua, r.pjsua2))
    with pytest.raises(pjsip.ConfigError, match=re.escape(name)):
        from_pjsua_fields(**BASE, **nested({name: other_value(row)}))
    for default in row.defaults:
        assert from_pjsua_fields(**BASE, **nested({name: default})) == in_pjsua(BASE)


@pytest.mark.parametrize("row", KEYS)
def test_a_default_of_pjsuas_is_no_news(row: Row) -> None:
    """Written out it is taken at its word, in an object it says nothing."""
    for default in row.defaults:
        if row.key in ("id", "reg_uri"):
            continue
        written = in_pjsua({**BASE, row.key: default})
        assert written.items() >= in_pjsua(BASE).items()
        assert set(written) - set(in_pjsua(BASE)) <= set(row.ours.split(", "))
        assert as_one_object({**BASE, row.key: default}) == in_pjsua(BASE)


def test_null_is_not_said() -> None:
    said: dict[str, Any] = {row.key: None for row in TABLE if row.pjsua}
    assert in_pjsua({**said, **BASE}) == in_pjsua(BASE)
    assert from_pjsua_fields(None, **nested(BASE), regConfig=None) == in_pjsua(BASE)


def test_what_a_plain_account_becomes() -> None:
    assert in_pjsua({"id": AOR, "reg_uri": UDP}) == {
        "aor": AOR,
        "registrar": UDP,
        "register_on_add": True,
    }
    assert in_pjsua({"id": AOR}) == {"aor": AOR}
    assert in_pjsua({"id": AOR, "register_on_acc_add": True}) == {"aor": AOR}


def test_several_fields_without_effect_make_one_warning() -> None:
    with pytest.warns(PjsuaFieldWarning) as caught:
        from_pjsua_fields(**BASE, mwi_enabled=1, use_srtp=2, videoConfig={"windowFlags": 1})
    assert len(caught) == 1
    named = str(caught[0].message).partition(": ")[2]
    assert named == "mwi_enabled, use_srtp, videoConfig.windowFlags"


def test_both_vocabularies_may_be_mixed() -> None:
    options = from_pjsua_fields(
        id=AOR, regConfig={"registrarUri": UDP}, sipConfig=SimpleNamespace(proxies=["sip:a"])
    )
    assert (options["registrar"], options["route"]) == (UDP, ("sip:a",))


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in TABLE if row.pjsua and row.pjsua2 != row.pjsua])
def test_a_field_given_twice_is_refused(row: Row) -> None:
    if not row.pjsua2:
        return
    value = CASES.get(row.key, ({}, 1, {}))[1]
    both = nested({row.pjsua: value, row.pjsua2: value})
    with pytest.raises(pjsip.ConfigError) as caught:
        from_pjsua_fields(**both)
    assert row.pjsua in str(caught.value)
    assert row.pjsua2 in str(caught.value)


def test_a_keyword_does_not_override_what_the_object_says() -> None:
    config = SimpleNamespace(idUri=AOR, regConfig=SimpleNamespace(timeoutSec=600))
    assert from_pjsua_fields(config, reg_uri=UDP)["expires"] == 600
    with pytest.raises(pjsip.ConfigError, match=r"regConfig\.timeoutSec and reg_timeout"):
        from_pjsua_fields(config, reg_timeout=700)
    config.regConfig.timeoutSec = 300  # its default, which nobody need have said
    assert from_pjsua_fields(config, reg_timeout=700)["expires"] == 700


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"reg_timout": 1}, "unknown field 'reg_timout': did you mean 'reg_timeout'?"),
        ({"idUrl": AOR}, "did you mean 'idUri'?"),
        ({"regConfig": {"timeoutsec": 1}}, "did you mean 'regConfig.timeoutSec'?"),
        ({"regconfig": {}}, "did you mean 'regConfig'?"),
        ({"auth_pref": {"initial": 1}}, "did you mean 'auth_pref.initial_auth'?"),
        ({"cred_info": {"user": "a"}}, "did you mean 'username'?"),
        ({"expires": 60}, "expires is a field of AccountConfig: pjsua calls it reg_timeout"),
        ({"display_name": "A"}, "pjsua calls it id"),
        ({"": {}}, "unknown field ''"),
        ({"zzz": 1}, "unknown field 'zzz'"),
        ({"config": object()}, "unknown field 'config'"),
    ],
)
def test_an_unknown_name_is_refused_with_a_guess(said: dict[str, Any], wanted: str) -> None:
    with pytest.raises(pjsip.ConfigError, match=re.escape(wanted)):
        from_pjsua_fields(**BASE, **said)


@pytest.mark.parametrize("value", ["x", 1, [], (), object(), int, b"", [1]])
def test_a_structure_is_a_mapping_or_an_object_with_members(value: object) -> None:
    with pytest.raises(pjsip.ConfigError, match="regConfig must be a mapping or an object"):
        from_pjsua_fields(**BASE, regConfig=value)
    with pytest.raises(pjsip.ConfigError, match="config must be a mapping or an object"):
        from_pjsua_fields(value, **BASE)


def test_the_whole_may_be_a_mapping() -> None:
    assert from_pjsua_fields({"idUri": AOR, "regConfig": {"registrarUri": UDP}}) == in_pjsua(BASE)


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "aor", "name"),
    [
        (AOR, AOR, ""),
        (f"<{AOR}>", AOR, ""),
        (f"Alice Cooper <{AOR}>", AOR, "Alice Cooper"),
        (f'"Al \\"Ice\\" <Cooper>" <{AOR}>', AOR, 'Al "Ice" <Cooper>'),
        (f'"Zoë" <{AOR};transport=tcp>', f"{AOR};transport=tcp", "Zoë"),
    ],
)
def test_a_name_addr_is_taken_apart(text: str, aor: str, name: str) -> None:
    options = from_pjsua_fields(idUri=text, reg_uri=f"<{UDP}>")
    assert (options["aor"], options.get("display_name", "")) == (aor, name)
    assert options["registrar"] == UDP
    assert AccountConfig(**options).aor == aor


@pytest.mark.parametrize("said", [{}, {"id": ""}, {"reg_uri": UDP}, {"idUri": None}])
def test_an_account_needs_an_aor(said: dict[str, Any]) -> None:
    with pytest.raises(pjsip.ConfigError, match="id, the AOR, is missing"):
        from_pjsua_fields(**said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", "alice"),
        ("id", "sip:example.com"),
        ("id", f"<{AOR}"),
        ("id", f"<{AOR}>;tag=1"),
        ("id", "sip:alice:secret@example.com"),
        ("id", "tel:+123"),
        ("reg_uri", "sip:bob@example.com"),
        ("reg_uri", "sip:999.0.0.1"),
        ("proxy", "sips:"),
        ("proxy", ["sip:a", "http://b"]),
        ("force_contact", "mailto:alice@example.com"),
    ],
)
def test_a_uri_that_is_none_is_refused(key: str, value: object) -> None:
    with pytest.raises(pjsip.InvalidUriError) as caught:
        AccountConfig(**in_pjsua({**BASE, key: value}))
    assert SECRET not in str(caught.value)


BREAKS = ["x\r\nX-Evil: 1", "x\ny", "x\0y", "x\x7fy", "\ud800"]


@pytest.mark.parametrize("text", BREAKS)
@pytest.mark.parametrize(
    "key",
    [
        *("id", "reg_uri", "proxy", "force_contact", "contact_params", "contact_uri_params"),
        *("reg_contact_params", "reg_contact_uri_params", "rfc5626_instance_id"),
    ],
)
def test_nul_and_line_breaks_never_pass(key: str, text: str) -> None:
    with pytest.raises((pjsip.ConfigError, pjsip.InvalidUriError)):
        AccountConfig(**in_pjsua({**BASE, "reg_uri": TCP, key: text}))


@pytest.mark.parametrize("text", BREAKS)
@pytest.mark.parametrize("member", ["realm", "username", "data", "scheme", "hName", "hValue"])
def test_nor_do_they_in_credentials_and_headers(member: str, text: str) -> None:
    said: dict[str, object] = {
        "cred_info": {"realm": "*", "username": "alice", "data": SECRET, member: text}
        if member[0] != "h"
        else (),
        "reg_hdr_list": [{"hName": "X-Line", "hValue": "7", member: text}],
    }
    if member[0] != "h":
        del said["reg_hdr_list"]
    with pytest.raises(pjsip.ConfigError) as caught:
        AccountConfig(**in_pjsua({**BASE, **said}))
    assert SECRET not in str(caught.value)


# -- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"realm": "*", "username": "a", "data": "p"}, pjsip.Credentials("a", "p")),
        (
            {"realm": "r", "scheme": "Digest", "username": "a", "data_type": 0, "data": "p"},
            pjsip.Credentials("a", "p", realm="r"),
        ),
        (
            {"realm": "r", "username": "a", "dataType": 1, "data": HA1},
            pjsip.Credentials("a", realm="r", ha1=HA1),
        ),
        (
            {"realm": "r", "username": "a", "data_type": 1, "data": HA1, "algorithm_type": 1},
            pjsip.Credentials("a", realm="r", ha1=HA1),
        ),
        (
            {"realm": "r", "username": "a", "dataType": 1, "data": HA1 * 2, "algoType": 2},
            pjsip.Credentials("a", realm="r", ha1={"SHA-256": HA1 * 2}),
        ),
        (
            {"realm": "r", "username": "a", "data_type": 1, "data": HA1 * 2, "algorithm_type": 3},
            pjsip.Credentials("a", realm="r", ha1={"SHA-512-256": HA1 * 2}),
        ),
        (pjsip.Credentials("a", "p"), pjsip.Credentials("a", "p")),
    ],
)
def test_a_credential_in_either_vocabulary(entry: Any, wanted: pjsip.Credentials) -> None:
    assert in_pjsua({**BASE, "cred_info": entry})["credentials"] == (wanted,)
    assert in_pjsua2({**BASE, "cred_info": [entry, entry]})["credentials"] == (wanted, wanted)
    if isinstance(entry, dict):
        entry = SimpleNamespace(**entry)
        assert in_pjsua2({**BASE, "cred_info": entry})["credentials"] == (wanted,)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"data_type": 16}, "AKA is not supported"),
        ({"data_type": 17}, "AKA is not supported"),
        ({"akaK": SECRET}, "AKA is not supported"),
        ({"ext": {"aka": {"k": SECRET}}}, "AKA is not supported"),
        ({"data_type": 2}, "data_type must be 0, a password, or 1, an HA1"),
        ({"data_type": "0"}, "data_type must be an int"),
        ({"scheme": "bearer"}, "scheme 'bearer' is not supported"),
        ({"scheme": 1}, "scheme must be a str"),
        ({"realm": ""}, "realm must not be empty; '*' stands for any"),
        ({"username": ""}, "username must not be empty"),
        ({"username": 7}, "username must be a str"),
        ({"data": 7}, "password must be a str"),
        ({"data_type": 1}, "name it by realm="),
        ({"data_type": 1, "realm": "r"}, "MD5 takes 32 hexadecimal digits"),
        ({"data_type": 1, "realm": "r", "algorithm_type": 4}, "algorithm_type must be 0 to 3"),
        ({"secret": SECRET}, "unknown field 'secret'"),
        ({1: 2}, "unknown field '1'"),
    ],
)
def test_a_credential_that_cannot_be_used_is_refused(changes: Any, wanted: str) -> None:
    entry = {"realm": "*", "username": "alice", "data": SECRET, **changes}
    with pytest.raises(pjsip.ConfigError) as caught:
        in_pjsua({**BASE, "cred_info": entry})
    assert wanted in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("entry", ["alice", 7, [None], [[]]])
def test_what_is_no_credential_is_refused(entry: object) -> None:
    with pytest.raises(pjsip.ConfigError, match="cred_info: expected realm, username and data"):
        in_pjsua({**BASE, "cred_info": entry})


def test_secrets_show_nowhere() -> None:
    said = {**BASE, "cred_info": {"realm": "*", "username": "a", "data": SECRET}}
    said["natConfig"] = {"turnPassword": SECRET}
    with pytest.warns(PjsuaFieldWarning, match="turnPassword") as caught:
        options = from_pjsua_fields(**said)
    assert SECRET not in str(caught[0].message)
    assert SECRET not in repr(options)


@pytest.mark.parametrize(("array", "count"), [("cred_info", "cred_count"), ("proxy", "proxy_cnt")])
def test_a_count_past_the_array_is_refused(array: str, count: str) -> None:
    value = CREDENTIAL if array == "cred_info" else "sip:a"
    with pytest.raises(pjsip.ConfigError, match=f"{count} is 2, but {array} has 1"):
        in_pjsua({**BASE, array: [value], count: 2})
    with pytest.raises(pjsip.ConfigError, match=f"{count} must be 0 to 8"):
        in_pjsua({**BASE, array: [value], count: 9})
    assert in_pjsua({**BASE, array: [value], count: 0}).get("route", ()) == ()


# -- what hangs together --------------------------------------------------------------------------


def test_the_registration_uses_the_proxies_that_it_is_told_to() -> None:
    said = {**BASE, "proxy": ["sip:a"]}
    assert "route" not in in_pjsua({**said, "reg_use_proxy": 0})
    assert in_pjsua({**said, "reg_use_proxy": 3})["route"] == ("sip:a",)
    for proxies in (["sip:a"], []):
        with pytest.raises(pjsip.ConfigError, match="write them into proxy"):
            in_pjsua({**BASE, "proxy": proxies, "reg_use_proxy": 1})


def contact(**said: object) -> str:
    config = AccountConfig(**in_pjsua({**BASE, **said}))
    assert config.contacts is not None
    return config.contacts[0]


def test_a_forced_contact_takes_what_only_register_has() -> None:
    forced = "sip:alice@192.0.2.7;ob"
    assert contact(force_contact=forced) == forced
    assert contact(force_contact=forced, reg_contact_params=";q=1") == f"<{forced}>;q=1"
    named = f'"Al <1>" <{forced}>;a=1'
    assert (
        contact(force_contact=named, reg_contact_params=";b", reg_contact_uri_params=";c=2;")
        == f'"Al <1>" <{forced};c=2>;a=1;b'
    )


def test_beside_a_forced_contact_the_common_parameters_are_ignored() -> None:
    with pytest.warns(PjsuaFieldWarning, match="contact_params, natConfig.sipOutboundInstanceId"):
        config = AccountConfig(
            **from_pjsua_fields(
                id=AOR,
                reg_uri=TCP,
                force_contact="sip:alice@192.0.2.7",
                contact_params=";a",
                natConfig={"sipOutboundInstanceId": "<urn:uuid:1>"},
            )
        )
    assert (config.contact_params, config.outbound, config.instance_id) == ("", False, None)


@pytest.mark.parametrize(
    ("said", "protocol"),
    [
        ({"reg_uri": UDP}, "udp"),
        ({"reg_uri": TCP}, "tcp"),
        ({"reg_uri": "sips:example.com"}, "tls"),
        ({"reg_uri": "<sip:example.com;transport=TLS>"}, "tls"),
        ({"reg_uri": UDP, "proxy": "<sip:a;transport=tcp;lr>"}, "tcp"),
        ({"reg_uri": TCP, "proxy": "sip:a"}, "udp"),
        ({"reg_uri": TCP, "proxy": "sip:a", "reg_use_proxy": 0}, "tcp"),
        ({}, "udp"),
        ({"id": "sips:alice@example.com"}, "tls"),
        ({"id": f"{AOR};transport=tcp"}, "tcp"),
    ],
)
def test_outbound_is_for_connections_and_the_keep_alive_for_udp(
    said: dict[str, object], protocol: str
) -> None:
    options = in_pjsua({"id": AOR, "ka_interval": 20, **said})
    config = AccountConfig(**options)
    assert config._checked[0].settings.next_hop.transport == protocol
    assert config.outbound is (protocol != "udp")
    assert config.keep_alive == (20 if protocol == "udp" else None)
    assert "outbound" not in in_pjsua({"id": AOR, "use_rfc5626": 0, **said})


def test_an_instance_id_goes_with_outbound_alone() -> None:
    urn = "<urn:uuid:00000000-0000-1000-8000-aabbccddeeff>"
    assert "instance_id" not in in_pjsua({**BASE, "rfc5626_instance_id": urn})
    options = in_pjsua({"id": AOR, "reg_uri": TCP, "rfc5626_instance_id": urn, "use_rfc5626": 0})
    assert "instance_id" not in options
    with pytest.raises(pjsip.ConfigError, match="instance_id must be a URN"):
        AccountConfig(**in_pjsua({"id": AOR, "reg_uri": TCP, "rfc5626_instance_id": "mine"}))


def test_a_transport_is_the_object_not_a_number(ep: pjsip.Endpoint) -> None:
    udp, tcp = ep.listen("udp"), ep.listen("tcp")
    for say in (in_pjsua, in_pjsua2):
        assert say({**BASE, "transport_id": udp})["transport"] is udp
    options = in_pjsua({"id": AOR, "reg_uri": TCP, "transport_id": tcp})
    assert (options["transport"], options["outbound"]) == (tcp, True)
    assert AccountConfig(**options).transport is tcp
    assert "transport" not in in_pjsua({**BASE, "transport_id": -1})
    for number in (0, 7, -2, "udp", True):
        with pytest.raises(pjsip.ConfigError, match=r"sipConfig\.transportId must be the Trans"):
            in_pjsua2({**BASE, "transport_id": number})
    # It decides the IP version as well, so pjsua's preference has nothing left to say.
    assert in_pjsua({**BASE, "transport_id": udp, "ipv6_sip_use": 4})["transport"] is udp


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("reg_timeout", 0, {}),
        ("reg_timeout", 3600, {"expires": 3600}),
        ("reg_delay_before_refresh", 0, {"refresh_margin": 1}),
        ("ka_interval", 0, {"keep_alive": 0}),
        ("allow_contact_rewrite", True, {"contact_rewrite": 1}),
        ("allow_contact_rewrite", False, {"contact_rewrite": 0}),
        ("register_on_acc_add", 0, {"register_on_add": False}),
        ("reg_hdr_list", {"X-A": "1", "X-B": "2"}, {"headers": (("X-A", "1"), ("X-B", "2"))}),
        ("reg_hdr_list", [("X-A", "1")], {"headers": (("X-A", "1"),)}),
        ("reg_hdr_list", {"hName": "X-A", "hValue": "1"}, {"headers": (("X-A", "1"),)}),
        ("proxy", "sip:a", {"route": ("sip:a",)}),
        ("contact_params", "a=1", {"contact_params": ";a=1"}),
    ],
)
def test_values_with_a_meaning_of_their_own(
    key: str, value: object, wanted: dict[str, object]
) -> None:
    options = in_pjsua({**BASE, key: value})
    assert options == {**in_pjsua(BASE), **wanted}
    AccountConfig(**options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reg_timeout", -1),
        ("reg_timeout", 2**31),
        ("reg_timeout", "300"),
        ("reg_timeout", True),
        ("reg_timeout", 300.5),
        ("reg_delay_before_refresh", -1),
        ("reg_retry_interval", -1),
        ("reg_retry_interval", 86401),
        ("reg_first_retry_interval", "1"),
        ("reg_retry_random_interval", 1e9),
        ("reg_use_proxy", 4),
        ("allow_contact_rewrite", 3),
        ("allow_contact_rewrite", "1"),
        ("use_rfc5626", "yes"),
        ("register_on_acc_add", "no"),
        ("ka_interval", -1),
        ("reg_hdr_list", ["X-A: 1"]),
        ("reg_hdr_list", [object()]),
        ("reg_hdr_list", [{"hName": "X-A"}]),
        ("proxy", [7]),
        ("proxy", b"sip:a"),
        ("contact_params", {"a": "1"}),
        ("id", 7),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(key: str, value: object) -> None:
    for say in (in_pjsua, in_pjsua2):
        with pytest.raises(pjsip.ConfigError) as caught:
            say({**BASE, key: value})
        assert (key if say is in_pjsua else ROWS[key].pjsua2) in str(caught.value)


# -- retry ----------------------------------------------------------------------------------------


def pjsuas_range(wait: int, spread: int) -> tuple[float, float]:
    """Between what pjsua 2.17 draws (schedule_reregistration)."""
    return (wait - spread, wait + spread) if wait >= spread else (0, spread)


@settings(deadline=None)
@given(interval=st.integers(1, 86400), first=st.integers(0, 86400), spread=st.integers(0, 86400))
def test_the_waits_are_those_of_pjsua(interval: int, first: int, spread: int) -> None:
    policy = in_pjsua(
        {
            **BASE,
            "reg_retry_interval": interval,
            "reg_first_retry_interval": first,
            "reg_retry_random_interval": spread,
        }
    )["retry"]
    assert isinstance(policy, RetryPolicy)
    low, high = pjsuas_range(first, spread)
    assert low <= policy.delay(1) <= max(high, 1.0)
    if first >= max(spread, 1):
        assert policy.delay(1) == first
    # Later ones: never above what pjsua may take, and one that asks for no spread gets none.
    low, high = pjsuas_range(interval, spread)
    longest = policy.delay(9)
    assert longest <= max(high, policy.initial)
    if spread == 0:
        assert longest == max(interval, policy.initial)
    else:
        assert longest >= min(low, policy.maximum / 2)
    assert policy.reconnect == min(3600, pjsuas_range(first, spread)[1])


def test_pjsuas_own_waits() -> None:
    policy = in_pjsua({**BASE, "reg_retry_interval": 300})["retry"]
    assert policy.delay(1) == 5
    assert all(150 <= policy.delay(n) <= 300 for n in range(2, 50))
    assert "retry" not in in_pjsua(BASE)


# -- any input ------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.sampled_from([AOR, UDP, TCP, ";a=1", "<urn:uuid:1>", CREDENTIAL]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["realm", "username", "data", "data_type", "hName", "hValue", "a", ""]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*NAMES, "regConfig", "zzz", ""]), VALUES, max_size=6),
    st.booleans(),
)
def test_any_input_makes_a_config_or_one_of_our_errors(said: dict[str, Any], whole: bool) -> None:
    said = {"id": AOR, **said}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PjsuaFieldWarning)
        try:
            options = from_pjsua_fields(said) if whole else from_pjsua_fields(**said)
            config = AccountConfig(**options)
        except (pjsip.ConfigError, pjsip.InvalidUriError):
            return
    assert config.aor


# -- against the originals ------------------------------------------------------------------------


@pytest.mark.skipif(HEADER is None, reason="needs the source of pjproject")
def test_the_table_has_every_member_of_the_struct() -> None:
    assert HEADER is not None
    text = HEADER.read_text("utf-8")
    found = re.search(
        r"^typedef struct pjsua_acc_config\n(.*?)^} pjsua_acc_config;", text, re.M | re.S
    )
    assert found is not None
    body = re.sub(r"/\*.*?\*/", "", found[1], flags=re.S)
    members = re.findall(r"^\s+\w[\w ]*?[\s*]+(\w+)(?:\[\w+\])?;", body, re.M)
    assert len(members) > 80
    assert {row.pjsua.partition(".")[0] for row in TABLE if row.pjsua} == set(members)


PJSUA2 = pytest.mark.skipif(
    importlib.util.find_spec("pjsua2") is None,
    reason="needs the module pjsua2: pip install pjsua2-python (CPython 3.8 to 3.12)",
)


@PJSUA2
@pytest.mark.parametrize("started", [False, True])
def test_an_untouched_object_of_pjsua2_says_nothing(started: bool) -> None:
    """Every member of it is in the table, and none of its defaults is news."""
    out = run_program(
        f"""
        import pjsua2, warnings
        from pjsip_py._pjsua import _BY_NAME, _MEMBERS, from_pjsua_fields
        if {started}:
            ep = pjsua2.Endpoint()
            ep.libCreate()
            config = pjsua2.EpConfig()
            config.logConfig.level = config.logConfig.consoleLevel = 0
            config.uaConfig.threadCnt = 0
            ep.libInit(config)
        warnings.simplefilter("error")
        config = pjsua2.AccountConfig()

        def walk(thing, path):
            for name in dir(thing):
                value = getattr(thing, name)
                if name.startswith(("_", "this")) or callable(value):
                    continue
                if path + name in _MEMBERS:
                    walk(value, path + name + ".")
                else:
                    assert path + name in _BY_NAME, path + name

        walk(config, "")
        config.idUri = "sip:alice@example.com"
        print("then", from_pjsua_fields(config), flush=True)
        """,
    )
    assert out.code == 0, out
    assert out.out.splitlines()[-1] == "then {'aor': 'sip:alice@example.com'}"


@PJSUA2
def test_a_real_object_of_pjsua2_is_read() -> None:
    out = run_program(
        """
        import pjsua2
        from pjsip_py._pjsua import from_pjsua_fields
        config = pjsua2.AccountConfig()
        config.idUri = '"Alice" <sip:alice@example.com>'
        config.regConfig.registrarUri = "sip:192.0.2.1;transport=tcp"
        config.regConfig.timeoutSec = 120
        config.regConfig.retryIntervalSec = 0
        header = pjsua2.SipHeader()
        header.hName, header.hValue = "X-Line", "7"
        config.regConfig.headers.append(header)
        config.sipConfig.authCreds.append(
            pjsua2.AuthCredInfo("digest", "*", "alice", 0, "hunter2-of-all-places")
        )
        config.sipConfig.proxies.append("sip:192.0.2.2;transport=tcp;lr")
        for name, value in from_pjsua_fields(config).items():
            print(name, value)
        """
    ).check()
    assert out.splitlines() == [
        "credentials (Credentials('alice', password=<hidden>, realm='*'),)",
        "expires 120",
        "headers (('X-Line', '7'),)",
        "aor sip:alice@example.com",
        "display_name Alice",
        "registrar sip:192.0.2.1;transport=tcp",
        "register_on_add True",
        "route ('sip:192.0.2.2;transport=tcp;lr',)",
        "retry None",
        "outbound True",
    ]


# -- the page -------------------------------------------------------------------------------------


def table_lines() -> Iterator[str]:
    """The tables of docs/pjsua.md."""
    for row in TABLE:
        if not row.area:
            cells = [f"`{row.pjsua}`", f"`{row.pjsua2}`" if row.pjsua2 else "-"]
            cells += [", ".join(f"`{name}`" for name in row.ours.split(", ") if name) or "-"]
            yield "| " + " | ".join([*cells, row.note]) + " |"
    for area in dict.fromkeys(row.area for row in TABLE if row.area):
        yield (
            f"- **{area}**: "
            + ", ".join(
                f"`{row.pjsua}` (`{row.pjsua2}`)"
                if row.pjsua and row.pjsua2
                else f"`{row.pjsua or row.pjsua2}`"
                for row in TABLE
                if row.area == area
            )
            + "."
        )


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs/pjsua.md").read_text("utf-8")
    flat = re.sub(r"\s+", " ", page)
    for line in table_lines():
        assert line in (page if line[0] == "|" else flat), line
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) >= sum(1 for row in TABLE if not row.area)


# -- through AccountConfig ------------------------------------------------------------------------


def test_the_warning_points_at_the_caller() -> None:
    with pytest.warns(PjsuaFieldWarning) as caught:
        pjsip.AccountConfig.from_pjsua(**BASE, mwi_enabled=True)
    assert caught[0].filename == __file__


def test_an_account_of_pjsuas_registers(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": SECRET}) as registrar:
        config = pjsip.AccountConfig.from_pjsua(
            id=f'"Alice" <{AOR}>',
            reg_uri=registrar.uri(),
            reg_timeout=120,
            cred_info={"realm": "*", "scheme": "digest", "username": "alice", "data": SECRET},
            reg_hdr_list={"X-Line": "7"},
            contact_params=";q=0.5",
            transport_id=ep.listen("udp", host="127.0.0.1"),
        )
        account = ep.add_account(config)
        result = account.wait_registered(10)
        assert result.expires == 120
        request = registrar.requests[-1]
        assert request.headers["X-Line"] == "7"
        assert request.headers["Contact"].endswith(";q=0.5")
        assert request.headers["To"].startswith('"Alice" <')
        account.unregister().result(5)
