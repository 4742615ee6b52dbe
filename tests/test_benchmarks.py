# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks make of their figures: ratios, goals, the table, the page and its plots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import histogram
import page
import plots
import pytest
import wheels
from hdrh.histogram import HdrHistogram
from measures.bench import Bench
from measures.bench import rows as measured
from peers import Peer, run
from registrar import Registrar
from report import Row, commands, table
from servers.process import MissingServer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.timeout(60)


def some_rows() -> list[Row]:
    stock = Row("CPU per registration", "C regc, stock", "µs", [100.0, 80.0, 90.0], "c_regc")
    account = Row(
        "CPU per registration",
        "pjsip_py account",
        "µs",
        [90.0, 100.0, 81.0],
        "register.py",
        anchor=stock,
        goal=1.0,
        goal_is_ratio=True,
    )
    rows = [stock, account]
    for window, rate in ((1, 1000.0), (100, 9000.0)):
        c = Row(f"registrations, window {window}", "C regc, stock", "1/s", [2 * rate])
        c.parameter = window
        ours = Row(f"registrations, window {window}", "pjsip_py account", "1/s", [rate])
        ours.parameter, ours.more_is_better = window, True
        ours.anchor, ours.goal, ours.goal_is_ratio = c, 1.0, True
        rows += [c, ours]
    for count in (1000, 10_000):
        row = Row(f"CPU per registration, {count}", "pjsip_py account", "µs", [90.0 + count / 1000])
        row.parameter = count
        rows.append(row)
    rows.append(Row("memory per registration, 1000 idle", "pjsip_py account", "kB", [5.5], goal=6))
    recorded = histogram.histogram([n / 1e6 for n in range(1, 1001)])
    median = Row("answer to handler, p50", "pjsip_py account", "ms", [0.5])
    median.histogram = histogram.merged([recorded, recorded])
    rows += [median, Row("answer to handler, p99", "pjsip_py account", "ms", [0.99], goal=1.0)]
    rows += [
        Row("close, unregisters 1", "pjsip_py account", "ms", [8.0]),
        Row("close, unregisters 1", "PJSUA2", "ms", [1020.0]),
    ]
    return rows


def figures(rows: list[Row]) -> dict[str, Any]:
    return {
        "time": "2026-11-23T01:02:03Z",
        "machine": {"processor": "one, 2 cores"},
        "repeats": 3,
        "count": 5000,
        "window": 100,
        # As from a file.
        "rows": json.loads(json.dumps([row.as_dict() for row in rows])),
    }


# --- Rows ----------------------------------------------------------------------------------------


def test_a_ratio_is_taken_repeat_by_repeat() -> None:
    row = some_rows()[1].as_dict()
    assert (row["median"], row["min"], row["max"]) == (90.0, 81.0, 100.0)
    assert row["ratio"] == 0.9
    assert (row["ratio_min"], row["ratio_max"]) == (0.9, 1.25)
    assert row["anchor"] == "C regc, stock"
    assert row["met"] is True


def test_a_goal_is_the_largest_or_the_smallest_that_is_good() -> None:
    rows = {(row.measure, row.peer): row for row in some_rows()}
    assert rows["registrations, window 100", "pjsip_py account"].met is False
    assert rows["memory per registration, 1000 idle", "pjsip_py account"].met is True
    assert rows["memory per registration, 1000 idle", "pjsip_py account"].goal == 6
    assert rows["close, unregisters 1", "PJSUA2"].met is None


def test_a_ratio_goal_without_its_anchor_is_neither_met_nor_missed() -> None:
    row = Row("m", "pjsip_py", "µs", [1.0], goal=1.0, goal_is_ratio=True)
    assert row.as_dict()["met"] is None


