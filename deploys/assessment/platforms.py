"""Whether a host's platform can be managed, and with which tools: judged by what the host can do, not by its name.

Pure: it decides over the fact ``facts.platform``. A distribution that nobody tried and that has what is needed goes on
with a warning; what cannot work is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from facts.platform import HostPlatform

# ID → VERSION_ID, whole or its major part, of the distributions on whose facts this judgement is tested.
# Debian's testing and unstable have no VERSION_ID; the rebuilds of RHEL follow its releases.
TRIED = {
    "debian": ("13", "14", ""),
    "ubuntu": ("24.04", "26.04"),
    "fedora": ("43", "44"),
    **dict.fromkeys(("rhel", "almalinux", "centos", "ol", "rocky"), ("10",)),
}
_NATIVE = {"apt": frozenset({"debian", "ubuntu"}), "dnf": frozenset({"fedora", "rhel", "centos"})}


@dataclass(frozen=True, slots=True)
class Family:
    """The tools that a host is managed with.

    ``packages`` is ``apt`` or ``dnf``, ``initramfs`` the generator of the images that boot (``initramfs-tools`` or
    ``dracut``), ``boot`` what sets the kernel's arguments (``grub`` or ``grubby``).
    """

    name: str
    packages: str
    initramfs: str
    boot: str


class Unsupported(ValueError):
    """Why a host cannot be managed: what was found, what was expected, and the next step."""


def family_of(host: HostPlatform) -> Family | str:
    """The host's tools, or as text why it cannot be managed, with the next step."""
    try:
        _check_boot(host)
        packages = _packages(host)
        boot = _grub(host) if packages == "apt" else _grubby(host)
        generator = generator_of(host)
        _check_one_writer(host, generator)
        return Family(host.name or host.distribution or "unknown", packages, generator, boot)
    except Unsupported as error:
        return str(error)


def untried(host: HostPlatform, family: Family) -> str | None:
    """The warning for a distribution that this judgement is not tested on."""
    releases = TRIED.get(host.distribution, ())
    if host.version in releases or host.version.partition(".")[0] in releases:
        return None
    return (
        f"{family.name} is not among the distributions that this deploy is tested for; it goes on because the host has "
        f"what is needed: {family.packages}, {family.initramfs} and {family.boot}. Try one host before you deploy many."
    )


def generator_of(host: HostPlatform) -> str:
    """Which program makes the initramfs images that boot.

    update-initramfs does not tell by its name: dracut's package has one too. The package that owns it decides, because
    the hooks of every kernel's package call it. Raises ``Unsupported`` when that tells neither.
    """
    if "update-initramfs" not in host.tools:
        if "dracut" in host.tools:
            return "dracut"
        raise Unsupported(
            "the host has neither update-initramfs nor dracut; expected initramfs-tools or dracut, which makes the "
            "initramfs that takes the boards early. Install the one that your distribution uses."
        )
    if host.initramfs_owners == {"dracut"}:
        return "dracut"
    if host.initramfs_owners != {"initramfs-tools"}:
        owners = ", ".join(sorted(host.initramfs_owners)) or "no package"
        raise Unsupported(
            f"update-initramfs belongs to {owners}; expected initramfs-tools or dracut, because the initramfs must "
            "carry the early override. See `dpkg -S update-initramfs`, and reinstall one of the two."
        )
    return "initramfs-tools"


def _check_one_writer(host: HostPlatform, generator: str) -> None:
    """Refuse a host on which both generators write. Which image boots would depend on who wrote last."""
    if generator == "initramfs-tools" and "dracut" in host.tools and "dracut" in host.kernel_hooks:
        raise Unsupported(
            "initramfs-tools and dracut both write the initramfs of a new kernel: update-initramfs belongs to "
            "initramfs-tools, and the hook /etc/kernel/postinst.d/dracut is active; expected one of them, because an "
            "image of the other would lack the early override. Purge one: apt-get purge dracut, or initramfs-tools."
        )


def _check_boot(host: HostPlatform) -> None:
    """Raise ``Unsupported`` for a host whose boot cannot be configured with GRUB's tools."""
    if host.boot & {"ostree", "composefs"}:
        raise Unsupported(
            "the host runs from an image (ostree or bootc: /run/ostree-booted, or ostree= or composefs= among the "
            "kernel's arguments); expected a system of packages, because what this deploy installs would not outlive "
            "the next image. Install the package-based edition of the distribution."
        )
    if "uki" in host.boot:
        raise Unsupported(
            "the host boots a unified kernel image; expected GRUB, because a unified image's command line is sealed. "
            "Boot the kernel through GRUB, and remove the image from EFI/Linux."
        )
    if "systemd-boot-now" in host.boot or ("systemd-boot" in host.boot and not _menus(host)):
        raise Unsupported(
            "the host boots through systemd-boot; expected GRUB (grub.cfg), which is what this deploy can configure. "
            "Install GRUB as the boot loader."
        )
    if "proxmox-boot-tool" in host.boot:
        raise Unsupported(
            "the host boots through proxmox-boot-tool (/etc/kernel/proxmox-boot-uuids), whose menus lie on EFI "
            "partitions that update-grub does not write; expected GRUB with the menu /boot/grub/grub.cfg. Use a "
            "Proxmox VE that was installed on ext4 or XFS, or another supported system."
        )


def _menus(host: HostPlatform) -> frozenset[str]:
    return host.boot & {"grub", "grub2", "grub-efi"}


def _packages(host: HostPlatform) -> str:
    """The package manager. Where both are installed, what the distribution is or derives from decides."""
    have = [manager for manager, tool in (("apt", "apt-get"), ("dnf", "dnf")) if tool in host.tools]
    names = {host.distribution, *host.like}
    fitting = have if len(have) == 1 else [manager for manager in have if names & _NATIVE[manager]]
    if len(fitting) == 1:
        return fitting[0]
    managers = "both apt-get and dnf" if have else "no apt-get or dnf"
    raise Unsupported(
        f"{host.name or 'a distribution without a name'} has {managers}; "
        "expected one of them as its package manager. Install one of the supported systems: docs/support.md lists them."
    )


def _grub(host: HostPlatform) -> str:
    if "grub" not in host.boot:
        raise Unsupported(
            "the menu that the firmware starts was not found; expected GRUB's, /boot/grub/grub.cfg, which update-grub "
            "writes. Install GRUB as the boot loader."
        )
    if "update-grub" not in host.tools:
        raise Unsupported(
            "GRUB's menu /boot/grub/grub.cfg is there, and update-grub is not; expected it, to write the menu with the "
            "IOMMU's arguments. Install the package grub2-common."
        )
    return "grub"


def _grubby(host: HostPlatform) -> str:
    if not host.boot & {"grub2", "grub-efi"}:
        raise Unsupported(
            "the menu that the firmware starts was not found; expected GRUB's, /boot/grub2/grub.cfg or a whole one "
            "in /boot/efi/EFI. Install GRUB as the boot loader."
        )
    if "grubby" not in host.tools:
        raise Unsupported(
            "grubby is missing; expected it, to set the kernel's arguments on every boot entry. Install the package "
            "grubby."
        )
    return "grubby"
