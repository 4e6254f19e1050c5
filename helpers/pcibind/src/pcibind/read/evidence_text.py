"""A host's use of its PCI devices as text: the command that prints it, and its reader.

The same command serves from afar and on the host itself. It reads /sys, /proc and /run/pcibind.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pcibind.model.evidence import Evidence, OpenNvidia, OpenVfio, Use
from pcibind.model.pci import Address, addresses

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_BEGIN = "pcibind-evidence 1"
_END = "pcibind-evidence end"

# One process for each kind of question, however many devices there are. `_sort` reads the lines,
# each by its first word.
_LINES = "; ".join(
    (
        f"echo '{_BEGIN}'",
        # Patterns below are of bytes.
        "export LC_ALL=C",
        's="${PCIBIND_SYS:-/sys}"',
        'p="${PCIBIND_PROC:-/proc}"',
        # What the early script took at this boot (early.*: that of earlier versions), or pcibind.
        '( cd "${PCIBIND_RUN:-/run/pcibind}" 2>/dev/null && '
        "sed 's/^/early /' taken early.initramfs early.done 2>/dev/null )",
        # Memory that the firmware keeps mapped for itself; of another kind it is given up.
        "( cd \"$s/kernel\" 2>/dev/null && grep -Hs ' direct$' iommu_groups/*/reserved_regions "
        "| sed 's/^/reserved /' )",
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
        '( cd "$s/bus/pci/devices" 2>/dev/null && '
        "grep -Hs '^[1-9]' ./*/boot_vga | sed 's/^/boot_vga /' )",
        "sed 's/^/route4 /' \"$p/net/route\" 2>/dev/null || "
        'echo "unreadable default-route $p/net/route cannot be read"',
        # Without IPv6 in the kernel the file is not there, and there is no IPv6 route either.
        'if [ -e "$p/net/ipv6_route" ]; then sed \'s/^/route6 /\' "$p/net/ipv6_route" 2>/dev/null '
        '|| echo "unreadable default-route $p/net/ipv6_route cannot be read"; fi',
        'if [ -e "$p/net/if_inet6" ]; then sed \'s/^/address6 /\' "$p/net/if_inet6" 2>/dev/null '
        '|| echo "unreadable network $p/net/if_inet6 cannot be read"; fi',
        "sed 's/^/mount /' \"$p/self/mountinfo\" 2>/dev/null || "
        'echo "unreadable disk $p/self/mountinfo cannot be read"',
        # The disks in other mount namespaces, each read once. Nobody but root can mount one there.
        "set -- $(find \"$p\"/[0-9]*/ns -maxdepth 1 -name mnt -printf '%l %H/../mountinfo\\n' "
        "2>/dev/null | sort -u -k1,1)",
        "[ $# = 0 ] || sed -nE 's/^[0-9]+ [0-9]+ ([1-9]|0:[0-9]+ .* - (btrfs|zfs|bcachefs) )"
        '/mounted &/p\' "$@" 2>/dev/null',
        "sed 's/^/swap /' \"$p/swaps\" 2>/dev/null || "
        'echo "unreadable disk $p/swaps cannot be read"',
        # The connections of servers that run as root; only root has processes of that owner.
        'set -- $(find "$p"/[0-9]*/exe -maxdepth 0 -user 0 '
        "'(' -lname '*/sshd*' -o -lname '*/dropbear*' ')' -printf '%h/fd ' 2>/dev/null)",
        "[ $# = 0 ] || find \"$@\" -lname 'socket:*' -printf 'sshd %l\\n' 2>/dev/null",
        # Whatever else this was logged in by: sudo drops SSH_CONNECTION, but the environment of the
        # login shell, an ancestor, has it. Other processes' environments are anybody's to make up,
        # and a shell may outlive its connection, so that the kernel is asked for it.
        "set --; i=self; while [ $# -lt 64 ]; do b=; "
        'while read -r k v; do [ "$k" = PPid: ] && b=$v && break; '
        'done 2>/dev/null <"$p/$i/status"; case $b in ""|0|1) break;; esac; '
        'set -- "$@" "$p/$b/environ"; i=$b; done',
        "{ printf 'SSH_CONNECTION=%s\\n' \"${SSH_CONNECTION-}\"; [ $# = 0 ] || "
        "grep -azhs '^SSH_CONNECTION=' \"$@\" | tr '\\000' '\\n'; } | "
        "sort -u | sed -n 's/^SSH_CONNECTION=\\(.\\)/ssh \\1/p'",
        # Local end, remote end and inode of what is established.
        "sed -n 's/^ *[0-9]*: \\([0-9A-F:]*\\) \\([0-9A-F:]*\\) 01 "
        "[^ ]* [^ ]* [^ ]* *[0-9]* *[0-9]* \\([0-9]*\\).*/tcp \\1 \\2 \\3/p' "
        '"$p/net/tcp" "$p/net/tcp6" 2>/dev/null; [ -f "$p/net/tcp" ] && [ -r "$p/net/tcp" ] || '
        'echo "unreadable ssh $p/net/tcp cannot be read"',
        # What of a function's memory the firmware's framebuffer owns: the ranges, one inside the
        # other, as indentation tells.
        # All of them: without those between, one would look to be inside of the last one printed.
        "sed 's/^/iomem /' \"$p/iomem\" 2>/dev/null || "
        'echo "unreadable framebuffer $p/iomem cannot be read"',
        # Where the firmware draws, whoever owns that now; without sysfb nobody will own it.
        "grep -qsE 'initcall_blacklist=[^ ]*sysfb_init|video=efifb:off' \"$p/cmdline\" || "
        "od -An -v -tx1 -N62 \"$s/kernel/boot_params/data\" 2>/dev/null | sed 's/^/screen/'",
        "grep -Hs 'Device Minor' \"$p\"/driver/nvidia/gpus/*/information | sed 's/^/nvidia /'",
        "sed -nE 's/.* ([0-9]+:[0-9]+)$/console \\1/p; "
        's/^(Character| *[0-9]+ (nvidia|vfio))/major &/p\' "$p/consoles" "$p/devices" 2>/dev/null',
        # Whoever may read the links of process 1 may read everybody's. Names are what anybody may
        # put in a mount namespace of his own, and a descriptor that was opened with O_PATH, whose
        # link has no permissions, opens no device: what counts is the number of what is open.
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
        # The standard header of the configuration space, and the ranges that the kernel gave: of
        # endpoints that may be chosen. To read it may hang where a device does.
        '( cd "$s/bus/pci/devices" 2>/dev/null || exit 0; '
        "{ for d in ./*; do c=; read -r c 2>/dev/null <$d/class; "
        "case $c in 0x06*|0x08*|0x11*) continue;; esac; "
        "echo config ${d#./} $(od -An -v -tx4 -N64 $d/config); "
        "n=0; while [ $n -lt 6 ] && read -r w; do "
        # Only those that have no address, or are marked so (IORESOURCE_UNSET).
        "case $w in 0x0000000000000000\\ *|*\\ 0x00000000[2367abef]*) "
        "echo memory ${d#./} $n $w;; esac; n=$((n+1)); done <$d/resource; "
        "done 2>/dev/null & } | timeout 10 cat )",
        f"echo '{_END}'",
    )
)
# What users call their processes and mounts need not be text in any encoding.
COMMAND = f"{{ {_LINES}; }} | LC_ALL=C tr '\\200-\\377' '?'"
"""A POSIX shell line that prints the evidence; it sees everything only as root.

