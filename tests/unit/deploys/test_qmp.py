"""What the table of nftables in the kernel means for the QMP ports of the programs' virtual machines."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploys import settings
from deploys.assessment import checks, qmp
from facts.firewall import NodeFirewall, parse
from facts.unit import Unit
from tests.unit.deploys.recorded import guard

SETTINGS = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one"})
RUNS = Unit("gevulot-node.service", "loaded", "active", "running", "success", False, "generated", 1)
STOPPED = Unit("gevulot-node.service", "loaded", "failed", "failed", "exit-code", False, "generated", 1)


def test_only_the_node_reaches_them_when_the_rules_are_those_of_its_present_start() -> None:
    row = qmp.check(parse(guard()), SETTINGS, RUNS)
    assert (row.name, row.passed, row.actual) == ("who may reach the programs' QMP", True, "the node only")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (["end"], "every local user: the nftables table inet gevulot is missing"),
        (guard()[1:], "every local user: the nftables table inet gevulot has no rules for it"),
        ([guard()[0], "end"], "every local user: the nftables table inet gevulot has no rules for it"),
        ([each.replace("prerouting", "input") for each in guard()], "has no rules for it"),
        ([each.replace('"reject"', '"accept"') for each in guard()], "has no rules for it"),
        # As nft prints a cgroup that is gone.
        (guard("1488"), "of an earlier start of the node"),
        (guard('"1488"'), "of an earlier start of the node"),
        (guard('"system.slice/ssh.service"'), "of an earlier start of the node"),
        (guard(services="1028,8888,9944,9995,9999"), "exempts other ports than those of the node's services"),
    ],
)
def test_a_table_that_does_not_keep_others_away_is_wrong(answer: list[str], reason: str) -> None:
    row = qmp.check(parse(answer), SETTINGS, RUNS)
    assert row.passed is False
    assert reason in row.actual


def test_a_table_that_cannot_be_read_is_wrong() -> None:
    assert qmp.check(None, SETTINGS, RUNS).passed is False


@pytest.mark.parametrize("node", [None, STOPPED])
def test_nobody_reaches_the_ports_of_a_node_that_does_not_run(node: Unit | None) -> None:
    row = qmp.check(parse(["end"]), SETTINGS, node)
    assert (row.passed, row.actual) == (None, "nobody: the node does not run")


def test_the_rules_for_the_qmp_ports_are_not_taken_for_networks_of_peers() -> None:
    row = checks.peers(parse(guard()), SETTINGS)
    assert (row.passed, row.actual) == (True, "loopback only")
    keys = {
        "gevulot_psk_passphrase": "the own one",
        "gevulot_p2p_listen": "0.0.0.0:9999",
        "gevulot_peers": ("10.0.0.0/8",),
    }
    row = checks.peers(parse(guard()), settings.read("gpu1", keys))
    assert (row.passed, row.actual) == (False, "everybody: the nftables table inet gevulot does not restrict them")


def test_a_saved_ruleset_that_the_next_boot_would_refuse_is_named() -> None:
    assert checks.saved_rules(parse(guard())) == []
    (row,) = checks.saved_rules(parse(["saved /etc/nftables.conf", *guard()]))
    assert row.passed is False
    assert row.actual.startswith("/etc/nftables.conf has the table inet gevulot")
    (row,) = checks.saved_rules(parse(["saved /etc/nftables/old.bak", *guard()]))
    assert row.passed is None, "nobody knows whether a boot loads it"


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        ("table inet gevulot {", True),
        ("\ttable inet gevulot { # progname python3", True),
        ("table inet gevulot", True),
        ("table inet gevulot_backup {", False),
        ("table inet gevulot-old {", False),
        ("# table inet gevulot {", False),
    ],
)
def test_only_the_nodes_own_table_is_looked_for_in_saved_rulesets(tmp_path: Path, text: str, saved: bool) -> None:
    (tmp_path / "nftables.conf").write_text(f"{text}\n}}\n")
    command = NodeFirewall().command("gevulot").replace("/etc/", f"{tmp_path}/")
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout.splitlines()
    rulesets = [line for line in printed if line.startswith("saved ")]
    assert rulesets == ([f"saved {tmp_path}/nftables.conf"] if saved else [])
