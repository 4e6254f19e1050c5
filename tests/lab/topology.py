"""A topology: which boards sit on which root ports, with which functions, in whose company."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from tests.lab.board import (
    BOOT_DISPLAY,
    CARD_DISK,
    GPU,
    OTHER_MODEL,
    SOUND,
    VIRTUAL_FUNCTIONS,
    Board,
    devices,
    function,
)

DISK_SLOT = 0x1E
NETWORK_SLOT = 0x1D
IOMMU_SLOT = 0x1C
SOCKET_SLOT = 0x1B
"""The machine's own devices on bus 0: above every port, so that no topology moves them."""

DISPLAY_SLOT = 0x01
"""The mainboard's display, where there is one: OVMF draws into the first that it comes to."""

ROOM = 64
"""MiB of addresses that hold any board of the lab."""

SECOND_SOCKET = 0x80
"""The number of the second socket's root bus; the first one's is 0."""

_FIRST_PORT_SLOT, _LAST_PORT_SLOT = 0x02, 0x1A


class TopologyError(ValueError):
    """No such topology, or one that no machine can have; the text names what is wrong."""


@dataclass(frozen=True)
class Port:
    """A root port at device number `slot` of a root bus, hence of a name that nothing else moves.

    On it sits one `board` (None: the port is there and empty), or, behind a PCIe-to-PCI bridge,
    `conventional` devices, which share one IOMMU group with each other and with the bridge, or a
    switch with the boards of `switch` behind its ports. `room` is how many MiB of addresses the
    firmware keeps for a board that is plugged in later. `socket` is 0, whose root bus is 0, or 1.
    """

    slot: int
    board: Board | None = None
    conventional: tuple[str, ...] = ()
    room: int = 0
    switch: tuple[Board, ...] = ()
    socket: int = 0

    @property
    def boards(self) -> tuple[Board, ...]:
        """Return the boards behind it."""
        return self.switch if self.board is None else (self.board,)

    @property
    def address(self) -> str:
        """Return the port's own PCI address: `0000:00:04.0`."""
        return f"0000:{SECOND_SOCKET * self.socket:02x}:{self.slot:02x}.0"

    @property
    def name(self) -> str:
        """Return QEMU's name for the port, which is also that of the bus behind it: `port04`."""
        return f"port{SECOND_SOCKET * self.socket + self.slot:02x}"


@dataclass(frozen=True)
class Topology:
    """Root ports in order of their sockets and slots. Bus and group numbers follow that order.

    Raises TopologyError for a slot out of range or used twice, and for an impossible board.
    """

    name: str
    ports: tuple[Port, ...]

    def __post_init__(self) -> None:
        slots = [(port.socket, port.slot) for port in self.ports]
        if slots != sorted(set(slots)):
            raise TopologyError(f"{self.name}: sockets and slots must rise, found {slots}")
        for port in self.ports:
            if not _FIRST_PORT_SLOT <= port.slot <= _LAST_PORT_SLOT:
                raise TopologyError(
                    f"{self.name}: slot {port.slot:#x} is outside {_FIRST_PORT_SLOT:#x} to {_LAST_PORT_SLOT:#x}"
                )
            if sum(map(bool, (port.board, port.conventional, port.switch))) > 1:
                raise TopologyError(f"{self.name}: {port.address} has more than one of a board, a bridge and a switch")
            if any(not 1 <= len(board.functions) <= 8 for board in port.boards):
                raise TopologyError(f"{self.name}: {port.address} needs one to eight functions")

    @property
    def summary(self) -> str:
        """Return in a line which boards it has, and what else stands in their company."""
        kinds = [board.functions[0] for port in self.ports for board in port.boards]
        held = [
            address if kind == GPU.functions[0] else f"{address} ({kind})"
            for address, kind in zip(self.boards, kinds, strict=True)
        ]
        words = [f"{len(held)} board{'s' * (len(held) > 1)} at {' '.join(held)}" if held else "no boards"]
        words += [f"{' '.join(port.conventional)} in one group" for port in self.ports if port.conventional]
        words += [f"a switch at {port.address}" for port in self.ports if port.switch]
        empty = sum(not (port.boards or port.conventional) for port in self.ports)
        return "; ".join([*words, *([f"{empty} empty port{'s' * (empty > 1)}"] if empty else [])])

    @property
    def has_boot_display(self) -> bool:
        """Tell whether one of the boards is the display that the firmware draws into."""
        return any(port.board is BOOT_DISPLAY for port in self.ports)

    @property
    def sockets(self) -> int:
        """Return how many processor sockets it has, each with memory and a root bus of its own."""
        return 1 + max((port.socket for port in self.ports), default=0)

    def port(self, slot: int) -> Port:
        """Return the port at a device number of bus 0. Raises TopologyError when there is none."""
        for port in self.ports:
            if port.slot == slot and port.socket == 0:
                return port
        known = ", ".join(f"{port.slot:#x}" for port in self.ports if port.socket == 0)
        raise TopologyError(f"{self.name}: no port at slot {slot:#x}, only at {known}")

    def holding(self, slot: int, board: Board | None) -> Self:
        """Return the same topology with another board at one port, or with none there.

        Raises TopologyError when there is no such port, or when a bridge sits on it.
        """
        changed = replace(self.port(slot), board=board)
        return replace(self, ports=tuple(changed if port == self.port(slot) else port for port in self.ports))

    def arguments(self) -> list[str]:
        """Return QEMU's `-device` arguments."""
        place = f"bus=pcie.0,addr={SOCKET_SLOT:x}.0"
        second = f"pxb-pcie,id={_ROOT_BUSES[1]},{place},bus_nr={SECOND_SOCKET},numa_node=1"
        others = ["-device", second] if self.sockets > 1 else []
        return [*others, *(word for port in self.ports for device in _devices(port) for word in device)]

    @property
    def boards(self) -> Mapping[str, tuple[str, ...]]:
        """Return for each port with a board the PCI addresses of the board's functions.

        The firmware numbers a root bus's buses in the order of the ports, an empty port taking one
        too, one more for a bridge behind it, and for a switch one and one for each of its ports.
        """
        addresses: dict[str, tuple[str, ...]] = {}
        buses = [0, SECOND_SOCKET]
        for port in self.ports:
            buses[port.socket] += 1
            if port.board is not None:
                addresses[port.address] = _addresses(buses[port.socket], port.board)
            if port.conventional or port.switch:
                buses[port.socket] += 1
            inner = buses[port.socket]
            for number, board in enumerate(port.switch):
                buses[port.socket] += 1
                addresses[f"0000:{inner:02x}:{number:02x}.0"] = _addresses(buses[port.socket], board)
        return addresses


