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
from deploys.assessment.next_boot import OLD_DROP_IN, OLD_MARK
from deploys.manifest import ARCHIVE, ARGUMENTS, BLACKLIST, GRUB_DROP_IN, MODULES_LOAD, VFIO_RULE
from deploys.operations import files as push
from deploys.operations.planning import step, will_follow
from deploys.operations.restore import taken_back
from deploys.steps.preflight import Node
from facts.baseline import ArchivedFile, Past
from facts.kernel import CommandLines, KernelCommandLine, KernelModules
from facts.output import Said


@operation()
def grub_arguments(
    arguments: tuple[str, ...], inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when an entry of it is not what its sources say.

    + arguments: kernel arguments that every entry must end up with
    + inputs: operations of this run that write what the menu is made from
    """
    if not will_follow(inputs) and _is_current(host.get_fact(KernelCommandLine), arguments):
        host.noop("GRUB's menu is what its sources say")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


def _is_current(lines: CommandLines, arguments: tuple[str, ...]) -> bool:
    if lines.made is not None:
        return not next_boot.outdated(lines)
    return bool(lines.configured) and not any(lacking(line, arguments) for line in lines.configured)


@operation()
def old_drop_in_removed() -> Generator[PyinfraCommand | str, None, None]:
    """Take back the drop-in of earlier deploys, and no other file of its name."""
    first = host.get_fact(Said, program=f"head -n1 {OLD_DROP_IN} 2>/dev/null || true")
    if first != OLD_MARK or host.get_fact(ArchivedFile, archive=ARCHIVE, path=OLD_DROP_IN) == "same":
        host.noop(f"{OLD_DROP_IN} is not of an earlier deploy")
        return
    inner = OLD_DROP_IN.lstrip("/")
    yield f"tar -C / -xpf {ARCHIVE} {inner} 2>/dev/null || rm -f {OLD_DROP_IN}"


@operation()
def grubby_arguments(
    arguments: tuple[str, ...], known: tuple[str, ...], past: Past | None
) -> Generator[PyinfraCommand | str, None, None]:
    """Set arguments on every boot entry with grubby, which also keeps them for kernels installed later.

    + arguments: kernel arguments that every entry must end up with
    + known: those that deploys set until now
    + past: the host before its first deploy
    """
    command = vfio_ids.grubby(host.get_fact(KernelCommandLine), arguments, known, past)
    if not command:
        host.noop("every boot entry has the arguments")
        return
    yield command


@operation()
def arguments_recorded(
    arguments: tuple[str, ...], known: tuple[str, ...], past: Past | None
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
def configure_kernel(node: Node) -> list[OperationMeta]:
    """Returns the operations that write what an initramfs holds."""
    verdict = node.verdict
    # There the models are together with those of the host's own (deploys/assessment/vfio_ids.py).
    on_line = any(is_ids(each) for each in verdict.kernel_arguments)
    files = push.Files()
    server.group(name="Add the group kvm", group="kvm", system=True)
    written = [
        # First: the files of today's names say that it was done.
        taken_back(name="Take back the files of an earlier version", past=verdict.past, paths=verdict.former),
        files.template(VFIO_RULE),
        files.template(MODULES_LOAD, modules=verdict.modules),
        files.template(BLACKLIST, modules=verdict.blacklist, models=() if on_line else verdict.models),
    ]
    arguments_recorded(
        name="Record the kernel's arguments",
        arguments=verdict.kernel_arguments, known=verdict.set_arguments, past=verdict.past,
    )  # fmt: skip
    if node.family.boot == "grub":
        inputs = [
            files.template(GRUB_DROP_IN, arguments=verdict.kernel_arguments),
            old_drop_in_removed(name=f"Remove {OLD_DROP_IN} of an earlier deploy"),
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
    found = host.get_fact(KernelModules, modules=modules)
    missing = [name for name in modules if name not in found or not found[name].loaded]
    if not missing:
        host.noop("the modules are loaded")
        return
    yield f"PATH=$PATH:/usr/sbin:/sbin modprobe -a {' '.join(missing)}"


@step("Load modules")
def load_modules(node: Node) -> None:
    loaded(name="Load the modules for VFIO and vsock", modules=node.verdict.modules)