The environment variables PCIBIND_SYS, PCIBIND_PROC and PCIBIND_RUN replace /sys, /proc and
/run/pcibind, for tests.
"""

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_FRAMEBUFFER = re.compile(r"BOOTFB|efifb|vesafb|simple-?f|efidrm|vesadrm")
_NEVER_EMPTY = (
    ("route4", "default-route", "net/route"),
    ("mount", "disk", "self/mountinfo"),
    ("swap", "disk", "swaps"),
    ("iomem", "framebuffer", "iomem"),
    ("major", "nvidia-open", "devices"),
)
# include/linux/ioport.h, include/uapi/linux/pci_regs.h
_IS_MEMORY, _IS_UNSET = 0x200, 0x20000000
_TYPE_BITS, _IS_WIDE = 0xE, 0x4
_HEADER_WORDS, _ONES = 16, 0xFFFFFFFF
# Other guards whose evidence is the same.
_SAME_SIGHT = {
    "default-route": ("ssh", "network"),
    "network": ("ssh",),
    "vfio-open": ("nvidia-open", "device-open", "disk"),
}
_KINDS = {0x2: "char", 0x6: "block"}  # S_IFMT of linux/stat.h, without the lower bits
_OWN_SCOPES = (0x10, 0x20)  # IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL of net/ipv6.h
_NVIDIA_CONTROL = 255
# include/uapi/linux/screen_info.h
_SCREEN_BYTES, _VIDEO_VLFB, _VIDEO_EFI, _WIDE_BASE = 62, 0x23, 0x70, 0x2
_CLASS_VGA = 0x0300
_REJECT = 0x0200  # RTF_REJECT of linux/route.h: an unreachable default, on interface lo.


# Address and port of the peer, then of this end.
_Ends = tuple[str, int, str, int]


class _Node(NamedTuple):
    """A device node as the kernel knows it: `char` or `block`, and its number."""

    kind: str
    major: int
    minor: int

    @property
    def link(self) -> str:
        """The name of its link in sysfs."""
        return f"dev/{self.kind}/{self.major}:{self.minor}"


class _Host:
    """The lines, sorted into tables."""

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self.boot_displays: list[Address] = []
        self.routes4: list[list[str]] = []
        self.routes6: list[list[str]] = []
        self.addresses6: list[list[str]] = []
        self.mounts: list[list[str]] = []
        self.swaps: list[list[str]] = []
        # Connections: those that shells call SSH's, all that TCP has with their inodes, and the
        # inodes of those that a server of SSH has.
        self.ssh: set[_Ends] = set()
        self.established: dict[_Ends, str] = {}
        self.sshd: set[str] = set()
        # By descriptor: the node's name and its process; its kind and number. Of the kernel's
        # console the number alone. Major numbers by the name of their driver.
        self.opened: dict[str, tuple[str, str]] = {}
        self.nodes: dict[str, _Node] = {}
        self.consoles: list[_Node] = []
        self.majors: dict[str, set[int]] = {}
        # Indentation, name and addresses of each memory range; NVIDIA's minor numbers.
        self.memory: list[tuple[int, str, range]] = []
        # The kernel's description of the firmware's screen, byte by byte.
        self.screen: list[int] = []
        self.minors: dict[str, Address] = {}
        self.unreadable: list[tuple[str, str]] = []
        self.blind: set[str] = set()
        self.early: frozenset[Address] = frozenset()
        self.reserved: list[int] = []
        # The words of each function's configuration header, and start, end and flags of its ranges.
        self.headers: dict[Address, list[int]] = {}
        self.ranges: dict[Address, dict[int, list[int]]] = {}
        # Kinds of lines of which there must be one, as the kernel prints a header or a first entry.
        self.seen: set[str] = set()


def parse(lines: list[str]) -> Evidence:
    """Read what COMMAND printed, one line an item, with or without line ends.

    What could not be read ends up in `Evidence.unreadable`. Raises ValueError, quoting the line,
    for text that COMMAND does not print, and for output that was cut short.
    """
    text = [line.rstrip("\r\n") for line in lines]
    if not text or text[0] != _BEGIN:
        found = repr(text[0]) if text else "nothing"
        raise ValueError(f"PCI evidence: found {found}, expected the line {_BEGIN!r} first")
    if text[-1] != _END:
        raise ValueError(f"PCI evidence: cut short after {text[-1]!r}, expected {_END!r} last")
    host = _Host()
    for line in text[1:-1]:
        try:
            _sort(host, line)
        except (IndexError, ValueError) as error:
            raise ValueError(f"PCI evidence: line {line!r} cannot be understood") from error
    for kind, guard, file in _NEVER_EMPTY:
        if kind not in host.seen:
            _cannot_tell(host, guard, f"/proc/{file} has nothing in it")
    if not any(name.startswith("class/net/") for name in host.links):
        host.blind |= {"default-route", "ssh", "network"}
    if not any(name.startswith("dev/block/") for name in host.links):
        host.blind.add("disk")
    routed = set(_default_interfaces(host))
    ssh = set(_ssh_interfaces(host))
    configured = set(_configured_interfaces(host)) - routed - ssh
    open_devices, open_disks = _open_devices(host)
    return Evidence(
        route_nics=_nics(host, routed, "carries the default route", "default-route"),
        ssh_nics=_nics(host, ssh, "carries an SSH connection", "ssh"),
        configured=_nics(host, configured, "has an address", "network"),
        disks=_disks(host, open_disks),
        boot_displays=frozenset(host.boot_displays),
        physical_functions=frozenset(
            Address.parse(name.split("/")[3]) for name in host.links if name.endswith("/virtfn0")
        ),
        framebuffers=tuple(_framebuffers(host)),
        open_nvidia=tuple(dict.fromkeys(_open_nvidia(host))),
        open_vfio=tuple(dict.fromkeys(_open_vfio(host))),
        open_devices=open_devices,
        network=frozenset(_below(host, "class/net/")),
        storage=frozenset(_below(host, "dev/block/", "class/nvme-subsystem/")),
        reserved_groups=frozenset(host.reserved),
        unassigned=tuple(_unassigned(host)),
        silent=frozenset(a for a, words in host.headers.items() if set(words) == {_ONES}),
        early=host.early,
        # Last, since the readers above add to them.
        unreadable=tuple(dict.fromkeys(host.unreadable)),
        blind=frozenset(host.blind),
    )


def _sort(host: _Host, line: str) -> None:
    kind, _, rest = line.partition(" ")
    words = rest.split()
    match kind:
        case "link":
            # Names of interfaces and devices have no blanks in them.
            name, _, target = rest.partition(" ")
            host.links[name] = target
        case "boot_vga":
            host.boot_displays.append(Address.parse(rest.split("/")[1]))
        case "route4":
            if words[0] == "Iface":
                host.seen.add(kind)
            else:
                host.routes4.append([words[0], words[1], words[3], words[7]])
        case "route6":
            host.routes6.append([words[9], words[0], words[1], words[8]])
        case "address6":
            host.addresses6.append([words[5], words[0], words[3]])
        case "mount" | "mounted":
            host.seen.add(kind)
            tail = words[words.index("-") + 1 :]
            host.mounts.append([words[2], words[4], tail[0], tail[1]])
        case "swap":
            if words[0] == "Filename":
                host.seen.add(kind)
            else:
                host.swaps.append(words)
        case "ssh":
            # Whatever a shell calls so.
            with contextlib.suppress(ValueError):
                peer, peer_port, local, port = words
                host.ssh.add((str(_ip(peer)), int(peer_port), str(_ip(local)), int(port)))
        case "sshd":
            host.sshd.add(rest.strip("socket:[]"))
        case "tcp":
            host.established[*_end(words[1]), *_end(words[0])] = words[2]
        case "open":
            descriptor, node, *comm = words
            pid = descriptor.partition("/")[0]
            host.opened[descriptor] = (node, f"process {pid} ({' '.join(comm)})")
        case "node":
            mode, number = int(words[1], 16) >> 12, [int(part, 16) for part in words[2].split(":")]
            if mode in _KINDS:
                host.nodes[words[0]] = _Node(_KINDS[mode], *number)
        case "console":
            host.consoles.append(_Node("char", *map(int, words[-1].split(":"))))
        case "major":
            host.seen.add(kind)
            if words[0] != "Character":
                host.majors.setdefault(words[1], set()).add(int(words[0]))
        case "unreadable":
            guard, _, why = rest.partition(" ")
            _cannot_tell(host, guard, why)
        case "early":
            host.early |= addresses(words)
        case "reserved":
            host.reserved.append(int(rest.split("/")[1]))
        case "config":
            # One that vanished meanwhile has no words.
            if len(words) == 1 + _HEADER_WORDS:
                host.headers[Address.parse(words[0])] = [int(word, 16) for word in words[1:]]
        case "memory":
            if len(words) == 5:
                ranges = host.ranges.setdefault(Address.parse(words[0]), {})
                ranges[int(words[1])] = [int(word, 16) for word in words[2:]]
        case "iomem":
            host.seen.add(kind)
            ends, range_name = rest.split(" : ", 1)
            first, last = (int(each, 16) for each in ends.split("-"))
            host.memory.append((len(rest) - len(rest.lstrip()), range_name, range(first, last + 1)))
        case "screen":
            host.screen += (int(word, 16) for word in words)
        case "nvidia":
            file, _, value = rest.partition(":Device Minor:")
            host.minors[value.strip()] = Address.parse(file.split("/")[-2])
        case _:
            raise ValueError(line)


def _cannot_tell(host: _Host, guard: str, why: str) -> None:
    """Note that a sight is barred, for all the guards that look at it."""
    host.unreadable += [(each, why) for each in (guard, *_SAME_SIGHT.get(guard, ()))]


def _end(text: str) -> tuple[str, int]:
    """Address and port out of /proc/net/tcp: words of 32 bits in the machine's byte order."""
    address, _, port = text.partition(":")
    octets = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    return str(_ip(octets)), int(port, 16)


