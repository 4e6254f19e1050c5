"""A host's SSH connection, below what pyinfra makes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import paramiko
from gevent.lock import BoundedSemaphore
from pyinfra.api import Host, StringCommand
from pyinfra.connectors.util import clear_askpass_cache

# Seconds of silence after which something is sent: routers forget idle connections after a minute or more.
KEEP_ALIVE = 15
# Unanswered probes after which the kernel gives a connection up: five minutes.
_PROBES = 20
_SECONDS = 10


def transport(host: Host) -> paramiko.Transport | None:
    """What paramiko keeps of the connection; ``None`` for a host that is not connected over SSH."""
    client = getattr(host.connector, "client", None)
    return client.get_transport() if isinstance(client, paramiko.SSHClient) else None


@dataclass(frozen=True, slots=True)
class Peer:
    """Where this machine reaches a host. ``doubt`` says why a port at that address need not be the host's own."""

    address: str | None
    doubt: str = ""


def peer(host: Host) -> Peer:
    """Where the SSH connection goes to. There is no address where another machine carries it."""
    connected = transport(host)
    if connected is None:
        return Peer(None, "not connected over SSH")
    if isinstance(connected.sock, paramiko.Channel):
        return Peer(None, "behind a jump host")
    # A socket that paramiko was given leads to a proxy: ssh_config's ProxyCommand, or ssh_paramiko_connect_kwargs.
    given = getattr(getattr(host.connector, "client", None), "_ssh_config", {}).get("sock")
    if given is not None or not isinstance(connected.sock, socket.socket):
        return Peer(None, "behind a proxy")
    try:
        address, port = connected.sock.getpeername()[:2]
    except OSError as error:
        return Peer(None, f"the connection has no peer: {error.strerror}")
    arrival = _arrival(host)
    if arrival not in (None, port):
        return Peer(address, f"{address}:{port} is forwarded to the host's port {arrival}")
    if ip_address(address.partition("%")[0]).is_loopback:
        return Peer(address, f"{address} is this machine")
    return Peer(address)


def _arrival(host: Host) -> int | None:
    """The host's port at which it sees the connection arrive. Asked without sudo, which hides the variable of sshd."""
    success, output = host.run_shell_command(StringCommand("echo $SSH_CONNECTION"), _timeout=_SECONDS)
    fields = output.stdout.split()
    return int(fields[3]) if success and len(fields) == 4 and fields[3].isdecimal() else None


def prepare(host: Host) -> None:
    """Make the connection fast, and keep it while nothing is said: through each jump host as well.

    paramiko leaves Nagle's algorithm on. So the first packet of each command waits until the host has acknowledged the
    last one of the command before, which it delays, since it has nothing else to say: 40 ms on Linux (RFC 896; RFC
    1122, 4.2.3.2), for a near host most of what a command takes.

    Keep-alives of SSH reach the host; those of TCP are the kernel's and are also sent while this program is blocked,
    for example by pyinfra's question whether to go on.
    """
    for each in _hops(transport(host)):
        each.set_keepalive(KEEP_ALIVE)
        # By a proxy it is no socket, or not one of TCP.
        if isinstance(each.sock, socket.socket):
            with suppress(OSError):
                each.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # macOS has another name for the first of these.
                for name, value in (("IDLE", KEEP_ALIVE), ("INTVL", KEEP_ALIVE), ("CNT", _PROBES)):
                    if (option := getattr(socket, f"TCP_KEEP{name}", None)) is not None:
                        each.sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _hops(connected: paramiko.Transport | None) -> Iterator[paramiko.Transport]:
    """The connection, and those to the jump hosts that carry it, the nearest one last."""
    while connected is not None:
        yield connected
        connected = connected.sock.transport if isinstance(connected.sock, paramiko.Channel) else None


_one_at_a_time = BoundedSemaphore()


def reconnect(host: Host) -> bool:
    """Close the connection and make a new one; whether there is one. It may raise whatever ends a connection half-way.

    pyinfra closes nothing, and connects to each jump host anew at every try: a reboot would leave hundreds of
    connections there. What a try leaves is told from others' connections by trying for one host at a time.
    """
    # What pyinfra keeps on the host for sudo: asking a host that is going down for its removal would hang.
    clear_askpass_cache(host)
    with _one_at_a_time:
        for each in _hops(transport(host)):
            each.close()
        host.disconnect()
        others = set(threading.enumerate())
        try:
            host.connect(show_errors=False)
        finally:
            kept = set(_hops(transport(host))) if host.connected else set()
            for thread in set(threading.enumerate()) - others - kept:
                if isinstance(thread, paramiko.Transport):
                    thread.close()
    if host.connected:
        prepare(host)
    return bool(host.connected)
