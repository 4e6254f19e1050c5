"""Addresses, paths, boards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree import Machine

from pcibind.model.pci import Address, board_path, function_path, parse_board_path

addresses = st.builds(
    Address,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(0, 7),
)


@given(addresses)
def test_an_address_survives_its_text(address: Address) -> None:
    assert Address.parse(str(address)) == address


@given(st.lists(addresses, min_size=2))
def test_addresses_of_one_domain_sort_like_their_texts(some: list[Address]) -> None:
    same = [Address(0, a.bus, a.device, a.function) for a in some]
    assert [str(a) for a in sorted(same)] == sorted(str(a) for a in same)


def test_an_address_without_a_domain_is_one_of_the_first_domain() -> None:
    assert Address.parse("01:00.0") == Address(0, 1, 0, 0)


@pytest.mark.parametrize("text", ["", "01:00", "1:00.0", ":01:00.0", "0000:01:00", "0000:01:20.0", "0000:01:00.8", "x"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"as lspci prints it: 01:00\.0"):
        Address.parse(text)


@given(st.lists(addresses, min_size=1, max_size=5), st.lists(st.integers(0, 255), min_size=5))
def test_renumbered_buses_do_not_change_a_path(way: list[Address], buses: list[int]) -> None:
    def path(numbers: list[int]) -> str:
        parts = [Address(0, bus, a.device, a.function) for bus, a in zip(numbers, way, strict=False)]
        return function_path("/sys/devices/pci0000:00/" + "/".join(map(str, parts)))

    first = path([0, 1, 2, 3, 4])
    assert first == path(buses)
    assert parse_board_path(board_path(first)) == board_path(first)


def test_a_path_starts_at_the_last_root_on_the_way() -> None:
    behind_a_volume_management_device = "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0"
    assert function_path(behind_a_volume_management_device) == "10000:e0/06.0/00.0"


@pytest.mark.parametrize("path", ["/sys/devices/platform/serial8250", "/sys/devices/pci0000:00"])
def test_what_is_no_function_has_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="PCI root bus"):
        function_path(path)


def test_a_board_is_the_endpoints_of_a_slot(machine: Machine) -> None:
    topology = machine.host.topology()
    board = topology.board_at("0000:00/01.0/00")
    assert board is not None
    assert [str(f.address) for f in board.functions] == [
        "0000:01:00.0",
        "0000:01:00.1",
        "0000:01:00.2",
    ]
    assert board.model == "10de:2684"
    assert board.groups == (12,)
    assert [str(f.address) for f in board.display_functions] == ["0000:01:00.0"]
    places = {str(function.address): function.board for function in topology.functions}
    assert topology.board_at(places["0000:01:00.2"]) == board
    assert topology.board_at(places["0000:00:01.0"]) is None
    assert next(str(f.address) for f in topology.group(12)) == "0000:00:01.0"
