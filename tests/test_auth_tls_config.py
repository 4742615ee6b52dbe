# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials, TLS and endpoint settings: checked when made, silent about secrets."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

import pjsip_py as pjsip
from pjsip_py import tls as tls_module
from pjsip_py.auth import TEXTS, check_credentials

SECRET = "correct-horse-battery"
HA1 = {"MD5": "5" * 32, "SHA-256": "2" * 64, "SHA-512-256": "f" * 64}

# -- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"username": ""}, "username must not be empty"),
        ({"username": 5}, "username must be a str"),
        ({"username": "u" * 257}, "username is too long"),
        ({"realm": ""}, r"realm must not be empty"),
        ({"realm": None}, "realm must be a str"),
        ({"password": None}, "either password or ha1"),
        ({"password": b"bytes"}, "password must be a str, not bytes"),
        ({"password": "p" * 1025}, "password is too long"),
        ({"ha1": HA1}, "either password or ha1"),
        ({"password": None, "ha1": "5" * 32}, "name it by realm"),
        ({"password": None, "ha1": "5" * 31, "realm": "r"}, "64 hexadecimal digits|32 hexa"),
        ({"password": None, "ha1": "g" * 32, "realm": "r"}, "32 hexadecimal digits"),
        ({"password": None, "ha1": "", "realm": "r"}, "hexadecimal digits"),
        ({"password": None, "ha1": {}, "realm": "r"}, "mapping by algorithm"),
        ({"password": None, "ha1": 5, "realm": "r"}, "mapping by algorithm"),
        ({"password": None, "ha1": {"MD5": 5}, "realm": "r"}, "32 hexadecimal digits"),
        ({"password": None, "ha1": {"MD4": "5" * 32}, "realm": "r"}, "unknown algorithm"),
        ({"min_algorithm": "MD4"}, "min_algorithm must be one of MD5, SHA-256"),
    ],
)
def test_wrong_credentials_are_told_by_field(options: dict[str, Any], why: str) -> None:
    options = {"username": "alice", "password": SECRET, **options}
    with pytest.raises(pjsip.ConfigError, match=why) as caught:
        pjsip.Credentials(options.pop("username"), options.pop("password"), **options)
    text = str(caught.value) + repr(caught.value)
    assert SECRET not in text
    assert "5" * 31 not in text
    assert "ggg" not in text


@pytest.mark.parametrize("secret", [SECRET + "\n", SECRET + "\ud800", "p" * 2000, SECRET + "\0"])
def test_a_refused_secret_is_not_quoted(secret: str) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"password": secret},
        {"ha1": secret, "realm": "r"},
        {"ha1": {"MD5": secret}, "realm": "r"},
        {"ha1": {secret: "5" * 32}, "realm": "r"},
    )
    for options in wrong:
        with pytest.raises(pjsip.ConfigError) as caught:
            pjsip.Credentials("alice", **options)
        text = str(caught.value) + repr(caught.value)
        assert SECRET not in text
        assert "pppp" not in text


def test_credentials_compare_and_do_not_show() -> None:
    one = pjsip.Credentials("alice", SECRET, realm="r")
    assert one == pjsip.Credentials("alice", SECRET, realm="r")
    assert hash(one) == hash(pjsip.Credentials("alice", SECRET, realm="r"))
    assert one != pjsip.Credentials("alice", SECRET)
    assert one != pjsip.Credentials("alice", "other-" + SECRET, realm="r")
    assert one != "alice"
    assert (one.username, one.realm, one.min_algorithm) == ("alice", "r", None)
    assert repr(one) == "Credentials('alice', password=<hidden>, realm='r')"
    two = pjsip.Credentials("alice", ha1=HA1, realm="r")
    assert "ha1=<hidden>" in repr(two)
    for value in (*HA1.values(), SECRET):
        assert value not in repr(two) + str(one)
        config = pjsip.AccountConfig(aor="sip:a@b.c", credentials=[one, two])
        assert value not in repr([config, config._checked])
    assert not hasattr(one, "password")


def test_credentials_can_be_copied_and_sent_to_a_process() -> None:
    one = pjsip.Credentials("alice", SECRET, realm="r", min_algorithm="SHA-256")
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_the_hexadecimal_case_of_a_ha1_does_not_matter() -> None:
    upper = pjsip.Credentials("alice", ha1="AB" * 16, realm="r")
    assert upper == pjsip.Credentials("alice", ha1={"MD5": "ab" * 16}, realm="r")


