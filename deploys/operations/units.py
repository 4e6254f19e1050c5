"""systemd units that follow their files: reload, start, or restart when an input is newer."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pyinfra import host, logger
from pyinfra.api import Host, State, StringCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.connectors.util import CommandOutput

from deploys import scripts
from deploys.assessment import diagnosis
from deploys.inputs.addresses import Endpoint
from deploys.manifest import HAND_OVER, MIGRATION_UNIT, NODE_REQUIRES, NODE_UNIT, UNIT_INPUTS, consumed_by
from deploys.operations import rollout
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, will_follow
from deploys.settings import Settings
from deploys.transport import heartbeat, remote
from facts.runs import UnitRuns
from facts.unit import ChangedSince, Unit, Units
from facts.untrusted import printable

# Seconds that the node may take until its last port is open: it waits for its database and its peers before.
_NODE_SECONDS = 300
# Characters of a line of the journal that are shown.
_LENGTH = 400


@operation()
def daemon_reload(units: tuple[str, ...], inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Reload systemd, and let Quadlet generate its units, when a unit is newer on disk or not known yet.

    + units: unit names with their suffixes
    + inputs: operations of this run that write the units
    """
    if will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    known = host.get_fact(Units, units=units)
    stale = [name for name in units if name not in known or known[name].needs_reload]
    if not stale:
        host.noop("systemd has the current units")
        return
    yield "systemctl daemon-reload"


@dataclass(frozen=True, slots=True)
class Readiness:
    """The check that a unit works: a command that succeeds within ``seconds`` after systemd calls the unit active."""

    command: str = ""
    seconds: int = 0


def inputs_of(unit: str, settings: Settings) -> tuple[str, ...]:
    """The paths of the files that a unit reads when it starts."""
    own = (HAND_OVER, f"{settings.key_directory}/node.key") if unit == NODE_UNIT else ()
    return (*consumed_by(unit), *own)


def note_inputs(unit: str, settings: Settings) -> str:
    """The command that notes with what content a unit runs, when that is known to be the present one.

    A file that is touched, linked or restored later asks for no restart then.
    """
    return scripts.shell("note_inputs.sh", _note_of(unit), unit, *inputs_of(unit, settings))


def _note_of(unit: str) -> str:
    return f"{UNIT_INPUTS}/{unit}"


def expect_listener(endpoint: Endpoint, seconds: int) -> Readiness:
    """Expect a TCP connection to succeed. ``endpoint`` is where the program is configured to listen."""
    program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
    # A connection to the wildcard address goes to loopback.
    return Readiness(f"python3 -I -c {quote(program)} {endpoint.host.strip('[]')} {endpoint.port}", seconds)


@operation()
def run_unit(
    unit: str,
    reboot: PendingReboot,
    inputs: list[OperationMeta],
    settings: Settings,
    timeout: int,
    readiness: Readiness = Readiness(),
    secrets: tuple[str, ...] = (),
    image: str = "",
) -> Generator[PyinfraCommand | str, None, None]:
    """Start a unit, or restart it when it runs with other inputs than are there now; and wait until it answers.

    Where the unit or the node runs already, this waits for the host's turn: see ``deploys.operations.rollout``.

    + unit: unit name with its suffix
    + reboot: whether one is pending, which this run has to wait for
    + inputs: operations of this run that write the files or secrets
    + settings: the host's settings, to explain a failure
    + timeout: seconds that the unit, and what it waits for, may take
    + readiness: how to check that it works
    + secrets: Podman secrets whose change asks for a restart
    + image: reference of the image that the unit's container should run
    """
    if reboot.is_planned() or will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    states = host.get_fact(Units, units=(unit, NODE_UNIT, MIGRATION_UNIT))
    state = states.get(unit)
    runs = tuple(name for name in dict.fromkeys((unit, NODE_UNIT)) if name in states and states[name].running)
    restart = _Start("restart", unit, timeout, settings, readiness, runs)
    changed = {"files": inputs_of(unit, settings), "secrets": secrets}
    if state is None or not state.running:
        stale = unit == NODE_UNIT and _is_stale(states.get(MIGRATION_UNIT), changed)
        # A start would wait for systemd's next attempt, and its counter of attempts would continue.
        if state is not None and (state.restarts or stale):
            yield restart
        else:
            yield _Start("start", unit, timeout, settings, readiness)
        return
    newer: list[str] = host.get_fact(ChangedSince, unit=unit, image=image, note=_note_of(unit), **changed)
    if newer or (state.restarts and _did_change(inputs)):
        yield restart
    else:
        host.noop(f"{unit} runs with its present configuration")


