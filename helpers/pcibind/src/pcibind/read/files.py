"""Files that are there in full or not at all, whenever the power goes."""

from __future__ import annotations

import contextlib
import os


def read(path: str) -> str | None:
    """The text of a file, None when it is not there. Raises OSError, UnicodeDecodeError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_atomically(path: str, text: str, mode: int = 0o644) -> bool:
    """Make `path` hold `text`; return whether anything had to be written.

    The new content is on the disk before its name is, and the name before this returns.
    Raises OSError.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if read(path) == text:
            return False
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    # One fixed name: what a killed run left behind is overwritten, never collected.
    temporary = f"{directory}/.{name}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    _sync(directory)
    return True


def remove(path: str) -> bool:
    """Make `path` be gone; return whether it was there. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    _sync(os.path.dirname(path))
    return True


def names(directory: str) -> list[str]:
    """The names in a directory; none where it is not there. Raises OSError."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def append(path: str, text: str) -> None:
    """Add text to a file of this boot. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
