# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a run: every test, those that failed first, each with its ladder."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

import pytest

from pjsip_py import ladder

ORDER = ("error", "failed", "xpassed", "passed", "xfailed", "skipped")
SMALL = 12  # messages, of a ladder that needs no filter
MESSAGE = 4000  # characters of what a failure says


@dataclass
class Row:
    """One test, as its reports tell."""

    nodeid: str
    outcome: str = ""
    duration: float = 0.0
    #: Phase, place and text of each failure; why it was skipped.
    said: list[tuple[str, str]] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)
    messages: int = 0
    ladder: str = ""
    pcap: str = ""

    def add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if getattr(report, "when", "") == "setup":  # the first, also of another try
            self.__init__(self.nodeid)  # type: ignore[misc]
        self.duration += getattr(report, "duration", 0.0)
        outcome = outcome_of(report)
        if outcome and (not self.outcome or ORDER.index(outcome) < ORDER.index(self.outcome)):
            self.outcome = outcome
        if report.failed or report.skipped:
            phase = getattr(report, "when", None) or "collection"
            said = _said(report)
            self.said.append((phase if phase != "call" else "", said[:MESSAGE]))
            # The messages are in the ladder; what a test prints is nobody's who reads the page.
            self.sections += [
                (title, text)
                for title, text in report.sections
                if title.startswith("SIP ") and title != "SIP messages"
            ]
        found = getattr(report, "sip_run", {})
        self.messages = found.get("messages", self.messages)
        self.ladder = found.get("ladder", self.ladder)
        self.pcap = found.get("pcap", self.pcap)


def outcome_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """As pytest counts; '' for a setup or teardown that is as it should be."""
    when = getattr(report, "when", "collect")
    if report.failed:
        return "error" if when in ("setup", "teardown", "collect") else "failed"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.skipped:
        return "skipped"
    return "passed" if report.passed and when == "call" else ""


def _said(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The error and its place, without the source around it, which may have passwords in it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        ours = Path(crash.path).parent == Path(__file__).parent
        place = "" if ours else f"\n\n{os.path.relpath(crash.path)}:{crash.lineno}"
        return f"{crash.message.removeprefix('Failed: ')}{place}"
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longrepr or "")


def write_page(path: Path, rows: Sequence[Row], began: float, ended: float) -> None:
    """:raises OSError: it cannot be written; what was there before is then still there."""
    inside = body(rows, path.parent, began, ended)
    text = ladder.page("SIP tests", inside, style=_STYLE, script=_SCRIPT)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, "utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def body(rows: Sequence[Row], folder: Path, began: float, ended: float) -> str:
    """:param folder: where the page is, which links begin from"""
    rows = sorted(rows, key=lambda row: ORDER.index(row.outcome or "error"))
    counts = Counter(row.outcome or "error" for row in rows)
    boxes = "".join(
        f'<label class="o-{outcome}"><input type="checkbox" name="{outcome}" checked>'
        f"{counts[outcome]} {_plural(outcome, counts[outcome])}</label>"
        for outcome in ORDER
        if counts[outcome]
    )
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(began))
    exchanges = sum(row.messages for row in rows)
    return (
        "<h1>SIP tests</h1>\n"
        f"<p class=run-head>{len(rows)} test{_s(len(rows))}, {exchanges} SIP message{_s(exchanges)}"
        f", {ended - began:.1f} s, begun {when}</p>\n"
        "<form class=run-form hidden>"
        '<input type="search" name="text" placeholder="Filter tests" aria-label="Filter tests">'
        f"{boxes}"
        '<label><input type="checkbox" name="sip">only with SIP messages</label>'
        '<button type="button" name="all">Open all</button><output></output></form>\n'
        + ("".join(_test(row, folder) for row in rows) or "<p>No test was run.</p>\n")
    )


