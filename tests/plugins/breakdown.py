"""A machine that breaks is one failure, with its reason; the tests that need it are skipped with that reason."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import pytest

from tests.lab.breakdown import Breakdown
from tests.lab.host import LIVING

_REACH_SECONDS: Final = 120
"""How long a machine has to answer after a failure: a test may fail while its machine boots."""

BROKEN: Final = pytest.StashKey[dict[str, str]]()
"""Machines that were reported as broken, by name, and the sentence that later tests are skipped with."""

FAILED: Final = pytest.StashKey[list[tuple[BaseException, str]]]()
"""What set-ups failed with, and the test that was the first to report it."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BROKEN] = {}
    config.stash[FAILED] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Do not start a test of the lab with a machine that is broken."""
    if item.get_closest_marker("lab") is None:
        return
    for host in list(LIVING.values()):
        if (reason := item.config.stash[BROKEN].get(host.name)) is not None:
            pytest.skip(reason)
        host.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not report.failed or call.excinfo is None:
        return report
    error = call.excinfo.value
    for known, first in item.config.stash[FAILED]:
        if error is known:
            return _skipped(item, report, f"shared set-up failed in {first}: {_line(error)}")
    if call.when == "setup":
        # pytest keeps the error of a fixture, and raises it for every test that needs the fixture.
        item.config.stash[FAILED].append((error, item.nodeid))
    cause = _breakdown(error)
    if cause is None:
        return report
    if (reason := item.config.stash[BROKEN].get(cause.name)) is not None:
        return _skipped(item, report, reason)
    item.config.stash[BROKEN][cause.name] = f"{cause.name} broke in {item.nodeid}: {cause.reason}"
    report.longrepr = f"{cause}\n\n{item.nodeid} failed with: {_line(error)}"
    return report


def _breakdown(error: BaseException) -> Breakdown | None:
    """Return the breakdown that an error is, or that explains it."""
    if isinstance(error, Breakdown):
        return error
    for host in list(LIVING.values()):
        try:
            host.check_reachable(timeout=_REACH_SECONDS)
        except Breakdown as found:
            return found
    return None


def _skipped(item: pytest.Item, report: pytest.TestReport, reason: str) -> pytest.TestReport:
    path, line, _ = item.location
    report.outcome = "skipped"
    report.longrepr = (path, line or 0, f"Skipped: {reason}")
    return report


def _line(error: BaseException) -> str:
    """Return the first line of an error, after its kind."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
