"""What a tree holds beyond its dump: groups by the rule, a boot display that the dump may tell, and no strangers."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.corpus import dump, readers, sysfs_tree
from tests.corpus.dump import Dump
from tests.corpus.synthesis import synthesise, synthesised_boot_display, synthesised_groups
from tests.corpus.sysfs_tree import Tree


def functions(*lines: str) -> Dump:
    """A dump of functions: path below the root bus, class, and driver if it has one."""
    text = ""
    for line in lines:
        path, code, *driver = line.split()
        text += f"P: /devices/pci0000:00/{path}\nE: PCI_CLASS={code}\nE: PCI_ID=8086:1234\nE: SUBSYSTEM=pci\n"
        text += "".join(f"E: DRIVER={name}\n" for name in driver) + "\n"
    return dump.parse(text.encode())


def test_synthesised_groups_follow_slots_and_bridges() -> None:
    port, upstream = "0000:00:01.0", "0000:01:00.0"
    machine = functions(
        f"{port} 60400 pcieport",
        f"{port}/{upstream} 60400 pcieport",
        f"{port}/{upstream}/0000:02:08.0 60400 pcieport",
        f"{port}/{upstream}/0000:02:08.0/0000:03:00.0 30000",
        f"{port}/{upstream}/0000:02:08.0/0000:03:00.1 40300",
        f"{port}/{upstream}/0000:02:10.0 60400 pcieport",
        f"{port}/{upstream}/0000:02:10.0/0000:04:00.0 30000",
        "0000:00:01.1 60400 pcieport",
        # Conventional: by its decoding, and below another bridge without the driver of PCI Express ports.
        "0000:00:1e.0 60401",
        "0000:00:1e.0/0000:06:01.0 20000",
        "0000:00:1e.0/0000:06:02.0 20000",
        "0000:00:01.1/0000:05:00.0 60400",
        "0000:00:01.1/0000:05:00.0/0000:07:00.0 30000",
        "0000:00:1f.0 60100 lpc_ich",
        "0000:00:1f.2 10601 ahci",
    )
    groups = synthesised_groups(machine)
    together: dict[int, set[str]] = {}
    for slot, group in groups.items():
        together.setdefault(group, set()).add(slot.removeprefix("0000:"))
    assert list(together.values()) == [
        {"00:01.0"},
        {"00:01.1"},
        {"00:1e.0", "06:01.0", "06:02.0"},
        # To Linux a bridge to ISA is a function like any other.
        {"00:1f.0", "00:1f.2"},
        {"01:00.0"},
        {"02:08.0"},
        {"02:10.0"},
        {"03:00.0", "03:00.1"},
        {"04:00.0"},
        {"05:00.0", "07:00.0"},
    ]
    assert list(together) == list(range(10))


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("DELL_POWEREDGE_R820_NVME", {"0000:0a:00.0", "0000:0b:00.0"}),
        ("MELLANOX_40GBPS", {"0009:05:00.0", "0009:06:00.0"}),
        ("NVIDIA_DGX_STATION", {"0000:07:00.0", "0000:07:00.1"}),
    ],
)
def test_real_displays_share_a_group_with_their_slot_or_their_conventional_bridge(
    build: Callable[[str], Tree], name: str, members: set[str]
) -> None:
    groups = build(name).synthesised.groups
    (group,) = {groups[slot] for slot in members}
    assert {slot for slot, number in groups.items() if number == group} == members


def test_a_boot_display_that_the_dump_tells_is_not_synthesised(room: str) -> None:
    machine = functions("0000:00:02.0 30000", "0000:00:03.0 30000", "0000:00:04.0 30200")
    assert synthesised_boot_display(machine) == "0000:00:02.0"
    first, second, third = machine.pci
    recorded = machine._replace(pci=(first._replace(boot_vga=False), second._replace(boot_vga=True), third))
    tree = sysfs_tree.build(recorded, room)
    assert tree.synthesised.boot_display is None
    assert [each.boot_vga for each in readers.shell(tree.root).functions] == [False, True, False]
    # 3D functions have no such attribute.
    assert [os.path.exists(f"{tree.root}/sys{each.path}/boot_vga") for each in machine.pci] == [True, True, False]


def test_a_disk_behind_a_volume_management_device_is_on_both(room: str) -> None:
    inner = "0000:00:0e.0/pci10000:e0/10000:e0:06.0"
    machine = functions("0000:00:0e.0 10400 vmd", f"{inner} 60400 pcieport", f"{inner}/10000:e1:00.0 10802 nvme")
    disk = dump.parse(
        f"P: /devices/pci0000:00/{inner}/10000:e1:00.0/nvme/nvme0/nvme0n1\n"
        "E: SUBSYSTEM=block\nE: MAJOR=259\nE: MINOR=0\n\n".encode()
    )
    tree = sysfs_tree.build(machine._replace(blocks=disk.blocks), room)
    topology = readers.direct(tree.root)
    assert readers.shell(tree.root) == topology
    assert [board.path for board in topology.boards()] == ["0000:00/0e", "10000:e0/06.0/00"]
    assert [str(use.address) for use in readers.evidence(tree.root).disks] == [
        "0000:00:0e.0",
        "10000:e0:06.0",
        "10000:e1:00.0",
    ]


def test_hidden_paths_name_the_controllers_of_a_multipath_disk(room: str) -> None:
    machine = functions("0000:00:04.0 10802 nvme", "0000:00:05.0 10802 nvme", "0000:00:06.0 10802 nvme")
    paths = (
        "0000:00:04.0/nvme/nvme0/nvme0c0n1",
        "0000:00:04.0/nvme/nvme0/nvme0c0n2",
        "0000:00:05.0/nvme/nvme1/nvme0c1n1",
    )
    hidden = "".join(f"P: /devices/pci0000:00/{path}\nE: SUBSYSTEM=block\n\n" for path in paths)
    disk = (
        "P: /devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1\n"
        "E: SUBSYSTEM=block\nE: MAJOR=259\nE: MINOR=1\nE: ID_FS_TYPE=xfs\n\n"
    )
    machine = machine._replace(blocks=dump.parse((hidden + disk).encode()).blocks)
    tree = sysfs_tree.build(machine, room, synthesise(machine)._replace(root_disk="nvme0n1"))
    assert [(str(use.address), use.what) for use in readers.evidence(tree.root).disks] == [
        ("0000:00:04.0", "nvme0n1 is mounted at /"),
        ("0000:00:05.0", "nvme0n1 is mounted at /"),
    ]


def test_links_are_relative_and_lead_somewhere(machine: Tree) -> None:
    for directory, names, files in os.walk(f"{machine.root}/sys"):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            if os.path.islink(path):
                assert not os.path.isabs(os.readlink(path))
                assert os.path.exists(path)


def test_a_synthesis_that_names_a_device_of_another_machine_is_refused(room: str) -> None:
    machine = functions("0000:00:02.0 30000")
    for wrong in (
        synthesise(machine)._replace(groups={"0000:00:03.0": 1}),
        synthesise(machine)._replace(boot_display="0000:00:03.0"),
        synthesise(machine)._replace(framebuffer="0000:00:03.0"),
        synthesise(machine)._replace(root_disk="sda1"),
        synthesise(machine)._replace(default_interface="eth0"),
    ):
        with pytest.raises(ValueError, match="has no"):
            sysfs_tree.build(machine, room, wrong)


def test_a_machine_without_disks_interfaces_and_displays_is_laid_out(room: str) -> None:
    tree = sysfs_tree.build(functions("0000:00:1f.0 60100"), room)
    assert tree.synthesised[2:6] == (None, None, None, None)
    evidence = readers.evidence(tree.root)
    assert (evidence.disks, evidence.route_nics, evidence.unreadable) == ((), (), ())
