"""Others that lay claim to the chosen boards: what takes a board away is refused, what may do so is told."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.verdict import Findings
from deploys.settings import HostSettings
from facts.claims import Claim, Kind
from pcibind.model.pci import DRIVER, Board


def judge_claims(claims: Iterable[Claim], boards: Iterable[Board], settings: HostSettings, found: Findings) -> None:
    """Name each file that lays claim to a chosen board, or that may."""
    boards = tuple(boards)
    for claim in claims:
        if claim.source == "/proc/cmdline" and claim.driver == DRIVER and settings.vfio_ids:
            continue  # asked for by gevulot_vfio_ids, where vfio-pci is built into the kernel
        if claim.kind is Kind.FILE and not claim.places and not claim.models and boards:
            found.warnings.append(
                f"{claim.source} binds PCI devices to a driver, and does not name them; expected that only pcibind "
                "binds the chosen boards. See that it leaves them alone."
            )
        for board in boards:
            named = _named(claim, board)
            if named:
                _judge(claim, f"{named} of board {board.address}", found)


def _named(claim: Claim, board: Board) -> str:
    """What of a board a claim names, in words; empty when nothing."""
    names = [
        str(function.address)
        for function in board.functions
        if not claim.places.isdisjoint({str(function.address), str(function.address).rpartition(".")[0]})
    ]
    names += sorted(claim.models & {function.model for function in board.functions})
    return ", ".join(names)


def _judge(claim: Claim, what: str, found: Findings) -> None:
    guest = claim.source.rpartition("/")[2].rpartition(".")[0]
    match claim.kind:
        case Kind.DRIVERCTL if claim.driver != DRIVER:
            found.refuse_host(
                f"{claim.source} gives {what} to the driver {claim.driver or '(none)'} at each boot; expected no "
                "override of driverctl's, because it takes the board away. Run `driverctl unset-override` "
                "for it on the host, or leave the board out of gevulot_boards."
            )
        case Kind.DRIVERCTL:
            found.warnings.append(
                f"{claim.source} gives {what} to {DRIVER} too, so the board would not come back at an undo. Run "
                "`driverctl --nosave unset-override` for it once pcibind has it, and remove the file."
            )
        case Kind.LIBVIRT if claim.acts_at_boot:
            found.refuse_host(
                f"{claim.source}: libvirt's machine {guest} has {what}, and runs or starts with the host; expected one "
                f"user of a board. Stop it and switch its start off (virsh autostart --disable {guest}), or leave the "
                "board out of gevulot_boards."
            )
        case Kind.PROXMOX if claim.acts_at_boot:
            found.refuse_host(
                f"{claim.source}: Proxmox' machine {guest} has {what}, and starts with the host (onboot: 1); expected "
                f"one user of a board. Run `qm set {guest} --onboot 0`, or leave the board out of gevulot_boards."
            )
        case Kind.LIBVIRT | Kind.PROXMOX:
            found.warnings.append(
                f"{claim.source}: the virtual machine {guest} has {what}; its start would take the board "
                "away. Take the device out of that machine, or do not start it."
            )
        case Kind.FILE:
            driver = f"the driver {claim.driver}" if claim.driver else "a driver"
            found.warnings.append(
                f"{claim.source} binds {what} to {driver} by its own means; expected pcibind alone, whose undo gives "
                "the board back. Remove it, then rebuild the initramfs."
            )
