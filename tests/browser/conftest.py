"""The browser, once for all tests, and the fleet's page in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import NoBrowserError, chromium
from tests.browser.page import Page


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Chromium, once for all tests."""
    try:
        with chromium() as started:
            yield started
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Iterator[Page]:
    """A page to open; whatever a test does with it, it may not complain, and may not ask for anything."""
    opened = Page(driver, tmp_path)
    driver.get("about:blank")
    opened.problems()
    yield opened
    assert opened.problems() == []
