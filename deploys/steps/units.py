"""systemd units brought to what their files say now: reloaded, started, or restarted when an input is newer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pyinfra import host, logger
from pyinfra.api import Host, State, StringCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys import diagnosis
from deploys.planning import DECIDED_LATER, will_follow
from deploys.settings import Settings
from deploys.steps.later import Later
from facts.runs import NEEDED, NODE, NodeRuns
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
    settings: Settings,
    timeout: int,
    files: tuple[str, ...] = (),
    secrets: tuple[str, ...] = (),
) -> Generator[PyinfraCommand | str, None, None]:
    """Start a unit, or restart it when one of its inputs changed after it last started.

    + unit: unit name with its suffix
    + later: what the reboot decides
    + inputs: operations of this run that write the files or secrets
    + settings: what the host's operator asked for, to explain a failure by
    + timeout: seconds that the unit, and what it waits for, may take
    + files: paths whose change asks for a restart
    + secrets: Podman secrets whose change asks for a restart
    """
    if later.undecided() or will_follow(inputs):
        yield DECIDED_LATER
        return
    state = host.get_fact(Units, units=(unit,)).get(unit)
    if state is not None and state.restarts and (not state.running or _did_change(inputs)):
        # A start would wait for systemd's next try, and the counter of its tries would go on.
        yield _Start("restart", unit, timeout, settings)
    elif state is None or not state.running:
        yield _Start("start", unit, timeout, settings)
    elif host.get_fact(ChangedSince, unit=unit, files=files, secrets=secrets):
        yield _Start("restart", unit, timeout, settings)
    else:
        host.noop(f"{unit} runs with its present configuration")


def _did_change(inputs: list[OperationMeta]) -> bool:
    """Whether an operation of this run changed an input. systemd may have taken the change up by itself by now."""
    return any(each.is_complete() and each.did_change() for each in inputs)


class _Start(StringCommand):
    """``systemctl start`` or ``restart``; a failure says the cause, then what the journal has of the unit."""

    def __init__(self, verb: str, unit: str, timeout: int, settings: Settings) -> None:
        self._unit, self._settings = unit, settings
        journal = f"journalctl -u {unit} -n 30 --no-pager -o cat"
        reset = f"systemctl reset-failed {unit}; " if verb == "restart" else ""
        super().__init__(f"{reset}timeout {timeout} systemctl {verb} {unit} || {{ {journal} >&2; exit 1; }}")

    def execute(self, state: State, host: Host, connector_arguments: Any) -> Any:
        result = super().execute(state, host, connector_arguments)
        if not result[0]:
            needed = NEEDED if self._unit == NODE else ()
            runs = host.get_fact(NodeRuns, unit=self._unit, needed=needed, _ignore_errors=True)
            trouble = diagnosis.diagnose(runs, self._settings, self._unit)
            if trouble is not None:
                host.log_styled(f"{self._unit} is {trouble.found}; {trouble.step}", fg="red", log_func=logger.error)
        return result
