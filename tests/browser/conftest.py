"""Debian's Chromium without a screen, and the fleet's page in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.page import Page


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Chromium, once for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the Python package selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("Chromium is not installed: Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Root, and containers with a small /dev/shm, have no sandbox to offer; what is opened is our own page.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A driver that is named is not looked for on the network.
    service = webdriver.ChromeService(executable_path=chromedriver)
    started = webdriver.Chrome(options=options, service=service)
    yield started
    started.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Iterator[Page]:
    """A page to open; whatever a test does with it, it may not complain, and may not ask for anything."""
    opened = Page(driver, tmp_path)
    driver.get("about:blank")
    opened.problems()
    yield opened
    assert opened.problems() == []
