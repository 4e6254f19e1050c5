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

# What `grep` printed begins with the name of the file: what kind of line each is. Line 1 of
# `resource` is range 0, and the first six have registers in the header.
_KIND_BY_FILE = "; ".join(
    (
        r"s/^(taken|early\.initramfs|early\.done):/early /",
        r"s|^iommu_groups/.*/reserved_regions:|reserved &|",
        r"s|^\./.*/boot_vga:|boot_vga &|",
        *(rf"s|^\./(.*)/resource:{number + 1}:|memory \1 {number} |" for number in range(6)),
        r"/^\.\//d",
        "s|^driver/nvidia/|nvidia &|",
        "s|^net/route:|route4 |",
        "s|^net/ipv6_route:|route6 |",
        "s|^net/if_inet6:|address6 |",
        "s|^self/mountinfo:|mount |",
        "s/^swaps:/swap /",
        # All ranges, one inside the other, as indentation tells: without those between, one would
        # look to be inside of the last one printed.
        "s/^iomem:/iomem /",
        "s/^consoles:.* ([0-9]+:[0-9]+)$/console \\1/; /^consoles:/d",
        "s/^devices:(Character| *[0-9]+ (nvidia|vfio))/major \\1/; /^devices:/d",
        # What users call their processes and mounts need not be text in any encoding.
        "s/[^[:cntrl:][:print:]]/?/g",
    )
)

