"""Hosts on whose kernel line somebody was before us: the deploy converges with one reboot, or refuses before any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.history import HISTORIES
from tests.lab.machine import Machine
from tests.lab.platform import PLATFORMS
from tests.lab.progress import Progress
from tests.lab.run import changes_of, pyinfra
from tests.system.test_rolling_reboot import BREAK, BROKEN

pytestmark = pytest.mark.worlds

LATE = "/etc/default/grub.d/zzz-late.cfg"


def lived_in(history: str, registry: Path, say: Progress, platform: str = "debian13") -> Machine:
    return Machine.start(
        "one-board",
        platform=PLATFORMS[platform],
        preparation=HISTORIES[history].preparation,
        registry=registry,
        warm=False,
        progress=say,
    )


def boots(machine: Machine) -> int:
    return len(json.loads(machine.ssh("journalctl --list-boots --no-pager -o json").stdout))


def test_a_drop_in_that_assigns_costs_one_reboot_and_stays_as_it_is(registry: Path, say: Progress) -> None:
    with lived_in("grub-drop-in-assigns", registry, say) as machine:
        machine.wait_running()
        before, other = boots(machine), machine.ssh("cat /etc/default/grub.d/hetzner.cfg").stdout
        run = pyinfra([machine], "-y")
        assert run.code == 0, run.output[-5000:]
        assert boots(machine) == before + 1
        line = machine.ssh("cat /proc/cmdline").stdout.split()
        assert {"consoleblank=0", "intel_iommu=on", "iommu=pt"} <= set(line)
        again = pyinfra([machine], "-y", "--json")
        assert changes_of(again.report) == []
        assert boots(machine) == before + 1
        assert machine.ssh("cat /etc/default/grub.d/hetzner.cfg").stdout == other


@pytest.mark.parametrize(
    ("history", "platform", "argument"),
    [("no-interrupt-remapping", "debian13", "intremap=off"), ("amd-iommu-off", "debian13-amd", "amd_iommu=off")],
)
def test_an_argument_that_defeats_the_node_is_refused_in_the_plan_with_its_place(
    history: str, platform: str, argument: str, registry: Path, say: Progress
) -> None:
    with lived_in(history, registry, say, platform) as machine:
        machine.wait_running()
        before = machine.boot_id()
        plan = pyinfra([machine], "--dry")
        assert plan.code != 0
        assert f"the kernel's argument {argument} defeats the node" in plan.output
        assert "/etc/default/grub.d/local.cfg:1" in plan.output
        assert pyinfra([machine], "-y").code != 0
        assert machine.boot_id() == before
        assert machine.ssh("ls /var/lib/gpu-host", check=False).returncode != 0, "something was changed"


def test_what_defeats_ours_after_ours_is_refused_and_one_change_of_it_lets_the_host_through(
    registry: Path, say: Progress
) -> None:
    with lived_in("grub-drop-in-assigns", registry, say) as machine:
        machine.wait_running()
        before = boots(machine)
        machine.ssh(f"printf 'GRUB_CMDLINE_LINUX=quiet\\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\\n' >{LATE}")
        plan = pyinfra([machine], "--dry")
        assert plan.code != 0
        assert f"{LATE}:1 and {LATE}:2 give their variables a new value" in plan.output
        assert boots(machine) == before
        # One variable alone takes nothing from us.
        machine.ssh(f"sed -i 1d {LATE}")
        run = pyinfra([machine], "-y")
        assert run.code == 0, run.output[-5000:]
        assert boots(machine) == before + 1
        assert changes_of(pyinfra([machine], "-y", "--json").report) == []


def test_the_drop_in_of_an_earlier_deploy_makes_way_for_the_new_one(registry: Path, say: Progress) -> None:
    old = "/etc/default/grub.d/90-gevulot.cfg"
    with Machine.start("one-board", registry=registry, progress=say) as machine:
        assert pyinfra([machine], "-y").code == 0
        machine.ssh(
            f"echo '# IOMMU for PCI passthrough. The kernel takes the last of each argument.' >{old} && "
            f"grep '^GRUB_CMDLINE_LINUX_DEFAULT' /etc/default/grub.d/zz-gpu-host.cfg >>{old} && "
            "rm /etc/default/grub.d/zz-gpu-host.cfg && update-grub",
            timeout=300,
        )
        before = boots(machine)
        run = pyinfra([machine], "-y")
        assert run.code == 0, run.output[-5000:]
        assert machine.ssh(f"ls {old}", check=False).returncode != 0
        assert boots(machine) == before
        assert changes_of(pyinfra([machine], "-y", "--json").report) == []


def test_a_reboot_that_brought_nothing_is_not_repeated_until_something_was_changed(
    registry: Path, say: Progress
) -> None:
    with Machine.start("one-board", registry=registry, progress=say) as machine:
        machine.ssh(f"cat >/etc/systemd/system/{BROKEN} <<'END'\n{BREAK}END\nsystemctl enable --now {BROKEN}")
        before = boots(machine)
        run = pyinfra([machine], "-y")
        assert run.code != 0
        assert "the reboot failed: the kernel does not run with intel_iommu=on iommu=pt" in run.output
        assert boots(machine) == before + 1
        for arguments in (("--dry",), ("-y",)):
            run = pyinfra([machine], *arguments)
            assert run.code != 0
            assert "was for this and did not help" in run.output
        assert boots(machine) == before + 1
        machine.ssh(f"systemctl disable --now {BROKEN}; update-grub", timeout=300)
        run = pyinfra([machine], "-y")
        assert run.code == 0, run.output[-5000:]
        assert boots(machine) == before + 2
        assert "reboot.json" not in machine.ssh("ls /var/lib/gpu-host").stdout
