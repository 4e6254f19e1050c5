"""What holds for the commands on every host, whatever fails and whenever: the README's promises, on all shapes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from report_schema import check_report
from topologies import Part, Plant, choices, configure, groups_with, identity, plants, some, somewhere, unused
from tree import NIC, Fault, Machine, stuck

from pcibind.change import handover
from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.commands.text import describe
from pcibind.decide.plan import plan
from pcibind.model.errors import ExitCode, StuckError
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Record
from pcibind.model.report import BoardState, Report
from pcibind.read.files import read_record
from pcibind.read.kernel import Access

if TYPE_CHECKING:
    from pcibind.read.kernel import T, Task

Drivers = dict[str, tuple[str | None, str]]
Command = Callable[[System], Report]


def may_be_bound(topology: Topology, boards: Iterable[Board]) -> bool:
    made = plan(topology, boards)
    return not made.refusals and not any(each.iommu_off for each in made.boards)


def may_return(topology: Topology, boards: Iterable[Board]) -> bool:
    """Whether no board had a display on the host's driver beside a sibling on vfio-pci, which is never made again."""
    return not any(
        display.driver not in (None, "vfio-pci") and any(f.driver == "vfio-pci" for f in board.functions)
        for board in boards
        for display in board.display_functions
    )


# Whole runs, on machines that nothing else uses.


def prepared(plant: Plant, chosen: Iterable[Board], directory: Path) -> Machine:
    machine = plant.lay_out(directory)
    machine.file("proc/77/stat", "77 (a b) D " + "0 " * 18 + "555 0\n")
    configure(machine, chosen)
    return machine


def end_of(machine: Machine) -> tuple[Drivers, list[str | None]]:
    """All that a run leaves behind."""
    names = (
        machine.paths.record,
        machine.paths.early_list,
        *(f"{machine.paths.run}/devices.{e}" for e in ("env", "json")),
    )
    return machine.drivers(), [Path(name).read_text() if Path(name).exists() else None for name in names]


def handed_over(machine: Machine) -> set[str]:
    """The functions that others are given to use; they must be as described."""
    file = Path(machine.paths.run, "devices.env")
    if not file.exists():
        return set()
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    functions = set(lines["PCIBIND_FUNCTIONS"].split(","))
    document = json.loads(Path(machine.paths.run, "devices.json").read_text())
    assert functions == {name for board in document["boards"] for name in board["functions"]}
    for name in functions:
        assert machine.driver(name) == "vfio-pci"
        assert (machine.root / f"dev/vfio/{machine.group_of(name)}").exists()
    return functions


def next_boot(host: System) -> Report:
    return apply(host, next_boot=True)


@some(30)
@given(plants(), st.data())
def test_release_undoes_what_apply_did(plant: Plant, data: st.DataObject) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_return(plant.topology(), chosen))
    bindable = may_be_bound(plant.topology(), chosen)
    with somewhere() as directory:
        machine = prepared(plant, chosen, directory)
        host = unused(machine)
        before = machine.drivers()
        check_report(show(host))
        assert machine.drivers() == before
        how = data.draw(st.sampled_from(["at once", "for the next boot", "and rebooted", "and booted"]))
        report = next_boot(host) if how == "for the next boot" else apply(host)
        check_report(report)
        event(f"{how}, {report.exit_code.name}")
        assert report.exit_code is ExitCode.OK or not bindable
        if how == "for the next boot":
            assert machine.drivers() == before
        elif bindable:
            assert handed_over(machine) == addresses(chosen)
        else:
            assert machine.drivers() == before
        if how in ("and rebooted", "and booted"):
            machine.reboot()
            # Another program's vfio-pci would also be loaded at boot.
            machine.load("vfio-pci")
        if how == "and booted":
            again = apply_recorded(host)
            check_report(again)
            assert again.exit_code is ExitCode.OK or not bindable
        check_report(status(host))
        expected = restored(machine.drivers(), before, addresses(chosen)) if bindable else {}
        given_back = release(host)
        check_report(given_back)
        assert given_back.exit_code is ExitCode.OK, describe(given_back)
        for address, standing in machine.drivers().items():
            if address in expected:
                assert standing == expected[address]
            elif how in ("at once", "for the next boot"):
                assert standing == before[address]
        assert end_of(machine)[1] == [None] * 4


