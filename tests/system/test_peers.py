"""Only named networks reach the peer-to-peer ports of a deployed node, and only the node its QMP ports, whatever
happens to the host's nftables.

The tests build on each other, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from facts.firewall import NodeFirewall
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, plan_of, pyinfra
from tests.system.story import deployed, wait_for_node

PEERS = ("198.51.100.0/24", "2001:db8:1::/64")
DATA = (
    *("--data", "gevulot_p2p_listen=[::]:9999"),
    *("--data", f'gevulot_peers=["{PEERS[0]}", "{PEERS[1]}"]'),
)
PORTS = (9999, 9995)
CONTROL = 7777
"""A port of the host's that nothing restricts: it shows that an address is not simply cut off."""

# An outsider behind a cable, with an address inside and one outside of the networks in either family.
CABLE = f"""set -e
ip netns add outside
ip link add near type veth peer name far netns outside
for net in 198.51.100 203.0.113; do
  ip address add $net.1/24 dev near; ip -n outside address add $net.2/24 dev far; done
for net in 2001:db8:1: 2001:db8:2:; do
  ip address add $net:1/64 dev near nodad; ip -n outside address add $net:2/64 dev far nodad; done
ip link set near up; ip -n outside link set far up
systemd-run --quiet --unit=control /usr/bin/python3 -m http.server {CONTROL} --bind :: --directory /mnt
"""
CONNECT = """
import socket, sys, threading
NAMES = {"198.51.100.": "peer4", "203.0.113.": "stranger4", "2001:db8:1::": "peer6", "2001:db8:2::": "stranger6"}
def attempt(net, port):
    try:
        socket.create_connection((net + "1", port), 10, source_address=(net + "2", 0)).close()
    except OSError:
        return
    print(NAMES[net], port)
tasks = [threading.Thread(target=attempt, args=(net, int(port))) for net in NAMES for port in sys.argv[1:]]
[task.start() for task in tasks]
[task.join() for task in tasks]
"""
QMP = 1090
"""A port on which the node's container listens, as a program's QEMU does."""
SERVICES = (8888, 9944, 9995, 9999, 5432)
# Prints which of the ports accept a connection on loopback.
LOCAL = """
import socket, sys
for port in sys.argv[1:]:
    try:
        socket.create_connection(("127.0.0.1", int(port)), 30).close()
    except OSError:
        continue
    print(port)
"""
PLACES = {
    "root": "python3 -",
    "another user": "runuser -u nobody -- python3 -",
    "the node": "podman exec -i gevulot-node python3 -",
}
NAMED = {f"{name} {port}" for name in ("peer4", "peer6") for port in PORTS}
UNITS = ("gevulot-firewall.service", "gevulot-node.service")


@dataclass(frozen=True, slots=True)
class Guarded:
    """A machine that was deployed with networks of peers, and that run."""

    machine: Machine
    run: Run


@pytest.fixture(scope="module")
def guarded(registry: Path, say: Progress) -> Iterator[Guarded]:
    machine, _ = deployed(registry, say)
    with machine:
        machine.ssh("! nft list table inet gevulot | grep -w peers4")
        machine.ssh(CABLE)
        with step(say, "deploying with networks of peers", takes="about two minutes"):
            run = pyinfra([machine], "-y", "--json", *DATA)
        assert run.code == 0, run.output[-5000:]
        wait_for_node(machine)
        yield Guarded(machine, run)


@pytest.fixture
def machine(guarded: Guarded) -> Machine:
    return guarded.machine


def reached(machine: Machine, *ports: int) -> set[str]:
    """Which ports the outsider reaches, each with the address that it comes from."""
    words = " ".join(map(str, ports))
    return set(machine.ssh(f"ip netns exec outside python3 - {words}", stdin=CONNECT).stdout.splitlines())


def listen_in_container(machine: Machine) -> None:
    machine.ssh(
        f"podman exec -d gevulot-node python3 -m http.server --bind 127.0.0.1 {QMP} --directory /mnt && "
        f"n=0; until grep -q ':{QMP:04X} .* 0A ' /proc/net/tcp; do "
        "n=$((n+1)); [ $n -lt 60 ] || exit 1; sleep 1; done",
        timeout=180,
    )


def reached_locally(machine: Machine) -> dict[str, set[int]]:
    """Which of the node's ports its host's users, and its own container, reach on loopback."""
    words = " ".join(map(str, (QMP, *SERVICES)))
    lines = {name: machine.ssh(f"{command} {words}", stdin=LOCAL).stdout for name, command in PLACES.items()}
    return {name: set(map(int, text.split())) for name, text in lines.items()}


