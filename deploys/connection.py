"""A host's SSH connection, below what pyinfra makes of it."""

from __future__ import annotations

import socket
from contextlib import suppress

import paramiko
from pyinfra.api import Host


def transport(host: Host) -> paramiko.Transport | None:
    """What paramiko keeps of the connection; ``None`` for a host that is not connected over SSH."""
    client = getattr(host.connector, "client", None)
    return client.get_transport() if isinstance(client, paramiko.SSHClient) else None


def peer_address(host: Host) -> str | None:
    """The address that the SSH connection really goes to, whatever its configuration calls it; ``None`` by a proxy."""
    connected = transport(host)
    try:
        return str(connected.getpeername()[0]) if connected is not None else None
    except (AttributeError, OSError):
        return None


def send_at_once(host: Host) -> None:
    """Switch Nagle's algorithm off for the connection.

    paramiko leaves it on. So the first packet of each command waits until the host has acknowledged the last one of
    the command before, which it delays, since it has nothing else to say: 40 ms on Linux (RFC 896; RFC 1122, 4.2.3.2),
    for a near host most of what a command takes.
    """
    connected = transport(host)
    # By a proxy it is no socket, or not one of TCP.
    if connected is not None and isinstance(connected.sock, socket.socket):
        with suppress(OSError):
            connected.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
