"""Giving boards back: the drivers and overrides from before they were chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from pcibind import guards, stuck
from pcibind.errors import NotBoundError, StuckError
from pcibind.evidence import Evidence
from pcibind.host import Host
from pcibind.model import Board, Function, Topology
from pcibind.plan import Verdict
from pcibind.record import RecordedBoard, RecordedFunction
from pcibind.refusal import Refusal
from pcibind.report import BoardReport, State
from pcibind.restore import restore


def check(topology: Topology, recorded: RecordedBoard, evidence: Evidence) -> list[Refusal]:
    """Refuse to take a board from under a process that has its VFIO group open."""
    board = topology.board_at(recorded.path)
    return guards.check_open(board, evidence) if board and ours(board, recorded) else []


def give_back(host: Host, topology: Topology, recorded: RecordedBoard) -> BoardReport:
    """Restore each function of a recorded board that is still there, and say how it went.

    A device that has come in its place is left alone. Raises nothing for what the machine does.
    """
    report = report_on(topology, recorded, State.RELEASED)
    board = topology.board_at(recorded.path)
    if board is None:
        return replace(report, state=State.GONE)
    state = State.RELEASED
    changed = False
    problems = []
    for function, old in ours(board, recorded):
        if stuck.is_stuck(host.paths, function.address):
            state = State.STUCK
            problems.append(f"{function.address}: an earlier access still waits; reboot")
            continue
        try:
            changed |= restore(
                host.paths, host.writer, function.address, old.driver, old.driver_override
            )
        except StuckError as error:
            state = State.STUCK
            with contextlib.suppress(OSError):
                stuck.mark(host.paths, function.address, error)
            problems.append(f"{function.address}: {error}; it is left alone now, reboot")
        except (NotBoundError, OSError) as error:
            state = State.STUCK if state is State.STUCK else State.FAILED
            problems.append(str(error))
    return replace(report, state=state, changed=changed, detail="; ".join(problems))


def report_on(topology: Topology, recorded: RecordedBoard, state: State) -> BoardReport:
    """A report on a recorded board that is not wanted any more."""
    board = topology.board_at(recorded.path)
    verdict = Verdict.ABSENT
    if board is not None:
        same = board.identities == recorded.identities
        verdict = Verdict.PRESENT if same else Verdict.REPLACED
    return BoardReport(
        recorded.name,
        recorded.path,
        recorded.selector,
        verdict,
        state,
        board,
        recorded,
        wanted=False,
    )


def ours(board: Board, recorded: RecordedBoard) -> Sequence[tuple[Function, RecordedFunction]]:
    """Those functions at a recorded board's place that are what was recorded."""
    return [
        (function, old)
        for function in board.functions
        if (old := recorded.function(function.number)) is not None
        and old.identity == function.identity
    ]
