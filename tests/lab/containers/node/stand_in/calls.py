"""The calls of programs' machines: a listener whose requests are answered one by one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from .log import log

CALL_SECONDS = 60.0
LONGEST_REQUEST = 1 << 18

Answer = Callable[[int, list[str]], str]
"""Gives the answer to a caller's CID and the lines of its request."""


def listen(listener: socket.socket, answer: Answer) -> None:
    """Answers every call in a thread of its own, for as long as the process lives."""

    def accept() -> None:
        while True:
            connection, (cid, _) = listener.accept()
            threading.Thread(target=serve, args=(connection, cid, answer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve(connection: socket.socket, cid: int, answer: Answer) -> None:
    """Reads one request, up to its empty line, and answers it."""
    connection.settimeout(CALL_SECONDS)
    try:
        with connection, connection.makefile("rwb") as stream:
            lines: list[str] = []
            size = 0
            while (line := stream.readline(LONGEST_REQUEST)).strip():
                lines.append(line.decode("ascii", errors="replace").strip())
                size += len(line)
                if size > LONGEST_REQUEST:
                    raise ValueError("too long a request")
            reply = answer(cid, lines)
            log("debug", f"CID {cid}: {lines[:1]} -> {reply.split()[:1]}")
            stream.write(reply.encode() + b"\n")
    except (OSError, ValueError) as error:
        log("warn", f"the call of CID {cid} failed: {error}")
