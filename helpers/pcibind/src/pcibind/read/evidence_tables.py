"""What a host's tables of links, routes, mounts and open files say about its PCI devices.

`evidence_text` fills the tables, and the guards decide by what comes out. Nothing is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pcibind.model.evidence import Evidence, OpenNvidia, OpenVfio, Use
from pcibind.model.pci import Address
from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_FRAMEBUFFER = re.compile(r"BOOTFB|efifb|vesafb|simple-?f|efidrm|vesadrm")
# include/linux/ioport.h, include/uapi/linux/pci_regs.h
_IS_MEMORY, _IS_UNSET = 0x200, 0x20000000
_TYPE_BITS, _IS_WIDE = 0xE, 0x4
_ONES = 0xFFFFFFFF
# Other guards whose evidence is the same.
_SAME_SIGHT = {
    "default-route": ("ssh", "network"),
    "network": ("ssh",),
    "vfio-open": ("nvidia-open", "device-open", "disk"),
}
_OWN_SCOPES = (0x10, 0x20)  # IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL of net/ipv6.h
_NVIDIA_CONTROL = 255
# include/uapi/linux/screen_info.h
_SCREEN_BYTES, _VIDEO_VLFB, _VIDEO_EFI, _WIDE_BASE = 62, 0x23, 0x70, 0x2
_CLASS_VGA = 0x0300
_REJECT = 0x0200  # RTF_REJECT of linux/route.h: an unreachable default, on interface lo.


# Address and port of the peer, then of this end.
_Ends = tuple[str, int, str, int]


class Node(NamedTuple):
    """A device node as the kernel knows it: `char` or `block`, and its number."""

    kind: str
    major: int
    minor: int

    @property
    def link(self) -> str:
        """The name of its link in sysfs."""
        return f"dev/{self.kind}/{self.major}:{self.minor}"


class Tables:
    """What was read of a host, by kind."""

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self.boot_displays: list[Address] = []
        # Interface, destination, flags, mask; those that have an interface.
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
        self.nodes: dict[str, Node] = {}
        self.consoles: list[Node] = []
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

    def cannot_tell(self, guard: str, why: str) -> None:
        """Note why a guard cannot tell, for all guards whose evidence is the same."""
        self.unreadable += [(each, why) for each in (guard, *_SAME_SIGHT.get(guard, ()))]


def evidence(tables: Tables) -> Evidence:
    """What the guards decide by. What could not be read ends up in `Evidence.unreadable`."""
    if not any(name.startswith("class/net/") for name in tables.links):
        tables.blind |= {"default-route", "ssh", "network"}
    if not any(name.startswith("dev/block/") for name in tables.links):
        tables.blind.add("disk")
    routed = set(_default_interfaces(tables))
    ssh = set(_ssh_interfaces(tables))
    configured = set(_configured_interfaces(tables)) - routed - ssh
    open_devices, open_disks = _open_devices(tables)
    return Evidence(
        route_nics=_nics(tables, routed, "carries the default route", "default-route"),
        ssh_nics=_nics(tables, ssh, "carries an SSH connection", "ssh"),
        configured=_nics(tables, configured, "has an address", "network"),
        disks=_disks(tables, open_disks),
        boot_displays=frozenset(tables.boot_displays),
        physical_functions=frozenset(
            Address.parse(name.split("/")[3]) for name in tables.links if name.endswith("/virtfn0")
        ),
        framebuffers=tuple(_framebuffers(tables)),
        open_nvidia=tuple(dict.fromkeys(_open_nvidia(tables))),
        open_vfio=tuple(dict.fromkeys(_open_vfio(tables))),
        open_devices=open_devices,
        network=frozenset(_below(tables, "class/net/")),
        storage=frozenset(_below(tables, "dev/block/", "class/nvme-subsystem/")),
        reserved_groups=frozenset(tables.reserved),
        unassigned=tuple(_unassigned(tables)),
        silent=frozenset(a for a, words in tables.headers.items() if set(words) == {_ONES}),
        early=tables.early,
        # Last, since the readers above add to them.
        unreadable=tuple(dict.fromkeys(tables.unreadable)),
        blind=frozenset(tables.blind),
    )


def parse_ip(text: str | bytes) -> IPv4Address | IPv6Address:
    """An address without its zone; one of IPv4 in IPv6's form as what it is."""
    # Costs as much to import as all the rest here.
    import ipaddress

    address = ipaddress.ip_address(text.partition("%")[0] if isinstance(text, str) else text)
    return getattr(address, "ipv4_mapped", None) or address


def _parents(target: str) -> list[Address]:
    """The PCI functions that a device hangs on, out of its path.

    All on the way: behind a volume management device a disk's own controller is the last of two.
    The bridges among them belong to no board.
    """
    return [Address.parse(text) for text in _PCI.findall(target)]


def _below(tables: Tables, *kinds: str) -> Iterator[Address]:
    """The functions that links of these kinds lead through."""
    for name, target in tables.links.items():
        if name.startswith(kinds):
            yield from _parents(target)


