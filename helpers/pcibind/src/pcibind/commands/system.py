"""The system that a command works on: its paths, its kernel, its time limits, and the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Container, Iterator, Sequence

from pcibind.change.drivers import NODE_SECONDS
from pcibind.model.errors import BusyError, UsageError, describe_os_error
from pcibind.model.pci import Topology
from pcibind.model.record import REBUILD
from pcibind.model.report import INITRAMFS_NOTE
from pcibind.model.request import OFF
from pcibind.model.values import TYPE_CHECKING
from pcibind.read import files, sysfs
from pcibind.read.files import Paths
from pcibind.read.kernel import BoundedKernel

if TYPE_CHECKING:
    from pcibind.read.evidence_text import Gathering
    from pcibind.read.kernel import Kernel, T, Task


LOCK_SECONDS = 60.0
QUEUE_SECONDS = 10.0
_OFF_NOTE = f"the kernel command line has {OFF}: no unit binds a board at this boot"


class System:
    """A system below `paths.root`."""

    def __init__(
        self,
        paths: Paths | None = None,
        kernel: Kernel | None = None,
        *,
        node_seconds: float = NODE_SECONDS,
        lock_seconds: float = LOCK_SECONDS,
        queue_seconds: float = QUEUE_SECONDS,
    ) -> None:
        self.paths = paths or Paths()
        self.kernel = kernel or BoundedKernel()
        self.node_seconds = node_seconds
        self.lock_seconds = lock_seconds
        self.queue_seconds = queue_seconds
        self.is_first_run = False
        """Whether no run before this one locked the system since it booted; known while locked."""
        self.overrides_of: Container[str] | None = None
        """The boards, by their paths, whose overrides `topology` reads: None for all."""

    def topology(self) -> Topology:
        """The PCI functions as they are now."""
        return self.carry_out([sysfs.read(self.paths, boards=self.overrides_of)])[0]

    def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Run tasks that need accesses which may hang; return their results, in their order."""
        return self.kernel.carry_out(tasks)

    def gathering(self) -> Gathering:
        """Start to read what the host uses its devices for; to be used in a `with`."""
        # A boot does without.
        from pcibind.read.evidence_text import Gathering

        return Gathering(self.paths)

    def is_off(self) -> bool:
        """Whether the kernel command line of this boot turns pcibind off."""
        # The kernel and systemd know a word in quotes as well.
        line = files.read(f"{self.paths.proc}/cmdline") or ""
        return OFF in line.replace('"', "").split()

    def boot_notes(self) -> tuple[str, ...]:
        """What is special about this boot."""
        return (_OFF_NOTE,) if self.is_off() else ()

    def initramfs_notes(self, *, listed: bool = False) -> tuple[str, ...]:
        """Which initramfs that may boot does not hold what this host has, and how to rebuild it.

        `listed` says that the list has just changed; an image elsewhere may have the old one.
        """
        from pcibind.read import initramfs

        early = [path for paths in initramfs.EARLY for path in paths]
        cache = f"{self.paths.run}/initramfs.json"
        contents = initramfs.look(early, root=self.paths.root, cache=cache)
        problems = (*contents.differences, *contents.unknown)
        if any(each.startswith("the host lacks") for each in problems):
            return (*problems, f"run `pcibind setup`, then `{REBUILD}`, before the next boot")
        return (
            (*problems, f"run `{REBUILD}` before the next boot")
            if problems
            else (INITRAMFS_NOTE,) * (listed and not contents.images)
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make every other run that changes something wait until this one ends.

        Raises BusyError when another run holds the lock for longer than `lock_seconds`, and
        UsageError when there can be no lock.
        """
        try:
            descriptor = self._open_lock()
        except OSError as error:
            remedy = "" if isinstance(error, PermissionError) else "; remove what is in its way"
            raise UsageError(
                f"nothing was touched: {self.paths.lock} cannot be locked: {error.filename}: "
                f"{describe_os_error(error)}{remedy}"
            ) from error
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        os.makedirs(self.paths.run, 0o755, exist_ok=True)
        # Only root can open it: a process that can open a file can lock it without end.
        flags = os.O_RDONLY | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):
            return os.open(self.paths.lock, flags)
        self.is_first_run = True
        return os.open(self.paths.lock, flags | os.O_CREAT, 0o600)

    def _lock(self, descriptor: int) -> None:
        deadline = None
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(self.paths, descriptor)
            if deadline is None:
                deadline = time.monotonic() + self.lock_seconds
                # Without standard error, print() would write it into the report.
                with contextlib.suppress(OSError, AttributeError):
                    sys.stderr.write(f"pcibind: waiting for {holder}\n")
            if time.monotonic() > deadline:
                raise BusyError(
                    f"{holder} is still running after {self.lock_seconds:g} s; wait until "
                    "it ends, then try again"
                )
            time.sleep(0.1)


def _holder(paths: Paths, descriptor: int) -> str:
    """The process that holds the lock of a file, as text; see fs/locks.c for /proc/locks."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in (files.read(f"{paths.proc}/locks") or "").splitlines():
            words = line.split()
            # One that waits has an arrow before its kind.
            if words[1:2] == ["FLOCK"] and words[5:6] == [device]:
                name = files.read(f"{paths.proc}/{words[4]}/comm") or "ended, but not its child"
                return f"process {words[4]} ({name.strip()})"
    return "another process"
