"""Files that earlier versions wrote under other names than today's. Pure: which of them are still ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from deploys.manifest import BLACKLIST, FORMER_NAMES, GRUB_DROP_IN, NEW_NAMES, PCIBIND_BOARDS, RECORD, VFIO_RULE
from facts.baseline import Baseline, DeployRemains
from facts.file import FileText

# Of the first versions, under names that others use too. Path → everything that a version wrote there, and nothing
# that anybody added to it.
_OF_ALL = {
    "/etc/modprobe.d/nvidia.conf": (
        r"# The boards belong to virtual machines: keep the host's drivers off them\.\n"
        r"(?:# An NVIDIA board stays with the host, so nothing is blacklisted here; "
        r"pcibind's driver override decides alone\.\n|(?:blacklist [a-z_-]+\n)+)"
    ),
    "/etc/modprobe.d/vfio.conf": (
        r"# Binding is per device, by pcibind's driver override\.\n"
        r"(?:# Asked for by gevulot_vfio_ids: [^\n]+\noptions vfio-pci ids=[0-9a-f:,]+\n)?"
    ),
    "/etc/modules-load.d/vfio.conf": (
        r"# PCI passthrough for the Gevulot node\. Only modules that this kernel has\.\n(?:[a-z0-9_]+\n)*"
    ),
    "/etc/modules-load.d/vsock.conf": (
        r"# Sockets between the Gevulot node and its virtual machines\. Only modules that this kernel has\.\n"
        r"(?:[a-z0-9_]+\n)*"
    ),
    "/etc/udev/rules.d/99-vfio.rules": r'SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"\n',
}
# Of later versions, under names of a node's.
_OF_NODES = {
    FORMER_NAMES[BLACKLIST.path]: (
        r"# The chosen boards belong to virtual machines: [^\n]+\n(?:# [^\n]+\n)+(?:blacklist [\w-]+\n)*"
        r"(?:# Asked for by gevulot_vfio_ids: [^\n]+\noptions vfio-pci ids=[0-9a-f:,]+\n)?"
    ),
    FORMER_NAMES[VFIO_RULE.path]: r'SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"\n',
    FORMER_NAMES[GRUB_DROP_IN.path]: (
        r"# Written by the Gevulot deploy: [^\n]+\n(?:(?:#|GRUB_CMDLINE|for gevulot_last|if|  GRUB_CMDLINE)[^\n]*\n)+"
        r"fi\nunset gevulot_last\n"
    ),
    FORMER_NAMES[PCIBIND_BOARDS.path]: (
        r"# Boards that pcibind hands to vfio-pci\.\n"
        r'(?:|\[\[board\]\]|(?:require_boards|name|address|path|model) = "[^"\n]*"|allow = \[[^\]\n]*\]|\n)+'
    ),
}
_WRITTEN = _OF_ALL | _OF_NODES
FORMER = tuple(_WRITTEN)
# What is asked for: a host with the file of a later name was converted, and what has a name of all since is not ours.
ASKED = (*FORMER, BLACKLIST.path)
_LATER = (FORMER_NAMES[BLACKLIST.path], BLACKLIST.path)
# Each goes in the step that writes what is in its place now.
DROP_IN = FORMER_NAMES[GRUB_DROP_IN.path]
REQUEST = FORMER_NAMES[PCIBIND_BOARDS.path]


def ours(texts: Mapping[str, FileText], past: Baseline | None) -> tuple[str, ...]:
    """Those that a deploy wrote: the host has a record of one, and nobody has replaced or changed the file since.

    On a host that only earlier versions deployed, and until its move to today's names has ended, files of a node's
    names are theirs, whatever is in them now: each of their runs replaced them, and their undo removed them. One that
    led somewhere was written through, and is a link still; it and its target are for a person to judge.
    """
    if past is None:
        return ()
    converted = any(path in texts for path in _LATER)
    paths = [path for path in _OF_ALL if not converted and path in texts and _is_written(path, texts)]
    whatever = past.is_former or past.renaming
    paths += [path for path in _OF_NODES if path in texts and (whatever or _is_written(path, texts))]
    return tuple(path for path in paths if not texts[path].link)


def name_of(past: Baseline, path: str) -> str:
    """What a file of today's manifest is called on a host as it was deployed."""
    return FORMER_NAMES.get(path, path) if past.is_former else path


def names_of(past: Baseline, paths: Iterable[str]) -> tuple[str, ...]:
    """As ``name_of``, for many files, without those that no deploy wrote on this host: they are somebody else's."""
    foreign = set(NEW_NAMES).difference(FORMER_NAMES) if past.is_former else ()
    return tuple(name_of(past, path) for path in paths if path not in foreign)


def written_through(texts: Mapping[str, FileText], past: Baseline | None) -> tuple[str, ...]:
    """What to say of links that an earlier version wrote through, a sentence each."""
    if past is None or any(path in texts for path in _LATER):
        return ()
    return tuple(
        f"{path} is a link, and an earlier deploy wrote through it into {texts[path].link}, whose previous content is "
        "not on record; expected that file as its package has it. Reinstall the package "
        f"(dpkg -S {texts[path].link} or rpm -qf {texts[path].link} names it), or restore the file from a backup."
        for path in _OF_ALL
        if path in texts and texts[path].link and _is_written(path, texts)
    )


def damaged(remains: DeployRemains) -> str:
    """The sentence about a record of the host before its first deploy that nobody can read."""
    return (
        f"{RECORD} cannot be read ({remains.damaged}); expected the record that the first deploy wrote. Restore it "
        "from a backup: nothing else has the previous state of the host."
    )


def _is_written(path: str, texts: Mapping[str, FileText]) -> bool:
    return re.fullmatch(_WRITTEN[path], texts[path].content) is not None
