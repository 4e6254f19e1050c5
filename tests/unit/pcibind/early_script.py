"""The early script as udev runs it, on a machine of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tree import Machine

from pcibind.change import boot_files

SHELLS = [shell for shell in ("dash", "busybox", "bash", "mksh") if shutil.which(shell)]


def run_script(
    machine: Machine, shell: str = "dash", action: str = "", address: str = "", *, booting: bool = True
) -> int:
    """Run it for the first PCI event, or for a later one: `action` of the function at an address.

    While `booting`, pcibind has not run yet.
    """
    if booting and not action:
        Path(machine.paths.lock).unlink(missing_ok=True)
    script = machine.root / "early"
    script.write_text(boot_files.script())
    command = [shell, "sh", str(script)] if shell == "busybox" else [shell, str(script)]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PCIBIND_SYS": str(machine.root / "sys"),
        "PCIBIND_PROC": str(machine.root / "proc"),
        "PCIBIND_LIST": machine.paths.early_list,
        "PCIBIND_RUN": machine.paths.run,
        "ACTION": action or "add",
    }
    if action:
        slot = f"0000:00:{int(address[5:7]):02x}.0"
        environment["DEVPATH"] = f"/devices/pci0000:00/{slot}/{address}"
        command.append("event")
    return subprocess.run(command, env=environment, check=False).returncode


def notes(machine: Machine) -> set[str]:
    """The functions that the script noted to have taken."""
    return set(Path(machine.paths.taken).read_text().split())


def events(machine: Machine) -> list[str]:
    """The events that the path unit sees."""
    try:
        return sorted(name for name in os.listdir(machine.paths.events) if not name.startswith("."))
    except FileNotFoundError:
        return []
