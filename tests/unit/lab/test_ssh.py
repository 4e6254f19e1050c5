"""A slow SSH server is waited for, at every pace; nobody knocks for ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.lab.ssh import Door

pytestmark = pytest.mark.commands


@contextmanager
def server(*, banner: bytes, after: float, deaf: int = 0) -> Iterator[int]:
    """A server that answers each connection late, but for the first ones, which it never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def answer(stream: socket.socket) -> None:
            time.sleep(after)
            with suppress(OSError):
                stream.sendall(banner)
            stream.close()

        def serve() -> None:
            while True:
                try:
                    stream, _ = listening.accept()
                except OSError:
                    return
                held.append(stream)
                if len(held) > deaf:
                    threading.Thread(target=answer, args=(stream,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def opened(port: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    with Door(port) as door:
        while time.monotonic() < end:
            if door.opens(0.2):
                return True
    return False


@pytest.mark.parametrize("after", [0.0, 2.5])
def test_a_banner_is_heard_however_late(after: float) -> None:
    with server(banner=b"SSH-2.0-x\r\n", after=after) as port:
        assert opened(port, 10)


def test_a_knock_that_was_lost_is_followed_by_others() -> None:
    with server(banner=b"SSH-2.0-x\r\n", after=0, deaf=1) as port:
        assert opened(port, 10)


@pytest.mark.parametrize("banner", [b"", b"HTTP/1.1 400\r\n"])
def test_another_server_is_none(banner: bytes) -> None:
    with server(banner=banner, after=0) as port:
        assert not opened(port, 1)


def test_a_closed_port_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert not opened(port, 0.5)
