"""A deploy that is killed without warning."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.lab.machine import Machine
from tests.lab.run import ROOT, environment, words


class NeverReached(AssertionError):
    """The run ended before it came to the operation."""


def kill_at(machine: Machine, operation: str, after: float, *, may_be_done: bool = False) -> None:
    """Run the deploy, and kill it some seconds after it began an operation.

    Raises ``NeverReached`` when it ends before, unless it ``may_be_done``.
    """
    process = subprocess.Popen(
        words([machine], "-y"),
        cwd=ROOT,
        env=environment([machine]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    states = []
    try:
        for line in process.stderr:
            states.append(line)
            if line.startswith("--> Starting operation:") and operation in line:
                time.sleep(after)
                return
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not may_be_done:
        raise NeverReached(f"{operation} was never reached:\n{''.join(states)[-3000:]}")
