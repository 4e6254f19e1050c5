"""Progress of a long run: the current steps with their elapsed time, the tests that remain, and what was slow."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.terminal import TerminalReporter

from tests.lab import journal
from tests.lab.journal import Entry

_BEAT_SECONDS: Final = 30
_SLOWEST: Final = 10


class Progress:
    """Follows a run of several workers, and says every half minute, and at each step of a machine, where it is."""

    def __init__(self, reporter: TerminalReporter, path: Path) -> None:
        self._reporter = reporter
        self._path = path
        self._offset = 0
        self._start = time.time()
        self._total = 0
        self._ended: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._current: dict[tuple[int, str], Entry] = {}
        self._boots: list[Entry] = []
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    # Hooks.

    def pytest_sessionstart(self) -> None:
        self._thread.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._total = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Show no letter for a test that passed: thousands of them hide the rest."""
        return (report.outcome if report.when == "call" else "", "", "") if report.passed else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        if report.when == "teardown":
            self._ended["ended"] += 1
        if report.failed:
            self._ended["failed"] += 1
            reason = f": {report.longrepr.splitlines()[0]}" if isinstance(report.longrepr, str) else ""
            self._line(f"FAILED {report.nodeid}{reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._over.set()
        self._thread.join()

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        self._read()
        terminalreporter.section(f"the {_SLOWEST} slowest tests, with the set-up that they were the first to need")
        for name, seconds in sorted(self._seconds.items(), key=lambda each: -each[1])[:_SLOWEST]:
            terminalreporter.write_line(f"{seconds:6.0f} s  {name}")
        if not self._boots:
            return
        total = sum(entry.seconds or 0 for entry in self._boots)
        terminalreporter.section(f"{len(self._boots)} boots, {total:.0f} s")
        for entry in self._boots:
            terminalreporter.write_line(f"{entry.seconds or 0:6.0f} s  {entry.doing}")

    # How it follows.

    def _follow(self) -> None:
        beat = time.monotonic()
        while not self._over.wait(1):
            for entry in self._read():
                if entry.seconds is None:
                    self._line(f"{entry.doing} …")
                    beat = time.monotonic()
            if time.monotonic() - beat >= _BEAT_SECONDS:
                beat = time.monotonic()
                self._line("")

    def _read(self) -> list[Entry]:
        entries, self._offset = journal.read(self._path, self._offset)
        for entry in entries:
            if entry.seconds is None:
                self._current[entry.process, entry.doing] = entry
            else:
                self._current.pop((entry.process, entry.doing), None)
                if entry.boot:
                    self._boots.append(entry)
        return entries

    def _line(self, text: str) -> None:
        now = time.time()
        count = f"{self._ended['ended']} of {self._total} tests" if self._total else "collecting"
        failed = f", {self._ended['failed']} FAILED" if self._ended["failed"] else ""
        doing = "; ".join(f"{entry.doing} {now - entry.at:.0f} s" for entry in self._current.values())
        with self._writing:
            self._reporter.ensure_newline()
            self._reporter.write_line(f"[{now - self._start:4.0f} s] {count}{failed} | {text or doing or 'running'}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    # Workers write; and in a run without workers each test's own lines are shown as they come.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or not config.getoption("numprocesses", None):
        return
    descriptor, name = tempfile.mkstemp(prefix="gevulot-lab-journal-")
    os.close(descriptor)
    os.environ[journal.VARIABLE] = name
    config.pluginmanager.register(Progress(reporter, Path(name)), "lab-progress")
    config.add_cleanup(lambda: Path(name).unlink(missing_ok=True))
