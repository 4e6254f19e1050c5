"""Waiting for files that the kernel makes."""

from __future__ import annotations

import threading
from pathlib import Path

from pcibind.read.nodes import wait


def test_what_is_there_is_not_waited_for(tmp_path: Path) -> None:
    assert wait([str(tmp_path)], 3600) == []


def test_nodes_that_are_still_missing_at_the_end_are_reported(tmp_path: Path) -> None:
    missing = str(tmp_path / "12")
    assert wait([str(tmp_path), missing], 0.3) == [missing]


def test_what_comes_meanwhile_is_found_without_an_event(tmp_path: Path) -> None:
    node = tmp_path / "12"
    threading.Timer(0.2, node.touch).start()
    assert wait([str(node)], 3600) == []
