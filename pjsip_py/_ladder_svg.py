# SPDX-License-Identifier: GPL-3.0-or-later
"""A ladder as SVG."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from .ladder import STYLES, Picture, Row, clock, date, duration, printable, since

_ROW, _HEAD, _MARGIN = 40, 58, 16
_NARROW, _WIDE = 270, 420  # px between lifelines, as their addresses need
_REPEAT = 25  # rows after which the names of the lifelines stand again
_SEPARATOR = " \u00b7 "
_WIDEST = 900  # px that a note may ask for

_STYLE = """\
.sip-ladder{font:13px system-ui,sans-serif;--ink:#1f2328;--paper:#fff;--dim:#59636e;--line:#d1d9e0;
--box:#f6f8fa;--request:#0a58ca;--provisional:#59636e;--success:#1a7f37;--redirect:#8250df;
--challenge:#7d5c00;--failure:#cf222e}
@media(prefers-color-scheme:dark){.sip-ladder{--ink:#e6edf3;--paper:#0d1117;--dim:#9198a1;
--line:#3d444d;--box:#161b22;--request:#6cb6ff;--provisional:#9198a1;--success:#3fb950;
--redirect:#b083f0;--challenge:#c9a227;--failure:#ff7b72}}
.sip-ladder text{fill:var(--ink)}
.sip-ladder .dim{fill:var(--dim);font-size:11px}
.sip-ladder .life{stroke:var(--line)}
.sip-ladder .box{fill:var(--box);stroke:var(--line)}
.sip-ladder .paper{fill:var(--paper)}
.sip-ladder .b{font-weight:600}
.sip-ladder .again{stroke-dasharray:5 4}
""" + "".join(
    f".sip-ladder .{name}{{color:var(--{name})}}.sip-ladder .{name} .b{{fill:var(--{name})}}\n"
    for name in STYLES
)


def _width(text: str, css: str = "") -> float:
    """How wide a text is drawn at most; nobody knows whose font it will be."""
    narrow = sum(c in " .,:;|!'ijl()[]/" for c in text)
    wide = sum(c.isupper() or c in "@mwMW\u2014" or c > "\u00ff" for c in text)
    middle = len(text) - narrow - wide
    each = 5 * narrow + 10 * wide + 8 * middle
    return each * {"b": 1.12, "dim": 0.85}.get(css, 1)


def _cut(text: str, css: str, room: float) -> str:
    if _width(text, css) <= room:
        return text
    while len(text) > 2 and _width(text, css) > room - 11:
        text = text[: min(len(text) - 1, int(room / 3))]
    return text + "\u2026"


def _text(
    x: float, y: float, text: str, css: str = "", anchor: str = "start", room: float = 1e9
) -> str:
    text = _cut(printable(text), css, room)
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        + (f' class="{css}"' if css else "")
        + f">{escape(text)}</text>"
    )


class _Grid(NamedTuple):
    """Where the lifelines are."""

    times: float
    lane: float

    def x(self, lane: int) -> float:
        return self.times + self.lane * (lane + 0.5)


def _grid(picture: Picture) -> _Grid:
    wanted = [_width(lane.addresses[0], "b") + 50 for lane in picture.lanes]
    if len(picture.lanes) < 4:  # there is room for all particulars
        for row in picture.rows:
            span = abs(row.target - row.source) or 1
            wanted.append((_width(_SEPARATOR.join(row.details), "dim") + 40) / span)
    ends = [since(row.time - picture.start) for row in picture.rows]
    times = 124 + _width(max(ends, key=len, default=""), "dim")
    return _Grid(round(times), round(min(max(_NARROW, *wanted, 0), _WIDE)))


def _heads(picture: Picture, grid: _Grid, y: float) -> list[str]:
    parts = []
    for number, lane in enumerate(picture.lanes):
        x, room = grid.x(number), grid.lane - 24
        more = f" +{len(lane.addresses) - 1}" if len(lane.addresses) > 1 else ""
        address = lane.addresses[0]
        every = escape(printable("\n".join(lane.addresses[:20])))
        parts.append(f"<g><title>{every}</title>")
        parts.append(
            f'<rect class="box" x="{x - grid.lane / 2 + 8:g}" y="{y:g}" width="{grid.lane - 16:g}"'
            f' height="{_HEAD - 18}" rx="6"/>'
        )
        if lane.name:
            parts.append(_text(x, y + 17, lane.name, "b", "middle", room))
            parts.append(_text(x, y + 33, address + more, "dim", "middle", room))
        else:
            parts.append(_text(x, y + 25, address + more, "b", "middle", room))
        parts.append("</g>")
    return parts


def _arrow(row: Row, grid: _Grid, y: float) -> list[str]:
    a, b = grid.x(row.source), grid.x(row.target)
    line = y + 22
    parts = [f'<g class="{row.style}"><title>{escape(printable(row.path))}\n\n']
    parts.append(f"{escape(printable(row.text))}</title>")
    css = ' class="again"' if row.again else ""
    width = 3 if row.style == "failure" else 2
    if row.source == row.target:
        parts.append(
            f'<path d="M{a:g} {line - 8:g}h40v14h-32" fill="none" stroke="currentColor"'
            f' stroke-width="{width}"{css}/>'
        )
        tip, way, middle, anchor, room = a, -1, a + 48, "start", grid.lane / 2 - 48
    else:
        way = 1 if b > a else -1
        parts.append(
            f'<path d="M{a:g} {line:g}H{b - way * 8:g}" stroke="currentColor"'
            f' stroke-width="{width}"{css}/>'
        )
        tip, middle, anchor, room = b, (a + b) / 2, "middle", abs(b - a) - 20
    at = line + (6 if row.source == row.target else 0)
    parts.append(
        f'<path d="M{tip:g} {at:g}l{-way * 10} -5v10z" fill="currentColor" stroke="none"/>'
    )
    mark = "\u2717 " if row.style == "failure" else ""
    parts.append(_text(middle, y + 16, mark + row.label, "b", anchor, room))
    parts.append(_text(middle, y + 35, _SEPARATOR.join(row.details), "dim", anchor, room))
    return [*parts, "</g>"]


def svg(picture: Picture) -> str:
    """The whole picture, one ``<svg>`` element."""
    grid = _grid(picture)
    notes = (_width(row.label, "b") for row in picture.rows if row.kind == "note")
    right = max(grid.lane * len(picture.lanes), min(max(notes, default=0) + 70, _WIDEST), 400)
    width = grid.times + right + _MARGIN
    room = right - 36
    parts: list[str] = []
    y = float(_MARGIN)
    title = picture.title or "SIP ladder"
    parts.append(_text(_MARGIN, y + 14, title, "b", room=width - 2 * _MARGIN))
    parts.append(_text(_MARGIN, y + 32, summary(picture), "dim", room=(width - 32)))
    y += 46
    top = y
    heads = _heads(picture, grid, y)
    y += _HEAD
    body: list[str] = []
    messages = 0
    for row in picture.rows:
        if row.kind == "message":
            if messages and messages % _REPEAT == 0:
                heads += _heads(picture, grid, y)
                y += _HEAD
            messages += 1
        if row.kind == "gap":
            body.append(_text(grid.times - 12, y + 15, f"\u22ee {row.label}", "dim", "end"))
            y += 24
            continue
        body.append(_text(_MARGIN, y + 20, clock(row.time), "dim"))
        body.append(_text(grid.times - 12, y + 20, since(row.time - picture.start), "dim", "end"))
        if row.kind == "message":
            body += _arrow(row, grid, y)
            y += _ROW
        else:
            mark = "\u2717 " if row.style == "failure" else ""
            text = mark + " ".join(row.label.split())
            css = "b" if row.style == "failure" else ""
            wide = min(room, _width(text, css)) + 24
            body.append(
                f'<g class="{row.style}"><title>{escape(printable(row.label))}</title>'
                f'<rect class="box" x="{grid.times + 8:g}" y="{y + 5:g}" width="{wide:g}"'
                ' height="22" rx="11"/>'
                + _text(grid.times + 20, y + 20, text, css, room=room)
                + "</g>"
            )
            y += 32
    if not picture.rows:
        body.append(_text(_MARGIN, y, "no messages"))
    bottom = y + 8
    lines = [
        f'<path class="life" d="M{grid.x(number):g} {top + _HEAD - 18:g}V{bottom:g}"/>'
        for number in range(len(picture.lanes))
    ]
    y = bottom + 22
    x = float(_MARGIN)
    legend = []
    for name, meaning in picture.legend:
        wide = 30 + _width(meaning, "dim")
        if x + wide > width and x > _MARGIN:
            x, y = float(_MARGIN), y + 20
        legend.append(
            f'<g class="{name}"><path d="M{x:g} {y - 4:g}h20" stroke="currentColor"'
            f' stroke-width="3"/>{_text(x + 26, y, meaning, "dim")}</g>'
        )
        x += wide + 8
    y += 20
    dashed = " Dashed: sent again." if any(row.again for row in picture.rows) else ""
    told = f"Times in UTC.{dashed} What proves a password is blotted out."
    legend.append(_text(_MARGIN, y, told, "dim"))
    height = y + _MARGIN
    description = escape(printable(f"{title}: {summary(picture)}"), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sip-ladder" role="img"'
        f' aria-label="{description}" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}">\n<title>{escape(printable(title))}</title>\n'
        f"<desc>{escape(printable(_words(picture)))}</desc>\n"
        f"<style>{_STYLE}</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n'
        + "\n".join([*lines, *parts, *heads, *body, *legend])
        + "\n</svg>\n"
    )


def summary(picture: Picture) -> str:
    """``4 messages, 1 failure, 2026-01-01 12:00:00.000 UTC, 1.2 ms``."""
    if not picture.rows:
        return "no messages"
    parts = [_count(picture.messages, "message")]
    if picture.failures:
        parts.append(_count(picture.failures, "failure"))
    if picture.omitted:
        parts.append(f"{picture.omitted} older ones left out")
    parts.append(f"{date(picture.start)} {clock(picture.start)} UTC")
    parts.append(duration(picture.rows[-1].time - picture.start))
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _words(picture: Picture) -> str:
    """The picture for those who cannot see it."""
    names = [lane.name or lane.addresses[0] for lane in picture.lanes]
    return "; ".join(
        f"{since(row.time - picture.start)} {names[row.source]} to {names[row.target]}: {row.label}"
        if row.kind == "message"
        else f"{since(row.time - picture.start)} {row.label}"
        for row in picture.rows[:200]
        if row.kind != "gap"
    )
