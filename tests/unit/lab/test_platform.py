"""Platforms: what each gives the guest and QEMU, and that its claims are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import claims, guest
from tests.lab.image import recipe
from tests.lab.platform import DEBIAN_13, PLATFORMS, Firmware, Generator, Iommu, Platform, PlatformError, Root, named
from tests.lab.qemu import Accelerator, Hardware
from tests.lab.topology import named as topology

ALL = pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)


def text(platform: Platform, path: str) -> str:
    (contents,) = (file.text for file in guest.files(platform, "", "", "") if file.path == path)
    return contents


def test_every_platform_is_another_image_or_other_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(tmp_path))
    assert len({(recipe(each), each.firmware, each.iommu) for each in PLATFORMS.values()}) == len(PLATFORMS)


def test_debian14_all_differs_from_debian13_in_everything() -> None:
    ours, other = DEBIAN_13, named("debian14-all")
    kinds = ("suite", "kernel", "generator", "firmware", "iommu", "root", "refuses_vsock")
    assert all(getattr(ours, kind) != getattr(other, kind) for kind in kinds)


@ALL
def test_one_generator_is_installed_and_configured_for_the_root(platform: Platform) -> None:
    generators = {each.value for each in Generator} & set(guest.packages(platform))
    assert generators == {platform.generator.value}
    path = {
        Generator.DRACUT: "/etc/dracut.conf.d/lab.conf",
        Generator.INITRAMFS_TOOLS: "/usr/share/initramfs-tools/modules.d/lab",
    }[platform.generator]
    assert "virtio_blk" in text(platform, path)
    assert path in guest.BEFORE_PACKAGES


@ALL
def test_menu_file_system_table_and_loader_name_the_same_root(platform: Platform) -> None:
    root = "/dev/mapper/lab-root" if platform.root is Root.LVM else f"UUID={guest.FILESYSTEM}"
    assert f"root={root} ro console=ttyS0" in guest.grub_menu(platform)
    assert text(platform, "/etc/fstab").startswith(f"{root} / ext4 ")
    script = guest.configure_script(platform)
    assert guest.grub_menu(platform) in script
    assert ("lvm" in script.partition("grub-mkimage")[2].partition("\n")[0]) == (platform.root is Root.LVM)


@ALL
def test_only_an_intel_iommu_is_switched_off(platform: Platform) -> None:
    assert ("intel_iommu=off" in text(platform, "/etc/default/grub")) == (platform.iommu is Iommu.INTEL)
    assert ("intel_iommu=off" in guest.grub_menu(platform)) == (platform.iommu is Iommu.INTEL)


@ALL
def test_the_efi_partition_is_mounted_where_there_is_one(platform: Platform) -> None:
    assert ("/boot/efi vfat" in text(platform, "/etc/fstab")) == (platform.firmware is Firmware.UEFI)


@ALL
def test_the_iommu_remaps_interrupts_and_can_be_saved(platform: Platform) -> None:
    words = Hardware(
        topology("no-boards"), 4096, 1, Accelerator("tcg", "max"), platform.firmware, platform.iommu
    ).arguments()
    (model,) = (word for word in words if "-iommu," in word)
    assert "intremap=on" in model
    # Without a named PCI device QEMU refuses to save amd-iommu.
    assert ("pci-id=iommu" in model) == any(word.startswith("AMDVI-PCI,id=iommu,") for word in words)


@ALL
def test_the_mainboard_has_a_display_where_the_firmware_would_draw_into_a_board(platform: Platform) -> None:
    def displays(name: str) -> list[str]:
        hardware = Hardware(topology(name), 4096, 1, Accelerator("tcg", "max"), platform.firmware, platform.iommu)
        return [word for word in hardware.arguments() if word.startswith("cirrus-vga,")]

    assert bool(displays("two-boards")) == (platform.firmware is Firmware.UEFI)
    assert displays("boot-display") == []


def test_an_unknown_platform_is_refused_with_those_there_are() -> None:
    with pytest.raises(PlatformError, match="no platform 'debian12': there are debian13, debian13-uefi"):
        named("debian12")


ANSWERS = """\
suite=trixie
kernel=6.12.57+deb13-amd64
kernels=1
firmware=bios
tables=DMAR
iommus=0
root=part ext4
generator=initramfs-tools
early-systemd=0
vsock=made
confined=containers-default-0.62.2 (enforce)
"""


def test_a_machine_that_is_what_its_platform_says_has_no_differences() -> None:
    assert claims.differences(DEBIAN_13, ANSWERS) == []


@pytest.mark.parametrize("name", claims.claims(DEBIAN_13))
def test_every_claim_that_does_not_hold_is_named(name: str) -> None:
    lines = [f"{name}=something else" if line.startswith(f"{name}=") else line for line in ANSWERS.splitlines()]
    (difference,) = claims.differences(DEBIAN_13, "\n".join(lines))
    assert difference.startswith(f"{name}: found 'something else', expected '")


def test_what_a_machine_does_not_answer_is_no_claim_that_holds() -> None:
    assert len(claims.differences(named("debian14-all"), "")) == len(claims.claims(named("debian14-all")))
