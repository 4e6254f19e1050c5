"""What is handed over on kernels with VFIO's groups, with device nodes (cdevs), and with both; and to containers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from topologies import unused
from tree import Machine

from pcibind.change import handover
from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.commands.text import describe
from pcibind.model.errors import ExitCode
from pcibind.model.report import BoardState, Report
from pcibind.read import files

BOTH = '[[board]]\nname = "left"\npath = "0000:00/01.0/00"\n[[board]]\npath = "0000:00/02.0/00"\n'


def with_cdevs(machine: Machine, *, groups: bool) -> Machine:
    """A kernel that makes a device node for each function on vfio-pci; and, with `groups`, for their groups."""
    machine.has_cdevs, machine.has_groups = True, groups
    if groups:
        machine.file("dev/vfio/vfio", "")
    machine.configure(BOTH)
    return machine


def environment(machine: Machine) -> dict[str, str]:
    lines = (machine.root / "run/pcibind/devices.env").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def specification(machine: Machine) -> dict[str, Any]:
    return dict(json.loads((machine.root / "run/cdi/pcibind.json").read_text()))


def devices(machine: Machine) -> dict[str, list[str]]:
    listed = specification(machine)["devices"]
    return {each["name"]: [node["path"] for node in each["containerEdits"]["deviceNodes"]] for each in listed}


LEFTS, RIGHTS = ([f"/dev/vfio/devices/vfio{number}" for number in range(first, first + 3)] for first in (0, 3))


def test_device_nodes_are_handed_over_beside_those_of_groups(machine: Machine) -> None:
    with_cdevs(machine, groups=True)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    variables = environment(machine)
    assert variables["PCIBIND_GROUP_DEVICES"] == "/dev/vfio/12 /dev/vfio/13"
    assert variables["PCIBIND_CDEVS"].split() == [*LEFTS, *RIGHTS]
    nodes = ["/dev/vfio/vfio", "/dev/iommu", "/dev/vfio/12", "/dev/vfio/13", *LEFTS, *RIGHTS]
    assert variables["PCIBIND_PODMAN_DEVICES"].split() == [f"--device={node}" for node in nodes]
    document = json.loads((machine.root / "run/pcibind/devices.json").read_text())
    assert [(board["name"], board["cdevs"]) for board in document["boards"]] == [("left", LEFTS), (None, RIGHTS)]
    assert status(unused(machine)).exit_code is ExitCode.OK


def test_a_kernel_without_group_nodes_hands_over_device_nodes_alone_and_says_so(machine: Machine) -> None:
    with_cdevs(machine, groups=False)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    variables = environment(machine)
    assert variables["PCIBIND_GROUP_DEVICES"] == ""
    assert variables["PCIBIND_PODMAN_DEVICES"].split() == [f"--device={n}" for n in ("/dev/iommu", *LEFTS, *RIGHTS)]
    report = status(unused(machine))
    assert report.exit_code is ExitCode.OK
    assert "no VFIO group nodes (CONFIG_VFIO_GROUP)" in describe(report)


def test_a_device_node_that_is_missing_is_no_proof(machine: Machine) -> None:
    with_cdevs(machine, groups=True)
    apply(unused(machine))
    (machine.root / "dev/vfio/devices/vfio5").unlink()
    report = status(unused(machine))
    assert report.exit_code is ExitCode.NOT_BOUND
    assert "/dev/vfio/devices/vfio5 is not there" in describe(report)


def test_the_container_node_is_handed_over_only_where_there_is_one(machine: Machine) -> None:
    machine.configure(BOTH)
    apply(unused(machine))
    assert environment(machine)["PCIBIND_PODMAN_DEVICES"] == "--device=/dev/vfio/12 --device=/dev/vfio/13"


def test_containers_can_ask_for_a_board_by_name_path_or_for_all(machine: Machine) -> None:
    machine.configure(BOTH)
    machine.file("dev/vfio/vfio", "")
    apply(unused(machine))
    assert devices(machine) == {
        "left": ["/dev/vfio/vfio", "/dev/vfio/12"],
        "0000:00-02.0-00": ["/dev/vfio/vfio", "/dev/vfio/13"],
        "all": ["/dev/vfio/vfio", "/dev/vfio/12", "/dev/vfio/13"],
    }
    written = specification(machine)
    assert written["cdiVersion"] == "0.6.0"
    # As ParseQualifiedName of the CDI's own package checks a name.
    for name in devices(machine):
        qualified = f"{written['kind']}={name}"
        assert re.fullmatch(r"[a-zA-Z][\w.-]*[a-zA-Z0-9]/[a-zA-Z][\w.-]*=[a-zA-Z0-9]([\w.:-]*[a-zA-Z0-9])?", qualified)
    assert written["kind"] == handover.CDI_KIND


@pytest.mark.parametrize("name", ["all", "-", "..", "Ä"])
def test_a_name_that_containers_could_not_use_gives_way_to_the_path(machine: Machine, name: str) -> None:
    machine.configure(BOTH.replace("left", name))
    apply(unused(machine))
    assert list(devices(machine)) == ["0000:00-01.0-00", "0000:00-02.0-00", "all"]


def test_two_names_that_become_one_stay_apart(machine: Machine) -> None:
    second = BOTH.replace("\n[[board]]\n", '\n[[board]]\nname = "left-"\n')
    machine.configure(second)
    apply(unused(machine))
    assert list(devices(machine)) == ["left", "0000:00-02.0-00", "all"]


def test_the_specification_goes_with_the_hand_over(machine: Machine) -> None:
    machine.configure(BOTH)
    apply(unused(machine))
    release(unused(machine), ["left"])
    assert list(devices(machine)) == ["0000:00-02.0-00", "all"]
    release(unused(machine))
    assert list((machine.root / "run/cdi").iterdir()) == []


def test_boards_are_usable_where_no_specification_can_be_written_and_status_says_so(machine: Machine) -> None:
    machine.configure(BOTH)
    # A file where the directory should be: even root cannot write there.
    machine.file("run/cdi", "")
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert environment(machine)["PCIBIND_BOARDS"] == "2"
    report = status(unused(machine))
    assert report.exit_code is ExitCode.OK
    assert any("not in /run/cdi" in note for note in report.notes)


def test_the_same_hand_over_is_not_written_anew(machine: Machine) -> None:
    machine.configure(BOTH)
    apply(unused(machine))
    files = [*Path(machine.paths.run).glob("devices.*"), machine.root / "run/cdi/pcibind.json"]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    apply(unused(machine))
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before


@pytest.mark.parametrize("name", ["devices.env", "devices.json"])
def test_a_hand_over_that_cannot_be_written_offers_nothing_that_was_offered_before(machine: Machine, name: str) -> None:
    machine.configure(f'require_boards = "any"\n{BOTH}')
    apply(unused(machine))
    machine.unplug("0000:00:01.0")
    # A directory in the place of the new file: even root cannot write there.
    Path(machine.paths.run, f".{name}.new").mkdir()
    assert apply(unused(machine)).exit_code is ExitCode.UNEXPECTED
    assert list(Path(machine.paths.run).glob("devices.*")) == []
    assert list((machine.root / "run/cdi").iterdir()) == []


def test_a_specification_that_cannot_be_written_anew_does_not_offer_a_board_that_is_gone(machine: Machine) -> None:
    machine.configure(f'require_boards = "any"\n{BOTH}')
    apply(unused(machine))
    machine.unplug("0000:00:01.0")
    (machine.root / "run/cdi/.pcibind.json.new").mkdir()
    apply(unused(machine))
    assert environment(machine)["PCIBIND_BOARDS"] == "1"
    assert not (machine.root / "run/cdi/pcibind.json").exists()


def test_a_board_that_is_gone_before_the_others_are_bound_is_not_handed_over(machine: Machine) -> None:
    machine.configure(f'require_boards = "any"\n{BOTH}')
    left = machine.root / "sys/bus/pci/devices/0000:01:00.0"

    def unplug(_position: int) -> None:
        # The other board's turn: the left one is proven by then.
        if machine.driver("0000:02:00.2") == "vfio-pci" and left.exists():
            machine.unplug("0000:00:01.0")

    machine.watchers.append(unplug)
    report = apply(unused(machine))
    assert [board.state for board in report.boards] == [BoardState.FAILED, BoardState.BOUND]
    assert "0000:01:00.0: expected driver vfio-pci, found none" in report.boards[0].detail
    assert environment(machine)["PCIBIND_FUNCTIONS"] == "0000:02:00.0,0000:02:00.1,0000:02:00.2"


# A hand-over that cannot be written once the boards have changed.


def full_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first change of a driver on, nothing can be written to the hand-over."""
    really = files.write_atomically
    before = machine.drivers()

    def write(path: str, text: str, mode: int = 0o644) -> bool:
        if path.endswith("devices.json") and machine.drivers() != before:
            raise OSError(28, "No space left on device", path)
        return really(path, text, mode)

    monkeypatch.setattr(files, "write_atomically", write)


