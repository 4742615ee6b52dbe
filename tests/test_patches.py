# SPDX-License-Identifier: GPL-3.0-or-later
"""The substitutions of vendor/patches.toml: each is applied, and does what its reason says.

``cbuild/tests/patches.c`` and ``tls.c`` fail on an unpatched pjproject 2.17, with one exception:
"send-request-keeps-transaction" needs a second thread at the right instant to show, so its case
shows only that the reference it takes is given back.
"""

from __future__ import annotations

import errno
import re
import subprocess
from pathlib import Path

import pytest
import stage
from c_targets import ROOT, build, options

import pjsip_py as pjsip
from pjsip_py.testing import Registrar

PASSWORD = "Patch-as-patch-can-2"
IDS = [patch["id"] for patch in stage.read_patches(ROOT / "vendor" / "patches.toml")]


@pytest.fixture(scope="module")
def programs() -> Path:
    return build("patches", *(["tls"] if options()["tls"] else []))


# These show best through the whole of the stack: see the tests at the end.
WHOLE = {"a-refused-password-is-refused-once", "refresh-after-unregister", "tls-listen-failure"}
WHOLE |= {"star-contact-in-response", "expires-always-sent", "largest-expires"}
# tests/test_retry.py has more of these.
WHOLE |= {"malformed-response-headers", "interval-too-brief-bounds"}
WHOLE |= {"our-contact-among-many", "credentials-after-a-challenge"}
WHOLE |= {"numbers-saturate"}
# tests/test_digest.py and tests/test_credentials_callable.py
WHOLE |= {"challenges-of-any-scheme", "proxy-and-registrar-of-one-realm"}
WHOLE |= {"quoted-pairs-in-digests"}
# tests/test_tls.py has these.
WHOLE |= {"tls-context-of-the-listener", "tls-reuse-is-outgoing"}
# tests/test_strays.py
WHOLE |= {"incoming-handshakes-bounded"}
# Read out of the memory of a process: tests/test_secret_memory.py.
WHOLE |= {"ha1-leaves-no-copy"}
# Seen in the figures only: benchmarks/run.py --only instructions --only memory.
WHOLE |= {"pools-wiped-by-the-word", "small-registration-pools"}
# --only startup, --scale, --only connections.
WHOLE |= {"ioqueue-keys-when-needed", "transactions-ended-in-batches", "port-chosen-by-connect"}


