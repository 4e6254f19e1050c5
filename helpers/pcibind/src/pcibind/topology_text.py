"""A host's PCI topology as text: the command that prints it, and its reader.

For looking at a host from afar with one shell command, without pcibind being there.
"""

from __future__ import annotations

import re

from pcibind.model import Address, Topology
from pcibind.raw import ATTRIBUTES, LOCKED_ATTRIBUTE, RawDevice, build

_BEGIN = "pcibind-topology 1"
_LATE = "pcibind-topology late"
_END = "pcibind-topology end"

# driver_override is read apart, by a process that nobody waits for: the read blocks behind a stuck
# unbind, uninterruptibly. `timeout` then ends only `cat`, and says so.
COMMAND = (
    f"echo '{_BEGIN}'; "
    '( cd "${PCIBIND_SYS:-/sys}/bus/pci/devices" 2>/dev/null || exit 0; '
    "find . ./*/driver ./*/iommu_group -maxdepth 1 -type l -printf '%p %l\\n' 2>/dev/null; "
    "grep -Hs '' " + " ".join(f"./*/{name}" for name in ATTRIBUTES) + "; "
    f"{{ grep -Hs --line-buffered '' ./*/{LOCKED_ATTRIBUTE} 2>/dev/null & }} | "
    f"timeout 10 cat || echo '{_LATE}' ); "
    f"echo '{_END}'"
)
"""A POSIX shell line that prints the topology; no root needed, a handful of processes in all.

The environment variable PCIBIND_SYS replaces /sys, for tests.
"""

_LINE = re.compile(r"\./(?P<name>[0-9a-f:]+\.[0-7])(?:/(?P<file>\w+))?(?P<mark>[ :])(?P<value>.*)")


def parse(lines: list[str]) -> Topology:
    """Read what COMMAND printed, one line an item, with or without line ends.

    Devices that vanished while the command ran are left out. Raises ValueError, quoting the
    line, for text that COMMAND does not print, and for output that was cut short.
    """
    text = [line.rstrip("\r\n") for line in lines]
    if not text or text[0] != _BEGIN:
        found = repr(text[0]) if text else "nothing"
        raise ValueError(f"PCI topology: found {found}, expected the line {_BEGIN!r} first")
    if text[-1] != _END:
        raise ValueError(f"PCI topology: cut short after {text[-1]!r}, expected {_END!r} last")
    devices: dict[str, RawDevice] = {}
    for line in text[1:-1]:
        if line == _LATE:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"PCI topology: line {line!r} is not about a PCI device")
        Address.parse(match["name"])
        raw = devices.setdefault(match["name"], RawDevice(match["name"]))
        _take(raw, match["file"], match["mark"], match["value"], line)
    if _LATE in text:
        # They are read in the order of their names: it hangs at the first one without an answer.
        silent = (
            name for name in sorted(devices) if LOCKED_ATTRIBUTE not in devices[name].attributes
        )
        for name in list(silent)[:1]:
            devices[name].locked = True
    return build(devices.values())


def _take(raw: RawDevice, file: str | None, mark: str, value: str, line: str) -> None:
    match (file, mark):
        case (None, " "):
            raw.target = value
        case ("driver", " "):
            raw.driver = value.rpartition("/")[2]
        case ("iommu_group", " "):
            raw.iommu_group = value.rpartition("/")[2]
        case (str(name), ":") if name in (*ATTRIBUTES, LOCKED_ATTRIBUTE):
            raw.attributes[name] = value.strip()
        case _:
            raise ValueError(f"PCI topology: line {line!r} is of no known kind")
