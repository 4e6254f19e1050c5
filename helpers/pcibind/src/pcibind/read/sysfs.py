"""The PCI topology of this host, read from sysfs."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Container, Sequence

from pcibind.model.errors import StuckError
from pcibind.model.pci import Address, Topology, board_path, function_path
from pcibind.read import access, stuck
from pcibind.read.access import Task
from pcibind.read.paths import Paths
from pcibind.read.raw import ATTRIBUTES, LOCKED_ATTRIBUTE, RawDevice, build


def read(
    paths: Paths, *, udev: bool = False, boards: Container[str] | None = None
) -> Task[Topology]:
    """Read all PCI functions of a host.

    With `udev`, pyudev enumerates them where it is installed and the root is /; else the directory
    of PCI devices is listed. Both find the same; the second starts faster, for boot.
    With `boards`, their paths, only the overrides of their functions are read: another device's
    probe, which holds its lock for as long as it takes, is not waited for.
    A device that vanishes meanwhile is left out; one whose override cannot be read in time is
    `locked`. Raises ValueError when sysfs holds what no kernel writes.
    """
    found = _udev_devices() if udev and not paths.root else None
    devices = [_device(path) for path in (found or _listed_devices(paths.devices))]
    for raw in devices:
        raw.locked = stuck.is_marked(paths, raw.name)
    left = [
        raw
        for raw in devices
        if raw.target is not None
        and not raw.locked
        and (boards is None or board_path(function_path(raw.target)) in boards)
    ]
    try:
        overrides = yield access.read_all(f"{paths.devices}/{r.name}/driver_override" for r in left)
        for raw, text in zip(left, overrides.split("\n"), strict=False):
            raw.attributes[LOCKED_ATTRIBUTE] = text
    except (StuckError, OSError):
        yield from _read_one_by_one(paths, left)
    return build(devices)


def driver_of(paths: Paths, address: Address) -> str | None:
    """The driver that a function has right now, or None. Takes no lock."""
    return _link_name(f"{paths.device(address)}/driver")


def override_of(paths: Paths, address: Address) -> Task[str | None]:
    """The override that a function has right now, or None; raises StuckError and OSError."""
    text = yield access.read(paths.override(address))
    return None if text in ("", "(null)") else text


def _read_one_by_one(paths: Paths, devices: Sequence[RawDevice]) -> Task[None]:
    """So that only the device that hangs stays unknown."""
    for raw in devices:
        path = f"{paths.devices}/{raw.name}/driver_override"
        try:
            raw.attributes[LOCKED_ATTRIBUTE] = yield access.read(path, 1.0)
        except StuckError as error:
            raw.locked = True
            # So that the next look does not leave another process behind.
            stuck.mark(paths, Address.parse(raw.name), error)
        except OSError as error:
            # One that is gone has no override; of any other it is not known.
            raw.locked = error.errno not in (errno.ENOENT, errno.ENODEV)


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
            raw.attributes[name] = _text(f"{path}/{name}")
    return raw


def _text(path: str) -> str:
    # Six of them for each device: without the layers of open().
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def _link_name(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None
