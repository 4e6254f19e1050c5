"""The last step: everything read back from the machine, as a table. Changes nothing."""

from __future__ import annotations

from collections.abc import Generator
from urllib.parse import quote

import gevent
import psycopg
from pyinfra import host, logger
from pyinfra.api import Host, operation
from pyinfra.api.command import PyinfraCommand

from deploys import manifest, scripts
from deploys.assessment import activity, checks, diagnosis, qmp, virtual_machine
from deploys.assessment.checks import Check
from deploys.assessment.observations import Observations
from deploys.operations import units
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, is_planning, step
from deploys.preflight import Verdict, key
from deploys.settings import Settings
from deploys.steps import access, gevulot, host_table, vsock
from deploys.steps.preflight import Node
from deploys.transport import connection, ports, tunnel
from facts.activity import Activity, NodeActivity
from facts.batch import Part, ask
from facts.container import Container, DatabasePasswords
from facts.database import PostgresOpenToLoopback, PostgresSchema, Schema
from facts.firewall import NodeFirewall
from facts.node import NodeParts
from facts.output import FirstLine
from facts.paths import ExistingPaths
from facts.runs import Runs, UnitRuns
from facts.unit import SystemState, Units
from facts.virtual_machine import VirtualMachine
from facts.vsock import VsockTrial

# A node that was started a moment ago answers after its first contact with the database and its peers.
_HEALTH_SECONDS = 60
_FIFO = (gevulot.KEY_FIFO,)


@operation()
def verified(node: Node, reboot: PendingReboot) -> Generator[PyinfraCommand | str, None, None]:
    """Read the node back, print the table, and fail the host when a check failed.

    + node: the host and what its operator asked for
    + reboot: whether one is pending, which this run has to wait for
    """
    if is_planning():
        unit = host.get_fact(Units, units=(manifest.NODE_UNIT,)).get(manifest.NODE_UNIT)
        if reboot.is_planned() or unit is None or not unit.running:
            yield DECIDED_AT_RUN_TIME
        else:
            host.noop("this only checks")
        return
    running = [manifest.NODE_UNIT, manifest.FIREWALL_UNIT]
    if node.settings.own_postgres:
        running.append(manifest.POSTGRES_UNIT)
    notes = [units.note_inputs(unit, node.settings) for unit in running]
    yield from host_table.conclude(_read(host, node), notes)


def _read(host: Host, node: Node) -> list[Check]:
    settings, verdict = node.settings, node.verdict
    # First and alone: it waits until systemd has started everything, which the other facts then read.
    system = host.get_fact(SystemState)
    observed = Observations(**ask(host, *_asked(settings, verdict)))
    parts, units = observed.parts, observed.units
    if parts is None:
        return [Check("node", "its parts could not be read", False, "an answer")]
    boards = checks.verdict_boards(observed.topology, verdict)
    services = (
        manifest.NODE_UNIT,
        *((manifest.POSTGRES_UNIT,) if settings.own_postgres else ()),
        manifest.FIREWALL_UNIT,
        *((manifest.PCIBIND_UNIT,) if boards else ()),
    )
    state = host_table.system(system, observed.failed_units, verdict)
    rows = [*host_table.rows(node, observed, parts), *checks.sockets(parts)]
    rows += checks.account(parts, settings)
    rows += _database(host, settings, observed.open_to_loopback)
    rows.append(checks.environment(observed.passwords, settings))
    rows.append(checks.migration(units))
    listed = access.read(host, settings)
    rows.append(checks.access(listed, settings, access.published(host, settings, listed)))
    rows += checks.key(parts, settings, observed.key)
    rows += checks.units(units, services)
    if settings.auto_update:
        rows += checks.units(units, (manifest.UPDATE_TIMER,))
    rows += checks.container(observed.container, settings, boards)
    if not settings.no_execution:
        rows.append(vsock.check(observed.vsock, settings, units.get(manifest.NODE_UNIT)))
    current, runs = _activity(host, settings, observed.activity, observed.runs)
    rows.append(activity.check(activity.judge(current, executes=not settings.no_execution)))
    # Only now: a node that was started a moment ago has yet to read its key.
    rows.append(checks.hand_over(gevulot.KEY_FIFO, bool(observed.fifo and host.get_fact(ExistingPaths, paths=_FIFO))))
    problem = diagnosis.diagnose(runs, settings)
    if settings.verify_virtual_machine and not settings.no_execution and problem is None:
        qemu = settings.qemu_path or "qemu-system-x86_64"
        machine = host.get_fact(
            VirtualMachine,
            container=manifest.NODE_CONTAINER,
            qemu=qemu,
            prefix=manifest.VERIFICATION_MACHINE,
            directory=manifest.NODE_DATA,
        )
        rows += virtual_machine.checks(machine, boards)
    rows.append(state)
    rows.append(checks.peers(observed.firewall, settings))
    rows.append(qmp.check(observed.firewall, settings, units.get(manifest.NODE_UNIT)))
    rows += checks.saved_rules(observed.firewall)
    rows += ports.check_ports(connection.find_peer(host), settings)
    if problem is not None:
        for line in problem.lines:
            logger.info(f"{host.print_prefix}the journal of {problem.unit}: {line}")
    return diagnosis.explained(rows, problem)


