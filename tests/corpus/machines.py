"""The corpus: dumps of real machines, which lie beside the repository and are never copied into it.

Published by canonical/checkbox as test data of its udev parser.
"""

from __future__ import annotations

import functools
from pathlib import Path

from tests.corpus import dump
from tests.corpus.dump import Dump

DIRECTORY = Path(__file__).resolve().parents[3] / "shared/corpus/udevadm"


def names() -> tuple[str, ...]:
    """The machines that are there, by the names of their files without `.txt`; none without the corpus."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.txt")))


def path(name: str) -> Path:
    """The file of a machine's dump."""
    return DIRECTORY / f"{name}.txt"


@functools.cache
def load(name: str) -> Dump:
    """A machine's dump. Raises OSError when it is not there, and ValueError as `dump.parse` does."""
    return dump.read(path(name))
