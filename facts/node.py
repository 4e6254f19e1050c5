"""The parts of a node that are files, devices and accounts, read back in one go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
for device in /dev/kvm /dev/vsock /dev/vhost-vsock /dev/vfio/*; do
  [ -c "$device" ] && stat -c "device %n %a %U:%G" "$device"; done
echo "groups $(id -nG gevulot 2>/dev/null)"
for path in "$@"; do
  # A directory may be reached through a link; a file is none of ours then.
  if [ -d "$path" ]; then follow=-L; else follow=; fi
  stat $follow -c "path %n %a %U:%G %s" "$path" 2>/dev/null
done
echo "public $(cat /etc/gevulot/node-key.public 2>/dev/null)"
echo "rooted $(df -P "$1" 2>/dev/null | sed -n '2s/.* //p')"
echo "required $(systemctl show -p RequiresMountsFor --value gevulot-node.service 2>/dev/null)"
"""


_PATHS = ("/var/lib/gevulot", "/var/lib/gevulot/key/node.key")


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A file, directory or device: mode in octal digits, owner as ``user:group``, size in bytes (0 for devices)."""

    path: str
    mode: str
    owner: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What was found. Paths that do not exist are not among them."""

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
    """Devices, account, and the named paths. The first path is the storage directory, whose mount point is told."""

    def command(self, paths: tuple[str, ...] = _PATHS) -> str:
        return f"sh -c {quote(_COMMAND)} parts {' '.join(quote(path) for path in paths)}"

    def process(self, output: list[str]) -> NodeResources:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the node's parts cannot be read: {error}") from error
