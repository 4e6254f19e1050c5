"""A host that hands its boards over without a node, a node on it, a host of an earlier version, and the way back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deploys import manifest
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, command, plan_of, pyinfra
from tests.system.story import DRIVERS, HOST, host_state, treasure, wait_for_node
from tests.system.test_undo import STAYS, differing

pytestmark = pytest.mark.worlds
GPU_HOST, NODE, UNDO = "deploys/gpu_host.py", "deploys/node.py", "deploys/undo.py"
FILES = ("files", "entries")
# What the packages of a node have there.
PACKAGES = ("/etc/containers", "/etc/cni", "/etc/nftables.conf")
NAMED = "find / /run -xdev -iname '*gevulot*' 2>/dev/null | sort; true"
# The copies of the host's own files are none of ours.
OURS = " ".join(
    (*(file.path for file in manifest.HOST), "/usr/local/lib/pcibind", "/var/lib/pcibind", "/etc/pcibind",
     manifest.RECORD, manifest.ARGUMENTS, manifest.DEPLOYED)
)  # fmt: skip
# A host as earlier versions deployed it, made of one of today's: its names, its texts, and its boot files.
EARLIER = r"""
set -eu
rm -f /var/lib/gpu-host/deploy
mv /var/lib/gpu-host /var/lib/gevulot-deploy
mv /etc/udev/rules.d/99-gpu-host-vfio.rules /etc/udev/rules.d/99-gevulot-vfio.rules
mv /etc/modprobe.d/gpu-host-boards.conf /etc/modprobe.d/gevulot-boards.conf
mv /etc/pcibind/gpu-host.toml /etc/pcibind/gevulot.toml
cat /etc/modules-load.d/gpu-host.conf >>/etc/modules-load.d/gevulot-node.conf
rm /etc/modules-load.d/gpu-host.conf
sed -e 's/by the deploy of this GPU host/by the Gevulot deploy/' -e 's/gpu_host_last/gevulot_last/g' \
  -e 's/zz-gpu-host/zz-gevulot/' /etc/default/grub.d/zz-gpu-host.cfg >/etc/default/grub.d/zz-gevulot.cfg
