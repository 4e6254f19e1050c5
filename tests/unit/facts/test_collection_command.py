"""The command that collects a host, run on this machine and on machines of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from facts.collection import CollectedHost, Collection
from facts.redaction import REDACTED, Redaction
from pcibind.remote import topology_text
from tests.corpus import sysfs_tree
from tests.corpus.dump import BlockDevice, Dump, Interface, PciDevice

pytestmark = pytest.mark.commands

MODULES = ("vfio", "vfio-pci", "kvm", "nouveau")
UNITS = ("gevulot-node.service", "pcibind.service")
COMMAND = Collection().command(modules=MODULES, units=UNITS, hidden=("it's.example.com",))


def run(environment: Mapping[str, str] | None = None, user: int | None = None) -> CollectedHost:
    """Run the command as pyinfra does, and expect it to succeed and to complain of nothing."""
    variables = {"PATH": os.environ["PATH"], **(environment or {})}
    done = subprocess.run(["sh", "-c", COMMAND], capture_output=True, text=True, env=variables, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    return Collection().process(done.stdout.splitlines())


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)])
@pytest.mark.parametrize("command", [COMMAND, Collection().command()])
def test_every_posix_shell_can_read_the_command(command: str, shell: str) -> None:
    done = subprocess.run([shell, "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_this_machine_can_be_collected() -> None:
    host = run()
    assert f"kernel={Redaction((os.uname().nodename,)).release(os.uname().release)}" in host.platform
    assert len(host.arguments) >= 1
    assert [line.split()[0] for line in host.modules] == ["vfio", "vfio_pci", "kvm", "nouveau"]
    assert host.acpi == tuple(sorted(host.acpi))


def test_it_can_be_collected_without_root_too_and_says_so() -> None:
    host = run(user=65534 if os.geteuid() == 0 else None)
    assert host.unreadable[0] == "what is for root alone: the login is another user's"
    assert topology_text.parse(list(host.topology)).functions == topology_text.parse(list(run().topology)).functions


def test_names_and_modules_are_read_from_the_hosts_files(tmp_path: Path) -> None:
    etc, modules, proc = (tmp_path / name for name in ("etc", "modules/6.12.0", "proc/sys/kernel"))
    for directory in (etc, modules, proc):
        directory.mkdir(parents=True)
    (etc / "hostname").write_text("acme1.example.com\n")
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nodd\n")
    # It is data: no line of it is run.
    (etc / "os-release").write_text(
        f"touch {tmp_path}/run\nID=debian\nVERSION_ID=13\nPRETTY_NAME='Debian 13, as alice has it on acme1'"
    )
    (proc / "osrelease").write_text("6.12.0\n")
    (tmp_path / "proc/cmdline").write_text("ro root=LABEL=acme1\nfor=alice iommu=pt")
    (modules / "modules.dep").write_text(
        "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz kernel/virt/kvm.ko.xz\n"
        "updates/dkms/nouveau.ko: kernel/drivers/other.ko\n"
    )
    (modules / "modules.builtin").write_text("kernel/drivers/vfio/vfio.ko\n")
    (modules / "modules.alias").write_text("")
    sysfs = tmp_path / "sys"
    for name in ("bus/pci/devices", "class/net", "dev/block", "class/block", "module/nouveau"):
        (sysfs / name).mkdir(parents=True)
    (sysfs / "firmware/acpi/tables/data").mkdir(parents=True)
    (sysfs / "firmware/acpi/tables/DMAR").write_text("")
    host = run(
        {
            "PCIBIND_SYS": str(sysfs),
            "PCIBIND_PROC": str(tmp_path / "proc"),
            "PCIBIND_MODULES": str(tmp_path / "modules"),
            "PCIBIND_ETC": str(etc),
        }
    )
    assert host.platform[:3] == ("id=debian", "version=13", f"name=Debian 13, as {REDACTED} has it on {REDACTED}")
    assert not (tmp_path / "run").exists()
    assert host.arguments == ("ro", "root=LABEL=REDACTED", "for=REDACTED", "iommu=pt")
    assert host.acpi == ("DMAR",)
    assert host.modules == ("vfio built-in loaded", "vfio_pci module -", "kvm missing -", "nouveau module loaded")


_SYSTEMCTL = """#!/bin/sh
case "$*" in
*Version*) printf 'Version=257\nSystemState=running\nNFailedUnits=0\n' ;;
*" gevulot-node.service pcibind.service") printf 'Id=%s\nLoadState=loaded\n\n' gevulot-node.service pcibind.service ;;
*) exit 1 ;;
esac
"""


def test_units_are_asked_for_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text(_SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    assert run({"PATH": f"{tmp_path}:{os.environ['PATH']}"}).units == (
        "systemd Version=257 SystemState=running NFailedUnits=0",
        "gevulot-node.service LoadState=loaded",
        "pcibind.service LoadState=loaded",
    )


def large(count: int) -> Dump:
    """A machine of so many boards, each behind a port, each with a disk and an interface."""
    pci: list[PciDevice] = []
    for number in range(count):
        port = f"0000:{number // 32 * 64:02x}:{number % 32:02x}.0"
        board = f"0000:{number // 32 * 64 + number % 32 + 1:02x}:00.0"
        place = f"/devices/pci{port[:7]}/{port}"
        pci.append(PciDevice(place, port, 0x8086, 0x4C01, 0, 0, 0x060400, "pcieport"))
        pci.append(PciDevice(f"{place}/{board}", board, 0x10DE, 0x2684, 0x1458, 0x40BF, 0x030000, "nouveau"))
    boards = [each.path for each in pci[1::2]]
    return Dump(
        "large",
        tuple(pci),
        tuple(Interface(f"{path}/net/e{number}", f"e{number}") for number, path in enumerate(boards)),
        tuple(
            BlockDevice(f"{path}/block/b{number}", f"b{number}", f"9:{number}") for number, path in enumerate(boards)
        ),
    )


def full(dump: Dump, root: Path) -> dict[str, str]:
    """Lay a machine out with everything that a server's kernel tells; return the environment to read it by."""
    tree = sysfs_tree.build(dump, str(root))
    more = {
        "current_link_speed": "16.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_speed": "16.0 GT/s PCIe",
        "max_link_width": "16",
        "sriov_totalvfs": "16",
        "reset_method": "flr pm bus",
    }
    slots = root / "sys/bus/pci/slots"
    for number, device in enumerate(dump.pci):
        for name, value in more.items():
            Path(f"{root}/sys{device.path}/{name}").write_text(f"{value}\n")
        Path(f"{root}/sys{device.path}/config").write_bytes(bytes(64))
        (slots / str(number)).mkdir(parents=True)
        (slots / str(number) / "address").write_text(f"{device.slot.partition('.')[0]}\n")
    for group in set(tree.synthesised.groups.values()):
        (root / f"sys/kernel/iommu_groups/{group}/type").write_text("DMA-FQ\n")
    aliases = [f"alias pci:v000010DEd*sv*sd*bc03sc{number:02X}i00* module_{number}\n" for number in range(100)]
    (root / "modules/6.12.0").mkdir(parents=True)
    (root / "modules/6.12.0/modules.alias").write_text("".join(aliases))
    (root / "modules/6.12.0/modules.dep").write_text("kernel/vfio.ko:\n")
    (root / "modules/6.12.0/modules.builtin.modinfo").write_text("")
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/osrelease").write_text("6.12.0\n")
    (root / "proc/cmdline").write_text("ro\n")
    return {"PCIBIND_SYS": f"{root}/sys", "PCIBIND_PROC": f"{root}/proc", "PCIBIND_MODULES": f"{root}/modules"}


def test_a_host_of_two_hundred_functions_fits_into_a_report(tmp_path: Path) -> None:
    host = run(full(large(100), tmp_path))
    assert len(topology_text.parse(list(host.topology)).functions) == 200
    assert len(host.devices) == 200
    assert len(host.text()) < 200_000


def test_as_many_processes_are_run_however_many_devices_there_are(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (
        "cat",
        "find",
        "grep",
        "head",
        "id",
        "od",
        "readlink",
        "sed",
        "sort",
        "stat",
        "systemctl",
        "timeout",
        "tr",
        "uname",
    ):
        real = shutil.which(name) or "/bin/false"
        (tools / name).write_text(f'#!/bin/sh\necho {name} >>{log}\nexec {real} "$@"\n')
        (tools / name).chmod(0o755)
    counts = []
    for count in (1, 60):
        run(full(large(count), tmp_path / str(count)) | {"PATH": f"{tools}:{os.environ['PATH']}"})
        counts.append(sorted(log.read_text().split()))
        log.unlink()
    assert counts[0] == counts[1]
    assert len(counts[0]) < 50
