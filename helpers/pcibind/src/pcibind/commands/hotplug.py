"""Boards that come and go while the host runs: what pcibind-hotplug.service does after an event."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from pcibind.change import handover
from pcibind.commands import boot
from pcibind.commands.plan import judge
from pcibind.commands.system import System
from pcibind.decide.plan import follow, plan
from pcibind.model.errors import ConfigError, ExitCode
from pcibind.model.pci import Address, addresses
from pcibind.model.record import Resolution
from pcibind.model.report import SEE_REFUSALS, BoardReport, BoardState, Report
from pcibind.model.request import Refusal
from pcibind.read import files
from pcibind.read.files import Paths

_NOT_ARRIVED = "not bound, since it did not just appear; run `pcibind apply`"


def apply_arrived(system: System) -> Report:
    """Bind recorded boards that have appeared, under apply's guards, and hand over what is proven.

    A board that was unbound by hand is left as it is, and leaves the hand-over. Other boards are
    not touched. Raises RecordError, OSError.
    """
    with system.locked():
        _wait_for_udev(system.paths, system.queue_seconds)
        arrived = _take_events(system.paths)
        known = files.read_record(system.paths)
        if known is None:
            handover.remove(system.paths)
            return Report("apply")
        topology = system.topology()
        resolutions = follow(topology, known)
        planned = plan(topology, [r.board for r in resolutions if r.board])
        steps = {each.board.path for each in planned.boards if each.steps}
        new = [
            r for r in resolutions if r.board and r.board.path in steps and _has_arrived(r, arrived)
        ]
        refusals, errors = _ask_guards(system, new)
        against = (*planned.refusals, *refusals)
        refused = {refusal.board for refusal in against}
        binding = set() if errors else {r.board.path for r in new if r.board} - refused
        left = (steps | refused) - binding
        chosen = [r for r in resolutions if not r.board or r.board.path not in left]
        kept = tuple(each for each in planned.boards if each.board.path not in left)
        taken = boot.bind_boards(
            system,
            topology,
            chosen,
            planned._replace(boards=kept),
            known.require_boards,
            complete=not left,
        )
        reports = list(taken.reports)
        for each in resolutions:
            if each.board and each.board.path in refused:
                reports.append(BoardReport.of(each, BoardState.REFUSED, detail=SEE_REFUSALS))
            elif each.board and each.board.path in left:
                reports.append(BoardReport.of(each, BoardState.UNBOUND, detail=_NOT_ARRIVED))
        files.clear(system.paths.events, ".")
        return Report(
            "apply",
            known.require_boards,
            tuple(reports),
            (*against, *taken.refusals),
            errors,
            ExitCode.CONFIGURATION if errors else ExitCode.OK,
            taken.topology,
        )


def _ask_guards(
    system: System, new: Sequence[Resolution]
) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
    """Ask apply's guards about these boards; return their refusals, and configuration errors."""
    if not new:
        return (), ()
    paths = {r.board.path for r in new if r.board}
    try:
        judged = judge(system)
    except ConfigError as error:
        return (), (str(error),)
    unwanted = paths - {r.board.path for r in judged.resolutions if r.board}
    errors = tuple(
        f"board {path} is no longer configured; run `pcibind apply`" for path in unwanted
    )
    return tuple(refusal for refusal in judged.refusals if refusal.board in paths), errors


def _has_arrived(resolution: Resolution, arrived: frozenset[Address]) -> bool:
    return (
        any(f.address in arrived for f in resolution.board.functions) if resolution.board else False
    )


def _wait_for_udev(paths: Paths, seconds: float) -> None:
    """Wait until udev is idle, so that one run handles all events of one cause."""
    end = time.monotonic() + seconds
    while os.path.exists(paths.udev_queue) and time.monotonic() < end:
        time.sleep(0.05)


def _take_events(paths: Paths) -> frozenset[Address]:
    """The functions that have appeared since the last run that was not killed.

    A file of an event is hidden now and removed at the end: from the path unit, which does not look
    at hidden ones, but not from the next run. Other names are no events, but are hidden too:
    the path unit would start this service for them again and again.
    """
    arrived: frozenset[Address] = frozenset()
    for name in files.names(paths.events):
        if not name.startswith("."):
            os.rename(f"{paths.events}/{name}", f"{paths.events}/.{name}")
        action, _, address = name.lstrip(".").partition(".")
        if action == "add":
            arrived |= addresses([address])
    return arrived
