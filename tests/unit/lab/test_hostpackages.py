"""What this computer lacks is named, all at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab import hostpackages
from tests.lab.hostpackages import HostPackage, HostPackageError
from tests.lab.progress import silent

LACKING = (
    HostPackage("no-such-package", "no-such-program", "does this"),
    HostPackage("sed", "sed", "is there"),
    HostPackage("neither-this", "/no/such/file", "does that"),
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for, besides sbin."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(path: Path, name: str, script: str = "exit 0") -> None:
    (path / name).write_text(f"#!/bin/sh\n{script}\n")
    (path / name).chmod(0o755)


def test_without_apt_everything_that_is_missing_is_named(path: Path) -> None:
    program(path, "sed")
    program(path, "sudo")
    with pytest.raises(HostPackageError) as raised:
        hostpackages.ensure(silent, LACKING)
    assert str(raised.value).splitlines() == [
        "this machine lacks what the lab needs, and has no apt-get to install it with:",
        "  no-such-program (Debian's package no-such-package): it does this",
        "  /no/such/file (Debian's package neither-this): it does that",
    ]


def test_without_root_and_sudo_that_is_named_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(path, "sed")
    program(path, "apt-get")
    with pytest.raises(HostPackageError, match=r"(?s)no rights.*no-such-program.*/no/such/file.*sudo, or to be run as"):
        hostpackages.ensure(silent, LACKING)


def test_what_apt_says_last_is_shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program(path, "apt-get", "echo 'E: no network'; exit 100")
    with pytest.raises(HostPackageError, match=r"apt-get update exited 100:\nE: no network"):
        hostpackages.ensure(silent, LACKING)


def test_nothing_is_done_where_nothing_is_missing(path: Path) -> None:
    program(path, "sed")
    program(path, "sudo")
    hostpackages.ensure(silent, LACKING[1:2])
