"""A function whose lock somebody holds forever: each reader of its override hangs, so nobody touches its board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from topologies import unused
from tree import Fault, Machine, gpu_host

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.commands.text import describe
from pcibind.model.errors import ExitCode
from pcibind.model.report import BoardState, Report
from pcibind.read.files import read_record

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
LEFTS, RIGHTS = ([f"0000:0{bus}:00.{number}" for number in range(3)] for bus in (1, 2))


@pytest.fixture
def chosen(machine: Machine) -> Machine:
    """Both boards are on record, and not bound."""
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(unused(machine), next_boot=True)
    return machine


def test_at_boot_a_probe_of_another_device_is_not_waited_for(chosen: Machine) -> None:
    chosen.locked.update({"0000:03:00.0", "0000:04:00.0"})
    chosen.asked.clear()
    assert apply_recorded(unused(chosen)).exit_code is ExitCode.OK
    read = [path for each in chosen.asked for path in each.targets if path.endswith("/driver_override")]
    assert {path.split("/")[-2] for path in read} == {*LEFTS, *RIGHTS}


def test_a_probe_that_holds_the_lock_of_a_chosen_function_is_waited_for(chosen: Machine) -> None:
    chosen.asked.clear()
    apply_recorded(unused(chosen))
    reads = [each for each in chosen.asked if each.kind in ("read", "read-all")]
    assert reads
    assert all(each.seconds == 30 for each in reads)


def touched(machine: Machine, addresses: list[str]) -> list[tuple[str, str]]:
    return [(path, text) for path, text in machine.writes if any(a in path or a == text for a in addresses)]


def states(report: Report) -> dict[str | None, BoardState]:
    return {board.path: board.state for board in report.boards}


@pytest.mark.parametrize("locked", LEFTS)
@pytest.mark.parametrize("command", [apply, apply_recorded])
def test_its_board_is_left_alone_and_the_other_is_bound(
    chosen: Machine, locked: str, command: Callable[[System], Report]
) -> None:
    chosen.locked.add(locked)
    before = chosen.drivers()
    report = command(unused(chosen))
    assert report.exit_code is ExitCode.STUCK
    assert states(report) == {LEFT: BoardState.STUCK, RIGHT: BoardState.BOUND}
    assert locked in report.boards[0].detail
    assert "reboot" in report.boards[0].detail
    assert touched(chosen, LEFTS) == []
    assert {a: chosen.drivers()[a] for a in LEFTS} == {a: before[a] for a in LEFTS}
    assert all(chosen.drivers()[a] == ("vfio-pci", "vfio-pci") for a in RIGHTS)
    assert not (chosen.root / "run/pcibind/devices.env").exists()


@pytest.mark.parametrize("command", [apply, apply_recorded])
def test_with_any_of_them_required_the_other_is_handed_over(
    chosen: Machine, command: Callable[[System], Report]
) -> None:
    chosen.configure('require_boards = "any"\n[[board]]\nmodel = "10de:2684"\n')
    apply(unused(chosen), next_boot=True)
    chosen.locked.add(LEFTS[0])
    report = command(unused(chosen))
    assert states(report) == {LEFT: BoardState.STUCK, RIGHT: BoardState.BOUND}
    text = (chosen.root / "run/pcibind/devices.env").read_text()
    assert f"PCIBIND_FUNCTIONS={','.join(RIGHTS)}\n" in text


def test_only_the_function_that_hangs_is_unknown(chosen: Machine) -> None:
    chosen.file(f"sys/bus/pci/devices/{LEFTS[0]}/driver_override", "nouveau\n")
    chosen.locked.add(LEFTS[1])
    functions = {str(f.address): f for f in unused(chosen).topology().functions}
    assert [address for address, function in functions.items() if function.locked] == [LEFTS[1]]
    assert functions[LEFTS[0]].driver_override == "nouveau"
    # One look at all of them, then each alone, once.
    assert [access.kind for access in chosen.asked[-11:]] == ["read-all"] + ["read"] * 10


def test_status_says_that_it_is_stuck(chosen: Machine) -> None:
    chosen.locked.add(LEFTS[2])
    report = status(unused(chosen))
    assert report.exit_code is ExitCode.STUCK
    assert states(report)[LEFT] is BoardState.STUCK
    assert "stuck: an access to it is blocked in the kernel" in describe(report)
    assert '"verdict": "stuck"' in report.to_json()
    assert chosen.writes == []


def test_status_says_so_of_a_board_that_is_not_on_record_yet(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    machine.locked.add(LEFTS[2])
    assert status(unused(machine)).exit_code is ExitCode.STUCK


def test_plan_says_that_it_is_stuck(chosen: Machine) -> None:
    chosen.locked.add(LEFTS[2])
    report = show(unused(chosen))
    assert report.exit_code is ExitCode.STUCK
    assert states(report) == {LEFT: BoardState.STUCK, RIGHT: BoardState.PLANNED}


def test_a_first_apply_leaves_it_alone_too(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    machine.locked.add(LEFTS[1])
    report = apply(unused(machine))
    assert report.exit_code is ExitCode.STUCK
    assert states(report) == {LEFT: BoardState.STUCK, RIGHT: BoardState.BOUND}
    assert touched(machine, LEFTS) == []


def test_an_override_that_could_not_be_read_is_not_recorded_as_none(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    machine.file(f"sys/bus/pci/devices/{LEFTS[1]}/driver_override", "snd_hda_intel\n")
    before = machine.drivers()
    machine.locked.add(LEFTS[1])
    apply(unused(machine))
    machine.locked.clear()
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert release(unused(machine)).exit_code is ExitCode.OK
    assert machine.drivers() == before


def test_release_gives_back_what_is_not_stuck_and_keeps_the_board_on_record(chosen: Machine) -> None:
    before = chosen.drivers()
    apply(unused(chosen))
    chosen.locked.add(LEFTS[1])
    chosen.writes.clear()
    report = release(unused(chosen))
    assert report.exit_code is ExitCode.STUCK
    assert states(report) == {LEFT: BoardState.STUCK, RIGHT: BoardState.RELEASED}
    assert touched(chosen, [LEFTS[1]]) == []
    known = read_record(chosen.paths)
    assert known
    assert ([b.path for b in known.boards], [b.path for b in known.leaving]) == ([], [LEFT])
    chosen.locked.clear()
    assert release(unused(chosen)).exit_code is ExitCode.OK
    assert chosen.drivers() == before
    assert not Path(chosen.paths.record).exists()


@pytest.mark.parametrize("command", [apply, apply_recorded, release, status, show])
def test_overrides_that_cannot_be_listed_are_read_one_by_one(
    chosen: Machine, command: Callable[[System], Report]
) -> None:
    # The child that lists them was killed.
    chosen.failing[len(chosen.asked)] = Fault(OSError(0, "the process that made the access ended without an answer"))
    command(unused(chosen))


def test_a_last_look_that_fails_does_not_cost_the_hand_over(tmp_path: Path) -> None:
    count = 0
    for name in ("undisturbed", "disturbed"):
        machine = gpu_host(tmp_path / name)
        machine.configure('[[board]]\nmodel = "10de:2684"\n')
        if count:
            machine.failing[count - 1] = Fault(OSError(0, "the process that made the access ended without an answer"))
        assert apply(unused(machine)).exit_code is ExitCode.OK
        count = len(machine.asked)
        assert machine.asked[-1].kind == "read-all" or machine.failing
        assert (machine.root / "run/pcibind/devices.env").exists()


def test_a_driver_from_before_is_given_back_in_spite_of_an_override_for_another(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    machine.file(f"sys/bus/pci/devices/{LEFTS[0]}/driver_override", "vfio-pci\n")
    before = machine.drivers()
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert release(unused(machine)).exit_code is ExitCode.OK
    assert machine.drivers() == before
