"""Boards that come and go while the host runs: what pcibind-hotplug.service does after an event."""

from __future__ import annotations

import os
import time
from collections.abc import Set

from pcibind.change import handover
from pcibind.commands import boot
from pcibind.commands.plan import judge_system
from pcibind.commands.system import System
from pcibind.decide.plan import follow, plan
from pcibind.model.errors import ExitCode, PcibindError, RecordError
from pcibind.model.pci import Address, Board, addresses
from pcibind.model.report import SEE_REFUSALS, BoardReport, BoardState, Report
from pcibind.model.request import Refusal
from pcibind.read import files
from pcibind.read.files import Paths

_NOT_ARRIVED = "not bound, since it did not just appear; run `pcibind apply`"
_SEE_ERRORS = "not bound: see the errors"


def apply_arrived(system: System) -> Report:
    """Bind recorded boards that have appeared, under apply's guards, and hand over what is proven.

    A board that was unbound by hand is left as it is, and leaves the hand-over. Other boards are
    not touched, nor is any where the record cannot be read. Raises RecordError, OSError.
    """
    with system.locked():
        _wait_for_udev(system.paths, system.queue_seconds)
        arrived = _take_events(system.paths)
        try:
            known = files.read_record(system.paths)
        except RecordError:
            # Which boards are wanted is not known, but which of them can still be used.
            handover.withdraw(system.paths, system.topology())
            raise
        if known is None:
            _finish_events(system.paths)
            handover.remove(system.paths)
            return Report("apply")
        topology = system.topology()
        resolutions = follow(topology, known)
        planned = plan(topology, [r.board for r in resolutions if r.board])
        to_change = {each.board.path for each in planned.boards if each.rebinds}
        new = {
            r.board.path
            for r in resolutions
            if r.board and r.board.path in to_change and _has_arrived(r.board, arrived)
        }
        allowed: Set[str] = set()
        refusals: tuple[Refusal, ...] = ()
        try:
            allowed, refusals, errors = _ask_guards(system, new)
            code = ExitCode.CONFIGURATION if errors else ExitCode.OK
            is_judged = True
        except (PcibindError, OSError) as error:
            # Boards that are gone must leave the hand-over all the same.
            is_judged = False
            errors = (str(error),)
            code = error.exit_code if isinstance(error, PcibindError) else ExitCode.UNEXPECTED
        against = (*planned.refusals, *refusals)
        refused = {refusal.board for refusal in against}
        binding = allowed - refused
        alone = (to_change | refused) - binding
        bound = boot.bind_boards(
            system,
            topology,
            [r for r in resolutions if not r.board or r.board.path not in alone],
            planned._replace(
                boards=tuple(
                    each if each.board.path in binding else each._replace(steps=())
                    for each in planned.boards
                    if each.board.path not in alone
                )
            ),
            known.require_boards,
            complete=not alone,
        )
        reports = list(bound.reports)
        for each in resolutions:
            path = each.board.path if each.board else None
            if path in refused:
                reports.append(BoardReport.of(each, BoardState.REFUSED, detail=SEE_REFUSALS))
            elif path in alone:
                why = _SEE_ERRORS if path in new else _NOT_ARRIVED
                reports.append(BoardReport.of(each, BoardState.UNBOUND, detail=why))
        # Else the next event is an occasion to ask the guards again.
        if is_judged:
            _finish_events(system.paths)
        return Report(
            "apply",
            known.require_boards,
            tuple(reports),
            (*against, *bound.refusals),
            (*errors, *bound.errors),
            bound.choose_code(code),
            bound.topology,
            left_alone=frozenset(alone - new - refused),
        )


def _ask_guards(
    system: System, new: Set[str]
) -> tuple[Set[str], tuple[Refusal, ...], tuple[str, ...]]:
    """Ask apply's guards about the boards at these paths.

    Returns those of them that are configured, their refusals, and what keeps the others from being
    bound. Raises PcibindError where the guards cannot be asked.
    """
    if not new:
        return new, (), ()
    judged = judge_system(system)
    wanted = {r.board.path for r in judged.resolutions if r.board}
    errors = tuple(
        f"board {path} is no longer configured; run `pcibind apply`"
        for path in sorted(new - wanted)
    )
    refusals = tuple(refusal for refusal in judged.refusals if refusal.board in new)
    return new & wanted, refusals, errors


def _has_arrived(board: Board, arrived: frozenset[Address]) -> bool:
    return any(function.address in arrived for function in board.functions)


def _wait_for_udev(paths: Paths, seconds: float) -> None:
    """Wait until udev is idle, so that one run handles all events of one cause."""
    end = time.monotonic() + seconds
    while os.path.exists(paths.udev_queue) and time.monotonic() < end:
        time.sleep(0.05)


def _take_events(paths: Paths) -> frozenset[Address]:
    """The functions that have appeared since the last run that was not killed.

    The file of an event is renamed to a hidden one, for which the path unit starts nothing, but
    which the next run still reads if this one is killed before `_finish_events`. Other names are no
    events, but are hidden too: the path unit would start this service for them again and again.
    """
    arrived: frozenset[Address] = frozenset()
    for name in files.names(paths.events):
        if not name.startswith("."):
            os.rename(f"{paths.events}/{name}", f"{paths.events}/.{name}")
        action, _, address = name.lstrip(".").partition(".")
        if action == "add":
            arrived |= addresses([address])
    return arrived


def _finish_events(paths: Paths) -> None:
    """Remove the events that `_take_events` hid; those that came since stay."""
    files.clear(paths.events, ".")
