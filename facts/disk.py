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
    """A file system's size and what is left of it for all, in KiB, and where it is mounted."""

    size_kib: int
    free_kib: int
    mount: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DiskSpace(FactBase[VolumeSpace | None]):
    """The space of the volume that a directory is on, or would be on where it is not there yet."""

    def command(self, directory: str) -> str:
        return f"sh -c {quote(_COMMAND)} space {quote(directory)}"

    def process(self, output: list[str]) -> VolumeSpace:
        try:
            size, free, mount = output[0].split(" ", 2)
            # More than 8 EiB is no disk's, and no number to count with.
            if not 0 <= int(free) <= int(size) < 2**53:
                raise ValueError
            return VolumeSpace(int(size), int(free), mount)
        except (ValueError, IndexError):
            raise FactProcessError(f"df printed {output[:1]}, expected SIZE FREE MOUNT") from None
