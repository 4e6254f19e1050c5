"""How a tool logs in to an SSH server: the settings of pyinfra and of Ansible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Login:
    """An address, who logs in there with which private key, and the file that names the server's own key."""

    address: str
    port: int
    user: str
    key: Path
    known_hosts: Path

    def pyinfra(self) -> dict[str, Any]:
        """As host data."""
        return {
            "ssh_hostname": self.address,
            "ssh_port": self.port,
            "ssh_user": self.user,
            "ssh_key": str(self.key),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
        }

    def ansible(self, persist: int = 60) -> dict[str, Any]:
        """The same as variables of a group. An idle connection is kept for `persist` seconds: Ansible's default."""
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.key),
            # The defaults, and the same care for host keys.
            "ansible_ssh_args": (
                f"-F /dev/null -o ControlMaster=auto -o ControlPersist={persist}s -o IdentitiesOnly=yes "
                f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={self.known_hosts}"
            ),
            # Spares it a command on each host that looks for one.
            "ansible_python_interpreter": "/usr/bin/python3",
        }
