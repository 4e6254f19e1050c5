"""The kernel's arguments: those that a host needs, and those that defeat them."""

from __future__ import annotations

from deploys import vfio_ids
from deploys.preflight.verdict import Findings
from facts.kernel import CommandLines, Module

KERNEL_ARGUMENTS = {"DMAR": ("intel_iommu=on", "iommu=pt"), "IVRS": ("iommu=pt",)}


def ids_argument(models: tuple[str, ...], modules: dict[str, Module], theirs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A vfio-pci that is built into the kernel (Ubuntu's) reads no file of /etc/modprobe.d."""
    return vfio_ids.argument(models, theirs, "vfio_pci" in modules and modules["vfio_pci"].kind == "built-in")


def judge_lines(lines: CommandLines | None, found: Findings) -> None:
    """Refuse arguments that no later one takes back."""
    if lines is not None and any("iommu=off" in line for line in lines.configured):
        found.refusals.append(
            "the boot loader passes iommu=off, which no later argument takes back. Remove it where it was set "
            "(/etc/default/grub, or grubby --update-kernel=ALL --remove-args=iommu=off), then run again."
        )
