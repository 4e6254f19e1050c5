"""PCI as the kernel shows it: addresses, functions, boards, IOMMU groups.

Free of I/O, so that the boot helper on a host and a remote controller share one model. Terms are
those of the PCI specification and of Documentation/ABI/testing/sysfs-bus-pci.

Values are named tuples here and in all that a boot imports: `dataclasses` alone costs as much as
starting Python twice.
"""

from __future__ import annotations

import contextlib
import re

from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pcibind.remote.detail import Detail

DRIVER = "vfio-pci"
"""The driver that chosen boards are bound to."""

BRIDGE_CLASS = 0x06
DISPLAY_CLASS = 0x03
# PCI-to-PCI, CardBus, semi-transparent: what the kernel lets be in any IOMMU group.
PCI_BRIDGES = frozenset({0x0604, 0x0607, 0x0609})

_VIABLE = frozenset({None, DRIVER, "pci-stub"})

# As modalias_show() of drivers/pci/pci-sysfs.c prints it: all numbers have a fixed width.
_MODALIAS = "pci:v{}d{}sv{}sd{}bc{}sc{}i{}"

VGA_CLASSES = ("0300", "0001")
"""How the class code begins where the kernel shows `boot_vga`; see pci_is_vga() of linux/pci.h."""

LOCKED_ATTRIBUTE = "driver_override"
"""Reading this takes the device lock, and waits behind a stuck unbind."""

_SUBCLASSES = {
    0x0106: "SATA",
    0x0108: "NVMe",
    0x0200: "Ethernet",
    0x0207: "InfiniBand",
    0x0300: "VGA display",
    0x0302: "3D display",
    0x0403: "audio",
    0x0604: "PCI bridge",
    0x0700: "serial port",
    0x0C03: "USB",
    0x0C04: "Fibre Channel",
    0x0C05: "SMBus",
    0x0C06: "InfiniBand",
    0x0C80: "USB-C",
}
_BASE_CLASSES = {
    0x01: "storage",
    0x02: "network",
    0x03: "display",
    0x04: "multimedia",
    0x05: "memory",
    0x06: "bridge",
    0x07: "communication",
    0x08: "system",
    0x0B: "processor",
    0x0C: "serial bus",
    0x0D: "wireless network",
    0x0F: "satellite network",
    0x10: "encryption",
    0x11: "signal processing",
    0x12: "accelerator",
}

# Domains are four digits by the specification; Linux gives volume management devices five.
_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_ROOT_BUS = re.compile(r"pci([0-9a-f]{4,8}:[0-9a-f]{2})")
_BOARD_PATH = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}(/[01][0-9a-f]\.[0-7])*/[01][0-9a-f]")
_MODEL = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")


def class_name(class_code: int) -> str:
    """A short name for a 24 bit class code (PCI Code and ID Assignment Specification)."""
    known = _SUBCLASSES.get(class_code >> 8) or _BASE_CLASSES.get(class_code >> 16)
    return known or f"class {class_code:06x}"


def blocks_group(class_code: int, driver: str | None) -> bool:
    """Whether a device on this driver keeps the kernel from giving its IOMMU group to VFIO.

    A group is viable while its devices, PCI-to-PCI bridges aside, have no driver or one that leaves
    DMA alone; see iommu_device_claim_dma_owner() in drivers/iommu/iommu.c.
    """
    return class_code >> 8 not in PCI_BRIDGES and driver not in _VIABLE


