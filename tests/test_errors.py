# SPDX-License-Identifier: GPL-3.0-or-later
"""The exception tree, and the one table from PJSIP's statuses and SIP's codes to it."""

from __future__ import annotations

import copy
import errno
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pjsip_py as pjsip
from pjsip_py import _ffi, errors
from pjsip_py.message import Response
from pjsip_py.testing import Registrar

SOURCE = Path(__file__).parent.parent / "vendor" / "pjproject-2.17"
HEADERS = {
    "pjlib": "pjlib/include/pj/errno.h",
    "pjsip": "pjsip/include/pjsip/sip_errno.h",
    "pjlib-util": "pjlib-util/include/pjlib-util/errno.h",
}
# Where the headers count from: 50000 statuses a space, from 20000 on.
STARTS = {
    "PJ_ERRNO_START_STATUS": 70000,
    "PJ_ERRNO_START_SYS": 120000,
    "PJSIP_ERRNO_START_PJSIP": 171000,
    "PJLIB_UTIL_ERRNO_START": 320000,
    "PJ_STATUS_FROM_DNS_RCODE": 320050,
}
SSL_START = 470000
SSL_LIBRARY = 1200  # statuses for each of OpenSSL's libraries
_STATUS = re.compile(
    r"^#define\s+(PJ\w+)\s+(?:\((\w+)\s*\+\s*(\d+)\)|(PJ_STATUS_FROM_DNS_RCODE)\((\d+)\))", re.M
)


# PJSIP defines these and has no words for them.
NO_TEXT = {
    "PJLIB_UTIL_ESTUNFINGERPRINT",
    "PJLIB_UTIL_ESTUNNOTMAGIC",
    "PJLIB_UTIL_ESTUNUSERNAME",
    "PJ_CLI_EAMBIGUOUS",
}


def statuses() -> dict[str, int]:
    """Every status that the headers define: name to number."""
    found = {}
    for header in HEADERS.values():
        path = SOURCE / header
        if not path.is_file():
            pytest.skip(f"needs the source of PJSIP ({path}): python vendor/fetch.py gets it")
        for name, start, number, rcode, digit in _STATUS.findall(path.read_text("latin-1")):
            if (start or rcode) in STARTS and not name.endswith("_START"):
                found[name] = STARTS[start or rcode] + int(number or digit)
    return found


def test_the_headers_were_read() -> None:
    found = statuses()
    assert found["PJ_EUNKNOWN"] == 70001
    assert found["PJSIP_EINVALIDURI"] == 171039
    assert found["PJLIB_UTIL_EDNS_NXDOMAIN"] == 320053
    assert found["PJ_CLI_ETELNETLOST"] == 320211
    assert len(found) > 140


def test_every_status_has_a_class_and_pjsips_own_text(ep: pjsip.Endpoint) -> None:
    for name, status in statuses().items():
        text = _ffi.strerror(status)
        error = errors.from_status(status, text, "the call")
        assert type(error) is not pjsip.PjsipError, name
        assert error.status == status, name
        assert text in str(error), name
        # PJSIP names the macro in most of its texts, never another one's.
        assert (re.search(r"nknown.*\d", text) is not None) is (name in NO_TEXT), (name, text)
        named = re.search(r"\((PJ\w+)\)", text)
        assert named is None or named[1] == name, (name, text)
        assert isinstance(error.hint, str)


