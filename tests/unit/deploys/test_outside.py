"""Ports seen from outside, over real connections."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deploys import outside


@contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on loopback whose one visitor is treated as told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(timeout=5)


def test_a_port_where_nobody_listens_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert outside.answer("127.0.0.1", port, outside.HTTP_GREETING) == "closed"


def test_a_name_that_nobody_knows_counts_as_closed() -> None:
    assert outside.answer("host.invalid", 1, outside.HTTP_GREETING) == "closed"


def test_a_port_that_accepts_and_drops_is_closed() -> None:
    with server(lambda connection: None) as port:
        assert outside.answer("127.0.0.1", port, outside.HTTP_GREETING) == "closed"


def test_a_port_that_accepts_and_resets_is_closed() -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(64)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server(reset) as port:
        assert outside.answer("127.0.0.1", port, outside.HTTP_GREETING) == "closed"


@pytest.mark.parametrize(
    ("greeting", "said"),
    [(outside.POSTGRES_GREETING, b"N"), (outside.HTTP_GREETING, b"HTTP/1.0 404 Not Found\r\n\r\n")],
)
def test_a_port_that_answers_its_greeting_is_open(greeting: bytes, said: bytes) -> None:
    heard = []

    def talk(connection: socket.socket) -> None:
        heard.append(connection.recv(64))
        connection.sendall(said)

    with server(talk) as port:
        assert outside.answer("127.0.0.1", port, greeting) == "open"
    assert heard == [greeting]


def test_a_port_that_keeps_silent_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_SECONDS", 0.2)  # only the patience is shortened
    gone = threading.Event()
    with server(lambda connection: (gone.wait(5), None)[1]) as port:
        assert outside.answer("127.0.0.1", port, outside.HTTP_GREETING) == "open"
        gone.set()
