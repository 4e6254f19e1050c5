"""Waits that last say what they are for, on which hosts, for how long already, and when they end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploys.transport.heartbeat import EVERY, Heartbeat
from tests.unit.deploys import servers

pytestmark = pytest.mark.commands


def test_a_run_says_what_it_waits_for_while_an_operation_lasts(tmp_path: Path) -> None:
    inventory = "nodes = ['@local']\n"
    run = servers.pyinfra(tmp_path, inventory, str(Path(__file__).parent / "probes/slow.py"), "-y")
    assert run.returncode == 0, run.stderr
    lines = [line.strip() for line in run.stderr.splitlines() if "waiting for" in line]
    assert any(line == "[@local] waiting for 2 s, no time limit: Take a while" for line in lines), run.stderr
    assert any(line.endswith(", at most 60 s: Take a while at most") for line in lines), run.stderr
    assert not any("Be quick" in line for line in lines)
    assert "waiting" not in run.stdout


def beating(*waits: tuple[str, str, float | None]) -> tuple[Heartbeat, float]:
    heartbeat = Heartbeat()
    for host, what, limit in waits:
        heartbeat.add((host, what), host, what, limit)
    return heartbeat, time.monotonic()


def test_a_short_wait_is_not_mentioned() -> None:
    heartbeat, now = beating(("a", "apt", None))
    assert heartbeat.lines(now + EVERY - 1) == []


def test_a_wait_is_mentioned_again_and_again_with_its_time() -> None:
    heartbeat, now = beating(("a", "an answer over SSH", 900))
    lines = [line for seconds in range(0, 180, 5) for line in heartbeat.lines(now + seconds + 0.1)]
    assert [line.partition(",")[0] for line in lines] == [
        "[a] waiting for 30 s", "[a] waiting for 60 s", "[a] waiting for 90 s",
        "[a] waiting for 2 min 0 s", "[a] waiting for 2 min 30 s",
    ]  # fmt: skip
    assert all(line.endswith(", at most 15 min: an answer over SSH") for line in lines)


def test_hosts_that_wait_for_the_same_share_a_line() -> None:
    heartbeat, now = beating(*((f"gpu{number}", "Pull the image", None) for number in range(300)))
    assert heartbeat.lines(now + EVERY) == [
        "[gpu0, gpu1, gpu2, gpu3, gpu4 and 295 more] waiting for 30 s, no time limit: Pull the image"
    ]


def test_the_inner_wait_of_a_host_is_the_one_that_is_mentioned() -> None:
    heartbeat, now = beating(("a", "Reboot when needed", None), ("a", "an answer over SSH", 900))
    assert [line.partition(": ")[2] for line in heartbeat.lines(now + EVERY)] == ["an answer over SSH"]
    heartbeat.remove(("a", "an answer over SSH"))
    assert [line.partition(": ")[2] for line in heartbeat.lines(now + EVERY)] == ["Reboot when needed"]
    heartbeat.remove(("a", "Reboot when needed"))
    assert heartbeat.lines(now + 10 * EVERY) == []
