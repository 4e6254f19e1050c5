"""Whether the initramfs images hold what /etc says now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

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


# What takes a board before any driver can; of use only all together, and only with a list that names a function.
LIST = "/etc/pcibind/early.list"
EARLY = ("/etc/udev/rules.d/05-pcibind.rules", "/usr/local/lib/pcibind/early", LIST)
_FILES = (*EARLY, "/etc/modprobe.d/nvidia.conf", "/etc/modprobe.d/vfio.conf")

# Both tools print `ls -l`'s columns for each member; of those, this keeps the size and the path.
_MEMBER = r"s|^-\([^ ]* *\)\{4\}\([0-9][0-9]*\) .* \(%s\)$|holds \2 /\3|p"
_CONTENTS = r"""
for file in "$@"; do [ -e "$file" ] && stat -Lc 'host %s %n' "$file"; done
for image in /boot/initrd.img-* /boot/initramfs-*.img; do
  [ -e "$image" ] || continue
  version=${image#/boot/initrd.img-}; version=${version#/boot/initramfs-}; version=${version%.img}
  [ -d "/lib/modules/$version" ] || continue
  if command -v lsinitramfs >/dev/null; then said=$(lsinitramfs -l "$image" 2>/dev/null)
  else said=$(lsinitrd "$image" 2>/dev/null); fi || { echo "unlisted $image"; continue; }
  echo "image $image"
  printf '%s\n' "$said" | sed -n "$0"
done
true
"""
_MEMBERS = "\n".join(_MEMBER % path.removeprefix("/").replace(".", "[.]") for path in _FILES)


@dataclass(frozen=True, slots=True)
class Contents:
    """The files that act at a boot before the root is there: path → size in bytes, on the host and in each image.

    Files that are not there are not in it. ``unlisted`` are images whose content could not be read.
    """

    host: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def differences(self) -> tuple[str, ...]:
        """How an image is unlike the host, a sentence each. An empty list needs no rule, and may be left out."""
        needed = EARLY if self.host.get(LIST) else ()
        return tuple(
            sentence for image, held in self.images.items() for sentence in _differences(image, held, self.host, needed)
        )


def _differences(
    image: str, held: Mapping[str, int], host: Mapping[str, int], needed: tuple[str, ...]
) -> Iterator[str]:
    for path in needed:
        if path in host and path not in held:
            yield f"{image} lacks {path}"
    for path, size in held.items():
        if path not in host:
            yield f"{image} still holds {path}, which the host has no more"
        elif size != host[path]:
            yield f"{image} holds another {path}: {size} bytes, the host's has {host[path]}"


class InitramfsContents(FactBase[Contents]):
    """What the initramfs images hold of the files that act early, beside the host's own, by their sizes.

    The tools that made the images list them (lsinitramfs, lsinitrd), which unpacks each: a second or so for one.
    """

    @staticmethod
    def default() -> Contents:
        return Contents()

    def command(self) -> str:
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_CONTENTS)} {quote(_MEMBERS)} {' '.join(_FILES)}"

    def process(self, output: list[str]) -> Contents:
        host: dict[str, int] = {}
        images: dict[str, dict[str, int]] = {}
        unlisted = []
        held: dict[str, int] = {}
        for line in output:
            match line.split(" ", 2):
                case ["host", size, path] if size.isdigit():
                    host[path] = int(size)
                case ["image", path]:
                    held = images[path] = {}
                case ["unlisted", path]:
                    unlisted.append(path)
                case ["holds", size, path] if size.isdigit():
                    held[path] = int(size)
                case _:
                    raise FactProcessError(f"the initramfs contents cannot be read: unexpected line {line!r}")
        return Contents(host, images, tuple(unlisted))
