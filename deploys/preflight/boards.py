"""Which boards are chosen, and what speaks against binding them."""

from __future__ import annotations

from collections.abc import Iterable

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
from pcibind.model.record import Record, Resolution, Verdict
from pcibind.model.request import BoardRequest, Config, Refusal, Selector

# Display functions of the supported models, as in the pci.ids database.
SUPPORTED_MODELS = {
    "10de:2204": "GeForce RTX 3090 (GA102)",
    "10de:2684": "GeForce RTX 4090 (AD102)",
}


def is_supported(board: Board) -> bool:
    """Whether the board carries a display function of a model that the guide names."""
    return any(function.model in SUPPORTED_MODELS for function in board.display_functions)


def request(topology: Topology, settings: HostSettings, record: Record | None) -> Config:
    """What the settings ask of pcibind on this host.

    The default names the supported models that are present, and keeps what the host already follows: a recorded board
    that is gone has to be missed aloud, not forgotten.
    """
    allow = frozenset(settings.board_guards_allowed)
    if settings.boards == "supported":
        supported = [board for board in topology.boards() if is_supported(board)]
        covered = {board.path for board in supported}
        models = {Selector.parse(board.model) for board in supported}
        kept = {board.selector for board in (record or Record()).boards if board.path not in covered}
        selectors = sorted(models | kept, key=str)
    else:
        selectors = [Selector.parse(text) for text in settings.boards]
    # One dead board must not keep a host's others from being handed over at a boot.
    return Config(tuple(BoardRequest(selector, allow=allow) for selector in selectors), "any")


def judge_boards(
    state: HostState, settings: HostSettings, config: Config, found: Findings, *, node: bool = True
) -> tuple[Board, ...]:
    """Return the chosen boards that are present. ``node``: they are for a node."""
    topology, usage, waits = state.topology, state.usage, False
    try:
        resolutions = plan.resolve(topology, config, state.record)
        waits = _waits_for_reboot(state, [each.board for each in resolutions if each.board], node)
        judged = judgement.judge(topology, usage, config, state.record, next_boot=waits)
    except ConfigError as error:
        found.refusals.append(f"gevulot_boards: {error}")
        judged = judgement.Judgement(config, topology)
    for each in judged.boards:
        if each.standing is Standing.MISSING:
            found.refuse_host(f"{missing(each.resolution)} {_displays(topology)}")
        if each.standing is Standing.STUCK and not waits:
            found.refuse_host(
                f"board {each.resolution.label} waits in the kernel for an operation that does not end; expected one "
                "that can be bound. Reboot the host, then run again."
            )
        for closed in each.closed:
            found.warnings.append(f"{closed.finding}. Nothing is unbound before the reboot, which ends this use.")
    if not config.boards and settings.boards == "supported":
        found.warnings.append(
            "no supported GPU (RTX 3090, 4090) was found, so "
            f"{'the node will run without one' if node else 'no board is handed over'}; "
            "name other boards in gevulot_boards."
        )
    present = [(each.standing, each.resolution.board) for each in judged.boards if each.resolution.board]
    for standing, board in present:
        if node and not is_supported(board):
            found.warnings.append(f"board {board.address} ({board.model}) is not a model that the guide supports.")
        if usage is None and standing is not Standing.BOUND:
            found.refuse_host(
                f"board {board.address}: whether the host uses it could not be read; expected routes, mounts and "
                "disks to be readable. Connect as root or with sudo."
            )
    for refusal in judged.refusals:
        found.refuse_host(explain(refusal))
    for board in judged.taken:
        found.warnings.append(
            f"board {board.address} ({board.path}) is not chosen, but an older list in the initramfs gave it to "
            "vfio-pci at this boot; the initramfs of this run leaves it to the host from the next boot on."
        )
    return tuple(board for _, board in present)


def judge_functions(boards: Iterable[Board], settings: Settings, found: Findings) -> None:
    """Refuse boards of which a node would list nothing."""
    for board in boards:
        if settings.gpu_functions == "display" and not board.display_functions:
            found.refusals.append(
                f"board {board.address} ({board.model}) has no display function, so there is nothing to list for the "
                "node. Set gevulot_gpu_functions to 'all', or choose another board."
            )


def explain(refusal: Refusal) -> str:
    """A refusal of pcibind's with what to do, as who writes an inventory says it."""
    remedy = _REMEDIES.get(refusal.guard, refusal.remedy)
    if not refusal.is_overridable:
        return f"{refusal.finding}. {remedy}."
    return f'{refusal.finding}. {remedy}; or, to accept it, add "{refusal.guard}" to gevulot_board_guards_allowed.'


_REMEDIES = {
    "class": "Choose the board by its address in gevulot_boards",
    "foreign-device": "A group goes to one user as a whole: choose that board too in gevulot_boards, or plug one of "
    "the two into a slot with an IOMMU group of its own",
    "stale-initramfs": "Rebuild the initramfs, reboot the host, then run again",
    "vfio-open": "Stop what uses it, then run again",
}


def missing(resolution: Resolution) -> str:
    """What is wrong with a chosen board that is not at its place, and what to do."""
    recorded = resolution.recorded
    label = recorded.path if recorded else str(resolution.selector)
    start = f"the chosen board {label} is {resolution.verdict}"
    if resolution.verdict is not Verdict.ABSENT:
        return f"{start}: {resolution.detail}. Correct gevulot_boards, or fix the hardware."
    if recorded is None:
        return f"{start}: no board has this {resolution.selector.kind}. Correct gevulot_boards, or fix the hardware."
    return (
        f"{start}: nothing is there, last seen as {recorded.address}. Plug it in; or, to go on without it, run "
        f"`pcibind release {recorded.label}` on the host, and do not name it in gevulot_boards."
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
