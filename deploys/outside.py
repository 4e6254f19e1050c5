"""Ports as they are seen from the operator's machine."""

from __future__ import annotations

import errno
import socket

_SECONDS = 5.0
# Postgres answers a request for TLS with one letter (the protocol's SSLRequest); HTTP servers answer a request.
POSTGRES_GREETING = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
HTTP_GREETING = b"GET / HTTP/1.0\r\n\r\n"


# This machine cannot look, which says nothing about the port.
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def answer(address: str, port: int, greeting: bytes) -> str:
    """``closed``, ``open``, or in words why it could not be seen from here.

    A port forward or a load balancer accepts a connection on behalf of a port that is closed behind it, and drops it
    at once. So a port is open when somebody behind it talks, or keeps the connection.
    """
    try:
        connection = socket.create_connection((address, port), _SECONDS)
    except socket.gaierror:
        return f"not looked at: {address} is no address that this machine knows"
    except OSError as error:
        return f"not looked at: {error.strerror}" if error.errno in _NO_WAY else "closed"
    with connection:
        try:
            connection.sendall(greeting)
            return "open" if connection.recv(1) else "closed"
        except TimeoutError:
            return "open"
        except OSError:
            return "closed"
