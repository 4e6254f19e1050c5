"""Whether the initramfs images hold what /etc says now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
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


# What takes a board before any driver can; of use only all together, and only with a list that names a function.
LIST = "/etc/pcibind/early.list"
EARLY = ("/etc/udev/rules.d/05-pcibind.rules", "/usr/local/lib/pcibind/early", LIST)
# And what keeps drivers off there, with the files of earlier versions. Others' files are their owners' affair.
_FILES = (
    *EARLY,
    "/etc/modprobe.d/gpu-host-boards.conf",
    "/etc/modprobe.d/gevulot-boards.conf",
    "/etc/modprobe.d/nvidia.conf",
    "/etc/modprobe.d/vfio.conf",
    "/etc/modules-load.d/gpu-host.conf",
    "/etc/modules-load.d/gevulot-node.conf",
    "/etc/modules-load.d/vfio.conf",
    "/etc/modules-load.d/vsock.conf",
)
_NOTHING = hashlib.sha256(b"").hexdigest()
_READER = Path(__file__).with_name("initramfs_reader.py")


@dataclass(frozen=True, slots=True)
class Contents:
    """The files that act at a boot before the root is there: path → SHA-256, on the host and in each image.

    Files that are not there are not in it. Images are those of the running kernel and of the newest
    ones. ``damaged`` are images that nothing can boot from, ``unlisted`` those that could not be read: image → reason.
    ``without`` is the release of the running kernel when it has no image.
    """

    host: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    unlisted: Mapping[str, str] = field(default_factory=dict)
    without: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def differences(self) -> tuple[str, ...]:
        """How an image is unlike the host, a sentence each. An empty list needs no rule, and may be left out."""
        needed = EARLY if self.host.get(LIST, _NOTHING) != _NOTHING else ()
        found = [f"the host lacks {path}" for path in needed if path not in self.host]
        if needed and self.without:
            found.append(f"no initramfs of the running kernel {self.without} was found in /boot")
        found += [f"{image} is damaged: {reason}" for image, reason in self.damaged.items()]
        for image, held in self.images.items():
            found += _differences(image, held, self.host, needed)
        return tuple(found)

    def outdated(self, stale: Iterable[str]) -> tuple[str, ...]:
        """What the next boot would miss, a sentence each. ``stale`` are the images that are older than their inputs.

        Times count only for an image that was not read: a file that was touched, or that another package put there,
        changes nothing in what an image holds of ours.
        """
        return (*self.differences, *(each for each in stale if each.partition(" ")[0] not in self.images))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Which images could not be read and why, a sentence each."""
        return tuple(f"{image} could not be read: {reason}" for image, reason in self.unlisted.items())


def _differences(
    image: str, held: Mapping[str, str], host: Mapping[str, str], needed: tuple[str, ...]
) -> Iterator[str]:
    for path in needed:
        if path in host and path not in held:
            yield f"{image} lacks {path}"
    for path, digest in held.items():
        if path not in host:
            yield f"{image} still holds {path}, which the host has no more"
        elif digest != host[path]:
            yield f"{image} holds another {path} than the host has"


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
        host: dict[str, str] = {}
        images: dict[str, dict[str, str]] = {}
        damaged: dict[str, str] = {}
        unlisted: dict[str, str] = {}
        without = None
        held: dict[str, str] = {}
        for line in output:
            match line.split(" ", 2):
                case ["host", digest, path]:
                    host[path] = digest
                case ["image", path]:
                    held = images[path] = {}
                case ["holds", digest, path]:
                    held[path] = digest
                case ["damaged", path, reason]:
                    damaged[path] = reason
                case ["unlisted", path, reason]:
                    unlisted[path] = reason
                case ["none", kernel]:
                    without = kernel
                case _:
                    raise FactProcessError(f"the initramfs contents cannot be read: unexpected line {line!r}")
        return Contents(host, images, damaged, unlisted, without)