def _ip(text: str | bytes) -> IPv4Address | IPv6Address:
    """An address without its zone; one of IPv4 in IPv6's form as what it is."""
    # Costs as much to import as all the rest here.
    import ipaddress

    address = ipaddress.ip_address(text.partition("%")[0] if isinstance(text, str) else text)
    return getattr(address, "ipv4_mapped", None) or address


def _parents(target: str) -> list[Address]:
    """The PCI functions that a device hangs on, out of its path.

    All on the way: behind a volume management device a disk's own controller is the last of two.
    The bridges among them are nobody's board.
    """
    return [Address.parse(text) for text in _PCI.findall(target)]


def _below(host: _Host, *kinds: str) -> Iterator[Address]:
    """The functions that links of these kinds lead through."""
    for name, target in host.links.items():
        if name.startswith(kinds):
            yield from _parents(target)


def _unassigned(host: _Host) -> Iterator[Use]:
    """The functions with a memory range that neither firmware nor kernel gave an address.

    Some kernels keep its size and mark it, others clear it; that it is one, and not just a range
    that the function does not have, is then told by the type bits of its register.
    """
    for address, ranges in host.ranges.items():
        registers = _memory_registers(host.headers.get(address, []))
        missing = []
        for number, (start, end, flags) in sorted(ranges.items()):
            marked = flags & _IS_MEMORY and (flags & _IS_UNSET or (start == 0 and end > 0))
            cleared = not (start or end or flags) and registers.get(number, 0) & _TYPE_BITS
            if marked or cleared:
                missing.append(str(number))
        if missing:
            yield Use(address, f"memory range {', '.join(missing)} of {address} has no address")


