"""The cache: one directory of things that cost minutes to make and are never changed once made.

Several runs may use it side by side: each entry is made under a lock, at a path that only its maker uses, and then
renamed. Unused entries are removed.
"""

import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.lab import journal

KEPT_DAYS: Final = 14
"""Entries unused for this long are removed."""

KEPT_GIB: Final = 24
"""Above this size, the least recently used entries are removed first."""

_RECENT_SECONDS: Final = 6 * 3600
"""Entries used this recently are never removed: a run may be about to use them again."""

_KINDS: Final = (
    *("emulators/*", "images/*", "prepared/*", "warm/*", "stages/*", "containers/*", "accelerator-*.json"),
    # Where images of containers lay before.
    *("containers-*", "containers.tmp-*"),
)
"""What can be made anew, by its place in the cache."""

_UNFINISHED: Final = ".unfinished"


def directory() -> Path:
    """Return `$GEVULOT_LAB_CACHE`, or `~/.cache/gevulot-lab`; made when missing."""
    configured = os.environ.get("GEVULOT_LAB_CACHE")
    path = Path(configured).absolute() if configured else Path.home() / ".cache" / "gevulot-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: str) -> str:
    """Return 16 hexadecimal digits that change when any part, or their order, changes."""
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{len(part)}:".encode())
        state.update(part.encode())
    return state.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file lock `path.lock`. The kernel drops it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if handle is None:
        with journal.entered(f"waiting for another process, which is making {path.name}"):
            handle = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the file lock `path.lock` if nobody else does; tell whether it is held. It is removed at the end."""
    handle = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _lock_file(path).unlink(missing_ok=True)
            os.close(handle)


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path, how: int) -> int | None:
    """Return the descriptor of the locked file; None when it is not free and we do not wait."""
    while True:
        handle = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            os.close(handle)
            return None
        # Whoever held it before may have removed the file: then this is a lock that nobody else sees.
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == _lock_file(path).stat().st_ino:
                return handle
        os.close(handle)


def unfinished(path: Path) -> Path:
    """Return where to make `path` before it is renamed to it; to be used under its lock.

    What is there is left by a maker that was killed: it is removed.
    """
    half = path.with_name(path.name + _UNFINISHED)
    remove(half)
    return half


def holds(path: Path) -> bool:
    """Tell whether something is in the cache, and if so note that it is used now."""
    with suppress(FileNotFoundError):
        os.utime(path)
        return True
    return False


def remove(path: Path) -> None:
    """Remove a file or a tree; what root made is removed by root."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            from tests.lab.hostpackages import privileged

            # A killed builder may have left file systems mounted below it: they are not ours to empty.
            mounts = sorted((m for m in _mounts() if m.is_relative_to(path)), reverse=True)
            for mount in mounts:
                subprocess.run(privileged(["umount", "--lazy", str(mount)]), check=False)
            subprocess.run(privileged(["rm", "-rf", "--one-file-system", str(path)]), check=True)
    else:
        path.unlink(missing_ok=True)


def _mounts() -> list[Path]:
    return [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def prune(now: float | None = None) -> list[Path]:
    """Remove unused entries and those that a killed maker left; return what was removed.

    An image is kept as long as a disk refers to it.
    """
    moment = time.time() if now is None else now
    removed = []
    entries = [each for kind in _KINDS for each in directory().glob(kind) if each.suffix != ".lock"]
    for half in (each for each in entries if each.name.endswith(_UNFINISHED)):
        with locked_if_free(half.with_name(half.name.removesuffix(_UNFINISHED))) as free:
            if free and half.exists():
                remove(half)
                removed.append(half)
    whole = sorted((each for each in entries if not each.name.endswith(_UNFINISHED)), key=_used)
    total = sum(_size(each) for each in whole)
    for each in whole:
        allowed = _RECENT_SECONDS if total > KEPT_GIB * 2**30 else KEPT_DAYS * 24 * 3600
        if moment - _used(each) < allowed or each in {base for disk in disks() for base in bases(disk)}:
            continue
        with locked_if_free(each) as free:
            if free and moment - _used(each) >= allowed:
                total -= _size(each)
                remove(each)
                removed.append(each)
    return removed


def disks() -> list[Path]:
    """Return every disk of a machine or of the cache that may lie over another one."""
    return [*directory().glob("*/*.qcow2"), *directory().glob("*/*/*.qcow2")]


def bases(disk: Path) -> tuple[Path, ...]:
    """Return what a disk lies over, and the folder of that: both are needed as long as the disk is there."""
    with suppress(OSError, struct.error), disk.open("rb") as file:
        # The header of qcow2 (QEMU, docs/interop/qcow2.rst): the name's offset at byte 8, its length at byte 16.
        offset, length = struct.unpack_from(">QI", file.read(20), 8)
        if length:
            file.seek(offset)
            base = Path(os.fsdecode(file.read(length)))
            return (base, base.parent)
    return ()


def _used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    """Return the bytes that a file, or all files of a tree, take on the disk."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(_size(each) for each in path.iterdir())
        return path.lstat().st_blocks * 512
    return 0
