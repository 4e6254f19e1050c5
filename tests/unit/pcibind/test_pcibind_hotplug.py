"""Boards that come and go while the host runs: the script at later events, and what the unit does then."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from early_script import SHELLS, events, notes, run_script
from topologies import unused
from tree import NIC, Fault, Machine, board

from pcibind.change import handover
from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.hotplug import apply_arrived
from pcibind.commands.release import release
from pcibind.model.errors import ExitCode, RecordError
from pcibind.model.report import BoardState, Report

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
LEFTS, RIGHTS = ([f"0000:0{bus}:00.{number}" for number in range(3)] for bus in (1, 2))


@pytest.fixture(params=["any", "all"])
def applied(machine: Machine, request: pytest.FixtureRequest) -> Machine:
    """Both boards bound and handed over, any of them enough, or all required."""
    machine.configure(f'require_boards = "{request.param}"\n[[board]]\npath = "{LEFT}"\n[[board]]\npath = "{RIGHT}"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    machine.writes.clear()
    return machine


def list_published(machine: Machine) -> list[str]:
    """The boards in both files of the hand-over."""
    try:
        document = json.loads(Path(machine.paths.run, "devices.json").read_text())
        environment = Path(machine.paths.run, "devices.env").read_text()
    except FileNotFoundError:
        return []
    assert f"PCIBIND_BOARDS={len(document['boards'])}\n" in environment
    return [each["path"] for each in document["boards"]]


def states(report: Report) -> dict[str | None, BoardState]:
    return {each.path: each.state for each in report.boards}


def happen(machine: Machine, action: str, addresses: list[str] = LEFTS, shell: str = "dash") -> None:
    for address in addresses:
        assert run_script(machine, shell, action, address) == 0


def remove(machine: Machine) -> None:
    machine.unplug("0000:00:01.0")
    happen(machine, "remove")


def rescan(machine: Machine, *, loaded: bool) -> None:
    """The same board again, on its drivers where those are loaded: the kernel is quicker than udev."""
    board(machine, "01", 1, 12)
    if not loaded:
        for address in LEFTS:
            machine.leave(address)
    happen(machine, "add")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_function_that_appears_without_a_driver_is_taken_before_one_is_loaded(applied: Machine, shell: str) -> None:
    remove(applied)
    board(applied, "01", 1, 12)
    for address in LEFTS[1:]:
        applied.leave(address)
    happen(applied, "add", shell=shell)
    assert [applied.override(address) for address in LEFTS] == ["(null)", "vfio-pci", "vfio-pci"]
    assert set(LEFTS[1:]) <= notes(applied)
    assert set(events(applied)) >= {f"add.{address}" for address in LEFTS}


def test_what_udev_still_deals_with_is_looked_at_in_the_same_run(applied: Machine) -> None:
    remove(applied)
    applied.file("run/udev/queue", "")

    def settle() -> None:
        time.sleep(0.2)
        rescan(applied, loaded=True)
        (applied.root / "run/udev/queue").unlink()

    host = unused(applied)
    host.queue_seconds = 60
    with ThreadPoolExecutor() as pool:
        settled = pool.submit(settle)
        report = apply_arrived(host)
        settled.result()
    assert states(report) == {LEFT: BoardState.BOUND, RIGHT: BoardState.BOUND}
    assert list_published(applied) == [LEFT, RIGHT]


def test_a_udev_that_never_ends_is_not_waited_for_without_end(applied: Machine) -> None:
    applied.file("run/udev/queue", "")
    remove(applied)
    host = unused(applied)
    host.queue_seconds = 0.2
    assert states(apply_arrived(host))[LEFT] is BoardState.UNBOUND
    assert list_published(applied) == [RIGHT]


def test_what_happens_to_other_devices_is_no_event(applied: Machine) -> None:
    for action in ("add", "remove", "bind", "unbind"):
        happen(applied, action, ["0000:03:00.0"])
    assert events(applied) == []


def test_a_board_leaves_the_hand_over_when_it_is_removed_and_the_other_stays(applied: Machine) -> None:
    remove(applied)
    report = apply_arrived(unused(applied))
    assert list_published(applied) == [RIGHT]
    assert states(report) == {LEFT: BoardState.UNBOUND, RIGHT: BoardState.BOUND}
    assert applied.writes == []
    assert events(applied) == []


@pytest.mark.parametrize("loaded", [True, False])
def test_a_board_that_returns_is_bound_again_and_handed_over(applied: Machine, loaded: bool) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=loaded)
    report = apply_arrived(unused(applied))
    assert report.exit_code is ExitCode.OK, report
    assert {applied.driver(address) for address in LEFTS} == {"vfio-pci"}
    assert list_published(applied) == [LEFT, RIGHT]
    assert not [path for path, text in applied.writes if text in RIGHTS or any(each in path for each in RIGHTS)]


def test_removed_and_back_before_anybody_looked_it_is_bound_too(applied: Machine) -> None:
    remove(applied)
    rescan(applied, loaded=True)
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert list_published(applied) == [LEFT, RIGHT]


def test_while_a_board_is_bound_the_other_stays_handed_over(applied: Machine) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    published: list[list[str]] = []
    write = applied.write

    def watched(path: Path, text: str) -> None:
        published.append(list_published(applied))
        write(path, text)

    applied.write = watched  # type: ignore[method-assign]
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert published
    assert all(each == [RIGHT] for each in published)


def test_a_board_that_is_unbound_by_hand_is_left_so_and_leaves_the_hand_over(applied: Machine) -> None:
    applied.leave(LEFTS[1])
    happen(applied, "unbind", LEFTS[1:2])
    report = apply_arrived(unused(applied))
    assert (applied.driver(LEFTS[1]), applied.writes) == (None, [])
    assert list_published(applied) == [RIGHT]
    assert states(report) == {LEFT: BoardState.UNBOUND, RIGHT: BoardState.BOUND}

    applied.take(LEFTS[1], "vfio-pci")
    happen(applied, "bind", LEFTS[1:2])
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert list_published(applied) == [LEFT, RIGHT]


def test_a_board_that_returns_and_is_in_use_is_refused(applied: Machine) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    place = "pci0000:00/0000:00:01.0/0000:01:00.0"
    applied.interface("eth9", place)
    applied.route("eth9\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0")
    report = apply_arrived(applied.host)
    assert {refusal.guard for refusal in report.refusals} == {"default-route"}
    assert states(report)[LEFT] is BoardState.REFUSED
    assert applied.driver(LEFTS[0]) == "nouveau"
    assert list_published(applied) == [RIGHT]


def test_a_board_whose_override_was_cleared_stays_handed_over(applied: Machine) -> None:
    applied.file(f"sys/bus/pci/devices/{LEFTS[0]}/driver_override", "(null)\n")
    happen(applied, "unbind", [RIGHTS[0]])
    report = apply_arrived(unused(applied))
    assert states(report) == {LEFT: BoardState.BOUND, RIGHT: BoardState.BOUND}
    assert list_published(applied) == [LEFT, RIGHT]
    assert applied.writes == []


def test_a_board_that_a_virtual_machine_has_stays_handed_over_though_its_override_was_cleared(applied: Machine) -> None:
    applied.file(f"sys/bus/pci/devices/{LEFTS[0]}/driver_override", "(null)\n")
    applied.busy.add(applied.group_of(LEFTS[0]))
    report = apply(unused(applied))
    assert states(report)[LEFT] is BoardState.REFUSED
    assert list_published(applied) == [LEFT, RIGHT]
    assert not [path for path, _ in applied.writes if LEFTS[0] in path]


@pytest.mark.parametrize("fails", [False, True])
def test_only_a_board_that_could_not_be_bound_makes_the_run_fail(applied: Machine, fails: bool) -> None:
    for address in RIGHTS:
        applied.leave(address)
    remove(applied)
    rescan(applied, loaded=True)
    if fails:
        applied.faults = {("drivers_probe", LEFTS[0]): OSError(5, "Input/output error")}
    report = apply_arrived(unused(applied))
    assert states(report) == {LEFT: BoardState.FAILED if fails else BoardState.BOUND, RIGHT: BoardState.UNBOUND}
    assert report.exit_code is (ExitCode.NOT_BOUND if fails else ExitCode.OK)


def test_another_board_in_its_place_is_left_alone(applied: Machine) -> None:
    remove(applied)
    applied.function("pci0000:00/0000:00:01.0/0000:01:00.0", **NIC, driver="e1000e", group=12)
    happen(applied, "add", LEFTS[:1])
    apply_arrived(unused(applied))
    assert (applied.driver("0000:01:00.0"), applied.override("0000:01:00.0")) == ("e1000e", "(null)")
    assert applied.writes == []


def test_where_all_are_required_an_apply_that_misses_one_takes_back_no_other(applied: Machine) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    assert apply(unused(applied)).exit_code in (ExitCode.OK, ExitCode.IDENTITY)
    assert list_published(applied) == [RIGHT]


def test_a_release_takes_out_what_it_gives_back_while_another_board_is_away(machine: Machine) -> None:
    third = "0000:00/05.0/00"
    board(machine, "05", 5, 25)
    machine.configure("".join(f'[[board]]\npath = "{path}"\n' for path in (LEFT, RIGHT, third)))
    assert apply(unused(machine)).exit_code is ExitCode.OK
    remove(machine)
    apply_arrived(unused(machine))
    published: list[list[str]] = []
    write = machine.write

    def watched(path: Path, text: str) -> None:
        published.append(list_published(machine))
        write(path, text)

    machine.write = watched  # type: ignore[method-assign]
    assert release(unused(machine), [third]).exit_code is ExitCode.OK
    assert all(each == [RIGHT] for each in published)
    assert list_published(machine) == [RIGHT]


@pytest.mark.parametrize("require", ["any", "all"])
def test_where_all_are_required_none_is_offered_before_all_were_there(machine: Machine, require: str) -> None:
    machine.configure(f'require_boards = "{require}"\n[[board]]\npath = "{LEFT}"\n[[board]]\npath = "{RIGHT}"\n')
    apply(unused(machine), next_boot=True)
    machine.unplug("0000:00:01.0")
    apply_recorded(unused(machine))
    assert list_published(machine) == ([RIGHT] if require == "any" else [])
    board(machine, "01", 1, 12)
    happen(machine, "add")
    assert apply_arrived(unused(machine)).exit_code is ExitCode.OK
    assert list_published(machine) == [LEFT, RIGHT]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boards": [1]}'])
def test_a_document_that_somebody_broke_is_no_hand_over(applied: Machine, text: str) -> None:
    Path(applied.paths.run, "devices.json").write_text(text)
    assert handover.list_published(applied.paths) == frozenset()


def test_an_event_that_changes_nothing_rewrites_nothing(applied: Machine) -> None:
    files = [Path(applied.paths.run, name) for name in ("devices.env", "devices.json")]
    before = [(os.stat(file).st_ino, os.stat(file).st_mtime_ns) for file in files]
    happen(applied, "bind", RIGHTS)
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert [(os.stat(file).st_ino, os.stat(file).st_mtime_ns) for file in files] == before
    assert applied.writes == []


def test_killed_while_it_binds_the_next_run_goes_on(applied: Machine) -> None:
    class Killed(BaseException):
        pass

    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    # After the topology is read, in the midst of the writes.
    applied.failing[len(applied.asked) + 4] = Fault(Killed())
    with pytest.raises(Killed):
        apply_arrived(unused(applied))
    assert LEFT not in list_published(applied)
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert list_published(applied) == [LEFT, RIGHT]


def test_a_boot_takes_up_what_happened_before_it(applied: Machine) -> None:
    happen(applied, "bind", RIGHTS)
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK
    assert events(applied) == []


@pytest.mark.parametrize("name", ["add.foo", "add", ".add.0000:01:00.0.swp"])
def test_a_name_that_is_no_event_keeps_no_board_away(applied: Machine, name: str) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    applied.file(f"run/pcibind/events/{name}", "")
    report = apply_arrived(unused(applied))
    assert (report.exit_code, list_published(applied)) == (ExitCode.OK, [LEFT, RIGHT]), report
    assert events(applied) == []


def test_a_directory_among_the_events_stays_but_wakes_nobody_and_stops_no_boot(applied: Machine) -> None:
    directory = Path(applied.paths.events, "add.0000:03:00.0")
    directory.mkdir(parents=True)
    for _ in range(2):
        assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
        assert [path.name for path in Path(applied.paths.events).iterdir()] == [f".{directory.name}"]
    assert apply_recorded(unused(applied)).exit_code is ExitCode.OK


def test_a_board_that_has_appeared_is_not_reported_absent_where_the_configuration_is_wrong(applied: Machine) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    applied.configure("nonsense")
    report = apply_arrived(unused(applied))
    left = next(each for each in report.boards if each.path == LEFT)
    assert (report.exit_code, left.state) == (ExitCode.CONFIGURATION, BoardState.UNBOUND)
    assert left.detail == "not bound: see the errors"
    assert applied.driver(LEFTS[0]) == "nouveau"


def test_where_nobody_can_tell_what_is_in_use_a_board_that_is_gone_leaves_the_hand_over(
    applied: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(applied)
    apply_arrived(unused(applied))
    rescan(applied, loaded=True)
    applied.leave(RIGHTS[1])
    happen(applied, "unbind", RIGHTS[1:2])
    monkeypatch.setattr("pcibind.read.evidence_text.COMMAND", "echo nothing of use")
    report = apply_arrived(applied.host)
    assert report.exit_code is ExitCode.UNEXPECTED
    assert "cannot tell" in report.errors[0]
    assert states(report) == {LEFT: BoardState.UNBOUND, RIGHT: BoardState.UNBOUND}
    assert list_published(applied) == []


def test_an_event_without_a_record_makes_no_board_new_afterwards(applied: Machine) -> None:
    happen(applied, "add")
    kept = Path(applied.paths.record).read_text()
    Path(applied.paths.record).unlink()
    apply_arrived(unused(applied))
    assert events(applied) == []
    assert list(Path(applied.paths.events).iterdir()) == []
    applied.file("var/lib/pcibind/record.json", kept)
    applied.leave(LEFTS[1])
    happen(applied, "unbind", LEFTS[1:2])
    assert states(apply_arrived(unused(applied)))[LEFT] is BoardState.UNBOUND
    assert applied.driver(LEFTS[1]) is None


def test_a_board_that_is_not_configured_any_longer_keeps_no_other_from_being_bound(applied: Machine) -> None:
    for port, group in (("01", 12), ("02", 13)):
        applied.unplug(f"0000:00:{port}.0")
        board(applied, port, int(port), group)
    happen(applied, "add", [*LEFTS, *RIGHTS])
    applied.configure(f'require_boards = "any"\n[[board]]\npath = "{RIGHT}"\n')
    report = apply_arrived(unused(applied))
    assert states(report) == {LEFT: BoardState.UNBOUND, RIGHT: BoardState.BOUND}
    assert (report.exit_code, report.errors) == (
        ExitCode.CONFIGURATION,
        (f"board {LEFT} is no longer configured; run `pcibind apply`",),
    )
    assert [applied.driver(address) for address in LEFTS] == ["nouveau", "snd_hda_intel", "xhci_hcd"]
    assert applied.driver(RIGHTS[0]) == "vfio-pci"


def test_a_board_that_shares_a_group_with_one_that_is_not_configured_any_longer_is_refused(machine: Machine) -> None:
    board(machine, "05", 5, 12)
    machine.configure(f'[[board]]\npath = "{LEFT}"\n[[board]]\npath = "0000:00/05.0/00"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    for port in ("01", "05"):
        machine.unplug(f"0000:00:{port}.0")
        board(machine, port, int(port), 12)
    happen(machine, "add", [*LEFTS, "0000:05:00.0"])
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    machine.writes.clear()
    report = apply_arrived(unused(machine))
    assert states(report) == {LEFT: BoardState.REFUSED, "0000:00/05.0/00": BoardState.UNBOUND}
    assert machine.writes == []


@pytest.mark.parametrize("text", ["{", '{"version": 2}'], ids=["broken", "of a later version"])
def test_a_record_that_cannot_be_read_keeps_no_board_that_is_gone_in_the_hand_over(applied: Machine, text: str) -> None:
    kept = Path(applied.paths.record).read_text()
    remove(applied)
    applied.file("var/lib/pcibind/record.json", text)
    with pytest.raises(RecordError, match=r"record\.json"):
        apply_arrived(unused(applied))
    assert list_published(applied) == [RIGHT]
    rescan(applied, loaded=True)
    with pytest.raises(RecordError):
        apply_arrived(unused(applied))
    assert (list_published(applied), applied.writes) == ([RIGHT], [])
    # The event was not lost.
    applied.file("var/lib/pcibind/record.json", kept)
    assert apply_arrived(unused(applied)).exit_code is ExitCode.OK
    assert list_published(applied) == [LEFT, RIGHT]


def test_a_record_that_cannot_be_read_changes_nothing_about_boards_that_are_there(applied: Machine) -> None:
    file = Path(applied.paths.run, "devices.json")
    before = file.read_text()
    applied.file("var/lib/pcibind/record.json", "{")
    happen(applied, "bind", RIGHTS)
    with pytest.raises(RecordError):
        apply_arrived(unused(applied))
    assert file.read_text() == before
