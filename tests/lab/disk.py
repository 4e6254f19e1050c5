"""The disk: a machine's own layer over the image, and copies of it."""

import subprocess
from pathlib import Path

from tests.lab.hostpackages import program
from tests.lab.record import MachineError


def overlay(base: Path, disk: Path) -> None:
    """Make a disk that holds only what differs from `base` (raw). Raises MachineError."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(disk))


def copy(source: Path, target: Path) -> None:
    """Copy a disk, its holes and its snapshots included. Raises MachineError."""
    _run("cp", "--sparse=always", "--reflink=auto", str(source), str(target))


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{name} exited {done.returncode}: {done.stderr.strip()}")
