"""The program that gives the node its key, run for real with FIFOs."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploys.operations.files import TEMPLATES

pytestmark = pytest.mark.commands

PROGRAM = TEMPLATES / "usr/local/libexec/gevulot/hand-over-key.j2"
KEY = bytes(range(32))


class HandOver:
    """One run of the program, for a key and a FIFO in a directory."""

    def __init__(self, root: Path, seconds: int) -> None:
        self.fifo = root / "fifo"
        self.key = root / "node.key"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            address = root / "notify"
            address.unlink(missing_ok=True)
            notify.bind(str(address))
            notify.settimeout(20)
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(PROGRAM), str(self.key), str(self.fifo), str(seconds)],
                env={"NOTIFY_SOCKET": str(address)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self.message = notify.recv(100)

    def end(self) -> tuple[int, str]:
        """The exit code and what was printed."""
        output, errors = self.process.communicate(timeout=20)
        return self.process.returncode, output + errors

    def state(self) -> str:
        """The letter of the process's state in /proc."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., HandOver]]:
    (tmp_path / "node.key").write_bytes(KEY)
    runs = []

    def start(seconds: int = 20) -> HandOver:
        runs.append(HandOver(tmp_path, seconds))
        return runs[-1]

    yield start
    for each in runs:
        each.process.kill()
        each.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_all(descriptors: list[int]) -> list[bytes]:
    """What each of the descriptors gives until its end."""
    content = dict.fromkeys(descriptors, b"")
    with selectors.DefaultSelector() as selector:
        for each in descriptors:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(timeout=20)
            assert ready
            for entry, _ in ready:
                try:
                    part = os.read(entry.fd, 100)
                except BlockingIOError:
                    continue
                content[entry.fd] += part
                if not part:
                    selector.unregister(entry.fd)
                    os.close(entry.fd)
    return list(content.values())


def test_the_node_starts_only_when_the_fifo_is_there_for_root_alone(start: Callable[..., HandOver]) -> None:
    run = start()
    assert run.message == b"READY=1"
    mode = run.fifo.stat().st_mode
    assert stat.S_ISFIFO(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_one_reader_gets_the_key_and_nothing_is_left(start: Callable[..., HandOver]) -> None:
    run = start()
    assert run.fifo.read_bytes() == KEY
    assert run.end() == (0, "")
    assert not run.fifo.exists()


def test_the_fifo_is_gone_before_the_key_is_in_it(start: Callable[..., HandOver]) -> None:
    run = start()
    with run.fifo.open("rb") as reader:
        first = reader.read(1)
        assert not run.fifo.exists()
        assert first + reader.read() == KEY


def test_of_two_readers_one_gets_all_and_the_other_nothing(start: Callable[..., HandOver]) -> None:
    run = start()
    # Held, so that both have the FIFO open before anything is written.
    run.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: run.state() == "T")
    readers = [os.open(run.fifo, os.O_RDONLY | os.O_NONBLOCK) for _ in range(2)]
    # Without a writer there would be an end of file at once.
    run.process.send_signal(signal.SIGCONT)
    wait_for(lambda: not run.fifo.exists())
    assert sorted(read_all(readers)) == [b"", KEY]
    assert run.end() == (0, "")


def test_a_late_node_is_not_given_the_key(start: Callable[..., HandOver]) -> None:
    run = start(seconds=1)
    code, message = run.end()
    assert (code, message) == (0, "the node did not read its key within 1 s; its next start is given the key again\n")
    assert not run.fifo.exists()


def test_a_slow_node_is_given_the_key_within_the_limit(start: Callable[..., HandOver]) -> None:
    run = start()
    wait_for(lambda: run.state() == "S")
    time.sleep(1)
    assert run.process.poll() is None
    assert run.fifo.read_bytes() == KEY


def test_a_stop_ends_the_wait_at_once(start: Callable[..., HandOver]) -> None:
    run = start()
    run.process.terminate()
    assert run.end() == (-signal.SIGTERM, "")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_killed_run_the_next_one_gives_the_key(start: Callable[..., HandOver], end: signal.Signals) -> None:
    killed = start()
    killed.process.send_signal(end)
    killed.end()
    assert killed.fifo.exists()
    run = start()
    assert run.fifo.read_bytes() == KEY
    assert run.end() == (0, "")


def test_a_node_that_ends_after_it_opened_the_fifo_leaves_no_failure(start: Callable[..., HandOver]) -> None:
    run = start()
    with run.fifo.open("rb"):
        pass
    code, _ = run.end()
    assert code == 0
    assert not run.fifo.exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"k" * 31, "has 31 bytes, expected a key of 32")]
)
def test_without_a_key_the_node_does_not_start_and_the_reason_is_named(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    key, fifo = tmp_path / "node.key", tmp_path / "fifo"
    if content is not None:
        key.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(key), str(fifo), "5"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert str(key) in done.stderr
    assert words in done.stderr
    assert not fifo.exists()