def _did_change(inputs: list[OperationMeta]) -> bool:
    """Whether an operation of this run changed an input. systemd may have taken the change up by itself by now."""
    return any(each.is_complete() and each.did_change() for each in inputs)


def _is_stale(migration: Unit | None, changed: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the node's migration waits for its next try, or runs with what was configured before."""
    if migration is None or migration.active != "activating":
        return False
    if migration.sub.startswith("auto-restart"):
        return True
    newer: list[str] = host.get_fact(ChangedSince, unit=MIGRATION_UNIT, moment="InactiveExitTimestamp", **changed)
    return bool(newer)


class _Start(StringCommand):
    """Starts or restarts a unit and waits until it answers; a failure reports the cause with its journal lines.

    ``runs`` are the units that run and would be interrupted; a node among them has to answer again, too.
    """

    def __init__(
        self, verb: str, unit: str, timeout: int, settings: Settings, readiness: Readiness, runs: tuple[str, ...] = ()
    ) -> None:
        self._unit, self._settings, self._timeout, self._runs = unit, settings, timeout, runs
        commands = [_command(verb, unit, timeout, readiness)]
        commands.append(note_inputs(unit, settings))
        if NODE_UNIT in runs and unit != NODE_UNIT:
            commands.append(_command("await", NODE_UNIT, settings.start_timeout, expect_node(settings)))
        super().__init__(" && ".join(commands))

    def execute(self, state: State, host: Host, connector_arguments: Any) -> Any:
        if not self._runs:
            return self._start(state, host, connector_arguments)
        with rollout.take_turn(state, host, self._unit) as turn:
            if turn.refusal:
                host.log_styled(turn.refusal, fg="red", log_func=logger.error)
                return False, CommandOutput([])
            result = self._start(state, host, connector_arguments)
            turn.succeeded = bool(result[0])
            return result

    def _start(self, state: State, host: Host, connector_arguments: Any) -> Any:
        with heartbeat.report_wait(host, f"{self._unit} to start", self._timeout):
            result = super().execute(state, host, connector_arguments)
        if not result[0]:
            self._explain(host)
        return result

    def _explain(self, host: Host) -> None:
        unit, trouble = self._unit, None
        for unit in dict.fromkeys((self._unit, *self._runs)):
            needed = NODE_REQUIRES if unit == NODE_UNIT else ()
            runs = host.get_fact(UnitRuns, unit=unit, needed=needed, _ignore_errors=True)
            trouble = diagnosis.diagnose(runs, self._settings, unit)
            if trouble is not None:
                break
        if trouble is not None:
            host.log_styled(f"{unit} is {trouble.problem}; {trouble.step}", fg="red", log_func=logger.error)
        source = trouble.unit if trouble else unit
        lines = list(trouble.lines) if trouble else []
        if not lines:
            _, lines = remote.run(host, f"journalctl -b -u {source} -n 10 --no-pager -o cat", timeout=60)
        for line in lines:
            logger.error(f"{host.print_prefix}the journal of {source}: {printable(line, _LENGTH)}")


def _command(verb: str, unit: str, timeout: int, readiness: Readiness) -> str:
    return scripts.shell("start_unit.sh", verb, unit, str(timeout), str(readiness.seconds), readiness.command)


def expect_node(settings: Settings) -> Readiness:
    """Expect the last port that the node opens: of its health check, or of JSON-RPC where it executes nothing."""
    endpoint = settings.json_rpc_listen if settings.no_execution else settings.healthcheck_listen
    return expect_listener(endpoint, _NODE_SECONDS)