def _memory_registers(words: list[int]) -> dict[int, int]:
    """A header's base address registers of memory, by number; upper halves are left out."""
    if not words or words[3] >> 16 & 0x7F:
        # Of another type than an endpoint's, or all ones.
        return {}
    found = {}
    number = 0
    while number < 6:
        value = words[4 + number]
        if not value & 1:
            found[number] = value
        number += 2 if value & 7 == _IS_WIDE else 1
    return found


def _default_interfaces(host: _Host) -> Iterator[str]:
    for interface, destination, _flags, mask in host.routes4:
        if int(destination, 16) == 0 and int(mask, 16) == 0:
            yield interface
    for interface, destination, length, flags in host.routes6:
        if int(destination, 16) == 0 and int(length, 16) == 0 and not int(flags, 16) & _REJECT:
            yield interface


def _ssh_interfaces(host: _Host) -> Iterator[str]:
    """The interfaces that hold the local addresses of SSH connections."""
    barred = any(guard == "ssh" and "/net/tcp " in why for guard, why in host.unreadable)
    served = {ends for ends, inode in host.established.items() if inode in host.sshd}
    claimed = host.ssh if barred else host.ssh & host.established.keys()
    for peer, _, text, _ in sorted(served | claimed):
        local = _ip(text)
        if local.is_loopback or peer == text:
            continue
        if local.version == 4:
            found = _interfaces_of_ipv4(host, local)
        else:
            found = {name for name, digits, _ in host.addresses6 if int(digits, 16) == int(local)}
        if not found:
            host.unreadable.append(("ssh", f"no interface found that holds {local}"))
        yield from found