GUARDED = {name: set(SERVICES) | ({QMP} if name == "the node" else set()) for name in PLACES}


def invocations(machine: Machine) -> list[str]:
    """What tells this run of each unit from its other runs."""
    return [machine.ssh(f"systemctl show -p InvocationID --value {unit}").stdout.strip() for unit in UNITS]


def wait_for_new(machine: Machine, unit: int, before: str) -> None:
    """Wait for another run of the unit than that one."""
    machine.ssh(
        f"n=0; until systemctl -q is-active {UNITS[unit]} && "
        f'[ "$(systemctl show -p InvocationID --value {UNITS[unit]})" != {before} ]; do '
        f"n=$((n+1)); [ $n -lt 120 ] || {{ systemctl status --no-pager {UNITS[unit]}; exit 1; }}; sleep 2; done",
        timeout=900,
    )


def test_only_the_named_networks_reach_the_ports_in_both_families(machine: Machine) -> None:
    machine.ssh(
        f"n=0; until grep -q ':{CONTROL:04X} .* 0A ' /proc/net/tcp6; do "
        "n=$((n+1)); [ $n -lt 60 ] || exit 1; sleep 1; done"
    )
    assert reached(machine, CONTROL) == {
        f"{name}{family} {CONTROL}" for name in ("peer", "stranger") for family in "46"
    }
    assert reached(machine, *PORTS) == NAMED


def test_loopback_is_not_cut(machine: Machine) -> None:
    script = 'import socket\nfor p in (9999, 9995): socket.create_connection(("127.0.0.1", p), 30)'
    machine.ssh("python3 -", stdin=script)


def test_the_table_says_who_may_reach_the_ports(guarded: Guarded) -> None:
    row = rf"ok +who may reach 9999 and 9995 +{re.escape(', '.join(PEERS))}$"
    assert re.search(row, guarded.run.output, re.M), guarded.run.output[-3000:]
    assert re.search(r"ok +who may reach the programs' QMP +the node only$", guarded.run.output, re.M)
    assert " passed, 0 failed" in guarded.run.output


def test_only_the_node_reaches_its_qmp_ports_and_others_its_services(machine: Machine) -> None:
    listen_in_container(machine)
    assert reached_locally(machine) == GUARDED


@pytest.mark.parametrize(
    "command", [pytest.param("systemctl restart", marks=pytest.mark.soak), "systemctl kill --signal=SIGKILL"]
)
def test_the_qmp_ports_are_the_nodes_alone_after(machine: Machine, command: str) -> None:
    before = invocations(machine)[1]
    machine.ssh(f"{command} gevulot-node.service", timeout=300)
    wait_for_new(machine, 1, before)
    wait_for_node(machine)
    listen_in_container(machine)
    assert reached_locally(machine) == GUARDED


def test_a_node_whose_rules_cannot_be_renewed_does_not_start(machine: Machine) -> None:
    machine.ssh("cp -p /etc/gevulot/qmp.nft /root/ && echo nonsense >>/etc/gevulot/qmp.nft")
    machine.ssh("systemctl restart gevulot-node.service", check=False, timeout=300)
    assert machine.ssh("systemctl is-active gevulot-node.service", check=False).stdout.strip() != "active"
    assert reached(machine, *PORTS) == set()
    machine.ssh("cp -p /root/qmp.nft /etc/gevulot/ && systemctl start gevulot-node.service", timeout=600)
    wait_for_node(machine)
    assert reached(machine, *PORTS) == NAMED


def test_a_table_of_that_name_which_a_saved_ruleset_left_is_replaced(machine: Machine) -> None:
    machine.ssh("systemctl stop gevulot-firewall.service", timeout=300)
    machine.ssh("nft add table inet gevulot && systemctl start gevulot-node.service", timeout=600)
    wait_for_node(machine)
    assert reached(machine, *PORTS) == NAMED
    machine.ssh("journalctl -u gevulot-firewall.service -o cat | grep 'There is a table inet gevulot already'")


def test_a_saved_ruleset_with_the_nodes_table_is_named(machine: Machine) -> None:
    machine.ssh("cp -p /etc/nftables.conf /root/ && nft list ruleset >/etc/nftables.conf")
    firewall = NodeFirewall().process(machine.ssh(NodeFirewall().command("gevulot")).stdout.splitlines())
    machine.ssh("cp -p /root/nftables.conf /etc/")
    assert firewall.saved == ("/etc/nftables.conf",)


