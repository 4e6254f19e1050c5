"""Which hosts can be managed, and with which tools: real distributions by their own facts, and hosts that nobody named.

The texts are those of each distribution's /etc/os-release, without the addresses of its sites.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from deploys.assessment.platforms import Family, family_of, untried
from facts.platform import HostPlatform, parse

DEBIAN_13 = """PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
DEBIAN_VERSION_FULL=13.2
ID=debian
"""
DEBIAN_14 = """PRETTY_NAME="Debian GNU/Linux 14 (forky)"
NAME="Debian GNU/Linux"
VERSION_ID="14"
VERSION="14 (forky)"
VERSION_CODENAME=forky
ID=debian
"""
DEBIAN_SID = """PRETTY_NAME="Debian GNU/Linux forky/sid"
NAME="Debian GNU/Linux"
VERSION_CODENAME=forky
ID=debian
"""
UBUNTU_24 = """PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
LOGO=ubuntu-logo
"""
UBUNTU_26 = """PRETTY_NAME="Ubuntu 26.04.1 LTS"
NAME="Ubuntu"
VERSION_ID="26.04"
VERSION="26.04.1 LTS (Resolute Raccoon)"
VERSION_CODENAME=resolute
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=resolute
LOGO=ubuntu-logo
"""
MINT = """NAME="Linux Mint"
VERSION="22.3 (Zena)"
ID=linuxmint
ID_LIKE="ubuntu debian"
PRETTY_NAME="Linux Mint 22.3"
VERSION_ID="22.3"
VERSION_CODENAME=zena
UBUNTU_CODENAME=noble
"""
FEDORA_44 = """NAME="Fedora Linux"
VERSION="44 (Server Edition)"
RELEASE_TYPE=stable
ID=fedora
VERSION_ID=44
VERSION_CODENAME=""
PLATFORM_ID="platform:f44"
PRETTY_NAME="Fedora Linux 44 (Server Edition)"
VARIANT="Server Edition"
VARIANT_ID=server
"""
SILVERBLUE = """NAME="Fedora Linux"
VERSION="44.20260529.0 (Silverblue)"
ID=fedora
VERSION_ID=44
PRETTY_NAME="Fedora Linux 44.20260529.0 (Silverblue)"
VARIANT="Silverblue"
VARIANT_ID=silverblue
OSTREE_VERSION='44.20260529.0'
"""
RHEL_10 = """NAME="Red Hat Enterprise Linux"
VERSION="10.0 (Coughlan)"
ID="rhel"
ID_LIKE="centos fedora"
VERSION_ID="10.0"
PLATFORM_ID="platform:el10"
PRETTY_NAME="Red Hat Enterprise Linux 10.0 (Coughlan)"
"""
ALMA_10 = """NAME="AlmaLinux"
VERSION="10.0 (Purple Lion)"
ID="almalinux"
ID_LIKE="rhel centos fedora"
VERSION_ID="10.0"
PLATFORM_ID="platform:el10"
PRETTY_NAME="AlmaLinux 10.0 (Purple Lion)"
"""
ROCKY_10 = """NAME="Rocky Linux"
VERSION="10.1 (Red Quartz)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="10.1"
PLATFORM_ID="platform:el10"
PRETTY_NAME="Rocky Linux 10.1 (Red Quartz)"
SUPPORT_END="2035-05-31"
"""
CENTOS_10 = """NAME="CentOS Stream"
VERSION="10 (Coughlan)"
RELEASE_TYPE=stable
ID="centos"
ID_LIKE="rhel fedora"
VERSION_ID="10"
PLATFORM_ID="platform:el10"
PRETTY_NAME="CentOS Stream 10 (Coughlan)"
"""
UNNAMED = 'ID=nobodys\nPRETTY_NAME="Nobody\'s Linux 1"\nVERSION_ID=1\n'


@dataclass(frozen=True)
class Recorded:
    """What the platform's command finds on a host."""

    release: str
    tools: str
    boot: str
    owner: str = ""
    hooks: str = ""

    @property
    def host(self) -> HostPlatform:
        lines = [f"os {line}" for line in self.release.splitlines()]
        for key, words in (("tool", self.tools), ("boot", self.boot), ("kernel_hook", self.hooks)):
            lines += [f"{key}={word}" for word in words.split()]
        return parse([*lines, *([f"initramfs_owner={self.owner}"] if self.owner else ()), "end=yes"])


