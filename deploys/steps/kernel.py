"""Modules to load, drivers to keep off, who may open VFIO devices, and the kernel's arguments."""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import server

from deploys.assessment import next_boot, vfio_ids
from deploys.assessment.kernel_arguments import is_ids, lacking
from deploys.assessment.legacy_files import DROP_IN, REQUEST
from deploys.assessment.next_boot import OLD_DROP_IN, OLD_MARK
from deploys.manifest import ARCHIVE, ARGUMENTS, BLACKLIST, FORMER_NAMES, GRUB_DROP_IN, MODULES_LOAD, VFIO_RULE
from deploys.operations.files import Files
from deploys.operations.planning import step, will_follow
from deploys.operations.restore import is_same, restore_former_files
from deploys.steps.preflight import GpuHost
from facts.baseline import Baseline
from facts.kernel import CommandLines, KernelCommandLine, KernelModules
from facts.output import FirstLine


@operation()
def grub_arguments(
    arguments: tuple[str, ...], inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when an entry of it is not what its sources say.

    + arguments: kernel arguments that every entry must end up with
    + inputs: operations of this run that write what the menu is made from
    """
    if not will_follow(inputs) and _is_current(host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path), arguments):
        host.noop("GRUB's menu is what its sources say")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


def _is_current(lines: CommandLines, arguments: tuple[str, ...]) -> bool:
    if lines.made is not None:
        return not next_boot.outdated(lines)
    return bool(lines.configured) and not any(lacking(line, arguments) for line in lines.configured)


@operation()
def old_drop_in_removed(archive: str = ARCHIVE) -> Generator[PyinfraCommand | str, None, None]:
    """Take back the drop-in of the first versions, and no other file of its name.

    + archive: the files of the host before its first deploy
    """
    first = host.get_fact(FirstLine, program=f"head -n1 {OLD_DROP_IN} 2>/dev/null || true")
    if first != OLD_MARK or is_same(archive, OLD_DROP_IN):
        host.noop(f"{OLD_DROP_IN} is not of an earlier deploy")
        return
    inner = OLD_DROP_IN.lstrip("/")
    yield f"tar -C / -xpf {archive} {inner} 2>/dev/null || rm -f {OLD_DROP_IN}"


@operation()
def grubby_arguments(
    arguments: tuple[str, ...], known: tuple[str, ...], past: Baseline | None
) -> Generator[PyinfraCommand | str, None, None]:
    """Set arguments on every boot entry with grubby, which also keeps them for kernels installed later.

    + arguments: kernel arguments that every entry must end up with
    + known: those that deploys set until now
    + past: the host before its first deploy
    """
    command = vfio_ids.grubby(host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path), arguments, known, past)
    if not command:
        host.noop("every boot entry has the arguments")
        return
    yield command


@operation()
def arguments_recorded(
    arguments: tuple[str, ...], known: tuple[str, ...], past: Baseline | None
) -> Generator[PyinfraCommand | str, None, None]:
    """Record which kernel arguments deploys set, before they are set: an undo takes away these and no others.

    + arguments: those of this run
    + known: those until now
    + past: the host before its first deploy
    """
    every = tuple(dict.fromkeys((*known, *arguments)))
    if past is not None and past.arguments == every:
        host.noop(f"{ARGUMENTS} holds the arguments")
        return
    lines = " ".join(shlex.quote(each) for each in every)
    yield f"printf '%s\\n' {lines} >{ARGUMENTS}.new && sync {ARGUMENTS}.new && mv {ARGUMENTS}.new {ARGUMENTS}"


@step("Configure the kernel")
def configure_kernel(gpu_host: GpuHost) -> list[OperationMeta]:
    """Returns the operations that write what an initramfs holds."""
    verdict = gpu_host.verdict
    # There the models are together with those of the host's own (deploys/assessment/vfio_ids.py).
    on_line = any(is_ids(each) for each in verdict.kernel_arguments)
    files = Files()
    server.group(name="Add the group kvm", group="kvm", system=True)
    former = [path for path in verdict.former if path not in (DROP_IN, REQUEST)]
    of_all = tuple(path for path in former if path not in FORMER_NAMES.values())
    of_nodes = tuple(path for path in former if path not in of_all)
    written = [
        # First: the files of later names say that it was done.
        restore_former_files(name="Remove the files of the first versions", past=verdict.past, paths=of_all),
        files.template(VFIO_RULE),
        files.template(MODULES_LOAD, modules=verdict.modules),
        files.template(BLACKLIST, modules=verdict.blacklist, models=() if on_line else verdict.models),
        restore_former_files(name="Remove the files of earlier versions", past=verdict.past, paths=of_nodes),
    ]
    arguments_recorded(
        name="Record the kernel's arguments",
        arguments=verdict.kernel_arguments, known=verdict.set_arguments, past=verdict.past,
    )  # fmt: skip
    if gpu_host.family.boot == "grub":
        inputs = [
            files.template(GRUB_DROP_IN, arguments=verdict.kernel_arguments),
            old_drop_in_removed(name="Remove the drop-in of the first versions"),
            # Only now: with both the arguments are there twice, and with neither they are missing.
            restore_former_files(
                name="Remove the drop-in of earlier versions",
                past=verdict.past,
                paths=tuple(path for path in verdict.former if path == DROP_IN),
            ),
        ]
        grub_arguments(name="Switch the IOMMU on in GRUB", arguments=verdict.kernel_arguments, inputs=inputs)
    else:
        grubby_arguments(
            name="Switch the IOMMU on with grubby",
            arguments=verdict.kernel_arguments, known=verdict.set_arguments, past=verdict.past,
        )  # fmt: skip
    return written


@operation()
def loaded(modules: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Load the modules that the next boot would load anyway, where no reboot was needed.

    + modules: names with underscores
    """
    modules_now = host.get_fact(KernelModules, modules=modules)
    missing = [name for name in modules if name not in modules_now or not modules_now[name].loaded]
    if not missing:
        host.noop("the modules are loaded")
        return
    yield f"PATH=$PATH:/usr/sbin:/sbin modprobe -a {' '.join(missing)}"


@step("Load modules")
def load_modules(gpu_host: GpuHost) -> None:
    loaded(name="Load the modules that the next boot would load", modules=gpu_host.verdict.all_modules)