EXPECTED: dict[str, type[pjsip.PjsipError]] = {
    "PJ_EUNKNOWN": pjsip.NativeError,
    "PJ_EINVAL": pjsip.NativeError,
    "PJ_ETOOMANY": pjsip.NativeError,
    "PJ_EBUSY": pjsip.NativeError,
    "PJ_ERESOLVE": pjsip.ResolveError,
    "PJ_EIPV6NOTSUP": pjsip.TransportError,
    "PJ_EAFNOTSUP": pjsip.TransportError,
    "PJ_ESOCKETSTOP": pjsip.TransportError,
    "PJSIP_EBUSY": pjsip.NativeError,
    "PJSIP_ESHUTDOWN": pjsip.TransportError,
    "PJSIP_EINVALIDMSG": pjsip.NativeError,
    "PJSIP_EMSGTOOLONG": pjsip.NativeError,
    "PJSIP_EINVALIDURI": pjsip.InvalidUriError,
    "PJSIP_EINVALIDSCHEME": pjsip.InvalidUriError,
    "PJSIP_EMISSINGREQURI": pjsip.InvalidUriError,
    "PJSIP_EINVALIDREQURI": pjsip.InvalidUriError,
    "PJSIP_EURITOOLONG": pjsip.InvalidUriError,
    "PJSIP_EUNSUPTRANSPORT": pjsip.TransportError,
    "PJSIP_ETPNOTAVAIL": pjsip.TransportError,
    "PJSIP_ETPNOTSUITABLE": pjsip.TransportError,
    "PJSIP_ETSXDESTROYED": pjsip.NativeError,
    "PJSIP_EFAILEDCREDENTIAL": pjsip.WrongPasswordError,
    "PJSIP_ENOCREDENTIAL": pjsip.NoCredentialError,
    "PJSIP_EINVALIDALGORITHM": pjsip.UnsupportedAlgorithmError,
    "PJSIP_EINVALIDQOP": pjsip.UnsupportedAlgorithmError,
    "PJSIP_EINVALIDAUTHSCHEME": pjsip.UnsupportedAlgorithmError,
    "PJSIP_EAUTHSTALECOUNT": pjsip.StaleNonceError,
    "PJSIP_EAUTHNOAUTH": pjsip.AuthenticationError,
    "PJSIP_EAUTHNOCHAL": pjsip.ChallengeError,
    "PJSIP_EMISSINGTAG": pjsip.NativeError,
    "PJSIP_ESESSIONINSECURE": pjsip.NativeError,
    "PJSIP_TLS_EUNKNOWN": pjsip.TlsError,
    "PJSIP_TLS_ECERTFILE": pjsip.TlsError,
    "PJSIP_TLS_ETIMEDOUT": pjsip.TlsError,
    "PJSIP_TLS_ECERTVERIF": pjsip.TlsError,
    "PJLIB_UTIL_EDNSQRYTOOSMALL": pjsip.ResolveError,
    "PJLIB_UTIL_EDNSNOWORKINGNS": pjsip.ResolveError,
    "PJLIB_UTIL_EDNS_NXDOMAIN": pjsip.ResolveError,
    "PJLIB_UTIL_EDNS_NOTZONE": pjsip.ResolveError,
    "PJLIB_UTIL_EINXML": pjsip.NativeError,
    "PJLIB_UTIL_EHTTPLOST": pjsip.NativeError,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_class_of_a_status(name: str) -> None:
    assert errors.class_of_status(statuses()[name]) is EXPECTED[name]


def test_the_systems_errors_keep_their_number(ep: pjsip.Endpoint) -> None:
    for number, name in errno.errorcode.items():
        error = errors.from_status(120000 + number, _ffi.strerror(120000 + number), "listen")
        assert isinstance(error, pjsip.TransportError), name
        assert (type(error), error.errno) == (pjsip.TransportError, number)
        assert error.strerror
    refused = errors.from_status(120000 + errno.ECONNREFUSED, "Connection refused")
    assert isinstance(refused, pjsip.TransportError)
    assert (refused.errno, str(refused)) == (errno.ECONNREFUSED, "Connection refused")


def test_the_space_of_ssl_is_tls(ep: pjsip.Endpoint) -> None:
    for status in (SSL_START + 1, SSL_START + 20 * SSL_LIBRARY + 134, SSL_START + 49999):
        assert errors.class_of_status(status) is pjsip.TlsError
    assert errors.class_of_status(SSL_START + 50000) is pjsip.NativeError


def test_openssls_words_survive_a_reopen() -> None:
    status = SSL_START + 20 * SSL_LIBRARY + 134  # ERR_LIB_SSL, SSL_R_CERTIFICATE_VERIFY_FAILED
    with Registrar(protocols=("tls",)) as registrar:
        for _ in range(2):
            with pjsip.Endpoint() as ep:
                tls = pjsip.TlsConfig(ca_file=registrar.ca_file)
                ep.registration(registrar.uri(), "sip:a@example.com", tls=tls).register().result(5)
                assert _ffi.strerror(status) == "certificate verify failed"


@pytest.mark.parametrize("status", [1, -1, 69999, 170999, 520001, 2**31 - 1, -(2**31)])
def test_a_number_that_is_no_status_is_native(ep: pjsip.Endpoint, status: int) -> None:
    assert errors.class_of_status(status) is pjsip.NativeError
    assert str(status) in _ffi.strerror(status)


# -- SIP codes ------------------------------------------------------------------------------------

CODES: dict[int, type[pjsip.RegistrationError]] = {
    401: pjsip.AuthenticationError,
    403: pjsip.ForbiddenError,
    404: pjsip.NotFoundError,
    407: pjsip.AuthenticationError,
    408: pjsip.RegistrationTimeout,
    423: pjsip.IntervalTooBrief,
}


@pytest.mark.parametrize("local", [False, True], ids=["wire", "status"])
def test_every_sip_code_has_its_class(ep: pjsip.Endpoint, local: bool) -> None:
    for code in range(300, 700):
        by_hundred = {5: pjsip.ServerError, 6: pjsip.GlobalError}.get(
            code // 100, pjsip.RegistrationError
        )
        if local:
            text = _ffi.strerror(170000 + code)
            error = errors.from_status(170000 + code, text)
        else:
            response = Response(b"SIP/2.0 %d Why\r\n\r\n" % code, "127.0.0.1:5060")
            error = errors.from_outcome(code, "Why", 0, response=response)
            assert getattr(error, "response", None) is response
        assert isinstance(error, pjsip.RegistrationError)
        assert type(error) is CODES.get(code, by_hundred), code
        assert error.code == code
        assert error.local is local
        assert str(code) in str(error)
        assert error.retriable is (code in errors.RETRIABLE)


@pytest.mark.parametrize(
    ("code", "status", "options", "expected"),
    [
        (408, 70009, {}, pjsip.RegistrationTimeout),
        (502, 70018, {}, pjsip.ResolveError),
        (502, 320053, {}, pjsip.ResolveError),
        (502, 0, {}, pjsip.ResolveError),
        (503, 0, {}, pjsip.TransportError),
        (503, 120111, {}, pjsip.TransportError),
        (503, 70016, {}, pjsip.TransportError),
        (503, 171060, {}, pjsip.TransportError),
        (503, 171173, {}, pjsip.TlsError),
        (503, 70014, {"verify_status": 2}, pjsip.TlsError),
        (503, 171039, {}, pjsip.InvalidUriError),
        (401, 0, {"downgrade": True}, pjsip.DowngradeError),
        (503, 0, {"downgrade": True}, pjsip.DowngradeError),
    ],
)
def test_an_outcome_without_response(
    code: int, status: int, options: dict[str, int], expected: type[pjsip.PjsipError]
) -> None:
    error = errors.from_outcome(code, "text", status, response=None, **options)  # type: ignore[arg-type]
    assert type(error) is expected
    if isinstance(error, (pjsip.TransportError, pjsip.RegistrationError)):
        assert error.local is True
        assert isinstance(error.retriable, bool)
        assert error.retry_after is None
        assert error.response is None


# -- the exceptions themselves --------------------------------------------------------------------


def every_class(
    root: type[pjsip.PjsipError] = pjsip.PjsipError,
) -> Iterator[type[pjsip.PjsipError]]:
    yield root
    for cls in root.__subclasses__():
        yield from every_class(cls)


def test_the_tree_is_the_one_drawn() -> None:
    drawn = {}
    path: list[str] = []
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        found = re.match(r"([│├└─ ]*)(\w+Error|\w+Timeout|\w+Brief)\b", line)
        if found is None:
            continue
        depth = (len(found[1]) + 3) // 4
        path[depth:] = [found[2]]
        drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {
        cls.__name__: next(b.__name__ for b in cls.__bases__) for cls in set(every_class())
    }


def test_other_families_catch_them_too() -> None:
    assert issubclass(pjsip.RegistrationTimeout, TimeoutError)
    assert issubclass(pjsip.InvalidUriError, ValueError)
    assert issubclass(pjsip.ConfigError, ValueError)
    assert issubclass(pjsip.WouldBlockError, RuntimeError)


def examples() -> Iterator[pjsip.PjsipError]:
    response = Response(b"SIP/2.0 423 Brief\r\nMin-Expires: 90\r\n\r\n", "127.0.0.1:5060")
    for cls in sorted(set(every_class()), key=lambda c: c.__name__):
        if issubclass(cls, pjsip.RegistrationError):
            yield cls(423, "Brief", response, attempts=3, retry_after=7.0, status=170423)
        elif issubclass(cls, pjsip.TlsError):
            yield cls("no", 171173, 1 << 31 | 2)
        elif issubclass(cls, (pjsip.TransportError, pjsip.NativeError, pjsip.InvalidUriError)):
            yield cls("no", 120111)
        else:
            yield cls("no")


@pytest.mark.parametrize("error", list(examples()), ids=lambda e: type(e).__name__)
def test_an_exception_survives_a_pickle_and_a_copy(error: pjsip.PjsipError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert (str(again), again.status, again.hint) == (str(error), error.status, error.hint)
        names = set(vars(error)) - {"response"}
        assert {n: getattr(again, n) for n in names} == {n: getattr(error, n) for n in names}
        if isinstance(error, pjsip.RegistrationError):
            assert isinstance(again, pjsip.RegistrationError)
            assert again.response is not None
            assert error.response is not None
            assert again.response.raw == error.response.raw


@pytest.mark.parametrize("error", list(examples()), ids=lambda e: type(e).__name__)
def test_an_exception_has_words(error: pjsip.PjsipError) -> None:
    assert str(error)
    assert type(error).__name__ in repr(error)
    assert "<bound" not in str(error)


def test_a_tls_error_names_its_reasons() -> None:
    error = pjsip.TlsError("SSL certificate verification error", 171173, -(2**31) | 4)
    assert error.verify_status == 1 << 31 | 4
    assert error.reasons == ("validity", "unknown")
    assert "expired" in str(error)
    assert "ca_file" in error.hint
    assert pjsip.TlsError("x").reasons == ()


def test_min_expires_is_told() -> None:
    response = Response(b"SIP/2.0 423 Brief\r\nMin-Expires: 90\r\n\r\n", "")
    error = pjsip.IntervalTooBrief(423, "Interval Too Brief", response)
    assert error.min_expires == 90
    assert "90" in error.hint
    assert pjsip.IntervalTooBrief(423, "Interval Too Brief").min_expires is None
