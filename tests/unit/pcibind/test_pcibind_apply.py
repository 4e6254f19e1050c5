"""Apply, status and release, on a machine of files whose kernel reacts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topologies import somewhere, unused
from tree import DISPLAY, NIC, Fault, Machine, gpu_host, stuck

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release as release_boards
from pcibind.commands.status import status
from pcibind.commands.text import describe
from pcibind.model.errors import ConfigError, ExitCode, RecordError
from pcibind.model.report import BoardState
from pcibind.read.files import read_record
from pcibind.read.kernel import Access

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
BOARDS = [f"0000:0{bus}:00.{number}" for bus in (1, 2) for number in range(3)]


@pytest.fixture
def both(machine: Machine) -> Machine:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    return machine


def environment(machine: Machine) -> dict[str, str]:
    lines = (machine.root / "run/pcibind/devices.env").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def handed_over(machine: Machine) -> bool:
    return (machine.root / "run/pcibind/devices.env").exists()


def is_bound(machine: Machine, *addresses: str) -> bool:
    return all(machine.drivers()[a] == ("vfio-pci", "vfio-pci") for a in addresses)


def test_apply_binds_whole_boards_and_nothing_else(both: Machine) -> None:
    before = both.drivers()
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(both, *BOARDS)
    others = before.keys() - set(BOARDS)
    assert {name: both.drivers()[name] for name in others} == {n: before[n] for n in others}


@pytest.mark.parametrize("next_boot", [False, True])
def test_the_first_apply_names_the_original_drivers_as_every_other_one(both: Machine, next_boot: bool) -> None:
    before = both.drivers()
    for report in (apply(both.host, next_boot=next_boot), status(both.host), apply(both.host)):
        functions = [function for board in json.loads(report.to_json())["boards"] for function in board["functions"]]
        named = {function["address"]: function["original_driver"] for function in functions}
        assert named == {address: before[address][0] for address in BOARDS}


def test_what_is_bound_is_handed_over(both: Machine) -> None:
    apply(both.host)
    assert environment(both) == {
        "PCIBIND_BOARDS": "2",
        "PCIBIND_GROUP_DEVICES": "/dev/vfio/12 /dev/vfio/13",
        "PCIBIND_CDEVS": "",
        "PCIBIND_PODMAN_DEVICES": "--device=/dev/vfio/12 --device=/dev/vfio/13",
        "PCIBIND_FUNCTIONS": ",".join(BOARDS),
        "PCIBIND_DISPLAY_FUNCTIONS": "0000:01:00.0,0000:02:00.0",
    }
    document = json.loads((both.root / "run/pcibind/devices.json").read_text())
    assert [board["path"] for board in document["boards"]] == [LEFT, RIGHT]


def test_the_second_apply_writes_nothing(both: Machine) -> None:
    apply(both.host)
    both.writes.clear()
    files = {p: p.stat().st_mtime_ns for p in both.root.rglob("*") if p.is_file()}
    for again in (apply(both.host), apply_recorded(both.host)):
        assert again.exit_code is ExitCode.OK
        assert [board.changed for board in again.boards] == [False, False]
    assert both.writes == []
    assert {p: p.stat().st_mtime_ns for p in both.root.rglob("*") if p.is_file()} == files


def test_the_second_apply_does_not_mind_a_running_consumer(both: Machine) -> None:
    apply(both.host)
    both.open("/dev/vfio/12")
    assert apply(both.host).exit_code is ExitCode.OK
    assert handed_over(both)


def test_one_of_two_twins_can_stay_with_the_host(machine: Machine) -> None:
    machine.configure('[[board]]\naddress = "0000:02:00.0"\nname = "right"\n')
    apply(machine.host)
    assert is_bound(machine, *BOARDS[3:])
    assert machine.driver("0000:01:00.0") == "nouveau"
    assert environment(machine)["PCIBIND_DISPLAY_FUNCTIONS"] == "0000:02:00.0"


def test_release_restores_drivers_and_overrides(both: Machine) -> None:
    both.file("sys/bus/pci/devices/0000:01:00.1/driver_override", "snd_hda_intel\n")
    both.leave("0000:02:00.2")
    before = both.drivers()
    apply(both.host)
    report = release_boards(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert both.drivers() == before
    assert not handed_over(both)
    assert not Path(both.paths.record).exists()
    assert not Path(both.paths.early_list).exists()
    assert release_boards(both.host).exit_code is ExitCode.OK


def test_original_drivers_are_recorded_once_only(both: Machine) -> None:
    apply(both.host)
    first = Path(both.paths.record).read_text()
    both.configure('[[board]]\npath = "0000:00/01.0/00"\n[[board]]\naddress = "0000:02:00.0"\n')
    assert apply(both.host).exit_code is ExitCode.OK
    assert Path(both.paths.record).read_text() != first
    release_boards(both.host)
    assert both.driver("0000:01:00.0") == "nouveau"


def test_one_board_is_released_by_name_and_the_other_stays(machine: Machine) -> None:
    machine.configure(
        '[[board]]\nname = "a"\naddress = "0000:01:00.0"\n[[board]]\nname = "b"\naddress = "0000:02:00.0"\n'
    )
    apply(machine.host)
    with pytest.raises(ConfigError, match="expected one of: a, b"):
        release_boards(machine.host, ["c"])
    assert release_boards(machine.host, ["a"]).exit_code is ExitCode.OK
    assert machine.driver("0000:01:00.0") == "nouveau"
    assert is_bound(machine, *BOARDS[3:])
    assert environment(machine)["PCIBIND_BOARDS"] == "1"


def test_a_board_taken_out_of_the_configuration_is_given_back(both: Machine) -> None:
    apply(both.host)
    both.configure('[[board]]\npath = "0000:00/02.0/00"\n')
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert both.driver("0000:01:00.2") == "xhci_hcd"
    assert both.override("0000:01:00.2") == "(null)"
    assert environment(both)["PCIBIND_BOARDS"] == "1"


def test_a_board_that_is_gone_can_be_taken_out_of_the_configuration(both: Machine) -> None:
    apply(both.host)
    both.unplug("0000:00:01.0")
    both.configure('[[board]]\npath = "0000:00/02.0/00"\n')
    assert apply(both.host).exit_code is ExitCode.OK
    assert "01.0" not in Path(both.paths.early_list).read_text()


def test_no_group_in_use_is_released(both: Machine) -> None:
    apply(both.host)
    both.open("/dev/vfio/12")
    report = release_boards(both.host)
    assert report.exit_code is ExitCode.REFUSED
    assert is_bound(both, *BOARDS[:3])
    assert both.driver("0000:02:00.0") == "nouveau"


def test_a_refusal_by_a_guard_touches_nothing(both: Machine) -> None:
    both.virtual_function("0000:01:00.0")
    report = apply(both.host)
    assert report.exit_code is ExitCode.REFUSED
    assert both.writes == []
    assert not Path(both.paths.record).exists()
    both.configure('require_boards = "any"\n[[board]]\nmodel = "10de:2684"\n')
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK
    assert environment(both)["PCIBIND_BOARDS"] == "1"
    assert both.driver("0000:01:00.0") == "nouveau"


def test_a_foreign_device_is_refused_and_touches_nothing(both: Machine) -> None:
    both.function("pci0000:00/0000:00:06.0", **NIC, driver="e1000e", group=13)
    report = apply(both.host)
    assert report.exit_code is ExitCode.REFUSED
    assert "00:06.0" in describe(report)
    assert both.writes == []


def test_a_wrong_configuration_binds_nothing(both: Machine) -> None:
    both.configure("x", "other.toml")
    with pytest.raises(ConfigError):
        apply(both.host)
    assert both.writes == []


def test_a_record_that_cannot_be_read_is_never_replaced(both: Machine) -> None:
    both.file("var/lib/pcibind/record.json", "{}")
    for command in (apply, apply_recorded, release_boards, status):
        with pytest.raises(RecordError, match=r"record\.json"):
            command(both.host)
    assert Path(both.paths.record).read_text() == "{}"
    assert both.writes == []


def test_next_boot_records_and_touches_no_driver_even_without_iommu(tmp_path: Path) -> None:
    machine = gpu_host(tmp_path, iommu=False)
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    report = apply(machine.host, next_boot=True)
    assert report.exit_code is ExitCode.OK
    assert machine.writes == []
    assert len(Path(machine.paths.early_list).read_text().splitlines()) == 6
    assert read_record(machine.paths)
    late = apply_recorded(machine.host)
    assert late.exit_code is ExitCode.NOT_BOUND
    assert "IOMMU is off" in describe(late)
    assert machine.writes == []


def test_boot_binds_what_was_recorded_wherever_its_buses_are_now(tmp_path: Path) -> None:
    from tree import board

    before = gpu_host(tmp_path / "before")
    before.configure('[[board]]\naddress = "0000:01:00.0"\n')
    apply(before.host, next_boot=True)
    after = Machine(tmp_path / "after")
    board(after, "01", 2, 5)
    board(after, "02", 1, 6)
    after.file("var/lib/pcibind/record.json", Path(before.paths.record).read_text())
    assert apply_recorded(after.host).exit_code is ExitCode.OK
    assert is_bound(after, *BOARDS[3:])
    assert after.driver("0000:01:00.0") == "nouveau"


@pytest.mark.parametrize(("require", "code"), [("all", 4), ("any", 0)])
def test_an_absent_board_fails_all_but_not_any(both: Machine, require: str, code: int) -> None:
    both.configure(f'require_boards = "{require}"\n[[board]]\nmodel = "10de:2684"\n')
    apply(both.host, next_boot=True)
    both.unplug("0000:00:01.0")
    assert apply_recorded(both.host).exit_code == code
    assert is_bound(both, *BOARDS[3:])
    assert handed_over(both) == (code == 0)
    assert status(both.host).exit_code == code


def test_a_replaced_board_is_not_touched(both: Machine) -> None:
    apply(both.host, next_boot=True)
    both.unplug("0000:01:00.0")
    both.function("pci0000:00/0000:00:01.0/0000:01:00.0", **{**DISPLAY, "device": 1}, driver="nouveau")
    assert apply_recorded(both.host).exit_code is ExitCode.IDENTITY
    assert both.driver("0000:01:00.0") == "nouveau"
    assert both.driver("0000:01:00.1") == "snd_hda_intel"


def test_a_driver_that_does_not_let_go_puts_its_board_back_and_holds_up_no_other(
    both: Machine,
) -> None:
    before = both.drivers()
    both.sticky.add("xhci_hcd")
    both.sticky.discard("none")
    report = apply(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "expected no driver" in describe(report)
    assert both.drivers() == before
    assert not handed_over(both)


def test_a_refusal_of_vfio_pci_names_its_reason(both: Machine) -> None:
    before = both.drivers()
    both.refusing.add("vfio-pci")
    report = apply(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "vfio-pci refused it: Invalid argument" in describe(report)
    assert both.drivers() == before


def test_a_missing_module_is_reported(both: Machine) -> None:
    both.faults["modprobe", "vfio-pci"] = OSError(1, "modprobe vfio-pci: not found")
    report = apply(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "not found" in describe(report)


def test_a_stuck_unbind_is_left_alone_and_holds_up_no_other(both: Machine) -> None:
    both.file("proc/77/stat", "77 (a b) D " + "0 " * 18 + "555 0\n")
    both.open("/dev/nvidia0", 99, "python3")
    both.faults["nouveau/unbind", "0000:01:00.0"] = stuck(77)
    report = apply(both.host)
    assert report.exit_code is ExitCode.STUCK
    left, right = report.boards
    assert (left.state, right.state) == (BoardState.STUCK, BoardState.BOUND)
    assert "process 99 (python3) has /dev/nvidia0" in left.detail
    assert "reboot" in left.detail
    assert both.driver("0000:01:00.1") == "snd_hda_intel"
    assert both.override("0000:01:00.1") == "(null)"
    assert not handed_over(both)

    # As long as that access waits, nobody touches the board again.
    both.faults.clear()
    both.writes.clear()
    for again in (apply, apply_recorded, status):
        assert again(both.host).exit_code is ExitCode.STUCK
    assert both.writes == []
    both.file("proc/77/stat", "77 (other) S " + "0 " * 18 + "999 0\n")
    assert apply(both.host).exit_code is ExitCode.OK


def test_a_group_that_is_not_viable_is_no_success(both: Machine) -> None:
    apply(both.host)
    members = both.root / "sys/kernel/iommu_groups/12/devices"
    (members / "0000:00:04.0").symlink_to("../../../../devices/pci0000:00/0000:00:04.0")
    report = apply_recorded(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "IOMMU group 12 is not viable: 00:04.0 is on nvme" in describe(report)


def test_a_missing_device_node_is_no_success(both: Machine) -> None:
    apply(both.host)
    (both.root / "dev/vfio/12").unlink()
    report = status(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "/dev/vfio/12" in describe(report)


def test_status_tells_wanted_from_bound(both: Machine) -> None:
    assert status(both.host).exit_code is ExitCode.NOT_BOUND
    apply(both.host)
    assert status(both.host).exit_code is ExitCode.OK
    (both.root / "run/pcibind/devices.env").unlink()
    assert "but not handed over" in describe(status(both.host))


def test_a_bound_board_is_not_announced_for_the_next_boot(both: Machine) -> None:
    assert "bound at the next boot" in describe(apply(unused(both), next_boot=True))
    assert apply(unused(both)).exit_code is ExitCode.OK
    report = apply(unused(both), next_boot=True)
    assert {each.state for each in report.boards} == {BoardState.RECORDED}
    assert {each.detail for each in report.boards} == {""}


def test_plan_tells_a_pending_hand_over_also_where_a_board_is_away_and_any_is_enough(both: Machine) -> None:
    both.configure('require_boards = "any"\n[[board]]\nmodel = "10de:2684"\n')
    apply(both.host)
    both.unplug("0000:00:02.0")
    apply(both.host)
    assert show(both.host).exit_code is ExitCode.OK
    (both.root / "run/pcibind/devices.env").unlink()
    assert show(both.host).exit_code is ExitCode.PENDING
    assert apply(both.host).exit_code is ExitCode.OK
    assert (both.root / "run/pcibind/devices.env").exists()


@pytest.mark.parametrize(
    ("old", "new"), [('name = "left"', 'name = "other"'), ('require_boards = "all"', 'require_boards = "any"')]
)
def test_plan_tells_that_apply_would_rewrite_the_record(machine: Machine, old: str, new: str) -> None:
    text = 'require_boards = "all"\n[[board]]\nname = "left"\npath = "0000:00/01.0/00"\n'
    machine.configure(text)
    apply(unused(machine))
    assert show(unused(machine)).exit_code is ExitCode.OK
    machine.configure(text.replace(old, new))
    report = show(unused(machine))
    assert report.exit_code is ExitCode.PENDING
    assert "to be written anew" in describe(report)
    before = (machine.root / "var/lib/pcibind/record.json").read_text()
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert (machine.root / "var/lib/pcibind/record.json").read_text() != before
    assert show(unused(machine)).exit_code is ExitCode.OK


def test_plan_shows_the_steps_and_changes_nothing(both: Machine) -> None:
    report = show(both.host)
    assert report.exit_code is ExitCode.PENDING
    assert "01:00.0: unbind from nouveau" in describe(report)
    assert both.writes == []
    assert not Path(both.paths.record).exists()


class Killed(BaseException):
    """The end of the process, at some write."""


def dies_after(machine: Machine, writes: int) -> None:
    """Let the program be killed at its next write after so many."""
    write = machine.write

    def dying(path: Path, text: str) -> None:
        nonlocal writes
        if not writes:
            raise Killed
        writes -= 1
        write(path, text)

    machine.write = dying  # type: ignore[method-assign]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 17), st.booleans())
def test_killed_at_any_write_the_next_run_converges(after: int, release_first: bool) -> None:
    with somewhere() as directory:
        machine = gpu_host(directory)
        machine.configure('[[board]]\nmodel = "10de:2684"\n')
        before = machine.drivers()
        dies_after(machine, after)
        with pytest.raises(Killed):
            apply(unused(machine))
        del machine.write  # type: ignore[method-assign]
        if release_first:
            assert release_boards(unused(machine)).exit_code is ExitCode.OK
            assert machine.drivers() == before
        assert apply(unused(machine)).exit_code is ExitCode.OK
        assert is_bound(machine, *BOARDS)
        assert release_boards(unused(machine)).exit_code is ExitCode.OK
        assert machine.drivers() == before


@pytest.mark.parametrize("moment", ["driver_override", "drivers_probe"])
@pytest.mark.parametrize("number", range(3))
def test_a_driver_whose_module_is_just_being_loaded_does_not_keep_what_it_takes(
    both: Machine, number: int, moment: str
) -> None:
    """As at a boot without the early override: it matched the function before the override was written."""
    address = BOARDS[number]
    driver = both.driver(address) or "xhci_hcd"
    both.leave(address)
    both.load(driver)
    coming, write = [driver], both.write

    def late(path: Path, text: str) -> None:
        if path.name == moment and address in (text.strip(), path.parent.name) and coming:
            both.take(address, coming.pop())
        write(path, text)

    both.write = late  # type: ignore[method-assign]
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(both, *BOARDS)


def test_a_driver_that_is_just_being_loaded_is_waited_for(both: Machine) -> None:
    """The kernel lets a driver take its devices before it makes the driver's files."""
    file = both.root / "sys/bus/pci/drivers/snd_hda_intel/unbind"
    file.unlink()
    answer = both.answer

    def loaded(access: Access) -> str:
        if access.kind == "wait" and str(file) in access.targets:
            file.touch()
        return answer(access)

    both.answer = loaded  # type: ignore[method-assign]
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(both, *BOARDS)


