"""The command that prints the evidence: where one of its own programs fails, and in other shells."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from early_script import SHELLS
from tree import Machine

from pcibind.read import evidence_text

# It prints what it has so far, as one that the kernel ends for want of memory.
KILLED = '#!/bin/sh\ncase "$*" in *net/route*) /bin/grep "$@" | head -3; kill -9 $$ ;; esac\nexec /bin/grep "$@"\n'


def test_no_file_counts_as_read_after_a_grep_that_was_killed(tmp_path: Path) -> None:
    grep = tmp_path / "grep"
    grep.write_text(KILLED)
    grep.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", evidence_text.COMMAND], capture_output=True, env=environment)
    evidence = evidence_text.parse(done.stdout.decode(errors="replace").splitlines())
    blind = {guard for guard, _ in evidence.unreadable}
    assert {"default-route", "network", "ssh", "disk", "framebuffer", "nvidia-open"} <= blind


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_prints_the_same(machine: Machine, shell: str) -> None:
    paths = machine.paths
    environment = {**os.environ, "PCIBIND_SYS": paths.sys, "PCIBIND_PROC": paths.proc, "PCIBIND_RUN": paths.run}
    commands = [[shell, "sh"] if shell == "busybox" else [shell], ["sh"]]
    printed = [
        subprocess.run([*command, "-c", evidence_text.COMMAND], capture_output=True, env=environment)
        for command in commands
    ]
    assert printed[0].stdout == printed[1].stdout
    assert printed[0].stdout.splitlines()[-1] == b"pcibind-evidence end"


def test_no_function_has_a_name_that_a_shell_may_have_an_alias_for() -> None:
    # mksh has some, and an alias comes before a function: `login` would replace the shell.
    names = re.findall(r"^(\w+)\(\)", evidence_text.COMMAND, re.M)
    assert len(names) > 10
    assert all(name.startswith(("print_", "name_")) for name in names)
