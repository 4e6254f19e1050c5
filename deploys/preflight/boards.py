"""The chosen boards, and the problems with binding them."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.boards import describe_missing, explain_refusal, is_supported
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS
from deploys.assessment.pending_reboot import pending
from deploys.assessment.verdict import Findings
from deploys.preflight.state import HostState
from deploys.settings import HostSettings, Settings
from facts.kernel import CommandLines
from pcibind.decide import judgement, plan
from pcibind.decide.judgement import Standing
from pcibind.model.errors import ConfigError
from pcibind.model.pci import Board, Topology
from pcibind.model.request import Configuration


def judge_boards(
    state: HostState, settings: HostSettings, config: Configuration, findings: Findings, *, node: bool = True
) -> tuple[Board, ...]:
    """Return the chosen boards that are present. ``node``: they are for a node."""
    topology, usage, waits = state.topology, state.usage, False
    try:
        resolutions = plan.resolve(topology, config, state.record)
        waits = _waits_for_reboot(state, [each.board for each in resolutions if each.board], node)
        judged = judgement.judge(topology, usage, config, state.record, next_boot=waits)
    except ConfigError as error:
        findings.refusals.append(f"gevulot_boards: {error}")
        judged = judgement.Judgement(config, topology)
    for each in judged.boards:
        if each.standing is Standing.MISSING:
            findings.refuse_host(f"{describe_missing(each.resolution)} {_displays(topology)}")
        if each.standing is Standing.STUCK and not waits:
            findings.refuse_host(
                f"board {each.resolution.label} is blocked by a kernel operation that does not end; expected one "
                "that can be bound. Reboot the host, then run again."
            )
        for closed in each.closed:
            findings.warnings.append(f"{closed.finding}. Nothing is unbound before the reboot, which ends this use.")
    if not config.boards and settings.boards == "supported":
        findings.warnings.append(
            "no supported GPU (RTX 3090, 4090) was found, so "
            f"{'the node will run without one' if node else 'no board is handed over'}; "
            "name other boards in gevulot_boards."
        )
    present = [(each.standing, each.resolution.board) for each in judged.boards if each.resolution.board]
    for standing, board in present:
        if node and not is_supported(board):
            findings.warnings.append(f"board {board.address} ({board.model}) is not a model that the guide supports.")
        if usage is None and standing is not Standing.BOUND:
            findings.refuse_host(
                f"board {board.address}: whether the host uses it could not be read; expected routes, mounts and "
                "disks to be readable. Connect as root or with sudo."
            )
    for refusal in judged.refusals:
        findings.refuse_host(explain_refusal(refusal))
    for board in judged.taken:
        findings.warnings.append(
            f"board {board.address} ({board.path}) is not chosen, but an older list in the initramfs gave it to "
            "vfio-pci at this boot; the initramfs of this run leaves it to the host from the next boot on."
        )
    return tuple(board for _, board in present)


def judge_functions(boards: Iterable[Board], settings: Settings, findings: Findings) -> None:
    """Refuse boards of which a node would list nothing."""
    for board in boards:
        if settings.gpu_functions == "display" and not board.display_functions:
            findings.refusals.append(
                f"board {board.address} ({board.model}) has no display function, so there is nothing to list for the "
                "node. Set gevulot_gpu_functions to 'all', or choose another board."
            )


def _displays(topology: Topology) -> str:
    displays = [board for board in topology.boards() if board.display_functions]
    there = ", ".join(f"{board.address} ({board.model}, {board.path})" for board in displays)
    return f"Boards with a display function: {there or 'none'}."


def _waits_for_reboot(state: HostState, boards: list[Board], node: bool) -> bool:
    """Whether a reboot binds the boards, so that none is unbound before it."""
    arguments = KERNEL_ARGUMENTS.get(state.platform.iommu_table or "", ())
    lines = state.lines or CommandLines(arguments, ())
    return bool(pending(lines, arguments, state.topology, [board.path for board in boards], node=node))
