"""The machine that a command works on: where it reads, and how it writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from pcibind import sysfs
from pcibind.bind import NODE_SECONDS
from pcibind.bounded import BoundedWriter, SysfsWriter
from pcibind.evidence import Evidence
from pcibind.model import Topology
from pcibind.paths import Paths


@dataclass(frozen=True, slots=True)
class Host:
    """A host under `paths.root`; `udev` says whether pyudev enumerates where it can."""

    paths: Paths = field(default_factory=Paths)
    writer: SysfsWriter = field(default_factory=BoundedWriter)
    udev: bool = True
    node_seconds: float = NODE_SECONDS

    def topology(self) -> Topology:
        """The PCI functions as they are now."""
        return sysfs.read(self.paths.root, udev=self.udev)

    def evidence(self) -> Evidence:
        """What the host uses its devices for now."""
        # Starts a shell; boot does without.
        from pcibind import evidence_text

        return evidence_text.read(self.paths.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off every other run that would change something, until this one is over."""
        self.paths.run.mkdir(parents=True, exist_ok=True)
        # The directory itself is locked: nothing needs to be opened for writing.
        descriptor = os.open(self.paths.run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
