"""PCI as the kernel shows it: addresses, functions, boards, IOMMU groups.

Pure and free of I/O, so that the boot helper on a node and the controller that looks at it
from afar speak of the same things. Terms are those of the PCI specification and of
Documentation/ABI/testing/sysfs-bus-pci.

Values are named tuples here and in all that a boot imports: `dataclasses` alone costs as much as
starting Python twice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pcibind.remote.detail import Detail

BRIDGE_CLASS = 0x06
DISPLAY_CLASS = 0x03
# PCI-to-PCI, CardBus, semi-transparent: what the kernel lets be in any IOMMU group.
PCI_BRIDGES = frozenset({0x0604, 0x0607, 0x0609})

# drivers/vfio: a group is viable while its endpoints have no driver or one that leaves DMA alone.
VIABLE = frozenset({None, "vfio-pci", "pci-stub"})

# Domains are four digits by the specification; Linux gives volume management devices five.
_ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_ROOT_BUS = re.compile(r"pci([0-9a-f]{4,8}:[0-9a-f]{2})")
_BOARD_PATH = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}(/[01][0-9a-f]\.[0-7])*/[01][0-9a-f]")
_MODEL = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")


class Address(NamedTuple):
    """Where a function answers today: domain, bus, device, function, each a plain number.

    Buses are numbered anew at every boot, so an address names a function but not a board's
    identity; `Function.path` does.
    """

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read sysfs's form, `0000:01:00.0`; raise ValueError for anything else."""
        match = _ADDRESS.fullmatch(text.lower())
        if match is None:
            raise ValueError(
                f"{text!r} is not a PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION in "
                "hexadecimal, as in 0000:01:00.0"
            )
        domain, bus, device, function = (int(part, 16) for part in match.groups())
        return cls(domain, bus, device, function)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


def function_path(device_path: str) -> str:
    """The bridge-relative path of a function, from its path under /sys/devices.

    `/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.2` gives `0000:00/01.0/00.2`: the root
    bus, then device and function of each bridge on the way. Bus numbers behind bridges are left
    out, since the kernel hands them out anew when a card is added.
    Raises ValueError when the path does not lead through a PCI root bus.
    """
    parts = device_path.rstrip("/").split("/")
    # The last root counts: a volume management device is a PCI function with a root of its own.
    roots = [index for index, part in enumerate(parts) if _ROOT_BUS.fullmatch(part)]
    if not roots:
        raise ValueError(f"{device_path!r} has no PCI root bus (pciDDDD:BB) in it")
    root = parts[roots[-1]].removeprefix("pci")
    slots = [str(Address.parse(part)).split(":", 2)[2] for part in parts[roots[-1] + 1 :]]
    if not slots:
        raise ValueError(f"{device_path!r} names a PCI root bus, not a function")
    return "/".join([root, *slots])


def board_path(path: str) -> str:
    """The board's path out of a function's: `0000:00/01.0/00.2` gives `0000:00/01.0/00`."""
    return path.rpartition(".")[0]


def parse_board_path(text: str) -> str:
    """Check a board's path as people write it; raise ValueError for anything else."""
    if _BOARD_PATH.fullmatch(text.lower()) is None:
        raise ValueError(
            f"{text!r} is not a board's path: expected ROOT/BRIDGE.../DEVICE, as in 0000:00/01.0/00"
        )
    return text.lower()


def parse_model(text: str) -> str:
    """Check `VENDOR:DEVICE` in hexadecimal, as in 10de:2684; raise ValueError for anything else."""
    if _MODEL.fullmatch(text.lower()) is None:
        raise ValueError(f"{text!r} is not a model: expected VENDOR:DEVICE, as in 10de:2684")
    return text.lower()


class Identity(NamedTuple):
    """What a function is, wherever it is plugged in: the five numbers of its configuration space.

    Twin cards share all of them, which is why a board's identity holds its path too.
    """

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    class_code: int

    def __str__(self) -> str:
        return (
            f"{self.vendor:04x}:{self.device:04x} (subsystem {self.subsystem_vendor:04x}:"
            f"{self.subsystem_device:04x}, class {self.class_code:06x})"
        )


