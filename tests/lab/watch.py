"""The watch: a program runs, and is ended at once when a machine that it needs breaks."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

Watch = Callable[[], None]
"""Called every second while the program runs; raises what is to end it."""

_INTERVAL_SECONDS: Final = 1.0


def unwatched() -> None:
    """A watch that never ends anything."""


def run(
    words: Sequence[str],
    watch: Watch,
    *,
    timeout: float | None,
    stdin: str = "",
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its exit code and its output.

    Raises TimeoutExpired after `timeout` seconds and what `watch` raises; the program and all that it started in its
    process group are then killed.
    """
    end = None if timeout is None else time.monotonic() + timeout
    # From a file: Popen.communicate does not go on writing after it was interrupted.
    with tempfile.TemporaryFile("w+") as source:
        source.write(stdin)
        source.seek(0)
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    with process:
        try:
            while True:
                left = _INTERVAL_SECONDS if end is None else min(_INTERVAL_SECONDS, max(0.0, end - time.monotonic()))
                with suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=left)
                    return subprocess.CompletedProcess(list(words), process.returncode, output, errors)
                watch()
                if end is not None and time.monotonic() >= end:
                    raise subprocess.TimeoutExpired(list(words), timeout or 0)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