def test_a_driver_that_is_given_up_while_it_is_loaded_leaves_its_devices_to_us(both: Machine) -> None:
    file = both.root / "sys/bus/pci/drivers/snd_hda_intel/unbind"
    file.unlink()
    answer = both.answer

    def given_up(access: Access) -> str:
        if access.kind == "wait" and str(file) in access.targets:
            for address in BOARDS:
                if both.driver(address) == "snd_hda_intel":
                    both.leave(address)
        return answer(access)

    both.answer = given_up  # type: ignore[method-assign]
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(both, *BOARDS)


def test_a_driver_that_lets_go_by_itself_is_no_error(both: Machine) -> None:
    answer = both.answer

    def first(access: Access) -> str:
        if access.kind == "write" and access.targets[0].endswith("snd_hda_intel/unbind"):
            both.leave(access.text.strip())
            raise OSError(19, "No such device")
        return answer(access)

    both.answer = first  # type: ignore[method-assign]
    report = apply(both.host)
    assert report.exit_code is ExitCode.OK, describe(report)
    assert is_bound(both, *BOARDS)


def test_a_driver_that_never_lets_go_is_named(both: Machine) -> None:
    before = both.drivers()
    (both.root / "sys/bus/pci/drivers/snd_hda_intel/unbind").unlink()
    report = apply(both.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "snd_hda_intel is still being loaded after 120 s, or cannot release devices" in describe(report)
    assert both.drivers() == before


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(BOARDS),
    st.sampled_from(["driver_override", "unbind", "drivers_probe"]),
    st.booleans(),
)
def test_one_failing_access_leaves_each_board_whole(address: str, end: str, blocks: bool) -> None:
    with somewhere() as directory:
        machine = gpu_host(directory)
        machine.configure('[[board]]\nmodel = "10de:2684"\n')
        before = machine.drivers()
        where = f"{address}/{end}" if end == "driver_override" else end
        text = "vfio-pci" if end == "driver_override" else address
        machine.faults[where, text] = stuck() if blocks else OSError(5, "Input/output error")
        report = apply(unused(machine))
        now = machine.drivers()
        for board in report.boards:
            assert board.board
            mine = [str(f.address) for f in board.board.functions]
            if address not in mine:
                assert is_bound(machine, *mine)
            elif blocks:
                assert board.state is BoardState.STUCK
            else:
                whole = is_bound(machine, *mine)
                back = all(now[a] == before[a] for a in mine)
                # The probe of the way back fails too, where the fault is in the probe.
                assert whole or back or "not restored" in board.detail


