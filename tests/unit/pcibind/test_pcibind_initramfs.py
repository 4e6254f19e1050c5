"""The reader of initramfs images, on images as the kernel takes them: several archives, the last one compressed."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree import Machine

from pcibind.commands.apply import apply
from pcibind.commands.status import status
from pcibind.model.errors import ExitCode
from pcibind.model.record import REBUILD
from pcibind.read import initramfs

RULE, LIST = "/etc/udev/rules.d/05-pcibind.rules", "/etc/pcibind/early.list"
FILES = {"etc/pcibind/early.list": b"0000:00/04.0/00.0\n", "etc/udev/rules.d/05-pcibind.rules": b"ACTION\n"}
REGULAR, LINK, DIRECTORY = 0o100644, 0o120777, 0o040755
RUNNING = platform.release()


def member(name: str, data: bytes, mode: int = REGULAR) -> bytes:
    """One member of an archive in the format newc."""
    text = name.encode() + b"\0"
    numbers = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + text
    return padded(header) + padded(data)


def padded(data: bytes, boundary: int = 4) -> bytes:
    return data + b"\0" * (-len(data) % boundary)


def archive(files: Mapping[str, bytes]) -> bytes:
    """An archive with a directory before its files, as generators make them."""
    members = [member("etc", b"", DIRECTORY), *(member(name, data) for name, data in files.items())]
    return padded(b"".join(members) + member("TRAILER!!!", b"", 0), 512)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    **({"zstd": zstd} if shutil.which("zstd") else {}),
}


def held(path: Path, image: bytes) -> dict[str, str]:
    """What the reader finds in an image of these bytes."""
    path.write_bytes(image)
    contents: dict[str, str] = {}
    with path.open("rb") as file:
        initramfs.archives(file, (RULE, LIST), contents)
    return contents


def texts(files: Mapping[str, bytes]) -> dict[str, str]:
    return {f"/{name}": data.decode() for name, data in files.items()}


@pytest.mark.parametrize("packer", PACKERS)
def test_files_behind_plain_archives_are_found_in_the_compressed_one(packer: str, tmp_path: Path) -> None:
    microcode = archive({"kernel/x86/microcode/GenuineIntel.bin": bytes(70_000)})
    image = microcode + bytes(1024) + archive({"early": b"more"}) + PACKERS[packer](archive(FILES | {"init": b"x" * 9}))
    assert held(tmp_path / "image", image) == texts(FILES)


def test_an_image_that_is_not_compressed_is_read_and_names_may_start_with_a_dot(tmp_path: Path) -> None:
    assert held(tmp_path / "image", archive({f"./{name}": data for name, data in FILES.items()})) == texts(FILES)


def test_a_link_in_the_place_of_a_file_is_not_the_file(tmp_path: Path) -> None:
    image = member(LIST.lstrip("/"), b"elsewhere", LINK) + member("TRAILER!!!", b"", 0)
    assert held(tmp_path / "image", image) == {}


@given(st.integers(min_value=1, max_value=len(gzip.compress(archive(FILES), mtime=0)) - 1))
def test_an_image_that_was_cut_short_is_damaged(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.raises(initramfs.Damaged):
        held(Path(directory, "image"), gzip.compress(archive(FILES), mtime=0)[:length])


def test_what_is_no_archive_is_damaged_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(initramfs.Damaged, match="what follows at byte 512 is no archive"):
        held(tmp_path / "image", archive({}) + b"garbage")


def test_an_empty_image_holds_nothing(tmp_path: Path) -> None:
    assert held(tmp_path / "image", b"") == {}


def test_releases_of_kernels_are_in_the_order_of_their_numbers() -> None:
    old_to_new = ["6.9.12-200.fc40", "6.12.9-amd64", "6.12.57+deb13-amd64", "6.12.117+deb13-amd64", "7.0"]
    assert sorted(reversed(old_to_new), key=initramfs.order) == old_to_new


def host_with(root: Path, *names: str, image: bytes | None = None) -> Path:
    """Modules and an image of each of these kernels; return the directory of the images."""
    for name in names:
        (root / "lib/modules" / name).mkdir(parents=True)
        (root / "boot").mkdir(exist_ok=True)
        (root / f"boot/initrd.img-{name}").write_bytes(archive(FILES) if image is None else image)
    return root / "boot"


def test_of_many_images_those_are_read_that_may_boot_next(tmp_path: Path) -> None:
    boot = host_with(tmp_path, "0.1-old", RUNNING, "99999.2-new", "99999.10-newest")
    (boot / "vmlinuz-99999.2-new").touch()
    (boot / "initrd.img-99999.11-removed").write_bytes(archive({}))
    (boot / f"initrd.img-{RUNNING}.bak").write_bytes(archive({}))
    images = initramfs.look((RULE, LIST), root=str(tmp_path))
    assert set(images.images) == {f"{boot}/initrd.img-{each}" for each in (RUNNING, "99999.2-new", "99999.10-newest")}
    assert all(held == texts(FILES) for held in images.images.values())
    other = initramfs.look((RULE,), ("0.1-old",), root=str(tmp_path))
    assert f"{boot}/initrd.img-0.1-old" in other.images


def test_other_layouts_a_damaged_image_and_a_kernel_without_one(tmp_path: Path) -> None:
    boot = host_with(tmp_path, "99999.1")
    (boot / "machine/99999.1").mkdir(parents=True)
    (boot / "machine/99999.1/initrd").write_bytes(archive(FILES)[:-100].rstrip(b"\0"))
    (boot / "initrd.img-99999.1").rename(boot / "initramfs-99999.1.img")
    images = initramfs.look((LIST,), root=str(tmp_path))
    assert images.without == RUNNING
    assert list(images.images) == [f"{boot}/initramfs-99999.1.img"]
    assert images.damaged == {f"{boot}/machine/99999.1/initrd": "it ends before its archive does"}


def test_the_text_alone_prints_the_contents_as_json() -> None:
    program = Path(initramfs.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, "/nowhere"], capture_output=True, text=True, check=True
    )
    assert initramfs.Contents(**json.loads(done.stdout)).host == {}


def test_an_image_is_read_again_only_when_it_is_another(tmp_path: Path) -> None:
    boot = host_with(tmp_path, RUNNING)
    image, cache = boot / f"initrd.img-{RUNNING}", tmp_path / "cache.json"
    first = initramfs.look((RULE, LIST), root=str(tmp_path), cache=str(cache))
    # The same size and time: only what was kept can still tell what it held.
    before = image.stat()
    with image.open("r+b") as file:
        file.write(bytes(before.st_size))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert initramfs.look((RULE, LIST), root=str(tmp_path), cache=str(cache)) == first
    assert initramfs.look((RULE,), root=str(tmp_path), cache=str(cache)).images[str(image)] == {}
    image.write_bytes(archive({}))
    assert initramfs.look((RULE, LIST), root=str(tmp_path), cache=str(cache)).images == {str(image): {}}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"/x": 1}', "null"])
def test_a_cache_that_is_garbage_is_written_anew(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(text)
    boot = host_with(tmp_path, RUNNING)
    images = initramfs.look((LIST,), root=str(tmp_path), cache=str(cache))
    assert list(json.loads(cache.read_text())) == list(images.images) == [f"{boot}/initrd.img-{RUNNING}"]


def test_files_of_a_package_also_take_a_board_early() -> None:
    host = {paths[-1]: str(number) for number, paths in enumerate(initramfs.EARLY)}
    assert initramfs.Contents(host, {"/boot/i": host}).differences == ()
    rule = initramfs.EARLY[0][1]
    held = {path: digest for path, digest in host.items() if path != rule}
    assert initramfs.Contents(host, {"/boot/i": held}).differences == (f"/boot/i lacks {rule}",)


CHOSEN = '[[board]]\npath = "0000:00/01.0/00"\n'


def test_apply_and_status_name_the_initramfs_that_does_not_hold_the_list(machine: Machine) -> None:
    for paths in initramfs.EARLY[:2]:
        machine.file(paths[0].lstrip("/"), "x")
    boot = host_with(machine.root, RUNNING, image=archive({}))
    machine.configure(CHOSEN)
    notes = apply(machine.host).notes
    assert f"{boot}/initrd.img-{RUNNING} lacks {LIST}" in notes
    assert any(f"run `{REBUILD}` before the next boot" in each for each in notes)
    assert f"{boot}/initrd.img-{RUNNING} lacks {LIST}" in status(machine.host).notes
    assert status(machine.host).exit_code is ExitCode.OK
    early = [paths[0].lstrip("/") for paths in initramfs.EARLY]
    held = {path: (machine.root / path).read_bytes() for path in early}
    (boot / f"initrd.img-{RUNNING}").write_bytes(gzip.compress(archive(held)))
    assert apply(machine.host).notes == status(machine.host).notes == ()


def test_a_host_without_an_image_is_asked_to_rebuild_when_the_list_changes(machine: Machine) -> None:
    machine.configure(CHOSEN)
    assert f"no initramfs of the running kernel {RUNNING} was found in /boot" in apply(machine.host).notes
