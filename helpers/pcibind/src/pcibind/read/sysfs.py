"""The PCI topology of this host, read from sysfs, and devices on which an access is stuck.

A stuck device is marked, so that no run touches it again. A mark holds the process that waits in
the kernel, and counts for as long as that process exists.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Sequence

from pcibind.model.errors import StuckError
from pcibind.model.pci import (
    ATTRIBUTES,
    LOCKED_ATTRIBUTE,
    Address,
    Board,
    Function,
    RawDevice,
    Topology,
    board_path,
    build_topology,
    function_path,
    parse_override,
)
from pcibind.read import files, kernel
from pcibind.read.files import Paths
from pcibind.read.kernel import Task

STUCK_DETAIL = "an earlier kernel operation on it is still blocked; reboot to recover"


def read(
    paths: Paths, *, udev: bool = False, boards: Container[str] | None = None
) -> Task[Topology]:
    """Read all PCI functions of a host.

    With `udev`, pyudev enumerates them where it is installed and the root is /; else the directory
    of PCI devices is listed. Both find the same; the second starts faster, for boot.
    With `boards`, their paths, only the overrides of their functions are read: another device's
    probe, which holds its lock for as long as it takes, is not waited for.
    A device that vanishes during the read is left out; one whose override cannot be read in time is
    `locked`. Raises ValueError when sysfs holds what no kernel writes.
    """
    enumerated = _udev_devices() if udev and not paths.root else None
    devices = [_device(path) for path in (enumerated or _listed_devices(paths.devices))]
    for raw in devices:
        raw.locked = _is_marked(paths, raw.name)
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


def group_nodes(paths: Paths, boards: Iterable[Board]) -> list[str]:
    """The device nodes of the boards' groups, as processes see them; none where there are none."""
    if not has_group_nodes(paths):
        return []
    groups = dict.fromkeys(group for board in boards for group in board.groups)
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
            files.write_atomically(f"{paths.run}/stuck/{address}", f"{error.process} {started}\n")


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


def _udev_devices() -> list[str] | None:
    try:
        import pyudev  # type: ignore[import-untyped, unused-ignore]

        context = pyudev.Context()
        return [str(device.sys_path) for device in context.list_devices(subsystem="pci")] or None
    except (ImportError, OSError):
        return None


def _listed_devices(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory))]
    return []


def _device(path: str) -> RawDevice:
    raw = RawDevice(os.path.basename(path))
    try:
        raw.target = os.readlink(path) if os.path.islink(path) else path
    except OSError:
        return raw
    raw.driver = _link_name(f"{path}/driver")
    raw.iommu_group = _link_name(f"{path}/iommu_group")
    raw.physfn = _link_name(f"{path}/physfn")
    for name in ATTRIBUTES:
        with contextlib.suppress(OSError):
            raw.attributes[name] = files.read_attribute(f"{path}/{name}")
    return raw


def _link_name(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def _is_marked(paths: Paths, address: str) -> bool:
    """Whether an access of ours to the function at an address is known to wait still."""
    try:
        process, started = (files.read(f"{paths.run}/stuck/{address}") or "").split()
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