@some(30)
@given(plants(iommu=True), st.integers(0, 1000), st.data())
def test_it_does_not_matter_in_what_order_accesses_come_back(plant: Plant, seed: int, data: st.DataObject) -> None:
    chosen = data.draw(choices(plant.topology(), 4))
    assume(may_return(plant.topology(), chosen))
    with somewhere() as directory, somewhere() as other_directory:
        machine, other = prepared(plant, chosen, directory), prepared(plant, chosen, other_directory)
        in_any_order(other, Random(seed))
        for command in (apply, release):
            reports = [command(unused(each)) for each in (machine, other)]
            assert end_of(machine) == end_of(other)
            assert reports[0].to_json() == reports[1].to_json()


def in_any_order(machine: Machine, random: Random) -> None:
    """Let the tasks of a run go on one by one as it happens, as they do when they wait for devices."""

    def carry_out(tasks: list[Task[T]]) -> list[T]:
        results: dict[int, T] = {}
        waiting: dict[int, Access | None] = dict.fromkeys(range(len(tasks)))
        while waiting:
            number = random.choice(list(waiting))
            access = waiting.pop(number)
            try:
                if access is None:
                    waiting[number] = next(tasks[number])
                    continue
                try:
                    answer = machine.perform(access)
                except (OSError, StuckError) as error:
                    waiting[number] = tasks[number].throw(error)
                else:
                    waiting[number] = tasks[number].send(answer)
            except StopIteration as stop:
                results[number] = stop.value
        machine.kept.clear()
        return [results[number] for number in range(len(tasks))]

    machine.carry_out = carry_out  # type: ignore[method-assign, assignment]


# Accesses that fail.


class Scene(NamedTuple):
    """A run that is to be disturbed: what is done before, undisturbed, and what is run."""

    name: str
    before: tuple[Callable[[Machine], object], ...]
    command: Command


def _applied(machine: Machine) -> None:
    apply(unused(machine))


def _chosen_for_the_next_boot(machine: Machine) -> None:
    apply(unused(machine), next_boot=True)
    machine.reboot()


def _booted(machine: Machine) -> None:
    _chosen_for_the_next_boot(machine)
    machine.load("vfio-pci")


def _one_less(machine: Machine) -> None:
    """The first of the chosen boards is no longer chosen, nor is what shares groups with it."""
    known = read_record(machine.paths)
    topology = machine.host.topology()
    boards = [b for r in (known.boards if known else ()) if (b := topology.board_at(r.path))]
    gone = groups_with(topology, boards[0]) if boards else set()
    configure(machine, [board for board in boards if board.path not in gone])


def _one_less_at_the_next_boot(machine: Machine) -> None:
    _one_less(machine)
    apply(unused(machine), next_boot=True)


def _in_part(machine: Machine) -> None:
    """Of each chosen board, the last function is with no driver and the first has lost its override."""
    known = read_record(machine.paths) or Record()
    for board in known.boards:
        if board_now := machine.host.topology().board_at(board.path):
            names = [str(function.address) for function in board_now.functions]
            if names[1:]:
                machine.leave(names[-1])
            machine.file(f"sys/bus/pci/devices/{names[0]}/driver_override", "(null)\n")
    handover.remove(machine.paths)


APPLY = Scene("apply", (), apply)
BOOT = Scene("boot", (_booted,), apply_recorded)
RELEASE = Scene("release", (_applied,), release)
REMOVAL = Scene("apply with one less", (_applied, _one_less), apply)
REMOVAL_AT_BOOT = Scene("boot with one less", (_applied, _one_less_at_the_next_boot), apply_recorded)
PART = Scene("apply of boards that are bound in part", (_applied, _in_part), apply)
PART_AT_BOOT = Scene("boot of boards that are bound in part", (_applied, _in_part), apply_recorded)
SCENES = [APPLY, BOOT, RELEASE, REMOVAL, REMOVAL_AT_BOOT, PART, PART_AT_BOOT]

