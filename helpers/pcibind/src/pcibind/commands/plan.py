"""The judgement of this machine, and its report: what is read for it, before any change."""

from __future__ import annotations

from pcibind.change import handover, original
from pcibind.change.drivers import IOMMU_OFF
from pcibind.commands import boot
from pcibind.commands.host import Host
from pcibind.decide import judgement
from pcibind.decide.judgement import Judgement, Standing
from pcibind.model.errors import ExitCode
from pcibind.model.record import Resolution
from pcibind.model.report import BoardReport, Report, State
from pcibind.read import claims, configuration, files, sysfs

_SEE = "see the refusals"
_NONE_SEEN = (
    "of a board that leaves vfio-pci, only what /proc shows was looked at; apply asks the kernel "
    "whether another process has it open"
)


def judge(host: Host, *, next_boot: bool = False) -> Judgement:
    """Look at everything, open no node; change nothing.

    Raises ConfigError, RecordError, PcibindError.
    """
    with host.gathering() as gathering:
        wanted = configuration.read(host.paths.configuration)
        known = files.read_record(host.paths)
        topology = host.topology()
        first = judgement.judge(topology, None, wanted, known)
        if not first.boards and not first.removed and not original.noted(host.paths):
            return first
        evidence = gathering.evidence()
        return judgement.judge(topology, evidence, wanted, known, next_boot=next_boot)


def claimed(host: Host, judged: Judgement) -> tuple[str, ...]:
    """What of the wanted boards other tools are configured to bind."""
    return claims.notes(host.paths, [r.board for r in judged.resolutions if r.board])


def refused_to_leave(judged: Judgement) -> list[BoardReport]:
    """Boards that are no longer configured, but must not be given back now."""
    return [
        boot.report_on(judged.topology, board, State.REFUSED)._replace(detail=_SEE)
        for board in judged.removed
        if judged.refused(board.path)
    ]


def report_on(judged: Judgement, resolution: Resolution, state: State) -> BoardReport:
    """A wanted board in `state`, or refused, or not there."""
    found = judged.board(resolution.board.path if resolution.board else None)
    if found is None or found.standing is Standing.MISSING:
        return BoardReport.of(resolution, State.UNBOUND)
    if found.standing is Standing.REFUSED or found.plan is None:
        return BoardReport.of(resolution, State.REFUSED, detail=_SEE)
    if found.standing is Standing.STUCK:
        return BoardReport.of(resolution, State.STUCK, detail=sysfs.WAITING)
    if state is State.RECORDED:
        return BoardReport.of(resolution, state, detail="bound at the next boot")
    if found.plan.iommu_off:
        return BoardReport.of(resolution, State.UNBOUND, detail=IOMMU_OFF)
    if state is State.PLANNED and not found.plan.steps:
        if resolution.recorded is None:
            return BoardReport.of(resolution, state, steps=("write it to the record",))
        return BoardReport.of(resolution, State.BOUND)
    return BoardReport.of(resolution, state, steps=found.plan.steps)


def show(host: Host) -> Report:
    """What `apply` would do; changes nothing. Raises ConfigError, RecordError, PcibindError."""
    judged = judge(host)
    boards = [report_on(judged, resolution, State.PLANNED) for resolution in judged.resolutions]
    boards += [
        boot.report_on(judged.topology, board, State.PLANNED)._replace(
            steps=("restore the original drivers",)
        )
        for board in judged.removed
        if not judged.refused(board.path)
    ]
    boards += refused_to_leave(judged)
    remarks = []
    ready = [b.board for b in boards if b.board and b.state is State.BOUND]
    if ready and len(ready) == len(boards) and not handover.is_published(host.paths, ready):
        remarks.append("bound, but not handed over")
    pending = bool(remarks) or any(board.steps for board in boards)
    if judged.changing():
        remarks.append(_NONE_SEEN)
    return Report(
        "plan",
        judged.config.require_boards,
        tuple(boards),
        judged.refusals,
        original.explain(judged.taken),
        ExitCode.TAKEN if judged.taken else ExitCode.PENDING if pending else ExitCode.OK,
        judged.topology,
        (*host.boot_notes(), *remarks, *claimed(host, judged)),
    )
