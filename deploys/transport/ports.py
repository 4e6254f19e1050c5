"""The ports of a host, probed from the operator's machine."""

from __future__ import annotations

import errno
import socket

from deploys.assessment import checks
from deploys.assessment.checks import Check
from deploys.settings import Settings
from deploys.transport.connection import Peer

_SECONDS = 5.0
# Postgres answers a request for TLS with one letter (the protocol's SSLRequest); HTTP servers answer a request.
POSTGRES_GREETING = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
HTTP_GREETING = b"GET / HTTP/1.0\r\n\r\n"
# This machine has no route, which says nothing about the port.
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def check_ports(peer: Peer, settings: Settings) -> list[Check]:
    """The ports that must be closed, and the peers' port, which is only shown, since its firewall is the operator's.

    Behind a jump host or a proxy no port is probed: it would be another machine's.
    """
    if peer.address is None:
        return [Check("ports from outside", f"not judged: {peer.doubt}", None)]
    rows = []
    for port in settings.ports_closed_outside():
        greeting = POSTGRES_GREETING if port == settings.postgres_port else HTTP_GREETING
        rows.append(checks.port(port, _probe(peer, peer.address, port, settings, greeting)))
    if not settings.p2p_listen.address.is_loopback:
        p2p = settings.p2p_listen.port
        text = _probe(peer, peer.address, p2p, settings, HTTP_GREETING)
        rows.append(Check(f"port {p2p} (peers) from outside", text, None))
    return rows


def _probe(peer: Peer, address: str, port: int, settings: Settings, greeting: bytes) -> str:
    if peer.doubt and port not in settings.probe_ports:
        return f"not judged: {peer.doubt}; name its port there in gevulot_probe_ports"
    return probe_port(address, settings.probe_ports.get(port, port), greeting)


def probe_port(address: str, port: int, greeting: bytes) -> str:
    """``closed``, ``open``, or why the port could not be probed from here.

    A port forward or a load balancer accepts a connection on behalf of a port that is closed behind it, and drops it
    at once. So a port is open when a program behind it answers, or keeps the connection.
    """
    try:
        connection = socket.create_connection((address, port), _SECONDS)
    except socket.gaierror:
        return f"not checked: {address} is no address that this machine knows"
    except OSError as error:
        return f"not checked: {error.strerror}" if error.errno in _NO_WAY else "closed"
    with connection:
        try:
            connection.sendall(greeting)
            return "open" if connection.recv(1) else "closed"
        except TimeoutError:
            return "open"
        except OSError:
            return "closed"
