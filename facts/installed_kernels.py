"""The kernels that a host can boot: the modules that each lacks, and the free space for their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_COMMAND = r"""
df -Pk /boot | sed -n '2s/^.* \([0-9]\{1,\}\) \{1,\}[0-9-]\{1,\}% .*/free \1/p'
for link in /vmlinuz /boot/vmlinuz; do
  [ -L "$link" ] && target=$(readlink -f "$link") && echo "link $link ${target##*/vmlinuz-}"; done
for directory in /lib/modules/*/; do
  version=${directory#/lib/modules/}; version=${version%/}
  [ -e "/boot/vmlinuz-$version" ] || [ -e "$directory/vmlinuz" ] || continue
  for image in "/boot/initrd.img-$version" "/boot/initramfs-$version.img"; do
    [ -f "$image" ] && stamp=$(stat -c '%s %Y' -- "$image") && echo "image $stamp $image"; done
  missing=
  for module; do
    file=$(modinfo -k "$version" -F filename "$module" 2>/dev/null | head -n1)
    [ -n "$file" ] || grep -q -s -E "/$(echo "$module" | sed 's/_/[-_]/g')\.ko" "$directory/modules.builtin" ||
      missing="$missing $module"
  done
  echo "kernel $version$missing"
done
true
"""


@dataclass(frozen=True, slots=True)
class BootableKernels:
    """Kernels by their release → the modules that they lack; their images → KiB; and what /boot has free in KiB.

    ``links`` are names without a release that menus use → the release that they mean now.
    """

    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    # Size and modification time.
    stamps: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    boot_free_kib: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def release_of(self, kernel: str) -> str | None:
        """The release of a kernel's file as a menu names it; its file system need not be mounted at the root."""
        name = kernel.rpartition("/")[2]
        if name.startswith("vmlinuz-"):
            return name.removeprefix("vmlinuz-")
        inside = [release for release in self.missing if f"/{release}/" in kernel]
        known = {link.rpartition("/")[2]: release for link, release in self.links.items()}
        return inside[0] if len(inside) == 1 else known.get(name)


class InstalledKernels(FactBase[BootableKernels]):
    """Every installed kernel, and which of ``modules`` each lacks."""

    @staticmethod
    def default() -> BootableKernels:
        return BootableKernels()

    def command(self, modules: tuple[str, ...]) -> str:
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_COMMAND)} kernels {' '.join(map(quote, modules))}"

    def process(self, output: list[str]) -> BootableKernels:
        missing: dict[str, tuple[str, ...]] = {}
        images: dict[str, int] = {}
        stamps: dict[str, str] = {}
        links: dict[str, str] = {}
        free = None
        for line in output:
            match line.split():
                case ["free", number] if number.isdecimal():
                    free = int(number)
                case ["link", link, release]:
                    links[link] = release
                case ["image", size, time, image] if size.isdecimal():
                    images[image] = int(size) // 1024 + 1
                    stamps[image] = f"{size} {time}"
                case ["kernel", release, *modules]:
                    missing[release] = tuple(modules)
                case _:
                    raise FactProcessError(f"installed kernels: unexpected line {line!r}")
        return BootableKernels(missing, images, stamps, links, free)
