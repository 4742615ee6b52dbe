# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS: whom we trust and who we are, each way to fail by its name, reload, key log."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import re
import socket
import ssl
import stat
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, Issued
from cryptography import x509
from servers.certs import Certificates
from servers.kamailio import Kamailio

import pjsip_py as pjsip
from pjsip_py import tls as tls_module
from pjsip_py.testing import Registrar

AOR = "sip:alice@example.com"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


NO_IPV6 = "needs ::1: sysctl net.ipv6.conf.lo.disable_ipv6=0"
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason=NO_IPV6)
SECRET = "correct-horse-battery"
GARBAGE = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"

pytestmark = [
    pytest.mark.timeout(20),
    pytest.mark.skipif(
        not pjsip.build_info()["tls"].startswith("OpenSSL"),
        reason="this build has no TLS (PJSIP_PY_TLS=off)",
    ),
]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def server(authority: Authority) -> Issued:
    return authority.issue("IP:127.0.0.1", "IP:::1", "localhost", "sip.example.com")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Issued:
    return authority.issue("MAIL:alice@example.com", cn="alice", client=True)


@pytest.fixture(scope="module")
def context(server: Issued, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return server.context(tmp_path_factory.mktemp("server"))


@pytest.fixture
def registrar(context: ssl.SSLContext) -> Any:
    with Registrar(protocols=("tls",), tls=context) as registrar:
        yield registrar


def wants_certificate(
    issued: Issued, authority: Authority, folder: Path, **options: Any
) -> ssl.SSLContext:
    context = issued.context(folder)
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    for name, value in options.items():
        setattr(context, name, value)
    return context


def register(
    ep: pjsip.Endpoint, where: Registrar | str, tls: pjsip.TlsConfig | None = None
) -> pjsip.RegistrationResult:
    uri = where if isinstance(where, str) else where.uri("tls")
    return ep.registration(uri, AOR, tls=tls).register().result(5)


# -- whom we trust, who we are --------------------------------------------------------------------


def test_trust_comes_from_a_file_a_directory_and_from_memory(
    ep: pjsip.Endpoint, registrar: Registrar, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority("another").pem + authority.pem)
    (tmp_path / "hashed").mkdir()
    authority.write_hashed(tmp_path / "hashed")
    ways: tuple[dict[str, Any], ...] = (
        {"ca_file": tmp_path / "ca.pem"},
        {"ca_path": tmp_path / "hashed"},
        {"ca_data": authority.pem},
        {"ca_data": b"# ours\n" + Authority("another").pem + authority.pem},
        {"ca_data": authority.pem.decode()},
        {"ca_data": bytearray(authority.pem)},
        {"ca_data": Authority("another").pem, "ca_file": tmp_path / "ca.pem"},
    )
    for trust in ways:
        assert register(ep, registrar, pjsip.TlsConfig(**trust)).code == 200
    with pytest.raises(pjsip.TlsError):
        register(ep, registrar, pjsip.TlsConfig(ca_data=Authority("another").pem))


def test_the_systems_trust_is_the_default(
    ep: pjsip.Endpoint,
    registrar: Registrar,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority().pem)
    monkeypatch.setattr(tls_module, "system_trust", lambda: (str(tmp_path / "ca.pem"), None))
    with pytest.raises(pjsip.TlsError):
        register(ep, registrar, pjsip.TlsConfig(timeout=9))
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    assert register(ep, registrar).code == 200


def test_a_certificate_that_is_trusted_itself_needs_no_authority(
    ep: pjsip.Endpoint, authority: Authority, tmp_path: Path
) -> None:
    own = authority.issue("IP:127.0.0.1", self_signed=True)
    issued = authority.issue("IP:127.0.0.1")
    for each in (own, issued):
        with Registrar(protocols=("tls",), tls=each.context(tmp_path)) as registrar:
            assert register(ep, registrar, pjsip.TlsConfig(ca_data=each.pem)).code == 200


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("way", ["files", "one file", "data", "str", "locked file", "locked data"])
def test_our_certificate_comes_from_files_and_from_memory(
    ep: pjsip.Endpoint,
    authority: Authority,
    server: Issued,
    client: Issued,
    tmp_path: Path,
    way: str,
    version: str,
) -> None:
    for name, data in (
        ("cert.pem", client.pem),
        ("key.pem", client.key_pem()),
        ("both.pem", client.key_pem() + client.pem),
        ("locked.pem", client.key_pem(SECRET)),
    ):
        (tmp_path / name).write_bytes(data)
    ways: dict[str, dict[str, Any]] = {
        "files": {"cert_file": tmp_path / "cert.pem", "key_file": tmp_path / "key.pem"},
        "one file": {"cert_file": tmp_path / "both.pem", "key_file": tmp_path / "both.pem"},
        "data": {"cert_data": client.pem, "key_data": client.key_pem()},
        "str": {"cert_data": client.pem.decode(), "key_data": client.key_pem().decode()},
        "locked file": {
            "cert_file": tmp_path / "cert.pem",
            "key_file": tmp_path / "locked.pem",
            "key_password": SECRET,
        },
        "locked data": {
            "cert_data": client.pem,
            "key_data": client.key_pem(SECRET),
            "key_password": SECRET,
        },
    }
    ours = ways[way]
    wants = wants_certificate(
        server, authority, tmp_path, maximum_version=getattr(ssl.TLSVersion, version)
    )
    with Registrar(protocols=("tls",), tls=wants) as registrar:
        assert register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem, **ours)).code == 200


def test_a_chain_is_sent_whole(ep: pjsip.Endpoint, tmp_path: Path) -> None:
    import trustme

    root = trustme.CA()
    middle = root.create_child_ca()
    ours = middle.issue_cert("alice@example.com")
    wants = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    root.issue_cert("127.0.0.1").configure_cert(wants)
    root.configure_trust(wants)
    wants.verify_mode = ssl.CERT_REQUIRED
    chain = b"".join(blob.bytes() for blob in ours.cert_chain_pems)
    assert chain.count(b"BEGIN") == 2
    with Registrar(protocols=("tls",), tls=wants) as registrar:
        config = pjsip.TlsConfig(
            ca_data=root.cert_pem.bytes(),
            cert_data=chain,
            key_data=ours.private_key_pem.bytes(),
        )
        assert register(ep, registrar, config).code == 200


# -- what cannot be used is refused when it is used -----------------------------------------------

PEM_LOCK = b"\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n"


class Folder:
    """Files and settings to choose from."""

    def __init__(self, path: Path, authority: Authority, client: Issued) -> None:
        self.path = path
        self.client = client
        self.ca: dict[str, Any] = {"ca_data": authority.pem}
        self.cert: dict[str, Any] = {**self.ca, "cert_data": client.pem}
        self.key: dict[str, Any] = {"key_data": client.key_pem()}

    def file(self, data: bytes, name: str = "it.pem") -> Path:
        (self.path / name).write_bytes(data)
        return self.path / name

    def folder(self) -> Path:
        (self.path / "bare").mkdir()
        return self.path / "bare"

    def link(self) -> Path:
        (self.path / "it.pem").symlink_to(self.path / "elsewhere")
        return self.path / "it.pem"


