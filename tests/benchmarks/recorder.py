"""A second way into a machine of the lab, by a key of its own, on which all that is asked and answered is recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import answers
from tests.benchmarks.answers import Record
from tests.benchmarks.fetch import fetch
from tests.benchmarks.login import Login
from tests.lab.hostpackages import program
from tests.lab.machine import Machine

_PLACE = "/root/recorder"
_KEYS = "/root/.ssh/authorized_keys"
_CLEAR = f"sed -i '\\|{_PLACE}/run|d' {_KEYS}; rm -rf {_PLACE}"


@dataclass(frozen=True, slots=True)
class Recorder:
    """The recorder of a machine: how a tool logs in to it, and what it heard."""

    machine: Machine
    key: Path

    @property
    def login(self) -> Login:
        return Login(self.machine.host, self.machine.port, "root", self.key, self.machine.known_hosts)

    def take(self, directory: Path) -> Record:
        """What was recorded since the last time, in a new directory. Raises ValueError as `answers.read` does."""
        fetch(self.machine, _PLACE, ("answers",), directory)
        self.machine.ssh(f"cd {_PLACE} && rm -r answers counts")
        return answers.read(directory)


@contextmanager
def recorder(machine: Machine, directory: Path) -> Iterator[Recorder]:
    """Set the recorder up, with its key in a directory here; leaving the block takes it away again."""
    key = directory / "recorded"
    subprocess.run(
        [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, stdin=subprocess.DEVNULL
    )
    # Secrets are among the answers: nobody but root may look.
    machine.ssh(f"{_CLEAR}; mkdir -m 700 {_PLACE} && cat >{_PLACE}/run", stdin=answers.record(_PLACE))
    try:
        public = key.with_name(f"{key.name}.pub").read_text()
        machine.ssh(f"cat >>{_KEYS}", stdin=f'command="exec /bin/sh {_PLACE}/run" {public}')
        yield Recorder(machine, key)
    finally:
        machine.ssh(_CLEAR)