def test_the_topology_of_a_report_is_the_one_after_the_writes(both: Machine) -> None:
    document = json.loads(apply(both.host).to_json())
    assert document["schema"] == "pcibind/1"
    assert document["exit_code"] == 0
    function = document["boards"][0]["functions"][0]
    assert function["driver"] == function["wanted_driver"] == "vfio-pci"
    assert both.host.topology().board_at(LEFT)


def test_the_hosts_own_twin_is_never_taken_for_a_board_that_moved(machine: Machine) -> None:
    machine.configure('[[board]]\nname = "left"\npath = "0000:00/01.0/00"\n')
    apply(machine.host)
    for number in range(3):
        machine.unplug(f"0000:01:00.{number}")
    (board,) = status(machine.host).boards
    assert (board.verdict, board.state) == ("absent", "unbound")
    assert RIGHT not in board.detail


def test_a_further_function_is_reported_even_beside_a_twin(machine: Machine) -> None:
    machine.configure('[[board]]\nname = "left"\npath = "0000:00/01.0/00"\n')
    apply(machine.host)
    machine.function("pci0000:00/0000:00:01.0/0000:01:00.3", **NIC, group=12)
    (board,) = status(machine.host).boards
    assert board.verdict == "extra-function"
    machine.configure("")
    assert {board.verdict for board in show(machine.host).boards} == {"extra-function"}


