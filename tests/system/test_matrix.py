"""The matrices of the deploy: every operation to be killed at (soak), every topology and every variant (worlds)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.inventory import data
from tests.lab.machine import Machine
from tests.lab.progress import Progress
from tests.lab.run import changes_of, plan_of, pyinfra
from tests.system.killing import kill_at


@pytest.fixture
def fresh(request: pytest.FixtureRequest, registry: Path, say: Progress) -> Iterator[Machine]:
    with Machine.start(getattr(request, "param", "two-boards"), registry=registry, progress=say) as machine:
        yield machine


@pytest.mark.soak
@pytest.mark.parametrize("after", [0.0, 0.7, 3.0])
def test_a_run_killed_at_every_operation_in_turn_still_converges(fresh: Machine, after: float) -> None:
    operations = plan_of(pyinfra([fresh], "--dry", "--json").report)
    assert len(operations) > 30
    for operation in operations:
        kill_at(fresh, operation, after, may_be_done=True)
        fresh.wait()
    run = pyinfra([fresh], "-y", "--json")
    assert run.code == 0, run.output[-3000:]
    assert changes_of(pyinfra([fresh], "-y", "--json").report) == []


@pytest.mark.worlds
@pytest.mark.parametrize("fresh", ["no-boards", "one-board", "two-boards", "eight-boards"], indirect=True)
def test_every_topology_ends_verified_and_stays(fresh: Machine) -> None:
    run = pyinfra([fresh], "-y")
    assert run.code == 0, run.output[-3000:]
    assert changes_of(pyinfra([fresh], "-y", "--json").report) == []


@pytest.mark.worlds
@pytest.mark.parametrize("fresh", ["nic-in-group"], indirect=True)
def test_a_foreign_card_in_a_boards_group_is_refused_by_name(fresh: Machine) -> None:
    run = pyinfra([fresh], "-y")
    assert run.code != 0
    assert "e1000" in run.output or "8086:100e" in run.output


@pytest.mark.worlds
def test_all_functions_reach_the_virtual_machine_when_asked_for(fresh: Machine) -> None:
    run = pyinfra([fresh], "-y", "--data", "gevulot_gpu_functions=all")
    assert run.code == 0, run.output[-3000:]
    command = "podman exec gevulot-node /gevulot stand-in-program --slowness 5 --limit 900"
    report = json.loads(fresh.ssh(command, timeout=1000).stdout)
    assert len(report["functions"]) == 8


@pytest.mark.soak
def test_ten_reboots_come_back_right(fresh: Machine) -> None:
    assert pyinfra([fresh], "-y").code == 0
    for _ in range(10):
        fresh.reboot()
        assert fresh.wait_running() == "running"
        fresh.ssh("pcibind status")


@pytest.mark.worlds
@pytest.mark.parametrize("fresh", ["no-boards"], indirect=True)
def test_an_external_database_is_used_by_its_url(fresh: Machine) -> None:
    fresh.ssh(
        "podman run -d --name elsewhere --network=host -e POSTGRES_USER=gevulot -e POSTGRES_PASSWORD='p@ss/word' "
        f"{data(fresh)['gevulot_postgres_image']} postgres -c port=5433 -c listen_addresses=127.0.0.1"
    )
    url = "postgres://gevulot:p%40ss%2Fword@127.0.0.1:5433/gevulot"
    run = pyinfra([fresh], "-y", "--data", f"gevulot_postgres_url={url}")
    assert run.code == 0, run.output[-3000:]
    assert "reachable, release 16 (psycopg, through SSH)" in run.output
    assert "p%40ss" not in run.output
    assert fresh.ssh("systemctl list-unit-files 'gevulot-postgres*' --no-legend", check=False).stdout == ""
    again = pyinfra([fresh], "-y", "--json", "--data", f"gevulot_postgres_url={url}")
    assert changes_of(again.report) == []


@pytest.mark.worlds
@pytest.mark.parametrize("fresh", ["no-boards"], indirect=True)
def test_automatic_updates_can_be_switched_on(fresh: Machine) -> None:
    run = pyinfra([fresh], "-y", "--data", "gevulot_auto_update=True")
    assert run.code == 0, run.output[-3000:]
    assert fresh.ssh("systemctl is-enabled podman-auto-update.timer").stdout.strip() == "enabled"
    assert "gevulot-node.service" in fresh.ssh("podman auto-update --dry-run --tls-verify=false").stdout
