"""Virtual functions: each has a user of its own, so none is ever bound as part of a board."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from topologies import unused
from tree import NIC, PORT, Machine

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.decide.plan import follow
from pcibind.model.errors import ExitCode
from pcibind.model.record import Record, RecordedBoard, Verdict
from pcibind.model.request import OVERRIDABLE_GUARDS, Selector
from pcibind.read.files import write_record
from pcibind.remote import topology_text

PHYSICAL = "0000:05:00.0"
RUN_ON = [f"0000:05:10.{number}" for number in range(8)]
ALLOW = ", ".join(f'"{guard}"' for guard in OVERRIDABLE_GUARDS)


@pytest.fixture
def virtual(machine: Machine) -> Machine:
    """A network card with eight virtual functions in a slot of their own, each in a group of its own."""
    port = "pci0000:00/0000:00:05.0"
    machine.function(port, **PORT, driver="pcieport", group=20)
    machine.function(f"{port}/{PHYSICAL}", **NIC, driver="igb", group=21)
    machine.virtual_functions(port, PHYSICAL, RUN_ON, 30)
    machine.load("vfio-pci")
    return machine


@pytest.mark.parametrize("selector", ['address = "0000:05:10.2"', 'path = "0000:00/05.0/10"', 'model = "8086:10ca"'])
def test_one_that_is_chosen_is_refused_by_name_and_binds_no_other(virtual: Machine, selector: str) -> None:
    virtual.configure(f"[[board]]\n{selector}\nallow = [{ALLOW}]\n")
    before = virtual.drivers()
    for command in (show, apply):
        report = command(unused(virtual))
        assert report.exit_code is ExitCode.REFUSED
        assert {refusal.guard for refusal in report.refusals} == {"is-virtual"}
        assert all(f"a virtual function of {PHYSICAL}" in refusal.found for refusal in report.refusals)
    assert virtual.drivers() == before
    assert not Path(virtual.paths.record).exists()


def test_one_address_means_one_of_them(virtual: Machine) -> None:
    virtual.configure('[[board]]\naddress = "0000:05:10.2"\n')
    report = show(unused(virtual))
    assert [[str(f.address) for f in board.board.functions] for board in report.boards if board.board] == [
        ["0000:05:10.2"]
    ]


def test_the_slots_that_they_run_on_over_are_no_board(virtual: Machine) -> None:
    boards = virtual.host.topology().boards()
    assert "0000:00/05.0/10" not in {board.path for board in boards}
    assert {len(b.functions) for b in boards if b.functions[0].physical} == {1}


def test_those_beside_their_physical_function_are_no_part_of_its_board(machine: Machine) -> None:
    machine.virtual_functions("pci0000:00", "0000:00:03.0", ["0000:00:03.1", "0000:00:03.2"], 30)
    board = machine.host.topology().board_at("0000:00/03")
    assert board is not None
    assert [str(function.address) for function in board.functions] == ["0000:00:03.0"]


def test_none_is_bound_at_boot_that_an_older_version_recorded_by_one_of_them(virtual: Machine) -> None:
    topology = virtual.host.topology()
    functions = tuple(f for f in topology.functions if f.physical)
    board = topology.boards()[0]._replace(path="0000:00/05.0/10", functions=functions)
    old = RecordedBoard.of(board, Selector("address", RUN_ON[2]), None)
    write_record(virtual.paths, Record((old,)))
    before = virtual.drivers()
    assert apply_recorded(virtual.host).exit_code is ExitCode.IDENTITY
    assert virtual.drivers() == before


def test_one_in_the_group_of_a_chosen_board_is_foreign_to_it(machine: Machine) -> None:
    machine.virtual_functions("pci0000:00", "0000:00:03.0", ["0000:00:03.1"], 12)
    machine.configure('[[board]]\naddress = "0000:01:00.0"\n')
    (refusal,) = show(unused(machine)).refusals
    assert (refusal.guard, str(refusal.address)) == ("foreign-device", "0000:00:03.1")


def test_from_afar_they_look_the_same(virtual: Machine) -> None:
    environment = {"PATH": os.environ["PATH"], "PCIBIND_SYS": f"{virtual.root}/sys", "PCIBIND_MODULES": "/nowhere"}
    done = subprocess.run(
        ["/bin/sh", "-c", topology_text.COMMAND], env=environment, capture_output=True, text=True, check=True
    )
    assert topology_text.parse(done.stdout.splitlines()) == virtual.host.topology()


def test_no_virtual_function_is_a_twin_of_a_board_or_a_place_that_it_was_moved_to(machine: Machine) -> None:
    for port, number in (("05", 20), ("06", 30)):
        machine.function(f"pci0000:00/0000:00:{port}.0", **PORT, driver="pcieport", group=number)
        place = f"pci0000:00/0000:00:{port}.0/0000:{port}:00.0"
        machine.function(place, **NIC, driver="igb", group=number + 1)
    # The eighth virtual one of a card without ARI is function 0 of the next device.
    virtual = machine.function("pci0000:00/0000:00:05.0/0000:05:01.0", **NIC, driver="igb", group=22)
    (machine.root / "sys/bus/pci/devices" / virtual / "physfn").symlink_to("../0000:05:00.0")
    topology = machine.host.topology()
    chosen = topology.board_at("0000:00/06.0/00")
    assert chosen is not None
    known = RecordedBoard.of(chosen, Selector("path", chosen.path), None, topology)
    assert "0000:00/05.0/00" in known.twins
    assert not any(path.endswith("01.0") for path in known.twins)
    machine.unplug("0000:06:00.0")
    (found,) = follow(machine.host.topology(), Record((known,)))
    assert found.verdict is Verdict.ABSENT
