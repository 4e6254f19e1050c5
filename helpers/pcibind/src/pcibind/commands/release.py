"""Restoring boards: the drivers and overrides that they had before they were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from pcibind.change import handover, original_drivers
from pcibind.commands.restoration import give_back, hand_over_remaining, restore_boards
from pcibind.commands.system import System
from pcibind.model.errors import ConfigError, ExitCode, UsageError
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard, Verdict, compare
from pcibind.model.report import INITRAMFS_NOTE, BoardReport, BoardState, Report, list_use_refusals
from pcibind.model.request import OFF, Refusal, Selector
from pcibind.read import files


def release(system: System, names: Sequence[str] = ()) -> Report:
    """Restore the boards of these names, paths or addresses; without any, all recorded boards.

    Boards that were taken without being on record count as recorded: their drivers are found by
    what the devices are. Raises ConfigError for an unknown name, before anything is touched;
    RecordError, OSError.
    """
    with system.locked():
        known = files.read_record(system.paths) or Record()
        topology = system.topology()
        taken = original_drivers.list_taken(system.paths, topology, known)
        stray = {board.path: board for board in taken}
        as_they_are = [RecordedBoard.of(b, Selector("path", b.path), None) for b in taken]
        chosen = _select(topology, known, as_they_are, names)
        refusals = _refuse_split(topology, chosen, [b for b in known.boards if b not in chosen])
        refused = {refusal.board for refusal in refusals}
        reports = [
            BoardReport.of_unwanted(topology, b, BoardState.REFUSED)
            for b in chosen
            if b.path in refused
        ]
        going = [board for board in chosen if board.path not in refused]
        # Loads modules, so not before all names are known to be right.
        originals = system.carry_out(
            [
                original_drivers.find_original(system.paths, stray[board.path])
                for board in going
                if board.path in stray
            ]
        )
        found = {board.path: board for board in originals}
        going = [found.get(board.path, board) for board in going]
        before = files.read(system.paths.early_list)
        staying = known._replace(
            boards=tuple(b for b in known.boards if b not in going),
            leaving=tuple(b for b in known.leaving if b not in going),
        )
        given_back = give_back(system, topology, known, going, staying)
        back = {report.path for report in given_back.reports if report.is_good}
        errors = original_drivers.explain_taken(board for board in taken if board.path not in back)
        topology = given_back.topology
        failed: tuple[str, ...] = ()
        if going:
            left = files.read_record(system.paths) or Record()
            failed = hand_over_remaining(system, topology, left)
        elif not known.boards:
            handover.remove(system.paths)
        listed = files.read(system.paths.early_list) != before
        listed |= bool(found)
        return Report(
            "release",
            known.require_boards,
            (*reports, *given_back.reports),
            (*refusals, *given_back.refusals),
            (*errors, *failed),
            ExitCode.UNEXPECTED if failed else ExitCode.TAKEN if errors else ExitCode.OK,
            topology,
            (INITRAMFS_NOTE,) if listed else (),
        )


def release_for_this_boot(system: System) -> Report:
    """Give every recorded board to the host's drivers, and leave the record as it is.

    What a blacklist keeps away is loaded, and what an `ids=` option gave to vfio-pci is taken from
    it, unless it is in use. Raises UsageError where pcibind is not off, RecordError, OSError.
    """
    if not system.is_off():
        raise UsageError(
            f"the kernel command line lacks {OFF}, which release --this-boot needs; to "
            "restore boards at any time, run `pcibind release`"
        )
    with system.locked():
        handover.remove(system.paths)
        known = files.read_record(system.paths) or Record()
        topology = system.topology()
        boards = []
        for recorded in (*known.boards, *known.leaving):
            board = topology.board_at(recorded.path)
            if board and compare(board, recorded) is Verdict.PRESENT:
                boards.append((board, recorded))
        originals = system.carry_out(
            [original_drivers.find_original(system.paths, *each) for each in boards]
        )
        reports = restore_boards(system, topology, originals)
        topology = system.topology()
        reports = [each._replace(board=topology.board_at(each.path or "")) for each in reports]
        return Report(
            "release",
            known.require_boards,
            tuple(reports),
            list_use_refusals(reports),
            topology=topology,
            notes=system.boot_notes(),
        )


def _select(
    topology: Topology,
    known: Record,
    unrecorded: Sequence[RecordedBoard],
    names: Sequence[str],
) -> list[RecordedBoard]:
    """Select boards by name, path or current address, as every command prints it.

    An absent board has the address that it had when it was chosen, unless another board on record
    has it now.
    """
    there = [*known.boards, *known.leaving, *unrecorded]
    if not names:
        return there
    now = {board.path: topology.board_at(board.path) for board in there}
    chosen: list[RecordedBoard] = []
    for name in names:
        matches = [
            old
            for old in there
            if name in (old.name, old.path) or ((board := now[old.path]) and board.is_at(name))
        ] or [old for old in there if not now[old.path] and old.address.matches(name)]
        if not matches:
            labels = ", ".join(board.label for board in there) or "none"
            raise ConfigError(f"no board {name!r} is on record; expected one of: {labels}")
        chosen += [board for board in matches if board not in chosen]
    return chosen


def _refuse_split(
    topology: Topology, chosen: Sequence[RecordedBoard], staying: Sequence[RecordedBoard]
) -> list[Refusal]:
    """Refuse to split boards that share an IOMMU group: what stays could not be used."""
    return [
        Refusal(
            old.path,
            "shared-group",
            board.address,
            f"it shares an IOMMU group with board {other.label}, which would be unusable",
            f"Release both: `pcibind release {old.label} {other.label}`",
        )
        for old in chosen
        for other in staying
        if (board := topology.board_at(old.path))
        and (beside := topology.board_at(other.path))
        and set(board.groups) & set(beside.groups)
    ]
