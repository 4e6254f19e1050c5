"""A child process that makes kernel accesses one after the other, and may be left behind in one."""

from __future__ import annotations

import contextlib
import marshal
import os
from typing import Any

from pcibind.read.access import Access

_LENGTH = 4
_KILL = 9  # signal.SIGKILL; importing `signal` costs more than all the rest of this module.


class Worker:
    """The parent's side: asks, and may wait for `descriptor` to become readable."""

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
        """End the child, which waits for the next request."""
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
    """The child's side, until the parent closes its end. Never returns."""
    try:
        request, answer = _above_standard(request), _above_standard(answer)
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


def _above_standard(descriptor: int) -> int:
    """The same, not as standard input or output, which a parent may have closed."""
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    return descriptor


def _perform(kind: str, targets: tuple[str, ...], text: str) -> str:
    match kind:
        case "read":
            return _text(targets[0])
        case "read-all":
            return "\n".join(_text_or_nothing(path) for path in targets)
        case "write":
            descriptor = os.open(targets[0], os.O_WRONLY)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        case "open":
            os.close(os.open(targets[0], os.O_RDWR))
        case "modprobe":
            _modprobe("--", targets[0])
        case "modules":
            return _modprobe("--resolve-alias", "--", targets[0])
        case "wait":
            from pcibind.read import nodes

            return " ".join(nodes.wait(targets, float(text)))
    return ""


def _text(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # An attribute of sysfs has a page at most.
        return os.read(descriptor, 4096).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def _text_or_nothing(path: str) -> str:
    try:
        return _text(path)
    except OSError:
        return ""


def _modprobe(*words: str) -> str:
    reader, writer = os.pipe()
    redirections = [(os.POSIX_SPAWN_DUP2, writer, number) for number in (1, 2)]
    process = os.posix_spawnp(
        "modprobe", ["modprobe", *words], os.environ, file_actions=redirections
    )
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as file:
        said = file.read().strip()
    if code := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise OSError(0, f"modprobe {words[-1]} ended with {code}: {said}")
    return said


def _send(descriptor: int, value: tuple[Any, ...]) -> None:
    data = marshal.dumps(value)
    data = len(data).to_bytes(_LENGTH, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int) -> tuple[Any, ...] | None:
    """What the other side sent; None when it is gone."""
    length = _exactly(descriptor, _LENGTH)
    data = _exactly(descriptor, int.from_bytes(length, "big")) if length else b""
    value: tuple[Any, ...] | None = marshal.loads(data) if data else None
    return value


def _exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = os.read(descriptor, count - len(data))
        if not chunk:
            return b""
        data += chunk
    return data
