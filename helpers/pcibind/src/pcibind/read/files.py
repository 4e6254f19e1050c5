"""The paths of pcibind's files, and how they are read and written: in full, or not at all.

Paths are plain text rather than pathlib, which a boot would import for nothing else.
"""

from __future__ import annotations

import contextlib
import os

from pcibind.model import record
from pcibind.model.errors import RecordError, describe_os_error
from pcibind.model.pci import Address, board_path
from pcibind.model.record import REBUILD, Record
from pcibind.model.values import NamedTuple


class Paths(NamedTuple):
    """The paths that several modules share, under `root`, which is empty (so /) but in tests."""

    root: str = ""

    @property
    def sys(self) -> str:
        """The sysfs mount point."""
        return f"{self.root}/sys"

    @property
    def proc(self) -> str:
        """The proc mount point."""
        return f"{self.root}/proc"

    @property
    def devices(self) -> str:
        """The directory with a link for each PCI function."""
        return f"{self.root}/sys/bus/pci/devices"

    @property
    def drivers_probe(self) -> str:
        """Writing an address here makes the kernel look for a driver for it."""
        return f"{self.root}/sys/bus/pci/drivers_probe"

    def device(self, address: Address) -> str:
        """A function's directory in sysfs."""
        return f"{self.devices}/{address}"

    def override(self, address: Address) -> str:
        """A function's driver override: reading it takes the device's lock."""
        return f"{self.devices}/{address}/driver_override"

    def driver(self, name: str) -> str:
        """A PCI driver's directory in sysfs; there only while the driver is loaded."""
        return f"{self.root}/sys/bus/pci/drivers/{name}"

    def group_devices(self, group: int) -> str:
        """The directory with a link for each device of an IOMMU group."""
        return f"{self.root}/sys/kernel/iommu_groups/{group}/devices"

    def group_node(self, group: int) -> str:
        """The device node through which a process opens an IOMMU group."""
        return f"{self.root}/dev/vfio/{group}"

    @property
    def configuration(self) -> str:
        """The directory of the TOML files."""
        return f"{self.root}/etc/pcibind"

    @property
    def early_list(self) -> str:
        """The list that the early script reads, in the initramfs too."""
        return f"{self.root}/etc/pcibind/early.list"

    @property
    def record(self) -> str:
        """The chosen boards and their original drivers."""
        return f"{self.root}/var/lib/pcibind/record.json"

    @property
    def run(self) -> str:
        """State of this boot."""
        return f"{self.root}/run/pcibind"

    @property
    def lock(self) -> str:
        """Locked by the run that changes something; for root alone to open."""
        return f"{self.root}/run/pcibind/lock"

    @property
    def taken(self) -> str:
        """The functions whose overrides were set at this boot, by the early script or by us."""
        return f"{self.root}/run/pcibind/taken"

    @property
    def udev_queue(self) -> str:
        """There while udev has events that it has not dealt with."""
        return f"{self.root}/run/udev/queue"

    @property
    def events(self) -> str:
        """A file for each later event of a chosen function: ACTION.ADDRESS."""
        return f"{self.root}/run/pcibind/events"


def read(path: str, errors: str = "replace") -> str | None:
    """The text of a file, None when it is not there. Raises OSError.

    Bytes that are no UTF-8 become U+FFFD, as no exception about them would name the file; where
    `errors` is "strict", they raise UnicodeDecodeError.
    """
    try:
        with open(path, encoding="utf-8", errors=errors) as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_attribute(path: str) -> str:
    """The text of an attribute of sysfs, which has a page at most. Raises OSError.

    Without the layers of open(): a look at the topology reads one of each device.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def write_atomically(path: str, text: str, mode: int | None = None) -> bool:
    """Make `path` hold `text`; return whether anything had to be written.

    A file whose permission bits are not `mode` is written anew; without `mode`, new files get 0644,
    and what a file of this text has does not matter. The new content is on the disk before its name
    is, and the name before this returns. Raises OSError.
    """
    with contextlib.suppress(OSError):
        if read(path) == text and mode in (None, os.stat(path).st_mode & 0o7777):
            return False
    mode = 0o644 if mode is None else mode
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
    """Remove a file; return whether it was there. Raises OSError."""
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


def clear(directory: str, prefix: str = "") -> None:
    """Remove the files of a directory whose names begin with `prefix`; directories in it stay.

    Raises OSError.
    """
    for name in names(directory):
        if name.startswith(prefix):
            with contextlib.suppress(IsADirectoryError):
                remove(f"{directory}/{name}")


def read_record(paths: Paths) -> Record | None:
    """Read the record; None when no board was ever recorded.

    Raises RecordError, naming the file and the next step, when it cannot be understood: without
    it the original drivers are unknown, so it is never replaced silently.
    """
    path = paths.record
    try:
        text = read(path, errors="strict")
        return None if text is None else record.parse(text)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {describe_os_error(error)}") from error
    except (UnicodeDecodeError, RecordError) as error:
        raise RecordError(
            f"{path}: {error}. Restore it from a backup; or do without: `mv {path} {path}.broken`, "
            f"`pcibind release`, `{REBUILD}`, `pcibind apply`"
        ) from error


def write_record(paths: Paths, known: Record) -> None:
    """Write the record, then the early list; without boards, remove them. Raises OSError."""
    if known.boards or known.leaving:
        write_atomically(paths.record, record.dump(known))
    if known.boards:
        write_atomically(paths.early_list, record.early_list(known))
    else:
        remove(paths.early_list)
    if not known.boards and not known.leaving:
        remove(paths.record)


def unrecorded_paths(paths: Paths, known: Record) -> list[str]:
    """The boards in the early list that are not on record, by their paths. Raises OSError."""
    lines = (read(paths.early_list) or "").splitlines()
    listed = [words[0] for line in lines if (words := line.split())]
    recorded = {board.path for board in known.boards}
    # An entry that is no path is listed as it stands.
    return sorted({board_path(path) or path for path in listed} - recorded)


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
