"""What was read from a host before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from facts.claims import Claim
from facts.kernel import CommandLines, Module
from facts.platform import Host
from pcibind.evidence import Evidence
from pcibind.model import Topology
from pcibind.record import Record


@dataclass(frozen=True, slots=True)
class HostState:
    """A host as its facts describe it; a rule of the preflight reads the fields that it needs.

    ``usage`` is ``None`` where it could not be read. ``record`` is what pcibind recorded on the host, if it ever did: a
    board in it is followed by its identity, wherever its address has gone. ``data_release`` is the release of the
    Postgres data that the host already has, ``lines`` are the kernel's arguments as they are, ``discovery`` what came
    of each of gevulot_p2p_discovery, ``listened`` the address at which the node listens until this run, ``claims`` what
    others want with PCI devices.
    """

    platform: Host
    modules: dict[str, Module]
    topology: Topology
    usage: Evidence | None
    record: Record | None = None
    data_release: str | None = None
    lines: CommandLines | None = None
    discovery: Mapping[str, str] = field(default_factory=dict)
    listened: str = ""
    claims: tuple[Claim, ...] = ()
