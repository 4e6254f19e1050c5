"""Whether the initramfs images hold what /etc says now."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from pcibind.read import initramfs
from pcibind.read.initramfs import Contents

# What decides the content of an initramfs on our behalf. Directories stand for their own entries: one that lost a file
# has a newer change time.
INPUTS = (
    "/etc/modprobe.d",
    "/etc/modules-load.d",
    "/etc/udev/rules.d",
    "/etc/initramfs-tools/hooks",
    "/etc/dracut.conf.d",
    "/etc/pcibind/early.list",
    "/usr/local/lib/pcibind/early",
)

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
    """The initramfs images that are older than what goes into them, a sentence for each. Empty when all are current."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self) -> str:
        return f"sh -c {quote(_COMMAND)} initramfs {' '.join(INPUTS)}"

    def process(self, output: list[str]) -> list[str]:
        return output


EARLY = tuple(paths[0] for paths in initramfs.EARLY)
# What keeps drivers off there, with the files of earlier versions. Others' files are their owners' affair.
_FILES = (
    *(path for paths in initramfs.EARLY for path in paths),
    "/etc/modprobe.d/gpu-host-boards.conf",
    "/etc/modprobe.d/gevulot-boards.conf",
    "/etc/modprobe.d/nvidia.conf",
    "/etc/modprobe.d/vfio.conf",
    "/etc/modules-load.d/gpu-host.conf",
    "/etc/modules-load.d/gevulot-node.conf",
    "/etc/modules-load.d/vfio.conf",
    "/etc/modules-load.d/vsock.conf",
)
_READER = Path(initramfs.__file__)


class InitramfsContents(FactBase[Contents]):
    """What the initramfs images that may boot hold of the files that act early, beside the host's own."""

    @staticmethod
    def default() -> Contents:
        return Contents()

    def requires_command(self, release: str | None = None) -> str:
        return "python3"

    def command(self, release: str | None = None) -> str:
        # ``release`` is that of a kernel which boots next, and which need be neither of the two.
        program = _READER.read_text(encoding="utf-8")
        other = f" {quote(f'@{release}')}" if release else ""
        return f"PATH=$PATH:/usr/sbin:/sbin python3 -I -c {quote(program)} {' '.join(_FILES)}{other}"

    def process(self, output: list[str]) -> Contents:
        try:
            return Contents(**json.loads("".join(output) or "{}"))
        except (ValueError, TypeError) as error:
            raise FactProcessError(f"the initramfs contents cannot be read: {error}") from error
