"""The reader of initramfs images, on images as the kernel takes them: several archives, the last one compressed."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts import initramfs_reader as reader

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
    found: dict[str, str] = {}
    with path.open("rb") as file:
        reader.archives(file, (RULE, LIST), found)
    return found


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {f"/{name}": hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.mark.parametrize("packer", PACKERS)
def test_files_behind_plain_archives_are_found_in_the_compressed_one(packer: str, tmp_path: Path) -> None:
    microcode = archive({"kernel/x86/microcode/GenuineIntel.bin": bytes(70_000)})
    image = microcode + bytes(1024) + archive({"early": b"more"}) + PACKERS[packer](archive(FILES | {"init": b"x" * 9}))
    assert held(tmp_path / "image", image) == digests(FILES)


def test_an_image_that_is_not_compressed_is_read_and_names_may_begin_with_a_dot(tmp_path: Path) -> None:
    assert held(tmp_path / "image", archive({f"./{name}": data for name, data in FILES.items()})) == digests(FILES)


def test_a_link_in_the_place_of_a_file_is_not_the_file(tmp_path: Path) -> None:
    image = member(LIST.lstrip("/"), b"elsewhere", LINK) + member("TRAILER!!!", b"", 0)
    assert held(tmp_path / "image", image) == {}


@given(st.integers(min_value=1, max_value=len(gzip.compress(archive(FILES), mtime=0)) - 1))
def test_an_image_that_was_cut_short_is_damaged(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.raises(reader.Damaged):
        held(Path(directory, "image"), gzip.compress(archive(FILES), mtime=0)[:length])


def test_what_is_no_archive_is_damaged_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(reader.Damaged, match="what follows at byte 512 is no archive"):
        held(tmp_path / "image", archive({}) + b"garbage")


def test_an_empty_image_holds_nothing(tmp_path: Path) -> None:
    assert held(tmp_path / "image", b"") == {}


def test_releases_of_kernels_are_in_the_order_of_their_numbers() -> None:
    old_to_new = ["6.9.12-200.fc40", "6.12.9-amd64", "6.12.57+deb13-amd64", "6.12.117+deb13-amd64", "7.0"]
    assert sorted(reversed(old_to_new), key=reader.order) == old_to_new


def test_of_many_images_those_are_read_that_may_boot_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    boot.mkdir()
    names = ("0.1-old", RUNNING, "99999.2-new", "99999.10-newest")
    for name in names:
        (modules / name).mkdir(parents=True)
        (boot / f"initrd.img-{name}").write_bytes(archive(FILES))
    (boot / "vmlinuz-99999.2-new").touch()
    (boot / "initrd.img-99999.11-removed").write_bytes(archive({}))
    (boot / f"initrd.img-{RUNNING}.bak").write_bytes(archive({}))
    reader.main((RULE, LIST), str(boot), str(modules))
    said = capsys.readouterr().out.splitlines()
    read = [line.removeprefix("image ") for line in said if line.startswith("image ")]
    assert set(read) == {f"{boot}/initrd.img-{each}" for each in (RUNNING, "99999.2-new", "99999.10-newest")}
    assert sum(line.startswith("holds ") for line in said) == 6
    reader.main((RULE, "@0.1-old"), str(boot), str(modules))
    assert f"image {boot}/initrd.img-0.1-old" in capsys.readouterr().out.splitlines()


def test_other_layouts_a_damaged_image_and_a_kernel_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    (modules / "99999.1").mkdir(parents=True)
    (boot / "machine/99999.1").mkdir(parents=True)
    (boot / "machine/99999.1/initrd").write_bytes(archive(FILES)[:-100].rstrip(b"\0"))
    (boot / "initramfs-99999.1.img").write_bytes(archive(FILES))
    reader.main((LIST,), str(boot), str(modules))
    said = capsys.readouterr().out.splitlines()
    assert f"none {RUNNING}" in said
    assert f"image {boot}/initramfs-99999.1.img" in said
    assert f"damaged {boot}/machine/99999.1/initrd it ends before its archive does" in said
