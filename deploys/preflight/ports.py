"""Whether other programs listen on the ports of the node or its database."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from deploys.assessment.verdict import Findings
from deploys.inputs.addresses import Endpoint
from deploys.settings import Settings
from facts.listeners import Listener

Address = IPv4Address | IPv6Address
# A user's own unit is named with its manager, and not stopped by that command.
_STOPPABLE = re.compile(r"[\w@:.\\-]+\.(service|socket)")


def list_endpoints(settings: Settings) -> list[tuple[str, Endpoint]]:
    """Each address and port of the settings, with its key."""
    p2p = settings.p2p_listen
    listens = {
        "p2p_listen": p2p,
        "http_port": replace(p2p, port=settings.http_port),
        "json_rpc_listen": settings.json_rpc_listen,
        "healthcheck_listen": None if settings.no_execution else settings.healthcheck_listen,
        "metrics_listen": settings.metrics_listen,
        "postgres_port": Endpoint.parse(f"127.0.0.1:{settings.postgres_port}") if settings.own_postgres else None,
    }
    return [(key, listen) for key, listen in listens.items() if listen is not None]


def list_ports(settings: Settings) -> tuple[int, ...]:
    """The TCP ports that the node and its database need."""
    return tuple(sorted({listen.port for _, listen in list_endpoints(settings)}))


def collides(ours: Address, other: Listener) -> bool:
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
    for key, listen in list_endpoints(settings):
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
