"""An external database on a booted host: its password does not fit, it comes later, and it is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.inventory import data
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, pyinfra

pytestmark = pytest.mark.worlds
PASSWORD = "the-node-has-this-one"
URL = f"postgres://gevulot:{PASSWORD}@127.0.0.1:5433/gevulot"
ACTIVE = "timeout {seconds} sh -c 'until systemctl is-active -q gevulot-node.service; do sleep 1; done'"
TRIED = "journalctl -b -u gevulot-migrate.service -o cat --no-pager | grep -c 'password authentication failed'"


def deploy(machine: Machine, *words: str, url: str | None = URL, script: str = "deploys/node.py") -> Run:
    keys = ["gevulot_verify_virtual_machine=False", *([f"gevulot_postgres_url={url}"] if url else [])]
    return pyinfra([machine], "-y", *words, *(word for key in keys for word in ("--data", key)), deploy=script)


@pytest.fixture(scope="module")
def machine(registry: Path, say: Progress) -> Iterator[Machine]:
    """A machine whose database, which no deploy made, knows another password than the one of the URL."""
    with Machine.start("no-boards", registry=registry, progress=say) as machine:
        machine.ssh(
            "podman run -d --name elsewhere --network=host -e POSTGRES_USER=gevulot -e POSTGRES_PASSWORD=another "
            f"-e POSTGRES_INITDB_ARGS=--auth-host=scram-sha-256 {data(machine)['gevulot_postgres_image']} "
            "postgres -c port=5433 -c listen_addresses=127.0.0.1"
        )
        machine.ssh(
            "timeout 120 sh -c 'until podman exec elsewhere pg_isready -q -h 127.0.0.1 -p 5433; do sleep 1; done'"
        )
        yield machine


def test_a_password_that_does_not_fit_stops_the_run_with_the_migrations_own_journal(
    machine: Machine, say: Progress
) -> None:
    with step(say, "deploying with a password that does not fit", takes="about two minutes"):
        run = deploy(machine)
    assert run.code != 0
    assert "gevulot-migrate.service failed: the database refuses the login" in run.output, run.output[-3000:]
    assert "the journal of gevulot-migrate.service: " in run.output
    assert PASSWORD not in run.output
    # The firewall's start pulls the node in before the deploy starts it; a try may be two lines.
    assert int(machine.ssh(TRIED).stdout) <= 4


def test_the_status_shows_it(machine: Machine) -> None:
    run = deploy(machine, script="deploys/status.py")
    assert "gevulot-migrate.service failed: the database refuses the login" in run.output, run.output[-3000:]


def test_the_node_comes_up_by_itself_once_the_password_fits(machine: Machine, say: Progress) -> None:
    assert machine.ssh("systemctl show -P SubState gevulot-migrate.service").stdout.startswith("auto-restart")
    machine.ssh(
        f"podman exec -u postgres elsewhere psql -p 5433 -U gevulot -c \"ALTER ROLE gevulot PASSWORD '{PASSWORD}'\""
    )
    with step(say, "waiting for the next try of the migration", takes="at most three minutes"):
        machine.ssh(ACTIVE.format(seconds=400), timeout=450)


def test_a_node_that_is_stopped_while_its_migration_waits_stays_stopped(machine: Machine) -> None:
    # The node is stopped first, which takes its time.
    machine.ssh("podman stop elsewhere && systemctl restart --no-block gevulot-node.service")
    machine.ssh(
        "timeout 120 sh -c 'until systemctl is-active gevulot-migrate.service | grep -q activating; do sleep 1; done'"
    )
    machine.ssh("timeout 60 systemctl stop gevulot-node.service && podman start elsewhere && sleep 20")
    states = machine.ssh("systemctl is-active gevulot-node.service gevulot-migrate.service", check=False).stdout
    assert states.split() == ["inactive", "inactive"]


def test_the_node_waits_for_a_database_that_is_not_up_yet(machine: Machine) -> None:
    machine.ssh("podman stop elsewhere && systemctl start --no-block gevulot-node.service && sleep 20")
    assert machine.ssh("systemctl is-active gevulot-migrate.service", check=False).stdout.strip() == "activating"
    machine.ssh(f"podman start elsewhere && {ACTIVE.format(seconds=120)}", timeout=150)


def test_a_database_of_its_own_is_taken_back_and_its_data_stays(machine: Machine, say: Progress) -> None:
    with step(say, "deploying with a database of its own, then with the external one", takes="about three minutes"):
        own = deploy(machine, url=None)
        assert own.code == 0, own.output[-3000:]
        external = deploy(machine)
    assert external.code == 0, external.output[-3000:]
    assert machine.ssh("systemctl list-unit-files 'gevulot-postgres*' --no-legend", check=False).stdout == ""
    assert "gevulot-postgres" not in machine.ssh("podman ps -a --format '{{.Names}}'").stdout
    machine.ssh("test -s /var/lib/gevulot/postgres/PG_VERSION && podman secret exists gevulot-db-password")
    assert changes_of(deploy(machine, "--json").report) == []


def test_automatic_updates_are_taken_back(machine: Machine, say: Progress) -> None:
    enabled = "systemctl is-enabled podman-auto-update.timer"
    with step(say, "deploying with automatic updates, then without", takes="about two minutes"):
        assert deploy(machine, "--data", "gevulot_auto_update=True").code == 0
        assert machine.ssh(enabled).stdout.strip() == "enabled"
        run = deploy(machine)
    assert run.code == 0, run.output[-3000:]
    assert machine.ssh(enabled, check=False).stdout.strip() == "disabled"
