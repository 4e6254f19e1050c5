"""The journal: the steps that the processes of one run take, for the process that shows progress.

A file of JSON lines, one for each start and each end of a step. Nothing is written unless a run asks for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "GEVULOT_LAB_JOURNAL"
"""Names the file of the run."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something begins, or has ended after so many `seconds`; `at` is the time of day, as of `time.time`."""

    process: int
    doing: str
    at: float
    boot: bool = False
    seconds: float | None = None


def read(path: Path, offset: int = 0) -> tuple[list[Entry], int]:
    """Return the whole entries from an offset on, and the offset behind them."""
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [Entry(**json.loads(line)) for line in whole.splitlines()], offset + len(whole)


@contextmanager
def entered(doing: str, *, boot: bool = False) -> Iterator[None]:
    """Record the start and the end of a step; `boot` says that it is the boot of a machine."""
    start = time.time()
    _enter(Entry(os.getpid(), doing, start, boot))
    try:
        yield
    finally:
        _enter(Entry(os.getpid(), doing, time.time(), boot, time.time() - start))


def _enter(entry: Entry) -> None:
    path = os.environ.get(VARIABLE)
    if path:
        # One write to a file opened for appending: entries of several processes do not mix.
        with open(path, "ab", buffering=0) as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
