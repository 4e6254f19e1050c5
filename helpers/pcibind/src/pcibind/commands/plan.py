"""`pcibind plan`: the judgement of this system, and its report."""

from __future__ import annotations

from pcibind.change import handover, original_drivers
from pcibind.change.drivers import IOMMU_OFF
from pcibind.commands.system import System
from pcibind.decide import judgement
from pcibind.decide.judgement import Judgement, Standing
from pcibind.model.errors import ExitCode
from pcibind.model.record import Record, RecordedBoard, Resolution, early_list
from pcibind.model.report import SEE_REFUSALS, BoardReport, BoardState, Report
from pcibind.read import claims, configuration, files, sysfs

_NONE_SEEN = (
    "only /proc was searched for users of a board that leaves vfio-pci; apply also asks the kernel "
    "whether a process has it open"
)


def judge_system(system: System, *, next_boot: bool = False) -> Judgement:
    """Read the system and judge all boards; open no node and change nothing.

    Raises ConfigError, RecordError, PcibindError.
    """
    with system.gathering() as gathering:
        wanted = configuration.read(system.paths.configuration)
        known = files.read_record(system.paths)
        topology = system.topology()
        first = judgement.judge(topology, None, wanted, known)
        if not first.boards and not first.removed and not original_drivers.read_notes(system.paths):
            return first
        evidence = gathering.evidence()
        return judgement.judge(topology, evidence, wanted, known, next_boot=next_boot)


def list_claims(system: System, judged: Judgement) -> tuple[str, ...]:
    """Notes on wanted boards that other tools are configured to bind."""
    return claims.notes(system.paths, [r.board for r in judged.resolutions if r.board])


def report_refused_removals(judged: Judgement) -> list[BoardReport]:
    """Report on boards that are no longer configured, but must not be restored now."""
    return [
        BoardReport.of_unwanted(judged.topology, board, BoardState.REFUSED)._replace(
            detail=SEE_REFUSALS
        )
        for board in judged.removed
        if judged.refused(board.path)
    ]


def report_wanted(judged: Judgement, resolution: Resolution, state: BoardState) -> BoardReport:
    """Report on a wanted board: in `state`, or refused, or missing."""
    judgement_of = judged.board(resolution.board.path if resolution.board else None)
    if judgement_of is None or judgement_of.standing is Standing.MISSING:
        return BoardReport.of(resolution, BoardState.UNBOUND)
    if judgement_of.standing is Standing.REFUSED or judgement_of.plan is None:
        return BoardReport.of(resolution, BoardState.REFUSED, detail=SEE_REFUSALS)
    if judgement_of.standing is Standing.STUCK:
        return BoardReport.of(resolution, BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    if state is BoardState.RECORDED:
        bound = judgement_of.standing is Standing.BOUND
        return BoardReport.of(resolution, state, detail="" if bound else "bound at the next boot")
    if judgement_of.plan.iommu_off:
        return BoardReport.of(resolution, BoardState.UNBOUND, detail=IOMMU_OFF)
    if state is BoardState.PLANNED and not judgement_of.plan.steps:
        if resolution.recorded is None:
            return BoardReport.of(resolution, state, steps=("write it to the record",))
        return BoardReport.of(resolution, BoardState.BOUND)
    return BoardReport.of(resolution, state, steps=judgement_of.plan.steps)


def list_to_record(judged: Judgement) -> list[RecordedBoard]:
    """The wanted boards to have on record: the old as they were then, the new as they are now."""
    boards = []
    for resolution in judged.resolutions:
        if resolution.recorded is not None:
            boards.append(
                resolution.recorded._replace(selector=resolution.selector, name=resolution.name)
            )
        elif resolution.board is not None and not judged.refused(resolution.board.path):
            board = resolution.board
            if board.is_locked:
                # Its override is unknown: recorded once it can be read.
                continue
            boards.append(
                RecordedBoard.of(board, resolution.selector, resolution.name, judged.topology)
            )
    return boards


def show(system: System) -> Report:
    """What `apply` would do; changes nothing. Raises ConfigError, RecordError, PcibindError."""
    judged = judge_system(system)
    boards = [
        report_wanted(judged, resolution, BoardState.PLANNED) for resolution in judged.resolutions
    ]
    boards += [
        BoardReport.of_unwanted(judged.topology, board, BoardState.PLANNED)._replace(
            steps=("restore the original drivers",)
        )
        for board in judged.removed
        if not judged.refused(board.path)
    ]
    boards += report_refused_removals(judged)
    remarks = []
    ready = [b.board for b in boards if b.board and b.state is BoardState.BOUND]
    enough = len(ready) == len(boards) or judged.config.require_boards == "any"
    if ready and enough and not handover.is_current(system.paths, ready):
        remarks.append("bound, but the hand-over is to be written anew")
    steps = any(board.steps for board in boards)
    if not steps and not judged.refusals and _changes_record(system, judged):
        remarks.append("the record or early.list is to be written anew")
    pending = steps or bool(remarks)
    if judged.boards_leaving_vfio():
        remarks.append(_NONE_SEEN)
    return Report(
        "plan",
        judged.config.require_boards,
        tuple(boards),
        judged.refusals,
        original_drivers.explain_taken(judged.taken),
        ExitCode.TAKEN if judged.taken else ExitCode.PENDING if pending else ExitCode.OK,
        judged.topology,
        (*system.boot_notes(), *remarks, *list_claims(system, judged)),
    )


def _changes_record(system: System, judged: Judgement) -> bool:
    """Whether apply would write the record or the list, where it has nothing to do to a board."""
    known = files.read_record(system.paths)
    left = Record(tuple(list_to_record(judged)), judged.config.require_boards)
    listed = files.read(system.paths.early_list)
    return known is not None and (known != left or listed != (early_list(left) or None))
