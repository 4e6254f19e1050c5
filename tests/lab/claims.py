"""The claims: what a world says of itself by its name, and what its running machine says."""

import re
from collections.abc import Mapping
from typing import Final

from tests.lab import guest
from tests.lab.host import VirtualHost
from tests.lab.platform import Firmware, Generator, Iommu, Platform, Root
from tests.lab.topology import DISPLAY_SLOT


class WorldError(RuntimeError):
    """A machine is not what its platform says; the text lists each claim with what was found."""


_QUESTION: Final = r"""
set -u
say() { printf '%s=%s\n' "$1" "$2"; }
say suite "$(. /etc/os-release; echo "$VERSION_CODENAME")"
say kernel "$(uname -r)"
say kernels "$(ls /lib/modules | wc -l)"
[ -d /sys/firmware/efi ] && say firmware uefi || say firmware bios
say tables "$(cd /sys/firmware/acpi/tables && ls -d DMAR IVRS 2>/dev/null | xargs)"
say iommus "$(ls /sys/class/iommu | wc -l)"
base=$(od -An -tx4 -j24 -N4 /sys/kernel/boot_params/data | tr -d ' ')
say framebuffer "$(cd /sys/bus/pci/devices && grep -l "^0x00000000$base " */resource | cut -d/ -f1 | xargs)"
root=$(findmnt -no SOURCE /)
say root "$(lsblk -ndo TYPE "$root") $(findmnt -no FSTYPE /)"
! command -v vgck >/dev/null || say volumes "$(vgck 2>&1 && vgs --noheadings -o vg_name | xargs)"
image=/boot/initrd.img-$(uname -r)
if command -v lsinitramfs >/dev/null; then held=$(lsinitramfs "$image"); else held=$(lsinitrd "$image"); fi
case $held in *dracut*) say generator dracut ;; *scripts/init-top*) say generator initramfs-tools ;; esac
say early-systemd "$(systemctl show -P InitRDTimestampMonotonic)"
folder=$(mktemp -d)
mkdir -p "$folder/root/usr" "$folder/storage" "$folder/run"
for each in bin sbin lib lib64; do ln -s "usr/$each" "$folder/root/$each"; done
podman --storage-driver=vfs --root "$folder/storage" --runroot "$folder/run" \
    run --rm --network=none --volume=/usr:/usr:ro --rootfs "$folder/root" python3 -c '
import socket
try:
    socket.socket(socket.AF_VSOCK)
    print("vsock=made")
except OSError as error:
    print(f"vsock=refused: {error.strerror}")
print("confined=" + open("/proc/self/attr/current").read().strip("\0\n"))
' 2>&1
# Podman may still be clearing up behind the container.
tries=0
until rm -rf --one-file-system "$folder" || [ $((tries += 1)) -ge 30 ]; do sleep 1; done
"""
"""Prints one line for each claim. The container uses a storage of its own: a bare host's is not there yet."""


def claims(platform: Platform) -> Mapping[str, str]:
    """Return for each name that `_QUESTION` prints a regular expression for the whole answer."""
    dracut = platform.generator is Generator.DRACUT
    lvm = platform.root is Root.LVM
    expected = {
        "suite": platform.suite,
        "kernel": re.escape(platform.kernel) + ".*",
        "kernels": "2" if platform.newer_kernel else "1",
        "firmware": platform.firmware.value,
        "tables": platform.iommu.table,
        "iommus": "[1-9][0-9]*" if platform.iommu is Iommu.AMD else "0",
        "root": "lvm ext4" if lvm else "part ext4",
        "generator": platform.generator.value,
        # dracut's initramfs runs systemd, that of initramfs-tools does not: by it the image that booted shows.
        "early-systemd": "[1-9][0-9]*" if dracut else "0",
        "vsock": "refused: Operation not permitted" if platform.refuses_vsock else "made",
        "confined": r"containers-default-.* \(enforce\)",
    }
    if lvm:
        expected["volumes"] = guest.VOLUME_GROUP
    if platform.firmware is Firmware.UEFI:
        expected["framebuffer"] = f"0000:00:{DISPLAY_SLOT:02x}\\.0"
    return expected


def differences(platform: Platform, answers: str) -> list[str]:
    """Return the claims that do not hold by what the machine printed, each with what was found and expected."""
    values = dict(line.partition("=")[::2] for line in answers.splitlines() if "=" in line)
    return [
        f"{name}: found {values.get(name, 'no answer')!r}, expected {expected!r}"
        for name, expected in claims(platform).items()
        if not re.fullmatch(expected, values.get(name, ""))
    ]


def assert_world(machine: VirtualHost, platform: Platform) -> None:
    """Ask a bare machine whether it is what its platform says. Raises WorldError with every difference."""
    answers = machine.ssh(_QUESTION).stdout
    wrong = differences(platform, answers)
    if wrong:
        listed = "\n  ".join(wrong)
        raise WorldError(f"{machine.name} is not {platform.name}:\n  {listed}\nIt answered:\n{answers}")