def _asked(settings: Settings, verdict: Verdict) -> tuple[Part, ...]:
    paths = (settings.storage_directory, settings.data_directory, f"{settings.key_directory}/node.key")
    units = (
        *(
            manifest.NODE_UNIT,
            manifest.POSTGRES_UNIT,
            manifest.FIREWALL_UNIT,
            manifest.PCIBIND_UNIT,
            manifest.MIGRATION_UNIT,
        ),
        manifest.UPDATE_TIMER,
    )
    state = scripts.shell("node_key.sh", "state", *key.arguments(settings))
    server = {"login": manifest.POSTGRES_LOGIN, "port": settings.postgres_port}
    return (
        *host_table.parts(verdict),
        Part(
            "parts",
            NodeParts,
            {"paths": paths, "account": manifest.NODE_ACCOUNT, "public_key": key.PUBLIC, "unit": manifest.NODE_UNIT},
        ),
        Part("units", Units, {"units": units}),
        Part("key", FirstLine, {"program": f"{state} || echo unreadable"}),
        Part("firewall", NodeFirewall, {"table": manifest.NODE_TABLE}),
        Part(
            "container",
            Container,
            {"container": manifest.NODE_CONTAINER, "variables": (manifest.GPU_DEVICES, *settings.environment())},
        ),
        *(() if settings.no_execution else (Part("vsock", VsockTrial, {"program": vsock.trial_command(settings)}),)),
        Part("fifo", ExistingPaths, {"paths": _FIFO}),
        Part("passwords", DatabasePasswords, {"container": manifest.NODE_CONTAINER}),
        Part("activity", NodeActivity, activity.arguments(settings)),
        Part("runs", UnitRuns, {"unit": manifest.NODE_UNIT, "needed": manifest.NODE_REQUIRES}),
        *([Part("open_to_loopback", PostgresOpenToLoopback, server)] if settings.own_postgres else []),
    )


def _activity(host: Host, settings: Settings, current: Activity | None, runs: Runs) -> tuple[Activity | None, Runs]:
    """Wait until the node's health check answers, the node is down, or it is in a restart loop; at most a minute.

    Returns the last look: what the node does, and its runs. A node that executes nothing never answers: no wait.
    """
    parts = (
        Part("activity", NodeActivity, activity.arguments(settings)),
        Part("runs", UnitRuns, {"unit": manifest.NODE_UNIT, "needed": manifest.NODE_REQUIRES}),
    )
    for _ in range(_HEALTH_SECONDS // 5):
        if settings.no_execution or current is None or current.health is not None:
            break
        problem = diagnosis.diagnose(runs, settings)
        if problem is not None and (problem.looping or runs.units[manifest.NODE_UNIT].active in ("inactive", "failed")):
            break
        gevent.sleep(5)
        answers = ask(host, *parts)
        current, runs = answers["activity"], answers["runs"]
    return current, runs


def _database(host: Host, settings: Settings, open_to_loopback: bool) -> list[Check]:
    """Check through an SSH tunnel; where forwarding is refused, check the node's own server on the node."""
    schema: Schema | None = None
    route = "psycopg, through SSH"
    address, port = gevulot.database_address(settings)
    try:
        if settings.postgres_url is not None:
            url = settings.postgres_url.get_secret_value()
        else:
            password = quote(tunnel.read_secret(host, manifest.PASSWORD_SECRET), safe="")
            url = f"postgres://gevulot:{password}@{address}:{port}/gevulot"
        schema = tunnel.read_schema(host, address, port, url)
    except tunnel.ForwardingRefused as reason:
        route = f"on the node; no forwarding: {reason}"
        if settings.own_postgres:
            schema = host.get_fact(PostgresSchema, login=manifest.POSTGRES_LOGIN, port=settings.postgres_port)
        else:
            # The migration has just used the URL from the node; its unit's result stands in the table.
            return [Check("database", "external; only the node's migration reached it", None)]
    except psycopg.OperationalError as error:
        route = f"psycopg, through SSH: {str(error).splitlines()[0]}"
    except psycopg.Error as error:
        # Others may quote a part of the URL.
        route = f"psycopg, through SSH: {type(error).__name__}"
    return checks.database(schema, settings, route, open_to_loopback)


@step("Verify the node")
def verify(node: Node, reboot: PendingReboot) -> None:
    verified(name="Verify the node", node=node, reboot=reboot)
