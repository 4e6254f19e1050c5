"""Carrying out tasks whose accesses may hang, so that one that does holds up no other.

Each task has a child process for its accesses while it runs. Tasks run one after the other, since
the kernel's work is the processor's; but as soon as all that run are waiting for something else
(a driver, a device), the next one starts. A child that does not answer in time is left behind.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Protocol

from pcibind.model.errors import StuckError
from pcibind.read.access import Access, T, Task
from pcibind.read.worker import Worker

PATIENCE = 0.25
"""How many seconds an access takes before the next task starts beside it."""


class Kernel(Protocol):
    """What answers accesses: the one seam between decisions and the machine."""

    def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Run the tasks; return their results, in their order. Raises what a task raises."""


class _Run:
    """A task that waits for an answer."""

    def __init__(self, number: int, worker: Worker, access: Access) -> None:
        self.number = number
        self.worker = worker
        self.access = access
        self.since = time.monotonic()

    @property
    def deadline(self) -> float:
        return self.since + self.access.seconds


class BoundedKernel:
    """The running kernel."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []

    def close(self) -> None:
        """End the child processes, but those that were left behind."""
        while self._idle:
            self._idle.pop().dismiss()

    def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Run the tasks; return their results, in their order. Raises what a task raises."""
        results: dict[int, T] = {}
        running: list[_Run] = []
        following = 0
        try:
            while following < len(tasks) or running:
                now = time.monotonic()
                if following < len(tasks) and all(run.since + PATIENCE <= now for run in running):
                    self._go_on(tasks, following, None, results, running)
                    following += 1
                    continue
                limits = [run.deadline for run in running]
                if following < len(tasks):
                    limits += [
                        run.since + PATIENCE for run in running if run.since + PATIENCE > now
                    ]
                readable = select.select(
                    [run.worker.descriptor for run in running], [], [], max(min(limits) - now, 0)
                )[0]
                now = time.monotonic()
                for run in list(running):
                    if run.worker.descriptor in readable:
                        running.remove(run)
                        self._take(tasks, run, results, running)
                    elif run.deadline <= now:
                        running.remove(run)
                        self._give_up(tasks, run, results, running)
        finally:
            for run in running:
                run.worker.abandon()
        return [results[number] for number in range(len(tasks))]

    def _take(
        self, tasks: Sequence[Task[T]], run: _Run, results: dict[int, T], running: list[_Run]
    ) -> None:
        answer: str | OSError
        try:
            answer = run.worker.answer()
        except OSError as error:
            error.filename = run.access.targets[0] if run.access.targets else None
            answer = error
        if run.worker.gone:
            run.worker.dismiss()
        else:
            self._idle.append(run.worker)
        self._go_on(tasks, run.number, answer, results, running)

    def _give_up(
        self, tasks: Sequence[Task[T]], run: _Run, results: dict[int, T], running: list[_Run]
    ) -> None:
        run.worker.abandon()
        error = StuckError(
            f"{run.access} did not come back within {run.access.seconds:g} s", run.worker.process
        )
        self._go_on(tasks, run.number, error, results, running)

    def _go_on(
        self,
        tasks: Sequence[Task[T]],
        number: int,
        answer: str | Exception | None,
        results: dict[int, T],
        running: list[_Run],
    ) -> None:
        """Let a task have its answer, and start what it asks next."""
        task = tasks[number]
        try:
            if answer is None:
                access = next(task)
            elif isinstance(answer, Exception):
                access = task.throw(answer)
            else:
                access = task.send(answer)
        except StopIteration as stop:
            results[number] = stop.value
            return
        worker = self._idle.pop() if self._idle else Worker()
        worker.ask(access)
        running.append(_Run(number, worker, access))
