"""The host's own boot again: its modules, its kernel arguments, its initramfs, and the reboot into them."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from deploys.assessment import comparison, next_boot
from deploys.manifest import GRUB_DROP_IN, MODULE_FILES
from deploys.operations.planning import step, will_follow
from deploys.operations.reboot import RebootRequest, reboot_as_allowed
from deploys.operations.restore import remove_empty_directories, restore_former_files, restore_or_remove
from deploys.restoration.start import Undo
from deploys.steps import initramfs
from deploys.steps.kernel import old_drop_in_removed
from facts.baseline import Baseline
from facts.kernel import KernelCommandLine


@operation()
def menu_restored(past: Baseline, inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Write GRUB's menu anew when it is not what its sources say, or still has arguments of a deploy.

    + past: the host before its first deploy
    + inputs: operations of this run that take away or bring back what the menu is made from
    """
    lines = host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path)
    left = set(comparison.left_in_menu(lines, past)) - set(lines.made or ())
    if not will_follow(inputs) and not left and not next_boot.outdated(lines):
        host.noop("GRUB's menu is what its sources say")
        return
    yield "PATH=$PATH:/usr/sbin:/sbin update-grub"


@operation()
def entries_restored(past: Baseline) -> Generator[PyinfraCommand | str, None, None]:
    """Take from every boot entry, with grubby, the arguments that no entry had before the first deploy.

    + past: the host before its first deploy
    """
    command = comparison.grubby(host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path), past)
    if command is None:
        host.noop("no boot entry has an argument of a deploy")
        return
    yield command


@step("Restore the modules")
def restore_modules(undo: Undo) -> list[OperationMeta]:
    """Before the boards go back: a driver that is kept off could not take its board."""
    return [
        *(restore_or_remove(undo.past, path) for path in host.loop(undo.paths(MODULE_FILES))),
        restore_former_files(
            name="Remove the files of earlier versions",
            past=undo.past,
            paths=undo.former_modules,
            archive=undo.past.archive,
        ),
    ]


class Arguments(NamedTuple):
    """The operation that restores the boot menu or entries, and all those of the step."""

    menu: OperationMeta
    changes: list[OperationMeta]


@step("Restore the kernel's arguments")
def restore_arguments(undo: Undo) -> Arguments:
    past, changes = undo.past, []
    if undo.family.boot == "grub":
        drop_ins = [
            *(restore_or_remove(past, path) for path in host.loop(undo.drop_ins)),
            old_drop_in_removed(name="Remove the drop-in of the first versions", archive=past.archive),
        ]
        changes += drop_ins
        if past.made("/etc/default/grub.d"):
            changes.append(
                remove_empty_directories(
                    name="Remove GRUB's empty directory", directories=("/etc/default/grub.d",), inputs=drop_ins
                )
            )
        menu = menu_restored(name="Restore GRUB's menu", past=past, inputs=drop_ins)
    else:
        menu = entries_restored(name="Restore the boot entries with grubby", past=past)
    notes = [files.file(name=f"Remove {path}", path=path, present=False) for path in host.loop(undo.notes)]
    return Arguments(menu, [menu, *changes, *notes])


@step("Rebuild the initramfs")
def rebuild_initramfs(undo: Undo, after: list[OperationMeta]) -> OperationMeta:
    """After the early list is gone: an initramfs with it would take the boards at the next boot."""
    generator = undo.family.initramfs
    return initramfs.current(name=f"Rebuild the initramfs with {generator}", generator=generator, inputs=after)


@step("Reboot when needed")
def reboot_when_left_over(undo: Undo, after: list[OperationMeta]) -> None:
    settings = undo.settings
    request = RebootRequest(settings.reboot_timeout, undo.reasons, lambda: None, at_once=settings.reboot_batch)
    advice = "The boards are back on their drivers; reboot the host, then run the undo again to compare it."
    reboot_as_allowed(settings.reboot, request, advice, after)
