"""Other users of the chosen boards: refuse those that take a board away, warn of those that may."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.verdict import Findings
from deploys.settings import HostSettings
from facts.claims import Claim, ClaimKind
from pcibind.model.pci import DRIVER, Board


def judge_claims(claims: Iterable[Claim], boards: Iterable[Board], settings: HostSettings, findings: Findings) -> None:
    """Report each file that claims a chosen board, or may claim one."""
    boards = tuple(boards)
    for claim in claims:
        if claim.source == "/proc/cmdline" and claim.driver == DRIVER and settings.vfio_ids:
            continue  # asked for by gevulot_vfio_ids, where vfio-pci is built into the kernel
        if claim.kind is ClaimKind.FILE and not claim.places and not claim.models and boards:
            findings.warnings.append(
                f"{claim.source} binds PCI devices to a driver, and does not name them; expected that only pcibind "
                "binds the chosen boards. Make sure that it leaves them alone."
            )
        for board in boards:
            named = _named(claim, board)
            if named:
                _judge(claim, f"{named} of board {board.address}", findings)


def _named(claim: Claim, board: Board) -> str:
    """The functions and models of a board that a claim names, as text; empty for none."""
    names = [
        str(function.address)
        for function in board.functions
        if not claim.places.isdisjoint({str(function.address), str(function.address).rpartition(".")[0]})
    ]
    names += sorted(claim.models & {function.model for function in board.functions})
    return ", ".join(names)


def _judge(claim: Claim, what: str, findings: Findings) -> None:
    guest = claim.source.rpartition("/")[2].rpartition(".")[0]
    match claim.kind:
        case ClaimKind.DRIVERCTL if claim.driver != DRIVER:
            findings.refuse_host(
                f"{claim.source} gives {what} to the driver {claim.driver or '(none)'} at each boot; expected no "
                "override of driverctl's, because it takes the board away. Run `driverctl unset-override` "
                "for it on the host, or leave the board out of gevulot_boards."
            )
        case ClaimKind.DRIVERCTL:
            findings.warnings.append(
                f"{claim.source} gives {what} to {DRIVER} too, so the board would stay with it after an undo. Run "
                "`driverctl --nosave unset-override` for it once pcibind has it, and remove the file."
            )
        case ClaimKind.LIBVIRT if claim.acts_at_boot:
            findings.refuse_host(
                f"{claim.source}: libvirt's machine {guest} has {what}, and runs or starts with the host; expected one "
                f"user of a board. Stop it and switch its start off (virsh autostart --disable {guest}), or leave the "
                "board out of gevulot_boards."
            )
        case ClaimKind.PROXMOX if claim.acts_at_boot:
            findings.refuse_host(
                f"{claim.source}: Proxmox' machine {guest} has {what}, and starts with the host (onboot: 1); expected "
                f"one user of a board. Run `qm set {guest} --onboot 0`, or leave the board out of gevulot_boards."
            )
        case ClaimKind.LIBVIRT | ClaimKind.PROXMOX:
            findings.warnings.append(
                f"{claim.source}: the virtual machine {guest} has {what}; its start would take the board "
                "away. Remove the device from that machine, or do not start it."
            )
        case ClaimKind.FILE:
            driver = f"the driver {claim.driver}" if claim.driver else "a driver"
            findings.warnings.append(
                f"{claim.source} binds {what} to {driver} by its own means; expected pcibind alone, which also "
                "restores the original driver. Remove it, then rebuild the initramfs."
            )
