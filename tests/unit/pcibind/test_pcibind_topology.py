"""Reading a topology: directly, and through the shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tree import DISPLAY, Machine, gpu_host

from pcibind.commands.system import System
from pcibind.read.files import Paths
from pcibind.remote import topology_text


def print_topology(root: Path) -> list[str]:
    done = subprocess.run(
        ["/bin/sh", "-c", topology_text.COMMAND],
        env={**os.environ, "PCIBIND_SYS": str(root / "sys")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_shell_and_the_direct_way_see_the_same(machine: Machine) -> None:
    machine.function("pci0000:00/0000:00:05.0", **DISPLAY, boot_vga=True)
    machine.file("sys/bus/pci/devices/0000:01:00.1/driver_override", "vfio-pci\n")
    read = machine.host.topology()
    assert topology_text.parse(print_topology(machine.root)) == read
    assert len(read.functions) == 11
    assert sum(function.boot_vga for function in read.functions) == 1
    assert sum(function.driver_override == "vfio-pci" for function in read.functions) == 1


def test_a_host_without_iommu_has_no_groups(tmp_path: Path) -> None:
    gpu_host(tmp_path, iommu=False)
    topology = topology_text.parse(print_topology(tmp_path))
    assert {function.iommu_group for function in topology.functions} == {None}


def test_a_host_without_pci_has_an_empty_topology(tmp_path: Path) -> None:
    assert topology_text.parse(print_topology(tmp_path)).functions == ()
    assert System(Paths(str(tmp_path))).topology().functions == ()


def test_this_host_looks_the_same_in_both_ways() -> None:
    text = topology_text.parse(print_topology(Path("/")))
    assert text == System().topology()


@pytest.mark.parametrize("gone", ["vendor:", "class:", " ../../../devices"])
def test_a_device_that_vanishes_meanwhile_is_left_out(machine: Machine, gone: str) -> None:
    lines = print_topology(machine.root)
    left = [line for line in lines if not ("0000:01:00.1" in line and gone in line)]
    assert len(left) < len(lines)
    addresses = [str(f.address) for f in topology_text.parse(left).functions]
    assert "0000:01:00.1" not in addresses
    assert "0000:01:00.0" in addresses


@pytest.mark.parametrize(
    "garbage", ["sudo: a password is required", "./0000:01:00.0/vendor:0xzz", "./0000:01:00.0/x:1"]
)
def test_garbage_is_refused(machine: Machine, garbage: str) -> None:
    lines = print_topology(machine.root)
    with pytest.raises(ValueError, match="PCI"):
        topology_text.parse([*lines[:-1], garbage, lines[-1]])


@pytest.mark.parametrize("file", ["modalias", "boot_vga"])
def test_a_device_that_loses_a_file_meanwhile_is_no_error(machine: Machine, file: str) -> None:
    (machine.root / "sys/bus/pci/devices/0000:01:00.0" / file).unlink(missing_ok=True)
    addresses = [str(f.address) for f in machine.host.topology().functions]
    assert ("0000:01:00.0" in addresses) == (file == "boot_vga")


WRONG_SEPARATOR = "pci:v000010DEx00002684sv000010DEsd000016F4bc03sc00i00"
WRONG_NUMBER = "pci:v0000_0DEd00002684sv000010DEsd000016F4bc03sc00i00"


@pytest.mark.parametrize(
    "text", ["", "usb:v1D6Bp0002", "pci:v000010DEd00002684", "pci:v" + "z" * 48, WRONG_SEPARATOR, WRONG_NUMBER]
)
def test_a_modalias_of_another_form_is_refused_by_the_devices_name(machine: Machine, text: str) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/modalias", f"{text}\n")
    with pytest.raises(ValueError, match=r"PCI device 0000:01:00\.0"):
        machine.host.topology()


def test_output_that_was_cut_short_is_refused(machine: Machine) -> None:
    lines = print_topology(machine.root)
    with pytest.raises(ValueError, match="cut short"):
        topology_text.parse(lines[:-1])
    with pytest.raises(ValueError, match="nothing"):
        topology_text.parse([])


def test_marks_that_cannot_be_listed_are_none(machine: Machine) -> None:
    before = machine.host.topology()
    machine.file("run/pcibind/stuck", "a file in the place of the directory")
    assert machine.host.topology() == before
