"""A long run says where it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab import journal
from tests.lab.progress import silent, step

pytestmark = pytest.mark.commands

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

LAB = """
import time
import pytest
from tests.lab.journal import entered

@pytest.fixture(scope="module")
def machine():
    with entered("booting lab-1 (two-boards)", boot=True):
        time.sleep(2.5)

def test_slow(machine): pass
def test_wrong(machine): assert 1 == 2
"""


def test_steps_counts_failures_boots_and_the_slowest_are_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(journal.VARIABLE, raising=False)
    pytester.makeconftest('pytest_plugins = ["tests.plugins.progress"]')
    pytester.makepyfile(LAB)
    pytester.makepyfile(test_quick="def test_quick(): pass")
    done = pytester.runpytest_subprocess("-q", "-n", "2", "--dist", "loadfile")
    text = done.stdout.str()
    assert re.search(r"^\[ +\d+ s\] \d of 3 tests \| booting lab-1 \(two-boards\) …$", text, re.M)
    assert re.search(r"^\[ +\d+ s\] \d of 3 tests, 1 FAILED \| FAILED \S+::test_wrong", text, re.M)
    assert re.search(r"^ +[23] s  \S+::test_slow$", text, re.M)
    assert re.search(r"^=+ 1 boots, [23] s =+\n +[23] s  booting lab-1 \(two-boards\)$", text, re.M)
    assert not re.search(r"^\.+", text, re.M)


def test_a_step_is_entered_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    monkeypatch.setenv(journal.VARIABLE, str(path))
    with step(silent, "deploying", takes="minutes"):
        begun, offset = journal.read(path)
    ended, _ = journal.read(path, offset)
    assert [(entry.doing, entry.seconds) for entry in begun] == [("deploying", None)]
    assert [entry.doing for entry in ended] == ["deploying"]
    assert ended[0].seconds is not None


def test_half_an_entry_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = b'{"process": 1, "doing": "x", "at": 1.0, "boot": true, "seconds": null}\n'
    path.write_bytes(whole + whole[:20])
    entries, offset = journal.read(path)
    assert (len(entries), offset) == (1, len(whole))
