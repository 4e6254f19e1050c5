"""A stage that failed once in a run is not played again by each process of that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import journal
from tests.lab.stage import StageFailed, _Failure


def test_the_other_processes_of_the_run_get_the_reason_and_the_next_run_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(journal.VARIABLE, "/tmp/one")
    _Failure(tmp_path / "node.failed").note(AssertionError("the deploy ended with 1\nand much output"))
    with pytest.raises(StageFailed, match=r"failed in this run already: AssertionError: the deploy ended with 1$"):
        _Failure(tmp_path / "node.failed").raise_for_this_run("node")
    monkeypatch.setenv(journal.VARIABLE, "/tmp/two")
    _Failure(tmp_path / "node.failed").raise_for_this_run("node")
    assert not (tmp_path / "node.failed").exists()


def test_a_note_that_is_cut_short_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(journal.VARIABLE, "/tmp/one")
    (tmp_path / "node.failed").write_text('["/tmp/o')
    _Failure(tmp_path / "node.failed").raise_for_this_run("node")
    assert not (tmp_path / "node.failed").exists()
