"""The last step of an undo: the host against the record of what it was, as a table. Changes nothing."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host, logger
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from deploys.assessment import checks, comparison, next_boot
from deploys.assessment.checks import Check
from deploys.manifest import DEPLOYED, GRUB_DROP_IN, INITRAMFS_FILES, INITRAMFS_INPUTS, MODULE_FILES
from deploys.operations import table
from deploys.operations.planning import DECIDED_AT_RUN_TIME, is_planning, step, will_follow
from deploys.operations.restore import is_same
from deploys.restoration import boards, node
from deploys.restoration.start import REQUEST, Undo
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import KernelCommandLine
from facts.node import NodeParts
from facts.paths import ExistingPaths
from facts.pci import PciRecord, PciTopology
from facts.unit import FailedUnits, SystemState, Units
from pcibind.change import boot_files


@operation()
def compared(undo: Undo, inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Compare the host with the record, print the table, and fail the host when a check failed.

    + undo: the host
    + inputs: operations of this run that restore it
    """
    if is_planning():
        if will_follow(inputs) or undo.reasons():
            yield DECIDED_AT_RUN_TIME
        else:
            host.noop("this only checks")
        return
    if failure := table.show_table(_read(undo)):
        yield failure


def _read(undo: Undo) -> list[Check]:
    past, others = undo.past, undo.others
    topology = host.get_fact(PciTopology)
    record = host.get_fact(PciRecord).record if others else None
    kept = [board.path for board in record.boards] if record else []
    names = (*node.units_of_deploy(past), *(() if others else (boot_files.UNIT,)))
    paths = (
        *node.FILES,
        *undo.paths(MODULE_FILES),
        *undo.former,
        *((undo.path(next_boot.DROP_IN),) if undo.family.boot == "grub" else ()),
        # Another file of this name, without a deploy's text, is left as it is.
        *(path for path in (next_boot.OLD_DROP_IN,) if path in past.archived),
        *undo.notes,
        *((undo.path(REQUEST),) if others else (*map(undo.path, boards.FILES), *boards.LIBRARIES, boards.RUN)),
    )
    there = host.get_fact(ExistingPaths, paths=paths)
    archived = {path: is_same(past.archive, path) for path in paths if path in past.archived}
    state = host.get_fact(SystemState)
    lines = host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path)
    rows = [
        *comparison.command_lines(past, lines),
        *comparison.functions(past, topology, kept),
        checks.initramfs(
            host.get_fact(StaleInitramfs, inputs=INITRAMFS_INPUTS),
            host.get_fact(InitramfsContents, files=INITRAMFS_FILES),
        ),
        *([comparison.menu(next_boot.outdated(lines))] if undo.family.boot == "grub" else []),
        *comparison.units(host.get_fact(Units, units=names), names),
        *comparison.files([path for path in there if path not in archived], archived),
        comparison.system(
            state, host.get_fact(FailedUnits) if state != "running" else [], past.system_state, undo.failed_before
        ),
        *([_key(undo)] if undo.has_node else []),
    ]
    if others:
        rows.append(Check("pcibind", f"stays, for {', '.join(others)}", None))
    return rows


def _key(undo: Undo) -> Check:
    path = f"{undo.settings.key_directory}/node.key"
    parts = host.get_fact(NodeParts, paths=(path,))
    entry = parts.paths.get(path) if parts else None
    return Check("node key", f"kept, {entry.size} bytes, {path}" if entry else f"none at {path}", None)


@operation()
def remains_listed(undo: Undo) -> Generator[PyinfraCommand, None, None]:
    """List what stays on the host, and how it is removed by hand. Changes nothing.

    + undo: the host
    """
    if not is_planning():
        same = "node" if undo.has_node else "host"
        logger.info(f"What stays on {host.name}, so that a deploy gives the same {same} again, and how you remove it:")
        of_node = comparison.remains_of_node(undo.settings.storage_directory) if undo.has_node else []
        for line in (*of_node, *comparison.remains(undo.past.directory, undo.has_node)):
            logger.info(f"  {line}")
    yield from ()


@step("Compare the host with what it was")
def compare(undo: Undo, after: list[OperationMeta]) -> None:
    compared(name="Compare the host with what it was", undo=undo, inputs=after)
    # Only now: the next run needs it if this one is interrupted.
    files.file(name=f"Remove {DEPLOYED}", path=DEPLOYED, present=False)


@step("List what stays")
def list_remains(undo: Undo) -> None:
    remains_listed(name="List what stays", undo=undo)
