"""Three hosts: the first one reboots alone, and one that fails after its reboot is the last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import pyinfra

pytestmark = pytest.mark.soak
ROLL = "tests/system/roll.py"
# At each shutdown it takes the IOMMU from the menu, after everything was read back.
BREAK = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sed -i s/intel_iommu=on/intel_iommu=off/ /boot/grub/grub.cfg
[Install]
WantedBy=multi-user.target
"""
BROKEN = "broken-boot.service"


@pytest.fixture(scope="module")
def fleet(registry: Path, say: Progress) -> Iterator[list[Machine]]:
    # Names that no run beside this one uses, and whose order is that of the inventory.
    names = [f"roll-{os.getpid()}-{letter}" for letter in "abc"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(Machine.start("two-boards", name=name, registry=registry, progress=say))
            for name in names
        ]


def test_a_host_that_fails_its_reboot_stops_all_further_reboots(fleet: list[Machine], say: Progress) -> None:
    first = fleet[0]
    # Whatever is asked for, this host boots without an IOMMU.
    first.ssh(f"cat >/etc/systemd/system/{BROKEN} <<'END'\n{BREAK}END\nsystemctl enable --now {BROKEN}", timeout=120)
    boots = [machine.boot_id() for machine in fleet]
    with step(say, "a rolling reboot of three hosts, the first one broken", takes="about three minutes"):
        run = pyinfra(fleet, "-y", deploy=ROLL)
    now = [machine.boot_id() for machine in fleet]
    assert run.code != 0
    assert now[0] != boots[0], "the first host was not rebooted"
    assert now[1:] == boots[1:], "a host was rebooted after one that had failed after its reboot"
    assert "the reboot failed: the kernel does not run with intel_iommu=on iommu=pt" in run.output
    assert run.output.count(f"not rebooted because {first.name} failed") == 2


def test_once_it_is_repaired_it_reboots_alone_and_then_the_others_at_once(fleet: list[Machine], say: Progress) -> None:
    first, *others = (each.name for each in fleet)
    fleet[0].ssh(f"systemctl disable --now {BROKEN}; update-grub", timeout=300)
    boots = [machine.boot_id() for machine in fleet]
    with step(say, "the broken host, repaired, and then two at once", takes="about four minutes"):
        run = pyinfra(fleet, "-y", "--data", "gevulot_reboot_batch=2", deploy=ROLL)
    assert run.code == 0, run.output[-3000:]
    assert all(machine.boot_id() != boot for machine, boot in zip(fleet, boots, strict=True))
    events = ("Rebooting: ", "rebooted, and passed its checks")
    lines = [line for line in run.output.splitlines() if any(event in line for event in events)]
    order = [(line.split("]")[0].strip(" ["), "Rebooting: " in line) for line in lines]
    assert order[:2] == [(first, True), (first, False)]
    assert order[2:4] == [(name, True) for name in others]
    assert sorted(order[4:]) == sorted((name, False) for name in others)