ALIEN = Authority().issue("alien")
TLS, CONFIG = pjsip.TlsError, pjsip.ConfigError
BAD: dict[str, tuple[Callable[[Folder], dict[str, Any]], type[pjsip.PjsipError], str]] = {
    "empty CA file": (lambda f: {"ca_file": f.file(b"")}, TLS, "ca_file .*it.pem': is empty"),
    "text for a CA": (
        lambda f: {"ca_file": f.file(b"no such thing\n")},
        TLS,
        "ca_file .*it.pem': holds no certificate in PEM form",
    ),
    "DER for a CA": (
        lambda f: {"ca_file": f.file(f.client.der)},
        TLS,
        "ca_file .*it.pem': holds no certificate in PEM form",
    ),
    "garbage for a CA": (
        lambda f: {"ca_file": f.file(GARBAGE)},
        TLS,
        "ca_file .*it.pem': cannot be read: ",
    ),
    "key for a CA": (lambda f: {"ca_data": f.key["key_data"]}, TLS, "ca_data: holds no certific"),
    "garbage in CA data": (lambda f: {"ca_data": GARBAGE}, TLS, "ca_data: cannot be read: "),
    "garbage, and ciphers": (
        lambda f: {"ca_data": GARBAGE, "ciphers": "HIGH:TLS_AES_128_GCM_SHA256"},
        TLS,
        "ca_data: cannot be read: (?!no cipher)",
    ),
    "good, then garbage": (
        lambda f: {"ca_data": f.ca["ca_data"] + GARBAGE},
        TLS,
        "ca_data: cannot be read: ",
    ),
    "cut off": (lambda f: {"ca_data": f.ca["ca_data"][:-40]}, TLS, "ca_data: cannot be read: "),
    "no CA under its hash": (lambda f: {"ca_path": f.folder()}, CONFIG, "ca_path: .*bare.*rehash"),
    "empty certificate": (
        lambda f: {**f.ca, "cert_file": f.file(b""), **f.key},
        TLS,
        "cert_file .*it.pem': is empty",
    ),
    "no certificate": (
        lambda f: {**f.ca, "cert_data": f.client.key_pem(), **f.key},
        TLS,
        "cert_data: holds no certificate",
    ),
    "bad certificate": (
        lambda f: {**f.ca, "cert_file": f.file(GARBAGE), **f.key},
        TLS,
        "cert_file .*it.pem': cannot be read: ",
    ),
    "bad chain": (
        lambda f: {**f.ca, "cert_data": f.client.pem + GARBAGE, **f.key},
        TLS,
        "cert_data: cannot be read: ",
    ),
    "locked certificate": (
        lambda f: {**f.ca, "cert_data": f.client.pem.replace(b"\n", PEM_LOCK, 1), **f.key},
        TLS,
        "cert_data: cannot be read: ",
    ),
    "no key": (
        lambda f: {**f.cert, "key_data": f.client.pem},
        TLS,
        "key_data: holds no private key",
    ),
    "empty key": (lambda f: {**f.cert, "key_file": f.file(b"")}, TLS, "key_file .*it.pem': is emp"),
    "key of another": (
        lambda f: {**f.cert, "key_file": f.file(ALIEN.key_pem())},
        TLS,
        "key_file .*it.pem', cert_data: do not belong together: key values mismatch",
    ),
    "password missing": (
        lambda f: {**f.cert, "key_file": f.file(f.client.key_pem(SECRET))},
        TLS,
        "key_file .*it.pem': is encrypted: give its key_password",
    ),
    "password wrong": (
        lambda f: {
            **f.cert,
            "key_file": f.file(f.client.key_pem(SECRET)),
            "key_password": "wrong-" + SECRET,
        },
        TLS,
        "key_file .*it.pem': does not open with this key_password",
    ),
    "empty CRL": (
        lambda f: {**f.ca, "crl_file": f.file(b"")},
        TLS,
        "crl_file .*it.pem': is empty",
    ),
    "no CRL": (
        lambda f: {**f.ca, "crl_file": f.file(f.client.pem)},
        TLS,
        "crl_file .*it.pem': holds no revocation list",
    ),
    "unknown cipher": (
        lambda f: {**f.ca, "ciphers": "HIGH:NO-SUCH-CIPHER"},
        CONFIG,
        "ciphers: OpenSSL knows no cipher NO-SUCH-CIPHER",
    ),
    "unknown exclusion": (lambda f: {**f.ca, "ciphers": "HIGH:!NOSUCH"}, CONFIG, "no .* !NOSUCH"),
    "unknown of TLS 1.3": (
        lambda f: {**f.ca, "ciphers": ["HIGH", "TLS_NO_SUCH"]},
        CONFIG,
        "ciphers: .*TLS_NO_SUCH",
    ),
    "anonymous": (
        lambda f: {**f.ca, "ciphers": "ADH-AES256-GCM-SHA384:aNULL"},
        CONFIG,
        "ciphers: none is left that authenticates and encrypts",
    ),
    "in the clear": (
        lambda f: {**f.ca, "ciphers": ["NULL-SHA256"]},
        CONFIG,
        "ciphers: none is left that authenticates and encrypts",
    ),
    "key log nowhere": (
        lambda f: {**f.ca, "keylog_file": f.path / "no" / "keys.log"},
        CONFIG,
        "keylog_file .*keys.log': No such file",
    ),
    "key log that is none": (
        lambda f: {**f.ca, "keylog_file": "/dev/null"},
        CONFIG,
        "keylog_file '/dev/null': is no regular file",
    ),
    "key log by a link": (
        lambda f: {**f.ca, "keylog_file": f.link()},
        CONFIG,
        "keylog_file .*it.pem': ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_at_use(
    ep: pjsip.Endpoint,
    authority: Authority,
    client: Issued,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    make, expected, message = BAD[name]
    config = pjsip.TlsConfig(**make(Folder(tmp_path, authority, client)))
    before = ep.stats()["tls_contexts"]
    for use in (
        config.check_files,
        lambda: ep.listen("tls", "127.0.0.1", tls=config),
        lambda: register(ep, "sip:127.0.0.1:9;transport=tls", config),
    ):
        with pytest.raises(expected, match=message) as caught:
            use()
        assert type(caught.value) is expected
        assert SECRET not in str(caught.value) + caplog.text
        assert caught.value.hint or expected is CONFIG
        if isinstance(caught.value, pjsip.TlsError):
            assert caught.value.reasons == ()
    assert ep.stats()["tls_contexts"] == before
    assert not ep.transports


def test_a_file_that_went_away_is_told(
    ep: pjsip.Endpoint, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    config = pjsip.TlsConfig(ca_file=tmp_path / "ca.pem")
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(pjsip.ConfigError, match=r"ca_file .*ca\.pem': No such file"):
        ep.listen("tls", "127.0.0.1", tls=config)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ca_data": 5}, "ca_data must be PEM as bytes or str, not int"),
        ({"ca_data": b" \n"}, "ca_data is empty"),
        ({"ca_data": ""}, "ca_data is empty"),
        ({"ca_data": b"\x30\x82\x01"}, "ca_data is no PEM"),
        ({"ca_data": "secret"}, "ca_data is no PEM: it has no line -----BEGIN"),
        ({"ca_data": "-----BEGIN \0"}, "ca_data is no PEM"),
        ({"ca_data": "-----BEGIN \ud800"}, "ca_data is no PEM"),
        ({"crl_file": "/nonexistent"}, "crl_file: '/nonexistent': No such file"),
        ({"cert_data": ALIEN.pem}, "go together"),
        ({"key_data": ALIEN.key_pem()}, "go together"),
        ({"cert_data": ALIEN.pem, "cert_file": __file__}, "give cert_file or cert_data, not both"),
        (
            {"cert_data": ALIEN.pem, "key_file": __file__, "key_data": ALIEN.key_pem()},
            "give key_file or key_data, not both",
        ),
        ({"versions": "TLSv1.2"}, "versions must be a tuple of some of"),
        ({"versions": ["SSLv3"]}, "versions must be some of"),
        ({"ciphers": ""}, "ciphers is empty"),
        ({"ciphers": 5}, "ciphers must be a str or a sequence"),
        ({"ciphers": ["HIGH", 5]}, "ciphers: 5 is no name"),
        ({"ciphers": ["a b"]}, "ciphers: 'a b' is no name"),
        ({"ciphers": ["x" * 200]}, "is no name of a cipher"),
        ({"ciphers": ["AES128-SHA"] * 257}, "at most 256"),
        (
            {"ciphers": "TLS_AES_128_GCM_SHA256", "versions": ("TLSv1.2",)},
            "all of TLS 1.3, which versions leaves out",
        ),
        ({"ciphers": "HIGH", "versions": ("TLSv1.3",)}, "ciphers has none of TLS 1.3"),
        ({"server_name": "sip:example.com"}, "server_name must be a host name"),
        ({"server_name": "example.com:5061"}, "server_name must be a host name"),
        ({"server_name": "*.example.com"}, "server_name must be a host name"),
        ({"server_name": "bücher.example"}, "as xn--"),
        ({"server_name": ""}, "server_name must be a host name"),
        ({"server_name": 5}, "server_name must be a str"),
        ({"server_name": "a\0b"}, "server_name contains a control character"),
        ({"server_name": "x" * 256}, "server_name is too long"),
        ({"keylog_file": 5}, "keylog_file must be a str"),
        ({"insecure": "yes"}, "insecure"),
    ],
)
def test_a_wrong_setting_is_told_by_field(options: dict[str, Any], why: str) -> None:
    with pytest.raises(pjsip.ConfigError, match=why) as caught:
        pjsip.TlsConfig(**options)
    assert "PRIVATE KEY" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_settings_do_not_show_secrets(client: Issued) -> None:
    config = pjsip.TlsConfig(
        cert_data=client.pem, key_data=client.key_pem(SECRET), key_password=SECRET, timeout=3
    )
    shown = repr(config) + str(config) + repr([config])
    assert SECRET not in shown
    assert "PRIVATE" not in shown
    assert "timeout=3" in shown
    assert f"<{len(client.pem)} bytes>" in shown


def test_a_server_name_is_written_in_one_way() -> None:
    for given, kept in (
        ("sip.example.com.", "sip.example.com"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("192.0.2.1", "192.0.2.1"),
    ):
        assert pjsip.TlsConfig(server_name=given).server_name == kept


@pytest.mark.parametrize(
    ("ciphers", "version", "chosen"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (["ECDHE-ECDSA-CHACHA20-POLY1305"], "TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("HIGH:!aNULL:!MD5:!RC4:-SHA1:@STRENGTH", "TLSv1.2", ""),
        ("TLS_AES_128_GCM_SHA256", "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (
            "ECDHE+AESGCM TLS_CHACHA20_POLY1305_SHA256",
            "TLSv1.3",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ],
)
def test_ciphers_are_chosen_by_name(
    ep: pjsip.Endpoint,
    registrar: Registrar,
    authority: Authority,
    ciphers: Any,
    version: str,
    chosen: str,
) -> None:
    seen: list[pjsip.TransportState] = []
    ep.on(pjsip.TransportState, seen.append)
    config = pjsip.TlsConfig(ca_data=authority.pem, ciphers=ciphers, versions=(version,))
    assert register(ep, registrar, config).code == 200
    tls = next(event.tls for event in seen if event.state == "connected")
    assert tls is not None
    assert tls.protocol == version
    assert tls.cipher == chosen or not chosen


def test_old_versions_are_spoken_when_they_are_named(
    ep: pjsip.Endpoint,
    authority: Authority,
    server: Issued,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = server.context(tmp_path)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with Registrar(protocols=("tls",), tls=old) as registrar:
        with pytest.raises(pjsip.TlsError):
            register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem))
        for versions in (("TLSv1.1",), ("TLSv1.1", "TLSv1.2"), ("TLSv1", "TLSv1.1", "TLSv1.3")):
            config = pjsip.TlsConfig(ca_data=authority.pem, versions=versions)
            assert register(ep, registrar, config).code == 200
    assert "TLS older than 1.2 is allowed" in caplog.text


# -- each way to fail has its name ----------------------------------------------------------------


class Seen:
    """The states of connections, from before the first."""

    def __init__(self, ep: pjsip.Endpoint) -> None:
        self._new: queue.Queue[pjsip.TransportState] = queue.Queue()
        ep.on(pjsip.TransportState, self._new.put)

    def next(self, state: str) -> pjsip.TransportState:
        while True:
            event = self._new.get(timeout=5)
            if event.state == state:
                return event


@pytest.fixture
def seen(ep: pjsip.Endpoint) -> Seen:
    return Seen(ep)


def refused(
    ep: pjsip.Endpoint, seen: Seen, uri: str, config: pjsip.TlsConfig, route: str = ""
) -> pjsip.TlsError:
    """The error of a registration over TLS, which says the same as all that is told of it."""
    outcomes: list[pjsip.RegState] = []
    client = ep.registration(uri, AOR, tls=config, route=[route] if route else ())
    client.on_reg_state(outcomes.append)
    with pytest.raises(pjsip.TlsError) as caught:
        client.register().result(8)
    error = caught.value
    assert error.local
    assert error.hint
    assert error.reasons
    assert outcomes[0].error is error
    state = seen.next("disconnected")
    assert isinstance(state.error, pjsip.TlsError)
    assert state.error.reasons == error.reasons
    assert state.error.verify_status == error.verify_status
    assert state.connection == outcomes[0].connection
    assert str(state.error) == str(error)
    return error


def serving(issued: Issued, folder: Path) -> Any:
    return Registrar(protocols=("tls",), tls=issued.context(folder))


HERE = ("IP:127.0.0.1", "IP:::1")
CERTIFICATES: dict[str, tuple[Callable[[Authority], Issued], tuple[str, ...]]] = {
    "expired": (lambda a: a.issue(*HERE, begins=-9, ends=-1), ("expired",)),
    "not yet valid": (lambda a: a.issue(*HERE, begins=1, ends=9), ("not-yet-valid",)),
    "self-signed": (lambda a: a.issue(*HERE, self_signed=True), ("self-signed",)),
    "unknown CA": (lambda a: Authority("unknown").issue(*HERE), ("unknown-ca",)),
    # The same name, but another key: a forgery.
    "forged": (lambda a: Authority(identifiers=False).issue(*HERE), ("issuer-mismatch",)),
    "name": (lambda a: a.issue("sip.example.org"), ("name",)),
    "NUL in name": (lambda a: a.issue("sip.example.com\0.evil.org"), ("name", "nul-in-name")),
    "NUL in URI": (lambda a: a.issue("URI:sip:a.example\0.evil.org"), ("name", "nul-in-name")),
    "NUL in CN": (lambda a: a.issue(cn="127.0.0.1\0.evil.org"), ("name", "nul-in-name")),
    "purpose": (lambda a: a.issue(*HERE, client=True), ("purpose",)),
    "expired, name": (lambda a: a.issue("other", begins=-9, ends=-1), ("expired", "name")),
    "expired, self-signed": (
        lambda a: a.issue(*HERE, begins=-9, ends=-1, self_signed=True),
        ("expired", "self-signed"),
    ),
    "unknown CA, name": (lambda a: Authority("unknown").issue("other"), ("unknown-ca", "name")),
}


@pytest.mark.parametrize(
    ("version", "host"),
    [
        ("TLSv1.2", "127.0.0.1"),
        ("TLSv1.3", "127.0.0.1"),
        pytest.param("TLSv1.3", "::1", marks=needs_ipv6),
    ],
)
@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_does_not_hold(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    tmp_path: Path,
    name: str,
    version: str,
    host: str,
) -> None:
    make, reasons = CERTIFICATES[name]
    context = make(authority).context(tmp_path)
    with Registrar(host=host, protocols=("tls",), tls=context) as registrar:
        config = pjsip.TlsConfig(ca_data=authority.pem, versions=(version,))
        error = refused(ep, seen, registrar.uri("tls"), config)
        assert error.reasons == reasons
        assert error.verify_status
        assert error.status == 171173  # PJSIP_TLS_ECERTVERIF
        assert registrar.stats().connections == 0  # it ended within the handshake
        assert registrar.stats().requests == 0
        insecure = pjsip.TlsConfig(insecure=True, versions=(version,))
        assert register(ep, registrar, insecure).code == 200


def test_a_revoked_certificate(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, tmp_path: Path
) -> None:
    good, bad = (authority.issue("IP:127.0.0.1") for _ in range(2))
    lists = {
        "revoked": authority.revoke(bad),
        "old": authority.revoke(bad, ends=-1),
        "alien": Authority("unknown").revoke(),
    }
    for name, data in lists.items():
        (tmp_path / name).write_bytes(data)
    configs = {
        name: pjsip.TlsConfig(ca_data=authority.pem, crl_file=tmp_path / name) for name in lists
    }
    with serving(bad, tmp_path) as registrar:
        assert refused(ep, seen, registrar.uri("tls"), configs["revoked"]).reasons == ("revoked",)
        error = refused(ep, seen, registrar.uri("tls"), configs["old"])
        assert set(error.reasons) == {"crl", "revoked"}
        assert refused(ep, seen, registrar.uri("tls"), configs["alien"]).reasons == ("crl",)
        assert register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem)).code == 200
    with serving(good, tmp_path) as registrar:
        assert register(ep, registrar, configs["revoked"]).code == 200


def test_a_weak_key(ep: pjsip.Endpoint, seen: Seen) -> None:
    """@SECLEVEL=3 wants 128 bits, which RSA has from 3072 on."""
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).configure_cert(context)
    config = pjsip.TlsConfig(ca_data=authority.cert_pem.bytes())
    strict = dataclasses.replace(config, ciphers="HIGH:@SECLEVEL=3")
    with Registrar(protocols=("tls",), tls=context) as registrar:
        assert refused(ep, seen, registrar.uri("tls"), strict).reasons == ("weak-signature",)
        assert register(ep, registrar, config).code == 200


