"""Topologies: what QEMU is told, and what the guest will see."""

import pytest

from tests.lab.topology import (
    DISK_SLOT,
    GPU,
    NETWORK_SLOT,
    TOPOLOGIES,
    Board,
    Port,
    Topology,
    TopologyError,
    named,
)


def devices(topology: Topology) -> list[dict[str, str]]:
    """Read QEMU's arguments back: one mapping a device, its model under `model`."""
    words = topology.arguments()
    assert words[::2] == ["-device"] * (len(words) // 2)
    found = []
    for line in words[1::2]:
        model, _, rest = line.partition(",")
        found.append({"model": model} | dict(pair.split("=", 1) for pair in rest.split(",")))
    return found


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_device_has_an_explicit_address_of_its_own(topology: Topology) -> None:
    places = [(device["bus"], device["addr"]) for device in devices(topology)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_no_port_takes_the_place_of_the_disk_or_the_network(topology: Topology) -> None:
    assert not {port.slot for port in topology.ports} & {DISK_SLOT, NETWORK_SLOT}


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_bus_that_is_used_exists(topology: Topology) -> None:
    made = {"pcie.0"} | {device["id"] for device in devices(topology) if "id" in device}
    assert {device["bus"] for device in devices(topology)} <= made


def test_the_default_has_two_boards_of_four_functions() -> None:
    assert dict(named("two-boards").boards) == {
        "0000:00:04.0": ("0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:01:00.3"),
        "0000:00:05.0": ("0000:02:00.0", "0000:02:00.1", "0000:02:00.2", "0000:02:00.3"),
    }


def test_a_twin_in_front_leaves_the_ports_and_moves_the_buses() -> None:
    before, after = named("two-boards").boards, named("twin-in-front").boards
    assert set(before) < set(after)
    assert all(before[port] != after[port] for port in before)


def test_a_dead_board_leaves_the_other_at_its_address() -> None:
    before, after = named("two-boards").boards, named("one-board-gone").boards
    assert dict(after) == {"0000:00:05.0": before["0000:00:05.0"]}


def test_a_port_that_is_gone_gives_its_boards_address_to_the_other() -> None:
    before, after = named("two-boards").boards, named("one-port-gone").boards
    assert dict(after) == {"0000:00:05.0": before["0000:00:04.0"]}


def test_a_board_of_several_functions_says_so_at_the_first() -> None:
    first, *others = [device for device in devices(named("one-board")) if device["bus"] != "pcie.0"]
    assert first["multifunction"] == "on"
    assert not any("multifunction" in device for device in others)


def test_devices_that_share_a_group_sit_behind_one_bridge() -> None:
    shared = [d["model"] for d in devices(named("nic-in-group")) if d["bus"].startswith("bridge")]
    assert shared == ["bochs-display", "intel-hda", "e1000"]


@pytest.mark.parametrize(
    "ports",
    [
        (Port(0x4, GPU), Port(0x4, GPU)),
        (Port(0x5, GPU), Port(0x4, GPU)),
        (Port(NETWORK_SLOT, GPU),),
        (Port(0x0, GPU),),
        (Port(0x4, Board(())),),
        (Port(0x4, Board(("intel-hda",) * 9)),),
        (Port(0x4, GPU, conventional=("e1000",)),),
    ],
)
def test_an_impossible_topology_is_refused(ports: tuple[Port, ...]) -> None:
    with pytest.raises(TopologyError, match="impossible"):
        Topology("impossible", ports)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TopologyError, match="two-boards"):
        named("three-boards")