def test_the_table_names_the_anchor_and_is_aligned() -> None:
    lines = table(figures(some_rows())["rows"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == [
        *("CPU per registration", "pjsip_py account", "90.0", "81.0..100", "µs"),
        *("0.90 x", "0.90..1.25", "C regc, stock", "≤ 1 x", "yes"),
    ]


def test_rows_of_one_command_stand_together() -> None:
    text = commands(figures(some_rows())["rows"])
    assert "CPU per registration, C regc, stock:\n    c_regc\n" in text
    assert text.count("register.py") == 1


# --- Histograms ----------------------------------------------------------------------------------


def test_percentiles_and_the_histogram_itself() -> None:
    recorded = histogram.histogram(n / 1e6 for n in range(1, 1001))
    assert histogram.percentile_ms(recorded, 99.0) == pytest.approx(0.99, rel=1e-3)
    merged = histogram.merged([recorded, recorded])
    assert merged["count"] == 2000
    assert merged["percentiles"][0] == [0.0, 0.001]
    assert merged["percentiles"][-1] == [100.0, pytest.approx(1.0, rel=1e-3)]
    decoded = HdrHistogram.decode(merged["hdrhistogram_us"])
    assert decoded.get_total_count() == 2000


def test_no_latency_is_out_of_the_histogram() -> None:
    recorded = histogram.histogram([-1e-6, 0.0, 3600.0])  # clocks differ; somebody sleeps
    assert recorded.get_total_count() == 3
    assert histogram.percentile_ms(recorded, 100.0) == pytest.approx(60_000, rel=1e-3)


# --- Plots and page ------------------------------------------------------------------------------


def test_each_picture_has_its_rows() -> None:
    drawn = {picture.name: picture for picture in plots.pictures(figures(some_rows())["rows"])}
    assert list(drawn) == ["cpu", "throughput", "memory", "growth", "latency", "start"]
    (cpu,) = drawn["cpu"].panels
    assert isinstance(cpu, plots.Bars)
    assert cpu.bars["pjsip_py account"] == (90.0, 81.0, 100.0)
    assert cpu.goal == 90.0  # 1 x the anchor
    (rate,) = drawn["throughput"].panels
    assert isinstance(rate, plots.Lines)
    assert rate.lines["C regc, stock"] == [(1, 2000.0), (100, 18000.0)]
    (grown,) = drawn["growth"].panels
    assert isinstance(grown, plots.Lines)
    assert grown.lines == {"pjsip_py account": [(1000, 91.0), (10_000, 100.0)]}
    (late,) = drawn["latency"].panels
    assert isinstance(late, plots.Lines)
    assert late.goal == 1.0


@pytest.mark.parametrize("left_out", range(len(some_rows()) + 1))
def test_a_missing_row_is_not_drawn(left_out: int) -> None:
    rows = some_rows()
    del rows[left_out : left_out + 1]
    assert plots.pictures(figures(rows)["rows"])


def test_nothing_measured_is_no_picture() -> None:
    assert plots.pictures([]) == []
    only = Row("user instructions per registration", "C regc, stock", "1000", [178.0])
    assert plots.pictures(figures([only])["rows"]) == []


def marked(tmp_path: Path) -> Path:
    file = tmp_path / "benchmarks.md"
    file.write_text(f"# Benchmarks\n\n{page.BEGIN}\nold\n{page.END}\n\nThe end.\n", "utf-8")
    return file


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    file = marked(tmp_path)
    stale = tmp_path / "img" / "bench-gone.svg"
    stale.parent.mkdir()
    stale.touch()
    written = page.write_page(figures(some_rows()), file)
    text = file.read_text("utf-8")
    assert text.startswith(f"# Benchmarks\n\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\n\nThe end.\n")
    assert "old" not in text
    assert (
        "| CPU per registration | pjsip_py account | 0.90 x | ≤ 1 x C regc, stock | yes |" in text
    )
    assert "| registrations, window 100 | pjsip_py account | 0.50 x |" in text
    assert not stale.exists()
    images = [path for path in written if path.suffix == ".svg"]
    assert len(images) == 6
    for image in images:
        assert f"](img/{image.name})" in text
        root = ElementTree.fromstring(image.read_text("utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        # Self-contained, with no background of its own.
        links = {
            value
            for element in root.iter()
            for name, value in element.attrib.items()
            if name.endswith("href")
        }
        assert all(link.startswith("#") for link in links)
        assert image.stat().st_size < 150_000


def test_equal_figures_make_equal_files() -> None:
    picture = plots.pictures(figures(some_rows())["rows"])[0]
    assert plots.draw(picture) == plots.draw(picture)


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    file.write_text("# Mine\n", "utf-8")
    with pytest.raises(SystemExit, match="needs the lines"):
        page.write_page(figures(some_rows()), file)
    assert file.read_text("utf-8") == "# Mine\n"


def test_the_page_of_this_checkout_has_its_marks() -> None:
    text = page.PAGE.read_text("utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1


# --- Peers ---------------------------------------------------------------------------------------


def test_a_wheel_for_no_python_here_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "ENVIRONMENTS", tmp_path)
    wheel = wheels.Wheel("no-such-wheel==1.0", (3, 1), (3, 2))
    assert wheels.python_with(wheel) is None
    assert "no-such-wheel==1.0 has wheels for CPython 3.1 to 3.2 only" in capsys.readouterr().err
    assert wheels.installed(wheel) == "not installed"


def test_a_wheel_that_pip_cannot_install_is_said_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "ENVIRONMENTS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = wheels.Wheel("pjsip-py-no-such-peer==1.0", (3, 8), (3, 99))
    assert wheels.python_with(wheel) is None
    told = capsys.readouterr().err
    assert "could not be installed, so its rows are missing" in told
    assert "install --only-binary=:all: pjsip-py-no-such-peer==1.0" in told


@dataclass(frozen=True)
class Scripted(Peer):
    """One whose runs end as they are told."""

    ends: tuple[float | BaseException, ...] = ()
    runs: list[int] = field(default_factory=list, compare=False)

    def register(self, registrar: str, **options: object) -> dict[str, Any]:
        end = self.ends[len(self.runs)]
        self.runs.append(1)
        if isinstance(end, BaseException):
            raise end
        return {"count": 10, "ok": 10, "seconds": end}


def seconds(bench: Bench, *peers: Peer) -> dict[str, list[float]]:
    made = measured(bench.alternate(list(peers)), "m", "s", lambda report: report["seconds"])
    return {row.peer: row.values for row in made}


def test_ctrl_c_leaves_what_was_measured() -> None:
    bench = Bench("sip:127.0.0.1:9", {}, repeats=2, count=10, window=1)
    first = Scripted("first", ("first",), ends=(1.0, KeyboardInterrupt()))
    second = Scripted("second", ("second",), ends=(2.0, 3.0))
    assert seconds(bench, first, second) == {"first": [1.0], "second": [2.0, 3.0]}
    with pytest.raises(KeyboardInterrupt):
        bench.at("sip:127.0.0.1:10", 1).alternate([second])


def test_latencies_of_a_real_run(tmp_path: Path) -> None:
    try:
        with Registrar(tmp_path) as registrar:
            report = json.loads(
                run(
                    [
                        *(sys.executable, str(BENCHMARKS / "latency.py")),
                        *("--registrar", registrar.uri, "--count", "40", "--rate", "400"),
                    ]
                )
            )
    except MissingServer as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    assert report["ok"] == report["ok_again"] == 40
    assert 0 < report["rate"] <= 420
    for late, later in (("callback", "registered"), ("answer", "registered")):
        pairs = zip(report[late], report[later], strict=True)
        assert len(report[late]) == 40
        assert all(-0.001 < short <= long for short, long in pairs)


# --- The command ---------------------------------------------------------------------------------


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_table_of_an_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(figures(some_rows())), "utf-8")
    done = bench("--from", str(file), "--commands")
    assert done.returncode == 0, done.stderr
    assert "| CPU per registration " in done.stdout
    assert "CPU per registration, pjsip_py account:\n    register.py" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "no-such-file.json"], "no-such-file.json: No such file or directory"),
        (["--from", __file__], "is not what scripts/bench --json writes"),
        (["--count", "0"], "must be at least 1"),
        (["--repeats", "0"], "must be at least 1"),
        (["--json", "no-such-folder/x.json"], "there is no folder"),
        (["--only", "everything"], "invalid choice"),
    ],
)
def test_bad_options_are_said(arguments: list[str], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
