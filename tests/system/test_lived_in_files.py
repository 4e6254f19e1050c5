"""Hosts with files of others where a deploy writes: they hold what they held, while deployed and after the undo."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.history import HISTORIES, assert_history
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import changes_of, pyinfra
from tests.system.story import HOST, host_state, wait_for_node
from tests.system.test_undo import STAYS, differing

pytestmark = pytest.mark.worlds
FILES = ("files", "entries")
# What the packages that a deploy installs have there.
PACKAGES = ("/etc/containers", "/etc/cni", "/etc/nftables.conf")


@pytest.mark.parametrize(
    "history", ["own-vfio", "nvidia-conf-of-a-package", "nvidia-conf-is-a-link", "links-in-our-place"]
)
def test_files_of_others_hold_what_they_held_and_an_undo_restores_the_host(
    history: str, registry: Path, say: Progress
) -> None:
    described = HISTORIES[history]
    with Machine.start(
        "two-boards", preparation=described.preparation, warm=False, registry=registry, progress=say
    ) as machine:
        machine.wait_running()
        assert_history(machine, described)
        machine.ssh("update-grub 2>/dev/null; update-initramfs -u -k all", timeout=600)
        before = host_state(machine)
        with step(say, f"{history}: deploying", takes="about six minutes"):
            first = pyinfra([machine], "-y")
        assert first.code == 0, first.output[-5000:]
        wait_for_node(machine)
        assert_history(machine, described)
        blacklist = machine.ssh("! test -L {0} && cat {0}".format("/etc/modprobe.d/gpu-host-boards.conf")).stdout
        assert "blacklist bochs\n" in blacklist
        assert not [name for name in ("snd_", "xhci_", "virtio_") if f"blacklist {name}" in blacklist]
        with step(say, f"{history}: deploying again", takes="a minute"):
            second = pyinfra([machine], "-y", "--json")
        assert second.code == 0, second.output[-5000:]
        assert changes_of(second.report) == []
        with step(say, f"{history}: undoing", takes="about four minutes"):
            undone = pyinfra([machine], "-y", deploy="deploys/undo.py")
        assert undone.code == 0, undone.output[-5000:]
        assert_history(machine, described)
        after = host_state(machine)
        assert {name: after[name] for name in HOST if name not in FILES} == {
            name: before[name] for name in HOST if name not in FILES
        }
        for name in FILES:
            left = differing(after[name], before[name]) - STAYS
            assert {path for path in left if not path.startswith(PACKAGES)} == set()


def test_what_stands_in_the_way_is_refused_before_anything_changes(say: Progress) -> None:
    with Machine.start("no-boards", progress=say) as machine:
        machine.ssh(
            "mkdir -p /etc/gevulot/node.env /etc/containers/systemd; touch /usr/local/sbin/pcibind;"
            "chattr +i /usr/local/sbin/pcibind; mount -t tmpfs none /etc/containers/systemd"
        )
        before = host_state(machine)
        plan = pyinfra([machine], "--dry")
        assert plan.code != 0
        for sentence in (
            "/etc/gevulot/node.env is a directory",
            "/usr/local/sbin/pcibind cannot be changed, even by root",
            "/etc/containers/systemd is on /etc/containers/systemd, which is mounted only after",
        ):
            assert sentence in plan.output, plan.output[-3000:]
        assert "Traceback" not in plan.output
        assert host_state(machine) == before
