"""Whether the initramfs images hold what /etc says now."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

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