RAW = [  # what OpenSSL cannot parse at all, no server of its own sends
    b"\x30\x00",  # no name at all
    b"\x30\x02\x82\x00",  # an empty DNS name
    b"\x30\x02\x86\x00",  # an empty URI
    b"\x30\x02\x87\x00",  # addresses of strange lengths
    b"\x30\x03\x87\x01\x7f",
    b"\x30\x07\x87\x05\x7f\0\0\1\0",
    b"\x30\x06\x86\x04sip:",
    b"\x30\x07\x86\x05sip:[",
    b"\x30\x08\x86\x06sip:[]",
    b"\x30\x06\x82\x04\xff\xfe\0\0",
    b"\x30\x04\x88\x02\x2a\x03",  # a registered id
]


@pytest.mark.parametrize("raw", RAW)
def test_a_strange_subject_alternative_name(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, tmp_path: Path, raw: bytes
) -> None:
    issued = authority.issue(cn="127.0.0.1", raw_names=raw)
    with serving(issued, tmp_path) as registrar:
        error = refused(ep, seen, registrar.uri("tls"), pjsip.TlsConfig(ca_data=authority.pem))
        assert "name" in error.reasons
        assert set(error.reasons) <= {"name", "format", "nul-in-name"}
        assert register(ep, registrar, pjsip.TlsConfig(insecure=True)).code == 200
        tls = seen.next("connected").tls
        assert tls is not None
        assert tls.peer is not None
        assert tls.peer.der == issued.der


