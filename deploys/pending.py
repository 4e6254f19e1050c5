"""Whether a host needs a reboot: before its boards can be handed over, or after they were given back. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.kernel_arguments import KERNEL_ARGUMENTS
from facts.kernel import CommandLines, effective
from pcibind.model import Topology

# Drivers whose unbind may never return while anything uses them: they are kept off by a reboot, never by force.
_HOLD_ON = frozenset({"nvidia", "nouveau", "nova_core"})
# The argument of gevulot_vfio_ids, whose value is the operator's.
IDS = "vfio-pci.ids"
OURS = tuple(dict.fromkeys(argument for arguments in KERNEL_ARGUMENTS.values() for argument in arguments))


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


def added(line: Iterable[str], before: Iterable[str]) -> list[str]:
    """The arguments of a command line that a deploy gives and that were not on it before."""
    known = set(before)
    return [each for each in line if each not in known and (each in OURS or each.startswith(f"{IDS}="))]


def left_over(lines: CommandLines, before: Iterable[str], acted: bool) -> list[str]:
    """Why a released host still needs a reboot, in words; empty when it does not.

    ``before`` are the arguments that the kernel ran with before the first deploy; ``acted`` is whether this boot set
    driver overrides before any driver was loaded.
    """
    reasons = []
    # One that an operator has configured by himself in the meantime would be there after a reboot too.
    gone = [each for each in added(lines.live, before) if not any(each in line for line in lines.configured)]
    if gone:
        reasons.append(f"the kernel runs with {' '.join(gone)}, which is configured no more")
    if acted:
        reasons.append("this boot set driver overrides before any driver was loaded")
    return reasons
