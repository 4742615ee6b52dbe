# SPDX-License-Identifier: GPL-3.0-or-later
"""A result as a page of HTML: one file, which needs no network."""

from __future__ import annotations

import html
import io
import math
import platform
import re
import time
from collections.abc import Callable
from string import Template
from typing import Any

import pjsip_py as pjsip

from .tally import PERCENTILES, Second
from .verdict import Result, number
from .words import milliseconds, share

# Matplotlib writes these into the SVG; there they become the page's own colours.
_INK, _FAINT = "#010203", "#010204"
_COLOURS = {_INK: "var(--ink)", _FAINT: "var(--line)"}
# Readable on white and on black.
BLUE, GREEN, RED, AMBER, VIOLET = "#2f81f7", "#2da44e", "#e5534b", "#c69026", "#986ee2"
_STACK = (RED, AMBER, VIOLET, BLUE, "#768390")
_POINTS = 1200  # on a line at most

Draw = Callable[[Any], None]


def check_plots() -> None:
    """:raises ModuleNotFoundError: matplotlib is not installed."""
    import matplotlib  # noqa: F401


def page(result: Result) -> str:
    load = result.load
    verdict = "passed" if result.passed else "failed"
    facts = {
        "Registrar": result.plan.registrar,
        "Plan": str(result.plan),
        "Sources": ", ".join(t.address for t in load.transports) or "as the route says",
        "Window": str(result.plan.window),
        "Began": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(load.began_wall)),
        "Ran": f"{number(load.ran)} s, {load.ended}",
        "Held back": ", ".join(f"{k} {v:.0%}" for k, v in result.held_back.items()) or "never",
        "This program": f"pjsip_py {pjsip.__version__}, PJSIP {_pjsip_version()}, "
        f"Python {platform.python_version()}, {platform.machine()}",
    }
    return _PAGE.substitute(
        title=html.escape(f"Load on {result.plan.registrar}"),
        verdict=verdict,
        tiles="".join(_tile(*each) for each in _tiles(result)),
        thresholds=_table(
            ("Fails if", "It was", ""),
            [
                (
                    each.threshold.text,
                    str(each).partition(": ")[2],
                    "passed" if each.passed else "failed",
                )
                for each in result.judgements
            ],
        ),
        remarks="".join(f"<p class=failed>{html.escape(each)}</p>" for each in result.remarks()),
        plots="".join(_figure(*each, load.seconds[-1].at) for each in _plots(result)),
        percentiles=_table(("", *(f"p{p:g}" for p in PERCENTILES), "mean", "max"), _times(result)),
        failures=_failures(result),
        facts=_table(("", ""), list(facts.items())),
    )


def _pjsip_version() -> str:
    return str(pjsip.build_info()["pjsip_version"])


# -- figures --------------------------------------------------------------------------------------


def _tiles(result: Result) -> list[tuple[str, str, str]]:
    registers = result.load.registers
    offered = "" if result.offered is None else f"of {number(result.offered)}/s offered"
    failed = share(result.errors, result.outcomes) if result.errors else ""
    tiles = [
        ("registrations", str(registers.ok), f"of {result.load.started} begun"),
        ("a second", number(result.rate), offered),
        ("errors", str(result.errors), failed),
        ("median", milliseconds(registers.percentile(50)), "registration"),
        ("p99", milliseconds(registers.percentile(99)), "registration"),
    ]
    if result.plan.keep:
        kept = str(result.load.registered_at_end)
        tiles.append(("registered", kept, f"of {len(result.plan.users)} at the end"))
    return tiles


def _tile(title: str, value: str, detail: str) -> str:
    value, detail = html.escape(value), html.escape(detail)
    return f"<div class=tile><b>{value}</b><span>{title}</span><small>{detail}</small></div>"


