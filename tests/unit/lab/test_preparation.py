"""Preparations: what distinguishes them, and what the binder's does to the kernel's arguments."""

import subprocess
from pathlib import Path

from tests.lab import guest
from tests.lab.platform import DEBIAN_13
from tests.lab.preparation import BARE, IOMMU, Preparation


def test_another_script_or_another_name_is_another_preparation() -> None:
    keys = {BARE.key, IOMMU.key, Preparation("iommu", "true").key, Preparation("other", IOMMU.script).key}
    assert len(keys) == 4


def test_the_bare_host_is_left_alone() -> None:
    assert BARE.script == ""


def test_the_iommu_is_switched_on_where_grub_reads_and_where_its_menu_is_made(tmp_path: Path) -> None:
    (line,) = (each for each in IOMMU.script.splitlines() if each.startswith("sed "))
    for name, text in (
        ("/boot/grub/grub.cfg", guest.grub_menu(DEBIAN_13)),
        ("/etc/default/grub", f'GRUB_CMDLINE_LINUX="{guest.kernel_arguments(DEBIAN_13)}"\n'),
    ):
        assert name in line
        copy = tmp_path / Path(name).name
        copy.write_text(text)
        line = line.replace(name, str(copy))
    subprocess.run(line, shell=True, check=True)
    for name in ("grub.cfg", "grub"):
        text = (tmp_path / name).read_text()
        assert "console=ttyS0 intel_iommu=on iommu=pt" in text
        assert "intel_iommu=off" not in text


def test_its_packages_are_in_the_image_without_a_network() -> None:
    installed = IOMMU.script.splitlines()[-1].partition("--no-download ")[2].split()
    assert set(installed) <= set(guest.DOWNLOADED)
