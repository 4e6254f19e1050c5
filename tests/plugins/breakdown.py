"""A machine that breaks is one failure, with its reason; the tests that need it are skipped with that reason."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import pytest

from tests.lab.breakdown import Breakdown
from tests.lab.host import LIVING
from tests.lab.stage import StageFailed

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
def pytest_runtest_call(item: pytest.Item) -> None:
    """Do not run a test of the lab with a machine that is broken and that no fixture has restored."""
    if item.get_closest_marker("lab") is None:
        return
    broken = item.config.stash[BROKEN]
    for host in list(LIVING.values()):
        try:
            host.check()
        except Breakdown:
            if host.name in broken:
                pytest.skip(broken[host.name])
            raise
        broken.pop(host.name, None)


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
    if isinstance(error, StageFailed):
        return _skipped(item, report, str(error))
    if (cause := _breakdown(error)) is None:
        return report
    if (reason := item.config.stash[BROKEN].get(cause.name)) is not None:
        return _skipped(item, report, reason)
    item.config.stash[BROKEN][cause.name] = f"{cause.name} broke in {item.nodeid}: {cause.reason}"
    # A failure that the machine has nothing to do with must not be lost.
    own = "" if error is cause else f"\n\n{item.nodeid} failed with:\n{report.longreprtext}"
    report.longrepr = f"{cause}{own}"
    return report


def _breakdown(error: BaseException) -> Breakdown | None:
    """Return the breakdown that an error is or comes from, or that a living machine shows now."""
    for each in _causes(error):
        if isinstance(each, Breakdown):
            return each
    for host in list(LIVING.values()):
        try:
            host.check_reachable(timeout=_REACH_SECONDS)
        except Breakdown as found:
            return found
        except Exception as problem:
            error.add_note(f"whether {host.name} is broken could not be asked: {problem}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and the members of groups."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _causes(member)
        error = error.__cause__ or error.__context__


def _skipped(item: pytest.Item, report: pytest.TestReport, reason: str) -> pytest.TestReport:
    path, line, _ = item.location
    report.outcome = "skipped"
    report.longrepr = (path, line or 0, f"Skipped: {reason}")
    return report


def _line(error: BaseException) -> str:
    """Return the first line of an error, after its kind."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