# As many processes however many devices there are. `_sort` reads the lines, each by its first word.
_LINES = "; ".join(
    (
        f"echo '{_BEGIN}'",
        # Patterns below are of bytes.
        "export LC_ALL=C",
        's="${PCIBIND_SYS:-/sys}"',
        'p="${PCIBIND_PROC:-/proc}"',
        # What the early script took at this boot (early.*: that of earlier versions), or pcibind.
        '( cd "${PCIBIND_RUN:-/run/pcibind}" 2>/dev/null && '
        "grep -aHs '' taken early.initramfs early.done )",
        # Memory that the firmware keeps mapped for itself; of another kind it is given up.
        "( cd \"$s/kernel\" 2>/dev/null && grep -Hs ' direct$' iommu_groups/*/reserved_regions )",
        # Interfaces and what they are made of; block devices and what they lie on; character
        # devices by number. Link targets hold the way through the PCI tree.
        '( cd "$s" && find class/net class/net/*/lower_* dev/block class/block/*/slaves/* '
        "class/nvme-subsystem/*/nvme* fs/btrfs/*/devices/* dev/char "
        # A function that has virtual ones has a first. Their number takes its lock, which may hang.
        "bus/pci/devices/*/virtfn0 -maxdepth 1 -type l "
        "'(' ! -path 'dev/char/*' -o -lname '*/pci[0-9a-f]*' -o -lname '*/vfio/*' ')' "
        "-printf 'link %p %l\\n' 2>/dev/null )",
        '[ -d "$s/dev/char" ] || echo "unreadable device-open $s/dev/char is not there"',
        '[ -d "$s/class/net" ] || echo "unreadable default-route $s/class/net is not there"',
        '[ -d "$s/dev/block" ] && [ -d "$s/class/block" ] || '
        'echo "unreadable disk $s/dev/block and $s/class/block are not there"',
        "( cd \"$s/bus/pci/devices\" 2>/dev/null && grep -Hs '^[1-9]' ./*/boot_vga )",
        # Without IPv6, or terminals, in the kernel their files are not there.
        '( cd "$p" 2>/dev/null && '
        "set -- net/route self/mountinfo swaps iomem devices; "
        'for f in net/ipv6_route net/if_inet6 consoles; do [ ! -e $f ] || set -- "$@" $f; done; '
        # A grep that fails names no file: where none fails by itself, any may have been cut short.
        "grep -aHs '' \"$@\"; e=$?; [ $e -lt 2 ] || { b=; "
        'for f; do cat $f >/dev/null 2>&1 || b="$b $f"; done; '
        '[ $e = 2 ] && [ -n "$b" ] || b="$*"; for f in $b; do case $f in '
        "net/if_inet6) g=network;; net/*) g=default-route;; iomem) g=framebuffer;; "
        "devices) g=nvidia-open;; consoles) g=device-open;; *) g=disk;; esac; "
        'echo "unreadable $g $p/$f cannot be read"; done; }; '
        "grep -Hs 'Device Minor' driver/nvidia/gpus/*/information )",
        # The disks in other mount namespaces, each read once. Nobody but root can mount one there.
        "set -- $(find \"$p\"/[0-9]*/ns -maxdepth 1 -name mnt -printf '%l %H/../mountinfo\\n' "
        "2>/dev/null | sort -u -k1,1)",
        "[ $# = 0 ] || sed -nE 's/^[0-9]+ [0-9]+ ([1-9]|0:[0-9]+ .* - (btrfs|zfs|bcachefs) )"
        '/mounted &/p\' "$@" 2>/dev/null',
        # The connections of servers that run as root; only root has processes of that owner.
        'set -- $(find "$p"/[0-9]*/exe -maxdepth 0 -user 0 '
        "'(' -lname '*/sshd*' -o -lname '*/dropbear*' ')' -printf '%h/fd ' 2>/dev/null)",
        "[ $# = 0 ] || find \"$@\" -lname 'socket:*' -printf 'sshd %l\\n' 2>/dev/null",
        # Whatever else this was logged in by: sudo drops SSH_CONNECTION, but the environment of the
        # login shell, an ancestor, has it. Any user can forge other processes' environments,
        # and a shell may outlive its connection, so that the kernel is asked for it.
        "set --; i=self; while [ $# -lt 64 ]; do b=; "
        'while read -r k v; do [ "$k" = PPid: ] && b=$v && break; '
        'done 2>/dev/null <"$p/$i/status"; case $b in ""|0|1) break;; esac; '
        'set -- "$@" "$p/$b/environ"; i=$b; done',
        "{ printf 'SSH_CONNECTION=%s\\n' \"${SSH_CONNECTION-}\"; [ $# = 0 ] || "
        "grep -azhs '^SSH_CONNECTION=' \"$@\" | tr '\\000' '\\n'; } | "
        "sed -n 's/^SSH_CONNECTION=\\(.\\)/ssh \\1/p'",
        # Local end, remote end and inode of what is established.
        "sed -n 's/^ *[0-9]*: \\([0-9A-F:]*\\) \\([0-9A-F:]*\\) 01 "
        "[^ ]* [^ ]* [^ ]* *[0-9]* *[0-9]* \\([0-9]*\\).*/tcp \\1 \\2 \\3/p' "
        '"$p/net/tcp" "$p/net/tcp6" 2>/dev/null; [ -f "$p/net/tcp" ] && [ -r "$p/net/tcp" ] || '
        'echo "unreadable ssh $p/net/tcp cannot be read"',
        # The firmware's screen, also after a driver has taken it over; without sysfb, no
        # framebuffer claims it at the next boot.
        "grep -qsE 'initcall_blacklist=[^ ]*sysfb_init|video=efifb:off' \"$p/cmdline\" || "
        'echo screen $(od -An -v -tx1 -N62 "$s/kernel/boot_params/data" 2>/dev/null)',
        # A process that can read the links of process 1 can read those of all processes. Any user
        # can choose names in a mount namespace, and a descriptor opened with O_PATH, whose link
        # has no permissions, opens no device: so the number of the open device counts.
        'set -- "$p"/1/fd/*',
        'if readlink "$1" >/dev/null 2>&1; then '
        "find \"$p\"/[0-9]*/fd -type l -perm /600 -lname '/dev/*' ! -lname '*[![:print:]]*' "
        "! -lname /dev/null ! -lname /dev/zero ! -lname '/dev/*random' ! -lname '/dev/pts/*' "
        "! -lname '/dev/shm/*' ! -lname '/dev/input/*' ! -lname /dev/kmsg ! -lname /dev/ptmx "
        "-printf 'open %p %l\\n' -exec stat -L -c 'node %n %f %t:%T' '{}' + 2>/dev/null | "
        "while read -r k f n t; do d=${f%/fd/*}; "
        '[ $k = node ] || { t=?; read -r t 2>/dev/null <"$d/comm"; }; '
        'printf \'%s %s %s %s\\n\' $k "${f#"$p"/}" "$n" "$t"; done; '
        'else echo "unreadable vfio-open the open files of other processes cannot be read"; fi',
        # Of endpoints that may be chosen: the memory ranges that have no address, or are marked so
        # (IORESOURCE_UNSET), and the standard header of the configuration space, which may hang
        # where a device does. All headers are read at once, unless one is cut short or hangs: then
        # one after the other, so that those before it are known.
        '( cd "$s/bus/pci/devices" 2>/dev/null || exit 0; '
        "{ { d=; r=; n=0; for c in ./*; do k=; read -r k <$c/class; "
        "case $k in 0x06*|0x08*|0x11*) continue;; esac; "
        'd="$d $c/config"; r="$r $c/resource"; n=$((n+16)); done; '
        "grep -HnsE '^0x0{16} | 0x0{8}[2367abef][0-9a-f]*$' $r </dev/null; "
        "set -- $({ head -qc 64 $d </dev/null | od -An -v -tx4 & } | timeout 4 cat); "
        "a=; [ $# = $n ] || a=apart; for c in $d; do "
        '[ -z "$a" ] || set -- $(od -An -v -tx4 -N64 "$c"); '
        '[ $# -ge 16 ] || continue; c=${c#./}; l="config ${c%/config}"; n=0; '
        'while [ $n -lt 16 ]; do l="$l $1"; shift; n=$((n+1)); done; echo "$l"; '
        "done; } 2>/dev/null & } | timeout 10 cat )",
        f"echo '{_END}'",
    )
)
COMMAND = f"{{ {_LINES}; }} | LC_ALL=C sed -E '{_KIND_BY_FILE}'"
"""A POSIX shell line that prints the evidence; it sees everything only as root.

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
            else:
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
