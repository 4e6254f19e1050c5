"""The lab's machines, for tests on a real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab import hostpackages, journal
from tests.lab import registry as images
from tests.lab.progress import Printer, Progress, silent

LONGEST_FIRST = (
    # The first one makes the stage that others start from; until it is there, come those that need none.
    *("test_node", "test_interrupted", "test_rolling_reboot"),
    *("test_pcibind", "test_pcibind_boot", "test_pcibind_guards", "test_fleet"),
    *("test_peers", "test_undo", "test_breakdown"),
)
"""Modules in the order in which two workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("lab")
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Progress:
    """Progress that passes by pytest's capture: a step of minutes must not look like a hang."""
    if os.environ.get(journal.VARIABLE):
        # Then what is entered there is shown, by one process for all.
        return silent
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    printer = Printer()

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            printer(text)

    return line


@pytest.fixture(scope="session")
def registry(say: Progress) -> Path:
    """The stand-in images, built when the cache has none, and what the lab needs of this computer."""
    hostpackages.ensure(say)
    return images.ensure(say)
