"""Facts about a PCI function that binding does not need: for people, and for comparing hosts.

The names are those of Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from pcibind.model.pci import Address, Function
from pcibind.model.values import NamedTuple

ATTRIBUTES = (
    "numa_node",
    "current_link_speed",
    "current_link_width",
    "max_link_speed",
    "max_link_width",
    "sriov_totalvfs",
)
"""sysfs attributes that are read for this; none of them takes the device's lock.

`sriov_numvfs` does, so virtual functions are counted by their links instead.
"""

LATE_ATTRIBUTE = "reset_method"
"""Read last, where a hang costs nothing else: some kernels take the device's lock for it."""


class Link(NamedTuple):
    """A PCI Express link: speeds as the kernel writes them (`16.0 GT/s PCIe`), widths in lanes."""

    speed: str | None
    width: int | None
    max_speed: str | None
    max_width: int | None


class Sriov(NamedTuple):
    """How many virtual functions a function could have, and how many it has."""

    total: int
    enabled: int


class Module(NamedTuple):
    """A kernel module that says it drives a function, and whether it is built into the kernel."""

    name: str
    built_in: bool


class Detail(NamedTuple):
    """All of it, None or empty for what a function does not have or the kernel does not report.

    `slot` is the name of the physical slot as the firmware has it.
    """

    iommu_group_type: str | None = None
    numa_node: int | None = None
    link: Link | None = None
    sriov: Sriov | None = None
    physical_function: Address | None = None
    reset_methods: tuple[str, ...] = ()
    slot: str | None = None
    modules: tuple[Module, ...] = ()


class Surroundings(NamedTuple):
    """What is read once for a host: types by IOMMU group, slot names by `DOMAIN:BUS:DEVICE`.

    `virtual` holds each virtual function's physical one, and `aliases` the lines of the kernel's
    tables of modules, as they are.
    """

    group_types: Mapping[int, str]
    slots: Mapping[str, str]
    virtual: Mapping[Address, Address]
    aliases: Iterable[str]


_IN_FILE = re.compile(r"alias (?P<pattern>pci:\S+) (?P<module>\S+)")
_IN_KERNEL = re.compile(r"(?P<module>[^.\s]+)\.alias=(?P<pattern>pci:\S+)")


def details(
    functions: Iterable[Function],
    attributes: Mapping[str, Mapping[str, str]],
    around: Surroundings,
) -> dict[Address, Detail]:
    """Each function's detail; `attributes` are the texts of its files, by address and name."""
    patterns = [alias for line in around.aliases if (alias := _alias(line))]
    enabled: dict[Address, int] = {}
    for physical in around.virtual.values():
        enabled[physical] = enabled.get(physical, 0) + 1
    details_of: dict[Address, Detail] = {}
    for function in functions:
        texts = attributes.get(str(function.address), {})
        total = _number(texts.get("sriov_totalvfs"))
        details_of[function.address] = _detail(function, texts, around)._replace(
            sriov=Sriov(total, enabled.get(function.address, 0)) if total else None,
            modules=_modules(function, patterns),
        )
    return details_of


def _detail(function: Function, texts: Mapping[str, str], around: Surroundings) -> Detail:
    group = function.iommu_group
    node = _number(texts.get("numa_node"))
    link = Link(
        _speed(texts.get("current_link_speed")),
        _width(texts.get("current_link_width")),
        _speed(texts.get("max_link_speed")),
        _width(texts.get("max_link_width")),
    )
    return Detail(
        iommu_group_type=None if group is None else around.group_types.get(group),
        # -1 is a machine of one node, or a firmware that does not report it.
        numa_node=None if node is None or node < 0 else node,
        link=link if any(link) else None,
        physical_function=around.virtual.get(function.address),
        reset_methods=tuple(texts.get(LATE_ATTRIBUTE, "").split()),
        slot=around.slots.get(str(function.address).partition(".")[0]),
    )


def _alias(line: str) -> tuple[re.Pattern[str], Module] | None:
    in_file = _IN_FILE.fullmatch(line)
    match = in_file or _IN_KERNEL.fullmatch(line)
    if match is None:
        return None
    # Of the shell's patterns these tables use only the asterisk. What `translate` makes of many of
    # them is tried without going back, however a host may write them.
    pattern = fnmatch.translate(match["pattern"].replace("[", "[[]").replace("?", "[?]"))
    return re.compile(pattern), Module(match["module"].replace("-", "_"), in_file is None)


def _modules(
    function: Function, patterns: Iterable[tuple[re.Pattern[str], Module]]
) -> tuple[Module, ...]:
    text = function.identity.modalias
    return tuple(dict.fromkeys(module for pattern, module in patterns if pattern.fullmatch(text)))


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _width(text: str | None) -> int | None:
    # 0 and 63 or 255 are what a link that is down, or a device that is gone, reads as.
    number = _number(text)
    return number if number is not None and 0 < number <= 32 else None


def _speed(text: str | None) -> str | None:
    return None if text is None or text.startswith("Unknown") else text
