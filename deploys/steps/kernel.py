"""Modules to load, drivers to keep off, who may open VFIO devices, and the kernel's arguments."""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import server

from deploys import push
from deploys.planning import will_follow
from deploys.steps.begin import Node
from facts.kernel import KernelCommandLine, KernelModules, effective

# The argument that gevulot_vfio_ids may have set in an earlier run.
_IDS = "vfio-pci.ids"


@operation()
def grub_arguments(
    arguments: tuple[str, ...], inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when an entry of it lacks an argument, or is older than our file.

    + arguments: kernel arguments that every entry must end up with
    + inputs: operations of this run that write what the menu is made from
    """
    lines = host.get_fact(KernelCommandLine)
    settled = lines.configured and not lines.stale and all(effective(line, arguments) for line in lines.configured)
    if settled and not will_follow(inputs):
        host.noop("every GRUB entry has the arguments")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


@operation()
def grubby_arguments(arguments: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Set arguments on every boot entry with grubby, which also keeps them for kernels installed later.

    + arguments: kernel arguments that every entry must end up with
    """
    lines = host.get_fact(KernelCommandLine)
    wants_ids = any(argument.startswith(f"{_IDS}=") for argument in arguments)
    has_ids = any(argument.startswith(f"{_IDS}=") for line in lines.configured for argument in line)
    settled = lines.configured and all(effective(line, arguments) for line in lines.configured)
    if settled and (wants_ids or not has_ids):
        host.noop("every boot entry has the arguments")
        return
    words = ["grubby", "--update-kernel=ALL", f"--args={shlex.quote(' '.join(arguments))}"]
    if has_ids and not wants_ids:
        words.append(f"--remove-args={_IDS}")
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
        inputs = [files.template("/etc/default/grub.d/90-gevulot.cfg", arguments=verdict.kernel_arguments)]
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
