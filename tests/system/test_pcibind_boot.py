"""pcibind over a power cut and a boot whose udev handles one event at a time: the early override and the unit.

The tests build on each other, in their order.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.system.binder import Binder, path

MODULES = ("bochs-drm", "snd_hda_intel", "xhci_hcd")
"""Drivers of the boards that are modules in Debian's kernel; the fourth one, serial, is built in."""

RECORD = "cat /var/lib/pcibind/record.json /etc/pcibind/early.list"


def kernel_log(machine: Machine) -> str:
    return machine.ssh("journalctl -k -b -o cat --no-pager").stdout


def touched(log: str, driver: str) -> bool:
    """Whether a driver says in the kernel's log that it did anything with a function of either board."""
    return bool(re.search(rf"{driver}.* 0000:0[12]:00\.", log))


@pytest.fixture(scope="module")
def bare_log() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def binder(say: Progress, bare_log: dict[str, str]) -> Iterator[Binder]:
    """Boards chosen and recorded, the power cut in the midst of binding them, and booted again."""
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        bare_log["log"] = kernel_log(machine)
        binder.choose(4, 5)
        with step(say, "recording the boards and rebuilding the initramfs", takes="about half a minute"):
            assert binder.run("apply --next-boot").code == 0
            assert binder.bound() == set()
            machine.ssh(
                "systemctl enable pcibind.service && sed -i '/^\\tlinux/s/$/ udev.children_max=1/' /boot/grub/grub.cfg"
                " && update-initramfs -u && sync"
            )
        bare_log["record"] = machine.ssh(RECORD).stdout
        cut_while_binding(machine, 14)
        with step(say, "booting after a power cut", takes="about a minute"):
            machine.power_on()
            machine.wait_running()
        yield binder


def cut_while_binding(machine: Machine, write: int) -> None:
    """Take the power away in the midst of an apply, before one of its writes."""
    slowly = f"strace -qq -o /root/trace -e trace=write -e inject=write:delay_enter=60s:when={write}"
    machine.ssh("rm -f /root/trace")
    running = threading.Thread(target=machine.ssh, args=(f"{slowly} pcibind apply",), kwargs={"check": False})
    running.start()
    end = time.monotonic() + 60
    while int(machine.ssh("grep -c 'write(' /root/trace", check=False).stdout or 0) < write - 1:
        assert time.monotonic() < end
    assert machine.ssh("test -e /run/pcibind/devices.env", check=False).returncode != 0
    machine.power_cut()
    running.join()


def test_the_boards_come_back_as_they_were_recorded(binder: Binder, bare_log: dict[str, str]) -> None:
    assert binder.machine.ssh(RECORD).stdout == bare_log["record"]
    assert binder.bound() == {4, 5}
    assert binder.run("status").code == 0
    assert "PCIBIND_BOARDS=2\n" in binder.handed_over()
    assert binder.machine.ssh("systemctl is-system-running", check=False).stdout.strip() == "running"


@pytest.mark.parametrize("driver", MODULES)
def test_no_driver_of_a_module_touches_a_board_though_udev_takes_one_event_at_a_time(
    binder: Binder, bare_log: dict[str, str], driver: str
) -> None:
    assert "udev.children_max=1" in binder.machine.ssh("cat /proc/cmdline").stdout
    assert touched(bare_log["log"], driver), "a bare host's log says nothing of it, so its absence shows nothing"
    assert not touched(kernel_log(binder.machine), driver)


def test_only_what_is_built_in_is_left_for_the_unit(binder: Binder) -> None:
    journal = binder.machine.ssh("journalctl -b -u pcibind.service -o cat --no-pager").stdout
    assert journal.count("present, bound") == 2
    # The serial port's driver had its console's messages; the display's never did.
    assert re.search(r"0000:01:00\.3.*ttyS", kernel_log(binder.machine))


def test_the_unit_is_well_formed_and_confined_and_comes_before_what_uses_gpus(binder: Binder) -> None:
    machine = binder.machine
    verify = machine.ssh("systemd-analyze verify --man=no pcibind.service")
    assert verify.stdout + verify.stderr == ""
    exposure = machine.ssh("systemd-analyze security --no-pager pcibind.service").stdout
    level = re.search(r"exposure level for pcibind\.service: ([0-9.]+)", exposure)
    assert level, exposure[-500:]
    assert float(level[1]) <= 2.1
    before = machine.ssh("systemctl show -P Before pcibind.service").stdout.split()
    assert {"sysinit.target", "display-manager.service", "nvidia-persistenced.service"} <= set(before)


@pytest.mark.soak
def test_undone_and_booted_the_host_is_as_it_was_before(binder: Binder, say: Progress) -> None:
    machine = binder.machine
    assert binder.run("release").code == 0
    with step(say, "rebuilding the initramfs and rebooting without boards", takes="about a minute and a half"):
        machine.ssh("systemctl disable pcibind.service && update-initramfs -u && sync")
        machine.reboot()
        machine.wait_running()
    assert binder.bound() == set()
    drivers = {each.driver for slot in (4, 5) for each in binder.board(slot).values()}
    assert drivers == {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}
    assert {each.override for each in binder.functions().values()} == {"(null)"}


@pytest.mark.soak
def test_a_board_that_was_let_go_is_the_hosts_after_the_next_boot(binder: Binder) -> None:
    machine = binder.machine
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    binder.choose(4)
    assert binder.run("apply --next-boot").code == 0
    assert binder.bound() == {4, 5}
    machine.ssh("systemctl enable pcibind.service && update-initramfs -u && sync")
    machine.reboot()
    assert machine.wait_running() == "running"
    assert binder.bound() == {4}
    assert {each.driver for each in binder.board(5).values()} == {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}
    assert (binder.run("status").code, list(binder.run("status").states())) == (0, [path(4)])
    assert "PCIBIND_BOARDS=1\n" in binder.handed_over()


@pytest.mark.soak
@pytest.mark.parametrize("write", [2, 3, 6, 11, 20, 28, 31])
def test_the_next_boot_repairs_a_power_cut_before_any_write(binder: Binder, write: int) -> None:
    machine = binder.machine
    binder.run("release")
    # As pcibind says after a release: the list of a boot before must not act at this one.
    machine.ssh("systemctl enable pcibind.service && update-initramfs -u && sync")
    machine.reboot()
    machine.wait_running()
    binder.choose(4, 5)
    cut_while_binding(machine, write)
    machine.power_on()
    machine.wait_running()
    assert binder.run("apply").code == 0
    assert binder.bound() == {4, 5}
    assert binder.run("release").code == 0
    drivers = {each.driver for slot in (4, 5) for each in binder.board(slot).values()}
    assert drivers == {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}


@pytest.mark.soak
def test_ten_boots_come_back_right(binder: Binder) -> None:
    binder.choose(4, 5)
    binder.run("apply --next-boot")
    binder.machine.ssh("systemctl enable pcibind.service && update-initramfs -u && sync")
    for _ in range(10):
        binder.machine.reboot()
        binder.machine.wait_running()
        assert binder.bound() == {4, 5}
        assert binder.run("status").code == 0
