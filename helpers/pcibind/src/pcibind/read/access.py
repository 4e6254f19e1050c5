"""Kernel accesses that may never come back, as requests: what is asked, not how.

Unbinding waits for the old driver, without bound and out of reach of signals, and meanwhile holds
the device's lock, behind which even reading `driver_override` waits. So whoever needs such an
access is a generator that yields it, and `bounded` carries it out where it can be given up on:

    override = yield access.read(paths.override(address))

The answer is sent in; an OSError is thrown in as the access raised it; and StuckError when it did
not come back in time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")

Kind = Literal["read", "read-all", "write", "open", "modprobe", "modules", "wait"]

SECONDS = 30.0
"""How long a write may take before its device counts as stuck."""

READ_SECONDS = 30.0
"""How long reading a driver override may take: a probe holds the device's lock."""

OPEN_SECONDS = 5.0
"""How long opening a device node may take."""


class Access(NamedTuple):
    """One access: what it is done to, what is written, and after how many seconds to give up."""

    kind: Kind
    targets: tuple[str, ...]
    text: str
    seconds: float

    def __str__(self) -> str:
        target = self.targets[0] if self.targets else "nothing"
        match self.kind:
            case "write":
                return f"writing {self.text.strip() or 'a newline'} to {target}"
            case "modprobe":
                return f"modprobe {target}"
            case "modules":
                return f"modprobe -R {target}"
            case "read-all":
                return "reading driver overrides"
            case "wait":
                return f"waiting for {', '.join(self.targets)}"
            case "open":
                return f"opening {target}"
            case "read":
                return f"reading {target}"


Task = Generator[Access, str, T]
"""Work that needs such accesses and returns a T."""


def read(path: str, seconds: float = READ_SECONDS) -> Access:
    """Read a file; the answer is its text, stripped."""
    return Access("read", (path,), "", seconds)


def read_all(paths: Iterable[str]) -> Access:
    """Read many files; the answer has a line for each, an empty one where it cannot be read."""
    return Access("read-all", tuple(paths), "", READ_SECONDS)


def write(path: str, text: str) -> Access:
    """Write a sysfs attribute with one system call."""
    return Access("write", (path,), text, SECONDS)


def open_and_close(path: str) -> Access:
    """Open a device node for reading and writing, and close it again."""
    return Access("open", (path,), "", OPEN_SECONDS)


def modprobe(name: str) -> Access:
    """Load a kernel module, by its name or by the alias of a device."""
    return Access("modprobe", (name,), "", SECONDS)


def modules(alias: str) -> Access:
    """List the modules for the alias of a device, those that a blacklist keeps away too."""
    return Access("modules", (alias,), "", SECONDS)


def wait(files: Iterable[str], seconds: float) -> Access:
    """Wait until these device nodes or drivers' files are there; the answer lists the missing."""
    # `seconds` is for the waiting itself, which ends on its own.
    return Access("wait", tuple(files), str(seconds), seconds + SECONDS)
