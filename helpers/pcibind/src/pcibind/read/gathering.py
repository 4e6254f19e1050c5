"""Evidence that is gathered by a shell of its own while this process does something else."""

from __future__ import annotations

import contextlib
import os
import select
import time

from pcibind.model.errors import PcibindError
from pcibind.model.evidence import Evidence
from pcibind.read import evidence_text
from pcibind.read.files import Paths

SECONDS = 60.0
_KILL = 9


class Gathering:
    """A shell that looks at what the host uses; to be used in a `with`, which ends it."""

    def __init__(self, paths: Paths) -> None:
        """Start it. Raises PcibindError when there is no shell to start."""
        environment = {**os.environ, "PCIBIND_SYS": paths.sys, "PCIBIND_PROC": paths.proc}
        environment["PCIBIND_RUN"] = paths.run
        self._output, output = os.pipe()
        try:
            # Not by `subprocess`, which takes longer to import than the shell to start.
            self._process = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", evidence_text.COMMAND],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)],
                setpgroup=0,
            )
        except OSError as error:
            os.close(self._output)
            raise PcibindError(f"cannot tell what this host uses: {error}") from error
        finally:
            os.close(output)

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._output)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, _KILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def evidence(self) -> Evidence:
        """Wait for the shell's output and read it. Raises PcibindError when it is of no use."""
        deadline = time.monotonic() + SECONDS
        text = b""
        while True:
            ready, _, _ = select.select([self._output], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise PcibindError(f"cannot tell what this host uses: no answer in {SECONDS:g} s")
            chunk = os.read(self._output, 65536)
            if not chunk:
                break
            text += chunk
        try:
            return evidence_text.parse(text.decode(errors="replace").removesuffix("\n").split("\n"))
        except ValueError as error:
            raise PcibindError(f"cannot tell what this host uses: {error}") from error
