"""Whether a host needs a reboot before its boards can be handed over. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from facts.kernel import CommandLines, effective
from pcibind.model import Topology

# Drivers whose unbind may never return while anything uses them: they are kept off by a reboot, never by force.
_HOLD_ON = frozenset({"nvidia", "nouveau", "nova_core"})


def pending(lines: CommandLines, arguments: tuple[str, ...], topology: Topology, boards: Iterable[str]) -> list[str]:
    """Why the live state needs a reboot, in words; empty when it does not.

    ``boards`` are the bridge-relative paths of the chosen boards, which no renumbering changes. A node without boards
    needs no IOMMU, and so no reboot.
    """
    reasons = []
    paths = list(boards)
    if not paths:
        return []
    if not effective(lines.live, arguments):
        reasons.append(f"the kernel does not run with {' '.join(arguments)}")
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
