"""A deployed host goes back to what it was, by one command, and keeps the node's data. The tests are in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, plan_of, pyinfra
from tests.system.story import HOST, STRANGER, deployed, forget_recorder, host_state, treasure, wait_for_node

UNDO = "deploys/undo.py"
KEY = "sha256sum </var/lib/gevulot/key/node.key"

# What stays on purpose: the account, the fingerprint without which a lost volume would mean a new identity, and what
# an installed package has in /etc.
STAYS = {
    *(f"/etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("", "-")),
    *("/etc/subuid", "/etc/subuid-", "/etc/subgid", "/etc/subgid-", "/etc/.pwd.lock"),
    *("/etc/nftables.conf", "/etc/ld.so.cache"),
    *("/etc/gevulot", "/etc/gevulot/node-key.sha256", "/etc/gevulot/node-key.public"),
    # A machine that starts from a stage gets a name of its own.
    *("/etc/hostname", "/etc/hosts"),
}


@dataclass(frozen=True, slots=True)
class Undone:
    """What was done to the machine before the first test looks at it."""

    machine: Machine
    bare: dict[str, str]
    treasure: str
    key: str
    plan: Run
    first: Run
    after: dict[str, str]
    boots: int


def differing(one: str, other: str) -> set[str]:
    """The paths of those lines that only one of two lists has."""
    lines = set(one.splitlines()) ^ set(other.splitlines())
    return {next(word for word in line.split() if word.startswith("/")) for line in lines}


@pytest.fixture(scope="module")
def undone(registry: Path, say: Progress) -> Iterator[Undone]:
    machine, story = deployed(registry, say)
    with machine:
        forget_recorder(machine)
        machine.ssh(f"podman exec gevulot-node /gevulot peer {STRANGER} whitelist")
        kept, key = treasure(machine), machine.ssh(KEY).stdout
        with step(say, "planning the undo", takes="half a minute"):
            plan = pyinfra([machine], "--dry", "--json", deploy=UNDO)
        with step(say, "undoing, reboot included", takes="about three minutes"):
            first = pyinfra([machine], "-y", "--json", deploy=UNDO)
        boots = len(machine.ssh("journalctl --list-boots --no-pager -q").stdout.splitlines())
        yield Undone(machine, story.host, kept, key, plan, first, host_state(machine), boots)


@pytest.fixture(scope="module")
def machine(undone: Undone) -> Machine:
    return undone.machine


def test_a_plan_names_everything_that_is_then_executed(undone: Undone) -> None:
    assert undone.plan.code == 0, undone.plan.output
    executed = set(changes_of(undone.first.report))
    assert len(executed) > 20
    assert executed <= set(plan_of(undone.plan.report))


def test_the_undo_succeeds_reboots_once_and_no_row_of_its_table_fails(undone: Undone) -> None:
    assert undone.first.code == 0, undone.first.output[-5000:]
    assert " passed, 0 failed" in undone.first.output
    assert undone.boots == 3


@pytest.mark.parametrize("what", [name for name in HOST if name not in ("files", "entries")])
def test_the_host_is_what_it_was(undone: Undone, what: str) -> None:
    assert undone.after[what] == undone.bare[what]


@pytest.mark.parametrize("what", ["files", "entries"])
def test_the_files_are_what_they_were_but_for_what_stays_on_purpose(undone: Undone, what: str) -> None:
    assert differing(undone.after[what], undone.bare[what]) - STAYS == set()


def test_nothing_of_the_node_runs_or_would_start(machine: Machine) -> None:
    known = machine.ssh("systemctl list-units --all --no-legend 'gevulot*' 'pcibind*'; podman ps -aq", check=False)
    assert known.stdout == ""


def test_the_key_the_secrets_the_rows_and_the_images_are_still_there(undone: Undone, machine: Machine) -> None:
    assert machine.ssh(KEY).stdout == undone.key
    assert len(machine.ssh("podman secret ls --quiet").stdout.splitlines()) == 2
    assert len(machine.ssh("podman image ls --quiet").stdout.splitlines()) == 2
    machine.ssh("test -s /var/lib/gevulot/postgres/PG_VERSION && test -s /var/lib/gpu-host/before.json")


def test_it_lists_what_stays(undone: Undone) -> None:
    assert "What stays on" in undone.first.output
    assert "Only a backup can restore a lost key" in undone.first.output


def test_a_second_undo_changes_nothing(machine: Machine, say: Progress) -> None:
    before = host_state(machine)
    with step(say, "undoing a second time", takes="half a minute"):
        second = pyinfra([machine], "-y", "--json", deploy=UNDO)
    assert second.code == 0, second.output[-3000:]
    assert changes_of(second.report) == []
    assert " passed, 0 failed" in second.output
    assert host_state(machine) == before


@pytest.mark.soak
def test_a_deploy_after_the_undo_gives_the_same_node(undone: Undone, machine: Machine, say: Progress) -> None:
    with step(say, "deploying again, reboot included", takes="about four minutes"):
        again = pyinfra([machine], "-y")
    assert again.code == 0, again.output[-3000:]
    wait_for_node(machine)
    assert treasure(machine) == undone.treasure
