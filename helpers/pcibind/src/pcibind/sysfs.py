"""The PCI topology of this host, read from sysfs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from pcibind import bounded
from pcibind.errors import StuckError
from pcibind.model import Address, Topology
from pcibind.paths import Paths
from pcibind.raw import ATTRIBUTES, LOCKED_ATTRIBUTE, RawDevice, build

OVERRIDE_SECONDS = 5.0
"""How long one device's override may take to read before it counts as unreadable."""


def read(root: Path = Path("/"), *, udev: bool = True) -> Topology:
    """Read all PCI functions of the host whose root directory is `root`.

    pyudev enumerates where it is installed and `root` is /; with `udev` false, or elsewhere, the
    directory of PCI devices is listed. Both find the same; the second starts faster.
    A device that vanishes meanwhile is left out. An override that cannot be read in time counts
    as unset. Raises ValueError when sysfs holds what no kernel writes.
    """
    paths = Paths(root)
    found = _udev_devices() if udev and root == Path("/") else None
    devices = [_device(Path(path)) for path in (found or _listed_devices(paths.devices))]
    _read_overrides(paths, devices)
    return build(devices)


def driver_of(paths: Paths, address: Address) -> str | None:
    """The driver that a function has right now, or None. Takes no lock."""
    return _link_name(paths.device(address) / "driver")


def override_of(paths: Paths, address: Address, seconds: float = OVERRIDE_SECONDS) -> str | None:
    """The override that a function has right now, or None; raises StuckError and OSError."""
    path = paths.device(address) / LOCKED_ATTRIBUTE
    text = bounded.call(lambda: path.read_text().strip(), seconds, f"reading {path}")
    return None if text in ("", "(null)") else text


def _udev_devices() -> list[str] | None:
    try:
        import pyudev  # type: ignore[import-untyped, unused-ignore]

        context = pyudev.Context()
        return [str(device.sys_path) for device in context.list_devices(subsystem="pci")] or None
    except (ImportError, OSError):
        return None


def _listed_devices(directory: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(str(entry) for entry in directory.iterdir())
    return []


def _device(path: Path) -> RawDevice:
    raw = RawDevice(path.name)
    try:
        raw.target = os.readlink(path) if path.is_symlink() else str(path)
    except OSError:
        return raw
    raw.driver = _link_name(path / "driver")
    raw.iommu_group = _link_name(path / "iommu_group")
    for name in ATTRIBUTES:
        with contextlib.suppress(OSError):
            raw.attributes[name] = (path / name).read_text().strip()
    return raw


def _link_name(path: Path) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def _read_overrides(paths: Paths, devices: Iterable[RawDevice]) -> None:
    """Read all overrides, in one child while none of them blocks."""
    left = [raw for raw in devices if raw.target is not None]
    with contextlib.suppress(StuckError, OSError):
        everything = bounded.call(
            lambda: "\n".join(_override_text(paths, raw.name) for raw in left),
            OVERRIDE_SECONDS,
            "reading driver overrides",
        )
        for raw, text in zip(left, everything.split("\n"), strict=False):
            raw.attributes[LOCKED_ATTRIBUTE] = text
        return
    # One of them blocks: ask each by itself, so that only that one stays unknown.
    for raw in left:
        with contextlib.suppress(StuckError, OSError, ValueError):
            address = Address.parse(raw.name)
            raw.attributes[LOCKED_ATTRIBUTE] = override_of(paths, address, 1.0) or ""


def _override_text(paths: Paths, name: str) -> str:
    try:
        return (paths.devices / name / LOCKED_ATTRIBUTE).read_text().strip()
    except OSError:
        return ""
