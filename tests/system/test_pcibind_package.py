"""pcibind's Debian package on a host: it takes over from a set-up by hand, keeps the boards, and leaves no trace.

The tests build on each other, in their order.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import pcibind_package
from tests.lab.hostpackages import program
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.lab.ssh import ADDRESS
from tests.system.binder import Binder, Function

pytestmark = pytest.mark.soak

PACKAGE = "/var/tmp/pcibind.deb"
# Names only: contents and times of others' files change with every package and boot.
FILES = (
    "find /etc /usr /var/lib /run/pcibind -xdev ! -type d ! -path '*/__pycache__/*' ! -path '/var/lib/dpkg/*'"
    " ! -path '/var/lib/apt/*' ! -path '/var/lib/systemd/timers/*' 2>/dev/null | sort"
)
IN_IMAGES = "for image in /boot/initrd.img-*; do lsinitramfs $image; done | grep pcibind; true"
# As a virtual environment that is gone leaves a host: with its boot files, enabled, and no code.
BY_HAND = (
    "systemctl enable --quiet pcibind.service && rm -r /usr/local/sbin/pcibind /usr/local/lib/pcibind/__main__.py"
    " /usr/local/lib/pcibind/pcibind && find /etc -name '*pcibind*' ! -type d"
)
SET_UP = {
    "/etc/initramfs-tools/hooks/pcibind",
    "/etc/systemd/system/pcibind.service",
    "/etc/systemd/system/sysinit.target.wants/pcibind.service",
    "/etc/udev/rules.d/05-pcibind.rules",
}


@dataclass(frozen=True, slots=True)
class Bare:
    """A host before pcibind came: its files and its functions."""

    files: str
    functions: dict[str, Function]


@pytest.fixture(scope="module")
def binder(say: Progress) -> Iterator[Binder]:
    package = pcibind_package.ensure(progress=say)
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        copy = [program("scp"), "-q", *machine.ssh_arguments, str(package), f"root@{ADDRESS}:{PACKAGE}"]
        subprocess.run(copy, check=True, stdin=subprocess.DEVNULL, timeout=600)
        yield Binder(machine)


@pytest.fixture(scope="module")
def bare(binder: Binder) -> Bare:
    return Bare(binder.machine.ssh(FILES).stdout, binder.functions())


def apt(binder: Binder, words: str) -> subprocess.CompletedProcess[str]:
    command = f"DEBIAN_FRONTEND=noninteractive apt-get -q --yes {words}"
    return binder.machine.ssh(f"{command} 2>&1", check=False, timeout=1200)


def reboot(binder: Binder, say: Progress) -> None:
    with step(say, "rebooting", takes="about a minute"):
        binder.machine.ssh("sync")
        binder.machine.reboot()
        binder.machine.wait_running()


def test_what_was_set_up_by_hand_does_not_shadow_the_package(binder: Binder, bare: Bare, say: Progress) -> None:
    assert "pcibind" not in bare.files
    Binder.install(binder.machine)
    assert set(binder.machine.ssh(BY_HAND).stdout.split()) >= SET_UP
    with step(say, "installing the package", takes="half a minute"):
        installed = apt(binder, f"install {PACKAGE}")
    assert installed.returncode == 0, installed.stdout[-3000:]
    assert "removed /etc/udev/rules.d/05-pcibind.rules: the package provides it" in installed.stdout
    left = set(binder.machine.ssh("find /etc -name '*pcibind*' ! -type d").stdout.split())
    assert left == {"/etc/systemd/system/sysinit.target.wants/pcibind.service"}
    shown = binder.machine.ssh("systemctl show -P FragmentPath -P UnitFileState pcibind.service").stdout.split()
    assert shown == ["/usr/lib/systemd/system/pcibind.service", "enabled"]
    assert binder.machine.ssh("command -v pcibind; dpkg --audit; dpkg --verify pcibind").stdout == "/usr/sbin/pcibind\n"
    binder.machine.ssh("rm -r /usr/local/lib/pcibind /root/hold.py")


def test_the_packages_files_take_the_boards_at_a_boot(binder: Binder, say: Progress) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    with step(say, "rebuilding the initramfs", takes="half a minute"):
        binder.machine.ssh("update-initramfs -u -k all", timeout=900)
    assert "usr/lib/pcibind/early" in binder.machine.ssh(IN_IMAGES).stdout
    reboot(binder, say)
    assert binder.bound() == {4, 5}
    assert "0000:01:00.0" in binder.machine.ssh("cat /run/pcibind/early.initramfs").stdout
    assert "PCIBIND_BOARDS=2\n" in binder.handed_over()
    assert binder.machine.ssh("systemctl is-active pcibind.service").stdout == "active\n"


def test_a_package_that_is_installed_anew_rebuilds_the_initramfs_and_stops_nothing(binder: Binder) -> None:
    run = "systemctl show -P InvocationID pcibind.service; cat /run/pcibind/devices.env"
    before = binder.machine.ssh(run).stdout
    installed = apt(binder, f"install --reinstall {PACKAGE}")
    assert installed.returncode == 0, installed.stdout[-3000:]
    assert "Generating /boot/initrd.img" in installed.stdout
    assert binder.machine.ssh(run).stdout == before
    assert binder.bound() == {4, 5}


def test_removal_is_refused_while_a_board_is_on_record(binder: Binder) -> None:
    refused = apt(binder, "remove pcibind")
    assert refused.returncode != 0
    assert "run 'pcibind release' before removing the package" in refused.stdout
    assert binder.machine.ssh("dpkg-query -f '${db:Status-Status}' -W pcibind").stdout == "installed"
    assert binder.machine.ssh("systemctl is-active pcibind.service").stdout == "active\n"
    assert binder.run("status").code == 0
    assert binder.bound() == {4, 5}


def test_removed_after_release_no_initramfs_takes_a_board(binder: Binder, say: Progress) -> None:
    assert binder.run("release").code == 0
    with step(say, "removing the package", takes="a minute"):
        removed = apt(binder, "remove pcibind")
    assert removed.returncode == 0, removed.stdout[-3000:]
    assert binder.machine.ssh(IN_IMAGES).stdout == ""
    assert binder.machine.ssh("cat /etc/pcibind/boards.toml").stdout


def test_purged_and_booted_the_host_is_as_it_was_before(binder: Binder, bare: Bare, say: Progress) -> None:
    purged = apt(binder, "purge pcibind")
    assert purged.returncode == 0, purged.stdout[-3000:]
    reboot(binder, say)
    files = set(binder.machine.ssh(FILES).stdout.splitlines())
    assert files ^ set(bare.files.splitlines()) == set()
    drivers = {name: (each.driver, each.override) for name, each in bare.functions.items()}
    assert {name: (each.driver, each.override) for name, each in binder.functions().items()} == drivers
    failed = binder.machine.ssh("systemctl --failed --plain --no-legend", check=False).stdout
    assert not re.search("pcibind", failed)
