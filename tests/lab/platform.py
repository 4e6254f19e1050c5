"""A platform: a host's operating system and mainboard, as data; `claims` asks a running machine whether they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class PlatformError(ValueError):
    """No such platform; the text lists those there are."""


class Firmware(StrEnum):
    """What starts the boot loader: GRUB for BIOS in the gap before the first partition, or GRUB on an EFI partition."""

    BIOS = "bios"
    UEFI = "uefi"


class Iommu(StrEnum):
    """Whose IOMMU the mainboard has. Debian's kernel switches either on; the lab's bare Intel host switches it off."""

    INTEL = "intel"
    AMD = "amd"

    @property
    def table(self) -> str:
        """Return the ACPI table that describes it."""
        return {"intel": "DMAR", "amd": "IVRS"}[self.value]


class Generator(StrEnum):
    """What makes the initramfs, by its Debian package."""

    INITRAMFS_TOOLS = "initramfs-tools"
    DRACUT = "dracut"


class Root(StrEnum):
    """Where the root file system lies. It is ext4."""

    PARTITION = "partition"
    LVM = "lvm"


@dataclass(frozen=True)
class Platform:
    """A host without boards: `purpose` is the line that `list-worlds` prints.

    `suite` is Debian's name of the release, `kernel` how its kernel's release begins. `newer_kernel` installs the
    newest but one of the suite's backports beside the stock one; it is the one that boots. `refuses_vsock` tells
    whether its containers may not make AF_VSOCK sockets, by Podman's default seccomp profile. `next_kernel` is the
    package of a kernel that a host gets later, and `next_suite` where it is from.
    """

    name: str
    purpose: str
    suite: str = "trixie"
    kernel: str = "6.12."
    newer_kernel: bool = False
    generator: Generator = Generator.INITRAMFS_TOOLS
    firmware: Firmware = Firmware.BIOS
    iommu: Iommu = Iommu.INTEL
    root: Root = Root.PARTITION
    packages: tuple[str, ...] = ()
    refuses_vsock: bool = False
    next_kernel: str = "linux-image-amd64"
    next_suite: str = "trixie-backports"


DEBIAN_13: Final = Platform("debian13", "Debian 13: kernel 6.12, BIOS, Intel, initramfs-tools; the one of make test")
DEBIAN_14: Final = Platform(
    "debian14",
    "Debian 14: kernel 7, systemd 262, Podman 5.8",
    suite="forky",
    kernel="7.",
    refuses_vsock=True,
    next_suite="sid",
)

PLATFORMS: Final[Mapping[str, Platform]] = {
    platform.name: platform
    for platform in (
        DEBIAN_13,
        Platform("debian13-uefi", "started by UEFI: GPT, an EFI partition, grub-efi", firmware=Firmware.UEFI),
        Platform(
            "debian13-amd",
            "an AMD IOMMU, which is on by default",
            iommu=Iommu.AMD,
            # The kernel of the backports, 7.3, finds no IOAPIC of a southbridge on QEMU's AMD board and switches
            # interrupt remapping off.
            next_suite="sid",
        ),
        Platform("debian13-dracut", "dracut makes the initramfs", generator=Generator.DRACUT),
        Platform(
            "debian13-next",
            "a kernel of trixie-backports beside the stock one",
            kernel="7.",
            newer_kernel=True,
        ),
        Platform("debian13-lvm", "the root file system on LVM", root=Root.LVM),
        DEBIAN_14,
        replace(
            DEBIAN_14,
            name="debian14-dracut",
            purpose="Debian 14, where dracut makes the initramfs",
            generator=Generator.DRACUT,
        ),
        replace(
            DEBIAN_14,
            name="debian14-all",
            purpose="nothing as debian13: Debian 14, dracut, UEFI, AMD, root on LVM",
            generator=Generator.DRACUT,
            firmware=Firmware.UEFI,
            iommu=Iommu.AMD,
            root=Root.LVM,
        ),
    )
}


def named(name: str) -> Platform:
    """Return the platform of that name; PlatformError lists the names there are."""
    try:
        return PLATFORMS[name]
    except KeyError:
        raise PlatformError(f"no platform {name!r}: there are {', '.join(PLATFORMS)}") from None
