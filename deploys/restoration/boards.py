"""The boards given back to the drivers that they had, and then pcibind removed from the host."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import PurePath
from shlex import quote
from typing import NamedTuple

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from deploys import library, manifest
from deploys.operations.planning import DECIDED_AT_RUN_TIME, step, will_follow
from deploys.operations.restore import remove_empty_directories, restore_or_remove
from deploys.restoration.node import forgotten
from deploys.restoration.start import EARLY_DONE, Undo
from facts.paths import ExistingPaths
from facts.pci import PciRecord
from facts.unit import Units
from pcibind.change import boot_files
from pcibind.model.record import Record, RecordedBoard
from pcibind.read.files import Paths

COMMAND = manifest.PCIBIND.path
RUN = Paths().run
_INITRAMFS = (
    *(manifest.EARLY_RULE.path, manifest.INITRAMFS_HOOK.path, manifest.DRACUT_CONF.path),
    Paths().early_list,
)
# The files that pcibind has on a host, in an order in which none is missed by one that is still there.
FILES = (
    *(file.path for file in manifest.PCIBIND_UNITS),
    *_INITRAMFS,
    manifest.PCIBIND_BOARDS.path,
    COMMAND,
)
# The second and third are what a killed installation leaves.
DIRECTORIES = (Paths().configuration, str(PurePath(Paths().record).parent))
LIBRARIES = (library.DIRECTORY, f"{library.DIRECTORY}.new", f"{library.DIRECTORY}.old")

_FAILED = (
    "expected 0: every board of the node back on its drivers. Nothing of pcibind's configuration was removed. Do what "
    "it says above; if that is a reboot, reboot the host; then run the undo again."
)


def chosen(record: Record | None, undo: Undo) -> tuple[RecordedBoard, ...]:
    """The recorded boards that are to go back: the node's, and those that an earlier attempt could not give back."""
    if record is None:
        return ()
    ours = (each for each in record.boards if not undo.others or each.selector in undo.requested)
    return tuple(dict.fromkeys((*ours, *record.leaving)))


def release_command(boards: tuple[RecordedBoard, ...], named: bool) -> str:
    """The command that gives boards back, and quotes pcibind when it does not succeed.

    ``named`` says that others stay, so that the boards have to be named.
    """
    models = dict.fromkeys(
        f"{each.identity.vendor:04x} {each.identity.device:04x}" for board in boards for each in board.functions
    )
    words = " ".join([COMMAND, "release", *(quote(board.path) for board in boards if named)])
    # A vfio-pci with an id for these models (gevulot_vfio_ids) would take the boards again at once.
    return (
        f"for id in {' '.join(quote(each) for each in models)}; do echo $id >/sys/bus/pci/drivers/vfio-pci/remove_id; "
        f"done 2>/dev/null; output=$({words} 2>&1) || {{ code=$?; "
        f'printf "%s\\n" "$output" "pcibind release ended with $code; {_FAILED}" >&2; exit 1; }}; '
        'printf "%s\\n" "$output"'
    )


@operation()
def boards_released(undo: Undo) -> Generator[PyinfraCommand | str, None, None]:
    """Let pcibind give the node's boards back, while it still knows which drivers and overrides they had.

    + undo: the host
    """
    boards = chosen(host.get_fact(PciRecord).record, undo)
    if not boards:
        host.noop("no board is on record")
        return
    yield release_command(boards, named=bool(undo.others))


@operation()
def unit_disabled() -> Generator[PyinfraCommand | str, None, None]:
    """Take pcibind's unit out of the boot."""
    state = host.get_fact(Units, units=(boot_files.UNIT,)).get(boot_files.UNIT)
    if state is None or (not state.enabled.startswith("enabled") and state.active == "inactive"):
        host.noop(f"{boot_files.UNIT} is not enabled")
        return
    # The others are pulled in by it: they are not enabled.
    rest = " ".join(PurePath(path).name for path in boot_files.UNIT_PATHS if path != boot_files.UNIT_PATH)
    yield (
        f"systemctl disable --now {boot_files.UNIT} && {{ systemctl stop {rest} 2>/dev/null; "
        f"systemctl reset-failed {boot_files.UNIT} {rest} 2>/dev/null; true; }}"
    )


@operation()
def run_cleared(inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Remove pcibind's directory of this boot, unless it says why a reboot is due: that clears it too.

    + inputs: operations of this run that may make the directory
    """
    present = host.get_fact(ExistingPaths, paths=(RUN, EARLY_DONE))
    if EARLY_DONE in present or not (present or will_follow(inputs)):
        host.noop(f"{RUN} does not exist, or the reboot takes it away")
        return
    yield f"rm -rf {RUN}" if present else DECIDED_AT_RUN_TIME


@step("Return the boards to their drivers")
def return_boards(undo: Undo) -> OperationMeta:
    return boards_released(name="Give the boards back to their drivers", undo=undo)


class Removal(NamedTuple):
    """The operations that remove pcibind, and those among them whose files an initramfs holds."""

    changes: list[OperationMeta]
    early_files: list[OperationMeta]


@step("Remove pcibind")
def remove_pcibind(undo: Undo, after: list[OperationMeta]) -> Removal:
    """Only after the boards were given back; and only what an operator does not use for boards of his own."""
    if undo.others:
        return Removal([restore_or_remove(undo.past, path) for path in host.loop(undo.requests)], [])
    removed = [unit_disabled(name=f"Disable {boot_files.UNIT}")]
    early_files = []
    for path in host.loop(tuple(dict.fromkeys((*undo.requests, *map(undo.path, FILES))))):
        gone = restore_or_remove(undo.past, path)
        removed.append(gone)
        if path in _INITRAMFS:
            early_files.append(gone)
    for path in host.loop(LIBRARIES):
        removed.append(files.directory(name=f"Remove {path}", path=path, present=False))
    inputs = [*after, *removed]
    cleared = [
        remove_empty_directories(name="Remove pcibind's empty directories", directories=DIRECTORIES, inputs=inputs),
        forgotten(name="Reload systemd", units=(boot_files.UNIT,), inputs=removed),
        run_cleared(name=f"Remove {RUN}", inputs=inputs),
    ]
    return Removal([*removed, *cleared], early_files)
