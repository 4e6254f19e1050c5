"""Write the README's picture of the fleet's page: `python -m tests.browser.screenshot`.

It shows the fleet of the browser's tests (`tests/fleet`), whose hosts are made up, in the page as it is. A digest of
what it was made from lies beside it, so that a test can tell when the page has changed since.
"""

from __future__ import annotations

import argparse
import base64
import struct
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from deploys.fleet.page import render
from tests.browser.chromium import NoBrowserError, chromium
from tests.browser.page import Page
from tests.fleet import documents

PATH: Final = Path(__file__).parents[2] / "docs/images/fleet.png"
SOURCE: Final = PATH.with_suffix(".source")
"""The digest of the page that the picture shows."""
SIZE: Final = (1400, 680)
"""Width and height in pixels."""

_HOSTS: Final = 14


def source() -> str:
    """Return the digest of the page as it is now."""
    return sha256(render(documents.fleet(_HOSTS)).encode()).hexdigest()[:16]


def size(picture: bytes) -> tuple[int, int]:
    """Return a picture's width and height in pixels. Raises ValueError if it is no PNG."""
    if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("expected a PNG")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def take() -> bytes:
    """Open the page and return its picture. Raises NoBrowserError."""
    with chromium() as driver, tempfile.TemporaryDirectory() as directory:
        width, height = SIZE
        page = Page(driver, Path(directory))
        page.open(documents.fleet(_HOSTS), width=width, height=height, prefers_color_scheme="light")
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.browser.screenshot", description=__doc__).parse_args()
    try:
        picture = take()
    except NoBrowserError as error:
        sys.exit(f"no picture was taken: {error}")
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(picture)
    SOURCE.write_text(f"{source()}\n")
    print(f"wrote {PATH}")
