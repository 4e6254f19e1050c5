"""Modules to load, drivers to keep off, who may open VFIO devices, and the kernel's arguments."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.command import PyinfraCommand, QuoteString
from pyinfra.operations import server

from deploys import push
from deploys.steps.begin import Node
from facts.kernel import KernelCommandLine, effective


@operation()
def grub_arguments(arguments: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when an entry of it lacks an argument.

    + arguments: kernel arguments that every entry must end up with
    """
    lines = host.get_fact(KernelCommandLine)
    if lines.configured and all(effective(line, arguments) for line in lines.configured):
        host.noop("every GRUB entry has the arguments")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


@operation()
def grubby_arguments(arguments: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Set arguments on every boot entry with grubby, which also keeps them for kernels installed later.

    + arguments: kernel arguments that every entry must end up with
    """
    lines = host.get_fact(KernelCommandLine)
    if lines.configured and all(effective(line, arguments) for line in lines.configured):
        host.noop("every boot entry has the arguments")
        return
    yield StringCommand(
        "grubby", "--update-kernel=ALL", StringCommand("--args=", QuoteString(" ".join(arguments)), _separator="")
    )


@deploy("Configure the kernel")
def configure_kernel(node: Node) -> None:
    verdict = node.verdict
    vsock = [name for name in verdict.modules if "vsock" in name]
    vfio = [name for name in verdict.modules if name not in vsock]
    server.group(name="Add the group kvm", group="kvm", system=True)
    node.initramfs_inputs.extend(
        [
            push.template("/etc/modules-load.d/vfio.conf", modules=vfio),
            push.template("/etc/modules-load.d/vsock.conf", modules=vsock),
            push.template("/etc/modprobe.d/nvidia.conf", nvidia_stays=verdict.nvidia_stays),
            push.template("/etc/modprobe.d/vfio.conf", models=verdict.models),
            push.template("/etc/udev/rules.d/99-vfio.rules"),
        ]
    )
    if node.family.boot == "grub":
        push.template("/etc/default/grub.d/90-gevulot.cfg", arguments=verdict.kernel_arguments)
        grub_arguments(name="Switch the IOMMU on in GRUB", arguments=verdict.kernel_arguments)
    else:
        grubby_arguments(name="Switch the IOMMU on with grubby", arguments=verdict.kernel_arguments)
