"""The operator's side of the database check: psycopg, through the SSH connection that pyinfra already has."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import paramiko
import psycopg

from deploys.transport import remote
from deploys.transport.connection import get_transport
from facts.database import SCHEMA_QUERY, Schema, schema

if TYPE_CHECKING:
    from pyinfra.api import Host

_CHUNK = 65536
_SECONDS = 30


class ForwardingRefused(Exception):
    """The connection does not forward: no SSH, or the server refuses. The caller asks the node instead."""


@contextmanager
def forward_port(through: paramiko.Transport, address: str, port: int) -> Iterator[int]:
    """A port on this machine's loopback that leads to ``address:port`` as the remote host reaches it.

    One connection is carried. Raises ``ForwardingRefused`` when the server refuses the channel.
    """
    try:
        channel = through.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=_SECONDS)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise ForwardingRefused(str(error)) from error
    with socket.create_server(("127.0.0.1", 0)) as server:
        carrier = threading.Thread(target=_carry, args=(server, channel), daemon=True)
        carrier.start()
        try:
            yield server.getsockname()[1]
        finally:
            channel.close()
            carrier.join(timeout=5)


def _carry(server: socket.socket, channel: paramiko.Channel) -> None:
    server.settimeout(_SECONDS)
    try:
        client, _ = server.accept()
    except OSError:
        return
    with client:
        while True:
            watched: list[Any] = [client, channel]
            readable, _, _ = select.select(watched, [], [], 1)
            if channel.closed:
                return
            if client in readable:
                data = client.recv(_CHUNK)
                channel.sendall(data)
            elif channel in readable:
                data = channel.recv(_CHUNK)
                client.sendall(data)
            else:
                continue
            if not data:
                return


def read_schema(host: Host, address: str, port: int, url: str) -> Schema:
    """Release and tables of a database, as ``read_rows`` reaches it."""
    return schema(read_rows(host, address, port, url, SCHEMA_QUERY))


def read_rows(host: Host, address: str, port: int, url: str, query: LiteralString) -> list[Any]:
    """The rows of a query to the database that ``url`` names, reached through the host at ``address:port``.

    Raises ``ForwardingRefused`` where forwarding is not allowed, and ``psycopg.Error`` when the server refuses.
    """
    connected = get_transport(host)
    if connected is None:
        raise ForwardingRefused("the host is not connected over SSH")
    with (
        forward_port(connected, address, port) as local,
        # hostaddr says where to connect; the rest of the URL is used as it stands.
        psycopg.connect(url, hostaddr="127.0.0.1", port=local, connect_timeout=_SECONDS) as connection,
    ):
        return connection.execute(query).fetchall()


def read_secret(host: Host, name: str) -> str:
    """A Podman secret's text. It is kept in memory only, and pyinfra prints nothing of it.

    Raises ``ForwardingRefused`` when it cannot be read.
    """
    command = f"podman secret inspect --showsecret --format '{{{{.SecretData}}}}' {name}"
    success, output = remote.run(host, command)
    if not success or not output:
        raise ForwardingRefused(f"the secret {name} cannot be read")
    return output[0]
