"""Text from untrusted programs, made safe for a terminal."""

from __future__ import annotations

import re

# Commands to a terminal: ECMA-48's with parameters, those that end with BEL or ST, and short ones.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_].*?(?:\x07|\x1b\\|$)|\x1b.?|\x9b[0-?]*[ -/]*[@-~]", re.S)
# To the last @ of a word: a password that is not percent-encoded may have some.
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^:@/\s]*):[^\s\"']*@", re.IGNORECASE)


def printable(text: str, length: int) -> str:
    """The text as one line of at most ``length`` characters, without control sequences and passwords of URLs."""
    plain = "".join(each if each.isprintable() else " " for each in _ESCAPES.sub("", text))
    line = " ".join(_PASSWORD.sub(r"\1:…@", plain).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
