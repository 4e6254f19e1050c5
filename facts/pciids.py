"""Names of PCI vendors and devices, out of the database that the operator's own distribution maintains."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache

# Debian's package pci.ids and Fedora's hwdata; pciutils' update-pciids writes to the first that is there.
PLACES = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/var/lib/pciutils/pci.ids")
VARIABLE = "PCI_IDS"


class PciNames:
    """Vendors, devices and subsystems by their numbers. Empty where there is no database."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Read the text of pci.ids; lines that are none of its kinds are passed over.

        Its format is in its own first lines: a vendor, then below it its devices with one tab, and their subsystems
        with two; what begins with ``C`` is about classes.
        """
        self._vendors: dict[int, str] = {}
        self._devices: dict[tuple[int, int], str] = {}
        self._subsystems: dict[tuple[int, int, int, int], str] = {}
        vendor = device = None
        for line in lines:
            numbers, _, name = line.strip().partition("  ")
            try:
                values = [int(number, 16) for number in numbers.split()]
            except ValueError:
                values = []
            if line.startswith("C "):
                # From here on it is about classes, indented the same way.
                vendor = device = None
                continue
            match (len(line) - len(line.lstrip("\t")), values):
                case (0, [one]):
                    vendor, device = one, None
                    self._vendors[vendor] = name
                case (1, [one]) if vendor is not None:
                    device = one
                    self._devices[vendor, device] = name
                case (2, [one, two]) if vendor is not None and device is not None:
                    self._subsystems[vendor, device, one, two] = name
                case _:
                    pass

    def vendor(self, vendor: int) -> str | None:
        """A vendor's name, or ``None`` when it is not known."""
        return self._vendors.get(vendor)

    def device(self, vendor: int, device: int) -> str | None:
        """A device's name without its vendor's, or ``None`` when it is not known."""
        return self._devices.get((vendor, device))

    def subsystem(self, vendor: int, device: int, subvendor: int, subdevice: int) -> str | None:
        """The name of a device as one vendor of boards sells it, or ``None`` when it is not known."""
        return self._subsystems.get((vendor, device, subvendor, subdevice))


@cache
def installed() -> PciNames:
    """The database of this machine: of PCI_IDS, a path, or of the first place that has one. Read once."""
    for path in filter(None, (os.environ.get(VARIABLE), *PLACES)):
        try:
            with open(path, encoding="utf-8", errors="replace") as lines:
                return PciNames(lines)
        except OSError:
            continue
    return PciNames()
