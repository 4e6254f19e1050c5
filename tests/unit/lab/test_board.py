"""Boards: the arguments that QEMU gets for their functions, at power-on and while a machine runs."""

import pytest

from tests.lab.board import BOARDS, GPU, GPU_OF_THREE, SOUND, Board, BoardError, devices, named, pluggable


def test_each_function_has_its_own_address_and_name_on_the_ports_bus() -> None:
    assert devices(GPU_OF_THREE, "port06") == (
        ("bochs-display,id=port06.0,bus=port06,addr=0.0,multifunction=on",),
        ("intel-hda,id=port06.1,bus=port06,addr=0.1,multifunction=on",),
        ("qemu-xhci,id=port06.2,bus=port06,addr=0.2,multifunction=on",),
    )


def test_a_single_function_does_not_say_that_there_are_others() -> None:
    assert devices(Board(("qemu-xhci",)), "port06") == (("qemu-xhci,id=port06.0,bus=port06,addr=0.0",),)


def test_a_function_keeps_its_properties() -> None:
    ((device,),) = devices(Board(("virtio-gpu-pci,max_outputs=2",)), "port06")
    assert device == "virtio-gpu-pci,max_outputs=2,id=port06.0,bus=port06,addr=0.0"


def test_what_sits_on_a_functions_own_bus_comes_after_it() -> None:
    audio = devices(SOUND, "port06")[1]
    assert [device.partition(",")[0] for device in audio] == ["intel-hda", "hda-output"]
    assert audio[1].endswith(",bus=port06.1.0")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_board_that_can_be_plugged_has_nothing_that_cannot(board: Board) -> None:
    functions = pluggable(board).functions
    assert len(functions) == len(board.functions)
    assert not any("bochs-display" in each or "+" in each or "drive=" in each for each in functions)


def test_plugging_changes_only_the_display() -> None:
    assert pluggable(GPU).functions == ("secondary-vga", *GPU.functions[1:])


def test_an_unknown_board_lists_the_known_ones() -> None:
    with pytest.raises(BoardError, match="gpu-of-three"):
        named("voodoo")