class Function(NamedTuple):
    """One PCI function as sysfs shows it. `class_code` has 24 bits: base, sub, interface.

    `locked` says that its override could not be read in time: somebody's access to it hangs in the
    kernel and holds its lock. `physical` is the physical function that a virtual one belongs to
    (`physfn` in sysfs), None for any other function.
    """

    address: Address
    path: str
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    class_code: int
    driver: str | None = None
    driver_override: str | None = None
    iommu_group: int | None = None
    boot_vga: bool = False
    locked: bool = False
    physical: Address | None = None

    @property
    def board(self) -> str:
        """The path of its board; that of a virtual function, which is one by itself, its own.

        Virtual functions run on over slots without being one card: each has a user of its own.
        """
        return self.path if self.physical else board_path(self.path)

    @property
    def number(self) -> int:
        """The function number, 0 to 7."""
        return self.address.function

    @property
    def model(self) -> str:
        """`vendor:device` in hexadecimal, as lspci -n prints it."""
        return f"{self.vendor:04x}:{self.device:04x}"

    @property
    def identity(self) -> Identity:
        """The five numbers that tell what this function is."""
        return Identity(
            self.vendor,
            self.device,
            self.subsystem_vendor,
            self.subsystem_device,
            self.class_code,
        )

    @property
    def base_class(self) -> int:
        """The upper eight bits of the class code."""
        return self.class_code >> 16

    @property
    def is_bridge(self) -> bool:
        """Whether this is a bridge of any kind, which vfio-pci is never asked to take."""
        return self.base_class == BRIDGE_CLASS

    @property
    def is_in_the_way(self) -> bool:
        """Whether its group cannot go to VFIO while it has the driver that it has.

        That is every function but PCI-to-PCI bridges, and other bridges (host, ISA) that no
        driver has; see iommu_device_claim_dma_owner() in drivers/iommu/iommu.c.
        """
        if self.class_code >> 8 in PCI_BRIDGES:
            return False
        return not self.is_bridge or self.driver is not None

    @property
    def is_display(self) -> bool:
        """Whether this is a display controller: VGA, 3D or other."""
        return self.base_class == DISPLAY_CLASS


class Board(NamedTuple):
    """The endpoints of one slot, in the order of their numbers, or one virtual function."""

    path: str
    functions: tuple[Function, ...]

    @property
    def address(self) -> Address:
        """The address of function 0, or of the lowest function where 0 is a bridge."""
        return self.functions[0].address

    @property
    def display_functions(self) -> tuple[Function, ...]:
        """Those functions that are display controllers."""
        return tuple(function for function in self.functions if function.is_display)

    @property
    def model(self) -> str:
        """The model of the first display function, or of the first function if none is one."""
        return (self.display_functions or self.functions)[0].model

    @property
    def groups(self) -> tuple[int, ...]:
        """The IOMMU groups of its functions, each once; empty while the IOMMU is off."""
        return tuple(sorted({f.iommu_group for f in self.functions if f.iommu_group is not None}))

    @property
    def identities(self) -> dict[int, Identity]:
        """What each function is, by function number."""
        return {function.number: function.identity for function in self.functions}


class Topology:
    """All PCI functions of one host, bridges included, ordered by address.

    `details` tells more of them where a look from afar was taken, and `unreadable` what such a look
    could not read, in words. Topologies are equal when their functions are.
    """

    def __init__(
        self,
        functions: tuple[Function, ...] = (),
        details: Mapping[Address, Detail] | None = None,
        unreadable: tuple[str, ...] = (),
    ) -> None:
        self.functions = functions
        self.details = details or {}
        self.unreadable = unreadable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.functions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.functions!r})"

    def boards(self) -> tuple[Board, ...]:
        """The endpoints of each slot as a board, ordered by address."""
        slots: dict[str, list[Function]] = {}
        for function in self.functions:
            if not function.is_bridge:
                slots.setdefault(function.board, []).append(function)
        return tuple(
            Board(path, tuple(sorted(functions, key=lambda function: function.address)))
            for path, functions in slots.items()
        )

    def board_at(self, path: str) -> Board | None:
        """The board at a bridge-relative path, or None."""
        return next((board for board in self.boards() if board.path == path), None)

    def board_of(self, address: Address) -> Board | None:
        """The board that an endpoint belongs to; None for a bridge or an unknown address."""
        function = self.function(address)
        return None if function is None else self.board_at(function.board)

    def bridges_to(self, path: str) -> tuple[Function, ...]:
        """The bridges on the way to a board, the root port first."""
        on_the_way = [f for f in self.functions if f.is_bridge and path.startswith(f"{f.path}/")]
        return tuple(sorted(on_the_way, key=lambda function: len(function.path)))

    def function(self, address: Address) -> Function | None:
        """The function at an address, or None."""
        return next((f for f in self.functions if f.address == address), None)

    def group(self, number: int) -> tuple[Function, ...]:
        """Every function of an IOMMU group, bridges included."""
        return tuple(f for f in self.functions if f.iommu_group == number)
