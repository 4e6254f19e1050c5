"""The networks that may reach the peer-to-peer ports: an nftables table, and the service that holds it."""

from __future__ import annotations

from collections.abc import Generator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.command import PyinfraCommand

from deploys import push
from deploys.settings import Settings
from deploys.steps import units
from deploys.steps.begin import Node
from deploys.steps.later import Later
from facts.paths import Existing
from facts.together import Part, ask
from facts.unit import Units

UNIT = "gevulot-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
RULES = "/etc/gevulot/firewall.nft"
PROGRAM = "/usr/local/libexec/gevulot/firewall"
FILES = (UNIT_FILE, RULES, PROGRAM)
# Seconds; the table is loaded in one, but a restart waits for the node to stop.
_TIMEOUT = 300


def variables(settings: Settings) -> dict[str, Any]:
    """What the template of the rules is given."""
    networks = settings.peer_networks
    return {
        "networks4": [each for each in networks if isinstance(each, IPv4Network)],
        "networks6": [each for each in networks if isinstance(each, IPv6Network)],
        "ports": sorted(settings.p2p_ports),
    }


@operation()
def removed() -> Generator[PyinfraCommand | str, None, None]:
    """Remove the service, its table and its files."""
    found = ask(host, Part("units", Units, {"units": (UNIT,)}), Part("paths", Existing, {"paths": FILES}))
    unit = found["units"].get(UNIT)
    known = unit is not None and (unit.load != "not-found" or unit.active != "inactive")
    if not known and not found["paths"]:
        host.noop("there is no firewall of the node")
        return
    if known:
        yield f"systemctl stop {UNIT} && {{ systemctl reset-failed {UNIT} 2>/dev/null || true; }}"
    yield f"rm -f {' '.join(FILES)} && systemctl daemon-reload"


@deploy("Configure the firewall")
def configure_firewall(node: Node) -> None:
    if not node.settings.peer_networks:
        return
    files = push.Files()
    node.firewall_inputs.extend(
        (
            files.template(RULES, **variables(node.settings)),
            files.template(PROGRAM, mode="755"),
            files.template(UNIT_FILE),
        )
    )
    # A restart of the firewall restarts the node.
    node.node_inputs.extend(node.firewall_inputs)
    units.reloaded(name="Reload systemd", units=(UNIT,), inputs=node.firewall_inputs)


@deploy("Start the firewall")
def start_firewall(node: Node, later: Later) -> None:
    """Before the node, which a restart of the firewall restarts: connections that are no longer wanted end with it."""
    if node.settings.peer_networks:
        units.running(
            name="Start the firewall",
            unit=UNIT,
            later=later,
            inputs=node.firewall_inputs,
            settings=node.settings,
            timeout=_TIMEOUT,
            files=FILES,
        )


@deploy("Remove the firewall")
def remove_firewall(settings: Settings) -> None:
    """After the node was restarted: until then it may listen outside of loopback."""
    if not settings.peer_networks:
        removed(name="Remove the firewall")
