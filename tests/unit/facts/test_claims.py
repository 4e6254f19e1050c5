"""Claims of others on PCI devices, read by the fact's own command from files as those tools write them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys.manifest import VFIO_IDS_TEXTS
from facts.claims import Claim, ClaimKind, RivalClaims
from pcibind.change import boot_files

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
GUEST = """\
<domain type='kvm'>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source>
        <address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x0'/>
    </hostdev>
    <hostdev mode='subsystem' type='usb'>
      <source><vendor id='0x1234'/><address bus='1' device='2'/></source>
    </hostdev>
  </devices>
</domain>
"""


def claims(root: Path, shell: str = "sh") -> list[Claim]:
    done = subprocess.run(
        [shell, "-c", RivalClaims().command(own=VFIO_IDS_TEXTS, root=str(root))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return RivalClaims().process(done.stdout.splitlines())


def write(root: Path, path: str, text: str) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_host_on_which_nobody_else_binds_has_no_claims(tmp_path: Path, shell: str) -> None:
    assert claims(tmp_path, shell) == []


def test_an_override_of_driverctl_names_its_function_and_driver(tmp_path: Path) -> None:
    write(tmp_path, "/etc/driverctl.d/0000:01:00.0", "nouveau")
    write(tmp_path, "/etc/driverctl.d/README", "nothing")
    (claim,) = claims(tmp_path)
    assert (claim.kind, claim.places, claim.driver) == (ClaimKind.DRIVERCTL, {"0000:01:00.0"}, "nouveau")


def test_a_machine_of_libvirt_names_the_hosts_side_of_its_devices(tmp_path: Path) -> None:
    write(tmp_path, "/etc/libvirt/qemu/games.xml", GUEST)
    write(tmp_path, "/etc/libvirt/qemu/plain.xml", "<domain/>")
    assert claims(tmp_path) == [Claim(ClaimKind.LIBVIRT, "/etc/libvirt/qemu/games.xml", frozenset({"0000:01:00.1"}))]


def test_a_network_device_of_libvirt_counts_too(tmp_path: Path) -> None:
    text = """<interface type="hostdev"><source>
      <address type="pci" domain="0x0000" bus="0x03" slot="0x10" function="0x2"/></source></interface>"""
    write(tmp_path, "/etc/libvirt/qemu/net.xml", text)
    assert [claim.places for claim in claims(tmp_path)] == [{"0000:03:10.2"}]


@pytest.mark.parametrize("how", ["autostart", "running"])
def test_a_machine_of_libvirt_that_runs_or_starts_by_itself_acts_and_is_named_once(tmp_path: Path, how: str) -> None:
    write(tmp_path, "/etc/libvirt/qemu/games.xml", GUEST)
    if how == "running":
        write(tmp_path, "/run/libvirt/qemu/games.xml", f"<domstatus>{GUEST}</domstatus>")
    else:
        (tmp_path / "etc/libvirt/qemu/autostart").mkdir()
        (tmp_path / "etc/libvirt/qemu/autostart/games.xml").symlink_to("../games.xml")
    (claim,) = claims(tmp_path)
    assert (claim.acts_at_boot, claim.places) == (True, {"0000:01:00.1"})


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("hostpci0: 0000:01:00,pcie=1,x-vga=1", {"0000:01:00"}),
        ("hostpci1: 01:00.0;01:00.1", {"0000:01:00.0", "0000:01:00.1"}),
        ("hostpci0: host=81:00.0,rombar=0", {"0000:81:00.0"}),
        ("hostpci0: mapping=big,pcie=1", {"0000:41:00.0"}),
    ],
)
def test_a_machine_of_proxmox_names_its_devices_in_each_spelling(tmp_path: Path, line: str, places: set[str]) -> None:
    write(tmp_path, "/etc/pve/mapping/pci.cfg", "big\n\tmap id=10de:2684,iommugroup=3,node=a,path=0000:41:00.0\n")
    write(tmp_path, "/etc/pve/qemu-server/100.conf", f"cores: 8\n{line}\n[old]\nhostpci3: 02:00.0\nonboot: 1\n")
    (claim,) = claims(tmp_path)
    assert (claim.kind, claim.places, claim.acts_at_boot) == (ClaimKind.PROXMOX, places, False)
    write(tmp_path, "/etc/pve/qemu-server/100.conf", f"onboot: 1\n{line}\n")
    assert claims(tmp_path)[0].acts_at_boot


SCRIPT = """#!/bin/sh
# 0000:99:00.0 is not meant
DEVS="0000:01:00.0 0000:01:00.1"
for DEV in $DEVS; do
    echo "vfio-pci" > /sys/bus/pci/devices/$DEV/driver_override
