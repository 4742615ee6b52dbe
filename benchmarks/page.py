# SPDX-License-Identifier: GPL-3.0-or-later
"""The page: the part of docs/benchmarks.md between the marks, and its pictures in docs/img."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plots import draw, pictures
from report import Figures, goal_text, number, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN = "<!-- begin: written by scripts/bench --page -->"
END = "<!-- end -->"
PREFIX = "bench-"


def write_page(figures: dict[str, Any], page: Path = PAGE) -> list[Path]:
    """The files written. What is outside the marks stays."""
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} needs the lines\n{BEGIN}\n{END}\nfor the figures to go between")
    folder = page.parent / "img"
    folder.mkdir(exist_ok=True)
    drawn = pictures(figures["rows"])
    contents = {folder / f"{PREFIX}{picture.name}.svg": draw(picture) for picture in drawn}
    for stale in set(folder.glob(f"{PREFIX}*.svg")) - set(contents):
        stale.unlink()
    for file, content in contents.items():
        file.write_bytes(content)
    page.write_text(f"{before}{BEGIN}\n\n{section(figures)}\n\n{END}{after}", "utf-8")
    return [page, *contents]


def section(figures: dict[str, Any]) -> str:
    rows: list[Figures] = figures["rows"]
    facts = [f"| {name} | {fact} |" for name, fact in figures["machine"].items()]
    parts = [
        f"{figures['time'][:10]}: {figures['repeats']} repeats of {figures['count']} registrations,"
        f" window {figures['window']}.",
        "\n".join(["| machine | |", "|---|---|", *facts]),
    ]
    if goals := [row for row in rows if row["goal"] is not None]:
        parts += ["### Goals", _goals(goals)]
    for picture in pictures(rows):
        image = f"![{picture.text}](img/{PREFIX}{picture.name}.svg)"
        parts += [f"### {picture.title}", image]
    parts += [
        "### All figures",
        "<details>\n<summary>Median, spread and ratio of every row</summary>",
        table(rows),
        "</details>",
    ]
    return "\n\n".join(parts)


def _goals(rows: list[Figures]) -> str:
    lines = ["| measure | peer | reached | goal | met |", "|---|---|---|---|---|"]
    for row in rows:
        if row["goal_is_ratio"]:
            reached = "" if row["ratio"] is None else f"{row['ratio']:.2f} x"
            goal = f"{goal_text(row)} {row['anchor'] or ''}".rstrip()
        else:
            reached = f"{number(row['median'])} {row['unit']}"
            goal = f"{goal_text(row)} {row['unit']}"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        lines.append(f"| {row['measure'].strip()} | {row['peer']} | {reached} | {goal} | {met} |")
    return "\n".join(lines)