def test_the_plan_says_what_apply_would_say(tmp_path: Path, machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(machine.host)
    assert {board.state for board in show(machine.host).boards} == {BoardState.BOUND}
    off = gpu_host(tmp_path / "off", iommu=False)
    off.configure('[[board]]\nmodel = "10de:2684"\n')
    assert show(off.host).exit_code is ExitCode.NOT_BOUND
    assert "the IOMMU is off" in describe(show(off.host))


def test_boards_that_nobody_chose_are_shown_when_asked_for(machine: Machine) -> None:
    report = status(machine.host, everything=True)
    assert report.exit_code is ExitCode.OK
    assert {board.path for board in report.boards} == {LEFT, RIGHT, "0000:00/03", "0000:00/04"}
    assert {board.state for board in report.boards} == {BoardState.NOT_CHOSEN}
    assert "wanted" not in describe(report)


@pytest.mark.parametrize("address", ["01:00.0", "0000:01:00.2"])
def test_an_address_names_the_board_that_has_it_now(both: Machine, address: str) -> None:
    assert apply(both.host).exit_code is ExitCode.OK
    # Its buses were numbered anew since it was chosen.
    record_file = Path(both.paths.record)
    swapped = {'"0000:01:00.0"': '"0000:02:00.0"', '"0000:02:00.0"': '"0000:01:00.0"'}
    record_file.write_text(re.sub("|".join(swapped), lambda match: swapped[match[0]], record_file.read_text()))
    report = release_boards(both.host, [address])
    assert [board.path for board in report.boards] == ["0000:00/01.0/00"]


def test_an_absent_board_is_released_by_the_address_that_it_had(both: Machine) -> None:
    assert apply(both.host).exit_code is ExitCode.OK
    both.unplug("0000:00:01.0")
    assert [board.path for board in release_boards(both.host, ["01:00.0"]).boards] == ["0000:00/01.0/00"]


def test_a_wait_for_a_node_that_fails_is_a_failure_of_its_board_alone(both: Machine) -> None:
    apply(unused(both))
    (both.root / "dev/vfio/12").unlink()
    start = len(both.asked)
    apply(unused(both))
    (wait,) = [number for number, access in enumerate(both.asked[start:]) if access.kind == "wait"]
    # As where the child process that waits is killed.
    both.failing[len(both.asked) + wait] = Fault(OSError(0, "the process ended without an answer"))
    report = apply(unused(both))
    assert [board.state for board in report.boards] == [BoardState.FAILED, BoardState.BOUND]
    assert "ended without an answer" in report.boards[0].detail


def test_the_function_that_has_no_group_is_the_one_that_is_named(both: Machine) -> None:
    (both.root / "sys/bus/pci/devices/0000:01:00.1/iommu_group").unlink()
    report = apply(unused(both))
    assert [board.state for board in report.boards] == [BoardState.FAILED, BoardState.BOUND]
    assert report.boards[0].detail.startswith("0000:01:00.1: the IOMMU is off: no IOMMU group")


@pytest.mark.parametrize("path", ["etc/pcibind/early.list", "run/pcibind/devices.json", "run/cdi/pcibind.json"])
def test_plan_tells_of_each_file_that_apply_would_write(both: Machine, path: str) -> None:
    apply(both.host)
    assert show(both.host).exit_code is ExitCode.OK
    (both.root / path).unlink()
    assert show(both.host).exit_code is ExitCode.PENDING
    assert apply(both.host).exit_code is ExitCode.OK
    assert show(both.host).exit_code is ExitCode.OK


def test_two_reports_of_one_place_are_both_shown(both: Machine) -> None:
    apply(both.host)
    report = status(both.host)
    twice = report._replace(boards=(report.boards[0], report.boards[0]._replace(name="other")))
    assert describe(twice).count("board ") == 2
