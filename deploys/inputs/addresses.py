"""Addresses with ports, as the node takes them, and names of servers."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}\.?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def is_port(text: str) -> bool:
    """Whether it is a TCP port in decimal digits."""
    return _PORT.fullmatch(text) is not None and int(text) < 65536


def port_of(listen: str) -> int:
    """The port of ``ADDRESS:PORT``."""
    return int(listen.rpartition(":")[2])


def address_of(listen: str) -> IPv4Address | IPv6Address | None:
    """The address of ``IP:PORT``, an IPv6 one in brackets; ``None`` for a name and for anything else.

    An IPv4 address that is mapped into IPv6 is the IPv4 address: it is what the kernel reaches by it.
    """
    return _literal(listen.rpartition(":")[0])


def is_loopback(listen: str) -> bool:
    """Whether ``ADDRESS:PORT`` is reachable from the host itself only."""
    address = address_of(listen)
    # A name is none, whatever it begins with; but this one is always the host's own.
    return address.is_loopback if address is not None else listen.rpartition(":")[0] == "localhost"


def is_listen(text: str) -> bool:
    """Whether it is ``IP:PORT`` of an address that a program can listen on."""
    address = address_of(text)
    usable = address is not None and not address.is_multicast and str(address) != "255.255.255.255"
    return usable and is_port(text.rpartition(":")[2])


def is_contact(text: str) -> bool:
    """Whether it is ``ADDRESS:PORT`` or ``NAME:PORT`` that a program can connect to."""
    host, _, port = text.rpartition(":")
    return is_server(host) and is_port(port) and (address_of(text) is None or is_listen(text))


def is_server(text: str) -> bool:
    """Whether it is a host's name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") or text.rstrip(".").rpartition(".")[2].isdigit():
        # A name that ends in digits is read as an IPv4 address, or not at all.
        return _literal(text) is not None
    return _NAME.fullmatch(text) is not None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return None if bracketed else address
    # A zone names an interface of one host.
    if not bracketed or address.scope_id is not None:
        return None
    return address.ipv4_mapped or address
