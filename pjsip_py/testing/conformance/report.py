# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's report: JSON records, JUnit XML, an HTML page with a ladder of each failure."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from html import escape
from os import PathLike, fspath
from typing import Any

from pjsip_py.ladder import Ladder, page
from pjsip_py.pcap import CapturedMessage

from .check import Result, Status
from .client import Address, Message
from .runner import Report

_SECTION = re.compile(r"RFC (\d+) §([\d.]+)")
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# -- JSON -----------------------------------------------------------------------------------------


def record(result: Result) -> dict[str, Any]:
    """One result, for JSON; a failure with its messages."""
    check = result.check
    found: dict[str, Any] = {
        "event": "check",
        "id": check.id,
        "status": result.status.value,
        "reason": result.reason,
        "title": check.title,
        "rfc": list(check.sections),
        "seconds": round(result.seconds, 3),
        "attempts": result.attempts,
    }
    if result.status is Status.FAIL:
        found["rule"] = check.rule
        found["messages"] = [
            {
                "time": round(each.time, 6),
                "sent": each.sent,
                "protocol": each.protocol,
                "source": _where(each.source),
                "destination": _where(each.destination),
                "text": each.text,
            }
            for each in result.exchange
        ]
    return found


def summary(report: Report) -> dict[str, Any]:
    """What the run came to, for JSON."""
    return {
        "event": "summary",
        "registrar": report.target.registrar,
        "aor": report.target.aor,
        "server": report.server,
        "seconds": round(report.seconds, 3),
        **{each.value.replace(" ", "_"): report.count(each) for each in Status},
        "left": list(report.left),
        "broken_off": report.broken_off,
    }


# -- JUnit XML ------------------------------------------------------------------------------------


def junit(report: Report) -> str:
    """The report as CI systems read it: not supported and not applicable are skips."""
    skipped = report.count(Status.NOT_SUPPORTED) + report.count(Status.NOT_APPLICABLE)
    counts = {
        "tests": len(report.results) + bool(report.broken_off),
        "failures": report.count(Status.FAIL),
        "errors": int(bool(report.broken_off)),
        "skipped": skipped,
        "time": f"{report.seconds:.3f}",
    }
    counted = {name: str(value) for name, value in counts.items()}
    root = ET.Element("testsuites", counted)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(report.started))
    name = f"conformance of {report.target.registrar}"
    suite = ET.SubElement(root, "testsuite", {"name": name, "timestamp": stamp, **counted})
    for result in report.results:
        check = result.check
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": f"conformance.{check.group}",
                "name": check.id,
                "time": f"{result.seconds:.3f}",
            },
        )
        if result.status is Status.FAIL:
            failure = ET.SubElement(
                case, "failure", {"message": _xml(result.reason), "type": "Failed"}
            )
            failure.text = _xml(explain(result))
        elif result.status is not Status.PASS:
            message = _xml(f"{result.status.value}: {result.reason}")
            ET.SubElement(case, "skipped", {"message": message})
    if report.broken_off:
        case = ET.SubElement(suite, "testcase", {"classname": "conformance", "name": "run"})
        ET.SubElement(case, "error", {"message": _xml(report.broken_off), "type": "NoRegistrar"})
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def explain(result: Result) -> str:
    """A result in full, as text: the rule, what came of it, the messages."""
    check = result.check
    lines = [
        f"{check.id}: {result.status.value}{': ' if result.reason else ''}{result.reason}",
        f"must be so: {check.rule}",
        f"see: {', '.join(check.sections)}",
    ]
    for each in result.exchange:
        arrow = "sent to" if each.sent else "received from"
        peer = each.destination if each.sent else each.source
        lines += [
            "",
            f"--- {arrow} {_where(peer)} over {each.protocol.upper()}:",
            each.text.rstrip(),
        ]
    return "\n".join(lines).replace("\r\n", "\n")


