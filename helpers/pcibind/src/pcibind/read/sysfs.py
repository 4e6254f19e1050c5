"""The PCI topology of this host, read from sysfs, and devices on which an access is stuck.

A stuck device is marked, so that no run touches it again. A mark holds the process that waits in
the kernel, and counts for as long as that process exists.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Sequence

from pcibind.model.errors import StuckError
from pcibind.model.pci import (
    LOCKED_ATTRIBUTE,
    VGA_CLASSES,
    Address,
    Board,
    Function,
    RawDevice,
    Topology,
    board_path,
    build_topology,
    function_path,
    parse_modalias,
    parse_override,
)
from pcibind.model.values import TYPE_CHECKING
from pcibind.read import files, kernel
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task

STUCK_DETAIL = "an earlier kernel operation on it is still blocked; reboot to recover"


def read(paths: Paths, *, boards: Container[str] | None = None) -> Task[Topology]:
    """Read all PCI functions of a host.

    With `boards`, their paths, only the overrides of their functions are read: another device's
    probe, which holds its lock for as long as it takes, is not waited for.
    A device that vanishes during the read is left out; one whose override cannot be read in time is
    `locked`. Raises ValueError when sysfs holds what no kernel writes.
    """
    devices = [_device(f"{paths.devices}/{name}") for name in files.names(paths.devices)]
    marks = _list_marks(paths)
    for raw in devices:
        raw.locked = raw.name in marks and _is_marked(paths, raw.name)
    left = [
        raw
        for raw in devices
        if raw.target is not None
        and not raw.locked
        and (boards is None or board_path(function_path(raw.target)) in boards)
    ]
    try:
        overrides = yield kernel.read_all(f"{paths.devices}/{r.name}/driver_override" for r in left)
        for raw, text in zip(left, overrides.split("\n"), strict=False):
            raw.attributes[LOCKED_ATTRIBUTE] = text
    except (StuckError, OSError):
        yield from _read_one_by_one(paths, left)
    return build_topology(devices)


def driver_of(paths: Paths, address: Address) -> str | None:
    """The driver that a function has right now, or None. Takes no lock."""
    return _link_name(f"{paths.device(address)}/driver")


def has_group_nodes(paths: Paths) -> bool:
    """Whether the kernel makes a device node for each IOMMU group (CONFIG_VFIO_GROUP).

    Class `vfio` is registered by vfio_group_init() of drivers/vfio/group.c, and `vfio-dev` by
    vfio_init() of drivers/vfio/vfio_main.c: without both, VFIO is not loaded.
    """
    classes = f"{paths.sys}/class"
    return os.path.isdir(f"{classes}/vfio") or not os.path.isdir(f"{classes}/vfio-dev")


def group_nodes(paths: Paths, board: Board) -> list[str]:
    """The device nodes of a board's groups, as processes see them; none where there are none."""
    groups = board.groups if has_group_nodes(paths) else ()
    return [f"/dev/vfio/{group}" for group in groups]


def cdevs(paths: Paths, board: Board) -> list[str]:
    """The device nodes of a board's functions, as processes see them; none without cdevs.

    See vfio_device_devnode() of drivers/vfio/vfio_main.c.
    """
    nodes = []
    for function in board.functions:
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(f"{paths.device(function.address)}/vfio-dev")):
                # Without CONFIG_VFIO_DEVICE_CDEV the device has no number, and no node.
                if os.path.exists(f"{paths.device(function.address)}/vfio-dev/{name}/dev"):
                    nodes.append(f"/dev/vfio/devices/{name}")
    return nodes


def override_of(paths: Paths, address: Address) -> Task[str | None]:
    """The override that a function has right now, or None; raises StuckError and OSError."""
    text = yield kernel.read(paths.override(address))
    return parse_override(text)


def mark_stuck(paths: Paths, address: Address, error: StuckError) -> None:
    """Remember, where that can be, that an access to `address` did not come back."""
    if error.process is not None:
        with contextlib.suppress(OSError):
            started = _start_time(paths, error.process)
            files.write_atomically(f"{_marks(paths)}/{address}", f"{error.process} {started}\n")


def is_stuck(paths: Paths, function: Function) -> bool:
    """Whether an access to a function is blocked in the kernel: ours, or another process's."""
    return function.locked or _is_marked(paths, str(function.address))


def is_board_stuck(paths: Paths, board: Board | None) -> bool:
    """Whether an access to any function of a board is blocked in the kernel."""
    return board is not None and any(is_stuck(paths, function) for function in board.functions)


def _read_one_by_one(paths: Paths, devices: Sequence[RawDevice]) -> Task[None]:
    """So that only the device that hangs stays unknown."""
    for raw in devices:
        path = f"{paths.devices}/{raw.name}/driver_override"
        try:
            raw.attributes[LOCKED_ATTRIBUTE] = yield kernel.read(path, 1.0)
        except StuckError as error:
            raw.locked = True
            # So that the next look does not leave another process behind.
            mark_stuck(paths, Address.parse(raw.name), error)
        except OSError:
            # One that is gone has no override; of any other it is not known.
            raw.locked = os.path.lexists(f"{paths.devices}/{raw.name}")


def _device(path: str) -> RawDevice:
    raw = RawDevice(os.path.basename(path))
    with contextlib.suppress(OSError):
        raw.target = os.readlink(path)
        # One file for five: at boot, each of a hundred devices counts.
        raw.attributes = parse_modalias(raw.name, files.read_attribute(f"{path}/modalias"))
        raw.driver = _link_name(f"{path}/driver")
        raw.iommu_group = _link_name(f"{path}/iommu_group")
        raw.physfn = _link_name(f"{path}/physfn")
        if raw.attributes["class"].startswith(VGA_CLASSES):
            raw.attributes["boot_vga"] = files.read_attribute(f"{path}/boot_vga")
    return raw


def _link_name(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def _marks(paths: Paths) -> str:
    return f"{paths.run}/stuck"


def _list_marks(paths: Paths) -> list[str]:
    # Only root may look, and only root makes the accesses that hang.
    with contextlib.suppress(OSError):
        return files.names(_marks(paths))
    return []


def _is_marked(paths: Paths, address: str) -> bool:
    """Whether an access of ours to the function at an address is known to wait still."""
    try:
        process, started = (files.read(f"{_marks(paths)}/{address}") or "").split()
        return started != "gone" and _start_time(paths, int(process)) == started
    except (OSError, ValueError):
        return False


def _start_time(paths: Paths, process: int) -> str:
    """When a process began, in ticks since boot: with its number, one process and no other."""
    text = files.read(f"{paths.proc}/{process}/stat")
    if text is None:
        return "gone"
    # The name, in parentheses, may hold blanks; state is field 3 and the start field 22.
    fields = text.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
