"""What the firmware left so that a virtual machine's start fails although its board is bound."""

from __future__ import annotations

from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board
from pcibind.model.request import Refusal

_ABOVE_4G = (
    "Switch 'Above 4G decoding' (64-bit BARs, large MMIO) on in the firmware's setup, and boot "
    "without pci=nocrs or pci=realloc=off"
)


def check(board: Board, evidence: Evidence) -> list[Refusal]:
    """Every reason of that kind against a board; each has an override."""
    mine = {function.address for function in board.functions}
    silent = [
        Refusal(
            board.path,
            "no-response",
            function.address,
            f"{function.address} does not answer: its configuration space reads as ones",
            "Switch the host's power off and on; if it stays so, replace the board or leave it out",
        )
        for function in board.functions
        if function.address in evidence.silent
    ]
    reserved = [
        Refusal(
            board.path,
            "reserved-memory",
            None,
            f"the firmware keeps memory of IOMMU group {group} mapped for itself (RMRR, `direct` "
            f"in /sys/kernel/iommu_groups/{group}/reserved_regions), so VFIO cannot have it",
            "Update the firmware, or switch off what reserves it (management of the slot, legacy "
            "USB) in its setup; or use another slot",
        )
        for group in board.groups
        if group in evidence.reserved_groups
    ]
    unassigned = [
        Refusal(board.path, "unassigned-memory", use.address, use.what, _ABOVE_4G)
        for use in evidence.unassigned
        if use.address in mine
    ]
    return silent + reserved + unassigned