ERRNOS = [0, 1, 2, 5, 16, 19, 22, 28]
failures = st.builds(
    Fault,
    st.one_of(
        st.sampled_from(ERRNOS).map(lambda number: OSError(number, os.strerror(number))),
        st.sampled_from([None, 77]).map(stuck),
    ),
    st.booleans(),
)


def staged(plant: Plant, chosen: Iterable[Board], scene: Scene, directory: Path, *, has_cdevs: bool = False) -> Machine:
    machine = prepared(plant, chosen, directory)
    if has_cdevs:
        machine.add_cdevs()
    for each in scene.before:
        each(machine)
    machine.asked.clear()
    machine.writes.clear()
    return machine


def number_of_accesses(plant: Plant, chosen: Iterable[Board], scene: Scene) -> int:
    with somewhere() as directory:
        machine = staged(plant, chosen, scene, directory)
        assert scene.command(unused(machine)).exit_code is ExitCode.OK
        return len(machine.asked)


def disturbed(machine: Machine, command: Command) -> Report:
    """Run it; whatever fails, there must be an answer."""
    report = command(unused(machine))
    check_report(report)
    return report


def is_right(machine: Machine, plant: Plant, chosen: tuple[Board, ...], scene: Scene) -> bool:
    """Whether all is as the run was to leave it."""
    known = read_record(machine.paths) or Record()
    gone = set()
    if scene is RELEASE:
        gone = {board.path for board in chosen}
    elif scene in (REMOVAL, REMOVAL_AT_BOOT):
        gone = groups_with(plant.topology(), chosen[0])
    bound = addresses(board for board in chosen if board.path not in gone)
    original = originals(plant)
    wanted = all(machine.drivers()[a] == ("vfio-pci", "vfio-pci") for a in bound) and handed_over(machine) == bound
    if scene is REMOVAL_AT_BOOT:
        # What cannot be given back at a boot makes no failure.
        return wanted
    return (
        wanted
        and all(machine.drivers()[a] == original[a] for a in addresses(chosen) - bound)
        and {board.path for board in known.boards} == {board.path for board in chosen} - gone
        and not known.leaving
    )


def addresses(boards: Iterable[Board]) -> set[str]:
    return {str(f.address) for board in boards for f in board.functions}


def originals(plant: Plant) -> Drivers:
    return {str(f.address): (f.driver, f.driver_override or "(null)") for f in plant.topology().functions}


def restored(now: Drivers, original: Drivers, addresses: Iterable[str]) -> Drivers:
    """What a release makes of these: as they were, but what a driver of the host's took at a boot stays with it."""
    after = {}
    for address in addresses:
        driver, override = now[address]
        was, override_then = original[address]
        ours = override == "vfio-pci" or driver in (None, "vfio-pci", was)
        kept = was if driver in (None, "vfio-pci") else driver
        after[address] = (kept, override_then if ours else override)
    return after