done
"""


@pytest.mark.parametrize(
    ("path", "text", "places", "models", "driver"),
    [
        ("/etc/initramfs-tools/scripts/init-top/vfio", SCRIPT, {"0000:01:00.0", "0000:01:00.1"}, set(), "vfio-pci"),
        ("/usr/sbin/vfio-pci-override.sh", SCRIPT, {"0000:01:00.0", "0000:01:00.1"}, set(), "vfio-pci"),
        ("/usr/lib/dracut/modules.d/20vfio/it.sh", SCRIPT, {"0000:01:00.0", "0000:01:00.1"}, set(), "vfio-pci"),
        ("/etc/modprobe.d/own.conf", "options vfio-pci ids=10de:2684,10DE:22ba\n",
         set(), {"10de:2684", "10de:22ba"}, "vfio-pci"),
        ("/usr/lib/modprobe.d/x.conf", "options vfio_pci disable_vga=1 ids=1002:67df:1da2\n",
         set(), {"1002:67df"}, "vfio-pci"),
        ("/run/modprobe.d/stub.conf", "options pci-stub ids=10de:2684\n", set(), {"10de:2684"}, "pci-stub"),
        ("/etc/modprobe.d/xen.conf", "options xen-pciback hide=(0000:01:00.0)\n",
         {"0000:01:00.0"}, set(), "xen-pciback"),
        ("/proc/cmdline", "root=/dev/sda1 vfio-pci.ids=10de:2684 quiet\n", set(), {"10de:2684"}, "vfio-pci"),
        ("/etc/udev/rules.d/90-gpu.rules", 'ACTION=="add", KERNEL=="0000:01:00.0", ATTR{driver_override}="nvidia"\n',
         {"0000:01:00.0"}, set(), "nvidia"),
        ("/usr/lib/udev/rules.d/90-gpu.rules",
         'ATTR{vendor}=="0x10de", ATTR{device}=="0x2684", ATTR{driver_override}="nvidia"\n',
         set(), {"10de:2684"}, "nvidia"),
        ("/etc/systemd/system/gpu.service",
         "ExecStart=/bin/sh -c 'echo nvidia >/sys/bus/pci/devices/0000:01:00.0/driver_override'\n",
         {"0000:01:00.0"}, set(), "nvidia"),
        ("/etc/systemd/system/x.service.d/o.conf",
         "ExecStartPre=/bin/sh -c 'echo 10de 2684 > /sys/bus/pci/drivers/vfio-pci/new_id'\n",
         set(), {"10de:2684"}, ""),
        ("/usr/local/bin/gpu-up", "#!/bin/sh\ndriverctl set-override 0000:01:00.0 vfio-pci\n",
         {"0000:01:00.0"}, set(), ""),
        ("/etc/rc.local", "virsh nodedev-detach pci_0000_01_00_0\n", {"0000:01:00.0"}, set(), ""),
    ],
)  # fmt: skip
def test_a_file_that_binds_by_its_own_means_names_what_it_binds(
    tmp_path: Path, path: str, text: str, places: set[str], models: set[str], driver: str
) -> None:
    write(tmp_path, path, text)
    (claim,) = claims(tmp_path)
    assert (claim.kind, claim.source) == (ClaimKind.FILE, path)
    assert (claim.places, claim.models, claim.driver) == (places, models, driver)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/modprobe.d/nvidia.conf", "options nvidia-drm modeset=1\nblacklist nouveau\n"),
        ("/etc/modprobe.d/vfio.conf", "softdep nvidia pre: vfio-pci\n"),
        ("/etc/modprobe.d/old.conf", "# options vfio-pci ids=10de:2684\n"),
        ("/etc/udev/rules.d/60-net.rules", 'KERNELS=="0000:01:00.0", NAME="lan0"\n'),
        ("/etc/modprobe.d/gevulot-vfio.conf", "# by gevulot_vfio_ids\noptions vfio-pci ids=10de:2684\n"),
        ("/proc/cmdline", "root=/dev/sda1 intel_iommu=on\n"),
        (boot_files.RULE_PATH, boot_files.rule()),
        (boot_files.INITRAMFS_HOOK_PATH, boot_files.initramfs_hook()),
        (boot_files.DRACUT_PATH, boot_files.dracut()),
        *boot_files.units().items(),
    ],
)
def test_what_binds_nothing_and_what_is_ours_is_no_claim(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text)
    assert claims(tmp_path) == []


def test_what_a_host_calls_its_files_cannot_steer_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, "/etc/modprobe.d/\x1b[31mred.conf", "options vfio-pci ids=10de:2684\n")
    write(tmp_path, "/etc/driverctl.d/0000:01:00.0", "\x1b]0;title\x07nouveau")
    assert all("\x1b" not in claim.source + claim.driver for claim in claims(tmp_path))


@pytest.mark.parametrize("output", [["x"], ["claims 1"], ["claims 1", "libvirt /a"]])
def test_an_answer_that_is_cut_short_is_refused(output: list[str]) -> None:
    with pytest.raises(FactProcessError, match="cut short"):
        RivalClaims().process(output)
