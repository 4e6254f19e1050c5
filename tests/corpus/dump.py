"""A machine out of its `udevadm info --export-db`: PCI functions, network interfaces and block devices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.corpus import records
from tests.corpus.records import Record

_SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_IDS = re.compile(r"([0-9A-Fa-f]{1,4}):([0-9A-Fa-f]{1,4})")
_CLASS = re.compile(r"[0-9A-Fa-f]{1,6}")
_MODALIAS_SUBSYSTEM = re.compile(r"sv0000([0-9A-F]{4})sd0000([0-9A-F]{4})")
_FRAMEBUFFER = re.compile(r"/devices/platform/(efi|vesa|simple)-framebuffer\.[0-9]+/(graphics/fb|drm/card)[0-9]+")
_NUMBER = re.compile(r"[0-9]{1,10}")
_DRIVER = re.compile(r"\w[\w .+-]*")


class PciDevice(NamedTuple):
    """One PCI function. `path` begins with /devices; `class_code` has 24 bits.

    `boot_vga` is None where the dump does not tell, as most do not.
    """

    path: str
    slot: str
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    class_code: int
    driver: str | None = None
    modalias: str | None = None
    boot_vga: bool | None = None


class Interface(NamedTuple):
    """One network interface, virtual ones included; `ifindex` is the kernel's number for it, if the dump has it."""

    path: str
    name: str
    ifindex: int | None = None


class BlockDevice(NamedTuple):
    """One disk or partition. `number` is `MAJOR:MINOR`; the hidden paths of a multipath NVMe disk have none.

    `filesystem` is what udev found on it. `members` are the names of the block devices that it is made of, as far as
    the dump tells: of MD arrays it does, of device mappings it does not.
    """

    path: str
    name: str
    number: str | None = None
    filesystem: str | None = None
    members: tuple[str, ...] = ()


class NvmeController(NamedTuple):
    """One NVMe controller, the character device between a PCI function and its disks."""

    path: str
    name: str


class Dump(NamedTuple):
    """What one dump says, each kind in the dump's order; `truncated` when its end was cut off.

    `firmware_framebuffer` says that the console was on the framebuffer that the firmware had set up, on a card that is
    unknown.
    """

    source: str
    pci: tuple[PciDevice, ...]
    interfaces: tuple[Interface, ...] = ()
    blocks: tuple[BlockDevice, ...] = ()
    nvme: tuple[NvmeController, ...] = ()
    firmware_framebuffer: bool = False
    truncated: bool = False


def read(path: str | os.PathLike[str]) -> Dump:
    """Read a dump's file. Raises OSError, and ValueError as `parse` does."""
    return parse(Path(path).read_bytes(), os.fspath(path))


def parse(data: bytes, source: str = "dump") -> Dump:
    """Read a dump's bytes; `source` is what messages call it.

    A record that is cut off at the end is left out. Raises ValueError, naming the file and the line, for text that is
    not udevadm's, for a PCI function without the properties that the kernel gives to every one, and for a device that
    is there twice.
    """
    parsed, truncated = records.parse(data, source)
    pci: list[PciDevice] = []
    interfaces: list[Interface] = []
    blocks: list[BlockDevice] = []
    nvme: list[NvmeController] = []
    known: set[tuple[str, str]] = set()
    for record in parsed:
        name = record.path.rpartition("/")[2]
        keys = [name]
        match subsystem := record.properties.get("SUBSYSTEM", record.letters.get("U")):
            case "pci":
                pci.append(_pci(record))
            case "net":
                interfaces.append(Interface(record.path, name, _number(record, "IFINDEX")))
            case "block":
                block = _block(record, name)
                blocks.append(block)
                keys += [] if block.number is None else [block.number]
            case "nvme":
                nvme.append(NvmeController(record.path, name))
            case _:
                continue
        for key in keys:
            if (subsystem, key) in known:
                raise record.error(f"{key} is there twice; expected one dump of one machine")
            known.add((subsystem, key))
    framebuffer = any(_FRAMEBUFFER.fullmatch(record.path) for record in parsed)
    return Dump(source, tuple(pci), tuple(interfaces), tuple(blocks), tuple(nvme), framebuffer, truncated)


def _pci(record: Record) -> PciDevice:
    properties = record.properties
    slot = record.path.rpartition("/")[2]
    if _SLOT.fullmatch(slot) is None or not record.path.startswith("/devices/"):
        raise record.error("the path of a PCI function; expected /devices/.../DOMAIN:BUS:DEVICE.FUNCTION")
    if properties.get("PCI_SLOT_NAME", slot) != slot:
        raise record.error(f"PCI_SLOT_NAME is {properties['PCI_SLOT_NAME']!r}, expected {slot}")
    vendor, device = _ids(record, "PCI_ID")
    class_code = properties.get("PCI_CLASS", "")
    # The kernel prints it without leading zeros: 30000 is a display.
    if _CLASS.fullmatch(class_code) is None:
        raise record.error(f"PCI_CLASS is {class_code!r}, expected a hexadecimal number of up to six digits")
    modalias = properties.get("MODALIAS")
    driver = properties.get("DRIVER", record.letters.get("V"))
    if driver is not None and _DRIVER.fullmatch(driver) is None:
        raise record.error(f"DRIVER is {driver!r}, expected a driver's name")
    return PciDevice(
        record.path,
        slot,
        vendor,
        device,
        *_subsystem(record, modalias or ""),
        int(class_code, 16),
        driver,
        modalias,
        _boot_vga(record),
    )


def _ids(record: Record, name: str) -> tuple[int, int]:
    text = record.properties.get(name, "")
    match = _IDS.fullmatch(text)
    if match is None:
        raise record.error(f"{name} is {text!r}, expected VENDOR:DEVICE in hexadecimal")
    return int(match[1], 16), int(match[2], 16)


def _subsystem(record: Record, modalias: str) -> tuple[int, int]:
    """The subsystem's ids; without the property those of the alias, without either zeros, as a bridge has them."""
    if "PCI_SUBSYS_ID" in record.properties:
        return _ids(record, "PCI_SUBSYS_ID")
    match = _MODALIAS_SUBSYSTEM.search(modalias)
    return (int(match[1], 16), int(match[2], 16)) if match else (0, 0)


def _boot_vga(record: Record) -> bool | None:
    """What a property of that name says, whatever set it; udev itself sets none."""
    values = [value for name, value in record.properties.items() if name.lower().endswith("boot_vga")]
    return values[0] == "1" if values else None


def _block(record: Record, name: str) -> BlockDevice:
    properties = record.properties
    major, minor = _number(record, "MAJOR"), _number(record, "MINOR")
    number = None if major is None or minor is None else f"{major}:{minor}"
    members = sorted(
        value.rpartition("/")[2] for key, value in properties.items() if re.fullmatch(r"MD_DEVICE_\w+_DEV", key)
    )
    return BlockDevice(record.path, name, number, properties.get("ID_FS_TYPE"), _names(record, members))


def _names(record: Record, names: Iterable[str]) -> tuple[str, ...]:
    unique = tuple(names)
    if not {"", ".", ".."}.isdisjoint(unique):
        raise record.error(f"its members are {unique}, expected names of block devices")
    return unique


def _number(record: Record, name: str) -> int | None:
    text = record.properties.get(name)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise record.error(f"{name} is {text!r}, expected a decimal number")
    return int(text)
