"""The image: the disk of a bare host of one platform, built once from packages and never changed."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, guest, keys, volume
from tests.lab.hostpackages import privileged, program
from tests.lab.platform import DEBIAN_13, Firmware, Platform, Root
from tests.lab.progress import Progress, silent, step

SIZE_GIB = 20
"""The disk's size as the guest sees it. The file is sparse."""

_SECTOR = 512
_PARTITION_SECTOR = 2048
_SNAPSHOT = ('--aptopt=Acquire::Check-Valid-Until "false"',)
APT_OPTIONS = {"forky": _SNAPSHOT, "sid": _SNAPSHOT}
"""A mirror may be a snapshot. A release in preparation says until when it is valid, one that is out does not."""

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


def recipe(platform: Platform = DEBIAN_13) -> str:
    """Return the digest of everything that a platform's image depends on, the SSH keys included."""
    here = Path(__file__)
    return cache.digest(
        here.read_text(),
        here.with_name("volume.py").read_text(),
        platform.suite,
        *guest.packages(platform),
        *(f"{file.path} {file.mode} {file.text}" for file in _files(platform)),
        guest.configure_script(platform),
    )


def ensure(progress: Progress = silent, platform: Platform = DEBIAN_13) -> Image:
    """Return a platform's image, building it when the cache has none of this recipe.

    Raises ImageError when a step of the build fails; nothing half-built is left behind.
    """
    key = recipe(platform)
    home = cache.directory() / "images" / key
    image = Image(key, home / "disk.raw", home / "vmlinuz", home / "initrd.img")
    if cache.holds(home):
        return image
    with cache.locked(home):
        if not cache.holds(home):
            with step(progress, f"building the image of {platform.name}", takes="two to three minutes"):
                _build(platform, home, progress)
    return image


def _files(platform: Platform) -> tuple[guest.File, ...]:
    pair = keys.ensure(cache.directory())
    return guest.files(platform, pair.public(pair.operator), pair.host.read_text(), pair.public(pair.host))


def _build(platform: Platform, home: Path, progress: Progress) -> None:
    work = cache.unfinished(home)
    root, made = work / "root", work / "made"
    made.mkdir(parents=True)
    try:
        with step(progress, "  installing packages into a directory", takes="about 90 seconds"):
            _install(platform, work, root)
        for source, name in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
            shutil.copy(_inside(root, source), made / name)
        with step(progress, "  writing the disk", takes="about 20 seconds"):
            _write_disk(platform, root, made / "disk.raw")
        os.rename(made, home)
    finally:
        cache.remove(work)


def _inside(root: Path, name: str) -> Path:
    """Follow a symbolic link of the guest's root, which may be absolute, within `root`."""
    path = root / name
    return root / os.readlink(path).lstrip("/") if path.is_symlink() else path


def _install(platform: Platform, work: Path, root: Path) -> None:
    everything = _files(platform)
    _archive(work / "all.tar", everything)
    _archive(work / "early.tar", (f for f in everything if f.path in guest.BEFORE_PACKAGES))
    script = work / "configure"
    script.write_text(guest.configure_script(platform))
    _run(
        privileged(
            [
                program("mmdebstrap"),
                "--mode=root",
                "--variant=minbase",
                "--format=directory",
                "--architectures=amd64",
                f"--include={','.join(guest.packages(platform))}",
                *APT_OPTIONS.get(platform.suite, ()),
                "--skip=cleanup/apt,cleanup/reproducible",
                f"--essential-hook=tar-in {work / 'early.tar'} /",
                f"--customize-hook=tar-in {work / 'all.tar'} /",
                f'--customize-hook=chroot "$1" /bin/sh <{script}',
                platform.suite,
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


def _write_disk(platform: Platform, root: Path, disk: Path) -> None:
    sectors = SIZE_GIB * 2**30 // _SECTOR
    with disk.open("wb") as handle:
        handle.truncate(sectors * _SECTOR)
    if platform.firmware is Firmware.UEFI:
        start, end = _write_efi(platform, root, disk, sectors)
    else:
        kind = "8e" if platform.root is Root.LVM else "83"
        _run([program("sfdisk"), "--quiet", str(disk)], f"{_PARTITION_SECTOR},,{kind},*\n")
        start, end = _PARTITION_SECTOR * _SECTOR, sectors * _SECTOR
        _write_loader(root, disk)
    if platform.root is Root.LVM:
        _write(disk, start, volume.header(end - start, guest.VOLUME_GROUP, guest.VOLUME))
        count = volume.extents(end - start)
        start += volume.START
        end = start + count * volume.EXTENT
    _write_files(root, disk, start, end)
    disk.chmod(0o444)


def _write_efi(platform: Platform, root: Path, disk: Path, sectors: int) -> tuple[int, int]:
    """Write the table and the EFI partition; return where the other partition begins and ends, in bytes."""
    kind = "lvm" if platform.root is Root.LVM else "linux"
    start = _PARTITION_SECTOR + guest.EFI_MIB * 2**20 // _SECTOR
    end = sectors - _PARTITION_SECTOR
    table = f"label: gpt\nstart={_PARTITION_SECTOR}, size={start - _PARTITION_SECTOR}, type=uefi\n"
    _run([program("sfdisk"), "--quiet", str(disk)], f"{table}start={start}, size={end - start}, type={kind}\n")
    content = root / guest.EFI_IMAGE
    _write(disk, _PARTITION_SECTOR * _SECTOR, content.read_bytes())
    _run(privileged(["rm", str(content)]))
    return start * _SECTOR, end * _SECTOR


def _write_loader(root: Path, disk: Path) -> None:
    """Write GRUB for BIOS into the first sector and behind it."""
    loader = root / "boot" / "grub" / "i386-pc"
    boot, core = (loader / "boot.img").read_bytes(), (loader / "core.img").read_bytes()
    if len(core) > (_PARTITION_SECTOR - 1) * _SECTOR:
        raise ImageError(f"GRUB's core image has {len(core)} bytes: no room before the partition")
    _write(disk, 0, boot[:_MENU_ROOM])
    _write(disk, _SECTOR, core)


def _write_files(root: Path, disk: Path, start: int, end: int) -> None:
    """Write a file system with all files of the guest between two places of the disk, in bytes."""
    options = f"offset={start},lazy_itable_init=0,lazy_journal_init=0"
    mke2fs = [program("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0", "-i", "32768"]
    mke2fs += ["-U", guest.FILESYSTEM, "-E", options, "-d", str(root), str(disk), f"{(end - start) // 1024}k"]
    _run(privileged(mke2fs))


def _write(disk: Path, place: int, data: bytes) -> None:
    with disk.open("r+b") as handle:
        handle.seek(place)
        handle.write(data)


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise ImageError(f"{command[0]} exited {done.returncode}:\n{tail}")
