"""What the facts of one host said, for who judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploys.manifest import AS_GPU_HOST, NODE_UNIT
from facts.access import AccessKeys
from facts.activity import Activity
from facts.batch import Unreadable
from facts.container import ContainerState
from facts.database import Schema
from facts.disk import VolumeSpace
from facts.firewall import Firewall
from facts.kernel import CommandLines, Module
from facts.node import NodeResources
from facts.pci import Binding, DeviceUsage, NamedTopology, RecordedBoards
from facts.platform import HostPlatform
from facts.runs import Runs
from facts.unit import Unit
from pcibind.read.initramfs import Contents

_OF_ROOT = ("key", "container", "secrets", "schema", "access", "parts", "firewall", "runs", "deployed")
# What only a node has.
OF_NODE = ("key", "container", "secrets", "schema", "access", "firewall", "runs", "activity", "space")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the facts of one host said. ``None``, or empty, for what the host does not have or could not tell."""

    platform: HostPlatform | None = None
    topology: NamedTopology = field(default_factory=NamedTopology)
    usage: DeviceUsage | None = None
    record: RecordedBoards = field(default_factory=RecordedBoards)
    binding: Binding | None = None
    lines: CommandLines = field(default_factory=lambda: CommandLines((), ()))
    remapping: bool = False
    modules: dict[str, Module] = field(default_factory=dict)
    stale_initramfs: list[str] = field(default_factory=list)
    initramfs: Contents = field(default_factory=Contents)
    reboot_required: list[str] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    parts: NodeResources | None = None
    container: ContainerState | None = None
    firewall: Firewall | None = None
    secrets: list[str] = field(default_factory=list)
    schema: Schema | None = None
    access: AccessKeys | None = None
    activity: Activity | None = None
    key: str = ""
    space: VolumeSpace | None = None
    verified: int | None = None
    deployed: str = ""
    user: str = "0"
    # Why parts could not be read, in words; and the names of those parts.
    unreadable: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Seen:
        """Out of the parts by their names, as ``facts.batch.FactBatch`` reads them."""
        readable = {name: value for name, value in found.items() if not isinstance(value, Unreadable)}
        reasons = {name: value.reason for name, value in found.items() if isinstance(value, Unreadable)}
        if readable.get("user", "0") != "0":
            # Podman would tell of this user's own containers, and what is root's looks as if it were not there.
            reasons |= {name: "needs root; connect as root, or with _sudo" for name in _OF_ROOT if name in found}
            readable = {name: value for name, value in readable.items() if name not in _OF_ROOT}
        return cls(
            **readable,
            unreadable=tuple(f"{name}: {why}" for name, why in reasons.items()),
            unknown=frozenset(reasons),
        )

    @property
    def has_node(self) -> bool:
        """Whether systemd knows a node's unit."""
        node = self.units.get(NODE_UNIT)
        return node is not None and node.load == "loaded"

    @property
    def is_gpu_host(self) -> bool:
        """Whether it was deployed as a host without a node, and has none: a node that is there counts."""
        return self.deployed == AS_GPU_HOST and not self.has_node

    @property
    def unreadable_of_host(self) -> tuple[str, ...]:
        """Those of ``unreadable`` that concern the host."""
        return tuple(each for each in self.unreadable if each.partition(":")[0] not in OF_NODE)

    def knows(self, *parts: str) -> bool:
        """Whether all of these parts could be read."""
        return self.unknown.isdisjoint(parts)
