"""A host's SSH connection, below pyinfra's connector."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import paramiko
from pyinfra.api import Host, StringCommand
from pyinfra.connectors.sshuserclient.client import get_ssh_config
from pyinfra.connectors.util import clear_askpass_cache

# Seconds of silence after which a keep-alive is sent: routers drop idle connections after a minute or more.
KEEP_ALIVE = 15
# Unanswered probes after which the kernel gives a connection up: five minutes.
_PROBES = 20
_SECONDS = 10


def get_transport(host: Host) -> paramiko.Transport | None:
    """The paramiko transport of the connection; ``None`` for a host that is not connected over SSH."""
    client = getattr(host.connector, "client", None)
    return client.get_transport() if isinstance(client, paramiko.SSHClient) else None


@dataclass(frozen=True, slots=True)
class Peer:
    """Where this machine reaches a host. ``doubt`` says why a port at that address may not be the host's own."""

    address: str | None
    doubt: str = ""


def find_peer(host: Host) -> Peer:
    """The peer of the SSH connection, without an address where another machine forwards the connection."""
    connected = get_transport(host)
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
    try:
        success, output = host.run_shell_command(StringCommand("echo $SSH_CONNECTION"), _timeout=_SECONDS)
    except (paramiko.SSHException, OSError, EOFError):
        return None
    fields = output.stdout.split()
    return int(fields[3]) if success and len(fields) == 4 and fields[3].isdecimal() else None


def prepare(host: Host) -> None:
    """Make the connection fast, and keep it alive while idle, also the connections to jump hosts.

    paramiko leaves Nagle's algorithm on. So the first packet of each command waits until the host has acknowledged the
    last packet of the previous command, which it delays by 40 ms on Linux (RFC 896; RFC 1122, 4.2.3.2): for a near host
    most of the time of a command.

    Keep-alives of SSH reach the host; those of TCP are the kernel's and are also sent while this program is blocked,
    for example by pyinfra's question whether to go on.
    """
    for each in _hops(get_transport(host)):
        each.set_keepalive(KEEP_ALIVE)
        # With a proxy it is not a socket, or not a TCP socket.
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


class Reconnection:
    """Reconnects to a host, as after a reboot. Its jump hosts stay connected meanwhile.

    pyinfra closes nothing, and connects to each jump host again at every try: a reboot would leave hundreds of
    connections there, and a jump host may refuse many logins in a row.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._old = list(_hops(get_transport(host)))

    def reconnect(self) -> bool:
        """Connect again; return whether that succeeded. May raise any error of a connection that ends half-way."""
        # What pyinfra keeps on the host for sudo: asking a host that is going down for its removal would hang.
        clear_askpass_cache(self._host)
        if not self._answers():
            return False
        if self._old:
            self._old[0].close()
        self._host.disconnect()
        self._host.connect(show_errors=False)
        if not self._host.connected:
            return False
        for each in self._old:
            each.close()
        self._old = list(_hops(get_transport(self._host)))
        prepare(self._host)
        return True

    def _answers(self) -> bool:
        """Whether the last jump host reaches an SSH server at the host. True without a jump host."""
        jump = self._old[1] if len(self._old) > 1 else None
        if jump is None or not jump.is_active():
            return True
        try:
            with jump.open_channel("direct-tcpip", _target(self._host), ("127.0.0.1", 0), timeout=_SECONDS) as channel:
                channel.settimeout(_SECONDS)
                return channel.recv(4) == b"SSH-"
        except (paramiko.SSHException, OSError, EOFError):
            return False


def _target(host: Host) -> tuple[str, int]:
    """The address and port that a jump host is asked for, by ssh_config where it says so."""
    name = host.data.get("ssh_hostname") or host.name
    config = get_ssh_config(host.data.get("ssh_config_file"))
    port = getattr(getattr(host.connector, "client", None), "_ssh_config", {}).get("port", 22)
    return (config.lookup(name)["hostname"] if config else name), int(port)
