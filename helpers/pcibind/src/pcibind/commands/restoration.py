"""Giving boards back to the host: their former drivers, and what stays on record of them.

`give_back` restores boards and writes the record; `restore_boards` leaves that alone. `apply`,
`release` and a boot share this; a boot that gives nothing back does not load it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from pcibind.change import drivers, handover
from pcibind.change.drivers import RestoreTarget
from pcibind.commands.system import System
from pcibind.decide.plan import follow, sharing_groups
from pcibind.model.errors import InUseError, NoNodeError
from pcibind.model.pci import DRIVER, Function, Topology
from pcibind.model.record import Record, RecordedBoard, RecordedFunction
from pcibind.model.report import BoardReport, BoardState, Outcome, list_use_refusals
from pcibind.model.values import TYPE_CHECKING
from pcibind.read import files, sysfs
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task


def give_back(
    system: System,
    topology: Topology,
    before: Record,
    going: Sequence[RecordedBoard],
    after: Record,
    *,
    at_boot: bool = False,
) -> Outcome:
    """Restore the boards that are `going`, and write the record that says how that ended.

    `before` is the record as it is; `after` is the one without those boards, to which those that
    were not restored are added again. At a boot, a record that cannot be written is no failure,
    and the first run leaves functions to the drivers that are about to take them. Raises OSError.
    """
    if not going:
        return Outcome([], (), topology)
    unwritable = (OSError,) if at_boot else ()
    # Killed from here on, the next boot gives back what is left.
    with contextlib.suppress(*unwritable):
        files.write_record(system.paths, after._replace(leaving=(*after.leaving, *going)))
    reports = restore_boards(system, topology, going, await_drivers=at_boot and system.is_first_run)
    ended = {report.path: report.state for report in reports}
    with contextlib.suppress(*unwritable):
        files.write_record(system.paths, _keep_unrestored(before, going, after, ended))
    released = [old for old in going if ended[old.path] is BoardState.RELEASED]
    with contextlib.suppress(*unwritable):
        _forget_notes(system.paths, topology, released)
    if any(report.changed for report in reports):
        topology = system.topology()
        reports = [r._replace(board=topology.board_at(r.path or "")) for r in reports]
    return Outcome(reports, list_use_refusals(reports), topology)


def _keep_unrestored(
    before: Record,
    going: Sequence[RecordedBoard],
    after: Record,
    ended: Mapping[str | None, BoardState],
) -> Record:
    """The record after an attempt to restore boards; `ended` is how each did, by its path.

    released, gone      not on record any more
    refused, in use     as before: chosen, leaving, or not on record at all
    all others          leaving, so that the next boot tries again
    """
    chosen, leaving = list(after.boards), list(after.leaving)
    for board in going:
        state = ended[board.path]
        if state in (BoardState.RELEASED, BoardState.GONE):
            continue
        if state is not BoardState.REFUSED or board in before.leaving:
            leaving.append(board)
        elif board in before.boards:
            chosen.append(board)
    return after._replace(boards=tuple(chosen), leaving=tuple(leaving))


def _forget_notes(paths: Paths, topology: Topology, released: Sequence[RecordedBoard]) -> None:
    """Drop boards from the notes of what was taken at this boot. Raises OSError.

    An override for vfio-pci that they have from now on is the host's own, or another tool's.
    """
    # A boot at which no board leaves does without what this imports.
    from pcibind.change import original_drivers

    boards = [board for old in released if (board := topology.board_at(old.path))]
    original_drivers.forget(paths, {f.address for board in boards for f in board.functions})


def restore_boards(
    system: System,
    topology: Topology,
    going: Sequence[RecordedBoard],
    *,
    await_drivers: bool = False,
) -> list[BoardReport]:
    """Restore boards without a look at the record; those that share groups together.

    With `await_drivers`, a function without a driver is left to the one that is about to take it.
    """
    # By all boards that are there: two that go may share groups by way of one that does not.
    sets = [{board.path for board in sharing} for sharing in sharing_groups(topology.boards())]
    tasks = [
        _restore_sharing(
            system.paths, topology, [b for b in going if b.path in paths], await_drivers
        )
        for paths in sets
        if any(old.path in paths for old in going)
    ]
    ended = {report.path: report for reports in system.carry_out(tasks) for report in reports}
    gone = BoardState.GONE
    return [ended.get(old.path) or BoardReport.of_unwanted(topology, old, gone) for old in going]


def _restore_sharing(
    paths: Paths, topology: Topology, going: Sequence[RecordedBoard], await_drivers: bool
) -> Task[list[BoardReport]]:
    """Restore boards that share groups, all of which are present; report on each.

    Raises nothing for what the machine does: a failure of one board must not keep others half way
    between two drivers. Functions of other devices that came in their place are left alone, and so
    are those that a driver of the host's has by now.
    """
    boards = [board for old in going if (board := topology.board_at(old.path))]
    targets = [
        target
        for board, recorded in zip(boards, going, strict=True)
        for function, old in recorded.pair(board)
        if (target := _choose_target(function, old, await_drivers))
    ]

    def all_of_them(state: BoardState, detail: str) -> list[BoardReport]:
        return [
            BoardReport.of_unwanted(topology, old, state)._replace(detail=detail) for old in going
        ]

    with_vfio = [t for t in targets if sysfs.driver_of(paths, t.function.address) == DRIVER]
    # What was on vfio-pci before it was chosen stays there, and its override alone is restored.
    leaves_vfio = any(target.driver != DRIVER for target in with_vfio)
    if with_vfio:
        # A user of one board in these groups is a user of all of them.
        theirs = {board.path for board in boards}
        all_there = sharing_groups(topology.boards())
        beside = [b for some in all_there if theirs & {b.path for b in some} for b in some]
        try:
            yield from drivers.secure(paths, beside, set())
        except NoNodeError as error:
            if leaves_vfio:
                return all_of_them(BoardState.FAILED, str(error))
        except InUseError as error:
            return all_of_them(BoardState.REFUSED, str(error))
    # What is about to go must not be offered, should this run be killed.
    try:
        handover.withdraw(paths, topology, boards)
    except OSError as error:
        return all_of_them(BoardState.FAILED, f"the hand-over cannot be changed: {error}")
    blocked = {t.function.address for t in targets if sysfs.is_stuck(paths, t.function)}
    problems = {address: f"{address}: {sysfs.STUCK_DETAIL}" for address in blocked}
    result = yield from drivers.restore_functions(
        paths, boards, targets, blocked, may_leave=leaves_vfio
    )
    problems |= result.problems
    reports = []
    for board, recorded in zip(boards, going, strict=True):
        mine = {function.address for function in board.functions}
        against = [text for address, text in problems.items() if address in mine]
        state = (
            BoardState.STUCK
            if mine & blocked
            else BoardState.FAILED
            if against
            else BoardState.RELEASED
        )
        report = BoardReport.of_unwanted(topology, recorded, state)
        changed = bool(mine & result.changed)
        reports.append(report._replace(changed=changed, detail="; ".join(against)))
    return reports


def _choose_target(
    function: Function, old: RecordedFunction, await_drivers: bool
) -> RestoreTarget | None:
    """What to restore of a function; None for one that is not ours any more.

    A driver of the host's that has it by now keeps it: it may be in use, and no guard was asked.
    """
    override = function.driver_override
    if function.driver in (None, DRIVER):
        is_awaited = await_drivers and function.driver is None and old.driver not in (None, DRIVER)
        # An override for the old driver may be that of a `restore_function` that was killed.
        if is_awaited and override not in (DRIVER, old.driver):
            return None
        return RestoreTarget(function, old.driver, old.driver_override)
    if override == DRIVER or function.driver == old.driver:
        return RestoreTarget(function, function.driver, old.driver_override)
    return None


def hand_over_remaining(system: System, topology: Topology, left: Record) -> tuple[str, ...]:
    """Hand over the bound boards of a record from which boards were removed; return what failed."""
    stay = [r.board for r in follow(topology, left) if r.board]
    proven = [board for board in stay if not handover.prove(system.paths, board)]
    complete = len(proven) == len(left.boards)
    return handover.hand_over(system.paths, proven, left.require_boards, complete=complete)
