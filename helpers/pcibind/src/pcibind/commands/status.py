"""How the chosen boards stand, without changing anything."""

from __future__ import annotations

from pcibind.change import handover, original
from pcibind.change.drivers import IOMMU_OFF
from pcibind.commands import boot
from pcibind.commands.host import Host
from pcibind.decide import guards
from pcibind.decide.judgement import Judgement, judge
from pcibind.decide.plan import follow, plan
from pcibind.model.errors import ConfigError, ExitCode, PcibindError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict
from pcibind.model.report import BoardReport, Report, State
from pcibind.model.request import Config, Selector
from pcibind.read import claims, configuration, files, sysfs

_UNAPPLIED = "configured, but not applied; run `pcibind apply`"


def status(host: Host, *, everything: bool = False) -> Report:
    """Look at every recorded board, and at every configured one that is not on record.

    With `everything`, at all other boards too, which are not chosen.

    Raises RecordError. A wrong configuration is reported beside the boards.
    """
    known = files.read_record(host.paths) or Record()
    topology = host.topology()
    errors: list[str] = []
    code = ExitCode.OK
    wanted = Config(())
    evidence = Evidence()
    try:
        with host.gathering() as gathering:
            evidence = gathering.evidence()
    except PcibindError as error:
        errors.append(str(error))
        code = error.exit_code
    try:
        if _is_configured(host.paths.configuration):
            wanted = configuration.read(host.paths.configuration)
        judged = judge(topology, evidence, wanted, known)
    except ConfigError as error:
        errors.append(str(error))
        code = error.exit_code
        judged = judge(topology, evidence, Config(()), known)
    unrecorded = [r for r in judged.resolutions if r.recorded is None]
    followed = follow(topology, known)
    allow = {r.recorded.path: r.allow for r in judged.resolutions if r.recorded}
    boards = [
        _look(host, evidence, r, allow.get(r.recorded.path if r.recorded else "", frozenset()))
        for r in followed
    ]
    boards += [_unrecorded(host, judged, resolution) for resolution in unrecorded]
    bound = [r.board for r in boards if r.board is not None and r.state is State.BOUND]
    enough = len(bound) == len(followed) or known.require_boards == "any"
    if bound and enough and not handover.is_published(host.paths, bound):
        errors.append("bound, but not handed over; run `pcibind apply`")
        code = code or ExitCode.NOT_BOUND
    remarks = [*host.boot_notes(), *host.initramfs_notes()]
    if bound and not errors and not handover.is_in_cdi(host.paths, bound):
        remarks.append(
            "the boards are not in /run/cdi, from where containers take them by name; run "
            "`pcibind setup`, then `pcibind apply`"
        )
    if bound and not sysfs.has_group_nodes(host.paths):
        remarks.append(
            "this kernel has no VFIO group nodes (CONFIG_VFIO_GROUP): /dev/vfio/devices/* alone "
            "are handed over"
        )
    errors += original.explain(judged.taken)
    unbacked = files.unrecorded_paths(host.paths, known)
    if unbacked:
        errors.append(
            f"{host.paths.early_list} names boards that are not on record: "
            f"{', '.join(unbacked)}; run `pcibind apply`, or `pcibind release` for all boards"
        )
    code = code or (ExitCode.TAKEN if judged.taken or unbacked else ExitCode.OK)
    boards += [_look_at_leaving(host, topology, board) for board in known.leaving]
    if everything:
        seen = {report.path for report in boards}
        boards += [
            BoardReport(
                None,
                board.path,
                Selector("path", board.path),
                Verdict.PRESENT,
                State.NOT_CHOSEN,
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
    remarks += claims.notes(host.paths, [r.board for r in (*followed, *unrecorded) if r.board])
    found = tuple(errors)
    return Report("status", require, tuple(boards), refusals, found, code, topology, tuple(remarks))


def _is_configured(directory: str) -> bool:
    try:
        return bool(configuration.names_in(directory))
    except OSError:
        return False


def _look_at_leaving(host: Host, topology: Topology, leaving: RecordedBoard) -> BoardReport:
    report = boot.report_on(topology, leaving, State.LEAVING)
    functions = report.board.functions if report.board else ()
    if any(sysfs.is_stuck(host.paths, function) for function in functions):
        return report._replace(state=State.STUCK, detail=sysfs.WAITING)
    detail = "released, but its drivers are not restored: reboot, or run `pcibind release`"
    return report._replace(detail=detail)


def _look(
    host: Host, evidence: Evidence, resolution: Resolution, allow: frozenset[str]
) -> BoardReport:
    board = resolution.board
    if resolution.verdict is not Verdict.PRESENT or board is None:
        return BoardReport.of(resolution, State.UNBOUND)
    if any(sysfs.is_stuck(host.paths, function) for function in board.functions):
        return BoardReport.of(resolution, State.STUCK, detail=sysfs.WAITING)
    if not board.groups:
        return BoardReport.of(resolution, State.UNBOUND, detail=IOMMU_OFF)
    problems = handover.prove(host.paths, board)
    if problems:
        return BoardReport.of(resolution, State.UNBOUND, detail="; ".join(problems))
    found = guards.check_firmware(board, evidence)
    # What apply would refuse, and so not hand over.
    bad = any(refusal.guard not in allow for refusal in found)
    state = State.FAILED if bad else State.BOUND
    return BoardReport.of(resolution, state, detail="; ".join(each.found for each in found))


def _unrecorded(host: Host, judged: Judgement, resolution: Resolution) -> BoardReport:
    functions = resolution.board.functions if resolution.board else ()
    if any(sysfs.is_stuck(host.paths, function) for function in functions):
        return BoardReport.of(resolution, State.STUCK, detail=sysfs.WAITING)
    refused = resolution.board and judged.refused(resolution.board.path)
    unapplied = "configured, but refused: see the refusals" if refused else _UNAPPLIED
    todo = resolution.detail or unapplied
    return BoardReport.of(resolution, State.UNBOUND, detail=todo)
