"""The fleet as a page: one HTML file that holds the document, its styles and its script, and asks the network nothing.

The file can be mailed, kept beside a ticket or opened from a disk. Its Content-Security-Policy lets run and paint
exactly what was put in here, by hash, and lets nothing be fetched; and with `require-trusted-types-for` a browser
refuses any markup that a script would make of text, so that a device's name stays a name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template

_DIRECTORY = Path(__file__).parent
# One after the other they are one script: each uses the functions of those before it.
_SCRIPTS = ("elements.js", "pci.js", "drawing.js", "host.js", "columns.js", "page.js")
# What could end the element that holds the document, or open a comment in it. As JSON knows them, they can only stand
# in strings. All that is not ASCII is escaped by `json.dumps`: U+2028 and U+2029, and halves of surrogate pairs too,
# which are in names that are not UTF-8 and which no file could take.
_ESCAPED = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})


def render(document: Mapping[str, object]) -> str:
    """The page that shows a document of schema `gevulot-fleet/1`, in full and for nothing else but this document.

    The same document gives the same page, in whatever order its keys are. Raises ValueError for numbers that JSON does
    not have, and TypeError for values that it does not have.
    """
    style = _read("page.css")
    script = "\n".join(_read(name) for name in _SCRIPTS)
    return Template(_read("page.html")).substitute(
        policy=_policy(style, script), style=style, script=script, document=embedded(document)
    )


def embedded(document: Mapping[str, object]) -> str:
    """The document as JSON that can stand inside of a `script` element: without `<`, `>`, `&` and in plain ASCII."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.translate(_ESCAPED)


def _policy(style: str, script: str) -> str:
    """What the browser lets the page do: this style, this script, and the icon that is in the page."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _source(text: str) -> str:
    """A hash as Content Security Policy Level 3 writes it, of all that stands between the element's tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")
