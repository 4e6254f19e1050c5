"""Host packages: what the lab needs from the machine that it runs on."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.progress import Progress


class HostPackageError(RuntimeError):
    """Something that the lab needs is missing and could not be installed."""


@dataclass(frozen=True)
class HostPackage:
    """A Debian or Ubuntu package, a file or program by which its presence shows, and its use."""

    name: str
    shows: str
    purpose: str

    def present(self) -> bool:
        """Tell whether the program is on the path, or the absolute file exists."""
        if self.shows.startswith("/"):
            return Path(self.shows).exists()
        return _program(self.shows) is not None


NEEDED: tuple[HostPackage, ...] = (
    HostPackage("mmdebstrap", "mmdebstrap", "gets the emulator and builds the guest from Debian packages"),
    HostPackage("tar", "tar", "unpacks the emulator"),
    HostPackage("fdisk", "sfdisk", "partitions the guest's disk"),
    HostPackage("e2fsprogs", "mke2fs", "makes the guest's file system"),
    HostPackage("openssh-client", "ssh", "reaches the guests"),
    HostPackage(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "checks the signatures of the guest's packages",
    ),
)


def missing(packages: Sequence[HostPackage] = NEEDED) -> tuple[HostPackage, ...]:
    """Return those packages whose program or file is not there."""
    return tuple(package for package in packages if not package.present())


def privileged(arguments: Sequence[str]) -> list[str]:
    """Return the command as root runs it: itself, or behind sudo for anyone else.

    Raises HostPackageError when we are not root and there is no sudo.
    """
    if os.geteuid() == 0:
        return list(arguments)
    if shutil.which("sudo") is None:
        raise HostPackageError(f"{arguments[0]} must run as root: install sudo, or run the lab as root")
    return ["sudo", *arguments]


def ensure(progress: Progress, packages: Sequence[HostPackage] = NEEDED) -> None:
    """Install what is missing with apt-get, saying what and why.

    Raises HostPackageError when there is no apt-get or when it fails, and when we may not become root; it names all
    that is missing at once.
    """
    wanted = missing(packages)
    powerless = os.geteuid() != 0 and shutil.which("sudo") is None
    if not wanted and not powerless:
        return
    if shutil.which("apt-get") is None or powerless:
        lacks = [f"{package.shows} (Debian's package {package.name}): it {package.purpose}" for package in wanted]
        lacks += ["sudo, or to be run as root: the files of a guest belong to root"] if powerless else []
        why = "has no rights to install it" if powerless else "has no apt-get to install it with"
        raise HostPackageError("\n  ".join((f"this machine lacks what the lab needs, and {why}:", *lacks)))
    for package in wanted:
        progress(f"this machine lacks {package.name}: it {package.purpose}")
    names = [package.name for package in wanted]
    progress(f"installing {' '.join(names)} with apt-get (takes a minute or two)")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for command in (["apt-get", "update"], quiet + install):
        done = subprocess.run(
            privileged(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-15:])
            raise HostPackageError(f"{' '.join(command)} exited {done.returncode}:\n{tail}")
    still = missing(packages)
    if still:
        names = [package.name for package in still]
        raise HostPackageError(f"still missing after installing: {', '.join(names)}")


def _program(name: str) -> str | None:
    # mke2fs and sfdisk lie in sbin, which is not on every user's path.
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return shutil.which(name, path=search)


def program(name: str) -> str:
    """Return the absolute path of a program, sbin included; HostPackageError when not there."""
    path = _program(name)
    if path is None:
        raise HostPackageError(f"{name} is not installed")
    return path