@some(40)
@given(plants(iommu=True), st.sampled_from(SCENES), st.data())
def test_one_failing_access_leaves_each_board_whole(plant: Plant, scene: Scene, data: st.DataObject) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_be_bound(plant.topology(), chosen) and may_return(plant.topology(), chosen))
    position = data.draw(st.integers(0, number_of_accesses(plant, chosen, scene) - 1))
    fault = data.draw(failures)
    with somewhere() as directory:
        machine = staged(plant, chosen, scene, directory)
        original = originals(plant)
        before = machine.drivers()
        known = read_record(machine.paths) or Record()
        expected_boards = known.leaving if scene is REMOVAL_AT_BOOT else known.boards
        machine.failing[position] = fault
        report = disturbed(machine, scene.command)
        event(f"{scene.name}: {machine.asked[position].kind}, {type(fault.error).__name__}")
        now = machine.drivers()
        mine = addresses(chosen)
        assert {a: now[a] for a in now.keys() - mine} == {a: before[a] for a in before.keys() - mine}
        handed_over(machine)
        for each in report.boards:
            assert each.board
            functions = [str(f.address) for f in each.board.functions]
            whole = all(now[a] == ("vfio-pci", "vfio-pci") for a in functions)
            back = all(now[a] == after for a, after in restored(before, original, functions).items())
            # Beside functions that this run did not bind, those that it did end with no driver.
            in_part = any(before[a][0] == "vfio-pci" for a in functions)
            as_before = all(
                now[a] == before[a] or (in_part and now[a][0] is None and before[a][0] != "vfio-pci") for a in functions
            )
            if each.state is BoardState.BOUND:
                assert whole
            elif each.wanted:
                assert each.state is BoardState.STUCK or whole or back or as_before
            elif each.is_good:
                assert back
            else:
                # What could not be given back stays on record, as it was before all this.
                known = read_record(machine.paths) or Record()
                left = (
                    known.boards if each.state is BoardState.REFUSED and scene is not REMOVAL_AT_BOOT else known.leaving
                )
                assert [b for b in left if b.path == each.path] == [b for b in expected_boards if b.path == each.path]
        assert (report.exit_code is ExitCode.OK) == is_right(machine, plant, chosen, scene)


@some(30)
@given(plants(iommu=True), st.sampled_from(SCENES), st.data())
def test_two_failing_accesses_are_never_an_exception_and_no_success(
    plant: Plant, scene: Scene, data: st.DataObject
) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_be_bound(plant.topology(), chosen) and may_return(plant.topology(), chosen))
    with somewhere() as directory:
        machine = staged(plant, chosen, scene, directory)
        original = originals(plant)
        before = machine.drivers()
        for position in data.draw(st.lists(st.integers(0, 40), min_size=2, max_size=2, unique=True)):
            machine.failing[position] = data.draw(failures)
        report = disturbed(machine, scene.command)
        event(f"{scene.name}: {sum(n < len(machine.asked) for n in machine.failing)} failed, {report.exit_code.name}")
        now = machine.drivers()
        mine = addresses(chosen)
        assert {a: now[a] for a in now.keys() - mine} == {a: before[a] for a in before.keys() - mine}
        handed_over(machine)
        if report.exit_code is ExitCode.OK:
            assert is_right(machine, plant, chosen, scene), describe(report)
        # When the trouble is over, and the access that hung has come back, another run makes it right.
        machine.failing.clear()
        machine.file("proc/77/stat", "77 (other) S " + "0 " * 18 + "999 0\n")
        if scene is APPLY:
            assert apply(unused(machine)).exit_code is ExitCode.OK
        expected = restored(machine.drivers(), original, mine)
        assert release(unused(machine)).exit_code is ExitCode.OK
        assert {a: machine.drivers()[a] for a in mine} == expected


# Users that come and go.


