# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written of a whole run: ``--sip-report`` and ``--sip-pcap``."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import pjsip_py as pjsip
from pjsip_py import endpoint as _endpoint
from pjsip_py.ladder import Ladder
from pjsip_py.pcap import PcapWriter

from .kit import Kit, tap
from .page import Row, write_page

DRAWN = 500  # messages of one test, the last


class Run:
    """A pytest plugin of its own, there when one of the options is.

    Under pytest-xdist the workers write the pcaps and send the ladders with their reports; the
    controller makes the page.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._folder = self._path("sip_pcap", "--sip-pcap")
        self._page = self._path("sip_report", "--sip-report")
        if not self._is_worker:
            self._try_folder()
            self._try_page()
        self._item: pytest.Item | None = None  # that runs now
        self._began = time.time()
        self._rows: dict[str, Row] = {}
        self._problems: list[str] = []
        self._pcaps = 0
        _endpoint.on_open.append(self._opened)

    def pytest_unconfigure(self) -> None:
        if self._opened in _endpoint.on_open:
            _endpoint.on_open.remove(self._opened)

    # -- what was asked for, checked before anything runs ------------------------------------------

    def _path(self, name: str, option: str) -> Path | None:
        text = self._config.getoption(name)
        if not text:
            return None
        path: Path = self._config.invocation_params.dir / Path(text).expanduser()
        setattr(self._config.option, name, str(path))  # for the workers, wherever they run
        return path

    def _try_folder(self) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(
                f"--sip-pcap: the folder {self._folder} cannot be made: {error.strerror}"
            ) from None
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise pytest.UsageError(f"--sip-pcap: the folder {self._folder} is not writable")

    def _try_page(self) -> None:
        page = self._page
        if page is None:
            return
        if page.is_dir():
            raise pytest.UsageError(f"--sip-report: {page} is a folder; name a file in it")
        if page.suffix.lower() not in (".html", ".htm"):
            raise pytest.UsageError(f"--sip-report: {page.name} is not called .html")
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            new = not page.exists()
            with page.open("a", encoding="utf-8"):  # what is there stays until the run's end
                pass
            if new:
                page.unlink()
        except OSError as error:
            raise pytest.UsageError(
                f"--sip-report: {page} cannot be written: {error.strerror}"
            ) from None

    # -- of each test, in the process that runs it -------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._item = item
        try:
            return (yield)
        finally:
            self._item = None

    def _opened(self, endpoint: pjsip.Endpoint) -> None:
        """Any endpoint, that of the fixture or not; it may serve several tests."""
        tap(endpoint, self._add)

    def _add(self, event: pjsip.Event) -> None:
        item = self._item
        if item is not None:
            Kit.of(item).trace.add(event)

    def finish(self, kit: Kit, report: pytest.TestReport) -> None:
        """The test is over; its last report takes what the page is to show."""
        found: dict[str, Any] = {}
        messages = kit.trace.messages
        if messages and self._folder is not None:
            path = self._folder / f"{safe_name(report.nodeid)}.pcapng"
            try:
                with PcapWriter(path) as pcap:
                    for event in kit.trace.events:
                        pcap.write(event)
            except OSError as error:
                found["problem"] = f"--sip-pcap: {path} cannot be written: {error.strerror}"
            else:
                found["pcap"] = str(path)
        if self._page is not None and messages:
            found["messages"] = len(messages)
            found["ladder"] = self._draw(kit)
        if found:
            report.sip_run = found  # type: ignore[attr-defined]

    def _draw(self, kit: Kit) -> str:
        names = {
            "{}:{}".format(*registrar.address(protocol)): (
                "registrar" if len(kit.registrars) == 1 else f"registrar {number}"
            )
            for number, registrar in enumerate(kit.registrars, 1)
            for protocol in registrar.protocols
        }
        ladder = Ladder(names=names, limit=DRAWN)
        for event in kit.trace.events[-DRAWN:]:
            ladder.add(event)
        return ladder.to_fragment()

    # -- of the run, in the one process that reports -----------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._is_worker:
            return
        row = self._rows.setdefault(report.nodeid, Row(report.nodeid))
        row.add(report)
        found = getattr(report, "sip_run", {})
        self._pcaps += "pcap" in found
        if "problem" in found:
            self._problems.append(found["problem"])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not self._is_worker and report.failed:
            self._rows.setdefault(report.nodeid, Row(report.nodeid)).add(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_worker:
            return
        if self._page is not None:
            try:
                write_page(self._page, list(self._rows.values()), self._began, time.time())
            except OSError as error:
                self._problems.append(
                    f"--sip-report: {self._page} cannot be written: {error.strerror}"
                )
        if self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for problem in self._problems:
            terminalreporter.write_line(problem, red=True)
        if self._folder is not None:
            s = "" if self._pcaps == 1 else "s"
            terminalreporter.write_line(f"SIP messages: {self._pcaps} pcap{s} in {self._folder}")
        if self._page is not None and not self._problems:
            terminalreporter.write_line(f"SIP report: {self._page}")


def safe_name(nodeid: str) -> str:
    """A file name for a test: short, plain, and no other test's."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", nodeid.replace("/", ".")).strip(".-")
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[-100:].lstrip('.-')}-{digest}"