def _test(row: Row, folder: Path) -> str:
    outcome = row.outcome or "error"
    opened = " open" if outcome in ("failed", "error") else ""
    small = " run-small" if row.messages <= SMALL else ""
    facts = [f"{row.duration:.2f} s"]
    if row.messages:
        facts.append(f"{row.messages} message{_s(row.messages)}")
    parts = []
    for phase, text in row.said:
        heading = f"<h3>{escape(phase)}</h3>" if phase else ""
        parts.append(f"{heading}<pre class=run-said>{escape(text)}</pre>")
    for title, text in row.sections:
        parts.append(f"<h3>{escape(title)}</h3><pre>{escape(text)}</pre>")
    parts.append(row.ladder)
    if row.pcap:
        link = quote(os.path.relpath(row.pcap, folder))
        parts.append(f'<p><a class=run-pcap href="{link}">{escape(Path(row.pcap).name)}</a></p>')
    inside = "\n".join(filter(None, parts)) or "<p>No SIP messages.</p>"
    where, _, name = row.nodeid.rpartition("::")
    return (
        f'<details class="run-test o-{outcome}{small}" data-outcome="{outcome}" '
        f'data-sip="{int(bool(row.messages))}"{opened}>'
        f"<summary><b>{outcome}</b><span><small>{escape(where)}{'::' if where else ''}</small>"
        f"{escape(name)}</span><i>{', '.join(facts)}</i></summary>\n"
        f"<div>{inside}</div></details>\n"
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _plural(outcome: str, count: int) -> str:
    return f"error{_s(count)}" if outcome == "error" else outcome


_STYLE = """\
.run-head{color:var(--dim);margin:.25rem 0 1rem}
.run-form{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:0 0 1rem}
.run-form input[type=search],.run-form button{font:inherit;color:inherit;background:var(--box);
border:1px solid var(--line);border-radius:6px;padding:.3rem .6rem}
.run-form input[type=search]{flex:1 1 14rem;max-width:24rem}
.run-form label{display:inline-flex;gap:.35rem;align-items:center;color:var(--o,inherit)}
.o-failed,.o-error,.o-xpassed{--o:var(--failure)}.o-passed{--o:var(--success)}
.o-skipped,.o-xfailed{--o:var(--challenge)}
.run-test{border:1px solid var(--line);border-left:4px solid var(--o);border-radius:6px;
margin:0 0 .5rem}
.run-test>summary{display:flex;gap:.75rem;align-items:baseline;padding:.5rem .75rem;cursor:pointer;
list-style:none}
.run-test>summary::-webkit-details-marker{display:none}
.run-test>summary:hover{background:var(--box)}
.run-test>summary b{color:var(--o);flex:0 0 4rem;font-weight:600}
.run-test>summary span{flex:1;overflow-wrap:anywhere}
.run-test>summary small{color:var(--dim);font-size:inherit}
.run-test>summary i{font-style:normal;color:var(--dim);white-space:nowrap;font-size:.85rem}
.run-test>div{padding:.25rem .75rem .75rem;overflow-x:auto}
.run-test h3{font-size:.9rem;margin:.75rem 0 .25rem;color:var(--dim)}
.run-test>div>pre{background:var(--box);border:1px solid var(--line);border-radius:6px;
max-width:calc(100vw - 4rem)}
.run-test .run-said{border-left:4px solid var(--o)}
.run-pcap{color:var(--request);font-size:.85rem;overflow-wrap:anywhere}
.run-test .sip{margin:.75rem 0 .5rem}
.run-small .sip :is(form,.key,p:last-child){display:none}
.run-test>summary::before{content:"\\25b8";color:var(--dim)}
.run-test[open]>summary::before{content:"\\25be"}
"""

_SCRIPT = """\
{
const form = document.querySelector(".run-form");
const tests = [...document.querySelectorAll(".run-test")];
const {text, sip, all} = form.elements, told = form.querySelector("output");
const show = () => {
  const words = text.value.toLowerCase();
  let count = 0;
  for (const test of tests) {
    const fits = form.elements[test.dataset.outcome].checked
      && (!sip.checked || test.dataset.sip === "1")
      && (!words || test.textContent.toLowerCase().includes(words));
    test.hidden = !fits;
    count += fits;
  }
  told.textContent = count === tests.length ? "" : `${count} of ${tests.length} shown`;
};
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
all.addEventListener("click", () => {
  const open = tests.some(test => !test.hidden && !test.open);
  for (const test of tests) if (!test.hidden) test.open = open;
  all.textContent = open ? "Close all" : "Open all";
});
form.hidden = false;
show();
}
"""
