"""Ports probed from outside, over real connections."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deploys.assessment.checks import Check
from deploys.settings import Settings, read
from deploys.transport import ports
from deploys.transport.connection import Peer


@contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on loopback; ``behave`` serves its one visitor."""
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
    assert ports.probe_port("127.0.0.1", port, ports.HTTP_GREETING) == "closed"


def test_a_name_that_nobody_knows_was_not_looked_at() -> None:
    answer = ports.probe_port("host.invalid", 1, ports.HTTP_GREETING)
    assert answer == "not checked: host.invalid is no address that this machine knows"


def test_a_port_behind_an_address_without_a_way_there_was_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> socket.socket:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert ports.probe_port("192.0.2.1", 1, ports.HTTP_GREETING) == "not checked: Network is unreachable"


def test_a_port_that_answers_nobody_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(*_: object) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", dropped)
    assert ports.probe_port("192.0.2.1", 1, ports.HTTP_GREETING) == "closed"


def test_a_port_that_accepts_and_drops_is_closed() -> None:
    with server(lambda connection: None) as port:
        assert ports.probe_port("127.0.0.1", port, ports.HTTP_GREETING) == "closed"


def test_a_port_that_accepts_and_resets_is_closed() -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(64)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server(reset) as port:
        assert ports.probe_port("127.0.0.1", port, ports.HTTP_GREETING) == "closed"


@pytest.mark.parametrize(
    ("greeting", "answer"),
    [(ports.POSTGRES_GREETING, b"N"), (ports.HTTP_GREETING, b"HTTP/1.0 404 Not Found\r\n\r\n")],
)
def test_a_port_that_answers_its_greeting_is_open(greeting: bytes, answer: bytes) -> None:
    received = []

    def talk(connection: socket.socket) -> None:
        received.append(connection.recv(64))
        connection.sendall(answer)

    with server(talk) as port:
        assert ports.probe_port("127.0.0.1", port, greeting) == "open"
    assert received == [greeting]


def test_a_port_that_keeps_silent_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_SECONDS", 0.2)  # only the patience is shortened
    gone = threading.Event()
    with server(lambda connection: (gone.wait(5), None)[1]) as port:
        assert ports.probe_port("127.0.0.1", port, ports.HTTP_GREETING) == "open"
        gone.set()


# --- which ports are looked at


def settings(**asked: object) -> Settings:
    return read("gpu1", {"gevulot_psk_passphrase": "mole harbour lantern 41", **asked})


@pytest.mark.parametrize("doubt", ["behind a jump host", "behind a proxy", "not connected over SSH"])
def test_no_port_is_judged_where_another_machine_carries_the_connection(doubt: str) -> None:
    asked = settings(gevulot_p2p_listen="0.0.0.0:9999", gevulot_peers=("any",), gevulot_probe_ports={5432: 1})
    assert ports.check_ports(Peer(None, doubt), asked) == [Check("ports from outside", f"not judged: {doubt}", None)]


def test_behind_a_port_forward_only_the_ports_are_judged_that_the_inventory_names() -> None:
    with server(lambda connection: connection.sendall(b"N")) as port:
        asked = settings(gevulot_probe_ports={5432: port})
        rows = ports.check_ports(Peer("127.0.0.1", "127.0.0.1:2222 is forwarded to the host's port 22"), asked)
    assert rows[0] == Check("port 5432 from outside", "open", False, "closed")
    rest = {(check.name, check.passed) for check in rows[1:]}
    assert rest == {("port 8888 from outside", None), ("port 9944 from outside", None)}
    assert all("name its port there in gevulot_probe_ports" in check.actual for check in rows[1:])


def test_a_host_that_is_reached_itself_is_judged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    rows = ports.check_ports(Peer("127.0.0.1"), settings(gevulot_probe_ports=dict.fromkeys((5432, 8888, 9944), closed)))
    assert [(check.actual, check.passed) for check in rows] == [("closed", True)] * 3
