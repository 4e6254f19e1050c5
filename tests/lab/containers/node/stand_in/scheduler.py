"""The node's scheduler: transactions wait for their program's machine, which runs until it submits its result."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import database, program
from .log import log
from .settings import Settings
from .task import Task, TaskError, functions

# The real node's numbers (scheduler/mod.rs, watchdog/mod.rs).
IDLE_SECONDS = 60.0
RUN_SECONDS = 1800.0
SIGN_SECONDS = 1.5
LOOP_SECONDS = 0.1
# Ours: without it, a QEMU that is not there would be tried without a pause.
RETRY_SECONDS = 1.0


class RejectedError(Exception):
    """A result that the node does not accept from itself; the reason is in the log only."""


@dataclass
class Transaction:
    """One run of the program: finished when `done` is set, with a report or an error.

    `slowness` multiplies the real node's limits for QMP and for the machine's first call.
    """

    slowness: float
    digest: str = field(default_factory=lambda: secrets.token_hex(32))
    done: threading.Event = field(default_factory=threading.Event)
    report: dict[str, Any] | None = None
    error: Exception | None = None
    starts: int = 0


@dataclass
class Running:
    """A transaction whose machine runs, and what that machine did so far."""

    transaction: Transaction
    task: Task
    guest_cid: int
    machine: program.Machine | None = None
    started: float = field(default_factory=time.monotonic)
    taken: float | None = None
    functions: dict[str, dict[str, Any]] | None = None
    finished: bool = False


class Scheduler:
    """Runs one program at a time, since the real node counts one GPU.

    The loop's thread starts and ends machines; a machine's calls come in threads of `calls`, and only mark it finished.
    """

    def __init__(self, settings: Settings, public_key: str, guest_cids: Iterator[int] | None = None) -> None:
        """Guest CIDs are counted up from 4, as the real node does, where none are given."""
        self.programs = 0
        self._settings = settings
        self._public_key = public_key
        self._pending: deque[Transaction] = deque()
        self._running: Running | None = None
        self._calls = threading.Lock()
        self._guest_cids = guest_cids or itertools.count(4)
        self._stalled_until = 0.0
        self._sign = time.monotonic()

    def start(self) -> None:
        """Starts the loop in a thread that lives as long as the process."""
        self._sign = time.monotonic()
        threading.Thread(target=self._loop, daemon=True).start()

    @property
    def healthy(self) -> bool:
        """Whether no transaction waits for a machine and the loop gave a sign of life lately."""
        return not self._pending and time.monotonic() - self._sign < SIGN_SECONDS

    def submit(self, slowness: float = 1.0) -> Transaction:
        """Queues a run of the program. `slowness` multiplies the real node's limits for the machine's start."""
        transaction = Transaction(slowness)
        self._pending.append(transaction)
        return transaction

    def stall(self, seconds: float) -> None:
        """Stops the loop for a while, as a fault of the node would."""
        self._stalled_until = time.monotonic() + seconds

    def answer(self, cid: int, lines: list[str]) -> str:
        """The answer to a machine's call."""
        with self._calls:
            running = self._running
            if running is None or running.guest_cid != cid or running.finished:
                log("warn", f"unknown VM address: CID {cid}")
                return "error unknown VM address"
            try:
                return self._answer(running, lines)
            except TaskError as error:
                log("error", f"tx: {running.transaction.digest} - {error}")
                return f"error {error}"

    def _answer(self, running: Running, lines: list[str]) -> str:
        match lines[0].split() if lines else []:
            case ["task"]:
                if running.taken is not None:
                    raise TaskError("the task is taken already")
                running.taken = time.monotonic()
                log("info", f"task of Tx {running.task.transaction} started")
                return running.task.order()
            case ["report"]:
                running.functions = functions(lines[1:])
                return "ok"
            case ["submit", *words] if running.taken is not None and running.functions is not None:
                self._finish(running, running.task.accept(words))
                return "ok"
        raise TaskError(f"unexpected call {lines[:1]}")

    def _finish(self, running: Running, proof: dict[str, str]) -> None:
        """Takes a result that was checked. As the real node, this one signs it and checks its own list only then."""
        transaction, machine = running.transaction, running.machine
        try:
            if machine is None or running.functions is None:
                raise program.ProgramError("a result before QEMU's monitor answered")
            if not database.is_trusted(self._settings.db_url, self._public_key):
                log("error", "failed to persist transaction: Tx permission denied signer not authorized")
                raise RejectedError("failed to persist transaction")
            entries = self._settings.gpu_devices or ()
            places = program.passed_through(machine.monitor.execute("query-pci"), entries)
            accelerator = "kvm" if machine.monitor.execute("query-kvm")["enabled"] else "tcg"
        except (RejectedError, database.DatabaseError, program.ProgramError, OSError, ValueError) as error:
            transaction.error = error
        else:
            seen = running.functions
            transaction.report = {
                "accelerator": accelerator,
                "guest_cid": running.guest_cid,
                "starts": transaction.starts,
                "devices": list(entries),
                # Only what the machine's own kernel has seen.
                "functions": [{"host": host, **seen[at]} for host, at in places.items() if at in seen],
                "task": {"transaction": transaction.digest, "seconds": round(time.monotonic() - running.started, 1)},
                "workspace": proof,
            }
            self.programs += 1
            log("info", f"Submit result Tx created:{transaction.digest}")
        running.finished = True

    def _loop(self) -> None:
        while True:
            while time.monotonic() < self._stalled_until:
                time.sleep(LOOP_SECONDS)
            self._reap()
            # No sign while a start fails, as the real node's loop gives none.
            if self._pending and self._running is None and not self._start(self._pending[0]):
                continue
            self._sign = time.monotonic()
            time.sleep(LOOP_SECONDS)

    def _start(self, transaction: Transaction) -> bool:
        """Tries to start the transaction's machine; it keeps waiting when that fails."""
        workspace = program.workspace(self._settings, transaction.digest)
        guest_cid = next(self._guest_cids)
        transaction.starts += 1
        try:
            task = Task.make(transaction.digest, workspace)
            # Before the machine starts: its first call must find it.
            running = self._running = Running(transaction, task, guest_cid)
            log("info", f"Tx:{transaction.digest} starting QEMU, guest CID {guest_cid}")
            running.machine = program.Machine(self._settings, transaction.digest, guest_cid, transaction.slowness)
        except (program.ProgramError, OSError) as error:
            self._running = None
            log("warn", f"tx {transaction.digest} - failed to start program: {error}")
            time.sleep(RETRY_SECONDS)
            return False
        self._pending.popleft()
        return True

    def _reap(self) -> None:
        """Ends the machine that is finished, ended by itself, or took too long."""
        running = self._running
        if running is None or running.machine is None:
            return
        transaction = running.transaction
        # No call may come in between.
        with self._calls:
            reason = self._overdue(running, running.machine)
            if not running.finished:
                if reason is None:
                    return
                transaction.error = program.ProgramError(f"{reason}: {running.machine.printed()}")
                log("warn", f"tx {transaction.digest} - {reason}")
            self._running = None
        running.machine.end()
        with contextlib.suppress(OSError):
            shutil.rmtree(running.task.workspace.parent)
        transaction.done.set()

    def _overdue(self, running: Running, machine: program.Machine) -> str | None:
        """Why a machine that is not finished is to be ended; None when it may go on."""
        now, patience = time.monotonic(), IDLE_SECONDS * running.transaction.slowness
        if machine.ended():
            return "the program's machine ended by itself"
        if running.taken is None and now - running.started > patience:
            return f"the program's machine made no call within {patience:.0f} s"
        if running.taken is not None and now - running.taken > RUN_SECONDS:
            return f"the program ran longer than {RUN_SECONDS:.0f} s"
        return None
