"""A machine that was collected is the machine that it was: laid out again, it has the same boards, groups and uses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from facts.collection import CollectedHost, Collection
from pcibind.model.pci import Address
from tests.corpus import collection, readers, sysfs_tree
from tests.corpus.collection import Collected, CollectionError
from tests.corpus.dump import BlockDevice, Dump, Interface, PciDevice
from tests.corpus.synthesis import synthesise
from tests.corpus.sysfs_tree import Tree

pytestmark = pytest.mark.commands


def collect(root: str) -> CollectedHost:
    """What the fact sees of the machine below `root`."""
    environment = {
        "PATH": os.environ["PATH"],
        "PCIBIND_SYS": f"{root}/sys",
        "PCIBIND_PROC": f"{root}/proc",
        # Nothing of them is in a dump, and nothing of this machine's is to be taken for its.
        "PCIBIND_MODULES": "/nowhere",
        "PCIBIND_ETC": "/nowhere",
    }
    done = subprocess.run(["sh", "-c", Collection().command()], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return Collection().process(done.stdout.splitlines())


def collected(tree: Tree, directory: str) -> Collected:
    """The machine by way of a file."""
    path = Path(directory) / "host.collected.json"
    path.write_text(collect(tree.root).text())
    return collection.read(path)


def again(host: Collected, root: str) -> Tree:
    """The machine, laid out by what was collected of it."""
    machine = collection.machine(host)
    return sysfs_tree.build(machine.dump, root, machine.synthesis)


def uses(root: str) -> tuple[set[Address], ...]:
    """The functions that the host uses, by what for."""
    evidence = readers.evidence(root)
    named = (evidence.route_nics, evidence.disks, evidence.framebuffers)
    return *({use.address for use in each} for each in named), set(evidence.boot_displays)


def test_a_real_machine_is_the_same_after_it_was_collected(machine: Tree, room: str) -> None:
    host = collected(machine, room)
    tree = again(host, f"{room}/again")
    before, after = readers.shell(machine.root), readers.shell(tree.root)
    # Identities, paths, drivers and groups; then NUMA nodes and the rest; then what the guards decide by.
    assert host.topology == before
    assert after.functions == before.functions
    assert readers.direct(tree.root).boards() == before.boards()
    assert after.details == before.details == host.topology.details
    assert uses(tree.root) == uses(machine.root)


def test_a_real_machine_is_collected_into_one_small_file_whose_like_it_gives_again(machine: Tree, room: str) -> None:
    host = collected(machine, room)
    assert len(host.observed.text()) < 2_000 + 600 * len(host.topology.functions)
    once_more = collect(again(host, f"{room}/again").root)
    assert (once_more.topology, once_more.uses) == (host.observed.topology, host.observed.uses)
    assert once_more.devices == host.observed.devices


def functions_of(dump: Dump, devices: Iterable[Interface | BlockDevice]) -> set[str]:
    """The functions that devices hang on: each on the last one on its way."""
    ways = ([each.slot for each in dump.pci if device.path.startswith(f"{each.path}/")] for device in devices)
    return {max(way, key=lambda slot: next(len(e.path) for e in dump.pci if e.slot == slot)) for way in ways if way}


def test_interfaces_and_disks_hang_on_the_functions_that_they_hung_on(machine: Tree, room: str) -> None:
    now, then = collection.machine(collected(machine, room)).dump, machine.dump
    assert functions_of(now, now.interfaces) == functions_of(then, then.interfaces)
    assert functions_of(now, now.blocks) == functions_of(then, then.blocks)


def test_no_name_of_an_interface_or_a_disk_is_in_the_file(machine: Tree, room: str) -> None:
    words = set(collected(machine, room).observed.text().replace("/", " ").replace('"', " ").split())
    named = {each.name for each in machine.dump.interfaces} | {each.name for each in machine.dump.blocks}
    assert not words & (named - {"lo"})


# --- machines that the corpus has none of

PORT, NIC, FIRST, SECOND = "0000:00:01.0", "0000:01:00.0", "0000:00:02.0", "0000:00:03.0"
SMALL = Dump(
    "small",
    (
        PciDevice(f"/devices/pci0000:00/{PORT}", PORT, 0x8086, 0x1901, 0, 0, 0x060400, "pcieport"),
        PciDevice(f"/devices/pci0000:00/{PORT}/{NIC}", NIC, 0x8086, 0x1572, 0x8086, 0x0001, 0x020000, "i40e"),
        PciDevice(f"/devices/pci0000:00/{FIRST}", FIRST, 0x1B96, 0x2200, 0x1B96, 0x3714, 0x010802, "nvme"),
        PciDevice(f"/devices/pci0000:00/{SECOND}", SECOND, 0x1B96, 0x2200, 0x1B96, 0x3714, 0x010802, "nvme"),
    ),
    (Interface(f"/devices/pci0000:00/{PORT}/{NIC}/net/bond-acme", "bond-acme"),),
    (
        BlockDevice(f"/devices/pci0000:00/{FIRST}/nvme/nvme0/nvme0n1", "nvme0n1", "259:0"),
        BlockDevice(f"/devices/pci0000:00/{SECOND}/nvme/nvme1/nvme1n1", "nvme1n1", "259:1"),
        BlockDevice("/devices/virtual/block/md127", "md127", "9:127", "xfs"),
    ),
)


def small(root: str) -> Tree:
    """A machine whose root lies on an array of two disks, with NUMA nodes and groups as nobody would make them up."""
    made_up = synthesise(SMALL)._replace(
        nodes={FIRST: 0, SECOND: 1},
        groups={PORT: 7, NIC: 7, FIRST: 3},
        root_disk="md127",
        members={"md127": ("nvme0n1", "nvme1n1")},
    )
    return sysfs_tree.build(SMALL, root, made_up)


def test_groups_and_nodes_are_those_that_the_host_reported(room: str) -> None:
    host = collected(small(f"{room}/once"), room)
    synthesis = collection.machine(host).synthesis
    assert synthesis.groups == {PORT: 7, NIC: 7, FIRST: 3}
    assert synthesis.nodes == {FIRST: 0, SECOND: 1}
    assert readers.shell(again(host, f"{room}/again").root).details == host.topology.details


def test_every_function_that_has_a_disk_in_use_has_one_again(room: str) -> None:
    tree = small(f"{room}/once")
    assert uses(again(collected(tree, room), f"{room}/again").root) == uses(tree.root)
    assert {str(address) for address in uses(tree.root)[1]} == {FIRST, SECOND}


# --- files that are none


def document(room: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(collect(small(f"{room}/once").root).text())
    return fields


def refusal(data: bytes) -> str:
    with pytest.raises(CollectionError) as error:
        collection.machine(collection.parse(data, "gpu1.collected.json"))
    return str(error.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "found it is empty, expected"),
        (b"\xff\xfe\x00", "found no JSON, or half of it"),
        (b"\x00" * 100, "found no JSON, or half of it"),
        (b"[" * 100_000, "found no JSON, or half of it"),
        (b"[]", "found the format 'list', expected 'gevulot-collection'"),
        (b"{}", "found the format None, expected 'gevulot-collection'"),
        (b'{"format": "gevulot-fleet"}', "found the format 'gevulot-fleet', expected 'gevulot-collection'"),
        (b'{"format": "gevulot-collection"}', "found version None, expected version 1"),
        (b'{"format": "gevulot-collection", "version": 2}', "found version 2, expected version 1"),
        (b'{"format": "gevulot-collection", "version": 1}', "found nothing as 'unreadable', expected an array of"),
    ],
)
def test_a_file_that_is_no_collection_is_refused_with_the_problem_and_the_next_step(data: bytes, problem: str) -> None:
    message = refusal(data)
    assert message.startswith("gpu1.collected.json: ")
    assert problem in message
    assert "collect the host again: pyinfra INVENTORY deploys/collect.py" in message


def test_half_a_file_is_refused_wherever_it_ends(room: str) -> None:
    text = json.dumps(document(room)).encode()
    for length in range(0, len(text), 37):
        assert refusal(text[:length]).startswith("gpu1.collected.json: found ")


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        ("acpi", "DMAR", "str that is no array of strings as 'acpi'"),
        ("acpi", ["DMAR", 1], "list that is no array of strings as 'acpi'"),
        ("topology", [], "a topology that cannot be read (PCI topology: found nothing"),
        ("topology", ["pcibind-topology 2", "x", "pcibind-topology end"], "line 'x' is not about a PCI device"),
        (
            "devices",
            ["network ethernet 0000:99:00.0"],
            "'network ethernet 0000:99:00.0', expected a device on functions",
        ),
        ("devices", ["disk"], "'disk', expected a device on functions"),
        ("uses", ["disk 0000:99:00.0"], "'disk 0000:99:00.0', expected what a function of the topology is used for"),
        ("uses", ["DISK"], "'DISK', expected what a function of the topology is used for"),
    ],
)
def test_a_part_that_is_wrong_is_named(room: str, part: str, value: Any, problem: str) -> None:
    assert problem in refusal(json.dumps(document(room) | {part: value}).encode())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("../../../devices/pci0000:00", "../../../devices/../../../tmp/pci0000:00", "as the path of"),
        ("../../../devices/pci0000:00", "../../../devices/.hidden/pci0000:00", "as the path of"),
        ("bus/pci/drivers/nvme", "bus/pci/drivers/..", "'..' as the driver of 0000:00:02.0, expected a driver's name"),
    ],
)
def test_no_path_of_a_file_leads_out_of_the_directory_of_its_machine(
    room: str, old: str, new: str, problem: str
) -> None:
    whole = document(room)
    whole["topology"] = [line.replace(old, new) for line in whole["topology"]]
    assert problem in refusal(json.dumps(whole).encode())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"gpu1.json: No such file or directory; expected a file HOST\.collected"):
        collection.read(tmp_path / "gpu1.json")


def test_the_same_machine_after_another_boot_gives_the_same_lines(build: Callable[[str], Tree]) -> None:
    before, after = (collect(build(f"SHUTTLE_DH170_WITH_USB_DISK{boot}").root) for boot in ("", "_REBOOTED"))
    assert before.topology == after.topology
