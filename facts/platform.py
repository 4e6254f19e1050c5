"""What a host is: distribution, processor, memory, firmware, boot loader, initramfs generator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# One process tree of shell built-ins and a handful of tools that every minimal host has. The output is KEY=VALUE lines.
_COMMAND = r"""
. /etc/os-release 2>/dev/null
echo "id=$ID"; echo "version=$VERSION_ID"; echo "name=$PRETTY_NAME"
echo "kernel=$(uname -r)"; echo "architecture=$(uname -m)"
echo "hostname=$(uname -n)"
[ -d /run/systemd/system ] && echo systemd=yes
echo "cores=$(nproc)"
while read -r key value _; do [ "$key" = MemTotal: ] && echo "memory_kib=$value"; done </proc/meminfo
grep -m1 -o -w -E 'vmx|svm' /proc/cpuinfo | sed s/^/virtualisation=/ | head -n1
for table in DMAR IVRS; do [ -e /sys/firmware/acpi/tables/$table ] && echo "iommu_table=$table"; done
directory=$0; while [ ! -d "$directory" ]; do directory=$(dirname "$directory"); done
echo "disk_kib=$(df -Pk "$directory" | sed -n '2s/ \+/ /gp' | cut -d' ' -f2)"
# Bounded: a Podman that hangs must not hide what else the host is.
for tool in dracut update-initramfs grubby update-grub apt-get dnf podman getenforce; do
  command -v $tool >/dev/null && echo "tool=$tool"; done
[ -e /boot/grub/grub.cfg ] && echo boot=grub
[ -e /boot/grub2/grub.cfg ] && echo boot=grub2
for uki in /boot/efi/EFI/Linux/*.efi /efi/EFI/Linux/*.efi /boot/EFI/Linux/*.efi; do [ -e "$uki" ] && echo boot=uki; done
for entry in /boot/efi/loader/loader.conf /efi/loader/loader.conf /boot/EFI/systemd/systemd-bootx64.efi \
  /boot/efi/EFI/systemd/systemd-bootx64.efi /efi/EFI/systemd/systemd-bootx64.efi; do
  [ -e "$entry" ] && echo boot=systemd-boot; done
loader=/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
[ -r $loader ] && tr -d '\0' <$loader | grep -q systemd-boot && echo boot=systemd-boot-now
echo "podman=$(timeout 20 podman --version 2>/dev/null | cut -d' ' -f3)"
if command -v podman >/dev/null || [ "$1" != offered ]; then :
elif command -v apt-cache >/dev/null; then
  echo "podman_offered=$(apt-cache policy podman 2>/dev/null | sed -n 's/^ *Candidate: //p')"
elif command -v dnf >/dev/null; then
  echo "podman_offered=$(dnf -q repoquery --latest-limit=1 --qf '%{version}\n' podman 2>/dev/null | head -n1)"; fi
echo end=yes
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A host's platform. Sizes in KiB; empty text or ``None`` where the host does not say."""

    distribution: str
    version: str
    name: str
    kernel: str
    architecture: str
    systemd: bool
    cores: int
    memory_kib: int
    disk_kib: int
    virtualisation: str | None
    iommu_table: str | None
    tools: frozenset[str]
    boot: frozenset[str]
    podman: str | None
    podman_offered: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tools": sorted(self.tools), "boot": sorted(self.boot)}


def parse(output: list[str]) -> Host:
    """``KEY=VALUE`` lines into a ``Host``. Raises ``ValueError`` when they end too early."""
    single: dict[str, str] = {}
    several: dict[str, set[str]] = {"tool": set(), "boot": set()}
    for line in output:
        key, _, value = line.partition("=")
        if key in several:
            several[key].add(value)
        else:
            single.setdefault(key, value.strip())
    if single.get("end") != "yes":
        raise ValueError("the answer ended too early")
    offered = single.get("podman_offered", "")
    return Host(
        distribution=single.get("id", ""),
        version=single.get("version", ""),
        name=single.get("name", ""),
        kernel=single.get("kernel", ""),
        architecture=single.get("architecture", ""),
        systemd=single.get("systemd") == "yes",
        cores=int(single.get("cores") or 0),
        memory_kib=int(single.get("memory_kib") or 0),
        disk_kib=int(single.get("disk_kib") or 0),
        virtualisation=single.get("virtualisation") or None,
        iommu_table=single.get("iommu_table") or None,
        tools=frozenset(several["tool"]),
        boot=frozenset(several["boot"]),
        podman=single.get("podman") or None,
        podman_offered=None if offered in ("", "(none)") else offered,
    )


class Platform(FactBase[Host | None]):
    """What the host is. ``directory`` is where the storage will be: the nearest existing parent's disk is measured.

    ``offered`` asks the distribution which Podman it would install where there is none, which may ask its mirrors.
    """

    def command(self, directory: str = "/var/lib/gevulot", offered: bool = True) -> str:
        from shlex import quote

        return f"sh -c {quote(_COMMAND)} {quote(directory)} {'offered' if offered else ''}".rstrip()

    def process(self, output: list[str]) -> Host:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the host's platform cannot be read: {error}") from error
