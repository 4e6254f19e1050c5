"""Before a reboot: what the boot loader will start is read back, with its kernel and its images. Changes nothing."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from deploys.assessment import next_boot
from deploys.manifest import GRUB_DROP_IN, INITRAMFS_FILES, MODULES
from deploys.operations.pending_reboot import BootTarget, target_of
from deploys.operations.planning import is_planning, step
from deploys.steps.preflight import GpuHost
from deploys.transport import remote
from facts.batch import Part, ask
from facts.initramfs import InitramfsContents
from facts.installed_kernels import InstalledKernels
from facts.kernel import KernelCommandLine
from facts.platform import Platform


@operation()
def checked(target: BootTarget) -> Generator[PyinfraCommand | str, None, None]:
    """Fail the host when its next boot would not bring what it is for.

    + target: what the host must be after it
    """
    if is_planning():
        host.noop("this only checks")
        return
    answers = ask(
        host,
        Part("lines", KernelCommandLine, {"drop_in": GRUB_DROP_IN.path}),
        Part("kernels", InstalledKernels, {"modules": MODULES}),
        Part("platform", Platform, {"directory": "/", "offered": False}),
    )
    lines, kernels = answers["lines"], answers["kernels"]
    problems = next_boot.problems(lines, target.arguments, answers["platform"], kernels, node=target.node)
    entry = lines.boots
    release = kernels.release_of(entry.kernel) if entry else None
    contents = host.get_fact(InitramfsContents, files=INITRAMFS_FILES, release=release)
    problems += [f"after its rebuild, {each}. See what the generator printed." for each in contents.differences]
    if problems:
        yield remote.fail(f"not rebooted, because the check of the next boot failed: {' '.join(problems)}")
    else:
        host.noop("the next boot has what is needed")


@step("Check the next boot")
def check_next_boot(gpu_host: GpuHost) -> None:
    if gpu_host.verdict.boards:
        checked(name="Read back what the boot loader will start", target=target_of(gpu_host.verdict))
