# SPDX-License-Identifier: GPL-3.0-or-later
"""Ready-made mistakes for an answer: ``Answer(wrong="branch")``.

Each takes a right response, as bytes, and gives it back wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

Defect = Callable[[bytes], bytes]


def without_header(message: bytes, name: str) -> bytes:
    """The message without its `name` headers."""
    return re.sub(rb"(?im)^%s[ \t]*:[^\r\n]*\r\n" % re.escape(name.encode()), b"", message)


def _sub(pattern: bytes, by: bytes) -> Defect:
    """Replace the first match, ``^`` standing for the start of a line."""
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    return lambda message: compiled.sub(by, message, count=1)


def _insert(lines: bytes) -> Defect:
    """Put header lines after the status line."""
    return lambda message: message.replace(b"\r\n", b"\r\n" + lines, 1)


def _length(value: bytes) -> Defect:
    return _sub(rb"^Content-Length:[^\r\n]*", b"Content-Length: " + value)


def _noise(message: bytes) -> bytes:
    return random.Random(len(message)).randbytes(len(message))


#: What can be wrong with an answer, by name.
DEFECTS: Mapping[str, Defect] = {
    # An answer to something else: RFC 3261 §8.1.3.3 and §17.1.3 tell which request it belongs to.
    "branch": _sub(rb"^(Via:[^\r\n]*;branch=z9hG4bK)", rb"\1-other-"),
    "sent-by": _sub(rb"^(Via:\s*SIP/2\.0/\w+ )[^;\r\n]*", rb"\g<1>192.0.2.1:5060"),
    "two-vias": _sub(rb"^(Via:[^\r\n]*\r\n)", rb"\1Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n"),
    "from-tag": _sub(rb"^(From:[^\r\n]*;tag=)", rb"\1other-"),
    "no-from-tag": _sub(rb"^(From:[^\r\n;]*);tag=[^;\r\n]*", rb"\1"),
    "no-to-tag": _sub(rb"^(To:[^\r\n;]*);tag=[^;\r\n]*", rb"\1"),
    "to-user": _sub(rb"^(To:[^\r\n]*sips?:)[^@\r\n]*@", rb"\1mallory@"),
    "call-id": _sub(rb"^(Call-ID: ?)", rb"\1other-"),
    "cseq": _sub(rb"^(CSeq: ?)\d+", rb"\g<1>4711"),
    "cseq-method": _sub(rb"^(CSeq: ?\d+) \w+", rb"\1 OPTIONS"),
    # No SIP message.
    "empty": lambda message: b"",
    "empty-lines": lambda message: b"\r\n\r\n",
    "noise": _noise,
    "version": _sub(rb"\ASIP/2\.0", b"SIP/3.0"),
    "status-line": _sub(rb"\ASIP/2\.0 ", b""),
    "code-word": _sub(rb"\ASIP/2\.0 \d+", b"SIP/2.0 OK"),
    "code-0": _sub(rb"\ASIP/2\.0 \d+", b"SIP/2.0 000"),
    "code-99": _sub(rb"\ASIP/2\.0 \d+", b"SIP/2.0 99"),
    "code-700": _sub(rb"\ASIP/2\.0 \d+", b"SIP/2.0 700"),
    "code-huge": _sub(rb"\ASIP/2\.0 \d+", b"SIP/2.0 4294967496"),
    # One that ends in the wrong place.
    "truncated": lambda message: message[: len(message) // 2],
    "no-blank-line": lambda message: message.replace(b"\r\n\r\n", b"\r\n", 1),
    "length-short": lambda message: message + b"more than Content-Length says",
    "length-long": _length(b"100"),
    "length-huge": _length(b"99999999999"),
    "length-negative": _length(b"-1"),
    "length-word": _length(b"none"),
    "two-lengths": _insert(b"Content-Length: 7\r\n"),
    # Broken headers.
    "bare-lf": lambda message: message.replace(b"\r\n", b"\n"),
    "nul": _sub(rb"\A(SIP/2\.0 \d+ [^\r\n]?)", b"\\1\0"),
    "not-utf8": _sub(rb"\A(SIP/2\.0 \d+ )", b"\\1\xff\xfe"),
    "no-colon": _insert(b"This is no header\r\n"),
    "bracket": _insert(b"Contact: <sip:alice@127.0.0.1\r\n"),
    "quote": _insert(b'Contact: "Alice <sip:alice@127.0.0.1>\r\n'),
    "contact-uri": _insert(b"Contact: <nonsense>;expires=60\r\n"),
    "contact-expires": _sub(rb"^(Contact:[^\r\n]*;expires=)\d+", rb"\1soon"),
    "challenge": _sub(rb"^((?:WWW|Proxy)-Authenticate: Digest )[^\r\n]*", rb'\1realm="x'),
    "long-header": _insert(b"X-Long: " + b"x" * 20_000 + b"\r\n"),
    "many-headers": _insert(b"".join(b"X-%d: 1\r\n" % n for n in range(500))),
}
