"""Hosts of every shape, as values and as machines of files, for hypothesis.

A `Plant` is a host before anybody counted its buses: functions by their paths, and a bus number for each bridge.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tree import AUDIO, DISPLAY, NIC, NVME, USB, Machine

from pcibind.change import original_drivers
from pcibind.commands.system import System
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Address, Board, Function, Identity, Topology, board_path
from pcibind.model.request import OVERRIDABLE_GUARDS, BoardRequest, Selector
from pcibind.read.configuration import render
from pcibind.read.files import Paths

DRIVERS = {
    0x01: "nvme",
    0x02: "e1000e",
    0x03: "nouveau",
    0x04: "snd_hda_intel",
    0x06: "pcieport",
    0x0C: "xhci_hcd",
}


def identity(kind: dict[str, object], **changes: object) -> Identity:
    """What a function of `tree` is."""
    kind = {**kind, **changes}
    vendor, device = kind["subsystem"]  # type: ignore[misc]
    return Identity(kind["vendor"], kind["device"], vendor, device, kind["class_code"])  # type: ignore[arg-type]


PORT = Identity(0x8086, 0x4C01, 0, 0, 0x060400)
SWITCH = Identity(0x10B5, 0x8747, 0, 0, 0x060400)
CONVENTIONAL = Identity(0x1B21, 0x1080, 0, 0, 0x060401)
ISA = Identity(0x8086, 0x7A84, 0x8086, 0x7270, 0x060100)
VMD = Identity(0x8086, 0x201D, 0x8086, 0, 0x010400)

_ACCELERATOR = Identity(0x10DE, 0x20B0, 0x10DE, 0x1450, 0x030200)
_KINDS = [
    identity(DISPLAY),
    identity(DISPLAY, device=0x2704),
    identity(AUDIO),
    identity(USB),
    identity(NIC),
    identity(NVME),
    _ACCELERATOR,
    Identity(0x1AF4, 0x1050, 0x1AF4, 0x1100, 0x038000),
    Identity(0xFFFE, 0xFFFF, 0, 0, 0x00FF00),
    Identity(0x1234, 0x0001, 0xABCD, 0x0001, 0x120000),
]
# Each is a board: function numbers and what they are. Few, so that twins are common.
_MODELS: list[dict[int, Identity]] = [
    {0: identity(DISPLAY), 1: identity(AUDIO), 2: identity(USB)},
    {0: identity(DISPLAY), 1: identity(AUDIO)},
    {0: _ACCELERATOR},
    {0: identity(NIC)},
    {0: identity(NVME)},
    {0: identity(NIC), 1: identity(NIC)},
    dict.fromkeys(range(8), _KINDS[-1]),
]


class Part(NamedTuple):
    """A function: where it is, what it is, the driver it comes up with, and how it stands."""

    path: str
    identity: Identity
    default: str | None = None
    driver: str | None = None
    override: str | None = None
    group: int | None = None
    boot_vga: bool = False

    @property
    def is_bridge(self) -> bool:
        return self.identity.class_code >> 16 == 0x06

    @property
    def board(self) -> str:
        return board_path(self.path)


class Plant(NamedTuple):
    """All functions of a host, and the bus below each bridge."""

    parts: tuple[Part, ...]
    buses: dict[str, int]

    def address(self, path: str) -> Address:
        above, _, slot = path.rpartition("/")
        domain, _, bus = path.partition("/")[0].partition(":")
        device, _, function = slot.partition(".")
        number = int(bus, 16) if ":" in above and "/" not in above else self.buses[above]
        return Address(int(domain, 16), number, int(device, 16), int(function))

    def place(self, path: str) -> str:
        """The path under /sys/devices."""
        root, *slots = path.split("/")
        # A volume management device has a root of its own.
        before = "pci0000:00/0000:00:0e.0/" if root == "10000:e0" else ""
        ways = [self.address("/".join([root, *slots[: n + 1]])) for n in range(len(slots))]
        return before + "/".join([f"pci{root}", *map(str, ways)])

    def topology(self) -> Topology:
        """What is to be read of the machine."""
        functions = [
            Function(self.address(p.path), p.path, *p.identity, p.driver, p.override, p.group, p.boot_vga)
            for p in self.parts
        ]
        return Topology(tuple(sorted(functions, key=lambda function: function.address)))

    def lay_out(self, root: Path) -> Machine:
        """The same as files."""
        machine = Machine(root)
        for part in sorted(self.parts, key=lambda part: self.place(part.path).count("/")):
            vendor, device, subvendor, subdevice, class_code = part.identity
            address = machine.function(
                self.place(part.path),
                vendor=vendor,
                device=device,
                subsystem=(subvendor, subdevice),
                class_code=class_code,
                driver=part.default,
                group=part.group,
                boot_vga=True if part.boot_vga else None,
            )
            if part.override is not None:
                machine.file(f"sys/bus/pci/devices/{address}/driver_override", f"{part.override}\n")
            if part.driver != part.default:
                machine.leave(address)
            if part.driver not in (None, part.default):
                machine.load(str(part.driver))
                machine.take(address, str(part.driver))
        return machine

    # Changes.

    def without(self, board: str) -> Plant:
        """The board unplugged."""
        return self._replace(parts=tuple(p for p in self.parts if p.board != board))

    def plugged(self, parts: Iterable[Part]) -> Plant:
        """More functions plugged in."""
        return self._replace(parts=(*self.parts, *parts))

    def on(self, board: str) -> tuple[Part, ...]:
        """The endpoints of a board."""
        return tuple(p for p in self.parts if p.board == board and not p.is_bridge)

    def renumbered(self, order: Sequence[int]) -> Plant:
        """The same host, its buses counted in another order."""
        return self._replace(buses=dict(zip(self.buses, (self.buses[list(self.buses)[n]] for n in order), strict=True)))


@st.composite
def plants(draw: st.DrawFn, *, iommu: bool | None = None, half_bound: bool = True) -> Plant:
    """Hosts: root buses of one or more domains, ports, switches, conventional bridges, boards in any groups.

    `half_bound` says whether functions may have an override that is not for their driver.
    """
    on = draw(st.sampled_from([True, True, True, False])) if iommu is None else iommu
    parts: list[Part] = []
    secondary: list[str] = []
    groups: list[int] = []

    def group(shared: int) -> int | None:
        """A new group, or one that is there already."""
        if not on:
            return None
        if shared and groups:
            return groups[shared % len(groups)]
        groups.append(7 + 3 * len(groups))
        return groups[-1]

    def bridge(path: str, kind: Identity, of: int | None = None) -> None:
        parts.append(Part(path, kind, "pcieport", "pcieport", group=group(0) if of is None else of))
        secondary.append(path)

    def board(path: str, of: int | None = None) -> None:
        model = draw(st.sampled_from(_MODELS) | _models())
        # Mostly a group of its own; now and then another board's, or one for each function.
        shared = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4, -1]))
        mood = draw(st.sampled_from(["plain", "plain", "plain", "bound", "mixed"]))
        common = group(max(shared, 0)) if of is None else of
        for number, kind in model.items():
            default = DRIVERS.get(kind.class_code >> 16)
            if mood == "mixed" and draw(st.booleans()):
                default = None
            driver, override = default, None
            if mood == "bound" and on:
                driver, override = "vfio-pci", "vfio-pci"
            elif mood == "mixed":
                standing = [(None, None), (default, default), (None, default), (None, "vfio-pci")]
                if on:
                    standing += [("vfio-pci", "vfio-pci")]
                if half_bound:
                    standing += [(default, "vfio-pci")] + ([("vfio-pci", None)] if on else [])
                driver, override = draw(st.sampled_from(standing))
            apart = shared == -1 and of is None and number
            is_first = kind.class_code >> 8 == 0x0300 and draw(st.integers(0, 7)) == 7
            parts.append(
                Part(f"{path}.{number}", kind, default, driver, override, group(0) if apart else common, is_first)
            )

    def anything(path: str, depth: int) -> None:
        """What is in a slot, whose path has no function yet."""
        shapes = ["board"]
        if depth < 3:
            shapes += ["port", "port", "port"] if depth == 0 else ["switch"]
        if depth < 3:
            shapes += ["conventional"]
        if depth == 0:
            shapes += ["chipset"]
        match draw(st.sampled_from(shapes)):
            case "board":
                board(path)
            case "port":
                bridge(f"{path}.0", PORT)
                anything(f"{path}.0/00", depth + 1)
            case "switch":
                bridge(f"{path}.0", SWITCH)
                for device in range(1, 1 + draw(st.integers(1, 2))):
                    bridge(f"{path}.0/{device:02x}.0", SWITCH)
                    anything(f"{path}.0/{device:02x}.0/00", depth + 2)
            case "conventional":
                # Whatever is behind one speaks with one voice, and is in one group.
                common = group(0)
                bridge(f"{path}.0", CONVENTIONAL, common)
                for device in range(draw(st.integers(1, 2))):
                    board(f"{path}.0/{device:02x}", common)
            case "chipset":
                common = group(0)
                driver = draw(st.sampled_from([None, None, "lpc_ich"]))
                parts.append(Part(f"{path}.0", ISA, driver, driver, group=common))
                kinds = [identity(AUDIO), identity(USB)]
                parts.extend(
                    Part(f"{path}.{n}", kind, driver := DRIVERS[kind.class_code >> 16], driver, group=common)
                    for n, kind in enumerate(kinds, 3)
                )

    roots = draw(
        st.sampled_from([["0000:00"]] * 3 + [["0000:00", "0000:80"], ["0000:00", "0001:00"], ["0000:00", "10000:e0"]])
    )
    for root in roots:
        if root == "10000:e0":
            parts.append(Part("0000:00/0e.0", VMD, "vmd", "vmd", group=group(0)))
        devices = draw(st.lists(st.integers(1, 0x0D), min_size=1, max_size=3, unique=True))
        for device in devices:
            anything(f"{root}/{device:02x}", 0)
    order = draw(st.permutations(range(1, 1 + len(secondary))))
    return Plant(tuple(parts), dict(zip(secondary, order, strict=True)))


def _models() -> st.SearchStrategy[dict[int, Identity]]:
    """Boards of any functions, gaps among their numbers included."""
    numbers = st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True).map(sorted)
    return numbers.flatmap(lambda some: st.fixed_dictionaries({n: st.sampled_from(_KINDS) for n in some}))


def choices(topology: Topology, most: int = 3) -> st.SearchStrategy[tuple[Board, ...]]:
    """Some boards of a host, in any order."""
    boards = topology.boards()
    if not boards:
        return st.just(())
    return st.lists(st.sampled_from(boards), min_size=1, max_size=most, unique=True).map(tuple)


def groups_with(topology: Topology, board: Board) -> set[str]:
    """The paths of all boards that share groups with one, directly or by way of others."""
    paths = {board.path}
    while True:
        numbers = {f.iommu_group for f in topology.functions if board_path(f.path) in paths and not f.is_bridge}
        more = {
            board_path(f.path)
            for f in topology.functions
            if not f.is_bridge and f.iommu_group is not None and f.iommu_group in numbers
        }
        if more <= paths:
            return paths
        paths |= more


class _Nothing:
    """A look at a host that nothing uses, without a shell."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def evidence(self) -> Evidence:
        return Evidence(early=original_drivers.read_notes(self.paths))


class Unused(System):
    """A host that uses none of its devices for anything."""

    def gathering(self) -> _Nothing:  # type: ignore[override]
        return _Nothing(self.paths)


def unused(machine: Machine) -> System:
    """The machine, but that looking for what uses it finds nothing and takes no time."""
    return Unused(machine.paths, machine, node_seconds=0.05)


def configure(machine: Machine, boards: Iterable[Board], require: str = "all") -> None:
    """Choose boards by their addresses, whatever guards say."""
    allow = frozenset(OVERRIDABLE_GUARDS)
    requests = [BoardRequest(Selector.of("address", str(b.address)), None, allow) for b in boards]
    machine.configure(render(*requests, require_boards=require))  # type: ignore[arg-type]


@contextlib.contextmanager
def somewhere() -> Iterator[Path]:
    """A directory for one example, in memory where that can be."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def some(examples: int) -> settings:
    """hypothesis with this number of examples, and without its limits of time."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
    )
