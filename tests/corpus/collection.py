"""A machine out of what `deploys/collect.py` wrote of it: its topology, and the files that it can be laid out from.

Of such a machine groups, NUMA nodes, the boot display and what its functions are used for were observed. What was not
collected is made up: the names of interfaces and disks, and their paths below the functions that they hang on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facts.collection import FORMAT, PARTS, VERSION, CollectedHost
from pcibind.model.pci import Topology
from pcibind.remote import topology_text
from tests.corpus.dump import BlockDevice, Dump, Interface, PciDevice
from tests.corpus.synthesis import Synthesis

_VGA = 0x0300
_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_TARGET = re.compile(rf"\./({_ADDRESS}) (?:\.\./)*(devices/.*)")
# What is read here becomes names of files: nothing may lead out of the directory they are made in.
_PATH = re.compile(rf"devices(?:/(?!\.)[\w.:@+-]+)*/pci[0-9a-f]+:[0-9a-f]+(?:/(?:pci[0-9a-f]+:[0-9a-f]+|{_ADDRESS}))*")
_DRIVER = re.compile(r"\w[\w .+-]*")
_DEVICE = re.compile(rf"(network|disk) (\w+)((?: {_ADDRESS})+)")
_USE = re.compile(rf"([a-z-]+) (?:({_ADDRESS})|group [0-9]+)")
_AGAIN = "collect the host again: pyinfra INVENTORY deploys/collect.py"
_ARRAY = "md0"
# Where a disk lies below its function, by how it is connected.
_PLACES = {
    "nvme": "nvme/nvme{0}",
    "usb": "usb1/1-1/host{0}/block",
    "virtio": "virtio{0}/block",
    "mmc": "mmc_host/mmc{0}/block",
    "ata": "ata{0}/host{0}/block",
    "scsi": "host{0}/block",
}


class CollectionError(ValueError):
    """A file that is no collection; the text says which, what was found, what was expected, and what to do."""


class Collected(NamedTuple):
    """One host's file. `source` is what messages call it, `observed` its contents, `topology` its PCI functions."""

    source: str
    observed: CollectedHost
    topology: Topology


class Machine(NamedTuple):
    """What `sysfs_tree.build` lays out."""

    dump: Dump
    synthesis: Synthesis


def read(path: str | os.PathLike[str]) -> Collected:
    """Read a file. Raises CollectionError, also when it cannot be read."""
    source = os.fspath(path)
    try:
        return parse(Path(path).read_bytes(), source)
    except OSError as error:
        raise CollectionError(f"{source}: {error.strerror}; expected a file HOST.collected.json: {_AGAIN}") from None


