"""Binding the boards that were found, handing over what is proven, and saying how it went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcibind.change import handover, proof
from pcibind.change.bind import BindResult, Outcome, bind
from pcibind.commands.host import Host
from pcibind.decide.plan import Plan, Resolution, follow
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Record
from pcibind.model.report import BoardReport, State
from pcibind.read import files

_STATES = {
    Outcome.BOUND: State.BOUND,
    Outcome.UNCHANGED: State.BOUND,
    Outcome.FAILED: State.FAILED,
    Outcome.STUCK: State.STUCK,
}


def take(
    host: Host,
    topology: Topology,
    resolutions: Sequence[Resolution],
    plan: Plan,
    require: str,
    *,
    complete: bool = True,
) -> tuple[list[BoardReport], Topology]:
    """Bind each board that is present; return the reports and the topology as it is then.

    `complete` is false when a wanted board was left out of `resolutions`. Raises OSError when the
    hand-over cannot be written.
    """
    if changing := [f"{step.function.address}\n" for each in plan.boards for step in each.steps]:
        # What is changed must not be handed over, should this run be killed; what is not, stays.
        stay = [
            p.board for p in plan.boards if not p.steps and not proof.prove(host.paths, p.board)
        ]
        hand_over(host, stay, require, complete=False)
        # Should the record be lost, it is still known whose overrides are not the host's own.
        files.append(host.paths.taken, "".join(dict.fromkeys(changing)))
    recorded = [r.recorded for r in resolutions if r.recorded]
    tasks = [bind(plans, host.paths, recorded, host.node_seconds) for plans in plan.together()]
    results = {result.board.path: result for found in host.carry_out(tasks) for result in found}
    if any(result.outcome is not Outcome.UNCHANGED for result in results.values()):
        topology = host.topology()
    proven = [result.board for result in results.values() if result.proven]
    everything = complete and len(proven) == len(resolutions)
    hand_over(host, proven, require, complete=everything)
    reports = [
        _report(r, results.get(r.board.path if r.board else ""), topology) for r in resolutions
    ]
    return reports, topology


def hand_over_what_stays(host: Host, topology: Topology, left: Record) -> None:
    """Hand over what is bound of a record, after boards have gone from it. Raises OSError."""
    stay = [r.board for r in follow(topology, left) if r.board]
    proven = [board for board in stay if not proof.prove(host.paths, board)]
    complete = len(proven) == len(left.boards)
    hand_over(host, proven, left.require_boards, complete=complete)


def hand_over(host: Host, proven: Iterable[Board], require: str, *, complete: bool) -> None:
    """Say which boards may be used, or take back what was said. Raises OSError."""
    boards = sorted(proven, key=lambda board: board.address)
    if boards and (complete or require == "any"):
        handover.write(host.paths, boards)
    else:
        handover.remove(host.paths)


def _report(resolution: Resolution, result: BindResult | None, topology: Topology) -> BoardReport:
    if result is None:
        return BoardReport.of(resolution, State.UNBOUND)
    return BoardReport.of(
        resolution,
        _STATES[result.outcome],
        board=topology.board_at(result.board.path),
        changed=result.outcome is not Outcome.UNCHANGED,
        detail=result.detail,
    )
