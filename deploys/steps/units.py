"""systemd units brought to what their files say now: reloaded, started, or restarted when an input is newer."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys.planning import DECIDED_LATER, will_follow
from deploys.steps.later import Later
from facts.unit import ChangedSince, Units


@operation()
def reloaded(units: tuple[str, ...], inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Let systemd read its files again, and Quadlet generate, when a unit is newer on disk or not known yet.

    + units: unit names with their suffixes
    + inputs: operations of this run that write the units
    """
    if will_follow(inputs):
        yield DECIDED_LATER
        return
    known = host.get_fact(Units, units=units)
    stale = [name for name in units if name not in known or known[name].needs_reload]
    if not stale:
        host.noop("systemd knows the units as they are")
        return
    yield "systemctl daemon-reload"


@operation()
def running(
    unit: str,
    later: Later,
    inputs: list[OperationMeta],
    timeout: int,
    files: tuple[str, ...] = (),
    secrets: tuple[str, ...] = (),
) -> Generator[PyinfraCommand | str, None, None]:
    """Start a unit, or restart it when one of its inputs changed after it last started.

    + unit: unit name with its suffix
    + later: what the reboot decides
    + inputs: operations of this run that write the files or secrets
    + timeout: seconds that the unit, and what it waits for, may take
    + files: paths whose change asks for a restart
    + secrets: Podman secrets whose change asks for a restart
    """
    if later.undecided() or will_follow(inputs):
        yield DECIDED_LATER
        return
    state = host.get_fact(Units, units=(unit,)).get(unit)
    # What systemd says of itself comes first; the journal says why.
    told = f"|| {{ journalctl -u {unit} -n 30 --no-pager -o cat >&2; exit 1; }}"
    if state is None or not state.running:
        yield f"timeout {timeout} systemctl start {unit} {told}"
    elif host.get_fact(ChangedSince, unit=unit, files=files, secrets=secrets):
        yield f"timeout {timeout} systemctl restart {unit} {told}"
    else:
        host.noop(f"{unit} runs with its present configuration")
