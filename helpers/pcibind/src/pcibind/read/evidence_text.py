"""A host's use of its PCI devices as text: the command that prints it, and its parser.

The same command runs on this host and, by a deploy, on a remote one. It reads /sys, /proc and
/run/pcibind.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from pcibind.model.errors import PcibindError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Address, addresses
from pcibind.read import evidence_tables
from pcibind.read.evidence_tables import Node, Tables, parse_ip
from pcibind.read.files import Paths

SECONDS = 60.0
_KILL = 9
_BEGIN = "pcibind-evidence 1"
_END = "pcibind-evidence end"


def _read_command() -> str:
    package = os.path.dirname(os.path.dirname(__file__))
    with open(f"{package}/data/evidence.sh", encoding="utf-8") as file:
        return file.read()


COMMAND = _read_command()
"""A POSIX shell text that prints the evidence, line by line; it sees everything only as root.

The environment variables PCIBIND_SYS, PCIBIND_PROC and PCIBIND_RUN replace /sys, /proc and
/run/pcibind, for tests.
"""

_NEVER_EMPTY = (
    ("route4", "default-route", "net/route"),
    ("mount", "disk", "self/mountinfo"),
    ("swap", "disk", "swaps"),
    ("iomem", "framebuffer", "iomem"),
    ("major", "nvidia-open", "devices"),
)
_HEADER_WORDS = 16
_KINDS = {0x2: "char", 0x6: "block"}  # S_IFMT of linux/stat.h, without the lower bits


class Gathering:
    """A shell that looks at what the host uses; to be used in a `with`, which ends it."""

    def __init__(self, paths: Paths) -> None:
        """Start it. Raises PcibindError when there is no shell to start."""
        environment = {**os.environ, "PCIBIND_SYS": paths.sys, "PCIBIND_PROC": paths.proc}
        environment["PCIBIND_RUN"] = paths.run
        self._output, output = os.pipe()
        try:
            # Not by `subprocess`, which takes longer to import than the shell to start.
            self._process = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", COMMAND],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)],
                setpgroup=0,
            )
        except OSError as error:
            os.close(self._output)
            raise PcibindError(f"cannot tell what this host uses: {error}") from error
        finally:
            os.close(output)

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._output)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, _KILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def evidence(self) -> Evidence:
        """Wait for the shell's output and read it. Raises PcibindError when it is of no use."""
        deadline = time.monotonic() + SECONDS
        text = b""
        while True:
            ready, _, _ = select.select([self._output], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise PcibindError(f"cannot tell what this host uses: no answer in {SECONDS:g} s")
            chunk = os.read(self._output, 65536)
            if not chunk:
                break
            text += chunk
        try:
            return parse(text.decode(errors="replace").removesuffix("\n").split("\n"))
        except ValueError as error:
            raise PcibindError(f"cannot tell what this host uses: {error}") from error


def parse(lines: list[str]) -> Evidence:
    """Read what COMMAND printed, one line an item, with or without line ends.

    What could not be read ends up in `Evidence.unreadable`. Raises ValueError, quoting the line,
    for text that COMMAND does not print, and for output that was cut short.
    """
    text = [line.rstrip("\r\n") for line in lines]
    if not text or text[0] != _BEGIN:
        first = repr(text[0]) if text else "nothing"
        raise ValueError(f"PCI evidence: found {first}, expected the line {_BEGIN!r} first")
    if text[-1] != _END:
        raise ValueError(f"PCI evidence: cut short after {text[-1]!r}, expected {_END!r} last")
    tables = Tables()
    for line in text[1:-1]:
        try:
            _sort(tables, line)
        except (IndexError, ValueError) as error:
            raise ValueError(f"PCI evidence: line {line!r} cannot be understood") from error
    for kind, guard, file in _NEVER_EMPTY:
        if kind not in tables.seen:
            tables.cannot_tell(guard, f"/proc/{file} has nothing in it")
    return evidence_tables.evidence(tables)


def _sort(tables: Tables, line: str) -> None:
    kind, _, rest = line.partition(" ")
    words = rest.split()
    match kind:
        case "link":
            # Names of interfaces and devices have no blanks in them.
            name, _, target = rest.partition(" ")
            tables.links[name] = target
        case "boot_vga":
            tables.boot_displays.append(Address.parse(rest.split("/")[1]))
        case "route4":
            if words[0] == "Iface":
                tables.seen.add(kind)
            # A blackhole, as Calico makes one, leads to no interface: fib_route_seq_show().
            elif words[0] != "*":
                tables.routes4.append([words[0], words[1], words[3], words[7]])
        case "route6":
            tables.routes6.append([words[9], words[0], words[1], words[8]])
        case "address6":
            tables.addresses6.append([words[5], words[0], words[3]])
        case "mount" | "mounted":
            tables.seen.add(kind)
            tail = words[words.index("-") + 1 :]
            tables.mounts.append([words[2], words[4], tail[0], tail[1]])
        case "swap":
            if words[0] == "Filename":
                tables.seen.add(kind)
            else:
                tables.swaps.append(words)
        case "ssh":
            # Whatever a shell calls so.
            with contextlib.suppress(ValueError):
                peer, peer_port, local, port = words
                tables.ssh.add(
                    (str(parse_ip(peer)), int(peer_port), str(parse_ip(local)), int(port))
                )
        case "sshd":
            tables.sshd.add(rest.strip("socket:[]"))
        case "tcp":
            tables.established[*_end(words[1]), *_end(words[0])] = words[2]
        case "open":
            descriptor, node, *comm = words
            pid = descriptor.partition("/")[0]
            tables.opened[descriptor] = (node, f"process {pid} ({' '.join(comm)})")
        case "node":
            mode, number = int(words[1], 16) >> 12, [int(part, 16) for part in words[2].split(":")]
            if mode in _KINDS:
                tables.nodes[words[0]] = Node(_KINDS[mode], *number)
        case "console":
            tables.consoles.append(Node("char", *map(int, words[-1].split(":"))))
        case "major":
            tables.seen.add(kind)
            if words[0] != "Character":
                tables.majors.setdefault(words[1], set()).add(int(words[0]))
        case "unreadable":
            guard, _, why = rest.partition(" ")
            tables.cannot_tell(guard, why)
        case "early":
            tables.early |= addresses(words)
        case "reserved":
            tables.reserved.append(int(rest.split("/")[1]))
        case "config":
            # A device that has vanished has no words.
            if len(words) == 1 + _HEADER_WORDS:
                tables.headers[Address.parse(words[0])] = [int(word, 16) for word in words[1:]]
        case "memory":
            if len(words) == 5:
                ranges = tables.ranges.setdefault(Address.parse(words[0]), {})
                ranges[int(words[1])] = [int(word, 16) for word in words[2:]]
        case "iomem":
            tables.seen.add(kind)
            ends, range_name = rest.split(" : ", 1)
            first, last = (int(each, 16) for each in ends.split("-"))
            tables.memory.append(
                (len(rest) - len(rest.lstrip()), range_name, range(first, last + 1))
            )
        case "screen":
            tables.screen += (int(word, 16) for word in words)
        case "nvidia":
            file, _, value = rest.partition(":Device Minor:")
            tables.minors[value.strip()] = Address.parse(file.split("/")[-2])
        case _:
            raise ValueError(line)


def _end(text: str) -> tuple[str, int]:
    """Address and port out of /proc/net/tcp: words of 32 bits in the machine's byte order."""
    address, _, port = text.partition(":")
    octets = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    return str(parse_ip(octets)), int(port, 16)
