"""Who may reach the node's ports: the nftables table, and the service that holds it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyinfra.api.operation import OperationMeta

from deploys.assessment import qmp
from deploys.manifest import FIREWALL_PROGRAM, FIREWALL_RULES, FIREWALL_SERVICE, FIREWALL_UNIT, QMP_RULES
from deploys.operations import units
from deploys.operations.files import Files
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import step
from deploys.settings import Settings

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


@step("Configure the firewall")
def configure_firewall(settings: Settings) -> list[OperationMeta]:
    files = Files()
    table = files.template(FIREWALL_RULES, **variables(settings))
    rules = files.template(QMP_RULES, **qmp.variables(settings))
    program = files.template(FIREWALL_PROGRAM)
    unit = files.template(FIREWALL_SERVICE)
    units.daemon_reload(name="Reload systemd", units=(FIREWALL_UNIT,), inputs=[unit])
    return [table, rules, program, unit]


@step("Start the firewall")
def start_firewall(settings: Settings, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    """Start the firewall before the node. A restart restarts the node too, which ends connections of old networks."""
    units.run_unit(
        name="Start the firewall",
        unit=FIREWALL_UNIT,
        reboot=reboot,
        inputs=after,
        settings=settings,
        timeout=_TIMEOUT,
    )
