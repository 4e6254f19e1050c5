"""A host as one document that its operator can share: for bug reports, and as test data.

A collection holds the PCI topology as pcibind's own text, and around it what decides how a host boots and what it
uses its devices for. It holds nothing that identifies the host: no names of hosts, users, interfaces and disks,
no addresses of networks, no serial numbers, and no values of kernel arguments that are not known to be harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts import os_release
from facts.redaction import Redaction
from pcibind.read import evidence_text
from pcibind.remote import topology_text

FORMAT = "gevulot-collection"
VERSION = 1

# --- the command

_BEGIN = f"{FORMAT} {VERSION}"
_MARK = "=== "
_NAMES = {"id": "ID", "version": "VERSION_ID", "name": "PRETTY_NAME"}
_SECTIONS = ("topology", "evidence", "host", "end")

# The last section. Each line begins with a word that says what it is about; nothing is run once for each device.
_HOST = r"""
s="${PCIBIND_SYS:-/sys}"; p="${PCIBIND_PROC:-/proc}"; m="${PCIBIND_MODULES:-/lib/modules}"; e="${PCIBIND_ETC:-/etc}"
for n in @HIDDEN@ "$USER" "$LOGNAME" "$SUDO_USER" "$HOSTNAME"; do printf 'hide %s\n' "$n"; done
{ n=; read -r n <"$e/hostname"; printf 'hide %s\n' "$n"
  while IFS=: read -r n _ i _; do
    [ "$i" -ge 1000 ] && [ "$i" -lt 65534 ] && printf 'hide %s\n' "$n"; done <"$e/passwd"; } 2>/dev/null
[ "$(id -u)" = 0 ] || echo "unreadable what is for root alone: the login is another user's"
printf 'uname %s\n' "$(uname -nrm)"
if [ -r "$e/os-release" ]; then
  sed -nE 's/^ *(ID|VERSION_ID|PRETTY_NAME)=/os &/p' "$e/os-release" | tr -d '\000'
  echo # Its last line need not end.
