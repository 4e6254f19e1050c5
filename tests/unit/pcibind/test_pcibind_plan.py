"""From selectors to boards, and from boards to steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree import AUDIO, DISPLAY, NIC, Machine, board, gpu_host

from pcibind.decide.plan import Action, closure, follow, plan, resolve
from pcibind.model.errors import ConfigError
from pcibind.model.pci import Address, Function, Topology, board_path
from pcibind.model.record import Record, RecordedBoard, Verdict, dump, early_list, parse
from pcibind.model.request import BoardRequest, Configuration, Selector

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"


def wanted(*texts: str) -> Configuration:
    return Configuration(tuple(BoardRequest(Selector.parse(text)) for text in texts))


def recorded(machine: Machine, *texts: str) -> Record:
    resolutions = resolve(machine.host.topology(), wanted(*texts), None)
    return Record(tuple(RecordedBoard.of(r.board, r.selector, r.name) for r in resolutions if r.board))


def test_a_model_selects_every_board_with_such_a_display(machine: Machine) -> None:
    resolutions = resolve(machine.host.topology(), wanted("10de:2684"), None)
    assert [r.board.path for r in resolutions if r.board] == [LEFT, RIGHT]


def test_an_address_or_a_path_tells_twins_apart(machine: Machine) -> None:
    topology = machine.host.topology()
    for text in ("0000:02:00.0", "0000:02:00.2", RIGHT):
        (resolution,) = resolve(topology, wanted(text), None)
        assert resolution.board is not None
        assert resolution.board.path == RIGHT


def test_two_selectors_of_one_board_contradict_each_other(machine: Machine) -> None:
    topology = machine.host.topology()
    with pytest.raises(ConfigError, match="are the same board"):
        resolve(topology, wanted("0000:01:00.0", LEFT), None)
    with pytest.raises(ConfigError, match="are the same board"):
        resolve(topology, wanted(LEFT, "10de:2684"), recorded(machine, LEFT))


def test_what_is_not_there_is_absent_and_says_so(machine: Machine) -> None:
    resolutions = resolve(machine.host.topology(), wanted("0000:09:00.0", "0000:00:01.0"), None)
    assert [r.verdict for r in resolutions] == [Verdict.ABSENT, Verdict.ABSENT]
    assert "is a bridge" in resolutions[1].detail


def test_a_recorded_address_is_followed_through_a_renumbering(tmp_path: Path) -> None:
    record = recorded(gpu_host(tmp_path / "before"), "0000:01:00.0", "0000:02:00.0")
    after = Machine(tmp_path / "after")
    board(after, "01", 2, 5)
    board(after, "02", 1, 6)
    resolutions = resolve(after.host.topology(), wanted("0000:01:00.0", "0000:02:00.0"), record)
    assert [(r.verdict, r.board and r.board.path) for r in resolutions] == [
        (Verdict.PRESENT, LEFT),
        (Verdict.PRESENT, RIGHT),
    ]
    assert str(resolutions[0].board and resolutions[0].board.address) == "0000:02:00.0"


def test_moved_replaced_absent_and_extra_are_distinguished(tmp_path: Path) -> None:
    record = recorded(gpu_host(tmp_path / "before"), LEFT)

    def verdict(name: str, change: str) -> Verdict:
        machine = Machine(tmp_path / name)
        port = "pci0000:00/0000:00:01.0"
        if change == "moved":
            board(machine, "05", 1, 1)
        elif change == "twins elsewhere":
            board(machine, "05", 1, 1)
            board(machine, "06", 2, 2)
        elif change == "replaced":
            machine.function(f"{port}/0000:01:00.0", **{**DISPLAY, "device": 0x2704})
        elif change == "function lost":
            machine.function(f"{port}/0000:01:00.0", **DISPLAY)
        elif change == "extra":
            board(machine, "01", 1, 1)
            machine.function(f"{port}/0000:01:00.3", **AUDIO)
        (resolutions,) = follow(machine.host.topology(), record)
        assert resolutions.board is None
        assert resolutions.detail
        return resolutions.verdict

    assert verdict("a", "moved") is Verdict.MOVED
    assert verdict("b", "replaced") is Verdict.REPLACED
    assert verdict("c", "function lost") is Verdict.REPLACED
    assert verdict("d", "extra") is Verdict.EXTRA_FUNCTION
    assert verdict("e", "nothing") is Verdict.ABSENT
    assert verdict("f", "twins elsewhere") is Verdict.ABSENT


def test_a_moved_board_does_not_come_in_again_through_its_model(tmp_path: Path) -> None:
    record = recorded(gpu_host(tmp_path / "before"), "10de:2684")
    machine = Machine(tmp_path / "after")
    board(machine, "01", 1, 1)
    board(machine, "05", 2, 2)
    resolutions = resolve(machine.host.topology(), wanted("10de:2684"), record)
    assert sorted((str(r.verdict), r.board.path if r.board else "") for r in resolutions) == [
        ("moved", ""),
        ("present", LEFT),
    ]


def test_a_third_board_of_the_model_is_taken_too(machine: Machine) -> None:
    record = recorded(machine, "10de:2684")
    board(machine, "05", 5, 20)
    resolutions = resolve(machine.host.topology(), wanted("10de:2684"), record)
    assert [(r.verdict, r.recorded is None) for r in resolutions] == [
        (Verdict.PRESENT, False),
        (Verdict.PRESENT, False),
        (Verdict.PRESENT, True),
    ]


def test_overrides_come_before_any_unbinding(machine: Machine) -> None:
    topology = machine.host.topology()
    left = topology.board_at(LEFT)
    assert left
    (only,) = plan(topology, [left]).boards
    assert [step.action for step in only.steps] == [Action.OVERRIDE] * 3 + [
        Action.UNBIND,
        Action.PROBE,
    ] * 3


def test_a_foreign_device_in_the_group_is_refused_by_name(machine: Machine) -> None:
    machine.function("pci0000:00/0000:00:06.0", **NIC, driver="e1000e", group=12)
    topology = machine.host.topology()
    left, nic = topology.board_at(LEFT), topology.board_at("0000:00/06")
    assert left
    assert nic
    made = plan(topology, [left])
    assert made.boards == ()
    (refusal,) = made.refusals
    assert "0000:00:06.0 8086:10d3" in refusal.found
    assert "e1000e" in refusal.found
    assert "choose that board too" in refusal.remedy
    assert plan(topology, [left, nic]).refusals == ()


def test_without_iommu_there_is_nothing_to_do_but_to_record(tmp_path: Path) -> None:
    topology = gpu_host(tmp_path, iommu=False).host.topology()
    left = topology.board_at(LEFT)
    assert left
    (only,) = plan(topology, [left]).boards
    assert only.iommu_off
    assert only.steps == ()


def test_a_record_survives_its_text(machine: Machine) -> None:
    record = recorded(machine, "10de:2684")
    assert parse(dump(record)) == record


def test_the_early_list_has_a_line_for_each_function(machine: Machine) -> None:
    assert early_list(recorded(machine, LEFT)).splitlines() == [
        f"{LEFT}.0 0x10de 0x2684 0x10de 0x16f4 0x030000",
        f"{LEFT}.1 0x10de 0x22ba 0x10de 0x16f4 0x040300",
        f"{LEFT}.2 0x10de 0x1ad8 0x10de 0x16f4 0x0c0330",
    ]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any functions in any slots and groups, bridges among them."""
    slots = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7))))
    kinds = st.sampled_from([0x030000, 0x040300, 0x0C0330, 0x020000, 0x010802, 0x060400])
    drivers = st.sampled_from([None, "vfio-pci", "nouveau"])
    return Topology(
        tuple(
            Function(
                Address(0, bus, device, number),
                f"0000:00/{bus:02x}.0/{device:02x}.{number}",
                0x10DE,
                0x2684,
                0,
                0,
                draw(kinds),
                draw(drivers),
                draw(drivers),
                draw(st.one_of(st.none(), st.integers(0, 3))),
            )
            for bus, device, number in sorted(slots)
        )
    )


@settings(deadline=None)
@given(topologies(), st.data())
def test_no_plan_leaves_the_closure_of_the_chosen_boards(topology: Topology, data: st.DataObject) -> None:
    boards = topology.boards()
    chosen = data.draw(st.lists(st.sampled_from(boards), unique=True)) if boards else []
    made = plan(topology, chosen)
    allowed = {f.address for one in chosen for f in closure(topology, one)}
    paths = {one.path for one in chosen}
    for one in made.boards:
        for step in one.steps:
            assert step.function.address in allowed
            assert board_path(step.function.path) in paths
            assert not step.function.is_bridge
        # And every endpoint that shares a group with it belongs to a chosen board.
        assert {board_path(f.path) for f in closure(topology, one.board)} <= paths
    assert {r.board for r in made.refusals}.isdisjoint(one.board.path for one in made.boards)