def _times(result: Result) -> list[tuple[str, ...]]:
    rows = []
    for kind, tally in result.tallies.items():
        if tally.histogram.total_count:
            times = [tally.percentile(p) for p in PERCENTILES] + [tally.mean, tally.percentile(100)]
            rows.append((kind, *map(milliseconds, times)))
    return rows


def _failures(result: Result) -> str:
    if not result.failures:
        return "<p>None.</p>"
    return _table(
        ("Count", "Share", "Request", "Answer", "Class"),
        [
            (
                str(count),
                share(count, result.outcomes),
                failure.kind,
                f"{'' if failure.local else failure.code} {failure.reason}".strip(),
                failure.error,
            )
            for failure, count in result.failures.most_common()
        ],
    )


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        marks = {"passed": " class=passed", "failed": " class=failed"}
        return "".join(f"<{tag}{marks.get(x, '')}>{html.escape(x)}</{tag}>" for x in cells)

    head = f"<thead><tr>{row(header, 'th')}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"


# -- plots ----------------------------------------------------------------------------------------


def _plots(result: Result) -> list[tuple[str, Draw]]:
    seconds = result.load.seconds
    at = [each.at for each in seconds]

    def line(axes: Any, values: list[Any], colour: str, label: str, **style: Any) -> None:
        step = max(1, len(at) // _POINTS)
        shown = [math.nan if v is None else v for v in values]
        style["marker"] = "o" if len(at) < 3 else ""
        axes.plot(at[::step], shown[::step], ms=4, color=colour, label=label, **style)

    def rates(axes: Any) -> None:
        offered = [s.offered for s in seconds]
        if any(offered):
            line(axes, offered, _INK, "offered", dashes=(4, 3), lw=1, zorder=3)
        line(axes, [s.started for s in seconds], AMBER, "begun")
        line(axes, [s.ok for s in seconds], GREEN, "registered")
        if any(s.refreshed for s in seconds):
            line(axes, [s.refreshed for s in seconds], BLUE, "refreshed")
        axes.set_ylabel("a second")

    def times(axes: Any) -> None:
        for name, colour, values in (
            ("max", RED, [s.longest for s in seconds]),
            ("p99", AMBER, [s.p99 for s in seconds]),
            ("p95", VIOLET, [s.p95 for s in seconds]),
            ("p50", BLUE, [s.p50 for s in seconds]),
        ):
            line(axes, [None if v is None else v * 1000 for v in values], colour, name)
        axes.set_ylabel("ms")
        if any(s.longest for s in seconds):
            axes.set_yscale("log")

    def errors(axes: Any) -> None:
        labels = sorted({label for s in seconds for label in s.failed})
        if not labels:
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
            axes.set_yticks([])
            return
        names = _busiest(labels, seconds)
        stack = [[s.failed.get(name, 0.0) for s in seconds] for name in names]
        rest = [sum(s.failed.values()) for s in seconds]
        if len(names) < len(labels):
            stack.append([all_ - sum(of) for all_, *of in zip(rest, *stack, strict=True)])
            names.append("other")
        width = max(at) / max(1, len(at)) * 0.9
        base = [0.0] * len(at)
        for name, values, colour in zip(names, stack, _STACK, strict=False):
            axes.bar(at, values, -width, bottom=base, align="edge", color=colour, label=name)
            base = [b + v for b, v in zip(base, values, strict=True)]
        axes.set_ylabel("a second")

    def flight(axes: Any) -> None:
        window = result.plan.window
        if result.load.most_in_flight > window / 4:
            line(axes, [window] * len(at), _INK, "window", dashes=(4, 3), lw=1)
        line(axes, [s.in_flight for s in seconds], AMBER, "in flight")

    def registered(axes: Any) -> None:
        line(axes, [s.registered for s in seconds], GREEN, "")

    def machine(axes: Any) -> None:
        line(axes, [100 * s.cpu for s in seconds], VIOLET, "processor, % of one")
        line(axes, [s.rss / 1e6 for s in seconds], BLUE, "memory, MB")

    plots: list[tuple[str, Draw]] = [
        ("Rate", rates),
        ("Time from REGISTER to outcome, in each second", times),
        ("Errors", errors),
        ("In flight", flight),
        ("Time by percentile", lambda axes: _percentiles(axes, result)),
        ("This program", machine),
    ]
    if result.plan.keep or result.plan.churn is not None:
        plots.insert(4, ("Registered", registered))
    return plots


def _busiest(labels: list[str], seconds: list[Second]) -> list[str]:
    """The labels that have most errors, as many as there are colours but one."""
    totals = {label: sum(s.failed.get(label, 0.0) for s in seconds) for label in labels}
    ordered = sorted(labels, key=lambda label: -totals[label])
    return ordered if len(ordered) <= len(_STACK) else ordered[: len(_STACK) - 1]


def _percentiles(axes: Any, result: Result) -> None:
    """Over the logarithm of what is slower still, as HdrHistogram draws them."""
    slowest = 1.0
    for (kind, tally), colour in zip(result.tallies.items(), (BLUE, GREEN, VIOLET), strict=True):
        total = tally.histogram.total_count
        if not total:
            continue
        digits = max(1.0, math.log10(total))
        slowest = max(slowest, digits)
        shares = [digits * n / 200 for n in range(201)]
        times = [tally.percentile(100 - 100 / 10**x) for x in shares]
        axes.plot(shares, [1000 * (t or 0) for t in times], color=colour, label=kind)
    marks = [0.0, math.log10(2), *range(1, int(slowest) + 1)]
    axes.set_xticks(marks, [f"{100 - 100 / 10**x:.10g}" for x in marks])
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms")
    if axes.lines:
        axes.set_yscale("log")


def _figure(title: str, draw: Draw, until: float) -> str:
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>{_svg(title, draw, until)}</figure>"
    )


