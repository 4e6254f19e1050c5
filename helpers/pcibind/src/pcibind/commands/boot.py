"""`apply --recorded`, as pcibind.service runs it; and `bind_boards`, which other commands share.

Those import this module; it imports none of them, so that a boot does not load them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pcibind.change import drivers, handover
from pcibind.change.drivers import BindResult
from pcibind.commands.system import System
from pcibind.decide.plan import Action, BoardPlan, Plan, follow, plan
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Resolution
from pcibind.model.report import (
    SEE_REFUSALS,
    BoardReport,
    BoardState,
    Outcome,
    Report,
    list_use_refusals,
)
from pcibind.read import files


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
        given_back = Outcome([], (), topology)
        if known.leaving:
            # Rare, so that most boots do without its code.
            from pcibind.commands.restoration import give_back

            without = known._replace(leaving=())
            given_back = give_back(system, topology, known, known.leaving, without, at_boot=True)
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
    others: Sequence[Board] = (),
) -> Outcome:
    """Bind each board that is present, and hand over what is proven.

    `complete` is false when a wanted board was left out of `resolutions`; `others` are boards that
    are on record, though not wanted, since they are in use: nothing is done to them, but they stay
    handed over while they are proven. Where the hand-over cannot be changed, no board is. Raises
    OSError.
    """
    others = [board for board in others if _is_proven(system, board)]
    if any(each.steps for each in plan.boards):
        stay = [p.board for p in plan.boards if not p.rebinds and _is_proven(system, p.board)]
        # What is changed must not be handed over, should this run be killed; what is not, stays.
        staying = (*stay, *others)
        if failed := handover.hand_over(system.paths, staying, require, complete=False):
            results = {p.board.path: _leave_alone(p, proven=p.board in stay) for p in plan.boards}
            return Outcome(_report_all(resolutions, results, topology), (), topology, failed)
        _note_overrides(system, plan)
    tasks = [
        drivers.bind(plans, system.paths, system.node_seconds) for plans in plan.split_by_groups()
    ]
    results = {result.board.path: result for each in system.carry_out(tasks) for result in each}
    if any(result.changed for result in results.values()):
        topology = system.topology()
        results = {path: _prove_again(system, result) for path, result in results.items()}
    proven = [
        result.board
        for result in results.values()
        # One in use that lacks but an override was not written to, and stays usable.
        if result.proven
        or (result.state is BoardState.REFUSED and _is_proven(system, result.board))
    ]
    complete = complete and len(proven) == len(resolutions)
    errors = handover.hand_over(system.paths, [*proven, *others], require, complete=complete)
    reports = _report_all(resolutions, results, topology)
    return Outcome(reports, list_use_refusals(reports), topology, errors)


def _is_proven(system: System, board: Board) -> bool:
    return not handover.prove(system.paths, board)


def _note_overrides(system: System, plan: Plan) -> None:
    """Note which functions get an override, before they do. Raises OSError.

    Should the record be lost, it is still known whose overrides are not the host's own.
    """
    # Nothing is written to a board with a stuck function.
    steps = [step for each in plan.boards if not each.board.is_locked for step in each.steps]
    ours = [f"{step.function.address}\n" for step in steps if step.action is Action.OVERRIDE]
    files.append(system.paths.taken, "".join(ours))


def _prove_again(system: System, result: BindResult) -> BindResult:
    """What was proven first may have gone while others were bound."""
    problems = handover.prove(system.paths, result.board) if result.proven else []
    if not problems:
        return result
    return result._replace(state=BoardState.FAILED, detail="; ".join(problems))


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
