"""The command line, and accesses that do not come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tree import Machine

import pcibind
from pcibind.commands.apply import apply
from pcibind.model.errors import MEANINGS

SOURCE = Path(pcibind.__file__).parent.parent


def pcibind_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As on a node: the directory itself is run, isolated from whatever else is installed.
    return subprocess.run([sys.executable, "-I", str(SOURCE), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["plan", "apply", "status", "release"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_exit_codes(command: str, flag: str) -> None:
    done = pcibind_command(command, flag)
    assert done.returncode == 0
    for code, meaning in MEANINGS.items():
        assert f"{code:d}  {meaning}" in done.stdout


def test_status_answers_in_json(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(machine.host)
    done = pcibind_command("--root", str(machine.root), "status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["command"] == "status"
    assert [board["state"] for board in document["boards"]] == ["bound", "bound"]


def test_errors_have_codes_of_their_own(machine: Machine) -> None:
    root = ("--root", str(machine.root))
    assert pcibind_command(*root, "apply").returncode == 2
    assert pcibind_command("explode").returncode == 2
    assert pcibind_command(*root, "apply", "--next-boot", "--recorded").returncode == 2
    machine.configure('[[board]]\naddress = "0000:00:03.0"\n')
    done = pcibind_command(*root, "plan", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["refusals"][0]["guard"] == "default-route"
    machine.configure('[[board]]\naddress = "0000:09:00.0"\n')
    assert pcibind_command(*root, "plan").returncode == 4
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    assert pcibind_command(*root, "status").returncode == 5


def test_boot_imports_neither_click_nor_pyudev() -> None:
    code = (
        "import sys; from pcibind.commands import attempt, boot, host;"
        "heavy = {'click', 'pyudev', 'tomllib', 'subprocess', 'dataclasses', 'pathlib', 'socket'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