OURS: dict[str, tuple[Callable[[Authority], Issued | None], str]] = {
    "none": (lambda a: None, "client-certificate-missing"),
    "unknown CA": (lambda a: Authority("unknown").issue(client=True), "client-certificate-refused"),
    "expired": (
        lambda a: a.issue(begins=-9, ends=-1, client=True),
        "client-certificate-refused",
    ),
    "revoked": (lambda a: a.issue(client=True), "client-certificate-revoked"),
}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("name", OURS)
def test_a_server_that_dislikes_our_certificate(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    server: Issued,
    tmp_path: Path,
    name: str,
    version: str,
) -> None:
    make, reason = OURS[name]
    issued = make(authority)
    context = wants_certificate(
        server, authority, tmp_path, maximum_version=getattr(ssl.TLSVersion, version)
    )
    if name == "revoked" and issued is not None:
        (tmp_path / "crl.pem").write_bytes(authority.revoke(issued))
        context.load_verify_locations(tmp_path / "crl.pem")
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    ours: dict[str, Any] = {"cert_data": issued.pem, "key_data": issued.key_pem()} if issued else {}
    with Registrar(protocols=("tls",), tls=context) as registrar:
        config = pjsip.TlsConfig(ca_data=authority.pem, **ours)
        error = refused(ep, seen, registrar.uri("tls"), config)
        assert error.reasons == (reason,)
        assert error.verify_status == 0
        assert registrar.stats().requests == 0


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback that does *answer* with each connection, on a thread."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"sip:127.0.0.1:{listener.getsockname()[1]};transport=tls"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("name", ["none", "unknown CA"])
def test_a_server_that_ends_without_a_word_about_our_certificate(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    server: Issued,
    tmp_path: Path,
    name: str,
    polite: bool,
) -> None:
    """TLS 1.3 again: the handshake was over for us, and no alert comes."""
    context = server.context(tmp_path)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=Authority("unknown").pem.decode())
    issued = OURS[name][0](authority)
    context.load_verify_locations(cadata=authority.pem.decode())

    def answer(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
            except ssl.SSLError:
                break
        if not polite:
            linger = b"\1\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    ours: dict[str, Any] = {"cert_data": issued.pem, "key_data": issued.key_pem()} if issued else {}
    with answering(answer) as uri:
        error = refused(ep, seen, uri, pjsip.TlsConfig(ca_data=authority.pem, **ours))
    assert error.reasons == (OURS[name][1],)


def version_of(context: ssl.SSLContext, version: str) -> None:
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)


def unknown_name(*_: Any) -> int:
    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


