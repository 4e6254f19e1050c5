"""A deploy that writes down how each host is reached, and what it answers."""

import json
import os
import socket
from pathlib import Path

import paramiko
from pyinfra import host

from deploys.transport.connection import find_peer, get_transport, prepare
from facts.output import FirstLine

prepare(host)
reached = find_peer(host)
# Quotes, lines and a program's standard input, as those of the facts.
PROGRAM = """
answer=$((6 * 7))
cat <<'END' | sed "s/ANSWER/$answer/"
it's "ANSWER" of $(id -u)
END
"""
hops = []
connected = get_transport(host)
while connected is not None:
    sock = connected.sock
    if isinstance(sock, socket.socket):
        hops.append("TCP" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) else "idle")
    else:
        hops.append("channel" if isinstance(sock, paramiko.Channel) else "program")
    connected = sock.transport if isinstance(sock, paramiko.Channel) else None
result = {
    "address": reached.address,
    "doubt": reached.doubt,
    "text": host.get_fact(FirstLine, program=PROGRAM),
    "hops": hops,
}
Path(os.environ["PROBED"], host.name).write_text(json.dumps(result))
