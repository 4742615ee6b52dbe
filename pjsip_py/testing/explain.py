# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failed assertion says about requests; no secret of theirs is shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .headers import Contact

if TYPE_CHECKING:
    from .request import ReceivedRequest

#: What ``expect`` can be asked for, beside headers.
EXPECTABLE = (
    "method",
    "uri",
    "aor",
    "contact",
    "contacts",
    "expires",
    "call_id",
    "cseq",
    "protocol",
    "source",
    "answered",
    "retransmissions",
)


def shown(request: ReceivedRequest) -> list[str]:
    """The lines of a request without its secrets."""
    from pjsip_py._ffi import redact

    return redact(request.data).decode("utf-8", "backslashreplace").rstrip("\r\n").splitlines()


def differences(
    request: ReceivedRequest, wanted: Mapping[str, Any], headers: Mapping[str, Any]
) -> list[str]:
    """What of a request is not as wanted, a line each.

    Raises ``TypeError`` for something that a request does not have.
    """
    lines = []
    for name, value in wanted.items():
        if name not in EXPECTABLE:
            near = difflib.get_close_matches(name, EXPECTABLE, 1)
            raise TypeError(
                f"a request has no {name!r} to expect"
                + (f": did you mean {near[0]!r}?" if near else f": {', '.join(EXPECTABLE)}")
            )
        found = getattr(request, name)
        if name in ("contact", "contacts"):
            found = _as_wanted(found, value)
        lines += _compare(name, found, value)
    for name, value in headers.items():
        given = [_redacted(name, one) for one in request.headers.getlist(name)]
        # A header that comes several times is as wanted when one of them is.
        if not given:
            lines += _compare(f"header {name}", None, value)
        elif value is None or not any(not _compare(name, one, value) for one in given):
            lines += _compare(f"header {name}", given if len(given) > 1 else given[0], value)
    return lines


def _as_wanted(found: Any, value: object) -> object:
    """Contacts as what they are compared with: texts are their URIs."""
    if isinstance(found, list):
        wanted = value if isinstance(value, (list, tuple)) else ()
        return [
            one if index < len(wanted) and isinstance(wanted[index], Contact) else one.uri
            for index, one in enumerate(found)
        ]
    return found.uri if isinstance(found, Contact) and not isinstance(value, Contact) else found


def _compare(name: str, found: object, wanted: Any) -> list[str]:
    if wanted is ...:
        return [f"{name}: missing"] if found is None else []
    if isinstance(wanted, re.Pattern):
        if isinstance(found, str) and wanted.fullmatch(found):
            return []
        return [f"{name}: {_text(found)} does not match {wanted.pattern!r}"]
    if callable(wanted):
        if wanted(found):
            return []
        return [f"{name}: {_text(found)} is not what {getattr(wanted, '__name__', wanted)} wants"]
    if isinstance(wanted, tuple) and isinstance(found, list):
        wanted = list(wanted)
    if found == wanted:
        return []
    return [f"{name}: {_text(found)}, expected {_text(wanted)}"]


def _text(value: object) -> str:
    return "none" if value is None else repr(value)


def _redacted(name: str, value: str) -> str:
    from pjsip_py._ffi import redact

    line = redact(f"{name}: {value}\r\n\r\n".encode()).decode().rstrip()
    return line.partition(":")[2].strip()


def explain(left: object, right: object) -> list[str] | None:
    """Why ``left == right`` failed, for pytest's ``pytest_assertrepr_compare``; None when there
    is nothing to add to what pytest says by itself."""
    from .request import ReceivedRequest

    if isinstance(left, ReceivedRequest) and isinstance(right, ReceivedRequest):
        diff = difflib.ndiff(shown(right), shown(left))
        return [f"{left!r} is not {right!r}", "- the right one, + the left one:", *diff]
    for request, other in ((left, right), (right, left)):
        if isinstance(request, ReceivedRequest):
            return [
                f"{request!r} == {other!r}",
                "a request is equal to itself only: use request.expect(method=…, headers={…})",
                *shown(request),
            ]
    for contact, other in ((left, right), (right, left)):
        if isinstance(contact, Contact) and isinstance(other, str):
            return [
                f"{str(contact)!r} == {other!r}",
                "a Contact is no text: compare contact.uri, contact.display_name, contact.params",
            ]
    return None
