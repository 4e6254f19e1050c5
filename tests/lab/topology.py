"""A topology: which boards sit on which root ports, with which functions, in whose company."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from tests.lab.board import BOOT_DISPLAY, CARD_DISK, GPU, OTHER_MODEL, SOUND, Board, devices, function

DISK_SLOT = 0x1E
NETWORK_SLOT = 0x1D
"""The machine's own devices on bus 0: above every port, so that no topology moves them."""

ROOM = 64
"""MiB of addresses that hold any board of the lab."""

_FIRST_PORT_SLOT, _LAST_PORT_SLOT = 0x02, 0x1C


class TopologyError(ValueError):
    """No such topology, or one that no machine can have; the text names what is wrong."""


@dataclass(frozen=True)
class Port:
    """A root port at device number `slot` of bus 0, hence of a name that nothing else moves.

    On it sits one `board` (None: the port is there and empty), or, behind a PCIe-to-PCI bridge,
    `conventional` devices, which share one IOMMU group with each other and with the bridge.
    `room` is how many MiB of addresses the firmware keeps for a board that is plugged in later.
    """

    slot: int
    board: Board | None = None
    conventional: tuple[str, ...] = ()
    room: int = 0

    @property
    def address(self) -> str:
        """Return the port's own PCI address: `0000:00:04.0`."""
        return f"0000:00:{self.slot:02x}.0"

    @property
    def name(self) -> str:
        """Return QEMU's name for the port, which is also that of the bus behind it: `port04`."""
        return f"port{self.slot:02x}"


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

    def port(self, slot: int) -> Port:
        """Return the port at a device number of bus 0. Raises TopologyError when there is none."""
        for port in self.ports:
            if port.slot == slot:
                return port
        known = ", ".join(f"{port.slot:#x}" for port in self.ports)
        raise TopologyError(f"{self.name}: no port at slot {slot:#x}, only at {known}")

    def holding(self, slot: int, board: Board | None) -> Self:
        """Return the same topology with another board at one port, or with none there.

        Raises TopologyError when there is no such port, or when a bridge sits on it.
        """
        changed = replace(self.port(slot), board=board)
        return replace(self, ports=tuple(changed if port.slot == slot else port for port in self.ports))

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
    room = f",mem-reserve={port.room}M,io-reserve=4K" if port.room else ""
    place = f"bus=pcie.0,addr={port.slot:x}.0,chassis={port.slot},slot={port.slot}"
    lines = [f"pcie-root-port,id={port.name},{place}{room}"]
    if port.board is not None:
        lines += (line for each in devices(port.board, port.name) for line in each)
    if port.conventional:
        bridge = f"bridge{port.slot:02x}"
        lines.append(f"pcie-pci-bridge,id={bridge},bus={port.name},addr=0.0")
        for number, model in enumerate(port.conventional, start=1):
            lines += function(model, f"{bridge}.{number}", f"bus={bridge},addr={number:x}.0")
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
        Topology(
            "disk-in-group",
            (
                Port(0x4, GPU),
                Port(0x5, conventional=("bochs-display", "intel-hda", f"virtio-blk-pci,drive={CARD_DISK}")),
            ),
        ),
        Topology("boot-display", (Port(0x4, BOOT_DISPLAY), Port(0x5, GPU))),
        Topology("models", (Port(0x4, GPU), Port(0x5, OTHER_MODEL), Port(0x6, SOUND))),
        # Two boards, and empty slots to plug others into.
        Topology(
            "ports",
            (
                *(Port(slot, GPU, room=ROOM) for slot in (0x4, 0x5)),
                *(Port(slot, room=ROOM) for slot in range(0x6, 0xE)),
            ),
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
