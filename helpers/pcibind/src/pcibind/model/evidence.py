"""What a host uses its PCI devices for right now."""

from __future__ import annotations

from pcibind.model.pci import Address, Board
from pcibind.model.values import NamedTuple


class Use(NamedTuple):
    """A function that something depends on: its address, and by what, in a few words."""

    address: Address
    what: str


class OpenVfio(NamedTuple):
    """An open VFIO device node: of a group, or of one function; and by which process.

    One of `group` and `address` is None.
    """

    group: int | None
    address: Address | None
    holder: str


class OpenNvidia(NamedTuple):
    """A device node of NVIDIA's driver that is open: of which function, if known, and by whom."""

    address: Address | None
    what: str


class Evidence(NamedTuple):
    """What the guards decide by.

    `configured` are the functions of interfaces that have an address other than a link-local one,
    but those in `route_nics` and `ssh_nics`. `framebuffers` are the functions whose memory a
    framebuffer of the firmware's owns, or will from the next boot. `open_devices` are the functions
    of which a process, or the kernel's console, has a character device open that neither VFIO nor
    NVIDIA's driver made. `unreadable` holds, by guard name, why that guard's evidence could not be
    read: a guard that cannot see refuses the boards that it could concern. `network` and `storage`
    are the functions that an interface or a block device hangs on; `blind` names the guards for
    which even that could not be read.

    Of the firmware: `reserved_groups` are the IOMMU groups with memory that it keeps mapped for
    itself (RMRR, type `direct`), `unassigned` are functions with a memory range that has no
    address, `silent` those whose configuration space reads as ones. `early` are the functions
    whose override the early script, or pcibind, set at this boot.
    """

    route_nics: tuple[Use, ...] = ()
    ssh_nics: tuple[Use, ...] = ()
    configured: tuple[Use, ...] = ()
    disks: tuple[Use, ...] = ()
    boot_displays: frozenset[Address] = frozenset()
    framebuffers: tuple[Use, ...] = ()
    open_nvidia: tuple[OpenNvidia, ...] = ()
    open_devices: tuple[Use, ...] = ()
    physical_functions: frozenset[Address] = frozenset()
    open_vfio: tuple[OpenVfio, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    network: frozenset[Address] = frozenset()
    storage: frozenset[Address] = frozenset()
    blind: frozenset[str] = frozenset()
    reserved_groups: frozenset[int] = frozenset()
    unassigned: tuple[Use, ...] = ()
    silent: frozenset[Address] = frozenset()
    early: frozenset[Address] = frozenset()

    def users(self, board: Board) -> tuple[str, ...]:
        """The known users of a board, and what they use it for, in a few words each."""
        addresses = {function.address for function in board.functions}
        by_nvidia = any(function.driver == "nvidia" for function in board.functions)
        # Memory without an address is no use of it.
        uses = (use for name in self._fields if name != "unassigned" for use in getattr(self, name))
        users = []
        for use in uses:
            if isinstance(use, Use) and use.address in addresses:
                users.append(use.what)
            elif isinstance(use, OpenNvidia) and (use.address in addresses or not use.address):
                users += [use.what] if by_nvidia else []
            elif isinstance(use, OpenVfio) and (
                use.group in board.groups or use.address in addresses
            ):
                users.append(f"VFIO: {use.holder}")
        return tuple(dict.fromkeys(users))
