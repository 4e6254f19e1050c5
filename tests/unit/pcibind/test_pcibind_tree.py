"""What people see: the tree of boards, line by line."""

from __future__ import annotations

from pathlib import Path

from topologies import unused
from tree import AUDIO, DISPLAY, PORT, Machine, board

from pcibind.commands.apply import apply
from pcibind.commands.plan import show
from pcibind.commands.status import status
from pcibind.commands.text import describe, shorten
from pcibind.model.pci import Topology
from pcibind.model.report import Report

SWITCH = dict(vendor=0x10B5, device=0x8747, subsystem=(0, 0), class_code=0x060400)


def twins_behind_a_switch(root: Path) -> Machine:
    """Two boards of two functions below one switch, and one of three functions behind a port."""
    machine = Machine(root)
    up = "pci0000:00/0000:00:01.0"
    machine.function(up, **PORT, driver="pcieport", group=1)
    machine.function(f"{up}/0000:01:00.0", **SWITCH, driver="pcieport", group=2)
    for device, bus, group in ((8, 3, 21), (9, 4, 22)):
        slot = f"{up}/0000:01:00.0/0000:02:{device:02x}.0"
        machine.function(slot, **SWITCH, driver="pcieport", group=group + 10)
        machine.function(f"{slot}/0000:{bus:02x}:00.0", **DISPLAY, driver="nouveau", group=group)
        machine.function(f"{slot}/0000:{bus:02x}:00.1", **AUDIO, driver="snd_hda_intel", group=group)
    board(machine, "05", 5, 25)
    return machine


def shown(report: Report) -> list[str]:
    """The lines that people see, without the notes."""
    return [line for line in describe(report).splitlines() if not line.startswith("note: ")]


TWINS = '[[board]]\nname = "upper"\naddress = "0000:03:00.0"\n[[board]]\naddress = "0000:04:00.0"\n'
LONE = '[[board]]\nname = "lone"\npath = "0000:00/05.0/00"\n'


def test_a_board_behind_a_switch_hangs_below_its_bridges(tmp_path: Path) -> None:
    machine = twins_behind_a_switch(tmp_path)
    machine.configure(TWINS.split("[[board]]\naddress")[0])
    assert shown(apply(unused(machine))) == [
        "00:01.0  8086:4c01  PCI bridge",
        "`- 01:00.0  10b5:8747  PCI bridge",
        "   `- 02:08.0  10b5:8747  PCI bridge",
        "      `- board upper at 0000:00/01.0/00.0/08.0/00: present, bound",
        "         |- 03:00.0  10de:2684  VGA display  group 21  driver vfio-pci",
        "         `- 03:00.1  10de:22ba  audio        group 21  driver vfio-pci",
    ]


def test_twins_below_one_switch_share_the_way_to_it(tmp_path: Path) -> None:
    machine = twins_behind_a_switch(tmp_path)
    machine.configure(LONE + TWINS)
    apply(unused(machine))
    assert shown(status(unused(machine))) == [
        "00:01.0  8086:4c01  PCI bridge",
        "`- 01:00.0  10b5:8747  PCI bridge",
        "   |- 02:08.0  10b5:8747  PCI bridge",
        "   |  `- board upper at 0000:00/01.0/00.0/08.0/00: present, bound, nothing to do",
        "   |     |- 03:00.0  10de:2684  VGA display  group 21  driver vfio-pci",
        "   |     `- 03:00.1  10de:22ba  audio        group 21  driver vfio-pci",
        "   `- 02:09.0  10b5:8747  PCI bridge",
        "      `- board 0000:00/01.0/00.0/09.0/00: present, bound, nothing to do",
        "         |- 04:00.0  10de:2684  VGA display  group 22  driver vfio-pci",
        "         `- 04:00.1  10de:22ba  audio        group 22  driver vfio-pci",
        "00:05.0  8086:4c01  PCI bridge",
        "`- board lone at 0000:00/05.0/00: present, bound, nothing to do",
        "   |- 05:00.0  10de:2684  VGA display  group 25  driver vfio-pci",
        "   |- 05:00.1  10de:22ba  audio        group 25  driver vfio-pci",
        "   `- 05:00.2  10de:1ad8  USB          group 25  driver vfio-pci",
    ]