def _addresses(bus: int, board: Board) -> tuple[str, ...]:
    return tuple(f"0000:{bus:02x}:00.{number}" for number in range(len(board.functions)))


_ROOT_BUSES = ("pcie.0", "socket1")
_CHASSIS = 0x20
"""A slot's chassis has the number of its root port: sockets and switches add to it, so that no two have the same."""


def _devices(port: Port) -> list[tuple[str, str]]:
    room = f",mem-reserve={port.room}M,io-reserve=4K" if port.room else ""
    chassis = _CHASSIS * port.socket + port.slot
    place = f"bus={_ROOT_BUSES[port.socket]},addr={port.slot:x}.0,chassis={chassis},slot={port.slot}"
    lines = [f"pcie-root-port,id={port.name},{place}{room}"]
    if port.board is not None:
        lines += (line for each in devices(port.board, port.name) for line in each)
    if port.conventional:
        bridge = f"bridge{port.slot:02x}"
        lines.append(f"pcie-pci-bridge,id={bridge},bus={port.name},addr=0.0")
        for number, model in enumerate(port.conventional, start=1):
            lines += function(model, f"{bridge}.{number}", f"bus={bridge},addr={number:x}.0")
    if port.switch:
        switch = f"switch{port.slot:02x}"
        lines.append(f"x3130-upstream,id={switch},bus={port.name},addr=0.0")
        for number, board in enumerate(port.switch):
            behind = f"{switch}-{number}"
            inner = f"bus={switch},addr={number:x}.0,chassis={2 * _CHASSIS + chassis},slot={number}"
            lines.append(f"xio3130-downstream,id={behind},{inner}")
            lines += (line for each in devices(board, behind) for line in each)
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
        Topology("only-display", (Port(0x4, BOOT_DISPLAY),)),
        Topology("models", (Port(0x4, GPU), Port(0x5, OTHER_MODEL), Port(0x6, SOUND))),
        Topology("two-sockets", (Port(0x4, GPU), Port(0x4, GPU, socket=1))),
        Topology(
            "eight-boards-on-two-sockets",
            tuple(Port(slot, GPU, socket=socket) for socket in (0, 1) for slot in range(0x4, 0x8)),
        ),
        Topology("switch", (Port(0x4, GPU), Port(0x5, switch=(GPU, GPU)))),
        Topology("virtual-functions", (Port(0x4, GPU), Port(0x5, VIRTUAL_FUNCTIONS))),
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
