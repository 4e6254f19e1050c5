"""The node at a standstill: stopped, and with nothing left that would start it at a boot. Its data is not touched."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys.operations import timer
from deploys.operations.planning import DECIDED_LATER, will_follow
from deploys.operations.restore import emptied, is_as_before, put_back
from deploys.steps import firewall, gevulot, postgres, vsock
from deploys.undo.start import Leaving
from facts.baseline import Past
from facts.unit import Units

# The node's units, with the file that each is made from, in the order in which they stop.
UNITS = {
    gevulot.UNIT: gevulot.QUADLET,
    gevulot.KEY_UNIT: gevulot.KEY_UNIT_FILE,
    gevulot.MIGRATION: gevulot.MIGRATION_FILE,
    firewall.UNIT: firewall.UNIT_FILE,
    postgres.UNIT: postgres.QUADLET,
}
FILES = (
    *UNITS.values(),
    gevulot.MIGRATE,
    gevulot.KEY_PROGRAM,
    vsock.PROGRAM,
    gevulot.ENVIRONMENT,
    firewall.PROGRAM,
    firewall.RULES,
    firewall.QMP_RULES,
    postgres.HBA,
    postgres.IDENT,
)


def units_of_deploy(past: Past) -> list[str]:
    """The node's units on the current host, without those that it had before its first deploy and has again."""
    return [unit for unit, file in UNITS.items() if not is_as_before(past, file)]


@operation()
def stopped(past: Past) -> Generator[PyinfraCommand | str, None, None]:
    """Stop the node, its migration and its Postgres.

    + past: the host before its first deploy
    """
    found = host.get_fact(Units, units=tuple(UNITS))
    ours = units_of_deploy(past)
    names = " ".join(name for name in ours if name in found and found[name].active != "inactive")
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
        yield DECIDED_LATER
        return
    known = host.get_fact(Units, units=units).values()
    stale = [each for each in known if each.load != "not-found" and each.needs_reload]
    # A file that is brought back has its old time, which systemd does not take for a change.
    if not stale and not any(each.did_change() for each in inputs if each.is_complete()):
        host.noop("systemd knows the units as they are")
        return
    yield "systemctl daemon-reload"


@deploy("Stop the node")
def stop_node(leaving: Leaving) -> None:
    leaving.changes.append(stopped(name="Stop the node with its migration and its Postgres", past=leaving.past))
    leaving.changes.append(timer.restored(name="Switch automatic updates off", past=leaving.past))


@deploy("Remove the node's units")
def remove_node(leaving: Leaving) -> None:
    """Everything that would start the node. Key, secrets, rows, images and the account stay."""
    past = leaving.past
    made = ("/usr/local/libexec",) if past.made("/usr/local/libexec") else ()
    for path in host.loop(FILES):
        leaving.unit_inputs.append(put_back(past, path))
    leaving.changes.extend(leaving.unit_inputs)
    leaving.changes.append(
        emptied(
            name="Remove the node's empty directories",
            directories=("/etc/gevulot", "/usr/local/libexec/gevulot", *made, postgres.SOCKET, postgres.SOCKET_ROOT),
            inputs=leaving.unit_inputs,
        )
    )
    leaving.changes.append(forgotten(name="Reload systemd", units=tuple(UNITS), inputs=leaving.unit_inputs))
