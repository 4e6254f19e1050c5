"""What the facts observed on one host: what the table, the undo and the fleet's status judge."""

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
from facts.vsock import VsockTrialResult
from pcibind.read.initramfs import Contents

_OF_ROOT = ("key", "container", "secrets", "schema", "access", "parts", "firewall", "runs", "deployed")
# What only a node has.
OF_NODE = ("key", "container", "secrets", "schema", "access", "firewall", "runs", "activity", "space")


@dataclass(frozen=True, slots=True)
class Observations:
    """The facts of one host. ``None``, or empty, for what it does not have, or was not read."""

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
    # For the table at the end of a deploy: units that failed; variables of the container that hold the password;
    # whether the key's way into the container is still there; whether a container opens a vsock socket; whether the
    # database accepts a login over loopback without a password.
    failed_units: list[str] = field(default_factory=list)
    passwords: list[str] | None = None
    fifo: list[str] = field(default_factory=list)
    vsock: VsockTrialResult | None = None
    open_to_loopback: bool = False
    # Why parts could not be read, in words; and the names of those parts.
    unreadable: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()

    @classmethod
    def of(cls, answers: Mapping[str, Any]) -> Observations:
        """Create them from the parts by their names, as ``facts.batch.FactBatch`` reads them."""
        readable = {name: value for name, value in answers.items() if not isinstance(value, Unreadable)}
        reasons = {name: value.reason for name, value in answers.items() if isinstance(value, Unreadable)}
        if readable.get("user", "0") != "0":
            # Podman would list this user's own containers, and what is root's would seem to be missing.
            reasons |= {name: "needs root; connect as root, or with _sudo" for name in _OF_ROOT if name in answers}
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
