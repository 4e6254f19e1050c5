"""The steps of every host that hands boards over, in their order, whatever takes the boards then."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api.operation import OperationMeta

from deploys.operations.pending_reboot import PendingReboot
from deploys.steps.initramfs import rebuild_initramfs
from deploys.steps.kernel import configure_kernel, load_modules
from deploys.steps.next_boot import check_next_boot
from deploys.steps.passthrough import bind_boards, prepare_passthrough
from deploys.steps.preflight import GpuHost
from deploys.steps.reboot import reboot_when_needed


def prepare_boot(gpu_host: GpuHost, reboot: PendingReboot, also: Iterable[OperationMeta] = ()) -> OperationMeta:
    """From what the host was to a boot that hands the boards over by itself, the reboot into it included.

    ``also`` are operations that write more of what an initramfs holds. Returns the one that records the boards.
    """
    kernel = configure_kernel(gpu_host)
    passthrough = prepare_passthrough(gpu_host, reboot)
    rebuild_initramfs(gpu_host, after=[*also, *kernel, *passthrough.files])
    check_next_boot(gpu_host)
    reboot_when_needed(gpu_host, reboot)
    return passthrough.recorded


def hand_boards_over(gpu_host: GpuHost, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    """Where no reboot is pending any more: the modules run, and the boards are bound. ``after`` chooses the boards."""
    load_modules(gpu_host)
    bind_boards(gpu_host, reboot, after=after)
