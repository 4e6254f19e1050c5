"""What a whole command costs: time, processor time and memory, its children's too."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one whole process and all its descendants. Times in seconds, memory in MiB.

    `largest` is the most that one process had resident, `together` the most that all had at one time, each shared page
    divided among its users; both by samples. `hosts` is processor time on the other side of SSH.
    """

    wall: float
    processor: float
    largest: float
    together: float
    commands: int = 0
    connections: int = 0
    hosts: float = 0


def environment(*without: str) -> dict[str, str]:
    """This process's own environment for a command, less the variables that start with one of these words."""
    return {key: value for key, value in os.environ.items() if not key.startswith(without)}


def cost(words: Sequence[str], environment: Mapping[str, str], output: Path, codes: Sequence[int] = (0,)) -> Cost:
    """Run a command in the project's root. Raises RuntimeError when it ends with another code."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # A process for it alone: what the command leaves behind becomes that one's child, and so is counted and ended.
    runner = multiprocessing.get_context("fork").Process(
        target=_run, args=(list(words), dict(environment), output, theirs), daemon=False
    )
    runner.start()
    theirs.close()
    try:
        code, *figures = ours.recv()
    except EOFError:
        raise RuntimeError(f"{words[0]} could not be measured") from None
    except BaseException:
        runner.terminate()
        raise
    finally:
        runner.join()
    if code not in codes:
        tail = "\n".join(output.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{shlex.join(words)} ended with {code}:\n{tail}")
    return Cost(*figures)


_SET_CHILD_SUBREAPER = 36


def _run(words: list[str], environment: dict[str, str], log: Path, answer: Connection) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    memory = _Memory()
    try:
        with log.open("wb") as output:
            start = time.monotonic()
            process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            memory.start()
            code = process.wait()
            wall = time.monotonic() - start
        memory.stop()
    finally:
        # Ansible leaves its SSH connections open for the next command. Here each command starts anew.
        _end_all()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer.send((code, wall, usage.ru_utime + usage.ru_stime, memory.largest / 1024, memory.together / 1024))


def _end_all() -> None:
    """End all descendants of this process, and wait until they are gone."""
    patience = time.monotonic() + 5
    with suppress(ChildProcessError):
        while True:
            end = signal.SIGTERM if time.monotonic() < patience else signal.SIGKILL
            for child in children(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(child, end)
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


class _Memory(threading.Thread):
    """Looks at the memory of all descendants, in KiB, and takes a twentieth of one processor at most for it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = self.together = 0
        self._ended = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            start = time.thread_time()
            sizes = [_memory(process) for process in _descendants(os.getpid())]
            self.largest = max((self.largest, *(largest for largest, _ in sizes)))
            self.together = max(self.together, sum(shared for _, shared in sizes))
            pause = max(0.1, 20 * (time.thread_time() - start))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _memory(process: int) -> tuple[int, int]:
    """The most that a process had resident so far, and what it has now with shared pages divided; 0 when it is gone."""
    return _field(f"/proc/{process}/status", "VmHWM:"), _field(f"/proc/{process}/smaps_rollup", "Pss:")


def _field(path: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def children(process: int) -> list[int]:
    """All children of a process, of whichever of its threads."""
    processes: list[int] = []
    # It may end while it is looked at.
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with suppress(OSError):
                processes += map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())
    return processes


def _descendants(process: int) -> Iterator[int]:
    for child in children(process):
        yield child
        yield from _descendants(child)
