"""The disk: a machine's own layer over the image, and copies of it."""

import subprocess
from pathlib import Path

from tests.lab import cache, emulator
from tests.lab.hostpackages import program
from tests.lab.record import MachineError


def overlay(base: Path, disk: Path) -> None:
    """Make a disk that holds only what differs from `base` (raw). Raises MachineError."""
    tool = emulator.ensure().command(emulator.IMAGE)
    _run(*tool, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(disk))


def card() -> Path:
    """Return the disk that boards carry: 16 MiB, one ext4 file system, made when the cache has none.

    All machines share it, so that they may only read it. Raises MachineError.
    """
    path = cache.directory() / "card.raw"
    with cache.locked(path):
        if not path.exists():
            half = path.with_suffix(".new")
            _run(program("mke2fs"), "-q", "-F", "-t", "ext4", "-L", "card", str(half), "16M")
            half.rename(path)
    return path


def copy(source: Path, target: Path) -> None:
    """Copy a disk, its holes and its snapshots included. Raises MachineError."""
    _run(program("cp"), "--sparse=always", "--reflink=auto", str(source), str(target))


def _run(*words: str) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{' '.join(words)} exited {done.returncode}: {done.stderr.strip()}")
