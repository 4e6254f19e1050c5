"""The files, devices and accounts of a node, read in one command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
account=$1 public=$2 unit=$3; shift 3
for device in /dev/kvm /dev/vsock /dev/vhost-vsock /dev/vfio/*; do
  [ -c "$device" ] && stat -c "device %n %a %U:%G" "$device"; done
[ -z "$account" ] || echo "groups $(id -nG "$account" 2>/dev/null)"
for path in "$@"; do
  # A directory may be reached through a link; a file is none of ours then.
  if [ -d "$path" ]; then follow=-L; else follow=; fi
  stat $follow -c "path %n %a %U:%G %s" "$path" 2>/dev/null
done
[ -z "$public" ] || echo "public $(cat "$public" 2>/dev/null)"
echo "rooted $(df -P "$1" 2>/dev/null | sed -n '2s/.* //p')"
[ -z "$unit" ] || echo "required $(systemctl show -p RequiresMountsFor --value "$unit" 2>/dev/null)"
"""


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A file, directory or device: mode in octal digits, owner as ``user:group``, size in bytes (0 for devices)."""

    path: str
    mode: str
    owner: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The devices, paths and accounts that exist. ``mount`` is where the first path's file system is mounted."""

    devices: dict[str, PathEntry]
    paths: dict[str, PathEntry]
    groups: frozenset[str]
    public_key: str | None
    mount: str
    required_mounts: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"groups": sorted(self.groups)}


def parse(output: list[str]) -> NodeResources:
    """The lines of the command. Raises ``ValueError`` for a line that it does not print."""
    devices, paths = {}, {}
    words: dict[str, str] = {}
    for line in output:
        kind, _, rest = line.partition(" ")
        if kind == "device":
            path, mode, owner = rest.split(" ")
            devices[path] = PathEntry(path, mode, owner)
        elif kind == "path":
            path, mode, owner, size = rest.split(" ")
            paths[path] = PathEntry(path, mode, owner, int(size))
        else:
            words[kind] = rest.strip()
    return NodeResources(
        devices,
        paths,
        frozenset(words.get("groups", "").split()),
        words.get("public") or None,
        words.get("rooted", ""),
        words.get("required", ""),
    )


class NodeParts(FactBase[NodeResources | None]):
    """Devices, and the named paths with the mount point of the first one, which is the storage directory of a node.

    Of a node also the groups of its ``account``, the content of its file ``public_key``, and the mounts that its
    ``unit`` requires; empty names are not asked for.
    """

    def command(self, paths: tuple[str, ...], account: str = "", public_key: str = "", unit: str = "") -> str:
        words = (account, public_key, unit, *paths)
        return f"sh -c {quote(_COMMAND)} parts {' '.join(map(quote, words))}"

    def process(self, output: list[str]) -> NodeResources:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the node's parts cannot be read: {error}") from error
