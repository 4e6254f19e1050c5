"""The platform of a host: distribution, processor, memory, firmware, boot loader, initramfs generator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts import os_release

# One process tree of shell built-ins and a handful of tools that every minimal host has. The output is KEY=VALUE lines,
# and `os LINE` for each line of os-release, which is data here: nothing of it is run.
# $PLATFORM_ROOT stands before the path of every file that describes the platform.
_COMMAND = r"""
PATH=$PATH:/usr/sbin:/sbin; r=$PLATFORM_ROOT; p=$r/proc
for file in "$r/etc/os-release" "$r/usr/lib/os-release"; do
  [ -r "$file" ] || continue
  grep -a -E '^ *(ID|ID_LIKE|VERSION_ID|PRETTY_NAME)=' "$file" | tr -d '\000\001' | sed 's/^/os /'
  break; done
echo "kernel=$(uname -r)"; echo "architecture=$(uname -m)"
echo "hostname=$(uname -n)"
[ -d /run/systemd/system ] && echo systemd=yes
echo "systemd_release=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
echo "python=$(/usr/bin/python3 -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
[ -e /sys/fs/cgroup/cgroup.controllers ] || echo legacy_cgroups=yes
echo "cores=$(nproc)"
while read -r key value _; do [ "$key" = MemTotal: ] && echo "memory_kib=$value"; done </proc/meminfo
grep -m1 -o -w -E 'vmx|svm' /proc/cpuinfo | sed s/^/virtualisation=/ | head -n1
for table in DMAR IVRS; do [ -e /sys/firmware/acpi/tables/$table ] && echo "iommu_table=$table"; done
directory=$0; while [ ! -d "$directory" ]; do directory=$(dirname "$directory"); done
echo "disk_kib=$(df -Pk "$directory" | sed -n '2s/ \+/ /gp' | cut -d' ' -f2)"
for tool in dracut update-initramfs grubby update-grub apt-get dnf podman getenforce; do
  command -v $tool >/dev/null && echo "tool=$tool"; done
# dracut brings an update-initramfs of its own: the package that owns or diverted the program decides what it is.
command -v update-initramfs >/dev/null && timeout 20 dpkg -S '*bin/update-initramfs' 2>/dev/null |
  sed -n 's/^\(.*diversion.*\) from: .*/initramfs_owner=\1/p; t; /diversion/d; s/^\([^:]*\):.*/initramfs_owner=\1/p'
