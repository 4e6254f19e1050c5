"""A host whose last installation of packages was interrupted."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploys.assessment.verdict import Findings
from deploys.preflight.packages import judge_packages
from facts.packages import HeldPackages


def refusals(*held: str) -> list[str]:
    findings = Findings()
    state: Any = SimpleNamespace(held_packages=held)
    judge_packages(state, findings)
    return list(findings.refusals)


def test_packages_that_apt_would_refuse_are_named_with_the_way_out() -> None:
    (refusal,) = refusals("podman", "crun")
    assert refusal.startswith("podman, crun cannot be installed, since an earlier installation was interrupted")
    assert "run `dpkg --configure -a` on the host" in refusal


def test_a_host_that_has_what_it_needs_is_not_refused() -> None:
    assert refusals() == []


@pytest.mark.parametrize(
    ("updates", "installed", "held"),
    [(("0001",), "b", ["a"]), (("0001",), "a b", []), ((), "", []), (("tmp.i",), "", [])],
)
def test_only_what_is_not_installed_is_held_by_an_interrupted_installation(
    tmp_path: Path, updates: tuple[str, ...], installed: str, held: list[str]
) -> None:
    assert held_on(tmp_path, updates, installed) == held


def test_an_installation_that_runs_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        assert held_on(tmp_path, ("0001",), "") == []
    assert held_on(tmp_path, ("0001",), "") == ["a", "b"]


def held_on(directory: Path, updates: tuple[str, ...], installed: str) -> list[str]:
    """What the command says of a host whose dpkg has these files to finish, and its files in a directory."""
    (directory / "updates").mkdir(exist_ok=True)
    for name in updates:
        (directory / "updates" / name).touch()
    query = (
        f'#!/bin/sh\nfor last; do :; done\ncase " {installed} " in *" $last "*) echo "install ok installed" ;; esac\n'
    )
    (directory / "dpkg-query").write_text(query)
    (directory / "dpkg-query").chmod(0o755)
    command = HeldPackages().command(packages=("a", "b")).replace("/var/lib/dpkg/", f"{directory}/")
    environment = {"PATH": f"{directory}:/usr/bin:/bin"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    return HeldPackages().process(done.stdout.splitlines())
