"""The reboot of a host, where its live state needs one."""

from __future__ import annotations

from functools import partial

from pyinfra import host

from deploys.assessment import reboot_attempt
from deploys.assessment.kernel_arguments import REMAPPING_OFF
from deploys.manifest import GRUB_DROP_IN, MODULES, PCIBIND
from deploys.operations.pending_reboot import BootTarget, PendingReboot, find_reasons, target_of
from deploys.operations.planning import step
from deploys.operations.reboot import RebootRequest, attempt_forgotten, reboot_as_allowed
from deploys.steps.preflight import GpuHost, refused_alone
from facts.batch import Part, ask
from facts.installed_kernels import InstalledKernels
from facts.kernel import InterruptRemapping, KernelCommandLine
from facts.pci import PciBinding


def _handover_problem() -> str | None:
    """What keeps a host that is back from handing its boards over."""
    binding = host.get_fact(PciBinding, program=PCIBIND.path)
    if binding is not None and not binding.bound:
        return f"not every board is bound (pcibind status ends with {binding.exit_code}); see journalctl -b -u pcibind"
    if not host.get_fact(InterruptRemapping):
        return f"interrupt remapping is off, so VFIO would refuse to attach; {REMAPPING_OFF}"
    return None


def _digest(target: BootTarget) -> str:
    answers = ask(
        host,
        Part("lines", KernelCommandLine, {"drop_in": GRUB_DROP_IN.path}),
        Part("kernels", InstalledKernels, {"modules": MODULES}),
    )
    return reboot_attempt.digest(answers["lines"], target.arguments, target.boards, answers["kernels"])


@step("Reboot when needed")
def reboot_when_needed(gpu_host: GpuHost, reboot: PendingReboot) -> None:
    """Reboot, or with ``reboot='never'`` report what is pending."""
    settings, target = gpu_host.settings, target_of(gpu_host.verdict)
    attempt_forgotten(name="Remove the record of a reboot that had its effect", reasons=reboot.reasons)
    request = RebootRequest(
        settings.reboot_timeout,
        reasons=partial(find_reasons, target),
        problem=_handover_problem,
        at_once=settings.reboot_batch,
        digest=partial(_digest, target),
        left_out=refused_alone,
    )
    advice = "Nothing that runs was changed; reboot the host, then run again."
    reboot_as_allowed(settings.reboot, request, advice, after=[])
