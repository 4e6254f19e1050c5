"""Devices that an earlier access is still stuck on, remembered so that none touches them again.

A mark holds the process that waits in the kernel; it counts for as long as that process does.
"""

from __future__ import annotations

from pathlib import Path

from pcibind import files
from pcibind.errors import StuckError
from pcibind.model import Address
from pcibind.paths import Paths


def mark(paths: Paths, address: Address, error: StuckError) -> None:
    """Remember that an access to `address` did not come back."""
    if error.process is not None:
        started = _started(paths, error.process)
        files.write_atomically(_mark(paths, address), f"{error.process} {started}\n")


def is_stuck(paths: Paths, address: Address) -> bool:
    """Whether an earlier access to `address` still waits in the kernel."""
    try:
        process, started = _mark(paths, address).read_text().split()
    except (OSError, ValueError):
        return False
    return started != "gone" and _started(paths, int(process)) == started


def _mark(paths: Paths, address: Address) -> Path:
    return paths.run / "stuck" / str(address)


def _started(paths: Paths, process: int) -> str:
    """When a process began, in ticks since boot: with its number, one process and no other."""
    try:
        text = (paths.proc / str(process) / "stat").read_text()
    except OSError:
        return "gone"
    # The name, in parentheses, may hold blanks; state is field 3 and the start field 22.
    fields = text.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
