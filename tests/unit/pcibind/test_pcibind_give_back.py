"""Boards that are no longer chosen, but not back on their drivers yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from topologies import unused
from tree import DISPLAY, NIC, Fault, Machine, board, stuck

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.text import describe
from pcibind.model import record
from pcibind.model.errors import ExitCode
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.report import BoardState
from pcibind.read.files import read_record

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
LEFTS, RIGHTS = ([f"0000:0{bus}:00.{number}" for number in range(3)] for bus in (1, 2))
BOTH = f'[[board]]\nname = "left"\npath = "{LEFT}"\n[[board]]\nname = "right"\npath = "{RIGHT}"\n'
ONLY_RIGHT = f'[[board]]\nname = "right"\npath = "{RIGHT}"\n'
NONE = 'require_boards = "all"\n'


@pytest.fixture
def applied(machine: Machine) -> Machine:
    """Both boards bound; one of their functions had no driver before, and one an override."""
    machine.leave("0000:01:00.2")
    machine.file("sys/bus/pci/devices/0000:01:00.1/driver_override", "snd_hda_intel\n")
    machine.configure(BOTH)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    return machine


ORIGINAL = {
    "0000:01:00.0": ("nouveau", "(null)"),
    "0000:01:00.1": ("snd_hda_intel", "snd_hda_intel"),
    "0000:01:00.2": (None, "(null)"),
}
# What a driver of the host's took at a boot stays with it: it may be in use.
REBOOTED = ORIGINAL | {"0000:01:00.2": ("xhci_hcd", "(null)")}


def known(machine: Machine) -> Record:
    return read_record(machine.paths) or Record()


def left_of(machine: Machine) -> dict[str, tuple[str | None, str]]:
    return {address: machine.drivers()[address] for address in LEFTS}


def originals(board: RecordedBoard) -> dict[str, tuple[str | None, str]]:
    return {f"{str(board.address)[:-1]}{f.number}": (f.driver, f.driver_override or "(null)") for f in board.functions}


def let_go(machine: Machine, text: str = ONLY_RIGHT) -> None:
    machine.configure(text)
    report = apply(unused(machine), next_boot=True)
    assert report.exit_code is ExitCode.OK, describe(report)


@pytest.mark.parametrize("text", [ONLY_RIGHT, NONE], ids=["the other stays", "none stays"])
def test_let_go_for_the_next_boot_it_stays_bound_and_its_drivers_stay_on_record(applied: Machine, text: str) -> None:
    before = applied.drivers()
    applied.writes.clear()
    let_go(applied, text)
    assert applied.writes == []
    assert applied.drivers() == before
    left = known(applied).leaving[0]
    assert (left.name, left.path) == ("left", LEFT)
    assert originals(left) == ORIGINAL
    assert LEFT not in [board.path for board in known(applied).boards]


def test_let_go_for_the_next_boot_it_is_no_more_in_the_early_list(applied: Machine) -> None:
    assert LEFT in Path(applied.paths.early_list).read_text()
    let_go(applied)
    assert LEFT not in Path(applied.paths.early_list).read_text()
    let_go(applied, NONE)
    assert not Path(applied.paths.early_list).exists()


@pytest.mark.parametrize("rebooted", [True, False])
def test_boot_gives_it_back_and_forgets_it(applied: Machine, rebooted: bool) -> None:
    let_go(applied)
    if rebooted:
        applied.reboot()
    report = apply_recorded(unused(applied))
    assert report.exit_code is ExitCode.OK, describe(report)
    assert left_of(applied) == (REBOOTED if rebooted else ORIGINAL)
    assert known(applied).leaving == ()
    assert [board.path for board in known(applied).boards] == [RIGHT]
    assert all(applied.driver(address) == "vfio-pci" for address in RIGHTS)
    assert "PCIBIND_BOARDS=1" in (applied.root / "run/pcibind/devices.env").read_text()
    applied.writes.clear()
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert applied.writes == []


def test_when_none_is_left_boot_leaves_no_record(applied: Machine) -> None:
    let_go(applied, NONE)
    applied.reboot()
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert left_of(applied) == REBOOTED
    assert not Path(applied.paths.record).exists()
    assert not (applied.root / "run/pcibind/devices.env").exists()


@pytest.mark.parametrize("rebooted", [True, False])
@pytest.mark.parametrize("next_boot", [True, False])
def test_chosen_again_it_has_the_drivers_from_before_the_first_time(
    applied: Machine, rebooted: bool, next_boot: bool
) -> None:
    let_go(applied)
    if rebooted:
        applied.reboot()
    applied.configure(BOTH.replace('"left"', '"again"'))
    report = apply(unused(applied), next_boot=next_boot)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert known(applied).leaving == ()
    (again,) = [board for board in known(applied).boards if board.path == LEFT]
    assert again.name == "again"
    assert originals(again) == ORIGINAL
    assert release(unused(applied)).exit_code is ExitCode.OK
    assert left_of(applied) == (REBOOTED if rebooted and next_boot else ORIGINAL)


def test_chosen_again_by_another_selector_it_is_no_first_time_either(applied: Machine) -> None:
    let_go(applied)
    applied.configure(ONLY_RIGHT + '[[board]]\naddress = "0000:01:00.2"\n')
    assert apply(unused(applied)).exit_code is ExitCode.OK
    (again,) = [board for board in known(applied).boards if board.path == LEFT]
    assert originals(again) == ORIGINAL
    assert again.selector.kind == "address"


@pytest.mark.parametrize("names", [[], ["left"], [LEFT]])
def test_release_gives_it_back_too(applied: Machine, names: list[str]) -> None:
    let_go(applied)
    report = release(unused(applied), names)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert left_of(applied) == ORIGINAL
    assert known(applied).leaving == ()
    assert [board.path for board in known(applied).boards] == ([RIGHT] if names else [])
    assert Path(applied.paths.record).exists() == bool(names)


def test_a_plain_apply_gives_it_back_at_once(applied: Machine) -> None:
    let_go(applied)
    assert [str(step) for each in show(unused(applied)).boards if each.name == "left" for step in each.steps]
    assert apply(unused(applied)).exit_code is ExitCode.OK
    assert left_of(applied) == ORIGINAL
    assert known(applied).leaving == ()


def test_status_tells_that_it_is_let_go(applied: Machine) -> None:
    let_go(applied)
    report = status(unused(applied))
    (left,) = [each for each in report.boards if each.path == LEFT]
    assert (left.state, left.wanted) == (BoardState.LEAVING, False)
    assert "reboot, or run `pcibind release`" in describe(report)
    document = json.loads(report.to_json())
    wanted = {f["wanted_driver"] for board in document["boards"] if board["name"] == "left" for f in board["functions"]}
    assert wanted == {"nouveau", "snd_hda_intel", None}


def test_until_the_next_boot_nothing_is_wrong(applied: Machine) -> None:
    let_go(applied)
    assert status(unused(applied)).exit_code is ExitCode.OK


@pytest.mark.parametrize("end", ["override", "unbind", "probe"])
@pytest.mark.parametrize("by", ["release", "apply", "boot"])
def test_what_could_not_be_given_back_stays_on_record_until_it_could(applied: Machine, end: str, by: str) -> None:
    applied.file("proc/77/stat", "77 (sh) D " + "0 " * 18 + "555 0\n")
    applied.faults = {
        "override": {("0000:01:00.0/driver_override", ""): OSError(5, "Input/output error")},
        "unbind": {("vfio-pci/unbind", "0000:01:00.0"): stuck(77)},
        "probe": {
            ("drivers_probe", "0000:01:00.0"): OSError(5, "Input/output error"),
            ("nouveau/bind", "0000:01:00.0"): OSError(5, "Input/output error"),
        },
    }[end]
    if by == "release":
        report = release(unused(applied), ["left"])
    elif by == "apply":
        applied.configure(ONLY_RIGHT)
        report = apply(unused(applied))
    else:
        let_go(applied)
        report = apply_recorded(unused(applied))
    expected = (BoardState.STUCK, ExitCode.STUCK) if end == "unbind" else (BoardState.FAILED, ExitCode.NOT_BOUND)
    assert [each.state for each in report.boards if each.path == LEFT] == [expected[0]]
    # At a boot, what is wanted is bound: then this makes no failure.
    assert report.exit_code is (ExitCode.OK if by == "boot" else expected[1])
    (left,) = known(applied).leaving
    assert originals(left) == ORIGINAL
    # Its siblings are given back all the same, and the other board stays in use.
    assert {a: applied.drivers()[a] for a in LEFTS[1:]} == {a: ORIGINAL[a] for a in LEFTS[1:]}
    assert "0000:01:00" not in (applied.root / "run/pcibind/devices.env").read_text()

    applied.faults.clear()
    applied.writes.clear()
    if end == "unbind":
        # While that access waits, nobody touches the function again.
        report = apply_recorded(unused(applied))
        assert [each.state for each in report.boards if each.path == LEFT] == [BoardState.STUCK]
        assert report.exit_code is ExitCode.OK
        assert known(applied).leaving == (left,)
        assert applied.writes == []
    applied.reboot()
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert left_of(applied) == REBOOTED
    assert known(applied).leaving == ()


def test_what_a_driver_of_the_hosts_took_since_is_not_taken_from_it(applied: Machine) -> None:
    """As after a driver was installed that was not there when the board was recorded."""
    apply(unused(applied), next_boot=True)
    applied.reboot()
    applied.writes.clear()
    report = release(unused(applied))
    assert report.exit_code is ExitCode.OK, describe(report)
    assert left_of(applied) == REBOOTED
    assert not [path for path, _ in applied.writes if path.endswith(("/unbind", "/bind", "drivers_probe"))]


def test_a_function_without_a_driver_is_restored_by_a_later_run_of_the_unit(applied: Machine) -> None:
    let_go(applied)
    applied.faults = {
        ("drivers_probe", "0000:01:00.0"): OSError(5, "Input/output error"),
        ("nouveau/bind", "0000:01:00.0"): OSError(5, "Input/output error"),
    }
    apply_recorded(unused(applied))
    assert applied.driver("0000:01:00.0") is None
    applied.faults.clear()
    report = apply_recorded(unused(applied))
    assert report.exit_code is ExitCode.OK, describe(report)
    assert left_of(applied) == ORIGINAL
    assert known(applied).leaving == ()


def test_a_board_that_was_unplugged_meanwhile_is_forgotten(applied: Machine) -> None:
    let_go(applied)
    applied.unplug("0000:00:01.0")
    report = apply_recorded(unused(applied))
    assert report.exit_code is ExitCode.OK
    assert BoardState.GONE in [each.state for each in report.boards]
    assert known(applied).leaving == ()


def test_a_device_that_came_in_its_place_is_left_alone(applied: Machine) -> None:
    let_go(applied)
    for address in LEFTS:
        applied.unplug(address)
    slot = "pci0000:00/0000:00:01.0"
    applied.function(f"{slot}/0000:01:00.0", **{**DISPLAY, "device": 0x2704}, driver="nouveau", group=12)
    applied.function(f"{slot}/0000:01:00.1", **NIC, group=12)
    applied.writes.clear()
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert applied.writes == []
    assert applied.driver("0000:01:00.0") == "nouveau"


@pytest.mark.parametrize("require", ["all", "any"])
@pytest.mark.parametrize("text", [ONLY_RIGHT, ""], ids=["the other stays", "none stays"])
def test_a_board_in_use_is_not_given_back_and_stays_on_record(applied: Machine, require: str, text: str) -> None:
    applied.busy.add("12")
    applied.configure(f'require_boards = "{require}"\n{text}')
    applied.writes.clear()
    report = apply(unused(applied))
    assert [(refusal.board, refusal.guard) for refusal in report.refusals] == [(LEFT, "vfio-open")]
    assert not [path for path, address in applied.writes if address in LEFTS or any(a in path for a in LEFTS)]
    (left,) = [board for board in (*known(applied).boards, *known(applied).leaving) if board.path == LEFT]
    assert originals(left) == ORIGINAL


@pytest.mark.parametrize("require", ["all", "any"])
@pytest.mark.parametrize("text", [ONLY_RIGHT, ""], ids=["the other stays", "none stays"])
def test_a_refusal_to_give_a_board_back_is_no_success(applied: Machine, require: str, text: str) -> None:
    applied.busy.add("12")
    applied.configure(f'require_boards = "{require}"\n{text}')
    assert apply(unused(applied)).exit_code is ExitCode.REFUSED


@pytest.mark.parametrize("require", ["all", "any"])
@pytest.mark.parametrize("text", [ONLY_RIGHT, ""], ids=["the other stays", "none stays"])
def test_a_plan_to_give_back_a_board_that_is_in_use_is_no_success(applied: Machine, require: str, text: str) -> None:
    applied.open("/dev/vfio/12")
    applied.configure(f'require_boards = "{require}"\n{text}')
    assert show(applied.host).exit_code is ExitCode.REFUSED


def test_plan_opens_no_node_and_says_what_it_could_not_see(applied: Machine) -> None:
    applied.busy.add("12")
    applied.configure(ONLY_RIGHT)
    applied.asked.clear()
    report = show(unused(applied))
    assert report.exit_code is ExitCode.PENDING
    assert any("only /proc was searched" in note for note in report.notes)
    assert not [access for access in applied.asked if access.kind == "keep-open"]
    assert apply(unused(applied)).exit_code is ExitCode.REFUSED


def test_a_board_in_use_fails_no_boot_and_keeps_nobody_else_from_the_others(applied: Machine) -> None:
    let_go(applied)
    handed_over = (applied.root / "run/pcibind/devices.env").read_text()
    applied.busy.add("12")
    applied.writes.clear()
    report = apply_recorded(unused(applied))
    assert report.exit_code is ExitCode.OK
    assert [each.state for each in report.boards if each.path == LEFT] == [BoardState.REFUSED]
    assert [(refusal.board, refusal.guard) for refusal in report.refusals] == [(LEFT, "vfio-open")]
    assert applied.writes == []
    assert (applied.root / "run/pcibind/devices.env").read_text() == handed_over
    assert [board.path for board in known(applied).leaving] == [LEFT]
    # What is wanted and fails is still a failure.
    applied.unplug("0000:00:02.0")
    assert apply_recorded(unused(applied)).exit_code is not ExitCode.OK


def test_functions_leave_together_and_the_display_gets_its_driver_last(applied: Machine) -> None:
    applied.writes.clear()
    assert release(unused(applied), ["left"]).exit_code is ExitCode.OK
    unbound = [text for path, text in applied.writes if path.endswith("vfio-pci/unbind")]
    probed = [text for path, text in applied.writes if path.endswith("drivers_probe")]
    assert (unbound, probed) == ([*LEFTS[1:], LEFTS[0]], [LEFTS[1], LEFTS[0]])
    assert max(applied.writes.index((p, t)) for p, t in applied.writes if p.endswith("unbind")) < min(
        applied.writes.index((p, t)) for p, t in applied.writes if p.endswith("probe")
    )


def test_a_display_never_gets_a_driver_beside_a_sibling_that_stays(applied: Machine) -> None:
    applied.faults["vfio-pci/unbind", LEFTS[1]] = OSError(5, "Input/output error")
    report = release(unused(applied), ["left"])
    assert report.exit_code is ExitCode.NOT_BOUND
    assert {a: applied.driver(a) for a in LEFTS} == {LEFTS[0]: None, LEFTS[1]: "vfio-pci", LEFTS[2]: None}
    assert applied.override(LEFTS[0]) == "vfio-pci"
    assert f"left without a driver, since {LEFTS[1][5:]} beside it is on vfio-pci" in describe(report)
    applied.faults.clear()
    assert release(unused(applied), ["left"]).exit_code is ExitCode.OK
    assert left_of(applied) == ORIGINAL


def test_a_function_that_vfio_got_back_meanwhile_is_not_released(applied: Machine) -> None:
    """As by a new ID for vfio-pci, while its override is still there."""

    def take_back(_: int) -> None:
        if applied.driver(LEFTS[0]) is None:
            applied.take(LEFTS[0], "vfio-pci")

    applied.watchers.append(take_back)
    report = release(unused(applied), ["left"])
    assert applied.driver(LEFTS[0]) == "vfio-pci"
    assert report.boards[0].state is BoardState.FAILED
    assert "another process gave it to vfio-pci meanwhile" in report.boards[0].detail
    record = read_record(applied.paths)
    assert record is not None
    assert [each.path for each in record.leaving] == [LEFT]


def test_a_function_that_comes_to_vfio_after_the_look_is_not_taken_from_its_user(
    applied: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in LEFTS:
        applied.leave(address)

    def take(*_: object) -> None:
        applied.take(LEFTS[1], "vfio-pci")
        applied.busy.add("12")

    monkeypatch.setattr("pcibind.change.handover.withdraw", take)
    assert release(unused(applied), ["left"]).exit_code is ExitCode.NOT_BOUND
    assert applied.driver(LEFTS[1]) == "vfio-pci"


@pytest.mark.parametrize("by", ["apply", "boot"])
def test_what_was_given_back_is_reported_as_it_is_then(applied: Machine, by: str) -> None:
    if by == "apply":
        applied.configure(ONLY_RIGHT)
        report = apply(unused(applied))
    else:
        let_go(applied)
        report = apply_recorded(unused(applied))
    (left,) = [each for each in json.loads(report.to_json())["boards"] if each["path"] == LEFT]
    assert left["state"] == "released"
    assert {function["verdict"] for function in left["functions"]} == {"right"}


def test_killed_while_it_is_given_back_the_next_boot_goes_on(applied: Machine) -> None:
    class Killed(BaseException):
        pass

    let_go(applied)
    applied.reboot()
    applied.asked.clear()
    # All overrides are listed, then it is looked at, function by function.
    applied.failing[2] = Fault(Killed())
    with pytest.raises(Killed):
        apply_recorded(unused(applied))
    assert [board.path for board in known(applied).leaving] == [LEFT]
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert left_of(applied) == REBOOTED


def test_a_record_without_boards_to_give_back_is_read(applied: Machine) -> None:
    before = known(applied)
    document = json.loads(Path(applied.paths.record).read_text())
    assert document["version"] == 1
    del document["leaving"]
    applied.file("var/lib/pcibind/record.json", json.dumps(document))
    assert known(applied) == before
    applied.writes.clear()
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert applied.writes == []


@pytest.mark.parametrize("garbage", [[{}], "x", [None], 1, None])
def test_garbage_in_the_list_of_boards_to_give_back_makes_the_record_unreadable(
    applied: Machine, garbage: object
) -> None:
    document = json.loads(Path(applied.paths.record).read_text())
    document["leaving"] = garbage
    with pytest.raises(record.RecordError):
        record.parse(json.dumps(document))


def test_a_hand_over_that_cannot_be_changed_keeps_no_other_board_half_way(machine: Machine) -> None:
    third = "0000:00/05.0/00"
    board(machine, "05", 5, 25)
    machine.configure("".join(f'[[board]]\npath = "{path}"\n' for path in (LEFT, RIGHT, third)))
    assert apply(unused(machine)).exit_code is ExitCode.OK
    # A directory in the place of the new file: even root cannot write there.
    Path(machine.paths.run, ".devices.env.new").mkdir()
    assert release(unused(machine), [LEFT, RIGHT]).exit_code is ExitCode.UNEXPECTED
    assert {machine.driver(address) for address in LEFTS} == {"vfio-pci"}
    assert [machine.driver(address) for address in RIGHTS] == ["nouveau", "snd_hda_intel", "xhci_hcd"]
    assert ([b.path for b in known(machine).boards], [b.path for b in known(machine).leaving]) == ([third], [LEFT])
    assert not Path(machine.paths.run, "devices.env").exists()


@pytest.mark.parametrize("require", ["all", "any"])
def test_a_board_that_is_held_stays_handed_over_when_it_is_chosen_no_more(applied: Machine, require: str) -> None:
    before = (applied.root / "run/pcibind/devices.env").read_text()
    applied.busy.add(applied.group_of(LEFTS[0]))
    applied.configure(f'require_boards = "{require}"\n{ONLY_RIGHT}')
    for _ in range(2):
        assert apply(unused(applied)).exit_code is ExitCode.REFUSED
        assert (applied.root / "run/pcibind/devices.env").read_text() == before
        assert status(unused(applied)).errors == ()
    applied.busy.clear()
    assert apply(unused(applied)).exit_code is ExitCode.OK
    assert "01:00.0" not in (applied.root / "run/pcibind/devices.env").read_text()


def test_where_none_is_chosen_and_one_is_held_the_others_are_given_back_all_the_same(applied: Machine) -> None:
    applied.configure('require_boards = "any"\n')
    applied.open(f"/dev/vfio/{applied.group_of(RIGHTS[0])}")
    report = apply(applied.host)
    assert report.exit_code is ExitCode.REFUSED
    assert left_of(applied) == ORIGINAL
    assert [board.path for board in known(applied).boards] == [RIGHT]


def test_an_override_with_a_slash_and_a_twin_that_is_no_board_are_read_again(applied: Machine) -> None:
    before = known(applied)
    first = before.boards[0]
    function = first.functions[0]._replace(driver_override="foo/bar baz")
    odd = first._replace(functions=(function, *first.functions[1:]), twins=("0000:00/01.0/01.0",))
    left = before._replace(boards=(odd, *before.boards[1:]))
    assert record.parse(record.dump(left)) == left


@pytest.mark.parametrize("has_groups", [True, False])
def test_a_board_that_was_on_vfio_before_is_released_where_it_is_and_only_while_nobody_holds_it(
    machine: Machine, has_groups: bool
) -> None:
    for address in LEFTS:
        machine.leave(address)
        machine.take(address, "vfio-pci")
    before = {address: machine.drivers()[address] for address in LEFTS}
    machine.configure(f'[[board]]\nname = "left"\npath = "{LEFT}"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    bound = machine.drivers()
    machine.busy.add(machine.group_of(LEFTS[0]))
    assert release(unused(machine)).exit_code is ExitCode.REFUSED
    assert machine.drivers() == bound
    machine.busy.clear()
    if not has_groups:
        (machine.root / "dev/vfio" / machine.group_of(LEFTS[0])).unlink()
        machine.has_groups = False
    assert release(unused(machine)).exit_code is ExitCode.OK
    assert left_of(machine) == before
    assert read_record(machine.paths) is None
