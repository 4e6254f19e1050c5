"""What a host must be capable of, judged before anything is changed. Pure: facts in, verdicts out.

Live state (IOMMU groups, interrupt remapping, /dev/kvm, bindings) is not judged here: switching it on is the
deploy's work, and it is read back after the reboot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploys.platforms import Family, family_of, untried
from deploys.settings import Settings
from deploys.values import is_listen, is_loopback
from facts.discovery import ANSWERS
from facts.kernel import MODULES, CommandLines, Module
from facts.platform import Host
from pcibind import guards, plan
from pcibind.errors import ConfigError
from pcibind.evidence import Evidence
from pcibind.model import Board, Topology
from pcibind.record import Record
from pcibind.request import BoardRequest, Config, Selector

# Quadlet learned `Ulimit=` in 4.7, the newest of the keys that our units use.
PODMAN_MINIMUM = (4, 7)
# The node reloads its firewall at each start (Type=notify-reload).
SYSTEMD_MINIMUM = 253
# What runs on the host: pcibind reads TOML.
PYTHON_MINIMUM = (3, 11)
# nftables learned the flag `owner` in 5.12, and to find the cgroup of a socket in this one.
KERNEL_MINIMUM = (5, 13)
# What the node's table needs. A kernel that has them built in says so too.
NFTABLES_MODULES = ("nf_tables", "nft_socket", "nft_reject_inet")
MINIMUM_CORES = 64
MINIMUM_MEMORY_GB = 512
MINIMUM_DISK_GB = 1000

# Display functions of the supported models, as in the pci.ids database.
SUPPORTED_MODELS = {
    "10de:2204": "GeForce RTX 3090 (GA102)",
    "10de:2684": "GeForce RTX 4090 (AD102)",
}
NVIDIA = 0x10DE

KERNEL_ARGUMENTS = {"DMAR": ("intel_iommu=on", "iommu=pt"), "IVRS": ("iommu=pt",)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome: what forbids the deploy, what an operator should know, and what the steps work with."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    family: Family | None = None
    boards: tuple[Board, ...] = ()
    config: Config = field(default_factory=lambda: Config(()))
    kernel_arguments: tuple[str, ...] = ()
    # Models of every function of the chosen boards, where gevulot_vfio_ids asks for them.
    models: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    nvidia_stays: bool = False


@dataclass(slots=True)
class _Findings:
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def release_of(version: str) -> tuple[int, int]:
    """Major and minor of a version such as ``5.4.2`` or ``1:4.3.1+ds1-8``; (0, 0) when it has none."""
    numbers = version.rpartition(":")[2].split("+")[0].split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        return 0, 0


def is_supported(board: Board) -> bool:
    """Whether the board carries a display function of a model that the guide names."""
    return any(function.model in SUPPORTED_MODELS for function in board.display_functions)


def _platform(host: Host, settings: Settings, boards_wanted: bool, found: _Findings) -> Family | None:
    family = family_of(host)
    if isinstance(family, str):
        found.refusals.append(family)
    elif warning := untried(host, family):
        found.warnings.append(warning)
    if not host.systemd:
        found.refusals.append("systemd does not run this host; expected it as the init system. Boot with systemd.")
    elif host.systemd_release is not None and host.systemd_release < SYSTEMD_MINIMUM:
        found.refusals.append(
            f"systemd is {host.systemd_release}; expected {SYSTEMD_MINIMUM} or newer, because the node reloads its "
            "firewall at each start (Type=notify-reload). Upgrade the distribution, then run again."
        )
    if host.python is not None and release_of(host.python) < PYTHON_MINIMUM:
        found.refusals.append(
            f"/usr/bin/python3 is {host.python}; expected {'.'.join(map(str, PYTHON_MINIMUM))} or newer, which pcibind "
            "needs at every boot. Upgrade the distribution, then run again."
        )
    podman = host.podman or host.podman_offered
    if podman is not None and release_of(podman) < PODMAN_MINIMUM:
        origin = "installed" if host.podman else "offered by the distribution"
        found.refusals.append(
            f"Podman {podman} is {origin}; expected 4.7 or newer, because older ones abort on the units' Ulimit= key "
            "(before 4.4 there is no Quadlet at all). Upgrade the distribution, then run again."
        )
    if host.podman is None and "podman" in host.tools:
        found.refusals.append(
            "Podman is installed, but does not say its version within 20 s; expected 4.7 or newer. See what "
            "`podman --version` does there."
        )
    elif podman is None and isinstance(family, Family) and family.packages == "apt":
        found.warnings.append("apt does not know of Podman yet; its lists are refreshed before it is installed.")
    if host.virtualisation is None:
        found.refusals.append(
            "the processor shows neither vmx nor svm; expected hardware virtualisation. Switch it on in the firmware."
        )
    if host.iommu_table is None and boards_wanted:
        found.refusals.append(
            "the firmware has no IOMMU table (ACPI DMAR or IVRS); expected one. "
            "Switch VT-d or AMD-Vi on in the firmware."
        )
    storage = f"disk under {settings.storage_directory}"
    for what, have, least, guide in (
        ("cores", host.cores, MINIMUM_CORES, f"{MINIMUM_CORES}"),
        # Firmware keeps some memory to itself, and a file system some of its disk: what is sold as 512 GB shows less.
        ("memory in GiB", round(host.memory_kib / 1024**2), 0.92 * MINIMUM_MEMORY_GB, f"{MINIMUM_MEMORY_GB} GB"),
        (f"{storage} in GiB", round(host.disk_kib / 1024**2), 0.85 * MINIMUM_DISK_GB, "1 TB"),
    ):
        if have < least:
            text = f"{what}: {have}; the guide asks for {guide}."
            if settings.enforce_minimum:
                found.refusals.append(f"{text} gevulot_enforce_minimum is set: use a larger host, or unset it.")
            else:
                found.warnings.append(text)
    return family if isinstance(family, Family) else None


def _peers(settings: Settings, found: _Findings) -> None:
    """Warn of what everybody may read where gevulot_peers is 'any'."""
    if settings.open_to_any:
        ports = " and ".join(map(str, settings.p2p_ports))
        external = "" if settings.own_postgres else " and the external database's URL"
        found.warnings.append(
            f"gevulot_peers is 'any': every stranger may reach ports {ports}, and the node serves any file that its "
            f"process can read: its environment with the network's passphrase{external}, programs and results. "
            "Name the networks of your peers instead."
        )


def _nftables(host: Host, modules: dict[str, Module], found: _Findings) -> None:
    """Refuse a host whose kernel cannot hold the table that keeps others from the node's ports."""
    if release_of(host.kernel) < KERNEL_MINIMUM:
        found.refusals.append(
            f"the kernel is {host.kernel}; expected 5.13 or newer, whose nftables can lock a table against changes by "
            "others and tell the node's sockets from others'. Upgrade the kernel and boot it."
        )
    missing = [name for name in NFTABLES_MODULES if name in modules and not modules[name].exists]
    if missing:
        found.refusals.append(
            f"the running kernel has no module {', '.join(missing)}; expected all of {', '.join(NFTABLES_MODULES)}, to "
            "restrict who reaches the node's ports. Install the distribution's full kernel and boot it."
        )
    if host.legacy_cgroups:
        found.refusals.append(
            "the host uses cgroups version 1; expected version 2 alone at /sys/fs/cgroup, by which nftables keeps "
            "local users from the programs' virtual machines. Remove systemd.unified_cgroup_hierarchy=0 from the "
            "kernel's arguments and reboot."
        )


