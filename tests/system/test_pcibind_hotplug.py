"""Boards that are removed, found again, or unbound by hand while the host runs: pcibind-hotplug.service.

The tests build on each other, in their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.system.binder import Binder

pytestmark = pytest.mark.soak

CONSUMER = r"""[Unit]
Requires=pcibind.service
After=pcibind.service
[Service]
EnvironmentFile=/run/pcibind/devices.env
ExecStart=/bin/sleep infinity
"""
STARTS = "systemctl show -P InvocationID consumer pcibind.service"


@pytest.fixture(scope="module")
def binder(say: Progress) -> Iterator[Binder]:
    """Both boards bound by the unit, any of them enough, and a service that uses what is handed over."""
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        binder.configure('path = "0000:00/04.0/00"', 'path = "0000:00/05.0/00"', require="any")
        assert binder.run("apply").code == 0
        machine.ssh("cat >/etc/systemd/system/consumer.service", stdin=CONSUMER)
        machine.ssh("udevadm control --reload; systemctl daemon-reload; systemctl enable --now pcibind.service")
        machine.ssh("systemctl start consumer")
        assert binder.bound() == {4, 5}
        yield binder


@pytest.fixture(scope="module")
def starts(binder: Binder) -> str:
    """The one start of the consumer, and of the boot unit."""
    return binder.machine.ssh(STARTS).stdout


def boards(binder: Binder) -> int:
    text = binder.handed_over()
    return int(text.split("PCIBIND_BOARDS=")[1].split()[0]) if text else 0


def until(binder: Binder, reached: Callable[[], bool]) -> None:
    """Wait for what the unit does; fail with what it says."""
    end = time.monotonic() + 90
    while not reached():
        journal = "journalctl -b -u pcibind-hotplug.service -u pcibind-hotplug.path -o cat --no-pager | tail -n 40"
        assert time.monotonic() < end, binder.machine.ssh(journal).stdout
        time.sleep(1)


def settled(binder: Binder) -> None:
    until(
        binder,
        lambda: "inactive" in binder.machine.ssh("systemctl is-active pcibind-hotplug.service", check=False).stdout,
    )


def remove(binder: Binder, slot: int) -> None:
    names = " ".join(binder.board(slot))
    binder.machine.ssh(f"for f in {names}; do echo 1 >/sys/bus/pci/devices/$f/remove; done")


def test_a_board_that_is_removed_leaves_the_hand_over(binder: Binder, starts: str) -> None:
    remove(binder, 4)
    until(binder, lambda: boards(binder) == 1)
    assert binder.bound() == {5}
    assert binder.run("status").report["boards"][0]["state"] == "unbound"


@pytest.mark.parametrize("loaded", [True, False], ids=["drivers loaded", "drivers not loaded"])
def test_a_board_that_is_found_again_is_bound_and_handed_over(
    binder: Binder, starts: str, say: Progress, loaded: bool
) -> None:
    machine = binder.machine
    modules = "bochs snd_hda_intel xhci_pci"
    if binder.board(4):
        remove(binder, 4)
        until(binder, lambda: boards(binder) == 1)
    machine.ssh(f"for m in {modules}; do modprobe {'' if loaded else '-r'} $m; done", check=False)
    absent = "bochs" not in machine.ssh("lsmod").stdout
    machine.ssh("dmesg -C")
    with step(say, "looking for PCI devices again"):
        machine.ssh("echo 1 >/sys/bus/pci/rescan")
        until(binder, lambda: boards(binder) == 2)
    assert binder.bound() == {4, 5}
    settled(binder)
    assert binder.run("status").code == 0
    if absent:
        # The override came before udev loaded a module; the serial port's driver is built in.
        assert "bochs-drm 0000:" not in machine.ssh("dmesg").stdout


def test_a_board_that_is_unbound_by_hand_stays_so_and_returns_when_it_is_bound_by_hand(
    binder: Binder, starts: str
) -> None:
    machine = binder.machine
    function = next(iter(binder.board(4)))
    machine.ssh(f"echo {function} >/sys/bus/pci/drivers/vfio-pci/unbind")
    until(binder, lambda: boards(binder) == 1)
    settled(binder)
    assert binder.board(4)[function].driver == ""
    machine.ssh(f"echo {function} >/sys/bus/pci/drivers_probe")
    until(binder, lambda: boards(binder) == 2)


def test_an_event_that_changes_nothing_leaves_the_files_of_the_hand_over_alone(binder: Binder, starts: str) -> None:
    settled(binder)
    stat = "stat -c '%i %z' /run/pcibind/devices.env /run/pcibind/devices.json"
    before = binder.machine.ssh(stat).stdout
    binder.machine.ssh("mkdir -p /run/pcibind/events && : >/run/pcibind/events/bind.0000:01:00.0")
    until(binder, lambda: not binder.machine.ssh("ls /run/pcibind/events").stdout)
    settled(binder)
    assert binder.machine.ssh(stat).stdout == before


def test_after_all_of_it_nothing_else_was_restarted_and_nothing_failed(binder: Binder, starts: str) -> None:
    assert binder.machine.ssh(STARTS).stdout == starts
    assert binder.machine.ssh("systemctl --failed --plain --no-legend").stdout == ""


def test_a_boot_has_no_superfluous_run(binder: Binder, say: Progress) -> None:
    machine = binder.machine
    with step(say, "rebuilding the initramfs and rebooting", takes="about a minute and a half"):
        machine.ssh("update-initramfs -u && sync")
        machine.reboot()
        machine.wait_running()
    assert binder.bound() == {4, 5}
    assert machine.ssh("systemctl is-active pcibind-hotplug.path").stdout.strip() == "active"
    runs = machine.ssh("journalctl -b -u pcibind-hotplug.service -o cat --no-pager").stdout
    # The serial ports' driver is built in: the unit rebinds them, and that is looked at once.
    assert runs.count("Finished") <= 1, runs
