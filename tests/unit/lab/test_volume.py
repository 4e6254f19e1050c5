"""The volume group: what LVM and GRUB look for at the start of a partition."""

from __future__ import annotations

import struct

from tests.lab import volume

SIZE = 20 * 2**30
HEADER = volume.header(SIZE, "lab", "root")


def checksum(data: bytes) -> int:
    """LVM's own (lib/misc/crc.c): the common polynomial, a start of its own, no inversion."""
    state = 0xF597A6CF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0xEDB88320 if state & 1 else 0)
    return state


def test_the_label_lies_in_the_second_sector_and_its_checksum_fits() -> None:
    label = HEADER[512:1024]
    name, sector, crc, offset, kind = struct.unpack_from("<8sQII8s", label)
    assert (name, sector, offset, kind) == (b"LABELONE", 1, 32, b"LVM2 001")
    assert crc == checksum(label[20:])


def test_the_metadata_is_found_where_the_area_says_and_its_checksums_fit() -> None:
    area = HEADER[4096:4608]
    crc, magic, version, start, size = struct.unpack_from("<I16sIQQ", area)
    assert (magic, version, start, size) == (b" LVM2 x[5A%r0N*>", 1, 4096, 2**20 - 4096)
    assert crc == checksum(area[4:])
    offset, length, text_crc, _ = struct.unpack_from("<QQII", area, 40)
    text = HEADER[4096 + offset : 4096 + offset + length]
    assert text_crc == checksum(text)
    assert text.startswith(b"lab {\n")
    assert text.endswith(b"\0")


def test_the_volume_has_all_extents_that_the_partition_holds() -> None:
    count = volume.extents(SIZE)
    assert volume.START + count * volume.EXTENT <= SIZE < volume.START + (count + 1) * volume.EXTENT
    assert f"extent_count = {count}\n".encode() in HEADER


def test_it_ends_where_the_first_extent_starts() -> None:
    assert len(HEADER) == volume.START
