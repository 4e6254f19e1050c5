"""Fixtures of the corpus' tests: real machines, laid out as files once for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from tests.corpus import machines, readers, sysfs_tree
from tests.corpus.sysfs_tree import Tree

# A machine is thousands of small files, as sysfs itself is: in memory where that can be had.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def room() -> Iterator[str]:
    """An empty directory for one more machine."""
    with tempfile.TemporaryDirectory(prefix="corpus-", dir=MEMORY) as directory:
        yield directory


@pytest.fixture(scope="session")
def rooms() -> Iterator[str]:
    """A directory for the machines that all tests share."""
    with tempfile.TemporaryDirectory(prefix="corpus-", dir=MEMORY) as directory:
        yield directory


@pytest.fixture(scope="session")
def build(rooms: str) -> Callable[[str], Tree]:
    """Lay a machine of the corpus out, by its name; tests only read it. Skips where the corpus is not there."""
    built: dict[str, Tree] = {}

    def lay_out(name: str) -> Tree:
        if not machines.path(name).exists():
            pytest.skip(f"the corpus of real machines is not at {machines.DIRECTORY}")
        if name not in built:
            built[name] = sysfs_tree.build(machines.load(name), f"{rooms}/{name}")
        return built[name]

    return lay_out


@pytest.fixture(scope="session")
def topology(build: Callable[[str], Tree]) -> Callable[[str], Topology]:
    """The topology of a machine of the corpus, by its name, as pcibind reads it; read once."""
    read: dict[str, Topology] = {}

    def look(name: str) -> Topology:
        root = build(name).root
        if name not in read:
            read[name] = readers.direct(root)
        return read[name]

    return look


@pytest.fixture(scope="session")
def evidence(build: Callable[[str], Tree]) -> Callable[[str], Evidence]:
    """What a machine of the corpus uses its devices for, by its name; read once."""
    read: dict[str, Evidence] = {}

    def look(name: str) -> Evidence:
        root = build(name).root
        if name not in read:
            read[name] = readers.evidence(root)
        return read[name]

    return look


@pytest.fixture(params=machines.names() or ("absent",))
def name(request: pytest.FixtureRequest) -> str:
    """The name of every machine of the corpus in turn."""
    machine_name: str = request.param
    return machine_name


@pytest.fixture
def machine(name: str, build: Callable[[str], Tree]) -> Tree:
    """Every machine of the corpus in turn."""
    return build(name)
