"""What can go wrong, one class and one exit code for each kind."""

from __future__ import annotations

import os
from enum import IntEnum


class ExitCode(IntEnum):
    """What each exit status of the command means; `--help` prints these."""

    OK = 0
    UNEXPECTED = 1
    CONFIGURATION = 2
    REFUSED = 3
    IDENTITY = 4
    NOT_BOUND = 5
    STUCK = 6
    TAKEN = 7
    PENDING = 8
    BUSY = 9


MEANINGS = {
    ExitCode.OK: "done, or nothing to do",
    ExitCode.UNEXPECTED: "unexpected error",
    ExitCode.CONFIGURATION: "usage, configuration or record is wrong; nothing was touched",
    ExitCode.REFUSED: "refused: a guard, or a foreign device in a board's IOMMU group",
    ExitCode.IDENTITY: "a board is absent, moved, replaced or has an extra function",
    ExitCode.NOT_BOUND: "a board is wanted but not bound, or could not be restored",
    ExitCode.STUCK: "a device is stuck in the kernel; reboot",
    ExitCode.TAKEN: "a board was taken at this boot that is not on record; run pcibind release",
    ExitCode.PENDING: "plan only: changes are pending, which apply would make",
    ExitCode.BUSY: "another run of pcibind did not end in time; nothing was touched",
}


class PcibindError(Exception):
    """An error that pcibind reports without a traceback."""

    exit_code = ExitCode.UNEXPECTED


class ConfigError(PcibindError):
    """The configuration or a selector is unreadable or contradicts itself."""

    exit_code = ExitCode.CONFIGURATION


class UsageError(PcibindError):
    """The command cannot do its work as it was called, so nothing was touched."""

    exit_code = ExitCode.CONFIGURATION


class RecordError(PcibindError):
    """The record of chosen boards cannot be read."""

    exit_code = ExitCode.CONFIGURATION


class NotBoundError(PcibindError):
    """A function did not take the driver it was to take, or cannot be moved now."""

    exit_code = ExitCode.NOT_BOUND


class BusyError(PcibindError):
    """Another run of pcibind held the lock for too long."""

    exit_code = ExitCode.BUSY


class InUseError(PcibindError):
    """A board is in use through VFIO, or that cannot be checked."""

    exit_code = ExitCode.REFUSED


class NoNodeError(InUseError):
    """The kernel has no device nodes for VFIO groups, so it cannot be asked."""

    exit_code = ExitCode.NOT_BOUND


class StuckError(PcibindError):
    """The kernel did not finish an access in time. `process` is the child that still waits."""

    exit_code = ExitCode.STUCK

    def __init__(self, message: str, process: int | None = None) -> None:
        super().__init__(message)
        self.process = process


def describe_os_error(error: OSError) -> str:
    """Why an access failed, and that it needs root where another user was refused it."""
    is_refused = isinstance(error, PermissionError) and os.geteuid() != 0
    return f"{error.strerror or error}{'; run as root' if is_refused else ''}"
