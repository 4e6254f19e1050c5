"""The fleet's status with an exit code by severity: `python -m deploys.fleet inventories/prod.py`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import gevent  # noqa: E402
from pyinfra.api import BaseStateCallback, Config, Host, State  # noqa: E402
from pyinfra.api.connect import connect_all, disconnect_all  # noqa: E402
from pyinfra.api.exceptions import PyinfraError  # noqa: E402
from pyinfra.context import ctx_host, ctx_inventory, ctx_state  # noqa: E402
from pyinfra_cli.exceptions import CliError  # type: ignore[import-untyped]  # noqa: E402
from pyinfra_cli.inventory import make_inventory  # type: ignore[import-untyped]  # noqa: E402

from deploys.fleet import output  # noqa: E402
from deploys.fleet.gathering import NOT_REACHED  # noqa: E402
from deploys.fleet.look import look  # noqa: E402
from deploys.fleet.state import HostState, Severity, down, worst  # noqa: E402
from deploys.settings import SettingsError  # noqa: E402

_USAGE = 2


class _Refusals(BaseStateCallback):
    """Why hosts could not be connected to, by their names."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def host_connect_error(self, state: State, host: Host, error: Exception) -> None:  # type: ignore[override]
        self.reasons[host.name] = str(error)


@click.command()
@click.argument("inventory")
@click.option("--output", "kind", type=click.Choice(["table", "json", "html"]), help="What to make of it [table].")
@click.option("--file", type=click.Path(path_type=Path), help="Where to write it, instead of standard output.")
@click.option("--known", type=click.Path(path_type=Path), help="Directory of kept states: tell what differs from them.")
@click.option("--keep", is_flag=True, default=None, help="Write the states to that directory afterwards.")
@click.option("--limit", multiple=True, help="Only this host or group; may be given several times.")
@click.option("--data", multiple=True, help="KEY=VALUE, as pyinfra takes it.")
def main(inventory: str, limit: tuple[str, ...], data: tuple[str, ...], **told: Any) -> None:
    """Show how all hosts of INVENTORY stand, the worst first. Changes nothing.

    Exit code: 0 all well, 3 some host wants attention, 4 something is wrong on some host, 5 some host is down;
    1 unexpected error, 2 usage, inventory or options.
    """
    try:
        values = dict(each.split("=", 1) for each in data)
    except ValueError:
        raise click.UsageError(f"--data {' '.join(data)}: expected KEY=VALUE") from None
    told["output"] = told.pop("kind")
    asked = {f"status_{key}": value for key, value in told.items() if value is not None}
    try:
        options = output.options({**values, **asked})
        hosts = output.with_drift(_look_at_all(inventory, limit, values), options)
        output.write(hosts, options, datetime.now(UTC))
    except (SettingsError, CliError, PyinfraError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_USAGE)
    sys.exit(worst(hosts).exit_code)


def _look_at_all(path: str, limit: tuple[str, ...], values: dict[str, str]) -> list[HostState]:
    if os.getcwd() not in sys.path:
        # As pyinfra does: inventories import what lies beside them.
        sys.path.append(os.getcwd())
    named = any(mark in path for mark in "@,") and all(path.split(","))
    if not Path(path).exists() and not named:
        raise SettingsError(f"{path}: no such inventory; expected a file, or hosts with commas between them")
    state = State()
    state.cwd = os.getcwd()
    with ctx_state.use(state):
        inventory = make_inventory(path, cwd=state.cwd, override_data=values)
        chosen = _limited(inventory, limit)
        with ctx_inventory.use(inventory):
            state.init(inventory, Config(), initial_limit=chosen)
            refusals = _Refusals()
            state.add_callback_handler(refusals)
            # That not one could be reached is an answer too.
            with contextlib.suppress(PyinfraError):
                connect_all(state)
            hosts = [host for host in inventory if state.is_host_in_limit(host)]
            looks = {host.name: state.pool.spawn(_look, host) for host in hosts if host.connected}
            gevent.joinall(list(looks.values()))
            found = [_outcome(host, looks.get(host.name), refusals.reasons) for host in hosts]
            disconnect_all(state)
    return found


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


def _look(host: Host) -> HostState:
    with ctx_host.use(host):
        return look(host)


def _outcome(host: Host, looked: gevent.Greenlet[..., HostState] | None, refusals: dict[str, str]) -> HostState:
    if looked is None:
        return down(host.name, refusals.get(host.name) or NOT_REACHED)
    value = looked.value
    if isinstance(value, HostState):
        return value
    return HostState(host.name, Severity.WRONG, (f"the look at it failed: {looked.exception}",))


if __name__ == "__main__":
    main()
