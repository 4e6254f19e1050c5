"""The QMP ports of the programs' virtual machines: who may reach them, by the kernel's nftables table. Pure.

Each of the node's QEMUs listens there without asking for anything, and QMP runs commands as the container's root.
"""

from __future__ import annotations

import re
from typing import Any

from deploys.assessment.checks import Check
from deploys.settings import Settings
from facts.firewall import Firewall, Table
from facts.unit import Unit

# Below the root of the cgroup tree. Quadlet puts the container below it.
CGROUP = "system.slice/gevulot-node.service"
# The bit of the packet mark for the node's own connections: CNI, Kubernetes and VPNs use lower ones.
_MARK = 0x10000000
# The QMP ports of a node's first programs (1024 + guest CID, from 4 on). A restarted node uses them again within the
# minute for which the kernel keeps ended connections; fewer programs than these ports start in it.
_REUSED = "1028-1091"
_OF_CGROUP = re.compile(r'^(?P<chain>\w+): (?:.* )?socket cgroupv2 (?P<cgroup>\S+) {"(?P<verdict>\w+)"')
_VERDICTS = {("own", "mangle"), ("qmp", "reject")}
_CHAINS = {"chain own filter output 300 accept", "chain qmp filter prerouting -300 accept"}


def variables(settings: Settings) -> dict[str, Any]:
    """The variables of the template of the rules."""
    return {
        "cgroup": CGROUP,
        "level": len(CGROUP.split("/")),
        "bit": _MARK,
        "services": list(settings.service_ports),
        "reused": _REUSED,
    }


def check(firewall: Firewall | None, settings: Settings, node: Unit | None, cgroup: str = CGROUP) -> Check:
    """Whether the table has the rules, and names the present cgroup of the node."""
    what, right = "who may reach the programs' QMP", "the node only"
    expected = f"{right}; run `systemctl restart gevulot-firewall`, which restarts the node too"
    if node is None or not node.running:
        return Check(what, "nobody: the node does not run", None)
    if firewall is None:
        return Check(what, "unknown: the nftables table inet gevulot could not be read", False, expected)
    problem = _problem(firewall.table, settings, cgroup)
    return Check(what, f"every local user: {problem}" if problem else right, problem is None, expected)


def _problem(table: Table | None, settings: Settings, cgroup: str) -> str | None:
    if table is None:
        return "the nftables table inet gevulot is missing"
    # Nobody but the holder can change the table: what decides is enough, and nft's releases print the rest differently.
    named = [named for each in table.rules if (named := _OF_CGROUP.search(each))]
    if not set(table.rules) >= _CHAINS or {(each["chain"], each["verdict"]) for each in named} != _VERDICTS:
        return "the nftables table inet gevulot has no rules for it"
    # nft prints the number of a cgroup that is gone, and the path of one that is there.
    if any(each["cgroup"] != cgroup for each in named):
        return "the rules of the table inet gevulot are of an earlier start of the node"
    services = f"qmp: tcp dport {{ {', '.join(map(str, settings.service_ports))} }} accept"
    if services not in table.rules:
        return "the table inet gevulot exempts other ports than those of the node's services"
    return None
