"""Boards that share an IOMMU group: the kernel gives a group to one user as a whole, so it is all of them or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from topologies import somewhere, unused
from tree import AUDIO, DISPLAY, NIC, PORT, Machine, board, stuck

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.text import describe
from pcibind.model.errors import ExitCode
from pcibind.model.report import BoardState
from pcibind.read.files import read_record

LEFT, RIGHT, THIRD = (f"0000:00/0{port}.0/00" for port in (1, 2, 5))
SHARED = [f"0000:0{bus}:00.{number}" for bus in (1, 2) for number in range(3)]
ALONE = [f"0000:05:00.{number}" for number in range(3)]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Two boards in one group, as behind a switch that does not isolate, and a third in its own."""
    with somewhere() as directory:
        machine = Machine(directory)
        board(machine, "01", 1, 12)
        board(machine, "02", 2, 12)
        board(machine, "05", 5, 15)
        yield machine


def choose(machine: Machine, *paths: str, require: str = "all") -> None:
    machine.configure(f'require_boards = "{require}"\n' + "".join(f'[[board]]\npath = "{path}"\n' for path in paths))


def is_bound(machine: Machine, addresses: list[str]) -> bool:
    return all(machine.drivers()[address] == ("vfio-pci", "vfio-pci") for address in addresses)


def handed_over(machine: Machine) -> str:
    file = machine.root / "run/pcibind/devices.env"
    return file.read_text() if file.exists() else ""


def test_chosen_together_they_are_bound_together(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT)
    before = machine.drivers()
    report = apply(unused(machine))
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(machine, SHARED)
    assert {a: machine.drivers()[a] for a in ALONE} == {a: before[a] for a in ALONE}
    assert 'PCIBIND_GROUP_DEVICES="/dev/vfio/12"' in handed_over(machine)
    assert "PCIBIND_BOARDS=2" in handed_over(machine)
    machine.writes.clear()
    assert [each.changed for each in apply(unused(machine)).boards] == [False, False]
    assert machine.writes == []
    assert release(unused(machine)).exit_code is ExitCode.OK
    assert machine.drivers() == before


def test_overrides_of_all_come_before_any_is_unbound(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT)
    apply(unused(machine))
    names = [path.rpartition("/")[2] for path, _ in machine.writes]
    assert names[:7] == ["modprobe"] + ["driver_override"] * 6
    assert "driver_override" not in names[7:]


def test_one_of_them_alone_is_refused_and_the_other_is_named(machine: Machine) -> None:
    choose(machine, LEFT)
    for command in (show, apply):
        report = command(unused(machine))
        assert report.exit_code is ExitCode.REFUSED
        assert {str(refusal.address) for refusal in report.refusals} == set(SHARED[3:])
        assert all(refusal.board == LEFT and RIGHT in refusal.found for refusal in report.refusals)
    assert machine.writes == []
    assert not Path(machine.paths.record).exists()


def test_one_of_them_alone_does_not_keep_off_a_board_with_a_group_of_its_own(machine: Machine) -> None:
    choose(machine, LEFT, THIRD, require="any")
    before = machine.drivers()
    report = apply(unused(machine))
    assert report.exit_code is ExitCode.OK
    assert {each.path: each.state for each in report.boards} == {LEFT: BoardState.REFUSED, THIRD: BoardState.BOUND}
    assert {a: machine.drivers()[a] for a in SHARED} == {a: before[a] for a in SHARED}


@pytest.mark.parametrize("failing", SHARED)
@pytest.mark.parametrize("end", ["unbind", "drivers_probe", "driver_override"])
def test_a_failure_in_one_puts_both_back(machine: Machine, failing: str, end: str) -> None:
    choose(machine, LEFT, RIGHT, THIRD)
    before = machine.drivers()
    where, text = (f"{failing}/{end}", "vfio-pci") if end == "driver_override" else (end, failing)
    fault = machine.faults[where, text] = OSError(5, "Input/output error")
    write = machine.write

    def fails_once(path: Path, text: str) -> None:
        try:
            write(path, text)
        except OSError as error:
            if error is fault:
                machine.faults.clear()
            raise

    machine.write = fails_once  # type: ignore[method-assign]
    report = apply(unused(machine))
    assert report.exit_code is ExitCode.NOT_BOUND
    assert [each.state for each in report.boards] == [BoardState.FAILED, BoardState.FAILED, BoardState.BOUND]
    assert all("Input/output error" in each.detail for each in report.boards[:2])
    assert {a: machine.drivers()[a] for a in SHARED} == {a: before[a] for a in SHARED}
    assert is_bound(machine, ALONE)
    assert handed_over(machine) == ""


def test_when_one_is_stuck_the_other_is_put_back_and_neither_is_touched_again(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT, THIRD, require="any")
    before = machine.drivers()
    machine.file("proc/77/stat", "77 (sh) D " + "0 " * 18 + "555 0\n")
    machine.faults["unbind", SHARED[4]] = stuck(77)
    report = apply(unused(machine))
    assert [each.state for each in report.boards] == [BoardState.STUCK, BoardState.STUCK, BoardState.BOUND]
    others = [address for address in SHARED if address != SHARED[4]]
    assert {a: machine.drivers()[a] for a in others} == {a: before[a] for a in others}
    assert "PCIBIND_BOARDS=1" in handed_over(machine)
    machine.faults.clear()
    machine.writes.clear()
    assert [each.state for each in apply_recorded(unused(machine)).boards] == [
        BoardState.STUCK,
        BoardState.STUCK,
        BoardState.BOUND,
    ]
    assert machine.writes == []


