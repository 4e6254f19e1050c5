"""The volume: a volume group of one linear volume, as LVM writes it at the start of its partition.

The image is made without mounting anything and without the kernel's device mapper, which LVM's own tools need to make a
volume. The format (lvm2, lib/format_text/layout.h and lib/label/label.h) has not changed since 2003; LVM in the guest
and GRUB read it, and `claims` asks LVM to check it.
"""

import struct
import zlib
from typing import Final

SECTOR: Final = 512
START: Final = 2**20
"""Bytes before the first extent: the label and the metadata."""

EXTENT: Final = 4 * 2**20

_METADATA_START: Final = 4096
_CRC_START: Final = 0xF597A6CF


def extents(size: int) -> int:
    """Return how many whole extents a partition of `size` bytes holds."""
    return (size - START) // EXTENT


def header(size: int, group: str, volume: str) -> bytes:
    """Return the first `START` bytes of a partition of `size` bytes; the volume, of all its extents, follows them."""
    metadata = _metadata(size, group, volume).encode() + b"\0"
    locations = struct.pack("<QQQQ", START, 0, 0, 0) + struct.pack(
        "<QQQQ", _METADATA_START, START - _METADATA_START, 0, 0
    )
    # The extension's version and flags (in use), and no boot loader area.
    physical = _bare(_identifier("pv")) + struct.pack("<Q", size) + locations + struct.pack("<IIQQ", 2, 1, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + physical
    label += bytes(SECTOR - 20 - len(label))
    area = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, _METADATA_START, START - _METADATA_START)
    area += struct.pack("<QQII", SECTOR, len(metadata), _crc(metadata), 0)
    area += bytes(SECTOR - 4 - len(area))
    made = bytearray(START)
    made[SECTOR : 2 * SECTOR] = struct.pack("<8sQI", b"LABELONE", 1, _crc(label)) + label
    made[_METADATA_START : _METADATA_START + SECTOR] = struct.pack("<I", _crc(area)) + area
    made[_METADATA_START + SECTOR : _METADATA_START + SECTOR + len(metadata)] = metadata
    return bytes(made)


def _metadata(size: int, group: str, volume: str) -> str:
    count = extents(size)
    return f"""\
{group} {{
id = "{_identifier("vg")}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {EXTENT // SECTOR}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{_identifier("pv")}"
device = "/dev/vda"
status = ["ALLOCATABLE"]
flags = []
dev_size = {size // SECTOR}
pe_start = {START // SECTOR}
pe_count = {count}
}}
}}
logical_volumes {{
{volume} {{
id = "{_identifier("lv")}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {count}
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "lab"
creation_time = 1700000000
"""


def _identifier(kind: str) -> str:
    """Return the identifier of the lab's only object of a kind: 32 letters in LVM's groups."""
    letters = kind + "lab".rjust(30, "0")
    sizes = (6, 4, 4, 4, 4, 4, 6)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return "-".join(letters[start : start + count] for start, count in zip(starts, sizes, strict=True))


def _bare(identifier: str) -> bytes:
    return identifier.replace("-", "").encode()


def _crc(data: bytes) -> int:
    """Return LVM's checksum: CRC-32 with a start of its own, and no inversion, which zlib's has at both ends."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
