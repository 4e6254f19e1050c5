"""The packages of a host, and those of a node. QEMU is not among them: the node's image carries its own."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.facts.deb import DebPackages
from pyinfra.operations import apt, dnf

from deploys import scripts
from deploys.assessment.platforms import Family
from deploys.operations.planning import step

# Those of a host that hands boards over: pcibind's.
HOST_PACKAGES = {
    "apt": ("kmod", "python3", "python3-click", "python3-pyudev"),
    "dnf": ("kmod", "python3", "python3-click", "python3-pyudev"),
}
# And of a node.
PACKAGES = {
    "apt": (
        "podman",
        "crun",
        "catatonit",
        "netavark",
        "aardvark-dns",
        "nftables",
        "ca-certificates",
        *HOST_PACKAGES["apt"],
    ),
    "dnf": ("podman", "crun", "catatonit", "nftables", *HOST_PACKAGES["dnf"]),
}
# Lists younger than this are good enough to install from, in seconds.
_LISTS_MAY_BE_OLD = 24 * 3600
# Seconds that the host's own updates may hold the lock of the packages.
_LOCKED = 900


@operation()
def debian_packages(packages: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Install what is missing; apt's lists are refreshed only when something is.

    + packages: names of packages
    """
    installed = host.get_fact(DebPackages)
    missing = [package for package in packages if package not in installed]
    if not missing:
        host.noop("all packages are installed")
        return
    yield from _patient(apt.update._inner(cache_time=_LISTS_MAY_BE_OLD))
    yield from _patient(apt.packages._inner(packages=missing, no_recommends=True))


@operation()
def fedora_packages(packages: tuple[str, ...]) -> Generator[PyinfraCommand | str, None, None]:
    """Install what is missing.

    + packages: names of packages
    """
    yield from _patient(dnf.packages._inner(packages=list(packages)))


def _patient(commands: Iterable[PyinfraCommand | str]) -> Generator[StringCommand, None, None]:
    """The commands of pyinfra's operations, each of which waits for the lock of the packages."""
    for command in commands:
        text = command.get_raw_value() if isinstance(command, StringCommand) else str(command)
        yield StringCommand(scripts.shell("package_manager.sh", str(_LOCKED), text))


@step("Install packages")
def install_packages(family: Family, packages: Mapping[str, tuple[str, ...]]) -> None:
    """Install those of ``packages``, by the name of the host's tool."""
    if family.packages == "apt":
        debian_packages(name="Install packages with apt", packages=packages["apt"])
    else:
        fedora_packages(name="Install packages with dnf", packages=packages["dnf"])