_APT = "apt-get update-grub podman"
APT = Recorded(DEBIAN_13, f"{_APT} update-initramfs", "grub", "initramfs-tools")
DNF = Recorded(FEDORA_44, "dnf dracut grubby podman getenforce", "grub2")
# With dracut's own update-initramfs, since Debian's 107-2, and without, as in Debian 13.
APT_DRACUT = Recorded(UBUNTU_26, f"{_APT} update-initramfs dracut", "grub", "dracut", "dracut")
APT_OLD_DRACUT = Recorded(DEBIAN_13, f"{_APT} dracut", "grub", "", "dracut")


def accepted(recorded: Recorded) -> Family:
    family = family_of(recorded.host)
    assert isinstance(family, Family), family
    return family


def refused(recorded: Recorded) -> str:
    reason = family_of(recorded.host)
    assert isinstance(reason, str), reason
    return reason


@pytest.mark.parametrize(
    ("recorded", "family"),
    [
        (APT, Family("Debian GNU/Linux 13 (trixie)", "apt", "initramfs-tools", "grub")),
        (APT_OLD_DRACUT, Family("Debian GNU/Linux 13 (trixie)", "apt", "dracut", "grub")),
        (replace(APT_DRACUT, release=DEBIAN_14), Family("Debian GNU/Linux 14 (forky)", "apt", "dracut", "grub")),
        (replace(APT, release=DEBIAN_14), Family("Debian GNU/Linux 14 (forky)", "apt", "initramfs-tools", "grub")),
        (replace(APT_DRACUT, release=DEBIAN_SID), Family("Debian GNU/Linux forky/sid", "apt", "dracut", "grub")),
        (replace(APT, release=UBUNTU_24), Family("Ubuntu 24.04.3 LTS", "apt", "initramfs-tools", "grub")),
        (APT_DRACUT, Family("Ubuntu 26.04.1 LTS", "apt", "dracut", "grub")),
        # Upgraded from 24.04, which keeps initramfs-tools.
        (replace(APT, release=UBUNTU_26), Family("Ubuntu 26.04.1 LTS", "apt", "initramfs-tools", "grub")),
        (DNF, Family("Fedora Linux 44 (Server Edition)", "dnf", "dracut", "grubby")),
        (
            replace(DNF, release=FEDORA_44.replace("44", "43")),
            Family("Fedora Linux 43 (Server Edition)", "dnf", "dracut", "grubby"),
        ),
        (replace(DNF, release=RHEL_10), Family("Red Hat Enterprise Linux 10.0 (Coughlan)", "dnf", "dracut", "grubby")),
        (replace(DNF, release=ALMA_10), Family("AlmaLinux 10.0 (Purple Lion)", "dnf", "dracut", "grubby")),
        (replace(DNF, release=ROCKY_10), Family("Rocky Linux 10.1 (Red Quartz)", "dnf", "dracut", "grubby")),
        (replace(DNF, release=CENTOS_10), Family("CentOS Stream 10 (Coughlan)", "dnf", "dracut", "grubby")),
    ],
    ids=lambda each: each.name if isinstance(each, Family) else "",
)
def test_each_current_distribution_is_managed_with_its_own_tools_without_a_warning(
    recorded: Recorded, family: Family
) -> None:
    assert accepted(recorded) == family
    assert untried(recorded.host, family) is None


