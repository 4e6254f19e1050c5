"""Devices that an earlier access is still stuck on, remembered so that none touches them again.

A mark holds the process that waits in the kernel; it counts for as long as that process does.
"""

from __future__ import annotations

import contextlib

from pcibind.model.errors import StuckError
from pcibind.model.pci import Address, Function
from pcibind.read import files
from pcibind.read.paths import Paths

WAITING = "an earlier access to it still waits in the kernel; it is left alone, reboot"


def mark(paths: Paths, address: Address, error: StuckError) -> None:
    """Remember, where that can be, that an access to `address` did not come back."""
    if error.process is not None:
        with contextlib.suppress(OSError):
            started = _started(paths, error.process)
            files.write_atomically(f"{paths.run}/stuck/{address}", f"{error.process} {started}\n")


def is_stuck(paths: Paths, function: Function) -> bool:
    """Whether an access to a function still waits in the kernel: one of ours, or anybody's."""
    return function.locked or is_marked(paths, str(function.address))


def is_marked(paths: Paths, address: str) -> bool:
    """Whether an access of ours to the function at an address is known to wait still."""
    try:
        process, started = (files.read(f"{paths.run}/stuck/{address}") or "").split()
        return started != "gone" and _started(paths, int(process)) == started
    except (OSError, ValueError):
        return False


def _started(paths: Paths, process: int) -> str:
    """When a process began, in ticks since boot: with its number, one process and no other."""
    text = files.read(f"{paths.proc}/{process}/stat")
    if text is None:
        return "gone"
    # The name, in parentheses, may hold blanks; state is field 3 and the start field 22.
    fields = text.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
