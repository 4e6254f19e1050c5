"""Boards of real machines: their places, models and functions, looked up in the dumps by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcibind.decide.plan import follow
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard, Verdict
from pcibind.model.request import Selector
from tests.corpus.dump import Dump
from tests.corpus.sysfs_tree import Tree

V100 = ("10de:1db2", 0x030000, "nvidia")
V100_AUDIO = ("10de:10f2", 0x040300, "snd_hda_intel")

Functions = dict[int, tuple[str, int, str | None]]

# Path: address, then model, class and driver of each function by its number.
BOARDS: dict[str, dict[str, tuple[str, Functions]]] = {
    "NVIDIA_DGX_STATION": {
        "0000:00/02.0/00.0/08.0/00": ("0000:07:00.0", {0: V100, 1: V100_AUDIO}),
        "0000:00/02.0/00.0/10.0/00": ("0000:08:00.0", {0: V100, 1: V100_AUDIO}),
        "0000:00/03.0/00.0/08.0/00": ("0000:0e:00.0", {0: V100, 1: V100_AUDIO}),
        "0000:00/03.0/00.0/10.0/00": ("0000:0f:00.0", {0: V100, 1: V100_AUDIO}),
        "0000:00/01.1/00": (
            "0000:02:00.0",
            {0: ("8086:1563", 0x020000, "ixgbe"), 1: ("8086:1563", 0x020000, "ixgbe")},
        ),
    },
    "DELL_INSPIRON_7737_NVIDIA": {
        # A laptop's second display: class 3D, no driver, no audio.
        "0000:00/1c.4/00": ("0000:04:00.0", {0: ("10de:0fe4", 0x030200, None)}),
        "0000:00/02": ("0000:00:02.0", {0: ("8086:0a16", 0x030000, "i915")}),
        "0000:00/1c.3/00": (
            "0000:03:00.0",
            {0: ("10ec:5287", 0xFF0000, "rtsx_pci"), 1: ("10ec:8168", 0x020000, "r8168")},
        ),
    },
    "HP_400_G2": {
        "0000:00/01.0/00": (
            "0000:01:00.0",
            {0: ("10de:107d", 0x030000, "nvidia"), 1: ("10de:0e08", 0x040300, "snd_hda_intel")},
        ),
    },
    "MELLANOX_40GBPS": {
        # A POWER8: a domain for each slot, so that all boards are on bus 01.
        "0008:00/00.0/00": ("0008:01:00.0", {0: ("15b3:1003", 0x020000, "mlx4_core")}),
        "0002:00/00.0/00": ("0002:01:00.0", {0: ("10de:15f9", 0x030200, None)}),
        "000a:00/00.0/00": ("000a:01:00.0", {0: ("10de:15f9", 0x030200, None)}),
        "0001:00/00.0/00": ("0001:01:00.0", {n: ("14e4:1657", 0x020000, "tg3") for n in range(4)}),
        "0009:00/00.0/00.0/03.0/00.0/00": ("0009:06:00.0", {0: ("1a03:2000", 0x030000, "ast")}),
    },
    "DELL_POWEREDGE_R820_NVME": {
        "0000:40/03.0/00.0/04.0/00": ("0000:46:00.0", {0: ("144d:a820", 0x010802, "nvme")}),
        "0000:40/03.0/00.0/06.0/00": ("0000:48:00.0", {0: ("144d:a820", 0x010802, "nvme")}),
        "0000:00/1c.7/00.0/00.0/00.0/00": ("0000:0b:00.0", {0: ("102b:0534", 0x030000, None)}),
    },
    "QEMU_KVM": {
        # Function 0 is a bridge to ISA: the board begins with its first endpoint.
        "0000:00/01": (
            "0000:00:01.1",
            {1: ("8086:7010", 0x010180, "ata_piix"), 2: ("8086:7020", 0x0C0300, "uhci_hcd")},
        ),
        "0000:00/02": ("0000:00:02.0", {0: ("1013:00b8", 0x030000, "cirrus")}),
    },
    "SHUTTLE_DH170_WITH_USB_DISK": {
        "0000:00/1c.0/00": ("0000:01:00.0", {0: ("8086:1539", 0x020000, "igb")}),
        "0000:00/02": ("0000:00:02.0", {0: ("8086:1912", 0x030000, "i915_bpo")}),
    },
}

NVIDIA = {
    "NVIDIA_DGX_STATION": 4,
    "DELL_INSPIRON_7737_NVIDIA": 1,
    "HP_400_G2": 1,
    "MELLANOX_40GBPS": 2,
    "DELL_POWEREDGE_R820_NVME": 0,
    "QEMU_KVM": 0,
    "SHUTTLE_DH170_WITH_USB_DISK": 0,
}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in BOARDS.items() for path in paths])
def test_a_board_is_at_its_place(topology: Callable[[str], Topology], name: str, path: str) -> None:
    board = topology(name).board_at(path)
    assert board is not None
    address, functions = BOARDS[name][path]
    assert str(board.address) == address
    assert {each.number: (each.model, each.class_code, each.driver) for each in board.functions} == functions


@pytest.mark.parametrize("name", NVIDIA)
def test_no_other_board_is_of_nvidia(topology: Callable[[str], Topology], name: str) -> None:
    boards = topology(name).boards()
    of_nvidia = [board for board in boards if any(each.vendor == 0x10DE for each in board.functions)]
    assert len(of_nvidia) == NVIDIA[name]
    # Found by what is displayed, so a board without a display function would be missed.
    assert all(board.display_functions for board in of_nvidia)


def test_twins_differ_in_nothing_but_their_place(topology: Callable[[str], Topology]) -> None:
    boards = [board for board in topology("NVIDIA_DGX_STATION").boards() if board.model == "10de:1db2"]
    assert len({board.path for board in boards}) == 4
    assert all(board.identities == boards[0].identities for board in boards)


@pytest.mark.parametrize(
    ("name", "path", "bridges"),
    [
        ("NVIDIA_DGX_STATION", "0000:00/03.0/00.0/10.0/00", ["0000:00:03.0", "0000:0c:00.0", "0000:0d:10.0"]),
        (
            "DELL_POWEREDGE_R820_NVME",
            "0000:00/1c.7/00.0/00.0/00.0/00",
            ["0000:00:1c.7", "0000:08:00.0", "0000:09:00.0", "0000:0a:00.0"],
        ),
        ("MELLANOX_40GBPS", "000a:00/00.0/00", ["000a:00:00.0"]),
        ("QEMU_KVM", "0000:00/02", []),
    ],
)
def test_the_way_to_a_board_leads_through_its_bridges(
    topology: Callable[[str], Topology], name: str, path: str, bridges: list[str]
) -> None:
    assert [str(each.address) for each in topology(name).bridges_to(path)] == bridges


def test_every_endpoint_belongs_to_one_board(topology: Callable[[str], Topology], name: str) -> None:
    machine = topology(name)
    members = [each.address for board in machine.boards() for each in board.functions]
    assert sorted(members) == [each.address for each in machine.functions if not each.is_bridge]
    assert len({board.path for board in machine.boards()}) == len(machine.boards())


@pytest.mark.parametrize(
    ("name", "interface", "path"),
    [
        ("MELLANOX_40GBPS", "enP8p1s0", "0008:00/00.0/00"),
        ("MELLANOX_40GBPS", "enP8p1s0d1", "0008:00/00.0/00"),
        ("MELLANOX_40GBPS", "enP9p7s0f1", "0009:00/00.0/00.0/04.0/00"),
        ("NVIDIA_DGX_STATION", "enp2s0f1", "0000:00/01.1/00"),
        ("QEMU_KVM", "eth0", "0000:00/03"),
    ],
)
def test_an_interface_is_on_its_board(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], name: str, interface: str, path: str
) -> None:
    machine = build(name).dump
    (nic,) = [each for each in machine.interfaces if each.name == interface]
    assert board_on_the_way(machine, topology(name), nic.path) == path


@pytest.mark.parametrize(
    ("name", "numbers", "path"),
    [
        ("DELL_POWEREDGE_R820_NVME", ["259:0", "259:1", "259:2"], "0000:40/03.0/00.0/04.0/00"),
        ("DELL_POWEREDGE_R820_NVME", ["259:3", "259:4", "259:5"], "0000:40/03.0/00.0/06.0/00"),
        ("DELL_POWEREDGE_R820_NVME", ["8:0", "8:1", "8:2", "8:3"], "0000:00/02.0/00"),
        ("QEMU_KVM", ["253:0", "253:1"], "0000:00/04"),
        ("SHUTTLE_DH170_WITH_USB_DISK", ["8:16", "8:32", "8:33"], "0000:00/14"),
    ],
)
def test_disks_are_on_their_board(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], name: str, numbers: list[str], path: str
) -> None:
    machine = build(name).dump
    disks = [each for each in machine.blocks if each.path.startswith("/devices/pci")]
    on_board = [each.number for each in disks if board_on_the_way(machine, topology(name), each.path) == path]
    assert on_board == numbers


def test_a_machine_is_the_same_after_a_reboot(topology: Callable[[str], Topology]) -> None:
    before = topology("SHUTTLE_DH170_WITH_USB_DISK")
    after = topology("SHUTTLE_DH170_WITH_USB_DISK_REBOOTED")
    assert {board.path: board.identities for board in before.boards()} == {
        board.path: board.identities for board in after.boards()
    }
    recorded = Record(
        boards=tuple(
            RecordedBoard.of(board, Selector.of("address", str(board.address)), None) for board in before.boards()
        )
    )
    assert {each.verdict for each in follow(after, recorded)} == {Verdict.PRESENT}


def board_on_the_way(machine: Dump, topology: Topology, device: str) -> str:
    """The path of the board that a device hangs on: that of the last PCI function on the way to it."""
    way = [each for each in machine.pci if device.startswith(f"{each.path}/")]
    slot = max(way, key=lambda each: len(each.path)).slot
    (function,) = [each for each in topology.functions if str(each.address) == slot]
    board = topology.board_at(function.board)
    assert board is not None
    return board.path
