"""pcibind's own readers, at work on a machine made of files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pcibind.change import boot_files
from pcibind.commands.system import System
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from pcibind.read import evidence_text
from pcibind.read.files import Paths
from pcibind.remote import topology_text


def direct(root: str) -> Topology:
    """The topology below `root`, as pcibind reads it on a node."""
    return System(Paths(root)).topology()


def shell(root: str) -> Topology:
    """The topology below `root`, as it is read from afar. Raises CalledProcessError and ValueError."""
    return topology_text.parse(_run(topology_text.COMMAND, root))


def evidence(root: str) -> Evidence:
    """What the machine uses its devices for. Raises CalledProcessError and ValueError."""
    return evidence_text.parse(_run(evidence_text.COMMAND, root))


def run_early_script(root: str, early_list: str) -> None:
    """Set overrides as the initramfs does, by a list as `record.early_list` writes it. Raises CalledProcessError."""
    directory = Path(root)
    (directory / "early.list").write_text(early_list)
    environment = {"PCIBIND_LIST": str(directory / "early.list"), "PCIBIND_RUN": str(directory / "run")}
    _run(boot_files.script(), root, **environment)


def _run(script: str, root: str, **environment: str) -> list[str]:
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={
            # Not the whole environment: this may run over SSH, and what it says of that is evidence.
            "PATH": os.environ["PATH"],
            "PCIBIND_SYS": f"{root}/sys",
            "PCIBIND_PROC": f"{root}/proc",
            **environment,
        },
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=True,
    )
    if done.stderr:
        raise ValueError(f"{root}: {done.stderr}")
    return done.stdout.splitlines()
