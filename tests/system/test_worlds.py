"""Worlds: every platform boots and is what its name says, and every history and topology reads as described."""

from __future__ import annotations

import pytest

from tests.lab.claims import assert_world
from tests.lab.history import HISTORIES, assert_history
from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS
from tests.lab.progress import Progress

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


@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_reads_as_described(history: str, say: Progress) -> None:
    with Machine.start("no-boards", preparation=HISTORIES[history].preparation, warm=False, progress=say) as machine:
        machine.wait_running()
        assert_history(machine, HISTORIES[history])


@pytest.mark.parametrize("topology", ["two-sockets", "eight-boards-on-two-sockets", "switch", "virtual-functions"])
def test_boards_are_where_the_topology_says(topology: str, say: Progress) -> None:
    with Machine.start(topology, progress=say) as machine:
        boards = machine.topology.boards
        assert {port: behind(machine, port) for port in boards} == boards
        first = [functions[0] for functions in boards.values()]
        nodes = machine.ssh(f"cd /sys/bus/pci/devices; for each in {' '.join(first)}; do cat $each/numa_node; done")
        expected = [int(port.startswith("0000:80:")) if machine.topology.sockets > 1 else -1 for port in boards]
        assert [int(node) for node in nodes.stdout.split()] == expected


def test_a_card_makes_its_virtual_functions_when_asked(say: Progress) -> None:
    with Machine.start("virtual-functions", progress=say) as machine:
        card = machine.topology.boards["0000:00:05.0"][0]
        machine.ssh(f"echo 2 >/sys/bus/pci/devices/{card}/sriov_numvfs")
        assert len(behind(machine, "0000:00:05.0")) == 3
