"""The same look at a fleet as an Ansible playbook."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploys.fleet.inspection import parts
from deploys.settings import read_without_secrets
from facts.batch import FactBatch
from tests.lab import cache
from tests.lab.progress import Progress, step

MOST_FORKS = 100

# What makes the playbook equivalent: it asks for the same parts, by the very same shell commands, and writes all that
# it found into one file. It is meant as somebody would write it who wants it to be quick: the platform and the space
# on the volumes come from the setup module, of whose facts only those that hold them are asked for, and the rest are
# five tasks, not one for each question; connections are kept, modules are pipelined, there is a fork for every
# host, and no interpreter is looked for. It does not judge what it found, while our side does.
_TASKS = {
    "pci": ("topology", "usage", "record", "binding"),
    "boot": ("lines", "remapping", "modules", "stale_initramfs", "initramfs", "reboot_required"),
    "units": ("units",),
    "podman": ("container", "secrets", "schema"),
}
_REST = "node"
_FROM_SETUP = ("platform", "space")

_PLAY = """\
- hosts: all
  gather_facts: {facts}
  gather_subset: ["!all", "hardware"]
  tasks:
"""
_TASK = """\
    - name: Ask for {name}
      {module}: !unsafe {command}
      register: {name}
      changed_when: false
"""
_WRITE = """\
    - name: Write what was found
      ansible.builtin.copy:
        dest: {answer}
        content: "{{{{ {{{names}}} | to_json }}}}"
      delegate_to: localhost
      run_once: true
"""
_OF_ALL = "'{name}': dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, '{name}'){attribute}))"


def playbooks(answer: Path) -> dict[str, str]:
    """Two playbooks by the names of their files: one as above, and one that runs our one command, by the raw module.

    The second shows the least that Ansible can do: no Python runs on the hosts.
    """
    asked = parts(read_without_secrets("host", {}))
    groups: dict[str, list[Any]] = {name: [] for name in (*_TASKS, _REST)}
    for part in asked:
        if part.name not in _FROM_SETUP:
            task = next((name for name, names in _TASKS.items() if part.name in names), _REST)
            groups[task].append(part)
    tasks = "".join(
        _TASK.format(name=name, module="ansible.builtin.shell", command=_command(group))
        for name, group in groups.items()
    )
    one = _TASK.format(name="all", module="ansible.builtin.raw", command=_command(asked))
    return {
        "questions.yml": _PLAY.format(facts="true") + tasks + _written(answer, tuple(groups), facts=True),
        "one.yml": _PLAY.format(facts="false") + one + _written(answer, ("all",), facts=False),
    }


def _command(asked: Sequence[Any]) -> str:
    # A JSON string is one of YAML.
    return json.dumps(FactBatch().command(parts=tuple(asked)))


def _written(answer: Path, names: Sequence[str], *, facts: bool) -> str:
    values = [_OF_ALL.format(name=name, attribute=" | map(attribute='stdout_lines')") for name in names]
    if facts:
        values.append(_OF_ALL.format(name="ansible_facts", attribute=""))
    return _WRITE.format(answer=answer, names=", ".join(values))


def install_ansible(say: Progress) -> Path:
    """The directory of a virtual environment with ansible-core, made when the cache has none."""
    path = cache.directory() / "ansible"
    with cache.locked(path):
        if not (path / "ready").exists():
            with step(say, "installing ansible-core into the cache"):
                subprocess.run([sys.executable, "-m", "venv", "--clear", str(path)], check=True)
                pip = [f"{path}/bin/pip", "install", "-q", "--disable-pip-version-check", "ansible-core"]
                subprocess.run(pip, check=True)
            (path / "ready").touch()
    return path
