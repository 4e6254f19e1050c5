"""Write the README's picture of the fleet's page: `python -m tests.browser.screenshot`.

It shows the fleet of the browser's tests (`tests/fleet`), whose hosts are made up, in the page as it is. The picture
holds a digest of what it was made from, so that a test can tell when the page has changed since.
"""

from __future__ import annotations

import base64
import struct
import sys
import tempfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Final

from deploys.fleet.page import render
from tests.browser.chromium import NoBrowserError, chromium
from tests.browser.page import Page
from tests.fleet import documents

PATH: Final = Path(__file__).parents[2] / "docs/images/fleet.png"
SIZE: Final = (1400, 650)
"""Width and height in pixels."""

_HOSTS: Final = 14
_KEYWORD: Final = b"Source"
_HEADER: Final = 8 + 25
"""Bytes of PNG's signature and of its first chunk, IHDR (PNG, third edition, 5.2 and 11.2.1)."""


def source() -> str:
    """Return a digest of the page that the picture shows."""
    return sha256(render(documents.fleet(_HOSTS)).encode()).hexdigest()[:16]


def shown(picture: bytes) -> str | None:
    """Return the digest that a picture was made from, or None if it holds none."""
    start = picture.find(b"tEXt" + _KEYWORD + b"\0")
    if start < 0:
        return None
    (length,) = struct.unpack(">I", picture[start - 4 : start])
    return picture[start + 4 : start + 4 + length].partition(b"\0")[2].decode("latin-1")


def size(picture: bytes) -> tuple[int, int]:
    """Return a picture's width and height in pixels. Raises ValueError if it is no PNG."""
    if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("expected a PNG")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def marked(picture: bytes, digest: str) -> bytes:
    """Return the picture with a digest in a text chunk (tEXt) behind its header."""
    chunk = b"tEXt" + _KEYWORD + b"\0" + digest.encode("latin-1")
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return picture[:_HEADER] + text + picture[_HEADER:]


def take() -> bytes:
    """Open the page and return its picture. Raises NoBrowserError."""
    with chromium() as driver, tempfile.TemporaryDirectory() as directory:
        width, height = SIZE
        page = Page(driver, Path(directory))
        page.open(documents.fleet(_HOSTS), width=width, height=height, prefers_color_scheme="light")
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    try:
        picture = take()
    except NoBrowserError as error:
        sys.exit(f"no picture was taken: {error}")
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(marked(picture, source()))
    print(f"wrote {PATH}")
