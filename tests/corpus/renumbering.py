"""The same machine after another boot: the buses behind its root ports have other numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tests.corpus.dump import Dump

_ROOT = re.compile(r"pci([0-9a-f]{4,8}):([0-9a-f]{2})")
_FUNCTION = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f]\.[0-7])")

Bus = tuple[int, int]
"""Domain and number."""


def shifted(dump: Dump, by: int, first: int = 0) -> dict[Bus, int]:
    """New numbers for all buses from `first` on that are behind a bridge: `by` more, or less.

    Root buses keep theirs: firmware gives them out. Raises ValueError when a bus would leave the range of its root
    bus, which ends before the next root bus of the domain.
    """
    buses: dict[Bus, int] = {}
    roots = {root for device in dump.pci for root, _ in _buses(device.path)}
    for device in dump.pci:
        for root, bus in _buses(device.path):
            if bus == root or bus[1] < first:
                continue
            end = min((number for domain, number in roots if domain == root[0] and number > root[1]), default=0x100)
            if not root[1] < bus[1] + by < end:
                raise ValueError(
                    f"{dump.source}: bus {bus[1]:02x} of domain {bus[0]:04x} cannot be moved by {by}; "
                    f"expected it between {root[1]:02x} and {end:02x}"
                )
            buses[bus] = bus[1] + by
    return buses


def renumbered(dump: Dump, buses: Mapping[Bus, int]) -> Dump:
    """The dump with other bus numbers, in all paths and slot names; buses that are not named keep theirs.

    Raises ValueError when two buses would have the same number, and for a root bus.
    """
    old = {bus for device in dump.pci for _, bus in _buses(device.path)}
    roots = {root for device in dump.pci for root, _ in _buses(device.path)}
    new = [(bus[0], buses.get(bus, bus[1])) for bus in old]
    if len(set(new)) < len(new) or roots & buses.keys():
        raise ValueError(f"{dump.source}: two buses would have one number, or a root bus another")

    def path(text: str) -> str:
        return "/".join(_renumber(part, buses) for part in text.split("/"))

    return dump._replace(
        pci=tuple(each._replace(path=path(each.path), slot=_renumber(each.slot, buses)) for each in dump.pci),
        interfaces=tuple(each._replace(path=path(each.path)) for each in dump.interfaces),
        blocks=tuple(each._replace(path=path(each.path)) for each in dump.blocks),
        nvme=tuple(each._replace(path=path(each.path)) for each in dump.nvme),
    )


def _renumber(part: str, buses: Mapping[Bus, int]) -> str:
    match = _FUNCTION.fullmatch(part)
    if match is None:
        return part
    bus = int(match[1], 16), int(match[2], 16)
    return f"{match[1]}:{buses.get(bus, bus[1]):02x}:{match[3]}"


def _buses(path: str) -> Iterator[tuple[Bus, Bus]]:
    """Root bus and bus of every function on a path."""
    root: Bus = 0, 0
    for part in path.split("/"):
        if match := _ROOT.fullmatch(part):
            root = int(match[1], 16), int(match[2], 16)
        elif match := _FUNCTION.fullmatch(part):
            yield root, (int(match[1], 16), int(match[2], 16))
