"""`pcibind status`: the state of the chosen boards; changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pcibind.change import handover, original_drivers
from pcibind.change.drivers import IOMMU_OFF
from pcibind.commands.system import System
from pcibind.decide import guards
from pcibind.decide.judgement import Judgement, judge
from pcibind.decide.plan import follow, plan
from pcibind.model.errors import ConfigError, ExitCode, PcibindError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.model.request import Configuration, Refusal, Selector
from pcibind.read import claims, configuration, files, sysfs
from pcibind.read.files import Paths

_UNAPPLIED = "configured, but not applied; `pcibind plan` shows what `pcibind apply` would do"


def status(system: System, *, everything: bool = False) -> Report:
    """Report on every recorded board, and on every configured one that is not on record.

    With `everything`, also on all other boards, which are not chosen.

    Raises RecordError. A wrong configuration is reported beside the boards.
    """
    known = files.read_record(system.paths) or Record()
    topology = system.topology()
    judged, evidence, failures = _judge(system, topology, known)
    errors = [str(failure) for failure in failures]
    code = failures[-1].exit_code if failures else ExitCode.OK

    followed = follow(topology, known)
    unrecorded = [r for r in judged.resolutions if r.recorded is None]
    present = [r.board for r in (*followed, *unrecorded) if r.board]
    allow = {r.recorded.path: r.allow for r in judged.resolutions if r.recorded}
    boards = [_report_recorded(system, evidence, r, allow) for r in followed]
    boards += [_report_unrecorded(system, judged, r) for r in unrecorded]
    bound = [r.board for r in boards if r.board is not None and r.state is BoardState.BOUND]
    boards += [_report_leaving(system, topology, board) for board in known.leaving]
    if everything:
        boards += _report_others(topology, {report.path for report in boards})

    enough = len(bound) == len(followed) or known.require_boards == "any"
    if bound and enough and not handover.is_published(system.paths, bound):
        errors.append("bound, but not handed over; run `pcibind apply`")
        code = code or ExitCode.NOT_BOUND
    notes = [*system.boot_notes(), *system.initramfs_notes()]
    notes += _note_ways(system.paths, bound, cdi=not errors)
    notes += claims.notes(system.paths, present)
    if not failures and configuration.read_texts(system.paths.configuration):
        notes += [
            f"board {board.label} is no longer configured; `pcibind apply` restores its drivers"
            for board in judged.removed
            if board not in known.leaving
        ]
    if strays := _explain_strays(system.paths, judged, known):
        errors += strays
        code = code or ExitCode.TAKEN
    return Report(
        "status",
        known.require_boards if known.boards else judged.config.require_boards,
        tuple(boards),
        _list_refusals(topology, judged, followed, unrecorded),
        tuple(errors),
        code,
        topology,
        tuple(notes),
    )


def _judge(
    system: System, topology: Topology, known: Record
) -> tuple[Judgement, Evidence, list[PcibindError]]:
    """Judge the boards by what can be read of evidence and configuration; and what cannot be."""
    failures: list[PcibindError] = []
    wanted = Configuration(())
    evidence = Evidence()
    try:
        with system.gathering() as gathering:
            evidence = gathering.evidence()
    except PcibindError as error:
        failures.append(error)
    try:
        texts = configuration.read_texts(system.paths.configuration)
        wanted = configuration.parse(texts.items())
        judged = judge(topology, evidence, wanted, known)
    except ConfigError as error:
        failures.append(error)
        # Boards that contradict each other are left out; how many are required is still known.
        judged = judge(topology, evidence, Configuration(()), known)._replace(config=wanted)
    return judged, evidence, failures


def _report_leaving(system: System, topology: Topology, leaving: RecordedBoard) -> BoardReport:
    report = BoardReport.of_unwanted(topology, leaving, BoardState.LEAVING)
    if sysfs.is_board_stuck(system.paths, report.board):
        return report._replace(state=BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    detail = "released, but its drivers are not restored: reboot"
    if sysfs.has_group_nodes(system.paths):
        detail += ", or run `pcibind release`"
    return report._replace(detail=detail)


def _report_recorded(
    system: System, evidence: Evidence, resolution: Resolution, allow: Mapping[str, frozenset[str]]
) -> BoardReport:
    """Report on a board on record; `allow` has the overridden guards of configured boards."""
    board = resolution.board
    if resolution.verdict is not Verdict.PRESENT or board is None:
        return BoardReport.of(resolution, BoardState.UNBOUND)
    if sysfs.is_board_stuck(system.paths, board):
        return BoardReport.of(resolution, BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    if not board.groups:
        return BoardReport.of(resolution, BoardState.UNBOUND, detail=IOMMU_OFF)
    problems = handover.prove(system.paths, board)
    if problems:
        return BoardReport.of(resolution, BoardState.UNBOUND, detail="; ".join(problems))
    refusals = guards.check_firmware(board, evidence)
    # What apply would refuse, and so not hand over.
    allowed = allow.get(board.path, frozenset())
    bad = any(refusal.guard not in allowed for refusal in refusals)
    state = BoardState.FAILED if bad else BoardState.BOUND
    return BoardReport.of(resolution, state, detail="; ".join(each.found for each in refusals))


def _report_unrecorded(system: System, judged: Judgement, resolution: Resolution) -> BoardReport:
    if sysfs.is_board_stuck(system.paths, resolution.board):
        return BoardReport.of(resolution, BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    refused = resolution.board and judged.refused(resolution.board.path)
    unapplied = "configured, but refused: see the refusals" if refused else _UNAPPLIED
    todo = resolution.detail or unapplied
    return BoardReport.of(resolution, BoardState.UNBOUND, detail=todo)


def _report_others(topology: Topology, reported: Collection[str | None]) -> list[BoardReport]:
    """Report on the boards that are neither chosen nor on record."""
    return [
        BoardReport(
            None,
            board.path,
            Selector("path", board.path),
            Verdict.PRESENT,
            BoardState.NOT_CHOSEN,
            board,
            wanted=False,
        )
        for board in topology.boards()
        if board.path not in reported
    ]


def _note_ways(paths: Paths, bound: Sequence[Board], *, cdi: bool) -> list[str]:
    """Which ways to hand bound boards over are missing; that to containers only with `cdi`."""
    notes = []
    if bound and cdi and not handover.is_in_cdi(paths, bound):
        notes.append(
            "the boards are not in /run/cdi, from where containers take them by name; run "
            "`pcibind setup`, then `pcibind apply`"
        )
    if bound and not sysfs.has_group_nodes(paths):
        notes.append(
            "this kernel has no VFIO group nodes (CONFIG_VFIO_GROUP): /dev/vfio/devices/* alone "
            "are handed over"
        )
    return notes


def _explain_strays(paths: Paths, judged: Judgement, known: Record) -> list[str]:
    """Errors about boards that were taken, or will be by the early list, but are not on record."""
    errors = list(original_drivers.explain_taken(judged.taken))
    if unbacked := files.unrecorded_paths(paths, known):
        errors.append(
            f"{paths.early_list} names boards that are not on record: "
            f"{', '.join(unbacked)}; run `pcibind apply`, or `pcibind release` for all boards"
        )
    return errors


def _list_refusals(
    topology: Topology,
    judged: Judgement,
    followed: Iterable[Resolution],
    unrecorded: Iterable[Resolution],
) -> tuple[Refusal, ...]:
    """What refuses boards: for those on record only what a boot refuses too, else every guard."""
    new = {r.board.path for r in unrecorded if r.board}
    return (
        *plan(topology, [r.board for r in followed if r.board]).refusals,
        *(refusal for refusal in judged.refusals if refusal.board in new),
    )