@pytest.mark.parametrize("name", [name for name in IDS if name not in WHOLE])
def test_the_fault_is_mended(programs: Path, name: str) -> None:
    if not name.startswith("tls-"):
        program = programs / "patches"
    elif options()["tls"]:
        program = programs / "tls"
    else:
        pytest.skip("this build has no TLS (PJSIP_PY_TLS=off)")
    done = subprocess.run([program, name], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_patch_says_why_and_has_its_own_id() -> None:
    patches = stage.read_patches(ROOT / "vendor" / "patches.toml")
    assert len(set(IDS)) == len(IDS) == len(patches)
    for patch in patches:
        assert len(patch["reason"].split()) > 10, patch["id"]


def test_the_review_of_upstream_names_every_patch_taken_from_it() -> None:
    """docs/security.md, "What upstream has mended since": each commit, and what became of it."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if re.match(r"\| [`#]", row)]
    taken = {
        (commit, name)
        for row in rows
        for commit in re.findall(r"`([0-9a-f]{9})`", row.split("|")[1])
        for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[-2])
        if name in IDS
    }
    patches = stage.read_patches(ROOT / "vendor" / "patches.toml")
    assert taken == {(each["upstream"], each["id"]) for each in patches if "upstream" in each}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.c").write_text("one two two\n")
    (tree / "b.h").write_text("b\n")
    return tree


def patch(before: str, after: str, file: str = "a.c") -> list[stage.Patch]:
    return [{"id": "p", "edit": [{"file": file, "before": before, "after": after}]}]


def test_a_patch_changes_the_copy_only(tree: Path, tmp_path: Path) -> None:
    stage.stage(tree, patch("one", "1"), tmp_path / "copy")
    assert (tmp_path / "copy/a.c").read_text() == "1 two two\n"
    assert (tmp_path / "copy/b.h").read_text() == "b\n"
    assert (tree / "a.c").read_text() == "one two two\n"


@pytest.mark.parametrize(
    ("before", "file", "times"),
    [("three", "a.c", "0 times"), ("two", "a.c", "2 times"), ("x", "c.c", "not in")],
)
def test_a_patch_that_does_not_fit_fails_and_names_itself(
    tree: Path, tmp_path: Path, before: str, file: str, times: str
) -> None:
    with pytest.raises(stage.PatchError, match=f"^patch p: .*{file}.*{times}"):
        stage.stage(tree, patch(before, "", file), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_staging_again_touches_only_what_changed(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    stage.stage(tree, patch("one", "1"), copy)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    (copy / "left over.c").write_text("")
    stage.stage(tree, patch("one", "uno"), copy)
    after = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert after["b.h"] == before["b.h"]
    assert after["a.c"] != before["a.c"]
    assert set(after) == {"a.c", "b.h"}


def test_a_refused_password_is_tried_once(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, realm="example.com") as registrar:
        client = ep.registration(
            registrar.uri(),
            "sip:alice@example.com",
            credentials=pjsip.Credentials("alice", "No-" + PASSWORD),
        )
        with pytest.raises(pjsip.WrongPasswordError):
            client.register().result(5)
        assert [r.authorization is not None for r in registrar.requests] == [False, True]


def test_a_changed_nonce_of_an_earlier_request_is_forgiven(ep: pjsip.Endpoint) -> None:
    with Registrar(users={"alice": PASSWORD}, realm="example.com") as registrar:
        client = ep.registration(
            registrar.uri(),
            "sip:alice@example.com",
            credentials=pjsip.Credentials("alice", PASSWORD),
        )
        client.register().result(5)
        challenge = 'Digest realm="example.com", nonce="another", algorithm=SHA-256, qop="auth"'
        registrar.answer_next(401, headers={"WWW-Authenticate": challenge})
        registrar.answer_next(200)
        assert client.register().result(5).code == 200


def test_a_refresh_after_an_unregister_keeps_its_time(ep: pjsip.Endpoint) -> None:
    with Registrar(users=None) as registrar:
        client = ep.registration(registrar.uri(), "sip:alice@example.com", expires=300)
        waits: list[int | None] = []
        client.on_reg_state(lambda event: waits.append(event.refresh_in))
        client.register().result(5)
        client.unregister().result(5)
        client.register().result(5)
        assert waits[1] is None
        assert waits[2] is not None
        assert waits[2] > 250


def test_a_star_in_an_answer_is_passed_over(ep: pjsip.Endpoint) -> None:
    with Registrar(users=None) as registrar:
        registrar.answer_next(200, headers={"Contact": "*", "Expires": "60"})
        client = ep.registration(registrar.uri(), "sip:alice@example.com")
        result = client.register().result(5)
        assert (result.expires, result.bindings) == (60, ())


def test_the_granted_expiry_is_asked_for_again(ep: pjsip.Endpoint) -> None:
    with Registrar(users=None, default_expires=3600) as registrar:
        client = ep.registration(registrar.uri(), "sip:alice@example.com", expires=300)
        assert client.register().result(5).expires == 300
        client.update_expires(300).result(5)
        assert client.register().result(5).expires == 300


@pytest.mark.parametrize("expires", ["4294967295", "4294967296", "18446744073709551617"])
def test_the_largest_expiry_is_survived(ep: pjsip.Endpoint, expires: str) -> None:
    with Registrar(users=None) as registrar:
        registrar.answer_next(200, headers={"Expires": expires})
        client = ep.registration(registrar.uri(), "sip:alice@example.com")
        assert client.register().result(5).expires == 2**31 - 1
        assert ep.stats()["assertions"] == 0


def test_a_tls_listener_that_cannot_listen_says_so(ep: pjsip.Endpoint) -> None:
    taken = ep.listen("tcp", "127.0.0.1")
    with pytest.raises(pjsip.TransportError) as raised:
        ep.listen("tls", "127.0.0.1", taken.port)
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "4000000000"},
        {"Retry-After": "Sun, 22 Nov 2026 19:00:00 GMT"},
        {"Expires": "soon", "Retry-After": "7"},
        {"Contact": "<sip:alice@", "Min-Expires": ""},
    ],
)
def test_a_response_with_a_header_that_does_not_parse_counts(
    ep: pjsip.Endpoint, headers: dict[str, str]
) -> None:
    with Registrar(users=None) as registrar:
        registrar.answer_next(503, headers=headers)
        client = ep.registration(registrar.uri(), "sip:alice@example.com")
        with pytest.raises(pjsip.ServerError):
            client.register(timeout=2).result(5)
        assert len(registrar.requests) == 1


def test_a_challenge_of_another_scheme_is_told(ep: pjsip.Endpoint) -> None:
    with Registrar(users=None) as registrar:
        registrar.answer_next(401, headers={"WWW-Authenticate": 'Basic realm="example.com"'})
        client = ep.registration(
            registrar.uri(),
            "sip:alice@example.com",
            credentials=pjsip.Credentials("alice", PASSWORD),
        )
        with pytest.raises(pjsip.AuthenticationError):
            client.register(timeout=2).result(5)


@pytest.mark.parametrize("least", ["4294967295", "2147483648", "0"])
def test_an_interval_that_cannot_be_is_refused_once(ep: pjsip.Endpoint, least: str) -> None:
    with Registrar(users=None) as registrar:
        registrar.answer_next(423, headers={"Min-Expires": least})
        registrar.answer_next(423, headers={"Min-Expires": least})
        client = ep.registration(registrar.uri(), "sip:alice@example.com")
        with pytest.raises(pjsip.IntervalTooBrief):
            client.register(timeout=2).result(5)
        assert len(registrar.requests) == 1


def test_our_contact_is_found_behind_many_others(ep: pjsip.Endpoint) -> None:
    with Registrar(users=None) as registrar:
        client = ep.registration(
            registrar.uri(), "sip:alice@example.com", contacts=["sip:alice@192.0.2.200"]
        )
        others = [f"<sip:alice@192.0.2.{n}>;expires=3000" for n in range(1, 16)]
        contacts = ", ".join([*others, "<sip:alice@192.0.2.200>;expires=60"])
        registrar.answer_next(200, headers={"Contact": contacts})
        assert client.register().result(5).expires == 60


def test_a_credential_given_after_a_challenge_is_used(ep: pjsip.Endpoint) -> None:
    before = ep.stats()["assertions"]
    with Registrar(users={"alice": PASSWORD}, realm="example.com") as registrar:
        client = ep.registration(registrar.uri(), "sip:alice@example.com")
        with pytest.raises(pjsip.NoCredentialError):
            client.register().result(5)
        client.set_credentials(pjsip.Credentials("alice", PASSWORD)).result(5)
        assert client.register().result(5).code == 200
    assert ep.stats()["assertions"] == before
