# SPDX-License-Identifier: GPL-3.0-or-later
"""From figures to pictures: what is drawn of which rows, and the drawing, with matplotlib, as SVG.

A row that is missing is not drawn; a picture without rows is none. Of equal figures equal pictures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from report import Figures, number

# --- What is drawn -------------------------------------------------------------------------------


@dataclass
class Bars:
    title: str
    unit: str
    bars: dict[str, tuple[float, float, float]]  # peer -> median, smallest, largest
    goal: float | None = None


@dataclass
class Lines:
    title: str
    unit: str
    along: str  # what x is
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    goal: float | None = None
    percentiles: bool = False  # x is a percentile, drawn by what is left above it


@dataclass
class Picture:
    name: str
    title: str
    text: str  # for who cannot see it
    panels: list[Bars | Lines]


Rows = list[Figures]


def pictures(rows: Rows) -> list[Picture]:
    """All that these rows are enough for."""
    makers = (processor_time, throughput, memory, growth, latency, start_and_end)
    return [picture for picture in (make(rows) for make in makers) if picture]


def processor_time(rows: Rows) -> Picture | None:
    measures = {
        "CPU per registration": "registration",
        "CPU per refresh, register()": "refresh, by register()",
        "CPU per refresh, timer": "refresh, by the timer",
    }
    return _picture(
        "cpu",
        "Processor time",
        "Processor time per registration and per refresh, of each peer",
        [_bars(rows, measure, title) for measure, title in measures.items()],
    )


def throughput(rows: Rows) -> Picture | None:
    text = "Registrations per second of each peer, by the number that is in flight"
    series = _series(rows, "registrations, window")
    windows = {x for points in series.values() for x, _ in points}
    panels: list[Any]
    if len(windows) > 1:
        panels = [Lines("registrations per second", "1/s", "in flight", series)]
    else:
        panels = [
            _bars(rows, f"registrations, window {window:g}", f"window {window:g}")
            for window in windows
        ]
    return _picture("throughput", "Registrations per second", text, panels)


def memory(rows: Rows) -> Picture | None:
    start = "memory per registration, "
    wanted = [m for m in _measures(rows) if m.startswith(start) and not m[len(start) :].isdigit()]
    return _picture(
        "memory",
        "Memory per registration",
        "Resident memory per registration of each peer, idle and in flight",
        [_bars(rows, measure, _thousands(measure.removeprefix(start))) for measure in wanted],
    )


def growth(rows: Rows) -> Picture | None:
    panels = []
    for what, unit in (
        ("CPU per registration", "µs"),
        ("CPU per refresh", "µs"),
        ("memory per registration", "kB"),
    ):
        series = _series(rows, f"{what},")
        if any(len(points) > 1 for points in series.values()):
            panels.append(Lines(what, unit, "accounts", series))
    text = "Processor time and memory per registration of each peer, by the number of accounts"
    return _picture("growth", "With the number of accounts", text, panels)


def latency(rows: Rows) -> Picture | None:
    panels: list[Lines] = []
    for row in rows:
        if row.get("histogram"):
            what = row["measure"].rpartition(",")[0]
            panel = next((panel for panel in panels if panel.title == what), None)
            if panel is None:
                panel = Lines(what, "ms", "percentile", percentiles=True)
                panels.append(panel)
            panel.lines[row["peer"]] = [(p, ms) for p, ms in row["histogram"]["percentiles"]]
    for row in rows:
        if row["measure"].endswith(", p99") and row["goal"] is not None:
            for panel in panels:
                if panel.title == row["measure"].removesuffix(", p99"):
                    panel.goal = row["goal"]
    text = "How late a program hears, at 1,000 registrations a second, by percentile"
    return _picture("latency", "Latency at 1,000 registrations a second", text, panels)


def start_and_end(rows: Rows) -> Picture | None:
    wanted = ["import", "open to first REGISTER", "close, unregisters 1"]
    return _picture(
        "start",
        "Start and end",
        "Milliseconds to import, to the first REGISTER, and to close, of each peer",
        [_bars(rows, measure, measure) for measure in wanted],
    )


def _picture(name: str, title: str, text: str, panels: Iterable[Any]) -> Picture | None:
    found = [panel for panel in panels if panel]
    return Picture(name, title, text, found) if found else None


def _measures(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["measure"] for row in rows))


def _thousands(text: str) -> str:
    return re.sub(r"\d+", lambda found: f"{int(found[0]):,}", text)


def _bars(rows: Rows, measure: str, title: str) -> Bars | None:
    bars: dict[str, tuple[float, float, float]] = {}
    unit, goal = "", None
    for row in rows:
        # A peer has a second row where it is compared with a second anchor.
        if row["measure"] != measure or row["peer"] in bars:
            continue
        bars[row["peer"]] = (row["median"], row["min"], row["max"])
        unit = row["unit"]
        if row["goal"] is not None and goal is None:
            goal = row["goal"]
            if row["goal_is_ratio"]:
                goal = goal * bars[row["anchor"]][0] if row["anchor"] in bars else None
    return Bars(title, unit, bars, goal) if bars else None


def _series(rows: Rows, start: str) -> dict[str, list[tuple[float, float]]]:
    """Peer -> (parameter, median), of the measures that are *start* and the parameter."""
    series: dict[str, dict[float, float]] = {}
    for row in rows:
        x = row["parameter"]
        if x is not None and row["measure"] == f"{start} {x:.0f}":
            series.setdefault(row["peer"], {}).setdefault(x, row["median"])
    return {peer: sorted(points.items()) for peer, points in series.items()}


# --- The drawing ---------------------------------------------------------------------------------

# A grey that stands out 4:1 from white and from GitHub's night alike; nothing has a background.
INK = "#76797f"
GOAL = "#2da44e"
COLOURS = {
    "C regc, stock": "#a0a6ad",
    "C regc, ours": "#6e7781",
    "pjsip_py client": "#6cb6ff",
    "pjsip_py account": "#1f75cb",
    "pjsip_py account, manual": "#3f8fdd",
    "pjsip_py account, asyncio": "#529be0",
    "PJSUA2": "#e16f24",
    "baresip-python": "#a475f9",
    "SIPp": "#c9a227",
}
OTHER_COLOURS = ("#d4618c", "#3fa796", "#8f7a5b")
WIDTH = 8.6  # inches
STYLE: dict[str, Any] = {
    "svg.hashsalt": "pjsip_py",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    **dict.fromkeys(
        ["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK
    ),
    "grid.color": INK,
}


def colour(peer: str, peers: list[str]) -> str:
    if peer in COLOURS:
        return COLOURS[peer]
    others = [name for name in peers if name not in COLOURS]
    return OTHER_COLOURS[others.index(peer) % len(OTHER_COLOURS)]


def draw(picture: Picture, format: str = "svg") -> bytes:
    """The file's content. *format*: as matplotlib calls it."""
    import matplotlib
    from matplotlib.figure import Figure

    names = [list(p.bars if isinstance(p, Bars) else p.lines) for p in picture.panels]
    peers = list(dict.fromkeys(name for panel in names for name in panel))
    with matplotlib.rc_context(STYLE):
        bars = isinstance(picture.panels[0], Bars)
        height = 1.0 + 0.3 * len(peers) if bars else 3.4
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(1, len(picture.panels), sharey=bars, squeeze=False)[0]
        for panel, axis in zip(picture.panels, axes, strict=True):
            if isinstance(panel, Bars):
                _draw_bars(panel, axis, peers)
            else:
                _draw_lines(panel, axis, peers)
        handles = {
            text: handle
            for axis in axes
            for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        if handles:
            figure.legend(
                handles.values(),
                handles.keys(),
                loc="outside lower center",
                ncols=min(4, len(handles)),
                frameon=False,
            )
        content = io.BytesIO()
        metadata = {"Date": None, "Creator": "pjsip_py", "Title": picture.title}
        options: dict[str, Any] = {"metadata": metadata} if format == "svg" else {"dpi": 110}
        figure.savefig(content, format=format, transparent=True, **options)
    return content.getvalue()


def _draw_bars(panel: Bars, axis: Any, peers: list[str]) -> None:
    places = [peers.index(peer) for peer in panel.bars]
    medians = [median for median, _, _ in panel.bars.values()]
    lows = [max(0.0, median - low) for median, low, _ in panel.bars.values()]
    highs = [max(0.0, high - median) for median, _, high in panel.bars.values()]
    axis.barh(
        places,
        medians,
        height=0.62,
        color=[colour(peer, peers) for peer in panel.bars],
        xerr=[lows, highs],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    ends = {peer: high for peer, (_, _, high) in panel.bars.items()}
    if panel.goal is not None:
        # The goal is ours, nobody else's.
        ours = [peer for peer in panel.bars if peer.startswith("pjsip_py")]
        at = [peers.index(peer) for peer in ours]
        bounds = [place - 0.42 for place in at], [place + 0.42 for place in at]
        axis.vlines([panel.goal] * len(ours), *bounds, color=GOAL, linewidth=2.2, label="goal")
        ends.update({peer: max(ends[peer], panel.goal) for peer in ours})
    highest, smallest = max(ends.values()), min(medians)
    if smallest > 0 and highest / smallest > 50:
        axis.set_xscale("log")
        axis.set_xlim(smallest / 3, highest * 6)
    else:
        axis.set_xlim(0, highest * 1.28 or 1)
    axis.xaxis.set_major_formatter(_plain)
    for place, median, end in zip(places, medians, ends.values(), strict=True):
        axis.annotate(
            number(median),
            (end, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(peers)), peers)
    axis.set_ylim(len(peers) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_title(f"{panel.title} ({panel.unit})" if panel.unit else panel.title)


def _plain(value: float, _: int) -> str:
    return f"{value:,g}"


def _draw_lines(panel: Lines, axis: Any, peers: list[str]) -> None:
    place: Callable[[float], float] = (
        (lambda percentile: 100 / (100 - percentile)) if panel.percentiles else float
    )
    shown: list[float] = []
    for peer, points in panel.lines.items():
        points = [(x, y) for x, y in points if not (panel.percentiles and x >= 100)]
        shown += [y for _, y in points]
        axis.plot(
            [place(x) for x, _ in points],
            [y for _, y in points],
            label=peer,
            color=colour(peer, peers),
            marker=None if panel.percentiles else "o",
            markersize=4,
            linewidth=1.8,
        )
    axis.set_xscale("log")
    axis.set_xlabel(panel.along)
    axis.set_title(f"{panel.title} ({panel.unit})")
    low, high = min(shown), max([*shown, panel.goal or 0])
    if low > 0 and high / low > 20:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, high * 1.1)
    steps = sorted({x for points in panel.lines.values() for x, _ in points})
    if panel.percentiles:
        steps = [p for p in (0, 50, 90, 99, 99.9, 99.99, 99.999) if p <= steps[-2]]
    axis.set_xticks([place(x) for x in steps], [f"{x:,g}" for x in steps])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter(_plain)
    axis.grid(visible=False, axis="x")
    if panel.goal is not None:
        axis.axhline(panel.goal, color=GOAL, linestyle="--", linewidth=1.2)
        axis.plot([place(99)], [panel.goal], marker="v", color=GOAL, linestyle="", label="goal")
