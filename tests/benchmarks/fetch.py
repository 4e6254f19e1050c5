"""Files of a machine, fetched over SSH with their modes."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from tests.lab.machine import Machine


def fetch(machine: Machine, place: str, names: Iterable[str], directory: Path) -> None:
    """Copy files and directories, by their names below a place on the machine, into a new directory here.

    Raises CalledProcessError when one is not there.
    """
    words = " ".join(quote(name) for name in names)
    # What is read from a machine is text.
    packed = machine.ssh(
        f"set -e; umask 077; cd {quote(place)}; tar -czf /run/fetched {words}; base64 /run/fetched; rm /run/fetched"
    )
    directory.mkdir()
    unpack = ["tar", "-C", str(directory), "--no-same-owner", "-xpzf", "-"]
    subprocess.run(unpack, input=base64.b64decode(packed.stdout), check=True)
