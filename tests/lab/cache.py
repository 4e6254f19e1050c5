"""The cache: one directory of things that cost minutes to make and are never changed once made.

Several runs may use it side by side: each entry is made under a lock, at a path that only its maker uses, and then
renamed. Unused entries are removed.
"""

import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
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
    *("emulators/*", "images/*", "prepared/*", "warm/*", "stages/*", "containers/*", "kernels/*", "packages/*"),
    "accelerator-*.json",
    # Where images of containers lay before.
    *("containers-*", "containers.tmp-*"),
)
"""What can be made anew, by its place in the cache."""

_UNFINISHED: Final = ".unfinished"


class CacheError(OSError):
    """The cache's directory cannot be used; the text names it and what to do."""


def directory() -> Path:
    """Return `$GEVULOT_LAB_CACHE`, or `~/.cache/gevulot-lab`; made when missing. Raises CacheError."""
    configured = os.environ.get("GEVULOT_LAB_CACHE")
    path = Path(configured).absolute() if configured else Path.home() / ".cache" / "gevulot-lab"
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise CacheError(
            f"the lab's cache cannot be kept in {path}: {error.strerror}; expected a directory that this user may "
            "write to. Set GEVULOT_LAB_CACHE to one, on a disk with some GiB of room."
        ) from error
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
        # Its previous holder may have removed the file: then no other process sees this lock.
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == _lock_file(path).stat().st_ino:
                return handle
        os.close(handle)


def unfinished(path: Path) -> Path:
    """Return where to make `path` before it is renamed to it; to be used under its lock.

    What makers left that were killed is removed. The path is this process's own: a child of a killed maker may live on
    and write into the one that it was given.
    """
    for half in path.parent.glob(f"{path.name}.*{_UNFINISHED}"):
        remove(half)
    return path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")


def holds(path: Path) -> bool:
    """Tell whether something is in the cache, and if so note that it is used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:
        raise PermissionError(
            f"{path} belongs to another user; set GEVULOT_LAB_CACHE to a directory of yours"
        ) from None
    return True


def remove(path: Path) -> None:
    """Remove a file or a tree; what root made is removed by root. Raises OSError naming what cannot be removed.

    A killed builder may have left file systems mounted below it, which may be anybody's: they are unmounted first.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    from tests.lab.hostpackages import privileged

    for mount in sorted(_mounts_below(path), reverse=True):
        subprocess.run(privileged(["umount", "--lazy", str(mount)]), check=False, capture_output=True)
    if left := _mounts_below(path):
        raise OSError(f"{path} cannot be removed: {left[0]} is mounted there; unmount it")
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        done = subprocess.run(privileged(["rm", "-rf", "--one-file-system", str(path)]), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"{path} cannot be removed: {done.stderr.strip()}")


def _mounts_below(path: Path) -> list[Path]:
    top = path.resolve()
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    # Blanks and the like are written in octal (proc_pid_mountinfo(5)).
    points = (re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in lines)
    return [point for each in points if (point := Path(os.fsdecode(each))).is_relative_to(top)]


def prune(now: float | None = None, *, kept: Iterable[Path] = ()) -> list[Path]:
    """Remove unused entries and those that a killed maker left; return what was removed.

    An image is kept as long as a disk refers to it, and so is what is named in `kept`. An entry that cannot be removed
    is left for the next time.
    """
    moment = time.time() if now is None else now
    needed = {each.resolve() for each in (*kept, *(base for disk in disks() for base in bases(disk)))}
    removed = []
    entries = [each for kind in _KINDS for each in directory().glob(kind) if each.suffix != ".lock"]
    for half in (each for each in entries if each.name.endswith(_UNFINISHED)):
        whole = half.with_name(half.name.removesuffix(_UNFINISHED).rpartition(".")[0])
        with suppress(OSError), locked_if_free(whole) as free:
            if free and half.exists():
                remove(half)
                removed.append(half)
    whole_entries = sorted((each for each in entries if not each.name.endswith(_UNFINISHED)), key=_used)
    total = sum(_size(each) for each in whole_entries)
    for each in whole_entries:
        allowed = _RECENT_SECONDS if total > KEPT_GIB * 2**30 else KEPT_DAYS * 24 * 3600
        if moment - _used(each) < allowed or each.resolve() in needed:
            continue
        with suppress(OSError), locked_if_free(each) as free:
            if free and moment - _used(each) >= allowed:
                total -= _size(each)
                # Renamed first: one that is half removed must not be taken for a whole one.
                half = unfinished(each)
                each.rename(half)
                remove(half)
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