def lost_reach(settings: Settings, listened: str) -> str | None:
    """The warning for a node that peers could reach at ``listened`` (``IP:PORT``), and cannot after this run."""
    chosen = "p2p_listen" in settings.model_fields_set
    if chosen or not is_listen(listened) or is_loopback(listened):
        return None
    return (
        f"the node listens at {listened} until this run, and only at {settings.p2p_listen} afterwards, so its peers "
        "lose it: gevulot_p2p_listen is not set, and loopback is its default. To keep it reachable, set "
        f"gevulot_p2p_listen to '{listened}', and gevulot_peers to the networks of its peers."
    )


def _discovery(answers: Mapping[str, str], found: _Findings) -> None:
    """Warn when no discovery address answers. It is no refusal: they may answer by the time that the node starts."""
    if answers and ANSWERS not in answers.values():
        reasons = "; ".join(f"{address}: {why}" for address, why in answers.items())
        found.warnings.append(
            f"no address of gevulot_p2p_discovery answers this host ({reasons}); expected one, because a node without "
            "any ends at once, and again at each restart. Correct the addresses, or unset gevulot_p2p_discovery."
        )


def _modules(modules: dict[str, Module], boards_wanted: bool, found: _Findings) -> tuple[str, ...]:
    missing = [name for name in MODULES if name not in modules or not modules[name].exists]
    needed = [name for name in missing if boards_wanted or not name.startswith("vfio")]
    if needed:
        found.refusals.append(
            f"the running kernel has no module {', '.join(needed)}; expected all of {', '.join(MODULES)}. "
            "Install the distribution's full kernel (on Ubuntu linux-modules-extra) and boot it."
        )
    return tuple(name for name in MODULES if name not in missing and name != "kvm")


def request(topology: Topology, settings: Settings, record: Record | None) -> Config:
    """What the settings ask of pcibind on this host.

    The default names the supported models that are present, and keeps what the node already follows: a recorded board
    that is gone has to be missed aloud, not forgotten.
    """
    allow = frozenset(settings.board_guards_allowed)
    if settings.boards == "supported":
        supported = [board for board in topology.boards() if is_supported(board)]
        covered = {board.path for board in supported}
        models = {Selector.parse(board.model) for board in supported}
        kept = {board.selector for board in (record or Record()).boards if board.path not in covered}
        selectors = sorted(models | kept, key=str)
    else:
        selectors = [Selector.parse(text) for text in settings.boards]
    return Config(tuple(BoardRequest(selector, allow=allow) for selector in selectors))


