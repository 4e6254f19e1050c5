"""A deployed host goes back to what it was, by one command, and keeps the node's data. The tests are in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, plan_of, pyinfra
from tests.system.test_node import treasure, wait_for_node

RELEASE = "deploys/release.py"
# A file of the guide's that the host has already, as one that was set up by hand.
BY_HAND = "/etc/modprobe.d/vfio.conf"
KEY = "sha256sum </var/lib/gevulot/key/node.key"

# Every question is about the host's boot and boards. The kernel's path is not compared: an update changes it.
STATE = {
    "drivers": "for each in /sys/bus/pci/devices/*; do driver=$(readlink $each/driver); "
    "echo $(readlink -f $each) driver=${driver##*/} override=$(cat $each/driver_override); done",
    "kernel command line": "sed 's/BOOT_IMAGE=[^ ]* //' /proc/cmdline",
    "boot menu": "sha256sum /boot/grub/grub.cfg",
    "initramfs": "lsinitramfs /boot/initrd.img-$(uname -r) | sort",
    "enabled units": "systemctl list-unit-files --state=enabled --no-legend --no-pager",
    "files": "find /etc /usr/local -xdev -type f -exec sha256sum {} + | sort -k2",
    "entries": r"find /etc /usr/local -xdev -printf '%p %y %m %u:%g %l\n' | sort",
    "boot": "ls -1 /boot",
    "pcibind": "ls -d /run/pcibind /var/lib/pcibind 2>/dev/null; true",
    "system": "systemctl is-system-running",
}
# What stays on purpose: the account, and the fingerprint without which a lost volume would mean a new identity.
STAYS = {
    *(f"/etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("", "-")),
    *("/etc/subuid", "/etc/subuid-", "/etc/subgid", "/etc/subgid-", "/etc/.pwd.lock"),
    *("/etc/gevulot", "/etc/gevulot/node-key.sha256", "/etc/gevulot/node-key.public"),
}


@dataclass(frozen=True, slots=True)
class Story:
    """What was done to the machine before the first test looks at it."""

    machine: Machine
    bare: dict[str, str]
    treasure: str
    key: str
    plan: Run
    first: Run
    released: dict[str, str]
    boots: int


def state(machine: Machine) -> dict[str, str]:
    return {name: machine.ssh(command, check=name != "system").stdout for name, command in STATE.items()}


def differing(one: str, other: str) -> set[str]:
    """The paths of those lines that only one of two lists has."""
    lines = set(one.splitlines()) ^ set(other.splitlines())
    return {next(word for word in line.split() if word.startswith("/")) for line in lines}


@pytest.fixture(scope="module")
def story(registry: Path, say: Progress) -> Iterator[Story]:
    with Machine.start("two-boards", registry=registry, progress=say) as machine:
        machine.ssh(f"echo '# set up by hand' >{BY_HAND}; chmod 640 {BY_HAND}")
        # The image's own were made while it was built, not by the host; both deploys have the host make them.
        with step(say, "having the bare host make its boot files", takes="about a minute"):
            machine.ssh("update-grub 2>/dev/null; update-initramfs -u -k all", timeout=600)
        bare = state(machine)
        with step(say, "deploying, reboot included", takes="about four minutes"):
            deployed = pyinfra([machine], "-y")
        assert deployed.code == 0, deployed.output[-3000:]
        machine.ssh("podman exec gevulot-node /gevulot peer $(cat /etc/gevulot/node-key.public) whitelist")
        kept, key = treasure(machine), machine.ssh(KEY).stdout
        with step(say, "planning the release", takes="half a minute"):
            plan = pyinfra([machine], "--dry", "--json", deploy=RELEASE)
        with step(say, "releasing, reboot included", takes="about three minutes"):
            first = pyinfra([machine], "-y", "--json", deploy=RELEASE)
        boots = len(machine.ssh("journalctl --list-boots --no-pager -q").stdout.splitlines())
        yield Story(machine, bare, kept, key, plan, first, state(machine), boots)


@pytest.fixture(scope="module")
def machine(story: Story) -> Machine:
    return story.machine


def test_a_plan_names_everything_that_is_then_executed(story: Story) -> None:
    assert story.plan.code == 0, story.plan.output
    executed = set(changes_of(story.first.report))
    assert len(executed) > 20
    assert executed <= set(plan_of(story.plan.report))


def test_the_release_succeeds_reboots_once_and_its_table_has_nothing_wrong(story: Story) -> None:
    assert story.first.code == 0, story.first.output[-5000:]
    assert " right, 0 wrong" in story.first.output
    assert story.boots == 3


@pytest.mark.parametrize("what", [name for name in STATE if name not in ("files", "entries")])
def test_the_host_is_what_it_was(story: Story, what: str) -> None:
    assert story.released[what] == story.bare[what]


@pytest.mark.parametrize("what", ["files", "entries"])
def test_the_files_are_what_they_were_but_for_what_stays_on_purpose(story: Story, what: str) -> None:
    assert differing(story.released[what], story.bare[what]) - STAYS == set()


def test_nothing_of_the_node_runs_or_would_start(machine: Machine) -> None:
    known = machine.ssh("systemctl list-units --all --no-legend 'gevulot*' 'pcibind*'; podman ps -aq", check=False)
    assert known.stdout == ""


def test_the_key_the_secrets_the_rows_and_the_images_are_still_there(story: Story, machine: Machine) -> None:
    assert machine.ssh(KEY).stdout == story.key
    assert len(machine.ssh("podman secret ls --quiet").stdout.splitlines()) == 3
    assert len(machine.ssh("podman image ls --quiet").stdout.splitlines()) == 2
    machine.ssh("test -s /var/lib/gevulot/postgres/PG_VERSION && test -s /var/lib/gevulot-deploy/before.json")


def test_it_is_said_what_stays(story: Story) -> None:
    assert "What stays on" in story.first.output
    assert "A lost key is lost for good" in story.first.output


def test_a_second_release_changes_nothing(machine: Machine, say: Progress) -> None:
    before = state(machine)
    with step(say, "releasing a second time", takes="half a minute"):
        second = pyinfra([machine], "-y", "--json", deploy=RELEASE)
    assert second.code == 0, second.output[-3000:]
    assert changes_of(second.report) == []
    assert " right, 0 wrong" in second.output
    assert state(machine) == before


@pytest.mark.soak
def test_a_deploy_after_the_release_gives_the_same_node(story: Story, machine: Machine, say: Progress) -> None:
    with step(say, "deploying again, reboot included", takes="about four minutes"):
        again = pyinfra([machine], "-y")
    assert again.code == 0, again.output[-3000:]
    wait_for_node(machine)
    assert treasure(machine) == story.treasure
