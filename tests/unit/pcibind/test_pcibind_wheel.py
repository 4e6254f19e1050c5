"""A wheel, built and installed without a network, whose command runs."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from tree import Machine

import pcibind

pytestmark = pytest.mark.commands

HOME = Path(__file__).parents[3] / "helpers/pcibind"

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, into which the wheel was installed."""
    directory = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves build/ and egg-info beside what it builds.
    source = directory / "source"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=HOME, capture_output=True, text=True)
    names = listed.stdout.split() if listed.returncode == 0 else [str(p.relative_to(HOME)) for p in HOME.rglob("*")]
    for name in names:
        if (HOME / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((HOME / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(directory), str(source)], check=True)
    (wheel,) = directory.glob("*.whl")
    home = directory / "venv"
    venv.create(home, symlinks=True)
    target = ["--python", str(home / "bin/python")]
    subprocess.run([*pip, *target, "install", "--no-index", "--no-deps", str(wheel)], check=True)
    # click and pyudev come from the environment that runs the tests, pcibind from the wheel alone.
    beside = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    for name in ("click", "pyudev"):
        (beside / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    return home


@pytest.fixture(scope="module")
def command(environment: Path) -> Command:
    """The command `pcibind` of that environment."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # Empty, so that no PYTHONPATH leads to the source.
        words = [str(environment / "bin/pcibind"), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, env={})

    return run


def test_the_wheels_command_says_its_version(command: Command) -> None:
    done = command("--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, pcibind.__version__), done.stderr


def test_the_wheels_command_plans(command: Command, machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    done = command("--root", str(machine.root), "plan", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "pcibind/1", done.stderr
    assert [board["state"] for board in document["boards"]] == ["planned", "planned"]


def test_the_wheel_sets_up_a_host(command: Command, machine: Machine) -> None:
    (machine.root / "etc/initramfs-tools").mkdir()
    done = command("--root", str(machine.root), "setup")
    assert done.returncode == 0, done.stderr
    unit = (machine.root / "etc/systemd/system/pcibind.service").read_text()
    assert "site-packages" in unit
    assert str(HOME) not in unit


def test_the_wheel_carries_man_page_and_completion(environment: Path) -> None:
    for path in (HOME / "share").rglob("*"):
        if path.is_file():
            assert (environment / path.relative_to(HOME)).read_bytes() == path.read_bytes()
