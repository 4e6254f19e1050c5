"""Kernel accesses that may never return: what is asked, who asks it, and the time limit.

Unbinding waits for the old driver, without bound and out of reach of signals, and meanwhile holds
the device's lock, behind which even reading `driver_override` waits. So code that needs such
an access is a generator, a task, that yields it:

    override = yield kernel.read(paths.override(address))

The answer is sent in; an OSError is thrown in as the access raised it; and StuckError when it did
not come back in time.

Child processes make the accesses, of many tasks at the same time: most of an unbind is waiting for
a driver or for other processors. A child that does not answer in time is left behind.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import select
import time
from collections.abc import Generator, Iterable, Sequence

from pcibind.model.errors import StuckError
from pcibind.model.values import TYPE_CHECKING, NamedTuple
from pcibind.read import files

if TYPE_CHECKING:
    from typing import Any, Literal, Protocol, TypeVar

    T = TypeVar("T")

    Kind = Literal["read", "read-all", "write", "keep-open", "modprobe", "modules", "wait"]

    Task = Generator["Access", str, T]
    """Work that needs such accesses and returns a T."""

    class Kernel(Protocol):
        """What answers accesses: the one seam between decisions and the machine."""

        def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
            """Run the tasks; return their results, in their order. Raises what a task raises."""


SECONDS = 30.0
"""How long a write, or the loading of a module, may take before it counts as stuck."""

READ_SECONDS = 30.0
"""How long a read may take: that of a driver override waits for a probe of the device."""

OPEN_SECONDS = 5.0
"""How long opening a device node may take."""

AT_ONCE = 64
"""How many tasks run at the same time: each has up to four pipe ends; select() takes 1024."""

_LENGTH = 4
_KILL = 9  # signal.SIGKILL; importing `signal` costs more than all the rest of this module.


class Access(NamedTuple):
    """One access: what it is done to, what is written, and after how many seconds to give up."""

    kind: Kind
    targets: tuple[str, ...]
    text: str
    seconds: float

    def __str__(self) -> str:
        target = self.targets[0] if self.targets else "nothing"
        match self.kind:
            case "write":
                return f"writing {self.text.strip() or 'a newline'} to {target}"
            case "modprobe":
                return f"modprobe {target}"
            case "modules":
                return f"modprobe -R {target}"
            case "read-all":
                return "reading driver overrides"
            case "wait":
                return f"waiting for {', '.join(self.targets)}"
            case "keep-open":
                return f"opening {target}"
            case "read":
                return f"reading {target}"


def read(path: str, seconds: float = READ_SECONDS) -> Access:
    """Read a file; the answer is its text, stripped."""
    return Access("read", (path,), "", seconds)


def read_all(paths: Iterable[str]) -> Access:
    """Read many files; the answer has a line for each, an empty one where it cannot be read."""
    return Access("read-all", tuple(paths), "", READ_SECONDS)


def write(path: str, text: str) -> Access:
    """Write a sysfs attribute with one system call."""
    return Access("write", (path,), text, SECONDS)


def keep_open(path: str) -> Access:
    """Open a device node for reading and writing; it is closed when the task ends, however."""
    return Access("keep-open", (path,), "", OPEN_SECONDS)


def modprobe(name: str) -> Access:
    """Load a kernel module, by its name or by the alias of a device."""
    return Access("modprobe", (name,), "", SECONDS)


def modules(alias: str) -> Access:
    """List the modules for the alias of a device, those that a blacklist keeps away too."""
    return Access("modules", (alias,), "", SECONDS)


def wait(files: Iterable[str], seconds: float) -> Access:
    """Wait until these device nodes or drivers' files are there; the answer lists the missing."""
    # `seconds` is for the waiting itself, which ends on its own.
    return Access("wait", tuple(files), str(seconds), seconds + SECONDS)


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
    """The running kernel.

    What a task keeps open is kept by a child process of the task's own that does nothing else: a
    group's node is opened under the group's lock, which the start of a virtual machine holds while
    its device is reset, so that this process could wait for long; and a child that makes other
    accesses may be left behind in one, with a node open that no process can close.
    """

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._keepers: dict[int, Worker] = {}

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
                if following < len(tasks) and len(running) < AT_ONCE:
                    self._resume(tasks, following, None, results, running)
                    following += 1
                    continue
                left = min(run.deadline for run in running) - time.monotonic()
                readable = select.select(
                    [run.worker.descriptor for run in running], [], [], max(left, 0)
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
                self._drop_keeper(run)
                run.worker.abandon()
            while self._keepers:
                self._keepers.popitem()[1].dismiss()
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
            self._drop_keeper(run)
            run.worker.dismiss()
        elif run.access.kind != "keep-open":
            self._idle.append(run.worker)
        self._resume(tasks, run.number, answer, results, running)

    def _give_up(
        self, tasks: Sequence[Task[T]], run: _Run, results: dict[int, T], running: list[_Run]
    ) -> None:
        self._drop_keeper(run)
        run.worker.abandon()
        error = StuckError(
            f"{run.access} did not come back within {run.access.seconds:g} s", run.worker.process
        )
        self._resume(tasks, run.number, error, results, running)

    def _drop_keeper(self, run: _Run) -> None:
        if run.access.kind == "keep-open":
            del self._keepers[run.number]

    def _resume(
        self,
        tasks: Sequence[Task[T]],
        number: int,
        answer: str | Exception | None,
        results: dict[int, T],
        running: list[_Run],
    ) -> None:
        """Give a task its answer, and start the access that it asks for next."""
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
            if keeper := self._keepers.pop(number, None):
                keeper.dismiss()
            return
        if access.kind == "keep-open":
            worker = self._keepers[number] = self._keepers.get(number) or Worker()
        else:
            worker = self._idle.pop() if self._idle else Worker()
        worker.ask(access)
        running.append(_Run(number, worker, access))


class Worker:
    """A child process that makes accesses one after the other, and may be left behind in one.

    This is the parent's side: it asks, and may wait for `descriptor` to become readable.
    """

    def __init__(self) -> None:
        request, self._ask = os.pipe()
        self.descriptor, answer = os.pipe()
        self.gone = False
        self.process = os.fork()
        if self.process == 0:
            _serve(request, answer)
        os.close(request)
        os.close(answer)

    def ask(self, access: Access) -> None:
        """Start an access. One at a time: its answer must be taken before the next."""
        with contextlib.suppress(BrokenPipeError):
            _send(self._ask, (access.kind, access.targets, access.text))

    def answer(self) -> str:
        """The answer to what was asked; raises OSError as the access did."""
        received = _receive(self.descriptor)
        if received is None:
            self.gone = True
            raise OSError(0, "the process that made the access ended without an answer")
        number, text = received
        if number is not None:
            raise OSError(number, text)
        return str(text)

    def dismiss(self) -> None:
        """End the child, which waits for the next request, and with it what it has open."""
        self._close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, 0)

    def abandon(self) -> None:
        """Leave the child behind, in an access that does not come back."""
        self._close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, _KILL)
        # It dies when the kernel lets go of it; waiting for that is what must not happen here.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, os.WNOHANG)

    def _close(self) -> None:
        os.close(self._ask)
        os.close(self.descriptor)


