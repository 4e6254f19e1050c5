"""Reading dumps: of old and new systemd, cut short, damaged, and large."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import dump, machines
from tests.corpus.dump import BlockDevice, Dump, Interface, NvmeController, PciDevice

GPU_PATH = "/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
GPU_ALIAS = "pci:v000010DEd00002684sv000010DEsd000016F4bc03sc00i00"
GPU = PciDevice(GPU_PATH, "0000:01:00.0", 0x10DE, 0x2684, 0x10DE, 0x16F4, 0x030000, "nvidia", GPU_ALIAS)

OLD = f"""\
P: {GPU_PATH}
E: DEVPATH={GPU_PATH}
E: DRIVER=nvidia
E: MODALIAS={GPU_ALIAS}
E: PCI_CLASS=30000
E: PCI_ID=10DE:2684
E: PCI_SLOT_NAME=0000:01:00.0
E: PCI_SUBSYS_ID=10DE:16F4
E: SUBSYSTEM=pci

"""

# What udevadm of systemd 252 and newer prints, with a disk behind a volume management device.
VMD = "/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0"
NEW = f"""\
P: {GPU_PATH}
M: 0000:01:00.0
R: 0
J: +pci:0000:01:00.0
U: pci
V: nvidia
E: DEVPATH={GPU_PATH}
E: SUBSYSTEM=pci
E: DRIVER=nvidia
E: PCI_CLASS=30000
E: PCI_ID=10DE:2684
E: PCI_SUBSYS_ID=10DE:16F4
E: PCI_SLOT_NAME=0000:01:00.0
E: MODALIAS={GPU_ALIAS}

P: /devices/pci0000:00/0000:00:01.0/0000:00:01.0:pcie002
M: 0000:00:01.0:pcie002
U: pci_express
E: SUBSYSTEM=pci_express

P: {VMD}
M: 10000:e1:00.0
U: pci
V: nvme
E: SUBSYSTEM=pci
E: PCI_CLASS=10802
E: PCI_ID=144D:A80A
E: PCI_SLOT_NAME=10000:e1:00.0
E: MODALIAS=pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02

P: {VMD}/nvme/nvme0
M: nvme0
U: nvme
D: c 241:0
N: nvme0
L: 0
E: SUBSYSTEM=nvme
E: MAJOR=241
E: MINOR=0

P: {VMD}/nvme/nvme0/nvme0c0n1
U: block
T: disk
E: SUBSYSTEM=block
E: DEVTYPE=disk

P: {VMD}/nvme/nvme0/nvme0n1/nvme0n1p1
M: nvme0n1p1
R: 1
U: block
T: partition
D: b 259:1
N: nvme0n1p1
L: 0
S: disk/by-uuid/6c4c1b1c
Q: 9
E: SUBSYSTEM=block
E: MAJOR=259
E: MINOR=1
E: DISKSEQ=9
E: ID_FS_TYPE=ext4

P: /devices/virtual/block/md127
U: block
E: SUBSYSTEM=block
E: MAJOR=9
E: MINOR=127
E: MD_DEVICE_ev_nvme0n1p1_DEV=/dev/nvme0n1p1
E: MD_DEVICE_ev_nvme0n1p1_ROLE=0

P: /devices/pci0000:00/0000:00:03.0/net/eth0
M: eth0
U: net
I: 2
E: SUBSYSTEM=net
E: INTERFACE=eth0
E: IFINDEX=2

P: /module/nvidia
M: nvidia
U: module
E: SUBSYSTEM=module

