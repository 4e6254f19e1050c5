"""The image: the disk of a bare Debian 13 host, built once from packages and never changed."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, guest, keys
from tests.lab.hostpackages import privileged, program
from tests.lab.progress import Progress, silent, step

SIZE_GIB = 20
"""The disk's size as the guest sees it. The file is sparse."""

_SECTOR = 512
_PARTITION_SECTOR = 2048
_MENU_ROOM = 440
"""Bytes of the first sector that belong to the boot loader; the partition table follows."""


class ImageError(RuntimeError):
    """The image could not be built; the text carries the end of the failed command's output."""


@dataclass(frozen=True)
class Image:
    """A built image: `disk` (raw, read only), and its kernel and initrd for booting directly."""

    digest: str
    disk: Path
    kernel: Path
    initrd: Path


def recipe() -> str:
    """Return the digest of everything that the image depends on, the SSH keys included."""
    pair = keys.ensure(cache.directory())
    here = Path(__file__)
    return cache.digest(
        here.read_text(),
        here.with_name("guest.py").read_text(),
        pair.public(pair.operator),
        pair.public(pair.host),
    )


def ensure(progress: Progress = silent) -> Image:
    """Return the image, building it when the cache has none of this recipe.

    Raises ImageError when a step of the build fails; nothing half-built is left behind.
    """
    key = recipe()
    home = cache.directory() / "images" / key
    image = Image(key, home / "disk.raw", home / "vmlinuz", home / "initrd.img")
    if cache.holds(home):
        return image
    with cache.locked(home):
        if not cache.holds(home):
            with step(progress, "building the Debian 13 guest image", takes="two to three minutes"):
                _build(home, progress)
    return image


def _build(home: Path, progress: Progress) -> None:
    work = cache.unfinished(home)
    root, made = work / "root", work / "made"
    made.mkdir(parents=True)
    try:
        with step(progress, "  installing packages into a directory", takes="about 90 seconds"):
            _install(work, root)
        for source, name in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
            shutil.copy(_inside(root, source), made / name)
        with step(progress, "  writing the disk", takes="about 20 seconds"):
            _write_disk(root, made / "disk.raw")
        os.rename(made, home)
    finally:
        cache.remove(work)


def _inside(root: Path, name: str) -> Path:
    """Follow a symbolic link of the guest's root, which may be absolute, within `root`."""
    path = root / name
    return root / os.readlink(path).lstrip("/") if path.is_symlink() else path


def _install(work: Path, root: Path) -> None:
    pair = keys.ensure(cache.directory())
    everything = guest.files(pair.public(pair.operator), pair.host.read_text(), pair.public(pair.host))
    _archive(work / "all.tar", everything)
    _archive(work / "early.tar", (f for f in everything if f.path in guest.BEFORE_PACKAGES))
    script = work / "configure"
    script.write_text(guest.configure_script())
    _run(
        privileged(
            [
                program("mmdebstrap"),
                "--mode=root",
                "--variant=minbase",
                "--format=directory",
                "--architectures=amd64",
                f"--include={','.join(guest.PACKAGES)}",
                "--skip=cleanup/apt,cleanup/reproducible",
                f"--essential-hook=tar-in {work / 'early.tar'} /",
                f"--customize-hook=tar-in {work / 'all.tar'} /",
                f'--customize-hook=chroot "$1" /bin/sh <{script}',
                guest.SUITE,
                str(root),
            ]
        )
    )


def _archive(path: Path, files: Iterable[guest.File]) -> None:
    with tarfile.open(path, "w") as archive:
        for file in files:
            data = file.text.encode()
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(data), file.mode
            archive.addfile(entry, io.BytesIO(data))


def _write_disk(root: Path, disk: Path) -> None:
    sectors = SIZE_GIB * 2**30 // _SECTOR
    with disk.open("wb") as handle:
        handle.truncate(sectors * _SECTOR)
    _run([program("sfdisk"), "--quiet", str(disk)], f"{_PARTITION_SECTOR},,83,*\n")
    size_kib = (sectors - _PARTITION_SECTOR) * _SECTOR // 1024
    options = f"offset={_PARTITION_SECTOR * _SECTOR},lazy_itable_init=0,lazy_journal_init=0"
    mke2fs = [program("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0", "-i", "32768"]
    mke2fs += ["-U", guest.FILESYSTEM, "-E", options, "-d", str(root), str(disk), f"{size_kib}k"]
    _run(privileged(mke2fs))
    loader = root / "boot" / "grub" / "i386-pc"
    boot, core = (loader / "boot.img").read_bytes(), (loader / "core.img").read_bytes()
    if len(core) > (_PARTITION_SECTOR - 1) * _SECTOR:
        raise ImageError(f"GRUB's core image has {len(core)} bytes: no room before the partition")
    with disk.open("r+b") as handle:
        handle.write(boot[:_MENU_ROOM])
        handle.seek(_SECTOR)
        handle.write(core)
    disk.chmod(0o444)


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise ImageError(f"{command[0]} exited {done.returncode}:\n{tail}")
