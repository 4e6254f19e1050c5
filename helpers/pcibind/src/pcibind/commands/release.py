"""Giving boards back: the drivers and overrides from before they were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from pcibind.change import boards, handover, original
from pcibind.change.restore import restore
from pcibind.commands.host import Host
from pcibind.decide import guards
from pcibind.decide.plan import DRIVER, compare
from pcibind.model import record
from pcibind.model.errors import ConfigError, ExitCode, NotBoundError, StuckError
from pcibind.model.pci import Function, Topology
from pcibind.model.record import Record, RecordedBoard, RecordedFunction
from pcibind.model.refusal import Refusal
from pcibind.model.report import INITRAMFS_NOTE, BoardReport, Report, State
from pcibind.read import opened, stuck
from pcibind.read.access import Task
from pcibind.read.paths import Paths


def release(host: Host, names: Sequence[str] = ()) -> Report:
    """Give back the boards of these names, paths or addresses; without any, all that are recorded.

    Boards that were taken without being on record count as recorded: their drivers are found by
    what the devices are. Raises ConfigError for an unknown name, before anything is touched;
    RecordError, OSError.
    """
    with host.locked():
        known = record.read(host.paths.record) or Record()
        topology = host.topology()
        stray = original.taken(host.paths, topology, known)
        asked = [b for b in stray if not names or {b.path, str(b.address)} & set(names)]
        unrecorded = host.carry_out([original.before(host.paths, board) for board in asked])
        chosen = _named(known, unrecorded, names)
        refusals = _refusals(host, topology, chosen) if chosen else []
        refusals += _sharing(topology, chosen, [b for b in known.boards if b not in chosen])
        held = {refusal.board for refusal in refusals}
        reports = [report_on(topology, b, State.REFUSED) for b in chosen if b.path in held]
        going = [board for board in chosen if board.path not in held]
        if going or not known.boards:
            # Nobody may start to use what is about to go.
            handover.remove(host.paths)
        listed = False
        if going:
            # Killed from here on, the next boot gives back what is left.
            staying = tuple(b for b in known.boards if b not in going)
            going_soon = tuple(dict.fromkeys((*known.leaving, *going)))
            listed = record.write(host.paths, known._replace(boards=staying, leaving=going_soon))
            listed |= any(board in unrecorded for board in going)
        found = host.carry_out([give_back(host.paths, topology, board) for board in going])
        reports += found
        gone = [b for b, report in zip(going, found, strict=True) if report.is_good]
        busy = [b for b, r in zip(going, found, strict=True) if r.state is State.REFUSED]
        left = known._replace(
            # One that was opened in the meantime stays what it was.
            boards=tuple(b for b in known.boards if b not in going or b in busy),
            # What could not be given back keeps its original drivers on record.
            leaving=tuple(
                dict.fromkeys(
                    b
                    for b in (*known.leaving, *going)
                    if b not in gone and (b not in busy or b in known.leaving)
                )
            ),
        )
        listed |= record.write(host.paths, left)
        back = [at for board in gone if (at := topology.board_at(board.path))]
        original.forget(host.paths, {f.address for board in back for f in board.functions})
        errors = original.tell(board for board in stray if board not in back)
        if going:
            topology = host.topology()
            boards.hand_over_what_stays(host, topology, left)
            reports = [b._replace(board=topology.board_at(b.path or "")) for b in reports]
        return Report(
            "release",
            known.require_boards,
            tuple(reports),
            tuple(refusals),
            errors,
            ExitCode.TAKEN if errors else ExitCode.OK,
            topology,
            (INITRAMFS_NOTE,) if listed else (),
        )


def give_back(
    paths: Paths, topology: Topology, recorded: RecordedBoard, *, booting: bool = False
) -> Task[BoardReport]:
    """Restore each function of a recorded board that is still there, and say how it went.

    A device that has come in its place is left alone, and so is a function that a new driver has by
    now; while `booting`, also one that its driver has not reached yet. A group that is open is not
    touched. Raises nothing for what the machine does.
    """
    report = report_on(topology, recorded, State.RELEASED)
    board = topology.board_at(recorded.path)
    if board is None:
        return report._replace(state=State.GONE)
    mine = [
        (function, old)
        for function, old in guards.ours(board, recorded)
        if not _has_gone_on(function, old, booting)
    ]
    if any(function.driver == DRIVER for function, _ in mine):
        found = yield from opened.groups(paths, [board])
        if found:
            detail = f"IOMMU group {found[0].group} is open, {found[0].holder}; stop that first"
            return report._replace(state=State.REFUSED, detail=detail)
    state = State.RELEASED
    changed = False
    problems = []
    for function, old in mine:
        if stuck.is_stuck(paths, function):
            state = State.STUCK
            problems.append(f"{function.address}: an earlier access still waits; reboot")
            continue
        try:
            changed |= yield from restore(paths, function.address, old.driver, old.driver_override)
        except StuckError as error:
            state = State.STUCK
            stuck.mark(paths, function.address, error)
            problems.append(f"{function.address}: {error}; it is left alone now, reboot")
        except (NotBoundError, OSError) as error:
            state = State.STUCK if state is State.STUCK else State.FAILED
            problems.append(str(error))
    return report._replace(state=state, changed=changed, detail="; ".join(problems))


def _has_gone_on(function: Function, old: RecordedFunction, booting: bool) -> bool:
    """Whether a function is not ours to give back any more: that would take it from its driver."""
    if DRIVER in (function.driver, function.driver_override) or old.driver in (DRIVER, None):
        return False
    return booting if function.driver is None else function.driver != old.driver


def report_on(topology: Topology, recorded: RecordedBoard, state: State) -> BoardReport:
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


def _named(
    known: Record, unrecorded: Sequence[RecordedBoard], names: Sequence[str]
) -> list[RecordedBoard]:
    there = [*known.boards, *known.leaving, *unrecorded]
    if not names:
        return there
    chosen: list[RecordedBoard] = []
    for name in names:
        found = [b for b in there if name in (b.name, b.path, str(b.address))]
        if not found:
            labels = ", ".join(board.label for board in there) or "none"
            raise ConfigError(f"no board {name!r} is on record; expected one of: {labels}")
        chosen += [board for board in found if board not in chosen]
    return chosen


def _sharing(
    topology: Topology, chosen: Sequence[RecordedBoard], staying: Sequence[RecordedBoard]
) -> list[Refusal]:
    """Refuse to split boards that share an IOMMU group: what stays could not be used."""
    return [
        Refusal(
            old.path,
            "shared-group",
            board.address,
            f"it shares an IOMMU group with board {other.label}, which would stay and be useless",
            f"Release both: `pcibind release {old.label} {other.label}`",
        )
        for old in chosen
        for other in staying
        if (board := topology.board_at(old.path))
        and (beside := topology.board_at(other.path))
        and set(board.groups) & set(beside.groups)
    ]


def _refusals(host: Host, topology: Topology, chosen: Sequence[RecordedBoard]) -> list[Refusal]:
    there = [board for old in chosen if (board := topology.board_at(old.path))]
    with host.gathering() as gathering:
        evidence = opened.add_hidden(host, gathering.evidence(), there)
    return [r for board in chosen for r in guards.check_leaving(topology, board, evidence)]
