"""The lab's machines, for tests on a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import hostpackages
from tests.lab import registry as images
from tests.lab.progress import Printer, Progress


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("lab")


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Progress:
    """Progress that passes by pytest's capture: a step of minutes must not look like a hang."""
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