def _configured_interfaces(host: _Host) -> Iterator[str]:
    """The interfaces with an address that somebody gave them.

    IPv4's are told by the routes that come with them: /proc does not list those by interface.
    """
    for interface, destination, _flags, _mask in host.routes4:
        # In the byte order of the machine: 169.254.0.0/16, and multicast.
        if interface != "lo" and destination[4:] != "FEA9" and destination[6] != "E":
            yield interface
    for interface, _digits, scope in host.addresses6:
        if int(scope, 16) not in _OWN_SCOPES:
            yield interface


def _interfaces_of_ipv4(host: _Host, local: IPv4Address) -> set[str]:
    """The interfaces of the narrowest routes to an address.

    /proc has no table of IPv4 addresses by interface. An address brings the route to its own
    network along, on its interface; a lone address (/32) is reached through the default route.
    """
    narrowest = -1
    found: set[str] = set()
    for interface, destination, _flags, mask in host.routes4:
        # The kernel prints them in the byte order of the machine, which is little on all that
        # pcibind runs on.
        network, bits = (
            int.from_bytes(int(text, 16).to_bytes(4, "little"), "big")
            for text in (destination, mask)
        )
        if int(local) & bits == network:
            if bits > narrowest:
                narrowest, found = bits, set()
            if bits == narrowest:
                found.add(interface)
    return found


