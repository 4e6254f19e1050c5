"""Worlds: every platform boots and is what its name says, and every history and topology reads as described."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import newer_kernel
from tests.lab.claims import assert_world
from tests.lab.history import HISTORIES, assert_history
from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS, Platform
from tests.lab.progress import Progress, step
from tests.lab.run import changes_of, command, pyinfra
from tests.system import evidence
from tests.system.story import wait_for_node

pytestmark = pytest.mark.worlds


def behind(machine: Machine, port: str) -> tuple[str, ...]:
    """The functions that the guest sees directly behind a port."""
    listed = machine.ssh(f"cd /sys/bus/pci/devices/{port} && ls -d ????:??:??.?").stdout
    return tuple(listed.split())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platform_is_what_its_name_says_and_still_is_after_a_reboot(platform: str, say: Progress) -> None:
    with Machine.start(platform=PLATFORMS[platform], progress=say) as machine:
        for boot in range(2):
            if boot:
                machine.reboot()
            assert machine.wait_running() == "running", machine.ssh("systemctl --failed", check=False).stdout
            assert_world(machine, PLATFORMS[platform])
            assert {port: behind(machine, port) for port in machine.topology.boards} == machine.topology.boards


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_host_of_a_platform_is_deployed_and_undone(platform: str, registry: Path, say: Progress) -> None:
    """The life of a host. What passed is noted, also when a later check fails."""
    passed: list[str] = []
    with Machine.start("two-boards", platform=PLATFORMS[platform], registry=registry, progress=say) as machine:
        says = evidence.versions(machine)
        try:
            for check, life in LIFE.items():
                with step(say, f"{platform}: {check}"):
                    life(machine, PLATFORMS[platform])
                passed.append(check)
                says = evidence.versions(machine)
        finally:
            evidence.note(platform, says, tuple(passed))


def is_bare(machine: Machine, platform: Platform) -> None:
    machine.wait_running()
    assert_world(machine, platform)


def is_deployed(machine: Machine, platform: Platform) -> None:
    run = pyinfra([machine], "-y")
    assert run.code == 0, run.output[-5000:]
    assert " passed, 0 failed" in run.output


def stays_as_it_is(machine: Machine, platform: Platform) -> None:
    run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-5000:]
    assert changes_of(run.report) == []


def takes_a_newer_kernel(machine: Machine, platform: Platform) -> None:
    """No run of ours comes between the package manager and the status."""
    release = newer_kernel.install(machine, newer_kernel.ensure(platform))
    machine.reboot()
    assert machine.ssh("uname -r").stdout.strip() == release
    wait_for_node(machine)
    words = [sys.executable, "-m", "deploys.fleet", "inventories/lab.py", "--limit", machine.name]
    done = command([machine], words)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    machine.ssh("pcibind status")


def comes_back(machine: Machine, platform: Platform) -> None:
    machine.power_cut()
    machine.power_on()
    wait_for_node(machine)
    stays_as_it_is(machine, platform)


def runs_a_program(machine: Machine, platform: Platform) -> None:
    command = "podman exec gevulot-node /gevulot stand-in-program --slowness 5 --limit 900"
    report = json.loads(machine.ssh(command, timeout=1000).stdout)
    assert (report["accelerator"], len(report["functions"])) == ("kvm", 2), report


def is_undone(machine: Machine, platform: Platform) -> None:
    run = pyinfra([machine], "-y", deploy="deploys/undo.py")
    assert run.code == 0, run.output[-5000:]
    assert " passed, 0 failed" in run.output


_CHECKS = (is_bare, is_deployed, stays_as_it_is, takes_a_newer_kernel, comes_back, runs_a_program, is_undone)
LIFE: dict[str, Callable[[Machine, Platform], None]] = dict(zip(evidence.CHECKS, _CHECKS, strict=True))


@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_reads_as_described(history: str, say: Progress) -> None:
    described = HISTORIES[history]
    with Machine.start(described.topology, preparation=described.preparation, warm=False, progress=say) as machine:
        machine.wait_running()
        assert_history(machine, described)


@pytest.mark.parametrize("topology", ["two-sockets", "eight-boards-on-two-sockets", "switch", "virtual-functions"])
def test_boards_are_where_the_topology_says(topology: str, say: Progress) -> None:
    with Machine.start(topology, progress=say) as machine:
        boards = machine.topology.boards
        assert {port: behind(machine, port) for port in boards} == boards
        first = [functions[0] for functions in boards.values()]
        nodes = machine.ssh(f"cd /sys/bus/pci/devices; for each in {' '.join(first)}; do cat $each/numa_node; done")
        # QEMU names a NUMA node for the second root bus only.
        expected = [1 if port.startswith("0000:80:") else -1 for port in boards]
        assert [int(node) for node in nodes.stdout.split()] == expected


def test_a_card_makes_its_virtual_functions_when_asked(say: Progress) -> None:
    with Machine.start("virtual-functions", progress=say) as machine:
        card = machine.topology.boards["0000:00:05.0"][0]
        machine.ssh(f"echo 2 >/sys/bus/pci/devices/{card}/sriov_numvfs")
        assert len(behind(machine, "0000:00:05.0")) == 3
