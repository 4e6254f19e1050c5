"""Space on a volume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
path=$1; while [ ! -d "$path" ]; do path=$(dirname "$path"); done
df -Pk "$path" | sed -n '2s/ \+/ /gp' | cut -d' ' -f2,4,6-
"""


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """Size and free space of a file system in KiB, and its mount point."""

    size_kib: int
    free_kib: int
    mount: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DiskSpace(FactBase[VolumeSpace | None]):
    """The space of the volume that a directory is on, or will be on if it does not exist."""

    def command(self, directory: str) -> str:
        return f"sh -c {quote(_COMMAND)} space {quote(directory)}"

    def process(self, output: list[str]) -> VolumeSpace:
        try:
            size, free, mount = output[0].split(" ", 2)
            # No disk has more than 8 EiB, and larger numbers are not exact in JSON.
            if not 0 <= int(free) <= int(size) < 2**53:
                raise ValueError
            return VolumeSpace(int(size), int(free), mount)
        except (ValueError, IndexError):
            raise FactProcessError(f"df printed {output[:1]}, expected SIZE FREE MOUNT") from None
