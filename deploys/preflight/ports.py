"""Whether other programs listen on the ports of the node or its database."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from deploys.assessment.verdict import Findings
from deploys.inputs.addresses import Endpoint
from deploys.settings import Settings
from facts.listeners import Listener

# A user's own unit is named with its manager, and not stopped by that command.
_STOPPABLE = re.compile(r"[\w@:.\\-]+\.(service|socket)")


def list_endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Where the node and its database will listen, by key."""
    unused = "healthcheck_listen" if settings.no_execution else ""
    return {key: listen for key, listen in settings.endpoints().items() if key != unused}


def list_ports(settings: Settings) -> tuple[int, ...]:
    """The TCP ports that the node and its database need."""
    return tuple(sorted({listen.port for listen in list_endpoints(settings).values()}))


def collides(ours: IPv4Address | IPv6Address, other: Listener) -> bool:
    """Whether the kernel refuses to let a second program listen at an address, at the same port."""
    if ours.version == other.address.version:
        return ours == other.address or ours.is_unspecified or other.address.is_unspecified
    if ours.version == 6:
        # The node does not ask for IPv6 alone, so its :: means every IPv4 address too.
        return ours.is_unspecified
    return other.address.is_unspecified and other.both


def judge_ports(listeners: Iterable[Listener], settings: Settings, findings: Findings) -> None:
    """Refuse ports at which others listen; a program in the control group of a unit of the node's is ours."""
    others = [each for each in listeners if not each.ours]
    for key, listen in list_endpoints(settings).items():
        taken = [each for each in others if each.port == listen.port and collides(listen.address, each)]
        if not taken:
            continue
        by = ", ".join(dict.fromkeys(_described(each) for each in taken))
        units = dict.fromkeys(each.unit for each in taken if _STOPPABLE.fullmatch(each.unit))
        stop = f"Stop it (systemctl disable --now {' '.join(units)})" if units else "Stop it"
        server = ", or use that server by gevulot_postgres_url" if key == "postgres_port" else ""
        findings.refusals.append(
            f"port {listen.port} of gevulot_{key} is taken by {by}; expected {listen} to be free. {stop}, set "
            f"gevulot_{key} to another port{server}."
        )


def _described(each: Listener) -> str:
    shown = f"[{each.address}]" if each.address.version == 6 else str(each.address)
    at = f"at {shown}:{each.port}"
    if not each.program:
        return f"the kernel, or a program that could not be found, {at}"
    return f"{each.program} (pid {each.pid}{f', {each.unit}' if each.unit else ''}) {at}"
