"""The state of a host before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploys.preflight.services import Services
from facts.aliases import DriverAliases
from facts.attempt import RebootHistory
from facts.barred_modules import ModuleBar
from facts.baseline import Baseline
from facts.claims import Claim
from facts.driver_users import DriverUsage
from facts.file import FileText
from facts.installed_kernels import BootableKernels
from facts.kernel import CommandLines, Module
from facts.place import Place
from facts.platform import HostPlatform
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Topology
from pcibind.model.record import Record


@dataclass(frozen=True, slots=True)
class FilesState:
    """Files, and what they are about: ``past`` is the host before its first deploy, ``texts`` what is in the files of
    earlier versions, ``places`` where ours land, ``drivers`` and ``users`` which display drivers there are and what
    uses them, ``options`` the options of vfio-pci in modprobe's files, ``requests`` the text of pcibind's configuration
    by file.
    """

    past: Baseline | None = None
    texts: Mapping[str, FileText] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    drivers: DriverAliases | None = None
    users: DriverUsage | None = None
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostState:
    """A host as its facts describe it; a rule of the preflight reads the fields that it needs.

    What is of a node only (``data_release``, ``discovery``, ``listened``, ``services``) is not asked for a host alone.

    ``usage`` is ``None`` where it could not be read. ``record`` is what pcibind recorded on the host, if it ever did: a
    board in it is followed by its identity, wherever its address has gone. ``data_release`` is the release of the
    Postgres data that the host already has, ``lines`` are the kernel's arguments as they are, ``discovery`` what came
    of each of gevulot_p2p_discovery, ``listened`` the address at which the node listens until this run, ``kernels``
    those that the host could boot, ``attempts`` what an earlier run rebooted it for, ``services`` what there is where
    the node's services are to be, ``files`` what was read of files, ``claims`` what others want with PCI devices.
    """

    platform: HostPlatform
    modules: dict[str, Module]
    topology: Topology
    usage: Evidence | None
    record: Record | None = None
    data_release: str | None = None
    lines: CommandLines | None = None
    discovery: Mapping[str, str] = field(default_factory=dict)
    listened: str = ""
    # Packages that cannot be installed before dpkg has finished an earlier installation.
    held_packages: Sequence[str] = ()
    kernels: BootableKernels | None = None
    attempts: RebootHistory = field(default_factory=RebootHistory)
    services: Services = field(default_factory=Services)
    files: FilesState = field(default_factory=FilesState)
    claims: tuple[Claim, ...] = ()
    # Lines of modprobe's files against modules.
    barred: tuple[ModuleBar, ...] = ()
    # Units that had failed before this run, without a deploy's doing.
    failed_before: tuple[str, ...] = ()
