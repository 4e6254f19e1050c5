"""The cache: one directory of things that cost minutes to make and are never changed once made."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