class User:
    """A process that starts to use a function through VFIO when the kernel lets it, and ends at some access.

    `how` is what it uses: its group, the device by the group, or the device's own node, bound to an iommufd or only
    opened. Whatever is on vfio-pci of its board then stays there, and a board to which nothing was written yet stays
    exactly as it is.
    """

    def __init__(self, machine: Machine, board: Board, address: str, how: str, hidden: bool, span: range) -> None:
        self.machine, self.address, self.how, self.hidden, self.span = machine, address, how, hidden, span
        self.names = [str(function.address) for function in board.functions]
        self.before: Drivers = {}
        self.stays: set[str] = set()
        self.in_use = False
        machine.watchers.append(self.watch)

    def watch(self, position: int) -> None:
        self.check()
        if position in self.span and not self.before:
            self.come(position)
        elif position >= self.span.stop:
            self.go()

    def come(self, position: int) -> None:
        machine = self.machine
        group = machine.group_of(self.address)
        by_cdev = self.how in ("bound cdev", "open cdev")
        if machine.driver(self.address) != "vfio-pci" or not (machine.has_cdevs if by_cdev else machine.has_groups):
            return
        if self.how != "open cdev":
            if group in machine.busy | machine.kept:
                return
            machine.busy.add(group)
        if self.how != "group":
            machine.in_use.add(self.address)
        if not self.hidden:
            node = machine.cdev(self.address) if by_cdev else f"/dev/vfio/{group}"
            machine.file("proc/4242/comm", "qemu\n")
            (machine.root / "proc/4242/fd").mkdir(exist_ok=True)
            (machine.root / "proc/4242/fd/9").unlink(missing_ok=True)
            (machine.root / "proc/4242/fd/9").symlink_to(node)
        self.in_use = True
        self.before = {a: machine.drivers()[a] for a in self.names}
        untouched = not any(a in path or a == text for path, text in machine.writes for a in self.names)
        # An open node that is not bound, and without groups' nodes any, is visible in /proc only, so not after that.
        is_visible = (position == 0 and not self.hidden) or (self.how != "open cdev" and machine.has_groups)
        self.stays = {a for a, (driver, _) in self.before.items() if driver == "vfio-pci" and self.how != "open cdev"}
        self.stays |= set(self.names) if untouched and is_visible else set()

    def check(self) -> None:
        now = self.machine.drivers()
        # What it has open is never taken from it, visible or not: the unbind waits.
        assert not self.in_use or now[self.address][0] == "vfio-pci"
        assert {a: now[a] for a in self.stays} == {a: self.before[a] for a in self.stays}

    def go(self) -> None:
        if self.before and self.how != "open cdev":
            self.machine.busy.discard(self.machine.group_of(self.address))
        self.machine.in_use.discard(self.address)
        (self.machine.root / "proc/4242/fd/9").unlink(missing_ok=True)
        self.stays = set()
        self.in_use = False


def watch_displays(machine: Machine, chosen: Iterable[Board]) -> None:
    """No display goes to a driver of the host's beside a sibling on vfio-pci."""
    boards = [([str(f.address) for f in b.functions], [str(f.address) for f in b.display_functions]) for b in chosen]
    drivers_now: dict[str, str | None] = {}

    def watch(_: int) -> None:
        for functions, displays in boards:
            with_vfio = any(machine.driver(a) == "vfio-pci" for a in functions)
            for display in displays:
                driver = machine.driver(display)
                assert not with_vfio or driver in (None, "vfio-pci", drivers_now.get(display, driver))
                drivers_now[display] = driver

    machine.watchers.append(watch)


def test_each_function_has_a_device_node_of_its_own_whenever_it_was_bound() -> None:
    """A node that two functions shared went with the first that left, and a run waited for it in vain."""
    parts = [
        Part("0000:00/03.0", identity(NIC), "e1000e", "vfio-pci", "vfio-pci", 7),
        Part("0000:00/01.0", identity(NIC), "e1000e", "e1000e", None, 10),
    ]
    plant = Plant(tuple(parts), {})
    with somewhere() as directory:
        machine = plant.lay_out(directory)
        machine.has_cdevs = True
        configure(machine, [board for board in plant.topology().boards() if board.path == "0000:00/01"])
        assert apply(unused(machine)).exit_code is ExitCode.OK
        machine.leave("0000:00:03.0")
        assert apply(unused(machine)).exit_code is ExitCode.OK