def _xml(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _where(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- HTML -----------------------------------------------------------------------------------------

_STYLE = """\
body{width:auto;max-width:76rem}
h2{font-size:1.15rem;margin:1.75rem 0 .5rem}
.facts{color:var(--dim);margin:.25rem 0 1rem;overflow-wrap:anywhere}
.counts{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;list-style:none;padding:0;margin:1rem 0}
.counts b{font-size:1.6rem;display:block;line-height:1.1;color:var(--c)}
.index{padding:0;list-style:none;line-height:1.6;overflow-wrap:anywhere}
.pass{--c:var(--success)}.fail{--c:var(--failure)}.not-supported{--c:var(--challenge)}
.not-applicable{--c:var(--dim)}
.check{border:1px solid var(--line);border-left:4px solid var(--c);border-radius:6px;
margin:.6rem 0;padding:.1rem 1rem}
.check>summary{cursor:pointer;padding:.5rem 0;list-style:none}
.check>summary::-webkit-details-marker{display:none}
.check>summary::before{content:"\\25b8";color:var(--dim);margin-right:.6rem}
.check[open]>summary::before{content:"\\25be"}
.check>summary b{font-weight:600;margin-right:.6rem}
.index code{margin-right:.6rem}
.check code,td code,.index code{font:.85rem ui-monospace,monospace}
.check dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1rem;margin:.25rem 0 .75rem}
.check dt{color:var(--dim)}.check dd{margin:0;overflow-wrap:anywhere}
.check .why{color:var(--c)}
.check .sip{min-width:0;margin-bottom:1rem;overflow-x:auto}
.check .sip form,.check .sip .key,.check .sip>p{display:none}
.check .sip header{position:static}
a{color:var(--request)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid var(--line)}
td:first-child{white-space:nowrap;color:var(--c);font-weight:600}
td small{color:var(--dim);display:block;overflow-wrap:anywhere}
td.rfc{white-space:nowrap;font-size:.82rem}
@media(max-width:44rem){.check dl{grid-template-columns:1fr;gap:0}.check dd{margin-bottom:.5rem}
thead{display:none}tr{display:block;border-bottom:1px solid var(--line);padding:.3rem 0}
td{display:block;border:0;padding:0}td.rfc{white-space:normal}}
"""

_MARKS = {
    Status.PASS: "\N{CHECK MARK}",
    Status.FAIL: "\N{BALLOT X}",
    Status.NOT_SUPPORTED: "\N{EN DASH}",
    Status.NOT_APPLICABLE: "\N{MIDDLE DOT}",
}


def html(report: Report) -> str:
    """A page of its own, without anything from the network."""
    target = report.target
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.started))
    facts = [f"as {target.aor}", when, f"{report.seconds:.1f} s"]
    if report.server:
        facts.insert(0, report.server)
    parts = [
        f"<h1>Conformance of {_text(target.registrar)}</h1>\n",
        f'<p class="facts">{_text(" · ".join(facts))}</p>\n',
        _counts(report),
        _index(report),
    ]
    if report.broken_off:
        parts.append(f'<p class="check fail why">{_text(report.broken_off)}</p>\n')
    if report.left:
        left = ", ".join(report.left)
        parts.append(f'<p class="check fail">Could not be removed again: {_text(left)}</p>\n')
    names = {
        _where(each.destination): "registrar"
        for r in report.results
        for each in r.exchange
        if each.sent
    }
    for status, title in (
        (Status.FAIL, "What is not as the RFC demands"),
        (Status.NOT_SUPPORTED, "What is not supported"),
    ):
        found = [each for each in report.results if each.status is status]
        if found:
            parts.append(f"<h2>{title}</h2>\n")
            parts += [_card(each, names) for each in found]
    parts.append('<h2 id="all">All checks</h2>\n')
    parts.append(_table(report.results))
    parts.append(
        '<p class="facts">Times in UTC. What proves a password is blotted out. '
        "Made by pjsip-py conformance.</p>\n"
    )
    return page(f"Conformance of {target.registrar}", "".join(parts), style=_STYLE)


