"""Real machines whose buses are numbered anew: boards keep their places, and are found again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcibind.decide.plan import follow, resolve
from pcibind.model.pci import Board, Topology
from pcibind.model.record import Record, RecordedBoard, Verdict, early_list
from pcibind.model.request import BoardRequest, Configuration, Selector
from tests.corpus import dump, readers, sysfs_tree
from tests.corpus.dump import Dump
from tests.corpus.renumbering import renumbered, shifted
from tests.corpus.sysfs_tree import Tree

DGX = "NVIDIA_DGX_STATION"
LAST = "0000:00/03.0/00.0/10.0/00"


def laid_out(machine: Dump, root: str) -> Topology:
    return readers.direct(sysfs_tree.build(machine, root).root)


def recorded(*boards: Board) -> Record:
    """Each board, as it is recorded after it was chosen by its address."""
    return Record(
        boards=tuple(RecordedBoard.of(board, Selector.of("address", str(board.address)), None) for board in boards)
    )


def test_every_board_is_found_again_at_its_place(
    machine: Tree, topology: Callable[[str], Topology], name: str, room: str
) -> None:
    before = topology(name)
    after = laid_out(renumbered(machine.dump, shifted(machine.dump, 16)), room)
    assert {each.path: each.identity for each in after.functions} == {
        each.path: each.identity for each in before.functions
    }
    assert [board.path for board in after.boards()] == [board.path for board in before.boards()]
    for followed in follow(after, recorded(*before.boards())):
        assert followed.verdict is Verdict.PRESENT
        assert followed.board is not None
        assert followed.recorded is not None
        assert followed.board.path == followed.recorded.path
        # A board behind a bridge moved, one on a root bus did not.
        moved = followed.board.path.count("/") > 1
        assert followed.board.address.bus == followed.recorded.address.bus + (16 if moved else 0)


def test_an_address_that_now_is_a_twins_still_means_the_board_that_was_chosen(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], room: str
) -> None:
    machine = build(DGX)
    before = topology(DGX)
    wanted = before.board_at("0000:00/02.0/00.0/10.0/00")
    assert wanted is not None
    record = recorded(wanted)
    after = laid_out(renumbered(machine.dump, shifted(machine.dump, 1)), room)
    selector = Selector.of("address", "0000:08:00.0")
    (twin,) = [board for board in after.boards() if selector.value == str(board.address)]
    assert twin.path == "0000:00/02.0/00.0/08.0/00"
    assert twin.identities == wanted.identities
    (resolution,) = resolve(after, Configuration(boards=(BoardRequest(selector=selector),)), record)
    assert resolution.board is not None
    assert (resolution.board.path, str(resolution.board.address)) == (wanted.path, "0000:09:00.0")


def test_a_card_in_a_lower_slot_moves_only_what_is_behind_it(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], room: str
) -> None:
    machine = build(DGX)
    before = topology(DGX)
    after = laid_out(renumbered(machine.dump, shifted(machine.dump, 3, first=0x0C)), room)
    addresses = [str(board.address) for board in after.boards() if board.model == "10de:1db2"]
    assert addresses == ["0000:07:00.0", "0000:08:00.0", "0000:11:00.0", "0000:12:00.0"]
    followed = follow(after, recorded(*before.boards()))
    assert {each.verdict for each in followed} == {Verdict.PRESENT}


@pytest.mark.parametrize("by", [0, 1])
def test_the_early_script_finds_the_chosen_functions_and_no_others(
    build: Callable[[str], Tree], topology: Callable[[str], Topology], room: str, by: int
) -> None:
    machine = build(DGX)
    chosen = topology(DGX).board_at(LAST)
    assert chosen is not None
    tree = sysfs_tree.build(renumbered(machine.dump, shifted(machine.dump, by)), room)
    readers.run_early_script(tree.root, early_list(recorded(chosen)))
    overridden = [each for each in readers.direct(tree.root).functions if each.driver_override is not None]
    assert [(each.path, each.driver_override) for each in overridden] == [
        (f"{LAST}.0", "vfio-pci"),
        (f"{LAST}.1", "vfio-pci"),
    ]
    assert {each.address.bus for each in overridden} == {0x0F + by}


def test_a_board_of_another_machine_is_not_found(topology: Callable[[str], Topology]) -> None:
    boards = recorded(*topology(DGX).boards())
    other = topology("DELL_POWEREDGE_R820_NVME")
    assert Verdict.PRESENT not in {each.verdict for each in follow(other, boards)}


def test_renumbering_changes_every_path_and_nothing_else(machine: Tree) -> None:
    there = shifted(machine.dump, 7)
    other = renumbered(machine.dump, there)
    back = {(domain, bus + 7): bus for domain, bus in there}
    assert renumbered(other, back) == machine.dump
    assert [each.path == old.path for each, old in zip(other.pci, machine.dump.pci, strict=True)] == [
        old.path.count("/") == 3 for old in machine.dump.pci
    ]


ROOT_AND_CARD = b"".join(
    b"P: /devices/%b\nE: PCI_CLASS=%b\nE: PCI_ID=8086:1\nE: SUBSYSTEM=pci\n\n" % pair
    for pair in (
        (b"pci0000:00/0000:00:01.0", b"60400"),
        (b"pci0000:00/0000:00:01.0/0000:01:00.0", b"30000"),
        (b"pci0000:00/0000:00:02.0/pci10000:01/10000:01:00.0", b"10802"),
        (b"pci0000:10/0000:10:01.0", b"60400"),
    )
)


def test_a_bus_stays_within_its_root_bus_and_a_root_bus_keeps_its_number() -> None:
    machine = dump.parse(ROOT_AND_CARD)
    assert shifted(machine, 0x0E) == {(0, 1): 0x0F}
    for by in (-1, 0x0F):
        with pytest.raises(ValueError, match="bus 01 of domain 0000 cannot be moved"):
            shifted(machine, by)
    for wrong in ({(0, 0): 5}, {(0x10000, 1): 5}, {(0, 1): 0}):
        with pytest.raises(ValueError, match="two buses would have one number"):
            renumbered(machine, wrong)