def _unassigned(tables: Tables) -> Iterator[Use]:
    """The functions with a memory range that neither firmware nor kernel gave an address.

    Some kernels keep its size and mark it, others clear it; that it is one, and not just a range
    that the function does not have, then shows in the type bits of its register.
    """
    for address, ranges in tables.ranges.items():
        registers = _memory_registers(tables.headers.get(address, []))
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
    registers = {}
    number = 0
    while number < 6:
        value = words[4 + number]
        if not value & 1:
            registers[number] = value
        number += 2 if value & 7 == _IS_WIDE else 1
    return registers


def _default_interfaces(tables: Tables) -> Iterator[str]:
    for interface, destination, _flags, mask in tables.routes4:
        if int(destination, 16) == 0 and int(mask, 16) == 0:
            yield interface
    for interface, destination, length, flags in tables.routes6:
        if int(destination, 16) == 0 and int(length, 16) == 0 and not int(flags, 16) & _REJECT:
            yield interface


def _ssh_interfaces(tables: Tables) -> Iterator[str]:
    """The interfaces that hold the local addresses of SSH connections."""
    barred = any(guard == "ssh" and "/net/tcp " in why for guard, why in tables.unreadable)
    served = {ends for ends, inode in tables.established.items() if inode in tables.sshd}
    claimed = tables.ssh if barred else tables.ssh & tables.established.keys()
    for peer, _, text, _ in sorted(served | claimed):
        local = parse_ip(text)
        if local.is_loopback or peer == text:
            continue
        if local.version == 4:
            interfaces = _interfaces_of_ipv4(tables, local)
        else:
            interfaces = {
                name for name, digits, _ in tables.addresses6 if int(digits, 16) == int(local)
            }
        if not interfaces:
            tables.unreadable.append(("ssh", f"no interface found that holds {local}"))
        yield from interfaces


def _configured_interfaces(tables: Tables) -> Iterator[str]:
    """The interfaces with a configured address.

    IPv4's are known by the routes that come with them: /proc does not list those by interface.
    """
    for interface, destination, _flags, _mask in tables.routes4:
        # In the byte order of the machine: 169.254.0.0/16, and multicast.
        if interface != "lo" and destination[4:] != "FEA9" and destination[6] != "E":
            yield interface
    for interface, _digits, scope in tables.addresses6:
        if int(scope, 16) not in _OWN_SCOPES:
            yield interface


def _interfaces_of_ipv4(tables: Tables, local: IPv4Address) -> set[str]:
    """The interfaces of the narrowest routes to an address.

    /proc has no table of IPv4 addresses by interface. An address brings the route to its own
    network along, on its interface; a lone address (/32) is reached through the default route.
    """
    narrowest = -1
    interfaces: set[str] = set()
    for interface, destination, _flags, mask in tables.routes4:
        # The kernel prints them in the byte order of the machine, which is little on all that
        # pcibind runs on.
        network, bits = (
            int.from_bytes(int(text, 16).to_bytes(4, "little"), "big")
            for text in (destination, mask)
        )
        if int(local) & bits == network:
            if bits > narrowest:
                narrowest, interfaces = bits, set()
            if bits == narrowest:
                interfaces.add(interface)
    return interfaces


def _nics(tables: Tables, interfaces: Iterable[str], what: str, guard: str) -> tuple[Use, ...]:
    uses = []
    for interface in sorted(interfaces):
        lowest = set(_lower(tables, interface, set()))
        if f"class/net/{interface}" not in tables.links and interface != "lo":
            tables.unreadable.append((guard, f"interface {interface} is not in /sys/class/net"))
            tables.blind.add(guard)
        for name in sorted(lowest):
            for address in _parents(tables.links.get(f"class/net/{name}", "")):
                by = f"{name} {what}" if name == interface else f"{interface} on {name} {what}"
                uses.append(Use(address, by))
    return tuple(uses)


def _lower(tables: Tables, interface: str, seen: set[str]) -> Iterator[str]:
    """An interface and all that it is made of: ports of a bridge, links of a bond."""
    if interface in seen:
        return
    seen.add(interface)
    yield interface
    prefix = f"class/net/{interface}/lower_"
    for name in tables.links:
        if name.startswith(prefix):
            yield from _lower(tables, name.removeprefix(prefix), seen)


def _disks(tables: Tables, opened: dict[str, str]) -> tuple[Use, ...]:
    """The controllers of all block devices that are mounted, swapped to, open, or held by another.

    `opened` says by whom, by the names of their links in sysfs.
    """
    numbers: dict[str, str] = {}
    targets: dict[str, str] = {}
    controllers: dict[str, list[str]] = {}
    used: dict[str, str] = {}
    points: dict[str, list[str]] = {}
    for name, target in tables.links.items():
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
    for number, point, kind, source in tables.mounts:
        # btrfs has numbers of its own; others with such a number may name anything as their source.
        device = numbers.get(number) or (_find_disk(source, targets) if kind == "btrfs" else None)
        if device is not None:
            points.setdefault(device, []).append(point)
        elif not number.startswith("0:"):
            tables.unreadable.append(("disk", f"{point} is on {number}, which is not in /sys"))
        elif kind in ("zfs", "bcachefs"):
            tables.unreadable.append(
                ("disk", f"{point} is {kind}, which does not tell its disks in /sys")
            )
    for device, mounted in points.items():
        # The same file system may be mounted in many places: the shortest path says most.
        more = f" and {len(set(mounted)) - 1} more" if len(set(mounted)) > 1 else ""
        used[device] = f"{device} is mounted at {min(mounted, key=len)}{more}"
    for source, *_ in tables.swaps:
        device = _find_disk(source, targets)
        if device is not None:
            used[device] = f"{device} is swapped to"
    uses: dict[Address, str] = {}
    for device, why in sorted(used.items()):
        for target in _find_paths(targets.get(device, ""), controllers):
            for address in _parents(target):
                uses.setdefault(address, why)
    return tuple(Use(address, why) for address, why in sorted(uses.items()))


