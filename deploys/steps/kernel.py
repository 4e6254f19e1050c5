"""Modules to load, drivers to keep off, who may open VFIO devices, and the kernel's arguments."""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import server

from deploys import next_boot, push
from deploys.arguments import IDS, lacking
from deploys.next_boot import DROP_IN, OLD_DROP_IN, OLD_MARK
from deploys.planning import will_follow
from deploys.steps.before import ARCHIVE
from deploys.steps.begin import Node
from facts.before import ArchivedFile
from facts.kernel import CommandLines, KernelCommandLine, KernelModules
from facts.said import Said


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
def grubby_arguments(arguments: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Set arguments on every boot entry with grubby, which also keeps them for kernels installed later.

    + arguments: kernel arguments that every entry must end up with
    """
    lines = host.get_fact(KernelCommandLine)
    wants_ids = any(argument.startswith(f"{IDS}=") for argument in arguments)
    has_ids = any(argument.startswith(f"{IDS}=") for line in lines.configured for argument in line)
    settled = lines.configured and not any(lacking(line, arguments) for line in lines.configured)
    if settled and (wants_ids or not has_ids):
        host.noop("every boot entry has the arguments")
        return
    words = ["grubby", "--update-kernel=ALL", f"--args={shlex.quote(' '.join(arguments))}"]
    if has_ids and not wants_ids:
        words.append(f"--remove-args={IDS}")
    yield " ".join(words)


@deploy("Configure the kernel")
def configure_kernel(node: Node) -> None:
    verdict = node.verdict
    vsock = [name for name in verdict.modules if "vsock" in name]
    vfio = [name for name in verdict.modules if name not in vsock]
    files = push.Files()
    server.group(name="Add the group kvm", group="kvm", system=True)
    node.initramfs_inputs.extend(
        [
            files.template("/etc/modules-load.d/vfio.conf", modules=vfio),
            files.template("/etc/modules-load.d/vsock.conf", modules=vsock),
            files.template("/etc/modprobe.d/nvidia.conf", nvidia_stays=verdict.nvidia_stays),
            files.template("/etc/modprobe.d/vfio.conf", models=verdict.models),
            files.template("/etc/udev/rules.d/99-vfio.rules"),
        ]
    )
    if node.family.boot == "grub":
        inputs = [
            files.template(DROP_IN, arguments=verdict.kernel_arguments),
            old_drop_in_removed(name=f"Remove {OLD_DROP_IN} of an earlier deploy"),
        ]
        grub_arguments(name="Switch the IOMMU on in GRUB", arguments=verdict.kernel_arguments, inputs=inputs)
    else:
        grubby_arguments(name="Switch the IOMMU on with grubby", arguments=verdict.kernel_arguments)


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


@deploy("Load modules")
def load_modules(node: Node) -> None:
    loaded(name="Load the modules for VFIO and vsock", modules=node.verdict.modules)
