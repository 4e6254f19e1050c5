"""Whether the node is idle, busy or stuck, from its health check and from what runs in its container. Pure.

From the node's source, and from runs: the health check says 200 or 204 while nothing waits, and 503 while a program
waits for its start or when the scheduler gives no sign. A program that cannot start is tried again for ever. So a
failed start counts only while the health check says 503, QEMU's log was written to within the last minute, no machine
that writes to it has run for longer than a start takes, and the same error stands there three times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from deploys import duration
from deploys.assessment.checks import Check
from deploys.manifest import NODE_CONTAINER, VERIFICATION_MACHINE
from deploys.settings import Settings
from facts.activity import Activity, Failure, Machine
from facts.activity_reader import RECENT, STARTED

# Times that the same error stands in a log before we call it a failure: one or two starts in vain are usual.
_TRIES = 3
# Seconds after its container's start in which the node may still give no answer.
_START = 60
# Letters of a transaction's hash that are shown.
_SHORT = 12
_JOURNAL = "see `journalctl -u gevulot-node`"
# The directory of the log is cut in the row, as the transaction is; the shell completes it.
_LOG = "see data/log/{transaction}*/stderr.log in gevulot_storage_directory"
# What QEMU says → what to do about it. The first that fits counts.
_STEPS = (
    (r"group \d+ is not viable", "a host driver holds another device of the group: run `pcibind status` on the host"),
    (r"guest memory", "the host has too little free memory for this program: see gevulot_mem_gb"),
    (
        r"cannot allocate memory|VFIO_MAP_DMA failed",
        "the container may lock too little memory (expected Ulimit=memlock=-1:-1): run deploys/node.py",
    ),
    (
        r"failed to find romfile",
        "the node's image lacks a file of QEMU (Debian's package ipxe-qemu): use another gevulot_node_image",
    ),
    (r"\bkvm\b", "check virtualization in the firmware and /dev/kvm, then run deploys/node.py"),
)


class ActivityState(StrEnum):
    """What the node does, in a word."""

    IDLE = "idle"
    BUSY = "busy"
    STARTING = "starting"
    STUCK = "stuck"
    NO_EXECUTION = "no execution"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the node does: in short as ``text``; ``reasons`` are failures, or why its start has not finished."""

    state: ActivityState
    text: str
    reasons: tuple[str, ...] = ()
    programs: tuple[Machine, ...] = ()

    @property
    def has_failed(self) -> bool:
        return bool(self.reasons) and self.state in (ActivityState.STUCK, ActivityState.UNKNOWN)


def arguments(settings: Settings) -> dict[str, str]:
    """The arguments of the fact ``NodeActivity``. The container has the log directory at /var/lib/gevulot/log."""
    logs = f"{settings.data_directory}/log"
    listen = str(settings.healthcheck_listen)
    return {"listen": listen, "logs": logs, "container": NODE_CONTAINER, "verification": VERIFICATION_MACHINE}


def judge(activity: Activity | None, *, executes: bool) -> Assessment:
    """What the node does. ``executes`` is false with gevulot_no_execution, when there is no health check."""
    if not executes:
        return Assessment(ActivityState.NO_EXECUTION, ActivityState.NO_EXECUTION.value)
    if activity is None:
        return Assessment(ActivityState.UNKNOWN, "unknown: not read")
    if activity.health is None:
        if activity.age is not None and activity.age < _START:
            reason = f"the health check gives no answer yet, {activity.age:.0f} s after the node's start"
            return Assessment(ActivityState.STARTING, "starting, no answer", (reason,))
        return Assessment(ActivityState.UNKNOWN, "no answer", (f"the health check says nothing; {_JOURNAL}",))
    if activity.health not in (200, 204, 503):
        reason = f"the health check says {activity.health}, expected 200, 204 or 503; {_JOURNAL}"
        return Assessment(ActivityState.UNKNOWN, f"unknown ({activity.health})", (reason,))
    if activity.machines is None:
        text = f"unknown ({activity.health}): the container's processes were not read"
        return Assessment(ActivityState.UNKNOWN, text)
    programs = tuple(each for each in activity.machines if not each.check)
    running = f"busy, {len(programs)} program{'s' if len(programs) != 1 else ''} ({activity.health})"
    if activity.health != 503:
        if programs:
            return Assessment(ActivityState.BUSY, running, programs=programs)
        return Assessment(ActivityState.IDLE, f"idle ({activity.health})")
    failing = [each for each in activity.failures if _cannot_start(each)]
    if failing:
        return Assessment(ActivityState.STUCK, "stuck (503)", tuple(_describe(each) for each in failing), programs)
    if any(each.seconds >= STARTED for each in programs):
        return Assessment(ActivityState.BUSY, running, programs=programs)
    if programs or any(_is_recent(each) for each in activity.failures) or not activity.waited:
        return Assessment(ActivityState.STARTING, "starting a program (503)", programs=programs)
    reason = (
        f"the health check says 503 twice in {activity.waited} s, and no program runs or was tried within "
        f"{RECENT:.0f} s: the node's scheduler gives no sign; {_JOURNAL}"
    )
    return Assessment(ActivityState.STUCK, "stuck (503)", (reason,))


def check(assessment: Assessment) -> Check:
    """The line of the verification's table."""
    text = f"{assessment.text}: {assessment.reasons[0]}" if assessment.reasons else assessment.text
    known = assessment.state is not ActivityState.UNKNOWN
    return Check("health check", text, False if assessment.reasons else True if known else None, "idle or busy")


def _is_recent(failure: Failure) -> bool:
    return failure.last < RECENT and (failure.machine is None or failure.machine < STARTED)


def _cannot_start(failure: Failure) -> bool:
    return failure.tries >= _TRIES and _is_recent(failure)


def _describe(failure: Failure) -> str:
    """Which program cannot start, since when, what QEMU says of it, and the next step."""
    name = failure.transaction
    short = f"{name[:_SHORT]}…" if len(name) > _SHORT else name
    tries = f"{'more than ' if failure.more else ''}{failure.tries} tries within {duration.in_words(failure.first)}"
    log = _LOG.format(transaction=name[:_SHORT])
    step = next((step for pattern, step in _STEPS if re.search(pattern, failure.line, re.I)), log)
    return (
        f"the program of transaction {short} cannot start: {tries}, the last {duration.in_words(failure.last)} ago; "
        f"QEMU says: {failure.line}; {step}"
    )
