"""A topology: which boards sit on which root ports, with which functions, in whose company."""

from collections.abc import Mapping
from dataclasses import dataclass

DISK_SLOT = 0x1E
NETWORK_SLOT = 0x1D
"""The machine's own devices on bus 0: above every port, so that no topology moves them."""

_FIRST_PORT_SLOT, _LAST_PORT_SLOT = 0x02, 0x1C


class TopologyError(ValueError):
    """No such topology, or one that no machine can have; the text names what is wrong."""


@dataclass(frozen=True)
class Board:
    """A card: QEMU device models, function 0 first. Up to eight."""

    functions: tuple[str, ...]


GPU = Board(("bochs-display", "intel-hda", "qemu-xhci", "pci-serial"))
"""Display, audio, USB (modules in Debian's kernel), and a driver that is built into it."""


@dataclass(frozen=True)
class Port:
    """A root port at device number `slot` of bus 0, hence of a name that nothing else moves.

    On it sits one `board` (None: the port is there and empty), or, behind a PCIe-to-PCI bridge,
    `conventional` devices, which share one IOMMU group with each other and with the bridge.
    """

    slot: int
    board: Board | None = None
    conventional: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Return the port's own PCI address: `0000:00:04.0`."""
        return f"0000:00:{self.slot:02x}.0"


@dataclass(frozen=True)
class Topology:
    """Root ports in order of their slots. Bus and group numbers follow that order.

    Raises TopologyError for a slot out of range or used twice, and for an impossible board.
    """

    name: str
    ports: tuple[Port, ...]

    def __post_init__(self) -> None:
        slots = [port.slot for port in self.ports]
        if slots != sorted(set(slots)):
            raise TopologyError(f"{self.name}: slots must rise, found {slots}")
        for port in self.ports:
            if not _FIRST_PORT_SLOT <= port.slot <= _LAST_PORT_SLOT:
                raise TopologyError(
                    f"{self.name}: slot {port.slot:#x} is outside {_FIRST_PORT_SLOT:#x} to {_LAST_PORT_SLOT:#x}"
                )
            if port.board is not None and port.conventional:
                raise TopologyError(f"{self.name}: {port.address} has a board and a bridge")
            if port.board is not None and not 1 <= len(port.board.functions) <= 8:
                raise TopologyError(f"{self.name}: {port.address} needs one to eight functions")

    def arguments(self) -> list[str]:
        """Return QEMU's `-device` arguments."""
        return [word for port in self.ports for device in _devices(port) for word in device]

    @property
    def boards(self) -> Mapping[str, tuple[str, ...]]:
        """Return for each root port with a board the PCI addresses of the board's functions.

        The firmware numbers the buses in the order of the ports, an empty port taking one too,
        and one more for a bridge behind it.
        """
        found: dict[str, tuple[str, ...]] = {}
        bus = 0
        for port in self.ports:
            bus += 1
            if port.board is not None:
                numbers = range(len(port.board.functions))
                found[port.address] = tuple(f"0000:{bus:02x}:00.{number}" for number in numbers)
            if port.conventional:
                bus += 1
        return found


def _devices(port: Port) -> list[tuple[str, str]]:
    name = f"port{port.slot:02x}"
    lines = [f"pcie-root-port,id={name},bus=pcie.0,addr={port.slot:x}.0,chassis={port.slot},slot={port.slot}"]
    if port.board is not None:
        several = ",multifunction=on" if len(port.board.functions) > 1 else ""
        for number, model in enumerate(port.board.functions):
            first = several if number == 0 else ""
            lines.append(f"{model},bus={name},addr=0.{number:x}{first}")
    if port.conventional:
        bridge = f"bridge{port.slot:02x}"
        lines.append(f"pcie-pci-bridge,id={bridge},bus={name},addr=0.0")
        for number, model in enumerate(port.conventional, start=1):
            lines.append(f"{model},bus={bridge},addr={number:x}.0")
    return [("-device", line) for line in lines]


TOPOLOGIES: Mapping[str, Topology] = {
    topology.name: topology
    for topology in (
        Topology("two-boards", (Port(0x4, GPU), Port(0x5, GPU))),
        Topology("twin-in-front", (Port(0x3, GPU), Port(0x4, GPU), Port(0x5, GPU))),
        Topology("one-board", (Port(0x4, GPU),)),
        Topology("no-boards", ()),
        Topology("eight-boards", tuple(Port(slot, GPU) for slot in range(0x4, 0xC))),
        # The first board is dead: its port is there, and the second keeps its address.
        Topology("one-board-gone", (Port(0x4), Port(0x5, GPU))),
        # The first port is gone too: the second board answers at the first one's old address.
        Topology("one-port-gone", (Port(0x5, GPU),)),
        Topology("boards-moved", (Port(0x6, GPU), Port(0x7, GPU))),
        Topology(
            "nic-in-group",
            (Port(0x4, GPU), Port(0x5, conventional=("bochs-display", "intel-hda", "e1000"))),
        ),
    )
}

DEFAULT = "two-boards"


def named(name: str) -> Topology:
    """Return the topology of that name; TopologyError lists the names there are."""
    try:
        return TOPOLOGIES[name]
    except KeyError:
        known = ", ".join(TOPOLOGIES)
        raise TopologyError(f"no topology {name!r}: there are {known}") from None
