"""`pcibind status`: the state of the chosen boards; changes nothing."""

from __future__ import annotations

from pcibind.change import handover, original_drivers
from pcibind.change.drivers import IOMMU_OFF
from pcibind.commands import boot
from pcibind.commands.system import System
from pcibind.decide import guards
from pcibind.decide.judgement import Judgement, judge
from pcibind.decide.plan import follow, plan
from pcibind.model.errors import ConfigError, ExitCode, PcibindError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.model.request import Config, Selector
from pcibind.read import claims, configuration, files, sysfs

_UNAPPLIED = "configured, but not applied; run `pcibind apply`"


def status(system: System, *, everything: bool = False) -> Report:
    """Report on every recorded board, and on every configured one that is not on record.

    With `everything`, also on all other boards, which are not chosen.

    Raises RecordError. A wrong configuration is reported beside the boards.
    """
    known = files.read_record(system.paths) or Record()
    topology = system.topology()
    errors: list[str] = []
    code = ExitCode.OK
    wanted = Config(())
    evidence = Evidence()
    try:
        with system.gathering() as gathering:
            evidence = gathering.evidence()
    except PcibindError as error:
        errors.append(str(error))
        code = error.exit_code
    try:
        if _is_configured(system.paths.configuration):
            wanted = configuration.read(system.paths.configuration)
        judged = judge(topology, evidence, wanted, known)
    except ConfigError as error:
        errors.append(str(error))
        code = error.exit_code
        judged = judge(topology, evidence, Config(()), known)
    unrecorded = [r for r in judged.resolutions if r.recorded is None]
    followed = follow(topology, known)
    allow = {r.recorded.path: r.allow for r in judged.resolutions if r.recorded}
    boards = [
        _report_recorded(
            system, evidence, r, allow.get(r.recorded.path if r.recorded else "", frozenset())
        )
        for r in followed
    ]
    boards += [_report_unrecorded(system, judged, resolution) for resolution in unrecorded]
    bound = [r.board for r in boards if r.board is not None and r.state is BoardState.BOUND]
    enough = len(bound) == len(followed) or known.require_boards == "any"
    if bound and enough and not handover.is_published(system.paths, bound):
        errors.append("bound, but not handed over; run `pcibind apply`")
        code = code or ExitCode.NOT_BOUND
    remarks = [*system.boot_notes(), *system.initramfs_notes()]
    if bound and not errors and not handover.is_in_cdi(system.paths, bound):
        remarks.append(
            "the boards are not in /run/cdi, from where containers take them by name; run "
            "`pcibind setup`, then `pcibind apply`"
        )
    if bound and not sysfs.has_group_nodes(system.paths):
        remarks.append(
            "this kernel has no VFIO group nodes (CONFIG_VFIO_GROUP): /dev/vfio/devices/* alone "
            "are handed over"
        )
    errors += original_drivers.explain_taken(judged.taken)
    unbacked = files.unrecorded_paths(system.paths, known)
    if unbacked:
        errors.append(
            f"{system.paths.early_list} names boards that are not on record: "
            f"{', '.join(unbacked)}; run `pcibind apply`, or `pcibind release` for all boards"
        )
    code = code or (ExitCode.TAKEN if judged.taken or unbacked else ExitCode.OK)
    boards += [_report_leaving(system, topology, board) for board in known.leaving]
    if everything:
        seen = {report.path for report in boards}
        boards += [
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
            if board.path not in seen
        ]
    require = known.require_boards if known.boards else wanted.require_boards
    refusals = plan(topology, [r.board for r in followed if r.board]).refusals
    new = {r.board.path for r in unrecorded if r.board}
    refusals += tuple(each for each in judged.refusals if each.board in new)
    remarks += claims.notes(system.paths, [r.board for r in (*followed, *unrecorded) if r.board])
    problems = tuple(errors)
    return Report(
        "status", require, tuple(boards), refusals, problems, code, topology, tuple(remarks)
    )


def _is_configured(directory: str) -> bool:
    try:
        return bool(configuration.list_file_names(directory))
    except OSError:
        return False


def _report_leaving(system: System, topology: Topology, leaving: RecordedBoard) -> BoardReport:
    report = boot.report_unwanted(topology, leaving, BoardState.LEAVING)
    if sysfs.is_board_stuck(system.paths, report.board):
        return report._replace(state=BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    detail = "released, but its drivers are not restored: reboot, or run `pcibind release`"
    return report._replace(detail=detail)


def _report_recorded(
    system: System, evidence: Evidence, resolution: Resolution, allow: frozenset[str]
) -> BoardReport:
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
    bad = any(refusal.guard not in allow for refusal in refusals)
    state = BoardState.FAILED if bad else BoardState.BOUND
    return BoardReport.of(resolution, state, detail="; ".join(each.found for each in refusals))


def _report_unrecorded(system: System, judged: Judgement, resolution: Resolution) -> BoardReport:
    if sysfs.is_board_stuck(system.paths, resolution.board):
        return BoardReport.of(resolution, BoardState.STUCK, detail=sysfs.STUCK_DETAIL)
    refused = resolution.board and judged.refused(resolution.board.path)
    unapplied = "configured, but refused: see the refusals" if refused else _UNAPPLIED
    todo = resolution.detail or unapplied
    return BoardReport.of(resolution, BoardState.UNBOUND, detail=todo)
