"""A collected host as a topology: its boards with displays, of what QEMU has to stand for their functions."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pcibind.model.pci import Board as HostBoard
from pcibind.model.pci import Function
from pcibind.model.pci import Topology as HostTopology
from tests.corpus import collection
from tests.corpus.collection import CollectionError
from tests.lab.board import Board
from tests.lab.topology import Port, Topology, TopologyError

NAME = "collected"
"""The name of every such topology."""

HOLDS = 8
"""How many boards a machine of the lab has room for.

Each root port takes 4 KiB of the 64 KiB of I/O ports once a function behind it has some, and the firmware, the chipset
and the ports themselves need their part. Eight boards with a serial function were booted.
"""

DISPLAY = "bochs-display"
BOOT_DISPLAY = "VGA"
OTHER_DISPLAY = "virtio-gpu-pci"
"""The displays: those of the host's main model, the one of that model that its firmware used, and all others."""

STAND_INS = {
    0x040300: "intel-hda",
    0x040100: "intel-hda",
    0x0C0330: "qemu-xhci",
    0x0C0320: "qemu-xhci",
}
"""QEMU's devices by class: audio, USB."""

WITH_DRIVER, DRIVERLESS = "pci-serial", "pci-testdev"
"""What stands for a function of any other class: one whose driver is built into the kernel, or one that has none."""

_FIRST_SLOT = 0x4


@dataclass(frozen=True)
class Imitation:
    """A host as the lab has it: `topology`, and in words how it is unlike the host.

    `stand_ins` has for every function of a board its address on the host, what it is there, and QEMU's device.
    """

    topology: Topology
    stand_ins: tuple[tuple[str, str, str], ...]
    differences: tuple[str, ...]


def load(path: Path) -> Imitation:
    """Read the file of a collected host and imitate the host.

    Raises TopologyError for a file that is no collection, and for a host without a board that has a display.
    """
    try:
        collected = collection.read(path)
    except CollectionError as error:
        raise TopologyError(str(error)) from None
    return imitate(collected.topology, collected.source)


def imitate(host: HostTopology, source: str) -> Imitation:
    """Put each of a host's boards that has a display behind a root port of its own, in the order of their addresses.

    Where there are too many, boards of the main model come first. Virtual functions are left out: at power-on
    there are none. `source` is what messages call the host. Raises TopologyError when there is no such board.
    """
    virtual = {address for address, each in host.details.items() if each.physical_function is not None}
    boards = []
    for board in host.boards():
        functions = tuple(each for each in board.functions if each.address not in virtual)
        if any(each.is_display for each in functions):
            boards.append(HostBoard(board.path, functions))
    if not boards:
        kinds = f"{len(host.functions)} functions, none of them a display"
        raise TopologyError(f"{source}: found {kinds}, expected a board with a display; choose one with --topology")
    main = _main(boards)
    by_rank = sorted(boards, key=lambda board: (board.model != main, board.address))
    held = sorted(by_rank[:HOLDS], key=lambda board: board.address)
    stand_ins = [[_stand_in(function, main) for function in board.functions] for board in held]
    ports = (Port(_FIRST_SLOT + number, Board(tuple(functions))) for number, functions in enumerate(stand_ins))
    return Imitation(
        Topology(NAME, tuple(ports)),
        tuple(
            (str(function.address), f"{function.model}, class {function.class_code:06x}", stand_in)
            for board, functions in zip(held, stand_ins, strict=True)
            for function, stand_in in zip(board.functions, functions, strict=True)
        ),
        (*_left_out(by_rank[HOLDS:]), *_merged(held, main), *_shared(host, held)),
    )


def _main(boards: list[HostBoard]) -> str:
    """The model that the host is about: the most frequent one, and rather a card than what is on the mainboard."""
    count = Counter(board.model for board in boards)

    def rank(board: HostBoard) -> tuple[int, bool, bool, int]:
        behind_a_bridge = board.path.count("/") > 1
        is_boot_display = any(each.boot_vga for each in board.functions)
        return count[board.model], behind_a_bridge, not is_boot_display, len(board.functions)

    return max(boards, key=rank).model


def _stand_in(function: Function, main: str) -> str:
    if function.is_display:
        if function.model != main:
            return OTHER_DISPLAY
        return BOOT_DISPLAY if function.boot_vga else DISPLAY
    other = WITH_DRIVER if function.driver else DRIVERLESS
    return STAND_INS.get(function.class_code, other)


def _left_out(boards: list[HostBoard]) -> list[str]:
    return [f"{board.address} ({board.model}) is left out: a machine has room for {HOLDS} boards" for board in boards]


def _merged(boards: list[HostBoard], main: str) -> list[str]:
    others = sorted({each.model for board in boards for each in board.display_functions} - {main})
    return [f"{', '.join(others)} are all {OTHER_DISPLAY}, so one model"] if len(others) > 1 else []


def _shared(host: HostTopology, boards: list[HostBoard]) -> list[str]:
    """The boards that are not alone in their IOMMU groups on the host: in the lab each is."""
    shared = []
    for board in boards:
        own = {each.address for each in board.functions}
        others = [
            str(each.address)
            for group in board.groups
            for each in host.group(group)
            if each.address not in own and each.is_in_the_way
        ]
        if others:
            shared.append(
                f"{board.address} shares its IOMMU group with {', '.join(others)}; here it has one of its own"
            )
    return shared
