"""What a dump does not tell of its machine, made up: IOMMU groups, NUMA nodes, boot display, root disk, route.

Nothing here was observed. It is plausible, the same for the same dump, and no evidence about a real machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.corpus.dump import Dump, PciDevice

_PCI_BRIDGE = 0x0604
_SUBTRACTIVE = 0x060401
_VGA = 0x0300
_ROOT_FILESYSTEMS = ("ext4", "xfs", "btrfs")


class Synthesis(NamedTuple):
    """Made-up facts; `_replace` one to have another machine.

    `groups` and `nodes` are the IOMMU group and the NUMA node by slot name; no groups means that the IOMMU is off.
    `boot_display` is a slot name, and None where the dump itself tells. `framebuffer` is the slot name of the function
    that has the firmware's framebuffer in its memory, None for none. `root_disk` and `default_interface` are names
    of a block device that is mounted at / and of an interface that carries the default route; None for neither.
    `members` are the block devices that others are made of, beyond what the dump tells.
    """

    groups: Mapping[str, int]
    nodes: Mapping[str, int]
    boot_display: str | None
    framebuffer: str | None
    root_disk: str | None
    default_interface: str | None
    members: Mapping[str, tuple[str, ...]]


def synthesise(dump: Dump) -> Synthesis:
    """All of it, as the functions below make it up."""
    return Synthesis(
        groups=synthesised_groups(dump),
        nodes=synthesised_nodes(dump),
        boot_display=synthesised_boot_display(dump),
        framebuffer=synthesised_framebuffer(dump),
        root_disk=synthesised_root_disk(dump),
        default_interface=synthesised_default_interface(dump),
        members={},
    )


def synthesised_groups(dump: Dump) -> dict[str, int]:
    """An IOMMU group for every function, by slot name, numbered from 0 in the order of the addresses.

    Each PCI-to-PCI bridge has a group of its own; the other functions of one slot share one; whatever is behind a
    conventional PCI bridge shares that bridge's.

    Linux (pci_device_group in drivers/iommu/iommu.c) starts at the function or at its DMA alias, which is the bridge
    for what is behind a conventional one. It goes upstream until every port on the way isolates by ACS, and then joins
    functions of the same slot that do not isolate from each other. The dumps hold no capabilities, so this is what it
    comes to when all root ports and downstream ports have ACS and no endpoint has: on real machines root ports without
    ACS join their siblings and everything below, and endpoints with ACS (or with a quirk that stands in for it) have a
    group for each function.

    Nor do the dumps tell a conventional bridge from a PCI Express port. One with subtractive decode counts as
    conventional, and one below another bridge that the driver of PCI Express ports did not take.
    """
    known = {device.path: device for device in dump.pci}
    numbers: dict[str, int] = {}
    groups: dict[str, int] = {}
    for device in sorted(dump.pci, key=_address):
        way = [*_ancestors(device, known), device]
        leader = next((bridge for bridge in way if _is_conventional(bridge, known)), device)
        key = leader.path if _is_pci_bridge(leader) else leader.path.rpartition(".")[0]
        groups[device.slot] = numbers.setdefault(key, len(numbers))
    return groups


def synthesised_nodes(dump: Dump) -> dict[str, int]:
    """NUMA node 0 for every function, by slot name: a machine of one node."""
    return {device.slot: 0 for device in dump.pci}


def synthesised_boot_display(dump: Dump) -> str | None:
    """The slot name of the first VGA function in the order of the addresses; None if the dump tells, or has none.

    On a real machine the firmware decides, and the kernel takes the display whose memory the firmware's console is in.
    """
    if any(device.boot_vga is not None for device in dump.pci):
        return None
    return next((device.slot for device in sorted(dump.pci, key=_address) if device.class_code >> 8 == _VGA), None)


def synthesised_framebuffer(dump: Dump) -> str | None:
    """The slot name of the boot display where the dump has a framebuffer of the firmware's, or None.

    Where there is one, it does lie in the memory of the display that the firmware used; but the dumps do not say which
    display that is.
    """
    if not dump.firmware_framebuffer:
        return None
    slot = next((device.slot for device in dump.pci if device.boot_vga), None)
    return slot or synthesised_boot_display(dump)


def synthesised_root_disk(dump: Dump) -> str | None:
    """The first block device below a PCI function with a file system of Linux, or else the first one there."""
    below = [block for block in dump.blocks if block.path.startswith("/devices/pci") and block.number]
    likely = [block for block in below if block.filesystem in _ROOT_FILESYSTEMS]
    return next((block.name for block in [*likely, *below]), None)


def synthesised_default_interface(dump: Dump) -> str | None:
    """The first network interface below a PCI function."""
    return next((each.name for each in dump.interfaces if each.path.startswith("/devices/pci")), None)


def _address(device: PciDevice) -> tuple[int, ...]:
    domain, bus, rest = device.slot.split(":")
    slot, _, function = rest.partition(".")
    return tuple(int(part, 16) for part in (domain, bus, slot, function))


def _ancestors(device: PciDevice, known: Mapping[str, PciDevice]) -> list[PciDevice]:
    """The functions on the way to one, from the root bus on."""
    parts = device.path.split("/")
    paths = ("/".join(parts[:length]) for length in range(1, len(parts)))
    return [known[path] for path in paths if path in known]


def _is_pci_bridge(device: PciDevice) -> bool:
    return device.class_code >> 8 == _PCI_BRIDGE


def _is_conventional(device: PciDevice, known: Mapping[str, PciDevice]) -> bool:
    if not _is_pci_bridge(device):
        return False
    return device.class_code == _SUBTRACTIVE or (bool(_ancestors(device, known)) and device.driver != "pcieport")
