"""Whether the initramfs images hold the current configuration of /etc."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from pcibind.read import initramfs
from pcibind.read.initramfs import Contents

_COMMAND = r"""
for image in /boot/initrd.img-* /boot/initramfs-*.img; do
  [ -e "$image" ] || continue
  version=${image#/boot/initrd.img-}; version=${version#/boot/initramfs-}; version=${version%.img}
  # Copies, rescue images, and images of kernels that are gone: no generator would ever rebuild them.
  [ -d "/lib/modules/$version" ] || continue
  [ -e "/boot/vmlinuz-$version" ] || [ -e "/lib/modules/$version/vmlinuz" ] || continue
  # -newercm: an input's change time against the image's modification time
  newer=$(find "$@" -newercm "$image" 2>/dev/null | head -n1)
  [ -n "$newer" ] && echo "$image is older than $newer"
done
true
"""


class StaleInitramfs(FactBase[list[str]]):
    """The initramfs images that are older than what goes into them, a sentence for each. Empty when all are current.

    ``inputs`` are files and directories. A directory stands for its own entries: one that lost a file has a newer
    change time.
    """

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self, inputs: tuple[str, ...]) -> str:
        return f"sh -c {quote(_COMMAND)} initramfs {' '.join(map(quote, inputs))}"

    def process(self, output: list[str]) -> list[str]:
        return output


EARLY = tuple(paths[0] for paths in initramfs.EARLY)
_READER = Path(initramfs.__file__)


class InitramfsContents(FactBase[Contents]):
    """Which of these files the initramfs images that may boot hold, and which of them the host has.

    ``release`` is that of a kernel which boots next, where that is neither of the two newest.
    """

    @staticmethod
    def default() -> Contents:
        return Contents()

    def requires_command(self, files: tuple[str, ...], release: str | None = None) -> str:
        return "python3"

    def command(self, files: tuple[str, ...], release: str | None = None) -> str:
        program = _READER.read_text(encoding="utf-8")
        other = f" {quote(f'@{release}')}" if release else ""
        return f"PATH=$PATH:/usr/sbin:/sbin python3 -I -c {quote(program)} {' '.join(map(quote, files))}{other}"

    def process(self, output: list[str]) -> Contents:
        try:
            return Contents(**json.loads("".join(output) or "{}"))
        except (ValueError, TypeError) as error:
            raise FactProcessError(f"the initramfs contents cannot be read: {error}") from error
