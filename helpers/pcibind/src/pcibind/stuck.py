"""Devices that an earlier access is still stuck on, remembered so that none touches them again.

A mark holds the process that waits in the kernel; it counts for as long as that process does.
"""

from __future__ import annotations

import contextlib

from pcibind import files
from pcibind.errors import StuckError
from pcibind.model import Address, Function
from pcibind.paths import Paths

WAITING = "an earlier access to it still waits in the kernel; it is left alone, reboot"


def mark(paths: Paths, address: Address, error: StuckError) -> None:
    """Remember, where that can be, that an access to `address` did not come back."""
    if error.process is not None:
        started = _started(paths, error.process)
        with contextlib.suppress(OSError):
            files.write_atomically(_mark(paths, address), f"{error.process} {started}\n")


def is_stuck(paths: Paths, function: Function) -> bool:
    """Whether an access to a function still waits in the kernel: one of ours, or anybody's."""
    if function.locked:
        return True
    try:
        process, started = (files.read(_mark(paths, function.address)) or "").split()
    except (OSError, ValueError):
        return False
    return started != "gone" and _started(paths, int(process)) == started


def _mark(paths: Paths, address: Address) -> str:
    return f"{paths.run}/stuck/{address}"


def _started(paths: Paths, process: int) -> str:
    """When a process began, in ticks since boot: with its number, one process and no other."""
    text = files.read(f"{paths.proc}/{process}/stat")
    if text is None:
        return "gone"
    # The name, in parentheses, may hold blanks; state is field 3 and the start field 22.
    fields = text.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