def _svg(title: str, draw: Draw, until: float) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # ids that differ from those of the other plots
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _FAINT,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(6.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel("s")
        axes.set_xmargin(0)
        draw(axes)
        if axes.get_xlabel() == "s":
            axes.set_xlim(0, math.ceil(until * 5) / 5)
        if axes.get_yscale() == "log":
            low, high = axes.get_ylim()
            if high / low < 30:
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper right", ncols=6, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its size is the page's to say; the fonts and colours, too.
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1 role=img>", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg


_PAGE = Template("""\
<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --font: system-ui, sans-serif;
  --ink: #1f2328; --paper: #fff; --box: #f6f8fa; --line: #d1d9e0; --good: #1a7f37; --bad: #cf222e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --paper: #0d1117; --box: #161b22; --line: #3d444d; --good: #3fb950;
    --bad: #ff7b72;
  }
}
body { font: 15px/1.5 var(--font); color: var(--ink); background: var(--paper);
       max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
h1 span { font-size: 1rem; border: 1px solid; border-radius: 1em; padding: 0 .8em; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.passed { color: var(--good); } .failed { color: var(--bad); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tile { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
        padding: .6rem 1rem; flex: 1 1 9rem; display: flex; flex-direction: column; }
.tile b { font-size: 1.5rem; font-weight: 600; white-space: nowrap; }
.tile small { opacity: .75; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
         gap: 1rem; }
figure { margin: 0; background: var(--box); border: 1px solid var(--line); border-radius: 6px;
         padding: .75rem; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .25rem 1.25rem .25rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
@media print { body { margin: 0; } figure { break-inside: avoid; } }
</style>
<h1>$title <span class=$verdict>$verdict</span></h1>
<div class=tiles>$tiles</div>
$remarks
<h2>Thresholds</h2>
$thresholds
<h2>Course</h2>
<div class=plots>$plots</div>
<h2>Times</h2>
$percentiles
<h2>Errors</h2>
$failures
<h2>What was run</h2>
$facts
</html>
""")
