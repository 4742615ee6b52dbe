# SPDX-License-Identifier: GPL-3.0-or-later
"""Via and rport, retransmissions, connections, certificates."""

from __future__ import annotations

import ssl
import time
import warnings

from .agent import Agent
from .check import Failed, NotApplicable, NotSupported, check
from .client import MAGIC, Draft, Reply, StreamChannel

UDP, STREAM, TLS = ("udp",), ("stream",), ("tls",)


@check("via.rport", "RFC 3581 §4", "RFC 3261 §18.2.1", needs=UDP)
def rport(ua: Agent) -> None:
    """rport in Via is filled in with the port a request came from, received with its address."""
    reply = ua.send(ua.draft(ua.contact(), expires=60))
    ua.must(reply.rport, "the answer's Via has no number in rport")
    ua.must(reply.received, "the answer's Via has rport, but no received")
    host, port = ua.channel.local
    if reply.received != host:
        raise NotApplicable(f"there is a NAT on the way: seen as {reply.received}")
    ua.must(reply.rport == port, f"sent from port {port}, rport says {reply.rport}")


@check("via.rport-route", "RFC 3581 §4", needs=UDP)
def rport_route(ua: Agent) -> None:
    """With rport the answer goes to the port the request came from, from where it was sent to.

    Whatever port Via names. So it passes a NAT.
    """
    draft = ua.draft(ua.contact(), expires=60)
    branch = draft.branch
    draft.set("Via", ua.via(branch, sent_by=f"{ua.local.rpartition(':')[0]}:9"))
    reply = ua.exchange_one(draft)
    ua.must(reply, "no answer came back to the port that the request was sent from")
    assert reply is not None
    ua.must(
        reply.address == ua.remote,
        f"the request went to {ua.remote}, the answer comes from {reply.address}",
    )


@check("via.received", "RFC 3261 §18.2.1", needs=UDP)
def received(ua: Agent) -> None:
    """Where Via names another host than the request came from, received is added.

    The answer goes to that address.
    """
    draft = ua.draft(ua.contact(), expires=60)
    port = ua.channel.local[1]
    draft.set("Via", ua.via(draft.branch, sent_by=f"elsewhere.example:{port}", params=""))
    reply = ua.exchange_one(draft)
    ua.must(reply, "no answer came to the address that the request came from")
    assert reply is not None
    ua.must(reply.received, "the answer's Via has no received")


@check("via.sent-by-port", "RFC 3261 §18.2.2", "RFC 3581 §4", needs=UDP)
def sent_by_port(ua: Agent) -> None:
    """Without rport the answer goes to the port that Via names."""
    if ua.send(ua.draft()).received not in (None, ua.channel.local[0]):
        raise NotApplicable("there is a NAT on the way")
    first, second = ua.channel, ua.open()
    draft = ua.draft(ua.contact(), expires=60)
    host = ua.local.rpartition(":")[0]
    draft.set("Via", ua.via(draft.branch, sent_by=f"{host}:{second.local[1]}", params=""))
    try:
        end = time.monotonic() + ua.target.timeout
        while time.monotonic() < end:
            first.send(draft.encode())
            if second.receive(min(end, time.monotonic() + 0.5)) is not None:
                return
            ua.lost += 1
        strayed = first.receive(time.monotonic() + 0.01)
        raise Failed(
            "the answer went to the port that the request came from"
            if strayed
            else "no answer came to the port that Via names"
        )
    finally:
        second.close()


@check("via.no-cookie", "RFC 3261 §8.1.1.7", "RFC 3261 §17.2.3")
def no_cookie(ua: Agent) -> None:
    """A client of RFC 2543, whose branch does not begin with z9hG4bK, is served.

    One branch for all its requests is what such a client may have: they are told apart by CSeq.
    """
    for expires in (60, 90):
        draft = _as_rfc2543(ua, ua.draft(ua.contact(), expires=expires))
        reply = ua.send(draft)
        if reply.code in (401, 407) and ua.target.password is not None:
            draft = _as_rfc2543(ua, ua.prove(draft, reply))
            reply = ua.send(draft)
        ua.must(
            reply.cseq == f"{draft.cseq} {draft.method}",
            f"the request with CSeq {draft.cseq} got an answer for CSeq {reply.cseq}",
        )
        ua.only(ua.want(reply, 200, what="a branch without z9hG4bK"), 1)


