"""The end of a node: it is stopped, and nothing is left that would start it at a boot. Its data is not touched."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys import manifest
from deploys.operations import timer
from deploys.operations.planning import DECIDED_AT_RUN_TIME, step, will_follow
from deploys.operations.restore import is_as_before, remove_empty_directories, restore_or_remove
from deploys.restoration.start import Undo
from deploys.steps import postgres
from facts.baseline import Baseline
from facts.unit import Units

# Each unit's own file before those that it consumes.
FILES = manifest.files_of_units(*manifest.NODE_UNITS)


def units_of_deploy(past: Baseline) -> list[str]:
    """The node's units on the current host, without those that it had before its first deploy and has again."""
    return [unit for unit, file in manifest.NODE_UNITS.items() if not is_as_before(past, file)]


@operation()
def stopped(past: Baseline) -> Generator[PyinfraCommand | str, None, None]:
    """Stop the node, its migration and its Postgres.

    + past: the host before its first deploy
    """
    units = host.get_fact(Units, units=tuple(manifest.NODE_UNITS))
    ours = units_of_deploy(past)
    names = " ".join(name for name in ours if name in units and units[name].active != "inactive")
    if not names:
        host.noop("the node does not run")
        return
    # One that failed would be remembered, and the system called degraded, for as long as this boot lasts.
    yield f"systemctl stop {names} && {{ systemctl reset-failed {names} 2>/dev/null || true; }}"


@operation()
def forgotten(units: tuple[str, ...], inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Let systemd read its files again, and Quadlet generate, when it knows a unit otherwise than the files do.

    + units: unit names with their suffixes
    + inputs: operations of this run that remove or bring back their files
    """
    if will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    known = host.get_fact(Units, units=units).values()
    stale = [each for each in known if each.load != "not-found" and each.needs_reload]
    # A file that is brought back has its old time, which systemd does not take for a change.
    if not stale and not any(each.did_change() for each in inputs if each.is_complete()):
        host.noop("systemd knows the units as they are")
        return
    yield "systemctl daemon-reload"


@step("Stop the node")
def stop_node(undo: Undo) -> list[OperationMeta]:
    return [
        stopped(name="Stop the node with its migration and its Postgres", past=undo.past),
        timer.restore_timer(name="Disable automatic updates", past=undo.past),
    ]


@step("Remove the node's units")
def remove_node(undo: Undo) -> list[OperationMeta]:
    """Everything that would start the node. Key, secrets, rows, images and the account stay."""
    past = undo.past
    made = ("/usr/local/libexec",) if past.made("/usr/local/libexec") else ()
    removed = [restore_or_remove(past, path) for path in host.loop(FILES)]
    return [
        *removed,
        remove_empty_directories(
            name="Remove the node's empty directories",
            directories=("/etc/gevulot", "/usr/local/libexec/gevulot", *made, postgres.SOCKET, postgres.SOCKET_ROOT),
            inputs=removed,
        ),
        forgotten(name="Reload systemd", units=tuple(manifest.NODE_UNITS), inputs=removed),
    ]