def _nics(host: _Host, interfaces: Iterable[str], what: str, guard: str) -> tuple[Use, ...]:
    uses = []
    for interface in sorted(interfaces):
        lowest = set(_lower(host, interface, set()))
        if f"class/net/{interface}" not in host.links and interface != "lo":
            host.unreadable.append((guard, f"interface {interface} is not in /sys/class/net"))
            host.blind.add(guard)
        for name in sorted(lowest):
            for address in _parents(host.links.get(f"class/net/{name}", "")):
                by = f"{name} {what}" if name == interface else f"{interface} on {name} {what}"
                uses.append(Use(address, by))
    return tuple(uses)


def _lower(host: _Host, interface: str, seen: set[str]) -> Iterator[str]:
    """An interface and all that it is made of: ports of a bridge, links of a bond."""
    if interface in seen:
        return
    seen.add(interface)
    yield interface
    prefix = f"class/net/{interface}/lower_"
    for name in host.links:
        if name.startswith(prefix):
            yield from _lower(host, name.removeprefix(prefix), seen)


def _disks(host: _Host, opened: dict[str, str]) -> tuple[Use, ...]:
    """The controllers of all block devices that are mounted, swapped to, open, or held by another.

    `opened` says by whom, by the names of their links in sysfs.
    """
    numbers: dict[str, str] = {}
    targets: dict[str, str] = {}
    controllers: dict[str, list[str]] = {}
    used: dict[str, str] = {}
    for name, target in host.links.items():
        parts = name.split("/")
        last = target.rpartition("/")[2]
        if name.startswith("dev/block/"):
            numbers[parts[2]] = last
            targets[last] = target
            if name in opened:
                used[last] = opened[name]
        elif name.startswith("class/block/") and parts[3] == "slaves":
            used.setdefault(parts[4], f"{parts[2]} lies on {parts[4]}")
        elif name.startswith("class/nvme-subsystem/"):
            controllers.setdefault(parts[2], []).append(target)
        elif name.startswith("fs/btrfs/"):
            used.setdefault(last, f"{last} belongs to a mounted btrfs")
    for number, point, kind, source in host.mounts:
        # btrfs has numbers of its own; others with such a number may name anything as their source.
        device = numbers.get(number) or (_named(source, targets) if kind == "btrfs" else None)
        if device is not None:
            used[device] = f"{device} is mounted at {point}"
        elif not number.startswith("0:"):
            host.unreadable.append(("disk", f"{point} is on {number}, which is not in /sys"))
        elif kind in ("zfs", "bcachefs"):
            host.unreadable.append(
                ("disk", f"{point} is {kind}, which does not tell its disks in /sys")
            )
    for source, *_ in host.swaps:
        device = _named(source, targets)
        if device is not None:
            used[device] = f"{device} is swapped to"
    uses: dict[Address, str] = {}
    for device, why in sorted(used.items()):
        for target in _ways(targets.get(device, ""), controllers):
            for address in _parents(target):
                uses.setdefault(address, why)
    return tuple(Use(address, why) for address, why in sorted(uses.items()))


def _named(source: str, targets: dict[str, str]) -> str | None:
    name = source.rpartition("/")[2] if source.startswith("/dev/") else ""
    return name if name in targets else None


