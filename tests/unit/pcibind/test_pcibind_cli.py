"""The command line, and accesses that do not come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tree import Machine

import pcibind
from pcibind import bounded
from pcibind.apply import apply
from pcibind.errors import MEANINGS, StuckError

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
        "import sys; from pcibind import apply, attempt, host;"
        "print(sorted({'click', 'pyudev', 'tomllib', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_an_access_that_does_not_come_back_is_given_up_on() -> None:
    started = time.monotonic()
    with pytest.raises(StuckError, match=r"sleeping did not come back within 0\.1 s") as caught:
        bounded.call(lambda: str(time.sleep(60)), 0.1, "sleeping")
    assert time.monotonic() - started < 5
    assert caught.value.process


def test_an_access_answers_or_fails_as_it_would_here(tmp_path: Path) -> None:
    text = "x" * 300_000
    assert bounded.call(lambda: text, 10, "answering") == text
    with pytest.raises(FileNotFoundError, match="No such file"):
        bounded.call(lambda: (tmp_path / "missing").read_text(), 10, "reading")
    bounded.BoundedWriter(10).write(Path("/dev/null"), "x")
