"""The fleet's status with an exit code by severity: `python -m deploys.fleet inventories/prod.py`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import gevent  # noqa: E402
from pyinfra.api import BaseStateCallback, Config, Host, State  # noqa: E402
from pyinfra.api.connect import disconnect_all  # noqa: E402
from pyinfra.api.exceptions import PyinfraError  # noqa: E402
from pyinfra.connectors import util as connector_util  # noqa: E402
from pyinfra.context import ctx_host, ctx_inventory, ctx_state  # noqa: E402
from pyinfra_cli.exceptions import CliError  # type: ignore[import-untyped]  # noqa: E402
from pyinfra_cli.inventory import make_inventory  # type: ignore[import-untyped]  # noqa: E402
from pyinfra_cli.util import parse_cli_arg  # type: ignore[import-untyped]  # noqa: E402

from deploys.assessment.status_document import HostStatus, Severity, worst  # noqa: E402
from deploys.fleet import output  # noqa: E402
from deploys.fleet.gathering import NOT_REACHED  # noqa: E402
from deploys.fleet.inspection import look, unreached  # noqa: E402
from deploys.inventory import problems  # noqa: E402
from deploys.settings import SettingsError  # noqa: E402

_USAGE = 2
# Seconds to wait for a connection, and for all of them to end.
_CONNECT = 60
_GOODBYE = 15


class _Refusals(BaseStateCallback):
    """Why hosts could not be connected to, by their names."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def host_connect_error(self, state: State, host: Host, error: Exception) -> None:  # type: ignore[override]
        self.reasons[host.name] = str(error)


@click.command()
@click.argument("inventory")
@click.option("--output", "kind", type=click.Choice(["table", "json", "html"]), help="Output format [table].")
@click.option("--file", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
@click.option("--known", type=click.Path(path_type=Path), help="Directory of earlier states (--keep) to compare with.")
@click.option("--keep", is_flag=True, default=None, help="Write the states to the directory of --known afterwards.")
@click.option("--limit", multiple=True, help="Only this host or group; may be repeated.")
@click.option("--data", multiple=True, help="Host data for all hosts, as KEY=VALUE; may be repeated.")
def main(inventory: str, limit: tuple[str, ...], data: tuple[str, ...], **options: Any) -> None:
    """Show the status of all hosts of INVENTORY, the worst first. Changes nothing.

    Exit code: 0 all hosts are ok, 3 a host needs attention, 4 a check failed on a host, 5 a host is down;
    1 unexpected error, 2 usage, inventory or options.
    """
    try:
        texts = dict(each.split("=", 1) for each in data)
    except ValueError:
        raise click.UsageError(f"--data {' '.join(data)}: expected KEY=VALUE") from None
    options["output"] = options.pop("kind")
    asked = {f"status_{key}": value for key, value in options.items() if value is not None}
    try:
        values = {key: parse_cli_arg(text) for key, text in texts.items()}
        chosen = output.options({**texts, **asked})
        hosts = output.with_drift(_look_at_all(inventory, limit, values), chosen)
        output.write(hosts, chosen, datetime.now(UTC))
    except (SettingsError, CliError, PyinfraError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_USAGE)
    sys.exit(worst(hosts).exit_code)


def _look_at_all(path: str, limit: tuple[str, ...], values: dict[str, Any]) -> list[HostStatus]:
    if os.getcwd() not in sys.path:
        # As pyinfra does: inventories import what lies beside them.
        sys.path.append(os.getcwd())
    named = any(mark in path for mark in "@,") and all(path.split(","))
    if not Path(path).exists() and not named:
        raise SettingsError(f"{path}: no such inventory; expected a file, or hosts with commas between them")
    for name in ("pyinfra", "paramiko"):
        # The rows hold the reasons; and a host's own words, which these print as they are, may steer a terminal.
        logging.getLogger(name).handlers[:] = [logging.NullHandler()]
        logging.getLogger(name).propagate = False
    # Of what fails in a greenlet, too, a row tells.
    gevent.get_hub().exception_stream = None
    # A prompt would stop the looks at all other hosts; and it may come from a host that wants to know a password.
    connector_util.getpass = _no_password  # type: ignore[assignment]
    state = State()
    state.cwd = os.getcwd()
    with ctx_state.use(state):
        try:
            inventory = make_inventory(path, cwd=state.cwd, override_data=values)
        except Exception as error:
            # It is a program of the operator's: anything may go wrong in it.
            raise SettingsError(f"{path}: the inventory cannot be read: {type(error).__name__}: {error}") from error
        if wrong := problems(inventory, path):
            raise SettingsError("\n".join(wrong))
        chosen = _limited(inventory, limit)
        with ctx_inventory.use(inventory):
            state.init(inventory, Config(), initial_limit=chosen)
            refusals = _Refusals()
            state.add_callback_handler(refusals)
            hosts = [host for host in inventory if state.is_host_in_limit(host)]
            if not hosts:
                raise SettingsError(f"{path}: the inventory has no host")
            _connect_all(state, hosts, refusals.reasons)
            looks = {host.name: state.pool.spawn(_look, host) for host in hosts if host.connected}
            gevent.joinall(list(looks.values()))
            hosts = [_outcome(host, looks.get(host.name), refusals.reasons) for host in hosts]
            # Hosts may be gone by now, and there is nothing left to ask them.
            with gevent.Timeout(_GOODBYE, False), contextlib.suppress(Exception):
                disconnect_all(state)
    return hosts


def _connect_all(state: State, hosts: list[Host], refusals: dict[str, str]) -> None:
    """Connect to all, side by side. pyinfra's own way ends with the first error that it does not know."""

    def connect(host: Host) -> None:
        try:
            with gevent.Timeout(_CONNECT):
                host.connect(show_errors=False)
        except (Exception, gevent.Timeout) as error:
            refusals.setdefault(host.name, f"{type(error).__name__}: {error}")

    gevent.joinall([state.pool.spawn(connect, host) for host in hosts])
    for host in hosts:
        if host.connected:
            state.activate_host(host)


def _no_password(*_: object) -> str:
    raise PyinfraError("sudo asks for a password; set _sudo_password, or allow it without one")


def _limited(inventory: Any, names: tuple[str, ...]) -> list[Host] | None:
    if not names:
        return None
    chosen: list[Host] = []
    for name in names:
        group = inventory.get_group(name, default=[])
        hosts = group or [host for host in inventory if host.name == name]
        if not hosts:
            raise SettingsError(f"--limit {name}: the inventory has no such host or group")
        chosen += hosts
    return chosen


def _look(host: Host) -> HostStatus:
    with ctx_host.use(host):
        return look(host)


def _outcome(host: Host, looked: gevent.Greenlet[..., HostStatus] | None, refusals: dict[str, str]) -> HostStatus:
    if looked is None:
        return unreached(host, refusals.get(host.name) or NOT_REACHED)
    value = looked.value
    if isinstance(value, HostStatus):
        return value
    return HostStatus(host.name, Severity.WRONG, (f"the look at it failed: {looked.exception}",))


if __name__ == "__main__":
    main()