def _as_rfc2543(ua: Agent, draft: Draft) -> Draft:
    draft.branch = "1"
    return draft.set("Via", ua.via("1"))


def _served(ua: Agent) -> tuple[Draft, Reply]:
    """A registration in the bytes that were served in the end, and the answer to them."""
    draft = ua.draft(ua.contact(), expires=60)
    reply = ua.send(draft)
    if reply.code in (401, 407) and ua.target.password is not None:
        draft = ua.prove(draft, reply)
        reply = ua.send(draft)
    ua.want(reply, 200)
    return draft, reply


@check("transaction.retransmission", "RFC 3261 §17.2.2", needs=UDP)
def retransmission(ua: Agent) -> None:
    """A request that comes again gets the same answer again, and is not carried out twice."""
    draft, reply = _served(ua)
    again = ua.send(draft)
    ua.want(again, 200, what="the same request once more")
    ua.must(again.to_tag == reply.to_tag, "the second answer has another To tag")


@check("transaction.refused-again", "RFC 3261 §17.2.2", "RFC 3261 §8.2.7", needs=UDP)
def refused_again(ua: Agent) -> None:
    """A refused request that comes again is refused alike, with the same To tag."""
    draft = ua.draft(ua.contact(), headers={"Require": "conformance-nonsense"}, expires=60)
    first, again = ua.send(draft), ua.send(draft)
    ua.must(first.code == again.code, f"first {first.line}, then {again.line}")
    ua.must(first.to_tag == again.to_tag, "the second answer has another To tag")


@check("transaction.merged", "RFC 3261 §8.2.2.2", needs=UDP)
def merged(ua: Agent) -> None:
    """The same request by another path, with another branch, gets 482."""
    draft, _ = _served(ua)
    other = draft.renewed(MAGIC + "merged" + draft.branch[-8:], draft.cseq)
    reply = ua.send(other)
    ua.should(reply.code == 482, f"a merged request gets {reply.line}")


# -- streams --------------------------------------------------------------------------------------


def _answers(ua: Agent, *drafts: Draft) -> None:
    """An answer to each of the requests has to come, in whatever order."""
    waiting = list(drafts)
    end = time.monotonic() + ua.target.timeout
    while waiting:
        got = ua.channel.receive(end)
        ua.must(got, f"{len(waiting)} of {len(drafts)} requests got no answer")
        assert got is not None
        reply = Reply(*got)
        waiting = [each for each in waiting if reply.code < 200 or not reply.answers(each)]


@check("stream.several-in-one", "RFC 3261 §18.3", needs=STREAM)
def several_in_one(ua: Agent) -> None:
    """Several requests in one segment are all served."""
    drafts = [ua.draft() for _ in range(3)]
    ua.stream.send(b"".join(draft.encode() for draft in drafts))
    _answers(ua, *drafts)


@check("stream.split", "RFC 3261 §18.3", needs=STREAM)
def split(ua: Agent) -> None:
    """A request that comes in pieces is served, wherever it is cut."""
    for place in ("in the first line", "in a line break", "before the empty line", "in the body"):
        draft = ua.draft()
        draft.body = b"some text\r\n"
        draft.set("Content-Type", "text/plain")
        draft.set("Content-Disposition", "render;handling=optional")
        draft.set("Content-Length", str(len(draft.body)))
        data = draft.encode()
        at = {
            "in the first line": 5,
            "in a line break": data.index(b"\r\nFrom") + 1,
            "before the empty line": data.index(b"\r\n\r\n") + 2,
            "in the body": len(data) - 4,
        }[place]
        ua.stream.send(data[:at])
        time.sleep(0.03)  # so that it is a segment of its own
        ua.stream.send(data[at:])
        try:
            _answers(ua, draft)
        except Failed as error:
            raise Failed(f"cut {place}: {error}") from error


@check("stream.same-connection", "RFC 3261 §18.2.2", needs=STREAM)
def same_connection(ua: Agent) -> None:
    """The answer comes over the connection of the request, whatever Via says."""
    draft = ua.draft()
    draft.set("Via", ua.via(draft.branch, sent_by="elsewhere.example:9"))
    ua.must(ua.exchange_one(draft), "no answer over the connection")