def _find_disk(source: str, targets: dict[str, str]) -> str | None:
    name = source.rpartition("/")[2] if source.startswith("/dev/") else ""
    return name if name in targets else None


def _find_paths(target: str, controllers: dict[str, list[str]]) -> list[str]:
    """The paths to a disk: its own, or those of the controllers of an NVMe subsystem.

    With multipath on, an NVMe disk is a virtual device of its subsystem, off the PCI tree.
    """
    match = re.search(r"/nvme-subsystem/([^/]+)/", target)
    return [target, *controllers.get(match[1], [])] if match else [target]


def _framebuffers(tables: Tables) -> Iterator[Use]:
    """The functions with a range of a framebuffer in one of theirs, now or at the next boot."""
    around: list[tuple[int, Address]] = []
    owned = set()
    base = _screen_base(tables.screen)
    drawn = None if base is None else _find_range(tables, base)
    for depth, name, where in tables.memory:
        around = [(above, address) for above, address in around if above < depth]
        if _PCI.fullmatch(name):
            around.append((depth, Address.parse(name)))
            if base is not None and base in where:
                drawn = around[-1][1]
        elif around and _FRAMEBUFFER.match(name) and around[-1][1] not in owned:
            owned.add(around[-1][1])
            yield Use(around[-1][1], f"{name}, the firmware's framebuffer, owns memory of it")
    if drawn is not None and drawn not in owned and not _is_vga(tables.headers.get(drawn, [])):
        yield Use(
            drawn,
            "the firmware draws into its memory, which the kernel's framebuffer owns from the next "
            "boot on: vfio-pci takes it back from a display of class 0300 only",
        )


def _find_range(tables: Tables, base: int) -> Address | None:
    """The function with a memory range that holds an address."""
    for address, ranges in tables.ranges.items():
        for start, end, flags in ranges.values():
            if flags & _IS_MEMORY and start <= base <= end:
                return address
    return None


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


def _open_nvidia(tables: Tables) -> Iterator[OpenNvidia]:
    for name, node, by in _open_of(tables, "nvidia"):
        own = name in ("nvidia", "nvidia-frontend", "nvidiactl", "nvidia-modeset")
        # Everybody who has a device open has the control node open beside it.
        if not (own and node.minor == _NVIDIA_CONTROL):
            yield OpenNvidia(tables.minors.get(str(node.minor)) if own else None, by)


def _open_of(tables: Tables, driver: str) -> Iterator[tuple[str, Node, str]]:
    """The open nodes of drivers whose name begins like this, with their holders as text."""
    names = {
        major: n for n, all_ in tables.majors.items() if n.startswith(driver) for major in all_
    }
    for descriptor, (name, holder) in tables.opened.items():
        node = tables.nodes.get(descriptor)
        if node and node.kind == "char" and node.major in names:
            yield names[node.major], node, f"{name} is open: {holder}"


def _open_vfio(tables: Tables) -> Iterator[OpenVfio]:
    for _driver, node, by in _open_of(tables, "vfio"):
        target = tables.links.get(node.link, "")
        group = re.search(r"/vfio/(\d+)$", target)
        address = next(reversed(_parents(target)), None)
        if group is None and address is None:
            tables.unreadable.append(("vfio-open", f"whose node {by}, is not in /sys"))
        else:
            holder = by.partition(" is open: ")[2]
            yield OpenVfio(int(group[1]) if group else None, address, holder)


def _open_devices(tables: Tables) -> tuple[tuple[Use, ...], dict[str, str]]:
    """The functions whose character devices are open, and the block devices that are."""
    apart = {m for name, all_ in tables.majors.items() if name.startswith("vfio") for m in all_}
    uses = [
        Use(address, "it is a console of the kernel")
        for node in tables.consoles
        for address in _parents(tables.links.get(node.link, ""))
    ]
    blocks: dict[str, str] = {}
    for descriptor, (name, holder) in tables.opened.items():
        node = tables.nodes.get(descriptor)
        if node is None or node.major in apart:
            continue
        if node.kind == "block":
            blocks[node.link] = f"{name} is open: {holder}"
        else:
            functions = _parents(tables.links.get(node.link, ""))
            uses += [Use(address, f"{name} is open: {holder}") for address in functions]
    return tuple(dict.fromkeys(uses)), blocks
