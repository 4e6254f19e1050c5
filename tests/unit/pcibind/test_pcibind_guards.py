"""Guards, and the evidence they decide by."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tree import DISPLAY, NIC, NVME, USB, Machine

from pcibind.decide import guards
from pcibind.model.evidence import Evidence, OpenVfio, Use
from pcibind.model.pci import Address, Board
from pcibind.model.request import OVERRIDABLE_GUARDS, Selector
from pcibind.read import evidence_text

LEFT = "0000:00/01.0/00"


def look(root: Path, **environment: str) -> Evidence:
    done = subprocess.run(
        ["/bin/sh", "-c", evidence_text.COMMAND],
        env={
            "PATH": os.environ["PATH"],
            "PCIBIND_SYS": str(root / "sys"),
            "PCIBIND_PROC": str(root / "proc"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return evidence_text.parse(done.stdout.splitlines())


def at(machine: Machine, path: str = LEFT) -> Board:
    board = machine.host.topology().board_at(path)
    assert board is not None
    return board


def uses(some: tuple[Use, ...]) -> list[tuple[str, str]]:
    return [(str(use.address), use.what) for use in some]


def test_a_free_board_passes_all_guards(machine: Machine) -> None:
    assert guards.check(at(machine), look(machine.root)) == []


def test_the_nic_of_the_default_route_is_found(machine: Machine) -> None:
    evidence = look(machine.root)
    assert uses(evidence.route_nics) == [("0000:00:03.0", "eth0 carries the default route")]
    assert evidence.unreadable == ()
    (refusal,) = guards.check(at(machine, "0000:00/03"), evidence, selector=Selector.parse("0000:00:03.0"))
    assert refusal.guard == "default-route"
    assert "eth0" in str(refusal)


def test_an_ipv6_default_route_counts_but_an_unreachable_one_does_not(machine: Machine) -> None:
    machine.file("proc/net/route", "")
    zero = "0" * 32
    reject = f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    machine.file("proc/net/ipv6_route", reject)
    assert look(machine.root).route_nics == ()
    good = f"{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003     eth0\n"
    machine.file("proc/net/ipv6_route", reject + good)
    assert [use.address for use in look(machine.root).route_nics] == [Address(0, 0, 3, 0)]


def test_the_nics_below_a_bond_below_a_bridge_are_found(machine: Machine) -> None:
    machine.file("proc/net/route", "br0\t00000000\t0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
    net = machine.root / "sys/class/net"
    for upper, lower in (("br0", "bond0"), ("bond0", "eth0")):
        directory = machine.root / f"sys/devices/virtual/net/{upper}"
        directory.mkdir(parents=True)
        (directory / f"lower_{lower}").symlink_to(f"../{lower}")
        (net / upper).symlink_to(f"../../devices/virtual/net/{upper}")
    assert uses(look(machine.root).route_nics) == [("0000:00:03.0", "br0 on eth0 carries the default route")]


def test_the_interface_of_the_ssh_connection_is_found(machine: Machine) -> None:
    connection = "192.0.2.9 50000 192.0.2.1 22"
    machine.connection(connection)
    assert look(machine.root).ssh_nics == ()
    assert uses(look(machine.root, SSH_CONNECTION=connection).ssh_nics) == [
        ("0000:00:03.0", "eth0 carries an SSH connection")
    ]


def test_an_ssh_connection_is_found_behind_sudo(machine: Machine) -> None:
    machine.login("fe80::2 50000 fe80::1%eth0 22")
    machine.file("proc/net/if_inet6", "fe800000000000000000000000000001 02 40 20 80     eth0\n")
    assert [use.address for use in look(machine.root).ssh_nics] == [Address(0, 0, 3, 0)]


def test_an_ssh_address_that_no_interface_has_refuses(machine: Machine) -> None:
    machine.file("proc/net/route", "Iface\tDestination\n")
    machine.login("192.0.2.9 50000 192.0.2.1 22")
    evidence = look(machine.root)
    assert [guard for guard, _ in evidence.unreadable] == ["ssh"]
    (refusal,) = guards.check(at(machine, "0000:00/03"), evidence, {"class"})
    assert refusal.guard == "ssh"
    assert "cannot tell" in refusal.found
    assert guards.check(at(machine, "0000:00/03"), evidence, {"class", "ssh"}) == []


def test_a_connection_whose_interface_is_not_found_concerns_no_board_without_a_network_function(
    machine: Machine,
) -> None:
    machine.file("proc/net/route", "Iface\tDestination\n")
    machine.login("192.0.2.9 50000 198.51.100.77 22")
    evidence = look(machine.root)
    assert [guard for guard, _ in evidence.unreadable] == ["ssh"]
    assert guards.check(at(machine), evidence) == []
    assert guards.check(at(machine, "0000:00/04"), evidence, {"class", "disk"}) == []


def test_the_controller_of_a_mounted_disk_is_found(machine: Machine) -> None:
    assert uses(look(machine.root).disks) == [("0000:00:04.0", "nvme0n1p1 is mounted at /")]


def test_disks_are_found_below_a_mapping_and_as_swap(machine: Machine) -> None:
    machine.file("proc/self/mountinfo", "30 1 253:0 / /srv rw - ext4 /dev/mapper/srv rw\n")
    machine.file("proc/swaps", "Filename Type\n/dev/sdb1 partition 1 0 -2\n")
    machine.block("253:0", "virtual/block/dm-0")
    machine.block("8:2", "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2")
    machine.block("8:17", "pci0000:00/0000:00:18.0/ata1/host1/target1:0:0/1:0:0:0/block/sdb/sdb1")
    slaves = machine.root / "sys/class/block/dm-0/slaves"
    slaves.mkdir()
    (slaves / "sda2").symlink_to("../../../../pci0000:00/0000:00:17.0/ata1/block/sda/sda2")
    assert uses(look(machine.root).disks) == [
        ("0000:00:17.0", "dm-0 lies on sda2"),
        ("0000:00:18.0", "sdb1 is swapped to"),
    ]


def test_the_controllers_of_a_multipath_nvme_disk_are_found(machine: Machine) -> None:
    head = "virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
    machine.file("proc/self/mountinfo", "30 1 259:9 / / rw - ext4 /dev/nvme0n1 rw\n")
    machine.block("259:9", head)
    subsystem = machine.root / "sys/class/nvme-subsystem/nvme-subsys0"
    subsystem.mkdir(parents=True)
    (subsystem / "nvme0").symlink_to("../../../pci0000:00/0000:00:04.0/nvme/nvme0")
    assert uses(look(machine.root).disks) == [("0000:00:04.0", "nvme0n1 is mounted at /")]


def test_a_filesystem_that_hides_its_disks_refuses(machine: Machine) -> None:
    machine.mount("0:40", "/tank", "tank/data", "zfs")
    (refusal,) = guards.check(at(machine, "0000:00/04"), look(machine.root), {"class"})[1:]
    assert refusal.guard == "disk"
    assert "/tank is zfs" in refusal.found


@pytest.mark.parametrize("kind", ["zfs", "bcachefs"])
def test_a_filesystem_that_hides_its_disks_concerns_only_boards_that_could_have_one(
    machine: Machine, kind: str
) -> None:
    machine.mount("0:40", "/tank", "tank/data", kind)
    assert guards.check(at(machine), look(machine.root)) == []
    allowed = {"class", "default-route"}
    assert guards.check(at(machine, "0000:00/03"), look(machine.root), allowed) == []
    # A disk at the USB port of the board itself.
    machine.block("8:16", "pci0000:00/0000:00:01.0/0000:01:00.2/usb1/1-1/host3/target3:0:0/3:0:0:0/block/sdb")
    assert [r.guard for r in guards.check(at(machine), look(machine.root))] == ["disk"]


def test_an_unreadable_network_concerns_only_boards_that_could_have_an_interface(machine: Machine) -> None:
    (machine.root / "proc/net/route").unlink()
    assert guards.check(at(machine), look(machine.root)) == []
    machine.interface("wwan0", "pci0000:00/0000:00:01.0/0000:01:00.2/usb1/1-2")
    refused = {r.guard for r in guards.check(at(machine), look(machine.root))}
    assert refused == {"default-route", "ssh", "network"}


def test_an_unreadable_framebuffer_concerns_only_displays(machine: Machine) -> None:
    (machine.root / "proc/iomem").unlink()
    assert {r.guard for r in guards.check(at(machine), look(machine.root))} == {"framebuffer"}
    allowed = {"class", "disk"}
    assert guards.check(at(machine, "0000:00/04"), look(machine.root), allowed) == []


def test_the_boot_display_and_virtual_functions_are_found(machine: Machine) -> None:
    machine.function("pci0000:00/0000:00:05.0", **DISPLAY, boot_vga=True)
    machine.virtual_function("0000:00:03.0")
    evidence = look(machine.root)
    assert evidence.boot_displays == {Address(0, 0, 5, 0)}
    assert evidence.physical_functions == {Address(0, 0, 3, 0)}
    (refusal,) = guards.check(at(machine, "0000:00/05"), evidence)
    assert refusal.guard == "boot-display"


def test_an_open_group_has_no_override(machine: Machine) -> None:
    machine.open("/dev/vfio/12")
    machine.open("/dev/vfio/vfio")
    evidence = look(machine.root)
    assert evidence.open_vfio == (OpenVfio(12, None, "process 4242 (qemu-system-x86)"),)
    (refusal,) = guards.check(at(machine), evidence, OVERRIDABLE_GUARDS)
    assert refusal.guard == "vfio-open"
    assert "process 4242" in refusal.found
    assert guards.check(at(machine, "0000:00/02.0/00"), evidence) == []


def test_an_open_device_of_iommufd_counts_too(machine: Machine) -> None:
    machine.node("/dev/vfio/devices/vfio0", 242, 0, "pci0000:00/0000:00:01.0/0000:01:00.0/vfio-dev/vfio0")
    machine.open("/dev/vfio/devices/vfio0")
    assert [r.guard for r in guards.check(at(machine), look(machine.root))] == ["vfio-open"]


def test_a_bound_board_in_use_is_left_in_peace(machine: Machine) -> None:
    for number in range(3):
        machine.leave(f"0000:01:00.{number}")
        machine.take(f"0000:01:00.{number}", "vfio-pci")
    machine.open("/dev/vfio/12")
    assert guards.check(at(machine), look(machine.root)) == []
    assert guards.check_open(at(machine), look(machine.root)) != []


def test_open_files_that_cannot_be_read_refuse(machine: Machine) -> None:
    (machine.root / "proc/1/fd/0").unlink()
    (refusal,) = guards.check(at(machine), look(machine.root), OVERRIDABLE_GUARDS)
    assert refusal.guard == "vfio-open"
    assert "cannot tell" in refusal.found
    assert [r.guard for r in guards.check(at(machine), look(machine.root))] == ["device-open", "vfio-open"]


@pytest.mark.parametrize(
    ("missing", "guard"),
    [("proc/net/route", "default-route"), ("proc/swaps", "disk"), ("sys/dev/block", "disk")],
)
def test_evidence_that_is_missing_refuses(machine: Machine, missing: str, guard: str) -> None:
    path = machine.root / missing
    path.rename(path.with_name("gone"))
    concerned = {"default-route": "0000:00/03", "disk": "0000:00/04"}[guard]
    assert guard in [r.guard for r in guards.check(at(machine, concerned), look(machine.root))]


def test_network_storage_memory_and_unknown_classes_are_named_one_by_one(machine: Machine) -> None:
    fibre = {**USB, "class_code": 0x0C0400}
    unknown = {**USB, "class_code": 0x00FF00}
    memory = {**USB, "class_code": 0x050210}
    management = {**USB, "class_code": 0x0C0700}
    card_reader = {**USB, "class_code": 0x080501}
    for slot, kind in enumerate((NIC, NVME, fibre, unknown, memory, management, card_reader), 8):
        address = machine.function(f"pci0000:00/0000:00:{slot:02x}.0", **kind)
        board = at(machine, f"0000:00/{slot:02x}")
        assert [r.guard for r in guards.check(board, Evidence())] == ["class"]
        assert guards.check(board, Evidence(), {"class"}) == []
        assert guards.check(board, Evidence(), selector=Selector.parse(address)) == []


@pytest.mark.parametrize("lines", [[], ["x"], ["pcibind-evidence 1", "mount"]])
def test_evidence_that_is_garbage_is_refused(lines: list[str]) -> None:
    with pytest.raises(ValueError, match="PCI evidence"):
        evidence_text.parse(lines)
    with pytest.raises(ValueError, match="cannot be understood"):
        evidence_text.parse(["pcibind-evidence 1", "what", "pcibind-evidence end"])


@pytest.mark.parametrize("destination", ["006433C6", "00000000"], ids=["blackhole", "unreachable default"])
def test_a_route_that_leads_to_no_interface_concerns_no_board(machine: Machine, destination: str) -> None:
    before = look(machine.root)
    with open(machine.root / "proc/net/route", "a", encoding="utf-8") as file:
        file.write(f"*\t{destination}\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
    assert look(machine.root) == before