def test_credentials_are_counted_as_pjsip_does() -> None:
    four = [pjsip.Credentials(f"u{i}", "p") for i in range(4)]
    assert check_credentials(four) == tuple(four)
    assert check_credentials(four[0]) == (four[0],)
    assert check_credentials(()) == ()
    many = [pjsip.Credentials("u", ha1=HA1, realm=str(i)) for i in range(3)]  # nine for PJSIP
    with pytest.raises(pjsip.ConfigError, match="at most 8"):
        check_credentials(many)
    for wrong in (None, 5, "alice", {"alice": "p"}, [None]):
        with pytest.raises(pjsip.ConfigError, match="credentials must be"):
            check_credentials(wrong)


def test_an_ha1_below_the_minimum_is_not_kept() -> None:
    one = pjsip.Credentials("a", ha1=HA1, realm="r", min_algorithm="SHA-256")
    assert one._texts[3::TEXTS] == ("SHA-256", "SHA-512-256")
    with pytest.raises(pjsip.ConfigError, match="weaker algorithm than min_algorithm"):
        pjsip.Credentials("a", ha1="5" * 32, realm="r", min_algorithm="SHA-256")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"token": ""}, "token must be"),
        ({"token": None}, "token must be"),
        ({"token": "two words"}, "token must be"),
        ({"token": "a\r\nVia: b"}, "token must be"),
        ({"token": "t" * 4097}, "token is too long"),
        ({"realm": 5}, "realm must be a str"),
        ({"insecure": "yes"}, "insecure must be"),
    ],
)
def test_a_wrong_token_is_refused_and_not_quoted(options: dict[str, Any], why: str) -> None:
    options = {"token": "mF_9.B5f-4.1JqM", **options}
    with pytest.raises(pjsip.ConfigError, match=why) as caught:
        pjsip.BearerToken(options.pop("token"), **options)
    assert "two words" not in str(caught.value)


def test_a_token_compares_and_does_not_show() -> None:
    one = pjsip.BearerToken("mF_9.B5f-4.1JqM", realm="r")
    assert one == pjsip.BearerToken("mF_9.B5f-4.1JqM", realm="r")
    assert hash(one) == hash(pjsip.BearerToken("mF_9.B5f-4.1JqM", realm="r"))
    assert one != pjsip.BearerToken("another", realm="r")
    assert one != "mF_9.B5f-4.1JqM"
    assert repr(one) == "BearerToken(<hidden>, realm='r')"
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(folder / "cert.pem"), append=True)
    return folder


def test_a_tls_config_takes_paths_of_both_kinds(pem: Path) -> None:
    config = pjsip.TlsConfig(
        ca_file=pem / "ca.pem", cert_file=str(pem / "cert.pem"), key_file=pem / "key.pem"
    )
    assert config.ca_file == str(pem / "ca.pem")
    assert config == pjsip.TlsConfig(
        ca_file=str(pem / "ca.pem"), cert_file=pem / "cert.pem", key_file=str(pem / "key.pem")
    )
    assert config.versions == ("TLSv1.2", "TLSv1.3")
    assert config.insecure is False


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ca_file": "/nonexistent.pem"}, "ca_file: '/nonexistent.pem': No such file"),
        ({"ca_file": "/"}, "ca_file: '/': Is a directory"),
        ({"ca_file": 5}, "ca_file must be a str"),
        ({"ca_path": "/nonexistent"}, "ca_path: '/nonexistent' is no directory"),
        ({"cert_file": __file__}, "cert_file and key_file go together"),
        ({"key_file": __file__}, "cert_file and key_file go together"),
        ({"cert_file": "/nonexistent.pem", "key_file": __file__}, "cert_file"),
        ({"cert_file": __file__, "key_file": "/nonexistent.pem"}, "key_file"),
        ({"key_password": SECRET}, "key_password without key_file"),
        ({"versions": ()}, "versions must be some of"),
        ({"versions": ("SSLv3",)}, "versions must be some of TLSv1,"),
        ({"timeout": 0}, "timeout must be 0.1 to 300"),
        ({"timeout": "10"}, "timeout must be a number"),
    ],
)
def test_a_wrong_tls_config_is_told_by_field(options: dict[str, Any], why: str) -> None:
    with pytest.raises(pjsip.ConfigError, match=why) as caught:
        pjsip.TlsConfig(**options)
    assert SECRET not in str(caught.value)


