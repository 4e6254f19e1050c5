"""Whether a host needs a reboot: before its boards can be handed over, or after they were given back. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.kernel_arguments import added, defeats, lacking, table_of
from facts.kernel import CommandLines
from pcibind.model.pci import Topology

# Drivers whose unbind may never return while anything uses them: they are kept off by a reboot, never by force.
_HOLD_ON = frozenset({"nvidia", "nouveau", "nova_core"})


def pending(
    lines: CommandLines, arguments: tuple[str, ...], topology: Topology, boards: Iterable[str], *, node: bool = True
) -> list[str]:
    """Why the live state needs a reboot, in words; empty when it does not.

    ``boards`` are the bridge-relative paths of the chosen boards, which no renumbering changes. A host without boards
    needs no IOMMU, and so no reboot. ``node`` says whether it is to be one.
    """
    reasons = []
    paths = list(boards)
    if not paths:
        return []
    if lacking(lines.live, arguments):
        reasons.append(f"the kernel does not run with {' '.join(arguments)}")
    elif against := defeats(lines.live, table_of(arguments), node=node):
        reasons.append(f"the kernel runs with {' '.join(each.argument for each in against)}")
    for path in paths:
        board = topology.board_at(path)
        if board is None:
            continue
        if any(each.iommu_group is None for each in board.functions):
            reasons.append(f"board {board.address} has no IOMMU group")
        for each in board.functions:
            if each.driver in _HOLD_ON:
                reasons.append(f"{each.address} is held by {each.driver}")
    return reasons


def left_over(
    lines: CommandLines, before: Iterable[str], acted: bool, recorded: tuple[str, ...] | None = None
) -> list[str]:
    """Why a host still needs a reboot after its undo, in words; empty when it does not.

    ``before`` are the arguments that the kernel ran with before the first deploy; ``acted`` is whether this boot set
    driver overrides before any driver was loaded; ``recorded`` as in ``added``.
    """
    reasons = []
    # One that an operator has configured by himself in the meantime would be there after a reboot too.
    gone = [each for each in added(lines.live, before, recorded) if not any(each in line for line in lines.configured)]
    if gone:
        reasons.append(f"the kernel runs with {' '.join(gone)}, which is no longer configured")
    if acted:
        reasons.append("this boot set driver overrides before any driver was loaded")
    return reasons
