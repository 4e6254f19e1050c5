"""The disk of a program: a BIOS finds its loader, the loader its kernel, and the kernel what the program needs."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.containers import program_image

KERNEL_MODULES = {
    "virtio": (),
    "virtio_pci": ("virtio",),
    "vmw_vsock_virtio_transport": ("virtio", "vsock"),
    "vsock": (),
    "9pnet": (),
    "9pnet_virtio": ("9pnet", "virtio"),
    "9p": ("9pnet",),
    "unwanted": (),
}


def module(*needed: str) -> bytes:
    return b"ELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0"


def files(modules: Mapping[str, tuple[str, ...]] = KERNEL_MODULES) -> dict[str, bytes | str]:
    """Content by path; a text is where a symbolic link leads."""
    contents: dict[str, bytes | str] = {
        "boot/vmlinuz-6.1.0-1-amd64": b"kernel",
        "boot/core.img": b"core",
        "boot/libraries": b"/lib/libc.so.6\n/lib64/ld.so\n",
        "usr/lib/grub/i386-pc/boot.img": b"B" * 512,
        "bin/busybox": b"busybox's program",
        "usr/bin/socat": b"socat's program",
        "lib/libc.so.6": "libc-2.so",
        "lib/libc-2.so": b"libc",
        "lib64/ld.so": "/lib/libc.so.6",
    }
    for name, needed in modules.items():
        contents[f"lib/modules/6.1/kernel/{name.replace('_', '-')}.ko"] = module(*needed)
    return contents


def packages(content: Mapping[str, bytes | str]) -> tarfile.TarFile:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, value in content.items():
            member = tarfile.TarInfo(f"./{path}")
            if isinstance(value, str):
                member.type, member.linkname = tarfile.SYMTYPE, value
                archive.addfile(member)
            else:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Name and content of the entries of a cpio archive, read by the kernel's own description of the format."""
    entries, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        content = at + 110 + length + -(110 + length) % 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = archive[content : content + size]
        at = content + size + -size % 4


def partition(disk: bytes) -> tarfile.TarFile:
    start, sectors = struct.unpack_from("<II", disk, 446 + 8)
    assert (start + sectors) * 512 == len(disk)
    return tarfile.open(fileobj=io.BytesIO(disk[start * 512 :]))


def read(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(name)
    assert opened is not None
    return opened.read()


def test_the_disk_has_the_loader_before_a_partition_with_kernel_and_initramfs() -> None:
    disk = program_image.disk(packages(files()), b"init")
    assert disk[:440] == b"B" * 440
    assert disk[510:512] == b"\x55\xaa"
    assert disk[446 + 4] == 0x83
    assert disk[512:516] == b"core"
    archive = partition(disk)
    assert archive.getnames() == ["vmlinuz", "initrd.img"]
    assert read(archive, "vmlinuz") == b"kernel"
    assert unpacked(gzip.decompress(read(archive, "initrd.img")))["init"] == b"init"


def test_the_same_content_makes_the_same_disk() -> None:
    assert program_image.disk(packages(files()), b"init") == program_image.disk(packages(files()), b"init")


def test_the_initramfs_has_the_program_s_tools_and_their_libraries_through_links() -> None:
    entries = unpacked(program_image.initramfs(packages(files()), b"init"))
    assert entries["bin/socat"] == b"socat's program"
    assert entries["bin/sh"] == b"busybox"
    assert entries["lib/libc.so.6"] == entries["lib64/ld.so"] == b"libc"
    assert {"proc", "sys", "dev", "workspace", "bin", "lib", "lib64", "modules"} <= entries.keys()
    names = list(entries)
    assert all(names.index(str(Path(name).parent)) < names.index(name) for name in names if "/" in name)


def test_modules_come_after_those_that_they_need_and_no_others_come() -> None:
    names = list(program_image.modules(packages(files())))
    assert set(names) == KERNEL_MODULES.keys() - {"unwanted"}
    for name in names:
        assert all(names.index(each) < names.index(name) for each in KERNEL_MODULES[name])


def test_a_kernel_without_a_needed_module_is_refused_by_name() -> None:
    without = {name: needed for name, needed in KERNEL_MODULES.items() if name != "vsock"}
    with pytest.raises(program_image.ProgramImageError, match="no module vsock"):
        program_image.modules(packages(files(without)))


def test_a_loader_that_does_not_fit_before_the_partition_is_refused() -> None:
    with pytest.raises(program_image.ProgramImageError, match="no room before the partition"):
        program_image.disk(packages(files() | {"boot/core.img": b"x" * (1 << 20)}), b"init")


def test_an_image_that_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image = tmp_path / "program.img"
    image.write_bytes(b"disk")
    assert program_image.ensure(image).read_bytes() == b"disk"


def test_a_build_that_fails_names_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mmdebstrap").write_text("#!/bin/sh\nfor last; do :; done\n: >$last\necho 'E: no mirror' >&2\nexit 7\n")
    (tools / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(program_image.ProgramImageError, match=r"mmdebstrap ended with 7:\nE: no mirror"):
        program_image.ensure(tmp_path / "cache/program.img")
    assert [each.name for each in (tmp_path / "cache").iterdir() if each.suffix != ".lock"] == []
