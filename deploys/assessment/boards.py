"""Which boards an inventory chooses on a host, and how an operator reads what is wrong with one. Pure."""

from __future__ import annotations

from deploys.settings import HostSettings
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Record, Resolution, Verdict
from pcibind.model.request import BoardRequest, Configuration, Refusal, Selector

# Display functions of the supported models, as in the pci.ids database.
SUPPORTED_MODELS = {
    "10de:2204": "GeForce RTX 3090 (GA102)",
    "10de:2684": "GeForce RTX 4090 (AD102)",
}


def is_supported(board: Board) -> bool:
    """Whether the board carries a display function of a model that the guide names."""
    return any(function.model in SUPPORTED_MODELS for function in board.display_functions)


def request_boards(topology: Topology, settings: HostSettings, record: Record | None) -> Configuration:
    """What the settings ask of pcibind on this host.

    The default selects the supported models that are present, and keeps the recorded boards: one that is gone must be
    reported as missing, not forgotten.
    """
    allow = frozenset(settings.board_guards_allowed)
    if settings.boards == "supported":
        supported = [board for board in topology.boards() if is_supported(board)]
        covered = {board.path for board in supported}
        models = {Selector.parse(board.model) for board in supported}
        kept = {board.selector for board in (record or Record()).boards if board.path not in covered}
        selectors = sorted(models | kept, key=str)
    else:
        selectors = list(settings.boards)
    # A dead board must not prevent the handover of the others at boot.
    return Configuration(tuple(BoardRequest(selector, allow=allow) for selector in selectors), "any")


def explain_refusal(refusal: Refusal) -> str:
    """Describe a refusal of pcibind with the next step in terms of the inventory."""
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


def describe_missing(resolution: Resolution) -> str:
    """Describe why a chosen board is not at its place, and the next step."""
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
