"""How a host stands: the document that the table, the page, the drift and other tools are made from.

The JSON is of schema ``gevulot-fleet/1``::

    {"schema": "gevulot-fleet/1", "generated": TIME, "hosts": [HOST, …]}

HOST is ``HostStatus`` below, key for key. Times are ISO 8601 in UTC, sizes KiB. A part is null where it is not known,
and all of them are for a host that could not be looked at. ``topology`` is what ``facts.pci.PciTopology`` says as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SCHEMA = "gevulot-fleet/1"


class Severity(StrEnum):
    """How much a host wants somebody to look at it, the least first."""

    OK = "ok"
    ATTENTION = "attention"
    WRONG = "wrong"
    DOWN = "down"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)

    @property
    def exit_code(self) -> int:
        """What a look at the fleet ends with when this is its worst. 1 and 2 are left to errors of the command."""
        return (0, 3, 4, 5)[self.rank]


@dataclass(frozen=True, slots=True)
class Platform:
    """What the host is."""

    name: str
    kernel: str
    cores: int
    memory_kib: int


@dataclass(frozen=True, slots=True)
class Board:
    """A board that is wanted. ``verdict`` and ``state`` are pcibind's; ``viable``: its groups can go to VFIO."""

    name: str | None
    path: str | None
    address: str | None
    model: str | None
    model_name: str | None
    verdict: str
    state: str
    detail: str
    groups: tuple[int, ...]
    viable: bool | None


@dataclass(frozen=True, slots=True)
class Boards:
    """All that are wanted, and how many of them are bound with every function."""

    wanted: int
    bound: int
    list: tuple[Board, ...]


@dataclass(frozen=True, slots=True)
class Iommu:
    """The firmware's table (DMAR or IVRS), whether any device has a group, and whether interrupts are remapped."""

    table: str | None
    on: bool
    interrupt_remapping: bool


@dataclass(frozen=True, slots=True)
class KernelArguments:
    """What the deploy gives, and whether the kernel runs with it and every boot entry has it; null: not known."""

    wanted: tuple[str, ...]
    live: bool | None
    configured: bool | None


@dataclass(frozen=True, slots=True)
class Database:
    """``own`` or ``external``; an external one is not asked, so that no secret is needed. ``missing`` are tables."""

    kind: str
    reachable: bool | None
    release: int | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """The state of the node's unit, and since when it has been active, in seconds of Unix time (0: never).

    ``unit`` is systemd's ActiveState, or ``restarting`` in a restart loop, or ``not deployed``.
    """

    unit: str
    since: int


@dataclass(frozen=True, slots=True)
class Program:
    """A program's virtual machine in the node's container, and for how many seconds it has run."""

    guest_cid: int | None
    boards: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Activity:
    """``idle``, ``busy``, ``starting``, ``stuck``, ``no execution`` or ``unknown``, and the programs that run."""

    state: str
    programs: tuple[Program, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """What the container runs."""

    reference: str
    digest: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The volume that the node's storage is on."""

    path: str
    free_kib: int
    size_kib: int


@dataclass(frozen=True, slots=True)
class Key:
    """``present``, ``missing``, ``changed``, or in another word what is the matter; and the public part."""

    state: str
    public: str | None


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host. ``reasons`` say what its severity comes from, the worst first; ``unreadable``, what is not known."""

    name: str
    severity: Severity = Severity.OK
    reasons: tuple[str, ...] = ()
    # "node", or "gpu_host" for a host that is to have none: its parts of a node are null.
    deployed_as: str | None = None
    platform: Platform | None = None
    boards: Boards | None = None
    iommu: Iommu | None = None
    kernel_arguments: KernelArguments | None = None
    reboot_pending: tuple[str, ...] | None = None
    podman: str | None = None
    secrets_missing: tuple[str, ...] | None = None
    database: Database | None = None
    migration: str | None = None
    node: Node | None = None
    # Who may reach the peer-to-peer ports, in words.
    peers: str | None = None
    health: int | None = None
    activity: Activity | None = None
    image: Image | None = None
    storage: Storage | None = None
    key: Key | None = None
    verified: str | None = None
    unreadable: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    topology: dict[str, Any] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def down(name: str, *reasons: str) -> HostStatus:
    """A host that could not be looked at."""
    return HostStatus(name, Severity.DOWN, reasons)


def worst_first(hosts: Iterable[HostStatus]) -> list[HostStatus]:
    return sorted(hosts, key=lambda host: (-host.severity.rank, host.name))


def worst(hosts: Iterable[HostStatus]) -> Severity:
    """The highest severity of all; ``ok`` without a host."""
    return max((host.severity for host in hosts), key=lambda severity: severity.rank, default=Severity.OK)


def document(hosts: Iterable[HostStatus], generated: datetime) -> dict[str, Any]:
    """The fleet as JSON; ``generated`` is when it was looked at."""
    return {
        "schema": SCHEMA,
        "generated": moment(generated),
        "hosts": [host.to_json() for host in worst_first(hosts)],
    }


def moment(time: datetime) -> str:
    """A time as the document writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
