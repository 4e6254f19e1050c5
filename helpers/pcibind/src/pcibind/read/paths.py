"""Every path that pcibind reads or writes, derived from one root.

Plain text rather than pathlib, which a boot would import for nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

from pcibind.model.pci import Address


class Paths(NamedTuple):
    """Paths under `root`, which is empty (so /) but in tests."""

    root: str = ""

    @property
    def sys(self) -> str:
        """The sysfs mount point."""
        return f"{self.root}/sys"

    @property
    def proc(self) -> str:
        """The proc mount point."""
        return f"{self.root}/proc"

    @property
    def devices(self) -> str:
        """The directory with a link for each PCI function."""
        return f"{self.root}/sys/bus/pci/devices"

    @property
    def drivers_probe(self) -> str:
        """Writing an address here makes the kernel look for a driver for it."""
        return f"{self.root}/sys/bus/pci/drivers_probe"

    def device(self, address: Address) -> str:
        """A function's directory in sysfs."""
        return f"{self.devices}/{address}"

    def override(self, address: Address) -> str:
        """A function's driver override: reading it takes the device's lock."""
        return f"{self.devices}/{address}/driver_override"

    def driver(self, name: str) -> str:
        """A PCI driver's directory in sysfs; there only while the driver is loaded."""
        return f"{self.root}/sys/bus/pci/drivers/{name}"

    def group_devices(self, group: int) -> str:
        """The directory with a link for each device of an IOMMU group."""
        return f"{self.root}/sys/kernel/iommu_groups/{group}/devices"

    def group_node(self, group: int) -> str:
        """The device node through which a process opens an IOMMU group."""
        return f"{self.root}/dev/vfio/{group}"

    @property
    def configuration(self) -> str:
        """The directory of the TOML files."""
        return f"{self.root}/etc/pcibind"

    @property
    def early_list(self) -> str:
        """The list that the early script reads, in the initramfs too."""
        return f"{self.root}/etc/pcibind/early.list"

    @property
    def record(self) -> str:
        """What was chosen, and how it was before."""
        return f"{self.root}/var/lib/pcibind/record.json"

    @property
    def run(self) -> str:
        """State of this boot."""
        return f"{self.root}/run/pcibind"

    @property
    def lock(self) -> str:
        """Locked by the run that changes something; for root alone to open."""
        return f"{self.root}/run/pcibind/lock"

    @property
    def taken(self) -> str:
        """The functions whose overrides were set at this boot, by the early script or by us."""
        return f"{self.root}/run/pcibind/taken"

    @property
    def events(self) -> str:
        """A file for each later event of a chosen function: ACTION.ADDRESS."""
        return f"{self.root}/run/pcibind/events"
