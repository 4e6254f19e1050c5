"""A boot with pcibind=off on the kernel line: the chosen boards are the host's, and consumers are skipped.

The tests build on each other, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.system.binder import Binder

pytestmark = pytest.mark.soak

HOSTS = {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}
CONSUMER = r"""[Unit]
Requires=pcibind.service
After=pcibind.service
ConditionKernelCommandLine=!pcibind=off
[Service]
EnvironmentFile=/run/pcibind/devices.env
ExecStart=/bin/sleep infinity
Restart=always
[Install]
WantedBy=multi-user.target
"""
# What else would keep the boards from the host: drivers that no alias loads, and models that are vfio-pci's.
MODULES = "blacklist bochs\noptions vfio-pci ids=1234:1111,8086:2668\n"


@pytest.fixture(scope="module")
def binder(say: Progress) -> Iterator[Binder]:
    """Boards chosen, bound at a boot, and the host booted again with pcibind turned off."""
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        binder.choose(4, 5)
        assert binder.run("apply --next-boot").code == 0
        machine.ssh("cat >/etc/modprobe.d/boards.conf", stdin=MODULES)
        machine.ssh("cat >/etc/systemd/system/consumer.service", stdin=CONSUMER)
        machine.ssh(
            "echo vfio-pci >/etc/modules-load.d/boards.conf; systemctl enable pcibind.service consumer.service"
            " && sed -i '/^\\tlinux/s/$/ pcibind=off/' /boot/grub/grub.cfg && update-initramfs -u && sync"
        )
        with step(say, "booting with pcibind=off", takes="about a minute"):
            machine.reboot()
            assert machine.wait_running() == "running"
        yield binder


def test_every_chosen_board_is_with_the_hosts_drivers(binder: Binder) -> None:
    assert binder.bound() == set()
    for slot in (4, 5):
        assert {each.driver for each in binder.board(slot).values()} == HOSTS
        assert {each.override for each in binder.board(slot).values()} == {"(null)"}


def test_the_consumer_is_skipped_and_not_retried(binder: Binder) -> None:
    show = "systemctl show -P {} consumer.service"
    assert binder.machine.ssh(show.format("ActiveState")).stdout.strip() == "inactive"
    assert binder.machine.ssh(show.format("ConditionResult")).stdout.strip() == "no"
    assert binder.machine.ssh(show.format("NRestarts")).stdout.strip() == "0"
    assert binder.handed_over() == ""


def test_the_units_say_who_did_what(binder: Binder) -> None:
    state = "systemctl show -P ActiveState {}"
    assert binder.machine.ssh(state.format("pcibind.service")).stdout.strip() == "inactive"
    assert binder.machine.ssh(state.format("pcibind-off.service")).stdout.strip() == "active"
    assert any("pcibind=off" in note for note in binder.run("status").report["notes"])


def test_the_next_boot_without_it_binds_the_boards(binder: Binder, say: Progress) -> None:
    machine = binder.machine
    with step(say, "booting without pcibind=off", takes="about a minute"):
        machine.ssh("sed -i 's/ pcibind=off$//' /boot/grub/grub.cfg && sync")
        machine.reboot()
        assert machine.wait_running() == "running"
    assert binder.bound() == {4, 5}
    assert binder.machine.ssh("systemctl is-active consumer.service").stdout.strip() == "active"
