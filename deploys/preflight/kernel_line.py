"""The requirements of the next boot: kernel arguments, the kernel, and space for its images."""

from __future__ import annotations

from deploys.assessment import next_boot, reboot_attempt, vfio_ids
from deploys.assessment.pending_reboot import pending
from deploys.assessment.verdict import Findings
from deploys.preflight.state import HostState
from facts.kernel import Module
from pcibind.model.request import OFF


def ids_argument(models: tuple[str, ...], modules: dict[str, Module], theirs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The argument for a vfio-pci that is built into the kernel (Ubuntu's), which reads no file of /etc/modprobe.d."""
    return vfio_ids.argument(models, theirs, "vfio_pci" in modules and modules["vfio_pci"].kind == "built-in")


def judge_lines(state: HostState, wanted: tuple[str, ...], findings: Findings, *, node: bool) -> None:
    """Refuse arguments that ours cannot override, and entries that our changes do not reach."""
    if state.lines is None:
        return
    findings.refusals += next_boot.refusals(state.lines, wanted, state.platform, node=node)
    if wanted and state.lines.made is not None and "grub-efi" in state.platform.boot:
        findings.warnings.append(
            f"an EFI partition has a whole menu of GRUB's (/boot/efi/EFI/*/grub.cfg) beside {state.lines.menu}; "
            "expected one that only points to it. If the firmware starts that one, our arguments are not passed."
        )


def judge_boot(state: HostState, boards_wanted: bool, findings: Findings) -> None:
    """Refuse a host that was booted with its boards switched off. Other hosts continue."""
    if boards_wanted and state.lines is not None and OFF in state.lines.live:
        findings.refuse_host(
            f"this host was booted with {OFF}, which leaves the boards to its own drivers; expected a boot without it. "
            "Reboot it without that argument, then run again."
        )


def judge_kernels(state: HostState, boards_wanted: bool, findings: Findings) -> None:
    """Refuse a next kernel that lacks a module, and a /boot without space for new images."""
    kernels, lines = state.kernels, state.lines
    if kernels is None:
        return
    entry = lines.boots if lines is not None else None
    if boards_wanted and entry is not None and kernels.release_of(entry.kernel) != state.platform.kernel:
        findings.refusals += next_boot.missing_modules(entry, kernels)
    if shortage := next_boot.shortage(kernels):
        # A host that was deployed before may need no new image.
        (findings.warnings if state.attempts.deployed else findings.refusals).append(shortage)


def judge_attempt(
    state: HostState, wanted: tuple[str, ...], boards: tuple[str, ...], findings: Findings, *, node: bool
) -> None:
    """Refuse a reboot that an earlier run did for the same reasons without effect. Other hosts continue."""
    if state.attempts.last is None or state.lines is None:
        return
    reasons = pending(state.lines, wanted, state.topology, boards, node=node)
    digest = reboot_attempt.digest(state.lines, wanted, boards, state.kernels)
    if refusal := reboot_attempt.refusal(state.attempts, reasons, digest):
        findings.refuse_host(refusal)
