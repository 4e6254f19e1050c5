"""The platform that differs most from that of the other tests boots, and is what it says."""

from __future__ import annotations

import pytest

from tests.lab.claims import assert_world
from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS
from tests.lab.progress import Progress

PLATFORM = PLATFORMS["debian14-all"]


@pytest.mark.worlds
def test_the_platform_that_differs_most_is_what_it_says(say: Progress) -> None:
    with Machine.start(platform=PLATFORM, progress=say) as machine:
        assert machine.wait_running() == "running", machine.ssh("systemctl --failed", check=False).stdout
        assert_world(machine, PLATFORM)
        boards = machine.topology.boards
        present = machine.ssh("ls /sys/bus/pci/devices").stdout.split()
        assert {address for functions in boards.values() for address in functions} <= set(present)