[ -x "$r/etc/kernel/postinst.d/dracut" ] && echo kernel_hook=dracut
[ -e "$r/boot/grub/grub.cfg" ] && echo boot=grub
[ -e "$r/boot/grub2/grub.cfg" ] && echo boot=grub2
# With entries of its own it is a menu; else it only points to the one in /boot.
grep -q -s -E '^[[:space:]]*(menuentry|blscfg)' "$r"/boot/efi/EFI/*/grub.cfg && echo boot=grub-efi
[ -e "$r/run/ostree-booted" ] && echo boot=ostree
read -r line 2>/dev/null <"$p/cmdline"
case " $line" in *" composefs="*) echo boot=composefs ;; *" ostree="*) echo boot=ostree ;; esac
[ -e "$r/etc/kernel/proxmox-boot-uuids" ] || [ -e "$r/etc/kernel/pve-efiboot-uuids" ] && echo boot=proxmox-boot-tool
for uki in "$r"/boot/efi/EFI/Linux/*.efi "$r"/efi/EFI/Linux/*.efi "$r"/boot/EFI/Linux/*.efi; do
  [ -e "$uki" ] && echo boot=uki; done
for entry in /boot/efi/loader/loader.conf /efi/loader/loader.conf /boot/EFI/systemd/systemd-bootx64.efi \
  /boot/efi/EFI/systemd/systemd-bootx64.efi /efi/EFI/systemd/systemd-bootx64.efi; do
  [ -e "$r$entry" ] && echo boot=systemd-boot; done
# What systemd-boot, and what the stub in a unified image, left of the boot that runs now.
variables=$r/sys/firmware/efi/efivars; vendor=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
[ -r "$variables/LoaderInfo-$vendor" ] && tr -d '\0' <"$variables/LoaderInfo-$vendor" | grep -q systemd-boot &&
  echo boot=systemd-boot-now
[ -e "$variables/StubInfo-$vendor" ] && echo boot=uki
# Bounded: a Podman that hangs must not hide what else the host is.
echo "podman=$(timeout 20 podman --version 2>/dev/null | cut -d' ' -f3)"
if command -v podman >/dev/null || [ "$1" != offered ]; then :
elif command -v apt-cache >/dev/null; then
  echo "podman_offered=$(apt-cache policy podman 2>/dev/null | sed -n 's/^ *Candidate: //p')"
elif command -v dnf >/dev/null; then
  echo "podman_offered=$(dnf -q repoquery --latest-limit=1 --qf '%{version}\n' podman 2>/dev/null | head -n1)"; fi
echo end=yes
"""


@dataclass(frozen=True, slots=True)
class HostPlatform:
    """A host's platform. Sizes in KiB; empty text or ``None`` where unknown.

    ``like`` are the distributions that it derives from, ``boot`` signs of how it boots, ``initramfs_owners`` the
    packages that its update-initramfs is of, and ``kernel_hooks`` the generators that a new kernel's package starts.
    ``python`` is major and minor of the distribution's own.
    """

    distribution: str
    like: tuple[str, ...]
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
    initramfs_owners: frozenset[str]
    kernel_hooks: frozenset[str]
    podman: str | None
    podman_offered: str | None
    legacy_cgroups: bool = False
    systemd_release: int | None = None
    python: str | None = None

    def to_json(self) -> dict[str, Any]:
        sets = {name: sorted(values) for name, values in asdict(self).items() if isinstance(values, frozenset)}
        return asdict(self) | sets


def parse(output: list[str]) -> HostPlatform:
    """The command's lines into a ``HostPlatform``. Raises ``ValueError`` when they end too early."""
    single: dict[str, str] = {}
    several: dict[str, set[str]] = {"tool": set(), "boot": set(), "initramfs_owner": set(), "kernel_hook": set()}
    release = os_release.parse(line.removeprefix("os ") for line in output if line.startswith("os "))
    for line in output:
        key, _, value = line.partition("=")
        if key in several:
            several[key].update(part.strip() for part in value.split(","))
        else:
            single.setdefault(key, value.strip())
    if single.get("end") != "yes":
        raise ValueError("the answer ended too early")
    offered = single.get("podman_offered", "")
    return HostPlatform(
        distribution=release.get("ID", ""),
        like=tuple(release.get("ID_LIKE", "").split()),
        version=release.get("VERSION_ID", ""),
        name=release.get("PRETTY_NAME", ""),
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
        initramfs_owners=frozenset(several["initramfs_owner"]),
        kernel_hooks=frozenset(several["kernel_hook"]),
        podman=single.get("podman") or None,
        podman_offered=None if offered in ("", "(none)") else offered,
        legacy_cgroups=single.get("legacy_cgroups") == "yes",
        systemd_release=int(single.get("systemd_release") or 0) or None,
        python=single.get("python") or None,
    )


class Platform(FactBase[HostPlatform | None]):
    """What the host is. ``directory`` is where the storage will be: the nearest existing parent's disk is measured.

    ``offered`` asks the distribution which Podman it would install where there is none, which may ask its mirrors.
    """

    def command(self, directory: str, offered: bool = True) -> str:
        from shlex import quote

        return f"sh -c {quote(_COMMAND)} {quote(directory)} {'offered' if offered else ''}".rstrip()

    def process(self, output: list[str]) -> HostPlatform:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the host's platform cannot be read: {error}") from error
