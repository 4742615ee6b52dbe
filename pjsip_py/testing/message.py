# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and responses as a registrar reads and writes them, on the ``sipmessage`` library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sipmessage import URI, Headers, Message, Request, Response

from .headers import Contact, Via, has_tag, mark_via, parse_uri, split_list, whole_number

#: Largest message read, bytes. A UDP datagram cannot be longer; a stream that sends more is cut.
MAX_MESSAGE = 65535
#: Most header lines read.
MAX_HEADERS = 400

REASONS: Mapping[int, str] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    423: "Interval Too Brief",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}

_METHOD = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
_FOLD = re.compile(rb"\r\n[ \t]+")
_SPACE_BEFORE_COLON = re.compile(rb"(?<=\n)([!-9;-~]+)[ \t]+:")


class MalformedRequest(ValueError):
    """A request that cannot be served; ``code`` is the status RFC 3261 gives it.

    ``envelope`` is None when too little could be read to answer at all.
    """

    def __init__(self, why: str, code: int = 400, envelope: Envelope | None = None) -> None:
        super().__init__(why)
        self.code = code
        self.envelope = envelope


class NotARequest(ValueError):
    """A response, or bytes that are no SIP message: nothing to answer."""


@dataclass
class Envelope:
    """What a response copies from its request (RFC 3261 §8.2.6.2)."""

    vias: list[str]
    from_: str
    to: str
    call_id: str
    cseq: str
    destination: tuple[str, int]

    def response(
        self,
        code: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        *,
        tag: str,
        body: bytes = b"",
    ) -> Response:
        """Build a response. A header of the envelope given in `headers` replaces the right one,
        which is how a test makes a wrong CSeq or tag."""
        if reason is None:
            reason = REASONS.get(code, "Unknown")
        response = Response(code, reason, body)
        out = response.headers
        out.setlist("Via", list(self.vias))
        out.set("From", self.from_)
        out.set("To", self.to if has_tag(self.to) or code == 100 else f"{self.to};tag={tag}")
        out.set("Call-ID", self.call_id)
        out.set("CSeq", self.cseq)
        replaced: set[str] = set()
        for name, value in headers:
            lower = name.lower()
            if lower in _ENVELOPE_HEADERS and lower not in replaced:
                replaced.add(lower)
                out.set(name, value)
            else:
                out.add(name, value)
        if "content-length" not in replaced:
            out.set("Content-Length", str(len(body)))
        return response


_ENVELOPE_HEADERS = frozenset({"via", "from", "to", "call-id", "cseq", "content-length"})
_ONCE = ("From", "To", "Call-ID", "CSeq")


@dataclass
class ParsedRequest:
    """A request that passed the checks every request has to pass (RFC 3261 §8.2, §16.3)."""

    message: Request
    uri_text: str
    via: Via
    cseq: int
    to: Contact
    to_uri: URI
    envelope: Envelope

    @property
    def transaction(self) -> tuple[object, ...]:
        """The key that a retransmission shares with its request (RFC 3261 §17.2.3)."""
        via, headers = self.via, self.message.headers
        branch = via.params.get("branch")
        if branch is not None and branch.startswith("z9hG4bK"):
            return (branch, via.host, via.port, self.message.method)
        envelope = self.envelope  # a client of RFC 2543: compare everything that identifies it
        return (
            self.uri_text,
            headers.getlist("Via")[0],
            envelope.from_,
            envelope.to,
            envelope.call_id,
            envelope.cseq,
        )


def parse_request(
    data: bytes, source: tuple[str, int], seen_as: tuple[str, int | str] | None = None
) -> ParsedRequest:
    """Parse one whole request that came from `source`.

    `seen_as` stands in received and rport in place of `source`, as it does behind a NAT.

    Raises :class:`MalformedRequest`, with what an answer needs when enough could be read, or
    :class:`NotARequest`.
    """
    head, blank, body = data.partition(b"\r\n\r\n")
    if b"\r\n " in head or b"\r\n\t" in head:
        head = _FOLD.sub(b" ", head)
    if b" :" in head or b"\t:" in head:
        head = _SPACE_BEFORE_COLON.sub(rb"\1:", head)
    start, _, lines = head.partition(b"\r\n")
    if start[:4].upper() == b"SIP/" or not start.strip():
        raise NotARequest("not a request")
    try:
        if lines.count(b"\r\n") > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} headers")
        if not blank:
            raise ValueError("the empty line after the headers is missing")
        method, uri_text, version = _start_line(start)
        # The Request-URI is parsed here, so that its raw text is kept for the digest check.
        message = Message.parse(b"OPTIONS sip:a.invalid SIP/2.0\r\n" + lines + b"\r\n\r\n" + body)
        assert isinstance(message, Request)
        message.method = method
        return _check(message, uri_text, version, source, seen_as or source)
    except MalformedRequest as error:
        if error.envelope is None and start[:4] != b"ACK ":
            error.envelope = _salvage(head, source)
        raise
    except ValueError as error:
        envelope = None if start[:4] == b"ACK " else _salvage(head, source)
        raise MalformedRequest(str(error), envelope=envelope) from error