rm /etc/default/grub.d/zz-gpu-host.cfg
update-grub 2>/dev/null
update-initramfs -u -k all
"""


def deploy(machine: Machine, script: str, say: Progress, takes: str) -> Run:
    """Run a script to its end, which has to be a right one."""
    with step(say, f"running {script}", takes=takes):
        run = pyinfra([machine], "-y", "--json", deploy=script)
    assert run.code == 0, run.output[-5000:]
    assert " passed, 0 failed" in run.output
    return run


def assert_undone(machine: Machine, before: dict[str, str]) -> None:
    after = host_state(machine)
    rest = [name for name in HOST if name not in FILES]
    assert {name: after[name] for name in rest} == {name: before[name] for name in rest}
    for name in FILES:
        left = differing(after[name], before[name]) - STAYS
        assert {path for path in left if not path.startswith(PACKAGES)} == set()


def bare_state(machine: Machine, say: Progress) -> dict[str, str]:
    machine.wait_running()
    with step(say, "having the bare host make its boot files", takes="about a minute"):
        machine.ssh("update-grub 2>/dev/null; update-initramfs -u -k all", timeout=600)
    return host_state(machine)


def status(machine: Machine) -> dict[str, object]:
    words = [sys.executable, "-m", "deploys.fleet", "inventories/lab.py", "--limit", machine.name, "--output", "json"]
    done = command([machine], words)
    (host,) = json.loads(done.stdout)["hosts"]
    return {"exit code": done.returncode, **host}


def test_a_gpu_host_hands_its_boards_over_becomes_a_node_and_goes_back(registry: Path, say: Progress) -> None:
    with Machine.start("two-boards", registry=registry, progress=say) as machine:
        of_lab = machine.ssh(NAMED).stdout
        before = bare_state(machine, say)
        with step(say, "planning on a bare host", takes="about 40 s"):
            plan = pyinfra([machine], "--dry", "--json", deploy=GPU_HOST)
        assert plan.code == 0, plan.output
        assert host_state(machine) == before

        first = deploy(machine, GPU_HOST, say, "about four minutes, reboot included")
        assert set(changes_of(first.report)) <= set(plan_of(plan.report))
        assert machine.ssh(NAMED).stdout == of_lab, "nothing is named after Gevulot"
        assert machine.ssh(f"grep -rliI gevulot {OURS} 2>/dev/null; true").stdout == "", "and no file of ours names it"

        taken = machine.ssh(". /run/pcibind/devices.env; printf '%s' \"$PCIBIND_FUNCTIONS\"").stdout
        assert len(taken.replace(",", " ").split()) >= 2
        machine.ssh("useradd --no-create-home --groups kvm workload")
        groups = machine.ssh("ls /dev/vfio | grep '^[0-9]'").stdout.split()
        assert len(groups) == 2
        for group in groups:
            machine.ssh(f"runuser -u workload -- sh -c ': <>/dev/vfio/{group}'")
        machine.ssh("userdel workload")

        again = deploy(machine, GPU_HOST, say, "half a minute")
        assert changes_of(again.report) == []
        shown = status(machine)
        assert (shown["exit code"], shown["deployed_as"], shown["reasons"], shown["node"]) == (0, "gpu_host", [], None)

        machine.reboot()
        machine.wait_running()
        machine.ssh("pcibind status")
        assert changes_of(deploy(machine, GPU_HOST, say, "half a minute").report) == []

        deploy(machine, UNDO, say, "about three minutes, reboot included")
        assert_undone(machine, before)
        assert machine.ssh(NAMED).stdout == of_lab
        assert changes_of(deploy(machine, UNDO, say, "half a minute").report) == []

        deploy(machine, GPU_HOST, say, "about three minutes, reboot included")
        booted, drivers = machine.boot_id(), machine.ssh(DRIVERS).stdout
        deploy(machine, NODE, say, "about three minutes")
        assert (machine.boot_id(), machine.ssh(DRIVERS).stdout) == (booted, drivers), "the host's part was done"
        wait_for_node(machine)
        kept = treasure(machine)
        assert changes_of(deploy(machine, NODE, say, "a minute").report) == []
        assert changes_of(deploy(machine, GPU_HOST, say, "half a minute").report) == []
        assert treasure(machine) == kept
        assert status(machine)["deployed_as"] == "node"

        machine.ssh("systemctl stop gevulot-node && rm /etc/containers/systemd/gevulot-node.container && "
                    "systemctl daemon-reload")  # fmt: skip
        broken = status(machine)
        assert (broken["severity"], broken["deployed_as"]) == ("wrong", "node"), broken["reasons"]
        deploy(machine, UNDO, say, "about three minutes, reboot included")
        assert_undone(machine, before)


def test_a_host_of_an_earlier_version_moves_on_without_a_reboot_and_goes_back_as_it_is(
    registry: Path, say: Progress
) -> None:
    with Machine.start("two-boards", registry=registry, progress=say) as machine:
        before = bare_state(machine, say)
        deploy(machine, NODE, say, "about six minutes, reboot included")
        wait_for_node(machine)
        kept = treasure(machine)
        machine.ssh("echo 04aa >/var/lib/gpu-host/access-elsewhere")
        with step(say, "making a host of an earlier version of it", takes="about a minute"):
            machine.ssh(EARLIER, timeout=600)
        machine.reboot()
        wait_for_node(machine)
        booted, earlier = machine.boot_id(), host_state(machine)

        with step(say, "planning on a host of an earlier version", takes="a minute"):
            plan = pyinfra([machine], "--dry", "--json")
        assert plan.code == 0, plan.output
        assert host_state(machine) == earlier
        moved = deploy(machine, NODE, say, "two minutes")
        assert set(changes_of(moved.report)) <= set(plan_of(plan.report))
        assert machine.boot_id() == booted, "it needs no reboot"
        assert treasure(machine) == kept
        former = " ".join((manifest.FORMER_STATE_DIRECTORY, *manifest.FORMER_NAMES.values()))
        assert machine.ssh(f"ls -d {former} 2>/dev/null; true").stdout == ""
        assert machine.ssh(f"cat {manifest.DEPLOYED} /var/lib/gpu-host/access-elsewhere").stdout == "node\n04aa\n"
        assert changes_of(deploy(machine, NODE, say, "a minute").report) == []
        assert changes_of(deploy(machine, GPU_HOST, say, "half a minute").report) == []
        machine.reboot()
        wait_for_node(machine)
        assert changes_of(deploy(machine, NODE, say, "a minute").report) == []

        machine.ssh(EARLIER, timeout=600)
        deploy(machine, UNDO, say, "about three minutes, reboot included")
        assert_undone(machine, before)
        machine.ssh(f"test -s {manifest.FORMER_STATE_DIRECTORY}/before.json && ! test -e {manifest.STATE_DIRECTORY}")
