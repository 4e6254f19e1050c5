"""The records of `udevadm info --export-db`: lines that begin with a letter, a blank line after each record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_LINE = re.compile(r"(?P<letter>[A-Z]):(?: (?P<value>.*))?")
_PROPERTY = re.compile(r"[A-Za-z_][\w.:-]*=")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One device: `path` below /sys, its properties (the lines `E:`), and the first line of each other letter.

    `source` and `line` say where it begins, for messages; lines are counted from 1.
    """

    source: str
    line: int
    path: str
    properties: Mapping[str, str]
    letters: Mapping[str, str]

    def error(self, message: str) -> ValueError:
        """What to raise about this record: names file, line and device."""
        return ValueError(f"{self.source}:{self.line}: {self.path}: {message}")


class Records(NamedTuple):
    """The complete records of a dump, in its order; `truncated` when something after the last one was cut off."""

    records: tuple[Record, ...]
    truncated: bool


def parse(data: bytes, source: str) -> Records:
    """Read a dump's bytes; `source` is what messages call it.

    udevadm(8) lists the letters: old releases print P, N, L, S, E (and once W, A, I), newer ones M, R, U, T, D, I, Q,
    V, J too. All are taken. Lines may end with CRLF. Bytes that are not UTF-8 are kept as surrogate escapes, as
    Python keeps them in file names. A record without the blank line after it is not complete and is left out.
    Raises ValueError, naming the file and the line, for a line that udevadm does not print, and when there is no
    complete record.
    """
    text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogateescape")
    # Not str.splitlines: names and serial numbers may hold the other characters that it takes for line ends.
    *lines, rest = text.split("\n")
    records: list[Record] = []
    current: Record | None = None
    properties: dict[str, str] = {}
    letters: dict[str, str] = {}
    empty = False
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r")
        if not line:
            if current is not None:
                records.append(current)
            current, empty = None, False
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            # systemd before 230 took the line after a property without a value for the value: the dump then holds a
            # bare KEY=VALUE below `E: KEY=`.
            if not empty or _PROPERTY.match(line) is None:
                raise ValueError(
                    f"{source}:{number}: {line!r} is no line of udevadm; expected `P: PATH`, `E: KEY=VALUE`"
                )
            name, _, value = line.partition("=")
            properties.setdefault(name, value)
            empty = False
            continue
        letter, value = match["letter"], match["value"] or ""
        empty = False
        if letter == "P":
            if current is not None:
                raise ValueError(f"{source}:{number}: a second path in one record: {value!r}")
            properties, letters = {}, {}
            current = Record(source, number, _path(value, source, number), properties, letters)
        elif current is None:
            raise ValueError(f"{source}:{number}: {line!r} is outside of any record; expected `P: PATH` first")
        elif letter == "E":
            name, equals, value = value.partition("=")
            if not name or not equals:
                raise ValueError(f"{source}:{number}: {line!r} is not a property; expected `E: KEY=VALUE`")
            properties[name] = value
            empty = not value
        else:
            letters.setdefault(letter, value)
    if not records:
        raise ValueError(f"{source}: no complete record; expected the output of `udevadm info --export-db`")
    return Records(tuple(records), truncated=current is not None or bool(rest.removesuffix("\r")))


def _path(text: str, source: str, line: int) -> str:
    # What is read here becomes names of files: nothing may lead out of the directory they are made in.
    if not text.startswith("/") or "\0" in text or not {"", ".", ".."}.isdisjoint(text[1:].split("/")):
        raise ValueError(f"{source}:{line}: {text!r} is not a path below /sys; expected /devices/...")
    return text
