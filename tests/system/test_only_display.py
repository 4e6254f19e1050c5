"""A host whose only board is its only display, where the firmware draws: deployed from start to end by UEFI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS
from tests.lab.progress import Progress, step
from tests.lab.run import changes_of, pyinfra
from tests.system.story import wait_for_node

pytestmark = pytest.mark.worlds
GUARDS = ["boot-display", "framebuffer"]
ALLOWED = ("--data", f"gevulot_board_guards_allowed={json.dumps(GUARDS)}")
UNTOUCHED = "ls -d /etc/pcibind /var/lib/pcibind /var/lib/gpu-host 2>/dev/null; true"
BOOT_DISPLAY = "cat /sys/bus/pci/devices/{}/boot_vga"
# The start of the firmware's screen (struct screen_info), and that of the display's first memory range.
SCREEN = "od -An -tx4 -j24 -N4 /sys/kernel/boot_params/data"
RANGE = "head -n1 /sys/bus/pci/devices/{}/resource"
OWNERS = "grep -iE 'efifb|bootfb|simple' /proc/iomem; true"


def test_the_only_display_becomes_the_nodes_board_where_its_guards_are_allowed(registry: Path, say: Progress) -> None:
    with Machine.start("only-display", platform=PLATFORMS["debian13-uefi"], registry=registry, progress=say) as machine:
        ((display, *_),) = machine.topology.boards.values()
        assert machine.ssh(BOOT_DISPLAY.format(display)).stdout.strip() == "1"
        screen = int(machine.ssh(SCREEN).stdout, 16)
        assert screen == int(machine.ssh(RANGE.format(display)).stdout.split()[0], 16)

        refused = pyinfra([machine], "--dry")
        assert refused.code != 0
        assert "boot-display" in refused.output
        assert "gevulot_board_guards_allowed" in refused.output
        assert machine.ssh(UNTOUCHED).stdout == ""

        with step(say, "deploying where the guards are allowed", takes="about six minutes"):
            run = pyinfra([machine], "-y", *ALLOWED)
        assert run.code == 0, run.output[-5000:]
        assert " passed, 0 failed" in run.output
        wait_for_node(machine)
        assert "PCIBIND_BOARDS=1\n" in machine.ssh("cat /run/pcibind/devices.env").stdout
        assert machine.ssh(OWNERS).stdout == "", "the firmware's framebuffer has given the memory up"
        machine.ssh("pcibind status")

        second = pyinfra([machine], "-y", "--json", *ALLOWED)
        assert second.code == 0, second.output[-5000:]
        assert changes_of(second.report) == []

        with step(say, "undoing", takes="about three minutes"):
            undone = pyinfra([machine], "-y", *ALLOWED, deploy="deploys/undo.py")
        assert undone.code == 0, undone.output[-5000:]
        assert " passed, 0 failed" in undone.output
