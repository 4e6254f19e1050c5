"""Choosing GPUs of a real four-board machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcibind.decide.plan import closure, plan, resolve, select
from pcibind.model.pci import Topology
from pcibind.model.record import Verdict
from pcibind.model.request import BoardRequest, Configuration, Selector
from tests.corpus import readers, sysfs_tree
from tests.corpus.sysfs_tree import Tree

DGX = "NVIDIA_DGX_STATION"

# Path, addresses of the display and of its audio function.
GPUS = {
    "0000:00/02.0/00.0/08.0/00": ("0000:07:00.0", "0000:07:00.1"),
    "0000:00/02.0/00.0/10.0/00": ("0000:08:00.0", "0000:08:00.1"),
    "0000:00/03.0/00.0/08.0/00": ("0000:0e:00.0", "0000:0e:00.1"),
    "0000:00/03.0/00.0/10.0/00": ("0000:0f:00.0", "0000:0f:00.1"),
}


@pytest.fixture
def dgx(topology: Callable[[str], Topology]) -> Topology:
    return topology(DGX)


def chosen(*selectors: str) -> Configuration:
    return Configuration(boards=tuple(BoardRequest(selector=Selector.parse(text)) for text in selectors))


def picked(topology: Topology, *selectors: str) -> list[str]:
    """The paths of the boards that a configuration means."""
    resolutions = resolve(topology, chosen(*selectors), None)
    assert {each.verdict for each in resolutions} == {Verdict.PRESENT}
    return [each.board.path for each in resolutions if each.board is not None]


@pytest.mark.parametrize("path", GPUS)
def test_one_gpu_is_picked_by_its_path_and_by_the_address_of_any_function(dgx: Topology, path: str) -> None:
    for selector in (path, *GPUS[path], GPUS[path][0].upper()):
        assert picked(dgx, selector) == [path]


def test_the_model_picks_all_four(dgx: Topology) -> None:
    assert picked(dgx, "10de:1db2") == list(GPUS)
    assert picked(dgx, "10DE:1DB2") == list(GPUS)


@pytest.mark.parametrize("model", ["10de:10f2", "10b5:8747"])
def test_the_model_of_an_audio_function_or_of_a_switch_picks_nothing(dgx: Topology, model: str) -> None:
    (resolution,) = resolve(dgx, chosen(model), None)
    assert resolution.verdict is Verdict.ABSENT


def test_a_switch_is_no_board(dgx: Topology) -> None:
    (resolution,) = resolve(dgx, chosen("0000:06:08.0"), None)
    assert resolution.verdict is Verdict.ABSENT
    assert "is a bridge" in resolution.detail


def test_the_plan_for_one_gpu_takes_its_audio_and_nothing_else(dgx: Topology) -> None:
    (board,) = select(dgx, Selector.parse("0000:0e:00.0"))
    (made,) = plan(dgx, [board]).boards
    assert [str(step) for step in made.steps] == [
        "0000:0e:00.0: set driver_override to vfio-pci",
        "0000:0e:00.1: set driver_override to vfio-pci",
        "0000:0e:00.0: unbind from nvidia",
        "0000:0e:00.0: probe, for vfio-pci",
        "0000:0e:00.1: unbind from snd_hda_intel",
        "0000:0e:00.1: probe, for vfio-pci",
    ]


def test_all_four_gpus_are_four_plans_that_touch_their_own_functions(dgx: Topology) -> None:
    first, second, third, fourth = GPUS
    boards = [
        resolution.board
        for resolution in resolve(dgx, chosen(first, GPUS[second][0], third, GPUS[fourth][1]), None)
        if resolution.board is not None
    ]
    made = plan(dgx, boards)
    assert made.refusals == ()
    assert [each.board.path for each in made.boards] == list(GPUS)
    for each in made.boards:
        touched = {str(step.function.address) for step in each.steps}
        assert touched == set(GPUS[each.board.path])
        assert touched == {str(function.address) for function in closure(dgx, each.board)}


def test_every_board_of_every_machine_is_its_own_closure(topology: Callable[[str], Topology], name: str) -> None:
    # As long as each slot is isolated, which is what the groups are synthesised to be. An ISA or host bridge that has
    # a driver is in the way of its slot, as it is for the kernel.
    machine = topology(name)
    for board in machine.boards():
        more = [function for function in closure(machine, board) if function not in board.functions]
        assert all(function.is_bridge and function.driver for function in more)
        assert [str(refusal.address) for refusal in plan(machine, [board]).refusals] == [str(f.address) for f in more]


def test_the_isa_bridge_keeps_the_board_that_it_is_on(topology: Callable[[str], Topology]) -> None:
    machine = topology(DGX)
    board = machine.board_at("0000:00/1f")
    assert board
    (refusal,) = plan(machine, [board]).refusals
    assert "0000:00:1f.0" in refusal.found
    assert "lpc_ich" in refusal.found


def test_two_gpus_behind_a_switch_that_does_not_isolate_go_together(build: Callable[[str], Tree], room: str) -> None:
    """Without ACS all that is below the switch's upstream port is one group, ports and endpoints."""
    tree = build(DGX)
    below = "/devices/pci0000:00/0000:00:02.0/0000:05:00.0/"
    groups = {each.slot: 500 for each in tree.dump.pci if each.path.startswith(below)}
    assert len(groups) == 6
    merged = tree.synthesised._replace(groups={**tree.synthesised.groups, **groups})
    topology = readers.direct(sysfs_tree.build(tree.dump, room, merged).root)
    left, right, *_ = GPUS
    boards = {board.path: board for board in topology.boards()}
    alone = plan(topology, [boards[left]])
    assert alone.boards == ()
    assert [(each.guard, str(each.address)) for each in alone.refusals] == [
        ("foreign-device", address) for address in GPUS[right]
    ]
    together = plan(topology, [boards[left], boards[right]])
    assert together.refusals == ()
    assert [each.board.path for each in together.boards] == [left, right]