def test_a_guard_that_refuses_one_keeps_the_other_off_too(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT, THIRD, require="any")
    machine.virtual_function("0000:01:00.0")
    before = machine.drivers()
    report = apply(machine.host)
    assert report.exit_code is ExitCode.OK
    states = {each.path: each.state for each in report.boards}
    assert states == {LEFT: BoardState.REFUSED, RIGHT: BoardState.REFUSED, THIRD: BoardState.BOUND}
    guards = {refusal.board: refusal.guard for refusal in report.refusals}
    assert guards == {LEFT: "virtual-functions", RIGHT: "foreign-device"}
    assert {a: machine.drivers()[a] for a in SHARED} == {a: before[a] for a in SHARED}
    known = read_record(machine.paths)
    assert known
    assert [each.path for each in known.boards] == [THIRD]


def test_when_a_guard_refuses_one_and_all_are_required_nothing_is_touched(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT, THIRD)
    machine.virtual_function("0000:01:00.0")
    assert apply(machine.host).exit_code is ExitCode.REFUSED
    assert machine.writes == []
    assert not Path(machine.paths.record).exists()


def chain(root: Path, *, foreign: bool) -> Machine:
    """Three boards, the second of which shares a group with each of the others, by one function each."""
    machine = Machine(root)
    for port, groups in ((1, (12, 12)), (2, (12, 13)), (3, (13, 13))):
        slot = f"pci0000:00/0000:00:0{port}.0"
        machine.function(slot, **PORT, driver="pcieport", group=port)
        for number, (kind, driver) in enumerate(((DISPLAY, "nouveau"), (AUDIO, "snd_hda_intel"))):
            machine.function(f"{slot}/0000:0{port}:00.{number}", **kind, driver=driver, group=groups[number])
    if foreign:
        machine.function("pci0000:00/0000:00:06.0", **NIC, driver="e1000e", group=13)
    return machine


def test_boards_that_share_groups_by_way_of_another_are_one(tmp_path: Path) -> None:
    paths = [f"0000:00/0{port}.0/00" for port in (1, 2, 3)]
    machine = chain(tmp_path / "whole", foreign=False)
    before = machine.drivers()
    choose(machine, *paths)
    machine.refusing.add("vfio-pci")
    assert apply(unused(machine)).exit_code is ExitCode.NOT_BOUND
    assert machine.drivers() == before
    machine.refusing.clear()
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert is_bound(machine, [f"0000:0{port}:00.{number}" for port in (1, 2, 3) for number in (0, 1)])

    machine = chain(tmp_path / "foreign", foreign=True)
    choose(machine, *paths)
    report = apply(unused(machine))
    assert report.exit_code is ExitCode.REFUSED
    assert {refusal.board for refusal in report.refusals} == set(paths)
    assert {refusal.board: str(refusal.address) for refusal in report.refusals if refusal.address} == {
        paths[1]: "0000:00:06.0",
        paths[2]: "0000:00:06.0",
    }
    assert machine.writes == []


def test_at_boot_the_one_is_bound_without_the_other_only_when_nothing_is_in_its_place(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT, require="any")
    apply(unused(machine), next_boot=True)
    machine.reboot()
    machine.unplug("0000:02:00.0")
    machine.unplug("0000:02:00.1")
    machine.unplug("0000:02:00.2")
    machine.function("pci0000:00/0000:00:02.0/0000:02:00.0", **NIC, driver="e1000e", group=12)
    machine.writes.clear()
    report = apply_recorded(unused(machine))
    assert report.exit_code is ExitCode.REFUSED
    assert "02:00.0 8086:10d3" in describe(report)
    assert machine.writes == []
    machine.unplug("0000:02:00.0")
    assert apply_recorded(unused(machine)).exit_code is ExitCode.OK
    assert is_bound(machine, SHARED[:3])


def test_one_taken_out_of_the_configuration_is_refused_while_the_other_stays_chosen(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT)
    apply(unused(machine))
    choose(machine, LEFT)
    machine.writes.clear()
    assert apply(unused(machine)).exit_code is ExitCode.REFUSED
    assert machine.writes == []
    assert "PCIBIND_BOARDS=2" in handed_over(machine)
    choose(machine)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert machine.driver(SHARED[0]) == machine.driver(SHARED[3]) == "nouveau"


def test_one_of_two_in_a_group_is_not_released_alone(machine: Machine) -> None:
    choose(machine, LEFT, RIGHT)
    apply(unused(machine))
    machine.writes.clear()
    report = release(unused(machine), [LEFT])
    assert report.exit_code is ExitCode.REFUSED
    assert f"`pcibind release {LEFT} {RIGHT}`" in describe(report)
    assert machine.writes == []
    assert status(unused(machine)).exit_code is ExitCode.OK
    assert release(unused(machine), [LEFT, RIGHT]).exit_code is ExitCode.OK
    assert machine.driver(SHARED[0]) == machine.driver(SHARED[3]) == "nouveau"


def test_boards_that_share_groups_by_way_of_a_third_are_released_by_one_task(machine: Machine) -> None:
    """Two tasks would open the same groups, and each would be refused because of the other."""
    for bus in ("06", "07"):
        board(machine, bus, int(bus), 20 + int(bus))
    choose(machine, "0000:00/06.0/00", "0000:00/07.0/00")
    assert apply(unused(machine)).exit_code is ExitCode.OK
    bridge = "pci0000:00/0000:00:08.0"
    machine.function(bridge, **PORT, driver="pcieport", group=28)
    for number in (0, 1):
        machine.function(f"{bridge}/0000:08:00.{number}", **NIC, group=26 + number)
    host = unused(machine)
    together = []
    carry_out = host.carry_out

    def count(tasks: Sequence[Any]) -> list[Any]:
        together.append(len(tasks))
        return carry_out(tasks)

    host.carry_out = count  # type: ignore[method-assign]
    report = release(host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert max(together) == 1
