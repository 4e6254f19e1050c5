"""`apply --recorded`, as pcibind.service runs it; and the changes of boards that commands share.

Those are `bind_boards`, `give_back` (with a look at the record; `restore_boards` without), and
`hand_over`. The other commands import this module; it imports none of them, so that a boot does not
load them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from pcibind.change import drivers, handover
from pcibind.change.drivers import BindResult, RestoreTarget
from pcibind.commands.system import System
from pcibind.decide.plan import Action, BoardPlan, Plan, follow, plan, sharing_groups
from pcibind.model.errors import ExitCode, InUseError, NoNodeError
from pcibind.model.pci import DRIVER, Board, Function, Topology
from pcibind.model.record import Record, RecordedBoard, RecordedFunction, Resolution, compare
from pcibind.model.report import SEE_REFUSALS, BoardReport, BoardState, Report
from pcibind.model.request import Refusal
from pcibind.model.values import TYPE_CHECKING, NamedTuple
from pcibind.read import files, sysfs
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task


class Outcome(NamedTuple):
    """Reports on boards, refusals of those that were left alone, and the topology afterwards.

    `errors` say what failed beside the boards.
    """

    reports: list[BoardReport]
    refusals: tuple[Refusal, ...]
    topology: Topology
    errors: tuple[str, ...] = ()

    def choose_code(self, otherwise: ExitCode = ExitCode.OK) -> ExitCode:
        """The code of its errors, or another one where it has none."""
        return ExitCode.UNEXPECTED if self.errors else otherwise


def apply_recorded(system: System) -> Report:
    """Bind what is on record, by identity, without configuration or guards.

    At boot there are no routes and few mounts to check; the guards judged the boards when they
    were recorded. Raises RecordError, OSError.
    """
    with system.locked():
        known = files.read_record(system.paths)
        if known is None:
            handover.remove(system.paths)
            return Report("apply")
        # This run sees the result of all events so far. Reading an override waits for a probe of
        # the device, so those of other boards are not read.
        files.clear(system.paths.events)
        system.overrides_of = frozenset(board.path for board in (*known.boards, *known.leaving))
        topology = system.topology()
        given_back = give_back(
            system, topology, known, known.leaving, known._replace(leaving=()), booting=True
        )
        topology = given_back.topology
        resolutions = follow(topology, known)
        planned = plan(topology, [r.board for r in resolutions if r.board])
        foreign = {refusal.board for refusal in planned.refusals}
        refused = [r for r in resolutions if r.board and r.board.path in foreign]
        binding = [r for r in resolutions if r not in refused]
        reports = [BoardReport.of(r, BoardState.REFUSED, detail=SEE_REFUSALS) for r in refused]
        require = known.require_boards
        bound = bind_boards(system, topology, binding, planned, require, complete=not refused)
        return Report(
            "apply",
            require,
            (*reports, *bound.reports, *given_back.reports),
            (*planned.refusals, *bound.refusals, *given_back.refusals),
            bound.errors,
            bound.choose_code(),
            topology=bound.topology,
            # A board that cannot be restored must not stop users of the wanted boards.
            wanted_only=True,
        )


def bind_boards(
    system: System,
    topology: Topology,
    resolutions: Sequence[Resolution],
    plan: Plan,
    require: str,
    *,
    complete: bool = True,
) -> Outcome:
    """Bind each board that is present, and hand over what is proven.

    `complete` is false when a wanted board was left out of `resolutions`. Where the hand-over
    cannot be changed, no board is. Raises OSError.
    """
    if any(each.steps for each in plan.boards):
        # What is changed must not be handed over, should this run be killed; what is not, stays.
        stay = [
            p.board
            for p in plan.boards
            if not p.rebinds and not handover.prove(system.paths, p.board)
        ]
        if failed := hand_over(system, stay, require, complete=False):
            results = {p.board.path: _leave_alone(p, proven=p.board in stay) for p in plan.boards}
            return Outcome(_report_all(resolutions, results, topology), (), topology, failed)
        # Should the record be lost, it is still known whose overrides are not the host's own.
        # Nothing is written to a board with a stuck function.
        written = [s for p in plan.boards if not p.board.is_locked for s in p.steps]
        ours = [f"{s.function.address}\n" for s in written if s.action is Action.OVERRIDE]
        files.append(system.paths.taken, "".join(ours))
    tasks = [
        drivers.bind(plans, system.paths, system.node_seconds) for plans in plan.split_by_groups()
    ]
    results = {result.board.path: result for each in system.carry_out(tasks) for result in each}
    if any(result.changed for result in results.values()):
        topology = system.topology()
        # What was proven first may have gone while others were bound.
        for path, result in results.items():
            if result.proven and (problems := handover.prove(system.paths, result.board)):
                detail = "; ".join(problems)
                results[path] = result._replace(state=BoardState.FAILED, detail=detail)
    proven = [
        result.board
        for result in results.values()
        # One in use that lacks but an override was not written to, and stays usable.
        if result.proven
        or (result.state is BoardState.REFUSED and not handover.prove(system.paths, result.board))
    ]
    complete = complete and len(proven) == len(resolutions)
    errors = hand_over(system, proven, require, complete=complete)
    reports = _report_all(resolutions, results, topology)
    return Outcome(reports, list_use_refusals(reports), topology, errors)


def give_back(
    system: System,
    topology: Topology,
    known: Record,
    going: Sequence[RecordedBoard],
    staying: Record,
    *,
    booting: bool = False,
) -> Outcome:
    """Restore boards that are on record; keep on record what could not be given back.

    `known` is the record as it is, and `staying` without those that are `going`. A board that is in
    use stays what it was; any other that fails is tried again at the next boot. While `booting`, a
    record that cannot be written is no failure, and in the first run of a boot, functions that
    their drivers have not reached yet are left to them. Raises OSError.
    """
    if not going:
        return Outcome([], (), topology)
    unwritable = (OSError,) if booting else ()
    # Killed from here on, the next boot gives back what is left.
    leaving = tuple(dict.fromkeys((*staying.leaving, *going)))
    with contextlib.suppress(*unwritable):
        files.write_record(system.paths, staying._replace(leaving=leaving))
    reports = restore_boards(system, topology, going, booting=booting and system.is_first_run)
    state = {report.path: report.state for report in reports}
    # One that is in use stays what it was, also where that was not on record.
    busy = [b for b in going if state[b.path] is BoardState.REFUSED and b not in known.leaving]
    done = (BoardState.RELEASED, BoardState.GONE)
    left = staying._replace(
        boards=(*staying.boards, *(b for b in busy if b in known.boards)),
        leaving=tuple(
            b for b in leaving if b not in busy and state.get(b.path, BoardState.FAILED) not in done
        ),
    )
    with contextlib.suppress(*unwritable):
        files.write_record(system.paths, left)
    theirs = {
        function.address
        for old in going
        if state[old.path] is BoardState.RELEASED and (board := topology.board_at(old.path))
        for function in board.functions
        if (was := old.function(function.number)) and was.driver_override == DRIVER
    }
    if theirs:
        # Rare: an override of this name that was there before pcibind.
        from pcibind.change import original_drivers

        with contextlib.suppress(*unwritable):
            original_drivers.forget(system.paths, theirs)
    if any(report.changed for report in reports):
        topology = system.topology()
        reports = [r._replace(board=topology.board_at(r.path or "")) for r in reports]
    return Outcome(reports, list_use_refusals(reports), topology)


def restore_boards(
    system: System, topology: Topology, going: Sequence[RecordedBoard], *, booting: bool = False
) -> list[BoardReport]:
    """Restore boards without a look at the record; those that share groups together."""
    # By all boards that are there: two that go may share groups by way of one that does not.
    sets = [{board.path for board in sharing} for sharing in sharing_groups(topology.boards())]
    tasks = [
        _restore_sharing(
            system.paths, topology, [b for b in going if b.path in paths], booting=booting
        )
        for paths in sets
        if any(old.path in paths for old in going)
    ]
    ended = {report.path: report for reports in system.carry_out(tasks) for report in reports}
    return [ended.get(old.path) or report_unwanted(topology, old, BoardState.GONE) for old in going]


def hand_over_remaining(system: System, topology: Topology, left: Record) -> tuple[str, ...]:
    """Hand over the bound boards of a record from which boards were removed, as `hand_over`."""
    stay = [r.board for r in follow(topology, left) if r.board]
    proven = [board for board in stay if not handover.prove(system.paths, board)]
    complete = len(proven) == len(left.boards)
    return hand_over(system, proven, left.require_boards, complete=complete)


def hand_over(
    system: System, proven: Iterable[Board], require: str, *, complete: bool
) -> tuple[str, ...]:
    """Publish which boards may be used, or remove the published files; return what failed.

    What was done to the boards is to be reported all the same, so that nothing is raised. Where all
    are required and one is not there, nothing new is handed over; but what is handed over already
    stays so, board by board, for as long as it is proven.
    """
    boards = list(proven)
    if not complete and require == "all":
        already = handover.list_published(system.paths)
        boards = [board for board in boards if board.path in already]
    try:
        handover.publish(system.paths, boards)
    except OSError as error:
        return (f"the hand-over cannot be written: {error}; repair that, then apply again",)
    return ()


def report_unwanted(topology: Topology, recorded: RecordedBoard, state: BoardState) -> BoardReport:
    """A report on a recorded board that is not wanted any more."""
    board = topology.board_at(recorded.path)
    return BoardReport(
        recorded.name,
        recorded.path,
        recorded.selector,
        compare(board, recorded),
        state,
        board,
        recorded,
        wanted=False,
    )


def _restore_sharing(
    paths: Paths, topology: Topology, going: Sequence[RecordedBoard], *, booting: bool
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
        if (target := _choose_target(function, old, booting))
    ]

    def all_of_them(state: BoardState, detail: str) -> list[BoardReport]:
        return [report_unwanted(topology, old, state)._replace(detail=detail) for old in going]

    leaves_vfio = any(sysfs.driver_of(paths, t.function.address) == DRIVER for t in targets)
    if leaves_vfio:
        # A user of one board in these groups is a user of all of them.
        theirs = {board.path for board in boards}
        all_there = sharing_groups(topology.boards())
        beside = [b for some in all_there if theirs & {b.path for b in some} for b in some]
        try:
            yield from drivers.secure(paths, beside, set())
        except NoNodeError as error:
            return all_of_them(BoardState.FAILED, str(error))
        except InUseError as error:
            return all_of_them(BoardState.REFUSED, str(error))
    if not booting:
        # What is about to go is not to be offered; what only leaves at a boot is not.
        try:
            withdraw(paths, topology, boards)
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
        report = report_unwanted(topology, recorded, state)
        changed = bool(mine & result.changed)
        reports.append(report._replace(changed=changed, detail="; ".join(against)))
    return reports


def withdraw(paths: Paths, topology: Topology, going: Sequence[Board] = ()) -> None:
    """Take boards out of the hand-over, and those that are not proven; the others stay.

    Raises OSError.
    """
    published = handover.list_published(paths)
    left = published - {board.path for board in going}
    stay = [b for path in left if (b := topology.board_at(path)) and not handover.prove(paths, b)]
    if not stay or len(stay) < len(published):
        handover.publish(paths, stay)


def _choose_target(
    function: Function, old: RecordedFunction, booting: bool
) -> RestoreTarget | None:
    """What to restore of a function; None for one that is not ours any more.

    A driver of the host's that has it by now keeps it: it may be in use, and no guard was asked.
    While `booting`, a function without a driver is left to the one that is about to take it.
    """
    override = function.driver_override
    if function.driver in (None, DRIVER):
        awaited = booting and function.driver is None and old.driver not in (None, DRIVER)
        # An override for the old driver may be that of a `restore` that was killed.
        if awaited and override not in (DRIVER, old.driver):
            return None
        return RestoreTarget(function, old.driver, old.driver_override)
    if override == DRIVER or function.driver == old.driver:
        return RestoreTarget(function, function.driver, old.driver_override)
    return None


def list_use_refusals(reports: Iterable[BoardReport]) -> tuple[Refusal, ...]:
    """A refusal for each board that was left alone because it is in use."""
    return tuple(
        Refusal.of_use(report.path or "", None, report.detail)
        for report in reports
        if report.state is BoardState.REFUSED
    )


def _leave_alone(plan: BoardPlan, *, proven: bool) -> BindResult:
    if proven and not plan.steps:
        return BindResult(plan.board, BoardState.BOUND)
    detail = "left alone, since the hand-over cannot be changed"
    return BindResult(plan.board, BoardState.FAILED, detail=detail)


def _report_all(
    resolutions: Iterable[Resolution], results: Mapping[str, BindResult], topology: Topology
) -> list[BoardReport]:
    return [_report(r, results.get(r.board.path if r.board else ""), topology) for r in resolutions]


def _report(resolution: Resolution, result: BindResult | None, topology: Topology) -> BoardReport:
    if result is None:
        return BoardReport.of(resolution, BoardState.UNBOUND)
    return BoardReport.of(
        resolution,
        result.state,
        board=topology.board_at(result.board.path),
        changed=result.changed,
        detail=result.detail,
    )
