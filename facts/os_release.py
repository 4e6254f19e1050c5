"""os-release(5), read as data. It looks like shell, and no line of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SINGLE = re.compile(r"'([^']*)'")
_ESCAPED = re.compile(r"\\([\\$\"`])")


def parse(lines: Iterable[str]) -> dict[str, str]:
    """The values of the file by their names, without quotes and escapes; the last of a name wins.

    Lines that are no assignment, or whose quotes do not end, are left out: a file that is wrong in one place still says
    what the host is.
    """
    values = {}
    for line in lines:
        assignment = _ASSIGNMENT.fullmatch(line.strip())
        if assignment is None:
            continue
        name, text = assignment.groups()
        if double := _DOUBLE.fullmatch(text):
            values[name] = _ESCAPED.sub(r"\1", double[1])
        elif single := _SINGLE.fullmatch(text):
            values[name] = single[1]
        elif not text.startswith(('"', "'")):
            values[name] = text
    return values
