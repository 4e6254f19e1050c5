"""The proof that a board is bound: asked of the kernel, not remembered from what was written."""

from __future__ import annotations

import os
import time

from pcibind import sysfs
from pcibind.model import BRIDGE_CLASS, Address, Board
from pcibind.paths import Paths
from pcibind.plan import DRIVER

# drivers/vfio: a group is viable while its endpoints have no driver or one that leaves DMA alone.
_VIABLE = frozenset({None, DRIVER, "pci-stub"})


def prove(paths: Paths, board: Board, seconds: float = 0.0) -> list[str]:
    """What keeps `board` from being usable through VFIO; empty when nothing does.

    Every function is on vfio-pci, every endpoint of its groups is out of the host's hands, and
    each group has its device node, which udev gets `seconds` to make.
    """
    problems = []
    for function in board.functions:
        driver = sysfs.driver_of(paths, function.address)
        if driver != DRIVER:
            problems.append(
                f"{function.address}: expected driver {DRIVER}, found {driver or 'none'}"
            )
    groups = board.groups
    if not groups:
        problems.append(f"{board.address}: no IOMMU group")
    for group in groups:
        problems.extend(_not_viable(paths, group))
    if problems:
        return problems
    deadline = time.monotonic() + seconds
    missing = [group for group in groups if not paths.group_node(group).exists()]
    while missing and time.monotonic() < deadline:
        time.sleep(0.02)
        missing = [group for group in missing if not paths.group_node(group).exists()]
    return [
        f"{board.address}: /dev/vfio/{group} not there after {seconds:g} s; see `udevadm monitor`"
        for group in missing
    ]


def _not_viable(paths: Paths, group: int) -> list[str]:
    try:
        members = sorted(os.listdir(paths.group_devices(group)))
    except OSError as error:
        return [f"IOMMU group {group}: cannot be read: {error.strerror}"]
    problems = []
    for member in members:
        try:
            address = Address.parse(member)
            text = (paths.device(address) / "class").read_text()
        except (ValueError, OSError):
            # Not a PCI device, or gone since.
            continue
        driver = sysfs.driver_of(paths, address)
        if int(text, 16) >> 16 != BRIDGE_CLASS and driver not in _VIABLE:
            problems.append(f"IOMMU group {group} is not viable: {address} is on {driver}")
    return problems
