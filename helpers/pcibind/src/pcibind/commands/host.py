"""The machine that a command works on: where it reads, and how it writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pcibind.change.drivers import NODE_SECONDS
from pcibind.model.pci import Topology
from pcibind.read import sysfs
from pcibind.read.kernel import BoundedKernel, Kernel, T, Task
from pcibind.read.paths import Paths

if TYPE_CHECKING:
    from pcibind.read.gathering import Gathering


class Host:
    """A host under `paths.root`; `udev` says whether pyudev enumerates where it can."""

    def __init__(
        self,
        paths: Paths | None = None,
        kernel: Kernel | None = None,
        *,
        udev: bool = False,
        node_seconds: float = NODE_SECONDS,
    ) -> None:
        self.paths = paths or Paths()
        self.kernel = kernel or BoundedKernel()
        self.udev = udev
        self.node_seconds = node_seconds

    def topology(self) -> Topology:
        """The PCI functions as they are now."""
        return self.carry_out([sysfs.read(self.paths, udev=self.udev)])[0]

    def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Run tasks that need accesses which may hang; return their results, in their order."""
        return self.kernel.carry_out(tasks)

    def gathering(self) -> Gathering:
        """Start to look at what the host uses its devices for; to be used in a `with`."""
        # A boot does without.
        from pcibind.read.gathering import Gathering

        return Gathering(self.paths)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off every other run that would change something, until this one is over."""
        os.makedirs(self.paths.run, exist_ok=True)
        # The directory itself is locked: nothing needs to be opened for writing.
        descriptor = os.open(self.paths.run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
