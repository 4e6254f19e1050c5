"""Every shell script and command of ours, as ShellCheck reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.deploys import test_templates
from tests.unit.facts import test_facts_commands

ROOT = Path(__file__).parents[2]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
# A command's several words are several arguments (SC2046); a sourced file is not there (SC1091); a question mark stands
# for the name of a process that cannot be read (SC2125).
OPTIONS = ("--severity=warning", "--exclude=SC2046,SC1091,SC2125", "--format=gcc")


def scripts() -> list[Path]:
    """The scripts that stand in files of their own."""
    places = (
        ROOT / "deploys/scripts",
        ROOT / "helpers/pcibind/src",
        ROOT / "helpers/pcibind/debian",
        ROOT / "tests/lab",
    )
    paths = [
        path for place in places for path in place.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    return [ROOT / ".ci/run", *(path for path in paths if path.suffix == ".sh" or is_shell(path.read_bytes()))]


def is_shell(text: bytes) -> bool:
    return text.startswith((b"#!/bin/sh", b"#! /bin/sh"))


def generated() -> dict[str, str]:
    """The scripts and commands that a run makes, by the name of what makes them."""
    rendered = {Path(path).name: test_templates.render(path) for path in test_templates.VARIABLES}
    return test_facts_commands.COMMANDS | {name: text for name, text in rendered.items() if is_shell(text.encode())}


def findings(paths: list[Path]) -> list[str]:
    """What ShellCheck finds, one line each. A file that names no interpreter is for a POSIX shell."""
    lines = []
    for options, group in (
        ((), [path for path in paths if path.read_bytes().startswith(b"#!")]),
        (("--shell=sh",), [path for path in paths if not path.read_bytes().startswith(b"#!")]),
    ):
        if group:
            done = subprocess.run([SHELLCHECK, *OPTIONS, *options, *group], capture_output=True, text=True)
            assert done.stderr == ""
            lines += done.stdout.splitlines()
    return lines


def test_shellcheck_finds_nothing_in_our_scripts_and_commands(tmp_path: Path) -> None:
    files = scripts()
    assert len(files) > 10
    for name, text in generated().items():
        files.append(tmp_path / name)
        files[-1].write_text(f"{text}\n")
    assert findings(files) == []


@pytest.mark.parametrize("text", ["x=$(cat a)\nrm -r $undefined/*\n", "echo 'open\n"])
def test_what_it_must_find_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "script").write_text(text)
    assert findings([tmp_path / "script"])