def _ways(target: str, controllers: dict[str, list[str]]) -> list[str]:
    """The paths to a disk: its own, or those of the controllers of an NVMe subsystem.

    With multipath on, an NVMe disk is a virtual device of its subsystem, off the PCI tree.
    """
    match = re.search(r"/nvme-subsystem/([^/]+)/", target)
    return [target, *controllers.get(match[1], [])] if match else [target]


def _framebuffers(host: _Host) -> Iterator[Use]:
    """The functions with a range of a framebuffer in one of theirs, now or at the next boot."""
    around: list[tuple[int, Address]] = []
    found = set()
    base = _screen_base(host.screen)
    drawn = None
    for depth, name, where in host.memory:
        around = [(above, address) for above, address in around if above < depth]
        if _PCI.fullmatch(name):
            around.append((depth, Address.parse(name)))
            if base is not None and base in where:
                drawn = around[-1][1]
        elif around and _FRAMEBUFFER.match(name) and around[-1][1] not in found:
            found.add(around[-1][1])
            yield Use(around[-1][1], f"{name}, the firmware's framebuffer, owns memory of it")
    if drawn is not None and drawn not in found and not _is_vga(host.headers.get(drawn, [])):
        yield Use(
            drawn,
            "the firmware draws into its memory, which the kernel's framebuffer owns from the next "
            "boot on: vfio-pci takes it back from a display of class 0300 only",
        )


def _screen_base(screen: list[int]) -> int | None:
    """Where the firmware's screen begins: struct screen_info of linux/screen_info.h."""
    if len(screen) < _SCREEN_BYTES or screen[0x0F] not in (_VIDEO_VLFB, _VIDEO_EFI):
        return None
    low, capabilities, high = (
        int.from_bytes(screen[at : at + 4], "little") for at in (0x18, 0x36, 0x3A)
    )
    return (low | (high << 32 if capabilities & _WIDE_BASE else 0)) or None


def _is_vga(header: list[int]) -> bool:
    return len(header) > 2 and header[2] >> 16 == _CLASS_VGA


def _open_nvidia(host: _Host) -> Iterator[OpenNvidia]:
    for name, node, by in _open_of(host, "nvidia"):
        own = name in ("nvidia", "nvidia-frontend", "nvidiactl", "nvidia-modeset")
        # Everybody who has a device open has the control node open beside it.
        if not (own and node.minor == _NVIDIA_CONTROL):
            yield OpenNvidia(host.minors.get(str(node.minor)) if own else None, by)


def _open_of(host: _Host, driver: str) -> Iterator[tuple[str, _Node, str]]:
    """The open nodes of drivers whose name begins like this, and by whom in words."""
    names = {major: n for n, all_ in host.majors.items() if n.startswith(driver) for major in all_}
    for descriptor, (name, holder) in host.opened.items():
        node = host.nodes.get(descriptor)
        if node and node.kind == "char" and node.major in names:
            yield names[node.major], node, f"{name} is open: {holder}"


def _open_vfio(host: _Host) -> Iterator[OpenVfio]:
    for _driver, node, by in _open_of(host, "vfio"):
        target = host.links.get(node.link, "")
        group = re.search(r"/vfio/(\d+)$", target)
        address = next(reversed(_parents(target)), None)
        if group is None and address is None:
            host.unreadable.append(("vfio-open", f"whose node {by}, is not in /sys"))
        else:
            holder = by.partition(" is open: ")[2]
            yield OpenVfio(int(group[1]) if group else None, address, holder)


def _open_devices(host: _Host) -> tuple[tuple[Use, ...], dict[str, str]]:
    """The functions whose character devices are open, and the block devices that are."""
    apart = {m for name, all_ in host.majors.items() if name.startswith("vfio") for m in all_}
    uses = [
        Use(address, "it is a console of the kernel")
        for node in host.consoles
        for address in _parents(host.links.get(node.link, ""))
    ]
    blocks: dict[str, str] = {}
    for descriptor, (name, holder) in host.opened.items():
        node = host.nodes.get(descriptor)
        if node is None or node.major in apart:
            continue
        if node.kind == "block":
            blocks[node.link] = f"{name} is open: {holder}"
        else:
            found = _parents(host.links.get(node.link, ""))
            uses += [Use(address, f"{name} is open: {holder}") for address in found]
    return tuple(dict.fromkeys(uses)), blocks
