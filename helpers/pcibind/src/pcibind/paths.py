"""Every path that pcibind reads or writes, derived from one root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pcibind.model import Address


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths under `root`, which is / but in tests."""

    root: Path = Path("/")

    @property
    def sys(self) -> Path:
        """The sysfs mount point."""
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        """The proc mount point."""
        return self.root / "proc"

    @property
    def devices(self) -> Path:
        """The directory with a link for each PCI function."""
        return self.sys / "bus/pci/devices"

    @property
    def drivers_probe(self) -> Path:
        """Writing an address here makes the kernel look for a driver for it."""
        return self.sys / "bus/pci/drivers_probe"

    def device(self, address: Address) -> Path:
        """A function's directory in sysfs."""
        return self.devices / str(address)

    def driver(self, name: str) -> Path:
        """A PCI driver's directory in sysfs; there only while the driver is loaded."""
        return self.sys / "bus/pci/drivers" / name

    def group_devices(self, group: int) -> Path:
        """The directory with a link for each device of an IOMMU group."""
        return self.sys / f"kernel/iommu_groups/{group}/devices"

    def group_node(self, group: int) -> Path:
        """The device node through which a process opens an IOMMU group."""
        return self.root / f"dev/vfio/{group}"

    @property
    def configuration(self) -> Path:
        """The directory of the TOML files."""
        return self.root / "etc/pcibind"

    @property
    def early_list(self) -> Path:
        """The list that the early script reads, in the initramfs too."""
        return self.configuration / "early.list"

    @property
    def record(self) -> Path:
        """What was chosen, and how it was before."""
        return self.root / "var/lib/pcibind/record.json"

    @property
    def run(self) -> Path:
        """State of this boot."""
        return self.root / "run/pcibind"
