"""`pcibind apply`: guards, record, bind, prove, hand over."""

from __future__ import annotations

from collections.abc import Mapping

from pcibind.change import original_drivers
from pcibind.commands import boot, plan
from pcibind.commands.restoration import give_back, hand_over_remaining
from pcibind.commands.system import System
from pcibind.decide.plan import follow
from pcibind.model.errors import ExitCode
from pcibind.model.record import Record, RecordedBoard, Resolution
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.read import files


def apply(system: System, *, next_boot: bool = False) -> Report:
    """Bring the host to its configuration.

    With `next_boot`, stop after the record: the drivers stay as they are until the next boot,
    and the IOMMU may still be off. Boards that are recorded but no longer configured are given
    back first. Raises ConfigError, RecordError, PcibindError, OSError.
    """
    with system.locked():
        judgement = plan.judge_system(system, next_boot=next_boot)
        topology = judgement.topology
        require = judgement.config.require_boards
        errors = original_drivers.explain_taken(judgement.taken)
        code = ExitCode.TAKEN if errors else ExitCode.OK
        kept = plan.report_refused_removals(judgement)
        refused = [r for r in judgement.resolutions if r.board and judgement.refused(r.board.path)]
        none_left = bool(refused) and len(refused) == len(judgement.resolutions)
        if judgement.refusals and (require == "all" or none_left):
            untouched = [
                plan.report_wanted(judgement, r, BoardState.PLANNED) for r in judgement.resolutions
            ]
            return Report(
                "apply",
                require,
                (*untouched, *kept),
                judgement.refusals,
                errors,
                code,
                topology,
                (*system.boot_notes(), *plan.list_claims(system, judgement)),
            )

        before = files.read(system.paths.early_list)
        known = files.read_record(system.paths) or Record()
        leaving = [b for b in judgement.removed if not judgement.refused(b.path)]
        staying = [b for b in judgement.removed if judgement.refused(b.path)]
        wanted = plan.list_to_record(judgement)
        left = Record(
            (*wanted, *(b for b in staying if b in known.boards)),
            require,
            tuple(b for b in staying if b in known.leaving),
        )
        refusals = judgement.refusals
        reports = [
            plan.report_wanted(judgement, resolution, BoardState.REFUSED) for resolution in refused
        ]
        # Boards that this run has just recorded are reported as recorded.
        paths = {board.path: board for board in wanted}
        binding = [_on_record(r, paths) for r in judgement.resolutions if r not in refused]
        # Before the first write to a driver: whatever happens next, the original is on disk.
        files.write_record(system.paths, left._replace(leaving=(*left.leaving, *leaving)))
        if next_boot:
            given_back = [
                BoardReport.of_unwanted(topology, board, BoardState.LEAVING)._replace(
                    detail="its drivers are restored at the next boot"
                )
                for board in leaving
            ]
            failed = hand_over_remaining(system, topology, left) if leaving else ()
            reports += [
                plan.report_wanted(judgement, resolution, BoardState.RECORDED)
                for resolution in binding
            ]
        else:
            restored = give_back(system, topology, known, leaving, left)
            # What could not be restored, since it is in use.
            on_record = follow(restored.topology, files.read_record(system.paths) or Record())
            others = [r.board for r in on_record if r.board and r.board.path not in paths]
            bound = boot.bind_boards(
                system, restored.topology, binding, judgement.plan, require, others=others
            )
            topology = bound.topology
            failed = bound.errors
            reports += bound.reports
            given_back = restored.reports
            refusals += restored.refusals + bound.refusals
        listed = files.read(system.paths.early_list) != before
        return Report(
            "apply",
            require,
            (*reports, *kept, *given_back),
            refusals,
            (*errors, *failed),
            ExitCode.UNEXPECTED if failed else code,
            topology,
            (
                *system.boot_notes(),
                *plan.list_claims(system, judgement),
                *system.initramfs_notes(listed=listed),
            ),
        )


def _on_record(resolution: Resolution, known: Mapping[str, RecordedBoard]) -> Resolution:
    if resolution.recorded or not resolution.board:
        return resolution
    return resolution._replace(recorded=known.get(resolution.board.path))
