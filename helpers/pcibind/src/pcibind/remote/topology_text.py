"""A host's PCI topology as text: the command that prints it, and its parser.

It reads a remote host with one shell command; pcibind need not be installed there.
"""

from __future__ import annotations

import re

from pcibind.model.pci import (
    LOCKED_ATTRIBUTE,
    Address,
    RawDevice,
    Topology,
    build_topology,
)
from pcibind.remote import detail

_BEGIN = "pcibind-topology 2"
_LATE = "pcibind-topology late"
_END = "pcibind-topology end"
# None of these takes the device's lock.
_FILES = (
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "class",
    "boot_vga",
    *detail.ATTRIBUTES,
)
_LATE_FILES = (LOCKED_ATTRIBUTE, detail.LATE_ATTRIBUTE)

# What may block is read apart, by a process that is not waited for: such a read blocks behind a
# stuck unbind, uninterruptibly. `timeout` then ends only `cat`, and reports it.
COMMAND = "; ".join(
    (
        f"echo '{_BEGIN}'",
        's="${PCIBIND_SYS:-/sys}"',
        'm="${PCIBIND_MODULES:-/lib/modules}"',
        '[ -d "$s/bus/pci/devices" ] || echo "unreadable $s/bus/pci/devices is not there"',
        # The types of IOMMU groups, and the names of slots with the addresses in them.
        '( cd "$s" 2>/dev/null && '
        "grep -Hs '' kernel/iommu_groups/*/type bus/pci/slots/*/address )",
        '( cd "$s/bus/pci/devices" 2>/dev/null || exit 0; '
        "find . ./*/driver ./*/iommu_group ./*/physfn -maxdepth 1 -type l -printf '%p %l\\n' "
        "2>/dev/null; "
        "grep -Hs '' " + " ".join(f"./*/{name}" for name in _FILES) + "; "
        # Of the tables of modules only what may fit a device here: by its model, by its vendor, or
        # by its class alone. Which one it is in the end is for the reader to say.
        "w=$(sed -n 's/^\\(pci:v[0-9A-F]*\\)\\(d[0-9A-F]*\\)sv.*/\\1\\2\\n\\1d*\\npci:v*/p' "
        "./*/modalias 2>/dev/null | sort -u); "
        'k=; read -r k 2>/dev/null <"${PCIBIND_PROC:-/proc}/sys/kernel/osrelease"; '
        'if [ -r "$m/$k/modules.alias" ]; then '
        'if [ -n "$w" ]; then { cat "$m/$k/modules.alias"; '
        "tr '\\000' '\\n' <\"$m/$k/modules.builtin.modinfo\"; } 2>/dev/null | "
        'grep -F "$w"; fi; '
        'else echo "unreadable $m/$k/modules.alias, so no module is known"; fi; '
        f"{{ grep -Hs --line-buffered '' {' '.join(f'./*/{name}' for name in _LATE_FILES)} "
        "2>/dev/null & } | "
        f"timeout 10 cat || echo '{_LATE}' )",
        f"echo '{_END}'",
    )
)
"""A POSIX shell line that prints the topology; no root needed, ten or so processes in all.

The environment variables PCIBIND_SYS, PCIBIND_PROC and PCIBIND_MODULES replace /sys, /proc and
/lib/modules, for tests.
"""

_LINE = re.compile(r"\./(?P<name>[0-9a-f:]+\.[0-7])(?:/(?P<file>\w+))?(?P<mark>[ :])(?P<value>.*)")
_GROUP_TYPE = re.compile(r"kernel/iommu_groups/(?P<number>\d+)/type:(?P<value>.*)")
_SLOT = re.compile(r"bus/pci/slots/(?P<name>[^/]+)/address:(?P<value>\S+)")
# Also those of drivers that take a function by its override alone (`vfio_pci:v*`).
_ALIAS = re.compile(r"alias \S+:v\S+ \S+|\S+\.alias=\S+:v\S+")
_UNREADABLE = "unreadable "


def parse(lines: list[str]) -> Topology:
    """Read what COMMAND printed, one line an item, with or without line ends.

    Devices that vanished while the command ran are left out. Raises ValueError, quoting the
    line, for text that COMMAND does not print, and for output that was cut short.
    """
    text = [line.rstrip("\r\n") for line in lines]
    if not text or text[0] != _BEGIN:
        first = repr(text[0]) if text else "nothing"
        raise ValueError(f"PCI topology: found {first}, expected the line {_BEGIN!r} first")
    if text[-1] != _END:
        raise ValueError(f"PCI topology: cut short after {text[-1]!r}, expected {_END!r} last")
    devices: dict[str, RawDevice] = {}
    virtual: dict[Address, Address] = {}
    group_types: dict[int, str] = {}
    slots: dict[str, str] = {}
    aliases: list[str] = []
    unreadable: list[str] = []
    for line in text[1:-1]:
        if line == _LATE:
            unreadable.append("driver overrides, behind a device that hangs")
        elif line.startswith(_UNREADABLE):
            unreadable.append(line.removeprefix(_UNREADABLE))
        elif match := _GROUP_TYPE.fullmatch(line):
            group_types[int(match["number"])] = match["value"]
        elif match := _SLOT.fullmatch(line):
            slots[match["value"]] = match["name"]
        elif match := _LINE.fullmatch(line):
            address = Address.parse(match["name"])
            if match["file"] == "physfn":
                raw = devices.setdefault(match["name"], RawDevice(match["name"]))
                raw.physfn = match["value"].rpartition("/")[2]
                virtual[address] = Address.parse(raw.physfn)
            else:
                raw = devices.setdefault(match["name"], RawDevice(match["name"]))
                _take(raw, match["file"], match["mark"], match["value"], line)
        elif _ALIAS.fullmatch(line):
            aliases.append(line)
        else:
            raise ValueError(f"PCI topology: line {line!r} is not about a PCI device")
    if _LATE in text:
        # They are read in the order of their names: it hangs at the first one without an answer.
        silent = (
            name for name in sorted(devices) if LOCKED_ATTRIBUTE not in devices[name].attributes
        )
        for name in list(silent)[:1]:
            devices[name].locked = True
    functions = build_topology(devices.values()).functions
    details = detail.details(
        functions,
        {raw.name: raw.attributes for raw in devices.values()},
        detail.Surroundings(group_types, slots, virtual, aliases),
    )
    return Topology(functions, details, tuple(unreadable))


def _take(raw: RawDevice, file: str | None, mark: str, value: str, line: str) -> None:
    match (file, mark):
        case (None, " "):
            raw.target = value
        case ("driver", " "):
            raw.driver = value.rpartition("/")[2]
        case ("iommu_group", " "):
            raw.iommu_group = value.rpartition("/")[2]
        case (str(name), ":") if name in (*_FILES, *_LATE_FILES):
            raw.attributes[name] = value.strip()
        case _:
            raise ValueError(f"PCI topology: line {line!r} is of no known kind")
