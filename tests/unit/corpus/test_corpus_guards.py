"""What real machines stand on is refused: the disk of /, the default route, the boot display.

Which disk is mounted, which interface has the route and which display the firmware uses are synthesised.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcibind.decide import guards
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board, Topology
from pcibind.model.request import Selector
from tests.corpus import readers, sysfs_tree
from tests.corpus.sysfs_tree import Tree

DGX = "NVIDIA_DGX_STATION"

# Disk that is mounted at /, what it is made of; interface with the route; then the boards that carry them.
STANDS_ON = {
    "DELL_INSPIRON_7737_NVIDIA": ("sda3", (), "eth0", "0000:00/1f", "0000:00/1c.3/00"),
    "DELL_POWEREDGE_R820_NVME": ("nvme1n1p2", (), "em1", "0000:40/03.0/00.0/06.0/00", "0000:00/01.1/00"),
    "HP_400_G2": ("sda2", (), "wlan0", "0000:00/1f", "0000:00/1c.3/00"),
    "MELLANOX_40GBPS": ("sda2", (), "enP8p1s0d1", "0009:00/00.0/00.0/02.0/00", "0008:00/00.0/00"),
    # An MD array of three disks; the dump tells which.
    "NVIDIA_DGX_STATION": ("md0", (), "enp2s0f1", "0000:00/1f", "0000:00/01.1/00"),
    "QEMU_KVM": ("vda1", (), "eth0", "0000:00/04", "0000:00/03"),
    # An encrypted partition; the dump does not tell which.
    "SHUTTLE_DH170_WITH_USB_DISK": ("dm-0", ("sda3",), "eth1", "0000:00/17", "0000:00/1f"),
    # A disk on USB.
    "SHUTTLE_DH170_WITH_USB_DISK_REBOOTED": ("sdb1", (), "eth0", "0000:00/14", "0000:00/1c.0/00"),
}


def refused(topology: Topology, evidence: Evidence, guard: str) -> list[str]:
    """The boards that a guard refuses, each chosen by its address."""
    return [board.path for board in topology.boards() if guard in reasons(board, evidence)]


def reasons(board: Board, evidence: Evidence, kind: str = "address") -> list[str]:
    """The guards that refuse a board, chosen by its address or by its path."""
    selector = Selector.parse(board.path if kind == "path" else str(board.address))
    return [refusal.guard for refusal in guards.check(board, evidence, selector=selector)]


@pytest.mark.parametrize("name", STANDS_ON)
def test_the_root_disk_and_the_default_route_are_refused_and_nothing_else_for_them(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], room: str, name: str
) -> None:
    disk, members, interface, disk_board, route_board = STANDS_ON[name]
    built = build(name)
    synthesis = built.synthesised._replace(
        root_disk=disk, default_interface=interface, members={disk: members} if members else {}
    )
    tree = sysfs_tree.build(built.dump, room, synthesis)
    evidence = readers.evidence(tree.root)
    assert refused(topology(name), evidence, "disk") == [disk_board]
    assert refused(topology(name), evidence, "default-route") == [route_board]


def test_the_boot_display_is_refused_and_no_other(
    machine: Tree, topology: Callable[[str], Topology], evidence: Callable[[str], Evidence], name: str
) -> None:
    (path,) = refused(topology(name), evidence(name), "boot-display")
    board = topology(name).board_at(path)
    assert board is not None
    assert str(board.address) == machine.synthesised.boot_display


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("NVIDIA_DGX_STATION", "0000:00/02.0/00.0/08.0/00"),
        ("DELL_POWEREDGE_R820_NVME", "0000:00/1c.7/00.0/00.0/00.0/00"),
    ],
)
def test_the_display_with_the_firmwares_framebuffer_is_refused(
    build: Callable[[str], Tree],
    topology: Callable[[str], Topology],
    evidence: Callable[[str], Evidence],
    name: str,
    path: str,
) -> None:
    # Both dumps have an efi-framebuffer; that it is on the first VGA function is synthesised.
    assert build(name).dump.firmware_framebuffer
    assert refused(topology(name), evidence(name), "framebuffer") == [path]


def test_the_gpus_but_the_boot_display_are_free(
    topology: Callable[[str], Topology], evidence: Callable[[str], Evidence]
) -> None:
    boards = [board for board in topology(DGX).boards() if board.model == "10de:1db2"]
    for kind in ("address", "path"):
        assert [reasons(board, evidence(DGX), kind) for board in boards] == [
            ["boot-display", "framebuffer"],
            [],
            [],
            [],
        ]


def test_a_disk_that_is_not_mounted_is_free_when_its_address_is_named(
    topology: Callable[[str], Topology], evidence: Callable[[str], Evidence]
) -> None:
    name = "DELL_POWEREDGE_R820_NVME"
    board = topology(name).board_at("0000:40/03.0/00.0/04.0/00")
    assert board is not None
    assert reasons(board, evidence(name)) == []
    assert reasons(board, evidence(name), "path") == ["class"]


def test_a_disk_on_usb_is_followed_when_its_name_changes_with_a_reboot(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], room: str
) -> None:
    for name, partition in (
        ("SHUTTLE_DH170_WITH_USB_DISK", "sdc1"),
        ("SHUTTLE_DH170_WITH_USB_DISK_REBOOTED", "sdb1"),
    ):
        built = build(name)
        synthesis = built.synthesised._replace(root_disk=partition)
        tree = sysfs_tree.build(built.dump, f"{room}/{name}", synthesis)
        assert refused(topology(name), readers.evidence(tree.root), "disk") == ["0000:00/14"]
