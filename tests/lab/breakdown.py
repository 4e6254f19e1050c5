"""The breakdown: how a machine shows that it is broken, whatever was just being asked of it."""

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.lab.record import MachineError

LOGIN_SECONDS: Final = 90
"""How long a machine that shows its login on the console may go on without answering over SSH."""

_PANIC: Final = re.compile(r"Kernel panic - not syncing[^\r\n]*")
_LOGIN: Final = re.compile(r"^\S+ login: ", re.MULTILINE)
_FULL_BYTES: Final = 16 * 2**20
"""A disk with less room than this is full: QEMU stops a guest whose write found no room, and says so nowhere."""

_TAIL_LINES: Final = 12
_ESCAPES: Final = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()c][0-9A-Z]?)|[\r\x00]")


class Breakdown(MachineError):
    """A machine is broken: `reason` says how in one line, the text has the console's last lines too."""

    def __init__(self, name: str, reason: str, words: str = "") -> None:
        super().__init__(f"{name} is broken: {reason}{words}")
        self.name = name
        self.reason = reason


class Console:
    """What a guest printed on its serial console since the last power-on."""

    def __init__(self, path: Path) -> None:
        """Follow the log at `path`, to which every boot appends; `start` is the offset of the last power-on."""
        self._path = path
        self.start = 0

    def forget(self) -> None:
        """Start anew: what was printed up to now belongs to an earlier power-on."""
        with suppress(FileNotFoundError):
            self.start = self._path.stat().st_size

    def text(self) -> str:
        """Return what was printed since the power-on; of a long text its last MiB."""
        with suppress(FileNotFoundError), self._path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(self.start, size - 2**20))
            return log.read().decode(errors="replace")
        return ""

    def panic(self) -> str | None:
        """Return the line in which the kernel says that it panics, None when it has not."""
        line = _PANIC.search(self.text())
        return line.group().strip() if line else None

    def login(self) -> bool:
        """Tell whether it shows a login prompt."""
        return bool(_LOGIN.search(_ESCAPES.sub("", self.text())))


def full(directory: Path) -> str | None:
    """Return in words that the file system of a directory has no room, None when it has some."""
    with suppress(OSError):
        free = shutil.disk_usage(directory).free
        if free < _FULL_BYTES:
            return (
                f"this computer's disk is full: only {free // 2**20} MiB are free for {directory}; free some space, "
                "or set GEVULOT_LAB_CACHE to a directory on another disk"
            )
    return None


def last_words(*paths: Path) -> str:
    """Return the last lines of logs, each below a line that names it."""
    words = ""
    for path in paths:
        with suppress(OSError):
            lines = [_ESCAPES.sub("", line).rstrip() for line in path.read_text(errors="replace").split("\n")]
            tail = [line for line in lines if line][-_TAIL_LINES:]
            words += "".join(f"\n  {line}" for line in (f"{path} ends:", *tail)) if tail else ""
    return words