def _counts(report: Report) -> str:
    items = "".join(
        f'<li class="{_css(each)}"><b>{report.count(each)}</b>{each.value}</li>' for each in Status
    )
    return f'<ul class="counts">{items}</ul>\n'


def _index(report: Report) -> str:
    """The failures by name, and the way past their ladders."""
    links = "".join(
        f'<li><a href="#{each.check.id}"><code>{each.check.id}</code></a> {_text(each.reason)}</li>'
        for each in report.failed
    )
    count = len(report.results)
    return f'<ul class="index">{links}</ul>\n<p><a href="#all">All {count} checks</a></p>\n'


def _card(result: Result, names: Mapping[str, str]) -> str:
    check = result.check
    is_open = " open" if result.status is Status.FAIL else ""
    rows = [("must be so", _text(check.rule))] if check.rule != check.title else []
    rows += [
        ("what came", f'<span class="why">{_text(result.reason)}</span>'),
        ("see", _links(check.sections)),
    ]
    if result.attempts > 1:
        rows.append(("tried", f"{result.attempts} times: messages were lost"))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<details class="check {_css(result.status)}" id="{check.id}"{is_open}>'
        f"<summary><b>{_text(check.title)}</b> <code>{check.id}</code></summary>"
        f"<dl>{facts}</dl>{ladder(result, names).to_fragment() if result.exchange else ''}"
        "</details>\n"
    )


def ladder(result: Result, names: Mapping[str, str] | None = None) -> Ladder:
    """The messages of a check as a picture, with what was wrong at its end."""
    made = Ladder(names=names)
    for each in result.exchange:
        made.add(captured(each))
    if result.exchange and result.reason:
        made.note(
            result.reason, result.exchange[-1].time + 1e-6, failure=result.status is Status.FAIL
        )
    return made


def captured(message: Message) -> CapturedMessage:
    """A message as :mod:`pjsip_py.pcap` and :mod:`pjsip_py.ladder` have them."""
    return CapturedMessage(
        message.time,
        message.protocol,
        _where(message.source),
        _where(message.destination),
        message.data,
    )


def _table(results: Iterable[Result]) -> str:
    rows = []
    for result in results:
        check, status = result.check, result.status
        has_card = status in (Status.FAIL, Status.NOT_SUPPORTED)
        name = f'<a href="#{check.id}">{check.id}</a>' if has_card else check.id
        why = f"<small>{_text(result.reason)}</small>" if result.reason else ""
        rows.append(
            f'<tr class="{_css(status)}"><td>{_MARKS[status]} {status.value}</td>'
            f"<td><code>{name}</code></td><td>{_text(check.title)}{why}</td>"
            f'<td class="rfc">{_links(check.sections, "<br>")}</td></tr>\n'
        )
    return (
        "<table><thead><tr><th>Result</th><th>Check</th><th>What must be so</th><th>RFC</th></tr>"
        f"</thead><tbody>\n{''.join(rows)}</tbody></table>\n"
    )


def _links(sections: Iterable[str], between: str = ", ") -> str:
    made = []
    for text in sections:
        found = _SECTION.match(text)
        assert found, text
        number, section = found.groups()
        url = f"https://www.rfc-editor.org/rfc/rfc{number}#section-{section.rstrip('.')}"
        made.append(f'<a href="{url}">{escape(text)}</a>')
    return between.join(made)


def _css(status: Status) -> str:
    return status.value.replace(" ", "-")


def _text(text: str) -> str:
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text), quote=True)


def write(report: Report, path: str | PathLike[str], kind: str) -> None:
    """Write ``"junit"`` or ``"html"`` into a file; :raises OSError: it cannot be written."""
    text = junit(report) if kind == "junit" else html(report)
    with open(fspath(path), "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(text)
