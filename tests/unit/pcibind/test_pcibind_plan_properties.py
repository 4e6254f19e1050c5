"""What holds for the decisions on every host: what is planned, and which board is which after a change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

from hypothesis import event, given
from hypothesis import strategies as st
from report_schema import check_report
from topologies import PORT, Part, Plant, choices, groups_with, plants, some, somewhere

from pcibind.decide.plan import Action, closure, follow, plan, resolve
from pcibind.model.pci import Board, Topology, board_path
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.model.request import BoardRequest, Configuration, Selector
from pcibind.remote import topology_text

PLACE, OTHER_PLACE = "0000:00/1e.0/00", "0000:00/1d.0/00"


def recorded(boards: Iterable[Board]) -> Record:
    return Record(tuple(RecordedBoard.of(b, Selector.of("address", str(b.address)), None) for b in boards))


@some(40)
@given(plants(), st.data())
def test_no_step_is_for_a_bridge_or_for_a_board_that_was_not_chosen(plant: Plant, data: st.DataObject) -> None:
    topology = plant.topology()
    chosen = data.draw(choices(topology))
    paths = {board.path for board in chosen}
    within = {f.address for board in chosen for f in closure(topology, board)}
    made = plan(topology, chosen)
    for each in made.boards:
        assert each.board.path in paths
        for step in each.steps:
            assert step.function in each.board.functions
            assert step.function.address in within
            assert not step.function.is_bridge
    planned = [each.board.path for each in made.boards]
    refused = {refusal.board for refusal in made.refusals}
    assert sorted([*planned, *refused]) == sorted(paths)
    split_by_groups = [[each.board.path for each in boards] for boards in made.split_by_groups()]
    assert sorted(path for boards in split_by_groups for path in boards) == sorted(planned)
    for boards in split_by_groups:
        assert all(groups_with(topology, board) == set(boards) for board in chosen if board.path in boards)


@some(50)
@given(plants(iommu=True), st.data())
def test_a_foreign_endpoint_is_named_and_keeps_off_all_that_share_groups(plant: Plant, data: st.DataObject) -> None:
    topology = plant.topology()
    chosen = data.draw(choices(topology))
    paths = {board.path for board in chosen}
    made = plan(topology, chosen)
    for board in chosen:
        against = [refusal for refusal in made.refusals if refusal.board == board.path]
        foreign = [f for f in closure(topology, board) if board_path(f.path) not in paths or f.is_bridge]
        event(f"{min(len(foreign), 3)} foreign")
        assert {f.address for f in foreign} == {refusal.address for refusal in against if refusal.address}
        for function in foreign:
            assert any(str(function.address) in r.found and str(function.identity) in r.found for r in against)
        # Bridges are nobody's to choose: one that a driver has keeps its group with the host.
        sharing = groups_with(topology, board)
        groups = {group for path in sharing if (other := topology.board_at(path)) for group in other.groups}
        held = [f for f in topology.functions if f.iommu_group in groups and f.is_bridge and f.is_in_the_way]
        assert bool(against) == (bool(held) or not sharing <= paths)
    assert not {r.board for r in made.refusals} & {each.board.path for each in made.boards}


@some(30)
@given(plants(), st.data())
def test_what_is_planned_is_planned_once(plant: Plant, data: st.DataObject) -> None:
    with somewhere() as directory:
        machine = plant.lay_out(directory)
        topology = machine.host.topology()
        assert topology == plant.topology()
        chosen = data.draw(choices(topology))
        machine.load("vfio-pci")
        for each in plan(topology, chosen).boards:
            for step in each.steps:
                address = str(step.function.address)
                device = directory / "sys/bus/pci/devices" / address
                match step.action:
                    case Action.OVERRIDE:
                        machine.write(device / "driver_override", step.driver)
                    case Action.UNBIND:
                        machine.write(directory / f"sys/bus/pci/drivers/{step.driver}/unbind", address)
                    case Action.PROBE:
                        machine.write(directory / "sys/bus/pci/drivers_probe", address)
        after = machine.host.topology()
        again = plan(after, [board for one in chosen if (board := after.board_at(one.path))])
        assert [step for each in again.boards for step in each.steps] == []
        assert len(again.boards) + len({refusal.board for refusal in again.refusals}) == len(chosen)


@some(30)
@given(plants(), st.data())
def test_counting_the_buses_anew_changes_no_path_and_loses_no_board(plant: Plant, data: st.DataObject) -> None:
    topology = plant.topology()
    chosen = data.draw(choices(topology))
    other = plant.renumbered(data.draw(st.permutations(range(len(plant.buses)))))
    now = other.topology()
    assert {b.path: b.identities for b in now.boards()} == {b.path: b.identities for b in topology.boards()}
    known = recorded(chosen)
    for followed in follow(now, known):
        assert followed.verdict is Verdict.PRESENT
        assert followed.board == now.board_at(followed.recorded.path if followed.recorded else "")
    # What was asked for by address is followed too, whatever has that address now.
    wanted = Configuration(tuple(BoardRequest(board.selector) for board in known.boards))
    assert [r.board and r.board.path for r in resolve(now, wanted, known)] == [board.path for board in chosen]


def moved(parts: Iterable[Part], place: str) -> list[Part]:
    """The functions of a board, in another slot."""
    return [part._replace(path=f"{place}.{part.path[-1]}") for part in parts]


def with_port(plant: Plant, place: str) -> Plant:
    bridge = place.rpartition("/")[0]
    bus = max([0, *plant.buses.values()]) + 1
    return plant.plugged([Part(bridge, PORT)])._replace(buses={**plant.buses, bridge: bus})


@some(30)
@given(plants(), st.data())
def test_twins_that_swap_their_addresses_are_not_confused(plant: Plant, data: st.DataObject) -> None:
    topology = plant.topology()
    (original,) = data.draw(choices(topology, 1))
    plant = with_port(with_port(plant, PLACE), OTHER_PLACE)
    plant = plant.plugged([*moved(plant.on(original.path), PLACE), *moved(plant.on(original.path), OTHER_PLACE)])
    before = plant.topology()
    twins = [board for board in before.boards() if board.path in (PLACE, OTHER_PLACE)]
    known = recorded(data.draw(st.permutations(twins).map(lambda both: both[: data.draw(st.integers(1, 2))])))
    here, there = (place.rpartition("/")[0] for place in (PLACE, OTHER_PLACE))
    swapped = plant._replace(buses={**plant.buses, here: plant.buses[there], there: plant.buses[here]})
    after = swapped.topology()
    assert [f.address for f in after.functions] == [f.address for f in before.functions]
    for followed, old in zip(follow(after, known), known.boards, strict=True):
        assert followed.verdict is Verdict.PRESENT
        assert followed.board
        assert followed.board.path == old.path
        assert followed.board.address != old.address


@some(60)
@given(plants(), st.data())
def test_each_change_of_a_board_has_its_verdict(plant: Plant, data: st.DataObject) -> None:
    (board,) = data.draw(choices(plant.topology(), 1))
    twins = [b for b in plant.topology().boards() if b.identities == board.identities]
    known = recorded(data.draw(st.permutations(twins)))
    plant = with_port(plant, PLACE)
    parts = plant.on(board.path)
    numbers = {int(part.path[-1]) for part in parts}
    free = sorted(set(range(8)) - {int(p.path[-1]) for p in plant.parts if p.board == board.path})
    changes = ["none", "unplugged", "moved", "another model"]
    changes += ["a function less"] if len(parts) > 1 else []
    changes += ["a function more"] if free else []
    change = data.draw(st.sampled_from(changes))
    others = plant.without(board.path).plugged(p for p in plant.parts if p.board == board.path and p.is_bridge)
    expected = Verdict.REPLACED
    if change == "none":
        expected = Verdict.PRESENT
    elif change == "unplugged":
        plant, expected = others, Verdict.ABSENT
    elif change == "moved":
        plant, expected = others.plugged(moved(parts, PLACE)), Verdict.MOVED
    elif change == "another model":
        which = data.draw(st.sampled_from(parts))
        field = data.draw(st.sampled_from(["vendor", "device", "subsystem_vendor", "subsystem_device", "class_code"]))
        kind = which.identity._replace(**{field: getattr(which.identity, field) ^ 1})
        plant = others.plugged(part._replace(identity=kind) if part == which else part for part in parts)
    elif change == "a function less":
        lost = data.draw(st.sampled_from(parts))
        plant = others.plugged(part for part in parts if part != lost)
    else:
        number = data.draw(st.sampled_from(free))
        more = data.draw(st.sampled_from(parts))._replace(path=f"{board.path}.{number}")
        plant, expected = plant.plugged([more]), Verdict.EXTRA_FUNCTION
    event(change)
    plant = plant.renumbered(data.draw(st.permutations(range(len(plant.buses)))))
    topology = plant.topology()
    verdicts = {r.recorded.path: r for r in follow(topology, known) if r.recorded}
    assert len(verdicts) == len(twins)
    mine = verdicts.pop(board.path)
    assert mine.verdict is expected, mine.detail
    assert (mine.board is not None) == (expected is Verdict.PRESENT)
    assert bool(mine.detail) == (expected is not Verdict.PRESENT)
    assert {followed.verdict for followed in verdicts.values()} <= {Verdict.PRESENT}
    assert numbers == {f.number for f in board.functions}
    check_report(reported(topology, follow(topology, known), data))


def reported(topology: Topology, resolutions: Iterable[Resolution], data: st.DataObject) -> Report:
    """A report of boards in states of all kinds."""
    states = st.sampled_from(BoardState)
    boards = [BoardReport.of(r, data.draw(states), steps=["one"], detail="why") for r in resolutions]
    return Report("status", boards=tuple(boards), topology=topology)


@some(15)
@given(plants())
def test_the_shell_prints_every_machine_as_it_is_read(plant: Plant) -> None:
    with somewhere() as directory:
        machine = plant.lay_out(directory)
        done = subprocess.run(
            ["/bin/sh", "-c", topology_text.COMMAND],
            env={**os.environ, "PCIBIND_SYS": str(directory / "sys")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert topology_text.parse(done.stdout.splitlines()) == machine.host.topology() == plant.topology()