class Address(NamedTuple):
    """Where a function answers today: domain, bus, device, function, each a plain number.

    Buses may be renumbered at a boot, so an address names a function but not a board's
    identity; `Function.path` does.
    """

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `0000:01:00.0`, or `01:00.0` of domain 0; raise ValueError for anything else."""
        match = _ADDRESS.fullmatch(text.lower())
        if match is None:
            raise ValueError(
                f"{text!r} is not a PCI address: expected [DOMAIN:]BUS:DEVICE.FUNCTION in "
                "hexadecimal, as lspci prints it: 01:00.0"
            )
        domain, bus, device, function = (int(part, 16) for part in match.groups("0"))
        return cls(domain, bus, device, function)

    def matches(self, text: str) -> bool:
        """Whether a text is this address, with or without its domain."""
        try:
            return Address.parse(text) == self
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


def addresses(words: Iterable[str]) -> frozenset[Address]:
    """The addresses among these words; other words, as of a line that was cut off, are skipped."""
    known = set()
    for word in words:
        with contextlib.suppress(ValueError):
            known.add(Address.parse(word))
    return frozenset(known)


def function_path(device_path: str) -> str:
    """The bridge-relative path of a function, from its path under /sys/devices.

    `/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.2` gives `0000:00/01.0/00.2`: the root
    bus, then device and function of each bridge on the way. Bus numbers behind bridges are left
    out, since the kernel renumbers them when a card is added.
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
    """Check and normalise a board's path; raise ValueError for anything else."""
    if _BOARD_PATH.fullmatch(text.lower()) is None:
        raise ValueError(
            f"{text!r} is not a board's path: expected ROOT/BRIDGE.../DEVICE, as "
            "`pcibind list` shows it: 0000:00/01.0/00"
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

    def to_json(self) -> dict[str, str]:
        """The numbers as lspci -n prints them, by the names of the record and the reports."""
        return {
            "vendor": f"{self.vendor:04x}",
            "device": f"{self.device:04x}",
            "subsystem_vendor": f"{self.subsystem_vendor:04x}",
            "subsystem_device": f"{self.subsystem_device:04x}",
            "class": f"{self.class_code:06x}",
        }

    @property
    def modalias(self) -> str:
        """The text by which the kernel looks for a function's module (MODULE_DEVICE_TABLE)."""
        numbers = (self.vendor, self.device, self.subsystem_vendor, self.subsystem_device)
        code = self.class_code.to_bytes(3, "big")
        return _MODALIAS.format(*(f"{n:08X}" for n in numbers), *(f"{n:02X}" for n in code))

    def __str__(self) -> str:
        return (
            f"{self.vendor:04x}:{self.device:04x} (subsystem {self.subsystem_vendor:04x}:"
            f"{self.subsystem_device:04x}, class {self.class_code:06x})"
        )


class Function(NamedTuple):
    """One PCI function as sysfs shows it. `class_code` has 24 bits: base, sub, interface.

    `locked` says that its override could not be read in time: an access to it is blocked in the
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
        """The five numbers that identify what this function is."""
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
        """Whether its group may go to VFIO only if this function goes too.

        That is every function but PCI-to-PCI bridges, and other bridges (host, ISA) that no driver
        has. The kernel also accepts others without a driver (`blocks_group`), but one may come.
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

    def is_at(self, text: str) -> bool:
        """Whether a text is the board's path, or the address of one of its functions."""
        return text.lower() == self.path or any(f.address.matches(text) for f in self.functions)

    @property
    def is_virtual(self) -> bool:
        """Whether it is one virtual function."""
        return self.functions[0].physical is not None

    @property
    def is_locked(self) -> bool:
        """Whether an access to one of its functions is blocked in the kernel."""
        return any(function.locked for function in self.functions)

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

    `details` holds more about them where they were read from afar, and `unreadable` what could not
    be read then, in words. Topologies are equal when their functions are.
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
        self._boards: tuple[Board, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.functions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.functions!r})"

    def boards(self) -> tuple[Board, ...]:
        """The endpoints of each slot as a board, ordered by address."""
        if self._boards is None:
            slots: dict[str, list[Function]] = {}
            for function in self.functions:
                if not function.is_bridge:
                    slots.setdefault(function.board, []).append(function)
            self._boards = tuple(
                Board(path, tuple(sorted(functions, key=lambda function: function.address)))
                for path, functions in slots.items()
            )
        return self._boards

    def board_at(self, path: str) -> Board | None:
        """The board at a bridge-relative path, or None."""
        return next((board for board in self.boards() if board.path == path), None)

    def bridges_to(self, path: str) -> tuple[Function, ...]:
        """The bridges on the way to a board, the root port first."""
        on_the_way = [f for f in self.functions if f.is_bridge and path.startswith(f"{f.path}/")]
        return tuple(sorted(on_the_way, key=lambda function: len(function.path)))

    def group(self, number: int) -> tuple[Function, ...]:
        """Every function of an IOMMU group, bridges included."""
        return tuple(f for f in self.functions if f.iommu_group == number)


class RawDevice:
    """One entry of /sys/bus/pci/devices, filled bit by bit.

    `target` is the path that the entry links to, `driver`, `iommu_group` and `physfn` the last
    parts of the links of those names, `attributes` the text of other files (hexadecimal numbers,
    also out of `modalias`), and of LOCKED_ATTRIBUTE; `locked` says that reading the latter hung.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.target: str | None = None
        self.driver: str | None = None
        self.iommu_group: str | None = None
        self.physfn: str | None = None
        self.attributes: dict[str, str] = {}
        self.locked = False


def build_topology(devices: Iterable[RawDevice]) -> Topology:
    """Make a topology; leave out devices that vanished while they were read.

    Whatever reads a host (sysfs directly, a remote command's output) ends here, so that the same
    host looks the same from everywhere.
    Raises ValueError naming the device and the attribute when a value cannot be understood.
    """
    functions = [function for raw in devices if (function := _function(raw)) is not None]
    return Topology(tuple(sorted(functions, key=lambda function: function.address)))


def parse_modalias(name: str, text: str) -> dict[str, str]:
    """The numbers in the modalias of the device of that name, by the names of its attributes.

    Raises ValueError for another form.
    """
    ids = (text[5:13], text[14:22], text[24:32], text[34:42])
    code = (text[44:46], text[48:50], text[51:])
    numbers = (*ids, "".join(code))
    if text != _MODALIAS.format(*ids, *code) or not all(number.isalnum() for number in numbers):
        raise ValueError(f"PCI device {name}: modalias reads {text!r}, expected {_MODALIAS!r}")
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
    return dict(zip(names, numbers, strict=True))


def parse_override(text: str) -> str | None:
    """A driver override as sysfs prints it: the kernel prints an unset one as "(null)"."""
    return None if text in ("", "(null)") else text


def _function(raw: RawDevice) -> Function | None:
    address = Address.parse(raw.name)
    # A device that goes away loses its files one after the other: without the ones that every
    # device has, it is as good as gone. Subsystem ids belong to endpoints; bridges may lack them.
    if raw.target is None or not {"vendor", "device", "class"} <= raw.attributes.keys():
        return None
    return Function(
        address=address,
        path=function_path(raw.target),
        vendor=_number(raw, "vendor", 0xFFFF),
        device=_number(raw, "device", 0xFFFF),
        subsystem_vendor=_number(raw, "subsystem_vendor", 0xFFFF),
        subsystem_device=_number(raw, "subsystem_device", 0xFFFF),
        class_code=_number(raw, "class", 0xFFFFFF),
        driver=raw.driver,
        driver_override=parse_override(raw.attributes.get(LOCKED_ATTRIBUTE, "")),
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
