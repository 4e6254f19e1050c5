"""What else is configured to bind PCI devices: driverctl's overrides, libvirt's machines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from pcibind.model.pci import Board
from pcibind.read import files
from pcibind.read.files import Paths

_PLACE = re.compile(
    r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[01][0-9a-f](?:\.[0-7])?)", re.ASCII | re.IGNORECASE
)


def place(text: str) -> str | None:
    """An address or a slot with its domain, as sysfs writes it; None for any other text."""
    match = _PLACE.fullmatch(text.strip())
    return f"{match[1] or '0000'}:{match[2]}".lower() if match else None


def hostdevs(text: str) -> Iterator[str]:
    """The host's addresses in a libvirt description; the guest's stand outside of <source>."""
    for source in re.findall(r"<source\b[^>]*>(.*?)</source>", text, re.DOTALL):
        for attributes in re.findall(r"<address\b([^>]*)>", source):
            values = dict(re.findall(r"""(\w+)\s*=\s*["'](\w+)["']""", attributes))
            try:
                domain, bus, slot, function = (
                    int(values.get(name, "0"), 0) for name in ("domain", "bus", "slot", "function")
                )
            except ValueError:
                continue
            if "slot" in values:
                yield f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def managed_hostdevs(text: str) -> Iterator[str]:
    """The host's addresses that libvirt itself unbinds and rebinds (`managed='yes'`)."""
    for _, attributes, inside in re.findall(
        r"<(hostdev|interface)\b([^>]*)>(.*?)</\1>", text, re.DOTALL
    ):
        if re.search(r"""\bmanaged\s*=\s*["']yes["']""", attributes):
            yield from hostdevs(inside)


def notes(paths: Paths, boards: Iterable[Board]) -> tuple[str, ...]:
    """Name the boards that other tools are configured to rebind, in sentences."""
    mine = {str(function.address) for board in boards for function in board.functions}
    sentences = []
    for name, text in _files(f"{paths.root}/etc/driverctl.d"):
        if place(name) in mine:
            driver = text.strip() or "(none)"
            what = f"driverctl gives it to {driver} at each boot"
            sentences.append(f"{place(name)}: {what}; run `driverctl unset-override {name}`")
    for name, text in _files(f"{paths.root}/etc/libvirt/qemu"):
        what = f"libvirt's machine {name.removesuffix('.xml')} has it with managed='yes'"
        sentences += [
            f"{address}: {what}, so libvirt rebinds it; set managed='no' there"
            for address in dict.fromkeys(managed_hostdevs(text))
            if address in mine
        ]
    return tuple(sentences)


def _files(directory: str) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        try:
            yield name, files.read(f"{directory}/{name}") or ""
        except OSError:
            continue
