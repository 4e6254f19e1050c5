"""Kernel accesses that may never come back, made where they can be given up on.

Unbinding waits for the old driver, without bound and out of reach of signals; on Linux 6.1 even
reading `driver_override` waits behind it. So each such access is made in a forked child, and
the parent stops waiting when its time is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pcibind.errors import StuckError

DEFAULT_SECONDS = 30.0


class SysfsWriter(Protocol):
    """What changes the kernel's state: the one seam between decisions and the machine."""

    def write(self, path: Path, text: str) -> None:
        """Write a sysfs attribute; raise OSError, or StuckError when it does not come back."""

    def load_module(self, name: str) -> None:
        """Load a kernel module; raise OSError when it cannot be loaded, StuckError as above."""


class BoundedWriter:
    """Writes to the running kernel, each write given up on after `seconds`."""

    def __init__(self, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds

    def write(self, path: Path, text: str) -> None:
        """Write a sysfs attribute with one system call, as sysfs wants it."""

        def access() -> str:
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, text.encode())
            return ""

        call(access, self.seconds, f"writing {text.strip() or 'a newline'} to {path}")

    def load_module(self, name: str) -> None:
        """Run modprobe."""

        def access() -> str:
            # Rarely needed (the unit orders itself after modprobe@vfio_pci), slow to import.
            import subprocess

            done = subprocess.run(
                ["modprobe", "--", name], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise OSError(done.returncode, f"modprobe {name}: {done.stderr.strip()}")
            return ""

        call(access, self.seconds, f"modprobe {name}")


def call(access: Callable[[], str], seconds: float, what: str) -> str:
    """Run `access` in a child and return its text.

    Raises OSError as the access did, and StuckError naming `what` after `seconds`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(access, reader, writer)
    os.close(writer)
    try:
        answer = _receive(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
    if answer is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        # It dies when the kernel lets go of it; waiting for that is what must not happen here.
        os.waitpid(child, os.WNOHANG)
        raise StuckError(f"{what} did not come back within {seconds:g} s", child)
    os.waitpid(child, 0)
    kind, _, text = answer.partition("\n")
    if kind == "ok":
        return text
    number, _, message = text.partition(" ")
    raise OSError(int(number or 0), message or f"{what} ended without an answer")


def _answer(access: Callable[[], str], reader: int, writer: int) -> None:
    """The child's side: one answer, then out, past the parent's clean-up handlers."""
    try:
        os.close(reader)
        try:
            answer = f"ok\n{access()}"
        except OSError as error:
            answer = f"error\n{error.errno or 0} {error.strerror or error}"
        except BaseException as error:
            answer = f"error\n0 {type(error).__name__}: {error}"
        data = answer.encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _receive(reader: int, deadline: float) -> str | None:
    """Everything until the child closes its end; None when the time is over first."""
    received = b""
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([reader], [], [], max(left, 0))
        if not ready:
            return None
        chunk = os.read(reader, 65536)
        if not chunk:
            return received.decode(errors="replace")
        received += chunk