@pytest.mark.parametrize("command", [apply, apply_recorded])
def test_boards_that_were_bound_are_reported_though_they_cannot_be_handed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, command: Callable[[System], Report]
) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(machine.host, next_boot=True)
    full_disk(machine, monkeypatch)
    report = command(machine.host)
    assert report.exit_code is ExitCode.UNEXPECTED
    assert [board.state for board in report.boards] == [BoardState.BOUND, BoardState.BOUND]
    assert report.errors == (
        f"the hand-over cannot be written: [Errno 28] No space left on device: '{machine.paths.run}/devices.json'; "
        "repair that, then apply again",
    )
    assert not Path(machine.paths.run, "devices.env").exists()


def test_a_release_of_one_board_is_reported_though_the_other_cannot_be_handed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(machine.host)
    full_disk(machine, monkeypatch)
    report = release(machine.host, ["01:00.0"])
    assert report.exit_code is ExitCode.UNEXPECTED
    assert [board.state for board in report.boards] == [BoardState.RELEASED]
    assert [error.partition(":")[0] for error in report.errors] == ["the hand-over cannot be written"]
    assert not Path(machine.paths.run, "devices.env").exists()


@pytest.mark.parametrize("command", [apply, apply_recorded])
def test_no_board_is_touched_where_the_hand_over_cannot_be_removed_before(
    machine: Machine, command: Callable[[System], Report]
) -> None:
    machine.configure(BOTH)
    apply(machine.host, next_boot=True)
    before = machine.drivers()
    Path(machine.paths.run, "devices.env").mkdir(parents=True)
    report = command(machine.host)
    assert report.exit_code is ExitCode.UNEXPECTED
    assert [(board.state, board.changed) for board in report.boards] == [(BoardState.FAILED, False)] * 2
    assert all("the hand-over cannot be changed" in board.detail for board in report.boards)
    assert len(report.errors) == 1
    assert machine.drivers() == before


def test_of_no_boards_nothing_is_handed_over(machine: Machine) -> None:
    assert not handover.is_published(machine.paths, [])
    assert not handover.is_in_cdi(machine.paths, [])
