"""A run that is killed is finished by the next one; here with sudo, without forwarding by SSH, with Postgres 15."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import changes_of, plan_of, pyinfra
from tests.system.killing import kill_at

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def machine(registry: Path, say: Progress) -> Iterator[Machine]:
    with Machine.start("no-boards", registry=registry, progress=say) as machine:
        machine.ssh("echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/lab.conf && systemctl reload ssh")
        yield machine


@pytest.fixture(autouse=True)
def as_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_LAB_USER", "operator")
    monkeypatch.setenv("GEVULOT_LAB_POSTGRES", "15")


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        ("Install packages with apt", 4),
        ("Write /etc/modprobe.d/gpu-host-boards.conf", 0.2),
        ("Pull the image of Postgres", 6),
        ("Make the node's key", 3),
        ("Start Postgres | Start Postgres", 3),
        ("Start the node | Start the node", 2),
    ],
)
def test_a_run_is_killed(machine: Machine, operation: str, after: float, say: Progress) -> None:
    with step(say, f"killing a run at {operation!r}"):
        kill_at(machine, operation, after)


def test_the_next_run_finishes_what_was_killed(machine: Machine, say: Progress) -> None:
    with step(say, "the run that finishes", takes="about two minutes"):
        run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-3000:]
    assert " passed, 0 failed" in run.output


def test_without_forwarding_the_database_is_checked_on_the_node(machine: Machine, say: Progress) -> None:
    with step(say, "a run that has nothing to do", takes="about a minute"):
        run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-3000:]
    assert changes_of(run.report) == []
    assert "reachable, release 15 (on the node; no forwarding" in run.output


def test_a_node_without_boards_has_no_gpu_variable(machine: Machine) -> None:
    assert machine.ssh("podman exec gevulot-node printenv GEVULOT_GPU_DEVICES", check=False).stdout == ""
    assert machine.ssh("podman exec gevulot-node ls /dev/vfio", check=False).stdout == ""


def test_a_plan_of_the_finished_node_is_empty(machine: Machine) -> None:
    assert plan_of(pyinfra([machine], "--dry", "--json").report) == []
