"""Which boards are chosen, and what speaks against binding them."""

from __future__ import annotations

from deploys.preflight.state import HostState
from deploys.preflight.verdict import Findings
from deploys.settings import Settings
from pcibind import guards, plan
from pcibind.errors import ConfigError
from pcibind.model import Board, Topology
from pcibind.record import Record
from pcibind.request import BoardRequest, Config, Selector

# Display functions of the supported models, as in the pci.ids database.
SUPPORTED_MODELS = {
    "10de:2204": "GeForce RTX 3090 (GA102)",
    "10de:2684": "GeForce RTX 4090 (AD102)",
}


def is_supported(board: Board) -> bool:
    """Whether the board carries a display function of a model that the guide names."""
    return any(function.model in SUPPORTED_MODELS for function in board.display_functions)


def request(topology: Topology, settings: Settings, record: Record | None) -> Config:
    """What the settings ask of pcibind on this host.

    The default names the supported models that are present, and keeps what the node already follows: a recorded board
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
    return Config(tuple(BoardRequest(selector, allow=allow) for selector in selectors))


def judge_boards(state: HostState, settings: Settings, config: Config, found: Findings) -> tuple[Board, ...]:
    """Return the chosen boards that are present."""
    topology, record, usage = state.topology, state.record, state.usage
    chosen: list[tuple[Board, Selector]] = []
    try:
        resolutions = plan.resolve(topology, config, record)
    except ConfigError as error:
        found.refusals.append(f"gevulot_boards: {error}")
        resolutions = ()
    for resolution in resolutions:
        if resolution.board is not None:
            chosen.append((resolution.board, resolution.selector))
            continue
        displays = [board for board in topology.boards() if board.display_functions]
        there = ", ".join(f"{board.address} ({board.model}, {board.path})" for board in displays)
        found.refusals.append(
            f"the chosen board {resolution.label} is {resolution.verdict}: {resolution.detail}. "
            f"Boards with a display function: {there or 'none'}. Correct gevulot_boards, or fix the hardware."
        )
    if not config.boards and settings.boards == "supported":
        found.warnings.append(
            "no supported GPU (RTX 3090, 4090) was found, so the node will run without one; "
            "name other boards in gevulot_boards."
        )
    for board, selector in chosen:
        if not is_supported(board):
            found.warnings.append(f"board {board.address} ({board.model}) is not a model that the guide supports.")
        if settings.gpu_functions == "display" and not board.display_functions:
            found.refusals.append(
                f"board {board.address} ({board.model}) has no display function, so there is nothing to list for the "
                "node. Set gevulot_gpu_functions to 'all', or choose another board."
            )
        if usage is None:
            found.refusals.append(
                f"board {board.address}: whether the host uses it could not be read; expected routes, mounts and "
                "disks to be readable. Connect as root or with sudo."
            )
            continue
        if all(function.driver == plan.DRIVER for function in board.functions):
            continue  # handed over already, and perhaps at work in a virtual machine: nothing will touch it
        allow = frozenset(settings.board_guards_allowed)
        found.refusals += [str(refusal) for refusal in guards.check(board, usage, allow, selector)]
    return tuple(board for board, _ in chosen)
