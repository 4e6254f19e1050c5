"""What a look from afar tells beyond what binding takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tree import AUDIO, DISPLAY, NIC, Machine

from pcibind.model.pci import Address, Topology
from pcibind.remote import topology_text
from pcibind.remote.detail import Detail, Link, Module, Sriov

LEFT = Address.parse("0000:01:00.0")
ALIASES = """\
# Aliases extracted from modules themselves.
alias pci:v000010DEd*sv*sd*bc03sc00i00* nouveau
alias pci:v000010DEd*sv*sd*bc03sc02i00* nouveau
alias pci:v*d*sv*sd*bc04sc03i00* snd_hda_intel
alias pci:v000010DEd00002684sv*sd*bc*sc*i* nova-core
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v00001002d*sv*sd*bc03sc00i00* amdgpu
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias usb:v1D6Bp0002d* hub
"""


def look(machine: Machine) -> Topology:
    done = subprocess.run(
        ["/bin/sh", "-c", topology_text.COMMAND],
        env={
            "PATH": os.environ["PATH"],
            "PCIBIND_SYS": str(machine.root / "sys"),
            "PCIBIND_PROC": str(machine.root / "proc"),
            "PCIBIND_MODULES": str(machine.root / "lib/modules"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return topology_text.parse(done.stdout.splitlines())


def attributes(machine: Machine, address: str, **texts: str) -> None:
    for name, text in texts.items():
        machine.file(f"sys/bus/pci/devices/{address}/{name}", f"{text}\n")


@pytest.fixture
def kernel(machine: Machine) -> Machine:
    """A machine whose kernel has tables of modules."""
    machine.file("proc/sys/kernel/osrelease", "6.12.0\n")
    machine.file("lib/modules/6.12.0/modules.alias", ALIASES)
    machine.file(
        "lib/modules/6.12.0/modules.builtin.modinfo",
        "xhci_pci.alias=pci:v*d*sv*sd*bc0Csc03i30*\0xhci_pci.license=GPL\0",
    )
    for function in machine.host.topology().functions:
        attributes(machine, str(function.address), modalias=function.identity.modalias)
    return machine


def test_link_node_reset_methods_and_slot_are_read(kernel: Machine) -> None:
    attributes(
        kernel,
        "0000:01:00.0",
        numa_node="1",
        current_link_speed="8.0 GT/s PCIe",
        current_link_width="8",
        max_link_speed="16.0 GT/s PCIe",
        max_link_width="16",
        reset_method="flr bus",
    )
    kernel.file("sys/bus/pci/slots/4/address", "0000:01:00\n")
    kernel.file("sys/kernel/iommu_groups/12/type", "DMA-FQ\n")
    topology = look(kernel)
    detail = topology.details[LEFT]
    assert detail.link == Link("8.0 GT/s PCIe", 8, "16.0 GT/s PCIe", 16)
    assert (detail.numa_node, detail.slot, detail.iommu_group_type) == (1, "4", "DMA-FQ")
    assert detail.reset_methods == ("flr", "bus")
    assert topology.details[Address.parse("0000:01:00.1")].slot == "4"
    assert topology.unreadable == ()
    # What pcibind sees on the host itself is the same host.
    assert topology == kernel.host.topology()


def test_a_link_that_is_down_and_an_unknown_node_are_none(kernel: Machine) -> None:
    attributes(kernel, "0000:01:00.0", numa_node="-1", current_link_speed="Unknown", current_link_width="63")
    assert look(kernel).details[LEFT]._replace(modules=()) == Detail()


def test_modules_are_those_that_the_kernel_would_load_built_in_ones_too(kernel: Machine) -> None:
    details = look(kernel).details
    modules = {str(address): detail.modules for address, detail in details.items()}
    assert modules["0000:01:00.0"] == (Module("nouveau", False), Module("nova_core", False))
    assert modules["0000:01:00.1"] == (Module("snd_hda_intel", False),)
    assert modules["0000:01:00.2"] == (Module("xhci_pci", True),)


def test_virtual_functions_are_counted_without_their_lock(kernel: Machine) -> None:
    physical = kernel.function("pci0000:00/0000:00:06.0", **NIC)
    attributes(kernel, physical, sriov_totalvfs="7", sriov_numvfs="2")
    for number in (1, 2):
        virtual = kernel.function(f"pci0000:00/0000:00:06.{number}", **NIC)
        (kernel.root / "sys/bus/pci/devices" / virtual / "physfn").symlink_to(f"../{physical}")
    details = look(kernel).details
    assert details[Address.parse(physical)].sriov == Sriov(7, 2)
    assert details[Address.parse("0000:00:06.1")].physical_function == Address.parse(physical)
    assert "sriov_numvfs" not in topology_text.COMMAND


def test_a_kernel_without_tables_of_modules_is_named(machine: Machine) -> None:
    machine.file("proc/sys/kernel/osrelease", "6.12.0\n")
    topology = look(machine)
    assert topology.details[LEFT].modules == ()
    assert topology.unreadable == (f"{machine.root}/lib/modules/6.12.0/modules.alias, so no module is known",)


def test_a_host_without_pci_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "sys/bus/pci/devices").rmdir()
    assert "bus/pci/devices is not there" in look(machine).unreadable[0]


def test_a_modalias_is_as_the_kernel_writes_it(machine: Machine) -> None:
    machine.function("pci0000:00/0000:00:05.0", **{**DISPLAY, "class_code": 0x030200})
    machine.function("pci0000:00/0000:00:05.1", **AUDIO)
    (function,) = [f for f in machine.host.topology().functions if str(f.address) == "0000:00:05.0"]
    assert function.identity.modalias == "pci:v000010DEd00002684sv000010DEsd000016F4bc03sc02i00"


def test_a_thousand_functions_are_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for bus in range(125):
        for number in range(8):
            machine.function(f"pci0000:00/0000:{bus:02x}:00.{number}", **NIC)
    assert len(look(machine).functions) == 1000


def test_a_table_of_modules_that_is_written_to_cost_time_does_not(kernel: Machine) -> None:
    kernel.file("lib/modules/6.12.0/modules.alias", f"alias pci:v{'*0' * 40}X slow\n{ALIASES}")
    assert look(kernel).details[LEFT].modules[0].name == "nouveau"
