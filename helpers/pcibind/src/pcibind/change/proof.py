"""The proof that a board is bound: asked of the kernel, not remembered from what was written.

A group's status could also be asked of VFIO itself, but only by opening its device node, which
only one process at a time may do: a virtual machine that starts at that moment would fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pcibind.model.pci import DRIVER, Address, Board, blocks_group
from pcibind.read import kernel, sysfs
from pcibind.read.files import Paths
from pcibind.read.kernel import Task

_NO_NODES = (
    "this kernel has no device node for it: neither of groups (CONFIG_VFIO_GROUP) nor of devices "
    "(CONFIG_VFIO_DEVICE_CDEV)"
)


def prove(paths: Paths, board: Board) -> list[str]:
    """What keeps `board` from being usable through VFIO; empty when nothing does.

    Every function is on vfio-pci, every endpoint of its groups is out of the host's hands, and
    each group has its device node.
    """
    wanted = nodes(paths, [board])
    missing = [node for node in wanted if not os.path.exists(node)]
    problems = binding(paths, board)
    if not wanted and not problems:
        return [f"{board.address}: {_NO_NODES}"]
    return problems or [f"{board.address}: {node} is not there" for node in missing]


def prove_soon(paths: Paths, boards: Iterable[Board], seconds: float) -> Task[list[str]]:
    """As `prove` of several boards at once; udev gets `seconds` to make the device nodes."""
    boards = tuple(boards)
    problems = [problem for board in boards for problem in binding(paths, board)]
    wanted = nodes(paths, boards)
    if problems or not wanted:
        return problems or [_NO_NODES]
    if all(os.path.exists(node) for node in wanted):
        return []
    missing = yield kernel.wait(wanted, seconds)
    return [
        f"{node} not there after {seconds:g} s; see `udevadm monitor`" for node in missing.split()
    ]


def binding(paths: Paths, board: Board) -> list[str]:
    """What is wrong with the drivers of `board` and of its groups; empty when nothing is."""
    problems = []
    for function in board.functions:
        driver = sysfs.driver_of(paths, function.address)
        if driver != DRIVER:
            problems.append(
                f"{function.address}: expected driver {DRIVER}, found {driver or 'none'}"
            )
    if not board.groups:
        problems.append(f"{board.address}: no IOMMU group")
    for group in board.groups:
        problems.extend(_not_viable(paths, group))
    return problems


def nodes(paths: Paths, boards: Iterable[Board]) -> list[str]:
    """The device nodes of the boards, where the kernel makes them: of groups, and of functions."""
    boards = tuple(boards)
    cdevs = [node for board in boards for node in sysfs.cdevs(paths, board)]
    return [paths.root + node for node in (*sysfs.group_nodes(paths, boards), *cdevs)]


def _not_viable(paths: Paths, group: int) -> list[str]:
    try:
        members = sorted(os.listdir(paths.group_devices(group)))
    except OSError as error:
        return [f"IOMMU group {group}: cannot be read: {error.strerror}"]
    problems = []
    for member in members:
        try:
            address = Address.parse(member)
            with open(f"{paths.device(address)}/class", encoding="ascii") as file:
                class_code = int(file.read(), 16)
        except (ValueError, OSError):
            # Not a PCI device, or gone since.
            continue
        driver = sysfs.driver_of(paths, address)
        if blocks_group(class_code, driver):
            problems.append(f"IOMMU group {group} is not viable: {address} is on {driver}")
    return problems