def test_a_tls_config_does_not_show_its_password(pem: Path) -> None:
    config = pjsip.TlsConfig(
        cert_file=pem / "cert.pem", key_file=pem / "key.pem", key_password=SECRET
    )
    assert SECRET not in repr(config) + str(config)
    assert "key.pem" in repr(config)


GARBAGE = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("what", ["ca_file", "cert_file", "key_file", "key of another"])
def test_a_file_that_is_no_pem_is_refused_at_once(
    ep: pjsip.Endpoint, pem: Path, tmp_path: Path, what: str
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_bytes(GARBAGE)
    files: dict[str, Any] = {
        "ca_file": pem / "ca.pem",
        "cert_file": pem / "cert.pem",
        "key_file": pem / "key.pem",
    }
    if what == "key of another":
        trustme.CA().issue_cert("x").private_key_pem.write_to_path(str(bad))
        files["key_file"] = bad
    else:
        files[what] = bad
    with pytest.raises((pjsip.TlsError, pjsip.ConfigError)) as caught:
        ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(**files))
    assert "bad.pem" in str(caught.value) or what in str(caught.value)
    transport = ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(ca_file=pem / "ca.pem"))
    assert transport.port


def test_a_key_with_a_password_opens_with_it_only(
    ep: pjsip.Endpoint, pem: Path, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((pem / "key.pem").read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(SECRET.encode()),
        )
    )
    files: dict[str, Any] = {
        "ca_file": pem / "ca.pem",
        "cert_file": pem / "cert.pem",
        "key_file": locked,
    }
    assert ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(**files, key_password=SECRET)).port
    for password in ("wrong-" + SECRET, None):
        with pytest.raises((pjsip.TlsError, pjsip.ConfigError)) as caught:
            ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(**files, key_password=password))
        assert SECRET not in str(caught.value)


def test_the_systems_trust_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Paths:
        cafile: str | None = None
        capath: str | None = None

    monkeypatch.setattr(ssl, "get_default_verify_paths", Paths)
    Paths.cafile = "/some/ca.pem"
    assert tls_module.system_trust() == ("/some/ca.pem", None)
    Paths.cafile, Paths.capath = None, str(tmp_path)
    (tmp_path / "1234abcd.0").touch()
    assert tls_module.system_trust() == (None, str(tmp_path))


def test_without_any_trust_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Paths:
        cafile = None
        capath = str(tmp_path)  # there, and empty

    monkeypatch.setattr(ssl, "get_default_verify_paths", Paths)
    monkeypatch.setattr(os.path, "isfile", lambda path: False)
    monkeypatch.setitem(sys.modules, "certifi", None)
    with pytest.raises(pjsip.ConfigError, match=r"pip install certifi.*ca_file"):
        tls_module.system_trust()


# -- the endpoint's settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("worker_tick", v) for v in (0, -1, 61, "1", None, True, float("nan"))),
        *((t, v) for t in ("t1", "t2", "t4", "td") for v in (0, 601, "1", float("inf"))),
        *(("log_level", v) for v in (-1, 6, "3", 2.5, None)),
        *(("seed", v) for v in (-1, 2**64, "x", 1.5)),
        *(("trace_limit", v) for v in (-1, 2**32)),
        *(("event_limit", v) for v in (4095, 2**32)),
        *(("user_agent", v) for v in ("x" * 201, 5, "a\r\nb")),
    ],
)
def test_a_wrong_setting_is_told_by_field(field: str, value: Any) -> None:
    with pytest.raises(pjsip.ConfigError, match=field):
        pjsip.EndpointConfig(**{field: value})
    with pytest.raises(pjsip.ConfigError, match=field):
        pjsip.Endpoint(**{field: value})


def test_settings_are_frozen_and_can_be_given_both_ways() -> None:
    config = pjsip.EndpointConfig(t1=0.1, user_agent="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.t1 = 0.2  # type: ignore[misc]
    ep = pjsip.Endpoint(config, t2=1.0)
    assert (ep.config.t1, ep.config.t2, ep.config.user_agent) == (0.1, 1.0, "x")
    with pytest.raises(pjsip.ConfigError, match="dispatch"):
        pjsip.Endpoint(dispatch="magic")
    with pytest.raises(pjsip.ConfigError, match="unknown field 'worker'"):
        pjsip.Endpoint(worker=1)