@pytest.mark.parametrize(
    "recorded",
    [
        replace(APT, release=MINT),
        replace(APT, release=DEBIAN_13.replace("13", "12")),
        replace(DNF, release=FEDORA_44.replace("44", "41")),
        replace(DNF, release=FEDORA_44.replace("44", "45")),
        replace(DNF, release=ROCKY_10.replace("10.1", "9.6")),
        replace(APT_DRACUT, release=UBUNTU_26.replace("26.04", "26.10")),
        replace(APT, release=UNNAMED),
        replace(DNF, release=UNNAMED),
        replace(DNF, release=""),
    ],
)
def test_a_distribution_that_nobody_tried_goes_on_with_one_warning_that_says_what_it_has(recorded: Recorded) -> None:
    family = accepted(recorded)
    warning = untried(recorded.host, family)
    assert warning is not None
    assert f"{family.name} is not among the distributions" in warning
    assert f"{family.packages}, {family.initramfs} and {family.boot}" in warning


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (replace(DNF, release=SILVERBLUE, boot="grub2 ostree"), "the host runs from an image"),
        # bootc with composefs leaves no /run/ostree-booted.
        (replace(DNF, boot="grub2 composefs"), "the host runs from an image"),
        (replace(DNF, boot="grub2 uki"), "boots a unified kernel image"),
        (replace(DNF, boot="systemd-boot"), "boots through systemd-boot"),
        (replace(APT, boot="grub systemd-boot-now"), "boots through systemd-boot"),
        (replace(APT, boot="grub proxmox-boot-tool"), "boots through proxmox-boot-tool"),
        (replace(APT, boot=""), "expected GRUB's, /boot/grub/grub.cfg"),
        (replace(APT, boot="grub2"), "expected GRUB's, /boot/grub/grub.cfg"),
        (replace(APT, tools="apt-get update-initramfs"), "Install the package grub2-common"),
        (replace(DNF, boot=""), "the menu that the firmware starts was not found"),
        (replace(DNF, boot="grub"), "the menu that the firmware starts was not found"),
        (replace(DNF, tools="dnf dracut"), "grubby is missing"),
        (replace(DNF, tools="dnf grubby"), "neither update-initramfs nor dracut"),
        (Recorded('ID=arch\nPRETTY_NAME="Arch Linux"\n', "dracut", "grub"), "Arch Linux has no apt-get or dnf"),
        (Recorded("", "", ""), "a distribution without a name has no apt-get or dnf"),
        (replace(APT, release=UNNAMED, tools=f"{APT.tools} dnf"), "has both apt-get and dnf"),
    ],
)
def test_a_platform_that_cannot_work_is_refused_with_the_actual_value_the_expected_one_and_the_next_step(
    recorded: Recorded, words: str
) -> None:
    reason = refused(recorded)
    assert words in reason
    assert "expected" in reason
    assert reason.endswith(".")


def test_proxmox_goes_as_the_debian_that_it_is_where_grub_boots_it() -> None:
    """Proxmox VE 9 has Debian 13's os-release; on ext4 or XFS the firmware starts GRUB with the menu in /boot."""
    family = accepted(APT)
    assert (family.packages, family.initramfs, family.boot) == ("apt", "initramfs-tools", "grub")
    assert "ext4 or XFS" in refused(replace(APT, boot="grub proxmox-boot-tool"))


def test_the_other_package_manager_may_lie_beside_the_distributions_own() -> None:
    assert accepted(replace(APT, release=MINT, tools=f"{APT.tools} dnf")).packages == "apt"
    assert accepted(replace(DNF, release=ROCKY_10, tools=f"{DNF.tools} apt-get")).packages == "dnf"


def test_systemd_boot_that_is_only_installed_is_no_hindrance() -> None:
    assert accepted(replace(APT, boot="grub systemd-boot")).boot == "grub"


def test_an_upgraded_fedora_may_keep_its_whole_menu_on_the_efi_partition() -> None:
    assert accepted(replace(DNF, boot="grub-efi")).boot == "grubby"


# --- the initramfs


def test_dracut_without_its_kernel_hook_makes_no_image_beside_initramfs_tools() -> None:
    """As with dracut-core alone, which other packages ask for; or a hook that a removed package left."""
    assert accepted(replace(APT, tools=f"{APT.tools} dracut")).initramfs == "initramfs-tools"
    assert accepted(replace(APT, hooks="dracut")).initramfs == "initramfs-tools"


def test_two_generators_that_both_write_new_kernels_images_are_refused() -> None:
    reason = refused(replace(APT, tools=f"{APT.tools} dracut", hooks="dracut"))
    assert "initramfs-tools and dracut both write" in reason
    assert "apt-get purge dracut" in reason


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("", "update-initramfs belongs to no package"),
        ("tiny-initramfs", "update-initramfs belongs to tiny-initramfs"),
        (
            "initramfs-tools, diversion by live-tools",
            "update-initramfs belongs to diversion by live-tools, initramfs-tools",
        ),
    ],
)
def test_an_update_initramfs_of_neither_generator_is_refused(owner: str, words: str) -> None:
    assert words in refused(replace(APT, owner=owner))