def parse(data: bytes, source: str = "collection") -> Collected:
    """Read a file's bytes. Raises CollectionError for what `deploys/collect.py` does not write."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        if not data.strip():
            raise _error(source, "it is empty", "the JSON of a collection", _AGAIN) from None
        raise _error(source, f"no JSON, or half of it ({error})", "the JSON of a collection", _AGAIN) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        kind = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise _error(source, f"the format {kind!r}", repr(FORMAT), _AGAIN)
    if document.get("version") != VERSION:
        version = document.get("version")
        advice = f"read it with the release of this project that wrote it, or {_AGAIN}"
        raise _error(source, f"version {version!r}", f"version {VERSION}", advice)
    host = CollectedHost(**{part: _strings(source, document, part) for part in PARTS})
    try:
        topology = topology_text.parse(list(host.topology))
    except ValueError as error:
        advice = f"report it, or {_AGAIN}"
        raise _error(source, f"a topology that cannot be read ({error})", "pcibind's text", advice) from None
    return Collected(source, host, topology)


def machine(collected: Collected) -> Machine:
    """The machine as a dump, and what was observed of it in the place of what is else made up.

    Of several interfaces that carried the default route the first carries it. Driver overrides, links, slots and
    modules have no place in a dump. Raises CollectionError for paths and names that no kernel has.
    """
    pci = tuple(_functions(collected))
    paths = {device.slot: device.path for device in pci}
    uses = _uses(collected, paths)
    interfaces: list[Interface] = []
    blocks: list[BlockDevice] = []
    # One disk of each function that had disks in use: together they are what is mounted.
    first: dict[str, str] = {}
    routed: list[str] = []
    for number, (kind, bus, slot) in enumerate(_devices(collected, paths)):
        if kind == "network":
            interfaces.append(Interface(f"{paths[slot]}/net/net{number}", f"net{number}", number + 1))
            routed += [f"net{number}"] if slot in uses.get("default-route", ()) else []
        else:
            place = f"{paths[slot]}/{_PLACES.get(bus, 'block').format(number)}/disk{number}"
            blocks.append(BlockDevice(place, f"disk{number}", f"259:{number}", "ext4"))
            if slot in uses.get("disk", ()):
                first.setdefault(slot, f"disk{number}")
    members = tuple(first.values())
    root = members[0] if len(members) == 1 else None
    if len(members) > 1:
        root = _ARRAY
        blocks.append(BlockDevice(f"/devices/virtual/block/{_ARRAY}", _ARRAY, "9:0", "ext4"))
    functions = collected.topology.functions
    nodes = {str(address): each.numa_node for address, each in collected.topology.details.items()}
    return Machine(
        Dump(collected.source, pci, tuple(interfaces), tuple(blocks), firmware_framebuffer="framebuffer" in uses),
        Synthesis(
            groups={str(each.address): each.iommu_group for each in functions if each.iommu_group is not None},
            nodes={slot: node for slot, node in nodes.items() if node is not None},
            boot_display=None,
            framebuffer=next(iter(uses.get("framebuffer", ())), None),
            root_disk=root,
            default_interface=next(iter(routed), None),
            members={_ARRAY: members} if root == _ARRAY else {},
        ),
    )


def _functions(collected: Collected) -> Iterator[PciDevice]:
    targets = {match[1]: match[2] for line in collected.observed.topology if (match := _TARGET.fullmatch(line))}
    for function in collected.topology.functions:
        slot = str(function.address)
        path = targets.get(slot, "")
        if _PATH.fullmatch(path) is None or not path.endswith(f"/{slot}"):
            place = f"{path!r} as the path of {slot}"
            raise _error(collected.source, place, f"a path of sysfs that ends with {slot}", _AGAIN)
        if function.driver is not None and _DRIVER.fullmatch(function.driver) is None:
            raise _error(collected.source, f"{function.driver!r} as the driver of {slot}", "a driver's name", _AGAIN)
        yield PciDevice(
            f"/{path}",
            slot,
            *function.identity,
            function.driver,
            function.identity.modalias,
            # The kernel tells it of VGA functions only, and of all of them.
            function.boot_vga if function.class_code >> 8 == _VGA else None,
        )


def _devices(collected: Collected, paths: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Each interface and disk that hangs on a function: what it is, of which kind or bus, and of which function."""
    for line in collected.observed.devices:
        match = _DEVICE.fullmatch(line)
        slots = match[3].split() if match else []
        if match is None or not set(slots) <= paths.keys():
            raise _error(collected.source, repr(line), "a device on functions of the topology", _AGAIN)
        # A disk with several ways to it is laid out as one on each of them.
        yield from ((match[1], match[2], slot) for slot in slots)


def _uses(collected: Collected, paths: dict[str, str]) -> dict[str, list[str]]:
    """The functions by what they are used for."""
    uses: dict[str, list[str]] = {}
    for line in collected.observed.uses:
        match = _USE.fullmatch(line)
        if match is None or (match[2] and match[2] not in paths):
            raise _error(collected.source, repr(line), "what a function of the topology is used for", _AGAIN)
        if match[2]:
            uses.setdefault(match[1], []).append(match[2])
    return uses


def _strings(source: str, document: dict[str, Any], part: str) -> tuple[str, ...]:
    values = document.get(part)
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        what = "nothing" if part not in document else f"{type(values).__name__} that is no array of strings"
        raise _error(source, f"{what} as {part!r}", "an array of strings", _AGAIN)
    return tuple(values)


def _error(source: str, problem: str, expected: str, advice: str) -> CollectionError:
    return CollectionError(f"{source}: found {problem}, expected {expected}; {advice}")