def _serve(request: int, answer: int) -> None:
    """The child's side, until the parent closes its end, or dies. Never returns."""
    try:
        request, answer = _above_standard_streams(request), _above_standard_streams(answer)
        # A child that is left behind must keep nothing of its parent's: not the lock of this run,
        # not the terminal's or the SSH session's output, not the pipes of other children.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in (0, 1, 2, request, answer):
                with contextlib.suppress(OSError):
                    os.close(int(name))
        while (asked := _receive(request)) is not None:
            try:
                _send(answer, (None, _perform(*asked)))
            except OSError as error:
                _send(answer, (error.errno or 0, error.strerror or str(error)))
            except Exception as error:
                _send(answer, (0, f"{type(error).__name__}: {error}"))
    finally:
        # Past the handlers and buffers that belong to the parent.
        os._exit(0)


def _above_standard_streams(descriptor: int) -> int:
    """The same, not as standard input or output, which a parent may have closed."""
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    return descriptor


def _perform(kind: str, targets: tuple[str, ...], text: str) -> str:
    match kind:
        case "read":
            return files.read_attribute(targets[0])
        case "read-all":
            return "\n".join(_read_or_empty(path) for path in targets)
        case "write":
            descriptor = os.open(targets[0], os.O_WRONLY)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        case "keep-open":
            # Closed by the end of this process.
            os.open(targets[0], os.O_RDWR)
        case "modprobe":
            _modprobe("--", targets[0])
        case "modules":
            return _modprobe("--resolve-alias", "--", targets[0])
        case "wait":
            from pcibind.read import nodes

            return " ".join(nodes.wait(targets, float(text)))
    return ""


def _read_or_empty(path: str) -> str:
    try:
        return files.read_attribute(path)
    except OSError as error:
        # Of a device that is gone nothing is needed; any other has a value, which is unknown then.
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return ""


def _modprobe(*words: str) -> str:
    reader, writer = os.pipe()
    redirections = [(os.POSIX_SPAWN_DUP2, writer, number) for number in (1, 2)]
    process = os.posix_spawnp(
        "modprobe", ["modprobe", *words], os.environ, file_actions=redirections
    )
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as file:
        output = file.read().strip()
    if code := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise OSError(0, f"modprobe {words[-1]} ended with {code}: {output}")
    return output


def _send(descriptor: int, value: tuple[Any, ...]) -> None:
    data = marshal.dumps(value)
    data = len(data).to_bytes(_LENGTH, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int) -> tuple[Any, ...] | None:
    """What the other side sent; None when it is gone."""
    length = _read_exactly(descriptor, _LENGTH)
    data = _read_exactly(descriptor, int.from_bytes(length, "big")) if length else b""
    value: tuple[Any, ...] | None = marshal.loads(data) if data else None
    return value


def _read_exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = os.read(descriptor, count - len(data))
        if not chunk:
            return b""
        data += chunk
    return data
