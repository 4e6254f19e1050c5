"""The record of a machine: another process finds what the one before wrote."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.board import GPU
from tests.lab.record import Record
from tests.lab.topology import TOPOLOGIES, Topology, named

FILE = "machine.json"


def record(topology: Topology) -> Record:
    return Record(
        topology=topology.name,
        memory_mib=4096,
        cpus=2,
        accelerator=("tcg", "max"),
        forwards=((40022, 22), (49999, 9999)),
        registry=None,
        pid=1,
        start=2,
        owner=(3, 4),
        ports=topology.ports,
        snapshots=(("clean", named("ports")),),
    )


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_record_is_read_as_it_was_written(topology: Topology, tmp_path: Path) -> None:
    record(topology).save(tmp_path)
    assert Record.load(tmp_path / FILE) == record(topology)
    assert Record.load(tmp_path / FILE).hardware.topology == topology


def test_boards_that_came_and_went_are_found_again(tmp_path: Path) -> None:
    now = named("ports").holding(0x6, GPU).holding(0x4, None)
    record(now).save(tmp_path)
    assert Record.load(tmp_path / FILE).hardware.topology.boards == now.boards


def test_a_topology_that_has_no_name_of_its_own_is_found_again(tmp_path: Path) -> None:
    made = Topology("made-up", named("one-board").ports)
    record(made).save(tmp_path)
    assert Record.load(tmp_path / FILE).hardware.topology == made


def test_a_record_without_ports_means_those_of_its_topology(tmp_path: Path) -> None:
    record(named("two-boards")).save(tmp_path)
    path = tmp_path / FILE
    data = json.loads(path.read_text())
    del data["ports"], data["snapshots"]
    path.write_text(json.dumps(data))
    found = Record.load(path)
    assert found == replace(record(named("two-boards")), ports=None, snapshots=())
    assert found.hardware.topology == named("two-boards")
