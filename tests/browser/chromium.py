"""Debian's Chromium without a screen, steered by selenium."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NoBrowserError(Exception):
    """Why no browser can be started; the text names the missing package."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, and stop it at the end. Raises NoBrowserError when a part of it is not installed."""
    try:
        webdriver = importlib.import_module("selenium.webdriver")
    except ImportError:
        raise NoBrowserError("the Python package selenium is not installed") from None
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise NoBrowserError("Chromium is not installed: Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Root, and containers with a small /dev/shm, have no sandbox to offer; only our own page is opened.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With a named driver selenium looks for none on the network.
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield started
    finally:
        started.quit()
