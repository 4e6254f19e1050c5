"""Every machine of the corpus looks the same from everywhere, and as its dump says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from tests.corpus import machines, readers, sysfs_tree
from tests.corpus.sysfs_tree import Tree

# Counted in the dumps: PCI functions, interfaces, disks and partitions.
COUNTS = {
    "DELL_INSPIRON_7737_NVIDIA": (18, 3, 31),
    "DELL_POWEREDGE_R820_NVME": (211, 5, 35),
    "HP_400_G2": (18, 3, 28),
    "MELLANOX_40GBPS": (36, 9, 42),
    "NVIDIA_DGX_STATION": (146, 4, 15),
    "QEMU_KVM": (9, 2, 26),
    "SHUTTLE_DH170_WITH_USB_DISK": (15, 4, 24),
    "SHUTTLE_DH170_WITH_USB_DISK_REBOOTED": (15, 4, 24),
}

Functions = dict[str, tuple[str, str, int, str | None]]


def read_functions(text: str) -> Functions:
    """Ids, subsystem's ids, class and driver by slot name, looked up in the dump's text itself."""
    functions: Functions = {}
    for record in text.split("\n\n"):
        properties = dict(re.findall(r"^E: (\w+)=(.*)$", record, re.MULTILINE))
        if properties.get("SUBSYSTEM") == "pci":
            functions[properties["PCI_SLOT_NAME"]] = (
                properties["PCI_ID"].lower(),
                properties["PCI_SUBSYS_ID"].lower(),
                int(properties["PCI_CLASS"], 16),
                properties.get("DRIVER"),
            )
    return functions


@pytest.mark.parametrize("name", COUNTS)
def test_all_devices_of_the_dump_are_read(build: Callable[[str], Tree], name: str) -> None:
    dump = build(name).dump
    assert (len(dump.pci), len(dump.interfaces), len(dump.blocks)) == COUNTS[name]
    assert not dump.truncated


def test_directly_and_through_the_shell_a_machine_has_the_same_topology(
    machine: Tree, topology: Callable[[str], Topology], name: str
) -> None:
    assert readers.shell(machine.root) == topology(name)
    assert len(topology(name).functions) == len(machine.dump.pci)


def test_ids_classes_and_drivers_are_those_of_the_dump(
    machine: Tree, topology: Callable[[str], Topology], name: str
) -> None:
    with open(machine.dump.source, encoding="utf-8") as file:
        expected = read_functions(file.read())
    assert expected == {
        str(each.address): (
            each.model,
            f"{each.subsystem_vendor:04x}:{each.subsystem_device:04x}",
            each.class_code,
            each.driver,
        )
        for each in topology(name).functions
    }


def test_the_aliases_agree_with_the_ids(machine: Tree, topology: Callable[[str], Topology], name: str) -> None:
    devices = sorted(machine.dump.pci, key=lambda each: each.slot)
    for device, function in zip(devices, topology(name).functions, strict=True):
        code = f"{function.class_code:06X}"
        assert device.modalias == (
            f"pci:v{function.vendor:08X}d{function.device:08X}sv{function.subsystem_vendor:08X}"
            f"sd{function.subsystem_device:08X}bc{code[:2]}sc{code[2:4]}i{code[4:]}"
        )


def test_groups_and_the_boot_display_are_the_synthesised_ones(
    machine: Tree, topology: Callable[[str], Topology], name: str
) -> None:
    functions = topology(name).functions
    assert {str(each.address): each.iommu_group for each in functions} == machine.synthesised.groups
    assert [str(each.address) for each in functions if each.boot_vga] == [machine.synthesised.boot_display]


def test_a_machine_whose_iommu_is_off_has_no_groups(build: Callable[[str], Tree], room: str) -> None:
    built = build("NVIDIA_DGX_STATION")
    off = sysfs_tree.build(built.dump, room, built.synthesised._replace(groups={}))
    assert {each.iommu_group for each in readers.shell(off.root).functions} == {None}


def test_nothing_of_the_evidence_is_unreadable(evidence: Callable[[str], Evidence], name: str) -> None:
    assert evidence(name).unreadable == ()


def test_every_machine_of_the_corpus_is_counted() -> None:
    if not machines.names():
        pytest.skip(f"the corpus of real machines is not at {machines.DIRECTORY}")
    assert machines.names() == tuple(COUNTS)
