"""PCI devices as they were read, still text, and the one way to make a topology of them.

Whatever reads a host (sysfs directly, a remote command's output) ends here, so that the same
host looks the same from everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from pcibind.model.pci import Address, Function, Topology, function_path

ATTRIBUTES = (
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "class",
    "boot_vga",
)
"""sysfs attributes that are read of each device, none of which takes the device's lock."""

LOCKED_ATTRIBUTE = "driver_override"
"""Reading this takes the device lock, and waits behind a stuck unbind."""


class RawDevice:
    """One entry of /sys/bus/pci/devices, filled bit by bit.

    `target` is the path that the entry links to, `driver`, `iommu_group` and `physfn` the last
    parts of the links of those names, `attributes` the text of the files in ATTRIBUTES and of
    LOCKED_ATTRIBUTE; `locked` says that reading the latter hung.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.target: str | None = None
        self.driver: str | None = None
        self.iommu_group: str | None = None
        self.physfn: str | None = None
        self.attributes: dict[str, str] = {}
        self.locked = False


def build(devices: Iterable[RawDevice]) -> Topology:
    """Make a topology; leave out devices that vanished while they were read.

    Raises ValueError naming the device and the attribute when a value cannot be understood.
    """
    functions = [function for raw in devices if (function := _function(raw)) is not None]
    return Topology(tuple(sorted(functions, key=lambda function: function.address)))


def _function(raw: RawDevice) -> Function | None:
    address = Address.parse(raw.name)
    # A device that goes away loses its files one after the other: without the ones that every
    # device has, it is as good as gone. Subsystem ids belong to endpoints; bridges may lack them.
    if raw.target is None or not {"vendor", "device", "class"} <= raw.attributes.keys():
        return None
    override = raw.attributes.get(LOCKED_ATTRIBUTE, "")
    return Function(
        address=address,
        path=function_path(raw.target),
        vendor=_number(raw, "vendor", 0xFFFF),
        device=_number(raw, "device", 0xFFFF),
        subsystem_vendor=_number(raw, "subsystem_vendor", 0xFFFF),
        subsystem_device=_number(raw, "subsystem_device", 0xFFFF),
        class_code=_number(raw, "class", 0xFFFFFF),
        driver=raw.driver,
        # The kernel prints an unset override as "(null)".
        driver_override=None if override in ("", "(null)") else override,
        iommu_group=_group(raw),
        boot_vga=raw.attributes.get("boot_vga") == "1",
        locked=raw.locked,
        physical=Address.parse(raw.physfn) if raw.physfn else None,
    )


def _number(raw: RawDevice, name: str, most: int) -> int:
    text = raw.attributes.get(name, "0x0")
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise ValueError(
            f"PCI device {raw.name}: {name} reads {text!r}, expected a hexadecimal number "
            f"up to {most:#x}"
        )
    return value


def _group(raw: RawDevice) -> int | None:
    if raw.iommu_group is None:
        return None
    if not raw.iommu_group.isdecimal():
        raise ValueError(
            f"PCI device {raw.name}: its iommu_group is {raw.iommu_group!r}, expected a number"
        )
    return int(raw.iommu_group)
