"""The kernel's arguments: those that a host needs, and those that defeat them."""

from __future__ import annotations

from deploys.kernel_arguments import KERNEL_ARGUMENTS as KERNEL_ARGUMENTS
from deploys.preflight.verdict import Findings
from facts.kernel import CommandLines, Module


def ids_argument(models: tuple[str, ...], modules: dict[str, Module]) -> tuple[str, ...]:
    """A vfio-pci that is built into the kernel (Ubuntu's) reads no file of /etc/modprobe.d."""
    if not models or "vfio_pci" not in modules or modules["vfio_pci"].kind != "built-in":
        return ()
    return (f"vfio-pci.ids={','.join(models)}",)


def judge_lines(lines: CommandLines | None, found: Findings) -> None:
    """Refuse arguments that no later one takes back."""
    if lines is not None and any("iommu=off" in line for line in lines.configured):
        found.refusals.append(
            "the boot loader passes iommu=off, which no later argument takes back. Remove it where it was set "
            "(/etc/default/grub, or grubby --update-kernel=ALL --remove-args=iommu=off), then run again."
        )
