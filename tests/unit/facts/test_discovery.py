"""Whether discovery addresses answer, over real connections."""

from __future__ import annotations

import socket
import subprocess
import time

import pytest

from facts.discovery import DiscoveryPeers

pytestmark = pytest.mark.commands


def ask(*addresses: str) -> dict[str, str]:
    command = DiscoveryPeers().command(addresses)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    return DiscoveryPeers().process(done.stdout.splitlines())


def test_each_address_answers_or_says_why_not_in_a_few_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as peer, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        good, silent = (f"127.0.0.1:{each.getsockname()[1]}" for each in (peer, full))
        # The only place of its queue is taken, so the kernel answers nobody else.
        held = [socket.create_connection(full.getsockname())]
        began = time.monotonic()
        answers = ask(good, silent, "127.0.0.1:1", "host.invalid:9999")
        took = time.monotonic() - began
        held[0].close()
    assert answers[good] == "answers"
    assert answers[silent] == "no answer within 3 s"
    assert answers["127.0.0.1:1"] == "connection refused"
    assert answers["host.invalid:9999"] in ("its name is not found", "no answer within 5 s")
    assert took < 10


def test_a_name_that_can_be_none_is_not_found() -> None:
    assert ask("a..b:9999", f"{'x' * 300}:9999") == {
        "a..b:9999": "its name is not found",
        f"{'x' * 300}:9999": "its name is not found",
    }