def test_an_absent_board_comes_last_and_says_what_to_do(tmp_path: Path) -> None:
    machine = twins_behind_a_switch(tmp_path)
    machine.configure(LONE + TWINS)
    apply(unused(machine))
    machine.unplug("0000:03:00.0")
    machine.unplug("0000:03:00.1")
    lines = shown(status(unused(machine)))
    assert lines[-2:] == [
        "board upper at 0000:00/01.0/00.0/08.0/00: absent, unbound",
        "nothing at 0000:00/01.0/00.0/08.0/00, last seen as 03:00.0; plug it in, or remove it from the "
        "configuration and apply",
    ]
    assert lines[2] == "   `- 02:09.0  10b5:8747  PCI bridge"


def test_a_planned_board_lists_its_steps(tmp_path: Path) -> None:
    machine = twins_behind_a_switch(tmp_path)
    machine.configure(LONE)
    machine.leave("0000:05:00.1")
    machine.file("sys/bus/pci/devices/0000:05:00.2/driver_override", "vfio-pci\n")
    assert shown(show(unused(machine))) == [
        "00:05.0  8086:4c01  PCI bridge",
        "`- board lone at 0000:00/05.0/00: present, planned",
        "   |  to do: 05:00.0: set driver_override to vfio-pci",
        "   |  to do: 05:00.1: set driver_override to vfio-pci",
        "   |  to do: 05:00.0: unbind from nouveau",
        "   |  to do: 05:00.0: probe, for vfio-pci",
        "   |  to do: 05:00.1: probe, for vfio-pci",
        "   |  to do: 05:00.2: unbind from xhci_hcd",
        "   |  to do: 05:00.2: probe, for vfio-pci",
        "   |- 05:00.0  10de:2684  VGA display  group 25  driver nouveau, wanted vfio-pci",
        "   |- 05:00.1  10de:22ba  audio        group 25  driver none, wanted vfio-pci",
        "   `- 05:00.2  10de:1ad8  USB          group 25  driver xhci_hcd, wanted vfio-pci",
    ]


def test_a_stuck_function_says_so_beside_its_board(tmp_path: Path) -> None:
    machine = twins_behind_a_switch(tmp_path)
    machine.configure(LONE)
    apply(unused(machine), next_boot=True)
    machine.locked.add("0000:05:00.1")
    assert shown(status(unused(machine))) == [
        "00:05.0  8086:4c01  PCI bridge",
        "`- board lone at 0000:00/05.0/00: present, stuck",
        "   |  an earlier kernel operation on it is still blocked; reboot to recover",
        "   |- 05:00.0  10de:2684  VGA display  group 25  driver nouveau, wanted vfio-pci",
        "   |- 05:00.1  10de:22ba  audio        group 25  driver snd_hda_intel, wanted vfio-pci, stuck: an access "
        "to it is blocked in the kernel",
        "   `- 05:00.2  10de:1ad8  USB          group 25  driver xhci_hcd, wanted vfio-pci",
    ]


def test_without_a_board_it_says_so() -> None:
    assert describe(Report("status")) == "no board is chosen; run `pcibind list` to see all boards"
    assert describe(Report("release")) == "no board is on record, so there is nothing to restore"


def test_addresses_stay_whole_where_there_are_domains(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    board(machine, "01", 1, 12)
    machine.function("pci10000:00/10000:00:02.0", **DISPLAY, driver="nouveau", group=13)
    machine.configure('[[board]]\naddress = "01:00.0"\n')
    assert "   |- 0000:01:00.0  10de:2684  VGA display  group 12  driver vfio-pci" in shown(apply(unused(machine)))


def test_names_of_files_are_not_shortened() -> None:
    text = "0000:01:00.0: cannot write /sys/bus/pci/devices/0000:01:00.0/x of 0000:00/01.0/00 (0000:01:00.0)"
    short = "01:00.0: cannot write /sys/bus/pci/devices/0000:01:00.0/x of 0000:00/01.0/00 (01:00.0)"
    assert shorten(text, Topology(())) == short
