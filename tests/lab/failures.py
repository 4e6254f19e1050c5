"""The failures: errors of the lab that are shown without a traceback."""

from __future__ import annotations

import subprocess
from typing import Final

from tests.lab.board import BoardError
from tests.lab.claims import WorldError
from tests.lab.containers.build import BuildError
from tests.lab.emulator import EmulatorError
from tests.lab.history import HistoryError
from tests.lab.hostpackages import HostPackageError
from tests.lab.image import ImageError
from tests.lab.platform import PlatformError
from tests.lab.qmp import QmpError
from tests.lab.record import MachineError
from tests.lab.topology import TopologyError

FAILURES: Final = (
    BoardError,
    BuildError,
    EmulatorError,
    HistoryError,
    HostPackageError,
    ImageError,
    MachineError,
    OSError,
    PlatformError,
    QmpError,
    TopologyError,
    WorldError,
    subprocess.SubprocessError,
)


def text(error: BaseException) -> str:
    """Return what to show of a failure: its text, and the notes on it."""
    return "\n".join((str(error), *getattr(error, "__notes__", ())))