def _ids_argument(models: tuple[str, ...], modules: dict[str, Module]) -> tuple[str, ...]:
    """A vfio-pci that is built into the kernel (Ubuntu's) reads no file of /etc/modprobe.d."""
    if not models or "vfio_pci" not in modules or modules["vfio_pci"].kind != "built-in":
        return ()
    return (f"vfio-pci.ids={','.join(models)}",)


def judge(
    host: Host,
    modules: dict[str, Module],
    topology: Topology,
    usage: Evidence | None,
    settings: Settings,
    record: Record | None = None,
    data_release: str | None = None,
    lines: CommandLines | None = None,
    discovery: Mapping[str, str] | None = None,
) -> Verdict:
    """Everything that can be known before the first change.

    ``record`` is what pcibind recorded on the node, if it ever did: a board in it is followed by its identity, wherever
    its address has gone. ``data_release`` is the release of the Postgres data that the node already has, and ``lines``
    are the kernel's arguments as they are, ``discovery`` what came of each of gevulot_p2p_discovery.
    """
    found = _Findings()
    config = request(topology, settings, record)
    family = _platform(host, settings, bool(config.boards), found)
    present = _modules(modules, bool(config.boards), found)
    _nftables(host, modules, found)
    _peers(settings, found)
    _discovery(discovery or {}, found)
    if lines is not None and any("iommu=off" in line for line in lines.configured):
        found.refusals.append(
            "the boot loader passes iommu=off, which no later argument takes back. Remove it where it was set "
            "(/etc/default/grub, or grubby --update-kernel=ALL --remove-args=iommu=off), then run again."
        )
    if settings.own_postgres and data_release not in (None, str(settings.postgres_release)):
        found.refusals.append(
            f"{settings.postgres_directory} holds data of Postgres {data_release}; expected release "
            f"{settings.postgres_release}. Set gevulot_postgres_release and gevulot_postgres_image to {data_release}, "
            "or move the data with pg_dump and restore."
        )
    chosen: list[tuple[Board, Selector]] = []
    try:
        resolutions = plan.resolve(topology, config, record)
    except ConfigError as error:
        found.refusals.append(f"gevulot_boards: {error}")
        resolutions = ()
    for resolution in resolutions:
        if resolution.board is not None:
            chosen.append((resolution.board, resolution.selector))
            continue
        displays = [board for board in topology.boards() if board.display_functions]
        there = ", ".join(f"{board.address} ({board.model}, {board.path})" for board in displays)
        found.refusals.append(
            f"the chosen board {resolution.label} is {resolution.verdict}: {resolution.detail}. "
            f"Boards with a display function: {there or 'none'}. Correct gevulot_boards, or fix the hardware."
        )
    if not config.boards and settings.boards == "supported":
        found.warnings.append(
            "no supported GPU (RTX 3090, 4090) was found, so the node will run without one; "
            "name other boards in gevulot_boards."
        )
    for board, selector in chosen:
        if not is_supported(board):
            found.warnings.append(f"board {board.address} ({board.model}) is not a model that the guide supports.")
        if settings.gpu_functions == "display" and not board.display_functions:
            found.refusals.append(
                f"board {board.address} ({board.model}) has no display function, so there is nothing to list for the "
                "node. Set gevulot_gpu_functions to 'all', or choose another board."
            )
        if usage is None:
            found.refusals.append(
                f"board {board.address}: whether the host uses it could not be read; expected routes, mounts and "
                "disks to be readable. Connect as root or with sudo."
            )
            continue
        if all(function.driver == plan.DRIVER for function in board.functions):
            continue  # handed over already, and perhaps at work in a virtual machine: nothing will touch it
        allow = frozenset(settings.board_guards_allowed)
        found.refusals += [str(refusal) for refusal in guards.check(board, usage, allow, selector)]
    taken = {board.path for board, _ in chosen}
    nvidia_stays = any(
        function.vendor == NVIDIA
        for board in topology.boards()
        if board.path not in taken
        for function in board.display_functions
    )
    if nvidia_stays:
        found.warnings.append("an NVIDIA board stays with the host, so its drivers are not blacklisted.")
    functions = [function for board, _ in chosen for function in board.functions]
    models = tuple(sorted({function.model for function in functions})) if settings.vfio_ids else ()
    return Verdict(
        refusals=tuple(found.refusals),
        warnings=tuple(found.warnings),
        family=family,
        boards=tuple(board for board, _ in chosen),
        config=config,
        kernel_arguments=(*KERNEL_ARGUMENTS.get(host.iommu_table or "", ()), *_ids_argument(models, modules)),
        models=models,
        modules=present,
        nvidia_stays=nvidia_stays,
    )
