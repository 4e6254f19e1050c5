"""Which images dracut is asked to rebuild."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.steps.initramfs import dracut_command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a dracut that writes down what it is asked for, and fails for kernel 6.13."""
    for directory in ("bin", "boot", "modules"):
        (tmp_path / directory).mkdir()
    dracut = tmp_path / "bin/dracut"
    dracut.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\ncase "$*" in *6.13*) exit 1 ;; esac\n')
    dracut.chmod(0o755)
    return tmp_path


def rebuild(root: Path, images: list[str], kernels: list[str]) -> tuple[int, list[str]]:
    for image in images:
        (root / "boot" / image).touch()
    for kernel in kernels:
        (root / "modules" / kernel).mkdir()
    command = dracut_command(f"{root}/boot", f"{root}/modules")
    environment = os.environ | {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    code = subprocess.run(["sh", "-c", command], env=environment).returncode
    asked = (root / "asked").read_text().replace(f"{root}/boot/", "").splitlines()
    return code, asked


def test_the_images_that_debians_menus_name_are_rebuilt_in_their_place_and_copies_are_left(root: Path) -> None:
    images = ["initrd.img-6.12.0-amd64", "initrd.img-6.8.12-pve", "initrd.img-6.12.0-amd64.old-dkms"]
    assert rebuild(root, images, ["6.12.0-amd64", "6.8.12-pve"]) == (
        0,
        ["--force initrd.img-6.12.0-amd64 6.12.0-amd64", "--force initrd.img-6.8.12-pve 6.8.12-pve"],
    )


def test_a_rebuild_that_fails_is_a_failure_whichever_image_it_was(root: Path) -> None:
    code, asked = rebuild(root, ["initrd.img-6.13", "initrd.img-6.14"], ["6.13", "6.14"])
    assert (code, asked) == (1, ["--force initrd.img-6.13 6.13"])


def test_elsewhere_dracut_knows_its_images_by_itself(root: Path) -> None:
    assert rebuild(root, ["initramfs-6.17.fc44.img"], ["6.17.fc44"]) == (0, ["--regenerate-all --force"])
