"""Ports seen from outside, over real connections."""

from __future__ import annotations

import errno
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


def test_a_name_that_nobody_knows_was_not_looked_at() -> None:
    answer = outside.answer("host.invalid", 1, outside.HTTP_GREETING)
    assert answer == "not looked at: host.invalid is no address that this machine knows"


def test_a_port_behind_an_address_without_a_way_there_was_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> socket.socket:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert outside.answer("192.0.2.1", 1, outside.HTTP_GREETING) == "not looked at: Network is unreachable"


def test_a_port_that_answers_nobody_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(*_: object) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", dropped)
    assert outside.answer("192.0.2.1", 1, outside.HTTP_GREETING) == "closed"


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
