"""Facts about a PCI function that binding does not need: for people, and for comparing hosts.

The names are those of Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

from typing import NamedTuple

from pcibind.model.pci import Address

ATTRIBUTES = (
    "numa_node",
    "current_link_speed",
    "current_link_width",
    "max_link_speed",
    "max_link_width",
    "sriov_totalvfs",
)
"""sysfs attributes that are read for this; none of them takes the device's lock.

`sriov_numvfs` does, so virtual functions are counted by their links instead.
"""

LATE_ATTRIBUTE = "reset_method"
"""Read last, where a hang costs nothing else: some kernels take the device's lock for it."""


class Link(NamedTuple):
    """A PCI Express link: speeds as the kernel writes them (`16.0 GT/s PCIe`), widths in lanes."""

    speed: str | None
    width: int | None
    max_speed: str | None
    max_width: int | None


class Sriov(NamedTuple):
    """How many virtual functions a function could have, and how many it has."""

    total: int
    enabled: int


class Module(NamedTuple):
    """A kernel module that says it drives a function, and whether it is built into the kernel."""

    name: str
    built_in: bool


class Detail(NamedTuple):
    """All of it, None or empty for what a function does not have or the kernel does not report.

    `slot` is the name of the physical slot as the firmware has it.
    """

    iommu_group_type: str | None = None
    numa_node: int | None = None
    link: Link | None = None
    sriov: Sriov | None = None
    physical_function: Address | None = None
    reset_methods: tuple[str, ...] = ()
    slot: str | None = None
    modules: tuple[Module, ...] = ()
