"""Requirements of the platform: distribution, systemd, Python, processor, firmware; of a node Podman, sizes, kernel."""

from __future__ import annotations

from deploys.assessment.platforms import Family, family_of, untried
from deploys.assessment.verdict import Findings
from deploys.settings import Settings
from facts.kernel import Module
from facts.platform import HostPlatform

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


def parse_release(version: str) -> tuple[int, int]:
    """Major and minor of a version such as ``5.4.2`` or ``1:4.3.1+ds1-8``; (0, 0) when it has none."""
    numbers = version.rpartition(":")[2].split("+")[0].split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        return 0, 0


def judge_platform(host: HostPlatform, boards_wanted: bool, findings: Findings) -> Family | None:
    """Judge what every host needs that hands boards over."""
    family = family_of(host)
    if isinstance(family, str):
        findings.refusals.append(family)
    elif warning := untried(host, family):
        findings.warnings.append(warning)
    if not host.systemd:
        findings.refusals.append("systemd does not run this host; expected it as the init system. Boot with systemd.")
    if host.python is not None and parse_release(host.python) < PYTHON_MINIMUM:
        findings.refusals.append(
            f"/usr/bin/python3 is {host.python}; expected {'.'.join(map(str, PYTHON_MINIMUM))} or newer, which pcibind "
            "needs at every boot. Upgrade the distribution, then run again."
        )
    if host.virtualisation is None:
        findings.refuse_host(
            "the processor shows neither vmx nor svm; expected hardware virtualisation. Switch it on in the firmware."
        )
    if host.iommu_table is None and boards_wanted:
        findings.refuse_host(
            "the firmware has no IOMMU table (ACPI DMAR or IVRS); expected one. "
            "Switch VT-d or AMD-Vi on in the firmware."
        )
    return family if isinstance(family, Family) else None


def judge_node_platform(host: HostPlatform, settings: Settings, family: Family | None, findings: Findings) -> None:
    """Judge what a node needs beside its host."""
    if host.systemd and host.systemd_release is not None and host.systemd_release < SYSTEMD_MINIMUM:
        findings.refusals.append(
            f"systemd is {host.systemd_release}; expected {SYSTEMD_MINIMUM} or newer, because the node reloads its "
            "firewall at each start (Type=notify-reload). Upgrade the distribution, then run again."
        )
    podman = host.podman or host.podman_offered
    if podman is not None and parse_release(podman) < PODMAN_MINIMUM:
        origin = "installed" if host.podman else "offered by the distribution"
        findings.refusals.append(
            f"Podman {podman} is {origin}; expected 4.7 or newer, because older ones abort on the units' Ulimit= key "
            "(before 4.4 there is no Quadlet). Upgrade the distribution, then run again."
        )
    if host.podman is None and "podman" in host.tools:
        findings.refusals.append(
            "Podman is installed, but did not print its version within 20 s; expected 4.7 or newer. See what "
            "`podman --version` does there."
        )
    elif podman is None and family is not None and family.packages == "apt":
        findings.warnings.append("apt does not know of Podman yet; its lists are refreshed before it is installed.")
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
                findings.refusals.append(f"{text} gevulot_enforce_minimum is set: use a larger host, or unset it.")
            else:
                findings.warnings.append(text)


def judge_nftables(host: HostPlatform, modules: dict[str, Module], findings: Findings) -> None:
    """Refuse a host whose kernel cannot hold the table that keeps others from the node's ports."""
    if parse_release(host.kernel) < KERNEL_MINIMUM:
        findings.refusals.append(
            f"the kernel is {host.kernel}; expected 5.13 or newer, whose nftables can lock a table against changes by "
            "others and distinguish the node's sockets from others'. Upgrade the kernel and boot it."
        )
    missing = [name for name in NFTABLES_MODULES if name in modules and not modules[name].exists]
    if missing:
        findings.refusals.append(
            f"the running kernel has no module {', '.join(missing)}; expected all of {', '.join(NFTABLES_MODULES)}, to "
            "restrict who reaches the node's ports. Install the distribution's full kernel and boot it."
        )
    if host.legacy_cgroups:
        findings.refusals.append(
            "the host uses cgroups version 1; expected version 2 alone at /sys/fs/cgroup, by which nftables keeps "
            "local users from the programs' virtual machines. Remove systemd.unified_cgroup_hierarchy=0 from the "
            "kernel's arguments and reboot."
        )


def judge_modules(
    modules: dict[str, Module], wanted: tuple[str, ...], boards_wanted: bool, findings: Findings
) -> tuple[str, ...]:
    """Refuse a kernel without one of the modules; return those that a boot has to load by their names."""
    missing = [name for name in wanted if name not in modules or not modules[name].exists]
    needed = [name for name in missing if boards_wanted or not name.startswith("vfio")]
    if needed:
        findings.refusals.append(
            f"the running kernel has no module {', '.join(needed)}; expected all of {', '.join(wanted)}. "
            "Install the distribution's full kernel (on Ubuntu linux-modules-extra) and boot it."
        )
    return tuple(name for name in wanted if name not in missing and name != "kvm")
