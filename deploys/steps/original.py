"""The host's own boot again: its modules, its kernel arguments, its initramfs, and the reboot into them."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys.manifest import MODULE_FILES
from deploys.planning import will_follow
from deploys.steps import differences, initramfs
from deploys.steps.leaving import Leaving
from deploys.steps.putback import emptied, put_back, taken_back
from deploys.steps.reboot import Errand, reboot_rolling, told
from facts.before import Past
from facts.grub import StaleMenu
from facts.kernel import KernelCommandLine

DROP_IN = "/etc/default/grub.d/90-gevulot.cfg"


@operation()
def menu_restored(inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when it is older than what it is made from.

    + inputs: operations of this run that take away or bring back what the menu is made from
    """
    if not will_follow(inputs) and not host.get_fact(StaleMenu):
        host.noop("GRUB's menu is newer than what it is made from")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


@operation()
def entries_restored(past: Past) -> Generator[PyinfraCommand | str, None, None]:
    """Take from every boot entry, with grubby, the arguments that no entry had before the first deploy.

    + past: the host before its first deploy
    """
    command = differences.grubby(host.get_fact(KernelCommandLine), past)
    if command is None:
        host.noop("no boot entry has an argument of a deploy")
        return
    yield command


@deploy("Restore the modules")
def restore_modules(leaving: Leaving) -> None:
    """Before the boards go back: a driver that is kept off could not take its board."""
    for path in host.loop(MODULE_FILES):
        leaving.initramfs_inputs.append(put_back(leaving.past, path))
    leaving.initramfs_inputs.append(
        taken_back(name="Take back the files of an earlier version", past=leaving.past, paths=leaving.former)
    )
    leaving.changes.extend(leaving.initramfs_inputs)


@deploy("Restore the kernel's arguments")
def restore_arguments(leaving: Leaving) -> None:
    past = leaving.past
    if leaving.family.boot == "grub":
        drop_in = put_back(past, DROP_IN)
        leaving.changes.append(drop_in)
        if past.made("/etc/default/grub.d"):
            leaving.changes.append(
                emptied(name="Remove GRUB's empty directory", directories=("/etc/default/grub.d",), inputs=[drop_in])
            )
        menu = menu_restored(name="Restore GRUB's menu", inputs=[drop_in])
    else:
        menu = entries_restored(name="Restore the boot entries with grubby", past=past)
    leaving.boot_inputs.append(menu)
    leaving.changes.append(menu)


@deploy("Rebuild the initramfs")
def rebuild_initramfs(leaving: Leaving) -> None:
    """After the early list is gone: an initramfs with it would take the boards at the next boot."""
    generator = leaving.family.initramfs
    leaving.changes.append(
        initramfs.current(
            name=f"Rebuild the initramfs with {generator}", generator=generator, inputs=leaving.initramfs_inputs
        )
    )


@deploy("Reboot when needed")
def reboot_when_left_over(leaving: Leaving) -> None:
    if leaving.settings.reboot == "never":
        told(
            name="Say which reboot is pending",
            reasons=leaving.reasons,
            advice="The boards are back on their drivers; reboot the host, then run this release again to compare it.",
        )
    else:
        reboot_rolling(Errand(leaving.settings.reboot_timeout, leaving.reasons, lambda: None), leaving.boot_inputs)
