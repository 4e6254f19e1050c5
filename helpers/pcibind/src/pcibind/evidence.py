"""What a host uses its PCI devices for right now."""

from __future__ import annotations

from dataclasses import dataclass

from pcibind.model import Address


@dataclass(frozen=True, slots=True)
class Use:
    """A function that something depends on: its address, and by what, in a few words."""

    address: Address
    what: str


@dataclass(frozen=True, slots=True)
class OpenVfio:
    """An open VFIO device node: of a group, or of one function; and by which process.

    All three are None or empty for what cannot be told from outside, such as /dev/iommu.
    """

    group: int | None
    address: Address | None
    holder: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the guards decide by.

    `unreadable` holds, by guard name, why that guard's evidence could not be read: a guard that
    cannot see refuses.
    """

    route_nics: tuple[Use, ...] = ()
    ssh_nics: tuple[Use, ...] = ()
    disks: tuple[Use, ...] = ()
    boot_displays: frozenset[Address] = frozenset()
    physical_functions: frozenset[Address] = frozenset()
    open_vfio: tuple[OpenVfio, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
