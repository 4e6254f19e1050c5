"""What a class code says of a function, in a word or two."""

from __future__ import annotations

_SUBCLASSES = {
    0x0106: "SATA",
    0x0108: "NVMe",
    0x0200: "Ethernet",
    0x0207: "InfiniBand",
    0x0300: "VGA display",
    0x0302: "3D display",
    0x0403: "audio",
    0x0604: "PCI bridge",
    0x0700: "serial port",
    0x0C03: "USB",
    0x0C04: "Fibre Channel",
    0x0C05: "SMBus",
    0x0C06: "InfiniBand",
    0x0C80: "USB-C",
}
_BASE_CLASSES = {
    0x01: "storage",
    0x02: "network",
    0x03: "display",
    0x04: "multimedia",
    0x05: "memory",
    0x06: "bridge",
    0x07: "communication",
    0x08: "system",
    0x0B: "processor",
    0x0C: "serial bus",
    0x0D: "wireless network",
    0x0F: "satellite network",
    0x10: "encryption",
    0x11: "signal processing",
    0x12: "accelerator",
}


def name(class_code: int) -> str:
    """A short name for a 24 bit class code (PCI Code and ID Assignment Specification)."""
    known = _SUBCLASSES.get(class_code >> 8) or _BASE_CLASSES.get(class_code >> 16)
    return known or f"class {class_code:06x}"
