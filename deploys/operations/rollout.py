"""Restarts of running units: one host at a time, and none after a failure.

So a bad change, such as a broken image, stops one node and not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from gevent.lock import BoundedSemaphore
from pyinfra.api import Host, State


@dataclass(slots=True)
class _Rollout:
    """The restarts of one run: the hosts on which one failed, each with its unit."""

    failed: dict[str, str] = field(default_factory=dict)
    one_at_a_time: BoundedSemaphore = field(default_factory=BoundedSemaphore)


@dataclass(slots=True)
class Turn:
    """One host's turn. ``refusal`` says why nothing may be restarted; the caller sets ``succeeded``."""

    refusal: str = ""
    succeeded: bool = False


_rollouts: WeakKeyDictionary[State, _Rollout] = WeakKeyDictionary()


@contextmanager
def take_turn(state: State, host: Host, unit: str) -> Iterator[Turn]:
    """Wait for the host's turn to restart a running unit, and record the result. Hosts run in parallel."""
    rollout = _rollouts.setdefault(state, _Rollout())
    with rollout.one_at_a_time:
        if rollout.failed:
            other, broken = next(iter(rollout.failed.items()))
            yield Turn(
                f"{unit} is not restarted, because {broken} failed on {other} after its restart. Here it runs as "
                f"before. Fix {other}, or leave it out with --exclude {other}, then run again."
            )
            return
        taken = Turn()
        try:
            yield taken
        finally:
            if not taken.succeeded:
                rollout.failed[host.name] = unit
