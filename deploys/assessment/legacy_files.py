"""Files that earlier versions wrote under names which others use too. Pure: which of them are still ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deploys.manifest import BLACKLIST, RECORD
from facts.baseline import Past, Remains
from facts.file import Text

# Path → everything that an earlier version wrote there, and nothing that anybody added to it.
_WRITTEN = {
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
FORMER = tuple(_WRITTEN)
# What is asked for: a host with the file of today's name was converted, and what has a former name since is not ours.
ASKED = (*FORMER, BLACKLIST.path)


def ours(texts: Mapping[str, Text], past: Past | None) -> tuple[str, ...]:
    """Those that a deploy wrote: the host has a record of one, and nobody has replaced or changed the file since.

    One that led somewhere was written through, and is a link still; it and its target are for a person to judge.
    """
    if past is None or BLACKLIST.path in texts:
        return ()
    return tuple(path for path in FORMER if path in texts and not texts[path].link and _is_written(path, texts))


def written_through(texts: Mapping[str, Text], past: Past | None) -> tuple[str, ...]:
    """What to say of links that an earlier version wrote through, a sentence each."""
    if past is None or BLACKLIST.path in texts:
        return ()
    return tuple(
        f"{path} is a link, and an earlier deploy wrote through it into {texts[path].link}, whose previous content is "
        "not on record; expected that file as its package has it. Reinstall the package "
        f"(dpkg -S {texts[path].link} or rpm -qf {texts[path].link} names it), or restore the file from a backup."
        for path in FORMER
        if path in texts and texts[path].link and _is_written(path, texts)
    )


def damaged(remains: Remains) -> str:
    """The sentence about a record of the host before its first deploy that nobody can read."""
    return (
        f"{RECORD} cannot be read ({remains.damaged}); expected the record that the first deploy wrote. Bring it back "
        "from a backup: without it nobody can say what the host was before."
    )


def _is_written(path: str, texts: Mapping[str, Text]) -> bool:
    return re.fullmatch(_WRITTEN[path], texts[path].content) is not None
