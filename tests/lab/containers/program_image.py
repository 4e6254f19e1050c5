"""The image of the stand-in's program: a raw disk that a BIOS boots, with Debian 12's kernel, busybox and socat.

The disk's one partition is a tar archive, which GRUB reads: nothing needs to be mounted or formatted. All that runs is
in the initramfs, `program/init` as its first process.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache

SUITE = "bookworm"
HERE = Path(__file__).resolve().parent / "program"
PACKAGES = ("linux-image-amd64", "busybox-static", "socat", "grub-pc-bin", "grub-common")
MODULES = ("virtio_pci", "vmw_vsock_virtio_transport", "9pnet_virtio", "9p")
"""Kernel modules that the program needs; those that they depend on come with them."""

APPLETS = ("sh", "mount", "insmod", "cat", "sha256sum", "poweroff")

# Most of the kernel's modules are drivers of hardware that no such machine has.
_LEFT_OUT = ("/usr/share/*", "/lib/modules/*/kernel/drivers/[!v]*", "/lib/modules/*/kernel/sound/*")
_SECTOR = 512
_PARTITION_SECTOR = 2048
_LOADER_BYTES = 440
"""Bytes of the first sector that belong to the boot loader; the partition table follows."""


class ProgramImageError(Exception):
    """The image could not be built; the message ends with what mmdebstrap printed."""


@dataclass(frozen=True)
class Node:
    """One entry of an initramfs: its path, its mode with the type's bits, and its content."""

    path: str
    mode: int
    content: bytes = b""


def recipe() -> str:
    """Digest of everything that decides what is in the image."""
    sources = (Path(__file__), HERE / "init", HERE / "loader.sh")
    return cache.digest(*(source.read_text() for source in sources))


def ensure(path: Path) -> Path:
    """Build the image at the path of the cache unless it is there, and return the path. Raises ProgramImageError."""
    with cache.locked(path):
        if not cache.holds(path):
            # First the archive of the packages, then the disk made of it.
            half = cache.unfinished(path)
            try:
                with tarfile.open(_packages(half)) as packages:
                    content = disk(packages, (HERE / "init").read_bytes())
                half.write_bytes(content)
                half.rename(path)
            finally:
                half.unlink(missing_ok=True)
    return path


def _packages(archive: Path) -> Path:
    """Unpack the packages into a tar archive at the path, without any of their scripts."""
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--components=main", "--architectures=amd64"]
    command += ["--skip=output/dev", f"--include={','.join(PACKAGES)}", f"--extract-hook={HERE / 'loader.sh'}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += ["--format=tar", SUITE, str(archive)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ProgramImageError("mmdebstrap is not installed: install the lab's host packages") from error
    if done.returncode != 0:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise ProgramImageError(f"mmdebstrap ended with {done.returncode}:\n{tail}")
    return archive


def disk(packages: tarfile.TarFile, init: bytes) -> bytes:
    """The bootable disk made of the unpacked packages: the same bytes for the same content."""
    (kernel,) = (path for path in _paths(packages) if path.startswith("boot/vmlinuz-"))
    partition = _archive(
        {"vmlinuz": _read(packages, kernel), "initrd.img": gzip.compress(initramfs(packages, init), mtime=0)}
    )
    core = _read(packages, "boot/core.img")
    if len(core) > (_PARTITION_SECTOR - 1) * _SECTOR:
        raise ProgramImageError(f"GRUB's core image has {len(core)} bytes: no room before the partition")
    # One entry, of type Linux, with no address in cylinders.
    table = struct.pack("<6xB3xB3xII", 0, 0x83, _PARTITION_SECTOR, len(partition) // _SECTOR)
    head = _read(packages, "usr/lib/grub/i386-pc/boot.img")[:_LOADER_BYTES] + table
    head = head.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa" + core
    return head.ljust(_PARTITION_SECTOR * _SECTOR, b"\0") + partition


def initramfs(packages: tarfile.TarFile, init: bytes) -> bytes:
    """The program's file system, as a cpio archive of the kernel's own format."""
    nodes = [Node("init", 0o100755, init), Node("bin/busybox", 0o100755, _read(packages, "bin/busybox"))]
    nodes += [Node(f"bin/{applet}", 0o120777, b"busybox") for applet in APPLETS]
    nodes.append(Node("bin/socat", 0o100755, _read(packages, "usr/bin/socat")))
    for library in _read(packages, "boot/libraries").decode().split():
        nodes.append(Node(library.lstrip("/"), 0o100755, _read(packages, library.lstrip("/"))))
    for number, (name, content) in enumerate(modules(packages).items()):
        nodes.append(Node(f"modules/{number:02}-{name}.ko", 0o100644, content))
    directories = {str(parent) for node in nodes for parent in Path(node.path).parents} - {"."}
    directories |= {"proc", "sys", "dev", "workspace"}
    return _cpio([*(Node(path, 0o040755) for path in sorted(directories)), *nodes])


def modules(packages: tarfile.TarFile) -> dict[str, bytes]:
    """The kernel modules by name, each after those that it depends on."""
    paths = {_name(Path(path).stem): path for path in _paths(packages) if path.endswith(".ko")}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered:
            return
        if name not in paths:
            raise ProgramImageError(f"the kernel's package has no module {name}")
        content = _read(packages, paths[name])
        needed = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in filter(None, needed[1].decode().split(",") if needed else ()):
            add(_name(other))
        ordered[name] = content

    for name in MODULES:
        add(name)
    return ordered


def _name(module: str) -> str:
    """A module's name as the kernel has it: its file may have hyphens."""
    return module.replace("-", "_")


def _paths(packages: tarfile.TarFile) -> list[str]:
    return [name.removeprefix("./") for name in packages.getnames()]


def _read(packages: tarfile.TarFile, path: str) -> bytes:
    """The content of a file by its path below the root, through symbolic links."""
    member = packages.getmember(f"./{path}")
    while member.issym():
        path = os.path.normpath(os.path.join(os.path.dirname(path), member.linkname)).lstrip("/")
        member = packages.getmember(f"./{path}")
    opened = packages.extractfile(member)
    if opened is None:
        raise ProgramImageError(f"{path} is no file")
    return opened.read()


def _archive(files: dict[str, bytes]) -> bytes:
    """A tar archive, of whole sectors."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _cpio(nodes: list[Node]) -> bytes:
    """An archive in the format `newc` (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    parts: list[bytes] = []
    for inode, node in enumerate([*nodes, Node("TRAILER!!!", 0)], start=1):
        name = node.path.encode() + b"\0"
        links = 2 if node.mode & 0o170000 == 0o040000 else 1
        fields = (inode, node.mode, 0, 0, links, 0, len(node.content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [header, b"\0" * (-len(header) % 4), node.content, b"\0" * (-len(node.content) % 4)]
    return b"".join(parts)
