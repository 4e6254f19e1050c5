"""Making the configuration true: guards, record, bind, prove, hand over."""

from __future__ import annotations

from collections.abc import Mapping

from pcibind.change import boards, handover, original
from pcibind.commands import release
from pcibind.commands.host import Host
from pcibind.commands.plan import claimed, judge, report_on
from pcibind.commands.plan import held as held_back
from pcibind.commands.plan import notes as boot_notes
from pcibind.decide.judgement import Judgement
from pcibind.decide.plan import Resolution
from pcibind.model import record
from pcibind.model.errors import ExitCode
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.report import INITRAMFS_NOTE, BoardReport, Report, State


def apply(host: Host, *, next_boot: bool = False) -> Report:
    """Bring the host to its configuration.

    With `next_boot`, stop after the record: the drivers stay as they are until the next boot,
    and the IOMMU may still be off. Boards that are recorded but no longer configured are given
    back first. Raises ConfigError, RecordError, PcibindError, OSError.
    """
    with host.locked():
        judgement = judge(host, next_boot=next_boot)
        topology = judgement.topology
        require = judgement.config.require_boards
        errors = original.tell(judgement.taken)
        code = ExitCode.TAKEN if errors else ExitCode.OK
        held = [board for board in judgement.removed if judgement.refused(board.path)]
        kept = held_back(judgement)
        refused = [r for r in judgement.resolutions if r.board and judgement.refused(r.board.path)]
        if judgement.refusals and (require == "all" or len(refused) == len(judgement.resolutions)):
            untouched = [report_on(judgement, r, State.PLANNED) for r in judgement.resolutions]
            return Report(
                "apply",
                require,
                (*untouched, *kept),
                judgement.refusals,
                errors,
                code,
                topology,
                (*boot_notes(host), *claimed(host, judgement)),
            )

        # Before the first write to a driver: whatever happens next, the way back is on disk.
        leaving = [board for board in judgement.removed if board not in held]
        wanted = (*_recorded(judgement), *held)
        listed = record.write(host.paths, Record(wanted, require, tuple(leaving)))
        if next_boot:
            given_back = [
                release.report_on(topology, board, State.RELEASED)._replace(
                    detail="back on its drivers at the next boot"
                )
                for board in leaving
            ]
            if leaving:
                boards.hand_over_what_stays(host, topology, Record(wanted, require))
        else:
            given_back = _give_back(host, judgement, leaving)
            # What could not be given back keeps its original drivers on record.
            outcome = list(zip(leaving, given_back, strict=True))
            busy = [b for b, report in outcome if report.state is State.REFUSED]
            left = [b for b, report in outcome if not report.is_good and b not in busy]
            record.write(host.paths, Record((*wanted, *busy), require, tuple(left)))

        # What is on record since a moment ago is reported as such, too.
        known = {board.path: board for board in wanted}
        judged = [_on_record(r, known) for r in judgement.resolutions if r not in refused]
        reports = [report_on(judgement, resolution, State.REFUSED) for resolution in refused]
        if next_boot:
            reports += [report_on(judgement, resolution, State.RECORDED) for resolution in judged]
        else:
            found, topology = boards.take(host, topology, judged, judgement.plan, require)
            reports += found
            if any(each.changed for each in given_back):
                topology = host.topology()
                given_back = [b._replace(board=topology.board_at(b.path or "")) for b in given_back]
        return Report(
            "apply",
            require,
            (*reports, *kept, *given_back),
            judgement.refusals,
            errors,
            code,
            topology,
            (*boot_notes(host), *claimed(host, judgement), *((INITRAMFS_NOTE,) if listed else ())),
        )


def _give_back(host: Host, judgement: Judgement, leaving: list[RecordedBoard]) -> list[BoardReport]:
    if leaving:
        # Nobody may start to use what is about to go.
        handover.remove(host.paths)
    tasks = [release.give_back(host.paths, judgement.topology, board) for board in leaving]
    return host.carry_out(tasks)


def _on_record(resolution: Resolution, known: Mapping[str, RecordedBoard]) -> Resolution:
    if resolution.recorded or not resolution.board:
        return resolution
    return resolution._replace(recorded=known.get(resolution.board.path))


def _recorded(judgement: Judgement) -> list[RecordedBoard]:
    """The boards to have on record: the old ones as they were, the new ones as they are now."""
    found = []
    for resolution in judgement.resolutions:
        if resolution.recorded is not None:
            found.append(
                resolution.recorded._replace(selector=resolution.selector, name=resolution.name)
            )
        elif resolution.board is not None and not judgement.refused(resolution.board.path):
            board = resolution.board
            if any(function.locked for function in board.functions):
                # Its override is unknown: recorded once it can be read.
                continue
            found.append(
                RecordedBoard.of(board, resolution.selector, resolution.name, judgement.topology)
            )
    return found
