"""Progress: what the lab tells a waiting person, and how long the next step may take."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tests.lab import journal

Progress = Callable[[str], None]
"""Takes one line of text without its newline."""


class Printer:
    """Prints lines with the seconds since it was made: `[  12 s] booting`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        stream = self._stream or sys.stderr
        print(f"[{time.monotonic() - self._start:4.0f} s] {line}", file=stream, flush=True)


def silent(line: str) -> None:
    """A progress that says nothing."""


@contextmanager
def step(progress: Progress, doing: str, *, takes: str = "") -> Iterator[None]:
    """Announce a step, with what it may `take` ("about two minutes"), and say when it is done."""
    progress(f"{doing} ({takes})" if takes else doing)
    start = time.monotonic()
    with journal.entered(doing):
        yield
    progress(f"{doing}: done in {time.monotonic() - start:.1f} s")
