"""Prints what a run waits for, and since when: pyinfra itself prints nothing during a wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import gevent
from pyinfra import logger
from pyinfra.api import Host, State
from pyinfra.api.state import BaseStateCallback

from deploys import duration

# Seconds between two lines about the same wait; a shorter wait is not reported.
EVERY = 30.0
# Hosts that a line names before it only counts them.
_NAMES = 5


@dataclass(frozen=True, slots=True)
class _Wait:
    host: str
    what: str
    # Seconds after which the wait ends by itself, if it does.
    limit: float | None
    since: float = field(default_factory=time.monotonic)


class Heartbeat:
    """The waits of one run. Each operation of a host is one; a wait inside of an operation takes its place."""

    def __init__(self) -> None:
        self._waits: dict[object, _Wait] = {}
        self._printed: dict[str, float] = {}
        self._greenlet: gevent.Greenlet[..., Any] | None = None

    def add(self, key: object, host: str, what: str, limit: float | None) -> None:
        """Add a wait of the host that starts now, until ``remove`` is called with the same key."""
        self._waits[key] = _Wait(host, what, limit)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._beat)

    def remove(self, key: object) -> None:
        """Remove the wait, if there is one."""
        self._waits.pop(key, None)

    def _beat(self) -> None:
        while self._waits:
            gevent.sleep(EVERY / 6)
            for line in self.lines(time.monotonic()):
                logger.info(line)
        self._greenlet = None

    def lines(self, now: float) -> list[str]:
        """The lines that are due now: one for all hosts that wait for the same."""
        latest = {wait.host: wait for wait in self._waits.values()}
        groups: dict[str, list[_Wait]] = {}
        for wait in latest.values():
            if now - wait.since >= EVERY:
                groups.setdefault(wait.what, []).append(wait)
        self._printed = {what: at for what, at in self._printed.items() if what in groups}
        due = {what: waits for what, waits in groups.items() if now - self._printed.get(what, -EVERY) >= EVERY}
        self._printed |= dict.fromkeys(due, now)
        return [_line(what, waits, now) for what, waits in due.items()]


def _line(what: str, waits: list[_Wait], now: float) -> str:
    names = [wait.host for wait in waits]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    longest = min(waits, key=lambda wait: wait.since)
    limit = f"at most {duration.in_words(longest.limit)}" if longest.limit else "no time limit"
    minutes, seconds = divmod(int(now - longest.since), 60)
    so_far = f"{minutes} min {seconds} s" if minutes >= 2 else f"{60 * minutes + seconds} s"
    return f"[{', '.join(names[:_NAMES])}{more}] waiting for {so_far}, {limit}: {what}"


class _Operations(BaseStateCallback):
    """pyinfra's operations as waits."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        # One that the host does not have is skipped, and has no end.
        if op_hash in state.ops[host]:
            limit = state.get_op_data_for_host(host, op_hash).global_arguments.get("_timeout")
            what = ", ".join(sorted(state.get_op_meta(op_hash).names))
            get_heartbeat(state).add((host.name, op_hash), host.name, what, limit)

    @staticmethod
    def operation_host_success(state: State, host: Host, op_hash: str, retry_count: int = 0) -> None:
        get_heartbeat(state).remove((host.name, op_hash))

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        get_heartbeat(state).remove((host.name, op_hash))


_runs: WeakKeyDictionary[State, Heartbeat] = WeakKeyDictionary()


def get_heartbeat(state: State) -> Heartbeat:
    """The heartbeat of a run; from the first call on, it follows the run's operations."""
    if state not in _runs:
        _runs[state] = Heartbeat()
        state.add_callback_handler(_Operations())
    return _runs[state]


@contextmanager
def report_wait(host: Host, what: str, limit: float | None = None) -> Iterator[None]:
    """Report what the host waits for inside of its operation. ``limit``: the time limit of the wait in seconds."""
    heartbeat, key = get_heartbeat(host.state), object()
    heartbeat.add(key, host.name, what, limit)
    try:
        yield
    finally:
        heartbeat.remove(key)
