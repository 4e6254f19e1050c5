"""Machines of the lab as pyinfra's hosts."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.lab import cache
from tests.lab.machine import Machine, MachineError, machines

REGISTRY = "registry.lab:5000"
BOARD_MODEL = "1234:1111"
"""QEMU's bochs-display, the display function of the lab's boards."""


def passphrase() -> str:
    """A passphrase for this computer's lab, made once."""
    path = Path(cache.directory()) / "passphrase"
    with cache.locked(path):
        if not path.exists():
            half = cache.unfinished(path)
            half.touch(mode=0o600)
            half.write_text(f"lab {secrets.token_hex(12)} with a space, a $ and a %\n")
            half.rename(path)
    return path.read_text().rstrip("\n")


def data(machine: Machine, *, user: str = "root") -> dict[str, Any]:
    """The host data of one machine. As `operator`, sudo is used. $GEVULOT_LAB_POSTGRES: the release, 16 or 15."""
    release = os.environ.get("GEVULOT_LAB_POSTGRES", "16")
    if release not in ("15", "16"):
        raise MachineError(f"GEVULOT_LAB_POSTGRES is {release!r}; expected 15 or 16, the releases that the lab has")
    values: dict[str, Any] = {
        "ssh_hostname": machine.host,
        "ssh_port": machine.port,
        "ssh_user": user,
        "ssh_key": str(machine.key),
        "ssh_known_hosts_file": str(machine.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
        "gevulot_node_image": f"{REGISTRY}/stand-in/gevulot-node:latest",
        "gevulot_postgres_image": f"{REGISTRY}/stand-in/postgres:{release}",
        "gevulot_postgres_release": int(release),
        "gevulot_boards": [BOARD_MODEL] if machine.topology.boards else [],
        "gevulot_psk_passphrase": passphrase,
        "gevulot_probe_ports": dict(machine.forwards),
    }
    if user != "root":
        values["_sudo"] = True
    return values


def source(machine: Machine, *, user: str = "root") -> str:
    """One machine as a line of Python for an inventory file: its name and its host data.

    A secret is not spelled out: it stays the name of the function here that reads it.
    """
    items = data(machine, user=user).items()
    pairs = (f"{key!r}: {value.__name__ if callable(value) else repr(value)}" for key, value in items)
    return f"({machine.name!r}, {{{', '.join(pairs)}}})"


def hosts() -> list[tuple[str, dict[str, Any]]]:
    """All running machines as pyinfra's hosts.

    GEVULOT_LAB_MACHINES (names with commas between) chooses among them; GEVULOT_LAB_USER is who logs in.
    """
    user = os.environ.get("GEVULOT_LAB_USER", "root")
    chosen = os.environ.get("GEVULOT_LAB_MACHINES")
    entries = []
    for name in machines():
        if chosen is None or name in chosen.split(","):
            # One of another run may end between two looks.
            with suppress(MachineError):
                machine = Machine.attach(name)
                if machine.running:
                    entries.append((name, data(machine, user=user)))
    return entries