"""


def parsed(text: str) -> Dump:
    return dump.parse(text.encode("utf-8", "surrogateescape"), "some.txt")


def read_or_refused(data: bytes) -> bool:
    """Whether a dump is read, or refused by a message that names the file; lets every other error through."""
    try:
        dump.parse(data, "some.txt")
    except ValueError as error:
        return str(error).startswith("some.txt:")
    return True


def test_a_dump_of_old_systemd_is_read() -> None:
    assert parsed(OLD) == Dump("some.txt", (GPU,))


def test_a_dump_of_new_systemd_is_read() -> None:
    machine = parsed(NEW)
    alias = "pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02"
    # The driver comes from `V:`, the subsystem's ids from the alias: the record has neither property.
    disk = PciDevice(VMD, "10000:e1:00.0", 0x144D, 0xA80A, 0x144D, 0xA801, 0x010802, "nvme", alias)
    assert machine.pci == (GPU, disk)
    assert machine.nvme == (NvmeController(f"{VMD}/nvme/nvme0", "nvme0"),)
    assert machine.blocks == (
        BlockDevice(f"{VMD}/nvme/nvme0/nvme0c0n1", "nvme0c0n1"),
        BlockDevice(f"{VMD}/nvme/nvme0/nvme0n1/nvme0n1p1", "nvme0n1p1", "259:1", "ext4"),
        BlockDevice("/devices/virtual/block/md127", "md127", "9:127", None, ("nvme0n1p1",)),
    )
    assert machine.interfaces == (Interface("/devices/pci0000:00/0000:00:03.0/net/eth0", "eth0", 2),)


def test_line_ends_of_windows_and_its_byte_order_mark_change_nothing() -> None:
    assert dump.parse(b"\xef\xbb\xbf" + NEW.replace("\n", "\r\n").encode(), "some.txt") == parsed(NEW)


def test_bytes_that_are_not_utf_8_are_kept() -> None:
    broken = b"P: /devices/virtual/block/\xff\xfe\nE: SUBSYSTEM=block\nE: ID_SERIAL=\x80\x85\x0b\x0c\x1c\n\n"
    (block,) = dump.parse(broken).blocks
    assert block.name.encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_line_feeds_end_a_line(separator: str) -> None:
    assert parsed(OLD.replace("E: DRIVER", f"E: ID_SERIAL=a{separator}b\nE: DRIVER")) == parsed(OLD)


def test_the_line_that_an_empty_value_swallowed_is_taken_as_a_property() -> None:
    # systemd 229: `HID_UNIQ=` and the next line of the kernel's text came out as one property.
    swallowed = OLD.replace(f"E: MODALIAS={GPU_ALIAS}", f"E: HID_UNIQ=\nMODALIAS={GPU_ALIAS}")
    assert parsed(swallowed).pci == (GPU,)
    with pytest.raises(ValueError, match=r"some\.txt:5: 'MODALIAS="):
        parsed(swallowed.replace("HID_UNIQ=", "HID_UNIQ=1"))


def test_without_subsystem_ids_anywhere_they_are_zero() -> None:
    bare = re.sub("E: (MODALIAS|PCI_SUBSYS_ID)=.*\n", "", OLD)
    assert parsed(bare).pci == (GPU._replace(subsystem_vendor=0, subsystem_device=0, modalias=None),)


def test_a_class_has_no_leading_zeros() -> None:
    assert parsed(OLD.replace("=30000", "=FF00")).pci[0].class_code == 0x00FF00
    assert parsed(OLD.replace("=30000", "=C0330")).pci[0].class_code == 0x0C0330


def test_only_a_property_marks_the_boot_display() -> None:
    assert parsed(OLD).pci[0].boot_vga is None
    assert parsed(OLD.replace("E: DRIVER", "E: BOOT_VGA=1\nE: DRIVER")).pci[0].boot_vga is True
    assert parsed(OLD.replace("E: DRIVER", "E: ID_BOOT_VGA=0\nE: DRIVER")).pci[0].boot_vga is False


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("E: DRIVER=nvidia", "DRIVER=nvidia", "some.txt:3: 'DRIVER=nvidia' is no line"),
        ("E: DRIVER=nvidia", "E: DRIVER", "some.txt:3: 'E: DRIVER' is not a property"),
        ("E: DRIVER=nvidia", "e: DRIVER=nvidia", "some.txt:3: "),
        ("E: DRIVER=nvidia", f"P: {GPU_PATH}", "some.txt:3: a second path"),
        ("E: DRIVER=nvidia", "E: DRIVER=../..", "some.txt:1: .*DRIVER is"),
        (f"P: {GPU_PATH}\n", "", "some.txt:1: .* outside of any record"),
        (f"P: {GPU_PATH}", "P: /devices/../../etc/passwd", "some.txt:1: .* not a path below /sys"),
        (f"P: {GPU_PATH}", "P: devices", "some.txt:1: "),
        (f"P: {GPU_PATH}", "P: /devices/pci0000:00", "some.txt:1: .*path of a PCI function"),
        ("E: PCI_SLOT_NAME=0000:01:00.0", "E: PCI_SLOT_NAME=0000:02:00.0", "some.txt:1: .*expected 0000:01:00.0"),
        ("E: PCI_CLASS=30000", "E: PCI_CLASS=3000000", "some.txt:1: .*PCI_CLASS is '3000000'"),
        ("E: PCI_CLASS=30000\n", "", "some.txt:1: .*PCI_CLASS is ''"),
        ("E: PCI_ID=10DE:2684", "E: PCI_ID=10DE", "some.txt:1: .*PCI_ID is '10DE'"),
        ("E: PCI_ID=10DE:2684\n", "", "some.txt:1: .*PCI_ID is ''"),
        ("E: PCI_SUBSYS_ID=10DE:16F4", "E: PCI_SUBSYS_ID=x:y", "some.txt:1: .*PCI_SUBSYS_ID"),
        ("", "sudo: a password is required\n", "some.txt:1: 'sudo"),
    ],
)
def test_garbage_is_refused_by_file_and_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(OLD.replace(old, new, 1))


def test_a_wrong_number_of_another_record_is_refused_by_its_line() -> None:
    with pytest.raises(ValueError, match=r"some\.txt:47: .*nvme0n1p1: MINOR is 'x'"):
        parsed(NEW.replace("MINOR=1\n", "MINOR=x\n"))


def test_one_device_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"some\.txt:11: .*0000:01:00.0 is there twice"):
        parsed(OLD + OLD)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"P: /devices/virtual/net/lo\n"])
def test_a_dump_without_a_complete_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no complete record"):
        dump.parse(data)


def test_a_dump_that_was_cut_anywhere_loses_its_last_record_only() -> None:
    data = NEW.encode()
    whole = dump.parse(data)
    first = data.index(b"\n\n") + 2
    for length in range(first, len(data)):
        cut = dump.parse(data[:length])
        assert cut.truncated == (not data[:length].endswith(b"\n\n")), length
        for kind in ("pci", "blocks", "interfaces", "nvme"):
            records, there = getattr(cut, kind), getattr(whole, kind)
            assert records == there[: len(records)], length


@pytest.mark.parametrize("name", machines.names() or ("absent",))
def test_a_real_dump_that_was_cut_is_read_or_refused(name: str) -> None:
    if not machines.path(name).exists():
        pytest.skip(f"the corpus of real machines is not at {machines.DIRECTORY}")
    data = machines.path(name).read_bytes()
    whole = machines.load(name)
    for length in range(1, len(data), len(data) // 8):
        try:
            cut = dump.parse(data[:length], whole.source)
        except ValueError:
            assert length < data.index(b"\n\n") + 2
            continue
        assert cut.truncated or data[:length].endswith(b"\n\n")
        assert cut.pci == whole.pci[: len(cut.pci)]
        assert cut.blocks == whole.blocks[: len(cut.blocks)]


def test_a_byte_that_is_damaged_is_read_or_refused() -> None:
    data = NEW.encode()
    for position in range(len(data)):
        for byte in (b"\xff", b"\n"):
            damaged = data[:position] + byte + data[position + 1 :]
            assert read_or_refused(damaged)


@given(st.binary() | st.text(alphabet="PE: =/\n\rSUBYTMpcidevs0:.1").map(str.encode))
def test_whatever_is_read_is_no_other_error(data: bytes) -> None:
    assert read_or_refused(data)


def test_a_thousand_devices_are_read_in_one_go() -> None:
    slots = [
        f"{domain:04x}:{bus:02x}:{n >> 3:02x}.{n & 7}" for domain in (0, 0x10000) for bus in (1, 2) for n in range(250)
    ]
    text = "".join(
        OLD.replace(GPU_PATH, f"/devices/pci{slot[:-8]}:00/SLOT").replace("0000:01:00.0", slot).replace("SLOT", slot)
        for slot in slots
    )
    machine = parsed(text)
    assert [device.slot for device in machine.pci] == slots
    assert len(set(machine.pci)) == 1000
    assert {device._replace(path=GPU.path, slot=GPU.slot) for device in machine.pci} == {GPU}
