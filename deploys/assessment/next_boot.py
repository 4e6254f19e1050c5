"""What the boot loader starts next, against what is needed: arguments, kernel, modules, images. Pure.

``node`` says everywhere whether the host is to be a node, which more can defeat than the handing over of boards.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator

from deploys.assessment.kernel_arguments import Defeat, added, defeats, lacking
from deploys.manifest import GRUB_DROP_IN
from facts.grub_menu import MenuEntry
from facts.installed_kernels import BootableKernels
from facts.kernel import MARK, CommandLines, is_generated
from facts.platform import HostPlatform
from facts.untrusted import printable

DROP_IN = GRUB_DROP_IN.path
# The name of earlier deploys, and of the guide: other files come after it.
OLD_DROP_IN = "/etc/default/grub.d/90-gevulot.cfg"
# This line identifies a file of earlier deploys; one that somebody wrote by hand lacks it.
OLD_MARK = "# IOMMU for PCI passthrough. The kernel takes the last of each argument."
_VARIABLES = ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT")
_LENGTH = 160


def outdated(lines: CommandLines) -> list[str]:
    """How the menu is unlike what update-grub would write, a sentence for each entry. Empty where that is not known.

    The contents decide, not the times of files. Arguments that others took out of the variables stay a matter of
    theirs, unless they would defeat the node.
    """
    if lines.made is None or not lines.menu or lines.hidden:
        return []
    problems = []
    for entry in lines.entries:
        # An entry that update-grub does not write would never be as its variables say.
        if not _is_written_by_update_grub(entry):
            continue
        lacks = [each for each in lines.made if each not in entry.arguments]
        left = [*added(entry.arguments, lines.made), *(each for each in _against(entry) if each not in lines.made)]
        if lacks or left:
            parts = [f"lacks {' '.join(lacks)}" if lacks else "", f"still has {' '.join(left)}" if left else ""]
            differences = " and ".join(filter(None, parts))
            problems.append(f"{_named(entry)} {differences}; expected it as /etc/default/grub says")
    if lines.made and not lines.entries:
        problems.append(f"no entry of {lines.menu} starts this system")
    return problems


def _against(entry: MenuEntry) -> list[str]:
    """The arguments that would defeat any host."""
    machines = (("DMAR", "vmx"), ("IVRS", "svm"))
    return list(dict.fromkeys(each.argument for machine in machines for each in defeats(entry.arguments, *machine)))


def refusals(lines: CommandLines, wanted: tuple[str, ...], host: HostPlatform, *, node: bool = True) -> list[str]:
    """What no later argument takes back, with the place where it is set and the command that removes it.

    Judged on the line that the next boot will have once our arguments are at its end. Without ``wanted`` the host has
    no boards, and needs no IOMMU.
    """
    entry = lines.boots
    is_made = lines.planned is not None and (entry is None or _is_written_by_update_grub(entry))
    judged = lines.next
    if lines.planned is not None:
        planned = tuple(_replaced(lines.planned, wanted))
        judged = (planned,) if is_made else (planned, *lines.next)
    refusals = {
        defeat.argument: _refusal(defeat, lines, node=node)
        for line in judged
        for defeat in defeats(line if lines.planned is not None else (*line, *wanted), *_machine(host), node=node)
        if wanted or not defeat.of_boards
    }
    if refusals or not wanted:
        return list(refusals.values())
    # A menu that no script is named in will be replaced as a whole.
    if entry is not None and (entry.script or not is_made) and (problem := _structure(lines, entry)):
        return [problem]
    if is_made and (lacks := lacking(judged[0], wanted)):
        return [f"the next boot would lack {' '.join(lacks)}{_assigned(lines)}"]
    if entry is not None and lines.planned is not None and not is_made:
        return _line_problems(lines, entry, wanted, host, node)
    return []


def _replaced(planned: Iterable[str], wanted: tuple[str, ...]) -> Iterator[str]:
    for word in planned:
        yield from wanted if word == MARK else (word,)


def _machine(host: HostPlatform) -> tuple[str | None, str | None]:
    return host.iommu_table, host.virtualisation


def problems(
    lines: CommandLines,
    wanted: tuple[str, ...],
    host: HostPlatform,
    kernels: BootableKernels | None,
    *,
    node: bool = True,
) -> list[str]:
    """Why the next boot would not bring what it is for, a sentence each. Asked after everything was written."""
    if lines.hidden:
        return [f"{lines.hidden} cannot be read, so what boots next is not known. Connect as root or with sudo."]
    entry = lines.boots
    if entry is None:
        if lines.menu:
            return [
                f"could not match an entry: {lines.menu} has none that boots; expected one of this system. See what "
                "wrote that file."
            ]
        return [
            f"a boot entry has `{_shown(' '.join(line))}`; expected it with {' '.join(wanted)}."
            for line in lines.configured
            if lacking(line, wanted)
        ][:1]
    problems = _line_problems(lines, entry, wanted, host, node)
    if not problems and kernels is not None:
        problems += missing_modules(entry, kernels)
    return problems


def missing_modules(entry: MenuEntry, kernels: BootableKernels) -> list[str]:
    """What the kernel of an entry lacks. One whose release is not known is not judged."""
    release = kernels.release_of(entry.kernel)
    if release is None or not kernels.missing:
        return []
    missing = kernels.missing.get(release)
    if missing is None:
        return [
            f"the next boot takes the kernel {release} ({entry.place}), of which /boot or /lib/modules lacks files; "
            "expected both. Reinstall that kernel's packages, or remove its entry and run update-grub."
        ]
    if missing:
        return [
            f"the next boot takes the kernel {release} ({entry.place}), which has no module {', '.join(missing)}. "
            "Install the full package of that kernel (on Ubuntu linux-modules-extra), or boot another one."
        ]
    return []


def _structure(lines: CommandLines, entry: MenuEntry) -> str | None:
    """Why an entry is not a normal boot of this system, or ``None``."""
    what = f"the entry that boots next, {_named(entry)},"
    choose = "Choose another one (GRUB_DEFAULT in /etc/default/grub and update-grub), then run again."
    if lines.made is None:
        choose = "Choose another one (grubby --set-default), then run again."
    if not entry.kernel:
        return f"{what} starts no Linux kernel; expected an entry of this system. {choose}"
    if not lines.is_own(entry):
        root = next((each for each in lines.live if each.startswith("root=")), "")
        return (
            f"could not match an entry: {what} has {_shown(entry.root or 'no root=')}, and this system runs with "
            f"{_shown(root)}; expected an entry of this system. {choose}"
        )
    if entry.is_recovery:
        return f"{what} starts a rescue shell; expected a normal boot. {choose}"
    return None


def _line_problems(
    lines: CommandLines, entry: MenuEntry, wanted: tuple[str, ...], host: HostPlatform, node: bool
) -> list[str]:
    if problem := _structure(lines, entry):
        return [problem]
    against = defeats(entry.arguments, *_machine(host), node=node)
    problems = [_refusal(each, lines, entry, node=node) for each in against]
    if not problems and (lacks := lacking(entry.arguments, wanted)):
        what = f"the entry that boots next, {_named(entry)},"
        problems.append(f"{what} lacks {' '.join(lacks)}{_culprit(lines, entry)}")
    return problems


def _refusal(defeat: Defeat, lines: CommandLines, entry: MenuEntry | None = None, *, node: bool) -> str:
    argument = _shown(defeat.argument)
    places = [each for each in lines.sources if _sets(each.text, defeat.argument) and each.file != DROP_IN]
    # Variables of the shell's may make an argument out of parts.
    name = defeat.argument.partition("=")[0]
    parts = [each for each in lines.sources if name in each.text and _assigns_at_all(each.text)]
    default = entry.place if entry else "none of the files that were read"
    where = ", ".join(each.place for each in (places or parts)[:3]) or default
    # grubby's entries are not to be edited, and update-grub's are made of variables.
    if lines.made is None:
        step = f"grubby --update-kernel=ALL --remove-args={shlex.quote(argument)}"
    elif places:
        pattern = re.sub(r"([\\.*^$\[\]|&])", r"\\\1", argument)
        edits = (f"sed -i {shlex.quote(f'{each.line}s|{pattern}||')} {shlex.quote(each.file)}" for each in places[:3])
        step = " && ".join(edits)
    elif defeat.argument in lines.made:
        step = "edit that line"
    else:
        step = "update-grub"
    return (
        f"the kernel's argument {argument} defeats the {'node' if node else 'host'}: {defeat.why}; expected a line "
        f"without it. It is set in {where}. Remove it ({step}), then run again."
    )


def _culprit(lines: CommandLines, entry: MenuEntry) -> str:
    """Which file and line keep our arguments from an entry, where that is known."""
    if entry.script and not is_generated(entry):
        at = next((each.place for each in lines.sources if each.file == entry.script and "root=" in each.text), "")
        return (
            f": {at or entry.script} has the whole line, which no variable of /etc/default/grub changes. Add them "
            "there, or choose another entry (GRUB_DEFAULT); then run update-grub."
        )
    if is_generated(entry) and "/loader/entries/" in entry.script:
        return ". Add them with grubby --update-kernel=ALL, and see whether $kernelopts or $tuned_params are set."
    return _assigned(lines)


def _assigned(lines: CommandLines) -> str:
    """Which lines take the variables of our drop-in away."""
    files = [each for each in lines.sources if each.file.startswith("/etc/default/grub") and _assigns(each.text)]
    late = [each.place for each in files if each.file > DROP_IN]
    if late:
        return f": after {DROP_IN}, {' and '.join(late)} give their variables a new value. Make them append to it."
    hint = f"; the last line that assigns one is {files[-1].place}" if files else ""
    return f": no variable of {DROP_IN} comes to that entry{hint}. See what update-grub prints, then run again."


def _assigns_at_all(text: str) -> bool:
    return any(f"{name}=" in text for name in _VARIABLES)


def _assigns(text: str) -> bool:
    """Whether a line gives a variable a value of its own, without what it had before."""
    assignment = re.match(r"\s*(?:export\s+)?(\w+)=(.*)", text)
    if assignment is None or assignment[1] not in _VARIABLES:
        return False
    return re.search(rf"\$(?:{assignment[1]}\b|\{{{assignment[1]}\b)", assignment[2]) is None


def _sets(text: str, argument: str) -> bool:
    """Whether a line of a file has an argument as a whole word."""
    return re.search(rf"""(?:^|[\s"'=]){re.escape(argument)}(?=$|[\s"'])""", text) is not None


def _is_written_by_update_grub(entry: MenuEntry) -> bool:
    """A menu that no script is named in was written by an installer: update-grub replaces it."""
    return not entry.script or "/10_linux" in entry.script or "/20_linux_xen" in entry.script


def _named(entry: MenuEntry) -> str:
    return f"'{_shown(entry.title)}' ({entry.place})"


def _shown(text: str) -> str:
    return printable(text, _LENGTH)


def shortage(kernels: BootableKernels) -> str | None:
    """Why /boot has no room for the images that a deploy rebuilds, or ``None``.

    Each is written beside the old one and then renamed, one after the other: the largest one decides, and what all of
    them may grow by.
    """
    if not kernels.images or kernels.boot_free_kib is None:
        return None
    needed = max(kernels.images.values()) + sum(kernels.images.values()) // 10 + 4096
    if kernels.boot_free_kib >= needed:
        return None
    return (
        f"/boot has {kernels.boot_free_kib // 1024} MiB free; expected {needed // 1024 + 1}, to rebuild "
        f"{len(kernels.images)} initramfs images of up to {max(kernels.images.values()) // 1024} MiB. Remove old "
        "kernels (apt-get autoremove --purge, or dnf remove), then run again."
    )
