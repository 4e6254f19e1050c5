"""Addresses with ports, as the node takes them, and names of servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}\.?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def is_port(text: str) -> bool:
    """Whether it is a TCP port in decimal digits."""
    return _PORT.fullmatch(text) is not None and int(text) < 65536


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``IP:PORT``, at which a program listens.

    ``host`` is the address as it was written, an IPv6 one in brackets. ``address`` is what the kernel reaches by it:
    for an IPv4 address that is mapped into IPv6, the IPv4 address.
    """

    host: str
    address: IPv4Address | IPv6Address
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises ``ValueError`` for a name, and for an address that no program can listen on."""
        host, _, port = text.rpartition(":")
        address = _literal(host)
        if address is None or not _is_usable(address) or not is_port(port):
            # The node reads Rust's SocketAddr, which resolves no names.
            raise ValueError("expected IP:PORT, for example '0.0.0.0:9999' or '[::]:9999'")
        return cls(host, address, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def is_contact(text: str) -> bool:
    """Whether it is ``ADDRESS:PORT`` or ``NAME:PORT`` that a program can connect to."""
    host, _, port = text.rpartition(":")
    address = _literal(host)
    return is_server(host) and is_port(port) and (address is None or _is_usable(address))


def is_server(text: str) -> bool:
    """Whether it is a host's name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") or text.rstrip(".").rpartition(".")[2].isdigit():
        # A name that ends in digits is an IPv4 address or nothing.
        return _literal(text) is not None
    return _NAME.fullmatch(text) is not None


def _is_usable(address: IPv4Address | IPv6Address) -> bool:
    return not address.is_multicast and str(address) != "255.255.255.255"


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
