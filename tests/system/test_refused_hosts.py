"""Hosts that are refused for their own hardware, and what goes on beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.history import HISTORIES
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.lab.run import pyinfra
from tests.system.story import deployed, wait_for_node

pytestmark = pytest.mark.worlds
UNTOUCHED = "ls -d /etc/pcibind /var/lib/pcibind /var/lib/gpu-host 2>/dev/null; true"
HANDED_OVER = "cat /run/pcibind/devices.env"


def test_a_disk_in_a_boards_group_is_refused_in_the_dry_run(registry: Path, say: Progress) -> None:
    with Machine.start("disk-in-group", preparation=IOMMU, registry=registry, progress=say) as machine:
        run = pyinfra([machine], "--dry")
        assert run.code != 0
        assert "foreign-device" in run.output
        assert "choose that board too in gevulot_boards" in run.output
        assert machine.ssh(UNTOUCHED).stdout == ""


def test_others_who_want_the_boards_are_named_in_the_dry_run(registry: Path, say: Progress) -> None:
    preparation = HISTORIES["boards-of-others"].preparation
    with Machine.start("two-boards", preparation=preparation, registry=registry, warm=False, progress=say) as machine:
        run = pyinfra([machine], "--dry")
        assert run.code != 0
        assert (
            "/etc/driverctl.d/0000:01:00.0 gives 0000:01:00.0 of board 0000:01:00.0 to the driver bochs-drm"
            in run.output
        )
        assert "/etc/libvirt/qemu/other.xml: the virtual machine other has 0000:02:00.0" in run.output
        assert "/etc/initramfs-tools/scripts/init-top/own-boards binds 0000:02:00.1" in run.output
        assert machine.ssh(UNTOUCHED).stdout == ""


def test_a_node_whose_board_died_goes_on_with_the_others_and_is_left_as_it_is(registry: Path, say: Progress) -> None:
    machine, _ = deployed(registry, say)
    with machine:
        machine.ssh("sync")
        machine.power_cut()
        with step(say, "booting the node without its first board", takes="about a minute"):
            machine.power_on("one-board-gone")
            wait_for_node(machine)
        assert "PCIBIND_BOARDS=1\n" in machine.ssh(HANDED_OVER).stdout
        before = machine.ssh("systemctl show -P InvocationID gevulot-node.service").stdout
        run = pyinfra([machine], "-y")
        assert run.code != 0
        assert "the chosen board 0000:00/04.0/00 is absent" in run.output
        assert machine.ssh("systemctl show -P InvocationID gevulot-node.service").stdout == before
        machine.ssh("sync")
        machine.power_cut()
        with step(say, "booting the node with both boards again", takes="about a minute"):
            machine.power_on("two-boards")
            wait_for_node(machine)
        assert "PCIBIND_BOARDS=2\n" in machine.ssh(HANDED_OVER).stdout
        assert pyinfra([machine], "--dry", "--json").planned == []
