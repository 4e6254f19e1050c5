"""Whether other programs listen on the ports of the node or its database."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from deploys.assessment.verdict import Findings
from deploys.inputs.values import is_loopback
from deploys.settings import Settings
from facts.listeners import Listener

Address = IPv4Address | IPv6Address
# A user's own unit is named with its manager, and not stopped by that command.
_STOPPABLE = re.compile(r"[\w@:.\\-]+\.(service|socket)")


def list_addresses(settings: Settings) -> list[tuple[str, str, int]]:
    """Each address of the settings: the key, the address or name, the port."""
    p2p, _, p2p_port = settings.p2p_listen.rpartition(":")
    listens = {
        "json_rpc_listen": settings.json_rpc_listen,
        "healthcheck_listen": None if settings.no_execution else settings.healthcheck_listen,
        "metrics_listen": settings.metrics_listen,
    }
    asked = [("p2p_listen", p2p, int(p2p_port)), ("http_port", p2p, settings.http_port)]
    for key, listen in listens.items():
        if listen is not None:
            address, _, port = listen.rpartition(":")
            asked.append((key, address, int(port)))
    if settings.own_postgres:
        asked.append(("postgres_port", "127.0.0.1", settings.postgres_port))
    return asked


def list_ports(settings: Settings) -> tuple[int, ...]:
    """The TCP ports that the node and its database need."""
    return tuple(sorted({port for _, _, port in list_addresses(settings)}))


def collides(address: str, other: Listener) -> bool:
    """Whether the kernel refuses to let a second program listen at an address, or a name, of the same port."""
    try:
        ours: Address = ip_address(address.strip("[]"))
    except ValueError:
        # A name: only those of loopback are known here.
        return other.address.is_unspecified or other.address.is_loopback == is_loopback(f"{address}:1")
    ours = getattr(ours, "ipv4_mapped", None) or ours
    if ours.version == other.address.version:
        return ours == other.address or ours.is_unspecified or other.address.is_unspecified
    if ours.version == 6:
        # The node does not ask for IPv6 alone, so its :: means every IPv4 address too.
        return ours.is_unspecified
    return other.address.is_unspecified and other.both


def judge_ports(listeners: Iterable[Listener], settings: Settings, findings: Findings) -> None:
    """Refuse ports at which others listen; a program in the control group of a unit of the node's is ours."""
    others = [each for each in listeners if not each.ours]
    for key, address, port in list_addresses(settings):
        taken = [each for each in others if each.port == port and collides(address, each)]
        if not taken:
            continue
        by = ", ".join(dict.fromkeys(_described(each) for each in taken))
        units = dict.fromkeys(each.unit for each in taken if _STOPPABLE.fullmatch(each.unit))
        stop = f"Stop it (systemctl disable --now {' '.join(units)})" if units else "Stop it"
        server = ", or use that server by gevulot_postgres_url" if key == "postgres_port" else ""
        findings.refusals.append(
            f"port {port} of gevulot_{key} is taken by {by}; expected {address}:{port} to be free. {stop}, set "
            f"gevulot_{key} to another port{server}."
        )


def _described(each: Listener) -> str:
    shown = f"[{each.address}]" if each.address.version == 6 else str(each.address)
    at = f"at {shown}:{each.port}"
    if not each.program:
        return f"the kernel, or a program that could not be found, {at}"
    return f"{each.program} (pid {each.pid}{f', {each.unit}' if each.unit else ''}) {at}"
