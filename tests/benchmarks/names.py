"""Many names for one SSH server, as inventories of pyinfra and of Ansible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.login import Login

_CONFIG = """\
[defaults]
host_key_checking = True
retry_files_enabled = False
[connection]
pipelining = True
[ssh_connection]
control_path_dir = {directory}/c
usetty = False
"""


def numbered(count: int) -> list[str]:
    return [f"node{number:03}" for number in range(1, count + 1)]


def write(
    directory: Path,
    names: Sequence[str],
    login: Login,
    data: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Write `nodes.py` for pyinfra, `nodes.json` and `ansible.cfg` for Ansible.

    Every name has the host data `data` for pyinfra, and the `variables` for Ansible, beside how it is reached.
    """
    every = {**(data or {}), **login.pyinfra()}
    text = "".join(f"    ({name!r}, {every!r}),\n" for name in names)
    (directory / "nodes.py").write_text(f"nodes = [\n{text}]\n")
    hosts = {
        # By itself Ansible would take one connection for all names, since they lead to one address.
        name: {"ansible_control_path": f"%(directory)s/{name}"}
        for name in names
    }
    inventory = {"all": {"hosts": hosts, "vars": {**login.ansible(), **(variables or {})}}}
    (directory / "nodes.json").write_text(json.dumps(inventory, indent=1))
    (directory / "ansible.cfg").write_text(_CONFIG.format(directory=directory))