@pytest.mark.soak
def test_a_second_run_changes_nothing(machine: Machine, say: Progress) -> None:
    with step(say, "deploying a second time", takes="about a minute"):
        run = pyinfra([machine], "-y", "--json", *DATA)
    assert run.code == 0, run.output[-3000:]
    assert changes_of(run.report) == []


@pytest.mark.parametrize(
    "command",
    [
        "nft flush ruleset",
        pytest.param("nft delete table inet gevulot", marks=pytest.mark.soak),
        "systemctl restart nftables.service",
        pytest.param("systemctl stop nftables.service", marks=pytest.mark.soak),
    ],
)
def test_the_ports_stay_closed_to_strangers_after(machine: Machine, command: str) -> None:
    before = invocations(machine)
    machine.ssh(command, check=False)
    assert reached(machine, *PORTS) == NAMED
    assert invocations(machine) == before


@pytest.mark.soak
@pytest.mark.parametrize(
    ("package", "start", "reload", "end"),
    [
        (
            "firewalld",
            "systemctl start firewalld && firewall-cmd --zone=trusted --change-interface=near && "
            "firewall-cmd --permanent --zone=trusted --add-interface=near",
            "firewall-cmd --reload",
            "systemctl disable --now firewalld",
        ),
        ("ufw", "ufw allow ssh && ufw allow in on near && ufw --force enable", "ufw reload", "ufw disable"),
    ],
    ids=["firewalld", "ufw"],
)
def test_another_firewall_that_lets_everybody_in_changes_nothing(
    machine: Machine, say: Progress, package: str, start: str, reload: str, end: str
) -> None:
    listen_in_container(machine)
    before = invocations(machine)
    with step(say, f"installing {package}, and reloading it", takes="two minutes"):
        machine.ssh(f"DEBIAN_FRONTEND=noninteractive apt-get install -y {package}", timeout=900)
        try:
            for command in (start, reload, "nft flush ruleset", f"{reload} || true"):
                machine.ssh(command, timeout=300)
                assert reached(machine, *PORTS) == NAMED, command
                assert reached_locally(machine) == GUARDED, command
        finally:
            machine.ssh(end, check=False, timeout=300)
    assert invocations(machine) == before
    assert reached(machine, *PORTS) == NAMED


def test_a_holder_that_is_killed_takes_the_node_down_and_both_come_back(machine: Machine, say: Progress) -> None:
    before = invocations(machine)
    with step(say, "killing the program that holds the table", takes="up to a minute"):
        machine.ssh("systemctl kill --signal=SIGKILL gevulot-firewall.service")
        # Only new invocations count: right after the kill, both may still seem to be active.
        machine.ssh(
            f"n=0; until systemctl -q is-active {UNITS[0]} && systemctl -q is-active {UNITS[1]} && "
            f'[ "$(systemctl show -p InvocationID --value {UNITS[0]})" != {before[0]} ] && '
            f'[ "$(systemctl show -p InvocationID --value {UNITS[1]})" != {before[1]} ]; do '
            f"n=$((n+1)); [ $n -lt 120 ] || {{ systemctl status --no-pager {' '.join(UNITS)}; exit 1; }}; "
            "sleep 2; done",
            timeout=900,
        )
    wait_for_node(machine)
    assert reached(machine, *PORTS) == NAMED


def test_a_holder_that_is_stopped_stops_the_node(machine: Machine) -> None:
    machine.ssh("systemctl stop gevulot-firewall.service", timeout=300)
    assert machine.ssh("systemctl is-active gevulot-node.service", check=False).stdout.strip() != "active"
    assert reached(machine, *PORTS) == set()
    machine.ssh("systemctl start gevulot-node.service", timeout=300)
    wait_for_node(machine)
    assert reached(machine, *PORTS) == NAMED


@pytest.mark.soak
def test_a_run_without_the_setting_takes_it_back(machine: Machine, say: Progress) -> None:
    with step(say, "planning without networks of peers", takes="half a minute"):
        plan = pyinfra([machine], "--dry", "--json")
    with step(say, "deploying without networks of peers", takes="about two minutes"):
        run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-3000:]
    assert set(changes_of(run.report)) <= set(plan_of(plan.report))
    assert re.search(r"ok +who may reach 9999 and 9995 +loopback only$", run.output, re.M)
    wait_for_node(machine)
    assert reached(machine, *PORTS) == set()
    assert "peers" not in machine.ssh("nft list table inet gevulot").stdout
    listen_in_container(machine)
    assert reached_locally(machine) == GUARDED
    with step(say, "planning once more", takes="half a minute"):
        assert plan_of(pyinfra([machine], "--dry", "--json").report) == []
