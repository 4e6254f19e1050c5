"""Fixtures of pcibind's unit tests: a machine in a temporary directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# So that `tree` is found whatever import mode pytest runs in.
sys.path.insert(0, str(Path(__file__).parent))

from topologies import somewhere
from tree import Machine, gpu_host


@pytest.fixture(autouse=True)
def its_own_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of a machine's device nodes are those that its files tell."""
    monkeypatch.setenv("PATH", f"{Path(__file__).parent}/bin", prepend=":")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A host with two boards of three functions, a NIC with the default route, and a disk."""
    with somewhere() as directory:
        yield gpu_host(directory)
