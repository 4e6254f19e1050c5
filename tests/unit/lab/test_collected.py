"""Collected hosts in the lab: which of their boards it has, of what, and what is reported of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from facts.collection import CollectedHost
from pcibind.model.pci import Address, Function, Topology, function_path
from pcibind.remote.detail import Detail
from tests.lab import __main__ as command_line
from tests.lab import collected
from tests.lab.collected import HOLDS, imitate
from tests.lab.qemu import Accelerator, Hardware
from tests.lab.topology import TopologyError

GPU = (0x10DE, 0x2684, 0x030000)
ACCELERATOR = (0x10DE, 0x20B0, 0x030200)
AUDIO = (0x10DE, 0x22BA, 0x040300)
USB = (0x10DE, 0x1AD8, 0x0C0330)
UCSI = (0x10DE, 0x1AD9, 0x0C8000)
BMC = (0x1A03, 0x2000, 0x030000)
NIC = (0x8086, 0x1572, 0x020000)
PORT = (0x8086, 0x1901, 0x060400)


def function(
    place: str, kind: tuple[int, int, int], driver: str | None = "a", group: int | None = None, boot: bool = False
) -> Function:
    vendor, device, code = kind
    address = Address.parse(place.rpartition("/")[2])
    return Function(
        address, function_path(f"/sys/devices/{place}"), vendor, device, 0, 0, code, driver, None, group, boot
    )


def board(bus: int, *kinds: tuple[int, int, int], boot: bool = False, group: int | None = None) -> list[Function]:
    """A board behind a port of its own."""
    port = f"pci0000:00/0000:00:{bus:02x}.0"
    return [
        function(port, PORT, "pcieport", group),
        *(
            function(f"{port}/0000:{bus:02x}:00.{number}", kind, group=group, boot=boot and number == 0)
            for number, kind in enumerate(kinds)
        ),
    ]


def host(*functions: list[Function]) -> Topology:
    return Topology(tuple(sorted((each for some in functions for each in some), key=lambda each: each.address)))


def boards(topology: Topology) -> list[tuple[str, ...]]:
    """The boards of the lab's machine, as QEMU's devices."""
    return [port.board.functions for port in imitate(topology, "x.json").topology.ports if port.board]


def test_a_board_has_as_many_functions_as_it_had_each_of_its_kind() -> None:
    assert boards(host(board(1, GPU, AUDIO, USB, UCSI), board(2, GPU, AUDIO))) == [
        ("bochs-display", "intel-hda", "qemu-xhci", "pci-serial"),
        ("bochs-display", "intel-hda"),
    ]


def test_a_function_without_a_driver_gets_none_in_the_lab_either() -> None:
    first, *others = board(1, GPU, UCSI)
    without = [each._replace(driver=None) if each.class_code == UCSI[2] else each for each in others]
    assert boards(host([first, *without])) == [("bochs-display", "pci-testdev")]


def test_what_has_no_display_is_left_out() -> None:
    assert boards(host(board(1, NIC), board(2, ACCELERATOR), board(3, AUDIO, USB))) == [("bochs-display",)]


def test_the_boot_display_is_one_in_the_lab_when_it_is_of_the_main_model() -> None:
    assert boards(host(board(1, GPU, AUDIO, boot=True), board(2, GPU, AUDIO))) == [
        ("VGA", "intel-hda"),
        ("bochs-display", "intel-hda"),
    ]


@pytest.mark.parametrize("other", [board(9, BMC, boot=True), [function("pci0000:00/0000:00:02.0", BMC, boot=True)]])
def test_a_display_of_another_model_is_of_another_model_in_the_lab(other: list[Function]) -> None:
    assert sorted(boards(host(board(4, GPU, AUDIO), other))) == [("bochs-display", "intel-hda"), ("virtio-gpu-pci",)]


def test_a_third_model_is_imitated_as_the_second() -> None:
    imitation = imitate(host(board(1, GPU), board(2, GPU), board(3, BMC), board(4, ACCELERATOR)), "x.json")
    assert imitation.differences == ("10de:20b0, 1a03:2000 are all virtio-gpu-pci, so one model",)


def test_virtual_functions_are_left_out() -> None:
    one = host(board(1, ACCELERATOR, ACCELERATOR))
    virtual, physical = Address.parse("0000:01:00.1"), Address.parse("0000:01:00.0")
    imitation = Topology(one.functions, {virtual: Detail(physical_function=physical)})
    assert boards(imitation) == [("bochs-display",)]


def test_of_too_many_boards_those_of_the_main_model_stay_and_the_others_are_named() -> None:
    imitation = imitate(host(board(1, BMC), *(board(bus, GPU, AUDIO) for bus in range(2, 11))), "x.json")
    assert len(imitation.topology.boards) == HOLDS
    assert {port.board.functions for port in imitation.topology.ports if port.board} == {("bochs-display", "intel-hda")}
    assert imitation.differences == (
        "0000:0a:00.0 (10de:2684) is left out: a machine has room for 8 boards",
        "0000:01:00.0 (1a03:2000) is left out: a machine has room for 8 boards",
    )


def test_a_group_that_a_board_shared_is_reported_and_bridges_do_not_count() -> None:
    shared = imitate(host(board(1, GPU, AUDIO, group=5), board(2, NIC, group=5)), "x.json")
    assert shared.differences == ("0000:01:00.0 shares its IOMMU group with 0000:02:00.0; here it has one of its own",)
    assert imitate(host(board(1, GPU, AUDIO, group=5), board(2, NIC, group=6)), "x.json").differences == ()


def test_every_function_is_listed_with_its_stand_in() -> None:
    assert imitate(host(board(1, GPU, AUDIO)), "x.json").stand_ins == (
        ("0000:01:00.0", "10de:2684, class 030000", "bochs-display"),
        ("0000:01:00.1", "10de:22ba, class 040300", "intel-hda"),
    )


def test_qemu_gets_every_board_on_a_port_of_its_own() -> None:
    imitation = imitate(host(*(board(bus, GPU, AUDIO, USB, UCSI, boot=bus == 1) for bus in range(1, 12))), "x.json")
    words = Hardware(imitation.topology, 4096, 2, Accelerator("tcg", "max")).arguments()
    assert sum("pcie-root-port" in word for word in words) == HOLDS
    assert sum(word.startswith("VGA,") for word in words) == 1
    assert len({word.split("addr=")[0] for word in words if "addr=0.0" in word}) == HOLDS


def test_a_host_without_a_display_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        TopologyError, match=r"x\.json: found 2 functions, none of them a display, expected .* --topology"
    ):
        imitate(host(board(1, NIC)), "x.json")


# --- files

TEXT = (
    "pcibind-topology 2",
    "./0000:00:01.0 ../../../devices/pci0000:00/0000:00:01.0",
    *(f"./0000:00:01.0/{name}:{value}" for name, value in (("vendor", "0x10de"), ("device", "0x2684"))),
    "./0000:00:01.0/class:0x030000",
    "pcibind-topology end",
)


def written(path: Path, topology: tuple[str, ...] = TEXT) -> Path:
    nothing: tuple[str, ...] = ()
    read = CollectedHost(nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, topology)
    path.write_text(read.text())
    return path


def test_a_file_becomes_a_topology(tmp_path: Path) -> None:
    imitation = collected.load(written(tmp_path / "gpu1.collected.json"))
    assert imitation.topology.name == "collected"
    assert dict(imitation.topology.boards) == {"0000:00:04.0": ("0000:01:00.0",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file or directory"), ("", "it is empty"), ("{", "no JSON"), ("{}", "the format None")],
)
def test_a_file_that_is_none_starts_nothing_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    path = tmp_path / "gpu1.collected.json"
    if text is not None:
        path.write_text(text)
    assert command_line.main(["up", "--collected", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: ")
    assert message in error
    assert "pyinfra INVENTORY deploys/collect.py" in error


def test_a_machine_has_the_boards_of_a_topology_or_of_a_host_but_not_of_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["up", "--collected", "x", "--topology", "two-boards"])
    assert "not allowed with" in capsys.readouterr().err