def _start_line(start: bytes) -> tuple[str, str, str]:
    parts = start.decode("utf-8").split(" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]):
        raise ValueError("malformed request line")
    return parts[0], parts[1], parts[2]


def _check(
    message: Request,
    uri_text: str,
    version: str,
    source: tuple[str, int],
    seen_as: tuple[str, int | str],
) -> ParsedRequest:
    headers = message.headers
    if version.upper() != "SIP/2.0":
        raise MalformedRequest(f"SIP version {version!r}", 505)
    scheme = uri_text.partition(":")[0].lower()
    if scheme not in ("sip", "sips"):
        code = 416 if scheme.isalpha() else 400
        raise MalformedRequest(f"Request-URI {uri_text!r}", code)
    message.uri = parse_uri(uri_text)
    for name in _ONCE:
        if len(headers.getlist(name)) != 1 or not headers[name]:
            raise ValueError(f"there must be exactly one {name} header")
    vias = [one for value in headers.getlist("Via") for one in split_list(value)]
    if not vias:
        raise ValueError("there is no Via header")
    via = Via.parse(vias[0])
    cseq = message.cseq
    if cseq.method != message.method or cseq.sequence >= 2**31:
        raise ValueError(f"CSeq {headers['CSeq']!r} does not fit {message.method}")
    length = _content_length(headers)
    if length is not None and length > len(message.body):
        raise ValueError(f"Content-Length {length} is beyond the end of the message")
    if length is not None:
        message.body = message.body[:length]  # RFC 3261 §18.3: what follows is thrown away
    Contact.parse(headers["From"])
    to = Contact.parse(headers["To"])
    to_uri = to.sip_uri
    if to_uri is None:
        raise MalformedRequest(f"the To header names no SIP user: {to.uri!r}", 404)
    vias[0] = mark_via(vias[0], via, seen_as)
    envelope = Envelope(
        vias,
        headers["From"],
        headers["To"],
        headers["Call-ID"],
        headers["CSeq"],
        via.destination(source),
    )
    return ParsedRequest(message, uri_text, via, cseq.sequence, to, to_uri, envelope)


def _content_length(headers: Headers) -> int | None:
    values = set(headers.getlist("Content-Length"))
    if not values:
        return None
    length = whole_number(values.pop())
    if values or length is None:
        raise ValueError("malformed Content-Length")
    return length


_SALVAGE = re.compile(r"(?im)^(via|v|from|f|to|t|call-id|i|cseq)[ \t]*:[ \t]*([^\r\n]*)")
_COMPACT = {"v": "via", "f": "from", "t": "to", "i": "call-id"}


def _salvage(head: bytes, source: tuple[str, int]) -> Envelope | None:
    """Collect from a broken request what an answer to it must carry."""
    found: dict[str, list[str]] = {}
    for m in _SALVAGE.finditer(head.decode("utf-8", "replace")):
        name = m.group(1).lower()
        found.setdefault(_COMPACT.get(name, name), []).append(m.group(2).strip())
    if not {"via", "from", "to", "call-id", "cseq"} <= found.keys():
        return None
    vias = [one for value in found["via"] for one in split_list(value)]
    destination = source
    try:
        via = Via.parse(vias[0])
    except (ValueError, IndexError):
        pass
    else:
        vias[0] = mark_via(vias[0], via, source)
        destination = via.destination(source)
    return Envelope(
        vias,
        found["from"][0],
        found["to"][0],
        found["call-id"][0],
        found["cseq"][0],
        destination,
    )


def header_items(
    headers: Mapping[str, str] | Sequence[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Headers given as a mapping or as pairs, as pairs."""
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)