@some(80)
@given(plants(iommu=True), st.sampled_from(SCENES), st.booleans(), st.data())
def test_a_program_that_comes_to_use_a_board_keeps_it_as_it_is(
    plant: Plant, scene: Scene, fails: bool, data: st.DataObject
) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_be_bound(plant.topology(), chosen) and may_return(plant.topology(), chosen))
    count = number_of_accesses(plant, chosen, scene)
    with somewhere() as directory:
        machine = staged(plant, chosen, scene, directory, has_cdevs=data.draw(st.booleans()))
        how = data.draw(st.sampled_from(["group", "device", "bound cdev", "open cdev"]))
        board = data.draw(st.sampled_from(chosen))
        address = data.draw(st.sampled_from([str(f.address) for f in board.functions]))
        comes = data.draw(st.integers(0, count))
        goes = data.draw(st.one_of(st.just(1000), st.integers(comes, count + 5)))
        hidden = data.draw(st.booleans())
        user = User(machine, board, address, how, hidden, range(comes, goes))
        watch_displays(machine, chosen)
        if fails:
            machine.failing[data.draw(st.integers(0, count + 5))] = data.draw(failures)
        report = disturbed(machine, scene.command)
        user.watch(count + 5)
        event(f"{scene.name}: {how}, {report.exit_code.name if user.before else 'could not come'}")
        if scene is not REMOVAL_AT_BOOT and report.exit_code is ExitCode.OK:
            assert is_right(machine, plant, chosen, scene)
        # When it has ended, another run makes it right.
        user.go()
        machine.watchers.clear()
        machine.failing.clear()
        machine.file("proc/77/stat", "77 (other) S " + "0 " * 18 + "999 0\n")
        if scene in (APPLY, PART, PART_AT_BOOT):
            assert apply(unused(machine)).exit_code is ExitCode.OK
        expected = restored(machine.drivers(), originals(plant), addresses(chosen))
        assert release(unused(machine)).exit_code is ExitCode.OK
        assert {a: machine.drivers()[a] for a in addresses(chosen)} == expected


@some(30)
@given(plants(iommu=True), st.sampled_from([RELEASE, REMOVAL, REMOVAL_AT_BOOT, PART]), st.booleans(), st.data())
def test_without_nodes_for_groups_nothing_leaves_before_the_next_boot(
    plant: Plant, scene: Scene, has_cdevs: bool, data: st.DataObject
) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_be_bound(plant.topology(), chosen) and may_return(plant.topology(), chosen))
    with somewhere() as directory:
        machine = staged(plant, chosen, scene, directory, has_cdevs=has_cdevs)
        for node in (machine.root / "dev/vfio").iterdir():
            if node.is_file():
                node.unlink()
        machine.has_groups = False
        before = machine.drivers()
        report = disturbed(machine, scene.command)
        now, original = machine.drivers(), originals(plant)
        released = addresses(r.board for r in report.boards if r.board and r.state is BoardState.RELEASED)
        # Of a board that was on vfio-pci before it was chosen, the override alone is restored.
        expected = before | {a: original[a] for a in released if original[a][0] == "vfio-pci"}
        assert all(now[a] == expected[a] for a in addresses(chosen) if before[a][0] == "vfio-pci")
        if scene is not PART:
            assert {a: now[a] for a in addresses(chosen)} == {a: expected[a] for a in addresses(chosen)}
            given_back = [each for each in report.boards if not each.wanted]
            failed = [each for each in given_back if each.state is not BoardState.RELEASED]
            assert all(each.state is BoardState.FAILED and "at the next boot" in each.detail for each in failed)
            # What was on vfio-pci before it was chosen need not leave.
            for each in given_back:
                assert each in failed or {f.driver for f in each.recorded.functions} == {"vfio-pci"}
            left = [board.path for board in (read_record(machine.paths) or Record()).leaving]
            assert set(left) == {each.path for each in failed}


class Killed(BaseException):
    """The end of the process, at some access."""


@some(30)
@given(plants(iommu=True), st.sampled_from(SCENES), st.booleans(), st.data())
def test_killed_at_any_access_the_next_run_ends_where_an_undisturbed_one_does(
    plant: Plant, scene: Scene, late: bool, data: st.DataObject
) -> None:
    chosen = data.draw(choices(plant.topology()))
    assume(may_be_bound(plant.topology(), chosen) and may_return(plant.topology(), chosen))
    with somewhere() as directory, somewhere() as other_directory:
        machine, other = (staged(plant, chosen, scene, each) for each in (directory, other_directory))
        assert scene.command(unused(machine)).exit_code is ExitCode.OK
        position = data.draw(st.integers(0, len(machine.asked) - 1))
        other.failing[position] = Fault(Killed(), late)
        with pytest.raises(Killed):
            scene.command(unused(other))
        event(f"{scene.name}: {other.asked[position].kind}")
        handed_over(other)
        report = scene.command(unused(other))
        assert report.exit_code is ExitCode.OK, describe(report)
        # The record among it, so the original drivers too.
        assert end_of(machine) == end_of(other)