SERVERS: dict[str, tuple[Callable[[ssl.SSLContext], None], dict[str, Any], str]] = {
    "server of 1.3": (
        lambda c: version_of(c, "TLSv1_3"),
        {"versions": ("TLSv1.2",)},
        "no-common-version",
    ),
    "server of 1.2": (
        lambda c: version_of(c, "TLSv1_2"),
        {"versions": ("TLSv1.3",)},
        "no-common-version",
    ),
    "ciphers of 1.2": (
        lambda c: c.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256"),
        {"versions": ("TLSv1.2",), "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
        "no-common-cipher",
    ),
    "key of another kind": (
        lambda c: None,
        {"versions": ("TLSv1.2",), "ciphers": "ECDHE-RSA-AES256-GCM-SHA384"},
        "no-common-cipher",
    ),
    "name it does not know": (
        lambda c: setattr(c, "sni_callback", unknown_name),
        {"server_name": "sip.example.com"},
        "server-name",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_in_common(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    server: Issued,
    tmp_path: Path,
    name: str,
) -> None:
    change, options, reason = SERVERS[name]
    context = server.context(tmp_path)
    change(context)
    with Registrar(protocols=("tls",), tls=context) as registrar:
        config = pjsip.TlsConfig(ca_data=authority.pem, **options)
        error = refused(ep, seen, registrar.uri("tls"), config)
    assert error.reasons == (reason,)
    assert error.verify_status == 0


@pytest.mark.parametrize(
    "said",
    [
        b"SIP/2.0 400 Bad Request\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n\r\n\r\n",
        b"\0" * 64,
        b"\xff" * 64,
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_answers_in_plain_text(
    ep: pjsip.Endpoint, seen: Seen, said: bytes, at_once: bool
) -> None:
    def answer(connection: socket.socket) -> None:
        if not at_once:
            connection.recv(65536)
        connection.sendall(said)
        connection.recv(65536)

    with answering(answer) as uri:
        error = refused(ep, seen, uri, pjsip.TlsConfig(insecure=True))
    assert error.reasons == ("plain-text",)
    assert "port" in error.hint


def test_a_registrar_of_plain_tcp(ep: pjsip.Endpoint, seen: Seen) -> None:
    with Registrar(protocols=("tcp",)) as registrar:
        uri = f"sip:127.0.0.1:{registrar.port('tcp')};transport=tls"
        error = refused(ep, seen, uri, pjsip.TlsConfig(insecure=True, timeout=0.3))
    assert error.reasons[0] in ("plain-text", "closed", "timeout")


@pytest.mark.parametrize("reset", [True, False])
def test_who_hangs_up_within_the_handshake(ep: pjsip.Endpoint, reset: bool) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        if reset:
            linger = b"\1\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with answering(answer) as uri, pytest.raises(pjsip.TlsError) as caught:
        register(ep, uri, pjsip.TlsConfig(insecure=True))
    assert caught.value.reasons == ("closed",)


def test_who_never_answers(ep: pjsip.Endpoint, seen: Seen) -> None:
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        done.wait(5)

    with answering(answer) as uri:
        began = time.monotonic()
        error = refused(ep, seen, uri, pjsip.TlsConfig(insecure=True, timeout=0.2))
        assert 0.15 < time.monotonic() - began < 2
        done.set()
    assert error.reasons == ("timeout",)
    assert "handshake took too long" in str(error)


def test_a_port_where_nobody_listens_is_no_matter_of_tls(ep: pjsip.Endpoint) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(pjsip.TransportError) as caught:
            register(ep, f"sip:127.0.0.1:{taken.getsockname()[1]};transport=tls")
    assert type(caught.value) is pjsip.TransportError


def test_a_host_that_does_not_answer_is_no_matter_of_tls(ep: pjsip.Endpoint) -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # until its queue is full, and the next gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        config = pjsip.TlsConfig(insecure=True, timeout=0.3)
        with pytest.raises(pjsip.TransportError) as caught:
            register(ep, f"sip:127.0.0.1:{full.getsockname()[1]};transport=tls", config)
    assert type(caught.value) is pjsip.TransportError


def test_a_connection_that_served_ends_as_any_other(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, server: Issued, tmp_path: Path
) -> None:
    """Not as a failure of TLS, though nobody verified it or a certificate was asked for."""
    optional = server.context(tmp_path)
    optional.verify_mode = ssl.CERT_OPTIONAL
    optional.load_verify_locations(cadata=authority.pem.decode())
    configs = (pjsip.TlsConfig(insecure=True), pjsip.TlsConfig(ca_data=authority.pem))
    for version, config in itertools.product(("TLSv1_2", "TLSv1_3"), configs):
        version_of(optional, version)
        with Registrar(protocols=("tls",), tls=optional) as registrar:
            assert register(ep, registrar, config).code == 200
            registrar.drop_connections()
            assert not isinstance(seen.next("disconnected").error, pjsip.TlsError)


# -- whose certificate it is (RFC 5922) -----------------------------------------------------------

HOST = "sip.example.com"
ORGANIZATION = x509.NameOID.ORGANIZATION_NAME
COMMON = x509.NameOID.COMMON_NAME
#: alternative names, common name, host of the URI, whether it is accepted
IDENTITIES: list[tuple[tuple[str, ...], Any, str, bool]] = [
    ((HOST,), "", HOST, True),
    (("SIP.Example.COM",), "", HOST, True),
    ((HOST,), "", "SIP.EXAMPLE.com", True),
    ((HOST,), "", f"{HOST}.", True),
    (("a.example", HOST), "", HOST, True),
    ((f"URI:sip:{HOST}",), "", HOST, True),
    ((f"URI:SIP:{HOST.upper()}",), "", HOST, True),
    ((f"URI:sip:{HOST}:5061",), "", HOST, True),
    ((f"URI:sip:{HOST};transport=tls",), "", HOST, True),
    (("URI:https://a.example", HOST), "", HOST, True),
    (("URI:sip:alice@a.example", HOST), "", HOST, True),
    (("MAIL:alice@a.example", HOST), "", HOST, True),
    ((), HOST, HOST, True),
    ((), HOST.upper(), HOST, True),
    ((), [(COMMON, "a.example"), (COMMON, HOST)], HOST, True),
    (("IP:127.0.0.1",), "", "127.0.0.1", True),
    (("IP:::1",), "", "[::1]", True),
    (("IP:::1",), "", "[0:0:0:0:0:0:0:1]", True),
    (("URI:sip:127.0.0.1",), "", "127.0.0.1", True),
    (("URI:sip:[::1]:5061",), "", "[::1]", True),
    ((), "127.0.0.1", "127.0.0.1", True),
    # The common name counts only where there is no other.
    (("a.example",), HOST, HOST, False),
    (("URI:sip:a.example",), HOST, HOST, False),
    (("MAIL:alice@a.example",), HOST, HOST, False),
    (("IP:192.0.2.1",), "127.0.0.1", "127.0.0.1", False),
    ((), [(COMMON, HOST), (COMMON, "a.example")], HOST, False),
    ((), [(ORGANIZATION, f"x/CN={HOST}"), (COMMON, "a.example")], HOST, False),
    ((), f"{HOST}/CN=a.example", HOST, False),
    # A DNS name counts only where there is no SIP URI.
    (("URI:sip:a.example", HOST), "", HOST, False),
    # No wildcards, no part of a name.
    (("*.example.com",), "", HOST, False),
    (("*",), "", HOST, False),
    ((".example.com",), "", HOST, False),
    (("s*.example.com",), "", HOST, False),
    (("URI:sip:*.example.com",), "", HOST, False),
    ((), "*.example.com", HOST, False),
    (("example.com",), "", HOST, False),
    ((f"{HOST}.evil.org",), "", HOST, False),
    ((f"evil{HOST}",), "", HOST, False),
    ((f"{HOST}\0",), "", HOST, False),
    ((f"{HOST}\0.evil.org",), "", HOST, False),
    # A user is no domain, and another scheme no SIP.
    ((f"URI:sip:alice@{HOST}",), "", HOST, False),
    ((f"URI:sip:@{HOST}",), "", HOST, False),
    ((f"URI:sip:{HOST}@evil.org",), "", HOST, False),
    ((f"URI:sip:{HOST}:x@evil.org",), "", HOST, False),
    ((f"URI:sip:evil.org;x=@{HOST}",), "", HOST, False),
    ((f"URI:sips:{HOST}",), "", HOST, False),
    ((f"URI:https://{HOST}",), "", HOST, False),
    ((f"URI:sip://{HOST}",), "", HOST, False),
    ((f"URI:sip:evil.org?{HOST}",), "", HOST, False),
    (("URI:sip:",), "", HOST, False),
    (("URI:",), "", HOST, False),
    ((f"MAIL:x@{HOST}",), "", HOST, False),
    # An address is no name, and a name no address.
    (("127.0.0.1",), "", "127.0.0.1", False),
    (("IP:127.0.0.2",), "", "127.0.0.1", False),
    (("IP:::ffff:127.0.0.1",), "", "127.0.0.1", False),
    (("IP:127.0.0.1",), "", HOST, False),
    (("URI:sip:::1",), "", "[::1]", False),
]


@pytest.fixture
def everywhere() -> Iterator[pjsip.Endpoint]:
    """Every name is 127.0.0.1 for it."""
    with pjsip.Endpoint(strict=True, resolver=lambda query: ["127.0.0.1"]) as ep:
        yield ep


@pytest.mark.parametrize(("names", "cn", "host", "accepted"), IDENTITIES)
def test_the_certificate_must_be_of_the_host(
    everywhere: pjsip.Endpoint,
    authority: Authority,
    tmp_path: Path,
    names: tuple[str, ...],
    cn: Any,
    host: str,
    accepted: bool,
) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip(NO_IPV6)
    issued = authority.issue(*names, cn=cn or "nobody")
    local = host.strip("[]") if ":" in host else "127.0.0.1"
    local = "::1" if ":" in local else local
    with Registrar(host=local, protocols=("tls",), tls=issued.context(tmp_path)) as registrar:
        uri = f"sip:{host}:{registrar.port('tls')};transport=tls"
        config = pjsip.TlsConfig(ca_data=authority.pem)
        if accepted:
            assert register(everywhere, uri, config).code == 200
            return
        with pytest.raises(pjsip.TlsError) as caught:
            register(everywhere, uri, config)
        assert "name" in caught.value.reasons
        assert set(caught.value.reasons) <= {"name", "nul-in-name"}
        wildcards = {"*.example.com", "URI:sip:*.example.com"} & {*names, str(cn)}
        assert ("wildcard" in str(caught.value)) == bool(wildcards)
        assert registrar.stats().requests == 0


def test_the_error_says_whose_certificate_it_is(
    ep: pjsip.Endpoint, authority: Authority, tmp_path: Path
) -> None:
    names = [f"{n}.example.org" for n in range(7)]
    with (
        serving(authority.issue(*names), tmp_path) as registrar,
        pytest.raises(pjsip.TlsError) as caught,
    ):
        register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem))
    assert "is for 0.example.org, " in str(caught.value)
    assert "4.example.org and 2 more, not for 127.0.0.1" in str(caught.value)
    assert "server_name" in caught.value.hint


# -- SNI, and the name that is verified -----------------------------------------------------------


@contextlib.contextmanager
def asked_names(issued: Issued, folder: Path, host: str = "127.0.0.1") -> Iterator[Any]:
    """A registrar, and the names that clients asked it for."""
    names: list[str | None] = []
    context = issued.context(folder)
    context.sni_callback = lambda tls, name, context: names.append(name)
    with Registrar(host=host, protocols=("tls",), tls=context) as registrar:
        yield registrar, names


@pytest.mark.parametrize(
    ("host", "server_name", "asked"),
    [
        ("sip.example.com", None, "sip.example.com"),
        ("SIP.example.com.", None, "SIP.example.com"),
        ("127.0.0.1", None, None),
        ("127.0.0.1", "sip.example.com", "sip.example.com"),
        ("a.example", "sip.example.com.", "sip.example.com"),
        ("sip.example.com", "127.0.0.1", None),
        pytest.param("[::1]", None, None, marks=needs_ipv6),
        pytest.param("[::1]", "sip.example.com", "sip.example.com", marks=needs_ipv6),
        pytest.param("[::1]", "127.0.0.1", None, marks=needs_ipv6),
    ],
)
def test_the_name_asked_for_is_the_one_verified(
    everywhere: pjsip.Endpoint,
    authority: Authority,
    server: Issued,
    tmp_path: Path,
    host: str,
    server_name: str | None,
    asked: str | None,
) -> None:
    local = "::1" if ":" in host else "127.0.0.1"
    with asked_names(server, tmp_path, local) as (registrar, names):
        uri = f"sip:{host}:{registrar.port('tls')};transport=tls"
        config = pjsip.TlsConfig(ca_data=authority.pem, server_name=server_name)
        assert register(everywhere, uri, config).code == 200
        assert names == [asked]
        assert register(everywhere, uri, config).code == 200
        assert registrar.stats().connections == 1  # the name does not hinder its reuse
    alien = authority.issue("another.example.org")
    with asked_names(alien, tmp_path, local) as (registrar, names):
        uri = f"sip:{host}:{registrar.port('tls')};transport=tls"
        with pytest.raises(pjsip.TlsError) as caught:
            register(everywhere, uri, config)
        assert caught.value.reasons == ("name",)
        wanted = config.server_name or host.strip("[]").removesuffix(".")
        assert f"not for {wanted}" in str(caught.value)
        assert names == [asked]


def test_the_first_route_is_who_is_verified(
    everywhere: pjsip.Endpoint, authority: Authority, server: Issued, tmp_path: Path
) -> None:
    with asked_names(server, tmp_path) as (registrar, names):
        route = f"<sip:sip.example.com:{registrar.port('tls')};transport=tls;lr>"
        client = everywhere.registration(
            "sip:a.example", AOR, route=[route], tls=pjsip.TlsConfig(ca_data=authority.pem)
        )
        assert client.register().result(5).code == 200
        assert names == ["sip.example.com"]


def test_a_connection_to_us_is_never_used_for_a_registrar(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, server: Issued
) -> None:
    """Whoever connects to our listener from the registrar's port has shown no certificate."""
    config = pjsip.TlsConfig(ca_data=authority.pem, cert_data=server.pem, key_data=server.key_pem())
    transport = ep.listen("tls", "127.0.0.1", tls=config)
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    with (
        socket.create_connection(("127.0.0.1", transport.port)) as raw,
        trusting.wrap_socket(raw, server_hostname="127.0.0.1") as attacker,
    ):
        seen.next("connected")
        uri = f"sip:127.0.0.1:{attacker.getsockname()[1]};transport=tls"
        client = ep.registration(uri, AOR, transport=transport)
        with pytest.raises(pjsip.TransportError):
            client.register(timeout=2).result(5)
        attacker.settimeout(0.05)
        with pytest.raises(TimeoutError):
            attacker.recv(4096)


# -- in a file of accounts ------------------------------------------------------------------------


def test_settings_of_tls_stand_in_a_file(
    ep: pjsip.Endpoint, authority: Authority, server: Issued, client: Issued, tmp_path: Path
) -> None:
    (tmp_path / "client.pem").write_bytes(client.pem)
    (tmp_path / "locked.pem").write_bytes(client.key_pem(SECRET))
    (tmp_path / "password").write_text(SECRET + "\n")
    (tmp_path / "password").chmod(0o600)
    wants = wants_certificate(server, authority, tmp_path)
    with Registrar(protocols=("tls",), tls=wants) as registrar:
        (tmp_path / "accounts.toml").write_text(
            f"""[[account]]
            aor = "{AOR}"
            registrar = "{registrar.uri("tls")}"
            [account.tls]
            ca_data = '''{authority.pem.decode()}'''
            cert_file = "client.pem"
            key_file = "locked.pem"
            key_password = "file:password"
            versions = ["TLSv1.2"]
            ciphers = ["ECDHE+AESGCM", "!SHA1"]
            server_name = "sip.example.com"
            """
        )
        (config,) = pjsip.load_accounts(tmp_path / "accounts.toml")
        assert config.tls is not None
        assert config.tls.ciphers == ("ECDHE+AESGCM", "!SHA1")
        assert SECRET not in repr(config)
        pjsip.save_accounts(tmp_path / "again.toml", [config])
        assert SECRET not in (tmp_path / "again.toml").read_text()
        assert pjsip.load_accounts(tmp_path / "again.toml") == [config]
        assert ep.add_account(config).register().result(5).code == 200
    for data in (authority.pem, authority.pem.decode()):
        tls = pjsip.TlsConfig(ca_data=data)
        account = pjsip.AccountConfig(aor=AOR, registrar="sips:example.com", tls=tls)
        pjsip.save_accounts(tmp_path / "data.toml", [account])
        (again,) = pjsip.load_accounts(tmp_path / "data.toml")
        assert again.tls == pjsip.TlsConfig(ca_data=authority.pem.decode())
    ours = pjsip.TlsConfig(cert_data=client.pem, key_data=client.key_pem())
    with pytest.raises(pjsip.ConfigError, match="key_data: a file holds references"):
        pjsip.save_accounts(
            tmp_path / "no.toml",
            [pjsip.AccountConfig(aor=AOR, registrar="sips:example.com", tls=ours)],
        )


# -- what is known of a connection ----------------------------------------------------------------


def check_peer(peer: pjsip.PeerCertificate | None, issued: Issued, names: list[str]) -> None:
    assert peer is not None
    certificate = issued.certificate
    assert peer.der == issued.der
    assert x509.load_der_x509_certificate(peer.der) == certificate
    assert peer.subject == certificate.subject.rfc4514_string()
    assert peer.issuer == certificate.issuer.rfc4514_string()
    assert peer.san == tuple(names)
    for told, date in (
        (peer.not_before, certificate.not_valid_before_utc),
        (peer.not_after, certificate.not_valid_after_utc),
    ):
        assert told == date.timestamp()


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_connection_is_described(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    tmp_path: Path,
    host: str,
    version: str,
) -> None:
    names = [f"IP:{host}", "sip.example.com", "URI:sip:example.com", "MAIL:alice@example.com"]
    shown = [host, "sip.example.com", "sip:example.com", "alice@example.com"]
    cn = [(COMMON, 'Zoë, the "server"'), (ORGANIZATION, "Müller & Söhne")]
    issued = authority.issue(*names, cn=cn)
    context = issued.context(tmp_path)
    with Registrar(host=host, protocols=("tls",), tls=context) as registrar:
        config = pjsip.TlsConfig(ca_data=authority.pem, versions=(version,))
        register(ep, registrar, config)
        tls = seen.next("connected").tls
        registrar.drop_connections()
        assert seen.next("disconnected").tls == tls
    assert tls is not None
    assert tls.protocol == version
    cipher = tls.cipher
    assert cipher in {each["name"] for each in context.get_ciphers()}
    check_peer(tls.peer, issued, shown)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tls.protocol = ""  # type: ignore[misc]
    assert "der" not in repr(tls)


def test_a_certificate_that_was_refused_is_described(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, tmp_path: Path
) -> None:
    issued = Authority("unknown").issue("a.example", "b.example\0.evil", begins=-9, ends=-1)
    with serving(issued, tmp_path) as registrar:
        with pytest.raises(pjsip.TlsError) as caught:
            register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem))
        event = seen.next("disconnected")
    assert set(caught.value.reasons) == {"expired", "unknown-ca", "name", "nul-in-name"}
    assert event.tls is not None
    check_peer(event.tls.peer, issued, ["a.example", r"b.example\x00.evil"])


def test_a_large_certificate_is_described_whole(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, tmp_path: Path
) -> None:
    names = [f"{'x' * 50}-{n}.example.com" for n in range(500)]
    issued = authority.issue("IP:127.0.0.1", *names)
    with serving(issued, tmp_path) as registrar:
        register(ep, registrar, pjsip.TlsConfig(ca_data=authority.pem))
    tls = seen.next("connected").tls
    assert tls is not None
    assert len(issued.der) > 30000
    check_peer(tls.peer, issued, ["127.0.0.1", *names])


def test_lines_in_a_name_are_no_fields(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, tmp_path: Path
) -> None:
    issued = authority.issue(
        "a\nprotocol=none\0", "\x7f", cn="a\nsan=sip.example.com\0x\rcipher=none"
    )
    with serving(issued, tmp_path) as registrar:
        register(ep, registrar, pjsip.TlsConfig(insecure=True))
    tls = seen.next("connected").tls
    assert tls is not None
    assert tls.protocol == "TLSv1.3"
    assert tls.peer is not None
    assert tls.peer.der == issued.der
    assert tls.peer.san == (r"a\x0aprotocol=none\x00", r"\x7f")
    assert "\n" not in tls.peer.subject


def test_what_no_tls_has_said_is_not_told(ep: pjsip.Endpoint, seen: Seen) -> None:
    with answering(lambda connection: connection.sendall(b"\xff" * 99)) as uri:
        refused(ep, Seen(ep), uri, pjsip.TlsConfig(insecure=True))
    assert seen.next("disconnected").tls is None


def test_who_connects_to_us_is_described(
    ep: pjsip.Endpoint,
    seen: Seen,
    authority: Authority,
    server: Issued,
    client: Issued,
    tmp_path: Path,
) -> None:
    config = pjsip.TlsConfig(ca_data=authority.pem, cert_data=server.pem, key_data=server.key_pem())
    transport = ep.listen("tls", "127.0.0.1", tls=config)
    for ours in (None, client):
        trusting = ssl.create_default_context(cadata=authority.pem.decode())
        if ours is not None:
            (tmp_path / "ours.pem").write_bytes(ours.pem + ours.key_pem())
            trusting.load_cert_chain(tmp_path / "ours.pem")
        with (
            socket.create_connection(("127.0.0.1", transport.port)) as raw,
            trusting.wrap_socket(raw, server_hostname="127.0.0.1"),
        ):
            tls = seen.next("connected").tls
        assert tls is not None
        assert tls.protocol == "TLSv1.3"
        if ours is None:
            assert tls.peer is None
        else:
            check_peer(tls.peer, ours, ["alice@example.com"])


OPTIONS = (
    b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1;branch=z9hG4bKx\r\n"
    b"From: <sip:x@example.com>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n"
    b"Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)

# -- reload ---------------------------------------------------------------------------------------


def test_reload_takes_new_files_and_leaves_the_others_alone(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, server: Issued, tmp_path: Path
) -> None:
    first, second = (authority.issue(cn=name, client=True) for name in ("first", "second"))
    folder = tmp_path / "ours"
    folder.mkdir()

    def write(issued: Issued) -> None:
        (folder / "cert.pem").write_bytes(issued.pem)
        (folder / "key.pem").write_bytes(issued.key_pem())

    write(first)
    config = pjsip.TlsConfig(
        ca_data=authority.pem, cert_file=folder / "cert.pem", key_file=folder / "key.pem"
    )
    context = wants_certificate(server, authority, tmp_path)
    with (
        Registrar(protocols=("tls",), tls=context) as here,
        Registrar(protocols=("tls",), tls=context) as there,
    ):
        transport = ep.listen("tls", "127.0.0.1", tls=config)
        states: list[pjsip.RegState] = []

        def account(registrar: Registrar) -> pjsip.Account:
            added = ep.add_account(AOR, registrar=registrar.uri("tls"), transport=transport)
            added.on_reg_state(states.append)
            assert added.register().result(5).code == 200
            return added

        one = account(here)
        before = states[-1].connection
        write(second)
        transport.reload_tls()
        assert one.register().result(5).code == 200
        assert states[-1].connection == before  # it stands, with the old certificate
        account(there)
        assert states[-1].connection != before
        assert subjects(here) == ["first"]
        assert subjects(there) == ["second"]

        here.drop_connections()
        seen.next("disconnected")
        assert one.register().result(5).code == 200
        assert subjects(here)[-1] == "second"
        assert here.stats().requests >= 3
    assert ep.stats()["tls_contexts"] <= 2


def subjects(registrar: Registrar) -> list[str]:
    """The common names of the clients of *registrar*, in order."""
    found = []
    assert registrar._server is not None
    for flow in registrar._server.connections:
        tls = flow._transport.get_extra_info("ssl_object") if flow._transport else None
        names = dict(part[0] for part in tls.getpeercert()["subject"]) if tls else {}
        found.append(names.get("commonName", ""))
    return found


def test_a_bad_reload_changes_nothing(
    ep: pjsip.Endpoint, registrar: Registrar, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    config = pjsip.TlsConfig(ca_file=tmp_path / "ca.pem")
    transport = ep.listen("tls", "127.0.0.1", tls=config)
    (tmp_path / "ca.pem").write_bytes(GARBAGE)
    with pytest.raises(pjsip.TlsError, match=r"ca_file .*ca\.pem': cannot be read"):
        transport.reload_tls()
    with pytest.raises(pjsip.ConfigError, match="NOSUCH"):
        transport.reload_tls(pjsip.TlsConfig(ca_data=authority.pem, ciphers="NOSUCH"))
    with pytest.raises(pjsip.ConfigError, match="must be a TlsConfig"):
        transport.reload_tls({"insecure": True})  # type: ignore[arg-type]
    assert transport.tls is config
    client = ep.registration(registrar.uri("tls"), AOR, transport=transport)
    assert client.register().result(5).code == 200
    assert ep.stats()["tls_contexts"] == 1
    transport.close()
    with pytest.raises(pjsip.ClosedError):
        transport.reload_tls(pjsip.TlsConfig(insecure=True))
    with pytest.raises(pjsip.ConfigError, match="udp has no TLS"):
        ep.listen("udp", "127.0.0.1").reload_tls()


def test_reload_with_other_settings(
    ep: pjsip.Endpoint, seen: Seen, authority: Authority, server: Issued, tmp_path: Path
) -> None:
    """Trust, name, version and time-out are those of the connection's own time."""
    transport = ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(ca_data=Authority().pem))
    with asked_names(server, tmp_path) as (registrar, names):

        def attempt() -> pjsip.RegistrationResult:
            client = ep.registration(registrar.uri("tls"), AOR, transport=transport)
            return client.register().result(5)

        with pytest.raises(pjsip.TlsError):
            attempt()
        config = pjsip.TlsConfig(
            ca_data=authority.pem, server_name="sip.example.com", versions=("TLSv1.2",)
        )
        transport.reload_tls(config)
        assert transport.tls is config
        assert attempt().code == 200
        tls = seen.next("connected").tls
        assert tls is not None
        assert tls.protocol == "TLSv1.2"
        assert names[-1] == "sip.example.com"
        transport.reload_tls(pjsip.TlsConfig(ca_data=authority.pem, server_name="a.example"))
        with pytest.raises(pjsip.TlsError) as caught:
            attempt()
        assert caught.value.reasons == ("name",)
    transport.reload_tls(pjsip.TlsConfig(insecure=True, timeout=0.2))
    done = threading.Event()

    def wait(connection: socket.socket) -> None:
        done.wait(5)

    with answering(wait) as uri:
        began = time.monotonic()
        error = ep.registration(uri, AOR, transport=transport).register().exception(5)
        assert time.monotonic() - began < 2
        done.set()
    assert isinstance(error, pjsip.TlsError)
    assert error.reasons == ("timeout",)


def test_reload_is_for_those_who_connect_to_us_too(
    ep: pjsip.Endpoint, authority: Authority
) -> None:
    issued = [authority.issue("IP:127.0.0.1", cn=cn) for cn in ("first", "second")]
    configs = [
        pjsip.TlsConfig(ca_data=authority.pem, cert_data=each.pem, key_data=each.key_pem())
        for each in issued
    ]
    transport = ep.listen("tls", "127.0.0.1", tls=configs[0])
    trusting = ssl.create_default_context(cadata=authority.pem.decode())

    def connect() -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", transport.port), timeout=5)
        return trusting.wrap_socket(raw, server_hostname="127.0.0.1")

    with connect() as first:
        transport.reload_tls(configs[1])
        with connect() as second:
            assert first.getpeercert(True) == issued[0].der
            assert second.getpeercert(True) == issued[1].der
            for each in (first, second):
                each.sendall(OPTIONS)
                assert each.recv(65536).startswith(b"SIP/2.0 200")


def test_reload_within_a_handshake(
    ep: pjsip.Endpoint, authority: Authority, server: Issued, tmp_path: Path
) -> None:
    """Also when the transport closes meanwhile: the connection has what it began with."""
    context = server.context(tmp_path)
    for close in (False, True):
        transport = ep.listen("tls", "127.0.0.1", tls=pjsip.TlsConfig(ca_data=authority.pem))
        met, go = threading.Event(), threading.Event()

        def answer(
            connection: socket.socket, met: threading.Event = met, go: threading.Event = go
        ) -> None:
            connection.recv(1, socket.MSG_PEEK)
            met.set()
            go.wait(5)
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

        with answering(answer) as uri:
            operation = ep.registration(uri, AOR, transport=transport).register()
            assert met.wait(5)
            if close:
                transport.close()
            else:
                transport.reload_tls(pjsip.TlsConfig(ca_data=Authority().pem))
            go.set()
            error = operation.exception(5)
            assert isinstance(error, pjsip.PjsipError)
            assert not isinstance(error, pjsip.TlsError)
    for transport in ep.transports:
        transport.close()
    no_context_is_left(ep)


def no_context_is_left(ep: pjsip.Endpoint) -> None:
    deadline = time.monotonic() + 5  # PJSIP closes what has failed half a second later
    while ep.stats()["tls_contexts"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ep.stats()["tls_contexts"] == 0


# -- key log, warnings, secrets -------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_the_key_log_is_written_on_request_only(
    ep: pjsip.Endpoint,
    registrar: Registrar,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "not wanted"))
    plain = pjsip.TlsConfig(ca_data=authority.pem, versions=(version,))
    path = tmp_path / "keys.log"
    path.write_text("# here before\n")
    path.chmod(0o644)
    register(ep, registrar, plain)
    assert path.read_text() == "# here before\n"
    assert "secrets of TLS" not in caplog.text

    register(ep, registrar, dataclasses.replace(plain, keylog_file=path))
    assert f"the secrets of TLS connections are written to '{path}'" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert lines[0] == "# here before"
    labels = {line.split()[0] for line in lines[1:]}
    if version == "TLSv1.2":
        assert labels == {"CLIENT_RANDOM"}
    else:
        assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    for line in lines[1:]:
        assert re.fullmatch(r"[A-Z0-9_]+ [0-9a-f]{64} [0-9a-f]{64,96}", line)
        assert line.split()[2] not in caplog.text
    assert not (tmp_path / "not wanted").exists()

    fresh = tmp_path / "fresh.log"
    register(ep, registrar, dataclasses.replace(plain, keylog_file=fresh))
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == len(lines)


def test_what_is_dangerous_is_warned_of_once(
    ep: pjsip.Endpoint, registrar: Registrar, caplog: pytest.LogCaptureFixture
) -> None:
    config = pjsip.TlsConfig(insecure=True)
    for _ in range(3):
        register(ep, registrar, config)
    assert caplog.text.count("TLS without verification") == 1
    ep.transports[0].reload_tls(pjsip.TlsConfig(insecure=True, timeout=0.3))
    register(ep, registrar, config)
    assert caplog.text.count("TLS without verification") == 3  # and a transport of its own


def test_no_secret_is_told(
    authority: Authority,
    server: Issued,
    client: Issued,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    key = client.key_pem()
    told: list[object] = []
    config = pjsip.TlsConfig(
        ca_data=authority.pem,
        cert_data=client.pem,
        key_data=client.key_pem(SECRET),
        key_password=SECRET,
    )
    context = wants_certificate(server, authority, tmp_path)
    with (
        pjsip.Endpoint(log_level=5, trace=True) as ep,
        Registrar(protocols=("tls",), tls=context) as registrar,
    ):
        ep.on(pjsip.Event, told.append)
        register(ep, registrar, config)
        for wrong in ({"key_password": SECRET + "x"}, {"key_data": ALIEN.key_pem(SECRET)}):
            with pytest.raises(pjsip.TlsError) as caught:
                ep.listen("tls", "127.0.0.1", tls=dataclasses.replace(config, **wrong))
            told += [caught.value, "".join(traceback.format_exception(caught.value))]
        told += [ep.transports, ep.transports[0].tls]
    text = repr(told) + str(told) + caplog.text
    assert "TLS" in caplog.text
    assert SECRET not in text
    for line in (key + client.key_pem(SECRET)).decode().splitlines():
        assert line not in text or not line.strip("-")


def test_contexts_and_connections_do_not_pile_up(
    ep: pjsip.Endpoint, registrar: Registrar, authority: Authority, client: Issued
) -> None:
    config = pjsip.TlsConfig(ca_data=authority.pem, cert_data=client.pem, key_data=client.key_pem())
    for _ in range(50):
        ep.listen("tls", "127.0.0.1", tls=config).close()
    assert ep.stats()["tls_contexts"] == 0
    pools = ep.stats()["pools"]
    for _ in range(3):
        transport = ep.listen("tls", "127.0.0.1", tls=config)
        account = ep.add_account(AOR, registrar=registrar.uri("tls"), transport=transport)
        assert account.register().result(5).code == 200
        account.unregister().result(5)
        account.close()
        transport.close()
    registrar.drop_connections()
    no_context_is_left(ep)
    assert ep.stats()["pools"] <= pools + 30


# -- Kamailio -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_kamailio_wants_our_certificate(
    ep: pjsip.Endpoint,
    seen: Seen,
    certs: Certificates,
    start_kamailio: Callable[..., Kamailio],
    host: str,
) -> None:
    kamailio = start_kamailio(verify_client=True)
    ours, alien = certs.ca.issue_cert("alice@example.com"), Authority("unknown").issue(client=True)
    with_ours = pjsip.TlsConfig(
        ca_file=certs.ca_file,
        cert_data=b"".join(blob.bytes() for blob in ours.cert_chain_pems),
        key_data=ours.private_key_pem.bytes(),
    )
    with_alien = pjsip.TlsConfig(
        ca_file=certs.ca_file, cert_data=alien.pem, key_data=alien.key_pem()
    )
    for version in ("TLSv1.2", "TLSv1.3"):
        uri = kamailio.uri("tls", host)
        error = refused(ep, seen, uri, pjsip.TlsConfig(ca_file=certs.ca_file, versions=(version,)))
        assert error.reasons == ("client-certificate-missing",)
        error = refused(ep, seen, uri, dataclasses.replace(with_alien, versions=(version,)))
        assert error.reasons == ("client-certificate-refused",)
        error = refused(
            ep, seen, uri, pjsip.TlsConfig(ca_file=certs.other_ca_file, versions=(version,))
        )
        assert error.reasons == ("unknown-ca",)
        client = ep.registration(
            uri,
            "sip:alice@example.com",
            credentials=pjsip.Credentials("alice", "alice-password"),
            tls=dataclasses.replace(with_ours, versions=(version,)),
        )
        assert client.register().result(5).code == 200
        client.unregister().result(5)
        client.close()
