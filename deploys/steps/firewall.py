"""Who may reach the node's ports: the nftables table, and the service that holds it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyinfra.api import deploy

from deploys.assessment import qmp
from deploys.operations import files as push
from deploys.operations import units
from deploys.settings import Settings
from deploys.steps.preflight import Node
from deploys.steps.reboot_condition import Later

UNIT = "gevulot-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
RULES = "/etc/gevulot/firewall.nft"
QMP_RULES = "/etc/gevulot/qmp.nft"
PROGRAM = "/usr/local/libexec/gevulot/firewall"
FILES = (UNIT_FILE, RULES, QMP_RULES, PROGRAM)
# Seconds; the table is loaded in one, but a restart waits for the node to stop.
_TIMEOUT = 300


def variables(settings: Settings) -> dict[str, Any]:
    """The variables of the template of the table."""
    networks = settings.peer_networks
    return {
        "networks4": [each for each in networks if isinstance(each, IPv4Network)],
        "networks6": [each for each in networks if isinstance(each, IPv6Network)],
        "ports": sorted(settings.p2p_ports),
    }


@deploy("Configure the firewall")
def configure_firewall(node: Node) -> None:
    files = push.Files()
    table = files.template(RULES, **variables(node.settings))
    rules = files.template(QMP_RULES, **qmp.variables(node.settings))
    program = files.template(PROGRAM, mode="755")
    unit = files.template(UNIT_FILE)
    node.firewall_inputs.extend((table, rules, program, unit))
    # A restart of the firewall restarts the node.
    node.node_inputs.extend(node.firewall_inputs)
    units.reloaded(name="Reload systemd", units=(UNIT,), inputs=[unit])


@deploy("Start the firewall")
def start_firewall(node: Node, later: Later) -> None:
    """Start the firewall before the node. A restart restarts the node too, which ends connections of old networks."""
    units.running(
        name="Start the firewall",
        unit=UNIT,
        later=later,
        inputs=node.firewall_inputs,
        settings=node.settings,
        timeout=_TIMEOUT,
        files=FILES,
    )