@check("stream.stays-open", "RFC 3261 §18", needs=STREAM)
def stays_open(ua: Agent) -> None:
    """A connection serves one request after the other."""
    channel = ua.channel
    for _ in range(3):
        ua.must(ua.exchange_one(ua.draft(), channel=channel), "no answer")


@check("stream.content-length", "RFC 3261 §20.14", "RFC 3261 §18.3", needs=STREAM)
def stream_content_length(ua: Agent) -> None:
    """Over a stream each answer has a Content-Length."""
    reply = ua.send(ua.draft())
    ua.must("Content-Length" in reply.headers, "the answer has no Content-Length")


@check("stream.crlf-between", "RFC 3261 §7.5", needs=STREAM)
def crlf_between(ua: Agent) -> None:
    """Empty lines between requests are skipped."""
    drafts = [ua.draft(), ua.draft()]
    ua.stream.send(b"\r\n" + drafts[0].encode() + b"\r\n\r\n\r\n" + drafts[1].encode())
    _answers(ua, *drafts)


@check("stream.keep-alive", "RFC 5626 §4.4.1", "RFC 5626 §3.5.1", needs=STREAM)
def keep_alive(ua: Agent) -> None:
    """A double CRLF, the ping, is answered with a single one, the pong."""
    ua.must(ua.exchange_one(ua.draft()), "no answer")
    stream = ua.stream
    stream.send(b"\r\n\r\n")
    end = time.monotonic() + min(2.0, ua.target.timeout)
    got = b""
    while len(got) < 2:
        data = stream.receive_bytes(end)
        ua.must(data != b"", "the connection was closed at a ping")
        if data is None:
            break
        got += data
    if not got:
        raise NotSupported("no pong came")
    ua.must(got == b"\r\n", f"the pong is {got!r}")
    ua.must(ua.exchange_one(ua.draft()), "no answer after the ping")


@check("stream.one-location", "RFC 3261 §10.3 step 5", needs=STREAM)
def one_location(ua: Agent) -> None:
    """What was registered over one transport is seen over another."""
    others = [each for each in ua.site.addresses if each != ua.transport]
    if not others:
        raise NotApplicable("there is no other transport")
    ua.register(ua.contact(), expires=60)
    for name in others:
        other = ua.another(name)
        ua.only(other.fetch(), 1)


# -- TLS ------------------------------------------------------------------------------------------


@check("tls.certificate", "RFC 5922 §7.2", "RFC 3261 §26.3.1", needs=TLS)
def certificate(ua: Agent) -> None:
    """The certificate is trusted, in force, and for the name that was asked for."""
    if ua.target.insecure:
        raise NotApplicable("any certificate is accepted: --insecure")
    context = ua.target.tls_context()
    try:
        StreamChannel(
            ua.remote, ua.exchange.append, ua.target.timeout, context, ua.target.tls_name
        ).close()
    except ssl.SSLCertVerificationError as error:
        raise Failed(f"the certificate: {error.verify_message}") from error


@check("tls.old-versions", "RFC 8996 §4", "RFC 8996 §5", needs=TLS)
def old_versions(ua: Agent) -> None:
    """TLS 1.0 and 1.1 are refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    except (ssl.SSLError, ValueError) as error:
        raise NotApplicable("this machine's OpenSSL does not speak them either") from error
    try:
        channel = StreamChannel(
            ua.remote, ua.exchange.append, ua.target.timeout, context, ua.target.tls_name
        )
    except ssl.SSLError as error:
        if error.reason == "NO_PROTOCOLS_AVAILABLE":
            raise NotApplicable("this machine's OpenSSL does not speak them either") from error
        return
    except OSError:
        return
    version = channel.version
    channel.close()
    raise Failed(f"a handshake with {version} succeeded")


@check("tls.registers", "RFC 3261 §26.2.1", "RFC 3261 §18.3", needs=TLS)
def tls_registers(ua: Agent) -> None:
    """A contact registered over TLS is bound, and the answer's Via says TLS."""
    reply = ua.register(ua.contact(), expires=60)
    ua.only(reply, 1)
    via = reply.headers.get("Via", "")
    ua.must("/TLS" in via.upper().replace(" ", ""), f"the answer's Via is {via}")
