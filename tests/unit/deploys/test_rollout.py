"""Restarts of what runs come one at a time, and stop with the first that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from deploys.operations.rollout import take_turn


class _State:
    """Stands for one run of pyinfra."""


def restart_all(outcomes: dict[str, bool]) -> tuple[list[str], dict[str, str], int]:
    """Restart on all hosts side by side: who restarted, who was refused and why, and how many did at once."""
    state: Any = _State()
    restarted: list[str] = []
    refused: dict[str, str] = {}
    busy, most = 0, 0

    def restart(name: str) -> None:
        nonlocal busy, most
        host: Any = SimpleNamespace(name=name)
        with take_turn(state, host, "gevulot-node.service") as taken:
            if taken.refusal:
                refused[name] = taken.refusal
                return
            busy += 1
            most = max(most, busy)
            gevent.sleep(0.01)
            busy -= 1
            restarted.append(name)
            taken.succeeded = outcomes[name]

    gevent.joinall([gevent.spawn(restart, name) for name in outcomes], raise_error=True)
    return restarted, refused, most


def test_hosts_restart_one_at_a_time() -> None:
    assert restart_all({"a": True, "b": True, "c": True}) == (["a", "b", "c"], {}, 1)


def test_after_one_that_failed_nobody_restarts() -> None:
    restarted, refused, _ = restart_all({"a": True, "b": False, "c": True, "d": True})
    assert restarted == ["a", "b"]
    assert set(refused) == {"c", "d"}
    assert "not restarted, because gevulot-node.service failed on b" in refused["c"]
    assert "--exclude b" in refused["d"]


def test_an_error_counts_as_a_failure_and_gives_the_turn_back() -> None:
    state: Any = _State()
    host: Any = SimpleNamespace(name="a")
    with pytest.raises(OSError, match="gone"), take_turn(state, host, "x.service"):
        raise OSError("gone")
    with take_turn(state, SimpleNamespace(name="b"), "x.service") as taken:  # type: ignore[arg-type]
        assert "x.service failed on a" in taken.refusal


def test_another_run_knows_nothing_of_it() -> None:
    restart_all({"a": False})
    assert restart_all({"b": True})[0] == ["b"]
