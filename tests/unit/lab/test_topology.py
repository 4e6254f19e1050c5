"""Topologies: the arguments that QEMU gets, and what the guest will see."""

import pytest

from tests.lab.board import GPU, GPU_OF_THREE, Board
from tests.lab.qemu import Accelerator, Hardware
from tests.lab.topology import (
    DISK_SLOT,
    NETWORK_SLOT,
    ROOM,
    TOPOLOGIES,
    Port,
    Topology,
    TopologyError,
    named,
)


def devices(topology: Topology) -> list[dict[str, str]]:
    """Read QEMU's arguments back: one mapping a device, its model under `model`."""
    words = topology.arguments()
    assert words[::2] == ["-device"] * (len(words) // 2)
    options = []
    for line in words[1::2]:
        model, _, rest = line.partition(",")
        options.append({"model": model} | dict(pair.split("=", 1) for pair in rest.split(",")))
    return options


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_device_has_an_explicit_address_of_its_own(topology: Topology) -> None:
    # What sits on a function's own bus, as a codec does, has no PCI address.
    places = [(device["bus"], device["addr"]) for device in devices(topology) if device["bus"].count(".") < 2]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_no_port_takes_the_place_of_the_disk_or_the_network(topology: Topology) -> None:
    assert not {port.slot for port in topology.ports} & {DISK_SLOT, NETWORK_SLOT}


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_bus_that_is_used_exists(topology: Topology) -> None:
    names = {device["id"] for device in devices(topology) if "id" in device}
    assert {device["bus"] for device in devices(topology)} <= {"pcie.0"} | names | {f"{name}.0" for name in names}


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


def test_every_function_of_a_board_says_that_there_are_several() -> None:
    functions = [device for device in devices(named("one-board")) if device["bus"] != "pcie.0"]
    assert {device["multifunction"] for device in functions} == {"on"}


@pytest.mark.parametrize(("name", "foreign"), [("nic-in-group", "e1000"), ("disk-in-group", "virtio-blk-pci")])
def test_devices_that_share_a_group_sit_behind_one_bridge(name: str, foreign: str) -> None:
    shared = [d["model"] for d in devices(named(name)) if d["bus"].startswith("bridge")]
    assert shared == ["bochs-display", "intel-hda", foreign]


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_disk_is_offered_to_the_one_topology_that_has_a_board_with_it(topology: Topology) -> None:
    hardware = Hardware(topology, 4096, 2, Accelerator("tcg", "max"))
    assert hardware.has_card_disk == (topology.name == "disk-in-group")


def test_there_are_two_boards_and_eight_empty_ports_with_room_to_plug_others_into() -> None:
    topology = named("ports")
    assert list(topology.boards) == ["0000:00:04.0", "0000:00:05.0"]
    assert [port.slot for port in topology.ports if port.board is None] == list(range(0x6, 0xE))
    assert all(port.room == ROOM for port in topology.ports)
    ports = [device for device in devices(topology) if device["model"] == "pcie-root-port"]
    assert {(port["mem-reserve"], port["io-reserve"]) for port in ports} == {("64M", "4K")}


def test_a_plugged_board_has_the_number_of_its_port_and_moves_no_other() -> None:
    before = named("ports")
    after = before.holding(0x9, GPU_OF_THREE)
    assert after.boards["0000:00:09.0"] == ("0000:06:00.0", "0000:06:00.1", "0000:06:00.2")
    assert dict(after.holding(0x9, None).boards) == dict(before.boards)
    assert after.holding(0x9, None) == before


def test_boards_of_a_second_socket_are_numbered_from_its_root_bus() -> None:
    assert list(named("eight-boards-on-two-sockets").boards.items())[3:5] == [
        ("0000:00:07.0", tuple(f"0000:04:00.{number}" for number in range(4))),
        ("0000:80:04.0", tuple(f"0000:81:00.{number}" for number in range(4))),
    ]


@pytest.mark.parametrize(("cpus", "sockets"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_two_sockets_divide_memory_and_an_even_number_of_processors(cpus: int, sockets: int) -> None:
    words = Hardware(named("two-sockets"), 4096, cpus, Accelerator("tcg", "max")).arguments()
    assert f"{cpus},sockets={sockets}" in words
    assert [word for word in words if word.startswith("memory-backend-ram")] == [
        "memory-backend-ram,id=node0,size=2048M",
        "memory-backend-ram,id=node1,size=2048M",
    ]


def test_boards_behind_a_switch_have_its_ports_for_parents() -> None:
    boards = named("switch").boards
    assert [(port, functions[0]) for port, functions in boards.items()] == [
        ("0000:00:04.0", "0000:01:00.0"),
        ("0000:03:00.0", "0000:04:00.0"),
        ("0000:03:01.0", "0000:05:00.0"),
    ]


def test_a_summary_names_what_a_board_is_when_it_is_no_common_one() -> None:
    assert named("boot-display").summary == "2 boards at 0000:00:04.0 (VGA) 0000:00:05.0"
    assert named("one-board-gone").summary == "1 board at 0000:00:05.0; 1 empty port"


def test_what_a_port_holds_is_changed_only_where_there_is_one() -> None:
    with pytest.raises(TopologyError, match="0x10, only at 0x4, 0x5"):
        named("two-boards").holding(0x10, GPU)


def test_a_board_is_not_put_onto_a_bridge() -> None:
    with pytest.raises(TopologyError, match="more than one of a board, a bridge and a switch"):
        named("nic-in-group").holding(0x5, GPU)


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
