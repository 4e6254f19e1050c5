"""The record of a machine: another process finds what the one before wrote."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import qemu
from tests.lab import record as records
from tests.lab.board import GPU
from tests.lab.platform import Firmware, Iommu
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


def test_the_mainboard_is_found_again(tmp_path: Path) -> None:
    replace(record(named("switch")), firmware=Firmware.UEFI, iommu=Iommu.AMD).save(tmp_path)
    hardware = Record.load(tmp_path / FILE).hardware
    assert (hardware.firmware, hardware.iommu, hardware.topology) == (Firmware.UEFI, Iommu.AMD, named("switch"))


def test_a_record_without_ports_means_those_of_its_topology(tmp_path: Path) -> None:
    record(named("two-boards")).save(tmp_path)
    path = tmp_path / FILE
    data = json.loads(path.read_text())
    del data["ports"], data["snapshots"]
    path.write_text(json.dumps(data))
    loaded = Record.load(path)
    assert loaded == replace(record(named("two-boards")), ports=None, snapshots=())
    assert loaded.hardware.topology == named("two-boards")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(tmp_path))
    return records.home()


DEAD = (1, 12345)
"""A process that was: number 1 is another one."""


def machine(home: Path, name: str, *, claim: object = None, owner: tuple[int, int] | str | None = "none") -> Path:
    """A machine's directory with a disk and a log, and with a claim and a record if given."""
    directory = home / name
    directory.mkdir()
    for file in ("disk.qcow2", "console.log"):
        (directory / file).write_text(file)
    if claim is not None:
        (directory / "claim.json").write_text(json.dumps(claim))
    if owner != "none":
        replace(record(named("no-boards")), owner=owner, pid=DEAD[0], start=DEAD[1]).save(directory)
    return directory


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_disk_whose_maker_died_before_it_wrote_a_record_is_removed(home: Path) -> None:
    killed = machine(home, "killed", claim=DEAD)
    unclaimed = machine(home, "unclaimed")
    records.sweep()
    assert left(killed) == left(unclaimed) == {"console.log"}


def test_a_machine_whose_owner_died_is_removed_and_one_that_is_to_stay_is_not(home: Path) -> None:
    dead = machine(home, "dead", claim=DEAD, owner=DEAD)
    detached = machine(home, "detached", claim=DEAD, owner=None)
    ours = machine(home, "ours", claim=records.myself(), owner=records.myself())
    records.sweep()
    assert left(dead) == {"console.log"}
    assert "disk.qcow2" in left(detached) & left(ours)


def test_a_machine_that_is_being_made_is_left_alone(home: Path) -> None:
    made = machine(home, "made", claim=records.myself())
    records.sweep()
    assert "disk.qcow2" in left(made)
    with pytest.raises(records.NameInUse, match="made: there is a machine of that name already"):
        records.claim("made")


def test_a_record_that_cannot_be_read_is_left_alone(home: Path) -> None:
    other = machine(home, "other", claim=DEAD)
    (other / "machine.json").write_text('{"of": "another version"}')
    records.sweep()
    assert "disk.qcow2" in left(other)


def test_old_logs_are_removed(home: Path) -> None:
    old = machine(home, "old", claim=DEAD)
    for path in old.iterdir():
        os.utime(path, (0, 0))
    records.sweep()
    assert not old.exists()


def test_a_name_is_claimed_once(home: Path) -> None:
    records.claim("lab")
    with pytest.raises(records.NameInUse):
        records.claim("lab")
    assert left(home / "lab") == {"claim.json"}


def test_an_emulator_that_nobody_recorded_is_ended_and_a_shell_in_its_directory_is_not(home: Path) -> None:
    killed = machine(home, "killed", claim=DEAD)
    names = ("qemu-system-x86_64", "shell")
    children = {name: subprocess.Popen(["bash", "-c", "sleep 60; :", name], cwd=killed) for name in names}
    records.sweep()
    # Killed: what is left of it is at most an entry that its parent, this test, has yet to collect.
    assert qemu.started_at(children["qemu-system-x86_64"].pid) is None
    assert children["shell"].poll() is None
    children["shell"].kill()
    children["shell"].wait()


def test_a_record_of_another_version_is_named(home: Path) -> None:
    other = machine(home, "other", claim=DEAD)
    (other / "machine.json").write_text('{"of": "another version"}')
    with pytest.raises(records.MachineError, match=r"other/machine.json is of another version of the lab, or damaged"):
        records.find("other")
