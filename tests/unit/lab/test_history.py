"""Histories: what is done to a disk, and that a machine without it is noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab.guest import File
from tests.lab.history import HISTORIES, History, HistoryError, named

ALL = pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)


@ALL
def test_every_history_is_a_script_of_sh(history: History) -> None:
    done = subprocess.run(["sh", "-n"], input=history.preparation.script, capture_output=True, text=True)
    assert done.stderr == ""
    assert history.preparation.script.startswith("set -eu\n")


@ALL
def test_a_changed_boot_menu_is_made_anew(history: History) -> None:
    touches_grub = any(file.path.startswith(("/etc/default/grub.d/", "/etc/grub.d/")) for file in history.files)
    assert touches_grub == ("update-grub" in history.script)


def test_no_two_histories_are_the_same() -> None:
    assert len({history.preparation.key for history in HISTORIES.values()}) == len(HISTORIES)


def test_files_are_written_as_they_stand_and_then_the_script_runs(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    text = 'LINE="$LINE `x` \\n"\n'
    history = History("made-up", "", "", "", (File(str(path), text, 0o640),), f"cp -p {path} {path}.copy\n")
    subprocess.run(["sh"], input=history.preparation.script, text=True, check=True)
    assert path.read_text() == path.with_suffix(".copy").read_text() == text
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_unknown_history_is_refused_with_those_there_are() -> None:
    with pytest.raises(HistoryError, match="no history 'none': there are grub-drop-in-assigns, "):
        named("none")