else echo "unreadable distribution: $e/os-release cannot be read"; fi
if [ -r "$p/cmdline" ]; then printf 'arguments %s\n' "$(tr '\n' ' ' <"$p/cmdline")"
else echo "unreadable kernel arguments: $p/cmdline cannot be read"; fi
[ -d "$s/firmware/acpi/tables" ] || echo "unreadable ACPI tables: $s/firmware/acpi/tables is not there"
for n in "$s"/firmware/acpi/tables/*; do [ -f "$n" ] && printf 'acpi %s\n' "${n##*/}"; done
( cd "$s" 2>/dev/null && grep -Hs -e '^[0-9]' -e '^DEVTYPE=' class/net/*/type class/net/*/uevent | sed 's/^/net /' )
timeout 20 systemctl show -p Version -p SystemState -p NFailedUnits 2>/dev/null | sed 's/^/system /'
set -- @UNITS@
[ $# = 0 ] || timeout 20 systemctl show -p Id,LoadState,ActiveState,SubState,Result,UnitFileState "$@" 2>/dev/null |
  sed 's/^/unit /'
for n in @MODULES@; do
  if [ -d "$s/module/$n" ]; then echo "asked $n loaded"; else echo "asked $n -"; fi; done
k=; read -r k 2>/dev/null <"$p/sys/kernel/osrelease"
if [ -r "$m/$k/modules.dep" ]; then
  grep -Hos @PATTERNS@ "$m/$k/modules.dep" "$m/$k/modules.builtin" | sed 's/^/module /'
else echo "unreadable modules: $m/$k/modules.dep cannot be read"; fi
"""


def command(modules: tuple[str, ...], units: tuple[str, ...], hidden: tuple[str, ...]) -> str:
    """The POSIX shell text whose output ``parse`` reads: a few dozen processes, however many devices there are.

    The environment variables PCIBIND_SYS, PCIBIND_PROC, PCIBIND_MODULES and PCIBIND_ETC replace /sys, /proc,
    /lib/modules and /etc, for tests.
    """
    names = [module.replace("-", "_") for module in modules]
    words = {
        "@HIDDEN@": " ".join(map(quote, hidden)),
        "@UNITS@": " ".join(map(quote, units)),
        "@MODULES@": " ".join(map(quote, names)),
        # What stands before the colon is a module, what stands after it are those that it needs. A file may be spelt
        # with a dash where its module has an underscore.
        "@PATTERNS@": " ".join(f"-e '^[^:]*/{name.replace('_', '[-_]')}[.]ko'" for name in names) or "-e '^$'",
    }
    host = re.sub("|".join(words), lambda match: words[match[0]], _HOST)
    texts = zip(_SECTIONS, (topology_text.COMMAND, evidence_text.COMMAND, host), strict=False)
    sections = (f"echo '{_MARK}{name}'\n( {text}\n)" for name, text in texts)
    return "\n".join((f"echo '{_BEGIN}'", *sections, f"echo '{_MARK}{_SECTIONS[-1]}'"))


# --- the document


@dataclass(frozen=True, slots=True)
class CollectedHost:
    """What was read of one host, each part as lines of text that do not identify it.

    ``unreadable`` are sentences. ``platform`` are lines ``KEY=VALUE``, ``arguments`` the kernel's, ``acpi`` names of
    tables, ``modules`` lines ``NAME module|built-in|missing|unknown loaded|-``, ``units`` lines ``UNIT KEY=VALUE…``.
    ``devices`` are lines ``network KIND ADDRESS`` and ``disk BUS ADDRESS…``, the addresses being those of the PCI
    functions that they hang on; ``uses`` are lines ``WHAT ADDRESS`` (``vfio-open group NUMBER`` among them): what the
    host uses a function for, and the bridges above it. ``topology`` is what ``pcibind.remote.topology_text`` parses.
    """

    unreadable: tuple[str, ...]
    platform: tuple[str, ...]
    arguments: tuple[str, ...]
    acpi: tuple[str, ...]
    modules: tuple[str, ...]
    units: tuple[str, ...]
    devices: tuple[str, ...]
    uses: tuple[str, ...]
    topology: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The format and its version, then each part as an array of strings."""
        parts = {part: list(getattr(self, part)) for part in PARTS}
        return {"format": FORMAT, "version": VERSION, **parts}

    def text(self) -> str:
        """The same as the text of a file, a line a string: two of them can be compared line by line."""
        return json.dumps(self.to_json(), indent=0, ensure_ascii=True) + "\n"


PARTS = tuple(field.name for field in fields(CollectedHost))
"""The names of a collection's parts, in their order."""


def parse(output: list[str]) -> CollectedHost:
    """What the command printed, redacted.

    Raises ``ValueError`` for output that was cut short, or is no such command's. Topology and evidence that pcibind
    cannot read are kept as they are, but for what is redacted: a host of which that is true is worth a report.
    """
    sections = _split([line.rstrip("\r\n") for line in output])
    host: dict[str, list[str]] = {}
    for line in sections["host"]:
        word, _, rest = line.partition(" ")
        host.setdefault(word, []).append(rest)
    if "uname" not in host:
        raise ValueError("the section about the host says nothing of its kernel, expected the words of uname")
    nodename, release, machine = (*_first_value(host, "uname").split(), "", "", "")[:3]
    redaction = Redaction((*host.get("hide", ()), nodename))
    unreadable = [*host.get("unreadable", ())]
    if "system" not in host:
        unreadable.append("systemd: systemctl show did not answer")
    try:
        unreadable += topology_text.parse(sections["topology"]).unreadable
    except ValueError as error:
        unreadable.append(f"the topology: {error}")
    uses, unseen = _uses(sections["evidence"])
    names = os_release.parse(host.get("os", ()))
    shown = (f"{word}={names.get(key, '')}" for word, key in _NAMES.items()) if names else ()
    platform = (*(redaction.text(line) for line in shown), f"kernel={redaction.release(release)}")
    return CollectedHost(
        unreadable=tuple(dict.fromkeys(redaction.text(line) for line in (*unreadable, *unseen))),
        platform=(*platform, f"architecture={redaction.text(machine)}"),
        arguments=redaction.arguments(_first_value(host, "arguments")),
        acpi=tuple(sorted(redaction.text(name) for name in host.get("acpi", ()))),
        modules=tuple(_modules(host)),
        units=(*([redaction.text(f"systemd {' '.join(host['system'])}")] if "system" in host else ()), *_units(host)),
        devices=tuple(sorted(_devices(sections["evidence"], host.get("net", ())))),
        uses=uses,
        topology=tuple(redaction.topology(line) for line in _ordered(sections["topology"])),
    )


def _split(lines: list[str]) -> dict[str, list[str]]:
    if not lines or lines[0] != _BEGIN:
        raise ValueError(f"found {lines[0] if lines else 'nothing'!r}, expected the line {_BEGIN!r} first")
    sections: dict[str, list[str]] = {}
    for line in lines[1:]:
        if line.startswith(_MARK):
            sections[line.removeprefix(_MARK)] = current = []
        elif sections:
            current.append(line)
    if tuple(sections) != _SECTIONS:
        raise ValueError(f"found the sections {', '.join(sections)}, expected {', '.join(_SECTIONS)}: it was cut short")
    return sections


def _first_value(host: dict[str, list[str]], word: str) -> str:
    return host.get(word, [""])[0]


def _ordered(lines: list[str]) -> Iterator[str]:
    """The topology's lines in an order that does not change from one look to the next."""
    first, middle, last = lines[:1], lines[1:-1], lines[-1:] if len(lines) > 1 else []
    # Of two modules for one function, the one that comes first stays the first.
    aliases = [line for line in middle if line.startswith("alias ") or ".alias=" in line]
    others = sorted(set(middle) - set(aliases))
    yield from (*first, *others, *dict.fromkeys(aliases), *last)


# What tells how a disk is connected, out of its path below /sys/devices.
_BUSES = (
    ("nvme", re.compile(r"/nvme")),
    ("usb", re.compile(r"/usb[0-9]")),
    ("virtio", re.compile(r"/virtio[0-9]")),
    ("mmc", re.compile(r"/mmc_host/")),
    ("ata", re.compile(r"/ata[0-9]")),
    ("scsi", re.compile(r"/host[0-9]")),
)
# ARPHRD numbers of linux/if_arp.h
_LINKS = {"1": "ethernet", "32": "infiniband"}
_ADDRESS = re.compile(r"/([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])(?=/)")


def _devices(evidence: list[str], net: Iterable[str]) -> Iterator[str]:
    """Interfaces and disks that hang on PCI functions, without their names; partitions are left out."""
    links = dict(line.removeprefix("link ").partition(" ")[::2] for line in evidence if line.startswith("link "))
    kinds: dict[str, str] = {}
    for line in net:
        path, _, value = line.partition(":")
        interface = path.rpartition("/")[0]
        kind = "wlan" if value == "DEVTYPE=wlan" else _LINKS.get(value)
        if kind is not None and kinds.get(interface) != "wlan":
            kinds[interface] = kind
    disks = {target.rpartition("/")[2] for name, target in links.items() if name.startswith("dev/block/")}
    for name, target in links.items():
        match name.split("/"):
            case ["class", "net", _] if on := _ADDRESS.findall(target):
                yield f"network {kinds.get(name, 'other')} {on[-1]}"
            case ["dev", "block", _] if target.rpartition("/")[0].rpartition("/")[2] not in disks:
                ways = [target]
                if subsystem := re.search(r"/nvme-subsystem/([^/]+)/", target):
                    # With multipath on, a disk belongs to a subsystem, which has one controller or several.
                    ways = [
                        way for each, way in links.items() if each.startswith(f"class/nvme-subsystem/{subsystem[1]}/")
                    ]
                if addresses := sorted({on[-1] for way in ways if (on := _ADDRESS.findall(way))}):
                    bus = next((bus for bus, pattern in _BUSES if pattern.search(target)), "other")
                    yield f"disk {bus} {' '.join(addresses)}"


def _uses(lines: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """What the functions are used for, without by whom; and what of that could not be read."""
    try:
        evidence = evidence_text.parse(lines)
    except (ValueError, IndexError) as error:
        # The error quotes a line, which may name interfaces and mount points. Only the kind of the line is reported.
        kind = re.search(r"line ['\"](\w+)", str(error))
        return (), [f"the use of the PCI devices: pcibind cannot understand it{f', at {kind[1]}' if kind else ''}"]
    # Why the command itself could not read something is in its own words; the parser's speak of names.
    reasons = {line.partition(" ")[2].partition(" ")[2] for line in lines if line.startswith("unreadable ")}
    unread = [
        f"for the guard {guard}: {why if why in reasons else 'it is not known in full'}"
        for guard, why in evidence.unreadable
    ]
    uses = {
        f"{guard} {use.address}"
        for guard, users in (
            ("default-route", evidence.route_nics),
            ("ssh", evidence.ssh_nics),
            ("network", evidence.configured),
            ("disk", evidence.disks),
            ("device-open", evidence.open_devices),
            ("framebuffer", evidence.framebuffers),
        )
        for use in users
    }
    uses |= {f"boot-display {address}" for address in evidence.boot_displays}
    uses |= {f"virtual-functions {address}" for address in evidence.physical_functions}
    uses |= {f"nvidia-open {use.address}" for use in evidence.open_nvidia if use.address}
    uses |= {f"vfio-open {use.address or f'group {use.group}'}" for use in evidence.open_vfio}
    return tuple(sorted(uses)), unread


def _units(host: dict[str, list[str]]) -> Iterator[str]:
    """A line for each unit, its name first."""
    for block in "\n".join(host.get("unit", ())).split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if name := values.pop("Id", ""):
            yield " ".join((name, *(f"{key}={value}" for key, value in values.items())))


def _modules(host: dict[str, list[str]]) -> Iterator[str]:
    """A line for each module that was asked for."""
    known = not any(why.startswith("modules:") for why in host.get("unreadable", ()))
    kinds: dict[str, str] = {}
    for line in host.get("module", ()):
        file, _, path = line.rpartition(":")
        name = path.rpartition("/")[2].removesuffix(".ko").replace("-", "_")
        kinds[name] = "built-in" if file.endswith(".builtin") else "module"
    for line in host.get("asked", ()):
        name, _, loaded = line.partition(" ")
        kind = kinds.get(name, "missing" if known else "unknown")
        yield f"{name} {kind} {'loaded' if kind == 'built-in' else loaded}"


class Collection(FactBase[CollectedHost | None]):
    """A whole host as it can be given away, ``None`` where nothing was answered.

    ``modules`` and ``units`` are those that are asked for by name; ``hidden`` are names and addresses of the host that
    its operator knows it by.
    """

    def command(self, modules: tuple[str, ...] = (), units: tuple[str, ...] = (), hidden: tuple[str, ...] = ()) -> str:
        return command(modules, units, hidden)

    def process(self, output: list[str]) -> CollectedHost:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(f"the collection cannot be read: {error}") from error
